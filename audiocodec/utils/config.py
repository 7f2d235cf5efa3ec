"""From a configuration to objects: `node_problems` checks a `_target_` node, `build` makes it.

The nodes are Hydra's, but not built by its `instantiate`, which stops at the first error and does
not tell its key.
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
    """What a user wrote cannot be run; shown as a message, without a traceback.

    Args:
        problems: every problem found, each a sentence or two with the key, its value and what is
            accepted.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        head = (
            ''
            if len(self.problems) == 1
            else f'{len(self.problems)} problems in the configuration:\n- '
        )
        super().__init__(head + '\n- '.join(self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


@contextmanager
def shown_as_messages() -> Iterator[None]:
    """Around what is done before training: every `ValueError` becomes a `ConfigError`, which needs
    no traceback.
    """
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def allow_targets(*prefixes: str) -> None:
    """Let `_target_` name classes of other packages too, as in `allow_targets('my_codec.')`.

    A checkpoint's configuration may come from a stranger, so that only what is listed can be
    called. The command line says the same with `allow_targets=[my_codec.]`, the environment with
    `AUDIOCODEC_ALLOW_TARGETS=my_codec.:other.`.
    """
    for prefix in prefixes:
        if prefix not in ALLOWED_PREFIXES:
            ALLOWED_PREFIXES.append(prefix)


def _allowed_prefixes() -> list[str]:
    extra = os.environ.get('AUDIOCODEC_ALLOW_TARGETS', '').split(os.pathsep)
    return [*ALLOWED_PREFIXES, *filter(None, extra)]


def is_allowed(target: str) -> bool:
    """Whether a `_target_` may be called."""
    return target.startswith(tuple(_allowed_prefixes()))


def to_plain(node: Any) -> Any:
    """An OmegaConf node as dicts and lists with every interpolation resolved; anything else as it
    is.
    """
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def unresolved(node: Any) -> dict[str, Any]:
    """An OmegaConf mapping as dicts and lists, with interpolations as they are written."""
    from omegaconf import OmegaConf

    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))


def nearest(name: str, choices: Iterable[str]) -> str:
    """The hint `; did you mean 'x'?` for a name nearly among the choices, else an empty string."""
    known = list(choices)
    leaf = name.rsplit('.', 1)[-1]
    ends = {key: key.rsplit('.', 1)[-1] for key in known}
    # a key without its path, or with another one, else a misspelled key, else both
    found = difflib.get_close_matches(
        name, [key for key, end in ends.items() if end == leaf], n=1, cutoff=0.0
    )
    found = found or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not found:
        close = difflib.get_close_matches(leaf, ends.values(), n=1, cutoff=0.8)
        found = [key for key, end in ends.items() if close and end == close[0]][:1]
    return f"; did you mean '{found[0]}'?" if found else ''


def leaf_keys(node: Mapping[str, Any], prefix: str = '') -> Iterator[str]:
    """Dotted names of all keys of nested mappings, inner nodes included."""
    for key, value in node.items():
        yield f'{prefix}{key}'
        if isinstance(value, Mapping):
            yield from leaf_keys(value, f'{prefix}{key}.')


