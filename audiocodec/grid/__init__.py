"""Grids without a cluster: the experiments of a grid file, in a queue on this machine."""
