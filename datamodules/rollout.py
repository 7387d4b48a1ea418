"""MathRolloutDataModule: owns problems, engine, verifier, judge and credit; one batch is one optimizer step."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.credit.batch.base import BatchStage
from lit_tpgrpo.credit.filters.base import GroupFilter
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.datamodules.closing import Closable, close_all
from lit_tpgrpo.datamodules.dynamic_sampling import DynamicSampling
from lit_tpgrpo.datamodules.heldout_streams import HeldoutStreams
from lit_tpgrpo.datamodules.loaders import OpaqueBatch, StreamLoader, TrainBatchLoader
from lit_tpgrpo.datamodules.mixture_stream import problem_stream
from lit_tpgrpo.datamodules.round_factory import RoundFactory
from lit_tpgrpo.datamodules.schedules import SCHEDULES, Parts, ScheduleName
from lit_tpgrpo.datamodules.settings_checks import (
    check_counts,
    check_filter,
    check_providers,
    check_sampling,
    check_trains,
    checked_evidence,
)
from lit_tpgrpo.datamodules.sources.evaluation_set import HeldoutProblems, as_heldout
from lit_tpgrpo.datamodules.sources.memory import Problems, as_optional_source
from lit_tpgrpo.datamodules.splits import ProblemSplits, split_sources, without_copies
from lit_tpgrpo.datamodules.stream import ProblemStream
from lit_tpgrpo.datamodules.train_batches import BatchSchedule, WorksAhead
from lit_tpgrpo.distributed import gather, raise_on_all_ranks
from lit_tpgrpo.engines.base import Engine, Interruptible, Policy, SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.evaluation.sets import HeldoutSet, SetSampling
from lit_tpgrpo.judges.base import Judge, WritingJudge
from lit_tpgrpo.judges.evidence.base import EvidenceProvider
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.records import EvaluatedGroup, Problem, Round, TrainBatch
from lit_tpgrpo.rewards.weighted import GivenRewards, as_rewards
from lit_tpgrpo.rollout.capability import Capability, GroupAccuracy
from lit_tpgrpo.rollout.correction import GivenCorrection, as_correction
from lit_tpgrpo.rollout.evidence_state import evidence_state, learnt, load_evidence_state
from lit_tpgrpo.rollout.filters import KeepName, KeepRule, TruncatedName, as_keep_rule, keep_all, with_truncated
from lit_tpgrpo.rollout.hooks import Split, shows_bars
from lit_tpgrpo.rollout.monitors import check_between_rounds, forget_reasons
from lit_tpgrpo.rollout.prompt_view import FirstPrompt
from lit_tpgrpo.rollout.prompts import INSTRUCTION, RolloutPrompt
from lit_tpgrpo.rollout.reference import needs_reference, reference_scorer_of
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.run_lock import RunLock
from lit_tpgrpo.rollout.run_store import RunStore
from lit_tpgrpo.rollout.step_cuts import StepSizes
from lit_tpgrpo.rollout.trainer_state import dev_run_steps, is_dev_run, log_to_all, may_stop, overfit_steps, policy_of
from lit_tpgrpo.search.engine import SearchingEngine
from lit_tpgrpo.signals import STOP, OutOfTimeError
from lit_tpgrpo.text.formats.base import SolutionFormat
from lit_tpgrpo.text.formats.think_tags import ThinkTags
from lit_tpgrpo.training.closing_lines import print_ending
from lit_tpgrpo.verify.base import Verifier
from lit_tpgrpo.verify.function import GivenVerifier, as_verifier
from lit_tpgrpo.verify.verifier import MathVerifier

log = logging.getLogger(__name__)


@checked_arguments(
    train=as_optional_source,
    val=as_heldout,
    test=as_heldout,
    predict=as_optional_source,
    verifier=as_verifier,
    keep=as_keep_rule,
    correction=as_correction,
    rewards=as_rewards,
)
class MathRolloutDataModule(L.LightningDataModule):
    """Stream batches of credited solutions, sampled from the current policy in off-policy rounds.

    Args:
        train: problems to train on; needed by ``fit``. A problem source, or in Python a list of ``Problem`` or of dicts, a
            ``datasets.Dataset``, a table (see ``MemoryProblems``); the same holds for the next three.
        val: held-out problems, for ``validate`` and for evaluation between rounds. Or several evaluation sets by name, whose
            metrics are logged under ``eval/NAME/``; see ``EvaluationSet`` for sets with their own samples.
        test: problems of ``test``, likewise; by default those of ``val``.
        predict: problems of ``predict``; by default those of ``val``, of all its sets.
        engine: samples solutions; by default transformers on the policy's own weights.
        verifier: decides outcomes; or a function ``(gold, answer) -> bool``, on the command line by its path
            (see ``FunctionVerifier``).
        judge: labels steps; by default the rule judge.
        credit: turns labels into token advantages; by default TP-GRPO's.
        evidence: one or several providers of what a credit or filter needs besides labels (``lit_tpgrpo.judges.evidence``). In
            ``predict`` those alone that the credit needs.
        group_filter: drops solutions before their group's statistics (``lit_tpgrpo.credit.filters``), but not in ``predict``.
        batch_stage: rescales the advantages of a whole round (``lit_tpgrpo.credit.batch``), but not those of ``predict``.
        group_size: solutions per problem, at least 2.
        problems_per_step: problems whose solutions make up one optimizer step, over all ranks.
        steps_per_round: optimizer steps' worth of problems that are sampled before training on them.
        keep: which solutions are trained on; the paper's filter is ``nonzero_process_reward``, its exact threshold unpublished.
            Or a function ``(CreditedSolution) -> bool``, on the command line by its dotted path, or the path of a class of such
            objects.
        sampling: how training solutions are sampled; the paper's temperature and lengths are unpublished.
        eval_sampling: how evaluation samples; by default as training does.
        eval_samples: solutions per held-out problem, unless its ``EvaluationSet`` says otherwise.
        format: how a solution divides into thinking and answer block; by default ``ThinkTags()``, an answer after
            ``</think>``.
        prompt_template: the user turn, with ``{problem}``; the paper's is unpublished.
        system_prompt: the system turn; "" leaves it to the chat template, which may write one of its own.
        chat_template_kwargs: variables of the chat template, such as ``enable_thinking: false``.
        apply_chat_template: False: ``prompt_template`` is all of the prompt, though the tokenizer has a chat template; for base
            models whose tokenizer has one (Qwen2.5), and for solved examples in a text that the model goes on with.
        show_prompt: print the first prompt and where its parts begin, once.
        max_prompt_tokens: longest prompt; ``on_long_prompt`` decides what happens to longer ones.
        on_long_prompt: ``skip`` them with a count, or ``stop``.
        correction: importance weights that correct the engine-trainer log-prob mismatch: ``method``, ``cap`` and ``floor`` (see
            ``lit_tpgrpo.rollout.correction.Correction``), or a method alone; ``auto`` is ``token_truncate`` for an engine with
            such a mismatch (vLLM) and ``off`` for others. Costs a forward pass over the solutions that are trained on.
        rewards: terms of the reward by name, each with a weight (see ``lit_tpgrpo.rewards``); by default the outcome's, +1 or
            -1.
        truncated: what becomes of solutions that the token limit cut off: ``rewarded`` as any other (they are incorrect
            unless they have an answer), or ``masked``: they count in their group's statistics and are left out of the loss
            and its denominators.
        dynamic_sampling: refill rounds until they have as many groups that teach as they were asked for (``max_refills``,
            ``groups``; see ``lit_tpgrpo.datamodules.dynamic_sampling``); off by default.
        steps_per_epoch: length of the training loader; by default one pass over the problems.
        store_dir: where rounds are written; by default ``rounds`` in the run's folder (``rollout.run_folder``). A resumed run
            writes there as well, after copying the current round from the run that it was resumed from.
        keep_rounds: newest rounds that stay on disk; 0 keeps all.
        max_empty_rounds: rounds in a row with nothing to train on after which training stops with an error.
        seed: of problem order and sampling; by default that of ``seed_everything``.
        progress: show bars of sampling and judging, unless the Trainer's ``enable_progress_bar`` is off.
        schedule: how the stages of a round follow one another: ``serial``, or ``streamed``: solutions are verified and judged
            while others are being sampled, with the same numbers (see docs/judges.md). Verifier and judge are then called from
            other threads than the main one, and a policy that judges itself samples its replies with ``HFEngine``, or the
            engine that its ``LocalChat`` has, not with ``engine``. For engines on servers (see docs/engines.md) also
            ``pipelined``: likewise, and the trainer begins with a round's first steps while the rest is made, with the same
            numbers; and ``ahead``: each round is made while the trainer works on the one before, with the weights with which
            that began.
        step_sizes: how the kept solutions of a round, in order, become optimizer steps: ``even``, as many as
            ``problems_per_step * group_size`` goes into, all of one size; or ``full``: each of just that many, but the last of
            half to one and a half times as many. By default that of the schedule: ``full`` for ``pipelined``, else ``even``.
    """

    RENAMED_ARGUMENTS: ClassVar = {"correction_cap": "correction.cap", "correction_floor": "correction.floor"}

    def __init__(
        self,
        train: Problems | None = None,
        val: HeldoutProblems | None = None,
        test: HeldoutProblems | None = None,
        predict: Problems | None = None,
        engine: Engine | None = None,
        verifier: GivenVerifier | None = None,
        judge: Judge | None = None,
        credit: CreditAssignment | None = None,
        group_size: int = 8,
        problems_per_step: int = 5,
        steps_per_round: int = 50,
        keep: KeepName | KeepRule = "nonzero_advantage",
        sampling: SamplingParams | None = None,
        eval_sampling: SamplingParams | None = None,
        eval_samples: int = 4,
        format: SolutionFormat | None = None,
        prompt_template: str = INSTRUCTION,
        system_prompt: str = "",
        chat_template_kwargs: dict[str, Any] | None = None,
        apply_chat_template: bool = True,
        show_prompt: bool = True,
        max_prompt_tokens: int = 1024,
        on_long_prompt: Literal["skip", "stop"] = "skip",
        correction: GivenCorrection = "auto",
        rewards: GivenRewards | None = None,
        truncated: TruncatedName = "rewarded",
        dynamic_sampling: DynamicSampling | None = None,
        evidence: EvidenceProvider | list[EvidenceProvider] | None = None,
        group_filter: GroupFilter | None = None,
        batch_stage: BatchStage | None = None,
        steps_per_epoch: int | None = None,
        store_dir: str | Path | None = None,
        keep_rounds: int = 2,
        max_empty_rounds: int = 5,
        seed: int | None = None,
        progress: bool = True,
        schedule: ScheduleName = "serial",
        step_sizes: StepSizes | None = None,
    ) -> None:
        super().__init__()
        check_counts(
            group_size,
            keep_rounds,
            problems_per_step=problems_per_step,
            steps_per_round=steps_per_round,
            eval_samples=eval_samples,
            max_prompt_tokens=max_prompt_tokens,
            max_empty_rounds=max_empty_rounds,
            steps_per_epoch=1 if steps_per_epoch is None else steps_per_epoch,
        )
        self.engine = HFEngine() if engine is None else engine
        sampler = self.engine.engine if isinstance(self.engine, SearchingEngine) else self.engine
        if isinstance(sampler, Interruptible):
            sampler.while_waiting = STOP.check
        self._order = SCHEDULES[schedule]
        self.correction = self._order.correction(as_correction(correction, "correction"), self.engine)
        check_sampling(self.engine, sampling, self.correction)
        self.verifier = MathVerifier() if verifier is None else cast(Verifier, verifier)
        self.judge = RuleJudge() if judge is None else judge
        self.credit = ThoughtCredit() if credit is None else credit
        self.evidence = checked_evidence(evidence, self.credit, group_filter, batch_stage)
        self.sampling = SamplingParams() if sampling is None else sampling
        self._order.check(
            Parts(
                self.engine,
                self.judge,
                self.evidence,
                dynamic_sampling,
                group_filter,
                batch_stage,
                self.correction,
                self.sampling,
                step_sizes,
            )
        )
        self.step_sizes: StepSizes = self._order.step_sizes if step_sizes is None else step_sizes
        self._order.share_engine(self.judge, sampler)  # what a judge says is sampled, never searched for
        check_filter(group_filter, group_size)
        self.group_filter, self.batch_stage = group_filter, batch_stage
        self.group_size, self.problems_per_step, self.steps_per_round = group_size, problems_per_step, steps_per_round
        self.keep = with_truncated(as_keep_rule(keep, "keep"), truncated)
        self.rewards = as_rewards(rewards, "rewards")
        self.dynamic_sampling = dynamic_sampling
        self.eval_sampling = self.sampling if eval_sampling is None else eval_sampling
        self.eval_samples = eval_samples
        self.format = ThinkTags() if format is None else format
        self.prompt_template, self.max_prompt_tokens = prompt_template, max_prompt_tokens
        self.system_prompt, self.chat_template_kwargs = system_prompt, chat_template_kwargs or {}
        self.show_prompt = show_prompt
        self.apply_chat_template = apply_chat_template
        self._template = RolloutPrompt(prompt_template, system_prompt, self.chat_template_kwargs, apply_chat_template)
        self._first_prompt = FirstPrompt(self._template)
        self.on_long_prompt = on_long_prompt
        self.steps_per_epoch, self.max_empty_rounds = steps_per_epoch, max_empty_rounds
        self.store_dir, self.keep_rounds = None if store_dir is None else str(store_dir), keep_rounds
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.progress = progress
        self.sources = split_sources(train, val, test, predict)
        self._splits = ProblemSplits(self.sources, self._template, max_prompt_tokens, on_long_prompt)
        self._lock = RunLock()
        self._run_of: L.Trainer | None = None  # the one that fits, or did last
        self._evidence_given = learnt(self.evidence)
        self._new_run()

    def _new_run(self) -> None:
        """Forget rounds, position and what evidence has learnt: a run of another Trainer starts from the beginning."""
        self._store = RunStore(self.store_dir, self.keep_rounds and self.keep_rounds + self._order.rounds_ahead)
        self._schedule: BatchSchedule | None = None
        self.capability: Capability = GroupAccuracy()  # CapabilityEstimator replaces it

    def prepare_data(self) -> None:
        """Lock the run's folders before the loggers are opened."""
        if self.trainer is not None and self.trainer.is_global_zero:
            self._lock.take(self.trainer, self.store_dir)

    def setup(self, stage: str) -> None:
        """Raise on all ranks, before anything is sampled, if the settings do not fit the stage or something cannot be written.

        The engine searches and the run is to train, another run holds one of the folders, a provider of evidence cannot work
        with the engine or the policy's tokens, or the judge cannot write.
        """
        if stage == "fit":
            check_trains(self.engine)
        self._lock.confirm(self._trainer, self.store_dir)
        if stage == "fit":
            if self._run_of not in (None, self._trainer):
                self._new_run()
                load_evidence_state(self.evidence, self._evidence_given)
            self._run_of = self._trainer
            check_between_rounds(self._trainer)
            self._order.check_callbacks(self._trainer, self.correction is not None)
            if needs_reference(self.credit):
                reference_scorer_of(self._trainer.lightning_module)
        if stage in ("fit", "predict"):
            with raise_on_all_ranks("checking data.evidence"):
                # Not ``self.policy``: its model is not built yet.
                tokenizer = getattr(self._trainer.lightning_module, "tokenizer", None)
                check_providers(self.evidence, self.engine, tokenizer)
            with raise_on_all_ranks("checking the judge's folder"):
                for part in (self.judge, *self.evidence):
                    if isinstance(part, WritingJudge):
                        part.check_writable()

    @property
    def _trainer(self) -> L.Trainer:
        if self.trainer is None:
            raise RuntimeError("the DataModule is not attached to a Trainer yet")
        return self.trainer

    @property
    def policy(self) -> Policy:
        """The trainer's module, as the policy that the engine samples from."""
        return policy_of(self._trainer)

    def problems(self, split: str) -> list[Problem]:
        """Return the problems of a split whose prompts fit, loaded once.

        Raises:
            ConfigError: no source is configured for the split.
            InputError: the source has no usable problem.
        """
        sets, counts = self._splits.load(split, self.policy.tokenizer)
        if counts:
            log_to_all(self._trainer, counts)
        problems = sets[""] if "" in sets else without_copies(sets)
        show = self.show_prompt and self._trainer.is_global_zero
        self._first_prompt(self.policy.tokenizer, problems[0], self.format, show)
        return problems

    def heldout_sampling(self, split: str) -> dict[str, SetSampling]:
        """Return how each evaluation set of a split is sampled, by name; "" is the only set of a split without names."""
        return self._splits.sampling(split, SetSampling(self.eval_samples, self.eval_sampling))

    @property
    def evaluation_folder(self) -> Path | None:
        """Where the last evaluation keeps its groups and scores; None before the first."""
        return self._store.evaluation_folder

    def maker(self) -> RoundMaker:
        """Return the stages of a round, with the trainer's tokenizer."""
        return self._order.maker(
            engine=self.engine,
            verifier=self.verifier,
            judge=self.judge,
            credit=self.credit,
            # A dev run takes its step whatever the one small round holds.
            keep=keep_all if is_dev_run(self._trainer) else self.keep,
            tokenizer=self.policy.tokenizer,
            sampling=self.sampling,
            group_size=self.group_size,
            template=self._template,
            format=self.format,
            show_progress=shows_bars(self._trainer, self.progress),
            rewards=self.rewards,
            group_filter=self.group_filter,
            batch_stage=self.batch_stage,
            evidence=self.evidence,
        )

    # ---- training: one batch is one optimizer step ----

    @property
    def schedule(self) -> BatchSchedule:
        """When rounds are made and in which batches they are trained on."""
        if self._schedule is None:
            limits = (self.steps_per_round, dev_run_steps(self._trainer), self._overfit_steps)
            steps = min(limit for limit in limits if limit is not None)
            self._schedule = self.build_schedule(
                self._order.factory(self.dynamic_sampling)(
                    trainer=self._trainer,
                    stream=self._train_stream,
                    problems_per_round=self.problems_per_step * steps,
                    seed=self.seed,
                    store=self._store,
                    maker=self.maker,
                    capability=lambda: self.capability,
                    correction=self.correction,
                )
            )
        return self._schedule

    def build_schedule(self, rounds: RoundFactory) -> BatchSchedule:
        """Return the schedule of a run, that of ``data.schedule``. Override for another."""
        return self._order.batches(
            rounds,
            solutions_per_step=self.problems_per_step * self.group_size,
            problems_per_round=rounds.problems_per_round,
            max_empty_rounds=self.max_empty_rounds,
            gather_indices=lambda indices: sorted(itertools.chain(*gather(list(indices)))),
            step_sizes=self.step_sizes,
        )

    @property
    def _overfit_steps(self) -> int | None:
        return overfit_steps(self._trainer, self._train_steps)

    def _train_steps(self) -> int:
        return self.steps_per_epoch or -(-len(self.problems("train")) // self.problems_per_step)

    def _train_stream(self) -> ProblemStream:
        """Return the problems that rounds take: under ``overfit_batches`` those of its first steps, every time."""
        steps = self._overfit_steps
        most = None if steps is None else steps * self.problems_per_step
        return problem_stream(self.sources["train"], self.problems("train"), self.seed, most)

    def train_dataloader(self) -> TrainBatchLoader:
        self.problems("train")  # loaded here in any case: errors come before anything is sampled
        forget_reasons(self._trainer)
        return TrainBatchLoader(self._next_batch, self._train_steps())

    def _next_batch(self) -> TrainBatch | None:
        """Return the next batch; None ends the training loop, as ``max_time`` does at an optimizer step."""
        try:
            batch = self.schedule.next_batch()
            return None if may_stop(self._trainer) else batch  # a monitor ended the run when the round was complete
        except OutOfTimeError:
            self._trainer.should_stop = True
            rank_zero_info(
                "The time limit (max_time) was reached while a round was made: what it has so far is stored."
            )
            return None

    def invalidate_verdicts(self) -> None:
        """Discard the stored verdicts of the next round that is made: the judge has changed."""
        self._store.invalidate_verdicts()

    # ---- evaluation and prediction ----

    @property
    def _heldout(self) -> HeldoutStreams:
        return HeldoutStreams(
            trainer=self._trainer,
            sets=self._sets,
            problems=self.problems,
            maker=self.maker,
            seed=self.seed,
            problems_per_part=self.problems_per_step,
            store=self._store,
            capability=lambda: self.capability,
        )

    def _sets(self, split: str) -> list[HeldoutSet]:
        self.problems(split)  # logs the counts when it loads them
        return self._splits.sets(split, self.policy.tokenizer, SetSampling(self.eval_samples, self.eval_sampling))

    def evaluate(self, split: Split, limit: int | float | None = None) -> Iterator[EvaluatedGroup]:
        """Sample solutions of each problem of a split with the current policy, and verify them.

        Complete groups are stored in ``evaluation_folder``, and not sampled again with the same weights and settings.

        Args:
            split: whose problems.
            limit: this rank's first so many problems of each set only, or their share of each set.
        """
        self._engine_free()
        return self._heldout.evaluate(split, limit)

    def predict_rounds(self) -> Iterator[Round]:
        """Judge and credit solutions of the predict problems, ``problems_per_step`` problems of this rank at a time."""
        self._engine_free()
        return self._heldout.predict()

    def _engine_free(self) -> None:
        """Wait until no round is sampled in the background. Collective."""
        if isinstance(self._schedule, WorksAhead):
            self._schedule.wait()

    def val_dataloader(self) -> StreamLoader[Any] | list:
        """One problem a batch, sampled and verified when it is asked for; see ``evaluation_loader`` for sets with names."""
        if self.sources["val"] is None:
            return []
        return self._heldout.evaluation_loader("val", self.evaluate, lambda t: t.num_val_batches)

    def test_dataloader(self) -> StreamLoader[Any]:
        return self._heldout.evaluation_loader("test", self.evaluate, lambda t: t.num_test_batches)

    def predict_dataloader(self) -> StreamLoader[Round]:
        """``problems_per_step`` problems a batch, sampled, verified and judged when it is asked for."""
        return self._heldout.prediction_loader(self.predict_rounds)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Unpack the batches of our loaders; only a ``TrainBatch`` holds tensors to move."""
        content = batch.content if isinstance(batch, OpaqueBatch) else batch
        return content.to(device) if isinstance(content, TrainBatch) else content

    # ---- state and shutdown ----

    def state_dict(self) -> dict[str, Any]:
        state = self.schedule.state_dict(self.policy.policy_version) | self._store.state_dict(self._trainer)
        return state | evidence_state(self.evidence)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._store.load_state_dict(state_dict, self._trainer.ckpt_path)
        load_evidence_state(self.evidence, state_dict)
        self.schedule.load_state_dict(state_dict)

    def on_exception(self, exception: BaseException) -> None:
        """Close the parts; an error in that is logged and does not replace the exception."""
        for error in self._close(at_once=getattr(exception, "at_once", False)):
            log.error("after %s: a part could not be closed", type(exception).__name__, exc_info=error)

    def teardown(self, stage: str) -> None:
        errors = self._close()
        if stage == "fit" and self.trainer is not None:
            print_ending(self.trainer)
        for error in errors:
            raise error

    def _close(self, at_once: bool = False) -> list[Exception]:
        """Free processes and folders, and return what failed. Every part starts again when it is next used."""
        if isinstance(self._schedule, WorksAhead):
            self._schedule.close(at_once)
        providers = [provider for provider in self.evidence if isinstance(provider, Closable)]
        errors = close_all(self.engine, self.verifier, self.judge, *providers)
        self._lock.release()
        return errors
