"""Run parts, each in a process forked from one that has imported the libraries, with a time limit and a total budget.

Importing torch, transformers and Lightning takes longer than most parts, so it is done once, in a fork server. CUDA must not be
initialised there, because a forked process could not use it then; so the libraries are set to detect GPUs through NVML. If one
of them initialises CUDA nevertheless, the part detects it and runs in a new interpreter, which must repeat the imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import multiprocessing as mp
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.gpu_check.bench import ERROR_LINES, ROOT, Bench, GpuCheck, Size, append, error_lines
from benchmarks.gpu_check.termination import KillOnSignal, end_with_main_process

PRELOADED = "benchmarks.gpu_check.preload"
_terminal = threading.Lock()
"""Held while printing, and while the output is redirected."""
LOG_BYTES = 1_000_000
"""Maximum size of a part's output in the log; its end is kept."""
FAILED, PARTLY = 1, 3
"""Exit codes of a part's process that raised, and of one that could not measure some of its rows."""
ENVIRONMENT = {
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # The machine's host name may not resolve, and there is only one process.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}


@dataclass(frozen=True)
class Run:
    """Settings of one run.

    Args:
        device: ``cuda`` or ``cpu``.
        size: ``full`` or ``tiny``.
        out: folder of the results.
        budget: seconds in total; parts that no longer fit are skipped.
        jobs: number of parts that run in parallel, unless they must run alone.
    """

    device: str
    size: Size
    out: Path
    budget: float
    jobs: int

    @property
    def results(self) -> Path:
        return self.out / "results.jsonl"

    @property
    def log(self) -> Path:
        return self.out / "log.txt"


def run_parts(run: Run, parts: Sequence[GpuCheck], after_each: Callable[[], None]) -> bool:
    """Run parts in order, several in parallel if they allow it; return whether none failed, even partly.

    Args:
        run: settings of the run.
        parts: the parts to run.
        after_each: called when a part has ended, never concurrently.

    Raises:
        SystemExit: after SIGTERM, SIGINT or SIGHUP, once the running parts are killed and their status is written.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # The fork server finds modules by PYTHONPATH only.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    deadline = time.monotonic() + run.budget
    oks: list[bool] = []
    ending = threading.Lock()
    stop = KillOnSignal()

    def one(part: GpuCheck, parallel: int) -> bool:
        if stop.received is not None:
            return False
        try:
            status = _run_part(run, part, deadline, context, parallel, stop)
        except Exception as error:  # in the runner: the fork server died, the disk is full
            traceback.print_exc()
            append(run.results, {"part": part.name, "status": "failed", "error": error_lines(error)})
            status = "failed"
        with ending:
            after_each()
        return status in ("ok", "skipped")

    with stop.handled():
        for alone, group in itertools.groupby(parts, key=lambda part: part.alone):
            members = list(group)
            parallel = 1 if alone else min(run.jobs, len(members))
            with ThreadPoolExecutor(parallel) as pool:
                oks += pool.map(one, members, itertools.repeat(parallel))
    if stop.received is not None:
        print(f"stopped by {stop.received.name}", flush=True)
        raise SystemExit(128 + stop.received)
    return all(oks)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Redirect the output of this process, and of programs started in the block, to a file."""
    saved = [os.dup(1), os.dup(2)]
    try:
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        for fd, original in zip((1, 2), saved, strict=True):
            os.dup2(original, fd)
            os.close(original)


def _print(text: str) -> None:
    with _terminal:
        print(text, flush=True)


def _run_part(run: Run, part: GpuCheck, deadline: float, context, parallel: int, stop: KillOnSignal) -> str:
    """Run one part until it ends or reaches its time limit, store its status and return it."""
    reason = _skip_reason(run, part, deadline)
    if reason:
        append(run.results, {"part": part.name, "status": "skipped", "error": reason})
        return "skipped"
    limit = min(part.seconds if run.device == "cuda" else 10 * part.seconds, deadline - time.monotonic())
    append(run.results, {"part": part.name, "started": round(time.time())})
    with _terminal, _output_to(run.log):  # the fork server must not keep this process's output open after its end
        forkserver.ensure_running()
    _print(f"{part.name} ...")
    with tempfile.TemporaryDirectory(prefix=f"gpu_check_{part.name}_", ignore_cleanup_errors=True) as scratch:
        output = Path(scratch) / "output.txt"
        work = Path(scratch) / "work"
        work.mkdir()
        bench = Bench(part.name, run.device, run.size, run.results, work)
        process = context.Process(target=work_in_process, args=(part, bench, output, _threads(parallel)), daemon=False)
        process.start()  # returns when the fork server has imported everything
        start = time.monotonic()
        with stop.killing(process):
            process.join(limit)
            status, error = _end(process, limit, output)
        if status == "failed" and stop.received is not None:
            error = f"stopped by {stop.received.name}\n{error}"
        seconds = round(time.monotonic() - start, 1)
        _append_to_log(run.log, part.name, output)
    append(run.results, {"part": part.name, "status": status, "seconds": seconds, "at_once": parallel, "error": error})
    _print(f"{part.name}: {status} after {seconds} s")
    return status


def _skip_reason(run: Run, part: GpuCheck, deadline: float) -> str | None:
    missing = [name for name in part.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if part.cuda_only and run.device != "cuda":
        return "does not run on a CPU"
    left = deadline - time.monotonic()
    # A part takes about half its limit.
    if run.device == "cuda" and left < part.seconds / 2:
        return f"{left:.0f} s of the budget are left"
    return None


def _end(process: BaseProcess, limit: float, output: Path) -> tuple[str, str | None]:
    """Kill what is left of a part's process group; return its status and, unless it succeeded, the end of its output."""
    late = process.is_alive()
    pid = process.pid
    if pid is not None:
        # It leads a process group, so the workers that it started are killed too.
        for group_signal in (signal.SIGTERM, signal.SIGKILL) if late else (signal.SIGKILL,):
            try:
                os.killpg(pid, group_signal)
            except (ProcessLookupError, PermissionError):
                break
            process.join(3)
    if late:
        process.kill()  # in case it does not lead its group yet
    process.join()
    if not late and process.exitcode in (0, PARTLY):
        return ("ok", None) if process.exitcode == 0 else ("partly", "some rows could not be measured")
    tail = "\n".join(output.read_text(errors="replace").rstrip().splitlines()[-ERROR_LINES:]) if output.exists() else ""
    why = f"stopped at its limit of {limit:.0f} s" if late else f"exit code {process.exitcode}"
    return "failed", f"{why}\n{tail[-2000:]}"


def _append_to_log(log: Path, name: str, output: Path) -> None:
    text = output.read_bytes()[-LOG_BYTES:] if output.exists() else b""
    with open(log, "ab") as file:
        file.write(f"\n===== {name} =====\n".encode() + text)


def _threads(parallel: int) -> int:
    """Return the number of threads per part, so that parallel parts share the CPU cores."""
    return max(1, len(os.sched_getaffinity(0)) // parallel)


def work_in_process(part: GpuCheck, bench: Bench, output: Path, threads: int) -> None:
    """Run a part in its process, after setting up the process group, the output file and the number of threads.

    The process group ends with the main process. If CUDA cannot be used after the fork, the part runs in a new interpreter.
    """
    os.setsid()
    end_with_main_process()
    if set_threads := "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for programs that the part starts
    if set_threads and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    with open(output, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    if bench.device == "cuda" and not _cuda_works():
        print("CUDA cannot be used in a forked process here: this part runs in a new interpreter", flush=True)
        code = "import pickle, sys; from benchmarks.gpu_check.runner import work; work(*pickle.load(sys.stdin.buffer))"
        done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps((part, bench)))
        sys.exit(done.returncode)
    work(part, bench)


def _cuda_works() -> bool:
    import torch

    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError):
        traceback.print_exc()
        return False
    return True


def work(part: GpuCheck, bench: Bench) -> None:
    """Run a part in this process, whose output shows an error in full."""
    module, _, name = part.run.rpartition(".")
    try:
        getattr(importlib.import_module(module), name)(bench, *part.arguments)
    except BaseException as error:
        traceback.print_exc()
        print(error_lines(error), flush=True)
        sys.exit(FAILED)
    if bench.failed_rows:
        print(f"not measured: {', '.join(bench.failed_rows)}", flush=True)
        sys.exit(PARTLY)
    used = [sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"CPU seconds: {used[0]:.1f}, of programs started: {used[1]:.1f}", flush=True)
