"""OpenSSH's protocol between a client and the master whose connection it shares, version 4.

Pure: messages to packets and back, and what of a packet is still missing. A packet is its length,
its type and its body; a request carries a number behind its type, which the answer repeats.
Descriptors follow a packet as messages of their own, so nobody may read past its end.

Loaded by clients that share, so without anything heavy.
"""

from sshoq.config.forward_spec import Forward
from sshoq.wire import (
    U32,
    Codec,
    Message,
    Reader,
    Text32,
    WireError,
    encode_text,
    put_string,
    read_string,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated
else:  # typing itself would double the time that a client takes to reach its master
    from sshoq.wire import Annotated

VERSION = 4

MAX_PACKET = 256 * 1024
"""Length, type and body; OpenSSH's bound for what a master reads."""

MAX_VARIABLES = 4096

NO_ESCAPE = 0xFFFF_FFFF
PATH_PORT = 0xFFFF_FFFE
"""Instead of a port: the host is the path of a Unix socket."""

LOCAL, REMOTE, DYNAMIC = 1, 2, 3

INFO_EXTENSION = "info"
"""The master answers AskInfo."""

CONNECTION_INFO, CHANNELS_INFO = "connection", "channels"


class MuxError(Exception):
    """The other side does not keep to the protocol."""


# --------------------------------------------------------------------------- fields


def _read_string(reader: Reader) -> str:
    """OpenSSH keeps these as C strings: a NUL would cut them short behind everybody's back."""
    data = read_string(reader)
    if b"\0" in data:
        raise WireError("NUL in a string")
    return data.decode("utf-8", "surrogateescape")


def _put_string(out: bytearray, value: str) -> None:
    data = encode_text(value)
    if b"\0" in data:
        raise ValueError("NUL in a string")
    out += put_string(data)


def _read_strings(reader: Reader) -> tuple[str, ...]:
    strings: list[str] = []
    while reader.remaining:
        if len(strings) == MAX_VARIABLES:
            raise WireError("too many strings")
        strings.append(_read_string(reader))
    return tuple(strings)


def _put_strings(out: bytearray, value: tuple[str, ...]) -> None:
    for string in value:
        _put_string(out, string)


def _read_flag(reader: Reader) -> bool:
    return reader.u32() != 0


def _put_flag(out: bytearray, value: bool) -> None:
    out += int(value).to_bytes(4, "big")


CString = Annotated[str, Codec(_read_string, _put_string)]
CStrings = Annotated[tuple[str, ...], Codec(_read_strings, _put_strings)]
"""All that is left of the packet."""
Flag = Annotated[bool, Codec(_read_flag, _put_flag)]

# --------------------------------------------------------------------------- messages


class Hello(Message):
    """Both sides, at once and once. `extensions`: names and values, in turn."""

    version: U32 = VERSION
    extensions: CStrings = ()

    def announces(self, name: str) -> bool:
        return name in self.extensions[::2]


class NewSession(Message):
    """Three descriptors follow: standard input, output and error. An empty command is a shell."""

    request: U32
    reserved: CString
    wants_tty: Flag
    wants_x11: Flag
    wants_agent: Flag
    is_subsystem: Flag
    escape: U32
    term: CString
    command: CString
    environment: CStrings = ()


class CheckAlive(Message):
    request: U32


class Terminate(Message):
    request: U32


class _Forward(Message):
    """A forwarding: `kind` is one of the three above."""

    request: U32
    kind: U32
    listen_host: CString
    listen_port: U32
    connect_host: CString
    connect_port: U32


class OpenForward(_Forward): ...


class CloseForward(_Forward): ...


class NewStdioForward(Message):
    """Two descriptors follow: standard input and output."""

    request: U32
    reserved: CString
    host: CString
    port: U32


class StopListening(Message):
    request: U32


class AskProxy(Message):
    """To speak SSH's own connection protocol from here on."""

    request: U32


class AskInfo(Message):
    """What is known about the `connection` or the `channels`."""

    request: U32
    name: CString


class Ok(Message):
    request: U32


class PermissionDenied(Message):
    request: U32
    reason: Text32


class Failed(Message):
    request: U32
    reason: Text32


class ExitMessage(Message):
    session: U32
    status: U32


class Alive(Message):
    """`pid`: who is to be told about changed window sizes."""

    request: U32
    pid: U32


class SessionOpened(Message):
    request: U32
    session: U32


class RemotePort(Message):
    """The port that the server chose."""

    request: U32
    port: U32


class TtyFailed(Message):
    session: U32


class Proxy(Message):
    request: U32


class Info(Message):
    request: U32
    status: U32
    text: Text32


_TYPES: dict[int, type[Message]] = {
    0x0000_0001: Hello,
    0x1000_0002: NewSession,
    0x1000_0004: CheckAlive,
    0x1000_0005: Terminate,
    0x1000_0006: OpenForward,
    0x1000_0007: CloseForward,
    0x1000_0008: NewStdioForward,
    0x1000_0009: StopListening,
    0x1000_000F: AskProxy,
    0x2000_0001: AskInfo,
    0x8000_0001: Ok,
    0x8000_0002: PermissionDenied,
    0x8000_0003: Failed,
    0x8000_0004: ExitMessage,
    0x8000_0005: Alive,
    0x8000_0006: SessionOpened,
    0x8000_0007: RemotePort,
    0x8000_0008: TtyFailed,
    0x8000_000F: Proxy,
    0x9000_0001: Info,
}
_NUMBERS = {kind: number for number, kind in _TYPES.items()}

# --------------------------------------------------------------------------- packets


class Unknown(Message):
    """A packet of a type that we do not know. What looks like a request is to be refused."""

    type: U32
    request: U32


def encode_packet(message: Message) -> bytes:
    body = bytearray(_NUMBERS[type(message)].to_bytes(4, "big"))
    message.write(body)
    return len(body).to_bytes(4, "big") + body


def decode_packet(payload: bytes) -> Message:
    """The message of a packet, without its length. MuxError when it is none."""
    try:
        reader = Reader(payload)
        number = reader.u32()
        kind = _TYPES.get(number)
        if kind is None:
            return Unknown(number, reader.u32() if reader.remaining >= 4 else 0)
        return kind.decode(payload[reader.position :])
    except WireError as error:
        raise MuxError(f"malformed packet: {error}") from None


class PacketState:
    """A packet as it comes in: how much of it may be read now."""

    def __init__(self) -> None:
        self._length: int | None = None
        self._data = bytearray()

    @property
    def wanted(self) -> int:
        """So many bytes at most belong to this packet for certain."""
        return (4 if self._length is None else self._length) - len(self._data)

    def receive(self, data: bytes) -> Message | None:
        """No more than `wanted`. The message, once it is whole; MuxError when it is none."""
        self._data += data
        if self.wanted:
            return None
        whole = bytes(self._data)
        self._data.clear()
        if self._length is None:
            self._length = _checked_length(int.from_bytes(whole, "big"))
            return None
        self._length = None
        return decode_packet(whole)


def _checked_length(length: int) -> int:
    if not 4 <= length <= MAX_PACKET - 4:
        raise MuxError(f"packet of {length} bytes")
    return length


# --------------------------------------------------------------------------- forwardings


ForwardFields = tuple[int, str, int, str, int]
"""A forwarding as requests carry it, and as it must be named to be closed again: its kind, where to
listen, where to connect to."""

_SOCKS = ("socks", 0)


def fields_of(forward: Forward, *, remote: bool) -> ForwardFields:
    kind = REMOTE if remote else DYNAMIC if forward.dynamic else LOCAL
    if forward.listen_path is not None:
        listen = forward.listen_path, PATH_PORT
    else:
        host = forward.listen_host
        listen = "" if host is None else host or "*", forward.listen_port or 0
    if forward.dynamic:
        connect = _SOCKS
    elif forward.connect_path is not None:
        connect = forward.connect_path, PATH_PORT
    else:
        connect = forward.connect_host or "", forward.connect_port or 0
    return kind, *listen, *connect


def forward_of(request: "OpenForward | CloseForward") -> Forward:
    """MuxError when there is no such forwarding."""
    kind, remote = request.kind, request.kind == REMOTE
    listen, connect = _end(request.listen_port), _end(request.connect_port)
    dynamic = kind == DYNAMIC or (remote and connect == 0)
    known = kind in (LOCAL, REMOTE, DYNAMIC) and (connect != 0 or dynamic)
    if not known or (listen == 0 and not remote) or (kind == DYNAMIC and listen is None):
        raise MuxError("Invalid forwarding request")
    return Forward(
        listen_path=request.listen_host if listen is None else None,
        listen_host=(request.listen_host or None) if listen is not None else None,
        listen_port=listen,
        connect_path=request.connect_host if connect is None and not dynamic else None,
        connect_host=request.connect_host if connect is not None and not dynamic else None,
        connect_port=connect if not dynamic else None,
        dynamic=dynamic,
    )


def _end(port: int) -> int | None:
    """A port, or None for a path."""
    if port == PATH_PORT:
        return None
    if port > 65535:
        raise MuxError("Invalid forwarding request")
    return port
