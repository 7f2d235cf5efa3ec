"""Compare a recipe's model with a checkpoint's, in terms of the keys that a user types."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig

from audiocodec.models.options import spell_out
from audiocodec.utils import config, paths
from audiocodec.utils.config import ConfigError


class Difference(NamedTuple):
    """Option of the model with different values.

    Attributes:
        path: within the node of the model, such as `encoder.n_filters`.
        ours: value in the recipe.
        theirs: value in the checkpoint.
    """

    path: str
    ours: Any
    theirs: Any


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str = ''
) -> Iterator[Difference]:
    """Compare two `_target_` nodes; missing options have the constructor's default.

    Options without effect on what `theirs` describes are ignored: a component may have a static
    method `unused_options` that names them. For parts of different classes, only the classes are
    compared.

    Raises:
        ValueError: a `_target_` does not exist or is not allowed.
    """
    our_class, our_options = spell_out(ours)
    their_class, their_options = spell_out(theirs)
    if our_class is not their_class:
        yield Difference(f'{path}_target_', ours['_target_'], theirs['_target_'])
        return
    unused = getattr(our_class, 'unused_options', lambda options: ())(their_options)
    our_options, their_options = (
        _spelled_out(our_class, each) for each in (our_options, their_options)
    )
    for name in dict.fromkeys([*our_options, *their_options]):
        if name not in unused:
            yield from _compare(our_options.get(name), their_options.get(name), f'{path}{name}')


def _compare(ours: Any, theirs: Any, path: str) -> Iterator[Difference]:
    """Compare two values: nodes and mappings item by item."""
    if _is_node(ours) and _is_node(theirs):
        yield from differences(ours, theirs, f'{path}.')
    elif _is_plain_mapping(ours) and _is_plain_mapping(theirs):
        for name in dict.fromkeys([*ours, *theirs]):
            yield from _compare(ours.get(name), theirs.get(name), f'{path}.{name}')
    elif ours != theirs:
        yield Difference(path, ours, theirs)


class Changes(NamedTuple):
    """Differences that fine-tuning allows, as text for the log; empty if there are none.

    Attributes:
        training: options that affect only the training.
        model: options that change the model, whose weights are adapted.
    """

    training: str
    model: str


def check_model(cfg: DictConfig, theirs: Mapping[str, Any], source: str) -> Changes:
    """Check that the recipe describes the model that a checkpoint holds.

    Components declare the options that may differ: `initialization_options`, which have no effect
    on a trained model, `training_options`, and `adaptable_options`. The parts in `finetune.fresh`
    may differ in any way.

    Args:
        cfg: the whole configuration.
        theirs: the `_target_` node of the checkpoint's model.
        source: the checkpoint, as the user typed it.

    Raises:
        ConfigError: other options differ. The message names each with both values, and the
            overrides to type.
    """
    ours, raw = config.to_plain(cfg.model), config.unresolved(cfg)
    kinds: dict[str, list[Difference]] = {'refused': [], 'training': [], 'adaptable': []}
    declared = {kind: _declared(ours, f'{kind}_options') for kind in ('initialization', *kinds)}
    fresh = tuple(f'{part}.' for part in cfg.finetune.fresh)
    for each in differences(ours, theirs):
        if each.path.startswith(fresh):
            kinds['adaptable'].append(each)
        elif each.path not in declared['initialization']:
            kind = next((kind for kind in kinds if each.path in declared[kind]), 'refused')
            kinds[kind].append(each)
    if kinds['refused']:
        raise ConfigError(_refusal(raw, kinds['refused'], kinds['adaptable'], source))
    return Changes(*(_listed(raw, kinds[kind]) for kind in ('training', 'adaptable')))


def _refusal(
    raw: Mapping[str, Any],
    refused: list[Difference],
    adaptable: list[Difference],
    source: str,
) -> str:
    """Return the message for differences that are not allowed, among others that are."""
    lines, overrides = [], []
    for key, difference in _in_keys(raw, [*refused, *adaptable]):
        ours, other = _typed(difference.ours), _typed(difference.theirs)
        lines.append(f'  {key.lstrip("+")}={ours}: the checkpoint has {other}')
        overrides.append(shlex.quote(f'{key}={other}'))
    number = f'{len(lines)} options' if len(lines) > 1 else 'an option'
    head = (
        f'continue_from={source}: the model of the recipe differs from that of the '
        f'checkpoint in {number}:'
    )
    may = ', '.join(key for key, _ in _in_keys(raw, adaptable))
    note = [f'  {may} may differ: the weights would be adapted'] if may else []
    cure = f'To fine-tune the checkpoint, add: {" ".join(overrides)}'
    return '\n'.join([head, *lines, *note, cure])


def _listed(raw: Mapping[str, Any], found: list[Difference]) -> str:
    return ', '.join(
        f'{key.lstrip("+")}={_typed(difference.ours)} (checkpoint: {_typed(difference.theirs)})'
        for key, difference in _in_keys(raw, found)
    )


def _declared(model: Mapping[str, Any], name: str) -> set[str]:
    """Return paths of options, within a model's node, that its components declare in `name`."""
    return {
        f'{path}.{option}' if path else option
        for path, node in config.targets(model)
        for option in getattr(config.locate(node['_target_']), name, ())
    }


