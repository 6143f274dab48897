"""Looking at processes: what several of them share is counted once, and waiting shows."""

import os
import signal
import socket

from tests.processes import anonymous_bytes, read_process, voluntary_switches

MIB = 1 << 20


def test_shared_memory_counts_once_and_written_memory_twice() -> None:
    block = bytearray(b"x") * (16 * MIB)
    us = read_process(os.getpid())
    assert us is not None
    before = anonymous_bytes([us])
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        block[: 8 * MIB] = bytes(8 * MIB)
        os.write(writer, b"written")
        signal.pause()
    try:
        assert os.read(reader, 7) == b"written"
        child = read_process(pid)
        assert child is not None
        assert 8 * MIB <= anonymous_bytes([us, child]) - before < 15 * MIB
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    assert anonymous_bytes([child]) == 0


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
