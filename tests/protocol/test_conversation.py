"""A conversation: what streams are, the request, early channels, datagrams, and broken rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.protocol.channel import Data, IllegalSend, Requested
from sshoq.protocol.conversation import MAX_EARLY_BYTES, MAX_EARLY_STREAMS, ConversationState
from sshoq.protocol.conversation_events import (
    ChannelArrived,
    ChannelVoided,
    Consumed,
    ConversationEnded,
    ConversationEvent,
    DatagramArrived,
    RequestFailed,
    RequestReceived,
    ResetStream,
    ResponseReceived,
    SettingsReceived,
    StopStream,
    WriteStream,
)
from sshoq.protocol.extensions import NONE, OURS, Extension
from sshoq.protocol.http3 import control_stream, encode_headers
from sshoq.protocol.messages import (
    AgentConnection,
    ChannelHeader,
    DirectTcpip,
    DirectUdp,
    Exec,
    OpenReverseUdp,
    Session,
    UnknownChannel,
    encode_request,
)
from sshoq.protocol.outcome import Code, ConnectionFault
from sshoq.protocol.request import NOT_FOUND, UNAUTHORIZED, ConnectRequest, Response, accepted
from sshoq.wire import IPPort, varint
from tests.protocol.speakers import cut, said

GO_CONTROL = bytes.fromhex("0004023301")
HEADER = ChannelHeader(0, Session(), 30000).encode()
TARGET = IPPort("192.0.2.10", 22)
CLIENT_CONTROL, SERVER_CONTROL = 2, 3

Events = list[ConversationEvent]


def request(user: str = "alice") -> ConnectRequest:
    return ConnectRequest(authority="example.org:443", path="/p", user=user,
                          authorization="Basic eDp5")


def server(control: bytes | None = None, ours: Extension = OURS) -> ConversationState:
    """A server that has seen the client's SETTINGS: those of one of ours, unless said otherwise."""
    state = ConversationState(is_client=False, ours=ours)
    state.receive(CLIENT_CONTROL, control_stream(OURS) if control is None else control, False, 0.0)
    return state


def client(control: bytes | None = None) -> ConversationState:
    state = ConversationState(is_client=True)
    state.receive(SERVER_CONTROL, control_stream(OURS) if control is None else control, False, 0.0)
    return state


def logged_in_server(control: bytes | None = None) -> ConversationState:
    state = server(control)
    state.receive(0, request().encode(), False, 0.0)
    state.respond(0, accepted(state.traits), 0.0)
    return state


def logged_in_client(control: bytes | None = None) -> ConversationState:
    state = client(control)
    state.connect(0, request())
    state.receive(0, Response(200).encode(0.0), False, 0.0)
    return state


def of(kind: type[ConversationEvent], events: Iterable[ConversationEvent]) -> Events:
    return [event for event in events if isinstance(event, kind)]


def arrivals(events: Iterable[ConversationEvent]) -> list[ChannelArrived]:
    return [event for event in events if isinstance(event, ChannelArrived)]


def consumed(events: Iterable[ConversationEvent]) -> int:
    return sum(event.count for event in events if isinstance(event, Consumed))


def without_credit(events: Iterable[ConversationEvent]) -> Events:
    return [event for event in events if not isinstance(event, Consumed)]


def refused(stream: int, code: int = Code.REQUEST_INCOMPLETE) -> Events:
    return [ResetStream(stream, code), StopStream(stream, code)]


# --------------------------------------------------------------------------- unidirectional streams


def test_settings_say_what_the_peer_is() -> None:
    state = ConversationState(is_client=False)
    [event] = without_credit(state.receive(2, GO_CONTROL, False, 0.0))
    assert event == SettingsReceived({0x33: 1})
    assert state.traits.is_go
    ours = server()
    assert ours.traits.extensions == OURS
    assert server(ours=Extension.EOF).traits.extensions == Extension.EOF
    assert server(control_stream(NONE)).traits.extensions == NONE


