"""What tells a recipe's model from a checkpoint's, in the keys that a user types, and the overrides
that match them.
"""

import inspect
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from audiocodec.models.options import spell_out
from audiocodec.modules.activation import activation_class
from audiocodec.quantization import NoQuantizer, ResidualVectorQuantizer
from audiocodec.utils import config
from audiocodec.utils.config import ConfigError

# Options that neither shape weights nor the function computed: of a model that has not learnt yet,
# which are of no consequence for one that has, and of its learning, which a recipe may well change.
_START = frozenset(
    (
        'encoder.init',
        'decoder.init',
        'quantizer.kmeans_init',
        'quantizer.kmeans_iters',
        'quantizer.seed',
    )
)
_LEARNING = frozenset(
    ('quantizer.q_dropout', 'quantizer.decay', 'quantizer.threshold_ema_dead_code')
)
# options of config/quantizer
_QUANTIZERS = {ResidualVectorQuantizer: 'rvq', NoQuantizer: 'none'}


class Difference(NamedTuple):
    """An option of the model that is not the same.

    Attributes:
        path: within the node of the model, such as `encoder.n_filters`.
        ours: the recipe's value.
        theirs: the checkpoint's.
    """

    path: str
    ours: Any
    theirs: Any


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str = ''
) -> Iterator[Difference]:
    """Compare two `_target_` nodes; what is not given counts as the constructor's default.

    Options without effect on what `theirs` describes are passed over. Of parts of another class,
    only that is said.

    Raises:
        ValueError: a `_target_` that does not exist or is not allowed.
    """
    our_class, our_options = spell_out(ours)
    their_class, their_options = spell_out(theirs)
    if our_class is not their_class:
        yield Difference(f'{path}_target_', ours['_target_'], theirs['_target_'])
        return
    idle = _without_effect(their_options)
    for name in dict.fromkeys([*our_options, *their_options]):
        if name not in idle:
            yield from _compare(
                _plain(name, our_options), _plain(name, their_options), f'{path}{name}'
            )


def _compare(one: Any, other: Any, path: str) -> Iterator[Difference]:
    """Compare two values: nodes and mappings by what is in them."""
    if _is_node(one) and _is_node(other):
        yield from differences(one, other, f'{path}.')
    elif (
        isinstance(one, Mapping)
        and isinstance(other, Mapping)
        and not _is_node(one)
        and not _is_node(other)
    ):
        for name in dict.fromkeys([*one, *other]):
            yield from _compare(one.get(name), other.get(name), f'{path}.{name}')
    elif one != other:
        yield Difference(path, one, other)


def check_model(cfg: Mapping[str, Any], theirs: Mapping[str, Any], source: str) -> str:
    """Check that the recipe describes the model that a checkpoint holds.

    Args:
        cfg: the whole configuration, plain and resolved.
        theirs: the `_target_` node of the checkpoint's model.
        source: what the user calls the checkpoint.

    Returns:
        What differs and may do so, in a line for the log; empty if nothing does.

    Raises:
        ConfigError: it names every option that differs, as the user would type it, with both
            values.
    """
    found = list(differences(cfg['model'], theirs))
    lines, overrides = [], []
    for key, difference in _in_keys(
        cfg, [each for each in found if each.path not in _START | _LEARNING]
    ):
        lines.append(
            f'  {key.lstrip("+")}={_typed(difference.ours)}: the checkpoint has '
            f'{_typed(difference.theirs)}'
        )
        overrides.append(shlex.quote(f'{key}={_typed(difference.theirs)}'))
    if lines:
        number = f'{len(lines)} options' if len(lines) > 1 else 'an option'
        raise ConfigError(
            '\n'.join(
                [
                    f'continue_from={source}: the model of the recipe differs from that of the '
                    f'checkpoint in {number}:',
                    *lines,
                    f'To train that model on, add: {" ".join(overrides)}',
                ]
            )
        )
    return ', '.join(
        f'{key}={_typed(difference.ours)} (there {_typed(difference.theirs)})'
        for key, difference in _in_keys(cfg, [each for each in found if each.path in _LEARNING])
    )


