"""The state of a loss that carries one from step to step, and its part of a checkpoint."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lit_tpgrpo.losses.base import LossState, TokenLoss, stateful_part
from lit_tpgrpo.losses.metrics import LossMetrics

_KEY = "loss_state"


class KeptLossState:
    """The state of a loss, None throughout for a loss without one.

    Args:
        loss: of the module.
    """

    def __init__(self, loss: TokenLoss) -> None:
        self._part = stateful_part(loss)
        self.value: LossState | None = None if self._part is None else dict(self._part.initial_state())

    def advance(self, totals: LossMetrics) -> None:
        """Take the state of the next step from what was measured of this one, over all micro-batches and ranks."""
        if self._part is not None and self.value is not None:
            measured = {name: float(value) for name, value in totals.values().items()}
            self.value = dict(self._part.next_state(self.value, measured))

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the state to a checkpoint, as plain numbers."""
        if self.value is not None:
            checkpoint[_KEY] = dict(self.value)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take the state of a checkpoint; one of a run with another loss has none that fits: the initial one stays."""
        if self.value is None:
            return
        saved = checkpoint.get(_KEY)
        if isinstance(saved, dict) and saved.keys() == self.value.keys():
            self.value = {name: float(number) for name, number in saved.items()}
        else:
            rank_zero_warn(
                "the checkpoint has no state of this loss (it was saved with another one): it begins with its initial state, "
                f"{dict(self.value)}"
            )