@given(st.lists(st.integers(0, 40), max_size=6))
def test_a_control_stream_cut_anywhere(places: list[int]) -> None:
    state = ConversationState(is_client=True)
    data = control_stream(OURS)
    events = [e for piece in cut(data, places) for e in state.receive(3, piece, False, 0.0)]
    assert len(of(SettingsReceived, events)) == 1
    assert consumed(events) == len(data)


def test_qpack_streams_are_taken_and_ignored() -> None:
    state = server()
    for stream, kind in ((6, 2), (10, 3)):
        events = state.receive(stream, varint(kind) + b"\x20whatever", False, 0.0)
        assert without_credit(events) == []
        assert consumed(events) == 10


@pytest.mark.parametrize("kind", [0x21, 0x40, 0x54, 1 << 40])
def test_unknown_streams_are_stopped_and_dropped(kind: int) -> None:
    state = server()
    events = state.receive(6, varint(kind) + b"grease", False, 0.0)
    assert without_credit(events) == [StopStream(6, Code.STREAM_CREATION_ERROR)]
    assert state.receive(6, b"more", False, 0.0) == [Consumed(6, 4)]
    assert state.receive(6, b"", True, 0.0) == []


@pytest.mark.parametrize(("stream", "data", "fin", "code"), [
    (6, b"\x01", False, Code.STREAM_CREATION_ERROR),  # push, from a client
    (6, b"\x00\x04\x00", False, Code.STREAM_CREATION_ERROR),  # a second control stream
    (2, b"", True, Code.CLOSED_CRITICAL_STREAM),
    (2, b"\x04\x00", False, Code.FRAME_UNEXPECTED),  # a second SETTINGS
    (6, b"\x02", True, Code.CLOSED_CRITICAL_STREAM),
    (6, b"\x02" + b"x" * 70_000, False, Code.EXCESSIVE_LOAD),
])
def test_what_ends_the_connection(stream: int, data: bytes, fin: bool, code: Code) -> None:
    with pytest.raises(ConnectionFault) as caught:
        server().receive(stream, data, fin, 0.0)
    assert caught.value.code == code


def test_a_push_from_a_server_ends_the_connection() -> None:
    with pytest.raises(ConnectionFault) as caught:
        client().receive(7, b"\x01\x00", False, 0.0)
    assert caught.value.code == Code.ID_ERROR


def test_a_control_stream_that_breaks_off_ends_the_connection() -> None:
    acts: list[Callable[[], Events]] = [
        lambda: server().stream_reset(2, 0x100), lambda: server().stream_stopped(3, 0x100)]
    for act in acts:
        with pytest.raises(ConnectionFault) as caught:
            act()
        assert caught.value.code == Code.CLOSED_CRITICAL_STREAM


def test_an_end_before_a_type_means_nothing() -> None:
    assert server().receive(6, b"", True, 0.0) == []
    assert server().receive(6, b"\x40", True, 0.0) == [Consumed(6, 1)]


# --------------------------------------------------------------------------- request


@given(st.lists(st.integers(0, 300), max_size=6))
def test_a_request_cut_anywhere_is_received(places: list[int]) -> None:
    state = server()
    data = request().encode()
    events = [e for piece in cut(data, places) for e in state.receive(0, piece, False, 0.0)]
    [received] = without_credit(events)
    assert isinstance(received, RequestReceived)
    assert received.stream_id == 0
    assert received.request.user == "alice"
    assert consumed(events) == len(data)


def test_login_on_the_first_request() -> None:
    both = server(), client()
    data = both[1].connect(0, request())
    both[0].receive(0, data, False, 0.0)
    [answer] = both[0].respond(0, accepted(both[0].traits, "Hello\n"), 0.0)
    assert isinstance(answer, WriteStream)
    assert not answer.fin
    head, last = answer.data[:-3], answer.data[-3:]
    assert without_credit(both[1].receive(0, head, False, 0.0)) == []  # the banner is not whole
    [response] = without_credit(both[1].receive(0, last, False, 0.0))
    assert isinstance(response, ResponseReceived)
    assert (response.response.status, response.response.banner) == (200, "Hello\n")
    assert [state.conversation_id for state in both] == [0, 0]


