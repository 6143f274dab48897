"""What the connection does that aioquic does not, or not so: routers' answers, addresses that
change, the size of datagrams, and peers who break the rules.
"""

import itertools
import random
from collections import deque

import pytest

from sshoq.transport import quic
from sshoq.transport.engine import Engine
from sshoq.transport.events import (
    Address,
    Cause,
    ConnectionIdRetired,
    Event,
    HandshakeCompleted,
    NewcomerArrived,
    PathChanged,
    Terminated,
)
from sshoq.transport.identity import (
    ServerIdentity,
)
from sshoq.transport.packets import (
    CID_LENGTH,
    ConnectionName,
    FirstPacket,
    RetryTickets,
    answer_to_noise,
    new_name,
    parse_packet,
)
from sshoq.wire import varint
from tests.link import (
    CLIENT,
    RESET_KEY,
    SERVER,
    Link,
    Side,
    Weather,
    connected,
    credential,
    first_datagrams,
    identity,
    make_link,
    self_signed,
)
from tests.rogue import forge, internal
from tests.transport.traffic import consume_all, end_of, feed

# ------------------------------------------------------------------------------- router's answers


def test_a_retry_costs_a_round_trip_and_shows_the_address() -> None:
    tickets = RetryTickets()
    client = Engine.client(SERVER, "host.example", now=0.0)
    first = first_datagrams(client)[0]
    client.receive([tickets.retry(first, CLIENT, 0.0)], SERVER, 0.01)
    again = first_datagrams(client, 0.01)
    start = tickets.redeem(again[0], CLIENT, 0.02)
    assert start.original_cid == FirstPacket.of(first).original_cid
    server = Engine.server(start, identity())
    assert server.connection_ids[0] == start.original_cid
    server.receive(again, CLIENT, 0.02)
    left, right = Side(client, CLIENT), Side(server, SERVER)
    assert internal(right)._network_paths[0].is_validated
    link = Link(left, right, Weather(), now=0.02)
    link.run(lambda: bool(left.told(HandshakeCompleted) and right.told(HandshakeCompleted)))


def test_without_retry_a_server_sends_no_more_than_thrice_what_it_got() -> None:
    chain = [self_signed()] * 20
    link, client, server = make_link(server_identity=ServerIdentity([credential(chain=chain)]))
    link.drop = lambda sender, datagram: sender is client and link.now > 0
    link.run(seconds=3)
    assert 4 <= server.sent <= 6
    assert server.received == 2


@pytest.mark.parametrize("forgetful", ["server", "client"])
def test_a_stateless_reset_ends_the_connection_of_who_remembers(forgetful: str) -> None:
    link, client, server = connected()
    if forgetful == "client":
        client, server = server, client
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 50)
    ((_, (packet,)),) = client.engine.outgoing(link.now)
    head = parse_packet(packet)
    assert head is not None
    reset = answer_to_noise(head, len(packet), RESET_KEY)
    assert reset is not None
    wrong = reset[:-1] + bytes([reset[-1] ^ 1])
    client.engine.receive([wrong], server.address, link.now)
    client.collect()
    assert not client.told(Terminated)
    if forgetful == "client":
        return  # a client's first connection ID has no token: QUIC gives it no way to say one
    client.engine.receive([reset], server.address, link.now)
    client.collect()
    assert end_of(client).cause is Cause.RESET
    assert end_of(client).by_peer


def test_a_server_that_speaks_no_version_of_ours_ends_it() -> None:
    client = Engine.client(SERVER, None, now=0.0)
    first = first_datagrams(client)[0]
    head = parse_packet(first)
    assert head is not None
    cids = b"".join(bytes([len(c)]) + c for c in (head.source_cid, head.destination_cid))
    client.receive([b"\xc0" + bytes(4) + cids + bytes.fromhex("1a2a3a4a")], SERVER, 0.01)
    side = Side(client, CLIENT)
    side.collect()
    assert "version" in end_of(side).reason


# ------------------------------------------------------------------------------- moving


def test_a_client_that_moves_keeps_its_connection() -> None:
    link, client, server = connected()
    consume_all(server)
    stream_id = client.engine.open_stream()
    data = random.Random(7).randbytes(300_000)
    write = feed(client, stream_id, data)
    write()
    link.run(lambda: len(server.bytes_of(stream_id)) > 50_000)
    client.address = ("198.51.100.7", 5555)

    def done() -> bool:
        write()
        return server.bytes_of(stream_id) == data

    link.run(done)
    link.run(seconds=1)
    assert server.told(PathChanged) == [PathChanged(("198.51.100.7", 5555))]
    assert server.engine.peer_address == ("198.51.100.7", 5555)
    assert not server.told(Terminated)


