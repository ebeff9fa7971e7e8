"""Benchmarks against peers, run by `train_scripts/benchmark.py`."""
