"""What an engine carries and how it ends: two of them on a simulated link."""

import gc
import hashlib
import random

import pytest

from sshoq.transport import engine, quic
from sshoq.transport.engine import Engine, NoStreamCredit, StreamClosed
from sshoq.transport.events import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    Cause,
    DatagramReceived,
    Event,
    HandshakeCompleted,
    StreamData,
    StreamReset,
    StreamStopped,
    Terminated,
)
from sshoq.transport.packets import (
    FirstPacket,
)
from sshoq.wire import varint
from tests.link import (
    CLIENT,
    SERVER,
    Side,
    Weather,
    connected,
    first_datagrams,
    identity,
    make_link,
)
from tests.rogue import forge, internal
from tests.transport.traffic import consume_all, end_of, feed

# ------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    "weather",
    [
        Weather(),
        Weather(loss=0.02, seed=3),
        Weather(loss=0.05, reorder=0.1, duplicate=0.05, seed=4),
        Weather(delay=0.1, reorder=0.3, seed=5),
    ],
    ids=["fair", "loss", "storm", "far"],
)
def test_data_arrives_whole_both_ways(weather: Weather) -> None:
    link, client, server = connected(weather=weather)
    consume_all(client)
    consume_all(server)
    up = random.Random(1).randbytes(700_000)
    down = random.Random(2).randbytes(500_000)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"")
    client_writes = feed(client, stream_id, up)
    client_writes()
    link.run(lambda: bool(server.told(StreamData)))
    server_writes = feed(server, stream_id, down)

    def done() -> bool:
        client_writes()
        server_writes()
        return all(any(e.fin for e in side.told(StreamData)) for side in (client, server))

    link.run(done, seconds=600)
    assert hashlib.sha256(server.bytes_of(stream_id)).digest() == hashlib.sha256(up).digest()
    assert hashlib.sha256(client.bytes_of(stream_id)).digest() == hashlib.sha256(down).digest()


def test_a_batch_makes_one_event_per_stream() -> None:
    link, client, server = connected()
    first, second = client.engine.open_stream(), client.engine.open_stream()
    for stream_id in (first, second):
        client.engine.write(stream_id, b"x" * 1500, fin=True)
    batch = [datagram for _, batch in client.engine.outgoing(link.now) for datagram in batch]
    assert len(batch) == 3
    server.engine.receive(batch, CLIENT, link.now)
    server.collect()
    assert [(e.stream_id, len(e.data), e.fin) for e in server.told(StreamData)] == [
        (first, 1500, True),
        (second, 1500, True),
    ]


def test_written_data_may_be_a_view() -> None:
    link, client, server = connected()
    stream_id = client.engine.open_stream()
    buffer = bytearray(b"abcdef")
    client.engine.write(stream_id, memoryview(buffer)[1:4])
    buffer[:] = b"______"
    link.run(lambda: server.bytes_of(stream_id) == b"bcd")


def test_buffered_is_what_is_not_acknowledged() -> None:
    link, client, _ = connected()
    stream_id, other = client.engine.open_stream(), client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 5000)
    client.engine.write(other, b"y" * 300)
    assert client.engine.buffered(stream_id) == 5000
    assert client.engine.buffered_total == 5300
    link.run(lambda: client.engine.buffered_total == 0)
    assert client.engine.buffered(stream_id) == 0
    assert client.engine.buffered(999) == 0


# ------------------------------------------------------------------------------- back-pressure


def test_a_reader_that_never_consumes_stops_the_sender_at_the_stream_window() -> None:
    link, client, server = connected()
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 1_000_000)
    link.run(seconds=20)
    assert len(server.bytes_of(stream_id)) == BEFORE_LOGIN.stream_window
    server.engine.consumed(stream_id, BEFORE_LOGIN.stream_window)
    link.run(seconds=20)
    assert len(server.bytes_of(stream_id)) == 2 * BEFORE_LOGIN.stream_window


