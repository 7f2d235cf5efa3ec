"""Bottlenecks of continuous autoencoders, which have latents but no codes."""
