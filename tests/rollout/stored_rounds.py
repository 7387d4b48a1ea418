"""Change what is stored of a round, as a fault or another program would."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lit_tpgrpo.records import Problem, Solution
from lit_tpgrpo.rollout.round_file import RoundFile


def rewrite_lines(path: Path, change: Callable[[dict], object]) -> None:
    """Change each line of a file; one for which nothing comes back is lost."""
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def rewrite_groups(
    folder: Path,
    group_size: int,
    change: Callable[[int, Problem, Sequence[Solution]], tuple[Problem, Sequence[Solution]] | None],
) -> None:
    """Store each group of a round as ``change`` gives it; one for which nothing comes back is lost."""
    groups = RoundFile(folder).solutions(group_size)
    for path in folder.glob("solutions.*"):
        path.unlink()
    for index, (problem, solutions) in groups.items():
        if (changed := change(index, problem, solutions)) is not None:
            RoundFile(folder).add_solutions({index: (changed[0], tuple(changed[1]))})
