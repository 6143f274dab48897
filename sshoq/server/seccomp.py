"""Process: router and network process [service user]. The list of system calls they may make, as a
BPF program.

Whatever is not in the tables ends the process, as sshd's sandbox does: an attacker gets no second
guess. Calls that only a libc newer than this list knows are answered "not implemented", so that it
falls back to old ones.
"""

import errno
import struct
from collections.abc import Iterable, Mapping

from sshoq.named_tuple import NamedTuple

SYSCALLS: dict[str, tuple[int | None, int | None]] = {  # number on x86_64, on aarch64
    # the data path, first because kernels before 5.11 walk the list
    "read": (0, 63), "write": (1, 64), "recvmsg": (47, 212), "sendmsg": (46, 211),
    "recvmmsg": (299, 243), "sendmmsg": (307, 269), "recvfrom": (45, 207), "sendto": (44, 206),
    "readv": (19, 65), "writev": (20, 66), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "epoll_ctl": (233, 21), "futex": (202, 98), "clock_gettime": (228, 113),
    # descriptors
    "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None),
    "dup3": (292, 24), "lseek": (8, 62), "pread64": (17, 67), "fstat": (5, 80),
    "pipe": (22, None), "pipe2": (293, 59), "splice": (275, 76), "eventfd2": (290, 19),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_pwait2": (441, 441),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "timerfd_create": (283, 85), "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87),
    # sockets that exist
    "accept": (43, 202), "accept4": (288, 242), "shutdown": (48, 210), "getsockname": (51, 204),
    "getpeername": (52, 205), "getsockopt": (55, 209),
    # memory
    "brk": (12, 214), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "membarrier": (324, 283),
    # time
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165),
    "restart_syscall": (219, 128),
    # signals to oneself only arrive
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "sigaltstack": (131, 132),
    # what is harmless to know
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "getresuid": (118, 148), "getresgid": (120, 150), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getgroups": (115, 158),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "uname": (63, 160),
    "sysinfo": (99, 179), "getcpu": (309, 168), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getrandom": (318, 278), "getrlimit": (97, 163),
    # the life of a process
    "set_robust_list": (273, 99), "rseq": (334, 293), "set_tid_address": (218, 96),
    "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95),
    # answered by what their arguments are
    "ioctl": (16, 29), "mmap": (9, 222), "mprotect": (10, 226), "newfstatat": (262, 79),
    "fcntl": (72, 25), "setsockopt": (54, 208), "socketpair": (53, 199), "connect": (42, 203),
    "prctl": (157, 167), "prlimit64": (302, 261), "clone": (56, 220),
    # refused with an error, not death: libraries try them and live without
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "stat": (4, None), "lstat": (6, None), "statx": (332, 291), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None),
    "readlinkat": (267, 78), "getcwd": (79, 17), "statfs": (137, 43), "getdents64": (217, 61),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "fork": (57, None),
    "vfork": (58, None), "clone3": (435, 435), "setrlimit": (160, 164), "seccomp": (317, 277),
}
NEWEST_KNOWN = 451


class Machine(NamedTuple):
    audit_number: int
    column: int
    highest: int
    """On x86_64 a set bit 30 selects the x32 ABI, whose numbers mean other calls."""


MACHINES = {
    "x86_64": Machine(0xC000003E, 0, 0x3FFFFFFF),
    "aarch64": Machine(0xC00000B7, 1, 0xFFFFFFFF),
}

KILL, ALLOW = 0x80000000, 0x7FFF0000


def refuse(number: int) -> int:
    return 0x00050000 | number


class Check(NamedTuple):
    """Allowed while an argument is in `values`, or has no bit of `forbidden`; else the answer
    `otherwise`."""

    argument: int
    otherwise: int
    values: tuple[int, ...] = ()
    forbidden: int = 0


class Pairs(NamedTuple):
    """Allowed while two arguments, of 32 bits each, have values that stand together in the list."""

    arguments: tuple[int, int]
    otherwise: int
    values: tuple[tuple[int, int], ...]


Rule = int | Check | Pairs

# Terminal size and break for ptys; what Python asks of descriptors (blocking, close-on-exec, is it
# a tty). TIOCSTI, which types into the user's terminal, is the one to keep out.
_IOCTLS = (
    0x5414,  # TIOCSWINSZ
    0x5413,  # TIOCGWINSZ
    0x5401,  # TCGETS
    0x5409,  # TCSBRK
    0x5425,  # TCSBRKP
    0x5427,  # TIOCSBRK
    0x5428,  # TIOCCBRK
    0x5411,  # TIOCOUTQ
    0x541B,  # FIONREAD
    0x5421,  # FIONBIO
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX
)
# Blocking, close-on-exec, and copies. F_SETOWN is the one to keep out: with it a socket can be made
# to send SIGKILL to any process of the same user, which is every other connection's.
_FCNTLS = (0, 1, 2, 3, 4, 1030)
# What a relay tunes. Among the others are programs for all sockets at our address: with those one
# connection could take the first packets of everybody.
_SOCKET_OPTIONS = (
    (1, 7),  # SOL_SOCKET: SO_SNDBUF
    (1, 8),  # SO_RCVBUF
    (1, 13),  # SO_LINGER
    (6, 1),  # IPPROTO_TCP: TCP_NODELAY
    (0, 10),  # IPPROTO_IP: IP_MTU_DISCOVER
    (41, 23),  # IPPROTO_IPV6: IPV6_MTU_DISCOVER
    (17, 103),  # IPPROTO_UDP: UDP_SEGMENT
    (17, 104),  # UDP_GRO
)
_AF_UNIX, _STREAM, _PACKETS, _CLOSED_ON_EXEC = 1, 1, 5, 0x80000
_SOCKET_PAIRS = tuple((_AF_UNIX, kind | _CLOSED_ON_EXEC) for kind in (_STREAM, _PACKETS))
_PROT_EXEC = 4
_AT_EMPTY_PATH = 0x1000
_NAMESPACES_AND_THREADS = 0x7E020000 | 0x00010000
_CONFINING = (4, 15, 22, 38)  # PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS

