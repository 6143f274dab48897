"""A conversation on the event loop: the engine's datagrams and timer, the state's rules, channels
as objects.

The one place where the three meet: UDP socket, QUIC engine, conversation rules. It has no opinion
of its own; what is done about a request or a channel is the business of the client or of the
server's network process, which is the conversation's `owner`.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sshoq.protocol.channel import Buffer
from sshoq.protocol.conversation import ConversationState
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
from sshoq.protocol.messages import ChannelOpening, RefusalReason
from sshoq.protocol.outcome import Code, ConnectionFault, ProtocolError
from sshoq.protocol.request import ConnectRequest, Response, ResponseHead
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused
from sshoq.transport.engine import Engine, NoStreamCredit, StreamClosed
from sshoq.transport.events import (
    Address,
    ConnectionIdRetired,
    DatagramReceived,
    Event,
    HandshakeCompleted,
    Limits,
    NewcomerArrived,
    PathChanged,
    SendReady,
    StreamData,
    StreamReset,
    StreamStopped,
    Terminated,
)
from sshoq.transport.udp import Batch, UdpSocket, UdpTransport

CHANNEL_SHARE = 2 * 1024 * 1024
WIDE_SHARE = 8 * 1024 * 1024
CONNECTION_SHARE = 16 * 1024 * 1024
LEAST_SHARE = 16 * 1024
"""Written and not yet acknowledged: of one channel, of one where the path takes so much, of all,
and of each when there are very many.
"""

ROUNDS_KEPT = 3
"""Congestion windows: what is lost twice is acknowledged, with all behind it, in the third."""

WAKE_NUMERATOR, WAKE_DENOMINATOR = 3, 4
"""Of the share: the part at which a writer is woken. Less, and a lossy path runs dry."""

LULL = 5e-5
"""Seconds since something left last: what was read before is one of many in this round of the event
loop, and they leave together."""

PROBES = 4
PROBE_INTERVAL = 0.5
"""When the network says that nobody listens at the peer's port, which may be wrong or forged: ask
the peer so often, with so many seconds between, before it is believed."""


class ConversationOwner(Protocol):
    """Who acts on what the peer does. Each is called at most once per thing, on the event loop;
    none may wait.
    """

    def send_ready(self) -> None:
        """Streams may be written: on a client the server's certificate and the exporter are there.
        """

    def handshake_completed(self) -> None: ...

    def settings_received(self) -> None:
        """`conversation.traits` says from now on what the peer is."""

    def request_received(self, stream_id: int, request: ConnectRequest) -> None:
        """Server: answer with `respond`."""

    def response_received(self, stream_id: int, response: ResponseHead | None) -> None:
        """Client: None when the request was dropped without an answer."""

    def channel_arrived(self, channel: Channel) -> None:
        """The peer opened a channel: confirm or refuse it."""

    def name_retired(self, connection_id: bytes) -> None:
        """Server: the peer will not call the connection by that ID again."""

    def newcomer_arrived(self, datagram: bytes) -> None:
        """Server: somebody begins a connection anew at the peer's address."""

    def path_changed(self, address: Address) -> None:
        """The peer has moved there, proven."""

    def conversation_ended(self) -> None:
        """The peer ended the conversation in good order; what runs is to be ended."""

    def terminated(self, end: Terminated) -> None:
        """The connection is over; all channels are closed already."""

    def fault(self, text: str) -> None:
        """The peer broke a rule, and that has been dealt with: a line for the log."""


