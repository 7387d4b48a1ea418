"""Real checkpoints: those of a tiny run on one process, and the shards of one on two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_tpgrpo.callbacks import SafeCheckpoint
from lit_tpgrpo.module import TPGRPOModule
from tests.datamodules.test_rollout_datamodule import data, trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def small_model(random_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A policy of 30,000 weights: a checkpoint of it can be read a thousand times."""
    from transformers import AutoTokenizer, GenerationConfig

    from lit_tpgrpo.datamodules.arithmetic.tiny import random_policy, tiny_config

    folder = tmp_path_factory.mktemp("small-model")
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    model = random_policy(tiny_config(tokenizer, hidden_size=32, layers=1, heads=2, key_value_heads=1), seed=0)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def run(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps with AdamW: ``epoch=0-step=1.ckpt``, ``epoch=0-step=2.ckpt`` and ``last.ckpt``."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    saver = SafeCheckpoint(dirpath=folder / "checkpoints", every_n_train_steps=1, save_top_k=-1)
    trainer(folder, saver, enable_checkpointing=True, max_steps=2).fit(
        TPGRPOModule(small_model, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3)), datamodule=data()
    )
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run's checkpoints."""
    return Path(shutil.copytree(run / "checkpoints", tmp_path / "checkpoints"))


@pytest.fixture(scope="session")
def shards(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The checkpoints of a run of two steps on two processes that share the weights, and what became of hostile copies
    (``program.py``)."""
    folder = tmp_path_factory.mktemp("shards")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [sys.executable, *launcher, str(Path(__file__).with_name("program.py")), small_model, str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder / "checkpoints", json.loads((folder / "results.json").read_text())
