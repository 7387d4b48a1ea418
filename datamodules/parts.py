"""What a MathRolloutDataModule is given, checked, and where it stands: its problems, the policy, the rank, the loggers."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
from lightning.pytorch.plugins import MixedPrecision

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.credit.base import CreditAssignment
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.datamodules.sources.base import ProblemSource
from lit_tpgrpo.datamodules.sources.memory import Problems, as_optional_source
from lit_tpgrpo.engines.base import Engine, Interruptible, Policy, SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.errors import ConfigError, InputError
from lit_tpgrpo.fingerprint import settings_of
from lit_tpgrpo.judges.base import EngineSharing, Judge, RefreshableJudge
from lit_tpgrpo.judges.rule import RuleJudge
from lit_tpgrpo.records import Problem
from lit_tpgrpo.rollout.correction import Correction, CorrectionName
from lit_tpgrpo.rollout.filters import KEEP_RULES, KeepName
from lit_tpgrpo.rollout.hooks import shows_bars
from lit_tpgrpo.rollout.prompts import INSTRUCTION, filter_long_prompts
from lit_tpgrpo.rollout.rounds import Capability, GroupAccuracy, RoundMaker
from lit_tpgrpo.rollout.run_folder import run_folder
from lit_tpgrpo.signals import STOP
from lit_tpgrpo.verify.base import Verifier
from lit_tpgrpo.verify.function import GivenVerifier, as_verifier
from lit_tpgrpo.verify.verifier import MathVerifier

log = logging.getLogger(__name__)


@checked_arguments(
    train=as_optional_source,
    val=as_optional_source,
    test=as_optional_source,
    predict=as_optional_source,
    verifier=as_verifier,
)
class RolloutParts(L.LightningDataModule):
    """The parts and settings of ``MathRolloutDataModule``, which makes rounds with them.

    Args:
        train: problems to train on; needed by ``fit``. A problem source, or in Python a list of ``Problem`` or of dicts, a
            ``datasets.Dataset``, a table (see ``MemoryProblems``); so are the next three.
        val: held-out problems, for ``validate`` and for evaluation between rounds.
        test: problems for ``test``; ``val`` where not given.
        predict: problems for ``predict``; ``val`` where not given.
        engine: samples solutions; by default transformers on the policy's own weights.
        verifier: decides outcomes; in Python also a function ``(gold, answer) -> bool`` (see ``FunctionVerifier``).
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
        correction: importance weights for samples of an engine whose log-probs are not the trainer's, see
            ``lit_tpgrpo.functional.corrections``; ``auto`` is ``token_truncate`` for such an engine (vLLM) and ``off`` for
            others. Costs one more forward pass over what is trained on.
        correction_cap: the most such a weight may be.
        correction_floor: the least; 0 sets no bound.
        steps_per_epoch: length of the training loader; by default one pass over the problems.
        store_dir: where rounds are written; by default ``rounds`` in the run's folder (``rollout.run_folder``). A resumed run
            writes there too, and copies what it goes on with from the run that it was resumed from.
        keep_rounds: newest rounds that stay on disk; 0 keeps all.
        max_empty_rounds: rounds in a row with nothing to train on after which training stops with an error.
        seed: of problem order and sampling; by default that of ``seed_everything``.
        progress: show bars of sampling and judging, unless the Trainer's ``enable_progress_bar`` is off.
    """

    def __init__(
        self,
        train: Problems | None = None,
        val: Problems | None = None,
        test: Problems | None = None,
        predict: Problems | None = None,
        engine: Engine | None = None,
        verifier: GivenVerifier | None = None,
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
        correction: CorrectionName = "auto",
        correction_cap: float = 2.0,
        correction_floor: float = 0.0,
        steps_per_epoch: int | None = None,
        store_dir: str | Path | None = None,
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
        if not correction_cap >= 1:
            raise ConfigError(f"correction_cap must be at least 1, the weight of an exact sample, got {correction_cap}")
        if not 0 <= correction_floor <= 1:
            raise ConfigError(
                f"correction_floor must lie between 0 (no bound) and 1, the weight of an exact sample, got {correction_floor}"
            )
        if sampling is not None and sampling.temperature == 0:
            raise ConfigError(
                "sampling.temperature must be positive, got 0: greedy solutions of one problem are all equal, and an "
                "advantage compares them; eval_sampling may be greedy"
            )
        sources = {"train": train, "val": val, "test": test or val, "predict": predict or val}
        self.sources = cast(dict[str, ProblemSource | None], sources)
        self.engine = engine or HFEngine()
        if isinstance(self.engine, Interruptible):
            self.engine.while_waiting = STOP.check
        if correction == "auto":
            correction = "token_truncate" if getattr(self.engine, "mismatched", False) else "off"
        self.correction = None if correction == "off" else Correction(correction, correction_cap, correction_floor)
        self._check_cut_sampling(sampling)
        self.verifier = cast(Verifier, verifier) or MathVerifier()
        self.judge = judge or RuleJudge()
        if isinstance(self.judge, EngineSharing):
            self.judge.share_engine(self.engine)
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
        self.store_dir = None if store_dir is None else str(store_dir)
        self.keep_rounds = keep_rounds
        self.max_empty_rounds = max_empty_rounds
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.progress = progress
        self._problems: dict[str, list[Problem]] = {}

    def _check_cut_sampling(self, sampling: SamplingParams | None) -> None:
        """A mismatched engine's log-probs are those of the distribution that ``top_p`` and ``top_k`` left, the trainer's are of
        the whole one. Only the correction makes up for it: the trainer's become the old ones of the loss."""
        cut = sampling is not None and (sampling.top_p < 1 or sampling.top_k > 0)
        if cut and self.correction is None and getattr(self.engine, "mismatched", False):
            raise ConfigError(
                f"{type(self.engine).__name__} returns log-probs after top_p and top_k, which the trainer cannot compare with "
                "its own; sample for training with top_p 1 and top_k 0, or leave data.correction on"
            )

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
            self._problems[split], skipped = filter_long_prompts(
                loaded, self.policy.tokenizer, self.prompt_template, self.max_prompt_tokens, self.on_long_prompt
            )
            self._log({f"data/{split}_problems": len(loaded) - skipped, f"data/{split}_skipped_long": skipped})
        return self._problems[split]

    def _log(self, metrics: dict[str, float]) -> None:
        for logger in self._trainer.loggers:
            logger.log_metrics(metrics, step=self._trainer.global_step)

    def _autocast(self) -> AbstractContextManager:
        """Sampling sees the policy as training does: under mixed precision, in the lower one."""
        plugin = self._trainer.precision_plugin
        return plugin.forward_context() if isinstance(plugin, MixedPrecision) else nullcontext()

    def maker(self) -> RoundMaker:
        """The round's parts, with the trainer's tokenizer."""
        if isinstance(self.judge, RefreshableJudge) and self.judge.needs_policy:
            # No JudgeRefresh, or a resumed run: the weights that judged before are gone with the process that held them.
            log.warning("the policy judges itself, from now on with its weights of step %d", self.policy.policy_version)
            self.judge.refresh(self.policy)
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
            show_progress=shows_bars(self._trainer, self.progress),
        )

    def _store_root(self) -> Path:
        """Collective before ``setup``."""
        return run_folder(self._trainer) / "rounds" if self.store_dir is None else Path(self.store_dir)

    def _store_meta(self, problems: list[Problem], version: int, weights: str) -> dict[str, Any]:
        """What a stored round's solutions must have been made with to be used again."""
        return {
            "policy_version": version,
            "weights": weights,
            "seed": self.seed,
            "group_size": self.group_size,
            "sampling": repr(self.sampling),
            "prompt_template": self.prompt_template,
            "problems": [p.uid for p in problems],
        }

    def _judging_meta(self) -> dict[str, Any]:
        """What its verdicts must have been made with."""
        judge = {"name": self.judge.name} | settings_of(self.judge)
        return {"judge": judge, "verifier": settings_of(self.verifier)}


def _check_positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
