"""Averaged (EMA) weights, learning rate schedules, and an optimizer for transformers."""

from audiocodec.optim.adamw import MatrixDecayAdamW
from audiocodec.optim.ema import ModuleEMA
from audiocodec.optim.muon import Muon
from audiocodec.optim.schedules import (
    CosineSchedule,
    InverseSquareRootSchedule,
    LinearWarmupSchedule,
    PolynomialDecaySchedule,
    WarmupStableDecaySchedule,
    advance,
)

__all__ = [
    'CosineSchedule',
    'InverseSquareRootSchedule',
    'LinearWarmupSchedule',
    'MatrixDecayAdamW',
    'ModuleEMA',
    'Muon',
    'PolynomialDecaySchedule',
    'WarmupStableDecaySchedule',
    'advance',
]