class Conversation:
    """One QUIC connection with its channels. Everything happens on the event loop it was made in.
    """

    def __init__(
        self, engine: Engine, udp: UdpSocket, state: ConversationState, owner: ConversationOwner
    ) -> None:
        self.engine = engine
        self.state = state
        self.channels: dict[int, Channel] = {}
        self.ended: Terminated | None = None
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.last_gone = self._loop.time()
        """When a channel was the last to go."""
        self._transport = UdpTransport(self._loop, udp, self._receive_batches, self._unreachable)
        self._timer: asyncio.TimerHandle | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._flushed_at = 0.0
        self._in_turn = False
        self._probe: asyncio.TimerHandle | None = None
        self._probes_left = 0
        self._greeted = False
        self._crowded: set[int] = set()
        self._over: asyncio.Future[None] = self._loop.create_future()

    @property
    def traits(self) -> Any:
        return self.state.traits

    # ------------------------------------------------------------------ running

    def start(self, datagrams: Sequence[bytes] = (), peer: Address | None = None) -> None:
        """Work on what came before there was an event loop, and send what is due."""
        if datagrams and peer is not None:
            self.engine.receive(datagrams, peer, self._loop.time())
        self._turn()

    async def over(self) -> None:
        """Until the connection has ended and its last datagram is out."""
        await asyncio.shield(self._over)

    def receive_datagrams(self, datagrams: Sequence[bytes], peer: Address) -> None:
        """Datagrams that reached us another way than by our own socket."""
        self._receive_batches([(peer, list(datagrams))])

    def _receive_batches(self, batches: Sequence[Batch]) -> None:
        now = self._loop.time()
        for peer, datagrams in batches:
            self.engine.receive(datagrams, peer, now)
        self._turn()

    def _turn(self) -> None:
        """After anything came in: act on it, let writers go on, send what is due."""
        self._in_turn = True
        try:
            while (event := self.engine.next_event()) is not None:
                try:
                    self._handle(event)
                except StreamClosed:  # the end has come with it: what it would have us say is late
                    if not self.engine.is_over:
                        raise
            self._wake_writers()
        finally:
            self._in_turn = False
        self.flush()

    def flush_soon(self) -> None:
        """Send what is due once the present callbacks have run: one flight for all of them."""
        if self._flush_handle is None and not (self._in_turn or self._over.done()):
            self._flush_handle = self._loop.call_soon(self.flush)

    def _flush_promptly(self) -> None:
        """Send at once what a callback of the event loop has read, unless it is one of many."""
        if self._in_turn or self._loop.time() < self._flushed_at + LULL:
            self.flush_soon()
        else:
            self.flush()

    def flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._over.done():
            return
        batches = self.engine.outgoing(self._loop.time())
        if batches:
            self._transport.send(batches)
        if self.ended is None:
            while (event := self.engine.next_event()) is not None:
                self._handle(event)
        if self.ended is not None:
            self._shut_down()
        else:
            self._set_timer()
            self._flushed_at = self._loop.time()

    def _set_timer(self) -> None:
        """What is due moves on with each packet. The timer may expire too early: that is rarer, and
        cheaper, than to set it anew each time."""
        due = self.engine.timer()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = None if due is None else self._loop.call_at(due, self._timer_expired)

    def _timer_expired(self) -> None:
        self._timer = None
        now, due = self._loop.time(), self.engine.timer()
        if due is None or due > now:
            self._set_timer()
            return
        self.engine.handle_timer(now)
        self._turn()

    def close(self, code: int = Code.NO_ERROR, reason: str = "") -> None:
        """End the connection at once, whatever is under way."""
        if self.ended is None:
            self.engine.close(code, reason)
            self._turn()

    def _shut_down(self) -> None:
        for handle in (self._timer, self._probe):
            if handle is not None:
                handle.cancel()
        self._transport.close()
        self._over.set_result(None)

    # ------------------------------------------------------------------ requests and channels

    def send_request(self, request: ConnectRequest) -> int:
        """Client: ask for the conversation. The stream's ID, which the response will name.
        NoStreamCredit when the peer permits none, StreamClosed after the end.
        """
        stream_id = self.engine.open_stream()
        self.engine.write(stream_id, self.state.connect(stream_id, request))
        self.flush_soon()
        return stream_id

    def respond(self, stream_id: int, response: Response, wall_clock: float) -> None:
        """Server: answer the pending request."""
        self._act(lambda: self.state.respond(stream_id, response, wall_clock))
        self.flush_soon()

    def open_channel(self, opening: ChannelOpening, *, speculative: bool = False) -> Channel:
        """A channel of ours. What is written next leaves in the same flight as its header.

        ChannelRefused when the peer permits no more, ChannelClosed after the end.
        """
        try:
            stream_id = self.engine.open_stream()
        except NoStreamCredit:
            raise ChannelRefused(RefusalReason.RESOURCE_SHORTAGE, "too many channels") from None
        except StreamClosed as error:
            raise ChannelClosed(str(error)) from None
        state = self.state.open_channel(stream_id, opening, speculative=speculative)
        channel = self.channels[stream_id] = Channel(self, state)
        self.write(stream_id, state.open())
        return channel

    def raise_limits(self, limits: Limits) -> None:
        """After login."""
        self.engine.raise_limits(limits)
        self.flush_soon()

    # ------------------------------------------------------------------ what channels do

    def write(
        self,
        stream_id: int,
        buffers: Sequence[Buffer],
        *,
        fin: bool = False,
        promptly: bool = False,
    ) -> None:
        """Queue bytes on a channel's stream. After the end of either they go nowhere."""
        try:
            for buffer in buffers:
                self.engine.write(stream_id, buffer)
            if fin:
                self.engine.write(stream_id, b"", fin=True)
        except StreamClosed:
            return  # its STOP_SENDING or the connection's end is on its way to the channel
        if promptly:
            self._flush_promptly()
        else:
            self.flush_soon()

    def seek_larger_datagrams(self) -> None:
        """Somebody has use for them, and they are tried."""
        self.engine.seek_larger_datagrams()
        self.flush_soon()

    def take_datagrams(self, channel: Channel) -> list[bytes]:
        """Those that came ahead of their channel; later ones go to it."""
        self.seek_larger_datagrams()
        return self.state.take_datagrams(channel.state, self._loop.time())

    def send_datagram(self, datagram: bytes) -> bool:
        """False when it does not fit into a packet, or too many wait already."""
        sent = self.engine.send_datagram(datagram)
        self.flush_soon()
        return sent

    def consumed(self, stream_id: int, count: int) -> None:
        if count and self.engine.consumed(stream_id, count):
            self.flush_soon()

    def prefer(self, stream_id: int) -> None:
        self.engine.set_priority(stream_id, True)

    def is_crowded(self, stream_id: int) -> bool:
        """Whether as much is under way as the channel may have; its writer is woken when some of
        that has arrived.
        """
        buffered = self.engine.buffered(stream_id)
        if buffered < LEAST_SHARE or buffered < self._share(stream_id):
            return False
        self._crowded.add(stream_id)
        return True

    def _share(self, stream_id: int) -> int:
        """What the path takes, unless the peer's reader is slower than that."""
        share = CHANNEL_SHARE
        if self.engine.has_credit(stream_id):
            share = max(share, min(ROUNDS_KEPT * self.engine.congestion_window, WIDE_SHARE))
        return max(LEAST_SHARE, min(share, CONNECTION_SHARE // max(1, len(self.channels))))

    def _wake_writers(self) -> None:
        if not self._crowded:
            return
        for stream_id in [s for s in self._crowded if self._has_room(s)]:
            self._crowded.discard(stream_id)
            channel = self.channels.get(stream_id)
            if channel is not None:
                channel.wake_writer()

    def _has_room(self, stream_id: int) -> bool:
        low = self._share(stream_id) * WAKE_NUMERATOR // WAKE_DENOMINATOR
        return self.engine.buffered(stream_id) <= low

    def reset(self, stream_id: int, code: int) -> None:
        self.engine.reset(stream_id, code)
        self.flush_soon()

    def stop(self, stream_id: int, code: int) -> None:
        self.engine.stop(stream_id, code)
        self.flush_soon()

    def forget(self, channel: Channel) -> None:
        """Both directions of the channel have ended."""
        if self.channels.get(channel.stream_id) is channel:
            del self.channels[channel.stream_id]
            self.last_gone = self._loop.time()
            self.state.forget_channel(channel.stream_id)
            self._crowded.discard(channel.stream_id)

    # ------------------------------------------------------------------ what the engine tells

    def _handle(self, event: Event) -> None:
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def _on_send_ready(self, event: SendReady) -> None:
        """Our SETTINGS leave with the first flight; on a server, ahead of the client's Finished."""
        try:
            control = self.engine.open_stream(unidirectional=True)
        except NoStreamCredit:  # RFC 9114 6.2: there has to be room for three
            self._owner.fault("the peer permits no control stream")
            self.engine.close(Code.STREAM_CREATION_ERROR, "the peer permits no control stream")
            return
        self.engine.write(control, self.state.control_stream())
        self._owner.send_ready()

    def _on_handshake_completed(self, event: HandshakeCompleted) -> None:
        self._owner.handshake_completed()

    def _on_stream_data(self, event: StreamData) -> None:
        channel = self.channels.get(event.stream_id)
        if channel is not None:
            self._feed(channel, event.data, event.fin)
        elif event.stream_id in self.state.channels:
            self.engine.consumed(event.stream_id, len(event.data))
        else:
            now = self._loop.time()
            self._act(lambda: self.state.receive(event.stream_id, event.data, event.fin, now))

    def _feed(self, channel: Channel, data: Buffer, fin: bool) -> None:
        try:
            channel.receive(data, fin)
        except ProtocolError as error:
            self._owner.fault(f"{channel}: {error.reason}")
            channel.fault = error.reason
            channel.close(error.code)

    def _on_stream_reset(self, event: StreamReset) -> None:
        channel = self.channels.get(event.stream_id)
        if channel is not None:
            channel.peer_reset(event.code)
        else:
            self._act(lambda: self.state.stream_reset(event.stream_id, event.code))

    def _on_stream_stopped(self, event: StreamStopped) -> None:
        channel = self.channels.get(event.stream_id)
        if channel is not None:
            channel.peer_stopped(event.code)
        else:
            self._act(lambda: self.state.stream_stopped(event.stream_id, event.code))

    def _on_datagram(self, event: DatagramReceived) -> None:
        now = self._loop.time()
        self._act(lambda: self.state.receive_datagram(event.data, now))

    def _on_id_retired(self, event: ConnectionIdRetired) -> None:
        self._owner.name_retired(event.connection_id)

    def _on_newcomer(self, event: NewcomerArrived) -> None:
        self._owner.newcomer_arrived(event.datagram)

    def _on_path_changed(self, event: PathChanged) -> None:
        self._owner.path_changed(event.address)

    def _on_terminated(self, event: Terminated) -> None:
        self.ended = event
        for channel in list(self.channels.values()):
            channel.drop(event.reason or event.cause.value)
        self._owner.terminated(event)

    # ------------------------------------------------------------------ what the state wants

    def _act(self, ask: Callable[[], list[ConversationEvent]]) -> None:
        """Carry out what the rules say; a broken rule of the connection ends it."""
        try:
            for event in ask():
                _ACTIONS[type(event)](self, event)
        except ConnectionFault as fault:
            self._owner.fault(fault.reason)
            self.engine.close(fault.code, fault.reason)

    def _do_consume(self, event: Consumed) -> None:
        self.engine.consumed(event.stream_id, event.count)

    def _do_write(self, event: WriteStream) -> None:
        self.write(event.stream_id, [event.data], fin=event.fin)

    def _do_reset(self, event: ResetStream) -> None:
        if self.state.conversation_id is not None:
            self._owner.fault(f"stream {event.stream_id} is refused ({event.code:#x})")
        self.engine.reset(event.stream_id, event.code)

    def _do_stop(self, event: StopStream) -> None:
        self.engine.stop(event.stream_id, event.code)

    def _do_settings(self, event: SettingsReceived) -> None:
        self._owner.settings_received()

    def _do_request(self, event: RequestReceived) -> None:
        self._owner.request_received(event.stream_id, event.request)

    def _do_response(self, event: ResponseReceived) -> None:
        self._owner.response_received(event.stream_id, event.response)

    def _do_fail_request(self, event: RequestFailed) -> None:
        self._owner.response_received(event.stream_id, None)

    def _do_channel(self, event: ChannelArrived) -> None:
        channel = Channel(self, event.channel)
        self.channels[channel.stream_id] = channel
        self._owner.channel_arrived(channel)
        if event.rest or event.fin:
            self._feed(channel, event.rest, event.fin)

    def _do_void(self, event: ChannelVoided) -> None:
        channel = self.channels.get(event.stream_id)
        if channel is not None:
            channel.drop("the login was refused")

    def _do_end(self, event: ConversationEnded) -> None:
        self._owner.conversation_ended()

    def _do_datagram(self, event: DatagramArrived) -> None:
        channel = self.channels.get(event.channel_id)
        if channel is not None:
            channel.datagram_arrived(event.payload)

    # ------------------------------------------------------------------ a peer that may be gone

    def _unreachable(self, error: OSError) -> None:
        """ICMP says that nobody is there. Forged or outdated, perhaps: the peer's silence has to
        confirm it.
        """
        if self._probe is None and self.ended is None:
            self._probes_left = PROBES
            self._send_probe(self.engine.last_received)

    def _send_probe(self, last_received: float) -> None:
        self._probe = None
        if self.engine.last_received != last_received or self.ended is not None:
            return
        if self._probes_left == 0:
            self.engine.close(Code.NO_ERROR, os.strerror(errno.ECONNRESET))
            self._turn()
            return
        self._probes_left -= 1
        self.engine.ping()
        self._probe = self._loop.call_later(PROBE_INTERVAL, self._send_probe, last_received)
        self.flush_soon()


_HANDLERS: dict[type[Event], Callable[[Conversation, Any], None]] = {
    SendReady: Conversation._on_send_ready,
    HandshakeCompleted: Conversation._on_handshake_completed,
    StreamData: Conversation._on_stream_data,
    StreamReset: Conversation._on_stream_reset,
    StreamStopped: Conversation._on_stream_stopped,
    DatagramReceived: Conversation._on_datagram,
    ConnectionIdRetired: Conversation._on_id_retired,
    NewcomerArrived: Conversation._on_newcomer,
    PathChanged: Conversation._on_path_changed,
    Terminated: Conversation._on_terminated,
}

_ACTIONS: dict[type[ConversationEvent], Callable[[Conversation, Any], None]] = {
    Consumed: Conversation._do_consume,
    WriteStream: Conversation._do_write,
    ResetStream: Conversation._do_reset,
    StopStream: Conversation._do_stop,
    SettingsReceived: Conversation._do_settings,
    RequestReceived: Conversation._do_request,
    ResponseReceived: Conversation._do_response,
    RequestFailed: Conversation._do_fail_request,
    ChannelArrived: Conversation._do_channel,
    ChannelVoided: Conversation._do_void,
    ConversationEnded: Conversation._do_end,
    DatagramArrived: Conversation._do_datagram,
}
