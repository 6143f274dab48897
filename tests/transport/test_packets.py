"""Retry, version negotiation, stateless reset: what a router says without knowing any
connection."""

import itertools

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType, get_retry_integrity_tag, pull_quic_header
from hypothesis import given
from hypothesis import strategies as st

from sshoq.transport.engine import Engine
from sshoq.transport.events import Terminated
from sshoq.transport.packets import (
    CID_LENGTH,
    CONNECTION_REFUSED,
    SUPPORTED_VERSIONS,
    TICKET_LIFETIME,
    VERSION_1,
    VERSION_2,
    FirstPacket,
    PacketHead,
    RetryTickets,
    TicketInvalid,
    TicketMissing,
    answer_to_noise,
    begins_connection,
    connection_refused,
    parse_packet,
    reset_token,
    stateless_reset,
)
from tests.link import SERVER, first_datagrams

PEER = ("192.0.2.1", 40000)
KEY = bytes(32)


def first_packet() -> bytes:
    return first_datagrams(Engine.client(SERVER, "host.example", now=0.0))[0]


def parsed(datagram: bytes) -> PacketHead:
    head = parse_packet(datagram)
    assert head is not None
    return head


def with_version(datagram: bytes, version: int) -> bytes:
    return datagram[:1] + version.to_bytes(4, "big") + datagram[5:]


def test_a_first_packet_is_recognised() -> None:
    datagram = first_packet()
    theirs = pull_quic_header(Buffer(data=datagram))
    assert parsed(datagram) == PacketHead(
        VERSION_1, theirs.destination_cid, theirs.source_cid, True, b""
    )
    cid = theirs.destination_cid
    assert FirstPacket.of(datagram) == FirstPacket(VERSION_1, cid, cid, None)


def test_an_initial_type_of_version_2_is_another_number() -> None:
    datagram = bytearray(with_version(first_packet(), VERSION_2))
    assert not parsed(bytes(datagram)).is_initial
    datagram[0] = datagram[0] & 0xCF | 0x10
    assert parsed(bytes(datagram)).is_initial


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda d: d[:1199], id="small datagram"),
        pytest.param(
            lambda d: d[:5] + b"\x07" + d[6:13] + d[14:] + b"\x00", id="short name for us"
        ),
        pytest.param(lambda d: bytes([d[0] | 0x20]) + d[1:], id="handshake packet"),
    ],
)
def test_what_is_no_first_packet(spoil) -> None:  # type: ignore[no-untyped-def]  # lambdas above
    head = parse_packet(spoil(first_packet()))
    assert head is None or not head.is_initial


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_a_connection_begins_with_every_datagram_of_a_first_flight(version: int) -> None:
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], server_name="host.example"
    )
    configuration.original_version = version
    client = QuicConnection(configuration=configuration)
    client.connect(SERVER, now=0.0)
    flights = [[datagram for datagram, _ in client.datagrams_to_send(now=0.0)]]
    if version == VERSION_1:
        flights.append(first_datagrams(Engine.client(SERVER, "host.example", now=0.0)))
    for datagram in itertools.chain(*flights):
        assert parsed(datagram).is_initial
        assert begins_connection(datagram)


def test_a_first_flight_that_comes_back_from_a_retry_begins_one() -> None:
    engine = Engine.client(SERVER, "host.example", now=0.0)
    retry = RetryTickets(KEY[:16]).retry(first_datagrams(engine)[0], PEER, 0.0)
    engine.receive([retry], SERVER, 0.0)
    again = first_datagrams(engine)
    assert parsed(again[0]).token
    assert all(map(begins_connection, again))


def test_what_was_sealed_for_another_destination_begins_none() -> None:
    """As the Initial packets with which a client acknowledges what a server has called itself."""
    datagram = bytearray(first_packet())
    datagram[6] ^= 1
    assert parsed(bytes(datagram)).is_initial
    assert not begins_connection(bytes(datagram))


@given(st.data())
def test_a_damaged_first_packet_begins_none(data: st.DataObject) -> None:
    datagram = bytearray(first_packet())
    place = data.draw(st.integers(0, len(datagram) - 1))
    datagram[place] ^= data.draw(st.integers(1, 255))
    head = parse_packet(bytes(datagram))
    if head is not None and head.is_initial:
        assert not begins_connection(bytes(datagram))


