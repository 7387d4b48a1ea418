"""``python -m lit_tpgrpo.verify``: real labels agree, and the command fails where labels do not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lit_tpgrpo.verify import __main__ as command
from lit_tpgrpo.verify import checks
from tests.real_data import RealData

CASES = Path(__file__).parents[1] / "data" / "verifier_cases.jsonl"


@pytest.mark.slow
def test_real_labels_and_golds_agree(real_data: RealData, monkeypatch, capsys):
    """Labelled solutions, golds and a sample of wrong ones, by workers alone and with shortcuts."""
    monkeypatch.setattr(checks, "WRONG_GOLDS", 60)
    monkeypatch.setattr(sys, "argv", ["verify", "--data-dir", str(real_data.folder), "--timeout-s", "60"])
    assert command.main() == 0
    printed = capsys.readouterr().out
    # Twice each; MATH-500's golds against themselves and against the box in their solution.
    solutions, math500, every = {"sample": (52, 66, 445), "whole": (5276, 500, 10544)}[real_data.kind]
    assert printed.count(f": {solutions}/{solutions} agree, 0 unverifiable") == 2
    assert printed.count(f": {math500}/{math500} agree, 0 unverifiable") == 4
    assert printed.count(f": {every}/{every} agree, 0 unverifiable") == 2


@pytest.mark.slow
def test_the_reported_cases():
    line, good = command.report_cases(CASES, workers=2, timeout_s=60.0)
    assert good, line
    assert "95/95 as expected" in line


def test_cases_are_read_and_compared(tmp_path: Path):
    path = tmp_path / "cases.jsonl"
    text = r"<think>hm</think>so \boxed{7}"
    rows = [
        {"kind": "verify", "gold": "f(3)=7", "text": text, "expected": "correct"},
        {"kind": "verify", "gold": "f(3)=8", "text": text, "expected": "correct"},
        {"kind": "gold_box", "gold": r"$\boxed{1}$ or $\boxed{2}$", "text": "2,1", "expected": "correct"},
        {"kind": "steps", "gold": "", "text": "", "expected": []},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    line, good = command.report_cases(path, workers=1, timeout_s=60.0)
    assert not good
    assert "2/3 as expected" in line
    assert "f(3)=8" in line


def test_rows_of_every_layout(tmp_path: Path):
    for name, text in {
        "a.jsonl": '{"x": 1}\n{"x": 2}\n',
        "b.json": '[{"x": 1}, {"x": 2}]',
        "c.json": '{"x": 1}\n{"x": 2}',
        "d.json": '{"q1": [{"x": 1}, {"x": 5}], "q2": [{"x": 2}]}',
    }.items():
        (tmp_path / name).write_text(text)
        assert [row["x"] for row in checks.read_rows(tmp_path / name)] == [1, 2]


@pytest.mark.slow
def test_the_command_fails_where_labels_disagree(tmp_path: Path, monkeypatch, capsys):
    solution = {"is_correct": True, "solution": "A: 4"}
    row = {"ground_truth": "A: 5", **dict.fromkeys(checks.MODELS, solution)}
    (tmp_path / checks.GSM8K_FILE).write_text(json.dumps(row))
    (tmp_path / checks.MATH500_FILE).write_text(json.dumps({"answer": "5", "solution": r"\boxed{5}"}))
    monkeypatch.setattr(sys, "argv", ["verify", "--data-dir", str(tmp_path)])
    assert command.main() == 1
    assert "0/4 agree" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["verify", "--data-dir", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit):
        command.main()
    assert "--data-dir" in capsys.readouterr().err
