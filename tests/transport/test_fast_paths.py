"""The fast paths against the library's own: the same application on the same link sees the same.

A scenario is a list of what two applications do and when, drawn from a seed. It is played by every
pairing of fast and plain engines, over links with every kind of weather.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from sshoq.transport.engine import StreamClosed
from sshoq.transport.events import (
    AFTER_LOGIN,
    DatagramReceived,
    Event,
    PathChanged,
    StreamData,
    StreamReset,
    StreamStopped,
    Terminated,
)
from sshoq.transport.fast_send import FastSend
from sshoq.wire import varint
from tests.link import CLIENT, Link, Side, Weather, connected
from tests.rogue import forge, internal

PAIRINGS = [(False, False), (False, True), (True, False), (True, True)]
"""Of client and server: whether they are plain."""

Story = dict[int, object]
"""By stream: its size and digest, or the code it was reset with."""

MOVED = ("198.51.100.9", 4242)


# ------------------------------------------------------------------------------- applications


@dataclass
class Application:
    """Reads all it gets, and remembers what matters of it."""

    side: Side
    digests: dict[int, hashlib._Hash] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    ends: dict[int, object] = field(default_factory=dict)
    stopped: dict[int, int] = field(default_factory=dict)
    datagrams: set[bytes] = field(default_factory=set)
    unread: set[int] = field(default_factory=set)
    """Streams whose data is not consumed."""

    def __post_init__(self) -> None:
        self.side.on_event = self.take

    def take(self, event: Event) -> None:
        match event:
            case StreamData():
                assert event.stream_id not in self.ends, "data after the end"
                self.digests.setdefault(event.stream_id, hashlib.sha256()).update(event.data)
                size = self.sizes.get(event.stream_id, 0) + len(event.data)
                self.sizes[event.stream_id] = size
                if event.stream_id not in self.unread:
                    self.side.engine.consumed(event.stream_id, len(event.data))
                if event.fin:
                    self.ends[event.stream_id] = "fin"
            case StreamReset():
                self.ends[event.stream_id] = event.code
            case StreamStopped():
                self.stopped[event.stream_id] = event.code
            case DatagramReceived():
                self.datagrams.add(event.data)

    def story(self) -> Story:
        """Per stream how it ended, and all its data if it ended well."""
        return {
            stream_id: (self.sizes[stream_id], self.digests[stream_id].hexdigest())
            if end == "fin"
            else end
            for stream_id, end in self.ends.items()
        }


@dataclass
class Writer:
    """Writes one stream bit by bit, as its credit and our patience permit."""

    side: Side
    stream_id: int
    data: bytes
    at: int = 0

    def go_on(self) -> bool:
        while self.at < len(self.data) and self.side.engine.buffered(self.stream_id) < 200_000:
            piece = self.data[self.at : self.at + self._step()]
            self.at += len(piece)
            try:
                self.side.engine.write(self.stream_id, piece, fin=self.at == len(self.data))
            except StreamClosed:
                self.at = len(self.data)
        return self.at == len(self.data)

    def _step(self) -> int:
        """From keystrokes to full messages."""
        return (1, 50, 3000, 5000, 65536)[self.at % 5]


@dataclass
class Scenario:
    """What happens, drawn from a seed. Times are rounds of the loop that plays it."""

    seed: int
    streams: int = 5
    most: int = 150_000
    resets: bool = False
    key_updates: bool = False
    moves: bool = False
    quick_acks: bool = False
    narrow: int = 0

    def play(self, weather: Weather, plain: tuple[bool, bool]) -> tuple[Story, Story]:
        chance = random.Random(self.seed)
        link, client, server = connected(
            weather=weather, limits=AFTER_LOGIN, plain_client=plain[0], plain_server=plain[1]
        )
        self._prepare(link, client, server)
        sides = (client, server)
        applications = [Application(side) for side in sides]
        writers = self._writers(chance, client, server)
        doomed = chance.sample(writers, 2) if self.resets else []
        for step in range(40):
            for writer in writers:
                writer.go_on()
            if self.key_updates and step % 5 == 4 and is_settled(sides):
                internal(chance.choice(sides)).request_key_update()
            if self.moves and step == 10:
                client.address = MOVED
            if client.address == MOVED and not server.told(PathChanged):
                # Again and again, as with keep-alives: until the new path is proven, the server
                # may say no more than thrice what it hears there.
                client.engine.ping()
            if step == 12 and doomed:
                doomed[0].side.engine.reset(doomed[0].stream_id, 77)
                reader = server if doomed[1].side is client else client
                reader.engine.stop(doomed[1].stream_id, 88)
            link.run(seconds=0.03)
        wanted = len(writers) - len(doomed) // 2
        link.run(lambda: self._is_over(writers, applications, wanted), seconds=300)
        link.run(seconds=2)
        assert not client.told(Terminated)
        assert not server.told(Terminated)
        if self.moves:
            link.run(lambda: bool(server.told(PathChanged)))
        for side in sides:
            assert side.engine.buffered_total == 0
        return applications[0].story(), applications[1].story()

    def _prepare(self, link: Link, client: Side, server: Side) -> None:
        if self.quick_acks:
            for side in (client, server):
                internal(side)._ack_delay = 0.0
        if self.narrow:
            link.drop = lambda sender, datagram: len(datagram) > self.narrow

    def _writers(self, chance: random.Random, client: Side, server: Side) -> list[Writer]:
        writers = []
        for number in range(self.streams):
            side = (client, server)[number % 2]
            stream_id = side.engine.open_stream(unidirectional=number % 3 == 2)
            data = chance.randbytes(chance.randrange(1, self.most))
            writers.append(Writer(side, stream_id, data))
        return writers

    def _is_over(self, writers: list[Writer], applications: list[Application], wanted: int) -> bool:
        """`wanted`: a stream that was stopped may or may not come to its end."""
        written = all([writer.go_on() for writer in writers])
        return written and sum(len(each.ends) for each in applications) >= wanted


def is_settled(sides: tuple[Side, Side]) -> bool:
    """Whether both use the same keys: before that, no new ones may be begun (RFC 9001 6.1). And
    whether they reach each other: the library keeps no old keys for what is under way.
    """
    if sides[0].address == MOVED and not sides[1].told(PathChanged):
        return False
    pairs = [internal(side).application_keys for side in sides]
    pending = any(pair._update_key_requested for pair in pairs)
    return not pending and pairs[0].recv.secret == pairs[1].send.secret


def stories(scenario: Scenario, weather: Weather) -> list[tuple[Story, Story]]:
    return [scenario.play(weather, pairing) for pairing in PAIRINGS]


# ------------------------------------------------------------------------------- fast and plain

WEATHERS = [
    pytest.param(Weather(), id="fair"),
    pytest.param(Weather(loss=0.01, seed=2), id="1 % loss"),
    pytest.param(Weather(loss=0.05, seed=3), id="5 % loss"),
    pytest.param(Weather(reorder=0.2, seed=4), id="reordered"),
    pytest.param(Weather(duplicate=0.3, seed=5), id="duplicated"),
    pytest.param(Weather(loss=0.03, reorder=0.2, duplicate=0.1, seed=6), id="storm"),
]

TROUBLES = [
    pytest.param({}, id="nothing else"),
    pytest.param({"narrow": 1200}, id="tiny datagrams"),
    pytest.param({"narrow": 1500, "quick_acks": True}, id="an ACK for each packet"),
    pytest.param({"key_updates": True}, id="key updates"),
    pytest.param({"moves": True}, id="migration"),
]


@pytest.mark.parametrize("weather", WEATHERS)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_fast_and_plain_engines_tell_the_same(
    weather: Weather, trouble: dict[str, bool | int]
) -> None:
    scenario = Scenario(seed=len(trouble), **trouble)  # type: ignore[arg-type]  # a row of the table
    first, *others = stories(scenario, weather)
    assert len(first[0]) + len(first[1]) == scenario.streams
    assert all(other == first for other in others)


@pytest.mark.parametrize("seed", range(4))
def test_streams_that_end_badly_do_not_disturb_the_others(seed: int) -> None:
    """Whether a stream that is given up comes to its end is a race, and nothing else is."""
    weather = Weather(loss=0.02, reorder=0.1, seed=seed)
    scenario = Scenario(seed=seed, streams=8, resets=True)
    told = stories(scenario, weather)
    for side in range(2):
        ends = [story[side] for story in told]
        for stream_id in set.intersection(*(set(end) for end in ends)):
            whole = {str(end[stream_id]) for end in ends if isinstance(end[stream_id], tuple)}
            assert len(whole) <= 1
    assert all(len(story[0]) + len(story[1]) >= 7 for story in told)


@pytest.mark.parametrize("seed", range(6))
def test_everything_at_once(seed: int) -> None:
    weather = Weather(loss=0.02, reorder=0.1, duplicate=0.05, seed=seed)
    scenario = Scenario(
        seed=seed, streams=12, key_updates=True, moves=True, quick_acks=seed % 2 == 0
    )
    first, *others = stories(scenario, weather)
    assert all(other == first for other in others)


# ------------------------------------------------------------------------------- mutated frames


def mutated_frames(chance: random.Random) -> bytes:
    """Stream frames that are nearly right, and some others."""
    kind = chance.choice([0x08, 0x0A, 0x0C, 0x0E, 0x0E, 0x0E, 0x0F, 0x0F, 0x04, 0x05, 0x10, 0x11])
    stream_id = chance.choice([0, 0, 0, 4, 8, 1, 2, 3, 400])
    if kind == 0x04:
        return b"\x04" + varint(stream_id) + varint(9) + varint(chance.choice([0, 30, 300, 70_000]))
    if kind == 0x05:
        return b"\x05" + varint(stream_id) + varint(9)
    if kind in (0x10, 0x11):
        name = varint(stream_id) if kind == 0x11 else b""
        return bytes([kind]) + name + varint(chance.randrange(1 << 20))
    data = chance.randbytes(chance.choice([0, 1, 10, 10, 10, 30]))
    offset = chance.choice([0, 10, 10, 20, 30, 40, 50, 65_530, 65_536, (1 << 62) - 5])
    out = bytes([kind]) + varint(stream_id)
    out += varint(offset) if kind & 4 else b""
    out += varint(len(data) + chance.choice([0, 0, 0, 0, 0, 7])) if kind & 2 else b""
    return out + data


def outcome(packets: list[bytes], batches: list[int], *, plain: bool) -> tuple[object, ...]:
    """What a server makes of a rogue client's packets, taken in batches of these sizes."""
    link, client, server = connected(plain_client=True, plain_server=plain)
    link.run(seconds=1)
    application = Application(server)
    stream_id = server.engine.open_stream()
    server.engine.write(stream_id, b"hello")
    datagrams = [forge(client, frames) for frames in packets]
    for size in batches:
        server.engine.receive(datagrams[:size], CLIENT, link.now)
        del datagrams[:size]
        server.collect()
    ends = [(end.code, end.cause) for end in server.told(Terminated)]
    data = {s: (application.sizes[s], d.hexdigest()) for s, d in application.digests.items()}
    return ends, data, application.ends, application.stopped


