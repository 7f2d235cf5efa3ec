"""Training of the discriminators, and adversarial losses of the generator."""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from audiocodec.adversarial.discriminators import MultiDiscriminator
from audiocodec.adversarial.evaluate import (
    forward_each,
    frozen,
    logits_of_pair,
    micro_batches,
    reference_features,
    weighted_mean,
    with_precomputed_gradients,
)
from audiocodec.adversarial.losses import Criterion, FeatureMatchingLoss, get_criterion
from audiocodec.modules.init import initialize
from audiocodec.modules.parametrizations import PicklableModule
from audiocodec.optim import advance
from audiocodec.optim.loss_scale import NO_SCALE, LossScale
from audiocodec.optim.step import step_if
from audiocodec.utils import distrib

_EVERY_DRAWS = 0xD15C  # identifies the random stream, see `distrib.shared_generator`
_ADAM = functools.partial(torch.optim.Adam, lr=3e-4, betas=(0.5, 0.9))
_L1_FEATURES = FeatureMatchingLoss()


class AdversarialTrainer(PicklableModule):
    """Discriminators, their optimizer and schedule, and the losses for the generator.

    An update consists of a call of `train_step` and then one of `generator_losses`. The state dict
    holds everything that determines the next update: discriminators, optimizer, schedule, number of
    updates. With several workers, the batches must have the same size. Gradients are averaged over
    the workers, so that the discriminators stay equal if they start equal (see `broadcast`).

    Args:
        discriminators: discriminators by name; each maps [B, C, T] to (logits per
            sub-discriminator, lists of feature maps). May be empty: nothing is trained then, and
            there are no losses.
        optimizer: factory of the optimizer from the parameters of all discriminators; by default
            `functools.partial(torch.optim.Adam, lr=3e-4, betas=(0.5, 0.9))`.
        criterion: name in `CRITERIA`, or a `Criterion`.
        feature_loss: loss of the feature maps (fake, real) of a sub-discriminator; None for no
            feature matching.
        normalize: whether to average losses over the sub-discriminators instead of summing.
        every: updates per update of the discriminators. An integer is a period. With other values,
            each update is drawn with probability 1 / every.
        start: number of updates before the discriminators are used, for training and for losses.
        warmup: length of the warm-up of new discriminators for a generator that is already trained,
            after a `start` above 0 or `start_warmup`. For this many updates, only the
            discriminators train. During as many more, the weight of the losses of the generator
            increases from 0 to 1. See `in_warmup` and `warmup_weight`.
        init: initialization of the convolutions of all discriminators, see
            `audiocodec.modules.init.initialize`.
        max_norm: maximum L2 norm of the gradient of all discriminators together (gradient
            clipping); None for no clipping.
        lr_ratio: factor of the optimizer's learning rate. Below 1, the discriminators learn slower
            than a generator with the same configured rate.
        seed: seed of the draws of `every`.
        schedule: factory of the learning rate schedule from the optimizer, see `audiocodec.optim`.
            It counts calls of `train_step`. None for a constant rate.

    Attributes:
        optimizer: the optimizer, or None without discriminators.
        schedule: the schedule, or None.
        updates: number of calls of `train_step`. An integer on the host, so that reading it never
            waits for a device.
        generator_pretrained: whether the generator was trained before the first of these updates.
        micro_batches: number of parts of a batch that the discriminators run on one after the
            other, to save memory. The losses must be means over the items, as those here are.
        loss_scale: scale of the losses while gradients pass through the discriminators, for
            float16; `update` is left to the caller, after each update.

    Raises:
        ValueError: unknown criterion or initialization, or a number out of range.
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
        init: str = 'default',
        max_norm: float | None = None,
        lr_ratio: float = 1.0,
        seed: int = 0,
        schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__()
        if not every >= 1:
            raise ValueError(
                f'every={every!r}: expected a number >= 1, the updates per update of the '
                'discriminators'
            )
        if start < 0 or warmup < 0:
            raise ValueError(
                f'start={start!r}, warmup={warmup!r}: expected numbers of updates, >= 0'
            )
        if max_norm is not None and not max_norm > 0:
            raise ValueError(
                f'max_norm={max_norm!r}: expected a number > 0, or null for no clipping'
            )
        if not lr_ratio > 0:
            raise ValueError(
                f"lr_ratio={lr_ratio!r}: expected a number > 0, the ratio to the generator's rate"
            )
        self.discriminators = nn.ModuleDict(discriminators)
        initialize(self.discriminators, init)
        self.criterion = get_criterion(criterion) if isinstance(criterion, str) else criterion
        self.feature_loss = feature_loss
        self.normalize = normalize
        self.every = every
        self.start = start
        self.warmup = warmup
        self.max_norm = max_norm
        self.seed = seed
        self.updates = 0
        self.generator_pretrained = False
        self.micro_batches = 1
        self.loss_scale: LossScale = NO_SCALE
        # Sorted by name: optimizer states refer to parameters by position, but a configuration may
        # list the discriminators in any order.
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

    def start_warmup(self) -> None:
        """Restart the count of updates, with a warm-up of new discriminators.

        To be called if the generator is already trained and at least one discriminator is not.
        """
        self.updates = 0
        self.generator_pretrained = True

    @property
    def in_warmup(self) -> bool:
        """True if only the discriminators train in the next update.

        The caller must then leave the generator unchanged.
        """
        return self.optimizer is not None and self.start <= self.updates < self._joint_start

    @property
    def warmup_weight(self) -> float:
        """Factor for the weights of the generator's losses in the current update, from 0 to 1.

        It increases linearly after the updates without the generator, over as many updates. So far,
        the discriminators know only a generator that did not change.
        """
        skipped = self._joint_start - self.start
        return 1.0 if skipped == 0 else min(1.0, max(0, self.updates - self._joint_start) / skipped)

    @property
    def _joint_start(self) -> int:
        """The first update that trains generator and discriminators together."""
        needs_warmup = self.start > 0 or self.generator_pretrained
        return self.start + (self.warmup if needs_warmup else 0)

    def train_step(self, fake: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Train the discriminators on a batch, unless `every` or `start` skips this update.

        Args:
            fake: [B, C, T] from the generator, which gets no gradient.
            real: [B, C, T].

        Returns:
            0-d tensors without graph. Per discriminator, on this worker's batch: the loss
            `d_<name>` and the fractions of correctly classified logits, `d_<name>_real_acc` and
            `d_<name>_fake_acc`. Of the gradient averaged over the workers: the norm before
            clipping, `d_grad_norm`; if it is not finite, nothing was changed. Empty in a skipped
            update.

        Raises:
            ValueError: shapes that differ.
        """
        _check_pair(fake, real)
        metrics = self._update(fake, real) if self.optimizer is not None and self._is_due() else {}
        # Skipped updates count, too, so that the schedule stays aligned with the generator's.
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

    def generator_losses(
        self,
        fake: torch.Tensor,
        real: torch.Tensor,
        weights: Mapping[str, float] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute the adversarial losses of the generator with the current discriminators.

        Args:
            fake: [B, C, T]; the losses have a gradient with respect to this tensor only.
            real: [B, C, T].
            weights: weights of the losses, if only the gradient of their weighted sum is needed:
                see `with_precomputed_gradients`.

        Returns:
            Per discriminator the scalars `adv_<name>` and, with feature matching, `feat_<name>`.
            Empty during the first `start` updates and while only the discriminators train.

        Raises:
            ValueError: shapes that differ.
        """
        _check_pair(fake, real)
        # `updates` already includes the current update, unless train_step was never called.
        if max(self.updates, 1) <= self._joint_start:
            return {}
        losses: dict[str, torch.Tensor] = {}
        with frozen(self):
            for name, discriminator in self.discriminators.items():
                losses.update(self._generator_losses(name, discriminator, fake, real, weights))
        return losses

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state other than tensors of modules. See `torch.nn.Module`."""
        return {
            'updates': self.updates,
            'is_late': self.generator_pretrained,  # the key in existing checkpoints
            'optimizer': self.optimizer.state_dict() if self.optimizer else {},
            'schedule': self.schedule.state_dict() if self.schedule else {},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state returned by `get_extra_state`."""
        self.updates = int(state['updates'])
        self.generator_pretrained = bool(state.get('is_late', False))
        if self.optimizer is not None:
            # A copy, because the optimizer would update the given tensors in place.
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
        """Backpropagate the loss of a discriminator; return it and the accuracies."""
        parts = micro_batches(discriminator, fake, real, self.micro_batches)
        return weighted_mean(
            (weight, self._backward_part(name, discriminator, weight, *pair))
            for weight, *pair in parts
        )

    def _backward_part(
        self,
        name: str,
        discriminator: nn.Module,
        weight: float,
        fake: torch.Tensor,
        real: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Backpropagate the loss of a micro-batch, one sub-discriminator at a time.

        Args:
            name: of the discriminator.
            discriminator: the discriminator.
            weight: factor of the loss, the micro-batch's fraction of the batch.
            fake: [B, C, T].
            real: [B, C, T].

        Returns:
            The loss, without the weight, and the accuracies, see `train_step`.
        """
        losses = []
        fake_correct = []
        real_correct = []
        number, pairs = logits_of_pair(discriminator, fake, real)
        # The parts of other discriminators may share layers, and with them a graph.
        may_share_graph = not isinstance(discriminator, MultiDiscriminator)
        for fake_logits, real_logits in pairs:
            loss = self.criterion.fake(fake_logits) + self.criterion.real(real_logits)
            # Under autocast, the backward pass of float32 operations would run in half precision,
            # too.
            with torch.autocast(fake.device.type, enabled=False):
                total = loss / number if self.normalize else loss
                self.loss_scale.scaled(total * weight).backward(retain_graph=may_share_graph)
            losses.append(loss.detach())
            fake_correct.append(fake_logits < self.criterion.boundary)
            real_correct.append(real_logits > self.criterion.boundary)
            # Free the graph and the feature maps before the next ones are computed.
            del loss, total, fake_logits, real_logits
        return {
            f'd_{name}': self._mean(losses),
            f'd_{name}_real_acc': _fraction_true(real_correct),
            f'd_{name}_fake_acc': _fraction_true(fake_correct),
        }

    def _generator_losses(
        self,
        name: str,
        discriminator: nn.Module,
        fake: torch.Tensor,
        real: torch.Tensor,
        weights: Mapping[str, float] | None,
    ) -> dict[str, torch.Tensor]:
        """Compute the generator's losses of a discriminator, with precomputed gradients."""
        parts = micro_batches(discriminator, fake, real, self.micro_batches)
        return weighted_mean(
            (fraction, self._generator_losses_of_part(name, discriminator, one, other, weights))
            for fraction, one, other in parts
        )

    def _generator_losses_of_part(
        self,
        name: str,
        discriminator: nn.Module,
        fake: torch.Tensor,
        real: torch.Tensor,
        weights: Mapping[str, float] | None,
    ) -> dict[str, torch.Tensor]:
        """Compute the generator's losses of a micro-batch, with precomputed gradients.

        The graph of each sub-discriminator is freed before the next one is evaluated.
        """
        leaf = fake.detach().requires_grad_(fake.requires_grad)
        references = (
            iter(()) if self.feature_loss is None else reference_features(discriminator, real)
        )
        losses: dict[str, list[torch.Tensor]] = {}
        _, outputs = forward_each(discriminator, leaf)
        for logits, features in outputs:
            parts = {f'adv_{name}': self.criterion.generator(logits)}
            if self.feature_loss is not None:
                parts[f'feat_{name}'] = self.feature_loss(features, next(references))
            parts = with_precomputed_gradients(parts, leaf, fake, weights, self.loss_scale)
            # Free the graph before the next one is built.
            del logits, features
            for key, loss in parts.items():
                losses.setdefault(key, []).append(loss)
        return {key: self._mean(values) for key, values in losses.items()}

    def _clip_gradients(self) -> torch.Tensor:
        gradients = [parameter.grad for parameter in self._trained if parameter.grad is not None]
        self.loss_scale.unscale_(gradients)
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
            'they must be equal; trim or pad the output of the model'
        )


def _fraction_true(flags: list[torch.Tensor]) -> torch.Tensor:
    """Return the fraction of true values, averaged over the given tensors."""
    return torch.stack([flag.float().mean() for flag in flags]).mean()
