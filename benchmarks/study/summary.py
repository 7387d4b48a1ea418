"""Summaries of an arm's runs: accuracy, differences to the reference, diagnostics and signs of reward hacking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.study.measures import added, agreement, explained_share, f1, mutual_information, variance
from benchmarks.study.results import Result
from benchmarks.study.settings import Arm
from benchmarks.study.statistics import (
    Curves,
    Estimate,
    area,
    bootstrap_mean,
    hierarchical_mean,
    holm,
    sign_flip_test,
    solutions_to_reach,
)
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.records import StepLabel


@dataclass(frozen=True)
class ArmRuns:
    """The results of one arm by seed."""

    arm: Arm
    results: dict[int, Result]

    @property
    def seeds(self) -> list[int]:
        return sorted(self.results)

    def final(self, seeds: Sequence[int]) -> np.ndarray:
        """Return the accuracy at the end: seeds x problems."""
        last = [self.results[seed]["evaluations"][-1] for seed in seeds]
        return np.array([np.asarray(row["correct"]) / row["samples"] for row in last])

    def column(self, name: str, seeds: Sequence[int]) -> np.ndarray:
        """Return a number of each evaluation: seeds x evaluations."""
        return np.array([[row[name] for row in self.results[seed]["evaluations"]] for seed in seeds], dtype=float)

    def curves(self, seeds: Sequence[int]) -> Curves:
        return Curves(self.column("sampled_solutions", seeds), self.column("accuracy", seeds))

    def rounds(self, seeds: Sequence[int] | None = None) -> list[list[Mapping[str, Any]]]:
        return [self.results[seed]["rounds"] for seed in (self.seeds if seeds is None else seeds)]


@dataclass(frozen=True)
class Comparison:
    """An arm against the reference on the seeds that both have.

    Attributes:
        pairs: number of these seeds.
        difference: of the accuracy at the end, with its interval over seeds and problems.
        p: of the exact sign-flip test over seeds.
        p_holm: adjusted for the number of arms.
        area: difference of the areas under the curves, with its interval over seeds.
        reached: solutions after which the arm has 90% of the reference's gain; infinite if it has not, NaN if there is none.
        ratio: of these to the reference's own.
    """

    pairs: int
    difference: Estimate
    p: float
    p_holm: float
    area: Estimate
    reached: float
    ratio: Estimate


@dataclass(frozen=True)
class ArmSummary:
    """What the tables of accuracy say of an arm; ``at_tokens``: accuracy at ``common_tokens`` of all arms."""

    runs: ArmRuns
    start: float
    final: Estimate
    area: Estimate
    at_tokens: Estimate
    solutions: float
    tokens: float
    seconds: float
    comparison: Comparison | None


def evaluated(result: Result) -> tuple[Any, ...]:
    """Return at which steps, on which problems and with how many solutions each a run was evaluated."""
    rows = result["evaluations"]
    return tuple(row["step"] for row in rows), *sorted({(row["problems"], row["samples"]) for row in rows})


def check_problems(arms: Sequence[ArmRuns]) -> None:
    """Check that all runs were evaluated on the same problems and at the same steps.

    Raises:
        InputError: one was not.
    """
    seen: dict[tuple[Any, ...], str] = {}
    for runs in arms:
        for seed, result in runs.results.items():
            seen.setdefault(evaluated(result), f"{runs.arm.name} with seed {seed}")
    if len(seen) > 1:
        raise InputError(
            f"runs were evaluated at different steps or on different problems ({' and '.join(seen.values())} differ), which "
            "cannot be compared; give all arms the same val_check_interval, max_steps and data.val"
        )


def summarise(arms: Sequence[ArmRuns], reference: str) -> list[ArmSummary]:
    """Summarise arms with results; they are compared with the reference if it has results."""
    check_problems(arms)
    base = next((runs for runs in arms if runs.arm.name == reference), None)
    others = [runs for runs in arms if base is not None and runs is not base and set(runs.seeds) & set(base.seeds)]
    compared = {} if base is None else _compare(others, base)
    tokens = common_tokens(arms)
    return [_summary(runs, tokens, compared.get(runs.arm.name)) for runs in arms]


def common_tokens(arms: Sequence[ArmRuns]) -> float:
    """Return the most sampled tokens that all runs have."""
    return min(float(runs.column("sampled_tokens", runs.seeds)[:, -1].min()) for runs in arms)


def _compare(arms: Sequence[ArmRuns], base: ArmRuns) -> dict[str, Comparison]:
    tests, rows = [], []
    for runs in arms:
        seeds = sorted(set(runs.seeds) & set(base.seeds))
        differences = runs.final(seeds) - base.final(seeds)
        areas = bootstrap_mean(np.subtract(_areas(runs.curves(seeds)), _areas(base.curves(seeds))))
        times = solutions_to_reach(runs.curves(seeds), base.curves(seeds))
        tests.append(sign_flip_test(differences.mean(1)))
        rows.append((len(seeds), hierarchical_mean(differences), areas, *times))
    return {
        runs.arm.name: Comparison(pairs, difference, p, p_holm, areas, time, ratio)
        for runs, p, p_holm, (pairs, difference, areas, time, ratio) in zip(arms, tests, holm(tests), rows, strict=True)
    }


def _areas(curves: Curves) -> list[float]:
    return [area(x, y) for x, y in zip(curves.solutions, curves.accuracy, strict=True)]


def _summary(runs: ArmRuns, tokens: float, comparison: Comparison | None) -> ArmSummary:
    curves, sampled = runs.curves(runs.seeds), runs.column("sampled_tokens", runs.seeds)
    at_tokens = [float(np.interp(tokens, x, y)) for x, y in zip(sampled, curves.accuracy, strict=True)]
    return ArmSummary(
        runs,
        float(curves.accuracy[:, 0].mean()),
        hierarchical_mean(runs.final(runs.seeds)),
        bootstrap_mean(_areas(curves)),
        bootstrap_mean(at_tokens),
        float(curves.solutions[:, -1].mean()),
        float(sampled[:, -1].mean()),
        fmean(result["seconds"] for result in runs.results.values()),
        comparison,
    )


def diagnostics(runs: ArmRuns) -> dict[str, Estimate]:
    """Return the paper's diagnostics and the judge's quality: of each run all rounds added up, then the mean over seeds.

    ``variance`` of token advantages; ``information`` in nats between the sign of a token's advantage and whether its step is
    right, and its share of the latter's entropy; ``wrong_punished``: share of wrong steps' tokens with a negative advantage,
    likewise ``right_punished`` and ``wrong_rewarded``; F1 of the labels INCORRECT and MATCHED, ``agreement`` over all steps
    with a true label, ``abstained`` of these.
    """
    rows = [_diagnostics(added([_credit_part(r) for r in rounds])) for rounds in runs.rounds()]
    columns = {name: [row[name] for row in rows if row[name] == row[name]] for name in rows[0]}
    return {name: bootstrap_mean(values) for name, values in columns.items() if values}


def _credit_part(round_: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round_[name] for name in ("advantages", "signs", "labels")}


def _diagnostics(counts: Mapping[str, Any]) -> dict[str, float]:
    signs, labels = np.array(counts["signs"]).sum(0), counts["labels"]
    steps = sum(sum(row.values()) for row in labels.values())
    return {
        "variance": variance(counts["advantages"]),
        "information": mutual_information(signs),
        "explained": explained_share(signs),
        "right_punished": _share(signs[0, 0], signs[:, 0].sum()),
        "wrong_punished": _share(signs[0, 1], signs[:, 1].sum()),
        "wrong_rewarded": _share(signs[2, 1], signs[:, 1].sum()),
        "f1_incorrect": f1(labels, StepLabel.INCORRECT),
        "f1_matched": f1(labels, StepLabel.MATCHED),
        "agreement": agreement(labels),
        "abstained": _share(sum(row.get(StepLabel.ABSTAINED.value, 0) for row in labels.values()), steps),
    }


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def text_signs(counts: Mapping[str, Any]) -> dict[str, float]:
    """Return signs of reward hacking from a round's counts (or several rounds' added up): means a solution, and shares.

    ``length`` in tokens, ``steps``, ``thoughts``, ``repeated`` steps, and the shares of ``unparsable`` and ``truncated``
    solutions, of ``mixed`` groups; for each kind of step ``kind: K`` a solution, and ``wrong: K``, the wrong ones' share.
    """
    n, credited = counts["solutions"], counts["credited"]
    signs = {"length": counts["tokens"] / n}
    signs |= {name: _share(counts[name], credited) for name in ("steps", "thoughts", "repeated")}
    signs |= {name: counts[name] / n for name in ("unparsable", "truncated")}
    signs["mixed"] = _share(counts["mixed"], counts["groups"])
    read = n - counts["unparsable"]
    for kind, (right, wrong) in counts["kinds"].items():
        signs |= {f"kind: {kind}": _share(right + wrong, read), f"wrong: {kind}": _share(wrong, right + wrong)}
    return signs


def first_and_last(runs: ArmRuns) -> tuple[dict[str, float], dict[str, float]]:
    """Return the signs of the first and of the last fifth of the rounds (at least one round), over all seeds."""
    ends = []
    for part in (slice(None, 1), slice(-1, None)):
        rows = []
        for rounds in runs.rounds():
            n = max(1, len(rounds) // 5)
            rows += rounds[slice(None, n) if part.stop == 1 else slice(-n, None)]
        numbers = [{k: v for k, v in row.items() if k not in ("record", "index", "step", "seconds")} for row in rows]
        ends.append(text_signs(added(numbers)))
    return ends[0], ends[1]
