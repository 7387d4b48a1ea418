"""Measures of sampled solutions: token advantages against step truth, judge labels against truth, signs of reward hacking.

Everything is a count or a sum, so that rounds and seeds can be added up before a ratio is taken. Truth is a function
``(problem, text)`` that returns an object with ``steps``, each with ``start`` (character), ``right`` and ``kind`` and
possibly the true ``label``; for a text that it cannot read it returns an object without ``steps``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_tpgrpo.records import CreditedSolution, JudgedGroup, Outcome, Problem, Solution, StepLabel, StopReason, Verdict

Truth = Callable[[Problem, str], Any]
Counts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrueStep:
    """The truth of one step: the character at which it starts, its kind, whether it is right, its true label if known."""

    start: int
    kind: str
    right: bool
    label: StepLabel | None


def true_steps(truth: Truth, problem: Problem, text: str) -> tuple[TrueStep, ...] | None:
    """Return the truth of each step of a text; None if the truth function cannot read it."""
    steps = getattr(truth(problem, text), "steps", None)
    if not steps:
        return None
    return tuple(TrueStep(s.start, _kind(s.kind), bool(s.right), getattr(s, "label", None)) for s in steps)


def _kind(kind: Any) -> str:
    return str(getattr(kind, "value", kind))


def step_of_tokens(starts: Sequence[int], token_starts: Sequence[int]) -> np.ndarray:
    """Return the step of each token: the one that holds its first character.

    >>> step_of_tokens([0, 10], [0, 4, 9, 10, 12]).tolist()
    [0, 0, 0, 1, 1]
    """
    return np.maximum(np.searchsorted(np.asarray(starts), np.asarray(token_starts), side="right") - 1, 0)


def sign_counts(advantages: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Count tokens by the sign of their advantage (rows: negative, zero, positive) and truth (columns: right, wrong)."""
    table = np.zeros((3, 2), dtype=np.int64)
    np.add.at(table, (np.sign(np.asarray(advantages)).astype(int) + 1, 1 - np.asarray(right, dtype=int)), 1)
    return table


def text_counts(problems: Iterable[tuple[Problem, Solution]], truth: Truth) -> Counts:
    """Count what texts consist of: tokens, truncated and unparsable ones, and steps by kind as ``[right, wrong]``."""
    counts = Counter(dict.fromkeys(("solutions", "tokens", "truncated", "unparsable"), 0))
    kinds: dict[str, list[int]] = {}
    for problem, solution in problems:
        counts["solutions"] += 1
        counts["tokens"] += len(solution.completion_ids)
        counts["truncated"] += solution.stop is StopReason.LENGTH
        steps = true_steps(truth, problem, solution.text)
        counts["unparsable"] += steps is None
        for step in steps or ():
            kinds.setdefault(step.kind, [0, 0])[not step.right] += 1
    return dict(counts) | {"kinds": {kind: kinds[kind] for kind in sorted(kinds)}}


def repeated_steps(text: str, verdict: Verdict) -> int:
    """Count the steps whose text, without surrounding space, is that of an earlier step of the same solution."""
    texts = [text[step.start : step.end].strip() for step in verdict.steps]
    return len(texts) - len(set(texts))


def true_label(step: TrueStep, outcome: Outcome) -> StepLabel | None:
    """Return an ideal judge's label: in a correct solution by ``right``, else the truth function's, None if it has none."""
    if outcome is Outcome.CORRECT:
        return StepLabel.CORRECT if step.right else StepLabel.INCORRECT
    return step.label if step.label in (StepLabel.MATCHED, StepLabel.UNMATCHED) else None


def label_counts(steps: Sequence[TrueStep], outcome: Outcome, verdict: Verdict) -> Counter[tuple[StepLabel, StepLabel]]:
    """Count a solution's steps by (true label, given label), the label given to the step that holds the true step's start."""
    if not verdict.steps:
        return Counter()
    places = step_of_tokens([s.start for s in verdict.steps], [s.start for s in steps])
    pairs = [(true_label(step, outcome), verdict.labels[int(i)]) for step, i in zip(steps, places, strict=True)]
    return Counter((true, given) for true, given in pairs if true is not None)


