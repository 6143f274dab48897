"""Listening sockets on the event loop: whoever calls is handed on, one call for each.

Knows nothing of what the connections are for. The listeners are closed with it.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any

from sshoq.wire import IPPort

AT_ONCE = 32
"""Connections taken in one go, so that a flood does not keep the loop from everything else."""

PAUSE = 1.0
"""Seconds to wait when there are no descriptors left, as OpenSSH does."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Taken = Callable[[socket.socket, IPPort], None]
"""Gets the connection, non-blocking, and who called: an empty address on a Unix socket."""


class Acceptor:
    """Accepts on all of `listeners` until it is closed."""

    def __init__(self, listeners: Sequence[socket.socket], taken: Taken) -> None:
        self._listeners = list(listeners)
        self._taken = taken
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    def _resume(self) -> None:
        self._pause = None
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._readable, listener)

    def _stop(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())

    def _readable(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._stop()
                    self._pause = self._loop.call_later(PAUSE, self._resume)
                    return
                continue  # that one connection was broken off before we came to it
            connection.setblocking(False)
            self._taken(connection, caller(address))
            if listener.fileno() < 0:
                return  # closed by whoever took it

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        else:
            self._stop()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()


def caller(address: Any) -> IPPort:
    """A peer's address as the socket module gives it."""
    if isinstance(address, tuple):
        return IPPort(str(address[0]), int(address[1]))
    return IPPort("", 0)
