"""Process: session leader [the user]. Host names to addresses, looked up by children.

A resolver may think for a minute, and the leader must not wait for it. Literal addresses, the most
of what is asked, need no child.
"""

import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Annotated

from sshoq.named_tuple import NamedTuple
from sshoq.server import signals
from sshoq.server.login import close_descriptors
from sshoq.server.watch import READABLE, Watch
from sshoq.wire import ListOf, Message, Text, WireError

MAX_CHILDREN = 16
MAX_ANSWER = 16 * 1024
MAX_ADDRESSES = 16
PATIENCE = 30
"""Seconds that a child may take; resolvers usually give up before."""

_LITERAL = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Place(NamedTuple):
    """Where to connect or to bind to, as the socket module has it."""

    family: int
    address: tuple[str | int, ...] | bytes


class Answer(Message):
    """What a child found, or the resolver's complaint."""

    addresses: Annotated[tuple[str, ...], ListOf(Text)]
    complaint: Text


Found = Callable[[list[Place], str], None]
"""Gets the places, or none and the reason."""


class Lookups:
    """Look-ups under way, a child each, and those that wait for a child."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._running = 0
        self._waiting: dict[Found, tuple[str, int]] = {}
        """In the order in which they were asked for."""

    def find(self, host: str, port: int, found: Found) -> None:
        """`found` is called once, now or later."""
        try:
            places = literal_places(host, port)
        except (OSError, UnicodeError, ValueError):
            self._waiting[found] = host, port
            self._start_waiting()
        else:
            found(places, "")

    def forget(self, found: Found) -> None:
        """Nobody wants to know any more: a look-up that has not begun shall hold up no other. A
        client could ask for any number of them, and give up each at once."""
        self._waiting.pop(found, None)

    def _start_waiting(self) -> None:
        while self._waiting and self._running < MAX_CHILDREN:
            found = next(iter(self._waiting))
            self._start(*self._waiting.pop(found), found)

    def _start(self, host: str, port: int, found: Found) -> None:
        try:
            reader = _start_child(host)
        except OSError as error:  # a limit of the user's
            found([], error.strerror or str(error))
            return
        self._running += 1
        self._watch.add(reader, READABLE, lambda: self._read(reader, port, found))

    def _read(self, reader: int, port: int, found: Found) -> None:
        """The answer comes in one write, so in one read."""
        try:
            data = os.read(reader, MAX_ANSWER)
        except BlockingIOError:
            return
        self._watch.remove(reader)
        os.close(reader)
        self._running -= 1
        places, complaint = _read_answer(data, port)
        found(places, complaint)
        self._start_waiting()


def literal_places(host: str, port: int) -> list[Place]:
    """gaierror for a name. Asks nobody."""
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, _LITERAL)
    return [Place(family, address) for family, _, _, _, address in found]  # type: ignore[arg-type]


def _read_answer(data: bytes, port: int) -> tuple[list[Place], str]:
    try:
        answer = Answer.decode(data)
    except WireError:
        return [], "Temporary failure in name resolution"
    places = [place for text in answer.addresses for place in literal_places(text, port)]
    return places, answer.complaint


def _start_child(host: str) -> int:
    """Where its answer can be read. OSError."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if os.fork() == 0:
            try:
                _look_up(host, writer)
            finally:
                os._exit(0)
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return reader


def _look_up(host: str, writer: int) -> None:
    """The child. It keeps nothing of the leader's, whose end must show to the others at once."""
    signal.set_wakeup_fd(-1)
    signals.dispose((signal.SIGALRM,), signals.DEFAULT)
    signal.alarm(PATIENCE)
    close_descriptors((writer,))
    try:
        found = socket.getaddrinfo(host, None, 0, socket.SOCK_STREAM)
        texts = dict.fromkeys(str(entry[4][0]) for entry in found)
        answer = Answer(tuple(texts)[:MAX_ADDRESSES], "")
    except socket.gaierror as error:
        answer = Answer((), error.strerror or "Name or service not known")
    except (OSError, UnicodeError):
        answer = Answer((), "Name or service not known")
    data = answer.encode()
    if len(data) <= min(MAX_ANSWER, select.PIPE_BUF):
        os.write(writer, data)
