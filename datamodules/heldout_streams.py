"""Loaders of validation, test and prediction: problems are sampled when their batch is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import lightning as L

from lit_tpgrpo.datamodules.loaders import StreamLoader
from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.engines.checks import stop_ids
from lit_tpgrpo.evaluation.sampling import evaluate_tasks
from lit_tpgrpo.evaluation.sets import HeldoutSet, assign_tasks, set_limit
from lit_tpgrpo.evaluation.store import EvaluationStore
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.records import EvaluatedGroup, Problem, Round
from lit_tpgrpo.rollout.assignments import assign_problems
from lit_tpgrpo.rollout.capability import Capability
from lit_tpgrpo.rollout.heldout import predict_rounds
from lit_tpgrpo.rollout.hooks import Split
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.run_folder import run_folder
from lit_tpgrpo.rollout.run_store import RunStore
from lit_tpgrpo.rollout.trainer_state import batch_limit, policy_of
from lit_tpgrpo.search.engine import SearchingEngine

Limit = int | float | None


@dataclass(frozen=True)
class HeldoutStreams:
    """Evaluate and predict held-out problems with the current policy.

    Args:
        trainer: of the run; its module is the policy.
        sets: returns the evaluation sets of a split.
        problems: returns the problems of a split.
        maker: returns the stages of a round.
        seed: of sampling.
        problems_per_part: problems of one rank in a prediction batch.
        store: where evaluated groups and predictions are stored as they complete.
        capability: returns what scales r_c in predictions.
    """

    trainer: L.Trainer
    sets: Callable[[str], Sequence[HeldoutSet]]
    problems: Callable[[str], Sequence[Problem]]
    maker: Callable[[], RoundMaker]
    seed: int
    problems_per_part: int
    store: RunStore
    capability: Callable[[], Capability]

    def evaluate(self, split: Split, limit: Limit = None) -> Iterator[EvaluatedGroup]:
        """Yield this rank's evaluated groups of a split; ``limit`` as in ``assign_tasks``. Collective."""
        sets, maker = self.sets(split), self.maker()
        store = self._open(split, sets, maker)
        tasks = assign_tasks(self.trainer, sets, self.seed, split, limit)
        yield from evaluate_tasks(self.trainer, maker, tasks, store)

    def _open(self, split: Split, sets: Sequence[HeldoutSet], maker: RoundMaker) -> EvaluationStore:
        policy = policy_of(self.trainer)
        version, weights = policy.policy_version, fingerprint(policy.named_tensors())
        settings = maker.policy_settings(version, weights, self.seed)
        # Of an engine that searches: the one that samples. The search is in the maker's settings.
        sampler = maker.engine.engine if isinstance(maker.engine, SearchingEngine) else maker.engine
        engine = {"engine": type(sampler).__name__, "engine_dtype": str(getattr(sampler, "dtype", None))}
        # A hash: settings.json holds no values of options, which may be secret (vLLM's hf_token).
        options = repr(sorted(getattr(sampler, "options", {}).items())).encode()
        engine["engine_options"] = hashlib.blake2b(options, digest_size=6).hexdigest()
        ends = stop_ids(policy.policy_model, cast(int | None, policy.tokenizer.eos_token_id))
        settings |= engine | {"precision": str(self.trainer.precision), "end_ids": ends}
        sampled: dict[str, Any] = {s.name: [s.sampling.samples, repr(s.sampling.params)] for s in sets}
        root, rank = run_folder(self.trainer) / "evaluation", self.trainer.global_rank
        store = EvaluationStore(root, split, settings, sampled, version, rank, self.store.evaluations)
        with raise_on_all_ranks("opening the evaluation's folder"):
            store.open()
        self.store.evaluation_folder = store.folder
        return store

    def predict(self) -> Iterator[Round]:
        """Yield this rank's judged and credited solutions, ``problems_per_part`` problems at a time. Collective."""
        assignments = assign_problems(self.trainer, self.problems("predict"), self.seed, "predict")
        size = self.problems_per_part
        parts = [assignments[i * size : (i + 1) * size] for i in range(self._predict_parts())]
        return predict_rounds(self.trainer, self.maker(), parts, self.store, self.capability(), self.seed)

    def evaluation_loader(
        self,
        split: Split,
        evaluate: Callable[[Split, Any], Iterator[EvaluatedGroup]],
        batches: Callable[[L.Trainer], list[int | float]],
    ) -> StreamLoader[EvaluatedGroup] | StreamLoader[tuple[EvaluatedGroup, ...]]:
        """Return the loader of a split.

        A batch is one problem. Where sets have names, it is a tuple of groups, so that Lightning's limits hold for each set:
        with ``limit_val_batches: 2`` its two batches share the first two problems (on each rank) of every set between them.

        Args:
            split: whose problems.
            evaluate: starts a pass, given split and limit: the DataModule's method, which a subclass may override.
            batches: reads Lightning's limits, see ``batch_limit``.
        """
        limit = partial(batch_limit, self.trainer, batches)
        length = self._largest_share(split)
        has_names = [s.name for s in self.sets(split)] != [""]

        def start() -> Iterator[Any]:
            if self.trainer.sanity_checking:  # it would sample before training starts
                return iter(())
            return self._packed(split, evaluate, limit()) if has_names else evaluate(split, limit())

        return StreamLoader(start, length, limit, "evaluation")

    def _packed(
        self, split: Split, evaluate: Callable[[Split, Any], Iterator[EvaluatedGroup]], batches: int | None
    ) -> Iterator[tuple[EvaluatedGroup, ...]]:
        """Yield this rank's groups in as many batches as Lightning will take, the same number on each rank."""
        limit = given_limit(self.trainer, split)
        sets, ranks = self.sets(split), self.trainer.world_size
        each = [len(s.problems) if limit is None else set_limit(limit, len(s.problems), ranks) * ranks for s in sets]
        largest = -(-sum(min(n, len(s.problems)) for n, s in zip(each, sets, strict=True)) // ranks)
        wanted = min(batches or self._largest_share(split), self._largest_share(split))
        groups = evaluate(split, limit)
        done = 0
        try:
            for number in range(1, wanted + 1):
                until = -(-largest * number // wanted) if number < wanted else None
                batch: list[EvaluatedGroup] = []
                while (until is None or done < until) and (group := next(groups, None)) is not None:
                    batch.append(group)
                    done += 1
                yield tuple(batch)
        finally:
            if isinstance(groups, Generator):
                groups.close()  # the engine sleeps

    def prediction_loader(self, predict: Callable[[], Iterator[Round]]) -> StreamLoader[Round]:
        """Return the loader of ``predict``; ``predict`` starts a pass."""
        limit = partial(batch_limit, self.trainer, lambda t: t.num_predict_batches)
        return StreamLoader(predict, self._predict_parts(), limit, "prediction")

    def _predict_parts(self) -> int:
        """Return the number of parts, the same on every rank; the last ones may be empty."""
        largest = -(-len(self.problems("predict")) // self.trainer.world_size)
        return -(-largest // self.problems_per_part)

    def _largest_share(self, split: str) -> int:
        """Return the largest number of problems on any rank.

        All ranks take as many batches, since gathering the policy is collective.
        """
        return -(-sum(len(s.problems) for s in self.sets(split)) // self.trainer.world_size)


def given_limit(trainer: L.Trainer, split: Split) -> Limit:
    """Return the Trainer's ``limit_val_batches`` (``limit_test_batches``) as it was given; None for all."""
    limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
    return None if limit is None or (isinstance(limit, float) and limit >= 1) else limit
