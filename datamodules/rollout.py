"""MathRolloutDataModule: owns problems, engine, verifier, judge and credit; one batch is one optimizer step."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from tqdm.auto import tqdm

from lit_tpgrpo.datamodules.loaders import OpaqueBatch, StreamLoader, TrainBatchLoader
from lit_tpgrpo.datamodules.parts import RolloutParts
from lit_tpgrpo.datamodules.stream import ProblemStream
from lit_tpgrpo.datamodules.train_batches import TrainBatchStream
from lit_tpgrpo.distributed import gather, gather_sum, raise_on_all_ranks
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.judges.base import WritingJudge
from lit_tpgrpo.records import EvaluatedGroup, Problem, Round, TrainBatch
from lit_tpgrpo.rollout.correction import MismatchTally, Scorer, warn_of_mismatch
from lit_tpgrpo.rollout.hooks import Split, call_round_hook
from lit_tpgrpo.rollout.rounds import Assignment, stored_groups
from lit_tpgrpo.rollout.run_lock import RunLock
from lit_tpgrpo.rollout.sampling import evaluate_problems
from lit_tpgrpo.rollout.store import RoundFile, RoundStore
from lit_tpgrpo.rollout.summary import round_line
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.signals import STOP, OutOfTimeError, unless_out_of_time
from lit_tpgrpo.training.closing_lines import print_ending

log = logging.getLogger(__name__)


class MathRolloutDataModule(RolloutParts):
    """Streams problems and makes rollouts with the current policy, in off-policy rounds.

    The arguments are those of ``RolloutParts``.
    """

    # Defaults of the state; with an __init__ of its own, the class would hide its arguments from users' tools.
    _feed: TrainBatchStream | None = None
    _verdicts_invalid = False
    _sampled_by = ""  # fingerprint of the weights that sampled the round in hand
    _inherited: tuple[Path, ...] = ()  # rounds of the runs that this one was resumed from, the nearest first
    _lock: RunLock | None = None

    def prepare_data(self) -> None:
        """Lock the run's folders, before the loggers are opened."""
        if self.trainer is not None and self.trainer.is_global_zero:
            self._lock = self._lock or RunLock()
            self._lock.take(self.trainer, self.store_dir)

    def setup(self, stage: str) -> None:
        """Raise where another run holds one of them, or the judge cannot write, before anything is sampled."""
        self._lock = self._lock or RunLock()
        self._lock.confirm(self._trainer, self.store_dir)
        if stage in ("fit", "predict") and isinstance(self.judge, WritingJudge):
            with raise_on_all_ranks("checking the judge's folder"):
                self.judge.check_writable()

    # ---- training: one batch is one optimizer step ----

    def train_dataloader(self) -> TrainBatchLoader:
        problems = self.problems("train")  # also where their number is not asked for: before anything is sampled
        return TrainBatchLoader(self._next_batch, self.steps_per_epoch or -(-len(problems) // self.problems_per_step))

    @property
    def feed(self) -> TrainBatchStream:
        """The rounds, cut into steps."""
        if self._feed is None:
            self._feed = TrainBatchStream(
                self._make_round,
                solutions_per_step=self.problems_per_step * self.group_size,
                problems_per_round=self._problems_per_round(),
                max_empty_rounds=self.max_empty_rounds,
                gather_indices=lambda own: sorted(itertools.chain(*gather(list(own)))),
            )
        return self._feed

    def _problems_per_round(self) -> int:
        steps = self.steps_per_round
        if (dev_run := self._trainer.fast_dev_run) is not False:  # pyright: ignore[reportAttributeAccessIssue]
            steps = min(steps, int(dev_run))
        return self.problems_per_step * steps

    def _make_round(self, index: int, cursor: int, version: int | None) -> Round:
        """Round ``index``: sampled now, or (``version`` given) taken up again where a checkpoint left it."""
        trainer = self._trainer
        stream = ProblemStream(self.problems("train"), self.seed)
        count = self._problems_per_round()
        if version is None:
            version = self._begin_round(index)
        weights = self.capability.weights([p.uid for p in stream.problems])
        problems = stream.take(cursor, count) if weights is None else stream.draw(cursor, count, weights)
        mine = self._assigned(problems, "round", index)
        file = self._open(index, problems, version)
        if version != self.policy.policy_version and any(gather(self._lacks(file, mine, version))):
            log.warning(
                "round %d was sampled at step %d and is not whole on disk any more (data.keep_rounds is %d): all of it is "
                "sampled again, with the weights of step %d",
                *(index, version, self.keep_rounds, self.policy.policy_version),
            )
            version = self._begin_round(index)
            file = self._open(index, problems, version)
        maker = self.maker()
        self.engine.load_weights(self.policy)  # after the hooks: an audit may have judged with the same engine
        with self._autocast():
            with raise_on_all_ranks(f"round {index}"), STOP.until(self._out_of_time):
                result = unless_out_of_time(
                    lambda: maker.make(
                        index,
                        mine,
                        file,
                        self.capability,
                        policy_version=version,
                        on_group=lambda group: call_round_hook(trainer, "on_group_judged", group),
                    )
                )
            if any(gather(result is None)) or result is None:  # all processes are asked, then the type checker
                self.engine.sleep()
                raise OutOfTimeError
            made, tally = result
            made, mismatch = self._corrected(made, file, version == self.policy.policy_version)
        made = replace(
            made, metrics=gather_sum(tally).metrics() | ({} if mismatch is None else gather_sum(mismatch).metrics())
        )
        self._report(made)
        call_round_hook(trainer, "on_round_end", made)
        return made

    def _out_of_time(self) -> bool:
        """Whether ``max_time`` (a Timer) is over and training may end: it would see so at the next optimizer step only."""
        left = [c.time_remaining() for c in self._trainer.callbacks if isinstance(c, Timer)]  # pyright: ignore[reportAttributeAccessIssue]
        return any(t is not None and t <= 0 for t in left) and self._trainer.fit_loop._can_stop_early

    def _next_batch(self) -> TrainBatch | None:
        """None ends the training loop, as ``max_time`` does at an optimizer step."""
        try:
            return self.feed.next_batch()
        except OutOfTimeError:
            self._trainer.should_stop = True
            rank_zero_info(
                "The time limit (max_time) was reached while a round was made: what it has so far is stored."
            )
            return None

    def _lacks(self, file: RoundFile, mine: list[Assignment], version: int) -> bool:
        """Whether groups of this process are not on disk as they were sampled."""
        return len(stored_groups(file, mine, self.group_size, version)) < len(mine)

    def _corrected(self, made: Round, file: RoundFile, current: bool) -> tuple[Round, MismatchTally | None]:
        """The round as it is trained on where the engine's log-probs are not the trainer's."""
        if self.correction is None:
            return made, None
        scorer = self._trainer.lightning_module
        if not isinstance(scorer, Scorer):
            raise ConfigError(
                f"data.correction needs a module that scores completions, and {type(scorer).__name__} has no "
                "completion_logprobs; use TPGRPOModule, add the method, or set data.correction to off"
            )
        cut = self.sampling.top_p < 1 or self.sampling.top_k > 0
        return self.correction.apply(made, file, scorer, current, cut)

    def _begin_round(self, index: int) -> int:
        """The policy of this moment samples the round: its version."""
        self._sampled_by = fingerprint(self.policy.named_tensors())
        call_round_hook(self._trainer, "on_round_start", index)
        return self.policy.policy_version

    def _open(self, index: int, problems: list[Problem], version: int) -> RoundFile:
        """The round's place on disk. One process of the run, then one of each machine, makes it ready for the others."""
        trainer = self._trainer
        store = RoundStore(self._store_root(), self.keep_rounds, trainer.global_rank, self._inherited)
        meta, judging = self._store_meta(problems, version, self._sampled_by), self._judging_meta()
        for first in (trainer.is_global_zero, trainer.local_rank == 0):
            with raise_on_all_ranks(f"opening round {index}"):
                if first:
                    file = store.open(index, meta, judging)
                    if self._verdicts_invalid:
                        file.invalidate_verdicts()
                        self._verdicts_invalid = False
        self._verdicts_invalid = False
        return store.open(index, meta, judging)

    def invalidate_verdicts(self) -> None:
        """Judge the next round anew, whatever the store holds of it: the judge has changed."""
        self._verdicts_invalid = True

    def _report(self, made: Round) -> None:
        self._log(dict(made.metrics) | {"round": made.index})
        self._trainer.callback_metrics.update({k: torch.tensor(float(v)) for k, v in made.metrics.items()})
        if self._trainer.is_global_zero:
            tqdm.write(round_line(made.index, made.policy_version, made.metrics))
        if made.metrics["rollout/undecided_share"] > 0:
            rank_zero_warn(
                f"{made.metrics['rollout/undecided_share']:.1%} of the solutions of round {made.index} are undecided and left "
                "out: verifier workers were killed or did not get to run. Free memory, or lower verifier.workers"
            )
        if "mismatch/kept_mass" not in made.metrics:  # else the distance is also that of what top_p or top_k left
            warn_of_mismatch(made.metrics.get("mismatch/kl", 0.0), made.index)
        if made.metrics["rollout/unclosed_think_share"] == 1.0:
            rank_zero_warn(
                f"no solution of round {made.index} closes its think block: answers are looked for after </think> only, "
                "so none can score. Take a reasoning model, or raise sampling.max_new_tokens"
            )

    # ---- evaluation and prediction: finished work, streamed ----

    def evaluate(self, split: Split, limit: int | None = None) -> Iterator[EvaluatedGroup]:
        """Sample ``eval_samples`` solutions of each problem of a split with the current policy, and verify them.

        Args:
            split: whose problems.
            limit: this process's first so many problems only.
        """
        policy = self.policy
        mine = self._assigned(self.problems(split), "evaluate", split)[:limit]
        self.engine.load_weights(policy)
        self.engine.wake()
        try:
            with self._autocast():
                for group in evaluate_problems(
                    self.engine,
                    self.verifier,
                    policy.tokenizer,
                    [a.problem for a in mine],
                    [a.seed for a in mine],
                    self.eval_samples,
                    self.eval_sampling,
                    template=self.prompt_template,
                    policy_version=policy.policy_version,
                ):
                    STOP.check()
                    yield group
        finally:
            self.engine.sleep()

    def predict_rounds(self) -> Iterator[Round]:
        """Judged and credited solutions of the predict problems, ``problems_per_step`` problems at a time and process."""
        policy, maker, rank = self.policy, self.maker(), self._trainer.global_rank
        weights = fingerprint(policy.named_tensors())
        mine, size = self._assigned(self.problems("predict"), "predict"), self.problems_per_step
        for index in range(self._predict_parts()):
            part = mine[index * size : (index + 1) * size]
            meta = self._store_meta([a.problem for a in part], policy.policy_version, weights)
            self.engine.load_weights(policy)  # each time: an engine that slept has none
            with self._autocast():
                store = RoundStore(self._store_root() / "predict" / f"rank_{rank}")
                file = store.open(index, meta, self._judging_meta())
                with raise_on_all_ranks(f"prediction, part {index},"):
                    made, _ = maker.make(index, part, file, self.capability, policy_version=policy.policy_version)
            yield made

    def _predict_parts(self) -> int:
        """As many on every process: the last ones may be empty."""
        return -(-self._largest_share("predict") // self.problems_per_step)

    def _largest_share(self, split: str) -> int:
        """Problems of the process that has most: all have as many batches, for the policy may be gathered for them."""
        return -(-len(self.problems(split)) // self._trainer.world_size)

    def _assigned(self, problems: list[Problem], *purpose: object) -> list[Assignment]:
        """This process's problems, dealt out one by one: groups are whole on one process, so baselines need no
        communication. Places and seeds are those of any number of processes."""
        trainer = self._trainer
        return [
            Assignment(group_index, problem, derived_seed(self.seed, *purpose, group_index))
            for group_index, problem in enumerate(problems)
            if group_index % trainer.world_size == trainer.global_rank
        ]

    def val_dataloader(self) -> StreamLoader[EvaluatedGroup] | list:
        """One problem a batch, sampled and verified when it is asked for."""
        return [] if self.sources["val"] is None else self._evaluation_loader("val", lambda t: t.num_val_batches)

    def test_dataloader(self) -> StreamLoader[EvaluatedGroup]:
        return self._evaluation_loader("test", lambda t: t.num_test_batches)

    def predict_dataloader(self) -> StreamLoader[Round]:
        """``problems_per_step`` problems a batch, sampled, verified and judged when it is asked for."""
        limit = partial(self._limit, lambda t: t.num_predict_batches)
        return StreamLoader(self.predict_rounds, self._predict_parts(), limit, "prediction")

    def _evaluation_loader(
        self, split: Split, batches: Callable[[L.Trainer], list[int | float]]
    ) -> StreamLoader[EvaluatedGroup]:
        limit = partial(self._limit, batches)
        # Nothing in the sanity check: it would sample before anybody asked for it.
        return StreamLoader(
            lambda: iter(()) if self._trainer.sanity_checking else self.evaluate(split, limit()),
            self._largest_share(split),
            limit,
            "evaluation",
        )

    def _limit(self, batches: Callable[[L.Trainer], list[int | float]]) -> int | None:
        """Batches that Lightning will take of a loader; None where it has other loaders beside ours, or all."""
        wanted = batches(self._trainer)
        return int(wanted[0]) if len(wanted) == 1 and math.isfinite(wanted[0]) else None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Unpack what the loaders made; groups and rounds are text and plain numbers, of which nothing has to move."""
        content = batch.content if isinstance(batch, OpaqueBatch) else batch
        return content.to(device) if isinstance(content, TrainBatch) else content

    # ---- state and shutdown ----

    def state_dict(self) -> dict[str, Any]:
        feed = self.feed.state_dict(self.policy.policy_version)
        return feed | {
            "store_dir": str(self._store_root().absolute()),
            "inherited": [str(folder) for folder in self._inherited],
            "sampled_by": self._sampled_by,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Where rounds are written is not the checkpoint's to say: two runs may go on from it side by side."""
        state = dict(state_dict)
        told = [Path(folder) for folder in (state.pop("store_dir"), *state.pop("inherited", ()))]
        self._inherited = tuple(dict.fromkeys(p for p in (*self._beside_checkpoint(), *told) if p.is_dir()))
        self._sampled_by = state.pop("sampled_by")
        self.feed.load_state_dict(state)

    def _beside_checkpoint(self) -> list[Path]:
        """Where the rounds of a run's folder are that was moved or copied with its checkpoints."""
        path = self._trainer.ckpt_path
        return [] if path is None else [(folder / "rounds").absolute() for folder in list(Path(path).parents)[:2]]

    def on_exception(self, exception: BaseException) -> None:
        """Close the parts; one that fails to must not hide what went wrong before."""
        for error in self._close():
            log.error("after %s: a part could not be closed", type(exception).__name__, exc_info=error)

    def teardown(self, stage: str) -> None:
        errors = self._close()
        if stage == "fit" and self.trainer is not None:
            print_ending(self.trainer)
        for error in errors:
            raise error

    def _close(self) -> list[Exception]:
        """Free processes and references; all parts start again when they are next used. Returns what failed."""
        errors = []
        for part in (self.engine, self.verifier, self.judge):
            try:
                part.close()
            except Exception as error:  # the others are closed all the same
                errors.append(error)
        if self._lock is not None:
            self._lock.release()
        return errors