def _in_keys(raw: Mapping[str, Any], found: list[Difference]) -> Iterator[tuple[str, Difference]]:
    """Yield differences by the keys that set them.

    A key that several options copy is named once, if setting it removes the difference in all.

    Args:
        raw: the configuration, interpolations not resolved.
        found: differences.
    """
    copies = _copies(raw)
    left = {difference.path: difference for difference in found}
    for difference in found:
        if difference.path not in left:
            continue
        for key in reversed(config.origins(raw, f'model.{difference.path}')):
            shared = copies.get(key, {difference.path})
            if all(path in left and left[path][1:] == difference[1:] for path in shared):
                left = {path: each for path, each in left.items() if path not in shared}
                yield _typed_key(raw, key, difference)
                break


def _copies(raw: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the options of the model, as paths within it, that come from each key."""
    copies: dict[str, set[str]] = {}
    for path in _paths(raw, 'model'):
        for key in config.origins(raw, path):
            copies.setdefault(key, set()).add(path.removeprefix('model.'))
    return copies


def _paths(raw: Mapping[str, Any], key: str) -> Iterator[str]:
    """Yield the keys of all options under a key of the model; sections that it copies, too."""
    node = config.select(raw, config.origins(raw, key)[-1])
    if isinstance(node, Mapping):
        for name in node:
            yield f'{key}.{name}'
            yield from _paths(raw, f'{key}.{name}')


def _typed_key(raw: Mapping[str, Any], key: str, difference: Difference) -> tuple[str, Difference]:
    """Return a key as typed on the command line: with a + if the recipe lacks it."""
    part, _, name = key.rpartition('.')
    if name == '_target_' and part in raw:
        choices = _choices(part)
        ours, theirs = (choices.get(config.locate(target)) for target in difference[1:])
        if theirs is not None:
            return part, Difference(difference.path, ours or difference.ours, theirs)
    exists = config.select(raw, key) is not config.MISSING
    return (key if exists else f'+{key}'), difference


def _choices(group: str) -> dict[Any, str]:
    """Return the components that a group of the configuration offers, with their names."""
    found = {}
    for path in sorted((paths.ROOT / 'config' / group).glob('*.yaml')):
        content = yaml.safe_load(path.read_text())
        node = content.get(group, content)
        if isinstance(node, Mapping) and '_target_' in node:
            found[config.locate(node['_target_'])] = path.stem
    return found


def _spelled_out(component: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with tuples as lists, and as the component spells out nested defaults."""
    spell = getattr(component, 'spelled_out_options', dict)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in spell(options).items()
    }


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and '_target_' in value


def _is_plain_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and '_target_' not in value


def _typed(value: Any) -> str:
    """Return a value as typed on the command line."""
    if isinstance(value, Mapping):
        items = [f'{key}:{_typed(item)}' for key, item in value.items()]
        return '{' + ','.join(items) + '}'
    if isinstance(value, list):
        return '[' + ','.join(map(_typed, value)) + ']'
    if value is None:
        return 'null'
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
