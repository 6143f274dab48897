"""A channel's both directions: cuts, order, bounds, and what a Go peer is never told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.protocol.channel import (
    GO_MAX_MESSAGE,
    MAX_CHAFF,
    MAX_INCOMING,
    MAX_MESSAGE,
    Buffer,
    Chaff,
    ChannelEvent,
    ChannelState,
    Confirmed,
    Data,
    Eof,
    ExtendedData,
    Finished,
    IllegalSend,
    Refused,
    Replied,
    Requested,
    announced_maximum,
)
from sshoq.protocol.extensions import NONE, OURS, Extension
from sshoq.protocol.messages import (
    AgentConnection,
    Break,
    ChannelOpening,
    ChannelRequest,
    DirectTcp,
    DirectTcpip,
    DirectUdp,
    EndOfWrite,
    Env,
    Exec,
    ExitSignal,
    ExitStatus,
    Listening,
    OpenReverseUdp,
    PtyReq,
    RequestReverseTcp,
    Session,
    Sftp,
    Shell,
    Signal,
    Subsystem,
    TcpipForward,
    UnknownChannel,
    WindowChange,
    X11Req,
    encode_request,
)
from sshoq.protocol.outcome import ProtocolError
from sshoq.protocol.version import PeerTraits, parse_version
from sshoq.wire import MAX_VARINT, IPPort, varint
from tests.golden_replay import encode_event, go_traits
from tests.protocol.speakers import ALL, channel, cut, joined, our_traits, requests, said

TARGET = IPPort("192.0.2.10", 22)
MICHEL = PeerTraits(version=parse_version(
    "SSH 3.0 francoismichel/ssh3 0.1.7 experimental_spec_version=alpha-00"))

events = st.one_of(
    st.binary(min_size=1, max_size=300).map(Data),
    st.builds(ExtendedData, st.integers(0, 1 << 20), st.binary(min_size=1, max_size=300)),
    st.builds(Requested, requests, st.booleans()),
)


def server_session(traits: PeerTraits | None = None) -> ChannelState:
    """The server's side, confirmed."""
    state = channel(traits=traits)
    state.confirm()
    return state


def client_session(traits: PeerTraits | None = None, opening: ChannelOpening | None = None
                   ) -> ChannelState:
    """The client's side, opened but not yet confirmed."""
    state = channel(opening, traits=traits, is_client=True, opened_here=True)
    state.open()
    return state


# --------------------------------------------------------------------------- receiving


@given(st.lists(events, max_size=6), st.lists(st.integers(0, 3000), max_size=12))
def test_bytes_cut_anywhere_give_the_same_events(
        spoken: list[ChannelEvent], places: list[int]) -> None:
    data = b"".join(encode_event(event) for event in spoken)
    state = server_session(our_traits())
    heard = [event for piece in cut(data, places) for event in state.receive(piece)]
    heard += state.receive(b"", fin=True)
    assert joined(heard) == [*joined(spoken), Finished()]


@given(st.lists(events, max_size=4))
def test_single_bytes_give_the_same_events(spoken: list[ChannelEvent]) -> None:
    data = b"".join(encode_event(event) for event in spoken)
    state = server_session(our_traits())
    heard = [event for index in range(len(data)) for event in state.receive(data[index:index + 1])]
    assert joined(heard) == joined(spoken)


@given(st.lists(st.binary(max_size=60), max_size=4), st.booleans(), st.booleans())
def test_any_bytes_give_events_or_a_protocol_error(
        pieces: list[bytes], opened_here: bool, ours: bool) -> None:
    state = channel(traits=our_traits() if ours else go_traits(), opened_here=opened_here,
                    is_client=opened_here)
    try:
        for piece in pieces:
            assert all(isinstance(event, ChannelEvent) for event in state.receive(piece))
    except ProtocolError:
        return


@given(st.sampled_from([91, 92, 94, 95, 96, 98, 99, 100]), st.binary(max_size=100))
def test_any_message_body_gives_events_or_a_protocol_error(number: int, body: bytes) -> None:
    for opened_here in (False, True):
        state = channel(traits=our_traits(ALL), opened_here=opened_here, is_client=opened_here)
        try:
            state.receive(varint(number) + body, fin=True)
        except ProtocolError:
            continue


def test_payload_is_not_gathered_but_passed_on() -> None:
    state = server_session()
    [first] = state.receive(bytes.fromhex("405e8000752d") + b"x" * 10)
    assert first == Data(b"x" * 10)
    block = b"y" * 5000
    [second] = state.receive(block)
    assert isinstance(second, Data)
    assert isinstance(second.payload, memoryview)
    assert second.payload.obj is block


