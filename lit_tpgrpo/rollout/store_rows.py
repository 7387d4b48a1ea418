"""Read the rows of stored rounds, and check their schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lit_tpgrpo.records import Solution, Step, StepLabel, Verdict

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)
"""Errors of a line that is JSON but not of the expected schema; those of pydantic are ValueErrors."""
_STEPS = TypeAdapter(tuple[Step, ...])


def misfit(solutions: Sequence[Solution], group_size: int) -> str | None:
    """Describe what is wrong with a stored group of solutions in the order of their samples; None if it is whole."""
    samples = [s.sample for s in solutions]
    if samples != list(range(group_size)):
        return f"holds samples {samples}, expected 0 to {group_size - 1}"
    for s in solutions:
        if not len(s.completion_ids) == len(s.logprobs) == len(s.token_starts):
            return f"cannot be read (sample {s.sample} has tokens without a log-prob or an offset in the text)"
    return None


def read_verdict(line: dict[str, Any]) -> Verdict:
    steps = _STEPS.validate_python(line["steps"])
    shares = None if line.get("wrong_shares") is None else tuple(_share(value) for value in line["wrong_shares"])
    return Verdict(steps, tuple(StepLabel(label) for label in line["labels"]), read_text(line["note"]), shares)


def read_int(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"expected a whole number, got {type(value).__name__}")
    return value


def _share(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"expected a number, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"expected a share in [0, 1], got {value}")
    return float(value)


def read_value(value: Any) -> float | None:
    if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
        raise TypeError(f"expected a finite number or null, got {type(value).__name__}")
    return None if value is None else float(value)


def read_text(value: Any) -> str:
    """Check a string. Not with pydantic, which refuses lone surrogates: they occur in data."""
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value


def reason_of(error: Exception) -> str:
    """Return an error as one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
