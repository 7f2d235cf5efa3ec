"""The loss balancer of EnCodec (arXiv 2210.13438, section 3.4)."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from audiocodec.utils.distrib import all_reduce_mean_, world_size


class Balancer(nn.Module):
    """Combines losses by their gradients at the output of the model, so that a weight is a share of
    the gradient.

    With g_i the gradient of loss i at the output and <.> an exponential moving average over the
    updates, the model gets

        G = sum_i R w_i / (sum_j w_j) g_i / <|g_i|>      with R the total norm

    (equation 5), so that the scale of a loss does not matter. Without `balance_grads`, G = sum_i
    w_i g_i.

    The averages are state, one buffer per loss, equal on every worker.

    Example:
        >>> balancer = Balancer({'l1': 1., 'l2': 3.})
        >>> wav_hat = torch.tensor([[0.5, -0.5]], requires_grad=True)
        >>> losses = {'l1': wav_hat.abs().mean(), 'l2': wav_hat.square().mean()}
        >>> effective_loss = balancer.backward(losses, wav_hat)
        >>> print(f'{wav_hat.grad.norm():.3f}')
        1.000

    Args:
        weights: weight of each loss, not negative, at least one positive.
        balance_grads: whether to rescale the gradients; if not, the weights multiply them as they
            are.
        total_norm: norm of the sum of the rescaled gradients, were they aligned (R).
        ema_decay: decay of the averages of the norms, in (0, 1]; 1: the mean over all calls.
        per_batch_item: whether the norm is averaged over the items of the batch and not taken over
            all of it.
        epsilon: added to the averages that divide.
        reference_batch_size: scale the gradient to that of a batch of so many items, whatever the
            batch of all workers holds. The rescaled gradient grows with the batch: with
            `per_batch_item` it is a sum of one of norm R for each item. A loss beside it, such as
            the commitment, is a mean over the items and does not, so that their ratio would follow
            the batch size. None: as the batch is, the definition of the paper.
        monitor: whether `metrics` holds, after a call, the share of each loss in the sum of the
            norms before rescaling, as `ratio_NAME`.

    Buffers:
        norm_NAME: [2], the decayed sum of the norms of the gradient of that loss, and of their
            number.

    Raises:
        ValueError: weights or figures out of range.
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
        super().__init__()
        _check_weights(weights)
        if not (total_norm > 0 and math.isfinite(total_norm)):
            raise ValueError(f'total_norm must be positive and finite, got {total_norm}.')
        if not 0 < ema_decay <= 1:
            raise ValueError(
                f'ema_decay must be in (0, 1] (1: the mean over all updates), got {ema_decay}.'
            )
        if not epsilon >= 0:
            raise ValueError(f'epsilon must not be negative, got {epsilon}.')
        if reference_batch_size is not None and reference_batch_size < 1:
            raise ValueError(
                f'reference_batch_size must be at least 1, or null, got {reference_batch_size}.'
            )
        self.weights = dict(weights)
        self.balance_grads = balance_grads
        self.total_norm = total_norm
        self.ema_decay = ema_decay
        self.per_batch_item = per_batch_item
        self.epsilon = epsilon
        self.reference_batch_size = reference_batch_size
        self.monitor = monitor
        self.metrics: dict[str, torch.Tensor] = {}
        for name in self.weights:
            self.register_buffer(f'norm_{name}', torch.zeros(2))

    def backward(
        self,
        losses: Mapping[str, torch.Tensor],
        input: torch.Tensor,
        beside: torch.Tensor | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> torch.Tensor:
        """Send the combined gradient of the losses through `input` into the model.

        Args:
            losses: scalar losses, each with a weight; a loss that is missing this time leaves the
                balance of the others as it is. The same names on every worker. They are detached,
                in place: what they were computed from would otherwise stay in memory as long as
                they.
            input: what the losses depend on the model through, usually `wav_hat` [B, C, T].
            beside: a scalar, weighted loss that reaches the model without passing through `input`
                (the commitment loss). Its gradient is added as it is, in the same pass: the encoder
                is gone through once, not twice.
            shares: factors of the weights of some losses this time; 1 for the others. The averages
                do not depend on them.

        Returns:
            Scalar, the sum of the losses times the factors applied to their gradients; without
            graph.

        Raises:
            ValueError: a loss is unknown, not scalar, or does not depend on `input`.
        """
        names = self._check_losses(losses, input)
        # Within autocast, even the backward of what was computed in float32 would run in half
        # precision.
        with torch.autocast(input.device.type, enabled=False):
            grads = [_gradient(name, losses[name], input) for name in names]
        for loss in losses.values():
            if not loss._is_view():
                # lets go of its graph, and of what it holds, before the model's own backward
                loss.detach_()
        averages = self._averaged_norms(names, grads)
        self.metrics = {}
        if self.monitor:
            self.metrics = {
                f'ratio_{name}': ratio for name, ratio in zip(names, averages / averages.sum())
            }

        weights = {name: self.weights[name] * (shares or {}).get(name, 1.0) for name in names}
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
        roots, root_grads = [input], [total_grad.to(input.dtype)]
        if beside is not None and beside.requires_grad:
            roots, root_grads = [*roots, beside], [*root_grads, torch.ones_like(beside)]
        torch.autograd.backward(roots, root_grads)
        return effective_loss

    def _batch_factor(self, batch_size: int) -> float:
        """What brings the rescaled gradient of a worker's batch to that of `reference_batch_size`
        items.

        Beside a loss that is a mean over N items, a sum of N gradients of norm R each is N times as
        large as it would be for one item; a gradient of norm R over the whole batch, in which each
        item has R / sqrt(N), is sqrt(N) times as large.
        """
        if self.reference_batch_size is None:
            return 1.0
        ratio = self.reference_batch_size / (batch_size * world_size())
        return ratio if self.per_batch_item else math.sqrt(ratio)

    def _check_losses(self, losses: Mapping[str, torch.Tensor], input: torch.Tensor) -> list[str]:
        """Names of the losses in the order of the weights, equal on every worker."""
        for name, loss in losses.items():
            if name not in self.weights:
                raise ValueError(
                    f'the balancer has no weight for the loss {name!r}; it has weights for '
                    f'{", ".join(self.weights)}.'
                )
            if loss.numel() != 1:
                raise ValueError(
                    f'the loss {name!r} must be a scalar, got the shape {list(loss.shape)}: '
                    'average it.'
                )
        if sum(self.weights[name] for name in losses) <= 0:
            raise ValueError(
                'the balancer needs at least one loss with a positive weight, got '
                f'{sorted(losses)}.'
            )
        if not input.requires_grad:
            raise ValueError(
                'the input of the balancer does not require grad: it must be the output of a model '
                'in '
                'training, neither detached nor computed under no_grad.'
            )
        if self.per_batch_item and input.dim() < 2:
            raise ValueError(
                f'per_batch_item needs an input of shape [B, ...], got {list(input.shape)}.'
            )
        return [name for name in self.weights if name in losses]

    def _averaged_norms(self, names: list[str], grads: list[torch.Tensor]) -> torch.Tensor:
        """Fold the norms of the gradients into the averages and return these, [len(names)]."""
        # Norms of the gradients that the losses of the whole batch, of all workers, would have: a
        # mean over N times the items has an Nth of the gradient at each. So the state and the
        # update are those of one worker with that batch.
        workers = world_size()
        if self.per_batch_item:
            norms = (
                torch.stack(
                    [torch.linalg.vector_norm(grad.flatten(1), dim=1).mean() for grad in grads]
                )
                / workers
            )
            all_reduce_mean_([norms])
        else:
            squares = torch.stack([grad.square().sum() for grad in grads]) / workers
            all_reduce_mean_([squares])
            norms = squares.sqrt()
        buffers = [self.get_buffer(f'norm_{name}') for name in names]
        previous = torch.stack(buffers)
        updated = previous * self.ema_decay + torch.stack([norms, torch.ones_like(norms)], dim=-1)
        # One NaN must not stay in the averages for ever: the caller skips that update, and so do
        # they. All of them: of a broken output some losses have a finite gradient.
        updated = torch.where(norms.isfinite().all(), updated, previous)
        torch._foreach_copy_(buffers, list(updated.unbind()))
        return updated[:, 0] / updated[:, 1]


def _gradient(name: str, loss: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """Gradient of one loss at `input`, in float32. The graph is kept: losses share parts of it."""
    grad = None
    if loss.requires_grad:
        (grad,) = torch.autograd.grad(loss, [input], retain_graph=True, allow_unused=True)
    if grad is None:
        raise ValueError(
            f'the loss {name!r} does not depend on the input of the balancer, so it has no '
            'gradient to '
            'balance: compute it from that very tensor, or leave it out.'
        )
    return grad.float()


def _check_weights(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f'the weight of the loss {name!r} must be finite and not negative, got {weight}.'
            )
        if not name or '.' in name:
            raise ValueError(
                'the name of a loss must not be empty nor hold a dot (it names a buffer), got '
                f'{name!r}.'
            )
    if not sum(weights.values()) > 0:
        raise ValueError(
            f'the balancer needs at least one loss with a positive weight, got {dict(weights)}.'
        )
