"""Process: main [root]. epoll() with a function for each socket that leads to a child of main."""

import select
from collections.abc import Callable

from sshoq.server.privsep_socket import PrivsepSocket


class ControlPoll:
    """Calls may come for nothing: a number may have been given to another socket meanwhile."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._last: set[int] = set()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, fd: int, call: Callable[[], None], *, is_last: bool = False) -> None:
        """`is_last`: what all the others have said counts for this one already."""
        self._calls[fd] = call
        self._epoll.register(fd, select.EPOLLIN)
        if is_last:
            self._last.add(fd)

    def close(self, control: PrivsepSocket) -> None:
        """Both the socket and our watching it. Not twice."""
        fd = control.fileno()
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._last.discard(fd)
            control.close()

    def turn(self, seconds: float | None) -> None:
        """Wait so long, or for ever, until somebody has said something, and hear it."""
        ready = self._epoll.poll(seconds)
        for fd, _ in sorted(ready, key=lambda event: event[0] in self._last):
            call = self._calls.get(fd)
            if call is not None:
                call()
