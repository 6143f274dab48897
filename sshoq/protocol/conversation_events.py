"""What a `ConversationState` tells its caller: what the peer did, and what to do about it."""

from sshoq.protocol.channel import ChannelState
from sshoq.protocol.outcome import Event
from sshoq.protocol.request import ConnectRequest, ResponseHead


class ConversationEvent(Event):
    """What the peer did."""


class ConversationAction(ConversationEvent):
    """What the caller has to do on a stream."""


class SettingsReceived(ConversationEvent):
    """The peer's SETTINGS are there: `ConversationState.traits` is right from now on."""

    settings: dict[int, int]


class RequestReceived(ConversationEvent):
    """Server: decide, then `respond`. No other request comes until then."""

    stream_id: int
    request: ConnectRequest


class ResponseReceived(ConversationEvent):
    """Client: the answer to the request. After any but the 200 another request may be sent."""

    stream_id: int
    response: ResponseHead


class RequestFailed(ConversationEvent):
    """Client: the request's stream was reset (with `code`) or ended (None) without an answer."""

    stream_id: int
    code: int | None


class ChannelArrived(ConversationEvent):
    """The peer opened a channel: confirm or refuse it, then feed it `rest` and `fin`."""

    channel: ChannelState
    rest: bytes
    fin: bool


class ChannelVoided(ConversationEvent):
    """Client: the login that this early channel rode on was refused; its stream is being reset."""

    stream_id: int


class ConversationEnded(ConversationEvent):
    """The peer ended the request's stream, with `code` if by a reset. What runs is to be ended."""

    code: int | None


class DatagramArrived(ConversationEvent):
    channel_id: int
    payload: bytes


class Consumed(ConversationAction):
    """Grant the peer that much more credit on the stream."""

    stream_id: int
    count: int


class WriteStream(ConversationAction):
    stream_id: int
    data: bytes
    fin: bool


class ResetStream(ConversationAction):
    stream_id: int
    code: int


class StopStream(ConversationAction):
    stream_id: int
    code: int
