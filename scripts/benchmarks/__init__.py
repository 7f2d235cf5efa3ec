"""Subcommands of `scripts/benchmark.py`, one module each; `benchmarks.common` has the interface."""
