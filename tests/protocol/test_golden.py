"""The recorded Go conversations: decoded, encoded to the same bytes, replayed with our states."""

from __future__ import annotations

from collections import defaultdict

import pytest

from sshoq.protocol.channel import (
    ChannelEvent,
    ChannelState,
    Confirmed,
    Data,
    ExtendedData,
    Finished,
    IllegalSend,
    Refused,
    Requested,
)
from sshoq.protocol.conversation import ConversationState
from sshoq.protocol.conversation_events import (
    ChannelArrived,
    ConversationEvent,
    DatagramArrived,
    RequestFailed,
    ResponseReceived,
    SettingsReceived,
)
from sshoq.protocol.datagrams import split_datagram
from sshoq.protocol.http3 import H3_DATAGRAM, RequestStream
from sshoq.protocol.messages import DATA, Exec, Session, Shell, read_header
from sshoq.protocol.outcome import ProtocolError
from sshoq.protocol.request import Response, parse_request
from sshoq.protocol.session import SessionClientState, SessionServerState
from tests.golden_replay import NAMES, Side, Step, Transcript, encode_event

GO_MAX = 30000
OTHER: dict[Side, Side] = {"client": "server", "server": "client"}

WE_WOULD_NOT = {("exec-stdin-fin", 4), ("agent-forwarding-lost-race", 1), ("reverse-udp", 1)}
"""Where the Go client ended its side in a way that hurts a Go server, or went on behind it."""


@pytest.fixture(params=NAMES)
def transcript(request: pytest.FixtureRequest) -> Transcript:
    return Transcript(request.param)


def test_all_recordings_are_here() -> None:
    assert len(NAMES) == 44


def test_channel_bytes_are_the_same_when_encoded_again(transcript: Transcript) -> None:
    for channel in transcript.channels:
        header, size = read_header(transcript.written(channel, transcript.opener(channel)))
        for side in OTHER:
            _check_recoding(transcript, channel, side, header.encode(), size)


def _check_recoding(transcript: Transcript, channel: int, side: Side, header: bytes, size: int
                    ) -> None:
    """Each recorded write is one message, or a header with what comes behind it."""
    speaks_first = side == transcript.opener(channel)
    listener = _listener(transcript, channel, side)
    skip = size if speaks_first else 0
    for step in transcript.steps:
        if step.stream != channel or step.sender != side or step.data is None:
            continue
        again = b""
        data = step.data[skip:]
        if skip:
            again, skip = header, 0
        events = listener.receive(data)
        again += b"".join(encode_event(event) for event in events)
        assert again == step.data


def _listener(transcript: Transcript, channel: int, side: Side) -> ChannelState:
    header, _ = read_header(transcript.written(channel, transcript.opener(channel)))
    return ChannelState(channel, header, ConversationState(is_client=False).traits,
                        is_client=side == "server",
                        opened_here=side != transcript.opener(channel))


def test_fields_are_the_listed_ones(transcript: Transcript) -> None:
    for stream, listed in transcript.requests.items():
        assert RequestStream().receive(transcript.written(stream, "client"), False) == [listed]
    for stream, answer in transcript.responses.items():
        if answer is not None:
            written = transcript.written(stream, "server")
            assert RequestStream().receive(written, False) == [answer]


def test_requests_are_what_we_would_ask(transcript: Transcript) -> None:
    for listed in transcript.requests.values():
        assert set(parse_request(listed).fields()) == set(listed) - {(b"accept-encoding", b"gzip")}


def test_control_streams_announce_datagrams_and_nothing_of_ours(transcript: Transcript) -> None:
    for stream, sender in ((2, "client"), (3, "server")):
        state = ConversationState(is_client=sender == "server")
        written = transcript.written(stream, sender)  # type: ignore[arg-type]  # a Side, in a tuple
        assert SettingsReceived({H3_DATAGRAM: 1}) in state.receive(stream, written, False, 0.0)
        assert state.traits.is_go


# --------------------------------------------------------------------------- replay


