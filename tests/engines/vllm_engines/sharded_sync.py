"""Two processes that hold half of a model each hand it to an engine each: torchrun sharded_sync.py MODEL OUT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.vllm import VLLMEngine
from lit_tpgrpo.module import TPGRPOModule
from tests.engines.vllm_engines.conftest import PROMPTS, build_policy, gaps, spread


class Sharded(TPGRPOModule):
    policy_version = 3  # pyright: ignore


def main(folder: str, out: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    whole = build_policy(folder)
    module = Sharded(folder)
    module.configure_model()
    with torch.no_grad():
        module.policy_model.get_input_embeddings().weight.mul_(8.0)
    mesh = init_device_mesh("cpu", (2,))
    for layer in module.policy_model.base_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module.policy_model, mesh=mesh)
    sharded = sum(isinstance(p, DTensor) for p in module.policy_model.parameters())
    engine = VLLMEngine(max_num_seqs=16, kv_cache_gib=0.125)
    engine.load_weights(module)
    done = dict(engine.sample(PROMPTS, 2, SamplingParams(30), spread(rank, PROMPTS)))
    worst = float(gaps(whole, done, 1.0).max())
    engine.close()
    Path(f"{out}.{rank}").write_text(f"rank {rank}: {sharded} sharded, {worst}, group {dist.is_initialized()}\n")
    dist.barrier()  # the trainer's group has outlived the engines
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
