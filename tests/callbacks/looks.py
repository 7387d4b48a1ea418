"""EarlyStopping on a round's accuracy that says at which optimizer steps it looked."""

from __future__ import annotations

from lightning.pytorch.callbacks import EarlyStopping


class Looks(EarlyStopping):
    """Ends the run when as many looks as ``patience`` says have seen nothing better."""

    def __init__(self, patience: int) -> None:
        super().__init__("rollout/accuracy", mode="max", patience=patience)
        self.looks: list[int] = []

    def _run_early_stopping_check(self, trainer):
        self.looks.append(trainer.global_step)
        super()._run_early_stopping_check(trainer)
