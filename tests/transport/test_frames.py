"""The frames of bulk data, against the library's own reading and writing of them."""

from __future__ import annotations

import pytest
from aioquic._buffer import Buffer
from aioquic.buffer import size_uint_var
from hypothesis import given
from hypothesis import strategies as st

from sshoq.transport.frames import (
    BurstHead,
    read_lone_ack,
    read_stream_frame,
    read_varint,
    varint_size,
    write_ack_frame,
    write_stream_head,
    write_varint,
)
from sshoq.wire import varint

NUMBERS = st.one_of(*[st.integers(0, (1 << bits) - 1) for bits in (6, 14, 30, 62)])


@given(NUMBERS)
def test_numbers_are_written_as_the_library_reads_them(value: int) -> None:
    data = write_varint(value)
    assert Buffer(data=data).pull_uint_var() == value
    assert len(data) == varint_size(value) == size_uint_var(value)
    assert read_varint(b"!" + data + b"!", 1) == (value, 1 + len(data))
    with pytest.raises(IndexError):
        read_varint(data[:-1], 0)


@given(NUMBERS, NUMBERS, st.binary(max_size=20), st.integers(0, 7), st.binary(max_size=3))
def test_stream_frames_are_read(
    stream_id: int, offset: int, data: bytes, bits: int, rest: bytes
) -> None:
    head = bytes([0x08 | bits]) + varint(stream_id)
    head += varint(offset) if bits & 4 else b""
    if bits & 2:
        head += varint(len(data))
    else:
        rest = b""
    payload = head + data + rest
    expected = (stream_id, offset if bits & 4 else 0, bool(bits & 1))
    assert read_stream_frame(payload) == (*expected, len(head), len(head) + len(data))


@given(st.binary(min_size=1, max_size=40))
def test_any_bytes_are_a_frame_within_them_or_none(payload: bytes) -> None:
    frame = read_stream_frame(payload)
    assert frame is None or 0 < frame[3] <= frame[4] <= len(payload)
    ack = read_lone_ack(payload)
    assert ack is None or all(0 <= start < stop for start, stop in ack[0])


def test_a_cut_frame_is_none() -> None:
    whole = b"\x0e" + varint(4) + varint(70_000) + varint(3) + b"abc"
    assert read_stream_frame(whole) is not None
    assert all(read_stream_frame(whole[:size]) is None for size in range(1, len(whole)))


def test_an_ack_counts_as_alone_only_when_it_is() -> None:
    ack = b"\x02" + varint(90_000) + varint(7) + varint(2) + b"\x01\x02\x03\x04\x05"
    ranges = [(89_981, 89_987), (89_992, 89_996), (89_999, 90_001)]
    assert read_lone_ack(ack) == (ranges, 7)
    assert read_lone_ack(ack + b"\x01") is None
    assert read_lone_ack(ack[:-1]) is None
    assert read_lone_ack(b"\x02\x05\x00" + varint(1 << 61)) is None
    assert read_lone_ack(b"\x01") is None


def test_an_ack_of_numbers_below_zero_is_not_read() -> None:
    assert read_lone_ack(b"\x02\x05\x00\x00\x05") == ([(0, 6)], 0)
    assert read_lone_ack(b"\x02\x05\x00\x00\x06") is None


@given(NUMBERS, NUMBERS, NUMBERS)
def test_what_is_written_as_an_ack_is_read_as_one(first: int, length: int, delay: int) -> None:
    largest = min(first + length, (1 << 62) - 1)
    frame = write_ack_frame(largest, delay, largest - first)
    assert read_lone_ack(frame) == ([(first, largest + 1)], delay)


@given(NUMBERS, NUMBERS, st.binary(max_size=20), st.booleans())
def test_stream_heads_are_read_as_written(
    stream_id: int, offset: int, data: bytes, fin: bool
) -> None:
    head = write_stream_head(stream_id, offset, len(data), fin)
    expected = (stream_id, offset, fin, len(head), len(head) + len(data))
    assert read_stream_frame(head + data + b"\x02") == expected


@given(NUMBERS, st.integers(0, (1 << 62) - 1), st.binary(min_size=1, max_size=20))
def test_burst_heads_are_equally_long_and_stream_frames(
    stream_id: int, highest: int, data: bytes
) -> None:
    head = BurstHead(stream_id, highest)
    for offset in (0, highest // 2, highest):
        start = head.at(offset)
        assert len(start) == head.size
        frame = read_stream_frame(start + data)
        assert frame == (stream_id, offset, False, head.size, head.size + len(data))
