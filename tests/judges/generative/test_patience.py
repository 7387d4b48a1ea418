"""How long a judge that does not answer is waited for, in virtual time and against real servers."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lit_tpgrpo.chat.base import ChatError, ChatReply, ChatRequest, Fault
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.errors import JudgeDownError
from lit_tpgrpo.judges.generative.counters import Counters
from lit_tpgrpo.judges.generative.judge import GenerativeJudge
from lit_tpgrpo.judges.generative.limits import BudgetTracker, RequestLimits, RoundBudget
from lit_tpgrpo.judges.generative.sending import RequestSender, UnansweredError
from tests.engines import misbehaving_server as bad
from tests.judges.generative.chains import make_case

PATIENCE = 300.0


class _Skipping(selectors.DefaultSelector):
    """Passes the time until the next timer in no time."""

    now = 0.0

    def select(self, timeout: float | None = None):
        assert timeout is not None, "nothing will ever happen any more"
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


class Chat:
    """Answers what a function makes of the request's number; a probe by another one, at once where there is none."""

    def __init__(
        self, answer: Callable[[int], Awaitable[str]], probe: Callable[[], Awaitable[str]] | None = None
    ) -> None:
        self.answer, self.probe = answer, probe
        self.asked = 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        if request.shared.startswith("Reply with OK"):
            return ChatReply(await self.probe() if self.probe else "OK")
        self.asked += 1
        return ChatReply(await self.answer(int(request.question)))


def hang(limit_s: float = 1e5):
    """No answer for as long as the client waits."""

    async def answer(number: int = 0) -> str:
        await asyncio.sleep(limit_s)
        raise ChatError(Fault.TIMEOUT, "no answer")

    return answer


def fail(fault: Fault, after_s: float = 0.0, retry_after: float | None = None):
    async def answer(number: int = 0) -> str:
        await asyncio.sleep(after_s)
        raise ChatError(fault, "it failed", retry_after)

    return answer


def reply(after_s: float):
    async def answer(number: int) -> str:
        await asyncio.sleep(after_s)
        return "fine"

    return answer


def ends(chat: Chat, questions: int, **limits) -> tuple[Counter[str], float]:
    """How the questions end that a round puts to the judge as fast as its limits allow, and the seconds that it takes."""

    async def main() -> tuple[Counter[str], float]:
        settings = RequestLimits(**({"patience_s": PATIENCE} | limits))
        sender = RequestSender(chat, settings, BudgetTracker(RoundBudget()), Counters())  # pyright: ignore[reportArgumentType]
        results, numbers = Counter[str](), iter(range(questions))

        async def work() -> None:
            for number in numbers:
                try:
                    found = await sender.reply(ChatRequest("", str(number)))
                    results["oversized" if found.oversized else "answered"] += 1
                except UnansweredError as unanswered:
                    results[unanswered.reason] += 1
                except JudgeDownError:
                    results["down"] += 1

        async with sender.health.watchdog():
            await asyncio.gather(*(work() for _ in range(settings.concurrency)))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return results, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(main())


@pytest.mark.parametrize(
    ("answer", "probe"),
    [
        (hang(), hang()),
        (hang(4 * PATIENCE / 3), hang()),  # as reported: a request's limit over the patience, six attempts
        (hang(PATIENCE / 50), hang(PATIENCE / 50)),
        (fail(Fault.CONNECTION), fail(Fault.CONNECTION)),
        (fail(Fault.SERVER, 7.0), fail(Fault.SERVER, 7.0)),
        (fail(Fault.RATE_LIMIT, retry_after=99_999.0), fail(Fault.RATE_LIMIT, retry_after=99_999.0)),
        (fail(Fault.OVERSIZED, 40.0), fail(Fault.OVERSIZED, 40.0)),
    ],
)
@pytest.mark.parametrize(("questions", "concurrency"), [(1, 1), (1000, 64), (300, 1)])
def test_a_judge_that_answers_nothing_ends_the_round_after_one_patience(
    answer, probe, questions: int, concurrency: int
):
    chat = Chat(answer, probe)
    results, seconds = ends(chat, questions, concurrency=concurrency)
    assert results["answered"] == 0
    assert results["down"] > 0 or questions == 1  # a single answer that is too large ends its question at once
    assert sum(results.values()) == questions
    assert seconds <= PATIENCE + 1e-6


def test_it_is_waited_for_as_long_as_that():
    results, seconds = ends(Chat(hang(), hang()), 5)
    assert results == {"down": 5}
    assert seconds == pytest.approx(PATIENCE)
    results, seconds = ends(Chat(reply(PATIENCE - 1), hang()), 4, concurrency=1)
    assert results == {"answered": 4}
    assert seconds == pytest.approx(4 * (PATIENCE - 1))


