"""Serve a local model with an OpenAI-compatible API, to try a judge behind an endpoint: python -m examples.judge_server

It serves one model with transformers on 127.0.0.1: chat completions, models, health. For real use, take vLLM or SGLang.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from lit_tpgrpo.chat.local_chat import LoadedModel
from lit_tpgrpo.engines.base import Completion, SamplingParams
from lit_tpgrpo.engines.checks import check_lengths, position_limit
from lit_tpgrpo.engines.hf import HFEngine
from lit_tpgrpo.pretrained import load_causal_lm, load_tokenizer
from lit_tpgrpo.records import StopReason

OPEN, CLOSE = "<think>", "</think>"


@dataclass(slots=True)
class Waiting:
    """A queued request."""

    ids: list[int]
    params: SamplingParams
    seed: int
    result: asyncio.Future[Completion]


class Sampler:
    """Sampler of queued requests, in batches with equal schema and settings."""

    def __init__(self, name: str) -> None:
        self.model = LoadedModel(load_causal_lm(name, False, None, "sdpa").eval(), load_tokenizer(name))
        self.engine = HFEngine()
        self.engine.load_weights(self.model)
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue()

    async def sample(self, ids: list[int], params: SamplingParams, seed: int) -> Completion:
        check_lengths([ids], params.max_new_tokens, position_limit(self.model.policy_model))
        waiting = Waiting(ids, params, seed, asyncio.get_running_loop().create_future())
        self.queue.put_nowait(waiting)
        return await waiting.result

    async def run(self) -> None:
        while True:
            waiting = [await self.queue.get()]
            while not self.queue.empty():
                waiting.append(self.queue.get_nowait())
            batches: dict[SamplingParams, list[Waiting]] = {}
            for one in waiting:
                batches.setdefault(one.params, []).append(one)
            for params, batch in batches.items():
                await self._finish(batch, params)

    async def _finish(self, batch: list[Waiting], params: SamplingParams) -> None:
        """Sample a batch; if that fails, sample each request separately, so that only a bad one fails."""
        try:
            completions = await asyncio.to_thread(self._generate, batch, params)
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._finish([one], params)
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        for one, completion in zip(batch, completions, strict=True):
            if not one.result.done():
                one.result.set_result(completion)

    def _generate(self, batch: list[Waiting], params: SamplingParams) -> list[Completion]:
        groups = dict(self.engine.sample([one.ids for one in batch], 1, params, [one.seed for one in batch]))
        return [groups[i][0] for i in range(len(batch))]


class JudgeServer:
    """HTTP routes of the server."""

    def __init__(self, name: str, think: bool) -> None:
        self.name, self.think = name, think
        self.sampler = Sampler(name)
        self.tokenizer = self.sampler.model.tokenizer

    def app(self, address: str) -> web.Application:
        async def background(_: web.Application):
            task = asyncio.create_task(self.sampler.run())
            print(f"listening on {address}", flush=True)
            yield
            task.cancel()

        app = web.Application(client_max_size=2**26)
        app.cleanup_ctx.append(background)
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        return app

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def complete(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(await self.answer(await request.json()))
        # Invalid settings and inputs: of the wrong type, too large, too deeply nested.
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            fault = {"message": f"{type(error).__name__}: {error}"[:500], "type": "invalid_request_error", "code": None}
            return web.json_response({"error": fault}, status=400)

    async def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Compute the chat completion for a request's JSON."""
        think = bool((body.get("chat_template_kwargs") or {}).get("enable_thinking", self.think))
        prompt = self.prompt(body["messages"], think)
        params = SamplingParams(
            max_new_tokens=int(body.get("max_completion_tokens") or body.get("max_tokens") or 256),
            temperature=float(body.get("temperature", 1.0)),
            top_p=float(body.get("top_p", 1.0)),
        )
        seed, thought, limit = int(body.get("seed") or 0), [], params.max_new_tokens
        if not 0 <= seed < 2**63:
            raise ValueError("seed must be at least 0 and less than 2**63")
        if think:
            close = self.tokenizer.convert_tokens_to_ids(CLOSE)
            completion = await self.sampler.sample(prompt, replace(params, stop_ids=(close,)), seed)
            thought = completion.token_ids.tolist()
            full = len(thought) == limit
            if full or thought[-1] != close:  # no tokens left for a reply, or the model ended without one
                return self.completion(prompt, thought, [], StopReason.LENGTH if full else completion.stop)
        form = body.get("response_format") or {}
        schema = json.dumps(form["json_schema"]["schema"]) if form.get("type") == "json_schema" else None
        params = replace(params, max_new_tokens=limit - len(thought), json_schema=schema)
        completion = await self.sampler.sample(prompt + thought, params, seed)
        return self.completion(prompt, thought, completion.token_ids.tolist(), completion.stop)

    def prompt(self, messages: list[dict[str, str]], think: bool) -> list[int]:
        """Return the token ids of the conversation, with the think block opened or closed."""
        if not isinstance(messages, list) or not all(isinstance(m["content"], str) for m in messages):
            raise ValueError("messages must be a list of {role, content}, each content a string")
        if self.tokenizer.chat_template is None:
            text = "\n".join(m["content"] for m in messages) + "\n"
        else:
            text = str(
                self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False, enable_thinking=think
                )
            )
        opened = text.rstrip().endswith(OPEN)
        if think and not opened:
            text += f"{OPEN}\n"
        elif opened and not think:
            text += f"\n{CLOSE}\n\n"
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def completion(self, prompt: list[int], thought: list[int], reply: list[int], stop: StopReason) -> dict[str, Any]:
        """Build the response from token ids."""

        def decode(ids: list[int]) -> str:
            return str(self.tokenizer.decode(ids, skip_special_tokens=True)).replace(CLOSE, "").strip()

        message = {"role": "assistant", "content": decode(reply) if reply else None}
        if thought:
            message["reasoning"] = decode(thought)
        finish = "length" if stop is StopReason.LENGTH else "stop"
        used = len(thought) + len(reply)
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": used,
                "total_tokens": len(prompt) + used,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": len(thought)},
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder, hub name or embedded:NAME")
    parser.add_argument("--port", type=int, default=0, help="port (default 0: any free one)")
    parser.add_argument("--think", action="store_true", help="think before replying unless a request says otherwise")
    args = parser.parse_args()
    try:  # bind the port before the model is loaded
        listener = socket.create_server(("127.0.0.1", args.port))
    except OSError as error:
        sys.exit(
            f"error: no server can be started on port {args.port} ({error.strerror or error}); give another --port"
        )
    with listener:
        server = JudgeServer(args.model, args.think)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        # run_app returns on SIGINT and SIGTERM.
        web.run_app(server.app(address), sock=listener, print=None, shutdown_timeout=1.0)


if __name__ == "__main__":
    main()
