"""Engines that share one bottleneck: a rate, a queue, delays and random loss, in simulated time.

For congestion control: what a flow gets, alone or beside others. Nothing sleeps.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from sshoq.transport.engine import Engine
from sshoq.transport.events import AFTER_LOGIN, Address, HandshakeCompleted, StreamData
from sshoq.transport.packets import FirstPacket
from tests.link import SERVER, Side, first_datagrams, identity

BLOCK = bytes(128 * 1024)


@dataclass
class Flow:
    """A client that sends as much as it can, and the server that reads it."""

    client: Side
    server: Side | None = None
    begins: float = 0.0
    is_bulk: bool = True
    """Else the test writes, on `stream_id`."""
    stream_id: int | None = None
    received: int = 0
    delays: list[float] = field(default_factory=list)

    def write(self) -> None:
        """Keep the engine's buffer full."""
        engine = self.client.engine
        if self.stream_id is None:
            if not self.client.told(HandshakeCompleted):
                return
            self.stream_id = engine.open_stream(unidirectional=True)
        while self.is_bulk and engine.buffered(self.stream_id) < 4_000_000:
            engine.write(self.stream_id, BLOCK)

    def read(self) -> None:
        assert self.server is not None
        for event in self.server.told(StreamData):
            self.received += len(event.data)
            self.server.engine.consumed(event.stream_id, len(event.data))
        self.server.events.clear()


class Bottleneck:
    """All that clients send goes through one queue; the way back is free."""

    def __init__(
        self,
        *,
        bytes_per_second: float,
        round_trip: float,
        queue: int,
        loss: float = 0.0,
        jitter: float = 0.0,
        seed: int = 1,
        datagram_limit: int = 1500,
        tick: float = 0.0002,
    ) -> None:
        """`jitter`: seconds, the most that a packet is late on its own, so that others overtake it.
        `tick`: how much later than the first arrival a loop wakes, for all that came since."""
        self.now = 0.0
        self.rate = bytes_per_second
        self.delay = round_trip / 2
        self.queue = queue
        self.loss = loss
        self.jitter = jitter
        self.flows: list[Flow] = []
        self.dropped = 0
        self._datagram_limit = datagram_limit
        self._tick = tick
        self._free_at = 0.0
        self._chance = random.Random(seed)
        self._in_flight: list[tuple[float, int, Flow, bool, bytes]] = []
        self._count = 0

    def add(self, congestion: str, begins: float = 0.0) -> Flow:
        address: Address = ("192.0.2.1", 40000 + len(self.flows))
        engine = Engine.client(
            SERVER, "host.example", now=begins, limits=AFTER_LOGIN, congestion=congestion
        )
        flow = Flow(Side(engine, address), begins=begins)
        self.flows.append(flow)
        return flow

    def run(self, until: float) -> None:
        while self.now < until:
            for flow in self.flows:
                if self.now >= flow.begins:
                    self._pump(flow)
            self.now = max(self.now, min(self._next_moment(), until))
            self._arrive()
            for flow in self.flows:
                self._fire(flow.client)
                self._fire(flow.server)

    def _pump(self, flow: Flow) -> None:
        if flow.server is None:
            first = first_datagrams(flow.client.engine, self.now)
            start = FirstPacket.of(first[0])
            server = Engine.server(start, identity(), limits=AFTER_LOGIN)
            flow.server = Side(server, SERVER)
            for datagram in first:
                self._send_up(flow, datagram)
        flow.write()
        for _, datagrams in flow.client.engine.outgoing(self.now):
            for datagram in datagrams:
                self._send_up(flow, datagram)
        for _, datagrams in flow.server.engine.outgoing(self.now):
            for datagram in datagrams:
                self._launch(self.now + self.delay, flow, False, datagram)
        flow.client.collect()

    def _send_up(self, flow: Flow, datagram: bytes) -> None:
        waiting = max(0.0, self._free_at - self.now)
        too_many = waiting * self.rate + len(datagram) > self.queue
        if too_many or len(datagram) > self._datagram_limit:
            self.dropped += 1
            return
        self._free_at = self.now + waiting + len(datagram) / self.rate
        if self._chance.random() >= self.loss:
            self._launch(self._free_at + self.delay, flow, True, datagram)

    def _launch(self, at: float, flow: Flow, upward: bool, datagram: bytes) -> None:
        self._count += 1
        at += self.jitter * self._chance.random()
        heapq.heappush(self._in_flight, (at, self._count, flow, upward, datagram))

    def _next_moment(self) -> float:
        moments = [flow.begins for flow in self.flows if flow.begins > self.now]
        sides = [side for flow in self.flows for side in (flow.client, flow.server)]
        for side in sides:
            at = side.engine.timer() if side is not None else None
            if at is not None:
                moments.append(at)
        if self._in_flight:
            moments.append(self._in_flight[0][0] + self._tick)
        return max(min(moments, default=float("inf")), self.now + 0.0001)

    def _arrive(self) -> None:
        batches: dict[tuple[int, bool], tuple[Flow, list[bytes]]] = {}
        while self._in_flight and self._in_flight[0][0] <= self.now:
            _, _, flow, upward, datagram = heapq.heappop(self._in_flight)
            batches.setdefault((id(flow), upward), (flow, []))[1].append(datagram)
        for (_, upward), (flow, datagrams) in batches.items():
            assert flow.server is not None
            if upward:
                flow.server.engine.receive(datagrams, flow.client.address, self.now)
                flow.server.collect()
                flow.read()
            else:
                flow.client.engine.receive(datagrams, SERVER, self.now)
                flow.client.collect()

    def _fire(self, side: Side | None) -> None:
        deadline = side.engine.timer() if side is not None else None
        if side is not None and deadline is not None and deadline <= self.now:
            side.engine.handle_timer(self.now)
