"""Weighted sum of losses, in place of the balancer."""

from collections.abc import Mapping

import torch

from audiocodec.losses.base import LossCombiner, backward_from, detach_losses
from audiocodec.utils.distrib import all_reduce_mean_


class WeightedSum(LossCombiner):
    """Backpropagates the sum of the losses, each times its weight, as DAC does.

    Unlike a `Balancer`, it depends on the scales of the losses, and keeps no averages.

    Example:
        >>> combiner = WeightedSum({'l1': 2.})
        >>> wav_hat = torch.tensor([[0.5, -0.5]], requires_grad=True)
        >>> loss = combiner.backward({'l1': wav_hat.abs().mean()}, wav_hat)
        >>> print(loss, wav_hat.grad)
        tensor(1.) tensor([[ 1., -1.]])

    Args:
        weights: weight of each loss; not negative, and at least one positive.

    Raises:
        ValueError: a weight is out of range.
    """

    @property
    def sum_weights(self) -> Mapping[str, float]:
        """The weights; see `LossCombiner`."""
        return self.weights

    def backward(
        self,
        losses: Mapping[str, torch.Tensor],
        input: torch.Tensor,
        extra_loss: torch.Tensor | None = None,
        weight_factors: Mapping[str, float] | None = None,
    ) -> torch.Tensor:
        """Backpropagate the weighted sum; see `LossCombiner`."""
        names = self._check_losses(losses, input)
        factors = weight_factors or {}
        # Under autocast, the backward pass of float32 operations would run in half precision, too.
        with torch.autocast(input.device.type, enabled=False):
            terms = [self.weights[name] * factors.get(name, 1.0) * losses[name] for name in names]
            total = torch.stack([term.reshape(()) for term in terms]).sum()
            (gradient,) = torch.autograd.grad(total, [input], allow_unused=True)
        if gradient is None:
            raise ValueError(
                f'the losses {", ".join(names)} do not depend on the input of the balancer: '
                'compute them from that tensor, or leave them out'
            )
        detach_losses(losses)
        finite = gradient.isfinite().all().float()
        all_reduce_mean_([finite])
        self.finite = finite == 1
        backward_from(input, gradient, extra_loss, self.loss_scale)
        return total.detach()