def test_all_streams_together_stop_at_the_connection_window() -> None:
    link, client, server = connected()
    for _ in range(5):
        client.engine.write(client.engine.open_stream(), b"x" * 100_000)
    link.run(seconds=20)
    received = sum(len(event.data) for event in server.told(StreamData))
    assert received == BEFORE_LOGIN.connection_window


def test_after_login_windows_grow_for_the_streams_there_are_and_new_ones() -> None:
    link, client, server = connected()
    before = client.engine.open_stream()
    client.engine.write(before, b"x" * 4_000_000)
    link.run(seconds=5)
    server.engine.raise_limits(AFTER_LOGIN)
    link.run(seconds=20)
    assert len(server.bytes_of(before)) == AFTER_LOGIN.stream_window
    after = client.engine.open_stream()
    client.engine.write(after, b"y" * 4_000_000)
    link.run(seconds=20)
    assert len(server.bytes_of(after)) == AFTER_LOGIN.stream_window


def test_the_peer_is_told_once_that_its_window_holds_us_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link, client, server = connected()
    told: list[int] = []
    monkeypatch.setattr(internal(server), "peer_wants_credit", told.append)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * BEFORE_LOGIN.stream_window)
    link.run(seconds=2)
    assert told == []
    client.engine.write(stream_id, b"x" * 1_000_000)
    link.run(seconds=20)
    assert told == [stream_id]
    server.engine.consumed(stream_id, BEFORE_LOGIN.stream_window)
    link.run(seconds=20)
    assert told == [stream_id] * 2


def test_a_window_grows_for_a_peer_that_uses_it_up_and_a_reader_that_keeps_up() -> None:
    link, client, server = connected(limits=AFTER_LOGIN)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 10)
    link.run(lambda: len(server.bytes_of(stream_id)) == 10)
    server.engine.consumed(stream_id, 10)
    window = AFTER_LOGIN.stream_window
    link.send(client, forge(client, b"\x15" + varint(stream_id) + varint(window)))
    link.run(seconds=1)
    stream = internal(client)._streams[stream_id]
    assert stream.max_stream_data_remote == 10 + 2 * window


def test_small_consumptions_are_announced_in_large_steps() -> None:
    link, client, server = connected()
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 1000)
    link.run(seconds=1)
    sent = server.sent
    for _ in range(100):
        server.engine.consumed(stream_id, 10)
        assert server.engine.outgoing(link.now) == []
    assert server.sent == sent


def test_a_reset_stream_gives_its_credit_back() -> None:
    link, client, server = connected()
    for _ in range(20):
        stream_id = client.engine.open_stream()
        client.engine.write(stream_id, b"x" * 60_000)
        link.run(seconds=0.5)
        client.engine.reset(stream_id, 7)
        link.run(lambda: StreamReset(stream_id, 7) in server.events)  # noqa: B023  # run at once
        server.engine.consumed(stream_id, len(server.bytes_of(stream_id)))
    assert len(internal(server).credit) == 0


def test_a_stopped_stream_gives_its_credit_back_whatever_still_comes() -> None:
    link, client, server = connected()
    total = 0
    for _ in range(10):
        stream_id = client.engine.open_stream()
        client.engine.write(stream_id, b"x" * 60_000)
        link.run(lambda: len(server.bytes_of(stream_id)) > 10_000)  # noqa: B023
        seen = len(server.bytes_of(stream_id))
        server.engine.stop(stream_id, 42)
        link.run(lambda: StreamStopped(stream_id, 42) in client.events)  # noqa: B023
        link.run(seconds=0.5)
        assert len(server.bytes_of(stream_id)) == seen
        total += seen
    assert total > BEFORE_LOGIN.connection_window / 2
    with pytest.raises(StreamClosed):
        client.engine.write(stream_id, b"more")


# ------------------------------------------------------------------------------- streams


