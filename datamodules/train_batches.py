"""Schedules: when rounds are made and in which batches they are trained on, with a position that survives a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lit_tpgrpo.errors import EmptyRoundError
from lit_tpgrpo.records import CreditedSolution, Round, TrainBatch
from lit_tpgrpo.rollout.training_sequences import even_steps, training_sequence

MakeRound = Callable[[int, int, int | None], Round]


class BatchSchedule(Protocol):
    """Gives the training batches of a run, one per optimizer step.

    ``MathRolloutDataModule.build_schedule`` returns the one of a run. ``TrainBatchStream`` is the serial schedule;
    ``AheadBatchStream`` samples the next round meanwhile. Both train on a round only when it is whole.
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
    """

    def __init__(
        self,
        make_round: MakeRound,
        solutions_per_step: int,
        problems_per_round: int,
        max_empty_rounds: int,
        gather_indices: Callable[[Sequence[int]], list[int]],
    ) -> None:
        self._make_round = make_round
        self._solutions_per_step = solutions_per_step
        self._problems_per_round = problems_per_round
        self._max_empty_rounds = max_empty_rounds
        self._gather_indices = gather_indices
        self._round, self._position, self._n_steps, self._cursor, self._version = -1, 0, 0, 0, 0
        self._trained_from = 0  # policy version with which training on the current round began
        self._consumed = 0  # by the current round
        self._steps: list[tuple[CreditedSolution, ...]] | None = None
        self._temperature = 1.0

    def state_dict(self, version: int) -> dict[str, Any]:
        """Return the current round, its batches that were trained on, the number of its batches, the problems consumed before
        it and by it, and the policy versions that sampled it and with which training on it began.

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
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._round, self._position, self._n_steps = state["round"], state["position"], state["n_steps"]
        self._cursor, self._version = state["cursor"], state["version"]
        usual = self._problems_per_round if self._round >= 0 else 0
        # Checkpoints of earlier versions lack both.
        self._consumed = state.get("consumed", usual)
        self._trained_from = state.get("trained_from", self._version)
        self._steps = None

    def next_batch(self) -> TrainBatch:
        """Return this rank's solutions of the next optimizer step, possibly none while other ranks have some.

        Raises:
            EmptyRoundError: ``max_empty_rounds`` rounds in a row kept nothing on any rank.
        """
        if self._steps is None and self._position < self._n_steps:
            round_ = self._make_round(self._round, self._cursor, self._version)
            # Another version: the stored round was lost and sampled again, so its first batch comes next.
            same = round_.policy_version == self._version
            trained_from = self._trained_from if same else None
            self._load(round_, self._round, self._cursor, self._position if same else 0, trained_from)
        empty = 0
        while self._position >= self._n_steps:
            if empty == self._max_empty_rounds:
                raise EmptyRoundError(
                    f"{empty} rounds in a row left nothing to train on (the last was round {self._round}): all solutions "
                    "are right, all are wrong, have the same evidence, or the keep rule drops them. Look at rollout/accuracy "
                    "and evidence/*, then change the problems' difficulty, data.group_size, data.evidence or data.keep"
                )
            cursor = self._cursor + self._consumed
            # The state changes only when the round is complete: an interruption before leaves one that can be resumed.
            self._load(self._make_round(self._round + 1, cursor, None), self._round + 1, cursor, 0)
            empty += 1
        assert self._steps is not None
        solutions = self._steps[self._position]
        self._position += 1
        sequences = tuple(training_sequence(s) for s in solutions)
        return TrainBatch(sequences, self._temperature, self._round, self._version)

    def _load(self, round_: Round, index: int, cursor: int, position: int, trained_from: int | None = None) -> None:
        local = dict(zip(round_.kept_indices, round_.kept, strict=True))
        steps = even_steps(self._gather_indices(round_.kept_indices), self._solutions_per_step)
        self._n_steps = len(steps)
        self._steps = [tuple(local[i] for i in indices if i in local) for indices in steps]
        self._version, self._temperature = round_.policy_version, round_.temperature
        self._round, self._cursor, self._position = index, cursor, position
        known = (trained_from, round_.trained_from, round_.policy_version)
        self._trained_from = next(version for version in known if version is not None)
        self._consumed = self._problems_per_round if round_.consumed is None else round_.consumed
