"""`audiocraft`: the file that AudioCraft's `CompressionModel.get_pretrained` and its MusicGen
training take.

There, a path that is given as a name, as `//pretrained/PATH` in configurations, stands for such a
file.
"""

from pathlib import Path
from typing import Any

import torch
import yaml

from audiocodec.models.base import CompressionModel
from audiocodec.models.formats import audiocraft as importer
from audiocodec.models.formats.weight_norm import hook_names
from audiocodec.models.options import Options, changed, options_of, refuse
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import ResidualVectorQuantizer
from audiocodec.run import checkpoint

FORMAT = 'audiocraft'
# What AudioCraft says of itself in the files it writes; the version whose sources this was written
# for.
VERSION = '1.3.0'
# Options that shape a model only before it is trained, or only its training here.
_WITHOUT_EFFECT = frozenset({'init', 'seed'})


def save(model: CompressionModel, out: Path) -> list[str]:
    """Write the file; its folder is made.

    Returns:
        Notes for the report.

    Raises:
        ValueError: an option that AudioCraft lacks.
    """
    options = options_of(model, FORMAT)
    _check(options)
    state = foreign_state(model.state_dict())
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        {
            'best_state': state,
            'xp.cfg': yaml.safe_dump(foreign_config(options), sort_keys=False),
            'version': VERSION,
            'exported': True,
        },
        out,
    )
    if model.frame_rate.is_integer():
        return []
    return [
        f'AudioCraft rounds the frame rate, {model.frame_rate:.3f} Hz, down to an integer: '
        'durations that it '
        f'derives from it are off'
    ]


def foreign_config(options: Options) -> dict[str, Any]:
    """The configuration that AudioCraft rebuilds the model from: the sections it reads."""
    known = importer.SEANET_KEYS
    shared = {
        key: value
        for key, value in options.encoder.items()
        if key in known and options.decoder.get(key) == value
    }
    own = [
        {
            key: _plain(key, value)
            for key, value in part.items()
            if key in importer.DECODER_KEYS and key not in shared
        }
        for part in (options.encoder, options.decoder)
    ]
    rate, channels = options.model['sample_rate'], options.model['channels']
    return {
        'solver': 'compression',
        'device': 'cpu',
        'dtype': 'float32',
        'sample_rate': rate,
        'channels': channels,
        'compression_model': 'encodec',
        'encodec': {
            'autoencoder': 'seanet',
            'quantizer': 'rvq' if options.quantizer else 'no_quant',
            'sample_rate': rate,
            'channels': channels,
            'causal': options.encoder['causal'],
            'renormalize': options.model['renormalize'],
        },
        'seanet': {
            **{key: _plain(key, value) for key, value in shared.items()},
            'encoder': own[0],
            'decoder': own[1],
        },
        'rvq': {key: value for key, value in options.quantizer.items() if key in importer.RVQ_KEYS},
        'no_quant': {},
    }


def foreign_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of weights as AudioCraft has them: norms of the older layout, codebooks one by one."""
    translated = {}
    for name, value in hook_names(state).items():
        module, _, buffer = name.rpartition('.')
        if module != 'quantizer.codebooks':
            translated[name] = value.detach().cpu().clone()
        elif buffer in ('embed', 'embed_avg', 'cluster_size', 'inited'):
            for level, book in enumerate(value.detach().cpu()):
                translated[f'quantizer.vq.layers.{level}._codebook.{buffer}'] = book.view(
                    -1, *book.shape[1:]
                ).clone()
    return translated


def _check(options: Options) -> None:
    """Refuse options that AudioCraft does not know, unless they are at the value that changes
    nothing.
    """
    problems = []
    if options.model['segment_duration'] is not None:
        problems.append(
            f'model.segment_duration={options.model["segment_duration"]}: AudioCraft encodes whole '
            'items'
        )
    problems += changed(
        'encoder', SEANetEncoder, options.encoder, importer.SEANET_KEYS | _WITHOUT_EFFECT
    )
    problems += changed(
        'decoder', SEANetDecoder, options.decoder, importer.DECODER_KEYS | _WITHOUT_EFFECT
    )
    if options.quantizer:
        problems += changed(
            'quantizer',
            ResidualVectorQuantizer,
            options.quantizer,
            importer.RVQ_KEYS | _WITHOUT_EFFECT | {'dimension'},
        )
    refuse(FORMAT, problems)


def _plain(key: str, value: Any) -> Any:
    """What YAML has a form for, and AudioCraft takes: no arguments are an empty mapping there."""
    if key in ('activation_params', 'norm_params'):
        return dict(value or {})
    return list(value) if isinstance(value, tuple) else value
