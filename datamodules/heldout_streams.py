"""Loaders of validation, test and prediction: problems are sampled when their batch is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import lightning as L

from lit_tpgrpo.datamodules.loaders import StreamLoader
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.records import EvaluatedGroup, Problem, Round
from lit_tpgrpo.rollout.capability import Capability
from lit_tpgrpo.rollout.heldout import evaluate_groups, predict_rounds
from lit_tpgrpo.rollout.hooks import Split
from lit_tpgrpo.rollout.rounds import RoundMaker, assign_problems
from lit_tpgrpo.rollout.run_store import RunStore
from lit_tpgrpo.rollout.trainer_state import batch_limit


@dataclass(frozen=True)
class HeldoutStreams:
    """Evaluate and predict held-out problems with the current policy.

    Args:
        trainer: of the run; its module is the policy.
        problems: returns the problems of a split.
        maker: returns the stages of a round.
        seed: of sampling.
        samples: solutions per evaluated problem.
        params: how evaluation samples; prediction samples as training does.
        problems_per_part: problems of one rank in a prediction batch.
        store: where predictions are stored as they complete.
        capability: returns what scales r_c in predictions.
    """

    trainer: L.Trainer
    problems: Callable[[str], Sequence[Problem]]
    maker: Callable[[], RoundMaker]
    seed: int
    samples: int
    params: SamplingParams
    problems_per_part: int
    store: RunStore
    capability: Callable[[], Capability]

    def evaluate(self, split: Split, limit: int | None = None) -> Iterator[EvaluatedGroup]:
        """Yield this rank's evaluated groups of a split, of its first ``limit`` problems only where given."""
        assignments = assign_problems(self.trainer, self.problems(split), self.seed, "evaluate", split)
        return evaluate_groups(self.trainer, self.maker(), assignments[:limit], self.samples, self.params)

    def predict(self) -> Iterator[Round]:
        """Yield this rank's judged and credited solutions, ``problems_per_part`` problems at a time. Collective."""
        assignments = assign_problems(self.trainer, self.problems("predict"), self.seed, "predict")
        size = self.problems_per_part
        parts = [assignments[i * size : (i + 1) * size] for i in range(self._predict_parts())]
        return predict_rounds(self.trainer, self.maker(), parts, self.store, self.capability(), self.seed)

    def evaluation_loader(
        self,
        split: Split,
        evaluate: Callable[[Split, int | None], Iterator[EvaluatedGroup]],
        batches: Callable[[L.Trainer], list[int | float]],
    ) -> StreamLoader[EvaluatedGroup]:
        """Return the loader of a split, one problem a batch.

        Args:
            split: whose problems.
            evaluate: starts a pass, given split and limit: the DataModule's method, which a subclass may override.
            batches: reads Lightning's limits, see ``batch_limit``.
        """
        limit = partial(batch_limit, self.trainer, batches)
        # Nothing in the sanity check, which would sample before training starts.
        return StreamLoader(
            lambda: iter(()) if self.trainer.sanity_checking else evaluate(split, limit()),
            self._largest_share(split),
            limit,
            "evaluation",
        )

    def prediction_loader(self, predict: Callable[[], Iterator[Round]]) -> StreamLoader[Round]:
        """Return the loader of ``predict``; ``predict`` starts a pass."""
        limit = partial(batch_limit, self.trainer, lambda t: t.num_predict_batches)
        return StreamLoader(predict, self._predict_parts(), limit, "prediction")

    def _predict_parts(self) -> int:
        """Return the number of parts, the same on every rank; the last ones may be empty."""
        return -(-self._largest_share("predict") // self.problems_per_part)

    def _largest_share(self, split: str) -> int:
        """Return the largest number of problems on any rank.

        All ranks take as many batches, since gathering the policy is collective.
        """
        return -(-len(self.problems(split)) // self.trainer.world_size)
