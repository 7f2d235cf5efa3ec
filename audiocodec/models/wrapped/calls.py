"""Calls of codecs of `transformers` whose configurations, arguments and results differ."""

import inspect
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from audiocodec.models.formats import hub

# names in configurations, the first that is there
_RATES = ('output_sampling_rate', 'sampling_rate', 'sample_rate')
_HOPS = ('hop_length', 'frame_size')
_CAPTURING = 'transformers.utils.output_capturing'
_CHANNELS = ('audio_channels', 'channels')


class Layout(NamedTuple):
    """What a model returns, seen by encoding two short signals.

    Attributes:
        continuous: it returns latents and no codes.
        time: axis of the frames, 1 or 2, of three.
        size: codebooks, or channels of the latents.
        hop_length: samples per frame, at the rate of the output.
    """

    continuous: bool
    time: int
    size: int
    hop_length: int


def make_extractor(model: Any, folder: Path) -> Any:
    """Return the feature extractor of a model; None if it needs none.

    It is the one in its folder, or that of its type with default options.

    Raises:
        ValueError: it cannot be built.
    """
    if not _needs_features(model) and _first(model.config, _RATES):
        return None
    transformers = hub.import_transformers()
    try:
        if any((folder / name).is_file() for name in hub.EXTRACTORS):
            return transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        mapping = transformers.FEATURE_EXTRACTOR_MAPPING
        return mapping[type(model.config)]() if type(model.config) in mapping else None
    except Exception as error:  # a file is wrong, or a package such as torchaudio is missing
        raise ValueError(
            f'the feature extractor of the {model.config.model_type} cannot be built: {error}'
        ) from error


def arguments(model: Any) -> list[str]:
    """Return the names of the arguments of a model's `encode`."""
    return list(inspect.signature(model.encode).parameters)


def output_rate(model: Any, extractor: Any) -> int:
    """Return the sampling rate of a model's output, Hz.

    Raises:
        ValueError: neither its configuration nor its feature extractor has one.
    """
    rate = _first(model.config, _RATES) or getattr(extractor, 'sampling_rate', None)
    if not rate:
        raise ValueError(
            f'neither the configuration of the {model.config.model_type} nor a feature extractor '
            f'has a sampling rate: expected {hub.EXTRACTORS[0]} in its folder'
        )
    return int(rate)


def input_rate(model: Any, extractor: Any) -> int:
    """Return the sampling rate of a model's input, Hz."""
    rate = _first(model.config, ('input_sampling_rate',))
    return int(rate) if rate else output_rate(model, extractor)


def channels(model: Any) -> int:
    """Return the channels of the waveforms; 1 if the configuration does not tell."""
    return int(_first(model.config, _CHANNELS) or 1)


def cardinality(model: Any) -> int:
    """Return the entries of each codebook.

    Raises:
        ValueError: the configuration does not tell.
    """
    size = _first(model.config, ('codebook_size',))
    levels = _first(model.config, ('quantization_levels',))
    if not size and not levels:
        raise ValueError(
            f'the configuration of the {model.config.model_type} has no codebook_size and no '
            'quantization_levels'
        )
    return int(size or math.prod(levels))


@torch.no_grad()
def look_at(model: Any, extractor: Any) -> Layout:
    """Encode two short signals, and see what a model returns; it is put into eval mode.

    Raises:
        ValueError: the model fails, or returns neither codes nor latents.
    """
    model.eval()
    rate, kind = input_rate(model, extractor), model.config.model_type
    hop = int(_first(model.config, _HOPS) or 0)
    unit = hop * rate // output_rate(model, extractor) or rate // 8
    try:
        found = []
        for units in (8, 12):
            wav = 0.1 * torch.sin(0.05 * torch.arange(units * unit))
            wav = wav.expand(1, channels(model), -1).to(next(model.parameters()))
            found.append(encode(model, extractor, wav, rate))
        (name, short), (_, long) = found
        times = [axis for axis in range(3) if short.shape[axis] != long.shape[axis]]
        if len(short) != 1 or len(times) != 1 or times[0] == 0:
            raise ValueError(f'got shapes {list(short.shape)} and {list(long.shape)}')
        time = times[0]
        if not hop:
            more = decode(model, long).shape[-1] - decode(model, short).shape[-1]
            hop = more // (long.shape[time] - short.shape[time])
    except Exception as error:  # a model fails in many ways, e.g. without one of its halves
        raise ValueError(
            f'the {kind} of transformers cannot be run as a codec: {type(error).__name__}: {error}'
        ) from error
    if name == 'audio_codes':
        cardinality(model)
    return Layout(name != 'audio_codes', time, short.shape[3 - time], hop)


def encode(model: Any, extractor: Any, wav: torch.Tensor, rate: int) -> tuple[str, torch.Tensor]:
    """Encode a waveform [B, C, T].

    Returns:
        `audio_codes` or `latents`, and these, [B, K or D, T_frames] or [B, T_frames, K or D].
    """
    # VibeVoice adds noise to its latents by default
    options: dict[str, Any] = {'sample': False} if 'sample' in arguments(model) else {}
    if _needs_features(model):
        items = [item.mean(0).detach().float().cpu().numpy() for item in wav]
        features = extractor(items, sampling_rate=rate, return_tensors='pt')
        inputs = {
            key: value.to(wav) if value.is_floating_point() else value.to(wav.device)
            for key, value in features.items()
            if key in arguments(model)
        }
    else:
        inputs = {'input_values': wav}
    out = model.encode(**inputs, **options, return_dict=True)
    for name in ('audio_codes', 'latents'):
        values = getattr(out, name, None)
        if values is not None:
            return name, values
    raise ValueError(f'its encode returns {list(out)}, expected audio_codes or latents')


def decode(model: Any, values: torch.Tensor) -> torch.Tensor:
    """Decode codes or latents of `encode`; returns a waveform [B, C, T], or [B, T]."""
    out = model.decode(values, return_dict=True)
    for name in ('audio_values', 'audio'):
        wav = getattr(out, name, None)
        if wav is not None:
            return wav
    raise ValueError(f'its decode returns {list(out)}, expected audio_values')


def forget_hooks(model: Any) -> None:
    """Remove the hooks of transformers 5 that collect hidden states, until they are needed again.

    It keeps them after the first use (X-Codec's semantic model has one), and they are local
    functions, so that the model could not be pickled.
    """
    for module in model.modules():
        hooks = module._forward_hooks
        for key in [
            key for key, hook in hooks.items() if getattr(hook, '__module__', '') == _CAPTURING
        ]:
            del hooks[key]
        vars(module).pop('_output_capturing_hooks_installed', None)


def register(model: Any) -> None:
    """Tell transformers what the parts of a model can record, as their constructors do.

    A model unpickled in another process would silently return no hidden states.
    """
    for place in (_CAPTURING, 'transformers.utils.generic'):  # the second up to version 4
        registry: Any = getattr(sys.modules.get(place), '_CAN_RECORD_REGISTRY', None)
        if registry is None:
            continue
        for module in model.modules():
            if hasattr(module, '_can_record_outputs'):
                # its own way to set an item has changed, the keys have not
                dict.__setitem__(registry, str(type(module)), module._can_record_outputs)


def _needs_features(model: Any) -> bool:
    return 'input_features' in arguments(model)


def _first(config: Any, names: tuple[str, ...]) -> Any:
    """Return the first value that a configuration has; None without any."""
    return next((value for name in names if (value := getattr(config, name, None))), None)
