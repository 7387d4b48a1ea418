"""Audit several judges on several sets of solutions with known step labels, and put the scores into one table."""
