"""Readers of public data sets that label wrong steps: the maths part of MR-Ben, and PRMBench.

They return ``WrongSteps``. The outcome that a judge is given says whether the final answer is correct, as a verifier
would; that is a different question from whether all steps are right.
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
from lit_tpgrpo.judges.error_detection import ErrorDetectionReport, WrongSteps, make_record
from lit_tpgrpo.records import Outcome, Problem

OnMalformed = Literal["stop", "skip"]
Rows = Iterator[tuple[str, Any]]
_SHOWN = 3
_MAX_TRUTH = 500
_MAX_DIGITS = 9
# Possessive: a run of blanks is scanned once.
_STEP_LABEL = re.compile(r"\W*+S?tep\s*+(\d{1,9}+)\b", re.IGNORECASE)
_STATEMENT = re.compile(r"\W*+(?:final\s++)?(?:solution|answer)\b[^.\n]{0,3}:", re.IGNORECASE)
# Not "Choice_A/B/C/D", which selects none of them.
_CHOICE = re.compile(r"[Cc]hoice[\W_]*([A-Z])(?![A-Za-z/])")


def read_mrben(path: str | Path, on_malformed: OnMalformed = "stop", limit: int | None = None) -> ErrorDetectionReport:
    """Read MR-Ben (2406.13975): solutions of multiple-choice problems whose first wrong step was annotated by people.

    Its numbers of wrong steps are those that the solver wrote (``Step 3: ...``), not indices into its list, which holds
    lines: lines without a new label belong to the step before them, and a closing ``Solution: ...`` is a separate step.
    If no line has a label, each line is a step. The answer block repeats the last line. The answer is correct if the last
    line names the correct choice and no other, or if the solution is annotated as free of errors.

    Args:
        path: the file: a JSON object of lists of solutions.
        on_malformed: ``stop`` at malformed rows, or ``skip`` and count them.
        limit: most usable rows to read; None reads all.

    Raises:
        InputError: the file cannot be read, rows are malformed (stop), or none is usable.
    """
    return _read(Path(path), _mrben_rows(Path(path)), _mrben_record, on_malformed, limit)


def read_prmbench(
    path: str | Path, on_malformed: OnMalformed = "stop", limit: int | None = None
) -> ErrorDetectionReport:
    """Read PRMBench (2501.03124): lists of steps with all wrong steps annotated; some of its files contain no wrong step.

    The answer of a row without wrong steps is correct and its answer block is the boxed ground truth. The answer of a row
    with wrong steps is correct if its last step contains the ground truth; its answer block repeats that step.

    Args:
        path: the file, one JSON object per line.
        on_malformed: ``stop`` at malformed rows, or ``skip`` and count them.
        limit: most usable rows to read; None reads all.

    Raises:
        InputError: the file cannot be read, rows are malformed (stop), or none is usable.
    """
    return _read(Path(path), _jsonl_rows(Path(path)), _prmbench_record, on_malformed, limit)


def _read(
    path: Path, rows: Rows, convert: Callable[[Any], WrongSteps], on_malformed: OnMalformed, limit: int | None
) -> ErrorDetectionReport:
    """Convert rows up to ``limit``; the error for malformed rows names the first few of them."""
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
    summary = f"{path}: {len(malformed)} of {len(records) + len(malformed)} rows read are malformed: {listed}"
    if len(malformed) > _SHOWN:
        summary += f"; and {len(malformed) - _SHOWN} more"
    if not records:
        raise InputError(
            f"{summary}. No usable row is left: is it the right file for this data?"
            if malformed
            else f"{path}: expected at least one row, got none. Is it the right file?"
        )
    if malformed and on_malformed == "stop":
        raise InputError(f"{summary}. Correct them, or leave them out with on_malformed: skip.")
    # Replace the numbers, which differ from row to row, to count equal reasons together.
    return ErrorDetectionReport(
        _with_unique_uids(records), Counter(re.sub(r"\d+", "N", reason) for _, reason in malformed)
    )


def _converted(row: Any, convert: Callable[[Any], WrongSteps]) -> WrongSteps:
    """Convert a row that is a JSON object; a row that could not be decoded is an InputError, raised here."""
    if isinstance(row, InputError):
        raise row
    if not isinstance(row, Mapping):
        raise InputError(f"expected an object with named fields, got {_describe(row)}")
    return convert(row)


def _with_unique_uids(records: Sequence[WrongSteps]) -> list[WrongSteps]:
    """Return the records with unique problem uids: a repeated uid gets a number as suffix."""
    seen: Counter[str] = Counter()
    unique = []
    for record in records:
        problem = record.case.problem
        seen[problem.uid] += 1
        if seen[problem.uid] > 1:
            problem = replace(problem, uid=f"{problem.uid}-{seen[problem.uid]}")
            solution = replace(record.case.solution, problem_uid=problem.uid)
            record = replace(record, case=replace(record.case, problem=problem, solution=solution))
        unique.append(record)
    return unique


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
    """Join lines to steps; return the steps and the number that each is labelled with."""
    matches = [_STEP_LABEL.match(line) for line in lines]
    if not any(matches):
        return list(lines), list(range(1, len(lines) + 1))
    steps: list[list[str]] = []
    labels: list[int | None] = []
    for index, (line, match) in enumerate(zip(lines, matches, strict=True)):
        label = int(match[1]) if match else None
        is_statement = label is None and index == len(lines) - 1 and _STATEMENT.match(line) is not None
        if not steps or is_statement or (label is not None and label != labels[-1]):
            steps.append([line])
            labels.append(label)
        else:
            steps[-1].append(line)
    return ["\n".join(step) for step in steps], labels


def _prmbench_record(row: Mapping[str, Any]) -> WrongSteps:
    steps, truth = _texts(row, "modified_process"), _text(row, "ground_truth")
    wrong = row.get("error_steps")
    if not isinstance(wrong, list) or not all(type(n) is int and n >= 1 for n in wrong):
        raise InputError(f"expected a list of step numbers from 1 in 'error_steps', got {_describe(wrong)}")
    reaches_truth = _contains_answer(truth, steps[-1])
    column = "modified_question" if row.get("modified_question") else "question"
    return make_record(
        Problem(f"prmbench/{_text(row, 'idx')}", _text(row, column), truth, "prmbench"),
        steps,
        steps[-1] if wrong else f"\\boxed{{{truth}}}",
        Outcome.CORRECT if reaches_truth or not wrong else Outcome.INCORRECT,
        min(wrong, default=None),
        frozenset(wrong),
    )


def _contains_answer(truth: str, step: str) -> bool:
    """Return whether a step contains the answer, not as part of a longer number or word."""
    if len(truth) > _MAX_TRUTH:  # a regular expression takes quadratic time on a long text that repeats itself
        return truth in step
    return re.search(rf"(?<![\w.]){re.escape(truth)}(?!\w|\.\d)", step) is not None


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"expected a text in {column!r}, got {_describe(value)}")
    return value.strip()


def _texts(row: Mapping[str, Any], column: str) -> list[str]:
    value = row.get(column)
    if not isinstance(value, list) or not value or not all(isinstance(step, str) for step in value):
        raise InputError(f"expected a list of texts in {column!r}, got {_describe(value)}")
    return value


def _describe(value: Any) -> str:
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
            f"{path}: expected one JSON object, got invalid JSON ({error}). Is it MR-Ben's file?"
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
                row = InputError(f"expected one JSON object, got invalid JSON ({error})")
            yield f"line {number}", row
