"""A session against the server's half of the rules, joined in memory; terminals are real ptys."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import pytest

from sshoq.client.display import ForwardedDisplay
from sshoq.client.log import Log
from sshoq.client.session import (
    Ending,
    SessionRun,
    SessionWish,
    Streams,
    TerminalWish,
    ask_for_session,
    wait_without_session,
)
from sshoq.client.terminal import Size
from sshoq.config.usage import DEBUG1
from sshoq.protocol.channel import Buffer, ChannelEvent, ChannelState, Data, Eof, Requested
from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.messages import (
    Break,
    ChannelHeader,
    ChannelRequest,
    EndOfWrite,
    Env,
    Exec,
    ExitSignal,
    ExitStatus,
    PtyReq,
    Session,
    Shell,
    Subsystem,
    WindowChange,
    X11Req,
)
from sshoq.protocol.outcome import Unsupported
from sshoq.protocol.version import PeerTraits
from sshoq.transport.channel import Channel
from sshoq.transport.conversation import Conversation


def terminal(demanded: bool = False) -> TerminalWish:
    return TerminalWish("xterm", Size(80, 24, 0, 0), b"\0", demanded)


GO = PeerTraits()
OUR_SERVER = PeerTraits(OURS, OURS)


class FakeConversation:
    """What a channel needs of its conversation, with the server's half at the other end."""

    def __init__(self, traits: PeerTraits, lines: list[str]) -> None:
        self.lines = lines
        header = ChannelHeader(0, Session(), 30000)
        self.server = ChannelState(4, header, traits, is_client=False, opened_here=False)
        state = ChannelState(4, header, traits, is_client=True, opened_here=True)
        self.channel = Channel(cast(Conversation, self), state)
        state.open()
        self.seen: list[ChannelEvent] = []
        self.preferred: list[int] = []
        self.news = asyncio.Event()

    # ----- the channel's side

    def prefer(self, stream_id: int) -> None:
        self.preferred.append(stream_id)

    def write(self, stream_id: int, buffers: list[Buffer], fin: bool = False, **_: bool) -> None:
        for event in self.server.receive(b"".join(buffers), fin):
            if isinstance(event, Data):
                event = Data(bytes(event.payload))
            self.seen.append(event)
        self.news.set()

    def consumed(self, stream_id: int, count: int) -> None: ...
    def stop(self, stream_id: int, code: int) -> None: ...
    def reset(self, stream_id: int, code: int) -> None: ...
    def forget(self, channel: Channel) -> None: ...

    def is_crowded(self, stream_id: int) -> bool:
        return False

    # ----- the server's side

    def say(self, *messages: list[Buffer], fin: bool = False) -> None:
        self.channel.receive(b"".join(b"".join(message) for message in messages), fin)

    def accept(self, *answers: bool) -> None:
        self.say(self.server.confirm())
        for answer in answers:
            self.say(self.server.reply(answer))

    def end(self, status: int = 0) -> None:
        self.say(self.server.request(ExitStatus(status)), fin=not self.server.traits.is_go)

    @property
    def requests(self) -> list[ChannelRequest]:
        return [event.request for event in self.seen if isinstance(event, Requested)]

    @property
    def data(self) -> bytes:
        return b"".join(bytes(event.payload) for event in self.seen if isinstance(event, Data))

    def note(self, level: int, line: str) -> None:
        self.lines.append(line)
        self.news.set()

    async def logged(self, text: str) -> None:
        await self.until(lambda: any(text in line for line in self.lines))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()


class Ends:
    """Descriptors for the session, and what they held at its end."""

    def __init__(self) -> None:
        self.stdin, self.typed = os.pipe()
        self.output, self.stdout = os.pipe()
        self.errors, self.stderr = os.pipe()

    def close(self) -> None:
        for fd in (self.stdin, self.typed, self.output, self.stdout, self.errors, self.stderr):
            try:
                os.close(fd)
            except OSError:
                continue

    def end_input(self) -> None:
        os.close(self.typed)

    def results(self) -> tuple[bytes, bytes]:
        for fd in (self.stdout, self.stderr):
            os.close(fd)
        return os.read(self.output, 100_000), os.read(self.errors, 100_000)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


Server = Callable[[FakeConversation], Awaitable[None]]


class Outcome:
    def __init__(self, conversation: FakeConversation, ending: Ending, lines: list[str]) -> None:
        self.conversation = conversation
        self.ending = ending
        self.lines = lines


