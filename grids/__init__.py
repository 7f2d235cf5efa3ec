"""Grids of experiments, for `dora grid`."""
