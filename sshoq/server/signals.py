"""Process: main, and what is forked from it. Signals, and what a child keeps of its parent's.

Python's own call takes each signal through its enumerations, and a forked process has to copy the
memory that those are in. So a handler that was inherited is not set again, and signals that need
none are set past Python.
"""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator

from sshoq.server.libc import libc

DEFAULT, IGNORED = 0, 1
"""SIG_DFL and SIG_IGN, as the C library has them."""

ALL = range(1, 65)

_handled: set[int] = set()


def watch(numbers: Iterable[int]) -> int:
    """A descriptor from which the numbers of these signals can be read, as bytes, once they have
    come."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in numbers:
        if number not in _handled:
            signal.signal(number, _note)
            _handled.add(number)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def dispose(numbers: Iterable[int], disposition: int) -> None:
    """DEFAULT or IGNORED. Signals that nobody may change stay as they are."""
    for number in numbers:
        libc.signal(number, disposition)
        _handled.discard(number)


def reset(keep: Iterable[int] = ()) -> None:
    """Dispositions and mask as a program expects them; Python itself ignores SIGPIPE and
    SIGXFSZ."""
    signal.set_wakeup_fd(-1)
    kept = set(keep)
    dispose((number for number in ALL if number not in kept), DEFAULT)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _note(number: int, frame: object) -> None:
    """There must be a handler, or the wakeup descriptor stays silent."""


def ended_children() -> Iterator[tuple[int, int]]:
    """Number and wait status of each child that has ended by now."""
    with contextlib.suppress(ChildProcessError):  # there are none at all
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended
