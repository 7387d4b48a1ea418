"""Scores of evaluated groups: avg@k, maj@k, pass@k, intervals, lengths, and accuracy by level and subject."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lit_tpgrpo.metrics import AvgAtK, MajAtK, PassAtK
from lit_tpgrpo.metrics.scores import average
from lit_tpgrpo.records import EvaluatedGroup, Outcome, StopReason
from lit_tpgrpo.seeds import derived_seed

RESAMPLES = 2000
AVERAGE = "average"
"""Name of the unweighted mean of the sets' avg@k."""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """The part of an evaluated group that is kept until the end of the loop."""

    set_name: str
    index: int
    problem: tuple[str, str, str]  # uid, prompt, answer
    level: str | None
    subject: str | None
    outcomes: tuple[Outcome, ...]
    answers: tuple[str | None, ...]
    truncated: int
    tokens: tuple[int, ...]
    cost: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, group: EvaluatedGroup) -> ScoredGroup:
        problem = group.problem
        return cls(
            group.set_name,
            group.index,
            (problem.uid, problem.prompt, problem.answer),
            problem.level,
            problem.subject,
            tuple(group.outcomes),
            tuple(group.answers),
            sum(s.stop is StopReason.LENGTH for s in group.solutions),
            tuple(len(s.completion_ids) for s in group.solutions),
            group.cost,
        )


def by_set(groups: Sequence[ScoredGroup], order: Sequence[str] = ()) -> dict[str, list[ScoredGroup]]:
    """Return the groups of each set in the order of their indices, whatever rank they come from; sets in ``order``."""
    names = {g.set_name: None for g in groups}
    ordered = [name for name in order if name in names]
    sets: dict[str, list[ScoredGroup]] = {name: [] for name in [*ordered, *sorted(names.keys() - set(ordered))]}
    for group in sorted(groups, key=lambda g: g.index):
        sets[group.set_name].append(group)
    return sets


def suite_scores(sets: Mapping[str, Sequence[ScoredGroup]], pass_at: Sequence[int]) -> dict[str, Tensor]:
    """Compute the scores of all sets: of a set without a name as they are, of others under ``name/``, with ``average``.

    ``average`` is the unweighted mean over sets of avg@k (the paper's), its standard error that of independent sets:
    sqrt(sum of se_s^2) / S.
    """
    if set(sets) == {""}:
        return set_scores(sets[""], pass_at)
    scores: dict[str, Tensor] = {}
    for name, groups in sets.items():
        scores |= {f"{name}/{key}": value for key, value in set_scores(groups, pass_at).items()}
    labels = [f"{name}/avg@{len(groups[0].outcomes)}" for name, groups in sets.items()]
    scores[AVERAGE] = torch.stack([scores[label].double() for label in labels]).mean()
    if all(f"{label}_se" in scores for label in labels):
        scores[f"{AVERAGE}_se"] = torch.stack([scores[f"{x}_se"].double() for x in labels]).norm() / len(sets)
        low, high = interval([[average(g.outcomes) for g in groups] for groups in sets.values()])
        scores |= {f"{AVERAGE}_low": torch.tensor(low), f"{AVERAGE}_high": torch.tensor(high)}
    scores["problems"] = torch.tensor(float(sum(map(len, sets.values()))))
    return scores


def set_scores(groups: Sequence[ScoredGroup], pass_at: Sequence[int]) -> dict[str, Tensor]:
    """Compute the scores of one set, whose problems have k samples each; values of ``pass_at`` over k are left out.

    Standard errors and intervals are added where there are two problems or more, accuracies by level and subject where
    there are two of these or more.
    """
    samples = len(groups[0].outcomes)
    parts: dict[str, Metric | MetricCollection] = {
        "avg": AvgAtK(samples, sync_on_compute=False),  # the groups are of all processes already
        "maj": MajAtK(samples, sync_on_compute=False),
    }
    tries = sorted({*(k for k in pass_at if k <= samples), samples})
    metrics = MetricCollection(parts | {f"pass_{k}": PassAtK(k, sync_on_compute=False) for k in tries})
    for group in groups:
        metrics.update(list(group.outcomes), list(group.answers))
    scores = {k: v for k, v in metrics.compute().items() if not torch.isnan(v)}
    values = solution_statistics(groups)
    if len(groups) > 1:
        low, high = interval([[average(g.outcomes) for g in groups]])
        values |= {f"avg@{samples}_low": low, f"avg@{samples}_high": high}
    for kind in ("level", "subject"):
        parts_of_kind = by_label(groups, kind)
        for label, name in metric_names(parts_of_kind).items():
            values[f"{kind}_{name}/avg@{samples}"] = fmean(average(g.outcomes) for g in parts_of_kind[label])
    return scores | {name: torch.tensor(float(value)) for name, value in values.items()}


