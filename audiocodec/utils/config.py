"""Objects from a configuration: `node_problems` checks a `_target_` node, `build` builds it.

The nodes have Hydra's format, but are not built by its `instantiate`, which stops at the first
error and does not report its key.
"""

import difflib
import functools
import importlib
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

from audiocodec.utils.annotations import misfit

ALLOWED_PREFIXES = ['audiocodec.', 'torch.nn.', 'torch.optim.']
MISSING = object()
_SPECIAL_KEYS = {'_target_', '_partial_', '_convert_', '_recursive_', '_args_'}


class ConfigError(ValueError):
    """Invalid configuration or command line; shown as a message, without a traceback.

    Args:
        problems: all problems found, each one or two sentences with the key, its value and what is
            accepted.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        head = ''
        if len(self.problems) != 1:
            head = f'{len(self.problems)} problems in the configuration:\n- '
        super().__init__(head + '\n- '.join(self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


@contextmanager
def shown_as_messages() -> Iterator[None]:
    """Turn every `ValueError` inside into a `ConfigError`; for the steps before training."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def allow_targets(*prefixes: str) -> None:
    """Allow classes of other packages as `_target_`, as in `allow_targets('my_codec.')`.

    Only listed packages can be called, because the configuration in a checkpoint may not be
    trusted. On the command line, use `allow_targets=[my_codec.]`; in the environment,
    `AUDIOCODEC_ALLOW_TARGETS=my_codec.:other.`.
    """
    for prefix in prefixes:
        if prefix not in ALLOWED_PREFIXES:
            ALLOWED_PREFIXES.append(prefix)


def _allowed_prefixes() -> list[str]:
    extra = os.environ.get('AUDIOCODEC_ALLOW_TARGETS', '').split(os.pathsep)
    return [*ALLOWED_PREFIXES, *filter(None, extra)]


def is_allowed(target: str) -> bool:
    """Return whether a `_target_` may be called."""
    return target.startswith(tuple(_allowed_prefixes()))


def to_plain(node: Any) -> Any:
    """Convert an OmegaConf node to dicts and lists, with interpolations resolved."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def unresolved(node: Any) -> dict[str, Any]:
    """Convert an OmegaConf mapping to dicts and lists, with interpolations as written."""
    from omegaconf import OmegaConf

    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return the hint `; did you mean 'x'?` for the closest choice, or an empty string."""
    known = list(choices)
    leaf = name.rsplit('.', 1)[-1]
    ends = {key: key.rsplit('.', 1)[-1] for key in known}
    # first a right key with a missing or wrong path, then a misspelled key, then both
    same_leaf = [key for key, end in ends.items() if end == leaf]
    found = difflib.get_close_matches(name, same_leaf, n=1, cutoff=0.0)
    found = found or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not found:
        close = difflib.get_close_matches(leaf, ends.values(), n=1, cutoff=0.8)
        found = [key for key, end in ends.items() if close and end == close[0]][:1]
    return f"; did you mean '{found[0]}'?" if found else ''


def leaf_keys(node: Mapping[str, Any], prefix: str = '') -> Iterator[str]:
    """Yield the dotted names of all keys of nested mappings, including inner nodes."""
    for key, value in node.items():
        yield f'{prefix}{key}'
        if isinstance(value, Mapping):
            yield from leaf_keys(value, f'{prefix}{key}.')


