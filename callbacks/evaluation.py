"""MathEvaluation: avg@k, pass@k and maj@k on held-out problems, before training, between rounds and at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from tqdm.auto import tqdm

from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.metrics import AvgAtK, MajAtK, PassAtK
from lit_tpgrpo.records import EvaluatedGroup, StopReason
from lit_tpgrpo.rollout.hooks import RoundCallback, Split, rollout_source
from lit_tpgrpo.rollout.processes import failing_together, gather, gather_sum
from lit_tpgrpo.rollout.stopping import STOP


class MathEvaluation(RoundCallback):
    """Evaluates the policy with the DataModule's engine and verifier on its ``val`` problems.

    In ``fit`` it runs before the first round, before every n-th, and after the last step, in place of Lightning's
    validation loop (which it switches off: that one would evaluate the same policy again at the end of each epoch).
    In ``validate`` and ``test`` it scores what the loader streams. Results go to all loggers and into
    ``trainer.callback_metrics`` under ``eval/`` (``test/`` for the test split), e.g. ``eval/avg@4``, so that
    ModelCheckpoint can monitor them.

    Args:
        every_n_rounds: 0 evaluates only before and after training.
        pass_at: values of k for pass@k besides the number of samples drawn; larger ones than that are refused.
    """

    def __init__(self, every_n_rounds: int = 1, pass_at: Sequence[int] = (1,)) -> None:
        if every_n_rounds < 0:
            raise ConfigError(f"every_n_rounds must be 0 (only before and after) or positive, got {every_n_rounds}")
        self.every_n_rounds = every_n_rounds
        self.pass_at = tuple(pass_at)
        self.before: float | None = None
        self.after: float | None = None
        self._scored_at = -1
        self._limit_val_batches: int | float | None = None  # what the trainer had before fit
        self._groups: list[EvaluatedGroup] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        samples = rollout_source(trainer, self).eval_samples
        too_many = [k for k in self.pass_at if not 1 <= k <= samples]
        if too_many:
            raise ConfigError(
                f"pass@k needs k samples of each problem: pass_at holds {too_many}, and data.eval_samples is {samples}"
            )
        if stage == "fit":
            self._limit_val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and self._limit_val_batches is not None:
            trainer.limit_val_batches, self._limit_val_batches = self._limit_val_batches, None

    # ---- in fit ----

    def on_round_start(self, trainer: L.Trainer, pl_module: L.LightningModule, round_index: int) -> None:
        due = self.every_n_rounds and round_index % self.every_n_rounds == 0
        if self.before is None or (due and self._scored_at != trainer.global_step):
            self._evaluate(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.before is not None and self._scored_at != trainer.global_step:
            self._evaluate(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and self.before is not None and self.after is not None:
            # On a line of its own: progress bars leave the cursor where they ended.
            print(f"\nheld-out accuracy {self.before:.3f} -> {self.after:.3f}", flush=True)

    def _evaluate(self, trainer: L.Trainer) -> None:
        source = rollout_source(trainer, self)
        self._publish(trainer, source.evaluate("val"), source.eval_samples, "val")

    # ---- in validate and test: the loader streams finished groups ----

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._groups = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch is not None:  # other processes have more problems
            self._groups.append(batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(trainer, "val")

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(trainer, "test")

    def _finish(self, trainer: L.Trainer, split: Split) -> None:
        if any(gather(bool(self._groups))):
            self._publish(trainer, self._groups, rollout_source(trainer, self).eval_samples, split)

    def _publish(
        self, trainer: L.Trainer, groups: Iterable[EvaluatedGroup], samples: int, split: Split
    ) -> dict[str, Tensor]:
        results = {
            f"{'test' if split == 'test' else 'eval'}/{k}": v for k, v in self._score(trainer, groups, samples).items()
        }
        step = _step(trainer)
        for logger in trainer.loggers:
            logger.log_metrics({k: float(v) for k, v in results.items()}, step=step)
        trainer.callback_metrics.update(results)
        if split == "val":
            accuracy = float(results[f"eval/avg@{samples}"])
            self.before = accuracy if self.before is None else self.before
            self.after, self._scored_at = accuracy, trainer.global_step
        if trainer.is_global_zero:
            tqdm.write(_line(results, step, samples))
        return results

    def _score(self, trainer: L.Trainer, groups: Iterable[EvaluatedGroup], samples: int) -> dict[str, Tensor]:
        """Over the problems of all processes, each counted once."""
        ks = sorted({*self.pass_at, samples})
        parts: dict[str, Metric | MetricCollection] = {"avg": AvgAtK(samples), "maj": MajAtK(samples)}
        metrics = MetricCollection(parts | {f"pass_{k}": PassAtK(k) for k in ks})
        counts = torch.zeros(3, dtype=torch.long)
        with failing_together("evaluation"):
            for group in groups:
                STOP.check()
                metrics.update(list(group.outcomes), list(group.answers))
                truncated = sum(s.stop is StopReason.LENGTH for s in group.solutions)
                tokens = sum(len(s.completion_ids) for s in group.solutions)
                counts += torch.tensor([len(group.solutions), truncated, tokens])
        solutions, truncated, tokens = gather_sum(counts).tolist()
        # Where the processes talk to one another: NCCL knows no tensors on the CPU.
        results = {name: value.cpu() for name, value in metrics.to(trainer.strategy.root_device).compute().items()}
        results["truncated_share"] = torch.tensor(truncated / max(solutions, 1))
        results["length_mean"] = torch.tensor(tokens / max(solutions, 1))
        return results

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "after": self.after, "scored_at": self._scored_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before, self.after, self._scored_at = state_dict["before"], state_dict["after"], state_dict["scored_at"]


def _step(trainer: L.Trainer) -> int:
    """Optimizer steps behind the policy; Lightning itself counts none outside ``fit``."""
    module = trainer.lightning_module
    return module.policy_version if isinstance(module, Policy) else trainer.global_step


def _line(results: dict[str, Tensor], step: int, samples: int) -> str:
    shown = [k for k in results if "@" in k and not k.endswith("_se")]
    prefix = next(iter(results)).split("/")[0]
    error = float(results[f"{prefix}/avg@{samples}_se"])
    scores = ", ".join(
        f"{k.split('/')[1]} {float(results[k]):.3f}" + (f" ± {error:.3f}" if "avg@" in k else "") for k in shown
    )
    return f"{prefix} | step {step} | {scores}"
