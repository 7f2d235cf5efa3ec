"""Solvers: the training loop and the update. `solver:` in a recipe names one of `SOLVERS`."""

from audiocodec.solvers.base import StandardSolver
from audiocodec.solvers.compression import CompressionSolver

SOLVERS: dict[str, type[StandardSolver]] = {'compression': CompressionSolver}

__all__ = ['SOLVERS', 'CompressionSolver', 'StandardSolver']
