"""What a QUIC connection reports, and the limits it keeps: plain values, free of the library behind
them.

`quic.py` makes the events, `conversation.py` reads them. Plain classes, because the client pays for
each dataclass at its start.
"""

from collections.abc import Hashable
from enum import Enum
from typing import Any

Address = tuple[Any, ...]
"""A socket address as the socket module has it. Engines and sockets here say (host, port), and take
the four fields of IPv6 as well."""


def plain_address(address: Address) -> tuple[str, int]:
    """Host, with its %zone where it has one, and port: so that one peer never looks like two."""
    if len(address) == 4 and address[3] and "%" not in address[0]:
        return f"{address[0]}%{address[3]}", address[1]
    return address[0], address[1]


class Limits:
    """How much the peer may have under way: bytes not yet consumed, and streams that are open."""

    __slots__ = (
        "bidirectional_streams",
        "connection_window",
        "spare_window",
        "stream_window",
        "unidirectional_streams",
    )

    def __init__(
        self,
        *,
        stream_window: int,
        connection_window: int,
        bidirectional_streams: int,
        unidirectional_streams: int,
        spare_window: int = 0,
    ) -> None:
        self.stream_window = stream_window
        self.spare_window = spare_window
        """Given on top of that to streams whose readers are faster than their window permits."""
        self.connection_window = connection_window
        self.bidirectional_streams = bidirectional_streams
        self.unidirectional_streams = unidirectional_streams


BEFORE_LOGIN = Limits(
    stream_window=64 * 1024,
    connection_window=128 * 1024,
    bidirectional_streams=128,
    unidirectional_streams=16,
)
"""Small, as nobody knows yet who that is; Go peers want 100 bidirectional streams from the
start.
"""

AFTER_LOGIN = Limits(
    stream_window=2 * 1024 * 1024,
    connection_window=16 * 1024 * 1024,
    bidirectional_streams=1024,
    unidirectional_streams=16,
    spare_window=6 * 1024 * 1024,
)
"""What was lost is there two or three round trips after it was first sent, and what came behind it
waits: a stream alone on 200 Mbit/s and 50 ms needs 4 MiB. Not all streams may have that, or two
whose readers have stopped would stop the whole connection.
"""


DEFAULT_CONGESTION = "bbr"
"""One of congestion.CONTROLLERS."""


class Cause(Enum):
    """Who or what ended a connection."""

    LOCAL = "closed here"
    PEER = "closed by the peer"
    IDLE = "nothing heard from the peer"
    RESET = "the peer has forgotten the connection"


class Event:
    """A value: equal when of the same kind with equal fields."""

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> tuple[Hashable, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Event)
            and type(other) is type(self)
            and self._fields() == other._fields()
        )

    def __hash__(self) -> int:
        return hash((type(self), self._fields()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class SendReady(Event):
    """Streams may be opened and written: on a server as early as its first flight, on a client
    from Finished.
    """

    __slots__ = ()


class HandshakeCompleted(Event):
    """Both sides have proven what TLS proves; `alpn` is what was agreed upon (always h3)."""

    __slots__ = ("alpn",)

    def __init__(self, alpn: str) -> None:
        self.alpn = alpn


class StreamData(Event):
    """The next bytes of a stream, all that one batch brought; `fin`: the last ones. Owes a
    `consumed()`.
    """

    __slots__ = ("data", "fin", "stream_id")

    def __init__(self, stream_id: int, data: bytes, fin: bool) -> None:
        self.stream_id = stream_id
        self.data = data
        self.fin = fin


class StreamReset(Event):
    """The peer gave up sending: no more data will come. What came before still owes a
    `consumed()`.
    """

    __slots__ = ("code", "stream_id")

    def __init__(self, stream_id: int, code: int) -> None:
        self.stream_id = stream_id
        self.code = code


class StreamStopped(Event):
    """The peer reads no more: our sending half was reset with its code."""

    __slots__ = ("code", "stream_id")

    def __init__(self, stream_id: int, code: int) -> None:
        self.stream_id = stream_id
        self.code = code


class DatagramReceived(Event):
    """A DATAGRAM frame's payload."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class ConnectionIdRetired(Event):
    """The peer will not use this connection ID again."""

    __slots__ = ("connection_id",)

    def __init__(self, connection_id: bytes) -> None:
        self.connection_id = connection_id


class NewcomerArrived(Event):
    """A server's alone: somebody at the peer's address has begun a connection anew, with this
    datagram. It may be the peer, who has forgotten ours; or who only says that it is there.
    """

    __slots__ = ("datagram",)

    def __init__(self, datagram: bytes) -> None:
        self.datagram = datagram


class PathChanged(Event):
    """The peer has moved to this address, and has shown that it receives there."""

    __slots__ = ("address",)

    def __init__(self, address: Address) -> None:
        self.address = address


class Terminated(Event):
    """The end, reported once. After it `outgoing()` may hold one last flight."""

    __slots__ = ("cause", "code", "is_application", "reason")

    def __init__(self, code: int, reason: str, cause: Cause, is_application: bool) -> None:
        self.code = code
        self.reason = reason
        self.cause = cause
        self.is_application = is_application

    @property
    def by_peer(self) -> bool:
        return self.cause in (Cause.PEER, Cause.RESET)
