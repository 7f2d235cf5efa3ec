"""Averaged (EMA) weights, learning rate schedules and optimizers."""

from audiocodec.optim.adamw import MatrixDecayAdamW
from audiocodec.optim.bfloat16_adam import Bfloat16Adam
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
    'Bfloat16Adam',
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
