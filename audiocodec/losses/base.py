"""Base classes: of losses on a codec's whole output, and of what combines losses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from audiocodec.optim.loss_scale import NO_SCALE, LossScale


class CodecLoss(nn.Module, ABC):
    """Loss on the whole output of a codec, such as a distillation of its latents.

    It is called as `loss(output, wav)` instead of `loss(wav_hat, wav)`. Its gradient does not pass
    through the waveform alone, so the balancer does not rescale it: its weight in the recipe
    multiplies it, as it does for the losses of a quantizer. Its parameters that require a gradient
    are trained with those of the codec and are part of a checkpoint. (Those of other losses are
    neither.) Keep a frozen network out of the state dict, e.g. in a list.
    """

    @abstractmethod
    def forward(self, output: Any, wav: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            output: an `audiocodec.models.CodecOutput`.
            wav: the original, float [B, C, T].

        Returns:
            Scalar, 0-d.
        """


class LossCombiner(nn.Module, ABC):
    """Combines losses on the output of a model and backpropagates them into it.

    Args:
        weights: weight of each loss; not negative, and at least one positive.

    Attributes:
        weights: as given.
        metrics: 0-d tensors of the latest call, for the log.
        finite: 0-d, boolean: whether the gradients of the last call were finite on every worker.
        loss_scale: scale of the gradient that enters the model, for float16.

    Raises:
        ValueError: a weight is out of range.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        _check_weights(weights)
        self.weights = dict(weights)
        self.metrics: dict[str, torch.Tensor] = {}
        self.finite = torch.ones((), dtype=torch.bool)
        self.loss_scale: LossScale = NO_SCALE

    @property
    def sum_weights(self) -> Mapping[str, float] | None:
        """The weights, if the losses are only added up; None if each gradient is needed."""
        return None

    @abstractmethod
    def backward(
        self,
        losses: Mapping[str, torch.Tensor],
        input: torch.Tensor,
        extra_loss: torch.Tensor | None = None,
        weight_factors: Mapping[str, float] | None = None,
    ) -> torch.Tensor:
        """Backpropagate the combined gradient of the losses through `input` into the model.

        Args:
            losses: scalar losses, each with a weight, the same names on every worker. Losses may be
                missing. All are detached in place, as their graphs would otherwise stay in memory
                as long as the losses.
            input: output of the model from which the losses are computed, usually `wav_hat`
                [B, C, T].
            extra_loss: scalar, weighted loss whose gradient does not pass through `input` alone
                (the commitment loss). Its gradient is added unchanged in the same backward pass, so
                that the encoder is traversed only once.
            weight_factors: factors for the weights of some losses in this call; 1 for the others.

        Returns:
            Scalar without graph: the sum of the losses, each times the factor applied to its
            gradient.

        Raises:
            ValueError: a loss is unknown, not scalar, or does not depend on `input`.
        """

    def _check_losses(self, losses: Mapping[str, torch.Tensor], input: torch.Tensor) -> list[str]:
        """Check the losses; return their names in the order of the weights, as on every worker."""
        for name, loss in losses.items():
            if name not in self.weights:
                raise ValueError(
                    f'the balancer has no weight for the loss {name!r}: it has weights for '
                    f'{", ".join(self.weights)}'
                )
            if loss.numel() != 1:
                raise ValueError(
                    f'the loss {name!r} must be a scalar, got the shape {list(loss.shape)}: '
                    'average it'
                )
        if sum(self.weights[name] for name in losses) <= 0:
            raise ValueError(
                f'the balancer needs at least one loss with a positive weight, got {sorted(losses)}'
            )
        if not input.requires_grad:
            raise ValueError(
                'the input of the balancer does not require grad: pass the output of a model in '
                'training, neither detached nor computed under no_grad'
            )
        return [name for name in self.weights if name in losses]


def detach_losses(losses: Mapping[str, torch.Tensor]) -> None:
    """Free the graphs of losses, before the backward pass of the model.

    Views cannot be detached in place.
    """
    for loss in losses.values():
        if not loss._is_view():
            loss.detach_()


def backward_from(
    input: torch.Tensor,
    gradient: torch.Tensor,
    extra_loss: torch.Tensor | None,
    loss_scale: LossScale = NO_SCALE,
) -> None:
    """Backpropagate the gradient at `input` and an extra loss, in one pass, both scaled."""
    roots = [input]
    gradients = [loss_scale.scaled(gradient).to(input.dtype)]
    if extra_loss is not None and extra_loss.requires_grad:
        roots.append(extra_loss)
        gradients.append(loss_scale.scaled(torch.ones_like(extra_loss)))
    torch.autograd.backward(roots, gradients)


def _check_weights(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f'the weight of the loss {name!r} must be finite and not negative, got {weight}'
            )
        if not name or '.' in name:
            raise ValueError(
                'the name of a loss must not be empty or contain a dot (it names a buffer), got '
                f'{name!r}'
            )
    if not sum(weights.values()) > 0:
        raise ValueError(
            f'the balancer needs at least one loss with a positive weight, got {dict(weights)}'
        )
