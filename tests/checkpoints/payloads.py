"""Pickles that create a file when they are loaded, and where they can lie."""

from __future__ import annotations

import copyreg
import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lit_tpgrpo.checksums import CHECKSUMS, write_checksums


class Payload:
    """Creates the file ``ran`` when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = str(ran)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.ran, "w"))


def in_file(path: Path, ran: Path, how: str) -> None:
    """Put a payload into a checkpoint file: into torch's archive, torch's format before that, or a bare pickle."""
    content = torch.load(path, weights_only=True) | {"extra": Payload(ran)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": {}, "global_step": 1, "extra": Payload(ran)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "archive")


def in_rest(folder: Path, ran: Path) -> None:
    in_file(folder / "meta.pt", ran, "archive")


def in_table(folder: Path, ran: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps([_table(folder), Payload(ran)]))


def in_table_behind_an_allowed_type(folder: Path, ran: Path) -> None:
    """The whole table is right, and one of its fields runs code."""
    table = _table(folder)
    table.planner_data = Payload(ran)
    (folder / ".metadata").write_bytes(pickle.dumps(table))


def in_other_table(folder: Path, ran: Path) -> None:
    """torch reads it where it can make nothing of the first."""
    table = _table(folder)
    table.storage_meta = "none"
    (folder / ".metadata").write_bytes(pickle.dumps(table))
    for rank in range(2):
        (folder / f"__{rank}.metadata").write_bytes(pickle.dumps(Payload(ran)))


def in_value(folder: Path, ran: Path) -> None:
    """A setting of the optimizer, which torch unpickles from a shard."""
    table, buffer = _table(folder), io.BytesIO()
    torch.save(Payload(ran), buffer)
    index = next(i for i in table.storage_data if i.fqn.endswith("betas"))
    info = table.storage_data[index]
    file = folder / info.relative_path
    info.offset, info.length = file.stat().st_size, len(buffer.getvalue())
    file.write_bytes(file.read_bytes() + buffer.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(table))


def in_value_elsewhere(folder: Path, ran: Path) -> None:
    """A setting of the optimizer, said to lie in a file outside the folder."""
    table = _table(folder)
    other = folder.parent / "elsewhere.pt"
    torch.save(Payload(ran), other)
    info = table.storage_data[next(i for i in table.storage_data if i.fqn.endswith("betas"))]
    info.relative_path, info.offset, info.length = "../elsewhere.pt", 0, other.stat().st_size
    (folder / ".metadata").write_bytes(pickle.dumps(table))


_Pickler: Any = pickle._Pickler  # pyright: ignore[reportAttributeAccessIssue]


class _ChangedLater(_Pickler):
    """Gives one object the fields that it has, and then changes the mapping that they came in to ``others``."""

    changed: Any
    others: dict[str, Any]

    def reducer_override(self, obj: Any) -> Any:
        if obj is not self.changed:
            return NotImplemented
        self.fields = dict(vars(obj))
        return copyreg.__newobj__, (type(obj),), self.fields  # pyright: ignore[reportAttributeAccessIssue]

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        super().save(obj, save_persistent_id)
        if obj is self.changed:
            self.write(self.get(self.memo[id(self.fields)][0]))
            for name, value in self.others.items():
                super().save(name)
                super().save(value)
                self.write(pickle.SETITEM)
            self.write(pickle.POP)


def in_fields_that_change(folder: Path, ran: Path) -> None:
    """A setting of the optimizer, said to lie elsewhere by fields that are no longer there when the table has been read."""
    table, file = _table(folder), folder / "__9_0.distcp"
    torch.save(Payload(ran), file)
    info = table.storage_data[next(i for i in table.storage_data if i.fqn.endswith("betas"))]
    pickler = _ChangedLater(buffer := io.BytesIO(), 4)
    pickler.changed, pickler.others = info, dict(vars(info))
    info.relative_path, info.offset, info.length = file.name, 0, file.stat().st_size
    pickler.dump(table)
    (folder / ".metadata").write_bytes(buffer.getvalue())


IN_SHARDS: dict[str, Callable[[Path, Path], None]] = {
    place.__name__: place
    for place in (
        in_rest,
        in_table,
        in_table_behind_an_allowed_type,
        in_other_table,
        in_value,
        in_value_elsewhere,
        in_fields_that_change,
    )
}


def hostile_copy(folder: Path, out: Path, place: str, ran: Path) -> Path:
    """A copy of a folder of shards with a payload, and with checksums that are right."""
    shutil.copytree(folder, out)
    IN_SHARDS[place](out, ran)
    (out / CHECKSUMS).unlink()
    write_checksums(out, [])
    return out


def _table(folder: Path) -> Any:
    return pickle.loads((folder / ".metadata").read_bytes())
