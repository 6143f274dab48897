"""The engine: two of them on a simulated link, and each against plain aioquic."""

import gc
import hashlib
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest
from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sshoq.transport import engine, quic
from sshoq.transport import identity as identities
from sshoq.transport.engine import Engine, NoStreamCredit, StreamClosed
from sshoq.transport.events import (
    AFTER_LOGIN,
    BEFORE_LOGIN,
    Address,
    Cause,
    ConnectionIdRetired,
    DatagramReceived,
    Event,
    HandshakeCompleted,
    NewcomerArrived,
    PathChanged,
    SendReady,
    StreamData,
    StreamReset,
    StreamStopped,
    Terminated,
)
from sshoq.transport.identity import (
    ORDER_COUNTS,
    Credential,
    RemoteKey,
    ServerIdentity,
    SignatureScheme,
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
from sshoq.transport.protection import Keys, seal_packets
from sshoq.transport.quic import export_keying_material
from sshoq.wire import varint
from tests.link import (
    CLIENT,
    RESET_KEY,
    SCHEMES,
    SERVER,
    Link,
    Side,
    Weather,
    connected,
    credential,
    first_datagrams,
    host_key,
    identity,
    make_link,
    self_signed,
)
from tests.rogue import forge, internal

LABEL = b"EXPORTER-SSH3"
SETTINGS = bytes.fromhex("0004023301")
KEY_KINDS = ["ed25519", "p256", "p384", "p521", "rsa"]


def end_of(side: Side) -> Terminated:
    """How it ended, told exactly once."""
    (terminated,) = side.told(Terminated)
    return terminated


def consume_all(side: Side) -> None:
    """Have that side read everything at once."""

    def read(event: Event) -> None:
        if isinstance(event, StreamData):
            side.engine.consumed(event.stream_id, len(event.data))

    side.on_event = read


def feed(side: Side, stream_id: int, data: bytes, most: int = 256 * 1024) -> Callable[[], bool]:
    """Writes data bit by bit, never more than `most` ahead; call it often, True when all is
    written."""
    at = 0

    def write_more() -> bool:
        nonlocal at
        while at < len(data) and side.engine.buffered(stream_id) < most:
            piece = data[at : at + 16384]
            at += len(piece)
            side.engine.write(stream_id, piece, fin=at == len(data))
        return at == len(data)

    return write_more


# ------------------------------------------------------------------------------- handshake


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_every_kind_of_host_key_serves_from_behind_a_signer(kind: str) -> None:
    _, client, server = connected(server_identity=identity(kind))
    assert client.engine.peer_certificates == [self_signed(kind)]
    assert client.engine.key_exchange == server.engine.key_exchange == "X25519MLKEM768"
    assert [event.alpn for event in server.told(HandshakeCompleted)] == ["h3"]


def test_a_chain_is_shown_whole_leaf_first() -> None:
    chain = [self_signed(), self_signed("p256"), self_signed("rsa")]
    _, client, _ = connected(server_identity=ServerIdentity([credential(chain=chain)]))
    assert client.engine.peer_certificates == chain


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_a_certificate_without_its_key_is_worth_nothing(kind: str) -> None:
    forged = credential(kind)
    sign = forged.key._sign
    forged.key._sign = lambda content, scheme: sign(content + b"!", scheme)
    link, client, server = make_link(server_identity=ServerIdentity([forged]))
    link.run(lambda: bool(client.told(Terminated) and server.told(Terminated)))
    assert end_of(client).code == 0x100 + tls.AlertDescription.decrypt_error
    assert not client.told(HandshakeCompleted)
    assert not client.told(SendReady)


def test_an_ecdsa_signature_must_fit_the_curve() -> None:
    wrong = credential("p384")
    key = host_key("p384")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    wrong.key = RemoteKey(
        SignatureScheme.ECDSA_P256,
        lambda content, scheme: key.sign(content, ec.ECDSA(hashes.SHA256())),
    )
    link, client, _ = make_link(server_identity=ServerIdentity([wrong]))
    link.run(lambda: bool(client.told(Terminated)))
    assert end_of(client).code == 0x100 + tls.AlertDescription.illegal_parameter


def test_a_short_rsa_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """2048 bits are the least; a key of that size is used here as the short one, for its speed."""
    monkeypatch.setattr(quic, "MIN_RSA_BITS", 2049)
    link, client, _ = make_link(server_identity=identity("rsa"))
    link.run(lambda: bool(client.told(Terminated)))
    assert end_of(client).code == 0x100 + tls.AlertDescription.bad_certificate


def test_what_the_signer_raises_is_not_swallowed() -> None:
    class MonitorGone(Exception):
        pass

    def sign(content: bytes, scheme: int) -> bytes:
        raise MonitorGone

    gone = Credential([self_signed()], SignatureScheme.ED25519, sign)
    link, _, _ = make_link(server_identity=ServerIdentity([gone]))
    with pytest.raises(MonitorGone):
        link.run()


ALL_KINDS = ("ed25519", "p256", "rsa")


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_server_with_several_keys_shows_the_one_that_the_client_knows(kind: str) -> None:
    everything = ServerIdentity([credential(one) for one in ALL_KINDS])
    _, client, _ = connected(server_identity=everything, preferred_schemes=[SCHEMES[kind]])
    assert client.engine.peer_certificates == [self_signed(kind)]


def test_a_client_that_knows_none_of_the_keys_is_shown_the_first() -> None:
    everything = ServerIdentity([credential(one) for one in ALL_KINDS])
    for preferred in ([], [SCHEMES["p384"], SCHEMES["ed25519"]]):
        _, client, _ = connected(server_identity=everything, preferred_schemes=preferred)
        assert client.engine.peer_certificates == [self_signed("ed25519")]


def test_a_preference_is_no_demand() -> None:
    """A server that has another key shows that one: whether it will do is decided above."""
    _, client, _ = connected(
        server_identity=identity("p256"), preferred_schemes=[SCHEMES["ed25519"], SCHEMES["rsa"]]
    )
    assert client.engine.peer_certificates == [self_signed("p256")]


def test_what_says_that_the_order_counts_is_no_scheme_to_sign_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sign_with_it(handshake: object) -> list[int]:
        return [ORDER_COUNTS]

    name = "_signature_algorithms_for_private_key"
    monkeypatch.setattr(quic.Handshake, name, sign_with_it)
    monkeypatch.setattr(tls, "signature_algorithm_params", lambda scheme: ())
    link, client, _ = make_link(preferred_schemes=[SCHEMES["ed25519"]])
    link.run(lambda: bool(client.told(Terminated)))
    assert end_of(client).code == 0x100 + tls.AlertDescription.illegal_parameter


def test_a_client_that_can_check_no_key_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "OFFERED_SCHEMES", (SignatureScheme.ED25519,))
    link, client, _ = make_link(server_identity=identity("p256"))
    link.run(lambda: bool(client.told(Terminated)))
    assert end_of(client).code == 0x100 + tls.AlertDescription.handshake_failure


