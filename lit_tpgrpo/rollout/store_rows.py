"""Read the rows of stored rounds, and check their schema."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from lit_tpgrpo.records import Problem, Solution, Step, StepLabel, Verdict

Sampled = tuple[Problem, tuple[Solution, ...]]
"""A problem and its solutions, in the order of their samples."""
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)
"""Errors of a line that is JSON but not of the expected schema; those of pydantic are ValueErrors."""
FLOATS = TypeAdapter(tuple[FiniteFloat, ...])
"""Log-probs. One that is not finite cannot be used: it is computed again, as if it could not be read."""
_SOLUTION, _STEPS = TypeAdapter(Solution), TypeAdapter(tuple[Step, ...])


def read_group(row: dict[str, Any]) -> Sampled:
    solutions = sorted((_solution(s) for s in row["solutions"]), key=lambda s: s.sample)
    problem = Problem(**row["problem"])
    for name, value in asdict(problem).items():
        if not (name in ("level", "subject") and value is None):
            read_text(value)
    return problem, tuple(solutions)


def _solution(row: dict[str, Any]) -> Solution:
    solution = _SOLUTION.validate_python(row)
    if not len(solution.completion_ids) == len(solution.logprobs) == len(solution.token_starts):
        raise ValueError(f"sample {solution.sample} has tokens without a log-prob or an offset in the text")
    return solution


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
