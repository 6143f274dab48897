"""A channel as an async object: its data to read and write with back-pressure, its requests, its
end.

The rules are ChannelState's; what travels is the engine's. What arrives is sorted at once: data,
stderr data and requests each wait in a line of their own, so that a window-change overtakes input
that nobody reads. The lines are bounded by flow control, because a byte counts as consumed only
when its reader comes back for more.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sshoq.protocol.channel import (
    Buffer,
    Chaff,
    ChannelEvent,
    ChannelState,
    Confirmed,
    Data,
    Eof,
    ExtendedData,
    Finished,
    Refused,
    Replied,
    Requested,
)
from sshoq.protocol.extensions import Extension
from sshoq.protocol.messages import STDERR, ChannelRequest
from sshoq.protocol.outcome import Code, ProtocolError

if TYPE_CHECKING:
    from sshoq.transport.conversation import Conversation

MAX_WAITING_REQUESTS = 256
"""Requests not yet acted upon. Each takes milliseconds at most; a peer that outruns that is
hostile.
"""

LEAST_CHAFF = 4
"""The size of a message with one typed character, or its echo."""

SMALL = 4096
"""Pieces of data up to this size are joined while they wait, or passed on where they arrive."""

MOST_PROMPT = 1024
"""Bytes that somebody may be waiting for: they leave at once when they are all there is."""

Take = Callable[[Buffer], Buffer]
"""Takes what there is room for, and returns the rest."""

_Item = TypeVar("_Item")


class SinkClosed(Exception):
    """The reader of a sink has gone away: a stopped channel, a broken pipe."""


class ChannelClosed(Exception):
    """The channel, or the whole conversation, is over; the text says why."""


class ChannelRefused(Exception):
    """The peer did not accept the channel."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


