"""Congestion control on a simulated bottleneck: what a flow gets, alone and beside another."""

from __future__ import annotations

import pytest

from sshoq.transport.congestion import CONTROLLERS, Acknowledged, Cubic, SlowStart
from sshoq.transport.pacing import LEAST_BURST, Pacer
from tests.bottleneck import Bottleneck

SIZE = 1200
RTT = 0.05


class Packet:
    def __init__(self, sent_time: float, sent_bytes: int = SIZE) -> None:
        self.sent_time = sent_time
        self.sent_bytes = sent_bytes


def acknowledge(controller: Cubic, now: float, packets: int = 10) -> None:
    """A window in use, of which some packets arrive."""
    sent = [Packet(now - RTT) for _ in range(packets)]
    controller.acknowledged(
        Acknowledged(
            now,
            list(sent),
            packets * SIZE,
            now - RTT,
            rtt=RTT,
            smoothed_rtt=RTT,
            in_flight_before=controller.congestion_window,
            is_round_start=True,
        )
    )


# ------------------------------------------------------------------------------- rules


def test_slow_start_doubles_and_a_loss_takes_three_tenths() -> None:
    controller = Cubic(SIZE)
    before = controller.congestion_window
    acknowledge(controller, 1.0)
    assert controller.congestion_window == before + 10 * SIZE
    before = controller.congestion_window
    controller.on_packets_lost(now=1.1, packets=[Packet(1.06)])
    assert controller.congestion_window == int(before * 0.7)


def test_one_round_of_losses_counts_once() -> None:
    controller = Cubic(SIZE)
    controller.on_packets_lost(now=1.1, packets=[Packet(1.05)])
    window = controller.congestion_window
    controller.on_packets_lost(now=1.12, packets=[Packet(1.08)])
    assert controller.congestion_window == window
    controller.on_packets_lost(now=1.2, packets=[Packet(1.15)])
    assert controller.congestion_window < window


def test_what_comes_after_all_was_no_loss_to_cubic() -> None:
    controller = Cubic(SIZE)
    acknowledge(controller, 1.0)
    before = controller.congestion_window
    lost = [Packet(1.05), Packet(1.06), Packet(1.07)]
    controller.on_packets_lost(now=1.1, packets=lost[:2])
    controller.on_packets_lost(now=1.11, packets=lost[2:])
    controller.not_lost(lost[:2], 2 * SIZE, 1.12)
    assert controller.congestion_window < before
    controller.not_lost(lost[2:], SIZE, 1.13)
    assert controller.congestion_window == before
    assert controller.in_slow_start
    controller.on_packets_lost(now=1.2, packets=[Packet(1.15)])
    assert controller.congestion_window == int(before * 0.7)


def test_what_comes_after_a_collapse_changes_nothing() -> None:
    controller = Cubic(SIZE)
    lost = [Packet(1.05)]
    controller.on_packets_lost(now=1.1, packets=lost)
    controller.on_persistent_congestion()
    controller.not_lost(lost, SIZE, 1.2)
    assert controller.congestion_window == controller.least_window


