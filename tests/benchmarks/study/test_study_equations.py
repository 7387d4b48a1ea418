"""Truth of equations, and the study of a pretrained model that uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.study.equations import equation_truth
from benchmarks.study.settings import ROOT, read_study
from lit_tpgrpo.records import Problem

PROBLEM = Problem("p", "Ann has 3 cats. Ann gets 4 more, and then 2 more. How many cats does Ann have now?", "9")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            " 3 + 4 = 7.\n\n7 + 2 = 9.\n\nThe answer is 9.\n\n",
            [(0, "equation", True), (13, "equation", True), (25, "words", True)],
        ),
        (
            "3+4=8, 8 - 2 = 6.\n\nSo 6 * 2 = 12.",
            [(0, "equation", False), (19, "equation", True)],
        ),  # one of two is wrong
        ("3 + 4 + 2 = 9.", [(0, "words", True)]),  # two operations: not read
        ("1 + 2 = 3 + 4.", [(0, "words", True)]),  # 3 is not the right side
        ("13.5 + 2 = 7", [(0, "words", True)]),
        ("7 + 1 = 8.\n\n", [(0, "equation", True)]),  # the point ends the sentence
        ("7 + 1 = 8.5", [(0, "words", True)]),
        ("  \n\n ", []),
    ],
)
def test_paragraphs_are_right_if_their_equations_are(text, expected):
    assert [(s.start, s.kind, s.right) for s in equation_truth(PROBLEM, text).steps] == expected


def test_the_study_of_a_pretrained_model_differs_in_the_credit_alone():
    study = read_study(ROOT / "benchmarks/study/smollm2.yaml", "short")
    outcome, thought = (study.parts(arm) for arm in study.arms)
    assert outcome["data"]["init_args"].pop("credit") == {"class_path": "lit_tpgrpo.OutcomeCredit"}
    assert thought["data"]["init_args"].pop("credit")["class_path"] == "lit_tpgrpo.credit.thought.ThoughtCredit"
    assert outcome == thought


def test_no_held_out_problem_has_the_numbers_of_a_training_problem():
    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in Path(ROOT, "examples/word_problems", name).read_text().splitlines()]

    def numbers(row: dict) -> tuple[int, ...]:
        return tuple(int(word.strip(".,")) for word in row["question"].split() if word.strip(".,").isdigit())

    train, val = rows("train.jsonl"), rows("val.jsonl")
    assert (len(train), len(val)) == (300, 50)
    assert not {numbers(row) for row in train} & {numbers(row) for row in val}
    assert all(sum(numbers(row)) == row["answer"] and len(numbers(row)) == 3 for row in train + val)
    assert len({row["question"] for row in train + val}) == 350
