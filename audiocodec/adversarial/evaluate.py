"""Discriminators one sub-discriminator at a time, so that the feature maps of only one are in
memory.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from audiocodec.adversarial.discriminators import MultiDiscriminator

Verdicts = Iterator[tuple[torch.Tensor, list[torch.Tensor]]]


def verdicts(discriminator: nn.Module, wav: torch.Tensor) -> tuple[int, Verdicts]:
    """Number of sub-discriminators, and what each says of wav [B, C, T]: logits, and feature maps.

    Each is asked when its turn comes, if the discriminator is a `MultiDiscriminator`; others are
    asked at once.
    """
    if isinstance(discriminator, MultiDiscriminator):
        return discriminator.num_discriminators, discriminator.verdicts(wav)
    logits, features = discriminator(wav)
    return len(logits), zip(logits, features)


def judge(
    discriminator: nn.Module, fake: torch.Tensor, real: torch.Tensor
) -> tuple[int, Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Number of sub-discriminators, and the logits of each for fake and for real audio, [B, C, T]
    both.

    In one pass, unless items of a batch share statistics.
    """
    if any(isinstance(module, _BatchNorm) for module in discriminator.modules()):
        number, of_fake = verdicts(discriminator, fake)
        _, of_real = verdicts(discriminator, real)
        return number, zip(_logits(of_fake), _logits(of_real))
    number, of_both = verdicts(discriminator, torch.cat([fake, real]))
    return number, _halves(_logits(of_both))


# Below, nothing may stay in a variable of a generator while it waits: the next maps are made
# meanwhile.


def _logits(said: Verdicts) -> Iterator[torch.Tensor]:
    for logits, features in said:
        del features
        yield logits
        del logits


def _halves(batches: Iterator[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for batch in batches:
        yield batch[: len(batch) // 2], batch[len(batch) // 2 :]
        del batch


def reference_features(
    discriminator: nn.Module, real: torch.Tensor
) -> Iterator[list[torch.Tensor]]:
    """Feature maps of each sub-discriminator for real audio [B, C, T], without graph."""
    with torch.no_grad():
        _, of_real = verdicts(discriminator, real)
    while True:
        with torch.no_grad():
            said = [features for _, features in itertools.islice(of_real, 1)]
        if not said:
            return
        yield said.pop()


def with_known_gradient(
    loss: torch.Tensor, leaf: torch.Tensor, source: torch.Tensor
) -> torch.Tensor:
    """The same loss as a function of `source`, its gradient computed now: its graph, large as it
    is, can go.

    Args:
        loss: a scalar.
        leaf: a copy of `source` without history, of which the loss was computed.
        source: where the gradient goes.
    """
    if not loss.requires_grad:
        return loss
    # Within autocast, even the backward of what was computed in float32 would run in half
    # precision. The graph is kept: losses share parts of it.
    with torch.autocast(leaf.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)
    return (
        loss.detach() if gradient is None else _KnownGradient.apply(source, loss.detach(), gradient)
    )


class _KnownGradient(torch.autograd.Function):
    """A value with a given gradient with respect to a source."""

    @staticmethod
    def forward(
        ctx: Any, source: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None