def test_both_sides_export_the_same_and_as_soon_as_they_may_send() -> None:
    seen: dict[str, bytes] = {}
    link, client, server = make_link()

    def on(side: Side, name: str) -> None:
        def note(event: Event) -> None:
            if isinstance(event, SendReady):
                seen[name] = side.engine.export(LABEL, b"", 32)

        side.on_event = note

    on(client, "client")
    on(server, "server")
    link.run(lambda: len(seen) == 2)
    assert not server.told(HandshakeCompleted)
    assert seen["client"] == seen["server"]
    assert len(seen["client"]) == 32
    assert client.engine.export(LABEL, b"x", 32) != seen["client"]
    assert client.engine.export(b"other", b"", 32) != seen["client"]


def test_nothing_is_exported_too_early() -> None:
    _, client, _ = make_link()
    with pytest.raises(RuntimeError, match="not far enough"):
        client.engine.export(LABEL, b"", 32)


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [
        (hashes.SHA256(), "9a723ebb1207d967475cb86bf4aa8f54e67d8b98cb1b29231b06fd0decc39e80"),
        (hashes.SHA384(), "6f55bcae50a520e18d4432f6e1b027b76f9a7ac18d14cd51722a947689d8b0a5"),
    ],
)
def test_exporter_vectors(algorithm: hashes.HashAlgorithm, value: str) -> None:
    secret = bytes(range(algorithm.digest_size))
    assert export_keying_material(algorithm, secret, LABEL, b"", 32).hex() == value


