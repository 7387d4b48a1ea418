"""A round in figures: the scalars that are logged and the line that is printed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_tpgrpo.records import JudgedSolution, Outcome, Round, StepLabel, StopReason


def round_metrics(made: Round) -> dict[str, float]:
    """Scalars of a round, grouped by stage. Shares are of solutions, thoughts or tokens as their names say.

    ``judge/wrong_thought_share`` counts INCORRECT and MATCHED thoughts among all labelled ones;
    ``credit/advantage_variance`` is the paper's diagnostic, over all tokens of all credited solutions.
    """
    solutions = [s for group in made.groups for s in group.solutions]
    n = len(solutions)
    lengths = torch.tensor([len(s.solution.completion_ids) for s in solutions], dtype=torch.float32)
    correct = [s.outcome is Outcome.CORRECT for s in solutions]
    metrics = {
        "rollout/accuracy": sum(correct) / n,
        "rollout/reward": 2 * sum(correct) / n - 1,
        "rollout/unverifiable_share": sum(s.outcome is Outcome.UNVERIFIABLE for s in solutions) / n,
        "rollout/truncated_share": sum(s.solution.stop is StopReason.LENGTH for s in solutions) / n,
        "rollout/unclosed_think_share": sum(not _answers(s) for s in solutions) / n,
        "rollout/no_answer_share": sum(s.answer is None for s in solutions) / n,
        "rollout/solutions": n,
        "rollout/length_mean": float(lengths.mean()),
        "rollout/length_max": float(lengths.max()),
        "rollout/mixed_group_share": sum(0 < g.accuracy < 1 for g in made.groups) / len(made.groups),
        "judge/abstained_share": sum(s.verdict.abstained for s in solutions) / n,
        "credit/kept_solutions": len(made.kept),
        "credit/kept_share": len(made.kept) / n,
    }
    return metrics | _thought_metrics(made) | _advantage_metrics(made)


def _answers(solution: JudgedSolution) -> bool:
    """Whether there is an answer block: the think block was closed."""
    steps = solution.verdict.steps
    return bool(steps) and steps[-1].is_answer


def _thought_metrics(made: Round) -> dict[str, float]:
    labels = [t.label for s in made.credited for t in s.thoughts if t.label is not StepLabel.ABSTAINED]
    in_correct = [x for x in labels if x in (StepLabel.CORRECT, StepLabel.INCORRECT)]
    return {
        "judge/thoughts_per_solution": sum(len(s.thoughts) for s in made.credited) / len(made.credited),
        "judge/wrong_thought_share": _share([x in (StepLabel.INCORRECT, StepLabel.MATCHED) for x in labels]),
        "judge/incorrect_thought_share": _share([x is StepLabel.INCORRECT for x in in_correct]),
    }


def _advantage_metrics(made: Round) -> dict[str, float]:
    advantages = torch.cat([s.advantages for s in made.credited])
    process = torch.cat([s.advantages - s.outcome_advantage for s in made.credited])
    return {
        "credit/advantage_mean": float(advantages.mean()),
        "credit/advantage_variance": float(advantages.var(correction=0)),
        "credit/process_token_share": float((process != 0).float().mean()),
        "credit/negative_token_share": float((advantages < 0).float().mean()),
    }


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def advantages_and_lengths(made: Round) -> tuple[Tensor, Tensor]:
    """All token advantages and all completion lengths of a round, for histograms."""
    lengths = torch.tensor([len(s.judged.solution.completion_ids) for s in made.credited])
    return torch.cat([s.advantages for s in made.credited]), lengths


def round_line(index: int, policy_version: int, metrics: Mapping[str, float]) -> str:
    """What a person reads once a round."""
    return (
        f"round {index} | step {policy_version} | accuracy {metrics['rollout/accuracy']:.3f} | "
        f"reward {metrics['rollout/reward']:+.3f} | wrong thoughts {metrics['judge/wrong_thought_share']:.1%} | "
        f"kept {metrics['credit/kept_solutions']:.0f}/{metrics['rollout/solutions']:.0f} | "
        f"length {metrics['rollout/length_mean']:.0f} | {metrics['rollout/tokens_per_s']:,.0f} tokens/s"
    )
