"""Adversarial criteria, and feature matching."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Criterion(NamedTuple):
    """What a set of logits costs the generator, or the discriminator; each maps logits of any shape
    to a scalar.

    Attributes:
        generator: on the logits of fake audio, for the generator.
        real: on the logits of real audio, for the discriminator.
        fake: on the logits of fake audio, for the discriminator.
        boundary: logit above which the discriminator takes audio for real.
    """

    generator: Callable[[torch.Tensor], torch.Tensor]
    real: Callable[[torch.Tensor], torch.Tensor]
    fake: Callable[[torch.Tensor], torch.Tensor]
    boundary: float


def _wide(values: torch.Tensor) -> torch.Tensor:
    """Values in float32 at least: half precision is not enough for means."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _above(logits: torch.Tensor) -> torch.Tensor:
    """Mean shortfall from 1."""
    return F.relu(1 - _wide(logits)).mean()


def _below(logits: torch.Tensor) -> torch.Tensor:
    """Mean excess over -1."""
    return F.relu(1 + _wide(logits)).mean()


def _linear(logits: torch.Tensor) -> torch.Tensor:
    return -_wide(logits).mean()


def _near_one(logits: torch.Tensor) -> torch.Tensor:
    return (_wide(logits) - 1).square().mean()


def _near_zero(logits: torch.Tensor) -> torch.Tensor:
    return _wide(logits).square().mean()


# Hinge: Lim and Ye, arXiv 1705.02894; hinge2 stops rewarding the generator beyond the margin too.
# Mean square: least squares GAN, Mao et al., arXiv 1611.04076.
CRITERIA = {
    'hinge': Criterion(generator=_linear, real=_above, fake=_below, boundary=0.0),
    'hinge2': Criterion(generator=_above, real=_above, fake=_below, boundary=0.0),
    'mse': Criterion(generator=_near_one, real=_near_one, fake=_near_zero, boundary=0.5),
}


def get_criterion(name: str) -> Criterion:
    """Look up a criterion by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in CRITERIA:
        raise ValueError(
            f'adversarial criterion {name!r} is unknown: choose one of {", ".join(CRITERIA)}.'
        )
    return CRITERIA[name]


class _L1(torch.autograd.Function):
    """Mean absolute difference, as `torch.nn.L1Loss`, for large maps in any memory format.

    There, the gradient of the mean is written out in the default format: in channels-last maps,
    that costs more than all the rest. Here the signs are kept, in the format of the maps and a byte
    each, and scaled.
    """

    @staticmethod
    def forward(ctx: Any, estimate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        difference = estimate - reference
        value = difference.abs().mean()
        ctx.save_for_backward(difference.sign_().to(torch.int8))
        return value

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        (sign,) = ctx.saved_tensors
        scaled = sign * (gradient / sign.numel())
        return (scaled if ctx.needs_input_grad[0] else None), (
            -scaled if ctx.needs_input_grad[1] else None
        )


class FeatureMatchingLoss(nn.Module):
    """Distance between the feature maps of a (sub-)discriminator for fake and for real audio (arXiv
    1512.09300).

    Args:
        loss: of two maps of one shape; by default their mean absolute difference.
        normalize: average over the layers instead of summing.
    """

    def __init__(self, loss: nn.Module | None = None, normalize: bool = True) -> None:
        super().__init__()
        self.loss = loss
        self.normalize = normalize

    def forward(self, fake: Sequence[torch.Tensor], real: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compare the maps of all layers; each argument holds one map of any shape per layer.
        Returns a scalar.
        """
        assert len(fake) == len(real) > 0, (len(fake), len(real))
        distance = _L1.apply if self.loss is None else self.loss
        with torch.autocast(fake[0].device.type, enabled=False):
            losses = [
                distance(_wide(estimate), _wide(reference))
                for estimate, reference in zip(fake, real)
            ]
            total = torch.stack(losses).sum()
        return total / len(losses) if self.normalize else total
