"""Load labelled answers from data files, for ``python -m lit_tpgrpo.verify``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.text.answers import AnswerForm, extract_answer, extract_boxed, normalise_gold
from lit_tpgrpo.text.formats.think_tags import ThinkTags
from lit_tpgrpo.verify.mutations import sampled_golds, wrong_answers

GSM8K_FILE = "gsm8k_example_model_solutions.jsonl"
MATH500_FILE = "math500_test.jsonl"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
GOLDS: Mapping[str, tuple[str, AnswerForm]] = {
    "aime24_qwq.jsonl": ("answer", AnswerForm.PLAIN),
    "aime25_qwq.jsonl": ("answer", AnswerForm.PLAIN),
    "amc23_test.jsonl": ("answer", AnswerForm.PLAIN),
    "gsm8k_test.jsonl": ("answer", AnswerForm.GSM8K_HASH),
    MATH500_FILE: ("answer", AnswerForm.PLAIN),
    "mrben_math.json": ("Ground_Truth_Answer", AnswerForm.PLAIN),
    "olympiadbench_test.jsonl": ("final_answer", AnswerForm.PLAIN),
    "prmbench_qwq_solutions.jsonl": ("ground_truth", AnswerForm.PLAIN),
    "rllm_math_train.json": ("answer", AnswerForm.PLAIN),
}
"""Column and answer form of the golds of each file."""
WRONG_GOLDS = 3000
"""Golds from which wrong answers are derived."""

Labelled = list[tuple[str, str | None, bool]]
"""Triples of gold, answer and whether the answer is correct."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a JSONL file or a JSON list; of an object whose values are lists (MR-Ben), the first item of each.

    Raises:
        InputError: the file does not exist, or is not valid JSON in UTF-8.
    """
    if not path.is_file():
        raise InputError(f"the file {path} does not exist; give the folder that contains it as --data-dir")
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix == ".json" and text.lstrip()[:1] == "[" else _lines(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON lines or one JSON list in UTF-8, got: {error}") from error
    return [row for item in rows for row in ([value[0] for value in item.values()] if _has_lists(item) else [item])]


def _lines(text: str) -> list[dict[str, Any]]:
    decoder, rows, position = json.JSONDecoder(), [], 0
    text = text.strip()
    while position < len(text):  # objects one after another, each on one or several lines
        row, position = decoder.raw_decode(text, position)
        rows.append(row)
        while position < len(text) and text[position].isspace():
            position += 1
    return rows


def _has_lists(row: dict[str, Any]) -> bool:
    """Return whether all values are non-empty lists of objects."""
    return all(isinstance(value, list) and value and isinstance(value[0], dict) for value in row.values())


def gsm8k_labels(data_dir: Path) -> Labelled:
    """Load GSM8K's example model solutions with their correctness labels."""
    labelled: Labelled = []
    for row in read_rows(data_dir / GSM8K_FILE):
        gold = normalise_gold(AnswerForm.GSM8K_LINE, row["ground_truth"])
        for solution in (row[model] for model in MODELS):
            answer = extract_answer(solution["solution"], AnswerForm.GSM8K_LINE)
            labelled.append((gold, answer, solution["is_correct"]))
    return labelled


def math500_boxes(data_dir: Path) -> Labelled:
    """Pair MATH-500's golds with the boxed answers of their solutions, all correct."""
    return [
        (normalise_gold(AnswerForm.PLAIN, row["answer"]), extract_boxed(row["solution"]), True)
        for row in read_rows(data_dir / MATH500_FILE)
    ]


def golds(data_dir: Path, name: str) -> list[str]:
    """Load the golds of a file, skipping rows without one."""
    column, form = GOLDS[name]
    return [normalise_gold(form, row[column]) for row in read_rows(data_dir / name) if row.get(column)]


def math500_golds(data_dir: Path) -> Labelled:
    """Pair each of MATH-500's golds with itself."""
    return [(gold, gold, True) for gold in golds(data_dir, MATH500_FILE)]


def all_golds(data_dir: Path) -> Labelled:
    """Pair each gold of all files present with itself."""
    return [(gold, gold, True) for gold in _golds_of_all_files(data_dir)]


def changed_golds(data_dir: Path) -> Labelled:
    """Pair ``WRONG_GOLDS`` golds with wrong answers derived from them."""
    sample = sampled_golds(_golds_of_all_files(data_dir), WRONG_GOLDS)
    return [(gold, wrong, False) for _, gold, wrong in wrong_answers(sample)]


def _golds_of_all_files(data_dir: Path) -> list[str]:
    return [gold for name in GOLDS if (data_dir / name).is_file() for gold in golds(data_dir, name)]


def cases(path: Path) -> list[tuple[str, str | None, str]]:
    """Load ``(gold, answer, expected outcome)`` from a file of cases, for its kinds ``verify`` and ``gold_box``."""
    rows: list[tuple[str, str | None, str]] = []
    for row in read_rows(path):
        if row["kind"] == "verify":
            block = ThinkTags().divide(row["text"]).answer_text(row["text"])
            answer = None if block is None else extract_answer(block)
            rows.append((normalise_gold(AnswerForm.PLAIN, row["gold"]), answer, row["expected"]))
        elif row["kind"] == "gold_box":
            rows.append((normalise_gold(AnswerForm.BOX, row["gold"]), row["text"], row["expected"]))
    return rows


CHECKS: Mapping[str, Callable[[Path], Labelled]] = {
    "GSM8K solutions against their labels": gsm8k_labels,
    "MATH-500 golds against themselves": math500_golds,
    "MATH-500 golds against the box in their solution": math500_boxes,
    "golds of every file against themselves": all_golds,
    f"wrong answers derived from {WRONG_GOLDS:,} golds": changed_golds,
}
