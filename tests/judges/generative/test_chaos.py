"""A thousand judgements over a real endpoint on loopback, three requests in ten of which go wrong in every known way."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_tpgrpo.chat.base import ChatError, ChatReply, ChatRequest, Fault
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.judges.generative.judge import GenerativeJudge
from lit_tpgrpo.judges.generative.limits import RequestLimits
from lit_tpgrpo.records import Outcome, StepLabel
from tests.engines import misbehaving_server as bad
from tests.judges.generative.chains import PARAGRAPHS, make_case, verdict

C, I, M, U = StepLabel.CORRECT, StepLabel.INCORRECT, StepLabel.MATCHED, StepLabel.UNMATCHED  # noqa: E741
EXPECTED = {Outcome.CORRECT: [C, C, I, I, C, C, C, C], Outcome.INCORRECT: [U, U, U, U, U, M, M, U]}
REST = {Outcome.CORRECT: (C, C), Outcome.INCORRECT: (U, M)}
CONTENT_FAULTS = ("prose", "truncated", "schema", "bounds", "overlap", "foreign", "empty")
SHARE = 0.3
TRANSPORT_FAULTS = (
    Fault.CONNECTION,
    Fault.TIMEOUT,
    Fault.TIMEOUT,
    Fault.CONNECTION,
    Fault.SERVER,
    Fault.MALFORMED,
    Fault.MALFORMED,
    Fault.RATE_LIMIT,
    Fault.RATE_LIMIT,
    Fault.SERVER,
    Fault.SERVER,
)
"""What the client has to make of each of ``bad.PASSING``."""

Question = tuple[str, str, int]
"""Name of the schema, prompt and seed: one body, sent again after a fault."""
Ends = defaultdict[Question, list[Fault | str]]
"""How the requests of each question ended, in order: with a fault or with a text."""
NEVER_S = 3600.0
"""Limits that no machine is slow enough to reach."""


class Witness(OpenAIChat):
    """Notes how each request ended, and gives one up when the server says that it will never answer it: a limit in seconds
    would also end requests that are only slow."""

    def __init__(self, base_url: str, server: ChaosEndpoint) -> None:
        super().__init__("judge", base_url, timeout_s=NEVER_S, connect_timeout_s=NEVER_S)
        self.ends: Ends = defaultdict(list)
        self._server = server

    async def complete(self, request: ChatRequest) -> ChatReply:
        if request.schema is None:  # the probe
            return await super().complete(request)
        question = (request.schema_name, request.content, request.seed)
        ends, loop = self.ends[question], asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                self._server.give_up[question] = lambda: loop.call_soon_threadsafe(limit.reschedule, 0.0)
                reply = await super().complete(request)
        except TimeoutError:
            ends.append(Fault.TIMEOUT)
            raise ChatError(Fault.TIMEOUT, "given up") from None
        except ChatError as error:
            ends.append(error.fault)
            raise
        ends.append(reply.text)
        return reply


class ChaosEndpoint:
    """Answers right, or (``SHARE`` of all requests) wrong in one of the ways of a misbehaving server or model."""

    def __init__(self, seed: int, faults: tuple[Any, ...] = (*bad.PASSING, *CONTENT_FAULTS)) -> None:
        self.seed = seed
        self.faults = faults
        self.happened: Counter[str] = Counter()
        self.ends: Ends = defaultdict(list)
        self.give_up: dict[Question, Callable[[], object]] = {}
        self.last = json.dumps({"id": "0000", "wrong": False})

    def __call__(self, body: dict[str, Any], number: int) -> bad.Behaviour:
        prompt = body["messages"][0]["content"]
        if "response_format" not in body:  # the probe
            self.happened["probes"] += 1
            return bad.ok("OK")
        name = body["response_format"]["json_schema"]["name"]
        question = (name, prompt, body["seed"])
        ends = self.ends[question]
        rng = random.Random(f"{self.seed}:{question}:{len(ends)}")
        right = json.dumps(verdict(name, prompt))
        foreign, self.last = self.last, right
        if rng.random() >= SHARE:
            self.happened["right"] += 1
            ends.append(right)
            return bad.ok(right)
        fault = rng.choice(self.faults)
        if isinstance(fault, bad.Behaviour):
            self.happened["transport"] += 1
            ends.append(TRANSPORT_FAULTS[bad.PASSING.index(fault)])
            if ends[-1] is Fault.TIMEOUT:
                self.give_up[question]()
            return fault
        self.happened["content"] += 1
        ends.append(self.spoilt(fault, name, right, foreign))
        return bad.ok(ends[-1])

    def spoilt(self, fault: str, name: str, right: str, foreign: str) -> str:
        reply = json.loads(right)
        if fault == "truncated":
            return right[: len(right) // 2]
        if fault == "schema":
            return json.dumps({"id": reply["id"], "verdict": "all good"})
        if fault in ("bounds", "overlap") and name != "step":
            key = next(k for k in reply if k != "id")
            spoil = {
                "steps": [[1, 3], [3, 90000]] if fault == "bounds" else [[1, 3], [2, 8]],
                "reflections": [90000],
                "matched": [90000],
                "sources": [{"reflection": 90000, "intervals": []}],
                "judgements": [{"step": 90000, "wrong": True}],
            }
            return json.dumps(reply | {key: spoil[key]})
        if fault == "foreign":  # the question before may have been the same one, asked again: then it would be right
            return foreign if foreign != right else json.dumps(reply | {"id": "0000"})
        return "" if fault == "empty" else "I think that all of these steps look fine."


def chaos_case(i: int):
    outcome = Outcome.CORRECT if i % 2 else Outcome.INCORRECT
    before = tuple(f"Thinking about case {i}, line {k}." for k in range(i % 5))
    behind = tuple(f"Looking back at case {i}, line {k}." for k in range(i % 3))
    case = make_case((*before, *PARAGRAPHS, *behind), outcome=outcome, problem=f"Problem {i}")
    other, answer = REST[outcome]
    return case, [other] * len(before) + EXPECTED[outcome] + [other] * len(behind) + [answer]


def run_chaos(n: int, endpoint: ChaosEndpoint, tmp_path: Path, attempts: int = 6):
    """Judge n solutions through the endpoint: verdicts by index, metrics, requests that the server saw.

    However slow the machine is, both sides have the same to say of each request: what was sent, and how it ended.
    """
    with bad.MisbehavingServer(endpoint) as server:
        witness = Witness(server.base_url, endpoint)
        judge = GenerativeJudge(
            witness,
            store=str(tmp_path / "replies"),
            limits=RequestLimits(concurrency=64, attempts=attempts, backoff_s=0.001, patience_s=NEVER_S),
        )
        cases = [chaos_case(i) for i in range(n)]
        seen: Counter[int] = Counter()
        found = {}
        for index, given in judge.judge([case for case, _ in cases]):
            seen[index] += 1
            found[index] = given
        server.wait_for(lambda: server.connections == 0)
        assert witness.ends == endpoint.ends
        return cases, seen, found, judge.metrics(), server.requests


def check_counts(n: int, cases, seen, found, metrics, requests: int, endpoint: ChaosEndpoint) -> None:
    """Every solution once, right or abstained, and the two sides agree on what happened."""
    assert seen == dict.fromkeys(range(n), 1)
    labelled = 0
    for i, (case, expected) in enumerate(cases):
        assert len(found[i].labels) == len(found[i].steps)
        assert found[i].steps[-1].token_end == len(case.solution.text)
        if not found[i].abstained:
            labelled += 1
            assert list(found[i].labels) == expected, i
    reasons = sum(
        value for name, value in metrics.items() if name.startswith("abstained_") and name != "abstained_share"
    )
    assert metrics["cases"] == n == labelled + metrics["abstained"]
    assert metrics["abstained"] == reasons
    faults = sum(metrics[f"faults_{fault.value}"] for fault in Fault)
    right, transport, content = (endpoint.happened[k] for k in ("right", "transport", "content"))
    assert right + transport + content + endpoint.happened["probes"] == requests
    assert metrics["requests"] == right + transport + content
    assert faults == transport
    assert metrics["replies_invalid"] == content
    assert metrics["retries"] + metrics["abstained_faults"] <= faults


@pytest.mark.slow
def test_a_thousand_judgements_at_thirty_percent_faults(tmp_path):
    endpoint = ChaosEndpoint(seed=0)
    cases, seen, found, metrics, requests = run_chaos(1000, endpoint, tmp_path)
    check_counts(1000, cases, seen, found, metrics, requests, endpoint)
    assert endpoint.happened["transport"] > 500
    assert endpoint.happened["content"] > 300
    # A question is lost by three invalid replies (0.12 ** 3) or six faults in a row (0.18 ** 6): a handful of solutions.
    assert 0 < metrics["abstained"] < 30
    abstained = metrics["abstained"]
    # Run again on the same store, nothing that was answered is asked again.
    again = ChaosEndpoint(seed=1, faults=("prose",))
    _, _, found, metrics, _ = run_chaos(1000, again, tmp_path)
    assert metrics["requests_stored"] > 2900
    assert metrics["requests"] < 30
    assert sum(v.abstained for v in found.values()) <= abstained


@pytest.mark.slow
def test_a_small_chaos_in_which_requests_have_a_single_attempt(tmp_path):
    endpoint = ChaosEndpoint(seed=3, faults=(bad.REFUSE, bad.CUT, bad.HTML_200, bad.server_error(500), *CONTENT_FAULTS))
    result = run_chaos(60, endpoint, tmp_path, attempts=1)
    check_counts(60, *result, endpoint)
    assert result[3]["abstained_faults"] > 2
