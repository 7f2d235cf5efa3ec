"""Solvers: what is trained, stage by stage. `solver:` in the configuration names one of `SOLVERS`."""

from audiocodec.solvers.base import StandardSolver
from audiocodec.solvers.compression import CompressionSolver

SOLVERS: dict[str, type[StandardSolver]] = {'compression': CompressionSolver}

__all__ = ['SOLVERS', 'CompressionSolver', 'StandardSolver']
