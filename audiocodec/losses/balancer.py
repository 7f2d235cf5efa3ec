"""Loss balancer of EnCodec (arXiv 2210.13438, section 3.4)."""

import math
from collections.abc import Mapping

import torch

from audiocodec.losses.base import LossCombiner, backward_from, detach_losses
from audiocodec.utils.distrib import all_reduce_mean_, world_size


class Balancer(LossCombiner):
    """Rescales the gradients of losses so that each weight is a fraction of the total gradient.

    With g_i the gradient of loss i at the output of the model and <.> an exponential moving average
    over the updates, the gradient passed to the model is

        G = sum_i R w_i / (sum_j w_j) g_i / <|g_i|>      with R the total norm

    (equation 5), which does not depend on the scales of the losses. Without `balance_grads`,
    G = sum_i w_i g_i.

    The averages are part of the state, one buffer per loss, with the same values on every worker.

    Example:
        >>> balancer = Balancer({'l1': 1., 'l2': 3.})
        >>> wav_hat = torch.tensor([[0.5, -0.5]], requires_grad=True)
        >>> losses = {'l1': wav_hat.abs().mean(), 'l2': wav_hat.square().mean()}
        >>> effective_loss = balancer.backward(losses, wav_hat)
        >>> print(f'{wav_hat.grad.norm():.3f}')
        1.000

    Args:
        weights: weight of each loss; not negative, and at least one positive.
        balance_grads: whether to rescale the gradients; otherwise they are only multiplied by the
            weights.
        total_norm: norm R of the sum of the rescaled gradients if they were aligned.
        ema_decay: decay of the averages of the norms, in (0, 1]; 1: the mean over all calls.
        per_batch_item: whether to average the norms of the items instead of taking one norm over
            the whole batch.
        epsilon: added to the averages in denominators.
        reference_batch_size: scale the gradient to that of a batch of this size, for any number of
            items on all workers. The rescaled gradient grows with the batch: with `per_batch_item`
            it is the sum of a gradient of norm R per item. An extra loss such as the commitment is
            a mean over the items and does not grow, so that their ratio would depend on the batch
            size. None: no scaling, as defined in the paper.
        monitor: whether to store in `metrics`, at each call, the fraction of each loss in the sum
            of the norms before rescaling, as `ratio_NAME`.

    Attributes:
        metrics: see `monitor`.
        finite: 0-d, boolean: whether the gradients of the last call were finite on every worker.
        loss_scale: scale of the gradient that enters the model, for float16.

    Buffers:
        norm_NAME: [2], decayed sum of the gradient norms of the loss, and of their number.

    Raises:
        ValueError: a weight or another argument out of range.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        balance_grads: bool = True,
        total_norm: float = 1.0,
        ema_decay: float = 0.999,
        per_batch_item: bool = True,
        epsilon: float = 1e-12,
        monitor: bool = False,
        reference_batch_size: int | None = None,
    ) -> None:
        super().__init__(weights)
        if not (total_norm > 0 and math.isfinite(total_norm)):
            raise ValueError(f'total_norm must be positive and finite, got {total_norm}')
        if not 0 < ema_decay <= 1:
            raise ValueError(
                f'ema_decay must be in (0, 1] (1: the mean over all updates), got {ema_decay}'
            )
        if not epsilon >= 0:
            raise ValueError(f'epsilon must not be negative, got {epsilon}')
        if reference_batch_size is not None and reference_batch_size < 1:
            raise ValueError(
                f'reference_batch_size must be at least 1, or null, got {reference_batch_size}'
            )
        self.balance_grads = balance_grads
        self.total_norm = total_norm
        self.ema_decay = ema_decay
        self.per_batch_item = per_batch_item
        self.epsilon = epsilon
        self.reference_batch_size = reference_batch_size
        self.monitor = monitor
        for name in self.weights:
            self.register_buffer(f'norm_{name}', torch.zeros(2))

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
                missing; the others keep their balance. All are detached in place, as their graphs
                would otherwise stay in memory as long as the losses.
            input: output of the model from which the losses are computed, usually `wav_hat`
                [B, C, T].
            extra_loss: scalar, weighted loss whose gradient does not pass through `input` (the
                commitment loss). Its gradient is added unchanged in the same backward pass, so that
                the encoder is traversed only once.
            weight_factors: factors for the weights of some losses in this call; 1 for the others.
                They do not affect the averages.

        Returns:
            Scalar without graph: the sum of the losses, each times the factor applied to its
            gradient.

        Raises:
            ValueError: a loss is unknown, not scalar, or does not depend on `input`.
        """
        names = self._check_losses(losses, input)
        # Under autocast, the backward pass of float32 operations would run in half precision, too.
        with torch.autocast(input.device.type, enabled=False):
            grads = [_gradient(name, losses[name], input) for name in names]
        detach_losses(losses)
        averages = self._averaged_norms(names, grads)
        self.metrics = {}
        if self.monitor:
            ratios = averages / averages.sum()
            self.metrics = {f'ratio_{name}': ratio for name, ratio in zip(names, ratios)}

        factors = weight_factors or {}
        weights = {name: self.weights[name] * factors.get(name, 1.0) for name in names}
        total_weight = sum(weights.values())
        total_norm = self.total_norm * self._batch_factor(input.shape[0])
        total_grad = torch.zeros_like(grads[0])
        effective_loss = torch.zeros_like(averages[0])
        for name, grad, average in zip(names, grads, averages):
            scale = torch.full_like(average, weights[name])
            if self.balance_grads:
                scale = weights[name] / total_weight * total_norm / (self.epsilon + average)
            total_grad.addcmul_(grad, scale)
            effective_loss += scale * losses[name].detach()
        backward_from(input, total_grad, extra_loss, self.loss_scale)
        return effective_loss

    def _batch_factor(self, batch_size: int) -> float:
        """Return the factor that scales the rescaled gradient to `reference_batch_size` items.

        Relative to a loss that is a mean over N items, a sum of N gradients of norm R each is N
        times as large as for one item. A gradient of norm R over the whole batch, in which each
        item has R / sqrt(N), is sqrt(N) times as large.
        """
        if self.reference_batch_size is None:
            return 1.0
        ratio = self.reference_batch_size / (batch_size * world_size())
        return ratio if self.per_batch_item else math.sqrt(ratio)

    def _check_losses(self, losses: Mapping[str, torch.Tensor], input: torch.Tensor) -> list[str]:
        """Check the losses; return their names in the order of the weights, as on every worker."""
        names = super()._check_losses(losses, input)
        if self.per_batch_item and input.dim() < 2:
            raise ValueError(
                f'per_batch_item needs an input of shape [B, ...], got {list(input.shape)}'
            )
        return names

    def _averaged_norms(self, names: list[str], grads: list[torch.Tensor]) -> torch.Tensor:
        """Update the averages with the norms of the gradients and return them, [len(names)]."""
        # The norms are those of losses over the global batch of all workers, so that state and
        # update equal those of one worker with that batch: a mean over N times as many items has
        # 1 / N of the gradient at each item.
        workers = world_size()
        if self.per_batch_item:
            item_norms = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads]
            norms = torch.stack([norm.mean() for norm in item_norms]) / workers
            all_reduce_mean_([norms])
        else:
            # Only squared norms can be summed over the workers.
            squares = torch.stack([grad.square().sum() for grad in grads]) / workers
            all_reduce_mean_([squares])
            norms = squares.sqrt()
        buffers = [self.get_buffer(f'norm_{name}') for name in names]
        previous = torch.stack(buffers)
        updated = previous * self.ema_decay + torch.stack([norms, torch.ones_like(norms)], dim=-1)
        # A NaN would stay in the averages forever. The caller skips an update that is not finite;
        # the averages skip it, too, all of them: some losses of a broken output may have finite
        # gradients.
        self.finite = norms.isfinite().all()
        updated = torch.where(self.finite, updated, previous)
        torch._foreach_copy_(buffers, list(updated.unbind()))
        # The number is at least 1, except before the first finite norms.
        return updated[:, 0] / updated[:, 1].clamp(min=1)


def _gradient(name: str, loss: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a loss at `input` in float32; keep the graph, which losses share."""
    grad = None
    if loss.requires_grad:
        (grad,) = torch.autograd.grad(loss, [input], retain_graph=True, allow_unused=True)
    if grad is None:
        raise ValueError(
            f'the loss {name!r} does not depend on the input of the balancer: compute it from '
            'that tensor, or leave it out'
        )
    return grad.float()
