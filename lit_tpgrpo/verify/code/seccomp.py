"""The system calls that sandboxed code may not make, as a filter that the kernel applies (seccomp-BPF).

Runs in sandboxed processes: standard library only. The filter denies (EPERM) sockets, processes, programs, signals to any
process, the memory, limits and priorities of other processes, namespaces, mounts, keys and shared memory. Threads are allowed.
Also denied is what could end the process by a signal that looks like one from outside, such as a timer with SIGKILL, or a
lower limit of its own processor time: a solution must not be able to pass off its own end as the machine's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # (AUDIT_ARCH_*, column of the tables below)

# System call numbers on x86_64 and aarch64; None where there is no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "timer_create": (222, 107), "mq_open": (240, 180), "mq_notify": (241, 184),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41),
    "mount": (165, 40), "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "quotactl": (179, 60),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "init_module": (175, 105), "delete_module": (176, 106), "finit_module": (313, 273),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "memfd_create": (319, 279), "memfd_secret": (447, 447),
}  # fmt: skip
_CLONE, _CLONE3, _FCNTL = (56, 220), (435, 435), (72, 25)
_PRCTL, _SETRLIMIT, _PRLIMIT64 = (157, 167), (160, 164), (302, 261)

_CLONE_THREAD = 0x00010000
_SIGNAL_TARGETS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: they choose a process, and the signal that the kernel sends to it."""
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 1, 38, 22, 2
_RLIMIT_STACK = 3
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_X32 = 0x40000000

Instruction = tuple[int, int, int, int]


def _argument(index: int, high: bool = False) -> int:
    """Return the offset of one half of a system call's argument in struct seccomp_data (little-endian)."""
    return 16 + 8 * index + 4 * high


def deny() -> bool:
    """Apply the filter to this process for ever; return False if the kernel or the machine's architecture has none."""
    if os.uname().machine not in _ARCHITECTURES:
        return False
    program = filter_program(os.uname().machine)
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    given = Program(len(program), ctypes.addressof(packed))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(given), 0, 0) == 0


def filter_program(machine: str) -> list[Instruction]:
    """Return the filter as BPF instructions ``(code, jump if true, jump if false, operand)``."""
    architecture, column = _ARCHITECTURES[machine]
    refuse = (_RET, 0, 0, _ERRNO | errno.EPERM)
    program: list[Instruction] = [
        (_LD, 0, 0, _ARCHITECTURE),
        (_JEQ, 1, 0, architecture),
        (_RET, 0, 0, _KILL),
        (_LD, 0, 0, _NUMBER),
        (_JGE, 0, 1, _X32),
        (_RET, 0, 0, _KILL),
    ]

    def rule(number: int | None, *block: Instruction) -> None:
        if number is not None:
            program.extend([(_JEQ, 0, len(block), number), *block])

    for numbers in _DENIED.values():
        rule(numbers[column], refuse)
    allow = (_RET, 0, 0, _ALLOW)
    rule(_CLONE3[column], (_RET, 0, 0, _ERRNO | errno.ENOSYS))  # its flags are out of sight; libc then calls clone
    rule(_CLONE[column], (_LD, 0, 0, _argument(0)), (_JSET, 0, 1, _CLONE_THREAD), allow, refuse)
    own = [instruction for command in _SIGNAL_TARGETS for instruction in ((_JEQ, 0, 1, command), refuse)]
    rule(_FCNTL[column], (_LD, 0, 0, _argument(1)), *own, allow)
    rule(_PRCTL[column], (_LD, 0, 0, _argument(0)), (_JEQ, 0, 1, _PR_SET_PDEATHSIG), refuse, allow)
    # Limits may be read, and that of the stack be set: programs that recurse deeply do.
    rule(_SETRLIMIT[column], (_LD, 0, 0, _argument(0)), (_JEQ, 0, 1, _RLIMIT_STACK), allow, refuse)
    rule(
        _PRLIMIT64[column],
        *((_LD, 0, 0, _argument(0)), (_JEQ, 1, 0, 0), refuse),  # of this process only
        *((_LD, 0, 0, _argument(1)), (_JEQ, 0, 1, _RLIMIT_STACK), allow),
        *((_LD, 0, 0, _argument(2)), (_JEQ, 1, 0, 0), refuse),
        *((_LD, 0, 0, _argument(2, high=True)), (_JEQ, 1, 0, 0), refuse, allow),
    )
    return [*program, allow]
