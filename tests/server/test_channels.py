"""Sessions in the network process: what clients ask, Go's and ours, against programs of the test.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from sshoq.protocol.extensions import NONE, OURS, Extension
from sshoq.protocol.messages import (
    MAX_COMMAND,
    EndOfWrite,
    Env,
    Exec,
    ExitSignal,
    ExitStatus,
    PtyReq,
    Session,
    Shell,
    Signal,
    UnknownChannel,
    WindowChange,
)
from sshoq.server.channels import MAX_VARIABLES, NOT_ENTERED, ChannelHost, Login
from sshoq.server.link import NotEntered
from sshoq.transport.channel import Channel, ChannelRefused, SinkClosed
from sshoq.transport.stream_halves import Stream
from tests.golden_replay import Transcript
from tests.pair import Party, logged_in, run
from tests.server.fake_leader import Ending, FakeLogin, ProgramBody, Streams


class Served:
    """A client's party, and the login of the server it talks to."""

    def __init__(self, client: Party, server: Party, login: FakeLogin) -> None:
        self.client = client
        self.server = server
        self.login = login

    def open_session(self) -> Channel:
        return self.client.conversation.open_channel(Session())


@asynccontextmanager
async def served(body: ProgramBody, client_extensions: Extension = OURS) -> AsyncIterator[Served]:
    login = FakeLogin(body)
    host = ChannelHost(cast(Login, login))
    async with logged_in(client_extensions) as (client, server), asyncio.TaskGroup() as group:

        def accept(channel: Channel) -> None:
            session = host.accept(channel)
            if session is not None:
                serving.append(group.create_task(host.serve(session)))

        serving: list[asyncio.Task[None]] = []
        server.on_channel = accept
        yield Served(client, server, login)
        for task in serving:
            task.cancel()
        login.the_leader.close()


async def echo(streams: Streams) -> Ending:
    await streams.stdout.write(await streams.read_all())
    await streams.stderr.write(b"done")
    return Ending(7)


async def wait_for_ever(streams: Streams) -> Ending:
    await asyncio.Event().wait()
    return Ending()


async def outcome(channel: Channel) -> tuple[bytes, bytes, object]:
    """stdout, stderr, and how the program ended."""
    out, err = bytearray(), bytearray()
    while data := await channel.read():
        out += data
    while data := await channel.read_extended():
        err += data
    asked = await channel.next_request()
    return bytes(out), bytes(err), asked.request if asked is not None else None


def test_a_command_gets_its_input_and_gives_output_and_status() -> None:
    async def main() -> None:
        async with served(echo) as there:
            channel = there.open_session()
            assert await channel.ask(Exec("cat"))
            await channel.write(b"hello")
            channel.write_eof()
            assert await outcome(channel) == (b"hello", b"done", ExitStatus(7))

    run(main)


@pytest.mark.parametrize("extensions", [OURS, NONE], ids=["ours", "go"])
def test_why_the_login_was_not_opened_is_told_in_the_place_of_the_program(
    extensions: Extension,
) -> None:
    async def main() -> None:
        async with served(wait_for_ever, extensions) as there:
            there.login.not_entered = NotEntered("session not opened", "too many\nlogins\n")
            plain = there.open_session()
            plain.request(Exec("scp -f x"))
            assert await outcome(plain) == (b"", b"too many\nlogins\n", ExitStatus(NOT_ENTERED))
            on_terminal = there.open_session()
            on_terminal.request(PtyReq("xterm", 80, 24))
            on_terminal.request(Shell())
            assert await outcome(on_terminal) == (
                b"too many\r\nlogins\r\n",
                b"",
                ExitStatus(NOT_ENTERED),
            )

    run(main)


def test_a_program_that_a_signal_ended_is_reported_by_its_signal() -> None:
    async def dies(streams: Streams) -> Ending:
        return Ending(signal="KILL")

    async def main() -> None:
        async with served(dies) as there:
            channel = there.open_session()
            channel.request(Exec("kill -9 $$"))
            assert (await outcome(channel))[2] == ExitSignal("KILL")

    run(main)


