"""Process: session leader [the user]. poll() with a function for each descriptor, and deadlines.

The leader waits for many things and for none of them alone; this is all the event loop it needs.
"""

import heapq
import itertools
import select
import time
from collections.abc import Callable

READABLE = select.POLLIN
WRITABLE = select.POLLOUT

Call = Callable[[], None]


class Deadline:
    """A call to come; `cancel` prevents it."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call

    def cancel(self) -> None:
        self.call = None


class Watch:
    """Calls may come for nothing: a number may have been given to another descriptor meanwhile."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._calls: dict[int, Call] = {}
        self._deadlines: list[tuple[float, int, Deadline]] = []
        self._order = itertools.count()

    def add(self, fd: int, events: int, call: Call) -> None:
        self._calls[fd] = call
        self._poll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Before the descriptor is closed."""
        del self._calls[fd]
        self._poll.unregister(fd)

    def call_after(self, seconds: float, call: Call) -> Deadline:
        deadline = Deadline(call)
        entry = (time.monotonic() + seconds, next(self._order), deadline)
        heapq.heappush(self._deadlines, entry)
        return deadline

    def turn(self) -> None:
        """Wait until something is due, and do it."""
        for fd, _ in self._poll.poll(self._milliseconds_left()):
            call = self._calls.get(fd)
            if call is not None:
                call()
        while self._deadlines and self._deadlines[0][0] <= time.monotonic():
            call = heapq.heappop(self._deadlines)[2].call
            if call is not None:
                call()

    def _milliseconds_left(self) -> float | None:
        while self._deadlines and self._deadlines[0][2].call is None:
            heapq.heappop(self._deadlines)
        if not self._deadlines:
            return None
        return max(0.0, self._deadlines[0][0] - time.monotonic()) * 1000 + 1
