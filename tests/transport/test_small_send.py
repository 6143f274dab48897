"""Small packets made by hand: what travels in them, when, and that nothing gets lost."""

from __future__ import annotations

from sshoq.transport.engine import Engine
from sshoq.transport.events import AFTER_LOGIN
from sshoq.transport.fast_receive import LONE_ACK_DELAY
from sshoq.transport.small_send import FEW, MOST_SMALL, SentSmallPacket
from tests.link import CLIENT, SERVER, Link, Side, Weather, connected
from tests.rogue import internal

FULL = 1 << 24


def quiet() -> tuple[Link, Side, Side, int]:
    """Both have said all there was to say; and a stream that the server knows."""
    link, client, server = connected()
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"first")
    link.run(seconds=1)
    return link, client, server, stream_id


def flight(engine: Engine, now: float) -> list[bytes]:
    return [datagram for _, datagrams in engine.outgoing(now) for datagram in datagrams]


def last_sent(side: Side) -> object:
    sent = internal(side).application_space.sent_packets
    return sent[max(sent)]


def test_an_answer_takes_the_acknowledgement_along() -> None:
    link, client, server, stream_id = quiet()
    client.engine.write(stream_id, b"key")
    [question] = flight(client.engine, link.now)
    server.engine.receive([question], CLIENT, link.now)
    server.collect()
    assert flight(server.engine, link.now) == []
    server.engine.write(stream_id, b"echo")
    [answer] = flight(server.engine, link.now)
    assert isinstance(last_sent(server), SentSmallPacket)
    assert client.engine.buffered(stream_id) == len(b"key")
    client.engine.receive([answer], SERVER, link.now)
    client.collect()
    assert client.bytes_of(stream_id) == b"echo"
    assert client.engine.buffered(stream_id) == 0


def test_a_lone_packet_is_acknowledged_before_long() -> None:
    link, client, server, stream_id = quiet()
    client.engine.write(stream_id, b"key")
    [question] = flight(client.engine, link.now)
    server.engine.receive([question], CLIENT, link.now)
    due = link.now + LONE_ACK_DELAY
    timer = server.engine.timer()
    assert timer is not None
    assert timer <= due
    [ack] = flight(server.engine, due)
    client.engine.receive([ack], SERVER, due)
    assert client.engine.buffered(stream_id) == 0
    assert flight(server.engine, due) == []


def test_two_packets_are_acknowledged_sooner() -> None:
    link, client, server, stream_id = quiet()
    for _ in range(2):
        client.engine.write(stream_id, b"key")
        server.engine.receive(flight(client.engine, link.now), CLIENT, link.now)
    timer = server.engine.timer()
    assert timer is not None
    assert timer < link.now + LONE_ACK_DELAY / 2


def test_the_end_travels_with_the_last_bytes_or_without_any() -> None:
    for rest in (b"end", b""):
        link, client, server, stream_id = quiet()
        client.engine.write(stream_id, rest, fin=True)
        [datagram] = flight(client.engine, link.now)
        assert isinstance(last_sent(client), SentSmallPacket)
        server.engine.receive([datagram], CLIENT, link.now)
        server.collect()
        assert server.bytes_of(stream_id) == b"first" + rest
        server.engine.write(stream_id, b"", fin=True)
        link.run(seconds=1)
        assert not internal(client)._streams.get(stream_id)
        assert not internal(server)._streams.get(stream_id)


def test_what_is_long_goes_the_other_way() -> None:
    link, client, _, stream_id = quiet()
    client.engine.write(stream_id, bytes(MOST_SMALL + 1))
    assert flight(client.engine, link.now)
    assert not isinstance(last_sent(client), SentSmallPacket)


def test_a_few_streams_share_a_packet() -> None:
    for count in range(2, FEW + 2):
        link, client, server, stream_id = quiet()
        client.engine.raise_limits(AFTER_LOGIN)
        link.run(seconds=1)
        streams = [stream_id, *(client.engine.open_stream() for _ in range(count - 1))]
        for number, stream in enumerate(streams):
            client.engine.write(stream, b"%d" % number, fin=number == 1)
        [datagram] = flight(client.engine, link.now)
        assert isinstance(last_sent(client), SentSmallPacket) == (count <= FEW)
        server.engine.receive([datagram], CLIENT, link.now)
        server.collect()
        assert [server.bytes_of(stream)[-1:] for stream in streams] == [
            b"%d" % number for number in range(count)
        ]
        for stream in streams[1:]:
            known = internal(server)._streams[stream]
            assert known.max_stream_data_remote == AFTER_LOGIN.stream_window
        link.run(seconds=1)
        assert not any(map(client.engine.buffered, streams))


