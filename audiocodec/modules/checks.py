"""Checks of constructor arguments."""

from collections.abc import Iterable
from typing import Any


def require_int(name: str, value: Any, minimum: int = 1) -> None:
    """Check an integer argument.

    Raises:
        ValueError: not an integer, or below `minimum`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f'{name}={value!r}: expected an integer >= {minimum}')


def require_ints(name: str, values: Any, minimum: int = 1) -> tuple[int, ...]:
    """Check a non-empty sequence of integers and return it as a tuple.

    Raises:
        ValueError: not a sequence, empty, or an item that is not an integer >= `minimum`.
    """
    items = (
        tuple(values)
        if isinstance(values, Iterable) and not isinstance(values, (str, bytes))
        else ()
    )
    if not items or any(
        not isinstance(item, int) or isinstance(item, bool) or item < minimum for item in items
    ):
        raise ValueError(f'{name}={values!r}: expected a non-empty list of integers >= {minimum}')
    return items
