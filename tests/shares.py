"""What congestion controllers get beside each other on one bottleneck, in simulated time.

Controllers and pacers alone, without the engine and its packets' bytes: a run takes a tenth of what
`bottleneck.py` takes, so that whole tables of queues can be looked at. As a program, this prints
them:

    python -m tests.shares [--flows bbr,cubic] [--queues 0.25,1,4] [--seconds 30] [--loss 0.01]
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sshoq.transport.congestion import CONTROLLERS, Acknowledged, Controller
from sshoq.transport.pacing import Pacer

SIZE = 1200
BYTES_PER_SECOND = 6_250_000.0
ROUND_TRIP = 0.05
QUEUES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""In what the path holds without a queue."""

TICK = 0.001
"""Seconds: what a loop that wakes by timers makes of arrivals and departures."""

REORDERED = 3
"""Packets acknowledged behind a missing one, for it to be lost (RFC 9002 6.1.1)."""

STAGGER = 0.5

SILENCE = 3
"""Round trips without an acknowledgement, after which all that was sent before them is lost: so
much becomes of the probes that an engine sends."""


class Packet:
    """What a controller sees of one, and what it writes on it."""

    __slots__ = ("number", "sent_bytes", "sent_time", "snapshot")

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.sent_bytes = SIZE
        self.sent_time = now
        self.snapshot: object = None


@dataclass
class Sender:
    """One flow that always has something to send; losses are found as RFC 9002 finds them."""

    controller: Controller
    begins: float = 0.0
    ends: float = float("inf")
    received: int = 0
    round_trips: list[float] = field(default_factory=list)
    _number: int = 0
    _round_end: int = 0
    _smoothed: float = 0.0
    _heard: float = 0.0
    _waiting: deque[Packet] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._pacer = Pacer(SIZE, self.controller.pacing_rate)

    def take_turn(self, now: float) -> list[Packet]:
        """The packets that may leave now."""
        self._give_up_on_old(now)
        controller, packets = self.controller, []
        room = controller.congestion_window - controller.bytes_in_flight
        while room >= SIZE and self._pacer.next_send_time(now) is None:
            packet = Packet(self._number, now)
            self._number += 1
            self._pacer.spend(SIZE)
            room -= SIZE
            packets.append(packet)
        if packets:
            controller.sent(packets, SIZE * len(packets), now)
            self._waiting += packets
        return packets

    def take_acknowledgement(self, arrived: list[Packet], now: float) -> None:
        """All of them in order, as nothing overtakes here."""
        controller, newest, self._heard = self.controller, arrived[-1], now
        rtt = now - newest.sent_time
        self._smoothed += (rtt - self._smoothed) / 8 if self._smoothed else rtt
        self.round_trips.append(rtt)
        is_round_start = newest.number >= self._round_end
        if is_round_start:
            self._round_end = self._number
        count = SIZE * len(arrived)
        batch = Acknowledged(
            now,
            list(arrived),
            count,
            newest.sent_time,
            rtt=rtt,
            smoothed_rtt=self._smoothed,
            in_flight_before=controller.bytes_in_flight,
            is_round_start=is_round_start,
        )
        controller.bytes_in_flight -= count
        controller.acknowledged(batch)
        self._find_losses({packet.number for packet in arrived}, newest.number, now)
        self._pacer.update_rate(controller.congestion_window, self._smoothed)

    def _give_up_on_old(self, now: float) -> None:
        longest = SILENCE * (self._smoothed or 1.0)
        if self._waiting and now - max(self._waiting[-1].sent_time, self._heard) > longest:
            lost = list(self._waiting)
            self._waiting.clear()
            self.controller.on_packets_lost(now=now, packets=lost)

    def _find_losses(self, arrived: set[int], newest: int, now: float) -> None:
        lost: list[Packet] = []
        kept: list[Packet] = []
        while self._waiting and self._waiting[0].number <= newest:
            packet = self._waiting.popleft()
            if packet.number in arrived:
                continue
            (lost if packet.number <= newest - REORDERED else kept).append(packet)
        self._waiting.extendleft(reversed(kept))
        if lost:
            self.controller.on_packets_lost(now=now, packets=lost)


class Arrival(NamedTuple):
    """A packet at the receiver."""

    at: float
    order: int
    sender: Sender
    packet: Packet


