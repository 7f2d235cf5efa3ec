"""Inference laid out for a CPU."""
