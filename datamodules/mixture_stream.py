"""The order in which the problems of a mixture are trained on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from lit_tpgrpo.datamodules.sources.mixture import mixture_of
from lit_tpgrpo.datamodules.stream import ProblemStream
from lit_tpgrpo.errors import InputError
from lit_tpgrpo.records import Problem
from lit_tpgrpo.seeds import derived_seed


class MixtureStream(ProblemStream):
    """Problems by position in an endless stream of cycles, each with the same number of problems of each source.

    Cycle c is a permutation of the sources' turns that depends on (seed, c) alone, and the n-th turn of a source is the n-th
    position of its own ``ProblemStream``: any position is reached without replaying the stream.

    Args:
        problems: of all sources.
        seed: of the order.
        turns: number of problems in a cycle, by the source's name.
    """

    def __init__(self, problems: Sequence[Problem], seed: int, turns: Mapping[str, int]) -> None:
        super().__init__(problems, seed)
        self._turns = dict(turns)
        self._streams = {
            name: ProblemStream([problem for problem in problems if problem.source == name], derived_seed(seed, name))
            for name in turns
        }
        for name, stream in self._streams.items():
            if not stream.problems:
                raise InputError(
                    f"the mixture's source {name} has no problem left; raise max_prompt_tokens, or leave the source out"
                )
        self._cycle: tuple[int, list[str]] = (-1, [])

    def draw(self, start: int, count: int, weights: Sequence[float]) -> list[Problem]:
        """Draw like ``ProblemStream``, with the weights of each source scaled so that their sum is the source's share."""
        sums = dict.fromkeys(self._turns, 0.0)
        for problem, weight in zip(self.problems, weights, strict=True):
            sums[problem.source] += weight
        return super().draw(
            start,
            count,
            [
                weight * self._turns[problem.source] / sums[problem.source] if weight else 0.0
                for problem, weight in zip(self.problems, weights, strict=True)
            ],
        )

    def _at(self, position: int) -> Problem:
        number, offset = divmod(position, sum(self._turns.values()))
        if self._cycle[0] != number:
            order = [name for name, count in self._turns.items() for _ in range(count)]
            random.Random(derived_seed(self.seed, "cycle", number)).shuffle(order)
            self._cycle = (number, order)
        name = self._cycle[1][offset]
        turn = number * self._turns[name] + self._cycle[1][:offset].count(name)
        return self._streams[name].take(turn, 1)[0]


def problem_stream(source: Any, problems: Sequence[Problem], seed: int, most: int | None = None) -> ProblemStream:
    """Return the order in which a source's problems are trained on: a mixture's by its weights, if it has any.

    Args:
        source: the source, of which ``problems`` are those whose prompts fit.
        problems: to put in order.
        seed: of the order.
        most: take the first so many problems only, in passes; of a mixture the first in its order, each once.
    """
    mixture = mixture_of(source)
    if mixture is None or mixture.turns is None:
        return ProblemStream(problems[:most], seed)
    stream = MixtureStream(problems, seed, mixture.turns)
    return stream if most is None else ProblemStream(list(dict.fromkeys(stream.take(0, most))), seed)
