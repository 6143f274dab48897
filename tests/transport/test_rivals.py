"""What BBR does beside others: whose the queue is, and what each flow gets of a shared path."""

from __future__ import annotations

import itertools
import random

import pytest

from sshoq.transport.bbr import Bbr, Phase, _Snapshot
from sshoq.transport.congestion import Acknowledged
from sshoq.transport.rivals import (
    LEAST_KEPT,
    LEAST_QUIET,
    MOST_KEPT,
    Contest,
    QueueLosses,
    is_near,
    kept_share,
)
from tests.shares import BYTES_PER_SECOND, QUEUES, ROUND_TRIP, SIZE, Packet, Path, shares

SHORT, LONG = 0.05, 0.08


def learned(losses: QueueLosses, packets: int = 20_000, lost: float = 0.0) -> QueueLosses:
    """After a while in which the queue was now short, now long, and the line lost that share."""
    for number in range(packets // 100):
        losses.begin_round()
        rtt = LONG if number % 10 < 3 else SHORT
        losses.note_arrival(100, rtt, SHORT, 0.01 * number)
        if rtt == SHORT and lost:
            losses.note_lost(100 * lost)
    return losses


# ------------------------------------------------------------------------------- losses


def test_on_a_good_line_a_loss_behind_a_long_queue_is_the_queues() -> None:
    losses = learned(QueueLosses())
    losses.begin_round()
    losses.note_arrival(100, LONG, SHORT, 20.0)
    assert losses.note_lost(1)


def test_with_a_short_queue_it_is_the_lines() -> None:
    losses = learned(QueueLosses())
    losses.note_arrival(100, SHORT, SHORT, 20.0)
    assert not any([losses.note_lost(1) for _ in range(50)])


@pytest.mark.parametrize("share", [0.0005, 0.001, 0.01, 0.05])
def test_a_bad_line_is_hardly_ever_taken_for_a_full_queue(share: float) -> None:
    chance = random.Random(1)
    losses, mistakes = QueueLosses(), 0
    for number in range(4000):
        losses.begin_round()
        now, rtt = 0.05 * number, LONG if number % 12 < 3 else SHORT
        losses.note_arrival(100, rtt, SHORT, now)
        lost = sum(chance.random() < share for _ in range(100))
        mistakes += any([losses.note_lost(1) for _ in range(lost)])
    assert mistakes <= 10


def test_what_a_full_queue_loses_on_a_bad_line_is_seen() -> None:
    losses = learned(QueueLosses(), lost=0.01)
    losses.begin_round()
    losses.note_arrival(100, LONG, SHORT, 20.0)
    assert any([losses.note_lost(1) for _ in range(15)])


def test_an_end_that_was_busy_for_a_moment_makes_no_long_queue() -> None:
    """Or what a full queue loses would pass for the line's for as long as that is remembered."""
    losses = learned(QueueLosses())
    for busy in (3 * LONG, 2 * LONG, LONG, SHORT):
        losses.begin_round()
        losses.note_arrival(1, busy, SHORT, 2.0)
        losses.note_arrival(99, SHORT, SHORT, 2.0)
    losses.begin_round()
    losses.note_arrival(100, LONG, SHORT, 2.1)
    assert losses.note_lost(1)


def test_a_queue_that_has_just_overflowed_says_nothing_of_the_line() -> None:
    losses = learned(QueueLosses())
    losses.settle()
    for _ in range(100):
        losses.note_lost(1)
    losses.begin_round()
    losses.note_arrival(100, LONG, SHORT, 20.0)
    assert losses.note_lost(1)


# ------------------------------------------------------------------------------- the window


def packet(sent_time: float) -> object:
    class Packet:
        sent_bytes = SIZE

    Packet.sent_time = sent_time  # type: ignore[attr-defined]
    return Packet()


def acknowledge(contest: Contest, now: float, count: int, in_flight: int | None = None) -> None:
    contest.acknowledged(
        Acknowledged(
            now,
            [],
            count,
            now - SHORT,
            rtt=SHORT,
            smoothed_rtt=SHORT,
            in_flight_before=contest.window if in_flight is None else in_flight,
            is_round_start=True,
        )
    )


def test_a_short_queue_is_drained_and_a_long_one_given_up() -> None:
    assert kept_share(1.01 * SHORT, SHORT) <= MOST_KEPT
    assert LEAST_KEPT < kept_share(1.25 * SHORT, SHORT) < 0.5 < kept_share(1.1 * SHORT, SHORT)
    assert kept_share(9 * SHORT, SHORT) == LEAST_KEPT


def test_the_window_comes_back_ever_faster_and_one_round_of_losses_counts_once() -> None:
    contest = Contest(SIZE, 300 * SIZE, 0.0)
    contest.lost([packet(0.05)], 0.5, 0.1)  # type: ignore[list-item]
    assert contest.window == 150 * SIZE
    contest.lost([packet(0.09)], 0.5, 0.12)  # type: ignore[list-item]
    assert contest.window == 150 * SIZE
    seen = [contest.window]
    for step in range(1, 8):
        acknowledge(contest, 0.1 + step, SIZE)
        seen.append(contest.window)
    gains = [later - earlier for earlier, later in itertools.pairwise(seen)]
    assert gains == sorted(gains)
    assert 4 < next(step for step, window in enumerate(seen) if window > 300 * SIZE) < 7


def test_a_window_that_is_not_used_does_not_grow() -> None:
    contest = Contest(SIZE, 100 * SIZE, 0.0)
    for step in range(1, 10):
        acknowledge(contest, float(step), SIZE, in_flight=SIZE)
    assert contest.window == 100 * SIZE
    acknowledge(contest, 9.1, SIZE)
    assert contest.window < 105 * SIZE


def test_nothing_arriving_leaves_the_least_window() -> None:
    contest = Contest(SIZE, 100 * SIZE, 0.0)
    contest.collapse()
    assert contest.window == 4 * SIZE


def test_larger_datagrams_leave_the_window_as_large() -> None:
    contest = Contest(1200, 120_000, 0.0)
    contest.use_datagram_size(1500)
    assert contest.window == 120_000


def test_others_that_fill_no_queue_for_long_have_gone() -> None:
    contest = Contest(SIZE, 100 * SIZE, 0.0)
    contest.lost([packet(0.5)], 0.5, 1.0)  # type: ignore[list-item]
    assert not contest.is_quiet(1.0 + LEAST_QUIET)
    assert contest.is_quiet(1.0 + 4 * LEAST_QUIET)


def test_near_is_within_what_timers_do() -> None:
    assert is_near(0.002, 0.0005)
    assert is_near(0.054, 0.05)
    assert not is_near(0.06, 0.05)


# ------------------------------------------------------------------------------- whole flows


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("seed", [1, 2])
def test_neither_of_bbr_and_cubic_gets_far_more_than_the_other(
    queue: float, first: int, seed: int
) -> None:
    seen = shares(["bbr", "cubic"], queue=queue, first=first, seed=seed)
    assert 0.4 <= seen.ratio <= 2.0
    assert sum(seen.rates) > 0.85 * BYTES_PER_SECOND


@pytest.mark.parametrize("queue", QUEUES)
def test_two_flows_of_our_own_share_evenly(queue: float) -> None:
    seen = shares(["bbr", "bbr"], queue=queue)
    assert seen.fairness > 0.9
    assert sum(seen.rates) > 0.8 * BYTES_PER_SECOND


@pytest.mark.parametrize(
    ("queue", "share"), [(0.25, 0.8), (0.5, 0.85), (1.0, 0.95), (2.0, 0.95), (4.0, 0.95)]
)
def test_a_flow_alone_uses_the_path_and_keeps_the_queue_short(queue: float, share: float) -> None:
    seen = shares(["bbr"], queue=queue, since=5.0, until=20.0)
    assert seen.rates[0] > share * BYTES_PER_SECOND
    assert seen.delay < 1.3


@pytest.mark.parametrize("queue", [0.25, 1.0])
@pytest.mark.parametrize("loss", [0.001, 0.01])
def test_a_bad_line_costs_little(queue: float, loss: float) -> None:
    seen = shares(["bbr"], queue=queue, loss=loss, since=5.0, until=20.0)
    assert seen.rates[0] > 0.75 * BYTES_PER_SECOND


@pytest.mark.parametrize("queue", [1.0, 4.0])
def test_when_the_other_has_gone_the_queue_becomes_short_again(queue: float) -> None:
    path = Path(queue=queue)
    mine = path.add("bbr")
    path.add("cubic", begins=0.5, ends=12.0)
    path.run(12.0)
    assert isinstance(mine.controller, Bbr)
    assert mine.controller.phase is Phase.CONTEST
    path.run(40.0)
    received = mine.received
    mine.round_trips.clear()
    path.run(50.0)
    assert mine.received - received > 0.9 * 10.0 * BYTES_PER_SECOND
    assert sorted(mine.round_trips)[len(mine.round_trips) // 2] < 1.3 * path.round_trip


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("queue", [0.5, 1.0])
def test_what_the_start_loses_to_its_own_queue_begins_no_contest(queue: float, seed: int) -> None:
    """At 200 Mbit/s these are hundreds of packets, and on a bad line the transfer is most of it
    over before a contest is."""
    path = Path(bytes_per_second=4 * BYTES_PER_SECOND, queue=queue, loss=0.01, seed=seed)
    sender = path.add("bbr")
    phases = set()
    assert isinstance(sender.controller, Bbr)
    for step in range(1, 80):
        path.run(step * ROUND_TRIP)
        phases.add(sender.controller.phase)
    assert path.dropped > 50
    assert Phase.STARTUP in phases
    assert Phase.CRUISE in phases or Phase.UP in phases
    assert Phase.CONTEST not in phases


@pytest.mark.parametrize("phase", [Phase.STARTUP, Phase.UP])
def test_losses_that_were_none_are_taken_back(phase: Phase) -> None:
    path = Path(queue=4.0)
    controller = path.add("bbr").controller
    assert isinstance(controller, Bbr)
    while controller.phase is not phase or path.now < 0.3:
        path.run(path.now + 0.001)
        assert path.now < 5.0
    window = controller.congestion_window
    packets = [Packet(number, path.now - 0.02) for number in range(window // SIZE // 4)]
    for packet in packets:
        packet.snapshot = _Snapshot(0, 0.0, 0.0, window, 0, False)
        controller.lost([packet], SIZE, path.now)
    if phase is Phase.UP:
        assert controller.phase is Phase.DOWN
    assert controller.congestion_window < window
    controller.not_lost(packets[1:], SIZE * len(packets[1:]), path.now)
    controller.not_lost(packets[:1], SIZE, path.now)
    assert controller.phase is phase
    before = path.dropped
    path.run(path.now + 1.0)
    assert controller.congestion_window > 0.9 * window
    assert controller.phase is not Phase.CONTEST
    assert path.dropped == before
