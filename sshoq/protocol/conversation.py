"""One conversation on one connection: what each stream is, the request, channels, datagrams.

Fed with what arrives on streams that are no channels yet; a stream that turns out to be a channel
is handed out as `ChannelArrived`, and its bytes go to its `ChannelState` from then on. `now` is any
clock that only goes forward. `ConnectionFault`, from any method, is the end: close the connection
with its code.

Until the login is decided little is kept: one request at a time, eight streams of 64 KiB that wait
for it.
"""

from sshoq.protocol.channel import ChannelState, IllegalSend, announced_maximum
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
from sshoq.protocol.datagrams import WaitingDatagrams, split_datagram
from sshoq.protocol.extensions import OURS, Extension, announced_in
from sshoq.protocol.http3 import Fields, RequestStream, control_stream
from sshoq.protocol.messages import SIGNAL_VALUE, ChannelHeader, ChannelOpening, read_header
from sshoq.protocol.outcome import CHANNEL_REFUSED, Code, ConnectionFault, ProtocolError
from sshoq.protocol.request import (
    MAX_BANNER,
    ConnectRequest,
    Response,
    ResponseHead,
    parse_request,
    parse_response,
)
from sshoq.protocol.uni_streams import UniStreams
from sshoq.protocol.version import PeerTraits
from sshoq.wire import Incomplete, Reader, decode_text

MAX_EARLY_STREAMS = 8
MAX_EARLY_BYTES = 64 * 1024
"""Of one stream: a header, an environment, a command and some input."""

Data = bytes | memoryview


class _ArrivingStream:
    """A stream that the peer opened, as long as it is not known what it is or whether it may be."""

    __slots__ = ("fin", "header", "header_size", "held")

    def __init__(self) -> None:
        self.held = bytearray()
        self.fin = False
        self.header: ChannelHeader | None = None
        self.header_size = 0


