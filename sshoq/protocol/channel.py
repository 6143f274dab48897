"""One channel: what arrives on its stream as events, what is sent on it as bytes to write.

Payload is passed on in the pieces in which it arrives and is never gathered; whatever else is
gathered has a bound that is checked before the bytes are waited for. Towards Go peers the guard
rails hold by construction: what would kill or confuse one cannot be sent (`IllegalSend`, our bug).
What a session's messages mean is in `session.py`.
"""

from enum import Enum, auto

from sshoq.protocol.extensions import Extension
from sshoq.protocol.messages import (
    CHAFF,
    CONFIRMATION,
    DATA,
    EOF,
    EXTENDED_DATA,
    FAILURE,
    FAILURE_TO_OPEN,
    REQUEST,
    SUCCESS,
    AgentConnection,
    BoundedReader,
    ChaffMessage,
    ChannelHeader,
    ChannelRequest,
    Confirmation,
    ExitSignal,
    ExitStatus,
    GiveProof,
    Listening,
    OfferKeys,
    PtyReq,
    Refusal,
    Session,
    WindowChange,
    encode_request,
    read_request,
)
from sshoq.protocol.outcome import Event, ProtocolError
from sshoq.protocol.version import PeerTraits
from sshoq.wire import Incomplete, WireError, varint

MAX_MESSAGE = 128 * 1024
"""The largest message we announce and send: Go peers allocate what is announced."""
GO_MAX_MESSAGE = 64 * 1024
"""What we announce to Go peers: tried, and twice their own."""
DEFAULT_MAX_MESSAGE = 30000
"""What everybody takes, for as long as the peer has not said."""
LEAST_MAX_MESSAGE = 1024
"""A peer that announces less gets messages of this size all the same."""
MAX_INCOMING = 1 << 20
"""Go peers go a little over what was announced; a longer message is a mistake or an attack."""
MAX_CONTROL = 8192
"""The longest refusal, its text included."""
MAX_CHAFF = 64
"""The longest filler: chaff is to look like a keystroke."""
MOST_ONE_BYTE = 0x40
"""Shorter payloads say their length in one byte."""
JOIN = 1024
"""Up to this size one buffer is cheaper than two."""

Buffer = bytes | memoryview

_NEEDS = {
    EOF: Extension.EOF, SUCCESS: Extension.REPLY, FAILURE: Extension.REPLY, CHAFF: Extension.CHAFF,
}
_FROM_SERVER = (ExitStatus, ExitSignal, GiveProof, Listening, OfferKeys)
_DATA_PREFIX = varint(DATA)
_EXTENDED_PREFIX = varint(EXTENDED_DATA)


class IllegalSend(RuntimeError):
    """We were about to say what this peer must not be told, or out of turn: our bug."""


# --------------------------------------------------------------------------- events


class ChannelEvent(Event):
    """What the peer did on the channel."""


class Confirmed(ChannelEvent):
    """The peer accepted the channel we opened, and takes messages of that size."""

    max_message: int


class Refused(ChannelEvent):
    """The peer refused the channel we opened; only the end of the stream follows."""

    reason: int
    text: str


class Data(ChannelEvent):
    """A piece of the channel's data."""

    payload: Buffer

    def __init__(self, payload: Buffer) -> None:
        # The others may take their time; this one comes by the thousand.
        self.__dict__["payload"] = payload


class ExtendedData(ChannelEvent):
    """A piece of data of another kind; `kind` 1 is stderr."""

    kind: int
    payload: Buffer


class Requested(ChannelEvent):
    request: ChannelRequest
    want_reply: bool


class Replied(ChannelEvent):
    """The answer to the oldest of our requests that wanted one."""

    request: ChannelRequest
    success: bool


class Chaff(ChannelEvent):
    """Nothing was said; whether the like of it is wanted in return."""

    want_answer: bool


class Eof(ChannelEvent):
    """No more data from the peer; requests and replies may follow."""


class Finished(ChannelEvent):
    """The peer's side of the stream is at its end."""


