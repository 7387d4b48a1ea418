"""Two processes that share the weights: torchrun --nproc-per-node 2 program.py MODEL OUT

Writes OUT/checkpoints, then tries to go on from copies that hold payloads or are damaged, and says in OUT/results.json what
came of each on each process.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from lit_tpgrpo.callbacks import SafeCheckpoint
from lit_tpgrpo.distributed import gather
from lit_tpgrpo.module import TPGRPOModule
from tests.checkpoints.payloads import IN_SHARDS, hostile_copy
from tests.datamodules.test_rollout_datamodule import data


def trainer(out: Path, *callbacks: L.Callback, max_steps: int = 2) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        default_root_dir=out,
    )


def fit(model: str, out: Path, checkpoint: Path | None, max_steps: int, *callbacks: L.Callback) -> str:
    torch.manual_seed(0)
    module = TPGRPOModule(model, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3))
    run = trainer(out, *callbacks, max_steps=max_steps)
    dm = data(store_dir=str(out / "store"))
    try:
        run.fit(module, datamodule=dm, ckpt_path=checkpoint)  # as Python users do: without weights_only
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"step {run.global_step}"


def main(model: str, out: Path) -> None:
    saver = SafeCheckpoint(dirpath=out / "checkpoints", every_n_train_steps=1)
    results = {"fit": gather(fit(model, out, None, 2, saver))}
    whole = out / "checkpoints" / "last.ckpt"
    rank = int(torch.distributed.get_rank())
    for name in (*IN_SHARDS, "flipped", "whole"):
        copy = out / "hostile" / name / "last.ckpt"
        if rank == 0:
            (out / "ran").mkdir(exist_ok=True)
            if name in IN_SHARDS:
                hostile_copy(whole, copy, name, out / "ran" / name)
            else:
                shutil.copytree(whole, copy)
            if name == "flipped":
                shard = sorted(copy.glob("*.distcp"))[1]
                content = bytearray(shard.read_bytes())
                content[len(content) // 2] ^= 1
                shard.write_bytes(content)
        torch.distributed.barrier()
        results[name] = gather(fit(model, out, copy, 3))
    results["ran"] = sorted(p.name for p in (out / "ran").iterdir())
    if rank == 0:
        (out / "results.json").write_text(json.dumps(results))
    # A thread of the process group that still runs while Python ends aborts the process.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
