"""Rollout servers that are killed, frozen and started again while they sample: real processes, without a model."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_tpgrpo.engines.base import Completion, SamplingParams
from lit_tpgrpo.engines.vllm.answers import parse_completions
from lit_tpgrpo.engines.vllm.client import EventLoopThread, ServerClient
from lit_tpgrpo.engines.vllm.pool import MAX_FAILURES, ServerPool
from lit_tpgrpo.engines.vllm.sampling import repeat_greedy, request_settings
from lit_tpgrpo.engines.vllm.servers import PoolLimits, Server
from lit_tpgrpo.errors import EngineError
from lit_tpgrpo.records import StopReason
from tests.engines.rollout_stand_in import completions

KEY = "a-key-of-the-tests-0123456789"
VERSION = "step 3, update 1 of run 0"
PROGRAM = Path(__file__).with_name("rollout_stand_in.py")
N = 2
# A server that is merely slow may be taken for a lost one on a busy machine: that costs time and changes nothing.
LIMITS = PoolLimits(concurrency=6, silence_s=2.0, probe_s=0.05, absence_s=3600.0)


class StandIn:
    """One server in a process of its own."""

    def __init__(self, key: str = KEY, model: str = "a-model") -> None:
        self.port, self.key, self.model = 0, key, model
        self.start()

    def start(self, version: str = VERSION, **told: Any) -> StandIn:
        command = [sys.executable, "-S", str(PROGRAM), str(self.port), self.key, self.model]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.set(version=version, **told)
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, **told: Any) -> None:
        request = urllib.request.Request(f"{self.url}/test", json.dumps(told).encode())
        urllib.request.urlopen(request).close()

    def state(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/test") as answer:
            return json.load(answer)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.thaw()
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def stand_ins() -> Iterator[list[StandIn]]:
    started = [StandIn() for _ in range(3)]
    yield started
    for server in started:
        server.close()


@pytest.fixture
def loop() -> Iterator[EventLoopThread]:
    thread = EventLoopThread()
    yield thread
    thread.close()


PROMPTS = [[index, index + 1] for index in range(24)]
BODIES = [
    {"token_ids": p, "sampling_params": request_settings(SamplingParams(8), N, 100 + i, [0])}
    for i, p in enumerate(PROMPTS)
]


def expected(index: int) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(tuple(ids), tuple(logprobs)) for ids, logprobs in completions(PROMPTS[index], 100 + index, N)]


class Round:
    """One ``generate`` over stand-ins; ``rest`` checks that each prompt's answer came once, with its very numbers."""

    def __init__(self, loop: EventLoopThread, stand_ins: list[StandIn], limits: PoolLimits = LIMITS) -> None:
        self.loop, self.by_url = loop, {s.url: s for s in stand_ins}
        self.servers = [
            Server(ServerClient(s.url, KEY, "VLLM_API_KEY", loop, 60.0, limits.silence_s)) for s in stand_ins
        ]
        self.admitted: list[str] = []
        self.checks = 0
        self.on_wait = lambda: None
        self.pool = ServerPool(self.servers, loop, limits, self.admit, lambda: self.on_wait())
        self.begin()

    def begin(self) -> None:
        self.done: dict[int, Any] = {}
        self.answers = self.pool.generate(BODIES, VERSION, lambda client, a: parse_completions(client, a, VERSION))

    def admit(self, server: Server) -> None:
        self.admitted.append(server.url)
        self.by_url[server.url].set(version=VERSION)

    def take(self, count: int) -> None:
        for _ in range(count):
            index, result = next(self.answers)
            assert index not in self.done
            self.done[index] = [(tuple(c.token_ids), tuple(c.logprobs)) for c in result]

    def rest(self) -> None:
        self.take(len(BODIES) - len(self.done))
        assert list(self.answers) == []
        assert self.done == {index: expected(index) for index in range(len(BODIES))}


def test_prompts_are_spread_and_answered(loop, stand_ins):
    Round(loop, stand_ins).rest()
    assert sum(s.state()["answered"] for s in stand_ins) == len(BODIES)
    assert all(s.state()["answered"] >= 2 for s in stand_ins)


