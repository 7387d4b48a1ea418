"""Metrics of a round: the scalars that are logged and the line that is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_tpgrpo.credit.merging import merge_thoughts
from lit_tpgrpo.credit.reward_kl import token_kl
from lit_tpgrpo.judges.base import Counts, Tally
from lit_tpgrpo.records import CreditedSolution, JudgedSolution, Outcome, Round, StepLabel, StopReason

_REWARD, _REWARDED, _SKIPPED = "reward of ", "rewarded by ", "skipped by "  # sums by reward term


@dataclass(frozen=True)
class RoundTally:
    """Sums and maxima over the solutions of one rank, or of all, from which a round's metrics are computed.

    Every mean is a sum over all ranks divided by a count over all ranks, never a mean of means.
    """

    sums: Mapping[str, float]
    maxima: Mapping[str, float]
    verified: Tally
    judged: Tally
    extra: Counts = field(default_factory=Counts)
    """Counts of optional stages, by the names of their metrics."""

    def __add__(self, other: RoundTally) -> RoundTally:
        return RoundTally(
            {name: value + other.sums[name] for name, value in self.sums.items()},
            {name: max(value, other.maxima[name]) for name, value in self.maxima.items()},
            self.verified + other.verified,
            self.judged + other.judged,
            self.extra + other.extra,
        )

    def metrics(self) -> dict[str, float]:
        """Return the scalars of the round, grouped by stage; shares are of solutions, thoughts or tokens as their names say.

        Accuracy, reward and the metrics of judge and credit cover the solutions whose outcome is decided.
        Thoughts are those of merged steps, whatever the credit takes for them and a group filter removes;
        ``judge/wrong_thought_share`` counts INCORRECT and MATCHED ones among all that are labelled;
        ``credit/advantage_variance`` is the paper's diagnostic, over all tokens of all credited solutions.
        ``rollout/tokens_per_s`` is that of all ranks together, over the time of the slowest. Groups that dynamic sampling
        dropped count in ``rollout/`` and not in the others. With ``data.rewards``, ``reward/NAME`` is a term's mean without
        its weight, over the decided solutions that it did not skip, ``reward/NAME_skipped`` how many it skipped,
        ``reward/total`` the weighted sum's. With ``data.group_filter``, ``credit/filtered_solutions`` is how many it removed:
        they are in no other metric of ``credit/``. With a KL penalty in the reward, ``credit/reward_kl`` is the mean of
        log p_old - log q over the tokens of decided solutions that have log-probs under the reference q. With
        ``data.evidence``, ``evidence/`` has what its providers count.
        """
        s = self.sums
        n, decided, judged, credited_tokens = s["solutions"], s["decided"], s["judged"], s["credited_tokens"]
        mean = _ratio(s["advantage"], credited_tokens)
        rewards = {
            f"reward/{name.removeprefix(_REWARD)}": _ratio(value, s[f"{_REWARDED}{name.removeprefix(_REWARD)}"])
            for name, value in s.items()
            if name.startswith(_REWARD)
        }
        rewards |= {f"reward/{n.removeprefix(_SKIPPED)}_skipped": v for n, v in s.items() if n.startswith(_SKIPPED)}
        reward_kl = {"credit/reward_kl": s["reward_kl"] / s["reward_kl_tokens"]} if s["reward_kl_tokens"] else {}
        services = {f"verify/{k}": v for k, v in self.verified.metrics().items()}
        services |= {f"judge/{k}": v for k, v in self.judged.metrics().items()}
        return {
            "rollout/accuracy": _ratio(s["correct"], decided),
            "rollout/reward": _ratio(2 * s["correct"] - decided, decided),
            "rollout/unverifiable_share": s["unverifiable"] / n,
            "rollout/undecided_share": 1 - decided / n,
            "rollout/truncated_share": s["truncated"] / n,
            "rollout/no_answer_block_share": s["no_answer_block"] / n,
            "rollout/no_answer_share": s["no_answer"] / n,
            "rollout/solutions": n,
            "rollout/length_mean": s["tokens"] / n,
            "rollout/length_max": self.maxima["length"],
            "rollout/mixed_group_share": s["mixed_groups"] / s["groups"],
            "rollout/seconds": self.maxima["sampling_seconds"],
            "rollout/tokens_per_s": _ratio(s["new_tokens"], self.maxima["sampling_seconds"]),
            "judge/seconds": self.maxima["judging_seconds"],
            "judge/abstained_share": _ratio(s["abstained"], judged),
            "judge/thoughts_per_solution": _ratio(s["thoughts"], judged),
            "judge/wrong_thought_share": _ratio(
                s["incorrect_thoughts"] + s["matched_thoughts"], s["labelled_thoughts"]
            ),
            "judge/incorrect_thought_share": _ratio(
                s["incorrect_thoughts"], s["incorrect_thoughts"] + s["correct_thoughts"]
            ),
            "credit/kept_solutions": s["kept"],
            "credit/kept_share": s["kept"] / n,
            "credit/advantage_mean": mean,
            "credit/advantage_variance": max(0.0, _ratio(s["advantage_squared"], credited_tokens) - mean * mean),
            "credit/process_token_share": _ratio(s["process_tokens"], credited_tokens),
            "credit/negative_token_share": _ratio(s["negative_tokens"], credited_tokens),
        } | (reward_kl | rewards | services | self.extra.metrics())


def tally_round(
    round_: Round,
    new_tokens: int,
    sampling_seconds: float,
    judging_seconds: float,
    verified: Tally,
    judged: Tally,
    terms: Sequence[str] = (),
) -> RoundTally:
    """Compute the sums and maxima of one rank; a rank without a group has zeros. ``terms`` names the reward terms."""
    groups = (*round_.groups, *round_.dropped)
    solutions = [s for group in groups for s in group.solutions]
    lengths = [len(s.solution.completion_ids) for s in solutions]
    sums = {
        "solutions": len(solutions),
        "groups": len(groups),
        "mixed_groups": sum(0 < g.accuracy < 1 for g in groups),
        "correct": sum(s.outcome is Outcome.CORRECT for s in solutions),
        "decided": sum(len(g.decided) for g in groups),
        "judged": sum(len(g.decided) for g in round_.groups),
        "unverifiable": sum(s.outcome is Outcome.UNVERIFIABLE for s in solutions),
        "truncated": sum(s.solution.stop is StopReason.LENGTH for s in solutions),
        "no_answer_block": sum(not _answers(s) for s in solutions),
        "no_answer": sum(s.answer is None for s in solutions),
        "abstained": sum(s.verdict.abstained for g in round_.groups for s in g.decided),
        "tokens": sum(lengths),
        "new_tokens": new_tokens,
        "kept": len(round_.kept),
    }
    sums |= _thought_sums(round_) | _advantage_sums(round_) | _reward_sums(round_, terms) | _reward_kl_sums(round_)
    maxima = {
        "length": max(lengths, default=0),
        "sampling_seconds": sampling_seconds,
        "judging_seconds": judging_seconds,
    }
    return RoundTally(
        {name: float(value) for name, value in sums.items()},
        {name: float(value) for name, value in maxima.items()},
        verified,
        judged,
    )


def _answers(solution: JudgedSolution) -> bool:
    """Return whether the solution has an answer block."""
    steps = solution.verdict.steps
    return bool(steps) and steps[-1].is_answer


def _thought_sums(round_: Round) -> dict[str, int]:
    """Count merged thoughts of all decided solutions: a credit may take steps for thoughts, and a filter leave some out."""
    decided = [s for group in round_.groups for s in group.decided]
    labels = Counter(thought.label for s in decided for thought in merge_thoughts(s.verdict))
    return {
        "thoughts": labels.total(),
        "labelled_thoughts": labels.total() - labels[StepLabel.ABSTAINED],
        "correct_thoughts": labels[StepLabel.CORRECT],
        "incorrect_thoughts": labels[StepLabel.INCORRECT],
        "matched_thoughts": labels[StepLabel.MATCHED],
    }


def _decided(round_: Round) -> list[CreditedSolution]:
    return [s for s in round_.credited if s.judged.outcome is not Outcome.UNDECIDED]


def _advantage_sums(round_: Round) -> dict[str, float]:
    none, decided = torch.zeros(0, dtype=torch.float64), _decided(round_)
    advantages = torch.cat([none, *(s.advantages.double() for s in decided)])
    process = torch.cat([none, *((s.advantages - s.outcome_advantage).double() for s in decided)])
    return {
        "credited_tokens": len(advantages),
        "advantage": float(advantages.sum()),
        "advantage_squared": float(advantages.square().sum()),
        "process_tokens": float((process != 0).sum()),
        "negative_tokens": float((advantages < 0).sum()),
    }


def _reward_kl_sums(round_: Round) -> dict[str, float]:
    kls = [kl for g in round_.groups for s in g.decided if (kl := token_kl(s)) is not None]
    return {"reward_kl": sum(kl.sum().item() for kl in kls), "reward_kl_tokens": sum(map(len, kls))}


def _reward_sums(round_: Round, terms: Sequence[str]) -> dict[str, float]:
    """Return of each term, and of the total, the sum of its values, their number, and how many solutions it skipped."""
    rewards = [s.reward for g in round_.groups for s in g.decided if s.reward is not None]
    columns = {name: [r.terms[name] for r in rewards] for name in terms}
    columns |= {"total": [r.total for r in rewards]} if terms else {}
    sums: dict[str, float] = {}
    for name, column in columns.items():
        values = [value for value in column if value is not None]
        sums |= {_REWARD + name: sum(values), _REWARDED + name: len(values), _SKIPPED + name: len(column) - len(values)}
    return sums


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def advantages_and_lengths(round_: Round) -> tuple[Tensor, Tensor]:
    """Return all token advantages and all completion lengths of this rank's share of a round, for histograms."""
    lengths = torch.tensor([len(s.judged.solution.completion_ids) for s in round_.credited])
    return torch.cat([torch.zeros(0), *(s.advantages for s in round_.credited)]), lengths


def round_line(index: int, policy_version: int, metrics: Mapping[str, float]) -> str:
    """Format the line that is printed once a round."""
    speed, reward = metrics["rollout/tokens_per_s"], metrics.get("reward/total", metrics["rollout/reward"])
    return (
        f"round {index} | step {policy_version} | accuracy {metrics['rollout/accuracy']:.3f} | "
        f"reward {reward:+z.3f} | wrong thoughts {metrics['judge/wrong_thought_share']:.1%} | "
        f"kept {metrics['credit/kept_solutions']:.0f}/{metrics['rollout/solutions']:.0f} | "
        f"length {metrics['rollout/length_mean']:.0f} | " + (f"{speed:,.0f} tokens/s" if speed else "taken from disk")
    )
