"""What the state machines hand out: events, and faults with the code that tells the peer.

An event is a small value that says what the peer did, or what is to be done about it. A fault is
the peer's: `ProtocolError` ends one stream, `ConnectionFault` the whole connection. `Unsupported`
is nobody's fault: the user asked for something that this peer cannot be told, and its text is the
line to show.
"""

from enum import IntEnum
from typing import Any, ClassVar, dataclass_transform


class Code(IntEnum):
    """Error codes: RFC 9114 section 8.1, RFC 9204 section 6, and the channels' own."""

    NO_ERROR = 0x100
    GENERAL_PROTOCOL_ERROR = 0x101
    INTERNAL_ERROR = 0x102
    STREAM_CREATION_ERROR = 0x103
    CLOSED_CRITICAL_STREAM = 0x104
    FRAME_UNEXPECTED = 0x105
    FRAME_ERROR = 0x106
    EXCESSIVE_LOAD = 0x107
    ID_ERROR = 0x108
    SETTINGS_ERROR = 0x109
    MISSING_SETTINGS = 0x10A
    REQUEST_REJECTED = 0x10B
    REQUEST_CANCELLED = 0x10C
    REQUEST_INCOMPLETE = 0x10D
    MESSAGE_ERROR = 0x10E
    CONNECT_ERROR = 0x10F
    VERSION_FALLBACK = 0x110
    QPACK_DECOMPRESSION_FAILED = 0x200
    QPACK_ENCODER_STREAM_ERROR = 0x201
    QPACK_DECODER_STREAM_ERROR = 0x202
    SINK_FAILED = 42
    """STOP_SENDING on a channel: the socket behind it takes no more (protocol section 5.2)."""


CHANNEL_REFUSED = Code.REQUEST_INCOMPLETE
"""What a channel stream is reset with that was not accepted: nothing of it was acted upon."""


class ProtocolError(Exception):
    """The peer broke the rules on one stream: reset it with `code`."""

    def __init__(self, reason: str, code: int = Code.GENERAL_PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = int(code)


class ConnectionFault(ProtocolError):
    """The peer broke a rule that RFC 9114 makes an error of the whole connection."""


class Unsupported(Exception):
    """This peer has no way to be told that; the text is one clear line for the user."""


@dataclass_transform(frozen_default=True, eq_default=True)
class Event:
    """A value with the fields that its class annotates, without what a dataclass costs at start."""

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        # What dataclass_transform says it is, done by hand.
        cls.__match_args__ = (*cls.__match_args__, *cls.__annotations__)  # type: ignore[misc]

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.__match_args__
        given = dict(zip(names, values, strict=False), **named)
        if len(values) > len(names) or given.keys() != set(names):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names) or 'nothing'}")
        self.__dict__.update(given)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.__match_args__)
        return f"{type(self).__name__}({fields})"
