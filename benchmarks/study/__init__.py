"""The study: arms of credit assignment on equal budgets over seeds; see ``python -m benchmarks.study --help``."""
