"""Datagrams that wait for their channel: order, bounds, age."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.protocol.datagrams import (
    MAX_AGE,
    MAX_BYTES,
    MAX_CHANNELS,
    PER_CHANNEL,
    WaitingDatagrams,
    split_datagram,
)
from sshoq.wire import varint
from tests.protocol.speakers import varints


@pytest.mark.parametrize(("data", "parts"), [
    ("000870696e67", (0, 8, b"ping")), ("04404470696e67", (4, 68, b"ping")), ("0008", (0, 8, b"")),
])
def test_vectors(data: str, parts: tuple[int, int, bytes]) -> None:
    assert split_datagram(bytes.fromhex(data)) == parts


@given(varints, varints, st.binary(max_size=50))
def test_splitting_undoes_putting_together(conversation: int, channel: int, payload: bytes) -> None:
    assert split_datagram(varint(conversation) + varint(channel) + payload) == (
        conversation, channel, payload)


@given(st.binary(max_size=20))
def test_any_bytes_are_a_datagram_or_none(data: bytes) -> None:
    parts = split_datagram(data)
    assert parts is None or len(parts[2]) < len(data)


def test_what_waits_is_handed_out_once_and_in_order() -> None:
    waiting = WaitingDatagrams()
    for payload in (b"one", b"two"):
        assert waiting.put(0, 8, payload, 0.0)
    waiting.put(4, 8, b"of another conversation", 0.0)
    waiting.put(0, 12, b"of another channel", 0.0)
    assert waiting.take(0, 8, 1.0) == [b"one", b"two"]
    assert waiting.take(0, 8, 1.0) == []
    assert waiting.take(4, 8, 1.0) == [b"of another conversation"]


def test_old_ones_are_dropped() -> None:
    waiting = WaitingDatagrams()
    waiting.put(0, 8, b"old", 0.0)
    waiting.put(0, 8, b"new", 2.0)
    assert waiting.take(0, 8, MAX_AGE + 0.5) == [b"new"]


def test_a_channels_share_is_bounded_and_the_oldest_stay() -> None:
    waiting = WaitingDatagrams()
    kept = [waiting.put(0, 8, bytes([number]), 0.0) for number in range(PER_CHANNEL + 5)]
    assert kept == [True] * PER_CHANNEL + [False] * 5
    assert waiting.take(0, 8, 0.0) == [bytes([number]) for number in range(PER_CHANNEL)]


def test_channels_are_bounded() -> None:
    waiting = WaitingDatagrams()
    kept = [waiting.put(0, 4 * number, b"x", 0.0) for number in range(MAX_CHANNELS + 1)]
    assert kept == [True] * MAX_CHANNELS + [False]
    assert waiting.put(0, 9999, b"x", MAX_AGE + 1)


def test_bytes_are_bounded_and_given_back() -> None:
    waiting = WaitingDatagrams()
    payload = b"x" * 16_000
    kept = [waiting.put(0, 4 * number, payload, 0.0) for number in range(40)]
    assert sum(kept) == MAX_BYTES // len(payload)
    waiting.take(0, 0, 0.0)
    assert waiting.put(0, 4, payload, 0.0)
    assert not waiting.put(0, 4, payload, 0.0)
