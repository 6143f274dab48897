"""Signals while the event loop runs: caught for a time, and afterwards as they were before."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)
FATAL = (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
"""What ssh has no answer for, and rsync ends it with. The kernel says goodbye for a TCP connection
whose process is killed, and not for ours."""


@contextmanager
def catching(numbers: tuple[int, ...], call: Callable[[int], None]) -> Iterator[None]:
    """`call` gets the number; within another such block, instead of that one's, but for SIGWINCH,
    which concerns everybody. A signal that was ignored from the start stays so (nohup).

    The loop's own way to catch signals is not used: it loads 5 ms worth of modules, only to see
    whether `call` is a coroutine.
    """
    loop = asyncio.get_running_loop()

    def hand_over(number: int, frame: object) -> None:
        loop.call_soon(call, number)
        outer = before[number]
        if number == signal.SIGWINCH and callable(outer):
            outer(number, None)

    before = {number: signal.getsignal(number) for number in numbers}
    caught = [number for number, action in before.items() if action is not signal.SIG_IGN]
    with _waking(loop):
        for number in caught:
            signal.signal(number, hand_over)
        try:
            yield
        finally:
            for number in caught:
                signal.signal(number, before[number])


@contextmanager
def _waking(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """A signal ends the loop's wait, also when it comes just before that begins."""
    woken, waker = socket.socketpair()
    with woken, waker:
        woken.setblocking(False)
        waker.setblocking(False)
        loop.add_reader(woken, woken.recv, 4096)
        before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(woken)


def die_of(number: int) -> None:
    """End as if the signal had never been caught, for the shell to see."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
