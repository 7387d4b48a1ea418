"""The data passed between stages, as frozen dataclasses without logic.

``Problem`` -> G x ``Solution`` -> ``Outcome`` -> ``Step``s -> ``Verdict`` -> ``Thought``s -> ``JudgedSolution`` ->
``JudgedGroup`` -> ``CreditedSolution`` -> ``Round`` -> ``TrainBatch``.

Spans are half-open ``[start, end)``. Character spans index ``Solution.text``; token spans index
``Solution.completion_ids``. Log-probs are natural logarithms.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from lit_tpgrpo.evidence import Evidence
from lit_tpgrpo.token_arrays import EqualByContent, PackedOffsets, TokenFloats, TokenInts, token_floats, token_ints

if TYPE_CHECKING:
    from torch import Tensor


class Outcome(enum.Enum):
    """The verifier's decision about an answer.

    UNVERIFIABLE is caused by the answer (unreadable, too long, exhausts the verifier): it is rewarded as incorrect.
    UNDECIDED is caused by the machine (workers killed from outside, or starved): nothing is known about the answer, so the
    solution is neither rewarded nor trained on, and is excluded from its group's statistics.
    """

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNVERIFIABLE = "unverifiable"
    UNDECIDED = "undecided"


class StopReason(enum.Enum):
    """Why sampling ended: the model sampled EOS, its text holds a stop string, or the token limit truncated the solution."""

    EOS = "eos"
    STOP_STRING = "stop_string"
    LENGTH = "length"


class StepLabel(enum.Enum):
    """CORRECT / INCORRECT for correct solutions, MATCHED / UNMATCHED for incorrect ones (paper, Stage I).

    ABSTAINED labels every step of a solution that the judge could not decide: outcome reward only.
    """

    CORRECT = "correct"
    INCORRECT = "incorrect"
    MATCHED = "matched"
    UNMATCHED = "unmatched"
    ABSTAINED = "abstained"


WRONG_LABELS = frozenset({StepLabel.INCORRECT, StepLabel.MATCHED})
"""The labels of wrong steps, in correct and in incorrect solutions."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A maths problem: ``prompt`` is the bare statement (no chat template), ``answer`` the bare gold answer.

    Example: ``Problem("math500/0", "Convert the point ...", r"\\left( 3, \\frac{\\pi}{2} \\right)", "math500", "2")``.
    """

    uid: str
    prompt: str
    answer: str
    source: str = ""
    level: str | None = None
    subject: str | None = field(default=None, compare=False)
    """A label for tables, e.g. ``Algebra``: a problem is the same with and without it."""


@dataclass(frozen=True, eq=False)
class Solution(EqualByContent):
    """One sampled completion: ids, sampling log-probs and where each token starts in the text.

    What there is of each token is a read-only array, (T,), of 4 bytes a value; any sequence of numbers may be given.
    ``token_starts`` is held in one byte a token and computed at each access: see ``PackedOffsets``.

    ``completion_ids`` ends with EOS exactly when ``stop`` is EOS, and with the token that completes the stop string when it is
    STOP_STRING: the string stays in the text. ``logprobs[t]`` is the log-prob of
    ``completion_ids[t]`` under softmax(logits / temperature). ``token_starts[t]`` is the character of ``text`` at which
    token t begins (tokens that add no character point to the next character).

    Raises:
        ConfigError: ids or starts are not whole numbers of 32 bits, or log-probs not numbers.
    """

    problem_uid: str
    sample: int
    prompt_ids: TokenInts
    completion_ids: TokenInts
    logprobs: TokenFloats
    stop: StopReason
    policy_version: int
    text: str
    token_starts: PackedOffsets = PackedOffsets()  # noqa: RUF009 - a descriptor, which dataclasses know

    def __post_init__(self) -> None:
        for name in ("prompt_ids", "completion_ids"):
            object.__setattr__(self, name, token_ints(getattr(self, name), f"Solution.{name}"))
        object.__setattr__(self, "logprobs", token_floats(self.logprobs, "Solution.logprobs"))


@dataclass(frozen=True, slots=True)
class Step:
    """A semantic step. Steps tile the text: ``end`` of one is ``start`` of the next, blank lines belong to the step
    before them. A token belongs to the step that holds its first character. The answer block is the last step."""

    start: int
    end: int
    token_start: int
    token_end: int
    is_answer: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's verdict on one solution: its steps (the judge may re-segment) and one label per step."""

    steps: tuple[Step, ...]
    labels: tuple[StepLabel, ...]
    note: str = ""
    """Why the judge abstained or which fallback it used; empty for an ordinary verdict."""
    wrong_shares: tuple[float, ...] | None = None
    """For each step the share of a judge's verdicts, in [0, 1], that label it INCORRECT or MATCHED; None without an average."""

    @property
    def abstained(self) -> bool:
        return StepLabel.ABSTAINED in self.labels


