"""Labelled answers from data files: what ``python -m lit_tpgrpo.verify`` measures the verifier on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lit_tpgrpo.errors import InputError
from lit_tpgrpo.text.answers import AnswerForm, extract_answer, extract_boxed, normalise_gold
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
"""Column and form of the golds of each file."""
WRONG_GOLDS = 3000

Labelled = list[tuple[str, str | None, bool]]
"""(gold, answer, whether it is correct)"""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, or of a JSON list; an object of lists (MR-Ben) gives the first of each."""
    if not path.is_file():
        raise InputError(f"expected the file {path}, it is not there; name the folder that holds it with --data-dir")
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix == ".json" and text.lstrip()[:1] == "[" else _lines(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON lines or one JSON list in UTF-8, got: {error}") from error
    return [row for item in rows for row in ([item] if not _lists(item) else [value[0] for value in item.values()])]


def _lines(text: str) -> list[dict[str, Any]]:
    decoder, rows, at = json.JSONDecoder(), [], 0
    text = text.strip()
    while at < len(text):  # one object after another, each on one line or on several
        row, at = decoder.raw_decode(text, at)
        rows.append(row)
        while at < len(text) and text[at].isspace():
            at += 1
    return rows


def _lists(row: dict[str, Any]) -> bool:
    return all(isinstance(value, list) and value and isinstance(value[0], dict) for value in row.values())


def gsm8k_labels(data_dir: Path) -> Labelled:
    labelled: Labelled = []
    for row in read_rows(data_dir / GSM8K_FILE):
        gold = normalise_gold(AnswerForm.GSM8K_LINE, row["ground_truth"])
        for solution in (row[model] for model in MODELS):
            answer = extract_answer(solution["solution"], AnswerForm.GSM8K_LINE, thinks=False)
            labelled.append((gold, answer, solution["is_correct"]))
    return labelled


def math500_boxes(data_dir: Path) -> Labelled:
    return [
        (normalise_gold(AnswerForm.PLAIN, row["answer"]), extract_boxed(row["solution"], thinks=False), True)
        for row in read_rows(data_dir / MATH500_FILE)
    ]


def golds(data_dir: Path, name: str) -> list[str]:
    """The golds of a file, rows without one left out."""
    column, form = GOLDS[name]
    return [normalise_gold(form, row[column]) for row in read_rows(data_dir / name) if row.get(column)]


def math500_golds(data_dir: Path) -> Labelled:
    return [(gold, gold, True) for gold in golds(data_dir, MATH500_FILE)]


def all_golds(data_dir: Path) -> Labelled:
    return [(gold, gold, True) for gold in _every_gold(data_dir)]


def changed_golds(data_dir: Path) -> Labelled:
    sample = sampled_golds(_every_gold(data_dir), WRONG_GOLDS)
    return [(gold, wrong, False) for _, gold, wrong in wrong_answers(sample)]


def _every_gold(data_dir: Path) -> list[str]:
    return [gold for name in GOLDS if (data_dir / name).is_file() for gold in golds(data_dir, name)]


def cases(path: Path) -> list[tuple[str, str | None, str]]:
    """``(gold, answer, outcome)`` of a file of cases, those that are about answers (kinds ``verify`` and ``gold_box``)."""
    found: list[tuple[str, str | None, str]] = []
    for row in read_rows(path):
        if row["kind"] == "verify":
            found.append((normalise_gold(AnswerForm.PLAIN, row["gold"]), extract_answer(row["text"]), row["expected"]))
        elif row["kind"] == "gold_box":
            found.append((normalise_gold(AnswerForm.BOX, row["gold"]), row["text"], row["expected"]))
    return found


CHECKS: Mapping[str, Callable[[Path], Labelled]] = {
    "GSM8K solutions against their labels": gsm8k_labels,
    "MATH-500 golds against themselves": math500_golds,
    "MATH-500 golds against the box in their solution": math500_boxes,
    "golds of every file against themselves": all_golds,
    f"wrong answers made from {WRONG_GOLDS:,} golds": changed_golds,
}
