"""Functions shared by the credit assignments: outcome advantages, checks of labels, merging steps into thoughts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.advantages import merge_runs, standardise_group, standardise_part
from lit_tpgrpo.records import JudgedGroup, JudgedSolution, Outcome, StepLabel, StopReason, Thought, Verdict

_LABELS = list(StepLabel)
_FAMILY = {
    True: {StepLabel.CORRECT, StepLabel.INCORRECT},
    False: {StepLabel.MATCHED, StepLabel.UNMATCHED},
}


def outcome_advantages(group: JudgedGroup, ddof: int, eps: float) -> list[float | None]:
    """Standardise rewards within the group (paper, Setting).

    A reward is +1 (CORRECT) or -1 (INCORRECT, UNVERIFIABLE), or the weighted sum of ``data.rewards``. Mean and standard
    deviation are over the rewarded solutions: those that are decided, and to which a term applies.

    Returns:
        The advantage of each solution. None means no credit: for an UNDECIDED solution, one that all terms skipped, and for all
        solutions if fewer than two are rewarded, since a single one cannot be compared.

    Raises:
        ConfigError: a single solution was sampled.
    """
    totals = torch.tensor([_rewards(s)[0] for s in group.rewarded], dtype=torch.float64)
    return _per_solution(group, lambda: standardise_group(totals, ddof, eps))


def outcome_parts(group: JudgedGroup, ddof: int, eps: float) -> list[float | None]:
    """Return the outcome's part of each solution's standardised reward: m of an incorrect solution.

    With o the outcome's part of the reward R, that is (o - mean(o)) / (std(R) + eps): not positive for an incorrect solution.
    Where the outcome is the only term, it is equal to ``outcome_advantages``, bit for bit; without an outcome term it is 0.

    Returns:
        A number or None for each solution, as ``outcome_advantages``.
    """
    rewards = torch.tensor([_rewards(s) for s in group.rewarded], dtype=torch.float64).reshape(-1, 2)
    return _per_solution(group, lambda: standardise_part(rewards[:, 1].clone(), rewards[:, 0].clone(), ddof, eps))


def _rewards(judged: JudgedSolution) -> tuple[float, float]:
    """Return the reward of a rewarded solution and the outcome's part of it."""
    if judged.reward is None:
        reward = 1.0 if judged.outcome is Outcome.CORRECT else -1.0
        return reward, reward
    assert judged.reward.total is not None
    return judged.reward.total, judged.reward.outcome


def _per_solution(group: JudgedGroup, standardised: Callable[[], Tensor]) -> list[float | None]:
    """Return one value per solution of the group, None where there is no reward or nothing to compare it with."""
    if len(group.solutions) < 2:
        raise ConfigError(
            f"problem {group.problem.uid!r} has {len(group.solutions)} solution: an advantage is a reward relative to "
            "the other solutions of the group; sample at least 2 (group_size)"
        )
    if len(group.rewarded) < 2:
        return [None] * len(group.solutions)
    values = iter(standardised().tolist())
    return [next(values) if s.is_rewarded else None for s in group.solutions]


def ability_reward(alpha: float, group: JudgedGroup) -> float:
    """Compute the process reward of a correct solution, r_c = alpha * capability (paper, Stage II).

    Raises:
        ValueError: the capability (a callback may set it) is not finite, or negative, which would reverse rewards.
    """
    if not 0 <= group.capability < math.inf:
        raise ValueError(
            f"problem {group.problem.uid!r} has capability {group.capability}; expected a finite number >= 0, such as acc_G"
        )
    return alpha * group.capability


def merge_thoughts(verdict: Verdict) -> tuple[Thought, ...]:
    """Merge maximal runs of steps with equal labels into thoughts (paper, Stage II).

    A last think step with the answer's label is merged with the answer block; an abstained solution is one thought.

    >>> from lit_tpgrpo.records import Step
    >>> steps = tuple(Step(i, i + 1, i, i + 1, is_answer=i == 3) for i in range(4))
    >>> verdict = Verdict(steps, (StepLabel.CORRECT, StepLabel.INCORRECT, StepLabel.CORRECT, StepLabel.CORRECT))
    >>> [(t.first_step, t.end_step, t.label.value) for t in merge_thoughts(verdict)]
    [(0, 1, 'correct'), (1, 2, 'incorrect'), (2, 4, 'correct')]
    """
    codes = torch.tensor([_LABELS.index(label) for label in verdict.labels])
    return tuple(_thought(verdict, first, end) for first, end in merge_runs(codes).tolist())