def leaf_items(node: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the leaves of nested mappings; lists and empty mappings are
    leaves.
    """
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaf_items(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def select(node: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key of nested mappings; `MISSING` where there is nothing."""
    found: Any = node
    for part in key.split('.'):
        if not isinstance(found, Mapping) or part not in found:
            return MISSING
        found = found[part]
    return found


def targets(node: Any, path: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a `_target_`, outermost first, with its dotted path."""
    if isinstance(node, Mapping):
        if '_target_' in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f'{path}[{index}]')


def locate(target: str) -> Any:
    """The class or function that a dotted name stands for.

    What it leads to must be defined where it is allowed: `audiocodec.utils.config.os.system` is
    not.

    Raises:
        ValueError: if the name is not allowed or leads nowhere; it names the nearest that exists.
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
    """How to allow a package, in each of the places where a target may be refused."""
    return (
        f'to allow it, add allow_targets=[{package}.] to dora run, call '
        f"audiocodec.utils.config.allow_targets('{package}.'), or set "
        f'AUDIOCODEC_ALLOW_TARGETS={package}.'
    )


def node_problems(node: Any, path: str = '', provided: Iterable[str] = ()) -> list[str]:
    """What is wrong with the `_target_` nodes below `node`, found without building anything.

    Args:
        node: plain dicts and lists (see `to_plain`).
        path: the node's own key, for the messages.
        provided: arguments that the caller passes when it builds the node itself.
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
                f"{prefix}_target_: '{mapping['_target_']}' is no class or function, but "
                f'{type(target).__name__}: name something in it'
            )
            continue
        provided_here = set(provided) if where == path else set()
        problems += [
            prefix + problem for problem in _argument_problems(mapping, target, provided_here)
        ]
    return problems


def _without_weight(node: Any) -> Any:
    """A node without the `weight` that belongs to whoever combines what is built; those of nodes in
    it are theirs.
    """
    return (
        {key: value for key, value in node.items() if key != 'weight'}
        if isinstance(node, Mapping)
        else node
    )


def _argument_problems(node: Mapping[str, Any], target: Any, provided: set[str]) -> list[str]:
    """What is wrong with the arguments that a node gives to its target."""
    parameters, takes_more = _parameters(target)
    given = sorted({str(key) for key in node} - _SPECIAL_KEYS)
    problems = [
        f'{name}={node[name]!r}: expected {accepted}'
        for name in given
        if name in parameters
        for accepted in [misfit(node[name], parameters[name].annotation)]
        if accepted
    ]
    unknown = [] if takes_more else [name for name in given if name not in parameters]
    if len(unknown) > 3:  # of another class
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
    arguments, partial = node.get('_args_', []), node.get('_partial_', False)
    if not isinstance(partial, bool):
        problems.append(f'_partial_={partial!r}: expected true or false')
    if not isinstance(arguments, list):
        return [*problems, f'_args_={arguments!r}: expected a list']
    by_place = list(parameters)[: len(arguments)]
    problems += [
        f'_args_={arguments!r}: {name} is given by name too' for name in by_place if name in given
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
    """Arguments by name of the class or function that a `_target_` names, with their annotations.

    None where it takes any name, or there is no such class: that is for `node_problems` to say.
    """
    try:
        parameters, takes_more = _parameters(locate(target))
    except ValueError:
        return None
    return None if takes_more else {name: p.annotation for name, p in parameters.items()}


def _parameters(target: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """What a class or function takes by name, and whether it takes names besides.

    A class that passes the rest of its keyword arguments on may say whose they are, in
    `arguments_of`.
    """
    try:
        parameters = dict(inspect.signature(target).parameters)
    except (ValueError, TypeError):
        return {}, True  # written in C: it says for itself what is wrong
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
    """Problems with interpolations left in a plain node, which nothing resolves any more."""
    if isinstance(node, Mapping):
        items = [(f'{path}.{key}' if path else str(key), value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [(f'{path}[{index}]', value) for index, value in enumerate(node)]
    elif '${' in str(node):
        return [f'{path}={node!r}: an interpolation, where a value is expected']
    else:
        return []
    return [problem for where, value in items for problem in _interpolations(value, where)]


def build(node: Any, path: str = '', **runtime: Any) -> Any:
    """Make the object that a `_target_` node describes, with everything nested in it.

    Args:
        node: a mapping with `_target_` (a public class or function) and its keyword arguments, or
            positional ones in `_args_`; `_partial_: true` gives a factory instead. A `weight` next
            to them belongs to whoever combines the objects, and is not passed.
        path: the node's own key, for the messages.
        **runtime: further keyword arguments, known only now.

    Raises:
        ConfigError: with every problem and its key: targets that are not allowed or do not exist,
            unknown and missing arguments, and what the components report of their arguments.
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
    if hasattr(made, 'built_from'):  # a model knows what rebuilds it, for its exports
        made.built_from = arguments
    return made


def _problems_of_parts(node: Mapping[str, Any], path: str) -> list[str]:
    """Problems of the sound parts of a node that has problems itself."""
    problems: list[str] = []
    for key, part in node.items():
        where = f'{path}.{key}' if path else key
        if isinstance(part, Mapping) and '_target_' in part and not node_problems(part, where):
            _make(part, where, {}, problems)
    return problems


_NOT_MADE = object()


def _make(value: Any, path: str, runtime: Mapping[str, Any], problems: list[str]) -> Any:
    """Build a node part by part, the innermost first; add what the parts report to `problems`."""
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
    except Exception as error:  # whatever a component raises is what it reports of its arguments
        problems.append(_placed(path, value, error))
        return _NOT_MADE


def _call(node: Mapping[str, Any], runtime: Mapping[str, Any]) -> Any:
    """Call the target of a node whose nested nodes are objects."""
    arguments = {key: value for key, value in node.items() if key not in _SPECIAL_KEYS}
    target = locate(node['_target_'])
    function = functools.partial(target, *node.get('_args_', []), **arguments, **runtime)
    return function if node.get('_partial_') else function()


def _placed(where: str, node: Mapping[str, Any], error: Exception) -> str:
    """An error with its key in front: the argument that it begins with, else the node."""
    text = reported(node, error)
    named = re.match(r'(\w+)(=| must )', text)
    if named and named[1] in node:
        return f'{where}.{text}' if where else text
    return f'{where}: {text}' if where else text


def is_own(node: Mapping[str, Any]) -> bool:
    """True for components of this package and of PyTorch."""
    return str(node['_target_']).startswith(('audiocodec.', 'torch.'))


def reported(node: Mapping[str, Any], error: Exception) -> str:
    """What a component reports when it is made or run, with its values unless it names them."""
    if isinstance(error, ValueError) and node['_target_'].startswith('audiocodec.'):
        return str(error)
    values = ', '.join(f'{key}={value}' for key, value in node.items() if key not in _SPECIAL_KEYS)
    reason = str(error) or type(error).__name__
    return f'{node["_target_"]} does not work with {values or "no arguments"}: {reason}'