def leaf_items(node: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of the leaves of nested mappings; lists are leaves."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaf_items(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def select(node: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key of nested mappings; `MISSING` if there is none."""
    found: Any = node
    for part in key.split('.'):
        if not isinstance(found, Mapping) or part not in found:
            return MISSING
        found = found[part]
    return found


def origins(node: Mapping[str, Any], key: str) -> list[str]:
    """Return the keys that a value comes from: `key`, the key that it copies, and so on.

    Args:
        node: nested mappings, interpolations not resolved. `${other.key}` is a copy; a value that
            an expression computes is not.
        key: dotted key; it may be missing, but not in the copy of a section.
    """
    found = [key]
    parts = key.split('.')
    value: Any = node
    for number, part in enumerate(parts, start=1):
        if not isinstance(value, Mapping) or part not in value:
            break
        value = value[part]
        copied = re.fullmatch(r'\$\{([\w.]+)\}', value) if isinstance(value, str) else None
        if copied is not None:
            return found + origins(node, '.'.join([copied[1], *parts[number:]]))
    return found


def source_section(node: Mapping[str, Any], key: str) -> str:
    """Return the section that most arguments of a component come from; else the component's key.

    Args:
        node: nested mappings, interpolations not resolved.
        key: dotted key of the component.
    """
    key = origins(node, key)[-1]
    component = select(node, key)
    names = [name for name in component if name != '_target_']
    sources = [origins(node, f'{key}.{name}')[-1].rpartition('.')[0] for name in names]
    for section in dict.fromkeys(sources):
        if section and sources.count(section) > len(names) / 2:
            return section
    return key


def copied_keys(node: Any) -> set[str]:
    """Return the keys that interpolations refer to, of a configuration not resolved."""
    if isinstance(node, Mapping):
        return set().union(*map(copied_keys, node.values()))
    if isinstance(node, list):
        return set().union(*map(copied_keys, node))
    return set(re.findall(r'\$\{([\w.]+)\}', node)) if isinstance(node, str) else set()


def targets(node: Any, path: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every mapping with a `_target_` and its dotted path, outermost first."""
    if isinstance(node, Mapping):
        if '_target_' in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f'{path}[{index}]')


def locate(target: str) -> Any:
    """Return the class or function with a dotted name.

    It must be defined in an allowed package: `audiocodec.utils.config.os.system` is refused.

    Raises:
        ValueError: the name is not allowed or does not exist; names the closest one that exists.
    """
    if not isinstance(target, str):
        raise ValueError(
            f'_target_ {target!r}: expected the dotted name of a class, e.g. torch.nn.L1Loss'
        )
    if not is_allowed(target):
        raise ValueError(
            f"_target_ '{target}' is not allowed: it must start with one of "
            f'{", ".join(ALLOWED_PREFIXES)}; {_opt_in(target.split(".")[0])}'
        )
    module_name = target
    attributes: list[str] = []
    while True:
        module_name, _, attribute = module_name.rpartition('.')
        if not module_name:
            raise ValueError(f"_target_ '{target}': no such module; is its folder on PYTHONPATH?")
        attributes.insert(0, attribute)
        try:
            found: Any = importlib.import_module(module_name)
            break
        except ImportError as error:
            if error.name is None or not (
                module_name == error.name or module_name.startswith(error.name + '.')
            ):
                raise ValueError(
                    f"_target_ '{target}': {module_name} cannot be imported: {error}"
                ) from error
    for attribute in attributes:
        if not hasattr(found, attribute):
            names = [name for name in vars(found) if not name.startswith('_')]
            raise ValueError(
                f"_target_ '{target}': {getattr(found, '__name__', found)} has no '{attribute}'"
                + nearest(attribute, names)
            )
        found = getattr(found, attribute)
        home = (
            found.__name__
            if isinstance(found, ModuleType)
            else str(getattr(found, '__module__', None))
        )
        if not is_allowed(f'{home}.' if isinstance(found, ModuleType) else f'{home}.{attribute}'):
            raise ValueError(
                f"_target_ '{target}' is not allowed: '{attribute}' belongs to {home}; "
                + _opt_in(home)
            )
    return found


def _opt_in(package: str) -> str:
    """Return how to allow a package, for all places where a target may be refused."""
    return (
        f'to allow it, add allow_targets=[{package}.] to dora run, call '
        f"audiocodec.utils.config.allow_targets('{package}.'), or set "
        f'AUDIOCODEC_ALLOW_TARGETS={package}.'
    )


def node_problems(node: Any, path: str = '', provided: Iterable[str] = ()) -> list[str]:
    """Return the problems of the `_target_` nodes below `node`, without building anything.

    Args:
        node: plain dicts and lists (see `to_plain`).
        path: key of the node, for messages.
        provided: arguments that the caller passes when it builds the node.
    """
    problems = []
    for where, mapping in targets(_without_weight(node), path):
        prefix = f'{where}.' if where else ''
        try:
            target = locate(mapping['_target_'])
        except ValueError as error:
            problems.append(f'{prefix}_target_: {error}')
            continue
        if not callable(target):
            problems.append(
                f"{prefix}_target_: '{mapping['_target_']}' is a {type(target).__name__}, "
                'expected a class or function, e.g. one in it'
            )
            continue
        provided_here = set(provided) if where == path else set()
        problems += [
            prefix + problem for problem in _argument_problems(mapping, target, provided_here)
        ]
    return problems


def _without_weight(node: Any) -> Any:
    """Remove the `weight` of a node, which is for the caller; keeps those of nested nodes."""
    if not isinstance(node, Mapping):
        return node
    return {key: value for key, value in node.items() if key != 'weight'}


def _argument_problems(node: Mapping[str, Any], target: Any, provided: set[str]) -> list[str]:
    """Return the problems of the arguments that a node passes to its target."""
    parameters, takes_more = _parameters(target)
    given = sorted({str(key) for key in node} - _SPECIAL_KEYS)
    problems = []
    for name in given:
        if name in parameters:
            accepted = misfit(node[name], parameters[name].annotation)
            if accepted:
                problems.append(f'{name}={node[name]!r}: expected {accepted}')
    unknown = [] if takes_more else [name for name in given if name not in parameters]
    if len(unknown) > 3:  # probably arguments of another class
        problems.append(
            f'_target_={node["_target_"]} has no arguments {", ".join(unknown)}; it takes '
            f'{", ".join(parameters) or "none"}'
        )
    else:
        problems += [
            f"{name}={node[name]!r}: {node['_target_']} has no argument '{name}'"
            + nearest(name, parameters)
            for name in unknown
        ]
    arguments = node.get('_args_', [])
    partial = node.get('_partial_', False)
    if not isinstance(partial, bool):
        problems.append(f'_partial_={partial!r}: expected true or false')
    if not isinstance(arguments, list):
        return [*problems, f'_args_={arguments!r}: expected a list']
    by_place = list(parameters)[: len(arguments)]
    problems += [
        f'_args_={arguments!r}: {name} is also passed by name' for name in by_place if name in given
    ]
    if partial:
        return problems
    required = {
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    return problems + [
        f'{name} is missing: {node["_target_"]} needs it'
        for name in sorted(required - {*given, *by_place, *provided})
    ]


def arguments(target: Any) -> dict[str, Any] | None:
    """Return the keyword arguments of a `_target_`, with their annotations.

    None if it accepts any name or does not exist, which `node_problems` reports.
    """
    try:
        parameters, takes_more = _parameters(locate(target))
    except ValueError:
        return None
    return None if takes_more else {name: p.annotation for name, p in parameters.items()}


def _parameters(target: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the parameters of a class or function, and whether it accepts other names as well.

    A class that passes its remaining keyword arguments on may name the receiver in `arguments_of`.
    """
    try:
        parameters = dict(inspect.signature(target).parameters)
    except (ValueError, TypeError):
        return {}, True  # written in C: checks its arguments itself
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return parameters, False
    further = getattr(target, 'arguments_of', None)
    if further is None:
        return parameters, True
    more, takes_more = _parameters(further)
    optional = {name: p for name, p in more.items() if p.default is not p.empty}
    named = {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    return {**optional, **named}, takes_more


def _interpolations(node: Any, path: str = '') -> list[str]:
    """Return the problems of interpolations in a plain node, which can no longer be resolved."""
    if isinstance(node, Mapping):
        items = [(f'{path}.{key}' if path else str(key), value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [(f'{path}[{index}]', value) for index, value in enumerate(node)]
    elif '${' in str(node):
        return [f'{path}={node!r}: expected a value, got an interpolation']
    else:
        return []
    problems = []
    for where, value in items:
        problems += _interpolations(value, where)
    return problems


def build(node: Any, path: str = '', **runtime: Any) -> Any:
    """Build the object of a `_target_` node, with everything nested in it.

    Args:
        node: a mapping with `_target_` (a public class or function) and its keyword arguments, or
            positional ones in `_args_`; `_partial_: true` returns a factory instead. A `weight`
            next to them is for the caller, and not passed.
        path: key of the node, for messages.
        **runtime: further keyword arguments, known only at run time.

    Raises:
        ConfigError: lists all problems with their keys: targets that are not allowed or do not
            exist, unknown and missing arguments, and errors that components raise.
    """
    plain = to_plain(node)
    if not isinstance(plain, Mapping) or '_target_' not in plain:
        where = f'{path}: ' if path else ''
        raise ConfigError(f'{where}a component needs a _target_, found {plain!r}')
    problems = node_problems(plain, path, provided=runtime) + _interpolations(plain, path)
    if problems:
        raise ConfigError([*problems, *_problems_of_parts(plain, path)])
    arguments = _without_weight(plain)
    made = _make(arguments, path, runtime, problems)
    if problems:
        raise ConfigError(problems)
    if hasattr(made, 'built_from'):  # exports of a model need the node that rebuilds it
        made.built_from = arguments
    return made


def _problems_of_parts(node: Mapping[str, Any], path: str) -> list[str]:
    """Build the valid parts of an invalid node, and return the problems that they report."""
    problems: list[str] = []
    for key, part in node.items():
        where = f'{path}.{key}' if path else key
        if isinstance(part, Mapping) and '_target_' in part and not node_problems(part, where):
            _make(part, where, {}, problems)
    return problems


_NOT_MADE = object()


def _make(value: Any, path: str, runtime: Mapping[str, Any], problems: list[str]) -> Any:
    """Build a node, innermost parts first; adds the errors of the parts to `problems`."""
    if isinstance(value, list):
        items = [_make(item, f'{path}[{n}]', {}, problems) for n, item in enumerate(value)]
        return _NOT_MADE if _NOT_MADE in items else items
    if not isinstance(value, Mapping):
        return value
    made = {}
    for key, item in value.items():
        made[key] = _make(item, f'{path}.{key}' if path else str(key), {}, problems)
    if any(part is _NOT_MADE for part in made.values()):
        return _NOT_MADE
    if '_target_' not in value:
        return made
    try:
        return _call(made, runtime)
    except Exception as error:  # components may raise anything for invalid arguments
        problems.append(_placed(path, value, error))
        return _NOT_MADE


def _call(node: Mapping[str, Any], runtime: Mapping[str, Any]) -> Any:
    """Call the target of a node whose nested nodes are objects."""
    arguments = {key: value for key, value in node.items() if key not in _SPECIAL_KEYS}
    target = locate(node['_target_'])
    function = functools.partial(target, *node.get('_args_', []), **arguments, **runtime)
    return function if node.get('_partial_') else function()


def _placed(where: str, node: Mapping[str, Any], error: Exception) -> str:
    """Return an error with its key in front: of the argument that it begins with, or the node."""
    text = reported(node, error)
    named = re.match(r'(\w+)(=| must )', text)
    if named and named[1] in node:
        return f'{where}.{text}' if where else text
    return f'{where}: {text}' if where else text


def is_own(node: Mapping[str, Any]) -> bool:
    """True for components of this package and of PyTorch."""
    return str(node['_target_']).startswith(('audiocodec.', 'torch.'))


def reported(node: Mapping[str, Any], error: Exception) -> str:
    """Return the message of a component's error, with its arguments unless it names them."""
    if isinstance(error, ValueError) and node['_target_'].startswith('audiocodec.'):
        return str(error)
    values = ', '.join(f'{key}={value}' for key, value in node.items() if key not in _SPECIAL_KEYS)
    reason = str(error) or type(error).__name__
    return f'{node["_target_"]} does not work with {values or "no arguments"}: {reason}'
