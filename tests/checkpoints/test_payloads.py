"""Checkpoints that would run code when loaded are refused at every entrance, before anything is built."""

from __future__ import annotations

import contextlib
import io
import pickle
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.load import _load_distributed_checkpoint
from torch.distributed.checkpoint.api import CheckpointException

from lit_tpgrpo import cli, export
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.checkpoints import UnsafeCheckpointError, check_checkpoint, load_checkpoint, usable_checkpoint
from lit_tpgrpo.training.checkpoints.shards import ForbiddenTypeError, _TableUnpickler
from tests.checkpoints.payloads import IN_SHARDS, Payload, hostile_copy, in_file
from tests.datamodules.test_rollout_datamodule import data, module, trainer

SOURCES = "holds more than tensors and plain values|is damaged"


@pytest.fixture(autouse=True)
def no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own safe default is switched off: ours does not rest on it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


@pytest.mark.parametrize(
    "how", ["archive", *(pytest.param(how, marks=pytest.mark.slow) for how in ("before archives", "pickle"))]
)
def test_every_entrance_refuses_a_file(copied: Path, small_model: str, tmp_path: Path, how: str, monkeypatch, capsys):
    path, ran = copied / "last.ckpt", tmp_path / "ran"
    in_file(path, ran, how)
    policy = module(small_model)
    run = trainer(tmp_path / "other", max_steps=3)
    for start in (run.fit, run.validate, run.test, run.predict):
        with pytest.raises(InputError, match=SOURCES):
            start(policy, datamodule=data(), ckpt_path=path)
    with pytest.raises(InputError, match=SOURCES):
        TPGRPOModule.load_from_checkpoint(path)
    monkeypatch.setattr(cli.TPGRPOCLI, "instantiate_classes", lambda self: pytest.fail("something is built"))
    monkeypatch.setattr(export, "rebuild", lambda *args: pytest.fail("something is built"))
    for command in ("fit", "validate", "test", "predict"):
        options = ["--config", "configs/quickstart.yaml", "--trainer.logger", "false", "--ckpt_path", str(path)]
        if how != "archive":  # damaged: last alone would be passed over
            options[-1] = str(path.rename(path.with_name("epoch=0-step=9.ckpt")) if path.exists() else options[-1])
            path = Path(options[-1])
        with pytest.raises(SystemExit, match=rf"^error: the checkpoint .*({SOURCES})"):
            cli.main([command, *options])
    with pytest.raises(SystemExit, match=rf"^error: the checkpoint .*({SOURCES})"):
        export.main([str(path), str(tmp_path / "out")])
    assert not ran.exists()
    with contextlib.suppress(RuntimeError):  # a bare pickle is told from torch's own when it has run
        torch.load(path, weights_only=False)
    assert ran.exists()  # it would have


def test_what_the_user_trusts_is_loaded(copied: Path, tmp_path: Path):
    path, ran = copied / "last.ckpt", tmp_path / "ran"
    in_file(path, ran, "archive")
    assert cli.resolve_checkpoint(str(path), trusted=True) == str(path)
    with pytest.raises(UnsafeCheckpointError, match="give --weights_only false"):
        cli.resolve_checkpoint(str(path))
    assert not ran.exists()
    assert TPGRPOModule.load_from_checkpoint(path, weights_only=False)
    assert ran.exists()


@pytest.mark.xdist_group("shards")
@pytest.mark.slow
@pytest.mark.parametrize("place", IN_SHARDS)
def test_every_entrance_refuses_shards(shards, tmp_path: Path, place: str):
    path = hostile_copy(shards[0] / "last.ckpt", tmp_path / "last.ckpt", place, tmp_path / "ran")
    for entrance in (
        cli.resolve_checkpoint,
        lambda p: export.export_checkpoint(Path(p), tmp_path / "out"),
        lambda p: load_checkpoint(Path(p)),
        lambda p: check_checkpoint(usable_checkpoint(Path(p))),
    ):
        with pytest.raises(InputError, match=rf"{SOURCES}|no whole checkpoint"):
            entrance(str(path))
    assert not (tmp_path / "ran").exists()
    with contextlib.suppress(Exception, CheckpointException):  # some fail after the payload ran
        _load_distributed_checkpoint(path)
    assert (tmp_path / "ran").exists()


@pytest.mark.xdist_group("shards")
@pytest.mark.slow
def test_two_processes_refuse_shards_and_go_on_from_whole_ones(shards):
    """``trainer.fit(ckpt_path=...)`` in Python, with torch's safe default switched off."""
    results = shards[1]
    assert results["ran"] == []
    assert results["fit"] == ["step 2"] * 2
    assert results["whole"] == ["step 3"] * 2
    for name in (*IN_SHARDS, "flipped"):
        first, second = results[name]
        assert first.startswith(("UnsafeCheckpointError: ", "CheckpointError: ")), results[name]
        assert second.startswith("OtherProcessError: checking the checkpoint failed on rank 0"), results[name]
    assert "__1_0.distcp: its checksum differs" in results["flipped"][0]


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"\x80\x04\x8c\x05torch\x8c\x04load\x93.",
        b"\x80\x04\x8c\x05torch\x8c\x10serialization.os\x93.",
        # A class that is allowed gets an attribute: (None, {"__reduce__": 1}) as its state.
        b"\x80\x04\x8c%torch.distributed.checkpoint.metadata\x8c\x08Metadata\x93N}\x8c\x01a\x8c\x01bs\x86b.",
        # An allowed object gets its fields twice, of which torch's would keep both.
        b"\x80\x04\x8c%torch.distributed.checkpoint.metadata\x8c\x08Metadata\x93)\x81}\x8c\x07versionNsb}b.",
        # An allowed object gets a field that it has not.
        b"\x80\x04\x8c%torch.distributed.checkpoint.metadata\x8c\x08Metadata\x93)\x81}\x8c\x01a\x8c\x01bsb.",
    ],
)
def test_the_table_knows_its_types_and_no_others(pickled: bytes):
    with pytest.raises((ForbiddenTypeError, TypeError)):
        _TableUnpickler(io.BytesIO(pickled)).load()


def test_fields_are_those_of_the_moment_in_which_they_were_given():
    """torch's object keeps what it was given; the mapping that it came in is changed afterwards."""
    name = b"\x8c%torch.distributed.checkpoint.metadata\x8c\x08Metadata\x93)\x81"
    pickled = b"\x80\x04" + name + b"}\x94\x8c\x07versionK\x01sbh\x00\x8c\x07versionK\x02s0."
    assert pickle.loads(pickled).version == 1
    assert _TableUnpickler(io.BytesIO(pickled)).load().state == {"version": 1}


def test_a_payload_is_one(tmp_path: Path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()
