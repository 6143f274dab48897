"""Which packets are taken for lost, and what is learnt from those that come after all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.transport.loss_detection import (
    LEAST_PATIENCE,
    MEMORY,
    MOST_GIVEN_UP,
    MOST_PATIENCE,
    PACKETS,
    LossDetection,
)

RTT = 0.1


class Packet:
    def __init__(self, number: int, sent_time: float, *, in_flight: bool = True) -> None:
        self.packet_number = number
        self.sent_time = sent_time
        self.in_flight = in_flight


def sent(numbers: range, spacing: float = 0.001) -> dict[int, Packet]:
    """The first of them left at 0."""
    return {number: Packet(number, spacing * (number - numbers.start)) for number in numbers}


def numbers_of(packets: list[Packet]) -> list[int]:
    return [packet.packet_number for packet in packets]


def test_three_newer_packets_make_one_lost() -> None:
    detection = LossDetection()
    waiting = sent(range(10))
    lost, next_at = detection.find_lost(waiting, 2, RTT, 0.1)
    assert lost == []
    assert next_at == LEAST_PATIENCE * RTT
    lost, next_at = detection.find_lost(waiting, 5, RTT, 0.1)
    assert numbers_of(lost) == [0, 1, 2]
    assert next_at == 0.003 + LEAST_PATIENCE * RTT


def test_an_eighth_of_a_round_trip_makes_one_lost() -> None:
    detection = LossDetection()
    waiting = sent(range(10))
    _, next_at = detection.find_lost(waiting, 1, RTT, 0.1)
    assert next_at is not None
    lost, again_at = detection.find_lost(waiting, 1, RTT, next_at)
    assert numbers_of(lost) == [0]
    assert again_at is not None
    assert again_at > next_at


def test_nothing_newer_than_what_was_acknowledged_is_lost() -> None:
    detection = LossDetection()
    assert detection.find_lost(sent(range(5, 10)), 4, RTT, 100.0) == ([], None)


def test_after_one_mistake_time_alone_counts() -> None:
    detection = LossDetection()
    lost, _ = detection.find_lost(sent(range(10)), 8, RTT, 0.1)
    assert numbers_of(lost) == [0, 1, 2, 3, 4, 5]
    late = detection.find_late([(2, 4), (7, 9)], RTT, 0.13)
    assert numbers_of(late) == [2, 3]
    assert detection.find_late([(2, 4), (7, 9)], RTT, 0.13) == []
    assert not detection.is_ordered
    lost, next_at = detection.find_lost(sent(range(20, 30)), 29, RTT, 0.1)
    assert lost == []
    # The latest took 0.128 s, and gets an eighth of a round trip more.
    assert next_at is not None
    assert abs(next_at - (0.128 + RTT / 8)) < 1e-9


def test_overtaking_that_does_no_harm_is_noticed_too() -> None:
    detection = LossDetection()
    detection.note_arrival(Packet(100 - PACKETS, 0.0), 100, RTT, 0.1)
    assert detection.patience == LEAST_PATIENCE
    detection.note_arrival(Packet(99 - PACKETS, 0.0), 100, RTT, 0.15)
    assert not detection.is_ordered
    assert detection.patience == pytest.approx(1.5 + 1 / 8)
    detection.note_arrival(Packet(99 - PACKETS, 0.0), 100, RTT, 0.95)
    assert detection.patience == MOST_PATIENCE


def test_a_path_that_has_become_orderly_is_believed_again() -> None:
    detection = LossDetection()
    detection.note_arrival(Packet(10, 0.0), 100, RTT, 0.15)
    now = 0.15
    for number in range(101, 104):
        now += MEMORY + 0.1
        assert not detection.is_ordered or number == 103
        detection.note_arrival(Packet(number, now - RTT), number - 1, RTT, now)
    assert detection.is_ordered
    assert detection.patience == LEAST_PATIENCE


def test_what_was_given_up_is_forgotten_in_time() -> None:
    detection = LossDetection()
    detection.find_lost(sent(range(10)), 9, RTT, 0.1)
    detection.find_lost({20: Packet(20, 5.0)}, 30, RTT, 5.1)
    assert numbers_of(detection.find_late([(0, 31)], RTT, 5.1)) == [20]


def test_no_more_is_remembered_than_that() -> None:
    detection = LossDetection()
    many = sent(range(3 * MOST_GIVEN_UP), spacing=0.0)
    detection.find_lost(many, 3 * MOST_GIVEN_UP, RTT, 0.1)
    late = detection.find_late([(0, 3 * MOST_GIVEN_UP)], RTT, 0.1)
    assert len(late) == MOST_GIVEN_UP


def test_packets_that_do_not_count_are_not_missed() -> None:
    detection = LossDetection()
    detection.find_lost({0: Packet(0, 0.0, in_flight=False)}, 9, RTT, 0.1)
    assert detection.find_late([(0, 10)], RTT, 0.1) == []


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 5)), max_size=8), st.integers(4, 60))
def test_late_are_those_given_up_that_the_ranges_hold(
    spans: list[tuple[int, int]], largest: int
) -> None:
    detection = LossDetection()
    lost, _ = detection.find_lost(sent(range(largest + 1)), largest, RTT, 0.1)
    ranges: list[tuple[int, int]] = []
    for start, length in sorted(spans):
        if not ranges or start > ranges[-1][1]:
            ranges.append((start, start + length))
    held = {number for start, stop in ranges for number in range(start, stop)}
    late = detection.find_late(ranges, RTT, 0.1)
    assert numbers_of(late) == [number for number in numbers_of(lost) if number in held]