def _in_keys(cfg: Mapping[str, Any], found: list[Difference]) -> list[tuple[str, Difference]]:
    """Differences by the keys that set them: one where parts share it, if that makes all of them
    equal.
    """
    left, named = {difference.path: difference for difference in found}, []
    for difference in found:
        for key, paths in _shared_keys(cfg, difference.path):
            shared = [left[path] for path in paths if path in left]
            if len(shared) == len(paths) and all(each[1:] == difference[1:] for each in shared):
                named.append((key, difference))
                left = {path: each for path, each in left.items() if path not in paths}
        if difference.path in left:
            named.append(_own_key(cfg, left.pop(difference.path)))
    return named


def _shared_keys(cfg: Mapping[str, Any], path: str) -> Iterator[tuple[str, list[str]]]:
    """Keys of the recipes from which the option at `path` is copied, each with the paths of all its
    copies.
    """
    part, _, name = path.partition('.')
    part, name = (part, name) if name else ('', path)
    option = name.partition('.')[0]  # a part of it may be what differs
    copies = [
        f'{each}.{name}'
        for each in ('encoder', 'decoder', 'quantizer')
        if option in cfg['model'].get(each, ())
    ]
    if name in ('sample_rate', 'channels'):
        yield name, [*([name] if name in cfg['model'] else []), *copies]
    for section, of in (('seanet', ('encoder', 'decoder')), ('rvq', ('quantizer',))):
        if option in cfg.get(section, ()) and (part in of or option == 'dimension'):
            yield _addable(cfg, f'{section}.{name}'), copies


def _own_key(cfg: Mapping[str, Any], difference: Difference) -> tuple[str, Difference]:
    """The key of an option that is no copy of another; with a + where the recipe lacks it."""
    part, _, name = difference.path.partition('.')
    if difference.path == 'quantizer._target_':
        ours, theirs = (_QUANTIZERS.get(config.locate(target), target) for target in difference[1:])
        if theirs in _QUANTIZERS.values():
            return 'quantizer', Difference(difference.path, ours, theirs)
    key = (
        difference.path
        if name and isinstance(cfg.get(part), Mapping)
        else f'model.{difference.path}'
    )
    return _addable(cfg, key), difference


def _addable(cfg: Mapping[str, Any], key: str) -> str:
    """A key as it is typed: with a + where the recipe lacks it."""
    return key if config.select(cfg, key) is not config.MISSING else f'+{key}'


def _without_effect(options: Mapping[str, Any]) -> set[str]:
    """Options of an EnCodec model or its parts that change nothing, others being as they are."""
    needed = {
        'norm_params': options.get('norm') == 'time_group_norm',
        'trim_right_ratio': options.get('causal'),
        'final_activation_params': options.get('final_activation'),
        'overlap': options.get('segment_duration') is not None,
    }
    return {name for name, used in needed.items() if not used}


def _plain(name: str, options: Mapping[str, Any]) -> Any:
    """The value of an option, written in one way."""
    value = options.get(name)
    if name in ('activation_params', 'final_activation_params'):
        choice = options.get(name.removesuffix('_params'))
        parameters = (
            ()
            if choice is None
            else inspect.signature(activation_class(choice)).parameters.values()
        )
        defaults = {
            each.name: each.default for each in parameters if each.default is not each.empty
        }
        return {
            key: value for key, value in {**defaults, **(value or {})}.items() if key != 'inplace'
        }
    if name == 'norm_params':
        return {'eps': 1e-5, 'affine': True, **(value or {})}  # of torch.nn.GroupNorm
    return list(value) if isinstance(value, tuple) else value


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and '_target_' in value


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, Mapping):
        return '{' + ','.join(f'{key}:{_typed(item)}' for key, item in value.items()) + '}'
    if isinstance(value, list):
        return '[' + ','.join(map(_typed, value)) + ']'
    return (
        {None: 'null', True: 'true', False: 'false'}[value]
        if value is None or value is True or value is False
        else str(value)
    )
