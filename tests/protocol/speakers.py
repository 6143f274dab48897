"""Made-up peers and messages, shared by the tests of the protocol."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import strategies as st

from sshoq.protocol.channel import (
    Buffer,
    ChannelEvent,
    ChannelState,
    Data,
    ExtendedData,
)
from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.messages import (
    AgentReq,
    Break,
    ChannelHeader,
    ChannelOpening,
    ChannelRequest,
    EndOfWrite,
    Env,
    Exec,
    ExitSignal,
    ExitStatus,
    PtyReq,
    Session,
    Shell,
    Signal,
    Subsystem,
    WindowChange,
    X11Req,
)
from sshoq.protocol.version import OUR_VERSION, PeerTraits
from sshoq.wire import MAX_VARINT
from tests.golden_replay import go_traits

ALL = Extension(sum(Extension))

varints = st.integers(0, MAX_VARINT)
names = st.text(max_size=40)
requests: st.SearchStrategy[ChannelRequest] = st.one_of(
    st.builds(PtyReq, names, varints, varints, varints, varints, st.binary(max_size=60)),
    st.just(Shell()),
    st.just(AgentReq()),
    st.builds(Exec, st.text(max_size=300)),
    st.builds(Subsystem, names),
    st.builds(Env, names, names),
    st.builds(WindowChange, varints, varints, varints, varints),
    st.builds(Signal, st.text(max_size=15)),
    st.builds(Break, varints),
    st.just(EndOfWrite()),
    st.builds(ExitStatus, varints),
    st.builds(ExitSignal, st.text(max_size=15), st.booleans(), names, st.text(max_size=15)),
    st.builds(X11Req, st.booleans(), names, names, varints),
)


def our_traits(extensions: Extension = OURS) -> PeerTraits:
    """What a peer counts as that announced these extensions, as we do."""
    return PeerTraits(extensions, extensions, OUR_VERSION)


def channel(opening: ChannelOpening | None = None, *, traits: PeerTraits | None = None,
            is_client: bool = False, opened_here: bool = False, max_message: int = 30000
            ) -> ChannelState:
    header = ChannelHeader(0, opening or Session(), max_message)
    return ChannelState(4, header, traits or go_traits(), is_client=is_client,
                        opened_here=opened_here)


def joined(events: Iterable[ChannelEvent]) -> list[ChannelEvent]:
    """The same events with pieces of data that follow each other put together."""
    result: list[ChannelEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Data) and isinstance(last, Data):
            result[-1] = Data(bytes(last.payload) + bytes(event.payload))
        elif (isinstance(event, ExtendedData) and isinstance(last, ExtendedData)
                and event.kind == last.kind):
            result[-1] = ExtendedData(event.kind, bytes(last.payload) + bytes(event.payload))
        else:
            result.append(event)
    return result


def said(*buffers: list[Buffer]) -> bytes:
    return b"".join(b"".join(some) for some in buffers)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at these places as far as it has them."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]
