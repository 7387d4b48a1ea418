"""Bytes of real checkpoints are changed and cut off: what is damaged is named and not loaded, what is loaded is unchanged."""

from __future__ import annotations

import logging
import os
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_tpgrpo.checksums import CHECKSUMS
from lit_tpgrpo.cli import resolve_checkpoint
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.export import export_checkpoint
from lit_tpgrpo.module import TPGRPOModule
from lit_tpgrpo.training.checkpoints import CheckpointError, check, fault_of, load_checkpoint
from tests.datamodules.test_rollout_datamodule import data, module, trainer


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def changed(content: bytes, rng: random.Random, count: int) -> bytes:
    """Set so many bytes in a row to others."""
    start = rng.randrange(len(content) - count + 1)
    return (
        content[:start]
        + bytes(b ^ rng.randrange(1, 256) for b in content[start : start + count])
        + content[start + count :]
    )


@pytest.mark.parametrize("count", [1, 16])
def test_no_changed_weights_are_loaded_from_a_file(copied: Path, count: int):
    """Of 300 changes of 16 bytes in a checkpoint of 7 MB 298 were loaded, 104 of them with other weights."""
    path = copied / "last.ckpt"
    whole, rng = path.read_bytes(), random.Random(count)
    expected = torch.load(path, weights_only=True)
    refused = 0
    for _ in range(300):
        path.write_bytes(changed(whole, rng, count))
        check._checked.clear()
        try:
            assert same(load_checkpoint(path), expected)
        except (CheckpointError, InputError) as error:  # the latter where only torch sees a changed header
            refused += 1
            assert str(path) in str(error)  # noqa: PT017
    assert refused > 200


def boundaries(path: Path) -> list[int]:
    """Where a record's header, content and end lie, the table of contents, its end record."""
    found = [0]
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            found += [info.header_offset, start, start + info.file_size]
        found.append(archive.start_dir)
    size = path.stat().st_size
    return sorted({at + near for at in (*found, size - 22, size) for near in (-1, 0, 1) if 0 <= at + near < size})


def test_a_file_cut_short_at_any_boundary_is_damaged(copied: Path):
    path = copied / "last.ckpt"
    whole, ends = path.read_bytes(), boundaries(path)
    assert len(ends) > 200
    for end in ends:
        path.write_bytes(whole[:end])
        assert fault_of(path) in ("it is cut short", "it is empty", "it is no archive, as torch.save writes them"), end
    path.write_bytes(whole)
    assert fault_of(path) is None


@pytest.mark.slow
@pytest.mark.xdist_group("shards")
def test_no_changed_weights_are_loaded_from_shards(shards, tmp_path: Path):
    """Also where one process wrote them; the other's part is checked by what it said."""
    path = shards[0] / "last.ckpt"
    assert sorted(p.name for p in path.iterdir()) == [
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
        CHECKSUMS,
        "meta.pt",
    ]
    expected, rng = load_checkpoint(path), random.Random(0)
    files = sorted(path.iterdir())
    refused = 0
    for number in range(300):
        file = files[number % len(files)]
        whole = file.read_bytes()
        file.write_bytes(changed(whole, rng, 1 + number % 16))
        try:
            assert same(load_checkpoint(path), expected)
        except (CheckpointError, check.UnsafeCheckpointError):
            refused += 1
        finally:
            file.write_bytes(whole)
    assert refused > 270
    for file in files:  # cut off, or lost
        whole = file.read_bytes()
        for end in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:end])
            assert fault_of(path) is not None, (file, end)
        file.unlink()
        assert (fault_of(path) is None) is (file.name == CHECKSUMS)  # those of Lightning's own callback have none
        file.write_bytes(whole)
    assert fault_of(path) is None


@pytest.mark.slow
@pytest.mark.xdist_group("shards")
def test_shards_without_checksums_are_checked_by_those_of_their_tensors(shards):
    path = shards[0] / "epoch=0-step=2.ckpt"
    (path / CHECKSUMS).rename(path.parent / "kept")
    try:
        assert fault_of(path) is None
        shard = path / "__1_0.distcp"
        whole = shard.read_bytes()
        at = whole.index(b"data/0") + 400  # in the tensor
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert "in __1_0.distcp: " in str(fault_of(path))
        shard.write_bytes(whole)
    finally:
        (path.parent / "kept").rename(path / CHECKSUMS)


def damage(path: Path) -> None:
    """Change a byte of a tensor."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(next(n for n in archive.namelist() if n.endswith("data/0")))
    content = bytearray(path.read_bytes())
    content[info.header_offset + 500] ^= 1
    moment = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(moment, moment))


def test_every_entrance_names_the_damage_and_loads_nothing(copied: Path, small_model: str, tmp_path: Path, caplog):
    path = copied / "epoch=0-step=2.ckpt"
    damage(path)
    message = r"step=2\.ckpt is damaged \(.*data/0.*\): it is not loaded"
    policy = module(small_model)
    run = trainer(tmp_path / "other", max_steps=3)
    for start in (run.fit, run.validate, run.test, run.predict):
        with pytest.raises(CheckpointError, match=message):
            start(policy, datamodule=data(val=data().sources["train"]), ckpt_path=path)
    with pytest.raises(CheckpointError, match=message):
        TPGRPOModule.load_from_checkpoint(path)
    with pytest.raises(CheckpointError, match=message + r"; the newest whole one before it is .*step=1\.ckpt"):
        resolve_checkpoint(str(path))
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(path, tmp_path / "out")
    # The run's folder, and last where a run is to go on: the next one, with a warning.
    damage(copied / "last.ckpt")
    with caplog.at_level(logging.WARNING):
        assert resolve_checkpoint(str(copied)) == str(copied / "epoch=0-step=1.ckpt")
        assert resolve_checkpoint(str(copied / "last.ckpt")) == str(copied / "epoch=0-step=1.ckpt")
    assert caplog.text.count("step=2.ckpt is damaged") == caplog.text.count("last.ckpt is damaged") == 2
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged"):
        export_checkpoint(copied / "last.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_checkpoint(copied, tmp_path / "out")
    assert "for 1 optimizer steps" in (tmp_path / "out" / "README.md").read_text()


def test_a_whole_checkpoint_is_read_once(copied: Path, monkeypatch: pytest.MonkeyPatch):
    path = copied / "last.ckpt"
    assert fault_of(path) is None
    monkeypatch.setattr(check, "archive_fault", lambda path: "read again")
    assert fault_of(path) is None
    path.write_bytes(path.read_bytes())
    assert fault_of(path) == "read again"
