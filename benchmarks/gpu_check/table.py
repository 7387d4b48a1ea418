"""``results.jsonl`` as a Markdown table with hardware and versions."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.bench import Part

_VERSIONED = (
    *("torch", "transformers", "lightning", "torchmetrics", "peft", "accelerate", "trl", "bitsandbytes"),
    *("liger-kernel", "triton", "flash-attn", "datasets", "llguidance", "math-verify", "huggingface-hub"),
)


def environment(device: str, size: str) -> dict[str, Any]:
    """Hardware and versions, without initialising CUDA."""
    found: dict[str, Any] = {"device": device, "size": size, "python": platform.python_version()}
    found["machine"] = f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPU cores, {_memory_gib():.0f} GiB"
    if device == "cuda":
        found["gpu"] = _gpu()
    found["versions"] = {name: v for name in _VERSIONED if (v := _version(name)) is not None}
    return found


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> str:
    """As the driver's own tool says it."""
    import subprocess

    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown (nvidia-smi: {error})"


def read_records(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file; one that was cut short by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def render(records: Sequence[Mapping[str, Any]], parts: Sequence[Part]) -> str:
    """The whole table: what it ran on, how each part ended, and its rows. Of a part run twice the last run counts."""
    runs = [r["environment"] for r in records if "environment" in r]
    lines = ["# GPU check", ""]
    for found in runs[-1:]:
        versions = ", ".join(f"{name} {v}" for name, v in found["versions"].items())
        lines += [
            f"- {found.get('gpu') or 'no GPU'}; {found['machine']}; size {found['size']}",
            f"- Python {found['python']}, {versions}",
            "",
        ]
    known = [p for p in parts if any(r.get("part") == p.name for r in records)]
    lines += ["| part | settles | result | seconds | at once | again with |", "|---|---|---|---|---|---|"]
    for part in known:
        end = next((r for r in reversed(records) if r.get("part") == part.name and "status" in r), {})
        cells = (
            *(part.name, part.settles, end.get("status", "not finished")),
            *(_cell(end.get("seconds")), _cell(end.get("at_once")), f"`{command(part, runs[-1] if runs else {})}`"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    for part in known:
        lines += _section(part, _last_run([r for r in records if r.get("part") == part.name]))
    return "\n".join(lines) + "\n"


def command(part: Part, found: Mapping[str, Any]) -> str:
    """What repeats a part."""
    given = "".join(
        f" --{name} {found[name]}"
        for name, usual in (("device", "cuda"), ("size", "full"))
        if found.get(name, usual) != usual
    )
    return f"python -m benchmarks.gpu_check --parts {part.name}{given}"


def _last_run(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records from behind the last but one end of the part."""
    ends = [i for i, r in enumerate(records) if "status" in r]
    complete = bool(ends) and ends[-1] == len(records) - 1
    before = ends[:-1] if complete else ends
    return list(records[before[-1] + 1 :] if before else records)


def _section(part: Part, records: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [r for r in records if "row" in r]
    errors = [r["error"] for r in records if r.get("error") and "row" not in r]
    lines = ["", f"## {part.name}", ""]
    names = list(dict.fromkeys(name for r in rows for name, v in r.get("values", {}).items() if v is not None))
    if any("error" in r for r in rows):
        names.append("error")
    if rows:
        lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for r in rows:
        values = r.get("values", {}) | ({"error": r["error"]} if "error" in r else {})
        lines.append("| " + " | ".join((_cell(r["row"]), *(_cell(values.get(name)) for name in names))) + " |")
    for error in errors:
        lines += ["", "```", error, "```"]
    return lines


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