@given(st.binary(min_size=1180, max_size=1200))
def test_rubbish_behind_a_head_begins_none(rest: bytes) -> None:
    start = bytes([0xC0]) + VERSION_1.to_bytes(4, "big") + b"\x08" + bytes(8) + b"\0\0"
    datagram = (start + rest).ljust(1200, b"\0")
    assert not begins_connection(datagram)


@given(st.binary(max_size=1300))
def test_any_bytes_are_parsed_or_ignored(datagram: bytes) -> None:
    head = parse_packet(datagram)
    if head is not None:
        answer = answer_to_noise(head, len(datagram), KEY)
        assert answer is None or len(answer) < len(datagram)


@given(st.binary(max_size=60), st.integers(0, 255))
def test_any_long_header_is_parsed_or_ignored(rest: bytes, first: int) -> None:
    version = VERSION_1.to_bytes(4, "big")
    head = parse_packet(bytes([first | 0x80]) + version + rest)
    assert head is None or max(len(head.destination_cid), len(head.source_cid)) <= 20


def test_an_unknown_version_is_answered_with_ours() -> None:
    datagram = with_version(first_packet(), 0x1A2A3A4A)
    head = parsed(datagram)
    answer = answer_to_noise(head, len(datagram), KEY)
    assert answer is not None
    theirs = pull_quic_header(Buffer(data=answer))
    assert theirs.packet_type is QuicPacketType.VERSION_NEGOTIATION
    assert theirs.supported_versions == list(SUPPORTED_VERSIONS)
    assert (theirs.destination_cid, theirs.source_cid) == (head.source_cid, head.destination_cid)


def test_version_negotiation_never_amplifies_nor_answers_itself() -> None:
    datagram = with_version(first_packet(), 0x1A2A3A4A)
    assert answer_to_noise(parsed(datagram[:1199]), 1199, KEY) is None
    answer = answer_to_noise(parsed(datagram), len(datagram), KEY)
    assert answer is not None
    assert parse_packet(answer) is None


def test_a_reset_is_shorter_than_its_cause_so_that_two_servers_never_loop() -> None:
    cid = bytes(range(CID_LENGTH))
    packet = b"\x40" + cid + bytes(100)
    seen = 0
    while (head := parse_packet(packet)) is not None:
        answer = answer_to_noise(head, len(packet), KEY)
        if answer is None:
            break
        assert 21 <= len(answer) < len(packet)
        assert answer[0] & 0xC0 == 0x40
        packet = answer
        seen += 1
    assert 0 < seen < 100


def test_a_handshake_packet_of_a_lost_connection_is_answered_with_a_reset() -> None:
    datagram = first_packet()
    handshake = bytes([datagram[0] | 0x20]) + datagram[1:]
    answer = answer_to_noise(parsed(handshake), len(handshake), KEY)
    assert answer is not None
    assert answer[-16:] == reset_token(KEY, parsed(datagram).destination_cid)


def test_a_reset_carries_the_token_of_the_id() -> None:
    cid = bytes(range(CID_LENGTH))
    answer = stateless_reset(KEY, cid, 100)
    assert answer is not None
    assert answer[-16:] == reset_token(KEY, cid)
    assert reset_token(KEY, cid) != reset_token(KEY, cid[::-1])


# ------------------------------------------------------------------------------- Retry


def with_token(datagram: bytes, retry: bytes) -> bytes:
    """The client's first packet as it would come again after that Retry (its protection is not
    ours)."""
    theirs = pull_quic_header(Buffer(data=retry))
    first = parsed(datagram)
    out = bytearray(datagram[:5])
    for cid in (theirs.source_cid, first.source_cid):
        out.append(len(cid))
        out += cid
    out += (len(theirs.token) | 0x4000).to_bytes(2, "big") + theirs.token
    return bytes(out) + bytes(1250 - len(out))


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_a_retry_packet_is_as_the_library_wants_it(version: int) -> None:
    datagram = with_version(first_packet(), version)
    if version == VERSION_2:
        datagram = bytes([datagram[0] & 0xCF | 0x10]) + datagram[1:]
    retry = RetryTickets().retry(datagram, PEER, 5.0)
    theirs = pull_quic_header(Buffer(data=retry))
    assert theirs.packet_type is QuicPacketType.RETRY
    original = parsed(datagram).destination_cid
    assert theirs.integrity_tag == get_retry_integrity_tag(retry[:-16], original, version)
    assert theirs.destination_cid == parsed(datagram).source_cid


