"""Signals in a process of the server and in what is forked from it."""

import os
import signal
from collections.abc import Iterator

import pytest

from sshoq.server import signals
from tests.processes import C_LIBRARY_SIGNALS

USED = (signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in USED}
    wakeup = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(wakeup)
    signals.dispose(USED, signals.DEFAULT)
    for number, handler in before.items():
        signal.signal(number, handler)


def masks() -> dict[str, int]:
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file if line.startswith("Sig")]
    return {name: int(mask, 16) for name, mask in lines if name in ("SigIgn:", "SigCgt:")}


def bit(number: int) -> int:
    return 1 << (number - 1)


def test_signals_can_be_read_once_they_have_come() -> None:
    reader = signals.watch(USED)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert os.read(reader, 10) == bytes([signal.SIGUSR2])
    with pytest.raises(BlockingIOError):
        os.read(reader, 10)
    os.close(reader)


def test_a_child_watches_what_its_parent_has_watched() -> None:
    parents = signals.watch(USED)
    pid = os.fork()
    if pid == 0:
        reader = signals.watch(USED[:1])
        os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(0 if os.read(reader, 10) == bytes([signal.SIGUSR1]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(BlockingIOError):
        os.read(parents, 10)
    os.close(parents)


def test_what_was_given_up_can_be_watched_again() -> None:
    os.close(signals.watch(USED))
    signals.dispose(USED, signals.IGNORED)
    assert masks()["SigIgn:"] & bit(signal.SIGUSR1)
    reader = signals.watch(USED)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert os.read(reader, 10) == bytes([signal.SIGUSR1])
    os.close(reader)


def test_those_to_keep_survive_a_reset() -> None:
    os.close(signals.watch(USED))
    pid = os.fork()
    if pid == 0:
        signals.reset(keep=USED[:1])
        left = {name: mask & ~C_LIBRARY_SIGNALS for name, mask in masks().items()}
        os._exit(0 if left == {"SigIgn:": 0, "SigCgt:": bit(signal.SIGUSR1)} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