@pytest.mark.parametrize("name", ["192.0.2.2", "2001:db8::1", "fe80::1%eth0", None])
def test_an_address_is_no_server_name(name: str | None) -> None:
    assert client_hello(name).server_name is None


def test_a_host_name_is_sent_without_its_final_dot() -> None:
    assert client_hello("host.example.").server_name == "host.example"


def client_hello(server_name: str | None) -> tls.ClientHello:
    client = Engine.client(SERVER, server_name, now=0.0)
    sender = client._connection._crypto_streams[tls.Epoch.INITIAL].sender
    return tls.pull_client_hello(Buffer(data=bytes(sender._buffer)))


def test_a_client_offers_both_exchanges_and_no_way_back_to_old_ones() -> None:
    hello = client_hello("host.example")
    assert [group for group, _ in hello.key_share or []] == [0x11EC, 0x001D]
    assert hello.supported_groups == [0x11EC, 0x001D]
    assert hello.supported_versions == [0x0304]
    assert hello.alpn_protocols == ["h3"]
    assert hello.pre_shared_key is None
    assert {0x0807, 0x0403, 0x0503, 0x0603, 0x0804} <= set(hello.signature_algorithms or [])
    assert not {0x0201, 0x0203} & set(hello.signature_algorithms or [])


# ------------------------------------------------------------------------------- the first flight


def write_settings(side: Side) -> None:
    def on_event(event: Event) -> None:
        if isinstance(event, SendReady):
            stream_id = side.engine.open_stream(unidirectional=True)
            side.engine.write(stream_id, SETTINGS)

    side.on_event = on_event


def test_settings_leave_with_the_servers_finished() -> None:
    link, client, server = make_link()
    write_settings(server)
    link.run(lambda: bool(client.told(StreamData)))
    assert link.now == pytest.approx(2 * link.weather.delay)
    assert server.received == 2
    assert client.bytes_of(3) == SETTINGS
    assert client.told(HandshakeCompleted)


def test_a_client_hello_in_two_pieces_costs_nothing_but_the_wait() -> None:
    client = Engine.client(SERVER, "host.example", now=0.0)
    first, second = first_datagrams(client)
    server = Engine.server(FirstPacket.of(first), identity())
    left, right = Side(client, CLIENT), Side(server, SERVER)
    write_settings(right)
    link = Link(left, right, Weather())
    server.receive([first], CLIENT, 0.01)
    right.collect()
    assert not right.told(SendReady)
    with pytest.raises(NoStreamCredit):
        server.open_stream(unidirectional=True)
    server.receive([second], CLIENT, 0.011)
    link.now = 0.011
    link.run(lambda: bool(left.told(StreamData)))
    assert link.now == pytest.approx(0.021)


