"""Show a stored round to a person: ``python -m lit_tpgrpo.rounds show PATH [--group N [--sample K]]``."""

from __future__ import annotations

import argparse
import json
import logging
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.records import Outcome, Solution, StopReason, Verdict
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.token_records import Sampled
from lit_tpgrpo.user_errors import one_line_errors

_EXAMPLES = """examples:
  python -m lit_tpgrpo.rounds show runs/quickstart/version_0                            # the newest round
  python -m lit_tpgrpo.rounds show runs/quickstart/version_0/rounds/round_000003
  python -m lit_tpgrpo.rounds show runs/quickstart/version_0 --group 5 --sample 0       # its text, step by step
"""
_PROBLEM_WIDTH = 40  # characters of a problem and of its gold answer in the table
Judged = Mapping[tuple[int, int], tuple[Outcome, str | None, Verdict]]


@dataclass(frozen=True)
class StoredRound:
    """What a round's folder holds: settings, groups by their index, verdicts by (group index, sample)."""

    folder: Path
    settings: Mapping[str, Any]
    groups: Mapping[int, Sampled]
    verdicts: Judged


def read_round(path: Path) -> StoredRound:
    """Read a stored round: of its own folder, or the newest one of a run's folder. Damage is logged and left out.

    Raises:
        InputError: there is no stored round.
    """
    folder = _round_folder(path)
    file = RoundFile(folder)
    groups = {index: (problem, solutions) for index, problem, solutions in file.groups()}
    return StoredRound(folder, _settings(folder / "meta.json"), dict(sorted(groups.items())), file.verdicts(groups))


def _round_folder(path: Path) -> Path:
    if any(path.glob("solutions.*.jsonl")) or (path / "judging.json").is_file():
        return path
    rounds = [folder for at in (path, path / "rounds") for folder in sorted(at.glob("round_*")) if folder.is_dir()]
    if not rounds:
        raise InputError(
            f"{path}: expected a stored round, such as runs/quickstart/version_0/rounds/round_000003, or a run's folder with "
            "some; rounds older than data.keep_rounds are removed, 0 keeps all"
        )
    return rounds[-1]


def _settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # of another program, or not written yet
        return {}
    return content if isinstance(content, dict) else {}


def overview(stored: StoredRound) -> Iterator[str]:
    """Yield lines: settings, counts, and a table of the groups."""
    solutions = [s for _, of_group in stored.groups.values() for s in of_group]
    lengths = [len(s.completion_ids) for s in solutions]
    names = ("policy_version", "weights", "seed", "group_size", "sampling", "temperature")
    yield str(stored.folder)
    yield from (f"{name:<14}  {stored.settings[name]}" for name in names if name in stored.settings)
    problems = stored.settings.get("problems")
    yield f"{'groups':<14}  {len(stored.groups)}" + (f" of {len(problems)}" if isinstance(problems, list) else "")
    size = sum(path.stat().st_size for path in stored.folder.glob("solutions.*"))
    yield f"{'solutions':<14}  {len(solutions)}, {sum(s.stop is StopReason.LENGTH for s in solutions)} truncated"
    if solutions:
        yield (
            f"{'tokens':<14}  {sum(lengths):,}; a solution {sum(lengths) / len(lengths):.1f}, at most {max(lengths)}; "
            f"{size / max(sum(lengths), 1):.1f} bytes a token on disk"
        )
    outcomes = Counter(outcome.value for outcome, _, _ in stored.verdicts.values())
    abstained = sum(verdict.abstained for _, _, verdict in stored.verdicts.values())
    counts = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    yield f"{'verdicts':<14}  {len(stored.verdicts)}" + (f": {counts}; {abstained} abstained" if counts else "")
    yield ""
    yield f"{'group':>5}  {'correct':>7}  {'tokens':>8}  {'problem':<{_PROBLEM_WIDTH}}  gold"
    for index, (problem, of_group) in stored.groups.items():
        judged = [stored.verdicts[index, s.sample][0] for s in of_group if (index, s.sample) in stored.verdicts]
        correct = f"{sum(o is Outcome.CORRECT for o in judged)}/{len(of_group)}" if judged else f"?/{len(of_group)}"
        tokens = sum(len(s.completion_ids) for s in of_group)
        yield f"{index:>5}  {correct:>7}  {tokens:>8,}  {_short(problem.uid):<{_PROBLEM_WIDTH}}  {_short(problem.answer)}"


def details(stored: StoredRound, group: int, sample: int | None = None) -> Iterator[str]:
    """Yield lines: a group's problem and solutions, each with its outcome and the labels of its steps.

    Raises:
        InputError: the round has no such group or sample.
    """
    if group not in stored.groups:
        raise InputError(f"{stored.folder} has no group {group}, only {_ranges(stored.groups)}")
    problem, solutions = stored.groups[group]
    if sample is not None and sample not in [s.sample for s in solutions]:
        raise InputError(f"group {group} has no sample {sample}, only {_ranges(s.sample for s in solutions)}")
    yield f"group {group}: {printable(problem.uid)}, gold {printable(problem.answer)}"
    yield printable(problem.prompt)
    for solution in solutions:
        if sample in (None, solution.sample):
            yield from _solution(solution, stored.verdicts.get((group, solution.sample)))


def _solution(solution: Solution, judged: tuple[Outcome, str | None, Verdict] | None) -> Iterator[str]:
    tokens = len(solution.completion_ids)
    mean = f", mean log-prob {solution.logprobs.mean():.3f}" if tokens else ""
    yield ""
    yield f"--- sample {solution.sample}: {tokens} tokens{mean}, ended by {solution.stop.value}"
    if judged is None:
        yield "    no verdict yet"
        yield printable(solution.text)
        return
    outcome, answer, verdict = judged
    yield f"    {outcome.value}, answer {'none' if answer is None else printable(answer)}"
    if verdict.note:
        yield f"    judge: {printable(verdict.note)}"
    for step, label in zip(verdict.steps, verdict.labels, strict=False):
        yield f"[{label.value}] {printable(solution.text[step.start : step.end]).rstrip()}"


def printable(text: str) -> str:
    """Return a text without what a terminal would obey or could not show: control characters and surrogates are escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= _PROBLEM_WIDTH else line[: _PROBLEM_WIDTH - 1] + "…"


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as text, at most ten of them."""
    known = sorted(numbers)
    return ", ".join(map(str, known[:10])) + (f" and {len(known) - 10} more" if len(known) > 10 else "") or "none"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; a user error ends it with one line."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m lit_tpgrpo.rounds",
        description="Show rounds that a run stored.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    show = parser.add_subparsers(dest="command", required=True, metavar="show").add_parser(
        "show", help="print a round: settings, counts, its groups; with --group its texts with their labels"
    )
    show.add_argument("path", type=Path, help="folder of a round, or of a run: its newest round")
    show.add_argument("--group", type=int, help="print this group's problem and solutions")
    show.add_argument("--sample", type=int, help="of the group, print this solution alone")
    options = parser.parse_args(args)
    with one_line_errors():
        if options.sample is not None and options.group is None:
            raise InputError("--sample is one of a group: give --group as well")
        stored = read_round(options.path)
        lines = overview(stored) if options.group is None else details(stored, options.group, options.sample)
        for line in lines:
            print(line)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a message
    main()
