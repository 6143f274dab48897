"""The one codec: messages declared as classes, to bytes and back.

Knows no socket, clock or event loop, and nothing of what the messages mean. Integers and strings of
the SSHOQ protocol are QUIC variable-length integers (RFC 9000 section 16) and varint-counted
strings; the fixed-width forms serve the file-transfer frames, the agent protocol and the messages
between our processes.

Modules that declare messages must not say ``from __future__ import annotations``, which this one
may, as it declares none: fields are read from ``__annotations__`` while the class is made, without
the cost of dataclasses at every start of the client.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # "socket" takes its time

from sshoq.named_tuple import NamedTuple

TYPE_CHECKING = False  # what type checkers take for true
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Annotated, Any, ClassVar, Self, dataclass_transform
else:  # a client that shares a connection would spend a fifth of its time on importing "typing"

    class Annotated:
        """typing's, as far as it is needed here: it carries a codec."""

        def __class_getitem__(cls, parameters):
            alias = cls()
            alias.__metadata__ = parameters[1:]
            return alias

    def dataclass_transform(**promises):
        return lambda declared: declared


MAX_VARINT = (1 << 62) - 1


class WireError(ValueError):
    """The bytes are no such message."""


class Incomplete(WireError):
    """The bytes end before the message does; more may make it whole."""


class IPPort(NamedTuple):
    """A literal IP address and a port, as section 5.1 of the protocol carries them."""

    ip: str
    port: int


# --------------------------------------------------------------------------- integers


def varint(value: int) -> bytes:
    """The shortest encoding of `value`; ValueError outside 0..2**62-1."""
    if value < 0:
        raise ValueError(f"negative varint {value}")
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    if value <= MAX_VARINT:
        return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")
    raise ValueError(f"varint {value} is too large")


def put_varint(out: bytearray, value: int) -> None:
    out += varint(value)


def put_string(value: bytes) -> bytes:
    """A string of RFC 4251, for what SSH has laid down: four bytes of length, then the bytes."""
    return len(value).to_bytes(4, "big") + value


def read_string(reader: Reader) -> bytes:
    return reader.take(reader.u32())


class Reader:
    """A cursor over bytes. Every method raises Incomplete when the bytes end too early."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes | bytearray | memoryview, position: int = 0) -> None:
        self.data = data
        self.position = position
        self.end = len(data)

    @property
    def remaining(self) -> int:
        return self.end - self.position

    def take(self, count: int) -> bytes:
        start = self.position
        stop = start + count
        if stop > self.end:
            raise Incomplete(f"{count} bytes wanted, {self.end - start} left")
        self.position = stop
        return bytes(self.data[start:stop])

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def u8(self) -> int:
        return self.integer(1)

    def u16(self) -> int:
        return self.integer(2)

    def u32(self) -> int:
        return self.integer(4)

    def u64(self) -> int:
        return self.integer(8)

    def varint(self) -> int:
        start = self.position
        if start >= self.end:
            raise Incomplete("varint wanted, nothing left")
        first = self.data[start]
        if first < 0x40:
            self.position = start + 1
            return first
        size = 1 << (first >> 6)
        value = self.integer(size)
        return value & ((1 << (8 * size - 2)) - 1)

    def bytes(self) -> bytes:
        return self.take(self.varint())

    def text(self) -> str:
        return decode_text(self.bytes())


def decode_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def encode_text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# --------------------------------------------------------------------------- field types


class Codec:
    """How one kind of field stands in the bytes."""

    __slots__ = ("put", "read")

    def __init__(
        self, read: Callable[[Reader], Any], put: Callable[[bytearray, Any], None]
    ) -> None:
        self.read = read
        self.put = put


def _fixed(size: int, *, signed: bool = False) -> Codec:
    def read(reader: Reader) -> int:
        return int.from_bytes(reader.take(size), "big", signed=signed)

    def put(out: bytearray, value: int) -> None:
        try:
            out += value.to_bytes(size, "big", signed=signed)
        except OverflowError:
            raise ValueError(f"{value} does not fit {size} bytes") from None

    return Codec(read, put)


def _counted(read_count: Callable[[Reader], int], put_count: Callable[[bytearray, int], None]
             ) -> Codec:
    def read(reader: Reader) -> bytes:
        return reader.take(read_count(reader))

    def put(out: bytearray, value: bytes) -> None:
        put_count(out, len(value))
        out += value

    return Codec(read, put)


def _as_text(raw: Codec) -> Codec:
    def read(reader: Reader) -> str:
        return decode_text(raw.read(reader))

    def put(out: bytearray, value: str) -> None:
        raw.put(out, encode_text(value))

    return Codec(read, put)


def _put_bool(out: bytearray, value: bool) -> None:
    out.append(1 if value else 0)


def _put_rest(out: bytearray, value: bytes) -> None:
    out += value


_FAMILIES = {4: (AF_INET, 4), 6: (AF_INET6, 16)}


def _read_address(reader: Reader) -> IPPort:
    family = reader.varint()
    if family not in _FAMILIES:
        raise WireError(f"unknown address family {family}")
    kind, size = _FAMILIES[family]
    raw = reader.take(size)
    return IPPort(inet_ntop(kind, raw), reader.u16())


def _put_address(out: bytearray, value: IPPort) -> None:
    family = 6 if ":" in value.ip else 4
    kind, _ = _FAMILIES[family]
    put_varint(out, family)
    try:
        out += inet_pton(kind, value.ip)
    except OSError:
        raise ValueError(f"{value.ip!r} is no IP address") from None
    out += value.port.to_bytes(2, "big")


class ListOf:
    """``Annotated[tuple[X, ...], ListOf(codec of X)]``: a varint count, then the items."""

    MOST = 65536

    def __init__(self, item: Any) -> None:
        self.codec = Codec(self._read, self._put)
        self._item = item

    def _read(self, reader: Reader) -> tuple[Any, ...]:
        count = reader.varint()
        if count > min(self.MOST, reader.remaining):  # every item takes at least a byte
            raise Incomplete(f"{count} items announced, {reader.remaining} bytes left")
        read = _codec_of(self._item).read
        return tuple(read(reader) for _ in range(count))

    def _put(self, out: bytearray, value: tuple[Any, ...]) -> None:
        put_varint(out, len(value))
        put = _codec_of(self._item).put
        for item in value:
            put(out, item)


_U8, _U16, _U32 = _fixed(1), _fixed(2), _fixed(4)
_BYTES = _counted(Reader.varint, put_varint)
_BYTES16 = _counted(Reader.u16, _U16.put)
_BYTES32 = _counted(Reader.u32, _U32.put)

Varint = Annotated[int, Codec(Reader.varint, put_varint)]
U8 = Annotated[int, _U8]
U16 = Annotated[int, _U16]
U32 = Annotated[int, _U32]
U64 = Annotated[int, _fixed(8)]
I64 = Annotated[int, _fixed(8, signed=True)]
Port = Annotated[int, _U16]
Bool = Annotated[bool, Codec(lambda reader: reader.u8() != 0, _put_bool)]
Bytes = Annotated[bytes, _BYTES]
Text = Annotated[str, _as_text(_BYTES)]
Bytes16 = Annotated[bytes, _BYTES16]
Text16 = Annotated[str, _as_text(_BYTES16)]
Bytes32 = Annotated[bytes, _BYTES32]
Text32 = Annotated[str, _as_text(_BYTES32)]
Address = Annotated[IPPort, Codec(_read_address, _put_address)]
Rest = Annotated[bytes, Codec(lambda reader: reader.take(reader.remaining), _put_rest)]


def _codec_of(annotation: Any) -> Codec:
    """The codec of a field's annotation: a field type above, a ListOf, or another message."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Codec):
            return extra
        if isinstance(extra, ListOf):
            return extra.codec
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return Codec(annotation.read, lambda out, value: value.write(out))
    raise TypeError(f"{annotation!r} is no field type")