class Replay:
    """Both our states, joined by the recorded bytes.

    What one side wrote is read by our state of the other side; our state of the writing side is
    then told to say what was read, and has to come up with the same bytes.
    """

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        self.states: dict[Side, ConversationState] = {
            "client": ConversationState(is_client=True),
            "server": ConversationState(is_client=False),
        }
        self.channels: dict[tuple[Side, int], ChannelState] = {}
        self.sessions: dict[tuple[Side, int], SessionServerState | SessionClientState] = {}
        self.written: dict[tuple[Side, int], bytes] = defaultdict(bytes)
        self.said: dict[tuple[Side, int], bytes] = defaultdict(bytes)
        self.padding: dict[tuple[Side, int], bytes] = {}
        self.datagrams: dict[Side, list[bytes]] = {"client": [], "server": []}
        self.sent_datagrams: dict[Side, list[bytes]] = {"client": [], "server": []}
        self.responses: list[int] = []
        self.request_failed = False
        self.would_not: set[tuple[str, int]] = set()

    def run(self) -> None:
        for step in self.transcript.steps:
            if step.stream is None:
                self._datagram_step(step)
            elif step.stream in self.transcript.channels:
                self._channel_step(step, step.stream)
            else:
                self._conversation_step(step, step.stream)

    # ----- the request

    def _conversation_step(self, step: Step, stream: int) -> None:
        reader = OTHER[step.sender]
        state = self.states[reader]
        if step.data is not None and not stream & 2:
            self._say_http(step.sender, stream, step.data)
        if step.data is not None or step.fin:
            self._note(reader, state.receive(stream, step.data or b"", step.fin, 0.0))
        if step.reset is not None:
            self._note(reader, state.stream_reset(stream, step.reset))
        if step.stop is not None:
            self._note(reader, state.stream_stopped(stream, step.stop))

    def _say_http(self, sender: Side, stream: int, data: bytes) -> None:
        """Bring our state of the sender to where the sender was. Its fields are compared above."""
        if sender == "client":
            request = parse_request(self.transcript.requests[stream])
            self.states["client"].connect(stream, request)
        elif data[:1] == b"\x01":  # HEADERS; the body comes in a write of its own
            fields = dict(self.transcript.responses[stream] or ())
            response = Response(int(fields[b":status"]))
            self._note("server", self.states["server"].respond(stream, response, 0.0))

    # ----- channels

    def _channel_step(self, step: Step, stream: int) -> None:
        if step.data is None and not step.fin:
            return
        key = step.sender, stream
        self.written[key] += step.data or b""
        for event in self._read(OTHER[step.sender], stream, step):
            self._say(step.sender, stream, event)
        assert self.said[key] == self.written[key]

    def _read(self, reader: Side, stream: int, step: Step) -> list[ChannelEvent]:
        channel = self.channels.get((reader, stream))
        data, fin = step.data or b"", step.fin
        if channel is None:
            arrived = self._arrive(reader, stream, data, fin)
            self._open(step.sender, stream, arrived)
            channel, data, fin = arrived.channel, arrived.rest, arrived.fin
        events = channel.receive(data, fin)
        for event in events:
            self._watch(reader, stream, event)
        return events

    def _arrive(self, reader: Side, stream: int, data: bytes, fin: bool) -> ChannelArrived:
        state = self.states[reader]
        events = state.receive(stream, data, fin, 0.0)
        [arrived] = [event for event in events if isinstance(event, ChannelArrived)]
        self.channels[reader, stream] = arrived.channel
        if isinstance(arrived.channel.opening, Session):
            self.sessions[reader, stream] = SessionServerState(arrived.channel)
        self.datagrams[reader] += state.take_datagrams(arrived.channel, 0.0)
        return arrived

    def _open(self, sender: Side, stream: int, arrived: ChannelArrived) -> None:
        state = self.states[sender]
        channel = state.open_channel(stream, arrived.channel.opening, max_message=GO_MAX)
        self.channels[sender, stream] = channel
        self.datagrams[sender] += state.take_datagrams(channel, 0.0)
        self.said[sender, stream] += b"".join(channel.open())

    def _watch(self, reader: Side, stream: int, event: ChannelEvent) -> None:
        session = self.sessions.get((reader, stream))
        if isinstance(session, SessionServerState) and isinstance(event, Requested):
            assert session.permits(event.request)
            session.granted(event.request)
        if session is not None:
            try:
                session.watch(event)
            except ProtocolError:
                self.would_not.add((self.transcript.name, stream))

    def _say(self, sender: Side, stream: int, event: ChannelEvent) -> None:
        channel = self.channels[sender, stream]
        try:
            said = _say_on(channel, event)
        except IllegalSend:
            self.would_not.add((self.transcript.name, stream))
            return
        if isinstance(event, Finished):
            self.padding[sender, stream] = b"".join(said)
            return
        self.said[sender, stream] += b"".join(said)
        if isinstance(event, Requested) and isinstance(event.request, Exec | Shell):
            has_pty = self._has_pty(stream)
            self.sessions[sender, stream] = SessionClientState(
                channel, event.request, has_pty=has_pty)

    def _has_pty(self, stream: int) -> bool:
        session = self.sessions["server", stream]
        return isinstance(session, SessionServerState) and session.has_pty

    # ----- datagrams

    def _datagram_step(self, step: Step) -> None:
        assert step.data is not None
        parts = split_datagram(step.data)
        assert parts is not None
        _, channel_id, payload = parts
        self.sent_datagrams[step.sender].append(payload)
        reader = OTHER[step.sender]
        self._note(reader, self.states[reader].receive_datagram(step.data, 0.0))
        channel = self.channels.get((step.sender, channel_id))
        if channel is not None and channel.confirmed:
            try:
                assert channel.datagram(payload) == step.data
            except IllegalSend:
                self.would_not.add((self.transcript.name, channel_id))

    def _note(self, side: Side, events: list[ConversationEvent]) -> None:
        for event in events:
            match event:
                case ResponseReceived():
                    self.responses.append(event.response.status)
                case RequestFailed():
                    self.request_failed = True
                case DatagramArrived():
                    self.datagrams[side].append(event.payload)


