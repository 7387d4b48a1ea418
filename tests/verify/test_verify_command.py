"""``python -m lit_tpgrpo.verify``: real labels agree, and the command fails where labels do not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lit_tpgrpo.verify import __main__ as command


@pytest.mark.slow
def test_real_labels_and_golds_agree(shared_data: Path, monkeypatch, capsys):
    """5,276 labelled solutions and 500 golds, by math-verify alone and with shortcuts."""
    monkeypatch.setattr(sys, "argv", ["verify", "--data-dir", str(shared_data), "--timeout-s", "60"])
    assert command.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("5276/5276 agree, 0 unverifiable") == 2
    assert printed.count("500/500 agree, 0 unverifiable") == 4


@pytest.mark.slow
def test_the_command_fails_where_labels_disagree(tmp_path: Path, monkeypatch, capsys):
    solution = {"is_correct": True, "solution": "A: 4"}
    row = {"ground_truth": "A: 5", **dict.fromkeys(command.MODELS, solution)}
    (tmp_path / command.GSM8K_FILE).write_text(json.dumps(row))
    (tmp_path / command.MATH500_FILE).write_text(json.dumps({"answer": "5", "solution": r"\boxed{5}"}))
    monkeypatch.setattr(sys, "argv", ["verify", "--data-dir", str(tmp_path)])
    assert command.main() == 1
    assert "0/4 agree" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["verify", "--data-dir", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit):
        command.main()
    assert "--data-dir" in capsys.readouterr().err
