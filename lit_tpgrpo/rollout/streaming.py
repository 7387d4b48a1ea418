"""Streamed rounds: solutions are verified and judged while others are still being sampled.

All solutions of a round come from one policy version, so what one of them gets does not depend on when the others are there.
The numbers are those of ``RoundMaker``, bit for bit if engine, verifier and judge give the same for the same input.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

from lit_tpgrpo.arrivals import Arrivals
from lit_tpgrpo.judges.base import Counts, judge_arriving, tally_of
from lit_tpgrpo.records import Outcome
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.judged_so_far import JudgedSoFar
from lit_tpgrpo.rollout.judging import DROPPED, Grouped, ask_judge, store_verdict
from lit_tpgrpo.rollout.round_file import RoundFile
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.sampling import bar
from lit_tpgrpo.rollout.token_records import Sampled
from lit_tpgrpo.rollout.verifying import VerifiedGroups, stored_verdicts, verdicts_of, verify_groups


@dataclass(frozen=True)
class StreamedRoundMaker(RoundMaker):
    """``RoundMaker`` that verifies and judges each sampled batch in threads of their own, while the engine goes on.

    Rewards, evidence and credit follow when all verdicts are there. A judge that is no ``StreamingJudge`` begins when the last
    solution is sampled. Verifier and judge are called from a thread that is not the main one, one call of each at a time, and
    the judge once.
    """

    def sample(
        self,
        index: int,
        assignments: Sequence[Assignment],
        file: RoundFile,
        policy_version: int,
        judged: JudgedSoFar | None = None,
    ) -> VerifiedGroups:
        """Sample this rank's problems, and meanwhile verify and judge their solutions; the arguments are those of ``make``.

        Args:
            index: of the round.
            assignments: this rank's problems.
            file: the round on disk.
            policy_version: optimizer steps behind the weights that sample.
            judged: gets what is verified and judged, for another thread that waits for it.

        Raises:
            Exception: what sampling, verifier or judge raised; verdicts that came before it are stored.
        """
        started = time.perf_counter()
        judged = JudgedSoFar() if judged is None else judged
        count = len(assignments) * self.group_size
        with _Followers(self, file, f"round {index}: judging", count, judged) as followers:
            _, new_tokens = self._sample(index, assignments, file, policy_version, followers.add)
            sampled = time.perf_counter()
        return replace(
            judged.of([a.group_index for a in assignments]),
            new_tokens=new_tokens,
            sampling_seconds=sampled - started,
            verifying_seconds=time.perf_counter() - (followers.began or sampled),
            # An evaluation may use the verifier before the round is judged.
            checked=Counts(self.verifier.metrics()),
            judged=tally_of(self.judge),
        )


class _StoppedError(Exception):
    """The judge gets no more cases: the round has failed elsewhere."""


class _Followers:
    """Two threads that follow the sampling: one verifies what is sampled, the other judges what is verified.

    Leaving the block waits for both. If the block or a thread raised, the verifier ends with its batch and the judge is told
    by an exception where it waits for the next case; one that is at work already ends at its next verdict. The first error of
    a thread is raised unless the block has its own.
    """

    def __init__(self, maker: StreamedRoundMaker, file: RoundFile, desc: str, count: int, judged: JudgedSoFar) -> None:
        self._judged = judged
        self.began: float | None = None
        self._maker, self._file, self._desc, self._count = maker, file, desc, count
        self._groups: Arrivals[Mapping[int, Sampled]] = Arrivals()
        self._solutions: Arrivals[Grouped] = Arrivals()
        self._error: BaseException | None = None
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._until_error, args=(work,), name=name, daemon=True)
            for work, name in ((self._verify, "round-verifier"), (self._judge, "round-judge"))
        ]

    def __enter__(self) -> _Followers:
        for thread in self._threads:
            thread.start()
        return self

    def add(self, groups: Mapping[int, Sampled]) -> None:
        """Have groups verified and judged that are in the store.

        Raises:
            Exception: what a thread raised meanwhile.
        """
        if self._error is not None:
            raise self._error
        if groups and self.began is None:
            self.began = time.perf_counter()
        self._groups.put(groups)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stop()
        self._groups.close()
        if getattr(error, "at_once", False):  # a second signal: the threads end with the process
            return
        try:
            for thread in self._threads:
                thread.join()
        except BaseException:  # likewise, while they are waited for
            self._stop()
            raise
        if error is None and self._error is not None:
            raise self._error

    def _stop(self) -> None:
        self._stopped = True
        self._groups.close()
        self._solutions.close()

    def _until_error(self, work: Callable[[], None]) -> None:
        """Run one thread's work; its error ends the other thread."""
        try:
            work()
        except BaseException as error:  # raised again where the round is made, in ``add`` or at the end of the block
            if self._error is None:
                self._error = error
            self._stop()

    def _verify(self) -> None:
        maker = self._maker
        with closing(self._solutions):
            for i, groups in enumerate(self._groups):
                if self._stopped:
                    return
                if not groups:
                    continue
                # Only what the store had, which comes first, has verdicts there.
                stored = stored_verdicts(groups, self._file) if i == 0 else {}
                done = {key: verdict for key, verdict in verdicts_of(stored).items() if verdict.note != DROPPED}
                verified = verify_groups(maker.verifier, maker.format, groups, stored, maker.sampling.stop)
                self._judged.add(verified, done)
                for g, group in verified.items():
                    for s in group:
                        if s.outcome is not Outcome.UNDECIDED and (g, s.solution.sample) not in done:
                            self._solutions.put((g, s))

    def _judge(self) -> None:
        maker, solutions = self._maker, self._to_judge()
        first = next(solutions, None)
        if first is None:
            return
        verdicts = ask_judge(maker.judge, partial(judge_arriving, maker.judge), itertools.chain((first,), solutions))
        with closing(verdicts):
            for (g, s), verdict in bar(verdicts, self._desc, self._count, maker.show_progress, "solution"):
                self._judged.add({}, {(g, s.solution.sample): store_verdict(self._file, g, s, verdict)})
                if self._stopped:
                    return
                maker.check()

    def _to_judge(self) -> Iterator[Grouped]:
        for grouped in self._solutions:
            if self._stopped:
                break
            yield grouped
        if self._stopped:
            raise _StoppedError
