"""Every message of a channel, declared: how channels open, what is said, what is requested.

Names and numbers are RFC 4254's where it has them; docs/protocol.md shows every byte. What may
follow what stands in `channel.py` and `session.py`. (No ``from __future__ import annotations``
here: `wire.Message` reads the annotations while a class is made.)
"""

from collections.abc import Iterable
from enum import IntEnum
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Annotated, ClassVar, Self

from sshoq.protocol.extensions import NONE, Extension
from sshoq.protocol.outcome import CHANNEL_REFUSED, ProtocolError
from sshoq.wire import (
    Address,
    Bool,
    Bytes,
    Codec,
    Incomplete,
    IPPort,
    Message,
    Port,
    Reader,
    Text,
    Varint,
    WireError,
    decode_text,
    encode_text,
    put_varint,
    varint,
)

SIGNAL_VALUE = 0xAF3627E6
"""The first varint of a channel's stream, where HTTP/3 would have a frame type."""

CONFIRMATION = 91
FAILURE_TO_OPEN = 92
DATA = 94
EXTENDED_DATA = 95
EOF = 96
REQUEST = 98
SUCCESS = 99
FAILURE = 100
CHAFF = 101

STDERR = 1
"""The one type of extended data (RFC 4254 5.2)."""

MAX_TYPE = 256
MAX_HEADER = 2048
"""The longest channel header: its type, two addresses or names, and some slack."""
MAX_NAME = 256
MAX_COMMAND = 128 * 1024
"""The kernel takes no longer argument (MAX_ARG_STRLEN), so no longer command line can be run."""

MAX_HOST_KEYS = 64 * 1024
"""All keys of a host together: 32, if each is as long as RSA keys ever are."""

FORWARD_AGENT = b"forward-agent"
"""Data ahead of the first request that asks for agent forwarding, in the Go client's way."""


class BoundedReader(Reader):
    """A cursor that refuses what would reach beyond `bound`, before more is waited for."""

    __slots__ = ("bound",)

    def __init__(self, data: bytes | bytearray | memoryview, bound: int, position: int = 0) -> None:
        super().__init__(data, position)
        self.bound = bound

    def take(self, count: int) -> bytes:
        if self.position + count > self.bound:
            raise ProtocolError(f"{self.position + count} bytes, where {self.bound} are the most")
        return super().take(count)


# --------------------------------------------------------------------------- openings

_IN_TYPE = Codec(lambda reader: None, lambda out, value: None)
"""A field that has no bytes of its own, because the channel type's text carries it."""


class ChannelOpening(Message):
    """What a channel is for: its type and the fields that belong to the type."""

    type_name: ClassVar[str] = ""
    opened_by_client: ClassVar[bool] = True
    fork_only: ClassVar[bool] = False
    """Unknown to francoismichel/ssh3 servers, which die of it."""
    needs: ClassVar[Extension] = NONE
    """What both sides must have announced before it may be opened."""
    accepts: ClassVar[frozenset[int]] = frozenset({DATA})
    """Messages the type carries, beside the confirmation and the refusal."""
    datagrams: ClassVar[bool] = False
    ignores_rest: ClassVar[bool] = False
    """The opener's side ends with its fields: whatever follows them means nothing."""

    def __init_subclass__(cls, name: str = "") -> None:
        super().__init_subclass__()
        if name:
            cls.type_name = name
            OPENINGS[name] = cls

    @property
    def type_text(self) -> str:
        """The type as it stands on the wire; two types carry addresses in it."""
        return self.type_name

    @classmethod
    def of_type(cls, text: str, reader: Reader) -> Self:
        """The opening whose type is `text` and whose fields, if it has any, are at the cursor."""
        return cls.read(reader)


OPENINGS: dict[str, type[ChannelOpening]] = {}


class Session(ChannelOpening, name="session"):
    """A program or shell with its standard streams (RFC 4254 6.1)."""

    accepts = frozenset({DATA, EXTENDED_DATA, EOF, REQUEST, SUCCESS, FAILURE, CHAFF})


