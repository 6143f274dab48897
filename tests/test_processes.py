"""Looking at processes: what several of them share is counted once, and waiting shows."""

import os
import socket
import subprocess
import sys

from tests.processes import anonymous_bytes, read_process, voluntary_switches

MIB = 1 << 20


PARENT_AND_CHILD = """
import os, signal
block = bytearray(b"x") * (16 << 20)
print("ready", flush=True)
input()
pid = os.fork()
if pid == 0:
    block[: 8 << 20] = bytes(8 << 20)
    print(os.getpid(), flush=True)
    signal.pause()
input()
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
print("ended", flush=True)
input()
"""
"""With little memory besides: a child that copies it page by page, as all do, must not blur what is
counted."""


def test_shared_memory_counts_once_and_written_memory_twice() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-c", PARENT_AND_CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        parent = read_process(process.pid)
        assert parent is not None
        before = anonymous_bytes([parent])
        process.stdin.write("\n")
        child = read_process(int(process.stdout.readline()))
        assert child is not None
        assert 8 * MIB <= anonymous_bytes([parent, child]) - before < 15 * MIB
        process.stdin.write("\n")
        assert process.stdout.readline() == "ended\n"
        assert anonymous_bytes([child]) == 0
        process.stdin.write("\n")


def test_who_waits_is_seen_to_wait() -> None:
    us = read_process(os.getpid())
    assert us is not None
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        while ball := theirs.recv(1):
            theirs.send(ball)
        os._exit(0)
    theirs.close()
    with ours:
        before = voluntary_switches([us])
        for _ in range(200):
            ours.send(b".")
            assert ours.recv(1) == b"."
    os.waitpid(pid, 0)
    assert voluntary_switches([us]) > before
