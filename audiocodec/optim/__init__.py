"""Moving average of a model's weights, and learning rate schedules."""

from .ema import ModuleEMA
from .schedules import (
    CosineSchedule,
    InverseSquareRootSchedule,
    LinearWarmupSchedule,
    PolynomialDecaySchedule,
    advance,
)

__all__ = ['CosineSchedule', 'InverseSquareRootSchedule', 'LinearWarmupSchedule', 'ModuleEMA',
           'PolynomialDecaySchedule', 'advance']