def test_what_overtakes_the_handshake_is_kept() -> None:
    client = Engine.client(SERVER, "host.example", now=0.0)
    first = first_datagrams(client)
    server = Engine.server(FirstPacket.of(first[0]), identity())
    left, right = Side(client, CLIENT), Side(server, SERVER)
    server.receive(first, CLIENT, 0.01)
    for _, datagrams in server.outgoing(0.01):
        client.receive(datagrams, SERVER, 0.02)
    client.write(client.open_stream(), b"hello")
    flight = [datagram for _, batch in client.outgoing(0.02) for datagram in batch]
    overtaking = forge(left, b"\x0e" + varint(0) + varint(5) + varint(1) + b"!")
    server.receive([overtaking], CLIENT, 0.03)
    server.receive(flight, CLIENT, 0.03)
    right.collect()
    assert right.bytes_of(0) == b"hello!"


# ------------------------------------------------------------------------------- plain aioquic


def stock_client(groups: list[int]) -> QuicConnection:
    configuration = QuicConfiguration(alpn_protocols=["h3"], verify_mode=0)
    connection = QuicConnection(configuration=configuration)
    connection.connect(SERVER, now=0.0)
    connection.tls._supported_groups = groups  # type: ignore[assignment]  # numbers are groups
    connection._crypto_streams[tls.Epoch.INITIAL].sender.__init__(None, True)  # type: ignore[misc]
    connection.tls.state = tls.State.CLIENT_HANDSHAKE_START
    connection.tls.handle_message(b"", connection._crypto_buffers)
    connection._push_crypto_data()
    return connection


def talk(plain: QuicConnection, engine: Engine, side: Side, rounds: int = 20) -> None:
    """Let the two exchange what they have, without delay."""
    for step in range(rounds):
        now = 0.01 * step
        theirs = [datagram for datagram, _ in plain.datagrams_to_send(now)]
        if theirs:
            engine.receive(theirs, CLIENT if not engine._connection._is_client else SERVER, now)
        side.collect()
        for _, datagrams in engine.outgoing(now):
            for datagram in datagrams:
                plain.receive_datagram(datagram, SERVER if plain._is_client else CLIENT, now)


@pytest.mark.parametrize(
    ("groups", "chosen"),
    [([0x001D], "X25519"), ([0x0017], "P-256"), ([0x001D, 0x11EC], "X25519MLKEM768")],
)
def test_a_plain_client_gets_the_best_group_it_offers(groups: list[int], chosen: str) -> None:
    plain = stock_client(groups)
    first = [datagram for datagram, _ in plain.datagrams_to_send(0.0)]
    engine = Engine.server(FirstPacket.of(first[0]), identity())
    side = Side(engine, SERVER)
    engine.receive(first, CLIENT, 0.0)
    talk(plain, engine, side)
    assert side.told(HandshakeCompleted)
    assert engine.key_exchange == chosen
    plain.send_stream_data(0, b"from plain aioquic", end_stream=True)
    talk(plain, engine, side)
    assert side.bytes_of(0) == b"from plain aioquic"


def test_a_plain_server_takes_x25519_from_our_client() -> None:
    client = Engine.client(SERVER, None, now=0.0)
    datagrams = first_datagrams(client)
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.certificate = x509.load_der_x509_certificate(self_signed())
    configuration.private_key = host_key("ed25519")
    plain = QuicConnection(
        configuration=configuration,
        original_destination_connection_id=FirstPacket.of(datagrams[0]).original_cid,
    )
    for datagram in datagrams:
        plain.receive_datagram(datagram, CLIENT, 0.0)
    side = Side(client, CLIENT)
    talk(plain, client, side)
    assert side.told(HandshakeCompleted)
    assert client.key_exchange == "X25519"


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


# ------------------------------------------------------------------------------- keys


def test_the_peer_may_update_keys() -> None:
    link, client, server = connected()
    consume_all(server)
    stream_id = client.engine.open_stream()
    for round_number in range(5):
        internal(client if round_number % 2 else server).request_key_update()
        client.engine.write(stream_id, b"x" * 5000)
        server.engine.ping()
        link.run(lambda: len(server.bytes_of(stream_id)) == 5000 * (round_number + 1))  # noqa: B023
        link.run(seconds=1)
    assert not server.told(Terminated)
    assert internal(client)._cryptos[tls.Epoch.ONE_RTT].key_phase == 1