def _say_on(channel: ChannelState, event: ChannelEvent) -> list[bytes | memoryview]:
    match event:
        case Confirmed():
            return channel.confirm(event.max_message)
        case Refused():
            return channel.refuse(event.reason, event.text)
        case Data():
            return channel.data(event.payload)
        case ExtendedData():
            return channel.extended(event.kind, event.payload)
        case Requested():
            return channel.request(event.request, event.want_reply)
        case Finished():
            return channel.finish()
    raise AssertionError(f"Go programs do not say {event}")


@pytest.fixture
def replay(transcript: Transcript) -> Replay:
    replay = Replay(transcript)
    replay.run()
    return replay


def test_replay_says_the_same(replay: Replay) -> None:
    """Checked write by write while it runs; the channels that Go got wrong are the known ones."""
    assert replay.would_not == {one for one in WE_WOULD_NOT if one[0] == replay.transcript.name}
    assert {stream for _, stream in replay.said} == set(replay.transcript.channels)


def test_replay_pads_the_end_behind_a_confirmation_only(replay: Replay) -> None:
    """Elsewhere the Go programs' last fields are none that the other one loses."""
    for key, padding in replay.padding.items():
        confirmed_last = replay.written[key] == bytes.fromhex("405b80007530")
        carries_data = DATA in replay.channels[key].opening.accepts
        assert padding == (bytes.fromhex("405e00") if confirmed_last and carries_data else b"")


def test_replay_decides_the_login_alike(replay: Replay) -> None:
    transcript = replay.transcript
    assert replay.responses == transcript.statuses
    assert replay.request_failed == (None in transcript.responses.values())
    logged_in = 200 in transcript.statuses
    for state in replay.states.values():
        assert (state.conversation_id is not None) == logged_in


def test_replay_ends_with_the_recorded_status(replay: Replay) -> None:
    transcript = replay.transcript
    sessions = [session for session in replay.sessions.values()
                if isinstance(session, SessionClientState)]
    if not sessions or transcript.exit_code == "killed":
        return
    assert [session.status for session in sessions] == [transcript.exit_code]
    assert sessions[0].is_over == (transcript.name != "exec-stdin-fin")


def test_replay_loses_no_datagram(replay: Replay) -> None:
    assert replay.datagrams["server"] == replay.sent_datagrams["client"]
    assert replay.datagrams["client"] == replay.sent_datagrams["server"]