class Path:
    """The bottleneck: a rate, a queue that drops what finds no room, and chance."""

    def __init__(
        self,
        *,
        bytes_per_second: float = BYTES_PER_SECOND,
        round_trip: float = ROUND_TRIP,
        queue: float = 1.0,
        loss: float = 0.0,
        seed: int = 1,
    ) -> None:
        """`queue`: in what the path holds without one."""
        self.now = 0.0
        self.rate = bytes_per_second
        self.round_trip = round_trip
        self.senders: list[Sender] = []
        self.dropped = 0
        self._queue = queue * bytes_per_second * round_trip
        self._loss = loss
        self._chance = random.Random(seed)
        self._free_at = 0.0
        self._under_way: list[Arrival] = []
        self._order = 0

    def add(self, name: str, begins: float = 0.0, ends: float = float("inf")) -> Sender:
        sender = Sender(CONTROLLERS[name](SIZE), begins=begins, ends=ends)
        self.senders.append(sender)
        return sender

    def run(self, until: float) -> None:
        while self.now < until:
            self.now += TICK
            self._deliver()
            # Nobody is always first at a full queue.
            for sender in self._chance.sample(self.senders, len(self.senders)):
                if sender.begins <= self.now < sender.ends:
                    self._send(sender)

    def _send(self, sender: Sender) -> None:
        at = self.now
        for packet in sender.take_turn(self.now):
            at += TICK * self._chance.random() / 20
            waiting = max(0.0, self._free_at - at)
            if waiting * self.rate + SIZE > self._queue:
                self.dropped += 1
                continue
            self._free_at = at + waiting + SIZE / self.rate
            if self._chance.random() >= self._loss:
                self._order += 1
                arrival = Arrival(self._free_at + self.round_trip, self._order, sender, packet)
                heapq.heappush(self._under_way, arrival)

    def _deliver(self) -> None:
        arrived: dict[int, tuple[Sender, list[Packet]]] = {}
        while self._under_way and self._under_way[0].at <= self.now:
            _, _, sender, packet = heapq.heappop(self._under_way)
            arrived.setdefault(id(sender), (sender, []))[1].append(packet)
        for sender, packets in arrived.values():
            sender.received += SIZE * len(packets)
            sender.take_acknowledgement(packets, self.now)


class Shares(NamedTuple):
    """Bytes per second that each flow got in the time looked at, and the queue meanwhile."""

    rates: list[float]
    dropped: int
    delay: float
    """The median of round trips, in those without a queue."""

    @property
    def ratio(self) -> float:
        """Of the first flow to the second."""
        return self.rates[0] / self.rates[1]

    @property
    def fairness(self) -> float:
        """Jain's index: 1 when all got the same."""
        squares = sum(rate * rate for rate in self.rates)
        return sum(self.rates) ** 2 / len(self.rates) / squares


def shares(
    names: Sequence[str],
    *,
    queue: float,
    first: int = 0,
    since: float = 15.0,
    until: float = 30.0,
    loss: float = 0.0,
    seed: int = 1,
    bytes_per_second: float = BYTES_PER_SECOND,
    round_trip: float = ROUND_TRIP,
) -> Shares:
    """What flows of these kinds get. `first`: which begins; the others follow, half a second
    apart."""
    path = Path(
        bytes_per_second=bytes_per_second, round_trip=round_trip, queue=queue, loss=loss, seed=seed
    )
    for number, name in enumerate(names):
        path.add(name, begins=STAGGER * ((number - first) % len(names)))
    path.run(since)
    before, dropped = [sender.received for sender in path.senders], path.dropped
    for sender in path.senders:
        sender.round_trips.clear()
    path.run(until)
    rates = [
        (sender.received - count) / (until - since)
        for sender, count in zip(path.senders, before, strict=True)
    ]
    seen = sorted(path.senders[0].round_trips)
    delay = seen[len(seen) // 2] / round_trip if seen else 0.0
    return Shares(rates, path.dropped - dropped, delay)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flows", default="bbr,cubic")
    parser.add_argument("--queues", default=",".join(map(str, QUEUES)))
    parser.add_argument("--since", type=float, default=15.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mbit", type=float, default=50.0)
    options = parser.parse_args()
    names = options.flows.split(",")
    print("queue  first   MB/s of each        ratio by seed        Jain  drops  delay")
    for queue in map(float, options.queues.split(",")):
        for first in range(len(set(names))):
            seen = [
                shares(
                    names,
                    queue=queue,
                    first=first,
                    since=options.since,
                    until=options.seconds,
                    loss=options.loss,
                    seed=seed,
                    bytes_per_second=options.mbit * 125_000,
                )
                for seed in range(1, options.seeds + 1)
            ]
            rates = " ".join(f"{rate / 1e6:6.2f}" for rate in seen[0].rates)
            ratios = " ".join(f"{one.ratio:5.2f}" for one in seen) if len(names) > 1 else ""
            worst = min(one.fairness for one in seen)
            print(
                f"{queue:5.2f}  {names[first]:6}  {rates:18}  {ratios:20} {worst:5.2f} "
                f"{seen[0].dropped:6} {seen[0].delay:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
