"""Parameter groups: dividing them by kind of parameter, and checking their options.

A group is a mapping of `params` (a tensor, or an iterable of tensors or of pairs of name and
tensor) and options, see `torch.optim.Optimizer`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def split_group(
    group: Mapping[str, Any], key: Callable[[torch.Tensor], bool]
) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Divide a parameter group in two: the parameters for which `key` is true, and the others.

    Args:
        group: the parameter group.
        key: which parameters come first.

    Yields:
        Whether they are the first ones, and the group with these parameters alone; not if it has
        none.
    """
    pairs = list(zip(*_members(group)))
    for wanted in (True, False):
        chosen = [member for member, parameter in pairs if key(parameter) == wanted]
        if chosen:
            yield wanted, {**group, 'params': chosen}


def listed(group: Mapping[str, Any]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Return a parameter group that can be read again, and its parameters."""
    members, parameters = _members(group)
    return {**group, 'params': members}, parameters


def _members(group: Mapping[str, Any]) -> tuple[list[Any], list[torch.Tensor]]:
    params = group['params']
    members = [params] if isinstance(params, torch.Tensor) else list(params)
    return members, [one[1] if isinstance(one, tuple) else one for one in members]


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of a parameter group, as far as it has them.

    Raises:
        ValueError: an option is out of range; names it and what is accepted.
    """
    for name in ('lr', 'eps', 'weight_decay'):
        if name in options and not 0 <= float(options[name]) < math.inf:
            raise ValueError(f'{name}={options[name]}: expected a number >= 0')
    momentum, betas = options.get('momentum', 0.0), list(options.get('betas', (0.0, 0.0)))
    if not 0 <= momentum < 1:
        raise ValueError(f'momentum={momentum}: expected a decay from 0 to below 1')
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f'betas={betas}: expected two decays from 0 to below 1')
