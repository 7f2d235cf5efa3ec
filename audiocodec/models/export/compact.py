"""Format `compact`: inference weights and configuration in one file.

The other formats, and the comparison with the source on audio, are in `audiocodec.models.export`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from audiocodec.models.formats.common import keys
from audiocodec.run import checkpoint

# types in which the floating-point weights of a file may be stored
DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}


def inference_state(content: dict[str, Any]) -> dict[str, Any]:
    """Return the weights for inference of a checkpoint: averaged (EMA) if available."""
    state = dict(content['state']['model'])
    state.update(content['state'].get('ema', {}).get('averages', {}))
    return state


def compact_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights without the training statistics of codebooks; loading resets these."""

    def is_statistic(name: str) -> bool:
        module, _, buffer = name.rpartition('.')
        return (
            buffer in keys.STATISTICS
            and module.rpartition('.')[2] == 'codebooks'
            and f'{module}.embed' in state
        )

    return {
        name: value
        for name, value in state.items()
        if not (is_statistic(name) or keys.is_statistic(name))
    }


def converted(state: Mapping[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """Return weights in another type; those that are no floating-point numbers stay as they are.

    Args:
        state: the weights.
        dtype: one of `DTYPES`.

    Raises:
        ValueError: unknown type, or finite numbers beyond the range of the type.
    """
    if dtype not in DTYPES:
        raise ValueError(f'dtype={dtype!r} is unknown: choose one of {", ".join(DTYPES)}')
    found = {}
    for name, value in state.items():
        found[name] = value.to(DTYPES[dtype]) if value.is_floating_point() else value
        if (found[name].isinf() & value.isfinite()).any():
            raise ValueError(
                f'{name} has numbers of up to {value.abs().max().item():.3g}, which {dtype} cannot '
                'represent: use bfloat16 or float32'
            )
    return found


def widened(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of a file with float16 and bfloat16 as float32."""
    half = (torch.float16, torch.bfloat16)
    return {
        name: value.float() if getattr(value, 'dtype', None) in half else value
        for name, value in state.items()
    }


def save_compact(
    model_node: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    out_path: str | os.PathLike[str],
    dtype: str = 'float32',
    **origin: Any,
) -> Path:
    """Write the compact file of a model, and verify it bit by bit by reading it back.

    Args:
        model_node: the `_target_` node that rebuilds the model.
        state: its weights, with or without statistics of codebooks.
        out_path: the file to write; .safetensors selects that format. Creates the folder.
        dtype: type of the weights in the file, one of `DTYPES`; they are loaded as float32.
        **origin: strings and numbers on the origin of the model, such as `sig` and `epoch`.

    Returns:
        The path written.

    Raises:
        ValueError: the type cannot represent the weights, or the file does not contain what was
            written.
    """
    out_path = Path(out_path)
    compact = {}
    for name, value in converted(compact_state(state), dtype).items():
        # cloned: of a view, the whole storage would be written
        compact[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    config = yaml.safe_dump({'model': dict(model_node)}, sort_keys=False)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        {
            'format': checkpoint.MODEL_FORMAT,
            'version': checkpoint.MODEL_VERSION,
            **origin,
            'config': config,
            'state': compact,
        },
        out_path,
    )
    written = checkpoint.load(out_path)
    same = (
        written['config'] == config
        and written['state'].keys() == compact.keys()
        and all(_same_bits(written['state'][name], value) for name, value in compact.items())
    )
    if not same:
        raise ValueError(
            f'{out_path} does not contain what was written: is the disk full or failing?'
        )
    return out_path


def export_encodec(
    checkpoint_path: str | os.PathLike[str], out_path: str | os.PathLike[str]
) -> Path:
    """Write the compact file of a trained model: averaged weights and model configuration.

    Args:
        checkpoint_path: a training checkpoint, e.g. `xp.folder / 'checkpoint.th'`.
        out_path: the file to write; .safetensors selects that format. Creates the folder.

    Returns:
        The path written, for `CompressionModel.get_pretrained` and
        `CompressionSolver.model_from_checkpoint`.

    Raises:
        ValueError: the checkpoint cannot be read or has another format.
    """
    content = checkpoint.load_checkpoint(checkpoint_path)
    model_node = yaml.safe_load(content['config'])['model']
    return save_compact(
        model_node, inference_state(content), out_path, sig=content['sig'], epoch=content['epoch']
    )


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two tensors are equal, where NaN equals itself."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))
