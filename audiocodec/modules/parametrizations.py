"""Pickling and folding of parametrized modules (`torch.nn.utils.parametrize`).

PyTorch gives each parametrized module its own class, which refuses to be pickled. weight_norm also
registers a local function as a hook, which cannot be pickled.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

_HOOKS = '_load_state_dict_pre_hooks'  # attribute of `nn.Module`


class PicklableModule(nn.Module):
    """Module that can be pickled even if submodules, of any class, are parametrized."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Reduce like any module, after `make_picklable`."""
        make_picklable(self)
        return super().__reduce_ex__(protocol)


def make_picklable(module: nn.Module) -> None:
    """Make a module, its submodules and the copies of both picklable.

    The unpickled module has the same state dict, and computes and trains identically. One thing is
    lost: a module with weight_norm can also load the keys of the older
    `torch.nn.utils.weight_norm` (`weight_g`), an unpickled one cannot.
    """
    for part in module.modules():
        if parametrize.is_parametrized(part):
            # No other module has this class: only this one and its copies.
            type(part).__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]


def fold(module: nn.Module) -> None:
    """Replace the parametrized weights of a module by their values, in place.

    Submodules are not changed. `torch.nn.utils.parametrize.remove_parametrizations` would break
    every copy of the module, because it modifies the class that the copies share.
    """
    if not parametrize.is_parametrized(module):
        return
    assert isinstance(module.parametrizations, nn.ModuleDict)
    weights = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    # The hook of weight_norm would map old keys to parametrizations that no longer exist.
    setattr(module, _HOOKS, _other_hooks(getattr(module, _HOOKS)))
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight, requires_grad=False))


def _reduce(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """Implement `__reduce_ex__` of a parametrized module.

    Returns:
        `_empty`, its arguments, and the state for `__setstate__`.
    """
    assert isinstance(module.parametrizations, nn.ModuleDict)
    plain: Any = parametrize.type_before_parametrizations(module)
    state = dict(plain.__getstate__(module))
    state[_HOOKS] = _other_hooks(state[_HOOKS])
    return _empty, (plain, list(module.parametrizations)), state


def _empty(plain: type[nn.Module], names: Sequence[str]) -> nn.Module:
    """Create a module of class `plain` that has only the properties of parametrized tensors."""
    module = plain.__new__(plain)
    nn.Module.__init__(module)
    for name in names:  # __setstate__ replaces both the tensor and the parametrization
        module.register_parameter(name, nn.Parameter(torch.empty(0)))
        parametrize.register_parametrization(module, name, nn.Identity(), unsafe=True)
    make_picklable(module)
    return module


def _other_hooks(hooks: dict[int, Any]) -> dict[int, Any]:
    """Return the hooks except that of weight_norm."""
    return type(hooks)(
        (key, hook)
        for key, hook in hooks.items()
        if hook.hook.__module__ != parametrizations.__name__
    )