def test_an_empty_data_message_is_legal_and_nothing() -> None:
    assert server_session().receive(bytes.fromhex("405e00")) == []


def test_ids_in_longer_forms_are_read() -> None:
    assert server_session().receive(bytes.fromhex("8000005e0161")) == [Data(b"a")]


def test_a_large_request_in_small_pieces_is_read() -> None:
    request = Exec("c" * 100_000)
    data = encode_request(request, True)
    state = server_session()
    heard = [e for start in range(0, len(data), 7) for e in state.receive(data[start:start + 7])]
    assert heard == [Requested(request, True)]


@pytest.mark.parametrize("number", [0, 80, 90, 91, 92, 93, 96, 97, 99, 100, 101, 127, MAX_VARINT])
def test_messages_that_a_session_does_not_take_are_errors(number: int) -> None:
    """C2: where a Go server dies, the channel ends."""
    with pytest.raises(ProtocolError):
        server_session().receive(varint(number) + b"\0" * 8)


@pytest.mark.parametrize("size", [MAX_INCOMING + 1, 1 << 40, MAX_VARINT])
@pytest.mark.parametrize("start", [varint(94), varint(95) + b"\1"])
def test_absurd_lengths_are_errors_at_once(start: bytes, size: int) -> None:
    """C3."""
    with pytest.raises(ProtocolError):
        server_session().receive(start + varint(size))


def test_more_than_announced_is_taken() -> None:
    """Go peers go over it; 200 kB in one message pass, too."""
    data = b"z" * 200_000
    heard = server_session().receive(varint(94) + varint(len(data)) + data)
    assert joined(heard) == [Data(data)]


@pytest.mark.parametrize("first", [
    bytes.fromhex("405e0161"), bytes.fromhex("4062057368656c6c01"), bytes.fromhex("4060"),
])
def test_the_opener_hears_an_answer_first(first: bytes) -> None:
    with pytest.raises(ProtocolError):
        client_session(our_traits()).receive(first)


def test_a_second_confirmation_is_an_error() -> None:
    state = client_session()
    assert state.receive(bytes.fromhex("405b80007530")) == [Confirmed(30000)]
    assert state.confirmed
    with pytest.raises(ProtocolError):
        state.receive(bytes.fromhex("405b80007530"))


def test_a_refusal_is_the_last_word() -> None:
    state = client_session(opening=Sftp())
    refusal = bytes.fromhex(
        "405c011e534654502069732064697361626c6564206f6e207468652073657276657202656e")
    assert state.receive(refusal) == [Refused(1, "SFTP is disabled on the server")]
    assert state.refused
    assert not state.confirmed
    assert state.receive(b"", fin=True) == [Finished()]
    assert state.finish() == []
    again = client_session(opening=Sftp())
    again.receive(refusal)
    with pytest.raises(ProtocolError):
        again.receive(bytes.fromhex("405e0161"))


@pytest.mark.parametrize("data", ["40", "405e", "405e05", "405e056161", "4062", "40620565786563"])
def test_an_end_inside_a_message_is_an_error(data: str) -> None:
    with pytest.raises(ProtocolError, match="inside"):
        server_session().receive(bytes.fromhex(data), fin=True)


def test_an_end_instead_of_an_answer_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        client_session().receive(b"", fin=True)


def test_nothing_comes_behind_the_end() -> None:
    state = server_session()
    assert state.receive(b"", fin=True) == [Finished()]
    with pytest.raises(ProtocolError):
        state.receive(b"x")


def test_eof_ends_data_and_not_requests() -> None:
    state = server_session(our_traits())
    eof = varint(96)
    signal = encode_request(Signal("INT"))
    assert state.receive(eof + signal) == [Eof(), Requested(Signal("INT"), False)]
    for late in (bytes.fromhex("405e0161"), bytes.fromhex("405f010161"), eof):
        other = server_session(our_traits())
        with pytest.raises(ProtocolError):
            other.receive(eof + late)


@pytest.mark.parametrize(("number", "extension"), [
    (96, Extension.EOF), (99, Extension.REPLY), (100, Extension.REPLY), (101, Extension.CHAFF),
])
def test_extensions_that_were_not_announced_are_errors(number: int, extension: Extension) -> None:
    state = server_session(our_traits(OURS & ~extension))
    with pytest.raises(ProtocolError):
        state.receive(varint(number))


