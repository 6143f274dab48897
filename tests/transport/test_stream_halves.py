"""A stream's halves: whatever is lost, repeated or cut, the bytes come out as written."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sshoq.transport.stream_halves import (
    SMALL_WRITE,
    FinalSizeChanged,
    ReceivingHalf,
    SendingHalf,
    Stream,
    WrittenBytes,
)

ROUSED: list[int] = []


def sending() -> SendingHalf:
    return SendingHalf(4, writable=True, rouse=ROUSED.append)


def receiving() -> ReceivingHalf:
    return ReceivingHalf(4, readable=True, rouse=ROUSED.append)


def everything(half: SendingHalf, limit: int = 1 << 62) -> bytes:
    start, stop = half.next_span(limit)
    data = half.written.packed(b"", start, stop)
    half.take(start, stop)
    return data


# ------------------------------------------------------------------------------- both together


@settings(max_examples=60)
@given(st.integers(0, 1 << 30))
def test_bytes_come_out_as_written_whatever_is_lost_on_the_way(seed: int) -> None:
    chance = random.Random(seed)
    sender, receiver = sending(), receiving()
    sizes = [chance.choice([1, 10, 1000, SMALL_WRITE, 5000, 20_000]) for _ in range(8)]
    written = [chance.randbytes(size) for size in sizes]
    whole = b"".join(written)
    out = bytearray()
    under_way: list[tuple[int, int, bool]] = []
    for _ in range(3000):
        if written and chance.random() < 0.1:
            piece = written.pop(0)
            sender.write(memoryview(piece), end_stream=not written)
        if sender.is_sendable(1 << 62):
            start, stop = sender.next_span(1 << 62)
            stop = min(stop, start + chance.choice([1, 500, 1200, 8000]))
            fin = stop == sender.fin_offset
            data = sender.written.packed(b"", start, stop) if stop > start else b""
            sender.take(start, stop)
            if fin:
                sender.take_fin()
            under_way.append((start, stop, fin))
            if chance.random() < 0.8:
                for _ in range(chance.choice([1, 1, 1, 2])):
                    out += b"".join(receiver.receive(start, data, fin) or [])
        if under_way and chance.random() < 0.8:
            start, stop, fin = under_way.pop(chance.randrange(len(under_way)))
            # What the receiver has may count as lost all the same, but not the other way round.
            has_it = stop <= receiver.highest_offset and not _missing(receiver, start, stop)
            if has_it and (not fin or receiver._final_size is not None) and chance.random() < 0.9:
                sender.acknowledge(start, stop, fin)
            else:
                sender.lose(start, stop, fin)
        if sender.is_finished:
            break
    assert sender.is_finished
    assert receiver.is_finished
    assert bytes(out) == whole
    assert sender.unacknowledged == 0


def _missing(receiver: ReceivingHalf, start: int, stop: int) -> bool:
    start = max(start, receiver.next_offset)
    held = any(low <= start and stop <= high for low, high in receiver._ranges)
    return start < stop and not held


# ------------------------------------------------------------------------------- sending


def test_small_writes_are_kept_in_few_objects() -> None:
    written = WrittenBytes()
    for _ in range(10_000):
        written.append(b"k")
    assert len(written._chunks) <= 10_000 // SMALL_WRITE + 1
    assert written.packed(b"head", 4090, 4100) == b"head" + b"k" * 10


def test_what_may_change_is_copied_and_what_may_not_is_kept() -> None:
    written = WrittenBytes()
    changing, fixed = bytearray(b"a" * 5000), b"b" * 5000
    written.append(changing)
    written.append(fixed)
    changing[:] = b"c" * 5000
    assert written.packed(b"", 4999, 5001) == b"ab"
    assert written._chunks[1].obj is fixed  # type: ignore[union-attr]  # a view


def test_acknowledged_bytes_are_let_go_in_any_order() -> None:
    half = sending()
    half.write(b"x" * 9000)
    half.write(b"y" * 9000)
    everything(half)
    half.acknowledge(9000, 18_000, False)
    assert half.unacknowledged == 18_000
    half.acknowledge(0, 9000, False)
    assert half.unacknowledged == 0
    assert half.written._chunks == []


def test_lost_bytes_go_before_new_ones_and_need_no_credit() -> None:
    half = sending()
    half.write(b"0123456789")
    half.take(0, 8)
    half.lose(2, 4, False)
    assert half.next_span(8) == (2, 4)
    half.take(2, 4)
    assert half.next_span(8) == (8, 8)
    assert not half.is_sendable(8)
    assert half.next_span(9) == (8, 9)


def test_an_end_without_data_needs_no_credit() -> None:
    half = sending()
    half.write(b"", end_stream=True)
    assert half.is_sendable(0)
    half.take_fin()
    assert half.buffer_is_empty
    half.lose(0, 0, True)
    assert half.is_sendable(0)
    half.take_fin()
    half.acknowledge(0, 0, True)
    assert half.is_finished


def test_a_reset_forgets_what_was_written() -> None:
    half = sending()
    half.write(b"x" * 100)
    half.take(0, 60)
    half.reset(7)
    assert half.unacknowledged == 0
    assert half.buffer_is_empty
    assert half.get_reset_frame() == (4, 7, 60)
    half.lose(0, 60, False)
    half.acknowledge(0, 60, False)
    assert not half.is_sendable(1 << 62)
    with pytest.raises(RuntimeError):
        sender = sending()
        sender.write(b"", end_stream=True)
        sender.write(b"more")


def test_whoever_has_something_to_say_says_so() -> None:
    half = sending()
    steps: list[Callable[[], None]] = [
        lambda: half.write(b"abc"),
        lambda: half.lose(0, 1, False),
        lambda: half.reset(1),
        lambda: half.on_reset_delivery(object()),
    ]
    for step in steps:
        ROUSED.clear()
        step()
        assert ROUSED == [4]


# ------------------------------------------------------------------------------- receiving


def test_what_comes_again_or_overlaps_is_handed_on_once() -> None:
    half = receiving()
    assert half.receive(0, b"abc", False) == [b"abc"]
    assert half.receive(0, b"abc", False) is None
    assert half.receive(1, b"bcde", False) == [b"de"]
    assert half.receive(8, b"ij", False) is None
    assert half.receive(7, b"hijk", False) is None
    assert b"".join(half.receive(4, b"efg", False) or []) == b"fghijk"
    assert half.receive(11, b"", False) is None
    assert half.receive(11, b"", True) == []
    assert half.is_finished


@pytest.mark.parametrize(
    ("offset", "data", "fin"), [(3, b"xyz", False), (0, b"ab", True), (0, b"abcde", True)]
)
def test_a_final_size_is_final(offset: int, data: bytes, fin: bool) -> None:
    half = receiving()
    half.receive(3, b"d", True)
    with pytest.raises(FinalSizeChanged):
        half.receive(offset, data, fin)


def test_a_reset_ends_it_and_may_not_contradict() -> None:
    half = receiving()
    half.receive(2, b"xx", False)
    with pytest.raises(FinalSizeChanged):
        half.handle_reset(final_size=3, error_code=1)
    assert half.handle_reset(final_size=9, error_code=1)
    assert not half.handle_reset(final_size=9, error_code=1)
    with pytest.raises(FinalSizeChanged):
        half.handle_reset(final_size=8, error_code=1)
    assert half.highest_offset == 9
    assert half._held == {}


def test_a_stream_is_finished_with_both_halves() -> None:
    stream = Stream(4, sending(), receiving())
    stream.receiver.receive(0, b"", True)
    assert not stream.is_finished
    stream.sender.write(b"", end_stream=True)
    stream.sender.take_fin()
    stream.sender.acknowledge(0, 0, True)
    assert stream.is_finished


def test_a_stop_is_repeated_until_it_has_arrived() -> None:
    half = receiving()
    half.stop(3)
    assert half.get_stop_frame() == (4, 3)
    pending = [half.stop_pending]
    half.on_stop_sending_delivery(object())
    pending.append(half.stop_pending)
    assert pending == [False, True]
