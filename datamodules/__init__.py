"""The DataModule and where its problems come from."""

from lit_tpgrpo.datamodules.rollout import MathRolloutDataModule

__all__ = ["MathRolloutDataModule"]