# --------------------------------------------------------------------------- messages


@dataclass_transform(frozen_default=True, eq_default=True)
class Message:
    """A frozen value whose annotated fields, in order, are its bytes."""

    _codecs: ClassVar[dict[str, Codec]] = {}
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        # Codecs live in ClassVars; what carries one of our annotations is a field.
        own = {
            name: _codec_of(annotation)
            for name, annotation in vars(cls).get("__annotations__", {}).items()
            if str(getattr(annotation, "__origin__", None)) != "typing.ClassVar"
        }
        cls._codecs = {**cls._codecs, **own}
        cls._defaults = {
            **cls._defaults, **{name: cls.__dict__[name] for name in own if name in cls.__dict__}
        }

    def __init__(self, *values: Any, **named: Any) -> None:
        state = self.__dict__
        names = iter(self._codecs)
        if len(values) > len(self._codecs):
            raise TypeError(f"{type(self).__name__} takes {len(self._codecs)} values")
        for value in values:
            state[next(names)] = value
        for name in names:
            if name in named:
                state[name] = named.pop(name)
            elif name in self._defaults:
                state[name] = self._defaults[name]
            else:
                raise TypeError(f"{type(self).__name__} needs {name}")
        if named:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(named)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__dict__.values())

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """The message at the cursor; Incomplete when it goes on behind the end."""
        return cls(*[codec.read(reader) for codec in cls._codecs.values()])

    def write(self, out: bytearray) -> None:
        state = self.__dict__
        for name, codec in self._codecs.items():
            codec.put(out, state[name])

    def encode(self) -> bytes:
        out = bytearray()
        self.write(out)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """The message that all of `data` is; WireError if it is not."""
        reader = Reader(data)
        message = cls.read(reader)
        if reader.remaining:
            raise WireError(f"{reader.remaining} bytes after {cls.__name__}")
        return message


class MessageSet:
    """Messages that are told apart by a varint in front: the table of one conversation partner."""

    def __init__(self, table: dict[int, type[Message]]) -> None:
        self._by_id = table
        self._ids = {kind: number for number, kind in table.items()}

    def encode(self, message: Message) -> bytes:
        out = bytearray(varint(self._ids[type(message)]))
        message.write(out)
        return bytes(out)

    def decode(self, data: bytes | bytearray | memoryview) -> Message:
        """WireError on an unknown number, a message cut short, or bytes behind it."""
        reader = Reader(data)
        number = reader.varint()
        kind = self._by_id.get(number)
        if kind is None:
            raise WireError(f"unknown message {number}")
        message = kind.read(reader)
        if reader.remaining:
            raise WireError(f"{reader.remaining} bytes after {kind.__name__}")
        return message
