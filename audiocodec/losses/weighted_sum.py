"""Plain weighted sum of losses, in place of a balancer."""

import math
from collections.abc import Mapping

import torch
from torch import nn


class WeightedSum(nn.Module):
    """Multiplies each loss by its weight and backpropagates the sum, as most codecs are trained.

    It is called like `Balancer`, which rescales the gradients. The gradients of all losses pass
    through the graph once, in a single backward pass.

    Example:
        >>> wav_hat = torch.tensor([[0.5, -0.5]], requires_grad=True)
        >>> losses = {'l1': wav_hat.abs().mean(), 'l2': wav_hat.square().mean()}
        >>> effective_loss = WeightedSum({'l1': 1., 'l2': 3.}).backward(losses, wav_hat)
        >>> print(effective_loss, wav_hat.grad)
        tensor(1.2500) tensor([[ 2., -2.]])

    Args:
        weights: weight of each loss; not negative, and at least one positive.
        monitor: whether to store in `metrics`, at each call, the fraction of each weighted loss in
            their sum, as `ratio_NAME`. (The fractions of the balancer are of gradients.)

    Raises:
        ValueError: a weight is out of range.
    """

    def __init__(self, weights: Mapping[str, float], monitor: bool = False) -> None:
        super().__init__()
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f'the weight of the loss {name!r} must be finite and not negative, got {weight}'
                )
        if not sum(weights.values()) > 0:
            raise ValueError(
                f'at least one loss with a positive weight is needed, got {dict(weights)}'
            )
        self.weights = dict(weights)
        self.monitor = monitor
        self.metrics: dict[str, torch.Tensor] = {}

    def backward(
        self,
        losses: Mapping[str, torch.Tensor],
        input: torch.Tensor,
        extra_loss: torch.Tensor | None = None,
        weight_factors: Mapping[str, float] | None = None,
    ) -> torch.Tensor:
        """Backpropagate the weighted sum of the losses into the model.

        Args:
            losses: scalar losses, each with a weight; some may be missing. All are detached in
                place, as their graphs would otherwise stay in memory as long as the losses.
            input: output of the model from which the losses are computed, usually `wav_hat`
                [B, C, T].
            extra_loss: scalar, weighted loss to add.
            weight_factors: factors for the weights of some losses in this call; 1 for the others.

        Returns:
            Scalar without graph: the weighted sum of the losses, without `extra_loss`.

        Raises:
            ValueError: a loss is unknown, not scalar, or has no gradient.
        """
        self._check(losses, input)
        factors = weight_factors or {}
        terms = {
            name: loss.float().reshape(()) * (self.weights[name] * factors.get(name, 1.0))
            for name, loss in losses.items()
        }
        total = torch.stack(list(terms.values())).sum()
        effective_loss = total.detach()
        self.metrics = {}
        if self.monitor:
            self.metrics = {
                f'ratio_{name}': term.detach() / effective_loss for name, term in terms.items()
            }
        if extra_loss is not None and extra_loss.requires_grad:
            total = total + extra_loss
        del terms
        # Under autocast, the backward pass of float32 operations would run in half precision, too.
        with torch.autocast(input.device.type, enabled=False):
            total.backward()
        for loss in losses.values():
            if not loss._is_view():  # views cannot be detached in place
                loss.detach_()
        return effective_loss

    def _check(self, losses: Mapping[str, torch.Tensor], input: torch.Tensor) -> None:
        for name, loss in losses.items():
            if name not in self.weights:
                raise ValueError(
                    f'there is no weight for the loss {name!r}, only for {", ".join(self.weights)}'
                )
            if loss.numel() != 1:
                raise ValueError(
                    f'the loss {name!r} must be a scalar, got the shape {list(loss.shape)}: '
                    'average it'
                )
            if not loss.requires_grad:
                raise ValueError(
                    f'the loss {name!r} does not depend on the output of the model: compute it '
                    'from that tensor, or leave it out'
                )
        if not losses:
            raise ValueError('there are no losses to backpropagate')
        if not input.requires_grad:
            raise ValueError(
                'the input does not require grad: pass the output of a model in training, neither '
                'detached nor computed under no_grad'
            )
