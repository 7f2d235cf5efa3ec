"""Adversaries of a generator: discriminators, their optimizer, schedule and losses."""

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from audiocodec.adversarial.discriminators import MultiDiscriminator
from audiocodec.adversarial.evaluate import judge, reference_features, verdicts, with_known_gradient
from audiocodec.adversarial.losses import Criterion, FeatureMatchingLoss, get_criterion
from audiocodec.modules.parametrizations import PicklableModule
from audiocodec.optim import advance
from audiocodec.optim.step import step_if
from audiocodec.utils import distrib

_EVERY_DRAWS = 0xD15C  # purpose of the draws among those made with the same seed
_ADAM = functools.partial(torch.optim.Adam, lr=3e-4, betas=(0.5, 0.9))
_L1_FEATURES = FeatureMatchingLoss()


class AdversarialTrainer(PicklableModule):
    """Discriminators that learn to tell real from fake audio, and the losses they give to the
    generator.

    One update of the generator is one call of `train_step` and then one of `generator_losses`.
    Everything that shapes the next update is in the state dict: discriminators, optimizer, number
    of updates. With several workers, each brings a batch of the same size, gradients are averaged,
    and the discriminators stay equal if they start equal (`broadcast`).

    Args:
        discriminators: by name; each maps [B, C, T] to (logits per sub-discriminator, lists of
            feature maps). With none at all, there is nothing to train, and no loss.
        optimizer: makes the optimizer of all discriminators from their parameters, such as
            `functools.partial(torch.optim.Adam, lr=3e-4, betas=(0.5, 0.9))`, the default.
        criterion: name in `CRITERIA`, or a `Criterion`.
        feature_loss: of the feature maps (fake, real) of a sub-discriminator; None for no feature
            matching.
        normalize: average losses over the sub-discriminators instead of summing.
        every: train the discriminators once in so many updates: a whole number is a period; any
            other is a mean, each update being drawn with probability 1 / every.
        start: updates before the discriminators exist for training and generator.
        warmup: updates in which the discriminators, where they start afresh beside a generator that
            is trained, train alone, so that it does not follow what they do not know yet, and as
            many again in which it learns to follow them: after a `start` above 0, or after
            `meet_trained_generator`. See `alone` and `share`.
        max_norm: clip the L2 norm of the gradient of all discriminators together; None for no
            clipping.
        lr_ratio: multiplies the optimizer's learning rate: below 1, the discriminators learn slower
            than the generator whose rate they are configured with.
        seed: of the draws of `every`.
        schedule: makes the schedule of their learning rate from the optimizer, see
            `audiocodec.optim`; it counts the calls of `train_step`. None for a constant rate.

    Attributes:
        optimizer: the optimizer, or None without discriminators.
        schedule: the schedule, or None without one.
        updates: calls of `train_step` so far. An integer kept on the host, so that reading it never
            waits for a device.
        is_late: whether the generator was trained before the first of these updates.

    Raises:
        ValueError: unknown criterion, or a number out of range.
    """

    def __init__(
        self,
        discriminators: Mapping[str, nn.Module],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = _ADAM,
        criterion: str | Criterion = 'hinge',
        feature_loss: nn.Module | None = _L1_FEATURES,
        normalize: bool = True,
        every: float = 1,
        start: int = 0,
        warmup: int = 300,
        max_norm: float | None = None,
        lr_ratio: float = 1.0,
        seed: int = 0,
        schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        if not every >= 1:
            raise ValueError(
                f'every={every!r}: expected a number >= 1, the updates per update of the '
                'discriminators.'
            )
        if start < 0 or warmup < 0:
            raise ValueError(
                f'start={start!r}, warmup={warmup!r}: expected numbers of updates, >= 0.'
            )
        if max_norm is not None and not max_norm > 0:
            raise ValueError(
                f'max_norm={max_norm!r}: expected a number > 0, or null for no clipping.'
            )
        if not lr_ratio > 0:
            raise ValueError(
                f"lr_ratio={lr_ratio!r}: expected a number > 0, the share of the generator's rate."
            )
        self.discriminators = nn.ModuleDict(discriminators)
        self.criterion = get_criterion(criterion) if isinstance(criterion, str) else criterion
        self.feature_loss = feature_loss
        self.normalize = normalize
        self.every, self.start, self.warmup = every, start, warmup
        self.max_norm = max_norm
        self.seed = seed
        self.updates = 0
        self.is_late = False
        # In order of names: the optimizer knows parameters by position, and a config may list
        # adversaries anyhow.
        self._trained = [
            parameter
            for name in sorted(self.discriminators)
            for parameter in self.discriminators[name].parameters()
            if parameter.requires_grad
        ]
        self.optimizer = optimizer(self._trained) if self._trained else None
        for group in self.optimizer.param_groups if self.optimizer else ():
            group['lr'] *= lr_ratio
        self.schedule = schedule(self.optimizer) if self.optimizer and schedule else None

    def meet_trained_generator(self) -> None:
        """Start from the first update, beside a generator that is trained: the discriminators, or
        some, are fresh.
        """
        self.updates, self.is_late = 0, True

    @property
    def alone(self) -> bool:
        """Whether in the update to come the discriminators train alone: the generator's trainer
        leaves it as it is.
        """
        return self.optimizer is not None and self.start <= self.updates < self._joint_start

    @property
    def share(self) -> float:
        """What share of their weight the generator's losses have in the present update, from 0 to
        1.

        After updates alone, it grows from 0 over as many updates: what the discriminators know is
        of a generator that stood still.
        """
        waited = self._joint_start - self.start
        return 1.0 if waited == 0 else min(1.0, max(0, self.updates - self._joint_start) / waited)

    @property
    def _joint_start(self) -> int:
        """The first update of generator and discriminators together."""
        return self.start + (self.warmup if self.start > 0 or self.is_late else 0)

    def train_step(self, fake: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Train the discriminators on one batch, if it is their turn.

        Args:
            fake: [B, C, T] from the generator; no gradient flows back into it.
            real: [B, C, T].

        Returns:
            0-d tensors without graph: per discriminator the loss `d_<name>`, and the share of
            logits on the right side, `d_<name>_real_acc` and `d_<name>_fake_acc`, on this worker's
            batch; `d_grad_norm`, before clipping, of the gradient averaged over the workers: where
            it is not finite, nothing was changed. Empty in an update that `every` or `start` leaves
            out.

        Raises:
            ValueError: shapes that differ.
        """
        _check_pair(fake, real)
        metrics = self._update(fake, real) if self.optimizer is not None and self._is_due() else {}
        self.updates += 1
        if self.schedule is not None:
            advance(self.schedule)
        return metrics

    def _update(self, fake: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Train the discriminators on one batch, see `train_step`."""
        assert self.optimizer is not None
        metrics: dict[str, torch.Tensor] = {}
        self.optimizer.zero_grad()
        for name, discriminator in self.discriminators.items():
            metrics.update(self._backward(name, discriminator, fake.detach(), real.detach()))
        with torch.autocast(fake.device.type, enabled=False):
            distrib.average_gradients(self._trained)
            metrics['d_grad_norm'] = self._clip_gradients()
            step_if(self.optimizer, metrics['d_grad_norm'].isfinite())
        return metrics

    def generator_losses(self, fake: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute what the discriminators, as they are, cost the generator.

        Args:
            fake: [B, C, T]; the losses have a gradient with respect to it alone.
            real: [B, C, T].

        Returns:
            Per discriminator the scalars `adv_<name>` and, with feature matching, `feat_<name>`.
            Empty during `start` and while the discriminators are `alone`.

        Raises:
            ValueError: shapes that differ.
        """
        _check_pair(fake, real)
        if max(self.updates, 1) <= self._joint_start:
            return {}
        losses: dict[str, torch.Tensor] = {}
        with _frozen(self):
            for name, discriminator in self.discriminators.items():
                losses.update(self._generator_losses(name, discriminator, fake, real))
        return losses

    def get_extra_state(self) -> dict[str, Any]:
        """The state besides tensors of modules: optimizer, schedule, updates, `is_late`. See
        `torch.nn.Module`.
        """
        return {
            'updates': self.updates,
            'is_late': self.is_late,
            'optimizer': self.optimizer.state_dict() if self.optimizer else {},
            'schedule': self.schedule.state_dict() if self.schedule else {},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.updates, self.is_late = int(state['updates']), bool(state.get('is_late', False))
        if self.optimizer is not None:
            # A copy: the optimizer would go on to update the very tensors it is given.
            self.optimizer.load_state_dict(copy.deepcopy(state['optimizer']))
        if self.schedule is not None and state.get('schedule'):
            self.schedule.load_state_dict(state['schedule'])

    def _is_due(self) -> bool:
        since_start = self.updates - self.start
        if since_start < 0:
            return False
        if self.every == int(self.every):
            return since_start % int(self.every) == 0
        generator = distrib.shared_generator(self.seed, _EVERY_DRAWS, self.updates)
        return torch.rand((), generator=generator).item() * self.every < 1

    def _backward(
        self, name: str, discriminator: nn.Module, fake: torch.Tensor, real: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Add the gradient of one discriminator's loss, each sub-discriminator's as soon as it is
        known.

        Returns:
            Its loss and shares, see `train_step`.
        """
        losses, fake_shares, real_shares = [], [], []
        number, said = judge(discriminator, fake, real)
        # What is not known to be of separate parts may share layers, and their graph.
        shared = not isinstance(discriminator, MultiDiscriminator)
        for of_fake, of_real in said:
            loss = self.criterion.fake(of_fake) + self.criterion.real(of_real)
            # Within autocast, even the backward of what was computed in float32 would run in half
            # precision.
            with torch.autocast(fake.device.type, enabled=False):
                (loss / number if self.normalize else loss).backward(retain_graph=shared)
            losses.append(loss.detach())
            fake_shares.append(of_fake < self.criterion.boundary)
            real_shares.append(of_real > self.criterion.boundary)
            del loss, of_fake, of_real  # and their maps, before the next ones are made
        return {
            f'd_{name}': self._mean(losses),
            f'd_{name}_real_acc': _share(real_shares),
            f'd_{name}_fake_acc': _share(fake_shares),
        }

    def _generator_losses(
        self, name: str, discriminator: nn.Module, fake: torch.Tensor, real: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The losses of one discriminator, each sub-discriminator's gradients as soon as they are
        known.
        """
        leaf = fake.detach().requires_grad_(fake.requires_grad)
        references = (
            iter(()) if self.feature_loss is None else reference_features(discriminator, real)
        )
        losses: dict[str, list[torch.Tensor]] = {}
        _, said = verdicts(discriminator, leaf)
        for logits, features in said:
            parts = {f'adv_{name}': self.criterion.generator(logits)}
            if self.feature_loss is not None:
                parts[f'feat_{name}'] = self.feature_loss(features, next(references))
            for key, loss in parts.items():
                losses.setdefault(key, []).append(with_known_gradient(loss, leaf, fake))
            del logits, features, parts, loss  # and their graph, before the next one is made
        return {key: self._mean(values) for key, values in losses.items()}

    def _clip_gradients(self) -> torch.Tensor:
        gradients = [parameter.grad for parameter in self._trained if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self.max_norm, norm)
        return norm.detach()

    def _mean(self, losses: list[torch.Tensor]) -> torch.Tensor:
        """Average, or sum, over the sub-discriminators."""
        total = torch.stack(losses).sum()
        return total / len(losses) if self.normalize else total


def _check_pair(fake: torch.Tensor, real: torch.Tensor) -> None:
    if fake.shape != real.shape:
        raise ValueError(
            f'fake audio has shape {list(fake.shape)} and real audio {list(real.shape)}: '
            'they must be equal; trim or pad the output of the model.'
        )


def _share(flags: list[torch.Tensor]) -> torch.Tensor:
    """Share of true values, averaged over the given tensors."""
    return torch.stack([flag.float().mean() for flag in flags]).mean()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Build graphs in which the parameters of a module are constants: no gradient of theirs is
    computed or stored.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