def run(
    ends: Ends, wish: SessionWish, server: Server, traits: PeerTraits = OUR_SERVER
) -> Outcome:
    """Run the session with `server` as the other side."""
    lines: list[str] = []

    async def both() -> Outcome:
        conversation = FakeConversation(traits, lines)
        log = Log(DEBUG1, conversation.note)
        asked = ask_for_session(conversation.channel, wish, log)
        streams = Streams(ends.stdin, ends.stdout, ends.stderr)
        session = SessionRun(asked, wish, log, streams=streams)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            other = group.create_task(run_server(conversation))
            ending = await session.run()
            other.cancel()
        return Outcome(conversation, ending, lines)

    async def run_server(conversation: FakeConversation) -> None:
        await server(conversation)

    return asyncio.run(both())


# --------------------------------------------------------------------------- what is asked


async def exits_at_once(conversation: FakeConversation) -> None:
    conversation.accept(True)
    conversation.end()


def test_command_and_environment_are_asked_for_in_one_go(ends: Ends) -> None:
    wish = SessionWish("ls -l", environment=(("LANG", "C"), ("X", "1")))
    outcome = run(ends, wish, exits_at_once)
    assert outcome.conversation.requests == [Env("LANG", "C"), Env("X", "1"), Exec("ls -l")]
    assert outcome.ending == Ending(0)


def test_shell_with_a_terminal(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True, True)
        conversation.end()

    outcome = run(ends, SessionWish(terminal=terminal()), server)
    assert outcome.conversation.requests == [PtyReq("xterm", 80, 24, 0, 0, b"\0"), Shell()]


def test_subsystem(ends: Ends) -> None:
    outcome = run(ends, SessionWish(subsystem="sftp"), exits_at_once)
    assert outcome.conversation.requests == [Subsystem("sftp")]