def test_login_on_the_second_request() -> None:
    serving, asking = server(), client()
    serving.receive(0, asking.connect(0, request("bob")), False, 0.0)
    answer, stop = serving.respond(0, UNAUTHORIZED, 0.0)
    assert isinstance(answer, WriteStream)
    assert answer.fin
    assert stop == StopStream(0, Code.NO_ERROR)
    [response] = without_credit(asking.receive(0, answer.data, True, 0.0))
    assert isinstance(response, ResponseReceived)
    assert response.response.status == 401
    serving.stream_reset(0, Code.NO_ERROR)  # what QUIC answers to a STOP_SENDING
    serving.receive(4, asking.connect(4, request()), False, 0.0)
    [again] = serving.respond(4, accepted(serving.traits), 0.0)
    assert isinstance(again, WriteStream)
    asking.receive(4, again.data, False, 0.0)
    assert serving.conversation_id == asking.conversation_id == 4


def test_a_401_that_stays_open_is_acted_on_at_once() -> None:
    """As Go servers leave it."""
    state = client(GO_CONTROL)
    state.connect(0, request())
    events = state.receive(0, UNAUTHORIZED.encode(0.0), False, 0.0)
    assert len(of(ResponseReceived, events)) == 1
    assert state.connect(4, request())


def test_interim_responses_bodies_and_trailers_are_skipped() -> None:
    state = client()
    state.connect(0, request())
    interim = encode_headers([(b":status", b"103")])
    assert without_credit(state.receive(0, interim, False, 0.0)) == []
    events = state.receive(0, NOT_FOUND.encode(0.0) + interim, True, 0.0)
    assert [type(event) for event in without_credit(events)] == [ResponseReceived]


@pytest.mark.parametrize("settings_first", [True, False])
def test_requests_and_responses_wait_for_settings(settings_first: bool) -> None:
    """Whichever stream's packet arrives first, the traits are right when the login is decided."""
    serving, asking = ConversationState(is_client=False), ConversationState(is_client=True)
    for state, control, data in (
            (serving, 2, asking.connect(0, request())), (asking, 3, Response(200).encode(0.0))):
        streams = [(control, control_stream(OURS)), (0, data)]
        if not settings_first:
            streams.reverse()
        kinds = [type(event) for stream, written in streams
                 for event in without_credit(state.receive(stream, written, False, 0.0))]
        decided = RequestReceived if state is serving else ResponseReceived
        assert kinds == [SettingsReceived, decided]


def test_one_request_at_a_time() -> None:
    state = server()
    state.receive(0, request().encode(), False, 0.0)
    for stream in (4, 8):
        events = state.receive(stream, request().encode(), False, 0.0)
        assert without_credit(events) == refused(stream, Code.REQUEST_REJECTED)
    state.respond(0, accepted(state.traits), 0.0)
    events = state.receive(12, request().encode(), False, 0.0)
    assert without_credit(events) == refused(12, Code.REQUEST_REJECTED)
    asking = client()
    asking.connect(0, request())
    with pytest.raises(IllegalSend):
        asking.connect(4, request())


def test_half_a_request_holds_the_place() -> None:
    """So many halves would be kept otherwise."""
    state = server()
    state.receive(0, request().encode()[:-1], False, 0.0)
    events = state.receive(4, request().encode()[:-1], False, 0.0)
    assert without_credit(events) == refused(4, Code.REQUEST_REJECTED)


@pytest.mark.parametrize("data", [
    encode_headers([(b":method", b"CONNECT")]), varint(1) + varint(20_000),
])
def test_a_malformed_request_ends_its_stream_only(data: bytes) -> None:
    state = server()
    events = without_credit(state.receive(0, data, False, 0.0))
    assert [type(event) for event in events] == [ResetStream, StopStream]
    assert len(of(RequestReceived, state.receive(4, request().encode(), False, 0.0))) == 1


@pytest.mark.parametrize("data", [b"\x00\x05early", b"\x04\x00", b"\x01\x02\x80\x80"])
def test_frames_out_of_place_end_the_connection(data: bytes) -> None:
    with pytest.raises(ConnectionFault):
        server().receive(0, data, False, 0.0)


