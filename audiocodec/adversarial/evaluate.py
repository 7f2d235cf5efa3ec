"""Evaluation of discriminators with one sub-discriminator's feature maps in memory at a time."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from audiocodec.adversarial.discriminators import MultiDiscriminator
from audiocodec.optim.accumulate import same_state
from audiocodec.optim.loss_scale import NO_SCALE, LossScale

Outputs = Iterator[tuple[torch.Tensor, list[torch.Tensor]]]


def forward_each(discriminator: nn.Module, wav: torch.Tensor) -> tuple[int, Outputs]:
    """Run a discriminator on audio [B, C, T].

    The sub-discriminators of a `MultiDiscriminator` run one at a time, when the iterator reaches
    them. Other discriminators run as a whole.

    Returns:
        The number of sub-discriminators, and the logits and feature maps of each, in the order of
        computation (`MultiDiscriminator.order`).
    """
    if isinstance(discriminator, MultiDiscriminator):
        return discriminator.num_discriminators, discriminator.forward_each(wav)
    logits, features = discriminator(wav)
    return len(logits), zip(logits, features)


def logits_of_pair(
    discriminator: nn.Module, fake: torch.Tensor, real: torch.Tensor
) -> tuple[int, Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Compute the logits of fake and real audio, [B, C, T] both.

    Both are computed in one batch, unless batch norms would mix their statistics.

    Returns:
        The number of sub-discriminators, and the fake and real logits of each, as `forward_each`.
    """
    if any(isinstance(module, _BatchNorm) for module in discriminator.modules()):
        number, fake_outputs = forward_each(discriminator, fake)
        _, real_outputs = forward_each(discriminator, real)
        return number, zip(_logits(fake_outputs), _logits(real_outputs))
    number, outputs = forward_each(discriminator, torch.cat([fake, real]))
    return number, _halves(_logits(outputs))


# The generators below drop their references to one output before they compute the next, since it
# would stay in memory meanwhile.


def _logits(outputs: Outputs) -> Iterator[torch.Tensor]:
    for logits, features in outputs:
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
    """Yield the feature maps of each sub-discriminator for real audio [B, C, T], without graph."""
    with torch.no_grad():
        _, outputs = forward_each(discriminator, real)
    while True:
        # The mode must not leak into the caller between two yields.
        with torch.no_grad():
            current = [features for _, features in itertools.islice(outputs, 1)]
        if not current:
            return
        yield current.pop()


def micro_batches(
    discriminator: nn.Module, fake: torch.Tensor, real: torch.Tensor, number: int
) -> Iterator[tuple[float, torch.Tensor, torch.Tensor]]:
    """Yield parts of a batch, for each of which the discriminator is in the same state.

    Args:
        discriminator: the discriminator that runs on them.
        fake: [B, C, T].
        real: [B, C, T].
        number: of parts.

    Yields:
        The part's fraction of the batch, and its items of `fake` and `real`.
    """
    if number == 1:
        yield 1.0, fake, real
        return
    pairs = zip(fake.chunk(number), real.chunk(number))
    for (fake_part, real_part), _ in zip(pairs, same_state(discriminator)):
        yield len(fake_part) / len(fake), fake_part, real_part


def weighted_mean(
    parts: Iterable[tuple[float, Mapping[str, torch.Tensor]]],
) -> dict[str, torch.Tensor]:
    """Average losses and metrics of parts, given with weights that add up to 1."""
    means: dict[str, torch.Tensor] = {}
    for weight, values in parts:
        for name, value in values.items():
            means[name] = means[name] + weight * value if name in means else weight * value
    return means


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Treat the parameters of a module as constants: compute and store no gradients of them."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def with_precomputed_gradients(
    losses: Mapping[str, torch.Tensor],
    leaf: torch.Tensor,
    source: torch.Tensor,
    weights: Mapping[str, float] | None = None,
    loss_scale: LossScale = NO_SCALE,
) -> dict[str, torch.Tensor]:
    """Replace the graph of losses by their gradients, computed now, so that it can be freed.

    Args:
        losses: scalars by name.
        leaf: detached copy of `source` from which the losses were computed.
        source: tensor that receives the gradients in the backward pass.
        weights: weights of the losses if only their weighted sum is needed, which takes a single
            backward pass. One of the losses then has the gradient of the sum.
        loss_scale: scale of the losses while gradients are computed.

    Returns:
        The same losses as functions of `source`.
    """
    found = {name: loss.detach() for name, loss in losses.items()}
    if weights is None:
        groups = [{name: 1.0} for name in losses]
    else:
        groups = [{name: weights[name] for name in losses if weights.get(name, 0.0) > 0}]
    for group in groups:
        terms = [weight * losses[name] for name, weight in group.items()]
        gradient = _gradient([term for term in terms if term.requires_grad], leaf, loss_scale)
        if gradient is not None:
            name, weight = next(iter(group.items()))
            found[name] = _PrecomputedGradient.apply(source, found[name], gradient / weight)
    return found


def _gradient(
    terms: Sequence[torch.Tensor], leaf: torch.Tensor, loss_scale: LossScale
) -> torch.Tensor | None:
    """Return the gradient of the sum of the terms; None if they do not depend on the leaf."""
    if not terms:
        return None
    # Under autocast, the backward pass of float32 operations would run in half precision, too. The
    # graph is retained because losses share parts of it.
    with torch.autocast(leaf.device.type, enabled=False):
        scaled = loss_scale.scaled(torch.stack(list(terms)).sum())
        (gradient,) = torch.autograd.grad(scaled, leaf, retain_graph=True, allow_unused=True)
    if gradient is not None:
        loss_scale.unscale_([gradient])
    return gradient


class _PrecomputedGradient(torch.autograd.Function):
    """Value with a given gradient with respect to a source."""

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