def test_no_stream_is_opened_without_credit() -> None:
    link, client, server = connected()
    opened = [client.engine.open_stream() for _ in range(BEFORE_LOGIN.bidirectional_streams)]
    assert opened == [4 * n for n in range(BEFORE_LOGIN.bidirectional_streams)]
    with pytest.raises(NoStreamCredit):
        client.engine.open_stream()
    for _ in range(BEFORE_LOGIN.unidirectional_streams):
        server.engine.open_stream(unidirectional=True)
    with pytest.raises(NoStreamCredit):
        server.engine.open_stream(unidirectional=True)
    client.engine.write(opened[-1], b"x")
    link.run(lambda: bool(server.told(StreamData)))
    server.engine.raise_limits(AFTER_LOGIN)
    link.run(seconds=1)
    for _ in range(AFTER_LOGIN.bidirectional_streams - BEFORE_LOGIN.bidirectional_streams):
        client.engine.open_stream()
    with pytest.raises(NoStreamCredit):
        client.engine.open_stream()


def test_streams_may_follow_each_other_without_end_or_cost() -> None:
    link, client, server = connected()

    def answer(event: Event) -> None:
        if isinstance(event, StreamData):
            server.engine.consumed(event.stream_id, len(event.data))
            if event.fin:
                server.engine.write(event.stream_id, b"pong" * 20, fin=True)

    server.on_event = answer
    consume_all(client)

    def play(rounds: int) -> None:
        for _ in range(rounds):
            for _ in range(50):
                client.engine.write(client.engine.open_stream(), b"ping" * 20, fin=True)
            link.run(lambda: sum(e.fin for e in client.events if isinstance(e, StreamData)) == 50)
            client.events.clear()
            server.events.clear()
            link.run(seconds=0.1)
        gc.collect()

    play(20)
    before = len(gc.get_objects())
    play(180)
    assert len(gc.get_objects()) - before < 500
    for side in (client, server):
        assert len(internal(side)._streams) == 0
        assert len(internal(side)._streams_queue) == 0
        assert len(internal(side).credit) == 0


def test_a_stream_resets_once_and_then_takes_no_more() -> None:
    link, client, server = connected()
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x" * 2000)
    client.engine.reset(stream_id, 5)
    client.engine.reset(stream_id, 6)
    assert client.engine.buffered(stream_id) == 0
    with pytest.raises(StreamClosed):
        client.engine.write(stream_id, b"more")
    link.run(lambda: bool(server.told(StreamReset)))
    link.run(seconds=1)
    assert server.told(StreamReset) == [StreamReset(stream_id, 5)]


def test_stop_and_reset_of_finished_or_unknown_streams_are_nothing() -> None:
    link, client, server = connected()
    consume_all(server)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x", fin=True)
    link.run(lambda: bool(server.told(StreamData)))
    server.engine.write(stream_id, b"", fin=True)
    link.run(seconds=1)
    for side in (client, server):
        side.engine.stop(stream_id, 1)
        side.engine.reset(stream_id, 1)
        side.engine.stop(4444, 1)
        side.engine.reset(4444, 1)
        side.engine.consumed(stream_id, 100)
    link.run(seconds=1)
    assert not client.told(Terminated)
    assert not server.told(Terminated)
    with pytest.raises(StreamClosed):
        client.engine.write(stream_id, b"more")


def test_repeated_stop_sending_is_told_once() -> None:
    link, client, server = connected()
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"x")
    link.run(seconds=1)
    stop = b"\x05" + varint(stream_id) + varint(9)
    link.send(server, forge(server, stop * 300))
    link.run(seconds=1)
    assert client.told(StreamStopped) == [StreamStopped(stream_id, 9)]


# ------------------------------------------------------------------------------- datagrams


def test_datagrams_go_both_ways_up_to_the_largest() -> None:
    link, client, server = connected()
    link.run(seconds=3)
    largest = client.engine.max_datagram_payload
    assert 1400 < largest <= 16_200
    assert client.engine.send_datagram(b"x" * largest)
    assert not client.engine.send_datagram(b"x" * (largest + 1))
    assert server.engine.send_datagram(b"")
    link.run(lambda: bool(server.told(DatagramReceived) and client.told(DatagramReceived)))
    assert server.told(DatagramReceived) == [DatagramReceived(b"x" * largest)]
    assert client.told(DatagramReceived) == [DatagramReceived(b"")]


