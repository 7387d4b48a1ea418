"""Schedules: when rounds are made and in which batches they are trained on, with a position that survives a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lit_tpgrpo.errors import EmptyRoundError
from lit_tpgrpo.records import CreditedSolution, Round, TrainBatch
from lit_tpgrpo.rollout.step_cuts import CUTS, StepCut, StepSizes
from lit_tpgrpo.rollout.training_sequences import training_sequence

MakeRound = Callable[[int, int, int | None], Round]


class BatchSchedule(Protocol):
    """Gives the training batches of a run, one per optimizer step.

    ``MathRolloutDataModule.build_schedule`` returns the one of a run. ``TrainBatchStream`` is the serial schedule;
    ``AheadBatchStream`` samples the next round meanwhile. Both train on a round only when it is whole;
    ``PipelinedBatchStream`` trains on each step's solutions as soon as they are there.
    """

    def next_batch(self) -> TrainBatch:
        """Return this rank's batch of the next optimizer step. Collective.

        Raises:
            EmptyRoundError: there is nothing to train on.
            OutOfTimeError: ``max_time`` was reached while a round was made.
        """
        ...

    def state_dict(self, version: int) -> dict[str, Any]:
        """Return the position in plain numbers and texts, given the number of optimizer steps taken."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a position; keys of others may be in ``state`` as well."""
        ...


@runtime_checkable
class WorksAhead(Protocol):
    """A ``BatchSchedule`` that uses engine, verifier and judge in the background, while batches are trained on."""

    def wait(self) -> None:
        """Return when they are free, until the next batch is asked for. Collective."""
        ...

    def close(self, at_once: bool = False) -> None:
        """Stop using them, and return when they are free; ``at_once``: do not wait for that."""
        ...


@dataclass
class CutRound:
    """What the batches of a round are made of.

    Attributes:
        version: policy version that sampled it.
        temperature: of sampling.
        cut: indices of the kept solutions of all ranks, cut into steps.
        local: this rank's kept solutions by index.
    """

    version: int
    temperature: float
    cut: StepCut[int]
    local: dict[int, CreditedSolution] = field(default_factory=dict)

    def solutions(self, position: int) -> tuple[CreditedSolution, ...]:
        """Return this rank's solutions of a step."""
        return tuple(self.local[i] for i in self.cut.steps[position] if i in self.local)


class TrainBatchStream:
    """The serial schedule: make the next round exactly when the current one is used up, and cut it into batches.

    Args:
        make_round: called with (round index, problems consumed before it, policy version that must have sampled it, or
            None for the current policy's); returns this rank's share of the round.
        solutions_per_step: kept solutions of one optimizer step, over all ranks.
        problems_per_round: problems that a round consumes over all ranks, unless it says another number (``Round.consumed``).
        max_empty_rounds: rounds in a row with nothing to train on before ``EmptyRoundError``.
        gather_indices: maps this rank's kept indices to those of all ranks. Batches are cut from all of them, so that a
            batch holds the same solutions on any number of ranks.
        step_sizes: how a round is cut into steps, see ``rollout.step_cuts``. A round that a checkpoint has begun to train on
            is cut as it was.
    """

    def __init__(
        self,
        make_round: MakeRound,
        solutions_per_step: int,
        problems_per_round: int,
        max_empty_rounds: int,
        gather_indices: Callable[[Sequence[int]], list[int]],
        step_sizes: StepSizes = "even",
    ) -> None:
        self._make_round = make_round
        self._solutions_per_step = solutions_per_step
        self._problems_per_round = problems_per_round
        self._max_empty_rounds = max_empty_rounds
        self._gather_indices = gather_indices
        self._step_sizes: StepSizes = step_sizes
        self._round, self._position, self._n_steps, self._cursor, self._version = -1, 0, 0, 0, 0
        self._trained_from = 0  # policy version with which training on the current round began
        self._consumed = 0  # by the current round
        self._cut_by: StepSizes = step_sizes  # the current round
        self._current: CutRound | None = None

    def state_dict(self, version: int) -> dict[str, Any]:
        """Return the current round, its batches that were trained on, the number of its batches, the problems consumed before
        it and by it, the policy versions that sampled it and with which training on it began, and how it is cut.

        Args:
            version: optimizer steps taken; a batch that was returned but not trained on will be returned again.
        """
        return {
            "round": self._round,
            "position": max(0, min(self._position, version - self._trained_from)),
            "n_steps": self._n_steps,
            "cursor": self._cursor,
            "consumed": self._consumed,
            "version": self._version,
            "trained_from": self._trained_from,
            "step_sizes": self._cut_by,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._round, self._position, self._n_steps = state["round"], state["position"], state["n_steps"]
        self._cursor, self._version = state["cursor"], state["version"]
        usual = self._problems_per_round if self._round >= 0 else 0
        # Checkpoints of earlier versions lack these.
        self._consumed = state.get("consumed", usual)
        self._trained_from = state.get("trained_from", self._version)
        self._cut_by = state.get("step_sizes", "even")
        self._current = None

    def next_batch(self) -> TrainBatch:
        """Return this rank's solutions of the next optimizer step, possibly none while other ranks have some.

        Raises:
            EmptyRoundError: ``max_empty_rounds`` rounds in a row kept nothing on any rank.
        """
        if self._current is None and self._position < self._n_steps:
            self._open(self._round, self._cursor, self._version)
        empty = 0
        while not self._has_next():
            if empty == self._max_empty_rounds:
                raise EmptyRoundError(
                    f"{empty} rounds in a row left nothing to train on (the last was round {self._round}): all solutions "
                    "of a group are right, all are wrong, have the same rewards or evidence, or the keep rule drops them. "
                    "Look at rollout/accuracy, reward/* and evidence/*, then change the problems' difficulty, "
                    "data.group_size, data.rewards, data.evidence or data.keep"
                )
            self._open(self._round + 1, self._cursor + self._consumed, None)
            empty += 1
        assert self._current is not None
        sequences = tuple(training_sequence(s) for s in self._current.solutions(self._position))
        self._position += 1
        return TrainBatch(sequences, self._current.temperature, self._round, self._version)

    def _has_next(self) -> bool:
        return self._position < self._n_steps

    def _open(self, index: int, cursor: int, version: int | None) -> None:
        """Make a round and turn to it, with the arguments of ``make_round``.

        The state changes only when the round is complete: an interruption before leaves one that can be resumed.
        """
        round_ = self._make_round(index, cursor, version)
        cut = self._cut(round_.policy_version == version)
        cut.add(self._gather_indices(round_.kept_indices))
        cut.end()
        local = dict(zip(round_.kept_indices, round_.kept, strict=True))
        current = CutRound(round_.policy_version, round_.temperature, cut, local)
        began = round_.policy_version if round_.trained_from is None else round_.trained_from
        consumed = self._problems_per_round if round_.consumed is None else round_.consumed
        self._turn_to(current, index, cursor, version, began, consumed)

    def _cut(self, resumed: bool) -> StepCut[int]:
        return CUTS[self._cut_by if resumed else self._step_sizes](self._solutions_per_step)

    def _turn_to(
        self, current: CutRound, index: int, cursor: int, version: int | None, trained_from: int, consumed: int
    ) -> None:
        """Make a round the current one, at its first batch, or where it was if it is the stored one of a resumed run.

        Sampled by another version than ``version`` it is not: it was lost and sampled again.
        """
        if current.version != version:
            self._position, self._trained_from, self._cut_by = 0, trained_from, self._step_sizes
        self._current, self._n_steps, self._version = current, len(current.cut.steps), current.version
        self._round, self._cursor, self._consumed = index, cursor, consumed
