"""What can be said of a QUIC packet without any connection: its head, and the answers a router
gives itself.

Retry (RFC 9000 8.1.2), version negotiation (6) and stateless reset (10.3) are made from the packet
alone, cheaply, and are never longer than what they answer. Knows neither sockets nor the QUIC
library.
"""

import os
import struct
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hmac import HMAC

from sshoq.named_tuple import NamedTuple
from sshoq.wire import Reader, WireError, varint

VERSION_1 = 0x00000001
VERSION_2 = 0x6B3343CF
SUPPORTED_VERSIONS = (VERSION_1, VERSION_2)

CID_LENGTH = 8
"""Of the connection IDs that we choose; a short header does not tell."""

MAX_CID_LENGTH = 20
MIN_INITIAL_DATAGRAM = 1200
"""Below that a first packet is not one (RFC 9000 14.1): answering would amplify."""

RESET_TOKEN_LENGTH = 16
MIN_RESET_LENGTH = 21

RESET_KEY_LENGTH = 32
TICKET_KEY_LENGTH = 16
TICKET_LIFETIME = 15.0
"""Seconds. A client answers a Retry at once; the longest round trip is far below."""

_LONG = 0x80
_FIXED = 0x40
_INITIAL_TYPE = {VERSION_1: 0, VERSION_2: 1}
_RETRY_TYPE = {VERSION_1: 3, VERSION_2: 0}

# RFC 9001 5.8 and RFC 9369 3.3.3: keys that everybody knows, so that chance damage is found.
_RETRY_KEYS = {
    VERSION_1: ("be0c690b9f66575a1d766b54e368c84e", "461599d35d632bf2239825bb"),
    VERSION_2: ("8fb4b01b56ac48e260fbcbcead7ccc92", "d86969bc2d7c6d9990efb04a"),
}


# RFC 9001 5.2 and RFC 9369 3.3: where a connection's first keys come from.
_INITIAL_SALTS = {
    VERSION_1: ("38762cf7f55934b34d179ae6a4c80cadccbb7f0a", "quic"),
    VERSION_2: ("0dede3def700a6db819381be6e269dcbf9bd2ed9", "quicv2"),
}

Key = bytes | memoryview
"""A secret; perhaps only lent, then nothing here keeps a copy."""

CONNECTION_REFUSED = 0x02
"""RFC 9000 20.1."""

MAX_REFUSAL = 100


class PacketHead(NamedTuple):
    """The first packet of a datagram, as far as anybody on the path can read it."""

    version: int | None
    """None: a short header, which says no more than the destination."""
    destination_cid: bytes
    source_cid: bytes
    is_initial: bool
    """Of a version we speak, and in a datagram of the size that the RFC demands."""
    token: bytes


class FirstPacket(NamedTuple):
    """What a server's engine must know of how the connection began."""

    version: int
    destination_cid: bytes
    """The client's present name for us."""
    original_cid: bytes
    """The client's first name for us: the same, unless there was a Retry."""
    retry_cid: bytes | None
    """The name we gave in a Retry. Present: the client's address is known to be its own."""

    @classmethod
    def of(cls, datagram: bytes) -> "FirstPacket":
        """Of a datagram that `parse_packet` called initial."""
        head = _initial_head(datagram)
        assert head.version is not None
        return cls(head.version, head.destination_cid, head.destination_cid, None)


class TicketMissing(Exception):
    """The first packet carries no Retry token."""


class TicketInvalid(Exception):
    """The token was not made here, not for this client, or too long ago."""


def parse_packet(datagram: bytes) -> PacketHead | None:
    """The head of a datagram's first packet; None when it cannot be QUIC, or is nothing one may
    answer.
    """
    if not datagram:
        return None
    if not datagram[0] & _LONG:
        return _parse_short(datagram)
    try:
        return _parse_long(datagram)
    except WireError:
        return None