def test_go_server_gets_no_environment_and_no_subsystem(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.say(conversation.server.confirm())
        conversation.end()

    outcome = run(ends, SessionWish("ls", environment=(("LANG", "C"),)), server, GO)
    assert outcome.conversation.requests == [Exec("ls")]
    with pytest.raises(Unsupported, match="subsystem request failed on channel 0"):
        run(ends, SessionWish(subsystem="sftp"), server, GO)


# --------------------------------------------------------------------------- the display

DISPLAY = X11Req(False, "MIT-MAGIC-COOKIE-1", "00", 0)


class FakeDisplay:
    def request_for(self, session: int) -> X11Req:
        return DISPLAY


def with_display(command: str) -> SessionWish:
    return SessionWish(command, display=cast(ForwardedDisplay, FakeDisplay()))


@pytest.mark.parametrize("granted", [True, False])
def test_a_display_is_asked_for_first_and_can_be_done_without(ends: Ends, granted: bool) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(granted, True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        conversation.end(3)

    outcome = run(ends, with_display("xlogo"), server)
    assert outcome.conversation.requests == [DISPLAY, Exec("xlogo")]
    assert outcome.ending == Ending(3)
    told = "X11 forwarding request failed on channel 0" in outcome.lines
    assert told is not granted


def test_a_go_server_has_no_displays_which_is_said_in_a_line(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.say(conversation.server.confirm())
        conversation.end()

    outcome = run(ends, with_display("ls"), server, GO)
    assert outcome.conversation.requests == [Exec("ls")]
    line = "X11 forwarding request failed on channel 0: unknown to this server"
    assert line in outcome.lines


# --------------------------------------------------------------------------- bytes and the end


@pytest.mark.parametrize("traits", [OUR_SERVER, GO])
def test_streams_stay_apart_and_status_comes_through(ends: Ends, traits: PeerTraits) -> None:
    everything = bytes(range(256))

    async def server(conversation: FakeConversation) -> None:
        state = conversation.server
        conversation.accept(*[True] * (not traits.is_go))
        conversation.say(state.data(everything), state.extended(1, b"oops"), state.data(b"!"))
        conversation.end(37)

    outcome = run(ends, SessionWish("x"), server, traits)
    assert outcome.ending == Ending(37)
    assert ends.results() == (everything + b"!", b"oops")


def test_death_by_signal_is_255(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        conversation.say(conversation.server.request(ExitSignal("KILL")), fin=True)

    assert run(ends, SessionWish("x"), server).ending == Ending(255)


def test_end_without_status_has_none(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        conversation.channel.drop("connection lost")

    assert run(ends, SessionWish("x"), server).ending == Ending(None)


def test_session_lasts_as_long_as_somebody_holds_the_output_open(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        conversation.say(conversation.server.request(ExitStatus(0)))
        await asyncio.sleep(0)
        conversation.say(conversation.server.data(b"late"), fin=True)

    run(ends, SessionWish("x"), server)
    assert ends.results()[0] == b"late"


def test_input_and_its_end_reach_the_server(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        await conversation.until(lambda: Eof() in conversation.seen)
        conversation.end()

    os.write(ends.typed, b"some input")
    ends.end_input()
    assert run(ends, SessionWish("cat"), server).conversation.data == b"some input"


def test_no_input_with_stdin_null(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        await conversation.until(lambda: Eof() in conversation.seen)
        conversation.end()

    os.write(ends.typed, b"for the next program")
    outcome = run(ends, SessionWish("cat", stdin_null=True), server)
    assert outcome.conversation.data == b""
    assert os.read(ends.stdin, 100) == b"for the next program"


def test_end_of_input_towards_a_go_server(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept()
        await conversation.until(lambda: conversation.data == b"x\x04")
        conversation.end()

    os.write(ends.typed, b"x")
    ends.end_input()
    run(ends, SessionWish("cat", terminal=terminal()), server, GO)


@pytest.mark.parametrize(
    ("wish", "sent"),
    [
        (SessionWish("top", terminal=terminal()), b"aqb"),
        (SessionWish(terminal=terminal()), b"a\x03q\x1cb"),
        (SessionWish("top"), b"a\x03q\x1cb"),
    ],
)
def test_keys_that_would_end_a_go_server_are_not_sent(
    ends: Ends, wish: SessionWish, sent: bytes
) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept()
        await conversation.until(lambda: conversation.data.endswith(b"b"))
        conversation.end()

    os.write(ends.typed, b"a\x03q\x1cb")
    assert run(ends, wish, server, GO).conversation.data == sent


def test_command_longer_than_the_kernel_takes_is_one_line(ends: Ends) -> None:
    with pytest.raises(Unsupported, match="exec request failed on channel 0"):
        run(ends, SessionWish("x" * 131073), exits_at_once)


def test_end_of_input_that_cannot_be_told_keeps_the_session(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept()
        await conversation.until(lambda: conversation.data == b"x")
        await conversation.logged("stdin has ended; this server cannot be told")
        conversation.end(3)

    os.write(ends.typed, b"x")
    ends.end_input()
    assert run(ends, SessionWish("cat"), server, GO).ending == Ending(3)


def test_output_that_nobody_reads_still_gives_the_status(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        conversation.say(conversation.server.data(b"x" * 20_000))
        await asyncio.sleep(0)
        conversation.say(conversation.server.data(b"x" * 20_000))
        conversation.end(5)

    os.close(ends.output)
    assert run(ends, SessionWish("yes"), server).ending == Ending(5)


def test_a_server_is_told_that_nobody_reads_and_the_session_goes_on(ends: Ends) -> None:
    """As long as it likes: a program that ignores the broken pipe still ends in its own way."""

    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        conversation.say(conversation.server.data(b"x"))
        await conversation.until(lambda: EndOfWrite() in conversation.requests)
        for _ in range(60):
            conversation.say(conversation.server.data(b"y\n" * 30_000))
            await asyncio.sleep(0)
        conversation.end(7)

    os.close(ends.output)
    outcome = run(ends, SessionWish("yes"), server)
    assert outcome.ending == Ending(7)
    assert outcome.conversation.requests.count(EndOfWrite()) == 1


@pytest.mark.parametrize(
    ("wish", "traits", "answers"),
    [
        (SessionWish("yes"), GO, ()),
        (SessionWish("yes", terminal=terminal()), OUR_SERVER, (True, True)),
    ],
)
def test_endless_output_that_nobody_reads_ends_the_session(
    ends: Ends, wish: SessionWish, traits: PeerTraits, answers: tuple[bool, ...]
) -> None:
    """Where the server cannot be told, or its terminal has no end to close."""

    async def server(conversation: FakeConversation) -> None:
        conversation.accept(*answers)
        while not conversation.channel.closed.done():
            conversation.say(conversation.server.data(b"y\n" * 30_000))
            await asyncio.sleep(0)

    os.close(ends.output)
    outcome = run(ends, wish, server, traits)
    assert outcome.ending == Ending(None)
    assert EndOfWrite() not in outcome.conversation.requests


def test_of_output_that_cannot_be_written_nothing_is_said(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        conversation.say(conversation.server.data(b"x" * 100))
        conversation.end(0)

    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), ends.stdout)
    outcome = run(ends, SessionWish("x"), server)
    assert [line for line in outcome.lines if not line.startswith("debug")] == []
    assert outcome.ending == Ending(0)


def test_input_that_cannot_be_read_ends(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        await conversation.until(lambda: Eof() in conversation.seen)
        conversation.end(0)

    folder = os.open("/", os.O_RDONLY)
    os.dup2(folder, ends.stdin)
    os.close(folder)
    outcome = run(ends, SessionWish("x"), server)
    assert "read: Is a directory" in outcome.lines


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wish", "line"),
    [
        (SessionWish("x"), "exec request failed on channel 0"),
        (SessionWish(), "shell request failed on channel 0"),
        (SessionWish(subsystem="x"), "subsystem request failed on channel 0"),
    ],
)
def test_refused_program(ends: Ends, wish: SessionWish, line: str) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(False)

    outcome = run(ends, wish, server)
    assert outcome.ending == Ending(255)
    assert line in outcome.lines


def test_refused_program_and_the_end_in_one_packet(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        state = conversation.server
        conversation.say(state.confirm(), state.reply(False), fin=True)

    outcome = run(ends, SessionWish("x"), server)
    assert outcome.ending == Ending(255)
    assert "exec request failed on channel 0" in outcome.lines


@pytest.mark.parametrize(("demanded", "status"), [(True, 255), (False, 7)])
def test_refused_terminal_ends_only_a_session_that_demanded_it(
    ends: Ends, demanded: bool, status: int
) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(False, True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        conversation.end(7)

    outcome = run(ends, SessionWish(terminal=terminal(demanded)), server)
    assert outcome.ending.status == status
    assert "PTY allocation request failed on channel 0" in outcome.lines


def test_refused_channel(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.say(conversation.server.refuse(1, "no sessions here"), fin=True)

    outcome = run(ends, SessionWish("x"), server)
    assert outcome.ending == Ending(255)
    assert "channel 0: open failed: administratively prohibited: no sessions here" in outcome.lines


# --------------------------------------------------------------------------- the terminal


class TerminalEnds(Ends):
    def __init__(self) -> None:
        super().__init__()
        self.master, slave = os.openpty()
        os.dup2(slave, self.stdin)
        os.close(slave)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.stdin)[3] & termios.ICANON

    def close(self) -> None:
        super().close()
        os.close(self.master)


@pytest.fixture
def tty_ends() -> Iterator[TerminalEnds]:
    ends = TerminalEnds()
    yield ends
    ends.close()


def test_terminal_is_raw_during_the_session_only(tty_ends: TerminalEnds) -> None:
    states = []

    async def server(conversation: FakeConversation) -> None:
        states.append(tty_ends.is_raw)
        conversation.accept(True, True)
        conversation.end()

    run(tty_ends, SessionWish(terminal=terminal()), server)
    assert [*states, tty_ends.is_raw] == [True, False]


def test_terminal_stays_as_it_is_without_a_pty(tty_ends: TerminalEnds) -> None:
    states = []

    async def server(conversation: FakeConversation) -> None:
        states.append(tty_ends.is_raw)
        await exits_at_once(conversation)

    run(tty_ends, SessionWish("x"), server)
    assert states == [False]


@contextmanager
def keeping_handlers() -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_session_with_the_terminal_restored(
    tty_ends: TerminalEnds, number: int
) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True, True)
        os.kill(os.getpid(), number)
        await asyncio.sleep(10)

    outcome = run(tty_ends, SessionWish(terminal=terminal()), server)
    assert outcome.ending == Ending(255, signal_number=number)
    assert not tty_ends.is_raw


def test_signal_that_was_ignored_stays_ignored(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        conversation.end(4)

    with keeping_handlers():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert run(ends, SessionWish("x"), server).ending == Ending(4)


def test_new_size_is_sent(tty_ends: TerminalEnds) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True, True)
        size = struct.pack("HHHH", 50, 100, 0, 0)
        fcntl.ioctl(tty_ends.stdin, termios.TIOCSWINSZ, size)
        os.kill(os.getpid(), signal.SIGWINCH)
        await conversation.until(lambda: WindowChange(100, 50, 0, 0) in conversation.requests)
        conversation.end()

    assert run(tty_ends, SessionWish(terminal=terminal()), server).ending == Ending(0)


def test_a_session_with_a_terminal_goes_before_others(
    ends: Ends, tty_ends: TerminalEnds
) -> None:
    preferred: list[list[int]] = []

    async def server(conversation: FakeConversation) -> None:
        preferred.append(conversation.preferred)
        conversation.accept(*[True for _ in ("program", *conversation.preferred)])
        conversation.end()

    run(tty_ends, SessionWish(terminal=terminal()), server)
    run(ends, SessionWish("x"), server)
    assert preferred == [[4], []]


# --------------------------------------------------------------------------- escape characters


def typed_into(ends: TerminalEnds, typed: bytes, after: bytes = b"\rdone") -> Outcome:
    """Type, then something by which the server knows that all of it was seen."""
    wish = SessionWish(terminal=terminal(), escape_character=b"~")

    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True, True)
        os.write(ends.master, typed + after)
        await conversation.until(lambda: conversation.data.endswith(after))
        conversation.end()

    return run(ends, wish, server)


def test_tilde_dot_ends_the_session(tty_ends: TerminalEnds) -> None:
    outcome = typed_into(tty_ends, b"~.")
    assert outcome.ending == Ending(255)
    assert tty_ends.results()[1] == b"~.\r\n"


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (b"~?", b"Supported escape sequences:\r\n"),
        (b"~#", b"The following connections are open:\r\n"),
        (b"~C", b"commandline disabled"),
        (b"~R", b"~R ["),
        (b"~V", b"~V [LogLevel VERBOSE]\r\n"),
        (b"~v", b"~v [LogLevel DEBUG2]\r\n"),
    ],
)
def test_escape_is_answered_on_stderr(
    tty_ends: TerminalEnds, typed: bytes, shown: bytes
) -> None:
    outcome = typed_into(tty_ends, b"ls\r" + typed)
    assert outcome.conversation.data == b"ls\r\rdone"
    assert shown in tty_ends.results()[1]


def test_break_follows_what_was_typed_before_it(tty_ends: TerminalEnds) -> None:
    outcome = typed_into(tty_ends, b"ls\r~B")
    interesting = [
        event for event in outcome.conversation.seen
        if isinstance(event, Data) or event == Requested(Break(1000), False)
    ]  # fmt: skip
    assert interesting == [Data(b"ls\r"), Requested(Break(1000), False), Data(b"\rdone")]


def test_no_escapes_without_a_terminal(ends: Ends) -> None:
    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True)
        await conversation.until(lambda: Eof() in conversation.seen)
        conversation.end()

    os.write(ends.typed, b"~.")
    ends.end_input()
    outcome = run(ends, SessionWish("cat", escape_character=b"~"), server)
    assert outcome.conversation.data == b"~."
    assert outcome.ending == Ending(0)


# --------------------------------------------------------------------------- no session


@asynccontextmanager
async def waiting() -> AsyncIterator[tuple[asyncio.Task[Ending], asyncio.Future[str]]]:
    gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        yield group.create_task(wait_without_session(gone, Log())), gone


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 255)])
def test_without_session_sigterm_is_a_good_end(number: int, status: int) -> None:
    async def wait() -> Ending:
        async with waiting() as (task, _):
            await asyncio.sleep(0)
            os.kill(os.getpid(), number)
        return task.result()

    assert asyncio.run(wait()) == Ending(status, signal_number=number)


def test_without_session_the_end_of_the_connection_has_no_status() -> None:
    async def wait() -> Ending:
        async with waiting() as (task, gone):
            await asyncio.sleep(0)
            gone.set_result("lost")
        return task.result()

    assert asyncio.run(wait()) == Ending(None)


def test_extension_bits_decide_about_the_break(tty_ends: TerminalEnds) -> None:
    few = Extension.EOF | Extension.REPLY
    wish = SessionWish(terminal=terminal(), escape_character=b"~")

    async def server(conversation: FakeConversation) -> None:
        conversation.accept(True, True)
        os.write(tty_ends.master, b"~B\rdone")
        await conversation.until(lambda: conversation.data.endswith(b"done"))
        conversation.end()

    run(tty_ends, wish, server, PeerTraits(few, few))
    assert b"this server knows no BREAK" in tty_ends.results()[1]
