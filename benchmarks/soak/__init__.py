"""Soak test: long training runs under injected faults; see ``python -m benchmarks.soak --help``."""