class ConversationState:
    """All streams of a connection but the channels, and which channels there are."""

    def __init__(self, is_client: bool, ours: Extension = OURS) -> None:
        self.is_client = is_client
        self.ours = ours
        self.traits = PeerTraits()
        self.settings_known = False
        self.conversation_id: int | None = None
        """The stream of the successful CONNECT, once there is one."""
        self.ended = False
        self.channels: dict[int, ChannelState] = {}
        self._peer_opened_channel = False
        self._pending: int | None = None
        self._head: ResponseHead | None = None
        self._requests: dict[int, RequestStream] = {}
        self._finished_requests: set[int] = set()
        self._answered: set[int] = set()
        self._blocks_ahead: list[tuple[int, Fields]] = []
        self._arriving: dict[int, _ArrivingStream] = {}
        self._discarded: set[int] = set()
        self._uni = UniStreams(is_client, self._discarded)
        self._waiting = WaitingDatagrams()
        self._datagram_channels: set[int] = set()

    # ----------------------------------------------------------------- what we say

    def control_stream(self) -> bytes:
        """To be written on a unidirectional stream of ours, first of all, and never ended."""
        return control_stream(self.ours)

    def connect(self, stream_id: int, request: ConnectRequest) -> bytes:
        """Client: the bytes to write on the new bidirectional stream `stream_id`."""
        if self._pending is not None or self.conversation_id is not None:
            raise IllegalSend("one request at a time")
        self._pending = stream_id
        self._requests[stream_id] = RequestStream(keep=MAX_BANNER)
        return request.encode()

    def respond(self, stream_id: int, response: Response, wall_clock: float
                ) -> list[ConversationEvent]:
        """Server: answer the pending request. Early channels come or go with the answer.

        Nothing, if the client has withdrawn it meanwhile.
        """
        if self.ended and self._pending is None:
            return []
        if stream_id != self._pending:
            raise IllegalSend("no request is pending there")
        self._pending = None
        events: list[ConversationEvent] = [
            WriteStream(stream_id, response.encode(wall_clock), response.ends)]
        if response.ends:
            self._discard_request(stream_id, events)
            self._drop_early(stream_id, events)
        else:
            self._begin(stream_id, events)
        return events

    def open_channel(self, stream_id: int, opening: ChannelOpening, *,
                     max_message: int | None = None, speculative: bool = False) -> ChannelState:
        """A channel of ours on the new stream `stream_id`; its `open()` gives the first bytes.

        Ahead of the 200 only towards servers that hold early streams, or as a `speculative` try
        that a Go server may reset with CHANNEL_REFUSED and that then has to be made again.
        """
        conversation_id = self.conversation_id
        if conversation_id is None and self.is_client and (
                speculative or self.traits.supports(Extension.EARLY)):
            conversation_id = self._pending
        if conversation_id is None:
            raise IllegalSend("no conversation to open a channel in")
        if not self.may_open_channels:
            raise IllegalSend("a channel that a Go client is not ready for kills it")
        most = announced_maximum(self.traits) if max_message is None else max_message
        header = ChannelHeader(conversation_id, opening, most)
        channel = ChannelState(stream_id, header, self.traits,
                               is_client=self.is_client, opened_here=True)
        self.channels[stream_id] = channel
        return channel

    @property
    def may_open_channels(self) -> bool:
        """A Go client dies of a channel that is ahead of its 200: await one of its own first."""
        return self.is_client or not self.traits.is_go or self._peer_opened_channel

    def forget_channel(self, stream_id: int, *, peer_is_done: bool = True) -> None:
        """The channel is over for us. What still comes is dropped, up to the stream's end or reset.

        `peer_is_done`: that end or reset was there already, so nothing more comes.
        """
        if self.channels.pop(stream_id, None) is not None and not peer_is_done:
            self._discarded.add(stream_id)
        self._datagram_channels.discard(stream_id)

    # ----------------------------------------------------------------- what the peer says

    def receive(self, stream_id: int, data: Data, fin: bool, now: float) -> list[ConversationEvent]:
        """Bytes and perhaps the end of a stream that is not (yet) one of `channels`."""
        events: list[ConversationEvent] = []
        if stream_id in self._discarded:
            self._consume(stream_id, len(data), events)
            if fin:
                self._discarded.discard(stream_id)
        elif stream_id & 2:
            self._uni.receive(stream_id, data, fin, events)
            self._look_for_settings(events)
        elif stream_id in self._requests:
            self._receive_request(stream_id, data, fin, events)
        else:
            self._receive_arriving(stream_id, data, fin, events)
        return events

    def stream_reset(self, stream_id: int, code: int) -> list[ConversationEvent]:
        """The peer reset its side of a stream that is not one of `channels`."""
        events: list[ConversationEvent] = []
        if stream_id in self._requests:
            self._end_request(stream_id, code, events)
            del self._requests[stream_id]
            events.append(ResetStream(stream_id, Code.REQUEST_CANCELLED))
        self._uni.reset(stream_id)
        arriving = self._arriving.pop(stream_id, None)
        if arriving is not None:
            events.append(ResetStream(stream_id, Code.REQUEST_CANCELLED))
        self._discarded.discard(stream_id)
        return events

    def stream_stopped(self, stream_id: int, code: int) -> list[ConversationEvent]:
        """The peer does not want what we write on a stream that is not one of `channels`.

        On the control stream that is an error. A request's stream carries nothing more that
        matters, and the Go server sends this behind every answer that ends.
        """
        if stream_id & 2:
            raise ConnectionFault("the control stream was stopped", Code.CLOSED_CRITICAL_STREAM)
        return []

    def receive_datagram(self, data: bytes, now: float) -> list[ConversationEvent]:
        parts = split_datagram(data)
        if parts is None:
            return []
        conversation_id, channel_id, payload = parts
        if self.conversation_id not in (None, conversation_id):
            return []
        if channel_id in self._datagram_channels:
            return [DatagramArrived(channel_id, payload)]
        channel = self.channels.get(channel_id)
        if channel is None or channel.opening.datagrams:
            self._waiting.put(conversation_id, channel_id, payload, now)
        return []

    def take_datagrams(self, channel: ChannelState, now: float) -> list[bytes]:
        """Datagrams for this channel that came too early; later ones come as `DatagramArrived`."""
        self._datagram_channels.add(channel.stream_id)
        return self._waiting.take(channel.header.conversation_id, channel.stream_id, now)

    # ----------------------------------------------------------------- the peer's settings

    def _look_for_settings(self, events: list[ConversationEvent]) -> None:
        settings = self._uni.settings
        if settings is None or self.settings_known:
            return
        self.settings_known = True
        self.traits.learn(announced_in(settings), self.ours)
        events.append(SettingsReceived(settings))
        ahead, self._blocks_ahead = self._blocks_ahead, []
        for stream_id, block in ahead:
            self._guard_stream(stream_id, events, block)
            self._look_for_banner(stream_id, events)

    # ----------------------------------------------------------------- the request's stream

    def _receive_request(self, stream_id: int, data: Data, fin: bool,
                         events: list[ConversationEvent]) -> None:
        self._consume(stream_id, len(data), events)
        stream = self._requests[stream_id]
        try:
            blocks = stream.receive(data, fin)
        except ConnectionFault:
            raise
        except ProtocolError as error:
            self._fail_request(stream_id, error, events)
            return
        for block in blocks:
            if self.settings_known:
                self._guard_stream(stream_id, events, block)
            else:
                # What its channels mean depends on its SETTINGS, which it sends before all else.
                self._blocks_ahead.append((stream_id, block))
        self._look_for_banner(stream_id, events)
        if fin and stream_id in self._requests:
            self._finished_requests.add(stream_id)
            self._end_request(stream_id, None, events)
            if self.is_client and stream_id != self.conversation_id:
                del self._requests[stream_id]

    def _look_for_banner(self, stream_id: int, events: list[ConversationEvent]) -> None:
        head, stream = self._head, self._requests.get(stream_id)
        if head is None or stream is None or stream_id != self._pending:
            return
        if len(stream.body) >= head.banner_size:
            head.banner = decode_text(bytes(stream.body[:head.banner_size]))
            self._conclude_response(stream_id, head, events)

    def _guard_stream(self, stream_id: int, events: list[ConversationEvent], block: Fields) -> None:
        """Work on a block of fields; what is wrong with it ends its stream."""
        if stream_id not in self._requests:
            return
        try:
            if self.is_client:
                self._receive_response(stream_id, block, events)
            else:
                self._receive_fields(stream_id, block, events)
        except ConnectionFault:
            raise
        except ProtocolError as error:
            self._fail_request(stream_id, error, events)

    def _receive_fields(self, stream_id: int, block: Fields,
                        events: list[ConversationEvent]) -> None:
        if stream_id in self._answered:
            raise ConnectionFault("a second block of fields", Code.FRAME_UNEXPECTED)
        request = parse_request(block)
        self._pending = stream_id
        self._answered.add(stream_id)
        events.append(RequestReceived(stream_id, request))

    def _receive_response(self, stream_id: int, block: Fields,
                          events: list[ConversationEvent]) -> None:
        if stream_id in self._answered:
            return
        head = parse_response(block)
        if head.status < 200:
            return
        self._answered.add(stream_id)
        self._head = head

    def _conclude_response(self, stream_id: int, head: ResponseHead,
                           events: list[ConversationEvent]) -> None:
        """The answer with the banner that it announced."""
        self._head = None
        self._pending = None
        self.traits.version = head.version
        events.append(ResponseReceived(stream_id, head))
        if head.status == 200:
            self._begin(stream_id, events)
        else:
            self._void_channels(stream_id, events)
            self._drop_early(stream_id, events)

    def _void_channels(self, conversation_id: int, events: list[ConversationEvent]) -> None:
        for stream_id, channel in list(self.channels.items()):
            if channel.header.conversation_id == conversation_id:
                self.forget_channel(stream_id, peer_is_done=True)
                events.append(ChannelVoided(stream_id))
                self._refuse_stream(stream_id, Code.REQUEST_CANCELLED, events)

    def _fail_request(self, stream_id: int, error: ProtocolError, events: list[ConversationEvent]
                      ) -> None:
        """A request or response that is wrong in itself: its stream ends, the connection stays."""
        self._end_request(stream_id, error.code, events)
        del self._requests[stream_id]
        self._refuse_stream(stream_id, error.code, events)

    def _discard_request(self, stream_id: int, events: list[ConversationEvent]) -> None:
        """The answer ends; the client's side is of no interest any more."""
        del self._requests[stream_id]
        if stream_id not in self._finished_requests:
            self._discarded.add(stream_id)
            events.append(StopStream(stream_id, Code.NO_ERROR))

    def _end_request(self, stream_id: int, code: int | None,
                     events: list[ConversationEvent]) -> None:
        if stream_id == self.conversation_id:
            self._end(code, events)
        elif stream_id == self._pending and self.is_client:
            self._pending = None
            events.append(RequestFailed(stream_id, code))
            self._void_channels(stream_id, events)
        elif stream_id == self._pending and code is not None:
            self._pending = None
            self._end(code, events)
            self._drop_early(stream_id, events)

    def _end(self, code: int | None, events: list[ConversationEvent]) -> None:
        if not self.ended:
            self.ended = True
            events.append(ConversationEnded(code))

    # ----------------------------------------------------------------- streams the peer opens

    def _receive_arriving(self, stream_id: int, data: Data, fin: bool,
                          events: list[ConversationEvent]) -> None:
        if stream_id in self.channels:
            raise RuntimeError("a channel's bytes go to its ChannelState")
        if (stream_id & 1 == 0) == self.is_client:
            self._consume(stream_id, len(data), events)  # ours, and over
            return
        stream = self._arriving.get(stream_id)
        if stream is None:
            stream = self._arriving[stream_id] = _ArrivingStream()
        stream.held += data
        stream.fin = fin
        self._judge_arriving(stream_id, stream, events)

    def _judge_arriving(self, stream_id: int, stream: _ArrivingStream,
                        events: list[ConversationEvent]) -> None:
        try:
            if Reader(stream.held).varint() != SIGNAL_VALUE:
                self._become_request(stream_id, stream, events)
                return
            if stream.header is None:
                self._check_room(stream_id)
                stream.header, stream.header_size = read_header(stream.held)
        except ConnectionFault:
            raise
        except Incomplete:
            if stream.fin:
                self._refuse_arriving(stream_id, CHANNEL_REFUSED, events)
            return
        except ProtocolError as error:
            self._refuse_arriving(stream_id, error.code, events)
            return
        self._judge_channel(stream_id, stream, stream.header, events)

    def _check_room(self, newest: int) -> None:
        """Only so many channels may wait for the login."""
        others = len(self._arriving.keys() - {newest})
        if self.conversation_id is None and others >= MAX_EARLY_STREAMS:
            raise ProtocolError("too many early channels", CHANNEL_REFUSED)

    def _judge_channel(self, stream_id: int, stream: _ArrivingStream, header: ChannelHeader,
                       events: list[ConversationEvent]) -> None:
        if self.conversation_id is None:
            if len(stream.held) > MAX_EARLY_BYTES:
                self._refuse_arriving(stream_id, CHANNEL_REFUSED, events)
        elif (header.conversation_id != self.conversation_id or self.ended
                or not self.traits.supports(header.opening.needs)):
            self._refuse_arriving(stream_id, CHANNEL_REFUSED, events)
        else:
            self._accept_channel(stream_id, stream, header, events)

    def _accept_channel(self, stream_id: int, stream: _ArrivingStream, header: ChannelHeader,
                        events: list[ConversationEvent]) -> None:
        del self._arriving[stream_id]
        self._peer_opened_channel = True
        channel = ChannelState(stream_id, header, self.traits, is_client=self.is_client,
                               opened_here=False)
        self.channels[stream_id] = channel
        self._consume(stream_id, stream.header_size, events)
        events.append(ChannelArrived(channel, bytes(stream.held[stream.header_size:]), stream.fin))

    def _become_request(self, stream_id: int, stream: _ArrivingStream,
                        events: list[ConversationEvent]) -> None:
        if self.is_client:
            raise ConnectionFault("the server opened a stream that is no channel",
                                  Code.STREAM_CREATION_ERROR)
        if self._requests or self.ended:
            self._refuse_arriving(stream_id, Code.REQUEST_REJECTED, events)
            return
        del self._arriving[stream_id]
        self._requests[stream_id] = RequestStream()
        self._receive_request(stream_id, bytes(stream.held), stream.fin, events)

    def _refuse_arriving(self, stream_id: int, code: int, events: list[ConversationEvent]) -> None:
        stream = self._arriving.pop(stream_id)
        self._consume(stream_id, len(stream.held), events)
        self._refuse_stream(stream_id, code, events, stream.fin)

    def _begin(self, stream_id: int, events: list[ConversationEvent]) -> None:
        """The login succeeded: channels that waited for it arrive, or were for another one."""
        self.conversation_id = stream_id
        for waiting, stream in list(self._arriving.items()):
            if stream.header is not None:
                self._judge_channel(waiting, stream, stream.header, events)
        if stream_id in self._finished_requests:
            self._end(None, events)

    def _drop_early(self, conversation_id: int, events: list[ConversationEvent]) -> None:
        """The login failed: what waited for it goes; what names another request may wait on."""
        for waiting, stream in list(self._arriving.items()):
            if stream.header is not None and stream.header.conversation_id == conversation_id:
                self._refuse_arriving(waiting, CHANNEL_REFUSED, events)

    # ----------------------------------------------------------------- small change

    def _refuse_stream(self, stream_id: int, code: int, events: list[ConversationEvent],
                       fin: bool = False) -> None:
        events.append(ResetStream(stream_id, code))
        if not fin:
            self._discarded.add(stream_id)
            events.append(StopStream(stream_id, code))

    def _consume(self, stream_id: int, count: int, events: list[ConversationEvent]) -> None:
        if count:
            events.append(Consumed(stream_id, count))
