"""``python -m lit_tpgrpo.serve`` in a session of its own: started, killed, frozen, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import psutil

from tests.engines.vllm_engines.conftest import session_members

ROOT = Path(__file__).parents[3]
LIMIT_S = 600
KEY = "a-key-of-the-tests-0123456789"


class RealServer:
    """One vLLM server; ``folder`` is for its log, ``options`` are further ones of its command line."""

    def __init__(self, model: str, folder: Path, *options: str) -> None:
        from lit_tpgrpo.engines.vllm.process_groups import reserved_port

        self.reservation = ExitStack()  # a server takes a minute until it listens, and may be started again on its port
        self.port = self.reservation.enter_context(reserved_port())
        self.model, self.folder, self.options = model, folder, options
        self.scratch = Path(tempfile.mkdtemp())  # pytest's own paths are too long for sockets

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def launch(self) -> None:
        words = [self.model, "--port", str(self.port), "--dtype", "float32", *self.options]
        command = [sys.executable, "-m", "lit_tpgrpo.serve", *words]
        given = {**os.environ, "VLLM_API_KEY": KEY, "TMPDIR": str(self.scratch)}
        with (self.folder / "log").open("a") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True, env=given
            )

    def await_ready(self) -> None:
        started = time.monotonic()
        while not healthy(self.url):
            assert self.process.poll() is None, self.log[-3000:]
            assert time.monotonic() - started < LIMIT_S, self.log[-3000:]

    def kill(self) -> None:
        """All of it at once, as where a machine is gone."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def engine_core(self) -> psutil.Process:
        """The process that samples, behind the one that answers."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(
            child for child in children if "EngineCore" in " ".join(child.cmdline()) or "EngineCor" in child.name()
        )

    def end(self, number: int = signal.SIGINT) -> None:
        """Asked to end, it leaves no process and no file."""
        self.process.send_signal(number)
        self.process.wait(LIMIT_S)
        assert session_members(self.process.pid) == []
        assert [str(left) for left in self.scratch.iterdir()] == []
        self.scratch.rmdir()
        self.reservation.close()


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:  # nobody listens yet, or a status that is an error
        time.sleep(0.2)  # between two looks at a program that starts, not a wait that a result depends on
        return False