def test_chaff_looks_like_what_is_typed_and_means_nothing() -> None:
    client, server = client_session(our_traits()), server_session(our_traits())
    typed = b"".join([*client.data(b"x"), *client.chaff(12, want_answer=False)])
    nothing = b"".join(client.chaff(16, want_answer=True))
    assert typed.hex() == "405e0178" + "40650008" + "00" * 8
    assert nothing.hex() == "4065010c" + "00" * 12
    assert server.receive(typed) == [Data(b"x"), Chaff(False)]
    assert server.receive(nothing) == [Chaff(True)]
    assert b"".join(server.chaff(4, want_answer=False)).hex() == "40650000"


def test_chaff_has_a_bound() -> None:
    with pytest.raises(IllegalSend):
        client_session(our_traits()).chaff(MAX_CHAFF + 1, want_answer=True)
    with pytest.raises(ProtocolError):
        server_session(our_traits()).receive(varint(101) + b"\1" + varint(500))


def test_answers_match_requests_in_order() -> None:
    state = client_session(our_traits())
    state.receive(bytes.fromhex("405b80007530"))
    pty, shell = PtyReq("vt100", 80, 24), Shell()
    state.request(pty, want_reply=True)
    state.request(Env("A", "b"))
    state.request(shell, want_reply=True)
    assert state.receive(varint(100) + varint(99)) == [Replied(pty, False), Replied(shell, True)]
    with pytest.raises(ProtocolError):
        state.receive(varint(99))


@pytest.mark.parametrize("opening", [DirectTcp(TARGET), Sftp(), AgentConnection()])
def test_other_channels_carry_data_only(opening: ChannelOpening) -> None:
    for message in (encode_request(Shell()), bytes.fromhex("405f010161"), varint(96)):
        state = channel(opening, traits=our_traits(), is_client=not opening.opened_by_client)
        state.confirm()
        with pytest.raises(ProtocolError):
            state.receive(message)


def test_a_channel_of_an_extension_is_not_opened_to_others() -> None:
    opening = DirectTcpip("localhost", 80)
    ours = channel(opening, traits=our_traits(), is_client=True, opened_here=True)
    assert ours.open() == [ours.header.encode()]
    with pytest.raises(IllegalSend):
        channel(opening, is_client=True, opened_here=True).open()


def test_a_listener_says_where_it_listens_and_the_client_ends_it() -> None:
    opening = TcpipForward("localhost", 0)
    server = channel(opening, traits=our_traits())
    client = channel(opening, traits=our_traits(), is_client=True, opened_here=True)
    client.open()
    said_by_server = said(server.confirm()) + said(server.request(Listening(43210)))
    answer, listening = client.receive(said_by_server)
    assert isinstance(answer, Confirmed)
    assert listening == Requested(Listening(43210), False)
    with pytest.raises(IllegalSend):
        client.request(Listening(1))
    with pytest.raises(IllegalSend):
        client.data(b"x")
    assert client.finish() == []
    assert server.receive(b"", fin=True) == [Finished()]


def test_what_follows_a_reverse_request_is_ignored() -> None:
    """The Go client repeats the port there."""
    state = channel(RequestReverseTcp(TARGET, TARGET))
    assert state.receive(b"\x0b\xb8", fin=True) == [Finished()]


def test_what_follows_an_unknown_type_is_ignored() -> None:
    state = channel(UnknownChannel("direct-tcpip"))
    assert state.receive(b"anything", fin=True) == [Finished()]


def test_a_refused_channel_is_not_listened_to() -> None:
    state = channel(DirectTcp(TARGET))
    state.refuse(1, "no")
    assert state.receive(b"\xff\xff") == []
    assert state.receive(b"", fin=True) == [Finished()]


# --------------------------------------------------------------------------- sending


def test_what_one_side_says_the_other_hears() -> None:
    traits = our_traits()
    client, server = client_session(traits), channel(traits=traits)
    assert client.receive(said(server.confirm())) == [Confirmed(MAX_MESSAGE)]
    heard = server.receive(said(
        client.request(PtyReq("xterm", 80, 24), True), client.request(Exec("cat"), True),
        client.data(b"typed"), client.eof(), client.finish()), fin=True)
    assert heard == [Requested(PtyReq("xterm", 80, 24), True), Requested(Exec("cat"), True),
                     Data(b"typed"), Eof(), Finished()]
    heard = client.receive(said(
        server.reply(False), server.reply(True), server.data(b"out"), server.extended(1, b"err"),
        server.request(ExitStatus(3)), server.finish()), fin=True)
    assert heard == [Replied(PtyReq("xterm", 80, 24), False), Replied(Exec("cat"), True),
                     Data(b"out"), ExtendedData(1, b"err"), Requested(ExitStatus(3), False),
                     Finished()]