# --------------------------------------------------------------------------- state


class _Incoming(Enum):
    """How far the peer's side is."""

    ANSWER = auto()
    """We opened; a confirmation or a refusal must come first."""
    OPEN = auto()
    AFTER_EOF = auto()
    REFUSED = auto()
    IGNORED = auto()
    FINISHED = auto()


class _Outgoing(Enum):
    """How far our side is."""

    UNSAID = auto()
    """Neither opened nor answered."""
    OPEN = auto()
    AFTER_EOF = auto()
    REFUSED = auto()
    FINISHED = auto()


class ChannelState:
    """Both directions of one channel. Its header is read already when `receive` begins."""

    def __init__(self, stream_id: int, header: ChannelHeader, traits: PeerTraits, *,
                 is_client: bool, opened_here: bool) -> None:
        self.stream_id = stream_id
        self.header = header
        self.opening = header.opening
        self.traits = traits
        self.is_client = is_client
        self.opened_here = opened_here
        self.confirmed = False
        """Whether the channel was accepted, by whoever was asked."""
        self.refused = False
        self._peer_max: int | None = None if opened_here else header.max_message
        self._incoming = _Incoming.ANSWER if opened_here else _Incoming.OPEN
        if not opened_here and self.opening.ignores_rest:
            self._incoming = _Incoming.IGNORED
        self._outgoing = _Outgoing.UNSAID
        self._partial = bytearray()
        self._payload_left = 0
        self._payload_kind: int | None = None
        self._unanswered: list[ChannelRequest] = []
        self._answers_owed = 0
        self._pty_requested = False
        self._last_field_is_short = False

    # ----------------------------------------------------------------- receiving

    def receive(self, data: Buffer, fin: bool = False) -> list[ChannelEvent]:
        """What these bytes, and the end of the stream, bring. ProtocolError ends the channel."""
        if self._incoming is _Incoming.FINISHED:
            raise ProtocolError("bytes after the end of the stream")
        events: list[ChannelEvent] = []
        if self._incoming is not _Incoming.IGNORED:
            self._receive_bytes(memoryview(data), events)
        if fin:
            self._receive_fin(events)
        return events

    def _receive_bytes(self, view: memoryview, events: list[ChannelEvent]) -> None:
        position, end = 0, len(view)
        while position < end:
            if self._payload_left:
                piece = view[position:position + self._payload_left]
                position += len(piece)
                self._payload_left -= len(piece)
                events.append(self._payload_event(piece))
            elif self._partial:
                position = self._continue_message(view, position, events)
            else:
                position = self._start_message(view, position, events)

    def _payload_event(self, piece: memoryview) -> ChannelEvent:
        if self._payload_kind is None:
            return Data(piece)
        return ExtendedData(self._payload_kind, piece)

    def _start_message(self, view: memoryview, position: int, events: list[ChannelEvent]) -> int:
        payload_at = self._start_data(view, position)
        if payload_at:
            return payload_at
        reader = BoundedReader(view, 0, position)
        if not self._read_message(reader, events):
            self._partial += view[position:]
            return len(view)
        return reader.position

    def _start_data(self, view: memoryview, position: int) -> int:
        """Most messages are data, and most of those are short: where the payload of such a one
        begins. 0: it is none, or it is cut; then it is read like any other."""
        size_at = position + len(_DATA_PREFIX)
        if (
            self._incoming is not _Incoming.OPEN
            or size_at >= len(view)
            or view[position:size_at] != _DATA_PREFIX
            or view[size_at] >= MOST_ONE_BYTE
            or DATA not in self.opening.accepts
        ):
            return 0
        self._payload_kind = None
        self._payload_left = view[size_at]
        return size_at + 1

    def _continue_message(self, view: memoryview, position: int, events: list[ChannelEvent]) -> int:
        """Add to a message that was cut, in doubling steps: small pieces must not cost more."""
        had = len(self._partial)
        self._partial += view[position:position + max(had, 32)]
        reader = BoundedReader(self._partial, 0)
        if not self._read_message(reader, events):
            return position + len(self._partial) - had
        self._partial = bytearray()
        return position + reader.position - had

    def _read_message(self, reader: BoundedReader, events: list[ChannelEvent]) -> bool:
        """Read one message, or what is in front of a data message's payload; False if it is cut."""
        try:
            reader.bound = reader.position + 8
            number = reader.varint()
            self._check_permitted(number)
            event = _READERS[number](self, reader)
        except Incomplete:
            return False
        except WireError as error:
            raise ProtocolError(str(error)) from None
        if event is not None:
            events.append(event)
        return True

    def _check_permitted(self, number: int) -> None:
        if self._incoming is _Incoming.ANSWER:
            permitted = number in (CONFIRMATION, FAILURE_TO_OPEN)
        elif self._incoming is _Incoming.OPEN:
            permitted = number in self.opening.accepts
        elif self._incoming is _Incoming.AFTER_EOF:
            permitted = number in self.opening.accepts - {DATA, EXTENDED_DATA, EOF}
        else:
            permitted = False
        if not permitted or not self._is_known(number):
            raise ProtocolError(f"message {number} on a channel {self.opening.type_name} that is "
                                f"{self._incoming.name.lower()}")

    def _read_confirmation(self, reader: BoundedReader) -> ChannelEvent:
        reader.bound = reader.position + 8
        self._peer_max = Confirmation.read(reader).max_message
        self._incoming = _Incoming.OPEN
        self.confirmed = True
        return Confirmed(self._peer_max)

    def _read_refusal(self, reader: BoundedReader) -> ChannelEvent:
        reader.bound = reader.position + MAX_CONTROL
        refusal = Refusal.read(reader)
        self._incoming = _Incoming.REFUSED
        self.refused = True
        return Refused(refusal.reason, refusal.text)

    def _read_data(self, reader: BoundedReader) -> ChannelEvent | None:
        return self._begin_payload(None, reader)

    def _read_extended_data(self, reader: BoundedReader) -> ChannelEvent | None:
        reader.bound = reader.position + 8
        return self._begin_payload(reader.varint(), reader)

    def _begin_payload(self, kind: int | None, reader: BoundedReader) -> ChannelEvent | None:
        reader.bound = reader.position + 8
        size = reader.varint()
        if size > MAX_INCOMING:
            raise ProtocolError(f"a message of {size} bytes")
        self._payload_kind = kind
        self._payload_left = size
        return None

    def _read_eof(self, reader: BoundedReader) -> ChannelEvent:
        self._incoming = _Incoming.AFTER_EOF
        return Eof()

    def _read_request(self, reader: BoundedReader) -> ChannelEvent:
        request, want_reply = read_request(reader)
        self._answers_owed += want_reply
        return Requested(request, want_reply)

    def _read_success(self, reader: BoundedReader) -> ChannelEvent:
        return self._match_answer(True)

    def _read_failure(self, reader: BoundedReader) -> ChannelEvent:
        return self._match_answer(False)

    def _match_answer(self, success: bool) -> ChannelEvent:
        if not self._unanswered:
            raise ProtocolError("an answer to no request")
        return Replied(self._unanswered.pop(0), success)

    def _read_chaff(self, reader: BoundedReader) -> ChannelEvent:
        reader.bound = reader.position + MAX_CHAFF + 3
        return Chaff(ChaffMessage.read(reader).want_answer)

    def _receive_fin(self, events: list[ChannelEvent]) -> None:
        if self._partial or self._payload_left:
            raise ProtocolError("the stream ends inside a message")
        if self._incoming is _Incoming.ANSWER:
            raise ProtocolError("the stream ends before the channel is accepted or refused")
        self._incoming = _Incoming.FINISHED
        events.append(Finished())

    # ----------------------------------------------------------------- sending

    @property
    def payload_limit(self) -> int:
        """The most payload of one data message, so a good size to read from what is to be sent."""
        most = self._peer_max
        if most is None:
            most = DEFAULT_MAX_MESSAGE if self.traits.is_go else MAX_MESSAGE
        return min(max(most, LEAST_MAX_MESSAGE), MAX_MESSAGE) - 3

    def open(self) -> list[Buffer]:
        """The header. Write it together with what follows: Go servers read an address at once."""
        if not self.opened_here or self._outgoing is not _Outgoing.UNSAID:
            raise IllegalSend("the channel is open already")
        if self.opening.fork_only and not self.traits.knows_fork_channels:
            raise IllegalSend(f"{self.opening.type_name} kills this server")
        if not self.traits.supports(self.opening.needs):
            raise IllegalSend(f"the peer did not announce {self.opening.type_name}")
        self._check_announcement(self.header.max_message)
        self._outgoing = _Outgoing.OPEN
        self._last_field_is_short = not self.opening.ignores_rest
        return [self.header.encode()]

    def confirm(self, max_message: int | None = None) -> list[Buffer]:
        self._check_unanswered()
        most = announced_maximum(self.traits) if max_message is None else max_message
        self._check_announcement(most)
        self._outgoing = _Outgoing.OPEN
        self.confirmed = True
        self._last_field_is_short = True
        return [varint(CONFIRMATION) + Confirmation(most).encode()]

    def refuse(self, reason: int, text: str) -> list[Buffer]:
        """Write it with the end of the stream; what the peer still sends means nothing any more."""
        self._check_unanswered()
        self._check_agent_connection()
        self.refused = True
        self._outgoing = _Outgoing.REFUSED
        self._incoming = _Incoming.IGNORED
        return [varint(FAILURE_TO_OPEN) + Refusal(reason, text).encode()]

    def data(self, payload: Buffer) -> list[Buffer]:
        self._check_open(DATA)
        return self._cut(_DATA_PREFIX, payload, self.payload_limit)

    def extended(self, kind: int, payload: Buffer) -> list[Buffer]:
        self._check_open(EXTENDED_DATA)
        if self.is_client:
            raise IllegalSend("extended data goes to the client only")
        return self._cut(_EXTENDED_PREFIX + varint(kind), payload, self.payload_limit - 1)

    def _cut(self, prefix: bytes, payload: Buffer, limit: int) -> list[Buffer]:
        size = len(payload)
        if size:
            self._last_field_is_short = False
        if 0 < size <= min(limit, JOIN):
            return [b"".join((prefix, varint(size), payload))]
        view = memoryview(payload)
        buffers: list[Buffer] = []
        for start in range(0, size, limit):
            piece = view[start:start + limit]
            buffers += (prefix + varint(len(piece)), piece)
        return buffers

    def request(self, request: ChannelRequest, want_reply: bool = False) -> list[Buffer]:
        """Ask. Go peers are told the wish for a reply, too, but nobody waits for theirs."""
        self._check_open(REQUEST)
        self._check_request(request)
        if want_reply and self.traits.supports(Extension.REPLY):
            self._unanswered.append(request)
        self._pty_requested |= isinstance(request, PtyReq)
        self._last_field_is_short = not isinstance(request, ExitSignal)
        return [encode_request(request, want_reply)]

    def _check_request(self, request: ChannelRequest) -> None:
        if not self.traits.supports(request.needs):
            raise IllegalSend(f"the peer did not announce {request.name_on_wire}")
        if isinstance(request, _FROM_SERVER) is self.is_client:
            raise IllegalSend(f"{request.name_on_wire} goes the other way")
        if isinstance(request, WindowChange) and not (
                self._pty_requested and self.traits.knows_fork_channels):
            raise IllegalSend("window-change without a terminal kills a Go server")

    def reply(self, success: bool) -> list[Buffer]:
        """The answer to the oldest request that wants one; nothing for peers without replies."""
        if not self._answers_owed:
            raise IllegalSend("no request wants a reply")
        self._answers_owed -= 1
        if not self.traits.supports(Extension.REPLY):
            return []
        self._check_open(SUCCESS)
        return [varint(SUCCESS if success else FAILURE)]

    def eof(self) -> list[Buffer]:
        """No more data from us on a session. Elsewhere `finish` says the same."""
        self._check_open(EOF)
        self._outgoing = _Outgoing.AFTER_EOF
        return [varint(EOF)]

    def chaff(self, size: int, *, want_answer: bool) -> list[Buffer]:
        """Nothing, of that many bytes in all; at least four, since it has to say so."""
        self._check_open(CHAFF)
        if size > MAX_CHAFF:
            raise IllegalSend("so much chaff is no keystroke")
        filler = bytes(max(0, size - 4))
        return [varint(CHAFF) + ChaffMessage(want_answer, filler).encode()]

    def finish(self) -> list[Buffer]:
        """What has to be written together with the end of our side of the stream; often nothing."""
        if self._outgoing is _Outgoing.FINISHED:
            raise IllegalSend("the stream has ended")
        if not self.refused:
            self._check_agent_connection()
            self._check_session_end()
        padding = self._padding()
        self._outgoing = _Outgoing.FINISHED
        return padding

    def _padding(self) -> list[Buffer]:
        """Go peers lose a short last field that comes together with the end of the stream."""
        needed = (self._last_field_is_short and self.traits.is_go and not self.refused
                  and self._outgoing is _Outgoing.OPEN and DATA in self.opening.accepts)
        return [_DATA_PREFIX + b"\0"] if needed else []

    def datagram(self, payload: Buffer) -> bytes:
        """The QUIC datagram that carries `payload`."""
        if not self.opening.datagrams or self._outgoing is _Outgoing.FINISHED:
            raise IllegalSend("no datagrams on this channel")
        if self.opened_here and not self.is_client and not self.confirmed:
            raise IllegalSend("a datagram ahead of the confirmation ends a Go client's datagrams")
        return varint(self.header.conversation_id) + varint(self.stream_id) + bytes(payload)

    # ----------------------------------------------------------------- checks

    def _check_unanswered(self) -> None:
        if self.opened_here or self._outgoing is not _Outgoing.UNSAID:
            raise IllegalSend("nothing to answer")

    def _check_open(self, number: int) -> None:
        if self._outgoing is _Outgoing.AFTER_EOF:
            legal = number not in (DATA, EXTENDED_DATA, EOF)
        else:
            legal = self._outgoing is _Outgoing.OPEN
        if not legal or number not in self.opening.accepts:
            raise IllegalSend(f"message {number} on a channel {self.opening.type_name} that is "
                              f"{self._outgoing.name.lower()}")
        if not self._is_known(number):
            raise IllegalSend(f"message {number} kills a Go peer")

    def _is_known(self, number: int) -> bool:
        """Whether the peer announced what it takes to know that message."""
        needed = _NEEDS.get(number)
        return needed is None or self.traits.supports(needed)

    def _check_announcement(self, most: int) -> None:
        if not 4096 <= most <= MAX_MESSAGE:
            raise IllegalSend(f"{most} as largest message hurts a Go peer")

    def _check_session_end(self) -> None:
        if (self.is_client and isinstance(self.opening, Session)
                and not self.traits.supports(Extension.EOF)):
            raise IllegalSend("the end of the stream makes a Go server end the conversation")

    def _check_agent_connection(self) -> None:
        if self.is_client and self.traits.is_go and isinstance(self.opening, AgentConnection):
            raise IllegalSend("a Go server leaves its agent socket open for ever: reset the stream")


_READERS = {
    CONFIRMATION: ChannelState._read_confirmation,
    FAILURE_TO_OPEN: ChannelState._read_refusal,
    DATA: ChannelState._read_data,
    EXTENDED_DATA: ChannelState._read_extended_data,
    EOF: ChannelState._read_eof,
    REQUEST: ChannelState._read_request,
    SUCCESS: ChannelState._read_success,
    FAILURE: ChannelState._read_failure,
    CHAFF: ChannelState._read_chaff,
}


def announced_maximum(traits: PeerTraits) -> int:
    """The largest message that we announce to this peer."""
    return GO_MAX_MESSAGE if traits.is_go else MAX_MESSAGE
