"""Measurements of this package beside its peers, which `train_scripts/benchmark.py` runs and writes."""
