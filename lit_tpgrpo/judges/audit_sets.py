"""Readers of audit sets: public ones that label wrong steps (the maths part of MR-Ben, PRMBench), and chains with labels.

The outcome that a judge is given says whether the final answer is correct, as a verifier
would; that is a different question from whether all steps are right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.judges.audit_rows import (
    OnMalformed,
    Rows,
    content_of,
    describe,
    jsonl_rows,
    read_records,
    text_field,
    texts_field,
)
from lit_tpgrpo.judges.error_detection import ErrorDetectionReport, WrongSteps, make_record
from lit_tpgrpo.judges.labelled_chains import LabelledChain, LabelledChainsReport
from lit_tpgrpo.records import Outcome, Problem, StepLabel

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
    return ErrorDetectionReport(*read_records(Path(path), _mrben_rows(Path(path)), _mrben_record, on_malformed, limit))


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
    return ErrorDetectionReport(
        *read_records(Path(path), jsonl_rows(Path(path)), _prmbench_record, on_malformed, limit)
    )


def read_labelled(
    path: str | Path, on_malformed: OnMalformed = "stop", limit: int | None = None
) -> LabelledChainsReport:
    """Read chains whose steps have the labels of the protocol, given by people: one JSON object per line.

    A row has ``uid``, ``problem``, ``gold``, ``outcome`` (correct or incorrect), ``steps`` (texts), ``answer`` (the answer
    block) and ``labels``, one for each step: correct, incorrect, matched, unmatched, or null where the label is not known.

    Args:
        path: the file.
        on_malformed: ``stop`` at malformed rows, or ``skip`` and count them.
        limit: most usable rows to read; None reads all.

    Raises:
        InputError: the file cannot be read, rows are malformed (stop), or none is usable.
    """
    return LabelledChainsReport(
        *read_records(Path(path), jsonl_rows(Path(path)), _labelled_record, on_malformed, limit)
    )


def _mrben_record(row: Mapping[str, Any]) -> WrongSteps:
    lines, verdict = texts_field(row, "Model_Solution_Steps"), text_field(row, "Model_Solution_Correctness")
    gold = text_field(row, "Ground_Truth_Answer")
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
        f"mrben/{text_field(row, 'Question_UUID')}/{text_field(row, 'Sampled_Model')}",
        f"{text_field(row, 'Question')}\n{text_field(row, 'Options')}",
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
    steps, truth = texts_field(row, "modified_process"), text_field(row, "ground_truth")
    wrong = row.get("error_steps")
    if not isinstance(wrong, list) or not all(type(n) is int and n >= 1 for n in wrong):
        raise InputError(f"expected a list of step numbers from 1 in 'error_steps', got {describe(wrong)}")
    reaches_truth = _contains_answer(truth, steps[-1])
    column = "modified_question" if row.get("modified_question") else "question"
    return make_record(
        Problem(f"prmbench/{text_field(row, 'idx')}", text_field(row, column), truth, "prmbench"),
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


def _mrben_rows(path: Path) -> Rows:
    try:
        lists = json.loads(content_of(path))
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


def _labelled_record(row: Mapping[str, Any]) -> LabelledChain:
    steps, labels = texts_field(row, "steps"), row.get("labels")
    outcome = text_field(row, "outcome")
    if outcome not in ("correct", "incorrect"):
        raise InputError(f"expected correct or incorrect in 'outcome', got {outcome!r}")
    names = ("correct", "incorrect") if outcome == "correct" else ("matched", "unmatched")
    if not isinstance(labels, list) or len(labels) != len(steps) or not all(n is None or n in names for n in labels):
        raise InputError(
            f"expected in 'labels' one of {', '.join(names)} or null for each of the {len(steps)} steps of a solution "
            f"that is {outcome}, got {describe(labels)}"
        )
    problem = Problem(text_field(row, "uid"), text_field(row, "problem"), text_field(row, "gold"), "labelled")
    record = make_record(problem, steps, text_field(row, "answer"), Outcome(outcome), None)
    known = [None if labels[n - 1] is None else StepLabel(labels[n - 1]) for n in record.numbers]
    return LabelledChain(record.case, (*known, None))