class Sftp(ChannelOpening, name="sftp"):
    """File transfer in the fork's own frames, one data message or several to a frame."""

    fork_only = True


class AgentConnection(ChannelOpening, name="agent-connection"):
    """A program at the server wants to talk to the client's agent."""

    opened_by_client = False


class DirectTcp(ChannelOpening, name="direct-tcp"):
    """The server is to connect to `target` and relay."""

    target: Address


class DirectUdp(ChannelOpening, name="direct-udp"):
    """The server is to relay datagrams to `target`, one QUIC DATAGRAM to a packet."""

    target: Address
    accepts = frozenset()
    datagrams = True


class _ReverseRequest(ChannelOpening):
    """The server is to listen, and to open a channel to the client's `target` for each caller."""

    listen: Address
    target: Address
    fork_only = True
    accepts = frozenset()
    ignores_rest = True

    def write(self, out: bytearray) -> None:
        super().write(out)
        # A Go server loses a last field that comes with the stream's end: send the port twice.
        out += self.target.port.to_bytes(2, "big")


class RequestReverseTcp(_ReverseRequest, name="request-reverse-tcp"):
    """TCP connections to the server's listener."""


class RequestReverseUdp(_ReverseRequest, name="request-reverse-udp"):
    """Datagrams to the server's socket."""


class OpenReverseTcp(ChannelOpening, name="open-request-reverse-tcp"):
    """Somebody connected to the server's listener. Go versions to 0.3.1 leave the target out."""

    target: Annotated[IPPort | None, _IN_TYPE] = None
    opened_by_client = False

    @property
    def type_text(self) -> str:
        return self.type_name + (f",{format_address(self.target)}" if self.target else "")

    @classmethod
    def of_type(cls, text: str, reader: Reader) -> Self:
        _, *addresses = text.split(",")
        if len(addresses) > 1:
            raise WireError(f"{text!r} names {len(addresses)} addresses")
        return cls(*[parse_address(address) for address in addresses])


class OpenReverseUdp(ChannelOpening, name="open-request-reverse-udp"):
    """A first datagram from somewhere reached the server's socket `listen`."""

    listen: Annotated[IPPort, _IN_TYPE]
    target: Annotated[IPPort, _IN_TYPE]
    opened_by_client = False
    accepts = frozenset()
    datagrams = True

    @property
    def type_text(self) -> str:
        return f"{self.type_name},{format_address(self.listen)},{format_address(self.target)}"

    @classmethod
    def of_type(cls, text: str, reader: Reader) -> Self:
        _, *addresses = text.split(",")
        if len(addresses) != 2:
            raise WireError(f"{text!r} does not name two addresses")
        return cls(*[parse_address(address) for address in addresses])


# Between our own programs: RFC 4254 7 and OpenSSH's PROTOCOL 2.4. A request to listen is a channel
# that stays open as long as the listener is to; whoever calls there comes on channels that name it.


class DirectTcpip(ChannelOpening, name="direct-tcpip"):
    """RFC 4254 7.2: connect to a host by its name, and relay. Who called at the client, for the
    log."""

    host: Text
    port: Port
    originator: Text = ""
    originator_port: Port = 0
    needs = Extension.FORWARD


class DirectStreamlocal(ChannelOpening, name="direct-streamlocal@openssh.com"):
    """Connect to a Unix socket of the server's, and relay."""

    path: Text
    needs = Extension.FORWARD


class DirectUdpip(ChannelOpening, name="direct-udpip"):
    """The same for datagrams to a host by its name."""

    host: Text
    port: Port
    needs = Extension.FORWARD
    accepts = frozenset()
    datagrams = True


class _ListenerOpening(ChannelOpening):
    """The server listens, confirms, and says `Listening`; the end of the client's side ends it."""

    needs = Extension.FORWARD
    accepts = frozenset({REQUEST})


class TcpipForward(_ListenerOpening, name="tcpip-forward"):
    """RFC 4254 7.1: listen there. Address "" means everywhere, "localhost" both loopbacks; port 0
    any port."""

    address: Text
    port: Port


