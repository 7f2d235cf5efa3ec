"""Learning rate schedules with warm-up, to be advanced after every update (see `advance`).

For step and exponential schedules, see `torch.optim.lr_scheduler`.
"""

import math
import warnings
from abc import abstractmethod

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def advance(schedule: LRScheduler) -> None:
    """Advance a schedule by one update, even if the optimizer has skipped it.

    PyTorch warns if a schedule steps before its optimizer. That is expected here: updates with
    non-finite gradients are counted but skipped, and discriminators may start later than the
    generator.
    """
    if schedule.last_epoch > 0:
        schedule.step()
        return
    with warnings.catch_warnings():
        warnings.filterwarnings(
            'ignore', message='Detected call of `lr_scheduler.step', category=UserWarning
        )
        schedule.step()


class _Schedule(LRScheduler):
    """Learning rate as a function of the base rate and the number of updates."""

    @abstractmethod
    def rate(self, lr: float, step: int) -> float:
        """Return the learning rate after `step` updates, for the base rate `lr`."""

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the learning rate of each parameter group."""
        return [self.rate(float(lr), self.last_epoch) for lr in self.base_lrs]


class CosineSchedule(_Schedule):
    """Linear warm-up from 0, then half a cosine down to a fraction of the base rate.

    Args:
        optimizer: the optimizer whose rates are set.
        total_steps: updates until the end of the cosine; the rate is constant afterwards.
        warmup_steps: updates until the base rate is reached.
        lr_min_ratio: final rate divided by the base rate.
        cycle_length: length of half a period of the cosine, as a fraction of the updates after
            warm-up.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int,
        lr_min_ratio: float = 0.0,
        cycle_length: float = 1.0,
    ) -> None:
        _check_steps(warmup_steps, total_steps)
        _check('lr_min_ratio', lr_min_ratio, 0 <= lr_min_ratio <= 1, 'in [0, 1]')
        _check('cycle_length', cycle_length, cycle_length > 0, 'positive')
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.lr_min_ratio = lr_min_ratio
        self.cycle_length = cycle_length
        super().__init__(optimizer)

    def rate(self, lr: float, step: int) -> float:
        """See `_Schedule.rate`."""
        if step < self.warmup_steps:
            return lr * step / self.warmup_steps
        if step > self.total_steps:
            return lr * self.lr_min_ratio
        # At least 1, for runs that consist of warm-up only.
        done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * done / self.cycle_length))
        return lr * (self.lr_min_ratio + (1 - self.lr_min_ratio) * cosine)


class WarmupStableDecaySchedule(_Schedule):
    """Linear warm-up from 0, then the base rate, which falls at the very end only.

    See arXiv 2404.06395, section 4, and arXiv 2405.18392 for the form of the decay.

    Args:
        optimizer: the optimizer whose rates are set.
        total_steps: updates until the end of the decay; the rate is constant afterwards.
        warmup_steps: updates until the base rate is reached.
        decay_steps: updates of the decay.
        lr_min_ratio: final rate divided by the base rate.
        power: exponent of the decay, which is 1 - done**power; 0.5: steep at first; 1: linear.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int,
        decay_steps: int,
        lr_min_ratio: float = 0.0,
        power: float = 0.5,
    ) -> None:
        _check_steps(warmup_steps, total_steps)
        _check(
            'decay_steps',
            decay_steps,
            1 <= decay_steps <= total_steps,
            f'from 1 to the {total_steps} updates of the run (total_steps)',
        )
        _check('lr_min_ratio', lr_min_ratio, 0 <= lr_min_ratio <= 1, 'in [0, 1]')
        _check('power', power, power > 0, 'positive')
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.lr_min_ratio = lr_min_ratio
        self.power = power
        super().__init__(optimizer)

    def rate(self, lr: float, step: int) -> float:
        """See `_Schedule.rate`."""
        warmup = step / self.warmup_steps if step < self.warmup_steps else 1.0
        done = min(max(1 - (self.total_steps - step) / self.decay_steps, 0.0), 1.0)
        decay = self.lr_min_ratio + (1 - self.lr_min_ratio) * (1 - done**self.power)
        return lr * min(warmup, decay)  # short runs may do both at once


class PolynomialDecaySchedule(_Schedule):
    """A rate of 0, then linear warm-up, then polynomial decay to a final rate.

    Args:
        optimizer: the optimizer whose rates are set.
        warmup_steps: updates from 0 to the base rate.
        total_steps: updates until the final rate is reached; the rate is constant afterwards.
        end_lr: final rate.
        zero_lr_warmup_steps: updates with a rate of 0 before the warm-up.
        power: exponent of the polynomial; 1: linear.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        end_lr: float = 0.0,
        zero_lr_warmup_steps: int = 0,
        power: float = 1.0,
    ) -> None:
        _check(
            'zero_lr_warmup_steps', zero_lr_warmup_steps, zero_lr_warmup_steps >= 0, 'at least 0'
        )
        _check_steps(warmup_steps, total_steps, zero_lr_warmup_steps)
        _check('end_lr', end_lr, end_lr >= 0, 'at least 0')
        _check('power', power, power > 0, 'positive')
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.end_lr = end_lr
        self.zero_lr_warmup_steps = zero_lr_warmup_steps
        self.power = power
        super().__init__(optimizer)

    def rate(self, lr: float, step: int) -> float:
        """See `_Schedule.rate`."""
        step -= self.zero_lr_warmup_steps
        total_steps = self.total_steps - self.zero_lr_warmup_steps
        if self.zero_lr_warmup_steps > 0 and step <= 0:
            return 0.0
        if self.warmup_steps > 0 and step <= self.warmup_steps:
            return lr * step / self.warmup_steps
        if step >= total_steps:
            return self.end_lr
        left = 1 - (step - self.warmup_steps) / (total_steps - self.warmup_steps)
        return (lr - self.end_lr) * left**self.power + self.end_lr