def credit_counts(problems: Mapping[str, Problem], credited: Sequence[CreditedSolution], truth: Truth) -> Counts:
    """Count advantages, signs against truth, labels against truth, steps and thoughts of credited solutions.

    Undecided solutions are left out. ``signs`` has one table (``sign_counts``) for correct and one for incorrect solutions;
    tokens of texts without truth are in ``advantages`` alone.
    """
    counts = Counter(dict.fromkeys(("credited", "steps", "thoughts", "repeated"), 0))
    sums, signs = np.zeros(3), np.zeros((2, 3, 2), dtype=np.int64)
    labels: Counter[tuple[StepLabel, StepLabel]] = Counter()
    for item in credited:
        judged, solution = item.judged, item.judged.solution
        if judged.outcome is Outcome.UNDECIDED:
            continue
        advantages = item.advantages.double().numpy()
        sums += (len(advantages), advantages.sum(), np.square(advantages).sum())
        counts["credited"] += 1
        counts["steps"] += len(judged.verdict.steps)
        counts["thoughts"] += len(item.thoughts)
        counts["repeated"] += repeated_steps(solution.text, judged.verdict)
        steps = true_steps(truth, problems[solution.problem_uid], solution.text)
        if steps is None:
            continue
        places = step_of_tokens([s.start for s in steps], solution.token_starts)
        right = np.array([s.right for s in steps])[places]
        # int(): a bool would be a mask.
        signs[int(judged.outcome is not Outcome.CORRECT)] += sign_counts(advantages, right)
        labels += label_counts(steps, judged.outcome, judged.verdict)
    given = {
        true.value: {g.value: n for (t, g), n in sorted(labels.items(), key=str) if t is true} for true in StepLabel
    }
    return dict(counts) | {
        "advantages": {"n": int(sums[0]), "sum": float(sums[1]), "squares": float(sums[2])},
        "signs": signs.tolist(),
        "labels": {true: row for true, row in given.items() if row},
    }


def outcome_counts(groups: Sequence[JudgedGroup]) -> Counts:
    """Count decided and correct solutions, and the groups in which outcomes differ."""
    return {
        "groups": len(groups),
        "mixed": sum(0 < g.accuracy < 1 for g in groups),
        "decided": sum(len(g.decided) for g in groups),
        "correct": sum(s.outcome is Outcome.CORRECT for g in groups for s in g.solutions),
    }


def added(counts: Sequence[Any]) -> Any:
    """Add counts up: numbers, lists of equal lengths, mappings by key (a missing key counts as nothing).

    >>> added([{"a": 1, "k": [1, 2]}, {"a": 2, "b": 1, "k": [0, 1]}])
    {'a': 3, 'k': [1, 3], 'b': 1}
    """
    if isinstance(counts[0], Mapping):
        keys = dict.fromkeys(key for c in counts for key in c)
        return {key: added([c[key] for c in counts if key in c]) for key in keys}
    if isinstance(counts[0], list):
        return [added(column) for column in zip(*counts, strict=True)]
    return sum(counts)


def variance(advantages: Mapping[str, float]) -> float:
    """Return the variance of token advantages from ``n``, ``sum`` and ``squares``; NaN without a token."""
    n = advantages["n"]
    return max(0.0, advantages["squares"] / n - (advantages["sum"] / n) ** 2) if n else float("nan")


def entropy(counts: Sequence[float] | np.ndarray) -> float:
    """Return the entropy in nats of the distribution with these counts; NaN if there is none.

    >>> round(entropy([1, 1]), 4)
    0.6931
    """
    flat = np.asarray(counts, dtype=float).ravel()
    if not flat.sum():
        return float("nan")
    shares = flat[flat > 0] / flat.sum()
    return float(-(shares * np.log(shares)).sum())


def mutual_information(table: Sequence[Sequence[float]] | np.ndarray) -> float:
    """Return the mutual information in nats of a contingency table: I = H(rows) + H(columns) - H(table).

    At most ln 2 = 0.693 where one side has two values. The paper gives no unit; its 0.69 equals that bound in nats.
    """
    counts = np.asarray(table, dtype=float)
    value = entropy(counts.sum(1)) + entropy(counts.sum(0)) - entropy(counts)
    return max(0.0, value) if value == value else value


def explained_share(table: Sequence[Sequence[float]] | np.ndarray) -> float:
    """Return the share of the truth's entropy that the sign explains, I / H(columns); NaN if the truth is all one value."""
    uncertainty = entropy(np.asarray(table, dtype=float).sum(0))
    return mutual_information(table) / uncertainty if uncertainty > 0 else float("nan")


def f1(labels: Mapping[str, Mapping[str, int]], of: StepLabel) -> float:
    """Return the F1 of a judge's label from counts by true and given label; NaN if it neither occurs nor is given."""
    hits = labels.get(of.value, {}).get(of.value, 0)
    true, given = sum(labels.get(of.value, {}).values()), sum(row.get(of.value, 0) for row in labels.values())
    return 2 * hits / (true + given) if true + given else float("nan")


def agreement(labels: Mapping[str, Mapping[str, int]]) -> float:
    """Return the share of steps whose label is the true one; NaN without a step."""
    total = sum(sum(row.values()) for row in labels.values())
    return sum(row.get(true, 0) for true, row in labels.items()) / total if total else float("nan")
