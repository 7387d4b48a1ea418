"""Evaluation metrics over groups of sampled solutions."""

from lit_tpgrpo.metrics.sampling import AvgAtK, MajAtK, PassAtK

__all__ = ["AvgAtK", "MajAtK", "PassAtK"]