def test_a_token_brings_the_start_of_the_connection_back() -> None:
    tickets, datagram = RetryTickets(), first_packet()
    again = with_token(datagram, tickets.retry(datagram, PEER, 5.0))
    start = tickets.redeem(again, PEER, 6.0)
    assert start.original_cid == parsed(datagram).destination_cid
    assert start.retry_cid == start.destination_cid == parsed(again).destination_cid


def test_without_a_token_there_is_nothing_to_redeem() -> None:
    with pytest.raises(TicketMissing):
        RetryTickets().redeem(first_packet(), PEER, 5.0)


@pytest.mark.parametrize(
    ("peer", "now"),
    [
        (("192.0.2.9", 40000), 6.0),
        (("192.0.2.1", 40001), 6.0),
        (PEER, 5.0 + TICKET_LIFETIME + 0.1),
        (PEER, 4.0),
    ],
)
def test_a_token_is_for_one_client_and_a_short_time(peer: tuple[str, int], now: float) -> None:
    tickets, datagram = RetryTickets(), first_packet()
    again = with_token(datagram, tickets.retry(datagram, PEER, 5.0))
    with pytest.raises(TicketInvalid):
        tickets.redeem(again, peer, now)


def test_a_token_of_another_router_or_a_damaged_one_is_invalid() -> None:
    tickets, datagram = RetryTickets(), first_packet()
    again = with_token(datagram, tickets.retry(datagram, PEER, 5.0))
    with pytest.raises(TicketInvalid):
        RetryTickets().redeem(again, PEER, 5.0)
    at = again.index(parsed(again).token)
    damaged = again[:at] + bytes([again[at] ^ 1]) + again[at + 1 :]
    with pytest.raises(TicketInvalid):
        tickets.redeem(damaged, PEER, 5.0)


@given(st.binary(min_size=1, max_size=80))
def test_any_token_is_invalid_not_an_accident(token: bytes) -> None:
    datagram = first_packet()
    head = parsed(datagram)
    out = bytearray(datagram[: 7 + len(head.destination_cid) + len(head.source_cid)])
    out += (len(token) | 0x4000).to_bytes(2, "big") + token
    with pytest.raises(TicketInvalid):
        RetryTickets().redeem(bytes(out).ljust(1250, b"\0"), PEER, 5.0)


def test_a_client_that_is_turned_away_hears_why() -> None:
    client = Engine.client(SERVER, "server.test", now=0.0)
    [(_, flight)] = client.outgoing(0.0)
    refusal = connection_refused(flight[0], "Not allowed at this time")
    assert len(refusal) < 150
    client.receive([refusal], SERVER, 0.1)
    events = []
    while (event := client.next_event()) is not None:
        events.append(event)
    [end] = [event for event in events if isinstance(event, Terminated)]
    assert (end.code, end.reason) == (CONNECTION_REFUSED, "Not allowed at this time")
    assert end.by_peer
    assert not end.is_application


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_a_refusal_is_as_the_library_reads_it(version: int) -> None:
    datagram = with_version(first_packet(), version)
    if version == VERSION_2:
        datagram = bytes([datagram[0] & 0xCF | 0x10]) + datagram[1:]
    head = parsed(datagram)
    refusal = connection_refused(datagram, "no")
    crypto = CryptoPair()
    crypto.setup_initial(head.destination_cid, is_client=True, version=version)
    header = pull_quic_header(Buffer(data=refusal))
    assert header.packet_type is QuicPacketType.INITIAL
    assert header.destination_cid == head.source_cid
    number_at = 7 + len(header.destination_cid) + len(header.source_cid) + 2
    _, payload, number = crypto.decrypt_packet(refusal, number_at, 0)
    assert number == 0
    assert payload.strip(b"\0") == b"\x1c\x02\0\x02no"