NEW_ADDRESS: Address = ("198.51.100.7", 5555)


@pytest.mark.parametrize(("ups", "downs"), [(1, 0), (3, 0), (0, 1), (0, 3), (2, 2), (2, 3)])
@pytest.mark.parametrize("first_up", range(3))
@pytest.mark.parametrize("first_down", range(3))
@pytest.mark.parametrize("plain", [False, True])
def test_a_move_survives_the_loss_of_its_first_packets(
    plain: bool, first_down: int, first_up: int, ups: int, downs: int
) -> None:
    """The client types one key, and then nothing until its keep-alive. However much the server
    has to say, it sends an address not validated three times what came from there at most."""
    link, client, server = connected(keep_alive=30.0, plain_client=plain, plain_server=plain)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"key")
    link.run(lambda: server.bytes_of(stream_id) == b"key")
    server.engine.write(stream_id, b"echo")
    link.run(lambda: client.bytes_of(stream_id) == b"echo")
    link.run(seconds=1)
    sent: dict[bool, list[int]] = {False: [], True: []}
    lost = {True: range(first_up, first_up + ups), False: range(first_down, first_down + downs)}

    def drop(sender: Side, datagram: bytes) -> bool:
        upward = sender is client
        if not upward and server.engine.peer_address != NEW_ADDRESS:
            return False
        sent[upward].append(len(datagram))
        if not server.told(PathChanged):
            assert sum(sent[False]) <= 3 * sum(sent[True])
        return len(sent[upward]) - 1 in lost[upward]

    link.drop = drop
    client.address = NEW_ADDRESS
    client.engine.write(stream_id, b"key")
    server.engine.write(stream_id, bytes(3000))
    link.run(lambda: len(client.bytes_of(stream_id)) == 3004, seconds=8)
    link.run(lambda: server.told(PathChanged) == [PathChanged(NEW_ADDRESS)], seconds=8)


def test_a_path_challenge_is_repeated_more_and_more_rarely_and_given_up() -> None:
    link, client, server = connected(keep_alive=None)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 1000)
    ((_, (packet,)),) = client.engine.outgoing(link.now)
    sent: list[float] = []
    address: Address = ("203.0.113.66", 1)
    server.engine.receive([packet], address, link.now)
    began = link.now
    for _ in range(100):
        for target, datagrams in server.engine.outgoing(link.now):
            sent += [link.now - began] * (target == address) * len(datagrams)
        at = server.engine.timer()
        if at is None or at > began + 10:
            break
        link.now = max(at, link.now)
        server.engine.handle_timer(link.now)
    else:
        raise AssertionError("the timer is set again and again")
    assert 3 <= len(sent) <= 12
    gaps = [later - earlier for earlier, later in itertools.pairwise(sorted(set(sent)))]
    assert max(gaps) > 3 * min(gaps)
    assert server.engine.peer_address == CLIENT


def test_a_peer_told_in_two_ways_has_not_moved() -> None:
    there = ("2001:db8::2", 443, 0, 0)
    client = Engine.client(there, None, now=0.0)
    first = first_datagrams(client)
    server = Engine.server(FirstPacket.of(first[0]), identity())
    side = Side(server, SERVER)
    server.receive(first, ("fe80::1", 40000, 0, 2), 0.0)
    for address, datagrams in server.outgoing(0.0):
        assert address == ("fe80::1%2", 40000)
        client.receive(datagrams, ("2001:db8::2", 443), 0.0)
    for address, datagrams in client.outgoing(0.0):
        assert address == ("2001:db8::2", 443)
        server.receive(datagrams, ("fe80::1%2", 40000), 0.0)
    side.collect()
    assert side.told(HandshakeCompleted)
    assert not side.told(PathChanged)


def test_an_address_that_does_not_answer_is_not_moved_to() -> None:
    link, client, server = connected()
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 100)
    ((_, (packet,)),) = client.engine.outgoing(link.now)
    server.engine.receive([packet], ("203.0.113.66", 1), link.now)
    link.run(seconds=10)
    assert server.told(PathChanged) == []
    assert server.engine.peer_address == CLIENT
    client.engine.write(stream_id, b"y", fin=True)
    link.run(lambda: server.bytes_of(stream_id) == b"x" * 100 + b"y")


