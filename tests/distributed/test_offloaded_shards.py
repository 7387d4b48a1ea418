"""Shards in host memory stay there when Lightning moves the module to its device; FSDP2 refuses them anywhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.pretrained import load_causal_lm
from lit_tpgrpo.training.policy import PolicyModel
from lit_tpgrpo.training.sharding import Sharding


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """One process that talks to itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
    finally:
        dist.destroy_process_group()


def sharded(model: str, mesh: DeviceMesh, offload: bool) -> TPGRPOModule:
    module = TPGRPOModule(model, sharding=Sharding(cpu_offload=offload))
    lm = load_causal_lm(model, False, None, "sdpa")
    module.policy = PolicyModel(lm)
    Sharding(cpu_offload=offload).apply(module.policy, lm, mesh["data_parallel"])
    return module


@pytest.mark.parametrize(("offload", "kind"), [(True, "cpu"), (False, "meta")])
def test_offloaded_shards_do_not_follow_the_module(random_model, mesh, offload, kind):
    module = sharded(random_model, mesh, offload).to(torch.device("meta"))
    assert module.device.type == "meta"  # where batches go
    assert {p.device.type for p in module.policy_model.parameters()} == {kind}


def test_offloaded_shards_are_converted(random_model, mesh):
    module = sharded(random_model, mesh, True).to("meta", torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in module.policy_model.parameters()} == {("cpu", torch.bfloat16)}
    assert module.dtype is torch.bfloat16
