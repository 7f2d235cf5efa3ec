"""Activations by the name of their class in `torch.nn`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def make_activation(name: str, params: Mapping[str, Any] | None = None) -> nn.Module:
    """Make the activation `torch.nn.<name>(**params)`.

    Raises:
        ValueError: `torch.nn` has no such module, or it does not take these parameters.
    """
    cls = getattr(nn, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f'activation={name!r} is not a module of torch.nn: use for instance ELU, LeakyReLU or Tanh.')
    try:
        made = cls(**(params or {}))
        with torch.no_grad():  # many take any value and stumble over it later
            made(torch.zeros(1, 2, 1))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f'parameters {dict(params or {})} do not fit the activation {name}: {error}') from error
    return made
