"""Packet protection for many 1-RTT packets at once (RFC 9001 5): one call for the header masks of a
batch.

Whatever is out of the ordinary (long headers, another key phase, a seal that does not fit) is left
for the QUIC library. It is handed the library's keys, and knows neither frames nor connections.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag

SAMPLE = 16

MOST_TOGETHER = 96 * 1024
"""Bytes opened before they are looked at: more would have left the processor's cache by then."""

_MASK = 16
_TAG = 16
_MOST_NUMBER_BYTES = 4
_SENT_NUMBER_BYTES = 2
_FIXED_BIT = 0x40
_LONG_OR_FIXED = 0xC0
_PROTECTED_BITS = 0x1F
_PHASE_AND_RESERVED = 0x1C
_NONCE = 12
_CHACHA_PADDING = bytes(11)


class Cipher(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...


class MaskCipher(Protocol):
    def update(self, data: bytes, /) -> bytes: ...


class LibraryAead(Protocol):
    """The library's packet protection, as far as it is used here."""

    @property
    def _aead(self) -> Cipher: ...
    @property
    def _iv(self) -> int: ...


class LibraryHeaderProtection(Protocol):
    """The library's header protection, as far as it is used here."""

    @property
    def _encryptor(self) -> MaskCipher: ...
    @property
    def _is_chacha20(self) -> bool: ...
    def _mask(self, sample: bytes, /) -> bytes: ...


class LibraryContext(Protocol):
    """The library's keys of one direction, which it replaces at a key update."""

    @property
    def aead(self) -> LibraryAead | None: ...
    @property
    def hp(self) -> LibraryHeaderProtection | None: ...
    @property
    def key_phase(self) -> int: ...


class Keys:
    """The keys of one direction in one key phase, and the connection ID in its packets."""

    __slots__ = ("cid", "cipher", "header_protection", "iv", "phase")

    def __init__(
        self,
        aead: LibraryAead,
        header_protection: LibraryHeaderProtection,
        cid: bytes,
        phase: int,
    ) -> None:
        self.cipher = aead._aead
        self.iv = aead._iv
        self.header_protection = header_protection
        self.cid = cid
        self.phase = phase

    def masks(self, samples: Sequence[bytes]) -> bytes:
        """16 bytes of mask for each sample."""
        protection = self.header_protection
        if not protection._is_chacha20:
            return protection._encryptor.update(b"".join(samples))
        return b"".join([protection._mask(sample) + _CHACHA_PADDING for sample in samples])


def ordinary_run(datagrams: Sequence[bytes], start: int, most: int, cid: bytes) -> list[bytes]:
    """From `start` on, the datagrams that are one short-header packet each to that connection
    ID."""
    run: list[bytes] = []
    room = MOST_TOGETHER
    header = 1 + len(cid)
    shortest = header + _MOST_NUMBER_BYTES + SAMPLE
    for datagram in datagrams[start : start + most]:
        if (
            len(datagram) < shortest
            or datagram[0] & _LONG_OR_FIXED != _FIXED_BIT
            or datagram[1:header] != cid
        ):
            break
        run.append(datagram)
        room -= len(datagram)
        if room < 0:
            break
    return run


def open_packets(run: Sequence[bytes], keys: Keys, expected: int) -> list[tuple[int, bytes]]:
    """Numbers and payloads of the packets in an ordinary run, as far as all is ordinary.

    `expected`: one more than the highest number received, from which cut numbers are completed.
    """
    number_at = 1 + len(keys.cid)
    sample_at = number_at + _MOST_NUMBER_BYTES
    sample_end = sample_at + SAMPLE
    masks = keys.masks([packet[sample_at:sample_end] for packet in run])
    decrypt, iv, cid = keys.cipher.decrypt, keys.iv, keys.cid
    phase_bits = keys.phase << 2
    from_bytes = int.from_bytes
    opened: list[tuple[int, bytes]] = []
    at = 0
    for packet in run:
        first = packet[0] ^ (masks[at] & _PROTECTED_BITS)
        if first & _PHASE_AND_RESERVED != phase_bits:
            break
        size = (first & 3) + 1
        payload_at = number_at + size
        cut = from_bytes(packet[number_at:payload_at], "big") ^ from_bytes(
            masks[at + 1 : at + 1 + size], "big"
        )
        number = complete_number(cut, size, expected)
        header = b"%c%b%b" % (first, cid, cut.to_bytes(size, "big"))
        try:
            payload = decrypt((iv ^ number).to_bytes(_NONCE, "big"), packet[payload_at:], header)
        except InvalidTag:
            break
        if number >= expected:
            expected = number + 1
        opened.append((number, payload))
        at += _MASK
    return opened


class KeyUpdateError(ValueError):
    """The peer went back to older keys (RFC 9001 6.4)."""


class Opener:
    """Opens a peer's ordinary packets: with the keys in force and, for some time after an update,
    with those before, as what was under way then is no less good (RFC 9001 6.5).
    """

    __slots__ = ("_aead", "_first_of_phase", "_old_aead", "_old_until")

    def __init__(self) -> None:
        self._aead: LibraryAead | None = None
        self._old_aead: LibraryAead | None = None
        self._old_until: float | None = None
        self._first_of_phase: int | None = None

    def note(self, aead: LibraryAead | None) -> None:
        """The keys in force. To be told before an update begins; others are noticed here."""
        if aead is not self._aead:
            self._old_aead, self._aead = self._aead, aead
            self._old_until = self._first_of_phase = None

    def open(
        self,
        run: Sequence[bytes],
        library: LibraryContext,
        cid: bytes,
        expected: int,
        now: float,
        overlap: Callable[[], float],
    ) -> list[tuple[int, bytes]]:
        """As `open_packets`. `overlap`: seconds for which older keys are good after an update.
        KeyUpdateError: a packet behind the first one of this phase came with the older keys.
        """
        aead, protection = library.aead, library.hp
        if aead is None or protection is None:
            return []
        self.note(aead)
        keys = Keys(aead, protection, cid, library.key_phase)
        opened = open_packets(run, keys, expected)
        if self._old_aead is None:
            return opened
        if self._old_until is None:
            self._old_until = now + overlap()
        elif now > self._old_until:
            self._old_aead = None
            return opened
        first = self._first_of_phase
        if opened:
            lowest = min(number for number, _ in opened)
            self._first_of_phase = lowest if first is None else min(lowest, first)
            return opened
        keys = Keys(self._old_aead, protection, cid, 1 - library.key_phase)
        opened = open_packets(run, keys, expected)
        if first is not None and any(number > first for number, _ in opened):
            raise KeyUpdateError("a packet came with older keys than those before it")
        return opened


def complete_number(cut: int, size: int, expected: int) -> int:
    """The packet number nearest to the expected one that ends in these bytes (RFC 9000 A.3)."""
    window = 1 << (8 * size)
    number = (expected & ~(window - 1)) | cut
    if number <= expected - window // 2 and number < (1 << 62) - window:
        return number + window
    if number > expected + window // 2 and number >= window:
        return number - window
    return number


def seal_packets(payloads: Sequence[bytes], keys: Keys, first_number: int) -> list[bytes]:
    """Consecutive packets, of which none may be shorter than two bytes."""
    encrypt, iv, cid = keys.cipher.encrypt, keys.iv, keys.cid
    first = _FIXED_BIT | keys.phase << 2 | (_SENT_NUMBER_BYTES - 1)
    prefix = bytes((first,)) + cid
    sealed = [
        encrypt(
            (iv ^ number).to_bytes(_NONCE, "big"),
            payload,
            prefix + (number & 0xFFFF).to_bytes(_SENT_NUMBER_BYTES, "big"),
        )
        for number, payload in enumerate(payloads, first_number)
    ]
    skipped = _MOST_NUMBER_BYTES - _SENT_NUMBER_BYTES
    masks = keys.masks([text[skipped : skipped + SAMPLE] for text in sealed])
    packets = []
    at = 0
    for number, text in enumerate(sealed, first_number):
        masked = (number & 0xFFFF) ^ (masks[at + 1] << 8 | masks[at + 2])
        header = bytes((first ^ (masks[at] & _PROTECTED_BITS),))
        packets.append(b"".join((header, cid, masked.to_bytes(_SENT_NUMBER_BYTES, "big"), text)))
        at += _MASK
    return packets


def sealed_overhead(cid: bytes) -> int:
    """Bytes of a packet that are not payload."""
    return 1 + len(cid) + _SENT_NUMBER_BYTES + _TAG
