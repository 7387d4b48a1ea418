"""The solutions of a run's folder or of a file: a long run's are too many for memory, so their places are kept instead."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.report.solutions import RECORDED, ROUND_FOLDER, ShownSolution, shown_row, stored_solutions, thinned


@dataclass(frozen=True, slots=True)
class Place:
    """Where a solution's line begins in its file, and what chooses it: its key, its group, and the length of its text."""

    key: tuple[Hashable, ...]
    group: tuple[Hashable, ...]
    round: int | None
    index: int | None
    chars: int
    offset: int


class FileSolutions(Sequence[ShownSolution]):
    """Solutions of a file of JSON lines, each read when it is asked for.

    Raises:
        InputError: on reading, the file is gone, or was changed in the meantime.
    """

    def __init__(self, path: Path, places: Sequence[Place]) -> None:
        self.path = path
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> ShownSolution: ...

    @overload
    def __getitem__(self, index: slice) -> FileSolutions: ...

    def __getitem__(self, index: int | slice) -> ShownSolution | FileSolutions:
        if isinstance(index, slice):
            return FileSolutions(self.path, self.places[index])
        return self.read(self.places[index])

    def read(self, place: Place) -> ShownSolution:
        """Read the solution at a place of this file."""
        try:
            with self.path.open("rb") as file:
                file.seek(place.offset)
                return shown_row(json.loads(file.readline()))
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}); make it readable") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.path} was changed while it was read; write the report once more") from error


def chosen(solutions: Sequence[ShownSolution], most: int) -> list[ShownSolution]:
    """Return at most ``most`` solutions as ``thinned`` chooses them, reading no others."""
    if isinstance(solutions, FileSolutions):
        return [solutions.read(place) for place in thinned(solutions.places, most)]
    return thinned(solutions, most)


def total_chars(solutions: Sequence[ShownSolution]) -> int:
    """Return the length of the texts of all solutions."""
    return sum(row.chars for row in (solutions.places if isinstance(solutions, FileSolutions) else solutions))


def run_solutions(folder: Path, rounds: Path) -> tuple[Sequence[ShownSolution], list[str]]:
    """Return a run's solutions in the order of rounds, and notes on what could not be read.

    Args:
        folder: of the run.
        rounds: folder of its stored rounds.
    """
    recorded = folder / RECORDED
    if recorded.is_file():
        places, unreadable = scan(recorded)
        last = {place.key: place for place in places}  # a round is written again after a crash
        shown = sorted(last.values(), key=lambda p: (-1 if p.round is None else p.round, p.index or 0))
        return FileSolutions(recorded, shown), [_skipped(recorded, unreadable)] if unreadable else []
    shown = [
        row
        for path in sorted(rounds.glob("round_*"))
        if ROUND_FOLDER.fullmatch(path.name)
        for row in stored_solutions(path)
    ]
    note = "solutions come from the rounds still stored and show no advantages: the callback RunReport records those"
    return shown, [note] if shown else []


def predictions(path: Path) -> tuple[Sequence[ShownSolution], list[str]]:
    """Read the JSON lines of ``predict``, and return notes on lines that could not be read.

    Raises:
        InputError: the file cannot be read, or holds no judged solution.
    """
    places, unreadable = scan(path)
    if not places:
        held = f"{unreadable} line{'s' * (unreadable != 1)} of other content" if unreadable else "nothing"
        raise InputError(
            f"{path}: expected judged solutions as `predict` writes them, one JSON object a line, got {held}"
        )
    return FileSolutions(path, places), [_skipped(path, unreadable)] if unreadable else []


def scan(path: Path) -> tuple[list[Place], int]:
    """Return where the solutions of a JSON lines file are, and the number of lines that hold none.

    Raises:
        InputError: the file cannot be read.
    """
    places: list[Place] = []
    unreadable = offset = 0
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    row = shown_row(json.loads(line))
                    places.append(Place(row.key, row.group, row.round, row.index, row.chars, offset))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    unreadable += bool(line.strip())
                offset += len(line)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); make it readable") from error
    return places, unreadable


def _skipped(path: Path, lines: int) -> str:
    return f"{path.name}: {lines} line{'s' * (lines != 1)} cut short or of other content, left out"