class StreamlocalForward(_ListenerOpening, name="streamlocal-forward@openssh.com"):
    """Listen on a Unix socket, made at `path`."""

    path: Text


class UdpipForward(_ListenerOpening, name="udpip-forward"):
    """The same for datagrams."""

    address: Text
    port: Port


class _Forwarded(ChannelOpening):
    """Somebody called at a listener; `listener` is the stream of the channel that asked for it."""

    listener: Varint
    needs = Extension.FORWARD
    opened_by_client = False


class ForwardedTcpip(_Forwarded, name="forwarded-tcpip"):
    """RFC 4254 7.2, with the listener's channel for its address and port."""

    originator: Text
    originator_port: Port


class ForwardedStreamlocal(_Forwarded, name="forwarded-streamlocal@openssh.com"):
    """The same on a Unix socket, whose callers have no address."""


class ForwardedUdpip(_Forwarded, name="forwarded-udpip"):
    """A first datagram from a new sender."""

    originator: Text
    originator_port: Port
    accepts = frozenset()
    datagrams = True


class X11(ChannelOpening, name="x11"):
    """RFC 4254 6.3.2: an X client called at the display of that session, which is named by its
    channel's stream."""

    session: Varint
    originator: Text
    originator_port: Port
    needs = Extension.X11
    opened_by_client = False


class HostKeys(ChannelOpening, name="hostkeys-00@openssh.com"):
    """The client asks for all keys of the host, and then for proof of some (OpenSSH's PROTOCOL
    2.5, where the server begins)."""

    needs = Extension.HOST_KEYS
    accepts = frozenset({REQUEST})


class UnknownChannel(ChannelOpening):
    """A type we do not know: its fields cannot be told from messages, so it is refused."""

    name: Annotated[str, _IN_TYPE]
    accepts = frozenset()
    ignores_rest = True

    @property
    def type_text(self) -> str:
        return self.name


def parse_address(text: str) -> IPPort:
    """``a.b.c.d:port`` or ``[v6]:port``, as channel types carry them."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 0xFFFF:
        raise WireError(f"{text!r} has no port")
    ip, family = host, AF_INET
    if host[:1] == "[" and host[-1:] == "]":
        ip, family = host[1:-1], AF_INET6
    try:
        ip = inet_ntop(family, inet_pton(family, ip))  # one spelling, so that addresses compare
    except (OSError, ValueError):
        raise WireError(f"{text!r} is no address") from None
    return IPPort(ip, int(port))


def format_address(address: IPPort) -> str:
    ip = f"[{address.ip}]" if ":" in address.ip else address.ip
    return f"{ip}:{address.port}"


def unmapped(address: IPPort) -> IPPort:
    """The IPv4 address that Go's command line sends as ``::ffff:a.b.c.d``; any other as it is."""
    if address.ip.startswith("::ffff:") and "." in address.ip:
        return IPPort(address.ip[7:], address.port)
    return address


class ChannelHeader:
    """What a channel stream starts with."""

    __slots__ = ("conversation_id", "max_message", "opening")

    def __init__(self, conversation_id: int, opening: ChannelOpening, max_message: int) -> None:
        self.conversation_id = conversation_id
        self.opening = opening
        self.max_message = max_message

    def encode(self) -> bytes:
        out = bytearray(varint(SIGNAL_VALUE) + varint(self.conversation_id))
        kind = encode_text(self.opening.type_text)
        put_varint(out, len(kind))
        out += kind
        put_varint(out, self.max_message)
        self.opening.write(out)
        return bytes(out)