def test_together_they_keep_to_the_size_and_to_the_credit_of_the_connection() -> None:
    link, client, _, stream_id = quiet()
    other = client.engine.open_stream()
    for size, is_small in ((MOST_SMALL // 2, True), (MOST_SMALL // 2 + 1, False)):
        for stream in (stream_id, other):
            client.engine.write(stream, bytes(size))
        sizes = [len(datagram) for datagram in flight(client.engine, link.now)]
        assert max(sizes) <= 1200
        assert isinstance(last_sent(client), SentSmallPacket) == is_small
        link.run(seconds=1)
    connection = internal(client)
    connection._remote_max_data = connection._remote_max_data_used + 5
    for stream in (stream_id, other):
        client.engine.write(stream, b"abc")
    flight(client.engine, link.now)
    assert connection._remote_max_data_used <= connection._remote_max_data
    assert client.engine.buffered(stream_id) + client.engine.buffered(other) == 6


def test_credit_travels_alone_where_there_is_nothing_to_say() -> None:
    link, client, server, stream_id = quiet()
    server.engine.raise_limits(AFTER_LOGIN)
    for size in (30_000, AFTER_LOGIN.stream_window // 4):
        client.engine.write(stream_id, bytes(size))
        link.run(lambda: client.engine.buffered(stream_id) == 0)
        link.run(seconds=1)
        assert server.engine.consumed(stream_id, size)
        [datagram] = flight(server.engine, link.now)
        client.engine.receive([datagram], SERVER, link.now)
    assert isinstance(last_sent(server), SentSmallPacket)
    allowed = internal(client)._streams[stream_id].max_stream_data_remote
    assert allowed == AFTER_LOGIN.stream_window + 30_000 + AFTER_LOGIN.stream_window // 4


def test_without_room_in_the_congestion_window_it_waits() -> None:
    link, client, _, stream_id = quiet()
    controller = internal(client)._loss._cc
    controller.bytes_in_flight += FULL
    client.engine.write(stream_id, b"key")
    assert flight(client.engine, link.now) == []
    controller.bytes_in_flight -= FULL
    assert len(flight(client.engine, link.now)) == 1


def test_small_packets_that_get_lost_are_sent_again() -> None:
    link, client, server = connected(weather=Weather(loss=0.3, duplicate=0.1, reorder=0.2, seed=3))
    stream_id = client.engine.open_stream()
    sent = b""
    for number in range(200):
        piece = b"%d," % number
        sent += piece
        client.engine.write(stream_id, piece)
        link.run(seconds=0.004)
    link.run(lambda: server.bytes_of(stream_id) == sent, seconds=300)
    link.run(lambda: client.engine.buffered(stream_id) == 0, seconds=300)


def test_a_short_stream_of_the_peers_gets_no_more_credit_until_it_is_used() -> None:
    link, client, server = connected()
    server.engine.raise_limits(AFTER_LOGIN)
    link.run(seconds=1)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"open")
    link.run(lambda: server.bytes_of(stream_id) == b"open")
    link.run(seconds=1)
    stream = internal(client)._streams[stream_id]
    before = stream.max_stream_data_remote
    client.engine.write(stream_id, bytes(before // 8))
    link.run(lambda: len(server.bytes_of(stream_id)) > before // 8)
    server.engine.consumed(stream_id, before // 8)
    link.run(lambda: stream.max_stream_data_remote > AFTER_LOGIN.stream_window)
    assert before < AFTER_LOGIN.stream_window


def test_our_own_stream_brings_its_credit_along() -> None:
    link, client, server = connected()
    client.engine.raise_limits(AFTER_LOGIN)
    link.run(seconds=1)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"open")
    link.run(lambda: server.bytes_of(stream_id) == b"open")
    assert internal(server)._streams[stream_id].max_stream_data_remote == AFTER_LOGIN.stream_window


def test_a_new_stream_of_the_peers_is_no_reason_to_answer() -> None:
    link, client, server, _ = quiet()
    server.engine.raise_limits(AFTER_LOGIN)
    link.run(seconds=1)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"open")
    server.engine.receive(flight(client.engine, link.now), CLIENT, link.now)
    server.collect()
    assert server.bytes_of(stream_id) == b"open"
    assert flight(server.engine, link.now) == []
