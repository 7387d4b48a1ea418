"""Functions shared by the credit assignments: checks of labels and settings, merging steps into thoughts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_tpgrpo.errors import ConfigError
from lit_tpgrpo.functional.advantages import merge_runs
from lit_tpgrpo.records import JudgedGroup, JudgedSolution, Outcome, StepLabel, StopReason, Thought, Verdict

_LABELS = list(StepLabel)
_FAMILY = {
    True: {StepLabel.CORRECT, StepLabel.INCORRECT},
    False: {StepLabel.MATCHED, StepLabel.UNMATCHED},
}


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
    """Check that a verdict has one label per step, and one share if any, and that its steps cover all tokens once and in order.

    Raises:
        ValueError: the numbers of labels or shares and steps differ, a share is not in [0, 1], there are no steps, or steps
            leave out or repeat tokens.
    """
    verdict, n_tokens = judged.verdict, len(judged.solution.completion_ids)
    where = _verdict_name(judged)
    if len(verdict.labels) != len(verdict.steps) or not verdict.steps:
        raise ValueError(f"{where} has {len(verdict.labels)} labels for {len(verdict.steps)} steps; expected one each")
    ends = [0, *(s.token_end for s in verdict.steps)]
    shares = verdict.wrong_shares
    if shares is not None and not (len(shares) == len(verdict.steps) and all(0 <= share <= 1 for share in shares)):
        raise ValueError(f"{where} has shares {shares}; expected one in [0, 1] for each of {len(verdict.steps)} steps")
    if [s.token_start for s in verdict.steps] != ends[:-1] or ends[-1] != n_tokens or ends != sorted(ends):
        raise ValueError(f"{where} has steps that do not cover its {n_tokens} tokens once and in order")


def has_usable_labels(judged: JudgedSolution) -> bool:
    """Return whether a solution's labels say something of its steps, after checking them against its outcome.

    They do not if the judge abstained, if there is no answer block, or if the token limit cut the solution short. That the
    steps cover the tokens is checked before, by ``check_verdict``.

    Raises:
        ValueError: a label is not of the outcome's family, or the answer block's label contradicts the outcome.
    """
    verdict, where = judged.verdict, _verdict_name(judged)
    if verdict.abstained:
        if set(verdict.labels) != {StepLabel.ABSTAINED}:
            raise ValueError(f"{where} abstains on some steps only; an abstaining judge labels every step ABSTAINED")
        return False
    if judged.solution.stop is StopReason.LENGTH or not verdict.steps[-1].is_answer:
        return False
    unexpected = set(verdict.labels) - _FAMILY[judged.outcome is Outcome.CORRECT]
    if unexpected:
        raise ValueError(f"{where} labels a {judged.outcome.value} solution {sorted(s.value for s in unexpected)}")
    answer = answer_label(judged)
    if verdict.labels[-1] is not answer:
        raise ValueError(f"{where} labels the answer block {verdict.labels[-1].value}; expected {answer.value}")
    return True


def answer_label(judged: JudgedSolution) -> StepLabel:
    """Return the label of a solution's answer block: CORRECT in a correct solution, MATCHED in an incorrect one."""
    return StepLabel.CORRECT if judged.outcome is Outcome.CORRECT else StepLabel.MATCHED


def agrees_with_answer(judged: JudgedSolution, thoughts: tuple[Thought, ...]) -> Tensor | None:
    """Return which thoughts agree with the answer: CORRECT in a correct solution, MATCHED in an incorrect one.

    Returns:
        (T,) bool. None if there is no process reward, see ``has_usable_labels``.

    Raises:
        ValueError: as ``has_usable_labels``.
    """
    if not has_usable_labels(judged):
        return None
    return torch.tensor([t.label is answer_label(judged) for t in thoughts])


def _verdict_name(judged: JudgedSolution) -> str:
    return f"the verdict on sample {judged.solution.sample} of problem {judged.solution.problem_uid!r}"


def thought_lengths(thoughts: tuple[Thought, ...]) -> Tensor:
    """Return the number of tokens of each thought, (T,) int64."""
    return torch.tensor([t.token_end - t.token_start for t in thoughts])


def check_standardisation(ddof: int, eps: float) -> None:
    """Check the settings of ``standardise_group`` when they are given.

    Raises:
        ConfigError: ddof is not 0 or 1, or eps is negative or not finite.
    """
    if ddof not in (0, 1):
        raise ConfigError(f"ddof must be 0 (population) or 1 (sample), got {ddof}")
    if not 0 <= eps < math.inf:
        raise ConfigError(f"eps must be finite and not be negative, got {eps}")


def check_scale(name: str, value: float) -> None:
    """Check that the scale of process rewards is positive.

    Raises:
        ConfigError: it is not.
    """
    if not 0 < value < math.inf:
        raise ConfigError(
            f"{name} must be positive and finite, got {value}; for outcome rewards only, use "
            "lit_tpgrpo.credit.outcome.OutcomeCredit"
        )
