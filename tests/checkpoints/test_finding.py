"""The newest whole checkpoint is found; what was cut short is passed over with a message, at whatever length."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_tpgrpo.callbacks import SafeCheckpoint
from lit_tpgrpo.errors import InputError, StorageError
from lit_tpgrpo.training.checkpoints import CheckpointError, fault_of, usable_checkpoint
from tests.datamodules.test_rollout_datamodule import data, module, trainer


def saved(path: Path, moment: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": torch.zeros(300), "global_step": moment}, path)
    os.utime(path, ns=(moment, moment))
    return path


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_never_loaded(tmp_path: Path, caplog, share: float):
    first, second = (saved(tmp_path / "checkpoints" / f"step={n}.ckpt", n) for n in (1, 2))
    last = saved(tmp_path / "checkpoints" / "last.ckpt", 3)
    last.write_bytes(last.read_bytes()[: int(share * last.stat().st_size)])
    os.utime(last, ns=(3, 3))
    for path in (tmp_path, last):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert usable_checkpoint(path) == second
        assert f"the checkpoint {last} is damaged" in caplog.text
        assert f"the checkpoint is {second}" in caplog.text
    second.write_bytes(b"")
    assert usable_checkpoint(last) == first
    first.unlink()
    with pytest.raises(InputError, match=r"no whole checkpoint at ckpt_path .* \(2 looked at\)"):
        usable_checkpoint(tmp_path)


def test_a_named_checkpoint_is_the_one_that_is_loaded(tmp_path: Path):
    old, new = (saved(tmp_path / f"step={n}.ckpt", n) for n in (1, 2))
    assert usable_checkpoint(old) == old
    assert usable_checkpoint(tmp_path) == new
    old.write_bytes(b"PK")
    os.utime(old, ns=(1, 1))
    with pytest.raises(
        CheckpointError, match=r"step=1\.ckpt is damaged \(it is cut short\): .* no older one beside it is whole"
    ):
        usable_checkpoint(old)  # a newer one is not what was asked for


def test_a_certain_checkpoint_is_loaded_or_refused_and_last_may_be_an_older_one(tmp_path: Path):
    first, second = (saved(tmp_path / f"step={n}.ckpt", n) for n in (1, 2))
    last = saved(tmp_path / "last.ckpt", 3)
    for path, moment in ((second, 2), (last, 3)):
        path.write_bytes(b"PK")
        os.utime(path, ns=(moment, moment))
    with pytest.raises(CheckpointError, match=rf"{second} is damaged .* the newest whole one before it is {first}$"):
        usable_checkpoint(second)
    assert usable_checkpoint(last) == usable_checkpoint(tmp_path) == first
    with pytest.raises(CheckpointError, match=rf"{last} is damaged .* the newest whole one before it is {first}$"):
        usable_checkpoint(last, exact=True)
    assert usable_checkpoint(second, exact=False) == first


def test_only_what_is_named_is_looked_at(tmp_path: Path):
    """A mistyped name in a folder of other things searched all of it, and gave their leftovers back."""
    foreign = tmp_path / "foreign" / "a.ckpt.old.partial"
    beside = tmp_path / "b.ckpt.old.partial"
    own = saved(tmp_path / "c.ckpt.old.partial" / "meta.pt", 1).parent
    for folder in (foreign, beside):
        folder.mkdir(parents=True)
    newer = saved(tmp_path / "foreign" / "newer.ckpt", 0)
    with pytest.raises(InputError, match="does not exist") as error:
        usable_checkpoint(tmp_path / "typo.ckpt")
    assert not re.search(r"\b(last|best|hpc)\b(?!\.ckpt)", str(error.value))
    with pytest.raises(
        InputError, match=r"c\.ckpt is damaged \(\.metadata is missing\)"
    ):  # brought back, without its table
        usable_checkpoint(tmp_path / "c.ckpt")
    assert foreign.exists()
    assert beside.exists()
    assert newer.exists()
    assert not own.exists()
    assert (tmp_path / "c.ckpt").exists()


def test_folders_that_go_while_it_looks_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = saved(tmp_path / "run" / "step=1.ckpt", 1)
    (tmp_path / "run" / "gone").mkdir()
    scandir = os.scandir

    def racing(path: str | Path):
        if Path(path).name == "gone" and Path(path).exists():
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", racing)
    assert usable_checkpoint(tmp_path / "run") == kept


def test_shards_without_their_table_are_not_whole(tmp_path: Path):
    folder = tmp_path / "step=1.ckpt"
    saved(folder / "meta.pt", 1)
    assert fault_of(folder) == ".metadata is missing"
    (folder / ".metadata").write_bytes(b"torn")
    assert ".metadata cannot be read" in str(fault_of(folder))


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_sampled(random_model, tmp_path):
    (tmp_path / "file").write_text("")
    dm = data()
    with pytest.raises(StorageError, match=r"nothing can be written to .*file/in.*Not a directory"):
        trainer(tmp_path, SafeCheckpoint(dirpath=tmp_path / "file" / "in"), enable_checkpointing=True).fit(
            module(random_model), datamodule=dm
        )
    assert dm.engine.sampled == 0  # pyright: ignore


def test_a_store_that_cannot_be_written_says_where(random_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"nothing can be written to .*file/in.*Not a directory"):
        trainer(tmp_path).fit(module(random_model), datamodule=data(store_dir=str(tmp_path / "file" / "in")))


def test_what_a_killed_run_left_half_written_is_taken_away(random_model, tmp_path):
    folder = tmp_path / "ckpt"
    folder.mkdir()
    (folder / "last.ckpt.partial").write_bytes(b"half")
    with pytest.warns(UserWarning, match="was not written to its end"):
        trainer(
            tmp_path, SafeCheckpoint(dirpath=folder, every_n_train_steps=1), enable_checkpointing=True, max_steps=1
        ).fit(module(random_model), datamodule=data())
    assert sorted(p.name for p in folder.glob("[!.]*")) == ["epoch=0-step=1.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_everything_comes_back_and_tensorboard_goes_on_at_its_step(random_model, tmp_path):
    def run(folder: str, steps: int, path: Path | None = None):
        checkpoint = SafeCheckpoint(dirpath=tmp_path / folder, every_n_train_steps=1)
        logger = TensorBoardLogger(tmp_path, name="tb", version=folder)
        made = trainer(tmp_path, checkpoint, enable_checkpointing=True, max_steps=steps, logger=logger)
        made.fit(module(random_model), datamodule=data(), ckpt_path=path, weights_only=True)
        events = EventAccumulator(str(tmp_path / "tb" / folder))
        events.Reload()
        return [e.step for e in events.Scalars("train/loss")], torch.random.get_rng_state()

    torch.manual_seed(5)
    begun, _ = run("begun", 3)
    state = torch.load(tmp_path / "begun" / "last.ckpt", weights_only=True)
    drawn = state["random_states"][0]["torch"]
    resumed, after = run("resumed", 5, tmp_path / "begun" / "last.ckpt")
    assert begun == [0, 1, 2]
    assert resumed == [3, 4]
    assert torch.equal(after, drawn)  # training and sampling draw from seeds of their own
    assert state["optimizer_states"]
    assert {"round", "position", "store_dir"} <= state["MathRolloutDataModule"].keys()
