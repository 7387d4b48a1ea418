"""MathRolloutDataModule: owns problems, engine, verifier, judge and credit; one batch is one optimizer step."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm

from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.datamodules.feed import RoundFeed
from lit_tpgrpo.datamodules.loaders import Parcel, StepLoader, StreamLoader
from lit_tpgrpo.datamodules.sources.base import ProblemSource
from lit_tpgrpo.datamodules.stream import ProblemStream, derived_seed
from lit_tpgrpo.engines.base import Engine, Policy, SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.judges.base import Judge
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.records import EvaluatedGroup, Problem, Round, StepBatch
from lit_tpgrpo.rollout.filters import KEEP_RULES, KeepName
from lit_tpgrpo.rollout.fingerprint import fingerprint, settings_of
from lit_tpgrpo.rollout.hooks import call_round_hook
from lit_tpgrpo.rollout.prompts import INSTRUCTION, admit
from lit_tpgrpo.rollout.rounds import Capability, GroupAccuracy, RoundMaker
from lit_tpgrpo.rollout.sampling import evaluate_problems
from lit_tpgrpo.rollout.store import RoundFile, RoundStore
from lit_tpgrpo.rollout.summary import round_line
from lit_tpgrpo.verify.verifier import MathVerifier

Split = Literal["val", "test", "predict"]
log = logging.getLogger(__name__)


class MathRolloutDataModule(L.LightningDataModule):
    """Streams problems and makes rollouts with the current policy, in off-policy rounds.

    Args:
        train: problems to train on; needed by ``fit``.
        val: held-out problems, for ``validate`` and for evaluation between rounds.
        test: problems for ``test``; ``val`` where not given.
        predict: problems for ``predict``; ``val`` where not given.
        engine: samples solutions; by default transformers on the policy's own weights.
        verifier: decides outcomes.
        judge: labels steps; by default the rule judge.
        credit: turns labels into token advantages; by default TP-GRPO's.
        group_size: solutions per problem, at least 2.
        problems_per_step: problems whose solutions make up one optimizer step, over all ranks.
        steps_per_round: optimizer steps' worth of problems that are sampled before training on them.
        keep: which solutions are trained on; the paper's filter is ``nonzero_process_reward``.
        sampling: how training solutions are sampled.
        eval_sampling: how evaluation samples; by default as training does.
        eval_samples: solutions per held-out problem.
        prompt_template: the user turn, with ``{problem}``.
        max_prompt_tokens: longer prompts are left out or refused, see ``on_long_prompt``.
        on_long_prompt: ``skip`` them with a count, or ``stop``.
        steps_per_epoch: length of the training loader; by default one pass over the problems.
        store_dir: where rounds are written; by default ``rounds`` in the trainer's log folder.
        keep_rounds: newest rounds that stay on disk; 0 keeps all.
        max_empty_rounds: rounds in a row with nothing to train on after which training stops with an error.
        seed: of problem order and sampling; by default that of ``seed_everything``.
        progress: show progress bars.
    """

    def __init__(
        self,
        train: ProblemSource | None = None,
        val: ProblemSource | None = None,
        test: ProblemSource | None = None,
        predict: ProblemSource | None = None,
        engine: Engine | None = None,
        verifier: MathVerifier | None = None,
        judge: Judge | None = None,
        credit: CreditAssignment | None = None,
        group_size: int = 8,
        problems_per_step: int = 5,
        steps_per_round: int = 50,
        keep: KeepName = "nonzero_advantage",
        sampling: SamplingParams | None = None,
        eval_sampling: SamplingParams | None = None,
        eval_samples: int = 4,
        prompt_template: str = INSTRUCTION,
        max_prompt_tokens: int = 1024,
        on_long_prompt: Literal["skip", "stop"] = "skip",
        steps_per_epoch: int | None = None,
        store_dir: str | None = None,
        keep_rounds: int = 2,
        max_empty_rounds: int = 5,
        seed: int | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__()
        if group_size < 2:
            raise ConfigError(
                f"group_size must be at least 2, got {group_size}: an advantage is a reward relative to the other "
                "solutions of the same problem, and one solution has no others"
            )
        _check_positive(
            problems_per_step=problems_per_step,
            steps_per_round=steps_per_round,
            eval_samples=eval_samples,
            max_prompt_tokens=max_prompt_tokens,
            max_empty_rounds=max_empty_rounds,
            steps_per_epoch=1 if steps_per_epoch is None else steps_per_epoch,
        )
        if keep_rounds < 0:
            raise ConfigError(f"keep_rounds must be 0 (keep all) or positive, got {keep_rounds}")
        if sampling is not None and sampling.temperature == 0:
            raise ConfigError(
                "sampling.temperature must be positive, got 0: greedy solutions of one problem are all equal, and an "
                "advantage compares them; eval_sampling may be greedy"
            )
        self.sources = {"train": train, "val": val, "test": test or val, "predict": predict or val}
        self.engine = engine or HFEngine()
        self.verifier = verifier or MathVerifier()
        self.judge = judge or RuleJudge()
        self.credit = credit or ThoughtCredit()
        self.capability: Capability = GroupAccuracy()
        self.group_size = group_size
        self.problems_per_step = problems_per_step
        self.steps_per_round = steps_per_round
        self.keep = KEEP_RULES[keep]
        self.sampling = sampling or SamplingParams()
        self.eval_sampling = eval_sampling or self.sampling
        self.eval_samples = eval_samples
        self.prompt_template = prompt_template
        self.max_prompt_tokens = max_prompt_tokens
        self.on_long_prompt: Literal["skip", "stop"] = on_long_prompt
        self.steps_per_epoch = steps_per_epoch
        self.store_dir = store_dir
        self.keep_rounds = keep_rounds
        self.max_empty_rounds = max_empty_rounds
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.progress = progress
        self._problems: dict[str, list[Problem]] = {}
        self._feed: RoundFeed | None = None
        self._verdicts_void = False
        self._sampled_by = ""  # fingerprint of the weights that sampled the round in hand

    # ---- what the parts work on ----

    @property
    def policy(self) -> Policy:
        """The trainer's module, as what an engine may ask of it."""
        module = self._trainer.lightning_module
        if not isinstance(module, Policy):
            raise ConfigError(
                f"MathRolloutDataModule samples from the trainer's module, and {type(module).__name__} lacks part of "
                "lit_tpgrpo.engines.base.Policy (policy_model, tokenizer, policy_version, named_tensors); use "
                "TPGRPOModule or add them"
            )
        return module

    @property
    def _trainer(self) -> L.Trainer:
        if self.trainer is None:
            raise RuntimeError("the DataModule is not attached to a Trainer yet")
        return self.trainer

    @property
    def _show(self) -> bool:
        return self.progress and self._trainer.is_global_zero

    def problems(self, split: str) -> list[Problem]:
        """The problems of a split whose prompts fit, loaded once.

        Raises:
            ConfigError: no source was given for the split.
            InputError: the source has no usable problem.
        """
        if split not in self._problems:
            source = self.sources[split]
            if source is None:
                raise ConfigError(f"no {split} problems: set data.{split} to a problem source")
            loaded = source.load()
            if not loaded:
                raise InputError(f"the {split} source is empty: {source!r}; expected at least one problem")
            self._problems[split], skipped = admit(
                loaded, self.policy.tokenizer, self.prompt_template, self.max_prompt_tokens, self.on_long_prompt
            )
            self._log({f"data/{split}_problems": len(loaded) - skipped, f"data/{split}_skipped_long": skipped})
        return self._problems[split]

    def _mine(self, problems: list[Problem]) -> list[Problem]:
        """This rank's problems: groups are whole on one rank, so baselines need no communication."""
        return problems[self._trainer.global_rank :: self._trainer.world_size]

    def _log(self, metrics: dict[str, float]) -> None:
        for logger in self._trainer.loggers:
            logger.log_metrics(metrics, step=self._trainer.global_step)

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
        self.engine.load_weights(self.policy)
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
        with self._autocast():
            made = self.maker().make(
                index,
                mine,
                file,
                self.capability,
                policy_version=version,
                seed=derived_seed(self.seed, "round", index, trainer.global_rank),
                on_group=lambda group: call_round_hook(trainer, "on_group_judged", group),
            )
        self._report(made)
        call_round_hook(trainer, "on_round_end", made)
        return made

    def _begin_round(self, index: int) -> int:
        """The policy of this moment samples the round: its version."""
        self._sampled_by = fingerprint(self.policy.named_tensors())
        call_round_hook(self._trainer, "on_round_start", index)
        return self.policy.policy_version

    def _open(self, index: int, problems: list[Problem], version: int) -> RoundFile:
        return RoundStore(self._store_root(), self.keep_rounds).open(index, self._store_meta(problems, version))

    def _autocast(self) -> AbstractContextManager:
        """Sampling sees the policy as training does: under mixed precision, in the lower one."""
        plugin = self._trainer.precision_plugin
        return plugin.forward_context() if isinstance(plugin, MixedPrecision) else nullcontext()

    def void_verdicts(self) -> None:
        """Judge the next round anew, whatever the store holds of it: the judge has changed."""
        self._verdicts_void = True

    def maker(self) -> RoundMaker:
        """The round's parts, with the trainer's tokenizer."""
        return RoundMaker(
            engine=self.engine,
            verifier=self.verifier,
            judge=self.judge,
            credit=self.credit,
            keep=self.keep,
            tokenizer=self.policy.tokenizer,
            sampling=self.sampling,
            group_size=self.group_size,
            template=self.prompt_template,
            show_progress=self._show,
        )

    def _store_root(self) -> Path:
        trainer = self._trainer
        if self.store_dir is None:
            self.store_dir = str(Path(trainer.log_dir or trainer.default_root_dir) / "rounds")
        return Path(self.store_dir) / f"rank_{trainer.global_rank}"

    def _store_meta(self, problems: list[Problem], version: int) -> dict[str, Any]:
        """What a stored round must have been made with to be used again."""
        return {
            "policy_version": version,
            "weights": self._sampled_by,
            "seed": self.seed,
            "group_size": self.group_size,
            "sampling": repr(self.sampling),
            "prompt_template": self.prompt_template,
            "judge": {"name": self.judge.name} | settings_of(self.judge),
            "verifier": settings_of(self.verifier),
            "problems": [p.uid for p in problems],
        }

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

    def predict_rounds(self) -> Iterator[Round]:
        """Judged and credited solutions of the predict problems, ``problems_per_step`` problems at a time."""
        policy, maker = self.policy, self.maker()
        self.engine.load_weights(policy)
        self._sampled_by = fingerprint(policy.named_tensors())
        mine, size = self._mine(self.problems("predict")), self.problems_per_step
        for index, start in enumerate(range(0, len(mine), size)):
            part = mine[start : start + size]
            meta = self._store_meta(part, policy.policy_version)
            with self._autocast():
                made = maker.make(
                    index,
                    part,
                    RoundStore(self._store_root() / "predict").open(index, meta),
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


def _check_positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
