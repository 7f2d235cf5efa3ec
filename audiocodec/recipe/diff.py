"""Compare a recipe's model with a checkpoint's, in terms of the keys that a user types."""

import inspect
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from audiocodec.models.options import spell_out
from audiocodec.modules.activation import activation_class
from audiocodec.quantization import NoQuantizer, ResidualVectorQuantizer
from audiocodec.utils import config
from audiocodec.utils.config import ConfigError

# Options that change neither the weights' shapes nor what a trained model computes.
# Of the initialization: they have no effect on a trained model.
_INITIALIZATION = frozenset(
    (
        'encoder.init',
        'decoder.init',
        'quantizer.kmeans_init',
        'quantizer.kmeans_iters',
        'quantizer.seed',
    )
)
# Of the training: fine-tuning may change them.
_TRAINING = frozenset(
    ('quantizer.q_dropout', 'quantizer.decay', 'quantizer.threshold_ema_dead_code')
)
# Quantizers that are chosen with `quantizer=NAME`.
_QUANTIZERS = {ResidualVectorQuantizer: 'rvq', NoQuantizer: 'none'}


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

    Options without effect on what `theirs` describes are ignored. For parts of different classes,
    only the classes are compared.

    Raises:
        ValueError: a `_target_` does not exist or is not allowed.
    """
    our_class, our_options = spell_out(ours)
    their_class, their_options = spell_out(theirs)
    if our_class is not their_class:
        yield Difference(f'{path}_target_', ours['_target_'], theirs['_target_'])
        return
    ignored = _without_effect(their_options)
    for name in dict.fromkeys([*our_options, *their_options]):
        if name not in ignored:
            our_value, their_value = _plain(name, our_options), _plain(name, their_options)
            yield from _compare(our_value, their_value, f'{path}{name}')


def _compare(ours: Any, theirs: Any, path: str) -> Iterator[Difference]:
    """Compare two values: nodes and mappings item by item."""
    if _is_node(ours) and _is_node(theirs):
        yield from differences(ours, theirs, f'{path}.')
    elif _is_plain_mapping(ours) and _is_plain_mapping(theirs):
        for name in dict.fromkeys([*ours, *theirs]):
            yield from _compare(ours.get(name), theirs.get(name), f'{path}.{name}')
    elif ours != theirs:
        yield Difference(path, ours, theirs)


def check_model(cfg: Mapping[str, Any], theirs: Mapping[str, Any], source: str) -> str:
    """Check that the recipe describes the model that a checkpoint holds.

    Args:
        cfg: the whole configuration, plain and resolved.
        theirs: the `_target_` node of the checkpoint's model.
        source: the checkpoint, as the user typed it.

    Returns:
        The differences that fine-tuning allows, in a line for the log; empty if there are none.

    Raises:
        ConfigError: other options differ. The message names each with both values, and the
            overrides to type.
    """
    found = list(differences(cfg['model'], theirs))
    refused = [each for each in found if each.path not in _INITIALIZATION | _TRAINING]
    lines, overrides = [], []
    for key, difference in _in_keys(cfg, refused):
        ours, other = _typed(difference.ours), _typed(difference.theirs)
        lines.append(f'  {key.lstrip("+")}={ours}: the checkpoint has {other}')
        overrides.append(shlex.quote(f'{key}={other}'))
    if lines:
        number = f'{len(lines)} options' if len(lines) > 1 else 'an option'
        head = (
            f'continue_from={source}: the model of the recipe differs from that of the '
            f'checkpoint in {number}:'
        )
        cure = f'To fine-tune the checkpoint, add: {" ".join(overrides)}'
        raise ConfigError('\n'.join([head, *lines, cure]))
    allowed = [each for each in found if each.path in _TRAINING]
    return ', '.join(
        f'{key}={_typed(difference.ours)} (checkpoint: {_typed(difference.theirs)})'
        for key, difference in _in_keys(cfg, allowed)
    )


def _in_keys(cfg: Mapping[str, Any], found: list[Difference]) -> list[tuple[str, Difference]]:
    """Return differences by the keys that set them.

    A key that several parts copy is named once, if setting it removes the difference in all.
    """
    left = {difference.path: difference for difference in found}
    named = []
    for difference in found:
        for key, paths in _shared_keys(cfg, difference.path):
            shared = [left[path] for path in paths if path in left]
            same_values = all(each[1:] == difference[1:] for each in shared)
            if len(shared) == len(paths) and same_values:
                named.append((key, difference))
                left = {path: each for path, each in left.items() if path not in paths}
        if difference.path in left:
            named.append(_own_key(cfg, left.pop(difference.path)))
    return named


def _shared_keys(cfg: Mapping[str, Any], path: str) -> Iterator[tuple[str, list[str]]]:
    """Yield keys from which the option at `path` is copied, each with the paths of all copies."""
    part, _, name = path.partition('.')
    if not name:  # an option of the model itself
        part, name = '', path
    option = name.partition('.')[0]  # only an item of it may differ
    copies = [
        f'{each}.{name}'
        for each in ('encoder', 'decoder', 'quantizer')
        if option in cfg['model'].get(each, ())
    ]
    if name in ('sample_rate', 'channels'):
        yield name, [*([name] if name in cfg['model'] else []), *copies]
    for section, parts in (('seanet', ('encoder', 'decoder')), ('rvq', ('quantizer',))):
        if option in cfg.get(section, ()) and (part in parts or option == 'dimension'):
            yield _addable(cfg, f'{section}.{name}'), copies


def _own_key(cfg: Mapping[str, Any], difference: Difference) -> tuple[str, Difference]:
    """Return the key of an option that is not a copy; with a + if the recipe lacks it."""
    part, _, name = difference.path.partition('.')
    if difference.path == 'quantizer._target_':
        ours, theirs = (_QUANTIZERS.get(config.locate(target), target) for target in difference[1:])
        if theirs in _QUANTIZERS.values():
            return 'quantizer', Difference(difference.path, ours, theirs)
    in_section = name and isinstance(cfg.get(part), Mapping)
    key = difference.path if in_section else f'model.{difference.path}'
    return _addable(cfg, key), difference


def _addable(cfg: Mapping[str, Any], key: str) -> str:
    """Return a key as typed on the command line: with a + if the recipe lacks it."""
    return key if config.select(cfg, key) is not config.MISSING else f'+{key}'


def _without_effect(options: Mapping[str, Any]) -> set[str]:
    """Return options of an EnCodec model or its parts that have no effect, given the others."""
    used_if = {
        'norm_params': options.get('norm') == 'time_group_norm',
        'trim_right_ratio': options.get('causal'),
        'final_activation_params': options.get('final_activation'),
        'overlap': options.get('segment_duration') is not None,
    }
    return {name for name, used in used_if.items() if not used}


def _plain(name: str, options: Mapping[str, Any]) -> Any:
    """Return the value of an option with its defaults filled in, for comparison."""
    value = options.get(name)
    if name in ('activation_params', 'final_activation_params'):
        arguments = _activation_defaults(options.get(name.removesuffix('_params')))
        arguments.update(value or {})
        arguments.pop('inplace', None)  # computes the same
        return arguments
    if name == 'norm_params':
        return {'eps': 1e-5, 'affine': True, **(value or {})}  # of torch.nn.GroupNorm
    return list(value) if isinstance(value, tuple) else value


def _activation_defaults(choice: str | None) -> dict[str, Any]:
    """Return the arguments of an activation that have defaults."""
    if choice is None:
        return {}
    parameters = inspect.signature(activation_class(choice)).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


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
