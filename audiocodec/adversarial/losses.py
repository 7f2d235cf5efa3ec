"""Adversarial losses and feature matching."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Criterion(NamedTuple):
    """Losses of generator and discriminator; each maps logits of any shape to a scalar.

    Attributes:
        generator: loss of the generator, from the logits of fake audio.
        real: loss of the discriminator, from the logits of real audio.
        fake: loss of the discriminator, from the logits of fake audio.
        boundary: logit above which audio is classified as real.
    """

    generator: Callable[[torch.Tensor], torch.Tensor]
    real: Callable[[torch.Tensor], torch.Tensor]
    fake: Callable[[torch.Tensor], torch.Tensor]
    boundary: float


def _to_float(values: torch.Tensor) -> torch.Tensor:
    """Convert to at least float32: half precision is not enough for means."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _hinge_real(logits: torch.Tensor) -> torch.Tensor:
    return F.relu(1 - _to_float(logits)).mean()


def _hinge_fake(logits: torch.Tensor) -> torch.Tensor:
    return F.relu(1 + _to_float(logits)).mean()


def _linear(logits: torch.Tensor) -> torch.Tensor:
    return -_to_float(logits).mean()


def _mse_real(logits: torch.Tensor) -> torch.Tensor:
    return (_to_float(logits) - 1).square().mean()


def _mse_fake(logits: torch.Tensor) -> torch.Tensor:
    return _to_float(logits).square().mean()


# Hinge: Lim and Ye, arXiv 1705.02894. With hinge2, the loss of the generator has the margin, too.
# MSE: least squares GAN, Mao et al., arXiv 1611.04076.
CRITERIA = {
    'hinge': Criterion(generator=_linear, real=_hinge_real, fake=_hinge_fake, boundary=0.0),
    'hinge2': Criterion(generator=_hinge_real, real=_hinge_real, fake=_hinge_fake, boundary=0.0),
    'mse': Criterion(generator=_mse_real, real=_mse_real, fake=_mse_fake, boundary=0.5),
}


def get_criterion(name: str) -> Criterion:
    """Look up a criterion by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in CRITERIA:
        raise ValueError(
            f'adversarial criterion {name!r} is unknown: choose one of {", ".join(CRITERIA)}'
        )
    return CRITERIA[name]


class _L1(torch.autograd.Function):
    """Mean absolute difference, like `torch.nn.L1Loss`, for large maps in any memory format.

    `torch.nn.L1Loss` expands the gradient of the mean in the default memory format, which takes
    more time than everything else for channels-last maps. Here the signs are saved, in the format
    of the maps and in one byte each, and scaled in the backward pass.
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
    """Distance between the feature maps of a (sub-)discriminator for fake and for real audio.

    See arXiv 1512.09300.

    Args:
        loss: distance of two maps of the same shape; by default the mean absolute difference.
        normalize: whether to average over the layers instead of summing.
    """

    def __init__(self, loss: nn.Module | None = None, normalize: bool = True) -> None:
        super().__init__()
        self.loss = loss
        self.normalize = normalize

    def forward(self, fake: Sequence[torch.Tensor], real: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the loss.

        Args:
            fake: one map of any shape per layer.
            real: maps of the same shapes.

        Returns:
            Scalar.
        """
        assert len(fake) == len(real) > 0, (len(fake), len(real))
        distance = _L1.apply if self.loss is None else self.loss
        # Under autocast, the distance would be averaged in half precision.
        with torch.autocast(fake[0].device.type, enabled=False):
            losses = [
                distance(_to_float(estimate), _to_float(reference))
                for estimate, reference in zip(fake, real)
            ]
            total = torch.stack(losses).sum()
        return total / len(losses) if self.normalize else total