def _parse_short(datagram: bytes) -> PacketHead | None:
    if not datagram[0] & _FIXED or len(datagram) < MIN_RESET_LENGTH:
        return None
    return PacketHead(None, datagram[1 : 1 + CID_LENGTH], b"", False, b"")


def _parse_long(datagram: bytes) -> PacketHead | None:
    reader = Reader(datagram, 1)
    version = reader.u32()
    if version == 0:
        return None  # a version negotiation packet; servers send those
    destination = reader.take(reader.u8())
    source = reader.take(reader.u8())
    if version not in SUPPORTED_VERSIONS:
        return PacketHead(version, destination, source, False, b"")
    if max(len(destination), len(source)) > MAX_CID_LENGTH or not datagram[0] & _FIXED:
        return None
    if (datagram[0] >> 4) & 3 != _INITIAL_TYPE[version]:
        return PacketHead(version, destination, source, False, b"")
    token = reader.bytes()
    # RFC 9000 7.2: a client's first name for us has at least 8 bytes.
    is_initial = len(datagram) >= MIN_INITIAL_DATAGRAM and len(destination) >= 8
    return PacketHead(version, destination, source, is_initial, token)


def _initial_head(datagram: bytes) -> PacketHead:
    head = parse_packet(datagram)
    if head is None or not head.is_initial:
        raise ValueError("not a client's first packet")
    return head


def begins_connection(datagram: bytes) -> bool:
    """Of one that `parse_packet` called initial: whether it is sealed with the keys that its own
    destination gives (RFC 9001 5.2). A later one, of a connection that is lost, is not; nor is
    rubbish.
    """
    head = _initial_head(datagram)
    assert head.version is not None
    reader = Reader(datagram, 5)
    try:
        for _ in range(2):
            reader.take(reader.u8())
        reader.bytes()  # the token
        size = reader.varint()
        start = reader.position
        reader.take(size)
        InitialKeys.of(head.version, head.destination_cid, "client in").open(
            datagram[: reader.position], start
        )
    except (WireError, InvalidTag):
        return False
    return True


# ------------------------------------------------------------------------------- answers to noise


def answer_to_noise(head: PacketHead, length: int, reset_key: Key) -> bytes | None:
    """What a packet of no known connection, in a datagram of `length` bytes, is answered with.

    Handshake packets, too, may be of a connection that is lost, and their sender knows the token
    already (RFC 9000 10.3).
    """
    if head.version is None or head.version in SUPPORTED_VERSIONS:
        return stateless_reset(reset_key, head.destination_cid, length)
    return version_negotiation(head) if length >= MIN_INITIAL_DATAGRAM else None


def version_negotiation(head: PacketHead) -> bytes:
    """RFC 9000 17.2.1: the versions we speak, to a client that began with another one."""
    out = bytearray([_LONG | _FIXED | os.urandom(1)[0] & 0x3F])
    out += struct.pack("!I", 0)
    for connection_id in (head.source_cid, head.destination_cid):
        out.append(len(connection_id))
        out += connection_id
    for version in SUPPORTED_VERSIONS:
        out += struct.pack("!I", version)
    return bytes(out)


class ConnectionName(NamedTuple):
    """A connection ID of a server's, and the secret that ends the connection of that ID."""

    connection_id: bytes
    reset_token: bytes


NameSource = Callable[[], ConnectionName | None]
"""Where a connection gets its names from; None when there is none to be had now."""


def new_name(key: Key) -> ConnectionName:
    connection_id = os.urandom(CID_LENGTH)
    return ConnectionName(connection_id, reset_token(key, connection_id))


def own_names(key: Key) -> NameSource:
    """As many as are asked for, by who has the key."""
    return lambda: new_name(key)


def reset_token(key: Key, connection_id: bytes) -> bytes:
    """The secret that ends the connection of that ID; who has lost the connection can still make
    it.
    """
    return _hmac_sha256(key, connection_id)[:RESET_TOKEN_LENGTH]