@dataclass(frozen=True, slots=True)
class Thought:
    """A maximal run of consecutive steps with one label (paper, Stage II)."""

    first_step: int
    end_step: int
    token_start: int
    token_end: int
    label: StepLabel


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one solution: a weighted sum of terms (``lit_tpgrpo.rewards``).

    ``total`` is the sum of weight * value over the terms that apply, None if none does: the solution is then neither rewarded
    nor trained on. ``outcome`` is the part of it that the outcome terms give, 0 without one. ``terms`` has each term's value,
    without its weight; None where the term skipped the solution.
    """

    total: float | None
    outcome: float
    terms: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class JudgedSolution:
    """A solution with its outcome and verdict. ``answer`` is the extracted answer, None if there is none.

    ``reward`` is None in a run without ``data.rewards``: the reward is then +1 for CORRECT, -1 for other decided outcomes.
    ``evidence`` has what the providers of ``data.evidence`` or the trainer gave, at most one record of a kind.
    """

    solution: Solution
    outcome: Outcome
    answer: str | None
    verdict: Verdict
    reward: Reward | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def is_rewarded(self) -> bool:
        """Whether the solution has a reward: its outcome is known, and a term applies to it."""
        return self.outcome is not Outcome.UNDECIDED and (self.reward is None or self.reward.total is not None)


@dataclass(frozen=True, slots=True)
class EvaluatedGroup:
    """Solutions of one held-out problem with their outcomes and extracted answers, none of them judged.

    ``set_name`` is its evaluation set, "" where these have no names, and ``index`` its place in the set. Solutions that were
    read back from disk have no prompt ids, log-probs and token offsets. ``cost`` is what a ``TotallingEngine`` counted from the
    group before to this one, when it was sampled.
    """

    problem: Problem
    solutions: tuple[Solution, ...]
    outcomes: tuple[Outcome, ...]
    answers: tuple[str | None, ...]
    set_name: str = ""
    index: int = 0
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """The G solutions of one problem. ``capability`` scales r_c: acc_G unless a callback says otherwise.

    It is that of all G solutions, also where a group filter has left fewer of them here.
    """

    problem: Problem
    solutions: tuple[JudgedSolution, ...]
    capability: float

    @property
    def decided(self) -> tuple[JudgedSolution, ...]:
        """The solutions with a known outcome, over which acc_G is computed."""
        return tuple(s for s in self.solutions if s.outcome is not Outcome.UNDECIDED)

    @property
    def rewarded(self) -> tuple[JudgedSolution, ...]:
        """The solutions with a reward, over which rewards are standardised: the decided ones, unless all terms skip some."""
        return tuple(s for s in self.solutions if s.is_rewarded)

    @property
    def accuracy(self) -> float:
        """acc_G: the share of correct solutions among the decided ones; 0 if there is none."""
        return sum(s.outcome is Outcome.CORRECT for s in self.decided) / max(len(self.decided), 1)


@dataclass(frozen=True, slots=True)
class CreditedSolution:
    """A judged solution with its thoughts, their rewards and float32 token advantages (len(completion_ids),).

    ``process_rewards`` has one entry per thought: the process part alone, 0 if the thought has none. If the
    engine's log-probs are corrected, ``trainer_logprobs`` and ``importance_weights`` are set: float32, (len(completion_ids),)
    each. ``loss_mask``, bool, is False for tokens that a credit leaves out of the loss, its KL term included; averages still
    divide by all tokens. An advantage of 0 leaves a token out of the policy term alone. ``is_compared`` is False where a credit
    had nothing to go by: a batch stage leaves the solution as it is.
    """

    judged: JudgedSolution
    outcome_advantage: float
    thoughts: tuple[Thought, ...]
    process_rewards: tuple[float, ...]
    advantages: Tensor
    trainer_logprobs: Tensor | None = None
    importance_weights: Tensor | None = None
    loss_mask: Tensor | None = None
    is_compared: bool = True


@dataclass(frozen=True, slots=True)
class Round:
    """This rank's share of the rollouts sampled by one policy version, in training order.

    The index of a solution is its group's index in the round over all ranks, times G, plus its sample. ``credited_indices``
    and ``kept_indices`` ascend. ``metrics`` are those of all ranks. ``dropped`` are groups that dynamic sampling leaves out:
    they are neither judged (their verdicts abstain) nor credited. ``consumed`` is the number of problems that the round took
    over all ranks, None for the usual number. ``trained_from`` is the policy version with which training on the round begins,
    None for the one that sampled it.
    """

    index: int
    policy_version: int
    temperature: float
    groups: tuple[JudgedGroup, ...]
    credited: tuple[CreditedSolution, ...]
    kept: tuple[CreditedSolution, ...]
    credited_indices: tuple[int, ...] = ()
    kept_indices: tuple[int, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    dropped: tuple[JudgedGroup, ...] = ()
    consumed: int | None = None
    trained_from: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One solution as training data: 1-D tensors; all but the prompt's have the length of ``completion_ids``.

    ``old_logprobs`` are of the weights that sampled it. Without ``importance_weights`` every token weighs 1; all sequences
    of a step have them or none. Without ``loss_mask`` (bool) every token is in the loss.
    """

    prompt_ids: Tensor
    completion_ids: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    importance_weights: Tensor | None = None
    loss_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    def to(self, device, non_blocking: bool = False) -> TrainingSequence:
        tensors = [getattr(self, field.name) for field in fields(self)]
        return TrainingSequence(*(None if t is None else t.to(device, non_blocking=non_blocking) for t in tensors))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """The solutions of one optimizer step on this rank, ragged; the module cuts it into micro-batches.

    ``temperature`` is the one they were sampled at: the trainer's log-probs use the same. ``policy_version`` is that of
    the weights that sampled them.
    """

    sequences: tuple[TrainingSequence, ...]
    temperature: float
    round_index: int
    policy_version: int

    def to(self, device, non_blocking: bool = False) -> TrainBatch:
        """Move to a device; Lightning calls this (it cannot rebuild frozen dataclasses itself)."""
        moved = tuple(s.to(device, non_blocking) for s in self.sequences)
        return TrainBatch(moved, self.temperature, self.round_index, self.policy_version)