def test_a_go_client_is_told_of_a_signal_without_harm() -> None:
    """C1 of the Go server: its own process dies of that."""

    async def dies(streams: Streams) -> Ending:
        return Ending(signal="TERM")

    async def main() -> None:
        async with served(dies, NONE) as there:
            channel = there.open_session()
            channel.request(Exec("kill $$"))
            assert (await outcome(channel))[2] == ExitSignal("TERM")

    run(main)


def test_a_terminal_has_the_size_that_was_asked_for_and_follows_it() -> None:
    sizes: list[os.terminal_size] = []
    changed = asyncio.Event()

    async def look(streams: Streams) -> Ending:
        sizes.append(os.get_terminal_size(streams.stdin.fileno()))
        await streams.stdout.write(b"ready")
        await changed.wait()
        while (size := os.get_terminal_size(streams.stdin.fileno())) == sizes[0]:
            await asyncio.sleep(0)
        sizes.append(size)
        return Ending()

    async def main() -> None:
        async with served(look) as there:
            channel = there.open_session()
            channel.request(PtyReq("xterm", 80, 24))
            channel.request(WindowChange(91, 31))
            channel.request(Shell())
            assert await channel.read() == b"ready"
            assert channel.ask(WindowChange(132, 43)) is not None
            changed.set()
            assert (await outcome(channel))[2] == ExitStatus(0)

    run(main)
    assert [tuple(size) for size in sizes] == [(91, 31), (132, 43)]


@pytest.mark.parametrize("extensions", [OURS, NONE])
def test_a_resize_without_a_terminal_means_nothing(extensions: Extension) -> None:
    """C5 of the Go server; the Go client does it whenever its window changes during a command."""

    async def take_one(streams: Streams) -> Ending:
        await streams.stdout.write(await streams.stdin.read())
        return Ending()

    async def main() -> None:
        async with served(take_one, extensions) as there:
            channel = there.open_session()
            channel.request(Exec("head -c1"))
            resize = bytes.fromhex("40620d77696e646f772d6368616e67650040842b0000")
            there.client.conversation.write(channel.stream_id, [resize])
            await channel.write(b"x")
            assert await outcome(channel) == (b"x", b"", ExitStatus(0))

    run(main)


def test_environment_and_signals_reach_the_program() -> None:
    seen: list[object] = []

    async def look(streams: Streams) -> Ending:
        assert streams.start is not None
        seen.append(streams.start.environment)
        await streams.stdout.write(b"ready")
        seen.append(await streams.signals.get())
        return Ending()

    async def main() -> None:
        async with served(look) as there:
            channel = there.open_session()
            channel.request(Env("LANG", "C.UTF-8"))
            channel.request(Exec("true"))
            assert await channel.read() == b"ready"
            channel.request(Signal("USR1"))
            assert (await outcome(channel))[2] == ExitStatus(0)

    run(main)
    assert seen == [(b"LANG=C.UTF-8",), "USR1"]


def test_too_many_variables_are_refused_and_the_rest_kept() -> None:
    async def main() -> None:
        async with served(echo) as there:
            channel = there.open_session()
            answers = [channel.ask(Env(f"V{n}", "x")) for n in range(MAX_VARIABLES + 2)]
            granted = [await answer for answer in answers]
            assert granted == [True] * MAX_VARIABLES + [False] * 2

    run(main)


def test_a_command_too_long_with_its_environment_is_refused_and_the_rest_goes_on() -> None:
    """Each within its own bound; together no message between processes holds them."""

    async def main() -> None:
        async with served(echo) as there:
            channel = there.open_session()
            for number in range(4):
                assert await channel.ask(Env(f"V{number}", "x" * 16000)) is True
            assert await channel.ask(Exec("x" * MAX_COMMAND)) is False
            assert await channel.ask(Exec("cat")) is True
            channel.write_eof()
            assert (await outcome(channel))[2] == ExitStatus(7)

    run(main)