def test_a_server_is_called_by_the_names_that_it_was_given_alone() -> None:
    known: set[bytes] = set()

    def give() -> ConnectionName:
        name = new_name(RESET_KEY)
        known.add(name.connection_id)
        return name

    link, client, server = make_link(names=give)
    known.add(server.engine.connection_ids[0])  # the client's own first choice
    unknown: list[bytes] = []

    def watch(event: Event) -> None:
        if isinstance(event, ConnectionIdRetired):
            known.discard(event.connection_id)

    def check(sender: Side, datagram: bytes) -> bool:
        head = parse_packet(datagram)
        if sender is client and head is not None and head.destination_cid not in known:
            unknown.append(head.destination_cid)
        return False

    server.on_event = watch
    link.drop = check
    link.run(lambda: bool(server.told(HandshakeCompleted)))
    for _ in range(6):
        internal(client).change_connection_id()
        client.engine.ping()
        link.run(seconds=1)
    assert unknown == []
    assert len(server.told(ConnectionIdRetired)) >= 5
    assert set(server.engine.connection_ids) == known
    assert all(len(cid) == CID_LENGTH for cid in known)


def test_a_server_without_a_name_goes_on_with_those_it_has_until_it_gets_one() -> None:
    names = deque(new_name(RESET_KEY) for _ in range(3))
    link, client, server = connected(names=lambda: names.popleft() if names else None)
    link.run(seconds=1)
    assert len(internal(server)._host_cids) == 3
    for _ in range(2):
        names.append(new_name(RESET_KEY))
        internal(client).change_connection_id()
        client.engine.ping()
        link.run(seconds=1)
    assert len(internal(server)._host_cids) == 3
    assert not names
    assert not server.told(Terminated)


def test_a_first_packet_of_somebody_else_is_told_and_changes_nothing() -> None:
    """After a restart a client may have the address that it had before."""
    link, client, server = connected()
    other = Engine.client(SERVER, "host.example", now=0.0)
    first, *_ = first_datagrams(other)
    server.engine.receive([first], CLIENT, link.now)
    server.collect()
    [told] = server.told(NewcomerArrived)
    assert told.datagram == first
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"still here", fin=True)
    link.run(lambda: server.bytes_of(stream_id) == b"still here")


@pytest.mark.parametrize("retried", [False, True])
def test_a_first_packet_that_comes_late_is_nobody_elses(retried: bool) -> None:
    client = Engine.client(SERVER, "host.example", now=0.0)
    [first, *_] = first_datagrams(client)
    start = FirstPacket.of(first)
    if retried:
        tickets = RetryTickets()
        client.receive([tickets.retry(first, CLIENT, 0.0)], SERVER, 0.0)
        [first, *_] = first_datagrams(client)
        start = tickets.redeem(first, CLIENT, 0.0)
    server = Engine.server(start, identity())
    for _ in range(2):
        server.receive([first], CLIENT, 0.0)
        while (event := server.next_event()) is not None:
            assert not isinstance(event, NewcomerArrived)


# ------------------------------------------------------------------------------- path MTU


def narrow(link: Link, size: int) -> None:
    """No datagram larger than that gets through from now on."""
    link.drop = lambda sender, datagram: len(datagram) > size


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (65_507, 16_200), (9000, 8952), (1500, 1452), (1451, 1392), (1380, 1352),
        (1351, 1288), (1270, 1252), (1232, 1232), (1231, 1200),
    ],
)  # fmt: skip
def test_datagrams_grow_to_what_the_path_takes(path: int, found: int) -> None:
    link, client, server = make_link()
    narrow(link, path)
    consume_all(server)
    link.run(seconds=5)
    window = internal(client)._loss.congestion_window
    assert window >= 10 * 1200
    assert internal(client).path_mtu.size == found
    assert client.engine.max_datagram_payload == found - 30
    assert not client.engine.is_searching_path
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 50_000, fin=True)
    link.run(lambda: len(server.bytes_of(stream_id)) == 50_000, seconds=5)


def test_a_path_that_becomes_narrow_is_noticed() -> None:
    link, client, server = connected()
    narrow(link, 1500)
    link.run(seconds=5)
    assert internal(client).path_mtu.size == 1452
    narrow(link, 1300)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 50_000, fin=True)
    link.run(lambda: len(server.bytes_of(stream_id)) == 50_000)
    assert internal(client).path_mtu.size == 1200


def test_a_new_path_is_measured_anew() -> None:
    link, client, server = connected()
    link.run(seconds=5)
    client.address = ("198.51.100.7", 5555)
    narrow(link, 1360)
    client.engine.ping()
    link.run(lambda: bool(server.told(PathChanged)))
    link.run(seconds=5)
    assert internal(server).path_mtu.size == 1352


def test_no_datagram_is_larger_than_the_peer_takes() -> None:
    link, _, server = make_link()
    internal(server).path_mtu.limit(1400)
    link.run(seconds=5)
    assert internal(server).path_mtu.size == 1392


# --------------------------------------------------------------------------- what peers must not do


STREAM_GAPS = b"".join(b"\x0e" + varint(0) + varint(2 * n) + b"\x01x" for n in range(1, 150))