def test_keys_are_updated_before_they_wear_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic, "KEY_PHASE_PACKETS", 100)
    link, client, server = connected()
    consume_all(server)
    secrets = set()
    data = bytes(4_000_000)
    stream_id = client.engine.open_stream()
    write = feed(client, stream_id, data)

    def done() -> bool:
        write()
        secrets.add(internal(client)._cryptos[tls.Epoch.ONE_RTT].send.secret)
        return len(server.bytes_of(stream_id)) == len(data)

    link.run(done)
    assert len(secrets) >= 3
    assert not server.told(Terminated)


def test_a_key_update_costs_nothing_that_is_under_way() -> None:
    link, client, server = connected(limits=AFTER_LOGIN)
    data = bytes(20_000_000)
    sides = (client, server)
    for side in sides:
        consume_all(side)
    up = client.engine.open_stream()
    client.engine.write(up, b"!")
    link.run(lambda: server.bytes_of(up) == b"!")
    writers = [feed(side, up, data) for side in sides]
    losses: list[int] = []
    for side in sides:
        cast(Any, internal(side)).controller.watch_losses = losses.append
    updates = 0
    next_update = link.now

    def done() -> bool:
        nonlocal updates, next_update
        for write in writers:
            write()
        if link.now >= next_update:
            internal(sides[updates % 2]).request_key_update()
            updates += 1
            next_update = link.now + 0.05
        return len(server.bytes_of(up)) > len(data) and len(client.bytes_of(up)) == len(data)

    link.run(done)
    assert updates > 5
    assert not losses


def test_who_goes_back_to_older_keys_is_cut_off() -> None:
    link, client, server = connected()
    consume_all(server)
    link.run(seconds=1)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"one")
    link.run(lambda: server.bytes_of(stream_id) == b"one")
    pair = internal(client).application_keys
    assert pair.send.aead is not None
    assert pair.send.hp is not None
    old = Keys(pair.send.aead, pair.send.hp, internal(client)._peer_cid.cid, pair.send.key_phase)
    internal(client).request_key_update()
    client.engine.write(stream_id, b"two")
    link.run(lambda: server.bytes_of(stream_id) == b"onetwo")
    client.engine.write(stream_id, b"!")
    link.run(lambda: server.bytes_of(stream_id) == b"onetwo!")
    [packet] = seal_packets([b"\x01\x00\x00"], old, internal(client)._packet_number)
    link.send(client, packet)
    link.run(lambda: bool(server.told(Terminated)))
    [end] = server.told(Terminated)
    assert (end.code, end.reason) == (0x0E, "a packet came with older keys than those before it")


def test_secrets_are_logged_on_request() -> None:
    lines: list[str] = []
    client = Engine.client(SERVER, None, now=0.0, keylog=lines.append)
    first = first_datagrams(client)
    server = Engine.server(FirstPacket.of(first[0]), identity())
    server.receive(first, CLIENT, 0.0)
    for _, datagrams in server.outgoing(0.0):
        client.receive(datagrams, SERVER, 0.01)
    labels = {line.split()[0] for line in lines}
    assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= labels


def test_session_tickets_are_taken_and_forgotten() -> None:
    link, client, server = connected()
    ticket = bytes.fromhex(
        "04 00001d 00093a80 00000000 08 0000000000000000 0008 0102030405060708 0000"
    )
    sender = internal(server)._crypto_streams[tls.Epoch.ONE_RTT].sender
    for _ in range(3):
        sender.write(ticket)
        link.run(seconds=0.5)
    assert not client.told(Terminated)
    stream_id = client.engine.open_stream()
    client.engine.write(stream_id, b"still here")
    link.run(lambda: server.bytes_of(stream_id) == b"still here")


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
