"""Fast convolutions and memory allocation for training on a CPU."""
