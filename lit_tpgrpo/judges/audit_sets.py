"""Readers of public data that say which steps of a solution are wrong: MR-Ben's maths and PRMBench.

They give ``WrongSteps``. What a judge is told of the outcome is what a verifier would say of the final answer, which is
another question than whether all steps are right.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.judges.error_detection import ErrorReport, WrongSteps, make_record
from lit_tpgrpo.records import Outcome, Problem

OnMalformed = Literal["stop", "skip"]
Rows = Iterator[tuple[str, Any]]
_SHOWN = 3
_MAX_TRUTH = 500
_MAX_DIGITS = 9
# Possessive: a run of blanks is gone through once.
_STEP_LABEL = re.compile(r"\W*+S?tep\s*+(\d{1,9}+)\b", re.IGNORECASE)
_STATEMENT = re.compile(r"\W*+(?:final\s++)?(?:solution|answer)\b[^.\n]{0,3}:", re.IGNORECASE)
# Not "Choice_A/B/C/D", which names none of them.
_CHOICE = re.compile(r"[Cc]hoice[\W_]*([A-Z])(?![A-Za-z/])")


def read_mrben(path: str | Path, on_malformed: OnMalformed = "stop", limit: int | None = None) -> ErrorReport:
    """MR-Ben (2406.13975): solutions of multiple-choice problems with the first wrong step, marked by people.

    The numbers of its wrong steps are those that the solver wrote (``Step 3: ...``), not places in the list, which
    holds lines: lines without a new label belong to the step before them, a closing ``Solution: ...`` is a step of its
    own. Where no line has a label, each is a step. The answer block repeats the last line. The answer is right if the last line
    names the right choice and no other, or if the solution is marked as free of errors.

    Args:
        path: the file: an object of lists of solutions.
        on_malformed: ``stop`` at malformed rows, or ``skip`` them with a count.
        limit: take only the first so many usable rows.

    Raises:
        InputError: the file cannot be read, rows are malformed (stop), or none is usable.
    """
    return _read(Path(path), _mrben_rows(Path(path)), _mrben_record, on_malformed, limit)


def read_prmbench(path: str | Path, on_malformed: OnMalformed = "stop", limit: int | None = None) -> ErrorReport:
    """PRMBench (2501.03124): step lists in which all wrong steps are known, none in some of its files.

    The answer of a row without wrong steps is right and its answer block is the boxed ground truth. A row with wrong
    steps may still end in the right answer: it does if the ground truth stands in the last step. Its answer block
    repeats that step.

    Args:
        path: the file, one object a line.
        on_malformed: ``stop`` at malformed rows, or ``skip`` them with a count.
        limit: take only the first so many usable rows.

    Raises:
        InputError: the file cannot be read, rows are malformed (stop), or none is usable.
    """
    return _read(Path(path), _jsonl_rows(Path(path)), _prmbench_record, on_malformed, limit)


def _read(
    path: Path, rows: Rows, convert: Callable[[Any], WrongSteps], on_malformed: OnMalformed, limit: int | None
) -> ErrorReport:
    """Convert rows until there are enough; the report of malformed ones names the first few of them."""
    records: list[WrongSteps] = []
    malformed: list[tuple[str, str]] = []
    for where, row in rows:
        if len(records) == limit:
            break
        try:
            records.append(_converted(row, convert))
        except InputError as error:
            malformed.append((where, str(error)))
    listed = "; ".join(f"{where}: {reason}" for where, reason in malformed[:_SHOWN])
    found = f"{path}: {len(malformed)} of {len(records) + len(malformed)} rows read are malformed: {listed}"
    if len(malformed) > _SHOWN:
        found += f"; and {len(malformed) - _SHOWN} more"
    if not records:
        raise InputError(
            f"{found}. No usable row is left: is it the right file for this data?"
            if malformed
            else f"{path}: expected at least one row, got none. Is it the right file?"
        )
    if malformed and on_malformed == "stop":
        raise InputError(f"{found}. Correct them, or leave them out with on_malformed: skip.")
    # Numbers differ from row to row; the reason is what they have in common.
    return ErrorReport(_told_apart(records), Counter(re.sub(r"\d+", "N", reason) for _, reason in malformed))


def _converted(row: Any, convert: Callable[[Any], WrongSteps]) -> WrongSteps:
    """Convert a row that is an object; one that could not even be decoded is the error to raise."""
    if isinstance(row, InputError):
        raise row
    if not isinstance(row, Mapping):
        raise InputError(f"expected an object with named fields, got {_typed(row)}")
    return convert(row)


def _told_apart(records: Sequence[WrongSteps]) -> list[WrongSteps]:
    """The records with different uids: a repeated one gets a number."""
    seen: Counter[str] = Counter()
    apart = []
    for record in records:
        problem = record.case.problem
        seen[problem.uid] += 1
        if seen[problem.uid] > 1:
            problem = replace(problem, uid=f"{problem.uid}-{seen[problem.uid]}")
            solution = replace(record.case.solution, problem_uid=problem.uid)
            record = replace(record, case=replace(record.case, problem=problem, solution=solution))
        apart.append(record)
    return apart


def _mrben_record(row: Mapping[str, Any]) -> WrongSteps:
    lines, verdict = _texts(row, "Model_Solution_Steps"), _text(row, "Model_Solution_Correctness")
    gold = _text(row, "Ground_Truth_Answer")
    if verdict not in ("correct", "incorrect"):
        raise InputError(f"expected correct or incorrect in 'Model_Solution_Correctness', got {verdict!r}")
    said = str(row.get("Model_Solution_First_Error_Step")).strip()
    numbered = said.isdecimal() and len(said) <= _MAX_DIGITS
    if (said == "N/A") != (verdict == "correct") or not (said == "N/A" or numbered):
        raise InputError(
            "expected in 'Model_Solution_First_Error_Step' the number of a step of an incorrect solution, or N/A of a "
            f"correct one, got {said[:80]!r} of a solution that is {verdict}"
        )
    steps, labels = _grouped(lines)
    if said != "N/A" and labels.count(int(said)) != 1:
        raise InputError(f"expected one step with the number of the first error, {said}, got {labels.count(int(said))}")
    last = next((line for line in reversed(lines) if line.strip()), "")
    right = verdict == "correct" or set(_CHOICE.findall(last)) == {gold}
    problem = Problem(
        f"mrben/{_text(row, 'Question_UUID')}/{_text(row, 'Sampled_Model')}",
        f"{_text(row, 'Question')}\n{_text(row, 'Options')}",
        gold,
        "mrben",
    )
    first = None if said == "N/A" else 1 + labels.index(int(said))
    return make_record(problem, steps, last, Outcome.CORRECT if right else Outcome.INCORRECT, first)


def _grouped(lines: Sequence[str]) -> tuple[list[str], list[int | None]]:
    """Lines put together to steps, and the number that each step is labelled with."""
    found = [_STEP_LABEL.match(line) for line in lines]
    if not any(found):
        return list(lines), list(range(1, len(lines) + 1))
    steps: list[list[str]] = []
    labels: list[int | None] = []
    for place, (line, match) in enumerate(zip(lines, found, strict=True)):
        label = int(match[1]) if match else None
        states = label is None and place == len(lines) - 1 and _STATEMENT.match(line) is not None
        if not steps or states or (label is not None and label != labels[-1]):
            steps.append([line])
            labels.append(label)
        else:
            steps[-1].append(line)
    return ["\n".join(step) for step in steps], labels


def _prmbench_record(row: Mapping[str, Any]) -> WrongSteps:
    steps, truth = _texts(row, "modified_process"), _text(row, "ground_truth")
    wrong = row.get("error_steps")
    if not isinstance(wrong, list) or not all(type(n) is int and n >= 1 for n in wrong):
        raise InputError(f"expected a list of step numbers from 1 in 'error_steps', got {_typed(wrong)}")
    closes = _stands_in(truth, steps[-1])
    column = "modified_question" if row.get("modified_question") else "question"
    return make_record(
        Problem(f"prmbench/{_text(row, 'idx')}", _text(row, column), truth, "prmbench"),
        steps,
        steps[-1] if wrong else f"\\boxed{{{truth}}}",
        Outcome.CORRECT if closes or not wrong else Outcome.INCORRECT,
        min(wrong, default=None),
        frozenset(wrong),
    )


def _stands_in(truth: str, step: str) -> bool:
    """Whether a step gives an answer, not as part of a longer number or word."""
    if len(truth) > _MAX_TRUTH:  # compared at every place of a text that repeats itself it would take quadratic time
        return truth in step
    return re.search(rf"(?<![\w.]){re.escape(truth)}(?!\w|\.\d)", step) is not None


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"expected a text in {column!r}, got {_typed(value)}")
    return value.strip()


def _texts(row: Mapping[str, Any], column: str) -> list[str]:
    value = row.get(column)
    if not isinstance(value, list) or not value or not all(isinstance(step, str) for step in value):
        raise InputError(f"expected a list of texts in {column!r}, got {_typed(value)}")
    return value


def _typed(value: Any) -> str:
    shown = repr(value)
    return "null" if value is None else f"{shown if len(shown) <= 80 else shown[:80] + '...'} ({type(value).__name__})"


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: expected a file that can be read, got: {error.strerror}. Give another path."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, got another encoding ({error}). Convert the file.") from error


def _mrben_rows(path: Path) -> Rows:
    try:
        lists = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: expected one JSON object, got no valid JSON ({error}). Is it MR-Ben's file?"
        ) from error
    if not isinstance(lists, dict) or not all(isinstance(rows, list) for rows in lists.values()):
        raise InputError(f"{path}: expected one JSON object of lists of solutions. Is it MR-Ben's file?")
    for name, rows in lists.items():
        yield from ((f"{name} item {number}", row) for number, row in enumerate(rows, start=1))


def _jsonl_rows(path: Path) -> Rows:
    for number, line in enumerate(_content(path).split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = InputError(f"expected one JSON object, got a line that is none ({error})")
            yield f"line {number}", row