def solution_statistics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Return shares of solutions, statistics of their lengths in tokens (truncated ones included), and the problems."""
    outcomes = [outcome for g in groups for outcome in g.outcomes]
    tokens = sorted(count for g in groups for count in g.tokens)
    return {
        "undecided_share": outcomes.count(Outcome.UNDECIDED) / len(outcomes),  # counted as not correct
        "truncated_share": sum(g.truncated for g in groups) / len(outcomes),
        "no_answer_share": sum(answer is None for g in groups for answer in g.answers) / len(outcomes),
        "length_mean": fmean(tokens),
        "length_median": median(tokens),
        "length_p95": percentile(tokens, 0.95),
        "problems": len(groups),
    }


def percentile(ascending: Sequence[float], share: float) -> float:
    """Return the value at a share of an ascending sequence, linear between neighbours (numpy's default).

    >>> percentile([10, 20, 30, 40, 50], 0.95)
    48.0
    """
    place = share * (len(ascending) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (place - below) * (ascending[above] - ascending[below])


def interval(sets: Sequence[Sequence[float]], level: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over sets of each set's mean over problems.

    Problems are resampled with replacement within each set, each with all its solutions: the interval covers which problems
    the set happens to hold, and what was sampled on them. ``RESAMPLES`` resamples with a fixed seed, so equal scores have
    equal intervals in any process.

    Args:
        sets: a score per problem, for each set.
        level: of confidence.
    """
    generator = torch.Generator().manual_seed(derived_seed("bootstrap"))
    means = torch.zeros(RESAMPLES, dtype=torch.float64)
    for scores in sets:
        chosen = torch.randint(len(scores), (RESAMPLES, len(scores)), generator=generator)
        means += torch.tensor(scores, dtype=torch.float64)[chosen].mean(1)
    ascending = (means / len(sets)).sort().values.tolist()
    return percentile(ascending, (1 - level) / 2), percentile(ascending, (1 + level) / 2)


def by_label(groups: Sequence[ScoredGroup], kind: str) -> dict[str, list[ScoredGroup]]:
    """Return the groups by ``level`` or ``subject``, labels in order (numbers as numbers); {} unless there are two or more."""
    parts: dict[str, list[ScoredGroup]] = {}
    for group in groups:
        label = getattr(group, kind)
        if label is not None:
            parts.setdefault(label, []).append(group)
    if len(parts) < 2:
        return {}
    return {
        label: parts[label] for label in sorted(parts, key=lambda x: (0, int(x), x) if x.isdecimal() else (1, 0, x))
    }


def metric_names(labels: Iterable[str]) -> dict[str, str]:
    """Return for each level or subject its part of a metric's name, with characters that all loggers accept.

    Where labels differ in other characters alone, those that have any get a digest: it is the same in every run.

    >>> metric_names(["Number Theory", "C", "C++"])
    {'Number Theory': 'Number_Theory', 'C': 'C', 'C++': 'C_f1deb75f'}
    """
    names = {label: re.sub(r"[^\w.-]+", "_", label).strip("_") or "_" for label in labels}
    counts = Counter(names.values())
    return {
        label: name if counts[name] == 1 or name == label else f"{name}_{_digest(label)}"
        for label, name in names.items()
    }


def _digest(label: str) -> str:
    return hashlib.sha256(label.encode(errors="surrogatepass")).hexdigest()[:8]
