"""The sample in ``tests/data/sample`` is what its README says: small, and row for row what the whole files hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lit_tpgrpo.verify import checks
from tests.real_data import SAMPLE, WHOLE, WHOLE_IS_THERE, RealData

LICENSES = SAMPLE.folder.parent / "licenses"
UNCHANGED = ("gsm8k_test.jsonl", checks.GSM8K_FILE, "mrben_math.json", "prmbench_qwq_solutions.jsonl")
ANSWERS = {checks.MATH500_FILE: "unique_id", "olympiadbench_test.jsonl": "id"}
OURS = {"90001", "90002"}
"""Questions of OlympiadBench's layout that we wrote."""


def rows(data: RealData, name: str) -> list[Any]:
    text = (data.folder / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def test_the_sample_is_small_and_comes_with_its_licences():
    files = [path for path in SAMPLE.folder.parent.rglob("*") if path.is_file()]
    assert {path.name for path in SAMPLE.folder.iterdir()} == {*checks.GOLDS, checks.GSM8K_FILE}
    assert sum(path.stat().st_size for path in files) < 400_000
    readme = (SAMPLE.folder.parent / "README.md").read_text(encoding="utf-8")
    assert [name for name in sorted(path.name for path in LICENSES.iterdir()) if name not in readme] == []


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_statements_of_competitions_are_left_out(name: str):
    statement = "problem" if name == checks.MATH500_FILE else "question"
    left_out = [row[statement] for row in rows(SAMPLE, name) if str(row[ANSWERS[name]]) not in OURS]
    assert left_out
    assert all(text.startswith("[The ") and text.endswith("is not part of this sample.]") for text in left_out)


if WHOLE_IS_THERE:

    def test_rows_are_those_of_the_whole_files():
        for name in UNCHANGED:
            sample, whole = rows(SAMPLE, name), rows(WHOLE, name)
            if isinstance(sample, dict):
                assert {key: whole.get(key) for key in sample} == sample
            else:
                assert [row for row in sample if row not in whole] == []
        for name, uid in ANSWERS.items():
            column, _ = checks.GOLDS[name]
            answers = {row[uid]: row[column] for row in rows(WHOLE, name)}
            assert [r for r in rows(SAMPLE, name) if str(r[uid]) not in OURS and answers[r[uid]] != r[column]] == []