def test_what_cannot_be_had_is_answered_and_the_session_goes_on() -> None:
    async def main() -> None:
        async with served(echo) as there:
            there.login.the_leader.refuse_pty = True
            channel = there.open_session()
            assert await channel.ask(PtyReq("xterm", 80, 24)) is False
            assert await channel.ask(Exec("cat")) is True
            channel.write_eof()
            assert (await outcome(channel))[2] == ExitStatus(7)

    run(main)


def test_a_second_program_is_refused() -> None:
    async def main() -> None:
        async with served(echo) as there:
            channel = there.open_session()
            assert await channel.ask(Exec("cat")) is True
            assert await channel.ask(Exec("cat")) is False
            channel.write_eof()
            assert (await outcome(channel))[2] == ExitStatus(7)

    run(main)


def test_sessions_beyond_the_limit_are_refused() -> None:
    async def main() -> None:
        async with served(wait_for_ever) as there:
            there.login.max_sessions = 2
            channels = [there.open_session() for _ in range(3)]
            for channel in channels[:2]:
                assert await channel.ask(Exec("sleep")) is True
            with pytest.raises(ChannelRefused, match="open failed"):
                await channels[2].opened()
            assert there.login.lines == ["no more sessions"]

    run(main)


def test_channel_types_that_are_not_served_are_refused() -> None:
    async def main() -> None:
        async with served(echo) as there:
            channel = there.client.conversation.open_channel(UnknownChannel("later"))
            with pytest.raises(ChannelRefused):
                await channel.opened()

    run(main)


def test_a_client_that_closes_the_channel_hangs_up_the_program() -> None:
    async def main() -> None:
        async with served(wait_for_ever) as there:
            channel = there.open_session()
            assert await channel.ask(Exec("sleep")) is True
            channel.close()
            while not there.login.the_leader.closed:
                await asyncio.sleep(0)

    run(main)


def test_a_client_that_only_ends_its_side_gets_the_rest() -> None:
    async def main() -> None:
        async with served(echo) as there:
            channel = there.open_session()
            channel.request(Exec("cat"))
            await channel.write(b"all of it")
            channel.finish()
            assert await outcome(channel) == (b"all of it", b"done", ExitStatus(7))

    run(main)


def test_output_that_nobody_wants_ends_the_writer_by_a_broken_pipe() -> None:
    async def yes(streams: Streams) -> Ending:
        try:
            while True:
                await streams.stdout.write(b"y\n" * 1000)
        except Exception as error:
            return Ending(signal="PIPE" if "Broken pipe" in str(error) else "ABRT")

    async def main() -> None:
        async with served(yes) as there:
            channel = there.open_session()
            channel.request(Exec("yes"))
            assert await channel.read()
            channel.stop_reading(0x100)
            while not there.login.the_leader.closed:
                await asyncio.sleep(0)

    run(main)


def test_output_that_nobody_reads_breaks_the_pipe_and_errors_and_status_still_come() -> None:
    async def yes(streams: Streams) -> Ending:
        try:
            while True:
                await streams.stdout.write(b"y\n" * 1000)
        except SinkClosed as broken:
            await streams.stderr.write(str(broken).encode())
        return Ending(3)

    async def main() -> None:
        async with served(yes) as there:
            channel = there.open_session()
            channel.request(Exec("yes"))
            assert await channel.read()
            channel.request(EndOfWrite())
            channel.request(EndOfWrite())  # once more does no harm
            _, errors, ending = await outcome(channel)
            assert (errors, ending) == (b"Broken pipe", ExitStatus(3))

    run(main)


def test_a_terminals_output_goes_before_that_of_other_sessions() -> None:
    async def main() -> None:
        async with served(echo) as there:
            plain, typed = there.open_session(), there.open_session()
            typed.request(PtyReq("vt100", 80, 24, 0, 0, b""))
            for channel in (plain, typed):
                assert await channel.ask(Exec("cat"))
            streams = there.server.conversation.engine._connection._streams
            halves = [cast(Stream, streams[each.stream_id]) for each in (plain, typed)]
            assert [stream.is_urgent for stream in halves] == [False, True]

    run(main)