class InverseSquareRootSchedule(_Schedule):
    """Linear warm-up, then decay with the inverse square root of the number of updates.

    Args:
        optimizer: the optimizer whose rates are set.
        warmup_steps: updates until the base rate is reached.
        warmup_init_lr: rate at the start of the warm-up; None: 0.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int, warmup_init_lr: float | None = 0.0
    ) -> None:
        _check(
            'warmup_steps',
            warmup_steps,
            warmup_steps >= 1,
            'at least 1 (the decay is scaled by its square root)',
        )
        _check(
            'warmup_init_lr',
            warmup_init_lr,
            warmup_init_lr is None or warmup_init_lr >= 0,
            'at least 0',
        )
        self.warmup_steps = warmup_steps
        self.warmup_init_lr = warmup_init_lr or 0.0
        super().__init__(optimizer)

    def rate(self, lr: float, step: int) -> float:
        """See `_Schedule.rate`."""
        step += 1  # count from 1, because the decay is not defined at 0
        if step < self.warmup_steps:
            return self.warmup_init_lr + (lr - self.warmup_init_lr) * step / self.warmup_steps
        return lr * math.sqrt(self.warmup_steps / step)


class LinearWarmupSchedule(_Schedule):
    """Linear warm-up, then a constant rate.

    Args:
        optimizer: the optimizer whose rates are set.
        warmup_steps: updates until the base rate is reached.
        warmup_init_lr: rate at the start of the warm-up; None: 0.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int, warmup_init_lr: float | None = 0.0
    ) -> None:
        _check('warmup_steps', warmup_steps, warmup_steps >= 0, 'at least 0')
        _check(
            'warmup_init_lr',
            warmup_init_lr,
            warmup_init_lr is None or warmup_init_lr >= 0,
            'at least 0',
        )
        self.warmup_steps = warmup_steps
        self.warmup_init_lr = warmup_init_lr or 0.0
        super().__init__(optimizer)

    def rate(self, lr: float, step: int) -> float:
        """See `_Schedule.rate`."""
        if step < self.warmup_steps:
            return self.warmup_init_lr + (lr - self.warmup_init_lr) * step / self.warmup_steps
        return lr


def _check_steps(warmup_steps: int, total_steps: int | None, before: int = 0) -> None:
    _check('warmup_steps', warmup_steps, warmup_steps >= 0, 'at least 0')
    _check(
        'total_steps',
        total_steps,
        total_steps is not None and total_steps >= warmup_steps + before,
        f'at least the {warmup_steps + before} updates of the warm-up (warmup_steps)',
    )


def _check(name: str, value: float | None, valid: bool, accepted: str) -> None:
    if not valid:
        raise ValueError(f'{name} must be {accepted}, got {value}')