def read_header(data: bytes | bytearray | memoryview) -> tuple[ChannelHeader, int]:
    """The header at the start of `data`, signal value included, and its length.

    Incomplete when it goes on behind the end, ProtocolError when it never can be one.
    """
    reader = BoundedReader(data, MAX_HEADER)
    if reader.varint() != SIGNAL_VALUE:
        raise ProtocolError("not a channel", CHANNEL_REFUSED)
    conversation_id = reader.varint()
    size = reader.varint()
    if size > MAX_TYPE:
        raise ProtocolError(f"a channel type of {size} bytes", CHANNEL_REFUSED)
    kind = decode_text(reader.take(size))
    max_message = reader.varint()
    try:
        opening = _read_opening(kind, reader)
    except Incomplete:
        raise
    except WireError as error:
        raise ProtocolError(str(error), CHANNEL_REFUSED) from None
    return ChannelHeader(conversation_id, opening, max_message), reader.position


def _read_opening(kind: str, reader: Reader) -> ChannelOpening:
    known = OPENINGS.get(kind.partition(",")[0])
    if known is None or ("," in kind and not issubclass(known, OpenReverseTcp | OpenReverseUdp)):
        return UnknownChannel(kind)
    return known.of_type(kind, reader)


# --------------------------------------------------------------------------- messages


class Confirmation(Message):
    """91: the channel is accepted; the sender's largest message."""

    max_message: Varint


class Refusal(Message):
    """92: the channel is not accepted. The tag is never left empty: see `ChannelState.finish`."""

    reason: Varint
    text: Text
    language: Text = "en"


class RefusalReason(IntEnum):
    """RFC 4254 5.1."""

    ADMINISTRATIVELY_PROHIBITED = 1
    CONNECT_FAILED = 2
    UNKNOWN_CHANNEL_TYPE = 3
    RESOURCE_SHORTAGE = 4


class ChaffMessage(Message):
    """101: nothing at all, so that nobody sees when something is said (CHAFF)."""

    want_answer: Bool
    filler: Bytes


class ChannelRequest(Message):
    """98: a name, whether a reply is wanted, and the fields of that name."""

    name_on_wire: ClassVar[str] = ""
    needs: ClassVar[Extension] = NONE
    """What both sides must have announced before it may be sent."""
    bounds: ClassVar[dict[str, int]] = {}
    """The most bytes of the fields that have no bound by themselves."""

    def __init_subclass__(
        cls, name: str = "", needs: Extension = NONE, bounds: dict[str, int] | None = None
    ) -> None:
        super().__init_subclass__()
        cls.name_on_wire = name
        cls.needs = needs
        cls.bounds = bounds or {}
        REQUESTS[name] = cls

    @classmethod
    def bound(cls) -> int:
        """The most bytes that all fields take together."""
        return sum(cls.bounds.values()) + 9 * len(cls._codecs)


REQUESTS: dict[str, type[ChannelRequest]] = {}


class PtyReq(ChannelRequest, name="pty-req", bounds={"term": 256, "modes": 4096}):
    """RFC 4254 6.2: a terminal of that type and size; `modes` are encoded as in its section 8."""

    term: Text
    columns: Varint
    rows: Varint
    width: Varint = 0
    height: Varint = 0
    modes: Bytes = b""


class Shell(ChannelRequest, name="shell"):
    """RFC 4254 6.5: the user's login shell."""


class Exec(ChannelRequest, name="exec", bounds={"command": MAX_COMMAND}):
    """RFC 4254 6.5: a command line for the user's shell."""

    command: Text


class Subsystem(ChannelRequest, name="subsystem", needs=Extension.SUBSYSTEM,
                bounds={"subsystem": MAX_NAME}):
    """RFC 4254 6.5: a program that the server knows by a name."""

    subsystem: Text


class Env(ChannelRequest, name="env", needs=Extension.ENV,
          bounds={"variable": MAX_NAME, "value": 16384}):
    """RFC 4254 6.4: a variable for the program that is started next."""

    variable: Text
    value: Text


class WindowChange(ChannelRequest, name="window-change"):
    """RFC 4254 6.7: the terminal's new size, in characters and in pixels."""

    columns: Varint
    rows: Varint
    width: Varint = 0
    height: Varint = 0


class Signal(ChannelRequest, name="signal", needs=Extension.SIGNAL, bounds={"signal": 64}):
    """RFC 4254 6.9: the name without SIG. A Go server dies with the process that a signal ends."""

    signal: Text


