"""Rounds cut into optimizer steps, with a position that survives a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lit_tpgrpo.errors import EmptyRoundError
from lit_tpgrpo.records import CreditedSolution, Round, TrainBatch
from lit_tpgrpo.rollout.training_sequences import even_steps, training_sequence

MakeRound = Callable[[int, int, int | None], Round]


class TrainBatchStream:
    """Gives one ``TrainBatch`` after another and makes the next round exactly when the one in hand is used up.

    Args:
        make_round: called with (round index, problems consumed before it, policy version that must have sampled it, or
            None for the current policy's); gives this process's part of the round.
        solutions_per_step: kept solutions of one optimizer step over all processes.
        problems_per_round: problems that a round consumes over all processes.
        max_empty_rounds: rounds in a row with nothing to train on before ``EmptyRoundError``.
        everywhere: the places in the round of all processes' kept solutions, given this one's. Steps are cut from all of
            them, so that a step holds the same solutions on any number of processes.
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
        self._everywhere = gather_indices
        self._round, self._position, self._n_steps, self._cursor, self._version = -1, 0, 0, 0, 0
        self._steps: list[tuple[CreditedSolution, ...]] | None = None
        self._temperature = 1.0

    def state_dict(self, version: int) -> dict[str, int]:
        """Plain numbers: the round in hand, the batches of it that were trained on, its batches in all, problems
        consumed before it, and the policy version that sampled it.

        Args:
            version: optimizer steps taken; a batch that was handed out and not trained on will be handed out again.
        """
        return {
            "round": self._round,
            "position": max(0, min(self._position, version - self._version)),
            "n_steps": self._n_steps,
            "cursor": self._cursor,
            "version": self._version,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._round, self._position, self._n_steps = state["round"], state["position"], state["n_steps"]
        self._cursor, self._version = state["cursor"], state["version"]
        self._steps = None

    def next_batch(self) -> TrainBatch:
        """This process's solutions of the next optimizer step, which may be none while others have some.

        Raises:
            EmptyRoundError: ``max_empty_rounds`` rounds in a row kept nothing on any process.
        """
        if self._steps is None and self._position < self._n_steps:
            made = self._make_round(self._round, self._cursor, self._version)
            # Another version: what was sampled is lost, and this is a new round in its place.
            self._load(made, self._round, self._cursor, self._position if made.policy_version == self._version else 0)
        empty = 0
        while self._position >= self._n_steps:
            if empty == self._max_empty_rounds:
                raise EmptyRoundError(
                    f"{empty} rounds in a row left nothing to train on (the last was round {self._round}): all solutions "
                    "are right, all are wrong, or the keep rule drops them. Look at rollout/accuracy, then change the "
                    "problems' difficulty, data.group_size or data.keep"
                )
            cursor = self._cursor + (self._problems_per_round if self._round >= 0 else 0)
            # Only a finished round takes the place of the last one: an interruption in between leaves a state to resume.
            self._load(self._make_round(self._round + 1, cursor, None), self._round + 1, cursor, 0)
            empty += 1
        assert self._steps is not None
        solutions = self._steps[self._position]
        self._position += 1
        sequences = tuple(training_sequence(s) for s in solutions)
        return TrainBatch(sequences, self._temperature, self._round, self._version)

    def _load(self, made: Round, index: int, cursor: int, position: int) -> None:
        own = dict(zip(made.kept_indices, made.kept, strict=True))
        steps = even_steps(self._everywhere(made.kept_indices), self._solutions_per_step)
        self._n_steps = len(steps)
        self._steps = [tuple(own[at] for at in places if at in own) for places in steps]
        self._version, self._temperature = made.policy_version, made.temperature
        self._round, self._cursor, self._position = index, cursor, position
