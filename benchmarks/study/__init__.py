"""The study: arms of credit assignment on equal numbers of solutions over seeds; see ``python -m benchmarks.study --help``."""