def test_one_request_that_is_never_answered_does_not_pass_for_a_judge_that_is_down():
    """It is given up when a probe has been answered and its own time is over; nobody else notices."""

    async def poisoned(number: int) -> str:
        if number == 3:
            await asyncio.sleep(1e5)
        await asyncio.sleep(1.0)
        return "fine"

    results, seconds = ends(Chat(poisoned), 50, concurrency=8)
    assert results == {"answered": 49, "faults": 1}
    assert seconds == pytest.approx(7.0 + 1.75 * PATIENCE)


def test_a_judge_that_answers_probes_alone_costs_less_than_three_times_the_patience():
    for answer in (hang(), hang(5.0), fail(Fault.SERVER), fail(Fault.RATE_LIMIT, retry_after=99_999.0)):
        results, seconds = ends(Chat(answer), 5000, concurrency=16)
        assert results["answered"] == 0
        assert results["down"] > 4500
        assert seconds <= 2.75 * PATIENCE + 1e-6


def test_after_an_outage_within_the_patience_everything_is_answered():
    """Connections are refused for 299 of 300 s, and the answers after that take 200 s: longer than what is left."""

    async def back(number: int = 0) -> str:
        if asyncio.get_running_loop().time() < 0.9 * PATIENCE:
            raise ChatError(Fault.CONNECTION, "refused")
        await asyncio.sleep(200.0 if number >= 0 else 0.0)
        return "fine"

    results, _ = ends(Chat(back, lambda: back(-1)), 100)
    assert results == {"answered": 100}


def test_time_in_which_nothing_is_asked_is_no_silence():
    """One request in ten minutes, and a patience of five."""
    results, seconds = ends(Chat(reply(0.9 * PATIENCE), hang()), 4, requests_per_minute=0.1)
    assert results == {"answered": 4}
    assert seconds > 3 * 600


def test_time_in_which_no_case_is_there_is_no_outage():
    """An hour of sampling between two cases, then connections are refused for two of five minutes."""

    async def main() -> None:
        now = asyncio.get_running_loop().time

        async def answer(number: int = 0) -> str:
            if number == 1 and now() < 3600.0 + 0.4 * PATIENCE:
                raise ChatError(Fault.CONNECTION, "refused")
            return "fine"

        chat = Chat(answer, lambda: answer(1))
        limits = RequestLimits(patience_s=PATIENCE)
        sender = RequestSender(chat, limits, BudgetTracker(RoundBudget()), Counters())  # pyright: ignore[reportArgumentType]
        async with sender.health.watchdog():
            for number in range(2):
                with sender.health.at_work():
                    assert not (await sender.reply(ChatRequest("", str(number)))).oversized
                await asyncio.sleep(3600.0)

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(main())


def test_a_model_in_this_process_is_waited_for():
    chat = Chat(reply(10 * PATIENCE), hang())
    chat.in_process = True  # pyright: ignore[reportAttributeAccessIssue]
    assert ends(chat, 3)[0] == {"answered": 3}


@pytest.mark.parametrize(
    "behaviour", [bad.HANG, bad.TRICKLE, bad.rate_limit(seconds=99_999), bad.server_error(503, seconds=99_999)]
)
def test_over_http_a_judge_that_answers_nothing_is_given_up(behaviour: bad.Behaviour):
    """Without the patience these would go on for an hour."""
    with bad.MisbehavingServer(lambda *_: behaviour) as server:
        chat = OpenAIChat("judge", server.base_url, timeout_s=3600)
        judge = GenerativeJudge(chat, store=None, limits=RequestLimits(patience_s=0.5, concurrency=4))
        verdicts = dict(judge.judge([make_case(problem=str(i)) for i in range(40)]))
        server.wait_for(lambda: server.connections == 0)
    assert all(verdict.abstained and "answered nothing" in verdict.note for verdict in verdicts.values())
    assert judge.metrics()["abstained_down"] == 40


def test_answers_that_are_too_large_leave_markers_behind_and_are_not_asked_for_again(tmp_path: Path):
    turns = itertools.cycle([bad.ok("x" * 250_000), bad.FLOOD, bad.Behaviour(payload=b" " * 2_000_000)])
    limits = RequestLimits(patience_s=0, concurrency=1)
    case = make_case()
    with bad.MisbehavingServer(lambda *_: next(turns)) as server:
        for asked, stored in ((6, 0), (6, 6)):
            chat = OpenAIChat("judge", server.base_url, max_answer_bytes=1_000_000)
            judge = GenerativeJudge(chat, store=tmp_path, limits=limits)
            ((_, verdict),) = judge.judge([case])
            metrics = judge.metrics()
            assert verdict.abstained
            assert "too large to be read" in verdict.note
            assert server.requests == asked
            assert (metrics["replies_oversized"], metrics["replies_invalid"], metrics["requests_stored"]) == (
                6,
                6,
                stored,
            )
            assert metrics["faults_oversized"] == 6 - stored
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 6 * 300
