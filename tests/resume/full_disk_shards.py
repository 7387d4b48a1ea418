"""A sharded run whose second checkpoint finds no room: python full_disk_shards.py MODEL OUT."""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lit_tpgrpo.callbacks import SafeCheckpoint
from tests.datamodules.test_rollout_datamodule import data, module


class Fill(L.Callback):
    """From the second step on the kernel lets no file grow beyond 20 kB, as a full disk would."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def main(model: str, out: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        strategy=ModelParallelStrategy(1, 1, process_group_backend="gloo"),
        max_epochs=1,
        logger=False,
        callbacks=[Fill(), SafeCheckpoint(dirpath=out / "checkpoints", every_n_train_steps=1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
    )
    try:
        trainer.fit(module(model), datamodule=data(store_dir=str(out / "store")))
    finally:  # a thread of the group that still runs while Python ends aborts the process
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