@pytest.mark.parametrize("seed", range(8))
def test_mutated_frames_have_the_same_effect(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        packets = [
            b"".join(mutated_frames(chance) for _ in range(chance.choice([1, 1, 1, 2, 3])))
            for _ in range(12)
        ]
        batches = [chance.randrange(1, 6) for _ in range(12)]
        assert outcome(packets, batches, plain=False) == outcome(packets, batches, plain=True)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_packets_between_good_ones_are_dropped(seed: int) -> None:
    """Bits changed on the way, of packets that otherwise take the fast path."""
    chance = random.Random(seed)
    link, client, server = connected(limits=AFTER_LOGIN)
    application = Application(server)

    def damage(sender: Side, datagram: bytes) -> bool:
        if sender is client and chance.random() < 0.1:
            bad = bytearray(datagram)
            bad[chance.choice([0, 0, 3, 9, 10, 11, 12, -1])] ^= 1 << chance.randrange(8)
            server.engine.receive([bytes(bad), datagram], client.address, link.now)
            return True
        return False

    link.drop = damage
    stream_id = client.engine.open_stream()
    data = chance.randbytes(400_000)
    writer = Writer(client, stream_id, data)
    link.run(lambda: writer.go_on() and stream_id in application.ends, seconds=60)
    assert application.digests[stream_id].digest() == hashlib.sha256(data).digest()
    assert not server.told(Terminated)


# ------------------------------------------------------------------------------- priority


def test_what_is_urgent_overtakes_what_waits() -> None:
    link, client, server = connected(limits=AFTER_LOGIN)
    order: list[int] = []

    def read(event: Event) -> None:
        if isinstance(event, StreamData):
            order.append(event.stream_id)
            server.engine.consumed(event.stream_id, len(event.data))

    server.on_event = read
    bulk, key = client.engine.open_stream(), client.engine.open_stream()
    client.engine.set_priority(key, True)
    client.engine.write(bulk, bytes(1_500_000))
    link.run(seconds=0.05)
    assert client.engine.buffered(bulk) > 1_000_000
    client.engine.write(key, b"k")
    link.run(lambda: key in order)
    # Ahead of all that had not left yet, which is most.
    assert client.engine.buffered(bulk) > 500_000
    client.engine.set_priority(key, False)
    client.engine.write(key, b"k", fin=True)
    link.run(lambda: server.bytes_of(key) == b"kk")


def test_urgent_bulk_leaves_room_for_the_others() -> None:
    link, client, server = connected(limits=AFTER_LOGIN)
    Application(server)
    flood, other = client.engine.open_stream(), client.engine.open_stream()
    client.engine.set_priority(flood, True)
    client.engine.write(flood, bytes(1_500_000))
    client.engine.write(other, bytes(100_000))
    link.run(lambda: client.engine.buffered(other) == 0)
    assert client.engine.buffered(flood) > 500_000


# ------------------------------------------------------------------------------- endurance

SOAK = "SSHOQ_SOAK_MEGABYTES"
SOAKS = 4
"""So many seeds: a stall may show with one of several only."""

UPDATE_INTERVAL = 51
MOST_GROWTH = 64 << 20
"""Two directions with 8 MiB under way, held by the writer and by the reader."""


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(SOAKS))
def test_much_data_both_ways_leaves_nothing_behind(seed: int) -> None:
    """20 MB each way, or as many as SSHOQ_SOAK_MEGABYTES says for all seeds together (`make soak`:
    5 GB in all). Keys are updated all the while, and once things have settled the process grows no
    more."""
    megabytes = int(os.environ.get(SOAK, 20 * SOAKS)) // SOAKS
    link, client, server = connected(
        weather=Weather(loss=0.001, reorder=0.001, seed=seed), limits=AFTER_LOGIN
    )
    sides = (client, server)
    block = random.Random(9).randbytes(1_000_003)
    expected, received = ([hashlib.sha256(), hashlib.sha256()] for _ in range(2))
    counts = [0, 0]

    def reader(number: int) -> Callable[[Event], None]:
        def read(event: Event) -> None:
            if isinstance(event, StreamData):
                received[number].update(event.data)
                counts[number] += len(event.data)
                sides[number].engine.consumed(event.stream_id, len(event.data))

        return read

    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"!")
    link.run(lambda: bool(server.told(StreamData)))
    for number, side in enumerate(sides):
        side.on_event = reader(number)
    left = [megabytes, megabytes]
    moments = updates = settled_size = 0

    def go_on() -> bool:
        nonlocal moments, updates, settled_size
        moments += 1
        for number, side in enumerate(sides):
            while left[number] and side.engine.buffered(stream_id) < 2_000_000:
                left[number] -= 1
                side.engine.write(stream_id, block)
                expected[1 - number].update(block)
            side.events.clear()
        if moments % UPDATE_INTERVAL == 0 and is_settled(sides):
            internal(sides[moments // UPDATE_INTERVAL % 2]).request_key_update()
            updates += 1
        if not settled_size and sum(left) < 1.7 * megabytes:
            settled_size = resident_bytes()
        return not any(left) and counts == [megabytes * len(block)] * 2

    link.run(go_on, seconds=3600.0 * 24)
    assert [each.digest() for each in received] == [each.digest() for each in expected]
    assert resident_bytes() < settled_size + MOST_GROWTH
    assert updates >= megabytes // 10
    link.run(seconds=5)
    for side in sides:
        assert side.engine.buffered_total == 0
        assert internal(side).application_space.ack_eliciting_in_flight == 0
        assert len(internal(side)._streams) <= 2


def test_the_timer_is_set_as_the_library_would_set_it() -> None:
    link, client, server = connected(weather=Weather(loss=0.05, reorder=0.1, seed=3))
    compared = 0

    def compare(sender: Side, datagram: bytes) -> bool:
        nonlocal compared
        for side in (client, server):
            connection = cast(Any, internal(side))
            assert connection.get_timer() == super(FastSend, connection).get_timer()
            compared += connection._loss_at is not None
        return False

    link.drop = compare
    stream_id = client.engine.open_stream()
    for piece in range(50):
        client.engine.write(stream_id, bytes(piece * 40))
        link.run(seconds=0.03)
    client.engine.write(stream_id, b"", fin=True)
    link.run(lambda: len(server.bytes_of(stream_id)) == sum(range(50)) * 40)
    assert compared > 100
