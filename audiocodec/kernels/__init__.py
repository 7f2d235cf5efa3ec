"""Convolutions written by hand for training on a CPU, and its allocator."""
