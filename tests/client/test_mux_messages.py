"""The messages between a client and its master: bytes as OpenSSH writes them, and any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.client import mux_messages as mux
from sshoq.client.mux_messages import (
    MuxError,
    PacketState,
    decode_packet,
    encode_packet,
    fields_of,
    forward_of,
)
from sshoq.config.forward_spec import Forward, parse_forward
from sshoq.wire import Message

U32 = st.integers(0, 0xFFFF_FFFF)
STRING = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
STRINGS = st.lists(STRING, max_size=6).map(tuple)

MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(mux.Hello, U32, STRINGS),
    st.builds(
        mux.NewSession, U32, STRING, st.booleans(), st.booleans(), st.booleans(), st.booleans(),
        U32, STRING, STRING, STRINGS,
    ),
    st.builds(mux.OpenForward, U32, U32, STRING, U32, STRING, U32),
    st.builds(mux.CloseForward, U32, U32, STRING, U32, STRING, U32),
    st.builds(mux.NewStdioForward, U32, STRING, STRING, U32),
    st.builds(mux.AskInfo, U32, STRING),
    st.builds(mux.Info, U32, U32, STRING),
    *(
        st.builds(kind, U32)
        for kind in (
            mux.CheckAlive, mux.Terminate, mux.StopListening, mux.AskProxy, mux.Ok, mux.Proxy,
            mux.TtyFailed,
        )
    ),
    *(st.builds(kind, U32, STRING) for kind in (mux.PermissionDenied, mux.Failed)),
    *(
        st.builds(kind, U32, U32)
        for kind in (mux.ExitMessage, mux.Alive, mux.SessionOpened, mux.RemotePort)
    ),
)  # fmt: skip


def receive(data: bytes, sizes: list[int]) -> list[Message]:
    """Feed the bytes in pieces of these sizes, and the rest as it is wanted."""
    state, found, position = PacketState(), [], 0
    waiting = iter(sizes)
    while position < len(data):
        size = min(next(waiting, state.wanted), state.wanted)
        message = state.receive(data[position : position + size])
        position += size
        if message is not None:
            found.append(message)
    return found


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(1, 40), max_size=60))
def test_packets_arrive_however_they_are_cut(messages: list[Message], sizes: list[int]) -> None:
    assert receive(b"".join(map(encode_packet, messages)), sizes) == messages


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_fault(data: bytes) -> None:
    try:
        message = decode_packet(data)
    except MuxError:
        return
    assert isinstance(message, Message)


@given(MESSAGES, st.integers(0, 5), st.binary(min_size=1, max_size=5))
def test_what_is_cut_short_or_too_long_is_a_fault(
    message: Message, cut: int, more: bytes
) -> None:
    """But where strings go on to the end of the packet, some strings less are a message, too."""
    whole = encode_packet(message)[4:]
    if isinstance(message, mux.Hello | mux.NewSession):
        return
    with pytest.raises(MuxError):
        decode_packet(whole[: len(whole) - 1 - min(cut, len(whole) - 5)])
    with pytest.raises(MuxError):
        decode_packet(whole + more)


def test_bytes_are_those_of_openssh() -> None:
    """What ssh 9.2 sent to a socket of ours: ssh -S PATH -tt host true."""
    recorded = [
        (mux.Hello(4), "0000000100000004"),
        (mux.CheckAlive(0), "1000000400000000"),
        (
            mux.NewSession(1, "", True, False, False, False, ord("~"), "xterm", "true"),
            "10000002000000010000000000000001000000000000000000000000"
            "0000007e00000005787465726d0000000474727565",
        ),
    ]
    for message, payload in recorded:
        assert decode_packet(bytes.fromhex(payload)) == message
        assert encode_packet(message)[4:].hex() == payload


def test_a_string_ends_where_c_would_end_it() -> None:
    body = encode_packet(mux.AskInfo(1, "abc"))[4:].replace(b"b", b"\0")
    with pytest.raises(MuxError, match="NUL"):
        decode_packet(body)


@pytest.mark.parametrize("length", [0, 3, mux.MAX_PACKET - 3, 0xFFFF_FFFF])
def test_a_packet_has_a_bound(length: int) -> None:
    state = PacketState()
    with pytest.raises(MuxError, match="bytes"):
        state.receive(length.to_bytes(4, "big"))


def test_variables_have_a_bound() -> None:
    session = mux.NewSession(
        1, "", False, False, False, False, 0, "", "", ("A=",) * (mux.MAX_VARIABLES + 1)
    )
    with pytest.raises(MuxError, match="too many"):
        decode_packet(encode_packet(session)[4:])


def test_an_unknown_request_keeps_its_number() -> None:
    assert decode_packet(bytes.fromhex("1000000a00000007ffff")) == mux.Unknown(0x1000_000A, 7)
    assert decode_packet(bytes.fromhex("1000000a")) == mux.Unknown(0x1000_000A, 0)


def test_extensions_are_found_by_their_names() -> None:
    assert mux.Hello(4, ("info", "0")).announces("info")
    assert not mux.Hello(4, ("other", "info")).announces("info")


# --------------------------------------------------------------------------- forwardings

SOCKS = ("socks", 0)
PATH = mux.PATH_PORT


@pytest.mark.parametrize(
    ("forward", "remote", "fields"),
    [
        (parse_forward("1:h:2"), False, (mux.LOCAL, "", 1, "h", 2)),
        (parse_forward(":1:h:2"), False, (mux.LOCAL, "*", 1, "h", 2)),
        (parse_forward("*:1:h:2"), False, (mux.LOCAL, "*", 1, "h", 2)),
        (parse_forward("[::1]:1:[::2]:2"), False, (mux.LOCAL, "::1", 1, "::2", 2)),
        (parse_forward("/a:/b"), False, (mux.LOCAL, "/a", PATH, "/b", PATH)),
        (parse_forward("1:/b"), False, (mux.LOCAL, "", 1, "/b", PATH)),
        (parse_forward("9", dynamic=True), False, (mux.DYNAMIC, "", 9, *SOCKS)),
        (parse_forward("0:h:2", remote=True), True, (mux.REMOTE, "", 0, "h", 2)),
        (parse_forward("/a:h:2", remote=True), True, (mux.REMOTE, "/a", PATH, "h", 2)),
        (parse_forward("8", dynamic=True, remote=True), True, (mux.REMOTE, "", 8, *SOCKS)),
    ],
)
def test_a_forwarding_is_written_as_openssh_does(
    forward: Forward, remote: bool, fields: mux.ForwardFields
) -> None:
    assert fields_of(forward, remote=remote) == fields
    back = forward_of(mux.OpenForward(1, *fields))
    assert fields_of(back, remote=remote) == fields
    assert back.connect_text() == forward.connect_text()


@pytest.mark.parametrize(
    "fields",
    [
        (0, "", 1, "h", 2),
        (4, "", 1, "h", 2),
        (mux.LOCAL, "", 0, "h", 2),
        (mux.LOCAL, "", 65536, "h", 2),
        (mux.LOCAL, "", 1, "h", 0),
        (mux.LOCAL, "", 1, "h", 65536),
        (mux.DYNAMIC, "/a", PATH, *SOCKS),
        (mux.REMOTE, "", PATH - 1, "h", 2),
    ],
)
def test_what_cannot_be_forwarded_is_refused(fields: mux.ForwardFields) -> None:
    with pytest.raises(MuxError, match="Invalid forwarding request"):
        forward_of(mux.OpenForward(1, *fields))
