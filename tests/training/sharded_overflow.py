"""Two processes, one of whose shards overflows: torchrun --nproc-per-node 2 sharded_overflow.py OUT. Writes OUT/RANK.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from lit_tpgrpo.training.gradients import clip_gradients

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
parameter = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
optimizer = torch.optim.SGD([parameter], lr=0.5)
scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
found = []
for last in (float("inf"), 24.0):  # of the second process
    gradient = torch.tensor([0.0, 0.0, 32.0, last])
    scaler.scale(torch.zeros(()))  # makes the scale; gradients below are as after a scaled backward pass
    parameter.grad = distribute_tensor(gradient, mesh, [Shard(0)])
    scaler.unscale_(optimizer)
    norm = clip_gradients(optimizer, [parameter], 2.5, scaler)
    scaler.step(optimizer)
    scaler.update()
    found.append([norm.overflowed, float(norm.value), scaler.get_scale(), parameter.detach().to_local().tolist()])
Path(sys.argv[1], f"{dist.get_rank()}.json").write_text(json.dumps(found))
dist.destroy_process_group()
