"""What a hostile server can say to the client after a valid handshake: the user sees a line or two,
no traceback and no control characters, and the exit status is 255.

One table for each point in a run: what comes instead of the control stream, the answer, the
session. The server's engine is honest, its bytes are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.http3 import encode_headers
from sshoq.protocol.messages import AgentConnection, Session
from sshoq.protocol.version import OUR_VERSION
from sshoq.transport.channel import Channel, ChannelRefused
from sshoq.wire import varint
from tests.client.little_server import EXIT_0, LittleServer, Result, Serve, listening, to
from tests.client.quick_client import QuickClient

SIGNAL = varint(0xAF3627E6)
SETTINGS = bytes.fromhex("00040c33010801935348518001ffff")
SECRET = "\x1b[31m\r\nalice@host's password: \u202e"
"""What is to look like a prompt of our own."""

Prepare = Callable[[LittleServer], None]


def call(
    client: QuickClient,
    key: str,
    *,
    words: tuple[str, ...] = (),
    prepare: Prepare = lambda server: None,
    serve: Serve = EXIT_0,
) -> Result:
    """A run of the client with a command, against that server."""

    async def run() -> Result:
        async with listening(serve=serve, prepare=prepare) as listener:
            return await client.run("-F", "none", *words, *to(listener, key), "command")

    return asyncio.run(run())


def check(result: Result, line: str, status: int = 255) -> None:
    """It says that line, hardly more, and nothing that a terminal obeys."""
    assert result.status == status
    assert line in result.errors
    assert result.errors.count("\n") <= 2
    assert all(c.isprintable() or c == "\n" for c in result.errors)
    assert "password: " not in result.errors.replace("password: \\", "")


def text(string: str | bytes) -> bytes:
    data = string if isinstance(string, bytes) else string.encode()
    return varint(len(data)) + data


def say(server: LittleServer, stream_id: int, data: bytes, *, fin: bool = False) -> None:
    """Whatever bytes, on a stream of the conversation."""
    server.conversation.engine.write(stream_id, data, fin=fin)
    server.conversation.flush_soon()


def say_on_new_stream(
    server: LittleServer, data: bytes, *, fin: bool = False, unidirectional: bool = False
) -> int:
    stream_id = server.conversation.engine.open_stream(unidirectional=unidirectional)
    say(server, stream_id, data, fin=fin)
    return stream_id


# --------------------------------------------------------------------------- control streams

CONTROL = {
    "no SETTINGS first": (b"\x00\x01\x00", "no SETTINGS first"),
    "SETTINGS twice": (SETTINGS + b"\x04\x00", "frame 0x4 on the control stream"),
    "a setting of HTTP/2": (b"\x00\x04\x02\x02\x01", "setting 0x2"),
    "half a setting": (b"\x00\x04\x01\x33", "SETTINGS cut short"),
    "a terabyte of settings": (b"\x00\x04" + varint(1 << 40), "SETTINGS of 1099511627776 bytes"),
    "a push stream": (b"\x01", "a push stream"),
    "DATA": (SETTINGS + b"\x00\x01a", "frame 0x0 on the control stream"),
    "too much of nothing": (
        SETTINGS + b"\x21" + varint(70000) + bytes(60000) + b"\x21" + varint(70000),
        "",
    ),
}


@pytest.mark.parametrize("name", CONTROL)
def test_a_bad_control_stream_is_one_line(client: QuickClient, key: str, name: str) -> None:
    data, line = CONTROL[name]

    def prepare(server: LittleServer) -> None:
        server.conversation.state.control_stream = lambda: data  # type: ignore[method-assign]

    result = call(client, key, prepare=prepare)
    check(result, line, status=255 if line else 0)


def test_a_server_that_announces_little_is_asked_for_little(client: QuickClient, key: str) -> None:
    """It need not answer requests; that is no reason to wait for ever."""

    def prepare(server: LittleServer) -> None:
        server.conversation.state.ours = Extension.EARLY | Extension.EOF
        server.conversation.state.traits.learn(OURS, Extension.EARLY | Extension.EOF)

    check(call(client, key, prepare=prepare), "", status=0)


# --------------------------------------------------------------------------- at once

AT_ONCE: dict[str, tuple[Prepare, str]] = {
    "a request": (lambda s: _ignore(say_on_new_stream(s, b"\x01\x00")), "that is no channel"),
    "a second control stream": (
        lambda s: _ignore(say_on_new_stream(s, b"\x00\x04\x00", unidirectional=True)),
        "a second stream of type 0",
    ),
    "the end of a QPACK stream": (
        lambda s: _ignore(say_on_new_stream(s, b"\x02", unidirectional=True, fin=True)),
        "a stream that has to stay ended",
    ),
    "the end": (lambda s: s.conversation.close(0x100, SECRET), "closed by"),
}


def _ignore(stream_id: int) -> None: ...


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_comes_ahead_of_the_request(client: QuickClient, key: str, name: str) -> None:
    act, line = AT_ONCE[name]

    def prepare(server: LittleServer) -> None:
        server.ready.add_done_callback(lambda ready: act(server))

    check(call(client, key, prepare=prepare), line)


@pytest.mark.parametrize(
    ("kind", "line"),
    [("uni", "permits no control stream"), ("bidi", "permits no requests")],
)
def test_a_server_that_permits_no_streams(
    client: QuickClient, key: str, kind: str, line: str
) -> None:
    def prepare(server: LittleServer) -> None:
        connection = server.conversation.engine._connection
        getattr(connection, f"_local_max_streams_{kind}").value = 0

    check(call(client, key, prepare=prepare), line)


# --------------------------------------------------------------------------- answers


def answer(*fields: tuple[str, str]) -> bytes:
    return encode_headers([(name.encode(), value.encode()) for name, value in fields])


SERVER = ("server", str(OUR_VERSION))
DROPPED = "the server dropped the request without an answer"
ANSWERS = {
    "nothing": (b"", DROPPED),
    "a gigabyte of fields": (b"\x01" + varint(1 << 30), DROPPED),
    "fields that need a dynamic table": (b"\x01\x03\x02\x00\x80", "without a dynamic table"),
    "DATA first": (b"\x00\x05hello", "frame 0x0 on a request stream"),
    "a push": (b"\x05\x00", "frame 0x5 on a request stream"),
    "no status": (answer(SERVER), DROPPED),
    "a status of letters": (answer((":status", "abc")), DROPPED),
    "two": (answer((":status", "200"), (":status", "200")), DROPPED),
    "elsewhere": (
        answer((":status", "301"), ("location", "https://evil.test/")),
        "answered with status 301",
    ),
    "interim ones for ever": (answer((":status", "103")) * 12, DROPPED),
    "no version": (answer((":status", "200")), "version is missing"),
    "a version that paints": (
        answer((":status", "403"), ("server", "SSH 9.9 \u202e\u009b31mevil")),
        "it is SSH 9.9 \\342\\200\\256\\302\\23331mevil",
    ),
    "too many fields": (
        answer((":status", "401"), *((f"x{number}", "y") for number in range(80))),
        DROPPED,
    ),
    "a banner of a gigabyte": (
        answer((":status", "401"), SERVER, ("sshoq-banner", "99999999999")),
        DROPPED,
    ),
    "less banner than announced": (
        answer((":status", "401"), SERVER, ("sshoq-banner", "1000")) + b"\x00\x05hello",
        DROPPED,
    ),
    "a banner that paints": (
        answer((":status", "401"), SERVER, ("sshoq-banner", "9"))
        + b"\x00\x09\x1b]0;x\x07\xc2\x9bm",
        "\\033]0;x\\007\\302\\233m",
    ),
    "rubbish for methods": (
        answer((":status", "401"), SERVER, ("sshoq-methods", "\u202e,,none,publickey")),
        "Permission denied (publickey).",
    ),
    "questions that cannot be read": (
        answer((":status", "401"), SERVER, ("sshoq-interactive", "!")),
        "cannot read what the server asks",
    ),
    "more questions than anybody answers": (
        answer((":status", "401"), SERVER, ("sshoq-interactive", "AAAh" + "AAAA" * 22)),
        "too many questions",
    ),
    "questions after a key": (
        answer((":status", "401"), ("sshoq-interactive", "AAABClBhc3N3b3JkOiAA")),
        "Permission denied (publickey,password).",
    ),
    "more steps for ever": (
        answer((":status", "401"), ("sshoq-methods", "publickey"), ("sshoq-partial-success", "1")),
        "Permission denied (publickey).",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_to_the_request(client: QuickClient, key: str, name: str) -> None:
    data, line = ANSWERS[name]

    def prepare(server: LittleServer) -> None:
        server.decide = lambda stream_id, request: say(server, stream_id, data, fin=True)

    check(call(client, key, prepare=prepare), line)


def test_the_words_of_a_farewell_stay_on_their_line(client: QuickClient, key: str) -> None:
    def prepare(server: LittleServer) -> None:
        server.decide = lambda stream_id, request: server.conversation.close(2, SECRET)

    result = call(client, key, prepare=prepare)
    check(result, "\\033[31m\\nalice@host's password: \\342\\200\\256\nDisconnected from")


# --------------------------------------------------------------------------- sessions


def request(name: str, body: bytes = b"", *, want_reply: bool = False) -> bytes:
    return varint(98) + text(name) + bytes([want_reply]) + body


EXITED = request("exit-status", b"\x00")
FAULT = "channel 0: protocol error: "
MESSAGES = {
    "a message nobody knows": (varint(80), FAULT + "message 80"),
    "an answer to nothing": (varint(99) * 3, FAULT + "an answer to no request"),
    "a request nobody knows": (request("keepalive@go.test"), FAULT + "unknown channel request"),
    "data of 2^62 bytes": (varint(94) + b"\xff" * 8, FAULT + "a message of 4611686018427387903"),
    "a request's name of 2^40 bytes": (varint(98) + varint(1 << 40), FAULT),
    "a second end": (EXITED * 2, FAULT + "the program ended twice"),
    "endless ends": (EXITED * 2000, FAULT + "the program ended twice"),
    "requests without end": (request("window-change", b"\1\1\1\1") * 3000, FAULT + "too many"),
    "data behind their end": (varint(96) + varint(94) + b"\x01a", FAULT + "message 94"),
    "a second confirmation": (varint(91) + varint(30000), FAULT + "message 91"),
    "a late refusal": (varint(92) + varint(1) + text("x") + text("en"), FAULT + "message 92"),
    "too long a filler": (varint(101) + b"\x01" + text(b"x" * 70), FAULT),
    "half a message": (varint(94) + b"\x05ab", FAULT + "the stream ends inside a message"),
    "a signal that paints": (
        request("exit-signal", text(SECRET) + b"\x01" + text(SECRET) + text("en")),
        "",
    ),
    "requests for a server": (
        request("exec", text("rm -rf /"), want_reply=True)
        + request("auth-agent-req@openssh.com", want_reply=True)
        + request("listening", b"\x04"),
        "",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_on_a_session(client: QuickClient, key: str, name: str) -> None:
    data, line = MESSAGES[name]

    def serve(server: LittleServer, channel: Channel) -> None:
        say(server, channel.stream_id, data, fin=True)

    check(call(client, key, serve=serve), line)


def test_odd_kinds_of_data_and_statuses_beyond_bounds(client: QuickClient, key: str) -> None:
    def serve(server: LittleServer, channel: Channel) -> None:
        data = varint(95) + varint(1 << 60) + text("nobody's") + varint(94) + text("shown")
        say(server, channel.stream_id, data + request("exit-status", b"\xff" * 8), fin=True)

    result = call(client, key, serve=serve)
    assert (result.output, result.status) == (b"shown", 255)


REFUSALS: dict[str, tuple[Callable[[Channel], None], str]] = {
    "a refusal that paints": (
        lambda channel: channel.refuse(1, SECRET),
        "open failed: administratively prohibited: \\033[31m\\nalice",
    ),
    "an unknown reason": (lambda channel: channel.refuse(1 << 50, ""), "open failed: unknown"),
    "an end ahead of an answer": (lambda channel: channel.finish(), FAULT + "the stream ends"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_sessions_that_are_not_granted(client: QuickClient, key: str, name: str) -> None:
    act, line = REFUSALS[name]

    def prepare(server: LittleServer) -> None:
        server.on_channel = act

    check(call(client, key, prepare=prepare), line)


# --------------------------------------------------------------------------- channels unasked for

ADDRESS = text("192.0.2.1") + b"\x00\x01"
OPENINGS = {
    "forwarded-tcpip": varint(4) + ADDRESS,
    "forwarded-streamlocal@openssh.com": varint(4),
    "forwarded-udpip": varint(4) + ADDRESS,
    "agent-connection": b"",
    "x11": varint(4) + ADDRESS,
    "session": b"",
    "direct-tcpip": text("localhost") + b"\x00\x16" + text("") + b"\x00\x00",
    "tcpip-forward": text("") + b"\x00\x16",
    "open-request-reverse-tcp,127.0.0.1:22": b"",
    "open-request-reverse-udp,127.0.0.1:1,127.0.0.1:22": b"",
    "sftp": b"",
    SECRET: b"",
}


def test_channels_nobody_asked_for_are_refused(client: QuickClient, key: str) -> None:
    """Whatever is said on them, before and after the refusal; and the session goes on."""
    refusals: list[int] = []

    def header(kind: str, fields: bytes) -> bytes:
        return SIGNAL + b"\x00" + text(kind) + varint(30000) + fields

    async def harass(server: LittleServer, channel: Channel) -> None:
        for kind, fields in OPENINGS.items():
            data = header(kind, fields) + varint(94) + text(b"x" * 500)
            stream_id = say_on_new_stream(server, data)
            say(server, stream_id, varint(98) + varint(1 << 40))
        for _ in range(100):
            with_agent = server.conversation.open_channel(AgentConnection())
            with pytest.raises(ChannelRefused) as refused:
                await with_agent.opened()
            refusals.append(refused.value.reason)
        say(server, channel.stream_id, EXITED, fin=True)

    def serve(server: LittleServer, channel: Channel) -> None:
        server.spawn(harass(server, channel))

    check(call(client, key, serve=serve), "", status=0)
    assert refusals == [1] * 100


# --------------------------------------------------------------------------- listeners there

LISTENERS = {
    "a port beyond all ports": varint(91) + varint(30000) + request("listening", varint(70000)),
    "another request": varint(91) + varint(30000) + EXITED,
    "data": varint(94) + b"\x01a",
    "a refusal that paints": varint(92) + varint(1) + text(SECRET) + text("en"),
}


@pytest.mark.parametrize("name", LISTENERS)
def test_listeners_that_are_none(client: QuickClient, key: str, name: str) -> None:
    def prepare(server: LittleServer) -> None:
        accept = server.on_channel

        def take(channel: Channel) -> None:
            if isinstance(channel.state.opening, Session):
                accept(channel)
            else:
                say(server, channel.stream_id, LISTENERS[name])

        server.on_channel = take

    result = call(client, key, prepare=prepare, words=("-R", "0:127.0.0.1:9"))
    check(result, "Warning: remote port forwarding failed for listen port 0", status=0)


def test_no_room_for_a_listener(client: QuickClient, key: str) -> None:
    """The server permits the request's stream and no other."""

    def prepare(server: LittleServer) -> None:
        server.conversation.engine._connection._local_max_streams_bidi.value = 1
        server.conversation.raise_limits = lambda limits: None  # type: ignore[method-assign]

    result = call(client, key, prepare=prepare, words=("-R", "0:127.0.0.1:9"))
    assert result.status == 255
    assert result.errors.splitlines() == [
        "too many channels",
        "Warning: remote port forwarding failed for listen port 0",
        "channel 0: open failed: resource shortage: too many channels",
    ]


# --------------------------------------------------------------------------- a control path


def test_a_control_path_that_is_a_file_of_the_users_stays(
    client: QuickClient, key: str, tmp_path: Path
) -> None:
    """connect() refuses it as it does a socket that nobody listens on; it is no stale one."""
    path = tmp_path / "notes"
    path.write_text("mine")
    result = call(client, key, words=("-S", str(path), "-o", "ControlMaster=auto"))
    assert result.status == 0
    assert path.read_text() == "mine"
