"""Measure what a streamed round saves over a serial one: python -m benchmarks.schedules

The embedded policy samples with HFEngine in this process; a judge that takes ``--latency`` seconds for each reply, as a
language model behind an endpoint does, answers over HTTP on this machine. Both schedules make the same round, in alternation.
Printed are medians and extremes of the seconds of a round, and of its stages in a serial round: sampling, and verifying with
judging. Last lines: for each schedule a round's time over the longest stage of the serial round, and over the streamed round
(median, lowest and highest of the repeats); nothing is trained here.

What the judge says is made up (it finds every step right): its requests, their prompts, limits and the parsing are real.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch

from benchmarks.reports import add_out, opening, publish, spread, table
from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.credit.thought import ThoughtCredit
from lit_tpgrpo.datamodules.arithmetic.source import ArithmeticProblems
from lit_tpgrpo.datamodules.schedules import SCHEDULES, ScheduleName
from lit_tpgrpo.engines.base import SamplingParams
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.judges.generative.baselines import DirectLabels
from lit_tpgrpo.judges.generative.judge import GenerativeJudge
from lit_tpgrpo.judges.generative.limits import RequestLimits
from lit_tpgrpo.judges.generative.segmentation import RuleSegmentation
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.records import Round
from lit_tpgrpo.rollout.assignments import Assignment
from lit_tpgrpo.rollout.capability import GroupAccuracy
from lit_tpgrpo.rollout.filters import keep_all
from lit_tpgrpo.rollout.prompts import RolloutPrompt
from lit_tpgrpo.rollout.rounds import RoundMaker
from lit_tpgrpo.rollout.store import RoundStore
from lit_tpgrpo.seeds import derived_seed
from lit_tpgrpo.verify.verifier import MathVerifier

MODEL = "embedded:tiny-qwen2"
WITHIN_ROUND: tuple[ScheduleName, ...] = ("serial", "streamed")


class SlowJudge(BaseHTTPRequestHandler):
    """Answers a question about steps after ``latency`` seconds: none is wrong."""

    protocol_version = "HTTP/1.1"
    latency = 0.0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        steps = re.findall(r"\d+", prompt.rsplit("each of the steps ", 1)[-1].split(".", 1)[0])
        reply = {
            "id": (re.findall(r'"id": "([0-9a-f]{4})"', prompt) or [""])[-1],
            "judgements": [{"step": int(step), "wrong": False} for step in steps],
        }
        message = {"role": "assistant", "content": json.dumps(reply)}
        answer = {
            "id": "reply",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": len(prompt) // 3,
                "completion_tokens": 50,
                "total_tokens": 50 + len(prompt) // 3,
            },
        }
        time.sleep(self.latency)
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


def serve(latency: float, ports: SimpleQueue) -> None:
    """Run the judge; ``ports`` gets the port that it listens on."""
    SlowJudge.latency = latency
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowJudge)
    ports.put(server.server_port)
    server.serve_forever()


@contextmanager
def slow_judge(latency: float, concurrency: int) -> Iterator[GenerativeJudge]:
    """A judge over HTTP that takes ``latency`` seconds for each reply, at most ``concurrency`` at a time."""
    context = multiprocessing.get_context("spawn")
    ports = context.SimpleQueue()
    # A process of its own, as a judge has: what it costs is not to slow the sampler.
    server = context.Process(target=serve, args=(latency, ports), daemon=True)
    server.start()
    judge = GenerativeJudge(
        OpenAIChat("judge", f"http://127.0.0.1:{ports.get()}/v1"),
        method=DirectLabels(),
        segmentation=RuleSegmentation(),
        limits=RequestLimits(concurrency=concurrency),
        store=None,
    )
    try:
        yield judge
    finally:
        judge.close()
        server.terminate()


def maker_of(schedule: ScheduleName, engine: HFEngine, judge: GenerativeJudge, args: argparse.Namespace) -> RoundMaker:
    return SCHEDULES[schedule].maker(
        engine=engine,
        verifier=MathVerifier(),
        judge=judge,
        credit=ThoughtCredit(),
        keep=keep_all,
        tokenizer=load_tokenizer(MODEL),
        sampling=SamplingParams(args.tokens),
        group_size=args.group_size,
        template=RolloutPrompt("{problem}"),
        show_progress=False,
    )


def timed(maker: RoundMaker, index: int, assignments: list[Assignment]) -> tuple[float, dict[str, float], Round]:
    """Make a round that nothing is stored of; return its seconds and metrics."""
    with tempfile.TemporaryDirectory() as folder:
        file = RoundStore(Path(folder)).open(index, {})
        started = time.perf_counter()
        made, tally = maker.make(index, assignments, file, GroupAccuracy(), policy_version=0)
        return time.perf_counter() - started, tally.metrics(), made


def advantages(made: Round) -> list[list[float]]:
    return [solution.advantages.tolist() for solution in made.credited]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", default="3", help="of the embedded problems")
    parser.add_argument("--problems", type=int, default=48)
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=288, help="most tokens of a solution")
    parser.add_argument("--batch_size", type=int, default=32, help="solutions that HFEngine samples at once")
    parser.add_argument("--latency", type=float, default=1.0, help="seconds of each reply of the judge")
    parser.add_argument("--concurrency", type=int, default=32, help="requests to the judge at a time")
    parser.add_argument("--repeats", type=int, default=3)
    add_out(parser)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = opening("Schedules of a round", "schedules", arguments, args, threads=1)
    with slow_judge(args.latency, args.concurrency) as judge:
        rounds, stages, requests = compare(args, judge)
    lines.append(
        f"- {args.problems * args.group_size} solutions in batches of {args.batch_size}, {requests:.0f} requests of "
        f"{args.latency:g} s, {args.concurrency} at a time"
    )
    publish([*lines, *report(rounds, stages)], args.out)


def compare(
    args: argparse.Namespace, judge: GenerativeJudge
) -> tuple[dict[str, list[float]], dict[str, list[float]], float]:
    """Make the rounds; return the seconds of each schedule and of a serial round's stages, and the requests of a round."""
    engine = HFEngine(args.batch_size)
    tokenizer = load_tokenizer(MODEL)
    problems = ArithmeticProblems(level=args.level, n=args.problems).load()
    assignments = [Assignment(g, problem, derived_seed(0, g)) for g, problem in enumerate(problems)]
    policy = LoadedModel(load_causal_lm(MODEL, False, torch.float32, "sdpa").eval(), tokenizer)

    rounds: dict[str, list[float]] = {schedule: [] for schedule in WITHIN_ROUND}
    stages: dict[str, list[float]] = {"sampling": [], "verifying and judging": []}
    requests = 0.0
    for repeat in range(args.repeats + 1):
        made: dict[str, Round] = {}
        for schedule in WITHIN_ROUND if repeat % 2 else WITHIN_ROUND[::-1]:
            engine.load_weights(policy)
            seconds, metrics, made[schedule] = timed(maker_of(schedule, engine, judge, args), repeat, assignments)
            if repeat:  # the first round of each warms up
                rounds[schedule].append(seconds)
            if repeat and schedule == "serial":
                stages["sampling"].append(metrics["rollout/seconds"])
                stages["verifying and judging"].append(metrics["judge/seconds"])
                requests = metrics["judge/requests"]
        if advantages(made["serial"]) != advantages(made["streamed"]):
            raise SystemExit("the two schedules gave different advantages")
    return rounds, stages, requests


def report(rounds: dict[str, list[float]], stages: dict[str, list[float]]) -> list[str]:
    """Return the table and the lines of ratios, which are of rounds in the same repeat."""
    rows = [(name, spread(values)) for name, values in {**{f"{s} round": rounds[s] for s in rounds}, **stages}.items()]
    lines = table(("", "seconds"), rows)
    longest = [max(values) for values in zip(*stages.values(), strict=True)]
    for schedule in rounds:
        for name, others in (("a streamed round", rounds["streamed"]), ("the longest stage", longest)):
            ratios = [a / b for a, b in zip(rounds[schedule], others, strict=True)]
            lines += ["", f"{schedule} round to {name}: {spread(ratios)}"]
    return lines


if __name__ == "__main__":
    main()
