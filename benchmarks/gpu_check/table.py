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
    """The whole table: what it ran on, how each part ended, and its rows.

    Of a part run twice the last run counts, unless that was skipped: for want of time, say. Parts that were asked for and
    never begun are "not reached".
    """
    runs = [r["environment"] for r in records if "environment" in r]
    lines = ["# GPU check", ""]
    for found in runs[-1:]:
        versions = ", ".join(f"{name} {v}" for name, v in found["versions"].items())
        lines += [
            f"- {found.get('gpu') or 'no GPU'}; {found['machine']}; size {found['size']}",
            f"- Python {found['python']}, {versions}",
            "",
        ]
    planned = {name for found in runs for name in found.get("parts", ())}
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


def command(part: Part, found: Mapping[str, Any]) -> str:
    """What repeats a part."""
    given = "".join(
        f" --{name} {found[name]}"
        for name, usual in (("device", "cuda"), ("size", "full"))
        if found.get(name, usual) != usual
    )
    return f"python -m benchmarks.gpu_check --parts {part.name}{given}"


def _last_run(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A part's records since it last began; how it was skipped, if it never did."""
    ran = [r for r in records if r.get("status") != "skipped"]
    if not ran:
        return list(records[-1:])
    ends = [i for i, r in enumerate(ran[:-1]) if "status" in r]
    begins = [i for i, r in enumerate(ran) if "started" in r]
    return ran[max([0, *begins, *(i + 1 for i in ends)]) :]


def other_kind(records: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str | None:
    """What earlier results were measured on, if that is another device or size than now; one table cannot hold both."""
    for earlier in (r["environment"] for r in records if "environment" in r):
        for name in ("device", "size", "gpu"):
            before, now = (str(e.get(name) or "unknown").split(",")[0] for e in (earlier, found))
            if before != now and not (name == "gpu" and any(v.startswith("unknown") for v in (before, now))):
                return f"{name} {before}, not {now}"
    return None


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