class Break(ChannelRequest, name="break", needs=Extension.SIGNAL):
    """RFC 4335: a break condition on the terminal."""

    milliseconds: Varint


class EndOfWrite(ChannelRequest, name="eow@openssh.com", needs=Extension.EOW):
    """OpenSSH's PROTOCOL 2.1: nobody reads the program's output any more. Its errors and its status
    are still wanted.
    """


class ExitStatus(ChannelRequest, name="exit-status"):
    """RFC 4254 6.10: the program ended by itself."""

    status: Varint


class ExitSignal(ChannelRequest, name="exit-signal",
                 bounds={"signal": 64, "text": 4096, "language": 64}):
    """RFC 4254 6.10: the program was ended by a signal."""

    signal: Text
    core_dumped: Bool = False
    text: Text = ""
    language: Text = "en"


class AgentReq(ChannelRequest, name="auth-agent-req@openssh.com", needs=Extension.AGENT):
    """OpenSSH's PROTOCOL.agent: the program is to have an agent socket that leads to the client."""


class Listening(ChannelRequest, name="listening", needs=Extension.FORWARD):
    """The server: the listener stands, at this port (0 for a Unix socket)."""

    port: Varint


class OfferKeys(ChannelRequest, name="hostkeys-00@openssh.com", needs=Extension.HOST_KEYS,
                bounds={"keys": MAX_HOST_KEYS}):
    """The server: these are the host's keys."""

    keys: Bytes
    """`join_strings` of the keys in SSH's form."""


class WantProof(ChannelRequest, name="hostkeys-prove-00@openssh.com", needs=Extension.HOST_KEYS,
                bounds={"keys": MAX_HOST_KEYS}):
    """The client: prove that you have these."""

    keys: Bytes


class GiveProof(ChannelRequest, name="hostkeys-proof-00@sshoq", needs=Extension.HOST_KEYS,
                bounds={"signatures": MAX_HOST_KEYS}):
    """The server: a signature for each of them, in their order."""

    signatures: Bytes


class X11Req(ChannelRequest, name="x11-req", needs=Extension.X11,
             bounds={"protocol": MAX_NAME, "cookie": MAX_NAME}):
    """RFC 4254 6.3.1: the program is to have a display that leads to the client's. `cookie`, in
    hexadecimal, is what X clients are to show here; `single`: one of them is enough."""

    single: Bool
    protocol: Text
    cookie: Text
    screen: Varint


def join_strings(strings: Iterable[bytes]) -> bytes:
    """Strings one behind another, for a field that holds any number of them."""
    return b"".join(varint(len(string)) + string for string in strings)


def split_strings(field: bytes) -> list[bytes]:
    """The other way round; ProtocolError if the field is something else."""
    reader = Reader(field)
    strings = []
    try:
        while reader.remaining:
            strings.append(reader.bytes())
    except Incomplete:
        raise ProtocolError("a list of strings is cut") from None
    return strings


def encode_request(request: ChannelRequest, want_reply: bool = False) -> bytes:
    out = bytearray(varint(REQUEST))
    name = encode_text(request.name_on_wire)
    put_varint(out, len(name))
    out += name
    out.append(want_reply)
    request.write(out)
    return bytes(out)


def read_request(reader: BoundedReader) -> tuple[ChannelRequest, bool]:
    """The request behind its number, and whether a reply is wanted. Moves the reader's bound."""
    reader.bound = reader.position + MAX_NAME + 9
    name = reader.text()
    kind = REQUESTS.get(name)
    if kind is None:
        raise ProtocolError(f"unknown channel request {name[:80]!r}")
    reader.bound = reader.position + 1 + kind.bound()
    want_reply = reader.u8() != 0
    request = kind.read(reader)
    for field, most in kind.bounds.items():
        value = getattr(request, field)
        if len(value if isinstance(value, bytes) else encode_text(value)) > most:
            raise ProtocolError(f"{name}: more than {most} bytes of {field}")
    return request, want_reply
