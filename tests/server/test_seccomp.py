"""The system call filter, interpreted as the kernel does; that the kernel agrees is tested with
the sandbox in tests/privileged.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
import termios
from pathlib import Path

import pytest

from sshoq.server.seccomp import (
    ALLOW,
    KILL,
    MACHINES,
    NETWORK_RULES,
    ROUTER_RULES,
    SYSCALLS,
    Machine,
    Rule,
    compile_filter,
    refuse,
)

X86 = MACHINES["x86_64"]


def judge(
    rules: dict[str, Rule],
    call: str | int,
    *arguments: int,
    machine: Machine = X86,
    audit_number: int | None = None,
) -> int:
    """What the filter answers."""
    number = call if isinstance(call, int) else SYSCALLS[call][machine.column]
    assert number is not None
    values = [*arguments, *[0] * (6 - len(arguments))]
    architecture = machine.audit_number if audit_number is None else audit_number
    data = struct.pack("<IIQ6Q", number, architecture, 0, *values)
    program = list(struct.iter_unpack("=HBBI", compile_filter(rules, machine)))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            [accumulator] = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return int(value)
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x45: bool(accumulator & value),
            }[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
@pytest.mark.parametrize("rules", [ROUTER_RULES, NETWORK_RULES], ids=["router", "network"])
def test_the_data_path_is_free(machine: Machine, rules: dict[str, Rule]) -> None:
    for call in ("read", "write", "sendmsg", "recvmsg", "epoll_ctl", "close", "getrandom", "futex"):
        assert judge(rules, call, machine=machine) == ALLOW


@pytest.mark.parametrize(
    "number", [41, 59, 101, 105, 49, 50, 165, 272, 310, 322, 321], ids=lambda n: f"call {n}"
)
def test_what_is_in_no_table_kills(number: int) -> None:
    """socket, execve, ptrace, setuid, bind, listen, mount, unshare, process_vm_readv, execveat,
    bpf."""
    for rules in (ROUTER_RULES, NETWORK_RULES):
        assert judge(rules, number) == KILL


def test_other_machines_and_the_x32_numbers_kill() -> None:
    assert judge(NETWORK_RULES, "read", audit_number=0x40000003) == KILL
    assert judge(NETWORK_RULES, 0x40000000) == KILL


def test_calls_of_the_future_do_not_exist() -> None:
    assert judge(NETWORK_RULES, 460) == refuse(errno.ENOSYS)


def test_files_are_refused_and_not_deadly() -> None:
    for call in ("open", "openat", "stat", "statx", "readlink"):
        assert judge(NETWORK_RULES, call) == refuse(errno.EACCES)


def test_only_an_open_file_can_be_looked_at() -> None:
    assert judge(NETWORK_RULES, "newfstatat", 3, 0, 0, 0x1000) == ALLOW
    assert judge(NETWORK_RULES, "newfstatat", 3, 0, 0, 0) == refuse(errno.EACCES)


def test_terminals_can_be_resized_and_not_typed_into() -> None:
    assert judge(NETWORK_RULES, "ioctl", 5, termios.TIOCSWINSZ) == ALLOW
    assert judge(NETWORK_RULES, "ioctl", 5, termios.TIOCSTI) == refuse(errno.EPERM)
    high = termios.TIOCSWINSZ | 1 << 40
    assert judge(NETWORK_RULES, "ioctl", 5, high) == refuse(errno.EPERM)


def test_memory_is_never_made_executable() -> None:
    for call in ("mmap", "mprotect"):
        assert judge(NETWORK_RULES, call, 0, 4096, 3) == ALLOW
        assert judge(NETWORK_RULES, call, 0, 4096, 7) == refuse(errno.EACCES)


def test_only_the_router_forks_and_it_only_forks() -> None:
    assert judge(ROUTER_RULES, "clone", 17) == ALLOW
    assert judge(ROUTER_RULES, "clone", 0x10000000 | 17) == refuse(errno.EPERM)
    assert judge(ROUTER_RULES, "clone3") == refuse(errno.ENOSYS)
    for call in ("clone", "clone3", "fork"):
        assert judge(NETWORK_RULES, call, 17) == refuse(errno.EPERM)


def test_nobody_is_signalled() -> None:
    for call in ("kill", "tkill", "tgkill"):
        assert judge(ROUTER_RULES, call) == refuse(errno.EPERM)


def test_the_confinement_cannot_be_changed_from_within() -> None:
    assert judge(ROUTER_RULES, "prctl", 22) == ALLOW
    assert judge(ROUTER_RULES, "prctl", 24) == refuse(errno.EPERM)
    assert judge(ROUTER_RULES, "prlimit64", 0, 7, 0x7FFF00000000) == ALLOW
    assert judge(ROUTER_RULES, "prlimit64", 4711, 7, 0x7FFF00000000) == refuse(errno.EPERM)
    assert judge(NETWORK_RULES, "prctl", 22) == refuse(errno.EPERM)
    assert judge(NETWORK_RULES, "prlimit64", 0, 7, 0) == ALLOW
    assert judge(NETWORK_RULES, "prlimit64", 0, 7, 0x7FFF00000000) == refuse(errno.EPERM)


@pytest.mark.parametrize(
    ("header", "column", "pattern"),
    [
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0, r"#define __NR_(\w+) (\d+)"),
        ("/usr/include/asm-generic/unistd.h", 1, r"#define __NR(?:3264)?_(\w+) (\d+)"),
    ],
    ids=["x86_64", "aarch64"],
)
def test_the_numbers_are_the_kernels(header: str, column: int, pattern: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"needs {header}")
    numbers: dict[str, int] = {}
    for name, number in re.findall(pattern, Path(header).read_text()):
        numbers.setdefault(name, int(number))
    renamed = {"newfstatat": "fstatat"} if column else {}
    for call, pair in SYSCALLS.items():
        assert numbers.get(renamed.get(call, call)) == pair[column], call


def test_only_what_a_relay_needs_is_done_to_descriptors_and_sockets() -> None:
    for rules in (ROUTER_RULES, NETWORK_RULES):
        assert judge(rules, "fcntl", 5, fcntl.F_SETFL, os.O_NONBLOCK) == ALLOW
        assert judge(rules, "fcntl", 5, fcntl.F_SETOWN, 1) == refuse(errno.EPERM)
        assert judge(rules, "setsockopt", 5, socket.IPPROTO_TCP, socket.TCP_NODELAY) == ALLOW
        assert judge(rules, "setsockopt", 5, 17, 104) == ALLOW
        # One allowed name at the level of another is another option.
        assert judge(rules, "setsockopt", 5, socket.IPPROTO_IPV6, 1) == refuse(errno.EPERM)
        assert judge(rules, "setsockopt", 5, socket.SOL_SOCKET, 51) == refuse(errno.EPERM)
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            pair = (socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
            assert judge(rules, "socketpair", *pair) == ALLOW
        for refused in ((socket.AF_NETLINK, 3), (socket.AF_UNIX, socket.SOCK_DGRAM)):
            assert judge(rules, "socketpair", *refused) == refuse(errno.EPERM)
        assert judge(rules, "connect", 5) == refuse(errno.EPERM)
