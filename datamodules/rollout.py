"""MathRolloutDataModule: owns problems, engine, verifier, judge and credit; one batch is one optimizer step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm

from lit_tpgrpo.datamodules.feed import RoundFeed
from lit_tpgrpo.datamodules.loaders import Parcel, StepLoader, StreamLoader
from lit_tpgrpo.datamodules.parts import RolloutParts
from lit_tpgrpo.datamodules.stream import ProblemStream, derived_seed
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.fingerprint import fingerprint
from lit_tpgrpo.records import EvaluatedGroup, Problem, Round, StepBatch
from lit_tpgrpo.rollout.correction import Scorer
from lit_tpgrpo.rollout.hooks import Split, call_round_hook
from lit_tpgrpo.rollout.sampling import evaluate_problems
from lit_tpgrpo.rollout.store import RoundFile, RoundStore
from lit_tpgrpo.rollout.summary import round_line

log = logging.getLogger(__name__)


class MathRolloutDataModule(RolloutParts):
    """Streams problems and makes rollouts with the current policy, in off-policy rounds.

    The arguments are those of ``RolloutParts``.
    """

    # Defaults of the state; with an __init__ of its own, the class would hide its arguments from users' tools.
    _feed: RoundFeed | None = None
    _verdicts_void = False
    _sampled_by = ""  # fingerprint of the weights that sampled the round in hand

    # ---- training: one batch is one optimizer step ----

    def train_dataloader(self) -> StepLoader:
        epoch = self.steps_per_epoch or -(-len(self.problems("train")) // self.problems_per_step)
        return StepLoader(self.feed.next_batch, epoch)

    @property
    def feed(self) -> RoundFeed:
        """The rounds, cut into steps."""
        if self._feed is None:
            world = self._trainer.world_size
            self._feed = RoundFeed(
                self._make_round,
                solutions_per_step=max(1, self.problems_per_step * self.group_size // world),
                problems_per_round=self.problems_per_step * self.steps_per_round,
                max_empty_rounds=self.max_empty_rounds,
                most=self._most,
            )
        return self._feed

    def _most(self, value: int) -> int:
        strategy = self._trainer.strategy
        return int(strategy.reduce(torch.tensor(value, device=strategy.root_device), reduce_op="max"))  # pyright: ignore

    def _make_round(self, index: int, cursor: int, version: int | None) -> Round:
        """Round ``index``: sampled now, or (``version`` given) taken up again where a checkpoint left it."""
        trainer = self._trainer
        stream = ProblemStream(self.problems("train"), self.seed)
        count = self.problems_per_step * self.steps_per_round
        if count < trainer.world_size:
            raise ConfigError(
                f"a round of problems_per_step x steps_per_round = {count} problems is too small for "
                f"{trainer.world_size} processes: each needs one at least"
            )
        if version is None:
            version = self._begin_round(index)
        weights = self.capability.weights([p.uid for p in stream.problems])
        mine = self._mine(stream.take(cursor, count) if weights is None else stream.draw(cursor, count, weights))
        file = self._open(index, mine, version)
        if version != self.policy.policy_version and self._most(len(mine) - len(file.solutions())):
            log.warning(
                "round %d was sampled at step %d and is not on disk any more (data.keep_rounds is %d): it is sampled "
                "anew, with the weights of step %d",
                *(index, version, self.keep_rounds, self.policy.policy_version),
            )
            version = self._begin_round(index)
            file = self._open(index, mine, version)
        if self._verdicts_void:
            file.void_verdicts()
            self._verdicts_void = False
        maker = self.maker()
        self.engine.load_weights(self.policy)  # after the hooks: an audit may have judged with the same engine
        with self._autocast():
            made = maker.make(
                index,
                mine,
                file,
                self.capability,
                policy_version=version,
                seed=derived_seed(self.seed, "round", index, trainer.global_rank),
                on_group=lambda group: call_round_hook(trainer, "on_group_judged", group),
            )
            made = self._corrected(made, file, version == self.policy.policy_version)
        self._report(made)
        call_round_hook(trainer, "on_round_end", made)
        return made

    def _corrected(self, made: Round, file: RoundFile, current: bool) -> Round:
        """The round as it is trained on where the engine's log-probs are not the trainer's."""
        if self.correction is None:
            return made
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
        return RoundStore(self._store_root(), self.keep_rounds).open(
            index, self._store_meta(problems, version, self._sampled_by), self._judging_meta()
        )

    def void_verdicts(self) -> None:
        """Judge the next round anew, whatever the store holds of it: the judge has changed."""
        self._verdicts_void = True

    def _report(self, made: Round) -> None:
        self._log(dict(made.metrics) | {"round": made.index})
        self._trainer.callback_metrics.update({k: torch.tensor(float(v)) for k, v in made.metrics.items()})
        if self._trainer.is_global_zero:
            tqdm.write(round_line(made.index, made.policy_version, made.metrics))
        if made.metrics["rollout/unclosed_think_share"] == 1.0:
            rank_zero_warn(
                f"no solution of round {made.index} closes its think block: answers are looked for after </think> only, "
                "so none can score. Take a reasoning model, or raise sampling.max_new_tokens"
            )

    # ---- evaluation and prediction: finished work, streamed ----

    def evaluate(self, split: Split) -> Iterator[EvaluatedGroup]:
        """Sample ``eval_samples`` solutions of each problem of a split with the current policy, and verify them."""
        policy = self.policy
        problems = self._mine(self.problems(split))
        self.engine.load_weights(policy)
        self.engine.wake()
        try:
            with self._autocast():
                yield from evaluate_problems(
                    self.engine,
                    self.verifier,
                    policy.tokenizer,
                    problems,
                    self.eval_samples,
                    self.eval_sampling,
                    template=self.prompt_template,
                    seed=derived_seed(self.seed, "evaluate", split, self._trainer.global_rank),
                    policy_version=policy.policy_version,
                    desc=f"evaluating {split}",
                    show=self._show,
                )
        finally:
            self.engine.sleep()

    def predict_rounds(self) -> Iterator[Round]:
        """Judged and credited solutions of the predict problems, ``problems_per_step`` problems at a time."""
        policy, maker = self.policy, self.maker()
        weights = fingerprint(policy.named_tensors())
        mine, size = self._mine(self.problems("predict")), self.problems_per_step
        for index, start in enumerate(range(0, len(mine), size)):
            part = mine[start : start + size]
            meta = self._store_meta(part, policy.policy_version, weights)
            self.engine.load_weights(policy)  # each time: an engine that slept has none
            with self._autocast():
                made = maker.make(
                    index,
                    part,
                    RoundStore(self._store_root() / "predict").open(index, meta, self._judging_meta()),
                    self.capability,
                    policy_version=policy.policy_version,
                    seed=derived_seed(self.seed, "predict", index, self._trainer.global_rank),
                )
            yield made

    def val_dataloader(self) -> StreamLoader[EvaluatedGroup] | list:
        if self.sources["val"] is None:
            return []
        return StreamLoader(self._validation_groups, len(self._mine(self.problems("val"))))

    def _validation_groups(self) -> Iterator[EvaluatedGroup]:
        """Nothing in the sanity check: it would sample before anybody asked for it."""
        if not self._trainer.sanity_checking:
            yield from self.evaluate("val")

    def test_dataloader(self) -> StreamLoader[EvaluatedGroup]:
        return StreamLoader(lambda: self.evaluate("test"), len(self._mine(self.problems("test"))))

    def predict_dataloader(self) -> StreamLoader[Round]:
        return StreamLoader(
            self.predict_rounds, -(-len(self._mine(self.problems("predict"))) // self.problems_per_step)
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Unpack what the loaders made; groups and rounds are text and plain numbers, of which nothing has to move."""
        content = batch.content if isinstance(batch, Parcel) else batch
        return content.to(device) if isinstance(content, StepBatch) else content

    # ---- state and shutdown ----

    def state_dict(self) -> dict[str, Any]:
        feed = self.feed.state_dict(self.policy.policy_version)
        return feed | {"store_dir": self.store_dir or "", "sampled_by": self._sampled_by}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self.store_dir = state.pop("store_dir") or self.store_dir
        self._sampled_by = state.pop("sampled_by")
        self.feed.load_state_dict(state)

    def on_exception(self, exception: BaseException) -> None:
        self._close()

    def teardown(self, stage: str) -> None:
        self._close()

    def _close(self) -> None:
        """Free processes and references; all parts start again when they are next used."""
        for part in (self.engine, self.verifier, self.judge):
            part.close()
