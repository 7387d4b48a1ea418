"""Two processes of a training with servers that come and go: ``torchrun two_ranks.py OUT`` (see test_vllm_server_engine)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_API_KEY": "a-key-of-the-tests-0123456789"}

import torch.distributed as dist

from lit_tpgrpo.engines.vllm import VLLMServer, server
from lit_tpgrpo.errors import EngineError, raised_on_all_ranks
from tests.engines.test_rollout_servers import StandIn
from tests.engines.test_vllm_server_engine import QUICK, Policy, Sender, sample


def main(out: str) -> None:
    dist.init_process_group("gloo")
    first = dist.get_rank() == 0
    server.import_vllm, server.WeightSender = lambda: None, Sender  # pyright: ignore
    Sender.log = []
    stand_ins = [StandIn(), StandIn()] if first else []
    for stand_in in stand_ins:
        stand_in.set(version="default")
    urls: list[list[str]] = [[s.url for s in stand_ins]]
    dist.broadcast_object_list(urls, 0)
    # A busy machine must not make a server silent: the ones that are gone refuse connections at once.
    engine = VLLMServer(urls[0], **QUICK | {"silence_timeout_s": 300.0, "absence_timeout_s": 300.0})
    engine.load_weights(Policy(0))
    sample(engine)
    if first:
        stand_ins[0].kill()
    engine.load_weights(Policy(1))  # one is there
    sample(engine)
    if first:
        stand_ins[0].start(version="default")
    engine.load_weights(Policy(2))  # both are
    dist.barrier()
    if first:
        stand_ins[1].kill()
        stand_ins[0].kill()
        stand_ins[0].start(version="default")
    dist.barrier()
    engine.limits = server.PoolLimits(silence_s=300.0, probe_s=0.05, absence_s=3600.0)
    sample(engine)  # the first process gives it the weights, the second one sees that it has them
    dist.barrier()  # the second one must have its samples before there is no server left
    if first:
        stand_ins[0].kill()
    engine.limits = server.PoolLimits(silence_s=300.0, probe_s=0.05, absence_s=0.3)
    try:
        engine.load_weights(Policy(3))
    except EngineError as error:
        Path(f"{out}.{dist.get_rank()}").write_text(f"{raised_on_all_ranks(error)} {error}")
    engine.close()
    dist.barrier()
    dist.destroy_process_group()
    for stand_in in stand_ins:
        stand_in.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
