"""Normalization of convolutions: a parametrization of the weight, or a layer on the output.

- `none`: no normalization.
- `weight_norm`: the weight, split into direction and magnitude per first dimension (Salimans and
  Kingma, arXiv 1602.07868).
- `spectral_norm`: the weight, divided by its largest singular value (Miyato et al., arXiv
  1802.05957).
- `time_group_norm`: the output, over channels and time together: a group norm with a single group
  (arXiv 1803.08494).
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrizations

from audiocodec.modules.parametrizations import make_picklable

CONV_NORMS = ('none', 'weight_norm', 'spectral_norm', 'time_group_norm')

Conv = TypeVar('Conv', bound=nn.Module)


def check_norm(norm: str) -> None:
    """Check the name of a normalization.

    Raises:
        ValueError: unknown norm.
    """
    if norm not in CONV_NORMS:
        raise ValueError(f'norm={norm!r} is unknown: choose one of {", ".join(CONV_NORMS)}')


def normalize_weight(conv: Conv, norm: str) -> Conv:
    """Parametrize the weight of a convolution, in place, if `norm` acts on weights.

    Args:
        conv: convolution with a parameter `weight`.
        norm: one of `CONV_NORMS`.

    Returns:
        The same module.

    Raises:
        ValueError: unknown norm.
    """
    check_norm(norm)
    if norm == 'weight_norm':
        parametrizations.weight_norm(conv)
    elif norm == 'spectral_norm':
        parametrizations.spectral_norm(conv)
    make_picklable(conv)
    return conv


def output_norm(
    channels: int, norm: str, norm_kwargs: Mapping[str, Any] | None = None, causal: bool = False
) -> nn.Module:
    """Create the layer after a convolution: a group norm or the identity.

    Args:
        channels: output channels of the convolution.
        norm: one of `CONV_NORMS`.
        norm_kwargs: arguments of `torch.nn.GroupNorm` other than groups and channels, such as
            `eps`.
        causal: whether the convolution must not see the future.

    Raises:
        ValueError: unknown norm, a norm that would break causality, or arguments that the norm does
            not accept.
    """
    kwargs = dict(norm_kwargs or {})
    check_norm(norm)
    if norm != 'time_group_norm':
        if kwargs:
            raise ValueError(
                f'norm={norm!r} takes no arguments, got {kwargs}: only time_group_norm takes any'
            )
        return nn.Identity()
    if causal:
        raise ValueError(
            "norm='time_group_norm' averages over all time, which a causal model must not see: "
            "use causal=False or norm='weight_norm'"
        )
    try:
        return nn.GroupNorm(1, channels, **kwargs)
    except TypeError as error:
        raise ValueError(
            f'arguments {kwargs} do not fit time_group_norm (torch.nn.GroupNorm): {error}'
        ) from error