class Line(Generic[_Item]):
    """What waits for one reader, and whether more will come."""

    __slots__ = ("_ended", "_items", "_waiter")

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: _Item) -> None:
        self._items.append(item)
        self._wake()

    def end(self) -> None:
        """What waits is still handed out; then None."""
        self._ended = True
        self._wake()

    def last(self) -> _Item | None:
        return self._items[-1] if self._items else None

    def replace_last(self, item: _Item) -> None:
        self._items[-1] = item

    def is_awaited(self) -> bool:
        """Whether the next item goes to a reader who is waiting already."""
        return self._waiter is not None and not self._waiter.done()

    def fail(self, failure: Exception) -> None:
        """Raise it where the reader waits."""
        if self._waiter is not None:
            self._waiter.set_exception(failure)

    async def next(self) -> _Item | None:
        while not self._items:
            if self._ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._items.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Channel:
    """One channel of a conversation. Made by the conversation only."""

    def __init__(self, conversation: "Conversation", state: ChannelState) -> None:
        self.state = state
        self.watcher: Callable[[ChannelEvent], bool] | None = None
        """Sees every event first, in order: False, and it goes no further. ProtocolError from it
        ends the channel."""
        self.reset_code: int | None = None
        """With which the peer gave up its side, which is not the same as ending it."""
        self.kind = ""
        """What has become of it, as ChannelTimeout names that; else its type says it."""
        self.fault = ""
        """The rule that the peer broke here, for which the channel was closed."""
        self._conversation = conversation
        self._data: Line[Buffer] = Line()
        self._extended: Line[Buffer] = Line()
        self._requests: Line[Requested] = Line()
        self._datagram_receiver: Callable[[bytes], None] | None = None
        self._lent = 0
        self._extended_lent = 0
        self._take: Take | None = None
        self._take_extended: Take | None = None
        self._kept = 0
        self._loop = asyncio.get_running_loop()
        self.last_used = self._loop.time()
        """When data last moved, either way."""
        self._opened: asyncio.Future[int] = self._loop.create_future()
        self._replies: deque[asyncio.Future[bool]] = deque()
        self._drain: asyncio.Future[None] | None = None
        self._receiving = True
        self._sending = True
        self.closed: asyncio.Future[str] = self._loop.create_future()
        """Done when both directions have ended; the text says why, "" when in good order."""

    @property
    def stream_id(self) -> int:
        return self.state.stream_id

    def __repr__(self) -> str:
        return f"<channel {self.stream_id} {self.state.opening.type_name}>"

    # ------------------------------------------------------------------ opening

    async def opened(self) -> None:
        """Until the peer accepts the channel that we opened. ChannelRefused, ChannelClosed."""
        await asyncio.shield(self._opened)

    def close_if_refused(self) -> None:
        """Wait for no more of a peer that does not accept the channel."""

        def look(opened: asyncio.Future[int]) -> None:
            if opened.exception() is not None:
                self.close()

        self._opened.add_done_callback(look)

    def confirm(self) -> None:
        self._send(self.state.confirm())

    def refuse(self, reason: int, text: str) -> None:
        """Say no, and that is the end of it."""
        buffers = self.state.refuse(reason, text)
        self._send([*buffers, *self.state.finish()], fin=True)
        self._end_sending()
        self.stop_reading(Code.NO_ERROR)

    def prefer(self) -> None:
        """A person waits for its data: they go before those of other channels."""
        self._conversation.prefer(self.stream_id)

    # ------------------------------------------------------------------ reading

    async def read(self, take: Take | None = None) -> Buffer:
        """The next data, empty at their end. What the previous call gave counts as consumed.
        `take` as a Source's."""
        self._repay()
        self._take = take
        piece = await self._data.next()
        if piece is None:
            return b""
        self._lent = len(piece)
        return piece

    async def read_extended(self, take: Take | None = None) -> Buffer:
        """The same of stderr."""
        self._repay_extended()
        self._take_extended = take
        piece = await self._extended.next()
        if piece is None:
            return b""
        self._extended_lent = len(piece)
        return piece

    async def next_request(self) -> Requested | None:
        """The next request of the peer; None when no more can come."""
        return await self._requests.next()

    def end_requests(self) -> None:
        """Ours to say: no request matters any more. Whoever waits for one is told."""
        self._requests.end()

    @property
    def was_reset(self) -> bool:
        return self.reset_code is not None

    def is_usable(self) -> bool:
        """Whether something can still be sent to a peer that wants it."""
        return self._sending and not self.was_reset

    def _repay(self) -> None:
        lent, self._lent = self._lent, 0
        self._conversation.consumed(self.stream_id, lent)

    def _repay_extended(self) -> None:
        lent, self._extended_lent = self._extended_lent, 0
        self._conversation.consumed(self.stream_id, lent)

    # ------------------------------------------------------------------ writing

    async def write(self, data: Buffer) -> None:
        """Send data; waits while more than the channel's share is under way. SinkClosed."""
        self.last_used = self._loop.time()
        self._send(self.state.data(data))
        await self._drained()

    def take(self, data: Buffer) -> Buffer:
        """Send data, all or nothing, from a callback of the event loop. SinkClosed."""
        if self._sending and self.is_crowded():
            return data
        self.last_used = self._loop.time()
        self._send(self.state.data(data), promptly=len(data) <= MOST_PROMPT)
        return b""

    def write_now(self, data: Buffer) -> None:
        """Send a few bytes, without waiting for room. SinkClosed."""
        self._send(self.state.data(data))

    def send_chaff(self, size: int, *, want_answer: bool) -> None:
        """Nothing, in so many bytes, for who watches the line. SinkClosed."""
        self._send(self.state.chaff(size, want_answer=want_answer))

    async def write_extended(self, data: Buffer) -> None:
        """Send stderr data, in the same way."""
        self.last_used = self._loop.time()
        self._send(self.state.extended(STDERR, data))
        await self._drained()

    def write_eof(self) -> None:
        """A session's message 96. SinkClosed."""
        self._send(self.state.eof())

    def finish(self) -> None:
        """End our side of the stream; what was written still arrives. Safe after the end."""
        if self._sending:
            self._send(self.state.finish(), fin=True)
            self._end_sending()

    def request(self, request: ChannelRequest) -> None:
        """Ask without wanting an answer. SinkClosed."""
        self._send(self.state.request(request))

    def ask(self, request: ChannelRequest) -> "asyncio.Future[bool]":
        """Ask; the future tells whether the peer granted it. Peers that cannot answer count as
        granting.
        """
        self._send(self.state.request(request, want_reply=True))
        answer: asyncio.Future[bool] = self._loop.create_future()
        if self.state.traits.supports(Extension.REPLY):
            self._replies.append(answer)
        else:
            answer.set_result(True)
        return answer

    def reply(self, success: bool) -> None:
        """Answer the oldest request that wants it. Nothing where the peer knows no answers."""
        self._send(self.state.reply(success))

    def _send(self, buffers: list[Buffer], *, fin: bool = False, promptly: bool = False) -> None:
        if not self._sending:
            raise SinkClosed("the channel has ended")
        self._conversation.write(self.stream_id, buffers, fin=fin, promptly=promptly)

    async def _drained(self) -> None:
        while self._sending and self.is_crowded():
            self._drain = self._loop.create_future()
            try:
                await self._drain
            finally:
                self._drain = None
        if not self._sending:
            raise SinkClosed("the peer takes no more")

    def is_crowded(self) -> bool:
        """Whether so much is under way that `write` would wait."""
        return self._conversation.is_crowded(self.stream_id)

    def wake_writer(self) -> None:
        """The conversation: what was under way has arrived."""
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    # ------------------------------------------------------------------ datagrams

    def take_datagrams(self, receiver: Callable[[bytes], None]) -> None:
        """Hand every datagram of the channel to `receiver`, those first that came early."""
        self._datagram_receiver = receiver
        for payload in self._conversation.take_datagrams(self):
            receiver(payload)

    def datagram_arrived(self, payload: bytes) -> None:
        """The conversation: one that found the channel registered."""
        if self._datagram_receiver is not None:
            self._datagram_receiver(payload)

    def send_datagram(self, payload: Buffer) -> bool:
        """False: dropped, for there is no room, it is too long, or the channel has ended."""
        if not self._sending:
            return False
        return self._conversation.send_datagram(self.state.datagram(payload))

    # ------------------------------------------------------------------ the end

    def close(self, code: int = Code.REQUEST_CANCELLED) -> None:
        """Give up both directions at once. Safe after the end."""
        if self._receiving:
            self._conversation.stop(self.stream_id, code)
        if self._sending:
            self._conversation.reset(self.stream_id, code)
        self.drop("closed here")

    def stop_reading(self, code: int) -> None:
        """Nobody will read: tell the peer to stop sending data. Requests are lost with it."""
        if self._receiving:
            self._conversation.stop(self.stream_id, code)
            self._end_receiving()

    def drop(self, why: str) -> None:
        """The conversation is over, or the channel was ended above: nothing more is said."""
        self._end_sending(why)
        self._end_receiving(why)

    def _end_sending(self, why: str = "") -> None:
        self._sending = False
        self.wake_writer()
        self._note_end(why)

    def _end_receiving(self, why: str = "") -> None:
        self._receiving = False
        for line in (self._data, self._extended, self._requests):
            line.end()
        failure = ChannelClosed(why or "the peer has closed the channel")
        _fail(self._opened, failure)
        for reply in self._replies:
            _fail(reply, failure)
        self._replies.clear()
        self._note_end(why)

    def _note_end(self, why: str) -> None:
        if not self._sending and not self._receiving and not self.closed.done():
            self.closed.set_result(why)
            self._conversation.forget(self)

    # ------------------------------------------------------------------ what the peer does

    def receive(self, data: Buffer, fin: bool) -> None:
        """Bytes of the stream, and its end. ProtocolError ends the channel, and is the caller's."""
        if not self._receiving:
            return
        events = self.state.receive(data, fin)
        self.last_used = self._loop.time()
        self._kept = 0
        for event in events:
            if self.watcher is None or self.watcher(event):
                _SORT[type(event)](self, event)
        # What waits for nobody has been acted upon.
        self._conversation.consumed(self.stream_id, len(data) - self._kept)

    def peer_reset(self, code: int) -> None:
        """RESET_STREAM: nothing more comes, and what waits may still be read."""
        if self._receiving:
            self.reset_code = code
            self._end_receiving(f"reset by the peer ({code:#x})")

    def peer_stopped(self, code: int) -> None:
        """STOP_SENDING: nobody reads what we write."""
        self._end_sending(f"stopped by the peer ({code:#x})")

    def _sort_data(self, event: Data) -> None:
        payload = _pass_on(event.payload, self._data, self._take)
        if not payload:
            return
        self._kept += len(payload)
        last = self._data.last()
        if last is not None and len(last) + len(payload) <= SMALL:
            # Keystrokes that nobody reads must not cost a hundred bytes each.
            self._data.replace_last(bytes(last) + payload)
        else:
            self._data.put(payload)

    def _sort_extended(self, event: ExtendedData) -> None:
        if event.kind != STDERR:
            return  # RFC 4254 5.2 knows one kind; the Go programs drop others, too
        payload = _pass_on(event.payload, self._extended, self._take_extended)
        if payload:
            self._kept += len(payload)
            self._extended.put(payload)

    def _sort_request(self, event: Requested) -> None:
        if len(self._requests) >= MAX_WAITING_REQUESTS:
            raise ProtocolError("too many requests wait")
        self._requests.put(event)

    def _sort_confirmed(self, event: Confirmed) -> None:
        if not self._opened.done():
            self._opened.set_result(event.max_message)

    def _sort_refused(self, event: Refused) -> None:
        _fail(self._opened, ChannelRefused(event.reason, event.text))
        self._end_sending("refused by the peer")

    def _sort_reply(self, event: Replied) -> None:
        answer = self._replies.popleft()
        if not answer.done():
            answer.set_result(event.success)

    def _sort_chaff(self, event: Chaff) -> None:
        """Answered like a key by its echo; not to a client that does not take its answers."""
        if (
            event.want_answer
            and not self.state.is_client
            and self._sending
            and not self.is_crowded()
        ):
            self._send(self.state.chaff(LEAST_CHAFF, want_answer=False))

    def _sort_eof(self, event: Eof) -> None:
        self._data.end()
        self._extended.end()

    def _sort_finished(self, event: Finished) -> None:
        self._end_receiving()


