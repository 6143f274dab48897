"""Signals while the event loop runs: caught for a time, and afterwards as they were before."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)

_catchers: dict[int, list[Callable[[int], None]]] = {}
"""Who gets a signal now, last, and who will again when that one is through."""


@contextmanager
def catching(numbers: tuple[int, ...], call: Callable[[int], None]) -> Iterator[None]:
    """`call` gets the number. A signal that was ignored from the start stays so (nohup)."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in numbers}
    caught = [number for number, action in before.items() if action is not signal.SIG_IGN]
    for number in caught:
        _catchers.setdefault(number, []).append(call)
        loop.add_signal_handler(number, _hand_on, number)
    try:
        yield
    finally:
        for number in caught:
            _catchers[number].pop()
            if not _catchers[number]:
                loop.remove_signal_handler(number)
                signal.signal(number, before[number])


def _hand_on(number: int) -> None:
    _catchers[number][-1](number)


def die_of(number: int) -> None:
    """End as if the signal had never been caught, for the shell to see."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
