"""Type checks of configuration values, by the annotations of constructors."""

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

_BUILTINS: dict[str, Any] = {'int': int, 'float': float, 'bool': bool, 'str': str}
_WORDS: dict[Any, str] = {
    bool: 'true or false',
    int: 'an integer',
    float: 'a finite number',
    str: 'a string',
    type(None): 'null',
}
# of the items of lists and the values of sections
_PLURALS: dict[Any, str] = {
    bool: 'booleans (true or false)',
    int: 'integers',
    float: 'finite numbers',
    str: 'strings',
}
_NODE = 'a component (a section with a _target_)'
_LISTS = (collections.abc.Sequence, collections.abc.Iterable, list, tuple, set)
_MAPPINGS = (collections.abc.Mapping, dict)


def misfit(value: Any, annotation: Any) -> str | None:
    """Return what an annotation accepts if a value does not fit it, else None.

    An integer fits `float`, a list fits every sequence, and a `_target_` node fits everything,
    because its type is not known yet. No other plain value fits a class that is not a plain type:
    such an argument needs a node.

    Args:
        value: a plain value, as in YAML.
        annotation: annotation of an argument; `inspect.Parameter.empty` for none.
    """
    return None if _fits(value, annotation) else _words(annotation)


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer in PyTorch's range; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number in PyTorch's range; booleans are not."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def _fits(value: Any, annotation: Any) -> bool:
    if isinstance(annotation, str):
        annotation = _BUILTINS.get(annotation, Any)
    if annotation in (Any, object, inspect.Parameter.empty) or isinstance(
        annotation, typing.TypeVar
    ):
        return True
    if isinstance(value, Mapping) and '_target_' in value:
        return True
    origin = typing.get_origin(annotation) or annotation
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(annotation))
    if origin is typing.Literal:
        return value in typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return is_integer(value)
    if annotation is float:
        return is_number(value)
    if origin in _LISTS:
        return isinstance(value, list | tuple) and _items_fit(
            value, origin, typing.get_args(annotation)
        )
    if origin in _MAPPINGS:
        _, kind = typing.get_args(annotation) or (Any, Any)
        return isinstance(value, Mapping) and all(_fits(item, kind) for item in value.values())
    if not _is_plain(value):
        return True  # an object that was already built
    return isinstance(origin, type) and isinstance(value, origin)


def _items_fit(
    values: list[Any] | tuple[Any, ...], origin: Any, arguments: tuple[Any, ...]
) -> bool:
    if not arguments:
        return True
    if origin is tuple and arguments[-1] is not Ellipsis:
        return len(values) == len(arguments) and all(map(_fits, values, arguments))
    return all(_fits(value, arguments[0]) for value in values)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | Mapping)


def _words(annotation: Any) -> str:
    """Return what an annotation accepts, for messages."""
    if isinstance(annotation, str):
        annotation = _BUILTINS.get(annotation, annotation)
    origin = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        words = list(dict.fromkeys(_words(option) for option in arguments))
        plain = [text for text in words if text != _NODE]
        return ' or '.join(plain if set(plain) - {'null'} else words)
    if origin is typing.Literal:
        return ', '.join(map(str, arguments))
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin in _LISTS:
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            return f'a list of {len(arguments)} items'
        if not arguments:
            return 'a list'
        plural = _plural(arguments[0])
        return f'a list of {plural}' if plural else f'a list of items: {_words(arguments[0])}'
    if origin in _MAPPINGS:
        if arguments[1:] in ((), (Any,)):
            return 'a section (keys and values)'
        plural = _plural(arguments[1])
        return (
            f'a section of {plural}' if plural else f'a section of values: {_words(arguments[1])}'
        )
    return _NODE


def _plural(annotation: Any) -> str | None:
    """Return the plural of `_words`, if there is one."""
    if isinstance(annotation, str):
        annotation = _BUILTINS.get(annotation, annotation)
    if annotation in _PLURALS:
        return _PLURALS[annotation]
    return 'components (sections with a _target_)' if _words(annotation) == _NODE else None
