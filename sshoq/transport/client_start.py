"""A client's first flight, written by hand: to load the library that would write it takes 20 ms.

The library does it all again when it is there, with the same dice (`Dice`), and has to come to the
very same bytes; see `Engine.client`. Another release of it may write others: then what was sent is
given up for a flight of its own, which costs the time that was to be saved. So nothing here needs
to be clever, and nothing that it does is relied upon.
"""

import os
import struct
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import x25519

from sshoq.transport.events import Limits
from sshoq.transport.identity import offered_schemes
from sshoq.transport.packets import CID_LENGTH, VERSION_1, InitialKeys, initial_header
from sshoq.transport.tls_groups import HYBRID_GROUP, HybridPrivateKey
from sshoq.wire import varint

ALPN = "h3"

IDLE_TIMEOUT = 900.0
"""Seconds of silence after which the connection is given up; Go servers say 30. A client may be
suspended for so long and go on; where nobody listens any more, the network mostly says so at once.
"""
KEEP_ALIVE = 10.0

DATAGRAM_SIZE = 1200

MAX_DATAGRAM_FRAME = 65535
"""Accepted of the peer, announced as transport parameter; Go peers want any value above 0."""

SUITES = (0x1301, 0x1302, 0x1303)
"""AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305."""

X25519_GROUP = 0x001D

_TLS_1_2, _TLS_1_3 = 0x0303, 0x0304
_CLIENT_HELLO = 1
_CRYPTO_FRAME = 6
_TAG_LENGTH = 16
_NUMBER_LENGTH = 2

# What aioquic announces of its own accord.
_ACK_DELAY_EXPONENT = 3
_MAX_ACK_DELAY = 25
_MAX_CONNECTION_IDS = 8


class Dice:
    """All that is random in a first flight. For one connection only."""

    __slots__ = ("curve_key", "destination_cid", "hybrid_key", "random", "source_cid")

    def __init__(self) -> None:
        self.source_cid = os.urandom(CID_LENGTH)
        self.destination_cid = os.urandom(CID_LENGTH)
        self.random = os.urandom(32)
        self.curve_key = x25519.X25519PrivateKey.generate()
        self.hybrid_key = HybridPrivateKey()


def first_flight(
    dice: Dice,
    server_name: str | None,
    *,
    idle_timeout: float,
    limits: Limits,
    preferred_schemes: Sequence[int] = (),
) -> list[bytes]:
    """The datagrams with which `Engine.client` of the same begins."""
    parameters = _transport_parameters(dice, idle_timeout, limits)
    hello = _client_hello(dice, server_name, offered_schemes(preferred_schemes), parameters)
    keys = InitialKeys.of(VERSION_1, dice.destination_cid, "client in")
    datagrams: list[bytes] = []
    offset = 0
    while offset < len(hello):
        datagram, offset = _datagram(dice, keys, len(datagrams), hello, offset)
        datagrams.append(datagram)
    return datagrams


def plain_name(server_name: str | None) -> str | None:
    """As it is sent: without the dot at its end."""
    return server_name.rstrip(".") if server_name else None


# ------------------------------------------------------------------------------------- packets


def _datagram(
    dice: Dice, keys: InitialKeys, number: int, data: bytes, offset: int
) -> tuple[bytes, int]:
    """One packet with as much of the data as there is room for, and where the rest begins."""
    header = initial_header(VERSION_1, dice.destination_cid, dice.source_cid)
    front = bytes([_CRYPTO_FRAME]) + varint(offset)
    fixed = len(header) + 2 + _NUMBER_LENGTH + len(front) + 2 + _TAG_LENGTH
    piece = data[offset : offset + DATAGRAM_SIZE - fixed]
    payload = front + _long_length(len(piece)) + piece
    header += _long_length(_NUMBER_LENGTH + len(payload) + _TAG_LENGTH)
    packet = keys.seal(header, number, _NUMBER_LENGTH, payload)
    return packet.ljust(DATAGRAM_SIZE, b"\0"), offset + len(piece)


def _long_length(number: int) -> bytes:
    """In two bytes, also where one would do."""
    return struct.pack("!H", number | 0x4000)


def _transport_parameters(dice: Dice, idle_timeout: float, limits: Limits) -> bytes:
    """RFC 9000 18.2, RFC 9221 3 and RFC 9368 3."""
    window = varint(limits.stream_window)
    parameters = {
        0x01: varint(int(idle_timeout * 1000)),
        0x04: varint(limits.connection_window),
        0x05: window,
        0x06: window,
        0x07: window,
        0x08: varint(limits.bidirectional_streams),
        0x09: varint(limits.unidirectional_streams),
        0x0A: varint(_ACK_DELAY_EXPONENT),
        0x0B: varint(_MAX_ACK_DELAY),
        0x0E: varint(_MAX_CONNECTION_IDS),
        0x0F: dice.source_cid,
        0x11: struct.pack("!II", VERSION_1, VERSION_1),
        0x20: varint(MAX_DATAGRAM_FRAME),
    }
    return b"".join(
        varint(number) + varint(len(value)) + value for number, value in parameters.items()
    )


# ----------------------------------------------------------------------------------------- TLS


def _client_hello(
    dice: Dice, server_name: str | None, schemes: Sequence[int], parameters: bytes
) -> bytes:
    """RFC 8446 4.1.2."""
    hybrid_share = dice.hybrid_key.own_share()
    curve_share = dice.curve_key.public_key().public_bytes_raw()
    shares = [
        _number(group) + _vector(2, share)
        for group, share in ((HYBRID_GROUP, hybrid_share), (X25519_GROUP, curve_share))
    ]
    extensions = [
        (51, _vector(2, *shares)),
        (43, _vector(1, _number(_TLS_1_3))),
        (13, _vector(2, *map(_number, schemes))),
        (10, _vector(2, _number(HYBRID_GROUP), _number(X25519_GROUP))),
    ]
    name = plain_name(server_name)
    if name is not None:
        extensions.append((0, _vector(2, b"\0", _vector(2, name.encode("ascii")))))
    extensions.append((16, _vector(2, _vector(1, ALPN.encode()))))
    extensions.append((57, parameters))
    body = (
        _number(_TLS_1_2)
        + dice.random
        + _vector(1)  # a session of TLS 1.2 there is none
        + _vector(2, *map(_number, SUITES))
        + _vector(1, b"\0")
        + _vector(2, *(_number(kind) + _vector(2, content) for kind, content in extensions))
    )
    return bytes([_CLIENT_HELLO]) + _vector(3, body)


def _number(value: int) -> bytes:
    return struct.pack("!H", value)


def _vector(size: int, *parts: bytes) -> bytes:
    """Its length in so many bytes, and the parts."""
    content = b"".join(parts)
    return len(content).to_bytes(size, "big") + content