def test_a_server_that_is_killed_in_mid_round_loses_nothing(loop, stand_ins, caplog):
    stand_ins[0].set(hold=True)
    work = Round(loop, stand_ins)
    work.take(22)  # the first one holds its two
    assert stand_ins[0].state()["waiting"] == 2
    stand_ins[0].kill()
    work.rest()
    assert [
        r.message
        for r in caplog.records
        if "is lost" in r.message and "its 2 prompts go to the other servers" in r.message
    ]


def test_a_server_that_freezes_is_left_and_its_late_answers_are_ignored(loop, stand_ins):
    first, second, third = stand_ins
    first.set(hold=True)
    second.set(hold=True)
    work = Round(loop, stand_ins)
    work.take(20)  # the first two hold two each
    first.freeze()
    work.take(2)  # what the frozen one held, for nobody else had it
    third.kill()
    first.thaw()
    first.set(hold=False)  # it answers now, too late
    second.set(hold=False)
    work.rest()
    second.kill()
    work.begin()  # only the one that was frozen is left
    work.rest()
    assert work.admitted == []  # it had the weights all the time
    assert first.state()["aborted"] >= 2


@pytest.mark.parametrize("info", [[], {}, 5, "gone"])
def test_a_server_that_answers_like_another_program_is_left(loop, stand_ins, info, caplog):
    """Its watch went on no more: a prompt that it held was waited for without end."""
    stand_ins[0].set(hold=True, info=info)
    Round(loop, stand_ins).rest()
    assert any("answered without weight_version: does another program answer there?" in m for m in caplog.messages)


def test_a_server_that_is_restarted_in_mid_round_gets_the_weights_and_works(loop, stand_ins, caplog):
    caplog.set_level(logging.WARNING)
    first, second, third = stand_ins
    for server in stand_ins:
        server.set(hold=True)
    work = Round(loop, stand_ins)
    third.kill()
    second.kill()
    first.kill()
    first.start(version="default")
    work.rest()
    assert work.admitted == [first.url]
    assert f"the vLLM server {first.url} is back and is used again" in caplog.messages
    assert "no vLLM server is available: waiting up to 3600 s for one" in caplog.messages


def test_one_that_restarts_between_two_looks_is_noticed_by_what_it_answers(loop, stand_ins):
    stand_ins[1].set(version="default")  # as after a restart that nobody saw
    work = Round(loop, stand_ins)
    work.rest()
    stand_ins[0].kill()
    stand_ins[2].kill()
    work.begin()
    work.rest()
    assert set(work.admitted) == {stand_ins[1].url}


def test_a_server_that_cannot_be_given_the_weights_is_not_used(loop, stand_ins, caplog):
    work = Round(loop, stand_ins)

    def admit(server: Server) -> None:
        raise EngineError("it serves another model")

    work.pool = replace(work.pool, admit=admit)
    work.begin()
    stand_ins[1].kill()
    stand_ins[1].start(version="default")
    work.rest()
    before = stand_ins[1].state()["answered"]  # not taken, for they said which weights they were of
    work.begin()
    work.rest()
    assert stand_ins[1].state()["answered"] == before
    assert f"the vLLM server {stand_ins[1].url} answers and is not used: it serves another model" in caplog.messages


def test_samples_are_as_many_as_were_asked_for():
    a, b, c = (Completion((i,), (0.0,), StopReason.EOS) for i in range(3))
    assert repeat_greedy([a, b], 2) == (a, b)
    assert repeat_greedy([a], 3) == (a, a, a)  # greedy
    with pytest.raises(EngineError, match="returned 3 samples of a prompt, expected 8"):
        repeat_greedy([a, b, c], 8)


def test_without_any_server_the_work_ends_with_one_line(loop, stand_ins):
    for server in stand_ins:
        server.kill()
    limits = PoolLimits(silence_s=2.0, probe_s=0.05, absence_s=0.3)
    with pytest.raises(EngineError) as ending:
        Round(loop, stand_ins, limits).rest()
    message = str(ending.value)
    assert message.startswith("no vLLM server was available for 0.3 s (http://127.0.0.1:")
    assert message.count("did not answer") == 3
    assert message.endswith("start a server, then resume with --ckpt_path")
    assert "\n" not in message