def test_unsent_datagrams_are_bounded() -> None:
    _, client, _ = connected()
    sent = sum(client.engine.send_datagram(b"x" * 1000) for _ in range(1000))
    assert sent == engine.MAX_UNSENT_DATAGRAMS


def test_unread_datagrams_are_bounded_and_reading_makes_room() -> None:
    link, client, server = connected()
    frame = b"\x31" + varint(0)
    waiting = 0
    for _ in range(50):
        server.engine.receive([forge(client, frame * 600)], CLIENT, link.now)
    while server.engine.next_event() is not None:
        waiting += 1
    assert waiting == quic.MAX_WAITING_DATAGRAMS // quic.DATAGRAM_OVERHEAD
    server.engine.receive([forge(client, frame)], CLIENT, link.now)
    assert server.engine.next_event() == DatagramReceived(b"")


def test_datagrams_that_no_longer_fit_the_path_do_not_hold_up_the_others() -> None:
    link, client, server = connected()
    link.run(seconds=3)
    assert client.engine.send_datagram(b"x" * client.engine.max_datagram_payload)
    assert client.engine.send_datagram(b"small")
    internal(client).path_mtu.restart()
    link.run(lambda: bool(server.told(DatagramReceived)))
    assert server.told(DatagramReceived) == [DatagramReceived(b"small")]


def test_no_datagram_is_sent_to_a_peer_that_takes_none() -> None:
    _, client, _ = connected()
    internal(client)._remote_max_datagram_frame_size = None
    assert client.engine.max_datagram_payload == 0
    assert not client.engine.send_datagram(b"x")


# ------------------------------------------------------------------------------- the end


def test_a_close_is_told_to_both_sides_at_once() -> None:
    link, client, server = connected()
    client.engine.close(0x100, "bye")
    link.run(lambda: bool(server.told(Terminated)))
    assert link.now < 1
    assert end_of(client) == Terminated(0x100, "bye", Cause.LOCAL, is_application=True)
    assert end_of(server) == Terminated(0x100, "bye", Cause.PEER, is_application=True)
    assert end_of(server).by_peer
    assert not end_of(client).by_peer
    for side in (client, server):
        assert side.engine.timer() is None
        with pytest.raises(StreamClosed):
            side.engine.open_stream()
        with pytest.raises(StreamClosed):
            side.engine.write(0, b"x")
        assert not side.engine.send_datagram(b"x")
        side.engine.close(1)
        side.engine.handle_timer(link.now + 100)
        assert side.engine.next_event() is None


def test_a_long_reason_is_cut_between_characters() -> None:
    link, client, server = connected()
    client.engine.close(1, "ö" * 5000)
    link.run(lambda: bool(server.told(Terminated)))
    assert end_of(server).reason == "ö" * 256


def test_who_missed_the_end_is_told_again_but_ever_more_rarely() -> None:
    link, client, server = connected()
    stream_id = client.engine.open_stream()
    server.engine.close(0x100, "bye")
    (farewell,) = server.engine.outgoing(link.now)
    assert server.engine.outgoing(link.now) == []
    answers = 0
    for _ in range(100):
        client.engine.write(stream_id, b"x")
        for _, datagrams in client.engine.outgoing(link.now):
            server.engine.receive(datagrams, CLIENT, link.now)
        answers += len(server.engine.outgoing(link.now))
    assert 2 <= answers <= 10
    client.engine.receive(farewell[1], SERVER, link.now)
    client.collect()
    assert end_of(client).by_peer


