"""CapabilityEstimator: the policy's running accuracy per problem, which scales r_c and may weight problem sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning as L

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.distributed import gather
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.records import JudgedGroup, Round
from lit_tpgrpo.rollout.hooks import RoundCallback, rollout_source
from lit_tpgrpo.rollout.trainer_state import log_to_all

UNSEEN = 0.5


def uncertainty(accuracy: float) -> float:
    """Return the sampling weight p (1 - p) + 0.05; the floor keeps solved and unsolved problems in the mix.

    Args:
        accuracy: p, the running accuracy of a problem, in [0, 1].
    """
    return accuracy * (1.0 - accuracy) + 0.05


CURRICULA: dict[str, Callable[[float], float] | None] = {"shuffle": None, "uncertainty": uncertainty}


@checked_arguments()
class CapabilityEstimator(RoundCallback):
    """Keep a running accuracy per problem, saved in the checkpoint, and use it as the DataModule's capability.

    The process reward r_c is scaled by ``momentum * estimate + (1 - momentum) * acc_G``. With ``momentum`` 0 this is the
    round's acc_G alone, the paper's rule; larger values have less variance where groups are small and problems repeat.

    Args:
        momentum: weight of the previous estimate, in [0, 1).
        curriculum: ``shuffle`` takes problems in shuffled passes; ``uncertainty`` samples problems more often the closer
            their accuracy is to one half.
    """

    def __init__(self, momentum: float = 0.0, curriculum: Literal["shuffle", "uncertainty"] = "shuffle") -> None:
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum must lie in [0, 1), got {momentum}")
        self.momentum = momentum
        self._weight = CURRICULA[curriculum]
        self._round = -1
        # uid -> [estimate before the round of the last visit, estimate now, that round]: a round that is repeated
        # after a restart starts from "before" and so counts once.
        self._estimates: dict[str, list[float]] = {}
        self._updates: dict[str, list[float]] = {}  # of this round, on this rank; gathered when the round ends

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            rollout_source(trainer, self).capability = self

    def estimate(self, uid: str) -> float | None:
        """Return the running accuracy of a problem, None if it was never sampled."""
        return self._estimates[uid][1] if uid in self._estimates else None

    def scale(self, uid: str, accuracy: float) -> float:
        before = self._before(uid)
        return accuracy if before is None else self.momentum * before + (1 - self.momentum) * accuracy

    def weights(self, uids: Sequence[str]) -> Sequence[float] | None:
        if self._weight is None:
            return None
        estimates = (self._before(uid) for uid in uids)
        return [self._weight(UNSEEN if e is None else e) for e in estimates]

    def _before(self, uid: str) -> float | None:
        if uid not in self._estimates:
            return None
        before, now, visited = self._estimates[uid]
        known = now if visited < self._round else before
        return None if known < 0 else known

    def on_round_start(self, trainer: L.Trainer, pl_module: L.LightningModule, round_index: int) -> None:
        self._round = round_index

    def on_round_resume(self, trainer: L.Trainer, pl_module: L.LightningModule, round_index: int) -> None:
        self._round = round_index  # another than the last one that began, if that was sampled ahead

    def on_group_judged(self, trainer: L.Trainer, pl_module: L.LightningModule, group: JudgedGroup) -> None:
        uid = group.problem.uid
        before = self._before(uid)
        self._updates[uid] = [-1.0 if before is None else before, self.scale(uid, group.accuracy), self._round]
        self._estimates[uid] = self._updates[uid]

    def on_round_end(self, trainer: L.Trainer, pl_module: L.LightningModule, round_: Round) -> None:
        for updates in gather(self._updates):
            self._estimates |= updates
        self._updates = {}
        known = [now for _, now, _ in self._estimates.values()]
        metrics = {"capability/mean": sum(known) / max(len(known), 1), "capability/problems_met": float(len(known))}
        log_to_all(trainer, metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"round": self._round, "estimates": self._estimates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._round, self._estimates = state_dict["round"], state_dict["estimates"]