_SORT: dict[type[ChannelEvent], Callable[[Channel, ChannelEvent], None]] = {
    Data: Channel._sort_data,  # type: ignore[dict-item]  # each takes just the event it is filed under
    ExtendedData: Channel._sort_extended,  # type: ignore[dict-item]
    Requested: Channel._sort_request,  # type: ignore[dict-item]
    Confirmed: Channel._sort_confirmed,  # type: ignore[dict-item]
    Refused: Channel._sort_refused,  # type: ignore[dict-item]
    Replied: Channel._sort_reply,  # type: ignore[dict-item]
    Chaff: Channel._sort_chaff,  # type: ignore[dict-item]
    Eof: Channel._sort_eof,  # type: ignore[dict-item]
    Finished: Channel._sort_finished,  # type: ignore[dict-item]
}


def _pass_on(payload: Buffer, line: Line[Buffer], take: Take | None) -> Buffer:
    """What of it has to wait in line: a reader who waits there already may have it taken at once.
    """
    if take is None or len(payload) > SMALL or not line.is_awaited():
        return payload
    try:
        return take(payload)
    except (SinkClosed, OSError) as failure:
        line.fail(failure)
        return b""


def _fail(waiting: "asyncio.Future[Any]", failure: Exception) -> None:
    """Tell whoever waits, if anybody does: a failure that nobody fetches is not to be reported."""
    if not waiting.done():
        waiting.set_exception(failure)
        waiting.exception()


class DataSink:
    """A channel's data as a sink for the pump. `eof`: how this type of channel says that no more
    comes.
    """

    def __init__(self, channel: Channel, eof: Callable[[], None]) -> None:
        self._channel = channel
        self._eof = eof
        self.take = channel.take

    async def write(self, data: bytes | memoryview) -> None:
        await self._channel.write(data)

    async def write_eof(self) -> None:
        self._eof()


class ExtendedSink:
    """A channel's stderr data as a sink. Its end is the channel's."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def take(self, data: bytes | memoryview) -> bytes | memoryview:
        return data  # it comes rarely

    async def write(self, data: bytes | memoryview) -> None:
        await self._channel.write_extended(data)

    async def write_eof(self) -> None:
        pass


class ExtendedSource:
    """A channel's stderr data as a source."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def read(self, take: Take | None = None) -> Buffer:
        return await self._channel.read_extended(take)
