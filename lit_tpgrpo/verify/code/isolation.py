"""Confine this process before it runs code of a model or of a data set: limits, namespaces, files, system calls.

Runs in sandboxed processes: standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable

from lit_tpgrpo.verify.code import seccomp

_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC, _CLONE_NEWUTS = 0x10000000, 0x40000000, 0x08000000, 0x04000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
MAX_OPEN_FILES = 64


def confine(cpu_s: int, memory_mb: int, site_packages: bool) -> dict[str, bool]:
    """Confine this process for ever; return which walls are up.

    Args:
        cpu_s: processor seconds, after which the kernel kills the process.
        memory_mb: limit of the address space in MiB.
        site_packages: whether installed packages may be read, besides the standard library.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    linux = sys.platform == "linux"
    namespaces = linux and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS) == 0
    if linux:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # it does not outlive the training process
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # other processes of this user cannot read its memory
    files = linux and _restrict_files(libc, [*_readable(site_packages)])
    limit(cpu_s, memory_mb)
    calls = linux and seccomp.deny()
    if not calls:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # not enforced for root
    return {"namespaces": bool(namespaces), "files": files, "system calls": calls}


def limit(cpu_s: int, memory_mb: int) -> None:
    """Limit processor time and memory; forbid writing files and core dumps. Pipes are not files."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: MAX_OPEN_FILES}
    if sys.platform != "darwin":  # macOS maps hundreds of GB for any process
        limits[resource.RLIMIT_AS] = memory_mb * 2**20
    for kind, maximum in limits.items():
        resource.setrlimit(kind, (maximum, maximum))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))  # SIGXCPU, and SIGKILL for one that ignores it


def _readable(site_packages: bool) -> Iterable[str]:
    """Return what an interpreter reads: its library, shared libraries, time zones, a few devices."""
    yield os.path.dirname(os.__file__)
    yield from ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64", "/usr/share/zoneinfo")
    yield from ("/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
    yield from (os.path.join(prefix, "lib") for prefix in {sys.base_prefix, sys.base_exec_prefix})
    if site_packages:
        yield from (path for path in sys.path if path.rstrip("/").endswith("-packages"))


def _restrict_files(libc: ctypes.CDLL, readable: Iterable[str]) -> bool:
    """Let this process open nothing but these files and folders, to read (Landlock); return False if the kernel cannot."""
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = (1 << (13 + (version >= 2) + (version >= 3))) - 1
    if version >= 5:
        handled |= 1 << 15
    # No TCP from version 4 on, no signals and abstract sockets beyond this process from version 6 on.
    ruleset = struct.pack("QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = ruleset[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = libc.syscall(_CREATE_RULESET, ctypes.c_char_p(ruleset), len(ruleset), 0)
    if rules < 0:
        return False
    for path in readable:
        with contextlib.suppress(FileNotFoundError):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            access = (
                _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0) | (_WRITE_FILE if path == "/dev/null" else 0)
            )
            rule = ctypes.c_char_p(struct.pack("=Qi", access, opened))
            added = libc.syscall(_ADD_RULE, rules, 1, rule, 0)
            os.close(opened)
            if added != 0:
                return False
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    restricted = libc.syscall(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return restricted