def test_what_ends_the_wait_ends_the_requests(loop, stand_ins):
    for server in stand_ins:
        server.set(hold=True)
    work = Round(loop, stand_ins)
    asked = []

    def stop() -> None:
        asked.append(sum(s.state()["waiting"] for s in stand_ins))
        if asked[-1] == LIMITS.concurrency:
            raise KeyboardInterrupt

    work.on_wait = stop
    with pytest.raises(KeyboardInterrupt):
        work.rest()
    assert sum(s.state()["aborted"] for s in stand_ins) == LIMITS.concurrency


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_a_request_that_a_server_gives_up_goes_elsewhere(loop, stand_ins, finish):
    stand_ins[0].set(finish=finish)
    stand_ins[1].set(finish=finish)
    work = Round(loop, stand_ins)
    answers = iter(work.answers)
    index, result = next(answers)
    assert [(tuple(c.token_ids), tuple(c.logprobs)) for c in result] == expected(index)
    answers.close()


def test_a_prompt_that_all_servers_fail_at_ends_the_work(loop, stand_ins):
    for server in stand_ins:
        server.set(status=500)
    with pytest.raises(EngineError, match=rf"prompt \d+ failed {MAX_FAILURES + 1} times; the last time: .*\(500\)"):
        Round(loop, stand_ins).rest()


def test_a_request_that_is_wrong_is_not_sent_again(loop, stand_ins):
    for server in stand_ins:
        server.set(status=400)
    with pytest.raises(
        EngineError, match=r"^the vLLM server \S+ refused inference/v1/generate \(400\): .*as it was told"
    ):
        Round(loop, stand_ins).rest()


def test_weights_of_another_run_are_an_error(loop, stand_ins):
    # Between the look at the server and its answer: looks are rare here.
    work = Round(loop, stand_ins[:1], PoolLimits(concurrency=1, probe_s=3600.0))
    work.take(1)
    stand_ins[0].set(version="step 3, update 1 of run 1")
    said = r"sampled with weights of \['step 3, update 1 of run 1'\], expected 'step 3, update 1 of run 0'"
    with pytest.raises(EngineError, match=said):
        work.rest()
    stand_ins[1].set(version="step 3, update 1 of run 1", hold=True)
    with pytest.raises(EngineError, match=r"has weights of 'step 3, update 1 of run 1', expected"):
        Round(loop, stand_ins[1:2]).rest()


def test_a_server_that_missed_an_update_gets_it(loop, stand_ins):
    stand_ins[0].set(version="step 2, update 0 of run 0", hold=True)
    stand_ins[1].kill()
    stand_ins[2].kill()
    work = Round(loop, stand_ins)
    work.on_wait = lambda: stand_ins[0].set(hold=not work.admitted)
    work.rest()
    assert work.admitted == [stand_ins[0].url]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_to_servers_the_completions_are_those_of_a_quiet_round(loop, stand_ins, seed):
    """Kills, restarts, freezes and thaws at random; one server at least is there at the end."""
    choose = random.Random(seed)
    frozen: set[int] = set()
    dead: set[int] = set()
    work = Round(loop, stand_ins, PoolLimits(concurrency=6, silence_s=0.5, probe_s=0.05, absence_s=3600.0))
    for _ in range(3):
        while len(work.done) < len(BODIES):
            i = choose.randrange(3)
            if i in frozen:
                stand_ins[i].thaw()
                frozen.remove(i)
            elif i in dead:
                stand_ins[i].start(version="default")
                dead.remove(i)
            elif len(frozen | dead) < 2:
                if choose.random() < 0.5:
                    stand_ins[i].freeze()
                    frozen.add(i)
                else:
                    stand_ins[i].kill()
                    dead.add(i)
            work.take(min(3, len(BODIES) - len(work.done)))
        work.rest()
        work.begin()
    for i in frozen:
        stand_ins[i].thaw()
