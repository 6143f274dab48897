"""Process: the session leader's child [the user]. SFTP's packets, version 3 as
draft-ietf-secsh-filexfer-02 and OpenSSH's PROTOCOL have it. Pure.

Names are bytes, as the file system has them. What a request means is sftp_server.py's business.
"""

from typing import Annotated

from sshoq.named_tuple import NamedTuple
from sshoq.wire import U32, U64, Bytes32, Codec, Message, Reader, Rest, WireError

VERSION = 3
MAX_PACKET = 256 * 1024
"""What OpenSSH's programs send and take."""
MAX_DATA = MAX_PACKET - 1024
"""Bytes of a file in a packet."""
LENGTH = 4

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
UNSUPPORTED = 8

STATUS_TEXTS = {
    OK: b"Success",
    EOF: b"End of file",
    NO_SUCH_FILE: b"No such file",
    PERMISSION_DENIED: b"Permission denied",
    FAILURE: b"Failure",
    BAD_MESSAGE: b"Bad message",
    UNSUPPORTED: b"Operation unsupported",
}

READ_FLAG, WRITE_FLAG, APPEND_FLAG, CREATE_FLAG, TRUNCATE_FLAG, EXCLUSIVE_FLAG = (
    1 << bit for bit in range(6)
)

INIT = 1
EXTENDED = 200


# --------------------------------------------------------------------------- attributes

_SIZE, _OWNER, _MODE, _TIMES = 1, 2, 4, 8
_EXTENDED = 1 << 31
_KNOWN = _SIZE | _OWNER | _MODE | _TIMES | _EXTENDED
_MAX_EXTENSIONS = 1024


class Attributes(NamedTuple):
    """What is known of a file, or is to be set; None: not said."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None
    """Last use and last change."""


def _read_attributes(reader: Reader) -> Attributes:
    flags = reader.u32()
    if flags & ~_KNOWN:
        raise WireError(f"unknown attributes {flags:#x}")
    attributes = Attributes(
        size=reader.u64() if flags & _SIZE else None,
        owner=(reader.u32(), reader.u32()) if flags & _OWNER else None,
        mode=reader.u32() if flags & _MODE else None,
        times=(reader.u32(), reader.u32()) if flags & _TIMES else None,
    )
    count = reader.u32() if flags & _EXTENDED else 0
    if count > _MAX_EXTENSIONS:
        raise WireError(f"{count} extended attributes")
    for _ in range(2 * count):  # nobody knows any
        reader.take(reader.u32())
    return attributes


def _put_attributes(out: bytearray, value: Attributes) -> None:
    flags, rest = 0, b""
    if value.size is not None:
        flags |= _SIZE
        rest += value.size.to_bytes(8, "big")
    for flag, words in (
        (_OWNER, value.owner),
        (_MODE, None if value.mode is None else (value.mode,)),
        (_TIMES, value.times),
    ):
        if words is not None:
            flags |= flag
            rest += b"".join((word & 0xFFFF_FFFF).to_bytes(4, "big") for word in words)
    out += flags.to_bytes(4, "big") + rest


AttributesField = Annotated[Attributes, Codec(_read_attributes, _put_attributes)]


# --------------------------------------------------------------------------- requests


class Request(Message):
    """What all requests begin with."""

    id: U32


class OfPath(Request):
    path: Bytes32


class OfHandle(Request):
    handle: Bytes32


class OfTwoPaths(Request):
    first: Bytes32
    second: Bytes32


class SetOfPath(OfPath):
    attributes: AttributesField


class SetOfHandle(OfHandle):
    attributes: AttributesField


class Open(OfPath):
    flags: U32
    attributes: AttributesField


class Read(OfHandle):
    offset: U64
    length: U32


class Write(OfHandle):
    offset: U64
    data: Bytes32


class CopyData(OfHandle):
    offset: U64
    length: U64
    """0: to the end."""
    target: Bytes32
    target_offset: U64


class NumbersOfNames(Request):
    """Packed 32-bit numbers of users, and of groups."""

    users: Bytes32
    groups: Bytes32


class Extended(Request):
    name: Bytes32
    rest: Rest


# --------------------------------------------------------------------------- answers


class Version(Message):
    version: U32
    extensions: Rest


class Status(Message):
    id: U32
    code: U32
    text: Bytes32
    language: Bytes32 = b""


class Handle(Message):
    id: U32
    handle: Bytes32


class Data(Message):
    id: U32
    data: Bytes32


class Name(Message):
    """A directory's entry; `line` is for people, as of `ls -l`."""

    name: Bytes32
    line: Bytes32
    attributes: AttributesField = Attributes()


def _read_names(reader: Reader) -> tuple[Name, ...]:
    count = reader.u32()
    if count > MAX_PACKET:
        raise WireError(f"{count} names")
    return tuple(Name.read(reader) for _ in range(count))


def _put_names(out: bytearray, names: tuple[Name, ...]) -> None:
    out += len(names).to_bytes(4, "big")
    for name in names:
        name.write(out)


class Names(Message):
    id: U32
    names: Annotated[tuple[Name, ...], Codec(_read_names, _put_names)]


class AttributesOf(Message):
    id: U32
    attributes: AttributesField


class ExtendedReply(Message):
    id: U32
    content: Rest


ANSWERS: dict[type[Message], int] = {
    Version: 2,
    Status: 101,
    Handle: 102,
    Data: 103,
    Names: 104,
    AttributesOf: 105,
    ExtendedReply: 201,
}


def encode_packet(answer: Message) -> bytes:
    out = bytearray(LENGTH + 1)
    out[LENGTH] = ANSWERS[type(answer)]
    answer.write(out)
    out[:LENGTH] = (len(out) - LENGTH).to_bytes(LENGTH, "big")
    return bytes(out)


class PacketReader:
    """Bytes in, cut anywhere; whole packets out, without their length. WireError."""

    def __init__(self) -> None:
        self._partial = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        partial = self._partial
        partial += data
        packets = []
        start = 0
        with memoryview(partial) as view:
            while len(partial) - start >= LENGTH:
                body = start + LENGTH
                size = int.from_bytes(view[start:body], "big")
                if not 0 < size <= MAX_PACKET:
                    raise WireError(f"a packet of {size} bytes")
                if len(partial) - body < size:
                    break
                start = body + size
                packets.append(bytes(view[body:start]))
        del partial[:start]
        return packets
