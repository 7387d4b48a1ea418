"""Measure the cost of the generative judge: python -m benchmarks.judge overhead | prefix

overhead: this package's code compared with a plain loop over the official client. The same requests go to the same server,
    which replies immediately, with the same concurrency; the judge adds segmentation, protocols, validation, storing and
    counting.
prefix: requests and prompt tokens per solution, and how many tokens a prefix cache (blocks of 16 tokens, as in vLLM) serves,
    with the shared text first, as it is sent, and with the question first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from aiohttp import web
from openai import AsyncOpenAI

from benchmarks.instant_verdict import instant_verdict
from lit_tpgrpo.chat.base import ChatReply, ChatRequest
from lit_tpgrpo.chat.local_chat import LocalChat
from lit_tpgrpo.chat.openai_chat import OpenAIChat
from lit_tpgrpo.datamodules.arithmetic.judge_report import label_cases, policy_samples, writer_samples
from lit_tpgrpo.judges.base import JudgeCase
from lit_tpgrpo.judges.generative import GenerativeJudge, QueryConfig, RequestLimits
from lit_tpgrpo.pretrained import load_tokenizer

BLOCK = 16


# ---- a server that replies immediately ----


async def _answer(request: web.Request) -> web.Response:
    body = await request.json()
    name = body["response_format"]["json_schema"]["name"]
    content = json.dumps(instant_verdict(name, body["messages"][0]["content"]))
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return web.json_response(
        {"id": "0", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


def _serve(port: Any) -> None:
    async def main() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", _answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


class Recording(OpenAIChat):
    """Chat client that records its requests."""

    asked: list[ChatRequest]

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request)
        return await super().complete(request)


def _bare(url: str, requests: Sequence[ChatRequest], concurrency: int) -> None:
    """Send the same requests through the official client, and nothing else."""

    async def main() -> None:
        slots = asyncio.Semaphore(concurrency)
        async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:

            async def one(request: ChatRequest) -> None:
                form = {"name": request.schema_name, "schema": dict(request.schema or {}), "strict": True}
                async with slots:
                    reply = await client.chat.completions.create(
                        model="judge",
                        messages=[{"role": "user", "content": request.content}],
                        max_tokens=request.max_tokens,
                        temperature=request.temperature,
                        response_format={"type": "json_schema", "json_schema": form},  # pyright: ignore
                    )
                json.loads(reply.choices[0].message.content or "")

            await asyncio.gather(*map(one, requests))

    asyncio.run(main())


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def overhead(n: int, repeats: int, concurrency: int) -> None:
    """Print the time per judgement of this package and of a plain loop."""
    cases = _cases("2", n, "writer")
    receiver, sender = mp.Pipe()
    server = mp.get_context("spawn").Process(target=_serve, args=(sender,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{receiver.recv()}/v1"
    chat = Recording("judge", url)
    times: dict[str, list[float]] = {"ours": [], "ours, stored replies": [], "bare": []}
    for _ in range(repeats):
        chat.asked = []
        with tempfile.TemporaryDirectory() as folder:
            judge = GenerativeJudge(chat, limits=RequestLimits(concurrency=concurrency), store=folder)
            times["ours"].append(_seconds(lambda judge=judge: list(judge.judge(cases))))
            metrics = judge.metrics()
            if metrics["abstained"] or metrics["replies_invalid"]:
                raise RuntimeError(f"the instant server's verdicts should all be valid: {metrics}")
            requests = list(chat.asked)
            times["ours, stored replies"].append(_seconds(lambda judge=judge: list(judge.judge(cases))))
        times["bare"].append(_seconds(lambda requests=requests: _bare(url, requests, concurrency)))
    server.kill()
    print(
        f"{n} solutions, {len(requests)} requests, {concurrency} in parallel, minimum and median of {repeats} (same run, "
        "alternating)"
    )
    for name, values in times.items():
        print(
            f"{name:<22} {min(values):7.3f} s  {median(values):7.3f} s  {1000 * min(values) / n:7.2f} ms per judgement"
        )
    print(f"ratio ours / bare      {min(times['ours']) / min(times['bare']):7.2f}")
    print(f"our code per judgement {1000 * (min(times['ours']) - min(times['bare'])) / n:7.2f} ms")


# ---- prefix caching ----


def cached_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that a cache of whole blocks serves, for prompts one after another."""
    seen: set[tuple[int, ...]] = set()
    served = 0
    for ids in prompts:
        hit = True
        for end in range(BLOCK, len(ids) + 1, BLOCK):
            block = tuple(ids[:end])
            hit = hit and block in seen
            served += BLOCK * hit
            seen.add(block)
    return served


class RecordingLocal(LocalChat):
    """Local chat model that records its requests."""

    asked: list[ChatRequest]

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request)
        return await super().complete(request)


def prefix(n: int, level: str, samples: str) -> None:
    """Print the requests and cached tokens of the tiny judge, with its prompts, on solutions of the embedded domain."""
    chat = RecordingLocal("embedded:tiny-judge")
    tokenizer = load_tokenizer("embedded:tiny-judge")
    judge = GenerativeJudge(chat, query=QueryConfig(max_tokens=400), prompts="embedded:judge-prompts", store=None)
    totals = {"requests": 0, "prompt": 0, "shared text first": 0, "question first": 0}
    cases = _cases(level, n, samples)
    for case in cases:
        chat.asked = []
        list(judge.judge([case]))
        swapped = [replace(r, shared=r.question + "\n", question=r.shared) for r in chat.asked]
        first, last = ([tokenizer(r.content)["input_ids"] for r in order] for order in (chat.asked, swapped))
        totals["requests"] += len(chat.asked)
        totals["prompt"] += sum(map(len, first))
        totals["shared text first"] += cached_tokens(first)
        totals["question first"] += cached_tokens(last)
    size = len(cases)
    print(f"{size} solutions of level {level} ({samples}), tiny judge")
    print(f"requests per solution       {totals['requests'] / size:8.2f}")
    print(f"prompt tokens per solution  {totals['prompt'] / size:8.1f}")
    for order in ("shared text first", "question first"):
        uncached = (totals["prompt"] - totals[order]) / size
        share = totals[order] / totals["prompt"]
        print(f"not cached, {order:<22} {uncached:8.1f}  (cache serves {share:.0%})")


def _cases(level: str, n: int, samples: str) -> list[JudgeCase]:
    pairs = (policy_samples if samples == "model" else writer_samples)(level, n, 0)
    return [case for case, _ in label_cases(pairs)[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "prefix"))
    parser.add_argument("--n", type=int, default=200, help="solutions (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--level", default="1")
    parser.add_argument("--samples", choices=("writer", "model"), default="model")
    args = parser.parse_args()
    if args.what == "overhead":
        overhead(args.n, args.repeats, args.concurrency)
    else:
        prefix(args.n, args.level, args.samples)


if __name__ == "__main__":
    main()
