"""One sandboxed process, as the parent sees it: start, watch, end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).resolve().parents[3])
_START = """
import sys, types
for name in ("lit_tpgrpo", "lit_tpgrpo.verify", "lit_tpgrpo.verify.code"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [{root!r} + "/" + name.replace(".", "/")]
from lit_tpgrpo.verify.code.child import main
main()
"""
"""What the interpreter runs. The packages' own ``__init__.py`` would take most of the time until a program starts."""
_PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
"""Variables without which some interpreters do not start. Nothing else of the environment reaches a sandboxed process."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one sandboxed process.

    Args:
        cpu_s: processor seconds, whole.
        memory_mb: address space in MiB.
        output_bytes: bytes of output, or of one returned value.
        idle_s: seconds in which a program does nothing, by its own will.
        wall_s: seconds from start to end.
        site_packages: whether installed packages can be imported.
    """

    cpu_s: int
    memory_mb: int
    output_bytes: int
    idle_s: float
    wall_s: float
    site_packages: bool


class SandboxedProcess:
    """A process of ``lit_tpgrpo.verify.code.child``.

    Args:
        role: ``program``, ``calls``, ``tests`` or ``probe``.
        limits: of the process.
        folder: its working directory, empty.
        code: what it reads before it is confined.
        stdin: content of its standard input.
        descriptors: file descriptors that it inherits, by name.
    """

    def __init__(
        self,
        role: str,
        limits: Limits,
        folder: str,
        code: str = "",
        stdin: str = "",
        descriptors: Mapping[str, int] | None = None,
    ) -> None:
        ends = {} if descriptors is None else dict(descriptors)
        with contextlib.ExitStack() as files:
            source, given = (files.enter_context(_file(text)) for text in (code, stdin))
            job: dict[str, Any] = {"role": role, "code": source, "cpu_s": limits.cpu_s}
            job |= {"memory_mb": limits.memory_mb, "site_packages": limits.site_packages}
            job |= {"max_bytes": limits.output_bytes} | ends
            # No -I: the environment is ours. -P: nothing is imported from the working directory. -S: no installed packages.
            flags = ["-P", "-s", "-B", "-X", "utf8", *([] if limits.site_packages else ["-S"])]
            self._popen = subprocess.Popen(
                [sys.executable, *flags, "-c", _START.format(root=_ROOT), json.dumps(job)],
                cwd=folder,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ}
                | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"},
                stdin=given,
                stdout=subprocess.PIPE if role in ("program", "probe") else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(source, *ends.values()),
                start_new_session=True,  # a process group of its own, which is killed as a whole
                bufsize=0,
            )
        self.pid = self._popen.pid
        self.output = b""
        self.cpu_s = 0.0
        """Processor seconds, known when it has ended."""
        self.code: int | None = None
        """Exit code, or minus the signal that ended it; None while it runs."""
        self._at_end = self._popen.stdout is None
        self._capacity = _capacity(self._popen.stdout.fileno()) if self._popen.stdout is not None else 0

    @property
    def stdout(self) -> int | None:
        """The descriptor to read its output from; None at its end."""
        return None if self._at_end or self._popen.stdout is None else self._popen.stdout.fileno()

    def read(self, limit: int) -> bool:
        """Read what output there is, without waiting. Keep one byte more than the limit.

        Returns:
            Whether it was as much as the pipe holds, so that the process may have waited for it to be read.
        """
        if (descriptor := self.stdout) is None:
            return False
        os.set_blocking(descriptor, False)
        before = len(self.output)
        while len(self.output) <= limit:
            try:
                chunk = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                break
            if not chunk:
                self._at_end = True
                break
            self.output += chunk
        return len(self.output) - before >= self._capacity

    def ended(self) -> bool:
        """Return whether it has ended; reap it if so."""
        if self.code is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.code = self._popen.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_s = usage.ru_utime + usage.ru_stime
        return self.code is not None

    def kill(self) -> None:
        """Kill its process group, and wait for its end. May be called twice."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.code is None:
                os.killpg(self.pid, signal.SIGKILL)
        if self.code is None:
            _, status, usage = os.wait4(self.pid, 0)
            self.code = self._popen.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_s = usage.ru_utime + usage.ru_stime

    def close(self) -> None:
        """Kill it and close its pipe. May be called twice."""
        self.kill()
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        self._at_end = True

    def sample(self) -> tuple[float, float, bool]:
        """Return processor seconds so far, seconds for which a thread waited for a processor, and whether it was stopped.

        The second is the most of any thread, not the sum: threads that wait for one another must not look like a busy machine.
        """
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            waits = [
                int(Path(f"/proc/{self.pid}/task/{thread}/schedstat").read_text().split()[1])
                for thread in os.listdir(f"/proc/{self.pid}/task")
            ]
        except (OSError, IndexError, ValueError):  # it has ended, or this system does not say
            return 0.0, 0.0, False
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"), max(waits, default=0) / 1e9, stat[0] in "Tt"


def _capacity(pipe: int) -> int:
    """Return the bytes that a pipe holds before who writes to it must wait, as it is when the process starts."""
    if not hasattr(fcntl, "F_GETPIPE_SZ"):  # macOS
        return 1 << 16
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)


@contextlib.contextmanager
def _file(text: str) -> Iterator[int]:
    """Give the descriptor of an unlinked file with this content, at its beginning."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode("utf-8", "surrogatepass"))
        file.seek(0)
        yield file.fileno()
