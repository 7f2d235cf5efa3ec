"""Nested dicts and lists of tensors, integers and None, as streams remember them."""

from collections.abc import Callable
from typing import Any

import torch


def mapped(function: Callable[[torch.Tensor], torch.Tensor], tree: Any) -> Any:
    """Return a copy of a tree, with each tensor replaced by the result of a function."""
    if isinstance(tree, dict):
        return {name: mapped(function, value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [mapped(function, value) for value in tree]
    return function(tree) if isinstance(tree, torch.Tensor) else tree


def merged(first: Any, second: Any) -> Any:
    """Return a tree with the tensors of both, concatenated along the first dimension.

    None if they differ in anything but the sizes of that dimension and the values of tensors.
    """
    if not _is_like(first, second) or not _is_like(second, first):
        return None
    if isinstance(first, dict):
        values = merged(list(first.values()), [second[name] for name in first])
        return None if values is None else dict(zip(first, values))
    if isinstance(first, list):
        found = [merged(one, other) for one, other in zip(first, second)]
        missing = any(one is None and was is not None for one, was in zip(found, first))
        return None if missing else found
    if isinstance(first, torch.Tensor):
        return torch.cat([first, second]) if first.shape[1:] == second.shape[1:] else None
    return first if first == second else None


def checked(tree: Any, like: Any) -> Any:
    """Return a tree if it has the structure of another, in which None may stand for a tensor.

    Raises:
        ValueError: it has not.
    """
    if not _is_like(tree, like):
        raise ValueError('the state is not of this model: load it into a stream of the same model')
    return tree


def _is_like(tree: Any, like: Any) -> bool:
    if isinstance(like, dict):
        return (
            isinstance(tree, dict)
            and tree.keys() == like.keys()
            and all(_is_like(tree[name], like[name]) for name in like)
        )
    if isinstance(like, list):
        return isinstance(tree, list) and len(tree) == len(like) and all(map(_is_like, tree, like))
    return isinstance(tree, torch.Tensor | None) if like is None else type(tree) is type(like)