@pytest.mark.parametrize(("message", "expected"), [
    (lambda: channel().confirm(30000), "405b80007530"),
    (lambda: channel(Sftp()).refuse(1, "SFTP is disabled on the server"),
     "405c011e534654502069732064697361626c6564206f6e207468652073657276657202656e"),
    (lambda: server_session().data(b"ls\n"), "405e036c730a"),
    (lambda: client_session().data(b"forward-agent"), "405e0d666f72776172642d6167656e74"),
    (lambda: server_session().extended(1, b"oops"), "405f01046f6f7073"),
])
def test_message_vectors(message: Callable[[], list[Buffer]], expected: str) -> None:
    assert said(message()).hex() == expected


@pytest.mark.parametrize(("program", "pty", "expected"), [
    (Shell(), PtyReq("xterm-256color", 80, 24),
     "c0000000af3627e6000773657373696f6e800075304062077074792d726571010e787465726d2d32353663"
     "6f6c6f724050180000004062057368656c6c01"),
    (Exec("uname -a"), None,
     "c0000000af3627e6000773657373696f6e80007530406204657865630108756e616d65202d61"),
])
def test_first_flight_vectors(program: ChannelRequest, pty: PtyReq | None, expected: str) -> None:
    state = channel(is_client=True, opened_here=True)
    flight = [state.open()]
    if pty is not None:
        flight.append(state.request(pty, want_reply=True))
    flight.append(state.request(program, want_reply=True))
    assert said(*flight).hex() == expected


def test_full_chunks_are_cut_as_go_cuts_them() -> None:
    buffers = server_session().data(b"x" * 30000)
    assert [len(buffer) for buffer in buffers] == [6, 29997, 3, 3]
    assert bytes(buffers[0]).hex() == "405e8000752d"
    assert [len(b) for b in server_session().extended(1, b"x" * 29997)] == [7, 29996, 4, 1]


@pytest.mark.parametrize(("announced", "payload"), [
    (0, 1021), (3, 1021), (4, 1021), (1024, 1021), (5000, 4997), (30000, 29997),
    (131072, 131069), (1 << 40, 131069), (MAX_VARINT, 131069),
])
def test_absurd_announcements_are_clamped(announced: int, payload: int) -> None:
    """C4."""
    opened_by_peer = channel(max_message=announced)
    assert opened_by_peer.payload_limit == payload
    opened_here = client_session()
    opened_here.receive(varint(91) + varint(announced))
    assert opened_here.payload_limit == payload


def test_before_the_confirmation_everybody_takes_what_everybody_takes() -> None:
    assert client_session(go_traits()).payload_limit == 29997
    assert client_session(our_traits()).payload_limit == MAX_MESSAGE - 3


@given(st.binary(max_size=5000), st.integers(0, 2000))
def test_payload_arrives_whole_and_uncopied(payload: bytes, announced: int) -> None:
    sender = channel(max_message=announced)
    sender.confirm()
    buffers = sender.data(memoryview(payload))
    receiver = client_session()
    receiver.receive(bytes.fromhex("405b80007530"))
    heard = receiver.receive(said(buffers))
    assert joined(heard) == ([Data(payload)] if payload else [])
    for buffer in buffers:
        assert len(buffer) <= 1024 + 3
        assert isinstance(buffer, bytes) or buffer.obj is payload


def test_nothing_is_said_before_the_answer_or_behind_the_end() -> None:
    unanswered = channel()
    with pytest.raises(IllegalSend):
        unanswered.data(b"x")
    with pytest.raises(IllegalSend):
        unanswered.reply(True)
    state = server_session()
    state.finish()
    says: list[Callable[[], object]] = [
        lambda: state.data(b"x"), lambda: state.request(ExitStatus(0)), state.finish,
        state.confirm, lambda: state.refuse(1, "")]
    for say in says:
        with pytest.raises(IllegalSend):
            say()


def test_no_data_behind_eof() -> None:
    state = server_session(our_traits())
    state.eof()
    says: list[Callable[[], object]] = [
        lambda: state.data(b"x"), lambda: state.extended(1, b"x"), state.eof]
    for say in says:
        with pytest.raises(IllegalSend):
            say()
    assert state.request(ExitStatus(0))


def test_replies_only_where_they_are_understood() -> None:
    for traits, expected in ((go_traits(), []), (our_traits(), [varint(99)])):
        state = server_session(traits)
        state.receive(encode_request(Shell(), True))
        assert state.reply(True) == expected
        with pytest.raises(IllegalSend):
            state.reply(True)


# --------------------------------------------------------------------------- guard rails


