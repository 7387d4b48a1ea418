"""Folders of shards, as torch's distributed checkpoint writes them, read without running what they hold.

torch unpickles their table (``.metadata``) and every item that is no tensor (the optimizer's settings) with all that a pickle
can do (https://github.com/pytorch/pytorch/issues/189308). The table is therefore read here first, by an unpickler that knows
the types which torch 2.11 to 2.14 write there and no others, and the items with ``weights_only``.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.utils import _ReaderView

from lit_tpgrpo.training.checkpoints.archives import archive_fault

TABLE = ".metadata"
REST = "meta.pt"
"""Lightning's name for what is not sharded."""


@dataclass(frozen=True)
class Item:
    """Location of a tensor or a value: ``length`` bytes from ``offset`` of the folder's file ``file``."""

    name: str
    file: str
    offset: int
    length: int
    tensor: bool


def read_table(folder: Path) -> list[Item]:
    """Parse a folder's shard table.

    Raises:
        ForbiddenTypeError: it names a type that torch does not write there.
        ValueError: unreadable or inconsistent.
    """
    others = sorted(path.name for path in folder.glob(f"*{TABLE}") if path.name != TABLE)
    if others:  # torch falls back to them if it cannot read the first
        raise ValueError(f"{others[0]} is of a table of another kind")
    try:
        with (folder / TABLE).open("rb") as file:
            table = _TableUnpickler(file).load()
        return list(_items(table))
    except (ForbiddenTypeError, OSError):
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise ValueError(f"{TABLE} cannot be read ({type(error).__name__})") from error


def item_fault(folder: Path, item: Item, read: bool) -> str | None:
    """Return what is wrong with an item: the file is missing or too short or, where it is ``read``, its checksum differs."""
    path = folder / item.file
    if not path.is_file() or path.stat().st_size < item.offset + item.length:
        return f"{item.file} is missing or cut short"
    if not read:
        return None
    with _opened(folder, item) as content:
        fault = archive_fault(content, item.length)
    return None if fault is None else f"{item.name} in {item.file}: {fault}"


def load_value(folder: Path, item: Item) -> Any:
    """Return an item that is no tensor, or raise what ``torch.load`` raises of one that holds more than plain values."""
    with _opened(folder, item) as content:
        return torch.load(content, map_location="cpu", weights_only=True)


@contextmanager
def _opened(folder: Path, item: Item) -> Iterator[IO[bytes]]:
    with (folder / item.file).open("rb") as file:
        yield _Slice(file, item.offset, item.length)  # pyright: ignore[reportReturnType, reportArgumentType]


class _Slice(_ReaderView):
    """Part of a file as a stream that zipfile can read: it also seeks relative to the end, which torch's stream gets wrong."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.len}[whence]
        return super().seek(start + offset) - self.offset


def _items(table: Any) -> Iterator[Item]:
    _expect(isinstance(table, _Metadata))
    kinds, locations = table.state["state_dict_metadata"], table.state["storage_data"]
    rest = table.state.get("storage_meta")
    _expect(
        isinstance(kinds, dict) and isinstance(locations, dict) and (rest is None or isinstance(rest, _StorageMeta))
    )
    for index, info in locations.items():
        _expect(isinstance(index, _MetadataIndex) and isinstance(info, _StorageInfo))
        name, (file, offset, length) = (
            index.state["fqn"],
            (info.state[k] for k in ("relative_path", "offset", "length")),
        )
        _expect(isinstance(name, str) and isinstance(file, str) and isinstance(offset, int) and isinstance(length, int))
        # Only files of the folder itself, and nothing that another program would have to decode first.
        _expect(file not in (".", "..") and not set(file) & set("/\\") and offset >= 0 and length > 0)
        _expect(not info.state.get("transform_descriptors"))
        _expect(isinstance(kinds[name], (_TensorMetadata, _BytesMetadata)))
        yield Item(name, file, offset, length, isinstance(kinds[name], _TensorMetadata))


def _expect(holds: bool) -> None:
    if not holds:
        raise ValueError("not a valid shard table")


# ---- the allow-list: stand-ins for the types, which keep what they are given and do nothing ----


class ForbiddenTypeError(ValueError):
    """The pickle names a type outside the allow-list."""


class _Fixed(type):
    """Forbid setting class attributes: a pickle can set those of any object it reaches."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise ForbiddenTypeError(f"{cls.__name__}.{name}")


class _StandIn(metaclass=_Fixed):
    """Built without arguments, then given its fields, those in ``__annotations__`` and no others.

    Copy the fields once and refuse a second state: a pickle could change the mapping later or set fields twice.
    """

    state: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        fields = dict(state) if type(state) is dict else None
        if fields is None or not fields.keys() <= set(type(self).__annotations__) or hasattr(self, "state"):
            raise ForbiddenTypeError(f"state of {type(self).__name__}")
        self.state = fields


class _Metadata(_StandIn):
    state_dict_metadata: Any
    planner_data: Any
    storage_data: Any
    storage_meta: Any
    version: Any


class _StorageMeta(_StandIn):
    checkpoint_id: Any
    save_id: Any
    load_id: Any
    modules: Any


class _TensorMetadata(_StandIn):
    properties: Any
    size: Any
    chunks: Any


class _BytesMetadata(_StandIn):
    pass


class _Chunk(_StandIn):
    offsets: Any
    sizes: Any


class _MetadataIndex(_StandIn):
    fqn: Any
    offset: Any
    index: Any


class _StorageInfo(_StandIn):
    relative_path: Any
    offset: Any
    length: Any
    transform_descriptors: Any


class _Properties(_StandIn):
    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ForbiddenTypeError("state of TensorProperties")


class _Value(metaclass=_Fixed):
    """Callables that take plain values: ``torch.Size``, paths, layouts, memory formats."""

    def __init__(self, *args: Any) -> None:
        if not all(isinstance(arg, (str, int, tuple)) for arg in args):
            raise ForbiddenTypeError("arguments of torch.Size or a path")

    def __setstate__(self, state: Any) -> None:
        raise ForbiddenTypeError("state of torch.Size or a path")


_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    (_METADATA, "Metadata"): _Metadata,
    (_METADATA, "StorageMeta"): _StorageMeta,
    (_METADATA, "TensorStorageMetadata"): _TensorMetadata,
    (_METADATA, "BytesStorageMetadata"): _BytesMetadata,
    (_METADATA, "ChunkStorageMetadata"): _Chunk,
    (_METADATA, "MetadataIndex"): _MetadataIndex,
    (_METADATA, "TensorProperties"): _Properties,
    (_METADATA, "_MEM_FORMAT_ENCODING"): _Value,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _StorageInfo,
    ("torch.serialization", "_get_layout"): _Value,
    ("torch", "Size"): _Value,
    ("pathlib", "PosixPath"): _Value,
    ("pathlib", "WindowsPath"): _Value,
    ("pathlib._local", "PosixPath"): _Value,  # Python 3.13
    ("pathlib._local", "WindowsPath"): _Value,
}


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return getattr(torch, name)
        raise ForbiddenTypeError(f"{module}.{name}")