@pytest.mark.parametrize("plain", [False, True])
def test_an_unproven_address_gets_no_more_than_its_share_of_a_farewell(plain: bool) -> None:
    """Nor of its echoes, however little is sent in that address's name."""
    client = Engine.client(SERVER, None, now=0.0)
    first = first_datagrams(client)
    server = Engine.server(FirstPacket.of(first[0]), identity(), plain=plain)
    server.receive(first, CLIENT, 0.0)
    received, sent = sum(map(len, first)), 0

    def count(now: float) -> int:
        return sum(len(one) for _, datagrams in server.outgoing(now) for one in datagrams)

    sent += count(0.0)
    while (due := server.timer()) is not None and due < 20:
        server.handle_timer(due)
        sent += count(due)
    server.close(0x100, "the handshake takes too long")
    sent += count(30.0)
    assert 2 * received < sent <= 3 * received
    for _ in range(40):
        server.receive([bytes([0x40, *range(20)])], CLIENT, 31.0)
        received += 21
        sent += count(31.0)
        assert sent <= 3 * received


def test_an_unproven_address_is_told_again_when_its_share_allows() -> None:
    client = Engine.client(SERVER, None, now=0.0)
    first = first_datagrams(client)
    server = Engine.server(FirstPacket.of(first[0]), identity())
    server.receive(first, CLIENT, 0.0)
    server.close(0x100, "bye")
    assert server.outgoing(0.0)
    server.receive(first, CLIENT, 1.0)
    assert server.outgoing(1.0)


def test_a_client_may_give_up_before_anything_came_back() -> None:
    client = Engine.client(SERVER, None, now=0.0)
    client.close(0x100, "changed my mind")
    side = Side(client, CLIENT)
    side.collect()
    assert end_of(side).cause is Cause.LOCAL
    assert client.outgoing(0.0)
    assert client.timer() is None


def test_a_server_may_give_up_before_anything_came_in() -> None:
    first = first_datagrams(Engine.client(SERVER, None, now=0.0))[0]
    server = Engine.server(FirstPacket.of(first), identity())
    assert server.timer() is None
    assert server.outgoing(0.0) == []
    server.handle_timer(5.0)
    server.close(1)
    assert server.outgoing(0.0) == []
    assert isinstance(server.next_event(), Terminated)


def test_silence_ends_a_connection() -> None:
    link, client, server = connected(idle_timeout=5.0)
    link.drop = lambda sender, datagram: True
    start = link.now
    link.run(lambda: bool(client.told(Terminated) and server.told(Terminated)), seconds=20)
    assert 4.5 < link.now - start < 6
    assert end_of(client).cause is end_of(server).cause is Cause.IDLE


def test_keep_alive_keeps_a_quiet_connection_and_notices_nothing_else() -> None:
    link, client, server = connected(idle_timeout=5.0, keep_alive=2.0)
    link.run(seconds=60)
    assert not client.told(Terminated)
    assert not server.told(Terminated)
    assert link.now - client.engine.last_received < 5
    assert client.sent < 120


def test_a_ping_is_answered() -> None:
    link, client, _ = connected()
    link.run(seconds=10)
    quiet_since = client.engine.last_received
    client.engine.ping()
    client.engine.ping()
    link.run(seconds=1)
    assert client.engine.last_received > quiet_since
    assert client.engine.round_trip_time == pytest.approx(0.02, abs=0.01)


def test_a_handshake_ends_where_it_began() -> None:
    """Else a false address on the first packet would be the one that a login is allowed for."""
    link, client, server = make_link()
    client.address = ("198.51.100.66", 666)
    link.run(seconds=5.0)
    assert not client.told(HandshakeCompleted)
    assert not server.told(HandshakeCompleted)
    assert server.engine.peer_address == CLIENT


def test_a_peer_without_idle_timeout_does_not_end_the_connection_early() -> None:
    link, client, server = make_link()
    internal(server)._configuration.idle_timeout = 0
    internal(client)._configuration.idle_timeout = 60
    link.run(lambda: bool(client.told(HandshakeCompleted)))
    assert internal(client)._idle_timeout() == 60