_REFUSED = (
    *("open", "openat", "openat2", "creat", "stat", "lstat", "statx", "statfs", "getdents64"),
    *("access", "faccessat", "faccessat2", "readlink", "readlinkat", "getcwd"),
)
_SIGNALS = ["kill", "tkill", "tgkill"]
_FORKS = ["fork", "vfork", "clone3"]

_COMMON: dict[str, Rule] = {
    # Checked ones first: the kernel remembers the unconditional ones and does not run the program
    # for them.
    "ioctl": Check(1, refuse(errno.EPERM), values=_IOCTLS),
    "fcntl": Check(1, refuse(errno.EPERM), values=_FCNTLS),
    "setsockopt": Pairs((1, 2), refuse(errno.EPERM), values=_SOCKET_OPTIONS),
    # The event loop's, and those of packets. One for datagrams could send to any that has a name.
    "socketpair": Pairs((0, 1), refuse(errno.EPERM), values=_SOCKET_PAIRS),
    # It can undo a connection, too, and a socket at our address without a peer gets the packets of
    # all newcomers. The monitor connects.
    "connect": refuse(errno.EPERM),
    "mmap": Check(2, refuse(errno.EACCES), forbidden=_PROT_EXEC),
    "mprotect": Check(2, refuse(errno.EACCES), forbidden=_PROT_EXEC),
    "newfstatat": Check(3, refuse(errno.EACCES), values=(_AT_EMPTY_PATH,)),  # glibc's fstat
    **dict.fromkeys(_REFUSED, refuse(errno.EACCES)),
    **dict.fromkeys(_SIGNALS, refuse(errno.EPERM)),
}
_SPECIAL = {*_COMMON, *_FORKS, "clone", "prctl", "prlimit64", "setrlimit", "seccomp"}
_FREE: dict[str, Rule] = {name: ALLOW for name in SYSCALLS if name not in _SPECIAL}

ROUTER_RULES: dict[str, Rule] = {
    **_COMMON,
    "clone": Check(0, refuse(errno.EPERM), forbidden=_NAMESPACES_AND_THREADS),
    # libc then forks by clone, whose flags can be read
    **dict.fromkeys(_FORKS, refuse(errno.ENOSYS)),
    "prctl": Check(0, refuse(errno.EPERM), values=_CONFINING),
    # Its own alone: with limits others can be ended.
    "prlimit64": Check(0, refuse(errno.EPERM), values=(0,)),
    "setrlimit": ALLOW,
    "seccomp": ALLOW,
    **_FREE,
}
NETWORK_RULES: dict[str, Rule] = {
    **_COMMON,
    **dict.fromkeys((*_FORKS, "clone"), refuse(errno.EPERM)),
    **dict.fromkeys(("prctl", "setrlimit", "seccomp"), refuse(errno.EPERM)),
    "prlimit64": Check(2, refuse(errno.EPERM), values=(0,)),  # reading one's own limits
    **_FREE,
}


# --------------------------------------------------------------------------- the program

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT = 0, 4


def compile_filter(rules: Mapping[str, Rule], machine: Machine) -> bytes:
    """The rules as instructions of struct sock_filter, for prctl(PR_SET_SECCOMP)."""
    out = [
        _instruction(_LOAD, _MACHINE_AT),
        _instruction(_EQUAL, machine.audit_number, 1, 0),
        _instruction(_RETURN, KILL),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_GREATER, machine.highest, 0, 1),
        _instruction(_RETURN, KILL),
        _instruction(_GREATER, NEWEST_KNOWN, 0, 1),
        _instruction(_RETURN, refuse(errno.ENOSYS)),
    ]
    for name, rule in rules.items():
        number = SYSCALLS[name][machine.column]
        if number is not None:
            body = list(_body(rule))
            out += [_instruction(_EQUAL, number, 0, len(body)), *body]
    out.append(_instruction(_RETURN, KILL))
    return b"".join(out)


def _body(rule: Rule) -> Iterable[bytes]:
    """What follows when the number is the rule's; it always ends in a return."""
    if isinstance(rule, int):
        yield _instruction(_RETURN, rule)
        return
    if isinstance(rule, Pairs):
        yield from _pairs_body(rule)
        return
    low = 16 + 8 * rule.argument  # both machines are little-endian
    yield _instruction(_LOAD, low)
    if not rule.values:
        yield _instruction(_ANY_BIT, rule.forbidden, 0, 1)
        yield _instruction(_RETURN, rule.otherwise)
        yield _instruction(_RETURN, ALLOW)
        return
    for value in rule.values:
        yield _instruction(_EQUAL, value, 0, 4)
        yield _instruction(_LOAD, low + 4)
        yield _instruction(_EQUAL, 0, 0, 1)
        yield _instruction(_RETURN, ALLOW)
        yield _instruction(_RETURN, rule.otherwise)
    yield _instruction(_RETURN, rule.otherwise)


def _pairs_body(rule: Pairs) -> Iterable[bytes]:
    first, second = (16 + 8 * argument for argument in rule.arguments)
    for one, other in rule.values:
        yield _instruction(_LOAD, first)
        yield _instruction(_EQUAL, one, 0, 3)
        yield _instruction(_LOAD, second)
        yield _instruction(_EQUAL, other, 0, 1)
        yield _instruction(_RETURN, ALLOW)
    yield _instruction(_RETURN, rule.otherwise)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