def test_rail_1_no_new_messages_to_go_peers() -> None:
    with pytest.raises(IllegalSend):
        client_session().eof()
    with pytest.raises(IllegalSend):
        server_session().eof()


@pytest.mark.parametrize("request_", [
    Env("A", "b"), Subsystem("sftp"), Break(500), Signal("HUP"), Signal("WINCH"),
    X11Req(True, "", "", 0), EndOfWrite(),
])
def test_rails_2_and_18_no_new_requests_and_no_signals_to_go_servers(
        request_: ChannelRequest) -> None:
    with pytest.raises(IllegalSend):
        client_session().request(request_)
    assert client_session(our_traits(ALL)).request(request_)


@pytest.mark.parametrize(("request_", "padding"), [
    (ExitStatus(7), "405e00"), (ExitSignal("TERM"), ""),
])
def test_rail_3_the_status_is_not_the_last_byte(request_: ChannelRequest, padding: str) -> None:
    state = server_session()
    state.request(request_)
    assert said(state.finish()).hex() == padding
    ours = server_session(our_traits())
    ours.request(request_)
    assert ours.finish() == []


def test_rail_3_holds_for_confirmations_too() -> None:
    state = channel(DirectTcp(TARGET))
    state.confirm()
    assert said(state.finish()).hex() == "405e00"
    state = channel(DirectTcp(TARGET))
    state.confirm()
    state.data(b"x")
    assert state.finish() == []


def test_rail_3_refusals_end_in_a_language() -> None:
    state = channel(DirectTcp(TARGET))
    assert said(state.refuse(2, ""), state.finish()).hex() == "405c020002656e"


def test_rail_5_no_end_of_a_session_stream_to_a_go_server() -> None:
    with pytest.raises(IllegalSend):
        client_session().finish()
    assert client_session(our_traits()).finish() == []
    assert client_session(opening=Sftp()).finish() != []


def test_rail_6_no_window_change_without_a_terminal() -> None:
    state = client_session()
    with pytest.raises(IllegalSend):
        state.request(WindowChange(80, 24))
    state.request(PtyReq("xterm", 80, 24), True)
    assert state.request(WindowChange(80, 24))


def test_rail_10_no_datagram_ahead_of_the_confirmation() -> None:
    state = channel(OpenReverseUdp(TARGET, TARGET), opened_here=True)
    state.open()
    with pytest.raises(IllegalSend):
        state.datagram(b"x")
    state.receive(bytes.fromhex("405b80007530"))
    assert state.datagram(b"x") == b"\x00\x04x"


def test_datagrams_of_a_client_need_no_confirmation() -> None:
    state = client_session(opening=DirectUdp(TARGET))
    assert state.datagram(b"ping") == b"\x00\x04ping"
    with pytest.raises(IllegalSend):
        client_session().datagram(b"ping")


@pytest.mark.parametrize("most", [0, 3, 4095, 131073, 1 << 40])
def test_rail_14_no_absurd_announcements(most: int) -> None:
    with pytest.raises(IllegalSend):
        channel().confirm(most)
    with pytest.raises(IllegalSend):
        channel(opened_here=True, is_client=True, max_message=most).open()


def test_what_is_announced_suits_the_peer() -> None:
    assert announced_maximum(go_traits()) == GO_MAX_MESSAGE
    assert announced_maximum(our_traits(NONE)) == MAX_MESSAGE


@pytest.mark.parametrize("opening", [Sftp(), RequestReverseTcp(TARGET, TARGET)])
def test_rail_17_no_fork_channels_to_ssh3(opening: ChannelOpening) -> None:
    for traits in (MICHEL, PeerTraits()):
        with pytest.raises(IllegalSend):
            channel(opening, traits=traits, is_client=True, opened_here=True).open()
    state = client_session(MICHEL, Session())
    state.request(PtyReq("xterm", 80, 24), True)
    with pytest.raises(IllegalSend):
        state.request(WindowChange(80, 24))


def test_rail_19_agent_connections_of_go_servers_are_reset_not_ended() -> None:
    with pytest.raises(IllegalSend):
        channel(AgentConnection(), is_client=True).refuse(1, "no agent")
    state = channel(AgentConnection(), is_client=True)
    state.confirm()
    with pytest.raises(IllegalSend):
        state.finish()
    assert channel(AgentConnection(), traits=our_traits(), is_client=True).refuse(1, "no agent")


def test_requests_go_one_way_each() -> None:
    with pytest.raises(IllegalSend):
        client_session().request(ExitStatus(0))
    with pytest.raises(IllegalSend):
        server_session().request(Shell())
    with pytest.raises(IllegalSend):
        client_session().extended(1, b"x")
