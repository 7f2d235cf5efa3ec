"""Averaged (EMA) weights and learning rate schedules."""

from audiocodec.optim.ema import ModuleEMA
from audiocodec.optim.schedules import (
    CosineSchedule,
    InverseSquareRootSchedule,
    LinearWarmupSchedule,
    PolynomialDecaySchedule,
    advance,
)

__all__ = [
    'CosineSchedule',
    'InverseSquareRootSchedule',
    'LinearWarmupSchedule',
    'ModuleEMA',
    'PolynomialDecaySchedule',
    'advance',
]