def test_a_second_block_of_fields_ends_the_connection() -> None:
    state = server()
    with pytest.raises(ConnectionFault) as caught:
        state.receive(0, request().encode() * 2, False, 0.0)
    assert caught.value.code == Code.FRAME_UNEXPECTED


@pytest.mark.parametrize("respond_first", [True, False])
def test_the_end_of_the_request_ends_the_conversation(respond_first: bool) -> None:
    state = server()
    state.receive(0, request().encode(), False, 0.0)
    events: Events = []
    if respond_first:
        state.respond(0, accepted(state.traits), 0.0)
        events = state.receive(0, b"", True, 0.0)
    else:
        state.receive(0, b"", True, 0.0)
        events = state.respond(0, accepted(state.traits), 0.0)[1:]
    assert events == [ConversationEnded(None)]
    late = state.receive(4, HEADER, False, 0.0)
    assert without_credit(late) == refused(4)


@pytest.mark.parametrize("respond_first", [True, False])
def test_a_reset_of_the_request_ends_the_conversation(respond_first: bool) -> None:
    state = server()
    state.receive(0, request().encode(), False, 0.0)
    if respond_first:
        state.respond(0, accepted(state.traits), 0.0)
    events = state.stream_reset(0, 0x10C)
    assert events == [ConversationEnded(0x10C), ResetStream(0, Code.REQUEST_CANCELLED)]
    again = without_credit(state.receive(4, request().encode(), False, 0.0))
    assert again == refused(4, Code.REQUEST_REJECTED)
    if not respond_first:
        assert state.respond(0, accepted(state.traits), 0.0) == []


def test_get_requests_with_their_end_are_answered() -> None:
    state = server()
    fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/")]
    [received] = without_credit(state.receive(0, encode_headers(fields), True, 0.0))
    assert isinstance(received, RequestReceived)
    assert not received.request.is_ssh3
    assert [type(event) for event in state.respond(0, NOT_FOUND, 0.0)] == [WriteStream]


@pytest.mark.parametrize("code", [0x102, None])
def test_a_request_without_an_answer_has_failed(code: int | None) -> None:
    state = client(GO_CONTROL)
    state.connect(0, request())
    if code is None:
        events = state.receive(0, b"", True, 0.0)
        assert of(RequestFailed, events) == [RequestFailed(0, Code.REQUEST_INCOMPLETE)]
    else:
        events = state.stream_reset(0, code)
        assert events[0] == RequestFailed(0, code)
    assert state.connect(4, request())


def test_the_server_ending_the_request_ends_the_conversation() -> None:
    assert logged_in_client().receive(0, b"", True, 0.0) == [ConversationEnded(None)]
    assert logged_in_client().stream_reset(0, 0x102)[0] == ConversationEnded(0x102)


def test_data_on_the_request_means_nothing_and_is_bounded() -> None:
    state = logged_in_server()
    assert state.receive(0, b"\x00\x05hello", False, 0.0) == [Consumed(0, 7)]
    events = state.receive(0, varint(0) + varint(1 << 20) + b"x" * 70_000, False, 0.0)
    assert ResetStream(0, Code.EXCESSIVE_LOAD) in events
    assert ConversationEnded(Code.EXCESSIVE_LOAD) in events


# --------------------------------------------------------------------------- channels


