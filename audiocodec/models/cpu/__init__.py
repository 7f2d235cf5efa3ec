"""Inference optimized for CPUs."""
