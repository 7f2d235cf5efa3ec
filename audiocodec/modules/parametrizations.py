"""Pickles parametrized modules (`torch.nn.utils.parametrize`), and folds their weights into plain
ones.

PyTorch gives a parametrized module a class of its own, which refuses to be pickled; weight_norm
registers a local function with it, which cannot be.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

_HOOKS = '_load_state_dict_pre_hooks'  # where `nn.Module` keeps them


class PicklableModule(nn.Module):
    """A module that can be pickled although parts of it, of whatever class, are parametrized."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Reduces as any module does, after `make_picklable`."""
        make_picklable(self)
        return super().__reduce_ex__(protocol)


def make_picklable(module: nn.Module) -> None:
    """Allows pickling of a module, its parts, and the copies of both.

    What is unpickled has the same state dict, and computes and trains alike. One thing is lost:
    with weight_norm, a module also loads the names of the older `torch.nn.utils.weight_norm`
    (`weight_g`), which its pickles do not.
    """
    for part in module.modules():
        if parametrize.is_parametrized(part):
            # the class is that of this part and its copies alone
            type(part).__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]


def fold(module: nn.Module) -> None:
    """Replaces the parametrized weights of a module, not those of its parts, by what they evaluate
    to, in place.

    `torch.nn.utils.parametrize.remove_parametrizations` would break every copy of the module: a
    module and its copies share the class that it undoes.
    """
    if not parametrize.is_parametrized(module):
        return
    assert isinstance(module.parametrizations, nn.ModuleDict)
    weights = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    setattr(module, _HOOKS, _other_hooks(getattr(module, _HOOKS)))
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight, requires_grad=False))


def _reduce(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """`__reduce_ex__` of a parametrized module: `_empty`, its arguments, and the state for
    `__setstate__`.
    """
    assert isinstance(module.parametrizations, nn.ModuleDict)
    plain: Any = parametrize.type_before_parametrizations(module)
    state = dict(plain.__getstate__(module))
    state[_HOOKS] = _other_hooks(state[_HOOKS])
    return _empty, (plain, list(module.parametrizations)), state


def _empty(plain: type[nn.Module], names: Sequence[str]) -> nn.Module:
    """Makes a module of class `plain` with only the properties of parametrized tensors."""
    module = plain.__new__(plain)
    nn.Module.__init__(module)
    for name in names:  # the state will replace both tensor and parametrization
        module.register_parameter(name, nn.Parameter(torch.empty(0)))
        parametrize.register_parametrization(module, name, nn.Identity(), unsafe=True)
    make_picklable(module)
    return module


def _other_hooks(hooks: dict[int, Any]) -> dict[int, Any]:
    """Returns the hooks without that of weight_norm."""
    return type(hooks)(
        (key, hook)
        for key, hook in hooks.items()
        if hook.hook.__module__ != parametrizations.__name__
    )