@given(st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_a_channel_cut_anywhere_arrives(places: list[int], fin: bool) -> None:
    state = logged_in_server()
    message = encode_request(Exec("true"), True)
    pieces = cut(HEADER + message, places)
    events: Events = []
    rest, arrived = b"", None
    for index, piece in enumerate(pieces):
        if arrived is not None:
            rest += piece
            continue
        events += state.receive(4, piece, fin and index == len(pieces) - 1, 0.0)
        for event in arrivals(events):
            arrived, rest = event.channel, event.rest
    assert arrived is not None
    assert state.channels == {4: arrived}
    assert consumed(events) == len(HEADER)
    assert arrived.header.encode() == HEADER
    assert arrived.receive(rest) == [Requested(Exec("true"), True)]


def test_a_channels_bytes_are_no_longer_fed_here() -> None:
    state = logged_in_server()
    state.receive(4, HEADER, False, 0.0)
    with pytest.raises(RuntimeError):
        state.receive(4, b"x", False, 0.0)


def test_unknown_channel_types_arrive_to_be_refused() -> None:
    state = logged_in_server()
    [arrived] = arrivals(state.receive(
        4, ChannelHeader(0, UnknownChannel("x12"), 30000).encode(), False, 0.0))
    assert said(arrived.channel.refuse(3, "unknown channel type"))[:3] == varint(92) + b"\x03"


@pytest.mark.parametrize("data", [
    ChannelHeader(4, Session(), 30000).encode(),  # another conversation
    varint(0xAF3627E6) + b"\0" + varint(5000),
    ChannelHeader(0, UnknownChannel("open-request-reverse-tcp,x"), 30000).encode(),
])
def test_channels_that_cannot_be_are_refused(data: bytes) -> None:
    state = logged_in_server()
    assert without_credit(state.receive(4, data, False, 0.0)) == refused(4)
    assert state.receive(4, b"more", False, 0.0) == [Consumed(4, 4)]


@pytest.mark.parametrize("data", [HEADER[:3], HEADER[:-1], b""])
def test_a_header_that_breaks_off_is_refused(data: bytes) -> None:
    state = logged_in_server()
    events = state.receive(4, data, True, 0.0)
    assert without_credit(events) == [ResetStream(4, Code.REQUEST_INCOMPLETE)]
    state = logged_in_server()
    state.receive(4, data, False, 0.0)
    assert state.stream_reset(4, 0x10C) == [ResetStream(4, Code.REQUEST_CANCELLED)]


def test_a_forgotten_channels_late_bytes_are_dropped() -> None:
    state = logged_in_server()
    state.receive(4, HEADER, False, 0.0)
    state.forget_channel(4, peer_is_done=False)
    assert state.receive(4, b"late", False, 0.0) == [Consumed(4, 4)]
    assert state.receive(4, b"", True, 0.0) == []
    asking = logged_in_client()
    asking.open_channel(4, Session())
    asking.forget_channel(4)
    assert asking.receive(4, b"late", False, 0.0) == [Consumed(4, 4)]


def test_a_server_stream_that_is_no_channel_ends_the_connection() -> None:
    with pytest.raises(ConnectionFault) as caught:
        logged_in_client().receive(1, b"\x01\x00", False, 0.0)
    assert caught.value.code == Code.STREAM_CREATION_ERROR


def test_both_sides_open_channels() -> None:
    serving, asking = logged_in_server(), logged_in_client()
    opened = asking.open_channel(4, Session())
    [arrived] = arrivals(serving.receive(4, said(opened.open()), False, 0.0))
    assert arrived.channel.opening == Session()
    back = serving.open_channel(1, AgentConnection())
    [returned] = arrivals(asking.receive(1, said(back.open()), False, 0.0))
    assert returned.channel.opening == AgentConnection()
    assert returned.channel.is_client


def test_rail_8_a_go_client_gets_no_channel_before_one_of_its_own() -> None:
    state = logged_in_server(GO_CONTROL)
    with pytest.raises(IllegalSend):
        state.open_channel(1, AgentConnection())
    state.receive(4, HEADER, False, 0.0)
    assert state.open_channel(1, AgentConnection()).opened_here


# --------------------------------------------------------------------------- early channels


def test_an_early_channel_arrives_with_the_login() -> None:
    serving, asking = server(), client()
    data = asking.connect(0, request())
    channel = asking.open_channel(4, Session())
    early = said(channel.open(), channel.request(Exec("true"), True), channel.data(b"input"))
    assert serving.receive(4, early, False, 0.0) == []
    serving.receive(0, data, False, 0.0)
    answer, credit, arrived = serving.respond(0, accepted(serving.traits), 0.0)
    assert isinstance(answer, WriteStream)
    assert credit == Consumed(4, len(said([channel.header.encode()])))
    assert isinstance(arrived, ChannelArrived)
    assert arrived.channel.receive(arrived.rest) == [Requested(Exec("true"), True), Data(b"input")]


def test_an_early_channel_goes_with_a_refused_login() -> None:
    serving, asking = server(), client()
    serving.receive(0, asking.connect(0, request()), False, 0.0)
    channel = asking.open_channel(4, Session())
    header = said(channel.open())
    serving.receive(4, header, False, 0.0)
    answer, _, *rest = serving.respond(0, UNAUTHORIZED, 0.0)
    assert rest == [Consumed(4, len(header)), *refused(4)]
    assert isinstance(answer, WriteStream)
    events = without_credit(asking.receive(0, answer.data, True, 0.0))
    assert events[1:] == [ChannelVoided(4), *refused(4, Code.REQUEST_CANCELLED)]
    assert asking.channels == {}


def test_what_waits_for_the_next_request_waits_on() -> None:
    """Its packet may overtake the request's."""
    state = server()
    state.receive(0, request().encode(), False, 0.0)
    state.receive(12, ChannelHeader(8, Session(), 30000).encode(), False, 0.0)
    assert of(ResetStream, state.respond(0, UNAUTHORIZED, 0.0)) == []
    state.receive(8, request().encode(), False, 0.0)
    [arrived] = arrivals(state.respond(8, accepted(state.traits), 0.0))
    assert arrived.channel.header.conversation_id == 8


def test_channels_of_an_extension_need_its_announcement() -> None:
    header = ChannelHeader(0, DirectTcpip("localhost", 80), 30000).encode()
    assert arrivals(logged_in_server().receive(4, header, False, 0.0))
    state = logged_in_server(GO_CONTROL)
    assert without_credit(state.receive(4, header, False, 0.0)) == refused(4)


def test_early_channels_of_another_conversation_are_refused_at_login() -> None:
    state = server()
    state.receive(4, ChannelHeader(8, Session(), 30000).encode(), False, 0.0)
    state.receive(0, request().encode(), False, 0.0)
    assert refused(4) == without_credit(state.respond(0, accepted(state.traits), 0.0))[1:]


def test_early_streams_are_few() -> None:
    state = server()
    for number in range(1, MAX_EARLY_STREAMS + 1):
        assert state.receive(4 * number, HEADER, False, 0.0) == []
    late = 4 * (MAX_EARLY_STREAMS + 1)
    assert without_credit(state.receive(late, HEADER, False, 0.0)) == refused(late)
    state.receive(0, request().encode(), False, 0.0)
    assert len(arrivals(state.respond(0, accepted(state.traits), 0.0))) == MAX_EARLY_STREAMS


def test_early_streams_are_small() -> None:
    state = server()
    state.receive(4, HEADER, False, 0.0)
    assert state.receive(4, b"x" * (MAX_EARLY_BYTES - len(HEADER)), False, 0.0) == []
    assert without_credit(state.receive(4, b"x", False, 0.0)) == refused(4)


def test_early_channels_only_where_they_are_held() -> None:
    state = client(GO_CONTROL)
    with pytest.raises(IllegalSend):
        state.open_channel(4, Session(), speculative=True)
    state.connect(0, request())
    with pytest.raises(IllegalSend):
        state.open_channel(4, Session())
    assert state.open_channel(4, Session(), speculative=True).header.conversation_id == 0


def test_a_servers_early_channel_is_held_by_our_client() -> None:
    """QUIC may deliver it ahead of the 200."""
    state = client()
    state.connect(0, request())
    header = ChannelHeader(0, AgentConnection(), 30000).encode()
    assert state.receive(1, header, False, 0.0) == []
    [arrived] = arrivals(state.receive(0, Response(200).encode(0.0), False, 0.0))
    assert arrived.channel.stream_id == 1


# --------------------------------------------------------------------------- datagrams


def test_datagrams_find_their_channel() -> None:
    serving, asking = logged_in_server(), logged_in_client()
    channel = asking.open_channel(4, DirectUdp(TARGET))
    header = said(channel.open())
    assert serving.receive_datagram(channel.datagram(b"ahead"), 0.0) == []
    [arrived] = arrivals(serving.receive(4, header, False, 0.0))
    assert serving.receive_datagram(channel.datagram(b"between"), 0.0) == []
    assert serving.take_datagrams(arrived.channel, 1.0) == [b"ahead", b"between"]
    assert serving.receive_datagram(channel.datagram(b"behind"), 1.0) == [
        DatagramArrived(4, b"behind")]
    serving.forget_channel(4)
    assert serving.receive_datagram(channel.datagram(b"late"), 1.0) == []


def test_datagrams_of_other_conversations_are_dropped() -> None:
    state = logged_in_server()
    state.receive_datagram(varint(4) + varint(4) + b"x", 0.0)
    [arrived] = arrivals(state.receive(
        4, ChannelHeader(0, DirectUdp(TARGET), 30000).encode(), False, 0.0))
    assert state.take_datagrams(arrived.channel, 0.0) == []


def test_datagrams_ahead_of_the_login_wait() -> None:
    state = server()
    state.receive_datagram(b"\x00\x04early", 0.0)
    state.receive(0, request().encode(), False, 0.0)
    state.respond(0, accepted(state.traits), 0.0)
    [arrived] = arrivals(state.receive(
        4, ChannelHeader(0, DirectUdp(TARGET), 30000).encode(), False, 0.5))
    assert state.take_datagrams(arrived.channel, 0.5) == [b"early"]


def test_datagrams_for_other_channels_are_dropped() -> None:
    state = logged_in_server()
    [arrived] = arrivals(state.receive(4, HEADER, False, 0.0))
    assert state.receive_datagram(b"\x00\x04x", 0.0) == []
    assert state.take_datagrams(arrived.channel, 0.0) == []


def test_a_servers_udp_channel() -> None:
    serving, asking = logged_in_server(), logged_in_client()
    channel = serving.open_channel(1, OpenReverseUdp(TARGET, TARGET))
    [arrived] = arrivals(asking.receive(1, said(channel.open()), False, 0.0))
    channel.receive(said(arrived.channel.confirm()))
    asking.take_datagrams(arrived.channel, 0.0)
    assert asking.receive_datagram(channel.datagram(b"x"), 0.0) == [DatagramArrived(1, b"x")]


@given(st.binary(max_size=30))
def test_any_datagram_is_an_event_or_nothing(data: bytes) -> None:
    events = logged_in_server().receive_datagram(data, 0.0)
    assert of(DatagramArrived, events) == events


# --------------------------------------------------------------------------- whatever comes


starts = st.sampled_from([
    b"", HEADER, request().encode(), control_stream(OURS), GO_CONTROL, Response(200).encode(0.0),
    UNAUTHORIZED.encode(0.0), varint(0xAF3627E6), b"\x02", b"\x21",
])
steps = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8]), starts, st.binary(max_size=20),
              st.sampled_from(["", "", "", "fin", "reset", "stop", "answer"])),
    max_size=10)


@given(steps, st.booleans())
def test_any_streams_give_events_or_a_connection_fault(
        taken: list[tuple[int, bytes, bytes, str]], is_client: bool) -> None:
    """Only what a QUIC stack can deliver: nothing behind a stream's end, no streams of our own."""
    state = client() if is_client else server()
    if is_client:
        state.connect(0, request())
    over: set[int] = set()
    pending: int | None = None
    try:
        for stream, start, data, how in taken:
            ours = stream in (2, 4, 6, 8) if is_client else stream in (1, 3, 5, 7)
            if stream in over or ours or stream in state.channels:
                continue
            if how == "answer" and pending is not None:
                events = state.respond(pending, UNAUTHORIZED, 0.0)
                pending = None
            elif how == "reset":
                events = state.stream_reset(stream, 0x10C)
            elif how == "stop" and not stream & 2:
                events = state.stream_stopped(stream, 0x10C)
            else:
                events = state.receive(stream, start + data, how == "fin", 0.0)
            if how in ("reset", "fin"):
                over.add(stream)
            for event in events:
                if isinstance(event, RequestReceived):
                    pending = event.stream_id
                if isinstance(event, ConversationEnded):
                    pending = None
    except ConnectionFault:
        return
