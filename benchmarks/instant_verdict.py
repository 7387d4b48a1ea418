"""The reply of a judge that answers at once, in a module of its own: a server that sends it needs no torch."""

from __future__ import annotations

import re
from typing import Any

from lit_tpgrpo.text.reflections import Stance, read_step


def instant_verdict(name: str, prompt: str) -> dict[str, Any]:
    """Return a valid verdict, built by a few regular expressions on the prompt."""
    reply: dict[str, Any] = {"id": re.findall(r'"id": "([0-9a-f]{4})"', prompt)[-1]}
    paragraphs = [(int(n), text) for n, text in re.findall(r"^\[(\d+)\] (.*)$", prompt, re.MULTILINE)]
    if name == "segmentation":
        return reply | {"steps": [[n, n] for n, _ in paragraphs]}
    if name == "reflections":
        return reply | {"reflections": [n for n, text in paragraphs[1:] if read_step(text).stance is not Stance.NONE]}
    if name == "sources":
        numbers = [int(n) for n in re.findall(r"\d+", prompt.rsplit("to what they correct:", 1)[1].split(".", 1)[0])]
        return reply | {"sources": [{"reflection": n, "intervals": [[n - 1, n - 1]]} for n in numbers]}
    if name == "matching":
        return reply | {"matched": [n for n, _ in paragraphs[::2]]}
    asked = re.findall(r"\d+", prompt.rsplit("each of the steps ", 1)[1].split(".", 1)[0])
    return reply | {"judgements": [{"step": int(n), "wrong": True} for n in asked]}