def _hmac_sha256(key: Key, data: bytes) -> bytes:
    """By cryptography, which is there: Python's own would load another OpenSSL."""
    state = HMAC(key, hashes.SHA256())
    state.update(data)
    return state.finalize()


def stateless_reset(key: Key, connection_id: bytes, length: int) -> bytes | None:
    """RFC 9000 10.3: looks like any short packet, and is shorter than the one it answers (else a
    loop).
    """
    size = min(length - 1, 2 * MIN_RESET_LENGTH)
    return _reset(key, connection_id, size) if size >= MIN_RESET_LENGTH else None


def unasked_reset(key: Key, connection_id: bytes) -> bytes:
    """For a connection that was lost with whoever had it, before its peer asks."""
    return _reset(key, connection_id, 2 * MIN_RESET_LENGTH)


def _reset(key: Key, connection_id: bytes, size: int) -> bytes:
    noise = bytearray(os.urandom(size - RESET_TOKEN_LENGTH))
    noise[0] = _FIXED | noise[0] & 0x3F
    return bytes(noise) + reset_token(key, connection_id)


# ------------------------------------------------------------------------------- refusal


def connection_refused(datagram: bytes, reason: str) -> bytes:
    """An Initial packet that ends the connection of that first packet (RFC 9000 10.2.3): the client
    hears at once that it is not welcome, and nothing is kept of it.
    """
    head = _initial_head(datagram)
    assert head.version is not None
    text = reason.encode()[:MAX_REFUSAL]
    # CONNECTION_CLOSE of the transport: the code, no frame to blame, the reason. PADDING ahead of
    # it gives header protection its sample.
    payload = bytes(16) + b"\x1c" + varint(CONNECTION_REFUSED) + b"\0" + varint(len(text)) + text
    header = initial_header(head.version, head.source_cid, os.urandom(CID_LENGTH))
    header += varint(1 + len(payload) + 16)  # number, payload, tag
    keys = InitialKeys.of(head.version, head.destination_cid, "server in")
    return keys.seal(header, 0, 1, payload)


def initial_header(version: int, destination_cid: bytes, source_cid: bytes) -> bytearray:
    """Of an Initial packet without a token, up to its length."""
    header = bytearray([_LONG | _FIXED | _INITIAL_TYPE[version] << 4])
    header += struct.pack("!I", version)
    for connection_id in (destination_cid, source_cid):
        header.append(len(connection_id))
        header += connection_id
    header.append(0)
    return header


class InitialKeys(NamedTuple):
    """One side's initial keys (RFC 9001 5.2), which anybody can derive."""

    key: bytes
    nonce: bytes
    mask_key: bytes

    @classmethod
    def of(cls, version: int, destination_cid: bytes, side: str) -> "InitialKeys":
        """`destination_cid`: the client's first name for the server; `side`: "client in" or
        "server in".
        """
        salt, prefix = _INITIAL_SALTS[version]
        extracted = _hmac_sha256(bytes.fromhex(salt), destination_cid)
        secret = _expand_label(extracted, side, 32)
        sizes = (("key", 16), ("iv", 12), ("hp", 16))
        return cls(*(_expand_label(secret, f"{prefix} {name}", size) for name, size in sizes))

    def seal(self, header: bytearray, number: int, length: int, payload: bytes) -> bytes:
        """The packet, its number in so many bytes."""
        header[0] |= length - 1
        header += number.to_bytes(length, "big")
        sealed = AESGCM(self.key).encrypt(self._nonce_of(number), payload, bytes(header))
        # RFC 9001 5.4.2: the sample begins where the longest number would end.
        mask = self._mask(sealed[4 - length : 20 - length])
        header[0] ^= mask[0] & 0x0F
        for place in range(length):
            header[place - length] ^= mask[1 + place]
        return bytes(header) + sealed

    def open(self, packet: bytes, start: int) -> bytes:
        """The payload of a packet whose number begins at `start`, and is small. InvalidTag."""
        sample = packet[start + 4 : start + 20]
        if len(sample) < 16:
            raise InvalidTag
        mask = self._mask(sample)
        first = packet[0] ^ mask[0] & 0x0F
        length = 1 + (first & 3)
        number = bytes(packet[start + place] ^ mask[1 + place] for place in range(length))
        header = bytes([first]) + packet[1:start] + number
        nonce = self._nonce_of(int.from_bytes(number, "big"))
        return AESGCM(self.key).decrypt(nonce, packet[start + length :], header)

    def _nonce_of(self, number: int) -> bytes:
        return (int.from_bytes(self.nonce, "big") ^ number).to_bytes(12, "big")

    def _mask(self, sample: bytes) -> bytes:
        return Cipher(AES(self.mask_key), ECB()).encryptor().update(sample)