def test_a_terminal_has_no_end_that_could_be_closed() -> None:
    async def main() -> None:
        async with served(echo) as there:
            channel = there.open_session()
            channel.request(PtyReq("vt100", 80, 24, 0, 0, b""))
            assert await channel.ask(Exec("cat"))
            assert not await channel.ask(EndOfWrite())

    run(main)


HOSTILE = {
    "message EOF from a Go client": b"\x40\x60",
    "message CLOSE": b"\x40\x61",
    "unknown message": b"\x7f\xff",
    "a request nobody knows": bytes.fromhex("4062") + b"\x11keepalive@go.test\x01",
    "a string of 2^62 bytes": bytes.fromhex("405effffffffffffffff"),
    "a request name of 2^40 bytes": bytes.fromhex("4062c000010000000000"),
    "stderr from a client": bytes.fromhex("405f01026869"),
    "exit-status from a client": bytes.fromhex("40620b657869742d7374617475730000"),
    "data ahead of the program": bytes.fromhex("405e03") + b"ls\n",
    "an open-confirmation": bytes.fromhex("405b80007530"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_end_their_channel_and_nothing_else(name: str) -> None:
    async def main() -> None:
        async with served(echo, NONE) as there:
            conversation = there.client.conversation
            bad = there.open_session()
            await bad.opened()
            conversation.write(bad.stream_id, [HOSTILE[name]])
            while not (there.server.faults or there.login.lines):
                await asyncio.sleep(0)
            good = there.open_session()
            good.request(Exec("cat"))
            await good.opened()
            assert conversation.ended is None

    run(main)


@pytest.mark.parametrize("announced", [0, 3, 1 << 40])
def test_a_silly_largest_message_does_no_harm(announced: int) -> None:
    """C4: the Go server allocates what is announced, or sends empty messages for ever."""
    payload = os.urandom(100_000)

    async def big(streams: Streams) -> Ending:
        await streams.stdout.write(payload)
        return Ending()

    async def main() -> None:
        async with served(big) as there:
            conversation = there.client.conversation
            stream_id = conversation.engine.open_stream()
            state = conversation.state.open_channel(stream_id, Session())
            state.header.max_message = announced
            channel = conversation.channels[stream_id] = Channel(conversation, state)
            conversation.write(stream_id, [state.header.encode()])
            state._outgoing = type(state._outgoing).OPEN
            channel.request(Exec("big"))
            assert await outcome(channel) == (payload, b"", ExitStatus(0))

    run(main)


# --------------------------------------------------------------------------- replays


@pytest.mark.parametrize(
    "name",
    ["exec-ok", "exec-stderr-exit37", "exec-stdin", "exec-missing-127", "exec-exit255",
     "exec-large-output", "exec-large-input", "shell-pipe", "proxy-jump-inner"],
)  # fmt: skip
def test_a_recorded_go_client_is_served_as_the_go_server_served_it(name: str) -> None:
    transcript = Transcript(name)
    [stream] = transcript.channels
    asked = transcript.speech(stream, "client")
    told = transcript.speech(stream, "server")
    got = bytearray()

    async def act(streams: Streams) -> Ending:
        """The recorded program: it took that input and gave that output."""
        while len(got) < len(asked.data):
            got.extend(await streams.stdin.read())
        await streams.stdout.write(told.data)
        await streams.stderr.write(told.stderr)
        [ending] = told.requests
        assert isinstance(ending, ExitStatus)
        return Ending(ending.status)

    async def main() -> None:
        async with served(act, NONE) as there:
            conversation = there.client.conversation
            channel = there.open_session()
            written = transcript.written(stream, "client")
            assert asked.header is not None
            conversation.write(channel.stream_id, [written[len(asked.header.encode()) :]])
            out, err, ending = await outcome(channel)
            assert (out, err) == (told.data, told.stderr)
            assert [ending] == told.requests

    run(main)
    assert bytes(got) == asked.data