def test_the_window_comes_back_to_its_summit_and_goes_beyond() -> None:
    controller = Cubic(SIZE)
    controller.congestion_window = 1000 * SIZE
    controller.on_packets_lost(now=1.0, packets=[Packet(0.99)])
    now, seen = 1.0, []
    for _ in range(400):
        now += RTT
        acknowledge(controller, now, packets=controller.congestion_window // SIZE)
        seen.append(controller.congestion_window // SIZE)
    assert seen == sorted(seen)
    # K = cbrt(300 / 0.4) = 9.1 s after the loss.
    assert 960 < seen[int(9.1 / RTT)] < 1040
    assert seen[-1] > 1200


def test_a_window_that_is_not_used_does_not_grow() -> None:
    controller = Cubic(SIZE)
    before = controller.congestion_window
    batch = Acknowledged(
        1.0,
        [Packet(0.95)],
        SIZE,
        0.95,
        rtt=RTT,
        smoothed_rtt=RTT,
        in_flight_before=SIZE,
        is_round_start=False,
    )
    controller.acknowledged(batch)
    assert controller.congestion_window == before


def test_longer_round_trips_end_slow_start() -> None:
    slow_start = SlowStart()
    rounds = 0
    rtt = RTT
    while not slow_start.observe(None, is_round_start=True):
        for _ in range(10):
            slow_start.observe(rtt, is_round_start=False)
        rtt += 0.01
        rounds += 1
        assert rounds < 20
    assert rounds > 5


def test_steady_round_trips_do_not() -> None:
    slow_start = SlowStart()
    for number in range(200):
        assert not slow_start.observe(RTT + 0.0001 * (number % 3), is_round_start=number % 10 == 0)


# ------------------------------------------------------------------------------- pacing


def test_a_burst_may_leave_and_then_the_rate_holds() -> None:
    pacer = Pacer(SIZE, lambda rtt: 1_000_000.0)
    assert pacer.next_send_time(0.0) is None
    pacer.update_rate(0, RTT)
    left, now = 0, 0.0
    while now < 1.0:
        wait = pacer.next_send_time(now)
        if wait is not None:
            assert wait > now
            now = wait
            continue
        pacer.spend(SIZE)
        left += SIZE
    assert 1_000_000 <= left <= 1_000_000 + (LEAST_BURST + 1) * SIZE


def test_what_is_saved_up_is_bounded() -> None:
    pacer = Pacer(SIZE, lambda rtt: 50_000_000.0)
    pacer.update_rate(0, RTT)
    pacer.allowance(1.0)
    assert pacer.allowance(100.0) == pytest.approx(50_000_000 * 0.002)


# ------------------------------------------------------------------------------- whole flows


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_a_flow_alone_fills_its_path(name: str) -> None:
    path = Bottleneck(bytes_per_second=1_250_000, round_trip=0.04, queue=60_000)
    flow = path.add(name)
    path.run(2.0)
    before = flow.received
    path.run(6.0)
    assert flow.received - before > 0.8 * 4.0 * 1_250_000


def test_random_loss_does_not_slow_bbr_down_as_it_does_cubic() -> None:
    received = {}
    for name in CONTROLLERS:
        path = Bottleneck(bytes_per_second=2_500_000, round_trip=0.05, queue=125_000, loss=0.01)
        flow = path.add(name)
        path.run(5.0)
        received[name] = flow.received
    assert received["bbr"] > 0.8 * 5.0 * 2_500_000
    assert received["bbr"] > 5 * received["cubic"]


@pytest.mark.parametrize("seed", range(6))
def test_an_unlucky_beginning_is_not_taken_for_a_full_path(seed: int) -> None:
    """One loss in a hundred comes in clusters, and at the beginning few packets are under way."""
    path = Bottleneck(
        bytes_per_second=1_250_000, round_trip=0.05, queue=62_500, loss=0.01, seed=seed
    )
    flow = path.add("bbr")
    path.run(1.0)
    before = flow.received
    path.run(4.0)
    assert flow.received - before > 0.75 * 3.0 * 1_250_000


@pytest.mark.parametrize("loss", [0.03, 0.05])
def test_a_bad_line_is_used_all_the_same(loss: float) -> None:
    """A radio link at its edge."""
    path = Bottleneck(bytes_per_second=2_500_000, round_trip=0.1, queue=250_000, loss=loss)
    flow = path.add("bbr")
    path.run(8.0)
    assert flow.received > 0.6 * 8.0 * 2_500_000


@pytest.mark.parametrize("jitter", [0.004, 0.02])
def test_packets_that_overtake_each_other_are_no_losses(jitter: float) -> None:
    received = {}
    for name in CONTROLLERS:
        path = Bottleneck(bytes_per_second=1_250_000, round_trip=0.05, queue=125_000, jitter=jitter)
        flow = path.add(name)
        path.run(8.0)
        received[name] = flow.received / (8.0 * 1_250_000)
    assert received["bbr"] > 0.75
    assert received["cubic"] > 0.5


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_what_follows_on_typing_gets_up_to_speed_at_once(name: str) -> None:
    """What somebody types says nothing of what the path takes."""
    path = Bottleneck(bytes_per_second=1_250_000, round_trip=0.05, queue=62_500)
    flow = path.add(name)
    flow.is_bulk = False
    path.run(1.0)
    assert flow.stream_id is not None
    for key in range(110):
        flow.client.engine.write(flow.stream_id, b"key")
        path.run(1.0 + 0.1 * key)
    flow.is_bulk = True
    before = flow.received
    path.run(13.0)
    assert flow.received - before > 0.6 * 1.0 * 1_250_000


@pytest.mark.parametrize("order", [("bbr", "cubic"), ("cubic", "bbr")])
def test_bbr_takes_no_more_than_twice_what_cubic_gets(order: tuple[str, str]) -> None:
    """On 50 Mbit/s and 50 ms, at a queue of one bandwidth-delay product. CUBIC takes ten seconds
    to grow back from what its start came to."""
    path = Bottleneck(bytes_per_second=6_250_000, round_trip=0.05, queue=312_500, tick=0.001)
    flows = {name: path.add(name, begins=0.5 * number) for number, name in enumerate(order)}
    path.run(12.0)
    before = {name: flow.received for name, flow in flows.items()}
    path.run(24.0)
    got = {name: flow.received - before[name] for name, flow in flows.items()}
    assert got["bbr"] < 2 * got["cubic"]
    assert got["bbr"] > 0.1 * got["cubic"]
    assert sum(got.values()) > 0.9 * 12.0 * 6_250_000


def test_bbr_keeps_the_queue_short() -> None:
    path = Bottleneck(bytes_per_second=1_250_000, round_trip=0.04, queue=400_000)
    flow = path.add("bbr")
    path.run(3.0)
    round_trips = []
    for step in range(40):
        path.run(3.0 + 0.05 * step)
        round_trips.append(flow.client.engine.round_trip_time or 0.0)
    assert sorted(round_trips)[20] < 0.06
    assert path.dropped <= 5
