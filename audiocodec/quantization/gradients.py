"""Gradient estimators: how the gradient of quantized latents reaches the encoder."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

METHODS = ('straight_through', 'rotation')

# Vectors with a smaller norm have no direction to rotate.
_SMALLEST_NORM = 1e-6
# Unit vectors whose sum has a smaller norm are opposite; rounding determines its direction.
_SMALLEST_SUM = 1e-4


def check_method(gradient: str) -> None:
    """Raise ValueError if there is no such gradient estimator."""
    if gradient not in METHODS:
        raise ValueError(f'gradient={gradient}: expected one of {", ".join(METHODS)}')


def pass_gradient(
    quantized: torch.Tensor, latents: torch.Tensor, method: str = 'straight_through'
) -> torch.Tensor:
    """Return the values of `quantized`, with a gradient for `latents` alone.

    Args:
        quantized: float [B, D, T].
        latents: float [B, D, T], what was quantized.
        method: 'straight_through': the gradient is passed on unchanged (VQ-VAE, arXiv 1711.00937).
            'rotation': that of the rotation and rescaling, held constant, which maps every latent
            vector onto its quantized vector (arXiv 2410.06424, section 4.2), so that the angle
            between gradient and vector is kept. It is straight-through where a vector is zero, and
            the reflection onto the quantized vector where that is opposite.
    """
    if method == 'rotation':
        return _Rotation.apply(latents, quantized.detach())
    # Adding zeros that carry the gradient leaves the values exactly those of decode.
    return quantized.detach() + (latents - latents.detach())


class _Rotation(torch.autograd.Function):
    """Identity on `quantized`, whose backward pass is scale * transposed rotation."""

    @staticmethod
    def forward(ctx: Any, latents: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(latents, quantized)
        return quantized.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return s Rᵀ g, for R = I - 2 r rᵀ + 2 q eᵀ, with unit vectors e, q and r ~ e + q."""
        latents, quantized = ctx.saved_tensors
        norms = latents.norm(dim=1, keepdim=True)
        quantized_norms = quantized.norm(dim=1, keepdim=True)
        e = latents / norms.clamp(min=_SMALLEST_NORM)
        q = quantized / quantized_norms.clamp(min=_SMALLEST_NORM)
        middle = e + q
        length = middle.norm(dim=1, keepdim=True)
        # Without r, I + 2 q eᵀ = I - 2 e eᵀ reflects e onto the opposite q.
        r = torch.where(length > _SMALLEST_SUM, middle / length.clamp(min=_SMALLEST_SUM), 0)
        along_r = (r * grad).sum(1, keepdim=True)
        along_q = (q * grad).sum(1, keepdim=True)
        rotated = grad - 2 * along_r * r + 2 * along_q * e
        rotated *= quantized_norms / norms.clamp(min=_SMALLEST_NORM)
        too_short = torch.minimum(norms, quantized_norms) < _SMALLEST_NORM
        return torch.where(too_short, grad, rotated), None