MISDEEDS = [
    pytest.param(b"\x02" + varint(1 << 30) + b"\0\0\0", 0x0A, id="ack of what was never sent"),
    pytest.param(b"\x03" + varint(1 << 30) + b"\0\0\0\0\0\0", 0x0A, id="the same with ECN"),
    pytest.param(b"\x06" + varint(200_000) + varint(1) + b"x", 0x0D, id="handshake data far ahead"),
    pytest.param(
        b"\x06" + varint(0) + varint(4) + b"\x04\xff\xff\xff", 0x132, id="huge TLS message"
    ),
    pytest.param(b"\x06" + varint(0) + varint(5) + b"\x18\0\0\x01\x01", 0x10A, id="TLS key update"),
    pytest.param(b"\x19" + varint(60), 0x0A, id="retires an ID never issued"),
    pytest.param(b"\x0a" + varint(4 * 128) + b"\x01x", 0x04, id="one stream too many"),
    pytest.param(b"\x0a" + varint(2 + 4 * 16) + b"\x01x", 0x04, id="one uni stream too many"),
    pytest.param(b"\x0e" + varint(0) + varint(65536) + b"\x01x", 0x03, id="beyond the window"),
    pytest.param(b"\x0a" + varint(1) + b"\x01x", 0x05, id="a stream that is ours to open"),
    pytest.param(b"\x07" + varint(1) + b"x", 0x0A, id="a token for the server"),
    pytest.param(b"\x1e", 0x0A, id="handshake done, to the server"),
    pytest.param(b"\x3f", 0x07, id="unknown frame"),
    pytest.param(b"\x0b", 0x07, id="cut frame"),
]


@pytest.mark.parametrize(("frames", "code"), MISDEEDS)
def test_misdeeds_end_the_connection_with_their_code(frames: bytes, code: int) -> None:
    link, client, server = connected()
    link.send(client, forge(client, frames))
    link.run(lambda: bool(client.told(Terminated)))
    assert end_of(server).code == code
    assert end_of(server).cause is Cause.LOCAL
    assert end_of(client) == Terminated(
        code, end_of(server).reason, Cause.PEER, is_application=False
    )


def test_a_stream_in_too_many_pieces_is_refused() -> None:
    link, client, server = connected()
    for start in range(0, 20_000, 300):
        frames = b"".join(
            b"\x0e" + varint(0) + varint(start + 2 * n) + b"\x01x" for n in range(1, 150)
        )
        server.engine.receive([forge(client, frames)], CLIENT, link.now)
    server.collect()
    assert end_of(server).code == 0x01
    assert "pieces" in end_of(server).reason


def test_ids_retired_as_fast_as_they_are_made_are_noticed() -> None:
    given: list[ConnectionName] = []

    def give() -> ConnectionName:
        given.append(new_name(RESET_KEY))
        return given[-1]

    link, client, server = connected(names=give)
    link.run(seconds=1)
    issued = len(given)
    frames = b"".join(b"\x19" + varint(n) for n in range(1, 200))
    link.send(client, forge(client, frames))
    link.run(lambda: bool(server.told(Terminated)))
    assert end_of(server).code == 0x0A
    assert len(given) - issued <= quic.MAX_CONNECTION_IDS


def test_new_ids_that_retire_all_others_end_it_cleanly() -> None:
    link, client, server = connected()
    link.run(seconds=1)

    def new_id(number: int, retire: int) -> bytes:
        return b"\x18" + varint(number) + varint(retire) + b"\x08" + bytes(8) + bytes(16)

    frames = b"".join(new_id(number, number) for number in range(1, 60))
    link.send(client, forge(client, frames))
    link.run(lambda: bool(server.told(Terminated)))
    assert end_of(server).code in (0x09, 0x0A)
    assert not end_of(server).reason.startswith(quic.UNFORESEEN)


def test_path_challenges_are_answered_up_to_a_bound() -> None:
    link, client, server = connected()
    link.run(seconds=1)
    sent = server.sent
    for _ in range(20):
        link.send(client, forge(client, (b"\x1a" + bytes(8)) * 100))
    link.run(seconds=1)
    assert server.sent - sent < 40
    assert not server.told(Terminated)


def test_only_packets_that_prove_themselves_count_as_signs_of_life() -> None:
    link, client, server = connected()
    link.run(seconds=1)
    server.engine.ping()
    ((_, (packet,)),) = server.engine.outgoing(link.now)
    heard = client.engine.last_received
    client.engine.receive([packet[:-1] + bytes([packet[-1] ^ 1])], SERVER, link.now + 1)
    assert client.engine.last_received == heard
    client.engine.receive([packet], SERVER, link.now + 2)
    assert client.engine.last_received == link.now + 2
