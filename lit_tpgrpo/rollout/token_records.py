"""Solutions, and log-probs of their tokens, as Arrow record batches: what ``RecordFile`` stores of a round.

A row is a solution. Strings keep lone surrogates (``surrogatepass``), which occur in data. ``start_deltas`` are the differences
of ``Solution.token_starts``, from 0 on: they compress to a third of the size.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lit_tpgrpo.records import Problem, Solution, StopReason
from lit_tpgrpo.redaction import redacted, redacted_value
from lit_tpgrpo.token_arrays import TokenFloats, TokenInts, differences, running_sum

Sampled = tuple[Problem, tuple[Solution, ...]]
"""A problem and its solutions, in the order of their samples."""
N = TypeVar("N", bound=np.generic)

_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
SOLUTIONS = pa.schema(
    {
        "group": pa.int64(),
        "problem": pa.string(),  # JSON
        "problem_uid": pa.string(),
        "sample": pa.int64(),
        "stop": pa.string(),
        "policy_version": pa.int64(),
        "text": pa.string(),
        "prompt_ids": _INTS,
        "completion_ids": _INTS,
        "logprobs": _FLOATS,
        "start_deltas": _INTS,
    }
)
"""Columns of ``solutions.R.arrows``."""
LOGPROBS = pa.schema({"logprobs": _FLOATS})
"""Column of ``scores.R.arrows``; its lines say which solution each row is of."""


def solutions_batch(groups: Mapping[int, Sampled]) -> pa.RecordBatch:
    """Return groups as one batch, a row for each solution. API keys in texts are redacted."""
    rows = [
        (index, json.dumps(redacted_value(asdict(problem))), solution)
        for index, (problem, solutions) in groups.items()
        for solution in solutions
    ]
    solutions = [solution for _, _, solution in rows]
    columns = [
        _numbers(np.array([index for index, _, _ in rows], np.int64)),
        _texts([problem for _, problem, _ in rows]),
        _texts([s.problem_uid for s in solutions]),
        _numbers(np.array([s.sample for s in solutions], np.int64)),
        _texts([s.stop.value for s in solutions]),
        _numbers(np.array([s.policy_version for s in solutions], np.int64)),
        _texts([s.text for s in solutions]),
        _lists(np.int32, [s.prompt_ids for s in solutions]),
        _lists(np.int32, [s.completion_ids for s in solutions]),
        _lists(np.float32, [s.logprobs for s in solutions]),
        _lists(np.int32, [differences(s.token_starts) for s in solutions]),
    ]
    return pa.record_batch(columns, schema=SOLUTIONS)


def read_solutions(batch: pa.RecordBatch) -> dict[int, Sampled]:
    """Return the groups of a batch, solutions in the order of their samples. Arrays are views of the batch where they can be.

    Raises:
        KeyError, TypeError, ValueError: the batch is none of ``solutions_batch``.
    """
    columns = {name: batch.column(name) for name in SOLUTIONS.names}
    plain = [columns[n].to_pylist() for n in ("group", "problem", "sample", "stop", "policy_version")]
    strings = [_read_texts(columns[n]) for n in ("problem_uid", "text")]
    arrays = [_read_lists(columns[n]) for n in ("prompt_ids", "completion_ids", "logprobs", "start_deltas")]
    problems = {text: Problem(**json.loads(text)) for text in set(plain[1])}
    groups: dict[int, tuple[Problem, list[Solution]]] = {}
    for (group, problem, sample, stop, version), (uid, text), (prompt, ids, logprobs, deltas) in zip(
        zip(*plain, strict=True), zip(*strings, strict=True), zip(*arrays, strict=True), strict=True
    ):
        reason, starts = StopReason(stop), running_sum(deltas)
        _, solutions = groups.setdefault(group, (problems[problem], []))
        solutions.append(Solution(uid, sample, prompt, ids, logprobs, reason, version, text, starts))
    return {
        group: (problem, tuple(sorted(solutions, key=lambda s: s.sample)))
        for group, (problem, solutions) in groups.items()
    }


def logprobs_batch(logprobs: TokenFloats) -> pa.RecordBatch:
    """Return the log-probs of one solution as a batch of one row."""
    return pa.record_batch([_lists(np.float32, [logprobs])], schema=LOGPROBS)


def read_logprobs(batch: pa.RecordBatch) -> TokenFloats:
    """Return the log-probs of a batch of one row.

    Raises:
        ValueError: there are other rows, or log-probs that are not finite, which cannot be used: they are computed again.
    """
    (logprobs,) = _read_lists(batch.column("logprobs"))
    if not np.isfinite(logprobs).all():
        raise ValueError("log-probs are NaN or infinite")
    return logprobs


def solution_digest(solution: Solution, gold: str = "") -> str:
    """Return a hash of the solution that a verdict or score belongs to: prompt, completion and gold answer."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (gold.encode(errors="surrogatepass"), *map(_bytes, (solution.prompt_ids, solution.completion_ids))):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _bytes(ids: TokenInts) -> bytes:
    return ids.astype("<i4", copy=False).tobytes()


# Columns are built from buffers: ``pa.array`` refuses lone surrogates.
def _numbers(values: NDArray[Any]) -> pa.Array:
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _texts(texts: Sequence[str]) -> pa.Array:
    parts = [redacted(text).encode(errors="surrogatepass") for text in texts]
    buffers = [None, pa.py_buffer(_offsets(parts)), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(pa.string(), len(parts), buffers)


def _lists(dtype: type[N], arrays: Sequence[NDArray[N]]) -> pa.Array:
    values = _numbers(np.concatenate((np.zeros(0, dtype), *arrays)))
    buffers = [None, pa.py_buffer(_offsets(arrays))]
    return pa.Array.from_buffers(pa.list_(values.type), len(arrays), buffers, children=[values])


def _offsets(parts: Sequence[Sized]) -> TokenInts:
    """Return where each part begins and the last one ends.

    Raises:
        OverflowError: they do not fit in a record, which holds 2 GiB of text and as many tokens.
    """
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    if offsets[-1] >= 2**31:
        raise OverflowError(f"a record holds at most 2**31 - 1 bytes of text, and tokens, got {offsets[-1]}")
    return offsets.astype(np.int32)


def _read_texts(column: pa.Array) -> list[str]:
    return [data.decode(errors="surrogatepass") for data in column.view(pa.binary()).to_pylist()]


def _read_lists(column: Any) -> list[NDArray[Any]]:
    """Return the lists of a column as read-only views of its values."""
    if column.null_count or column.values.null_count:
        raise ValueError("numbers are missing")
    values, offsets = column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy().tolist()
    return [values[a:b] for a, b in itertools.pairwise(offsets)]
