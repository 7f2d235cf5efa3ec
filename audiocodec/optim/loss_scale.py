"""Loss scaling for gradients in float16 (Micikevicius et al., arXiv 1710.03740, section 3.2)."""

from collections.abc import Mapping, Sequence

import torch


class LossScale:
    """No scaling, for gradients in float32 or bfloat16."""

    def scaled(self, value: torch.Tensor) -> torch.Tensor:
        """Multiply a loss, or a gradient that enters a module, by the scale."""
        return value

    def unscale_(self, gradients: Sequence[torch.Tensor]) -> None:
        """Divide gradients of scaled losses by the scale, in place."""


class DynamicLossScale(LossScale):
    """Scale that is halved when gradients overflow, and doubled after many that did not.

    Small gradients are zero in float16, and large ones infinite. All decisions are made on the
    device, without the reads of `torch.amp.GradScaler`.

    Args:
        device: device of the gradients.
        initial: first scale.
        growth_interval: updates without overflow until the scale is doubled.
        largest: the scale is not doubled beyond.
    """

    def __init__(
        self,
        device: torch.device | str = 'cpu',
        initial: float = 2.0**16,
        growth_interval: int = 2000,
        largest: float = 2.0**24,
    ) -> None:
        self.growth_interval = growth_interval
        self.largest = largest
        self.scale = torch.full((), initial, device=device)
        self.good = torch.zeros((), dtype=torch.int64, device=device)  # updates since a change

    def scaled(self, value: torch.Tensor) -> torch.Tensor:
        """See `LossScale.scaled`."""
        return value * self.scale

    def unscale_(self, gradients: Sequence[torch.Tensor]) -> None:
        """See `LossScale.unscale_`. Exact: scales are powers of two."""
        if gradients:
            torch._foreach_mul_(list(gradients), self.scale.reciprocal())

    def update(self, ok: torch.Tensor) -> torch.Tensor:
        """Adapt the scale to whether the gradients were finite, 0-d, boolean.

        Returns:
            0-d, boolean: whether the scale was too large. A scale of 1 is never: gradients that are
            not finite are then the losses' own.
        """
        overflow = ~ok & (self.scale > 1)
        good = torch.where(ok, self.good + 1, 0)
        grows = good >= self.growth_interval
        factor = torch.where(grows, 2.0, torch.where(overflow, 0.5, 1.0))
        self.scale.copy_((self.scale * factor).clamp(1, self.largest))
        self.good.copy_(torch.where(grows, 0, good))
        return overflow

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the scale and the number of updates since it has changed."""
        return {'scale': self.scale.clone(), 'good': self.good.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore a `state_dict`."""
        self.scale.copy_(state['scale'])
        self.good.copy_(state['good'])


NO_SCALE = LossScale()


class LossScales:
    """Scales of the model and of the discriminators, whose gradients differ by orders of magnitude.

    Args:
        device: device of the gradients; None for no scaling.

    Attributes:
        model: scale of the gradients that pass through the model.
        adversaries: scale of those that pass through the discriminators.
    """

    def __init__(self, device: torch.device | None) -> None:
        self.model, self.adversaries = NO_SCALE, NO_SCALE
        if device is not None:
            self.model, self.adversaries = DynamicLossScale(device), DynamicLossScale(device)

    def update(
        self,
        grad_norm: torch.Tensor | None,
        d_grad_norm: torch.Tensor | None,
        wav_ok: torch.Tensor | None = None,
        loss: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Adapt the scales after an update; all values are the same on every worker.

        Args:
            grad_norm: 0-d, of the model's gradient; None if it did not train.
            d_grad_norm: 0-d, of the discriminators' gradient; None if they did not train.
            wav_ok: 0-d, boolean: whether the gradients at the reconstruction were finite; those of
                the adversarial losses pass through the discriminators.
            loss: 0-d; if it is not finite, the scales are not the reason, and stay.

        Returns:
            `loss_scale` and `d_loss_scale` of this update, and `overflow`, 0-d, boolean: whether it
            was skipped only because a scale was too large. Empty without scaling.
        """
        if not isinstance(self.model, DynamicLossScale):
            return {}
        assert isinstance(self.adversaries, DynamicLossScale)
        metrics = {
            'loss_scale': self.model.scale.clone(),
            'd_loss_scale': self.adversaries.scale.clone(),
        }
        yes = torch.ones_like(self.model.good, dtype=torch.bool)
        wav_ok = yes if wav_ok is None else wav_ok
        lost = ~yes if loss is None else ~loss.isfinite()
        ok = lost | ~wav_ok | (yes if grad_norm is None else grad_norm.isfinite())
        d_ok = lost | (wav_ok & (yes if d_grad_norm is None else d_grad_norm.isfinite()))
        metrics['overflow'] = self.model.update(ok) | self.adversaries.update(d_ok)
        return metrics

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the state of the scales; empty without any."""
        scales = {'model': self.model, 'adversaries': self.adversaries}
        return {
            name: scale.state_dict()
            for name, scale in scales.items()
            if isinstance(scale, DynamicLossScale)
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Restore a `state_dict`."""
        for name, values in state.items():
            getattr(self, name).load_state_dict(values)
