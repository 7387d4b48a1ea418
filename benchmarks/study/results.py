"""Results of runs on disk: one compact JSON file each, written whole, tied to the settings that it was made with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lit_tpgrpo
from benchmarks.study.settings import ROOT, Arm, Study
from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.jsonl import read_lines
from lit_tpgrpo.rollout.store import write_whole

FILE = "study.jsonl"
"""Name of a run's record, which ``StudyRecorder`` writes into its folder."""
CODE = "code.txt"
"""Name of the file beside a run's folder with a line a start of the run: the release and commit that it ran."""
Result = dict[str, Any]
"""``arm``, ``seed``, ``settings`` (hashes by part), ``code`` (of each start that differs), ``seconds``, ``rounds`` and
``evaluations``."""


class Results:
    """The results of a study under a folder: ``by_run/ARM-seedS.json``, and ``.failed.json`` for runs that failed."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "by_run"

    def path(self, arm: str, seed: int, suffix: str = "json") -> Path:
        return self.folder / f"{arm}-seed{seed}.{suffix}"

    def read(self, study: Study, arm: Arm, seed: int) -> tuple[Result | None, str]:
        """Return the result of a run, None if it has none of these settings, with the reason if another one is there."""
        stored = read_json(self.path(arm.name, seed))
        if stored is None:
            reason = "it is incomplete" if self.path(arm.name, seed).exists() else ""
            return None, reason
        now, before = study.hashes(arm), stored.get("settings", {})
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return (None, f"{', '.join(changed)} changed since it was made") if changed else (stored, "")

    def failure(self, arm: str, seed: int) -> Result | None:
        """Return what is recorded of a failed run, None if it did not fail."""
        return read_json(self.path(arm, seed, "failed.json"))

    def write(self, study: Study, arm: Arm, seed: int, run: Path) -> Result:
        """Collect a finished run from its folder and store its result.

        Raises:
            ConfigError: the run has no complete record, or ended before its last step.
        """
        result = {"arm": arm.name, "seed": seed, "settings": study.hashes(arm), "code": codes(run.parent)} | collect(
            run
        )
        wanted = study.max_steps(arm)
        if wanted is not None and wanted > 0 and result["steps"] != wanted:
            raise ConfigError(f"it ended after {result['steps']} of {wanted} optimizer steps")
        self._write(self.path(arm.name, seed), result)
        self.path(arm.name, seed, "failed.json").unlink(missing_ok=True)
        return result

    def fail(self, arm: Arm, seed: int, status: int, reason: str, log: Path) -> None:
        """Record a failed run, with the last lines of its output."""
        lines = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
        row = {
            "arm": arm.name,
            "seed": seed,
            "status": status,
            "reason": reason,
            "code": codes(log.parent),
            "log": lines,
        }
        self._write(self.path(arm.name, seed, "failed.json"), row)

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(_rounded(content), separators=(",", ":")) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON object's file; None if there is none, or it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def collect(run: Path) -> dict[str, Any]:
    """Read a run's record: its rounds and evaluations in order, with the solutions and tokens sampled before each evaluation.

    A round belongs to the evaluations of later optimizer steps than the one at which it was sampled.

    Raises:
        ConfigError: the record lacks its end, or an evaluation at its last step.
    """
    rows = list(read_lines(run / FILE))
    rounds = {row["index"]: row for row in rows if row["record"] == "round"}
    evaluations = {row["step"]: row for row in rows if row["record"] == "evaluation"}
    ends = [row for row in rows if row["record"] == "end"]
    if not ends or not evaluations or max(evaluations) != ends[-1]["step"]:
        raise ConfigError(
            f"{run / FILE} holds no {'complete ' if rows else ''}record of a run: trainer.callbacks needs "
            "benchmarks.study.recorder.StudyRecorder after lit_tpgrpo.callbacks.MathEvaluation"
        )
    ordered = [rounds[index] for index in sorted(rounds)]
    measured = []
    for step in sorted(evaluations):
        row = evaluations[step]
        before = [r for r in ordered if r["step"] < step]
        sampled = {f"sampled_{key}": sum(r[key] for r in before) for key in ("solutions", "tokens")}
        accuracy = sum(row["correct"]) / (len(row["correct"]) * row["samples"])
        measured.append({"accuracy": accuracy} | sampled | row)
    return {"steps": ends[-1]["step"], "seconds": ends[-1]["seconds"], "evaluations": measured, "rounds": ordered}


def codes(folder: Path) -> list[str]:
    """Return the code of each start of the run beside which ``CODE`` lies, each once, in order."""
    path = folder / CODE
    return list(dict.fromkeys(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def code_version() -> str:
    """Return the release and the commit of now, with ``+changes`` where the checkout differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=10", "HEAD")
    changes = git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!docs", ":!*.md"
    )
    return f"{lit_tpgrpo.__version__} {commit or 'without git'}" + ("+changes" if changes else "")


def _rounded(value: Any) -> Any:
    """Return plain values with floats at 6 significant digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
