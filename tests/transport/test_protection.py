"""Packet protection in batches, against the library's one by one."""

from __future__ import annotations

import os
import random

import pytest
from aioquic.quic.crypto import CryptoContext, next_key_phase
from aioquic.quic.packet import decode_packet_number
from aioquic.tls import CipherSuite
from hypothesis import given
from hypothesis import strategies as st

from sshoq.transport.protection import (
    MOST_TOGETHER,
    Keys,
    KeyUpdateError,
    Opener,
    complete_number,
    open_packets,
    ordinary_run,
    seal_packets,
    sealed_overhead,
)

CID = b"connects"
SUITES = list(CipherSuite)[:3]


def context(suite: CipherSuite, phase: int = 0) -> CryptoContext:
    made = CryptoContext(key_phase=phase)
    made.setup(cipher_suite=suite, secret=bytes(32 if suite != SUITES[1] else 48), version=1)
    return made


def keys_of(library: CryptoContext) -> Keys:
    assert library.aead is not None
    assert library.hp is not None
    return Keys(library.aead, library.hp, CID, library.key_phase)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
@pytest.mark.parametrize("first", [0, 65_530, (1 << 32) - 3])
def test_what_is_sealed_together_opens_one_by_one(suite: CipherSuite, first: int) -> None:
    library = context(suite, phase=1)
    payloads = [os.urandom(random.randrange(2, 1400)) for _ in range(12)]
    packets = seal_packets(payloads, keys_of(library), first)
    for number, (packet, payload) in enumerate(zip(packets, payloads, strict=True), first):
        assert len(packet) == len(payload) + sealed_overhead(CID)
        header, plain, found, updated = library.decrypt_packet(packet, 1 + len(CID), number)
        assert (plain, found, updated) == (payload, number, False)
        assert header[1:-2] == CID


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_what_is_sealed_one_by_one_opens_together(suite: CipherSuite, size: int) -> None:
    library = context(suite)
    numbers = [100, 101, 103, 102, 110]
    packets = [
        library.encrypt_packet(
            bytes([0x40 | size - 1]) + CID + (number & (1 << 8 * size) - 1).to_bytes(size, "big"),
            b"payload %d" % number,
            number,
        )
        for number in numbers
    ]
    opened = open_packets(packets, keys_of(library), 100)
    assert opened == [(number, b"payload %d" % number) for number in numbers]


def test_opening_stops_at_what_is_out_of_the_ordinary() -> None:
    library = context(SUITES[0])
    good = seal_packets([b"abc", b"def", b"ghi"], keys_of(library), 7)
    damaged = good[1][:-1] + bytes([good[1][-1] ^ 1])
    opened = open_packets([good[0], damaged, good[2]], keys_of(library), 7)
    assert opened == [(7, b"abc")]
    other_phase = seal_packets([b"xyz"], keys_of(context(SUITES[0], phase=1)), 8)
    assert len(open_packets([good[0], *other_phase], keys_of(library), 7)) == 1


class Receiver:
    """An opener with the keys of two phases, of which each is used in turn as the library would."""

    OVERLAP = 3.0

    def __init__(self) -> None:
        self.opener = Opener()
        self.old = context(SUITES[0])
        self.new = next_key_phase(self.old)
        self.new.hp = self.old.hp  # that one stays through all updates

    def seal(self, number: int, library: CryptoContext) -> bytes:
        return seal_packets([b"packet %d" % number], keys_of(library), number)[0]

    def opened(self, run: list[bytes], library: CryptoContext, now: float) -> list[int]:
        found = self.opener.open(run, library, CID, 0, now, lambda: self.OVERLAP)
        assert all(payload == b"packet %d" % number for number, payload in found)
        return [number for number, _ in found]


def test_what_was_under_way_at_a_key_update_is_opened_for_some_time() -> None:
    receiver = Receiver()
    old, new = receiver.old, receiver.new
    assert receiver.opened([receiver.seal(1, old)], old, 10.0) == [1]
    late = [receiver.seal(number, old) for number in range(2, 9)]
    assert receiver.opened(late[:3], new, 11.0) == [2, 3, 4]
    assert receiver.opened([receiver.seal(20, new), late[3]], new, 12.0) == [20]
    assert receiver.opened(late[3:5], new, 13.9) == [5, 6]
    assert receiver.opened(late[5:], new, 14.1) == []
    assert receiver.opened([receiver.seal(21, new)], new, 15.0) == [21]


def test_an_update_that_follows_at_once_is_told_beforehand() -> None:
    receiver = Receiver()
    old, new = receiver.old, receiver.new
    newest = next_key_phase(new)
    newest.hp = old.hp
    assert receiver.opened([receiver.seal(1, old)], old, 10.0) == [1]
    receiver.opener.note(new.aead)
    late = [receiver.seal(2, new), receiver.seal(3, new)]
    assert receiver.opened(late, newest, 11.0) == [2, 3]
    assert receiver.opened([receiver.seal(4, newest)], newest, 11.0) == [4]


def test_nobody_goes_back_to_older_keys() -> None:
    receiver = Receiver()
    old, new = receiver.old, receiver.new
    assert receiver.opened([receiver.seal(1, old)], old, 10.0) == [1]
    assert receiver.opened([receiver.seal(7, new)], new, 10.1) == [7]
    assert receiver.opened([receiver.seal(5, new), receiver.seal(8, new)], new, 10.2) == [5, 8]
    assert receiver.opened([receiver.seal(4, old)], new, 10.3) == [4]
    with pytest.raises(KeyUpdateError, match="older keys than those before it"):
        receiver.opened([receiver.seal(6, old)], new, 10.4)


@given(st.integers(1, 4), st.integers(0, (1 << 62) - 1), st.data())
def test_cut_numbers_are_completed_as_the_library_does(
    size: int, expected: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, (1 << 8 * size) - 1))
    assert complete_number(cut, size, expected) == decode_packet_number(cut, 8 * size, expected)


def test_a_run_ends_where_a_datagram_is_something_else() -> None:
    good = b"\x41" + CID + bytes(30)
    for other in (b"\xc1" + CID + bytes(30), b"\x41another!" + bytes(30), good[:20], b""):
        assert ordinary_run([good, good, other, good], 0, 64, CID) == [good, good]
        assert ordinary_run([other, good], 1, 64, CID) == [good]
    assert len(ordinary_run([good] * 9, 2, 4, CID)) == 4
    large = b"\x41" + CID + bytes(16_000)
    assert len(ordinary_run([large] * 64, 0, 64, CID)) * len(large) < MOST_TOGETHER + 2 * len(large)