def _expand_label(secret: bytes, label: str, size: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 7.1 with SHA-256, for what one block of it gives."""
    name = f"tls13 {label}".encode()
    info = struct.pack("!HB", size, len(name)) + name + b"\0\1"
    return _hmac_sha256(secret, info)[:size]


# ------------------------------------------------------------------------------- Retry


class RetryTickets:
    """Retry packets and their tokens: a client that brings one back owns the address it was sent
    to.
    """

    def __init__(self, key: Key = b"") -> None:
        """The key, of 16 bytes, is lent: it is taken up for each ticket anew."""
        self._key = key or AESGCM.generate_key(bit_length=8 * TICKET_KEY_LENGTH)

    @property
    def _seal(self) -> AESGCM:
        return AESGCM(self._key)

    def retry(self, datagram: bytes, peer: tuple[str, int], now: float) -> bytes:
        """The Retry packet that answers a first packet without a token."""
        head = _initial_head(datagram)
        assert head.version is not None
        new_cid = os.urandom(CID_LENGTH)
        nonce = os.urandom(12)
        content = struct.pack("!d", now) + head.destination_cid
        token = nonce + self._seal.encrypt(nonce, content, _bound_to(peer, new_cid))
        return _retry_packet(head, new_cid, token)

    def redeem(self, datagram: bytes, peer: tuple[str, int], now: float) -> FirstPacket:
        """The start of a connection whose client has shown its address. TicketMissing,
        TicketInvalid.
        """
        head = _initial_head(datagram)
        assert head.version is not None
        if not head.token:
            raise TicketMissing
        bound = _bound_to(peer, head.destination_cid)
        try:
            content = self._seal.decrypt(head.token[:12], head.token[12:], bound)
        except (InvalidTag, ValueError):
            raise TicketInvalid("the token was not made for this client") from None
        (made_at,) = struct.unpack_from("!d", content)
        if not 0 <= now - made_at <= TICKET_LIFETIME:
            raise TicketInvalid("the token is too old")
        return FirstPacket(head.version, head.destination_cid, content[8:], head.destination_cid)


def _bound_to(peer: tuple[str, int], connection_id: bytes) -> bytes:
    return struct.pack("!H", peer[1]) + connection_id + peer[0].encode()


def _retry_packet(head: PacketHead, new_cid: bytes, token: bytes) -> bytes:
    assert head.version is not None
    first = _LONG | _FIXED | _RETRY_TYPE[head.version] << 4 | os.urandom(1)[0] & 0x0F
    packet = bytearray([first])
    packet += struct.pack("!I", head.version)
    for connection_id in (head.source_cid, new_cid):
        packet.append(len(connection_id))
        packet += connection_id
    packet += token
    key, nonce = (bytes.fromhex(text) for text in _RETRY_KEYS[head.version])
    pseudo = bytes([len(head.destination_cid)]) + head.destination_cid + bytes(packet)
    return bytes(packet) + AESGCM(key).encrypt(nonce, b"", pseudo)
