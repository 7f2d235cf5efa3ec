"""State dict names of normalized weights: `torch.nn.utils.parametrizations` and the older hooks.

| older | parametrized | of |
|---|---|---|
| `weight_g` | `parametrizations.weight.original0` | weight_norm, magnitude |
| `weight_v` | `parametrizations.weight.original1` | weight_norm, direction |
| `weight_orig` | `parametrizations.weight.original` | spectral_norm, weight |
| `weight_u` | `parametrizations.weight.0._u` | spectral_norm, left singular vector |
| `weight_v` | `parametrizations.weight.0._v` | spectral_norm, right singular vector |
"""

from collections.abc import Mapping

import torch

_WEIGHT_NORM = {'weight_g': 'original0', 'weight_v': 'original1'}
_SPECTRAL_NORM = {'weight_orig': 'original', 'weight_u': '0._u', 'weight_v': '0._v'}


def parametrized_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename normalized weights of the older layout; keeps other entries, and the order.

    Args:
        state: a state dict with names of either layout, or of both.

    Returns:
        A new dict, with the same tensors.
    """
    renamed = {}
    for name, tensor in state.items():
        prefix, _, leaf = name.rpartition('.')
        module = f'{prefix}.' if prefix else ''
        # both norms have a `weight_v`: only spectral_norm also has a `weight_orig`
        names = _SPECTRAL_NORM if f'{module}weight_orig' in state else _WEIGHT_NORM
        if leaf in names:
            name = f'{module}parametrizations.weight.{names[leaf]}'
        renamed[name] = tensor
    return renamed


def hook_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename normalized weights to the older layout; inverse of `parametrized_names`.

    Args:
        state: a state dict with names of either layout, or of both.

    Returns:
        A new dict, with the same tensors.
    """
    leaves = {leaf: old for names in (_WEIGHT_NORM, _SPECTRAL_NORM) for old, leaf in names.items()}
    renamed = {}
    for name, tensor in state.items():
        module, found, leaf = name.rpartition('parametrizations.weight.')
        renamed[f'{module}{leaves[leaf]}' if found else name] = tensor
    return renamed
