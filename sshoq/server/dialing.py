"""Process: session leader [the user]. Connecting for forwardings, with the user's rights.

Never waits for a connection: many are made at the same time, in the leader's own poll(), each
within a bound of time. A socket that is connected is handed over, and kept no longer.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial

from sshoq.server import log
from sshoq.server.lookup import Found, Lookups, Place
from sshoq.server.permits import Permits
from sshoq.server.privsep import Dial, Dialled, EndForwarding, ForwardingRefused
from sshoq.server.watch import WRITABLE, Deadline, Watch
from sshoq.wire import Message, encode_text

MAX_DIALS = 512
"""Connections that are being made at a time; each has a descriptor of the user's."""

PATIENCE = 60.0
"""Seconds for one connection, its name's look-up and all its addresses included."""

PROHIBITED = "open failed"
"""sshd's own words, which say no more."""

KINDS = {Dial.TCP: socket.SOCK_STREAM, Dial.UDP: socket.SOCK_DGRAM, Dial.UNIX: socket.SOCK_STREAM}

Send = Callable[[Message, Sequence[int]], None]


class _Attempt:
    """One connection that is being made."""

    __slots__ = ("channel", "deadline", "failure", "found", "kind", "places", "socket")

    def __init__(self, channel: int, kind: int) -> None:
        self.channel = channel
        self.kind = kind
        self.places: list[Place] = []
        self.socket: socket.socket | None = None
        self.failure = "no address"
        self.deadline: Deadline | None = None
        self.found: Found | None = None
        """Gets the places of a name that is looked up."""


class Dialer:
    """All connections that are being made for one login."""

    def __init__(self, watch: Watch, lookups: Lookups, permits: Permits, send: Send) -> None:
        self._watch = watch
        self._lookups = lookups
        self._permits = permits
        self._send = send
        self._attempts: dict[int, _Attempt] = {}

    def dial(self, request: Dial) -> None:
        if request.kind not in KINDS or not self._permits.may_dial(
            request.kind, request.host, request.port
        ):
            log.info(f"connection to {describe(request)} asked for, but not permitted")
            self._send(ForwardingRefused(request.channel, True, PROHIBITED), ())
            return
        if len(self._attempts) >= MAX_DIALS or request.channel in self._attempts:
            reason = os.strerror(errno.EAGAIN)
            self._send(ForwardingRefused(request.channel, False, reason), ())
            return
        self._begin(request)

    def _begin(self, request: Dial) -> None:
        attempt = _Attempt(request.channel, request.kind)
        self._attempts[request.channel] = attempt
        attempt.deadline = self._watch.call_after(PATIENCE, lambda: self._give_up(attempt))
        if request.kind == Dial.UNIX:
            attempt.places = [Place(socket.AF_UNIX, encode_text(request.host))]
            self._try_next(attempt)
            return
        attempt.found = partial(self._found, attempt)
        self._lookups.find(request.host, request.port, attempt.found)

    def _found(self, attempt: _Attempt, places: list[Place], complaint: str) -> None:
        if self._attempts.get(attempt.channel) is not attempt:
            return  # given up meanwhile
        attempt.places = places
        attempt.failure = complaint or attempt.failure
        self._try_next(attempt)

    def _try_next(self, attempt: _Attempt) -> None:
        """The next address, and so on until one can be waited for or stands."""
        while attempt.places:
            place = attempt.places.pop(0)
            try:
                if self._connect(attempt, place):
                    return
            except OSError as error:
                attempt.failure = error.strerror or str(error)
                self._drop_socket(attempt)
        self._end(attempt)
        self._send(ForwardingRefused(attempt.channel, False, attempt.failure), ())

    def _connect(self, attempt: _Attempt, place: Place) -> bool:
        kind = KINDS[attempt.kind] | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        attempt.socket = end = socket.socket(place.family, kind)
        try:
            end.connect(place.address)
        except BlockingIOError as error:
            if error.errno != errno.EINPROGRESS:
                raise  # a Unix socket whose owner does not keep up
            if _is_connected(end):  # on this machine it takes no time
                self._hand_over(attempt, end)
                return True
            self._watch.add(end.fileno(), WRITABLE, lambda: self._check(attempt))
            return True
        self._hand_over(attempt, end)
        return True

    def _check(self, attempt: _Attempt) -> None:
        end = attempt.socket
        assert end is not None
        number = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number == 0 and not _is_connected(end):
            return  # called for nothing: it is still under way
        self._watch.remove(end.fileno())
        if number == 0:
            self._hand_over(attempt, end)
        else:
            attempt.failure = os.strerror(number)
            self._drop_socket(attempt, watched=False)
            self._try_next(attempt)

    def _hand_over(self, attempt: _Attempt, end: socket.socket) -> None:
        if attempt.kind == Dial.TCP:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attempt.socket = None
        self._end(attempt)
        try:
            self._send(Dialled(attempt.channel), [end.fileno()])
        finally:
            end.close()

    def _give_up(self, attempt: _Attempt) -> None:
        attempt.places = []
        attempt.failure = os.strerror(errno.ETIMEDOUT)
        self._drop_socket(attempt)
        self._try_next(attempt)

    def cancel(self, request: EndForwarding) -> None:
        attempt = self._attempts.get(request.channel)
        if attempt is not None:
            self._drop_socket(attempt)
            self._end(attempt)

    def _end(self, attempt: _Attempt) -> None:
        del self._attempts[attempt.channel]
        if attempt.found is not None:
            self._lookups.forget(attempt.found)
        if attempt.deadline is not None:
            attempt.deadline.cancel()

    def _drop_socket(self, attempt: _Attempt, *, watched: bool = True) -> None:
        end, attempt.socket = attempt.socket, None
        if end is None:
            return
        if watched:
            with contextlib.suppress(KeyError):
                self._watch.remove(end.fileno())
        end.close()


def _is_connected(end: socket.socket) -> bool:
    try:
        end.getpeername()
    except OSError:
        return False
    return True


def describe(request: Dial) -> str:
    """For the log."""
    if request.kind == Dial.UNIX:
        return f"path {request.host}"
    return f"host {request.host} port {request.port}"
