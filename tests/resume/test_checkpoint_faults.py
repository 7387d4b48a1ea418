"""Faults around checkpoints that the ends of a run do not show: copies, shards, links, states that cannot be saved."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from lit_tpgrpo.callbacks import SafeCheckpoint
from lit_tpgrpo.engines.vllm.process_groups import reserved_port
from lit_tpgrpo.training.checkpoints import fault_of, usable_checkpoint
from lit_tpgrpo.training.checkpoints.writing import commit_checkpoint, prepare_folder
from tests.datamodules.test_rollout_datamodule import CountingEngine, data, module, trainer

ROOT = Path(__file__).parents[2]


def saved(path: Path, step: int, moment: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": torch.zeros(300), "global_step": step}, path)
    os.utime(path, ns=(moment, moment))
    return path


def shards(path: Path, step: int) -> Path:
    saved(path / "meta.pt", step, step)
    (path / ".metadata").write_bytes(b"")
    (path / "__0_0.distcp").write_bytes(b"")
    return path


def cut(path: Path) -> None:
    moment = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[:100])
    os.utime(path, ns=(moment, moment))


def test_the_newest_is_that_of_most_steps_whenever_it_was_copied(tmp_path: Path):
    saved(tmp_path / "epoch=0-step=4.ckpt", 4, 200)
    newest = saved(tmp_path / "epoch=0-step=6.ckpt", 6, 100)
    assert usable_checkpoint(tmp_path) == newest
    last = saved(tmp_path / "last.ckpt", 8, 50)
    cut(last)
    assert usable_checkpoint(last) == usable_checkpoint(tmp_path) == newest


def test_a_link_to_nothing_and_shards_without_tables_are_passed_over(tmp_path: Path):
    first = saved(tmp_path / "epoch=0-step=1.ckpt", 1, 1)
    last = tmp_path / "last.ckpt"
    last.symlink_to(tmp_path / "gone.ckpt")
    assert usable_checkpoint(last) == first
    last.unlink()
    last.mkdir()
    (last / "__0_0.distcp").write_bytes(b"x")
    assert usable_checkpoint(last) == first


@pytest.mark.parametrize("before_lookup", [True, False])
def test_a_kill_while_a_folder_of_shards_is_replaced_loses_none(tmp_path: Path, monkeypatch, before_lookup: bool):
    last, new = shards(tmp_path / "last.ckpt", 1), shards(tmp_path / "last.ckpt.partial", 2)

    def killed(*args: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(SystemExit):
            commit_checkpoint(new, last)
    assert not last.exists()
    if before_lookup:  # torn tables: found again, and named
        with pytest.raises(ValueError, match=r"no whole checkpoint .* \(1 looked at\)"):
            usable_checkpoint(tmp_path)
    with pytest.warns(UserWarning, match="was not written to its end"):
        prepare_folder(tmp_path)
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["last.ckpt"]
    assert torch.load(last / "meta.pt", weights_only=True)["global_step"] == 1


class Whole(L.Callback):
    """At each step every checkpoint under its final name is whole, also while the next one is written."""

    seen = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state_dict(self):
        faults = [fault_of(p) for p in self.folder.glob("*.ckpt")]
        self.seen += len(faults)
        assert set(faults) <= {None}
        return {}


def test_a_checkpoint_has_its_name_only_when_it_is_whole(random_model, tmp_path, monkeypatch):
    """While it is written it has another one: what a kill leaves of it is not taken for a checkpoint."""
    written = []
    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

    class IO(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            written.append(Path(path).name)
            super().save_checkpoint(checkpoint, path, storage_options)

    folder = tmp_path / "c"
    watch = Whole(folder)
    saver = SafeCheckpoint(dirpath=folder, every_n_train_steps=1)
    trainer(tmp_path, watch, saver, enable_checkpointing=True, max_steps=2, plugins=[IO()]).fit(
        module(random_model), datamodule=data()
    )
    assert watch.seen > 0
    assert written == [f"{n}.ckpt.partial" for n in ("last", "epoch=0-step=1", "last", "epoch=0-step=2", "last")]
    assert sorted(p.name for p in folder.glob("[!.]*")) == ["epoch=0-step=2.ckpt", "last.ckpt"]


def test_lightnings_last_is_never_one_that_was_cut_short(random_model, tmp_path):
    folder = tmp_path / "c"

    def run(steps: int, path: str | None) -> int:
        saver = SafeCheckpoint(dirpath=folder, every_n_train_steps=1, save_top_k=-1)
        made = trainer(tmp_path, saver, enable_checkpointing=True, max_steps=steps)
        made.fit(module(random_model), datamodule=data(), ckpt_path=path, weights_only=True)
        return made.global_step

    run(2, None)
    cut(folder / "last.ckpt")
    assert run(3, "last") == 3


def test_a_state_that_cannot_be_saved_is_no_full_disk(random_model, tmp_path):
    class Unsaveable(L.Callback):
        def state_dict(self):
            return {"function": lambda: 1}

    saver = SafeCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=1)
    with pytest.raises(AttributeError, match="pickle"):
        trainer(tmp_path, Unsaveable(), saver, enable_checkpointing=True).fit(module(random_model), datamodule=data())
    assert list((tmp_path / "c").glob("[!.]*")) == []


def test_a_second_ctrl_c_waits_for_no_checkpoint(random_model, tmp_path):
    class Impatient(CountingEngine):
        given = 0

        def sample(self, *args, **kwargs):
            for item in super().sample(*args, **kwargs):
                self.given += 1
                if self.given == 6:  # round 1, two steps after the last checkpoint
                    os.kill(os.getpid(), signal.SIGINT)
                    os.kill(os.getpid(), signal.SIGINT)
                yield item

    handler = signal.getsignal(signal.SIGINT)
    saver = SafeCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=100)
    run = trainer(tmp_path, saver, enable_checkpointing=True)
    try:
        with pytest.raises(SystemExit):
            run.fit(module(random_model), datamodule=data(engine=Impatient(batch_size=4)))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert run.global_step == 2
    assert [p.name for p in (tmp_path / "c").glob("[!.]*")] == ["last.ckpt"]
    assert torch.load(tmp_path / "c" / "last.ckpt", weights_only=True)["global_step"] == 0


@pytest.mark.slow
def test_random_generators_go_on_where_they_stopped(random_model, tmp_path):
    class Draws(L.Callback):
        def __init__(self) -> None:
            self.drawn: list[tuple[float, float, float]] = []

        def on_train_batch_start(self, *args):
            self.drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))

    def run(name: str, steps: int, path: Path | None = None):
        L.seed_everything(3, verbose=False)
        draws, saver = Draws(), SafeCheckpoint(dirpath=tmp_path / name, every_n_train_steps=1)
        made = trainer(tmp_path, draws, saver, enable_checkpointing=True, max_steps=steps)
        made.fit(module(random_model), datamodule=data(), ckpt_path=path, weights_only=True)
        return draws.drawn

    whole, begun = run("whole", 5), run("begun", 3)
    assert whole == begun + run("resumed", 5, tmp_path / "begun" / "last.ckpt")


@pytest.mark.slow
def test_a_full_disk_under_fsdp_is_told_and_leaves_the_checkpoint_before(random_model: str, tmp_path: Path):
    with reserved_port() as port:
        ended = subprocess.run(
            [sys.executable, str(ROOT / "tests/resume/full_disk_shards.py"), random_model, str(tmp_path / "run")],
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=1200,
        )
    folder = tmp_path / "run" / "checkpoints"
    assert ended.returncode == 1
    assert (
        f"StorageError: the checkpoint {folder / 'epoch=0-step=2.ckpt'} could not be written (RuntimeError: "
        in ended.stderr
    )
    assert f"the last whole one is {folder / 'last.ckpt'}: resume with --ckpt_path" in ended.stderr
    assert sorted(p.name for p in folder.glob("[!.]*")) == ["epoch=0-step=1.ckpt", "last.ckpt"]
    assert fault_of(usable_checkpoint(tmp_path / "run")) is None
