"""Drop the arguments that a component inherits from the one it replaces.

Hydra merges mappings: `optim.optimizer._target_=torch.optim.SGD` keeps the `betas` of Adam, both in
a recipe and on the command line. Where a layer of the configuration names another class, arguments
that the layer does not set itself and that the new class does not take are dropped. For a class
chosen by name, such as `activation`, all arguments that the layer does not set are dropped.

An option of a group, such as `adversarial=msd`, is a layer over the recipe: arguments that the
recipe sets for a component that the option does not have are dropped with it. So are keys that
nothing refers to any more, such as those of `rvq` with `quantizer=fsq`.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from audiocodec.recipe.overrides import PARAMETERS
from audiocodec.recipe.rules import SECTIONS
from audiocodec.utils import config
from audiocodec.utils.config import MISSING

_NOT_ARGUMENTS = {'_target_', '_partial_', '_convert_', '_recursive_', '_args_', 'weight'}


def drop_inherited(cfg: DictConfig, below: Mapping[str, Any], typed: Collection[str] = ()) -> None:
    """Drop the arguments of classes that `cfg` replaces, in place.

    Args:
        cfg: a configuration; interpolations not resolved.
        below: the layer under it, plain, interpolations not resolved. A key with the same value in
            both was inherited.
        typed: dotted keys that were set on purpose, even if to the same value.
    """
    for found in (_inherited(config.unresolved(cfg), below, ''), unread(cfg, below)):
        for key in found:
            if key not in typed:
                _drop(cfg, key)


def _drop(cfg: DictConfig, key: str) -> None:
    """Drop a key, and its section if that is a shared one of which nothing is left."""
    section, _, name = key.rpartition('.')
    parent = OmegaConf.select(cfg, section)
    with open_dict(cfg):
        del parent[name]
        if not parent and '.' not in section and section not in SECTIONS:
            del cfg[section]


def _inherited(node: Mapping[str, Any], below: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yield the dotted keys of the arguments to drop."""
    if node.get('_target_') != below.get('_target_'):
        taken = config.arguments(node.get('_target_'))
        unfit = set() if taken is None else node.keys() - taken.keys() - _NOT_ARGUMENTS
        for name in unfit:
            if _is_same(name, node, below):
                yield f'{prefix}{name}'
    for name, value in node.items():
        old = below.get(name)
        if name.endswith(PARAMETERS):
            yield from _parameters(name, node, below, prefix)
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            if '_target_' in old and '_target_' not in value:  # of a component that is gone
                yield f'{prefix}{name}'
            else:
                yield from _inherited(value, old, f'{prefix}{name}.')


def unread(cfg: DictConfig, below: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that other sections read, such as `rvq.bins`, in the layer below, not here.

    Args:
        cfg: a configuration; interpolations not resolved.
        below: the layer under it, plain, interpolations not resolved.
    """
    plain = config.unresolved(cfg)
    here, there = (json.dumps(layer, default=str) for layer in (plain, below))
    for name, section in plain.items():
        if isinstance(section, Mapping) and name not in SECTIONS:
            for key in reversed(list(config.leaf_keys(section, f'{name}.'))):  # the deepest first
                if f'${{{key}}}' in there and f'${{{key}}}' not in here:
                    yield key


def _parameters(
    name: str, node: Mapping[str, Any], below: Mapping[str, Any], prefix: str
) -> Iterator[str]:
    """Yield keys such as `activation_params.alpha` if `activation` now names another class."""
    choice = name.removesuffix(PARAMETERS)
    if choice not in node or node[choice] == below.get(choice, MISSING):
        return
    if not isinstance(node[name], Mapping):
        # A copy such as ${seanet.activation_params} is dropped as a whole.
        if node[name] is not None and _is_same(name, node, below):
            yield f'{prefix}{name}'
        return
    for argument in node[name]:
        if _is_same(argument, node[name], below.get(name) or {}):
            yield f'{prefix}{name}.{argument}'


def _is_same(name: str, node: Mapping[str, Any], below: Any) -> bool:
    return isinstance(below, Mapping) and name in below and below[name] == node[name]
