"""Quantizers that round every channel of a few, without a search."""
