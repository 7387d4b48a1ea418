"""ExportHF: write the policy as a Hugging Face folder, during training and at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from lit_tpgrpo.arguments import checked_arguments
from lit_tpgrpo.distributed import raise_on_all_ranks
from lit_tpgrpo.engines.base import Policy
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.evaluation.log import ScoresGroups
from lit_tpgrpo.rollout.run_folder import run_folder
from lit_tpgrpo.rollout.trainer_state import is_dev_run
from lit_tpgrpo.training.huggingface import push_folder, write_folder
from lit_tpgrpo.training.model_card import RunCard
from lit_tpgrpo.training.sharding import dtype_name, torch_dtype


@checked_arguments(dtype=dtype_name)
class ExportHF(L.Callback):
    """Write ``hf/step_N`` into the run's folder: weights, tokenizer, generation config and model card.

    Adapters are merged. All ranks gather the weights of a sharded policy, rank 0 writes.

    Args:
        dirpath: parent folder of the exports; by default ``hf`` in the run's folder.
        every_n_steps: export every n optimizer steps; 0 exports only at the end of training.
        dtype: of the written weights, e.g. ``bfloat16``; by default the dtype they are trained in.
        push_to_hub: ``owner/name`` of the repository to upload the last export to, as the user who is logged in.
        private: whether a new repository is private.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        every_n_steps: int = 0,
        dtype: str | None = None,
        push_to_hub: str | None = None,
        private: bool = True,
    ) -> None:
        if every_n_steps < 0:
            raise ConfigError(f"every_n_steps must be 0 (only at the end) or positive, got {every_n_steps}")
        self.dirpath = dirpath
        self.every_n_steps = every_n_steps
        self.dtype = torch_dtype(dtype)
        self.push_to_hub = push_to_hub
        self.private = private
        self._written_at = -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._written_at = -1  # another run counts its steps from 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and not is_dev_run(trainer):
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if is_dev_run(trainer):
            return
        folder = self._write(trainer, pl_module)
        if self.push_to_hub is not None:
            with raise_on_all_ranks("uploading"):
                if trainer.is_global_zero:
                    print(f"uploaded: {push_folder(folder, self.push_to_hub, self.private)}")

    def _write(self, trainer: L.Trainer, policy: L.LightningModule) -> Path:
        if not isinstance(policy, Policy):
            raise ConfigError(
                f"ExportHF writes a policy, and {type(policy).__name__} lacks part of engines.base.Policy"
            )
        root = Path(self.dirpath or run_folder(trainer) / "hf")
        folder = root / f"step_{trainer.global_step}"
        if self._written_at == trainer.global_step:
            return folder
        self._written_at = trainer.global_step
        metrics = _eval_scores(policy, trainer.global_step)
        card = RunCard(str(policy.hparams.get("model", "/")), trainer.global_step, policy.hparams, metrics=metrics)
        with raise_on_all_ranks("exporting the policy"):
            write_folder(
                folder,
                policy.policy_model,
                policy.tokenizer,
                policy.named_tensors(),
                card,
                self.dtype,
                overwrite=True,  # a resumed run writes the same step again
                write=trainer.is_global_zero,
            )
        return folder


def _eval_scores(policy: object, step: int) -> dict[str, float]:
    """Return the scores of the weights of this step, none if other weights were evaluated last."""
    if not isinstance(policy, ScoresGroups):
        return {}
    log = policy.evaluation
    return {f"eval/{k}": float(v) for k, v in log.scores.items()} if log.version == step else {}
