"""The sub-commands of `scripts/benchmark.py`, one module each; see `benchmarks.common` for what a
module holds.
"""
