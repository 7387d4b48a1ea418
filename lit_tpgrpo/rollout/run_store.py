"""The stored rounds of one run: where they are written, and the earlier runs that a resumed run may copy them from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.run_folder import run_folder
from lit_tpgrpo.rollout.store import RoundStore, match_scores


class RunStore:
    """Open the rounds of one run on all its ranks.

    Args:
        folder: where rounds are written; None is ``rounds`` in the run's folder.
        keep: newest rounds that stay on disk; 0 keeps all.

    Attributes:
        sampled_by: fingerprint of the weights that sampled the current round, '' before the first.
        evaluations: folders with evaluations of the run that this one was resumed from.
        evaluation_folder: where the last evaluation of this process keeps its groups.
    """

    def __init__(self, folder: str | None, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self.sampled_by = ""
        self.evaluations: tuple[Path, ...] = ()
        self.evaluation_folder: Path | None = None
        self._inherited: tuple[Path, ...] = ()  # rounds of the runs that this one was resumed from, the nearest first
        self._verdicts_invalid = False

    def root(self, trainer: L.Trainer) -> Path:
        """Return the folder that holds the rounds. Collective before ``setup``."""
        return run_folder(trainer) / "rounds" if self.folder is None else Path(self.folder)

    def open(
        self, trainer: L.Trainer, index: int, sampled_with: Mapping[str, Any], judged_with: Mapping[str, Any]
    ) -> RoundFile:
        """Open a round on all ranks, with what an interrupted run left of it. Collective.

        Rank 0, then local rank 0 of every machine, prepares the folder for the other ranks.

        Args:
            index: of the round.
            sampled_with: what its stored solutions must have been sampled with to be reused.
            judged_with: what its stored verdicts must have been made with to be reused.
        """
        store = RoundStore(self.root(trainer), self.keep, trainer.global_rank, self._inherited)
        for first in (trainer.is_global_zero, trainer.local_rank == 0):
            with raise_on_all_ranks(f"opening round {index}"):
                if first:
                    file = store.open(index, sampled_with, judged_with)
                    if self._verdicts_invalid:
                        file.invalidate_verdicts()
                        self._verdicts_invalid = False
        self._verdicts_invalid = False
        return store.open(index, sampled_with, judged_with)

    def match_scores(self, trainer: L.Trainer, file: RoundFile, weights: str) -> None:
        """Delete the stored scores of a round on all ranks unless they are of these weights. Collective."""
        for first in (trainer.is_global_zero, trainer.local_rank == 0):
            with raise_on_all_ranks("matching stored scores"):
                if first:
                    match_scores(file, weights)

    def open_prediction(
        self, trainer: L.Trainer, index: int, sampled_with: Mapping[str, Any], judged_with: Mapping[str, Any]
    ) -> RoundFile:
        """Open a part of ``predict``, which every rank stores in a separate folder."""
        store = RoundStore(self.root(trainer) / "predict" / f"rank_{trainer.global_rank}")
        return store.open(index, sampled_with, judged_with)

    def invalidate_verdicts(self) -> None:
        """Discard the stored verdicts of the next round that is opened: the judge has changed."""
        self._verdicts_invalid = True

    def state_dict(self, trainer: L.Trainer) -> dict[str, Any]:
        return {
            "evaluations": str((run_folder(trainer) / "evaluation").absolute()),
            "store_dir": str(self.root(trainer).absolute()),
            "inherited": [str(folder) for folder in self._inherited],
            "sampled_by": self.sampled_by,
        }

    def load_state_dict(self, state: Mapping[str, Any], checkpoint: str | Path | None) -> None:
        """Inherit the rounds of the checkpoint's run.

        They are only read: this run's own folder does not depend on the checkpoint, since two runs may be resumed from it
        side by side.

        Args:
            state: of ``state_dict``.
            checkpoint: path of the checkpoint; a run's folder may have been moved or copied together with it.
        """
        beside = [] if checkpoint is None else [(f / "rounds").absolute() for f in list(Path(checkpoint).parents)[:2]]
        saved = [Path(folder) for folder in (state["store_dir"], *state.get("inherited", ()))]
        self._inherited = tuple(dict.fromkeys(folder for folder in (*beside, *saved) if folder.is_dir()))
        self.sampled_by = state["sampled_by"]
        beside = [] if checkpoint is None else [f.absolute() / "evaluation" for f in list(Path(checkpoint).parents)[:2]]
        saved = [Path(state["evaluations"])] if "evaluations" in state else []  # not in checkpoints of earlier versions
        self.evaluations = tuple(dict.fromkeys(folder for folder in (*beside, *saved) if folder.is_dir()))
