"""Runs' folders written by hand: few numbers, and texts that a careless page would run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ATTACK = "</script><script>document.body.dataset.attacked = 1</script>"
METRICS = """step,round,rollout/accuracy,rollout/seconds,judge/seconds,train/loss,train/tokens,train/tokens_per_s,eval/avg@2
0,0,0.25,4.0,1.0,,,,
0,,,,,0.5,100,50,
1,,,,,0.4,300,100,
2,1,0.75,2.0,0.5,,,,
2,,,,,0.3,100,25,
0,,,,,,,,0.125
3,,,,,,,,0.625
"""
"""Two rounds: training takes 100/50 + 300/100 = 5 s in the first, 100/25 = 4 s in the second."""


def solution_row(sample: int = 0, outcome: str = "correct", text: str = "a b\n\nc", **changed: Any) -> dict[str, Any]:
    """A row as ``predict`` writes it: the first thought is the text before the first blank line, the second the remainder."""
    cut = text.index("\n\n") + 2 if "\n\n" in text else 0
    labels = ("incorrect", "correct") if outcome == "correct" else ("unmatched", "matched")
    spans = [(0, cut, labels[0]), (cut, len(text), labels[1])][0 if cut else 1 :]
    row = {
        "problem": "p/1",
        "prompt": "What is 1 < 2 & 3?",
        "gold": "7",
        "sample": sample,
        "text": text,
        "stop": "eos",
        "answer": "7" if outcome == "correct" else None,
        "outcome": outcome,
        "outcome_advantage": 0.5 if outcome == "correct" else -0.5,
        "judge_note": "",
        "steps": [{"start": a, "end": b, "label": label} for a, b, label in spans],
        "thoughts": [
            {"start": a, "end": b, "label": label, "process_reward": 0.25, "advantage": -0.25} for a, b, label in spans
        ],
    }
    return row | changed


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_run(folder: Path, seed: int = 0, alpha: float = 1.0, metrics: str = METRICS, **more: Any) -> Path:
    """A run of the CSV logger with the callback RunReport."""
    folder.mkdir(parents=True)
    settings = {
        "seed_everything": seed,
        "trainer": {"max_steps": 4, "default_root_dir": str(folder)},
        "data": {
            "class_path": "lit_tpgrpo.datamodules.MathRolloutDataModule",
            "init_args": {
                "credit": {"class_path": "lit_tpgrpo.ThoughtCredit", "init_args": {"alpha": alpha}},
                "seed": None,
            },
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | more))
    if metrics:
        (folder / "metrics.csv").write_text(metrics)
    rows = [
        solution_row(0, round=0, kept=True, text=f"Careful. {ATTACK}\n\nSo 7 \U0001f600 \U0001f600."),
        solution_row(1, "incorrect", round=0, kept=True, judge_note="the answer adopts <b>step 2</b>"),
        solution_row(
            0, "incorrect", round=1, kept=False, problem="p/2", prompt="Other?", text="lone \ud83d half\n\nEnd"
        ),
    ]
    write_rows(folder / "solutions.jsonl", rows)
    return folder