def single_steps(verdict: Verdict) -> tuple[Thought, ...]:
    """Turn each step into a thought, without merging."""
    return tuple(_thought(verdict, i, i + 1) for i in range(len(verdict.steps)))


def _thought(verdict: Verdict, first: int, end: int) -> Thought:
    steps = verdict.steps
    return Thought(first, end, steps[first].token_start, steps[end - 1].token_end, verdict.labels[first])


def check_verdict(judged: JudgedSolution) -> None:
    """Check that a verdict has one label per step, and that its steps cover all tokens once and in order.

    Raises:
        ValueError: the numbers of labels and steps differ, there are no steps, or steps leave out or repeat tokens.
    """
    verdict, n_tokens = judged.verdict, len(judged.solution.completion_ids)
    where = _verdict_name(judged)
    if len(verdict.labels) != len(verdict.steps) or not verdict.steps:
        raise ValueError(f"{where} has {len(verdict.labels)} labels for {len(verdict.steps)} steps; expected one each")
    ends = [0, *(s.token_end for s in verdict.steps)]
    if [s.token_start for s in verdict.steps] != ends[:-1] or ends[-1] != n_tokens or ends != sorted(ends):
        raise ValueError(f"{where} has steps that do not cover its {n_tokens} tokens once and in order")


def agrees_with_answer(judged: JudgedSolution, thoughts: tuple[Thought, ...]) -> Tensor | None:
    """Return which thoughts agree with the answer: CORRECT in a correct solution, MATCHED in an incorrect one.

    That the steps cover the tokens is checked before, by ``check_verdict``.

    Returns:
        (T,) bool. None if there is no process reward: the judge abstained, there is no answer block, or the token limit cut
        the solution short.

    Raises:
        ValueError: a label is not of the outcome's family, or the answer block's label contradicts the outcome.
    """
    verdict, where = judged.verdict, _verdict_name(judged)
    if verdict.abstained:
        if set(verdict.labels) != {StepLabel.ABSTAINED}:
            raise ValueError(f"{where} abstains on some steps only; an abstaining judge labels every step ABSTAINED")
        return None
    if judged.solution.stop is StopReason.LENGTH or not verdict.steps[-1].is_answer:
        return None
    correct = judged.outcome is Outcome.CORRECT
    unexpected = set(verdict.labels) - _FAMILY[correct]
    if unexpected:
        raise ValueError(f"{where} labels a {judged.outcome.value} solution {sorted(s.value for s in unexpected)}")
    answer = StepLabel.CORRECT if correct else StepLabel.MATCHED
    if verdict.labels[-1] is not answer:
        raise ValueError(f"{where} labels the answer block {verdict.labels[-1].value}; expected {answer.value}")
    return torch.tensor([t.label is answer for t in thoughts])


def _verdict_name(judged: JudgedSolution) -> str:
    return f"the verdict on sample {judged.solution.sample} of problem {judged.solution.problem_uid!r}"


def thought_lengths(thoughts: tuple[Thought, ...]) -> Tensor:
    """Return the number of tokens of each thought, (T,) int64."""
    return torch.tensor([t.token_end - t.token_start for t in thoughts])


def check_standardisation(ddof: int, eps: float) -> None:
    """Check the settings of ``standardise_group`` when they are given.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative.
    """
    if ddof not in (0, 1):
        raise ConfigError(f"ddof must be 0 (population) or 1 (sample), got {ddof}")
    if eps < 0:
        raise ConfigError(f"eps must not be negative, got {eps}")


def check_scale(name: str, value: float) -> None:
    """Check that the scale of process rewards is positive.

    Raises:
        ConfigError: it is not.
    """
    if not value > 0:
        raise ConfigError(
            f"{name} must be positive, got {value}; for outcome rewards only, use lit_tpgrpo.credit.outcome.OutcomeCredit"
        )
