"""A LightningModule that scores evaluated groups and returns predicted rounds as rows, whatever it trains."""

from __future__ import annotations

from typing import Any

import lightning as L

from lit_tpgrpo.evaluation.log import EvaluationLog
from lit_tpgrpo.records import Round
from lit_tpgrpo.rollout.rows import judged_rows


class EvaluatedModule(L.LightningModule):
    """Score the groups of validation and test loops; they arrive sampled and verified, rounds of ``predict`` judged as well.

    Attributes:
        evaluation: groups of the running loop, scores of the last one (``ScoresGroups``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.evaluation = EvaluationLog()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect a problem's solutions; ignore batches of other loaders."""
        self.evaluation.add(batch)

    def on_validation_epoch_start(self) -> None:
        self.evaluation.start()

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.evaluation.finish(self, "eval")

    def on_validation_end(self) -> None:
        self.evaluation.finished(self.trainer)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect a problem's solutions; ignore batches of other loaders."""
        self.evaluation.add(batch)

    def on_test_epoch_start(self) -> None:
        self.evaluation.start()

    def on_test_epoch_end(self) -> None:
        self.evaluation.finish(self, "test")

    def on_test_end(self) -> None:
        self.evaluation.finished(self.trainer)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return a round's solutions with verdicts and rewards, a dictionary of plain values each (``rollout.rows``).

        Batches of other loaders are returned as they are. ``trainer.predict(..., return_predictions=False)`` keeps none in
        memory.
        """
        return judged_rows(batch) if isinstance(batch, Round) else batch
