"""Handshakes of two engines on a simulated link, and of each with plain aioquic; the keys that come
of them.
"""

from typing import Any, cast

import pytest
from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sshoq.transport import identity as identities
from sshoq.transport import quic
from sshoq.transport.engine import Engine, NoStreamCredit
from sshoq.transport.events import (
    AFTER_LOGIN,
    Event,
    HandshakeCompleted,
    SendReady,
    StreamData,
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
    FirstPacket,
)
from sshoq.transport.protection import Keys, seal_packets
from sshoq.transport.quic import export_keying_material
from sshoq.wire import varint
from tests.link import (
    CLIENT,
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
from tests.transport.traffic import consume_all, end_of, feed

LABEL = b"EXPORTER-SSH3"
SETTINGS = bytes.fromhex("0004023301")
KEY_KINDS = ["ed25519", "p256", "p384", "p521", "rsa"]


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
