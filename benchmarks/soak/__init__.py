"""A long run in a hostile world: see ``python -m benchmarks.soak --help``."""
