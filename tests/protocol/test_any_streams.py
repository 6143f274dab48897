"""Any bytes on any streams, with their ends and resets in any order: a conversation gives events,
or says once what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from sshoq.protocol.conversation import ConversationState
from sshoq.protocol.conversation_events import ChannelArrived, ConversationEvent
from sshoq.protocol.http3 import encode_data, encode_headers
from sshoq.protocol.messages import Session
from sshoq.protocol.outcome import ConnectionFault, ProtocolError
from sshoq.protocol.request import ConnectRequest
from sshoq.wire import varint

SIGNAL = varint(0xAF3627E6)
SETTINGS = bytes.fromhex("00040c33010801935348518001ffff")
REQUEST = ConnectRequest(authority="h:443", path="/s", user="alice", authorization="Basic eDp5")


def _answer(status: bytes, *more: tuple[bytes, bytes]) -> bytes:
    return encode_headers([(b":status", status), *more])


def _channel(kind: bytes, fields: bytes = b"") -> bytes:
    return SIGNAL + b"\x00" + varint(len(kind)) + kind + varint(30000) + fields


PIECES = [
    SETTINGS, SETTINGS[1:], b"\x02", b"\x03\xff", b"\x01", REQUEST.encode(),
    _answer(b"200", (b"server", b"SSH 3.0 a/b 0.1.0")), _answer(b"401"), _answer(b"103"),
    _answer(b"401", (b"sshoq-banner", b"4")), encode_data(b"text"), b"\x21" + varint(1 << 40),
    _channel(b"session"), _channel(b"agent-connection"), _channel(b"forwarded-tcpip", b"\x04\x00"),
    varint(91) + varint(30000), varint(94) + b"\x03abc", varint(98) + b"\x05shell\x01", varint(99),
]  # fmt: skip
pieces = st.one_of(
    st.sampled_from(PIECES),
    st.tuples(st.sampled_from(PIECES), st.integers(1, 12)).map(lambda cut: cut[0][: -cut[1]]),
    st.binary(max_size=12),
)
steps = st.tuples(
    st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    st.sampled_from(["bytes", "bytes", "bytes", "end", "reset", "stop", "datagram"]),
    pieces,
)


@settings(max_examples=300)
@given(st.booleans(), st.lists(steps, max_size=12))
def test_any_streams_give_events_or_a_fault(
    is_client: bool, said: list[tuple[int, str, bytes]]
) -> None:
    state = ConversationState(is_client)
    if is_client:
        state.connect(0, REQUEST)
        state.open_channel(4, Session(), speculative=True).open()
    over: set[int] = set()
    for stream_id, what, data in said:
        if stream_id in over and what != "datagram":
            continue  # QUIC itself keeps to that
        if what in ("end", "reset"):
            over.add(stream_id)
        try:
            events = _tell(state, stream_id, what, data)
        except ConnectionFault:
            return
        arrived = [event.channel for event in events if isinstance(event, ChannelArrived)]
        assert all(state.channels[one.stream_id] is one for one in arrived)


def _tell(
    state: ConversationState, stream_id: int, what: str, data: bytes
) -> list[ConversationEvent]:
    channel = state.channels.get(stream_id)
    if channel is not None and what in ("bytes", "end"):
        try:
            channel.receive(data, what == "end")
        except ProtocolError:
            state.forget_channel(stream_id, peer_is_done=what == "end")
        return []
    if channel is not None and what == "reset":
        state.forget_channel(stream_id)
        return []
    deeds: dict[str, Callable[[], list[ConversationEvent]]] = {
        "bytes": lambda: state.receive(stream_id, data, False, 0.0),
        "end": lambda: state.receive(stream_id, data, True, 0.0),
        "reset": lambda: state.stream_reset(stream_id, 7),
        "stop": lambda: state.stream_stopped(stream_id, 7),
        "datagram": lambda: state.receive_datagram(data, 0.0),
    }
    return deeds[what]()
