"""What a rollout server answers, without a model: completions that follow from prompt and seed alone.

As a program it is one server: ``rollout_stand_in.py PORT KEY [MODEL]``, to be killed, frozen and started again.
``POST /test`` sets what it does: ``hold`` keeps prompts unanswered, ``status``, ``error`` and ``finish`` are those of its
answers, ``version`` that of its weights, ``info`` what it says in place of it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EXTENSION = "lit_tpgrpo.engines.vllm.extension.Checked"


def completions(prompt: list[int], seed: int, n: int) -> list[tuple[list[int], list[float]]]:
    """Token ids and log-probs of each of n samples."""
    made = []
    for k in range(n):
        digest = hashlib.sha256(json.dumps([prompt, seed, k]).encode()).digest()
        made.append((list(digest[: 1 + digest[0] % 6]), [-byte / 256 for byte in digest[: 1 + digest[0] % 6]]))
    return made


class State:
    def __init__(self, key: str, model: str) -> None:
        self.key, self.model = key, model
        self.version, self.finish, self.status, self.error = "default", "stop", 200, "as it was told"
        self.info: Any = None  # in place of what it has to say of its weights
        self.config = {"logprobs_mode": "processed_logprobs"}
        self.rank = 0  # of the adapters that it takes
        self.open = threading.Event()
        self.open.set()
        self.answered, self.waiting, self.aborted, self.goodbyes = 0, 0, 0, 0

    def set(self, told: dict[str, Any]) -> None:
        if "hold" in told:
            (self.open.clear if told.pop("hold") else self.open.set)()
        self.__dict__ |= told


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(self, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        s, path = self.state, self.path.split("?")[0]
        if path == "/test":
            counts = {name: getattr(s, name) for name in ("answered", "waiting", "aborted", "goodbyes")}
            self.answer({**counts, "version": s.version})
        elif self.headers["Authorization"] != f"Bearer {s.key}" and s.key:
            self.answer({"error": "Unauthorized"}, 401)
        elif path == "/weight_info":
            self.answer({"weight_version": s.version} if s.info is None else s.info)
        elif path == "/v1/models":
            adapters = [{"id": "policy"}] if s.rank else []
            self.answer({"data": [{"id": s.model, "max_model_len": 512}, *adapters]})
        elif path == "/server_info":
            parts = {"model_config": s.config, "parallel_config": {"worker_extension_cls": EXTENSION}}
            parts["lora_config"] = {"max_lora_rank": s.rank} if s.rank else None
            self.answer({"vllm_config": {**parts, "weight_transfer_config": {"backend": "gloo"}}})
        else:
            self.answer({"error": "Not Found"}, 404)

    def do_POST(self) -> None:
        s = self.state
        length = int(self.headers.get("Content-Length", 0))
        text = self.rfile.read(length)
        if len(text) < length:  # whoever asked has gone
            return
        body = json.loads(text) if text else {}
        if self.path == "/test":
            s.set(body)
            self.answer({})
        elif self.headers["Authorization"] != f"Bearer {s.key}" and s.key:
            self.answer({"error": "Unauthorized"}, 401)
        elif self.path == "/inference/v1/generate":
            self.generate(body)
        elif self.path == "/inference/v1/abort_requests":
            s.aborted += len(body["request_ids"])
            self.answer(None)
        elif self.path == "/shutdown_weight_transfer_engine":
            s.goodbyes += 1
            self.answer({})
        elif self.path == "/reset_prefix_cache":
            self.answer({"success": True})
        else:
            self.answer({"error": "Not Found"}, 404)

    def generate(self, body: dict[str, Any]) -> None:
        s, params = self.state, body["sampling_params"]
        s.waiting += 1
        s.open.wait()
        s.waiting -= 1
        s.answered += 1
        if s.status != 200:
            self.answer({"error": s.error}, s.status)
            return
        choices = [
            {
                "index": k,
                "token_ids": ids,
                "logprobs": {"content": [{"logprob": value} for value in logprobs]},
                "finish_reason": s.finish,
                "weight_versions": [{"version": s.version}],
            }
            for k, (ids, logprobs) in enumerate(completions(body["token_ids"], params["seed"], params["n"]))
        ]
        self.answer({"choices": choices[::-1]})


def serve(port: int, key: str, model: str) -> ThreadingHTTPServer:
    """A server that listens, in this process."""
    handler = type("Bound", (Handler,), {"state": State(key, model)})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # an answer to somebody who has gone
    return server


if __name__ == "__main__":
    listening = serve(int(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "a-model")
    print(listening.server_address[1], flush=True)
    listening.serve_forever()
