"""Whatever comes in: an ignored packet or the end of the connection, never an exception.

Three kinds of bad peer: bytes changed on the way, frames that nobody would write, and handshake
messages changed before they were encrypted. The engine's own reason tells when the library was
caught unprepared.
"""

import random

import pytest
from aioquic import tls

from sshoq.transport import quic
from sshoq.transport.engine import Engine
from sshoq.transport.events import Terminated
from sshoq.transport.packets import FirstPacket
from sshoq.wire import varint
from tests.link import (
    CLIENT,
    SERVER,
    Link,
    Side,
    Weather,
    connected,
    first_datagrams,
    identity,
    make_link,
)
from tests.rogue import forge, internal

ROUNDS = 60
"""Connections per seed."""

SEEDS = range(4)


def assert_foreseen(*sides: Side) -> None:
    """Ended or not, the library knew what to make of it."""
    for side in sides:
        assert len(side.told(Terminated)) <= 1
        for terminated in side.told(Terminated):
            assert not terminated.reason.startswith(quic.UNFORESEEN)


# ------------------------------------------------------------------------------- bytes on the way


def damaged(chance: random.Random, datagram: bytes) -> bytes:
    out = bytearray(datagram)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(out))
        match chance.randrange(4):
            case 0:
                out[at] = chance.randrange(256)
            case 1:
                del out[at : at + chance.randrange(1, 30)]
            case 2:
                out[at:at] = chance.randbytes(chance.randrange(1, 30))
            case 3:
                out[0] ^= 1 << chance.randrange(8)
        if not out:
            break
    return bytes(out)


@pytest.mark.parametrize("seed", SEEDS)
def test_damage_on_the_way_only_delays(seed: int) -> None:
    """Most damage shows in the seal; what does not must not matter. The data arrives all the
    same."""
    chance = random.Random(seed)
    link, client, server = make_link(weather=Weather(seed=seed))

    def damage(sender: Side, datagram: bytes) -> bool:
        receiver = server if sender is client else client
        if chance.random() < 0.3:
            receiver.engine.receive([damaged(chance, datagram)], sender.address, link.now)
        if chance.random() < 0.1:
            receiver.engine.receive([chance.randbytes(chance.randrange(1400))], CLIENT, link.now)
        return False

    link.drop = damage
    link.run(lambda: server.engine.max_datagram_payload > 0 and client.engine.last_received > 0)
    link.run(seconds=1)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 20_000, fin=True)
    link.run(lambda: len(server.bytes_of(stream_id)) == 20_000)
    assert not client.told(Terminated)
    assert not server.told(Terminated)


# ------------------------------------------------------------------------------- strange frames


def any_varint(chance: random.Random) -> bytes:
    most = chance.choice([4, 64, 64, 16384, 1 << 30, 1 << 62])
    return varint(chance.choice([chance.randrange(most), most - 1]))


def strange_frame(chance: random.Random) -> bytes:
    """A frame that parses often enough to get somewhere, with values that make little sense."""
    kind = chance.choice([*range(0x1F), 0x30, 0x31])
    out = bytearray(varint(kind))
    if kind in (0x02, 0x03):
        ranges = chance.randrange(4)
        out += varint(chance.randrange(12)) + any_varint(chance) + varint(ranges)
        out += b"".join(varint(chance.randrange(4)) for _ in range(1 + 2 * ranges))
    elif kind == 0x06:
        data = chance.choice([b"\x04\x00\x00\x02ab", b"\x18", chance.randbytes(20)])
        out += varint(chance.randrange(8)) + varint(len(data)) + data
    elif 0x08 <= kind <= 0x0F:
        data = chance.randbytes(chance.randrange(30))
        out += varint(chance.randrange(16))
        out += varint(chance.choice([0, 1, 7, 20, 60_000, 65_536])) if kind & 4 else b""
        out += varint(len(data)) + data if kind & 2 else data
    elif kind == 0x18:
        out += varint(chance.randrange(9)) + varint(chance.randrange(9))
        out += bytes([8]) + chance.randbytes(8 + 16)
    elif kind == 0x19:
        out += varint(chance.randrange(5))
    else:
        out += b"".join(any_varint(chance) for _ in range(chance.randrange(4)))
        out += chance.randbytes(chance.choice([0, 0, 8]))
    return bytes(out)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rogue", ["client", "server"])
def test_any_frames_are_ignored_or_end_the_connection(rogue: str, seed: int) -> None:
    chance = random.Random(f"{rogue}{seed}")
    for _ in range(ROUNDS):
        link, client, server = connected()
        bad, good = (client, server) if rogue == "client" else (server, client)
        for side in (client, server):
            stream_id = side.engine.open_stream()
            side.engine.write(stream_id, b"x" * chance.randrange(3000), fin=chance.random() < 0.5)
        for _ in range(30):
            frames = b"".join(strange_frame(chance) for _ in range(chance.randrange(1, 4)))
            link.send(bad, forge(bad, frames[:1100]))
            if chance.random() < 0.3:
                link.run(seconds=0.05)
            if chance.random() < 0.1:
                good.engine.stop(chance.randrange(8), 1)
                good.engine.reset(chance.randrange(8), 1)
        link.run(seconds=1)
        assert_foreseen(client, server)


# ------------------------------------------------------------------------------- strange handshakes


def change(chance: random.Random, message: bytearray) -> None:
    for _ in range(chance.choice([1, 1, 1, 3])):
        at = chance.randrange(len(message))
        match chance.randrange(4):
            case 0:
                message[at] = chance.randrange(256)
            case 1:
                message[at] ^= 1 << chance.randrange(8)
            case 2:
                message[at] = chance.choice([0, 255])
            case 3:
                size = min(chance.randrange(1, 9), len(message) - at)
                source = chance.randrange(len(message) - size + 1)
                message[at : at + size] = message[source : source + size]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("changed", ["client hello", "server hello", "certificate and finished"])
def test_any_handshake_completes_or_ends(changed: str, seed: int) -> None:
    chance = random.Random(f"{changed}{seed}")
    for _ in range(ROUNDS):
        client = Engine.client(SERVER, "host.example", now=0.0, keep_alive=None)
        left = Side(client, CLIENT)
        hello = internal(left)._crypto_streams[tls.Epoch.INITIAL].sender._buffer
        if changed == "client hello":
            change(chance, hello)
        flight = first_datagrams(client)
        server = Engine.server(
            FirstPacket.of(flight[0]), identity(), keep_alive=None
        )
        right = Side(server, SERVER)
        server.receive(flight, CLIENT, 0.0)
        if changed != "client hello":
            epoch = tls.Epoch.INITIAL if changed == "server hello" else tls.Epoch.HANDSHAKE
            change(chance, internal(right)._crypto_streams[epoch].sender._buffer)
        Link(left, right, Weather()).run(seconds=1)
        assert_foreseen(left, right)
