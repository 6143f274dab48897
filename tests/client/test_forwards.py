"""Forwardings of the client against a server of the test: ours, and one that is taken for Go's."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from sshoq.client.channel_openings import opening_for
from sshoq.client.display import ForwardedDisplay
from sshoq.client.forwards import Forwards, forwarding
from sshoq.client.log import Failure, Log
from sshoq.client.opening import ClientConversation, refuse_unasked
from sshoq.client.run_context import RunContext
from sshoq.config.forward_spec import Forward
from sshoq.config.options import Options
from sshoq.config.resolve import resolve
from sshoq.config.surroundings import Paths, Surroundings
from sshoq.config.usage import DEBUG1
from sshoq.protocol.extensions import NONE, OURS, Extension
from sshoq.protocol.messages import (
    X11,
    AgentConnection,
    ChannelOpening,
    DirectStreamlocal,
    DirectTcp,
    DirectTcpip,
    ForwardedStreamlocal,
    ForwardedTcpip,
    Listening,
    OpenReverseTcp,
    RefusalReason,
    RequestReverseTcp,
    Session,
    StreamlocalForward,
    TcpipForward,
)
from sshoq.protocol.outcome import Unsupported
from sshoq.protocol.version import GO_IMPLEMENTATION, Version
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused
from sshoq.wire import IPPort, put_string
from tests.forwarding.test_x11 import setup
from tests.pair import Party, logged_in, read_all, run
from tests.processes import wait_until

GO_VERSION = Version((3, 0), "alpha-00", GO_IMPLEMENTATION, (0, 2, 1))


def options_of(*words: str) -> Options:
    paths = Paths("/nonexistent", user="/nonexistent", system="/nonexistent")
    surroundings = Surroundings({}, paths, user="me", uid=0, home="/home/me", host="here.test")
    return resolve([*words, "host"], surroundings=surroundings).options


class Client:
    """What forwardings need of the client's conversation."""

    def __init__(self, party: Party) -> None:
        self.conversation = party.conversation
        self.on_channel: Callable[[Channel], None] = refuse_unasked
        party.on_channel = lambda channel: self.on_channel(channel)


class There:
    def __init__(
        self, forwards: Forwards, client: Party, server: Party, lines: list[str]
    ) -> None:
        self.forwards = forwards
        self.client = client
        self.server = server
        self.lines = lines

    async def next(self) -> Channel:
        return await self.server.arrived.get()

    def open(self, opening: ChannelOpening) -> Channel:
        return self.server.conversation.open_channel(opening)

    async def refusal(self, opening: ChannelOpening) -> int:
        with pytest.raises(ChannelRefused) as caught:
            await self.open(opening).opened()
        return caught.value.reason

    @property
    def complaints(self) -> list[str]:
        return [line for line in self.lines if not line.startswith("debug")]


@asynccontextmanager
async def forwards(
    *words: str,
    extensions: Extension = OURS,
    agent: str | None = None,
    display: ForwardedDisplay | None = None,
) -> AsyncIterator[There]:
    lines: list[str] = []
    log = Log(DEBUG1, lambda level, line: lines.append(line))
    async with logged_in(extensions, extensions) as (party, server):
        if extensions is NONE:
            traits = party.conversation.state.traits
            traits.learn(None, OURS)
            traits.version = GO_VERSION
        client = cast(ClientConversation, Client(party))
        async with forwarding(RunContext(client, options_of(*words), log, agent, display)) as made:
            if extensions is NONE:  # a Go server may open channels once it has seen one
                party.conversation.open_channel(Session())
                await server.arrived.get()
            yield There(made, party, server, lines)


def port_free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def connect(port: int) -> socket.socket:
    end = socket.create_connection(("127.0.0.1", port))
    end.setblocking(False)
    return end


async def receive(end: socket.socket, count: int | None = None) -> bytes:
    """`count` bytes, or all."""
    loop, parts = asyncio.get_running_loop(), bytearray()
    while count is None or len(parts) < count:
        data = await loop.sock_recv(end, 65536)
        if not data:
            break
        parts += data
    return bytes(parts)


async def send(end: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(end, data)


# --------------------------------------------------------------------------- from here to there


def test_a_caller_gets_a_channel_and_need_not_wait_for_the_answer() -> None:
    async def main() -> None:
        port = port_free()
        async with forwards("-L", f"127.0.0.1:{port}:far.test:80") as there:
            await there.forwards.local.listen()
            with connect(port) as caller:
                await send(caller, b"question")
                caller.shutdown(socket.SHUT_WR)
                channel = await there.next()
                name = caller.getsockname()
                assert channel.state.opening == DirectTcpip("far.test", 80, *name)
                assert await read_all(channel) == b"question"
                channel.confirm()
                await channel.write(b"answer")
                channel.finish()
                assert await receive(caller) == b"answer"
            await there.forwards.drained()

    run(main)


def test_a_go_server_is_told_an_address() -> None:
    async def main() -> None:
        port = port_free()
        words = ("-L", f"127.0.0.1:{port}:localhost:80")
        async with forwards(*words, extensions=NONE) as there:
            await there.forwards.local.listen()
            with connect(port):
                opening = (await there.next()).state.opening
                assert opening in (
                    DirectTcp(IPPort("127.0.0.1", 80)),
                    DirectTcp(IPPort("::1", 80)),
                )

    run(main)


def test_what_a_go_server_cannot_be_told_is_said_before_anything_hangs() -> None:
    async def main() -> None:
        port = port_free()
        words = ("-L", f"127.0.0.1:{port}:/run/s")
        async with forwards(*words, extensions=NONE) as there:
            await there.forwards.local.listen()
            assert there.complaints == [
                "/run/s: this server forwards no Unix sockets",
                "Could not request local forwarding.",
            ]
            with pytest.raises(Unsupported):
                traits = there.forwards.local._traits
                await opening_for(traits, Forward(connect_path="/run/s"))

    run(main)


@pytest.mark.parametrize(
    ("reason", "text", "line"),
    [
        (RefusalReason.CONNECT_FAILED, "Connection refused", "connect failed: Connection refused"),
        (1, "open failed", "administratively prohibited: open failed"),
        (4, "", "resource shortage"),
        (77, "odd", "unknown reason: odd"),
    ],
)
def test_a_refusal_is_told_and_the_caller_let_go(reason: int, text: str, line: str) -> None:
    async def main() -> None:
        port = port_free()
        async with forwards("-L", f"127.0.0.1:{port}:far.test:80") as there:
            await there.forwards.local.listen()
            for _ in range(2):
                with connect(port) as caller:
                    (await there.next()).refuse(reason, text)
                    with suppress(ConnectionResetError):
                        assert await receive(caller) == b""
                await there.forwards.drained()
            assert there.complaints == [f"channel 1: open failed: {line}"] * 2

    run(main)


def test_a_unix_socket_here_goes_with_us(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def main() -> None:
        async with forwards("-L", f"{path}:/run/far") as there:
            await there.forwards.local.listen()
            assert path.stat().st_mode & 0o777 == 0o600
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(path))
                assert (await there.next()).state.opening == DirectStreamlocal("/run/far")
        assert not path.exists()

    run(main)


@pytest.mark.parametrize("exits", [True, False])
def test_a_busy_port_is_told_in_openssh_words(exits: bool) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            words = ["-L", f"127.0.0.1:{port}:far.test:80"]
            words += ["-o", "ExitOnForwardFailure=yes"] if exits else []
            async with forwards(*words) as there:
                expected = [
                    f"bind [127.0.0.1]:{port}: Address already in use",
                    f"channel_setup_fwd_listener_tcpip: cannot listen to port: {port}",
                ]
                if exits:
                    with pytest.raises(Failure, match="Could not request local forwarding"):
                        await there.forwards.local.listen()
                else:
                    await there.forwards.local.listen()
                    expected.append("Could not request local forwarding.")
                assert there.complaints == expected

    run(main)


def test_who_gets_one_of_several_ports_is_told_of_the_others_alone() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            words = ("-L", f"127.0.0.1:{port}:far.test:80", "-D", f"127.0.0.1:{port_free()}")
            async with forwards(*words) as there:
                await there.forwards.local.listen()
                assert there.complaints == [
                    f"bind [127.0.0.1]:{port}: Address already in use",
                    f"channel_setup_fwd_listener_tcpip: cannot listen to port: {port}",
                ]

    run(main)


def test_socks_answers_when_the_server_has() -> None:
    async def main() -> None:
        port = port_free()
        async with forwards("-D", f"127.0.0.1:{port}") as there:
            await there.forwards.local.listen()
            for granted in (True, False):
                with connect(port) as caller:
                    await send(caller, b"\x05\x01\x00")
                    assert await receive(caller, 2) == b"\x05\x00"
                    await send(caller, b"\x05\x01\x00\x03\x08far.test\x00\x50ahead")
                    channel = await there.next()
                    opening = channel.state.opening
                    assert isinstance(opening, DirectTcpip)
                    assert (opening.host, opening.port) == ("far.test", 80)
                    if granted:
                        channel.confirm()
                        assert (await receive(caller, 10))[:2] == b"\x05\x00"
                        assert bytes(await channel.read()) == b"ahead"
                    else:
                        channel.refuse(RefusalReason.CONNECT_FAILED, "Connection refused")
                        assert (await receive(caller))[:2] == b"\x05\x05"
            [complaint] = there.complaints
            assert complaint.endswith(": open failed: connect failed: Connection refused")

    run(main)


def test_socks_turns_away_what_it_does_not_do() -> None:
    async def main() -> None:
        port = port_free()
        async with forwards("-D", f"127.0.0.1:{port}") as there:
            await there.forwards.local.listen()
            for question, answer in (
                (b"GET / HTTP/1.0\r\n\r\n", b""),
                (b"\x05\x01\x02", b"\x05\xff"),
                (b"", b""),
            ):
                with connect(port) as caller:
                    await send(caller, question)
                    caller.shutdown(socket.SHUT_WR)
                    with suppress(ConnectionResetError):
                        assert await receive(caller) == answer
            await there.forwards.drained()

    run(main)


# --------------------------------------------------------------------------- from there to here


@pytest.fixture
def target() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    return server


async def answer_listener(there: There, port: int = 0) -> Channel:
    channel = await there.next()
    channel.confirm()
    channel.request(Listening(port))
    return channel


def test_a_remote_listener_leads_to_its_target_and_nowhere_else(target: socket.socket) -> None:
    where = target.getsockname()[1]

    async def main() -> None:
        async with forwards("-R", f"8080:127.0.0.1:{where}") as there:
            async with asyncio.TaskGroup() as group:
                group.create_task(there.forwards.remote.ask())
                listener = await answer_listener(there, 8080)
            assert listener.state.opening == TcpipForward("localhost", 8080)
            number = listener.stream_id
            channel = there.open(ForwardedTcpip(number, "192.0.2.1", 5))
            far, _ = await asyncio.get_running_loop().sock_accept(target)
            with far:
                await channel.write(b"hello")
                channel.finish()
                assert await receive(far) == b"hello"
            for opening in (
                ForwardedTcpip(number + 4, "192.0.2.1", 5),
                ForwardedStreamlocal(0),
                OpenReverseTcp(IPPort("127.0.0.1", where)),
                AgentConnection(),
            ):
                assert await there.refusal(opening) == 1

    with target:
        run(main)


def test_a_target_that_refuses_is_told_on_both_sides() -> None:
    port = port_free()

    async def main() -> None:
        async with forwards("-R", f"8080:127.0.0.1:{port}") as there:
            async with asyncio.TaskGroup() as group:
                group.create_task(there.forwards.remote.ask())
                listener = await answer_listener(there, 8080)
            opening = ForwardedTcpip(listener.stream_id, "192.0.2.1", 5)
            assert await there.refusal(opening) == RefusalReason.CONNECT_FAILED
            assert there.complaints == [f"connect_to 127.0.0.1 port {port}: failed."]

    run(main)


@pytest.mark.parametrize(
    ("spec", "opening", "line"),
    [
        ("0:far.test:80", TcpipForward("localhost", 0), "to far.test:80"),
        ("*:0:far.test:80", TcpipForward("", 0), "to far.test:80"),
        ("0", TcpipForward("localhost", 0), "to socks:0"),
        ("[::1]:8080:far.test:80", TcpipForward("::1", 8080), None),
        ("/far/s:/near/s", StreamlocalForward("/far/s"), None),
    ],
)
def test_what_is_asked_for_and_told(spec: str, opening: ChannelOpening, line: str | None) -> None:
    async def main() -> None:
        async with forwards("-R", spec) as there:
            async with asyncio.TaskGroup() as group:
                group.create_task(there.forwards.remote.ask())
                assert (await answer_listener(there, 43210)).state.opening == opening
            told = [f"Allocated port 43210 for remote forward {line}"] if line else []
            assert there.complaints == told

    run(main)


@pytest.mark.parametrize("exits", [True, False])
@pytest.mark.parametrize(
    ("spec", "what"), [("8080:far.test:80", "port 8080"), ("/s:far.test:80", "path /s")]
)
def test_a_listener_that_is_not_had(spec: str, what: str, exits: bool) -> None:
    async def refuse(there: There) -> None:
        (await there.next()).refuse(RefusalReason.CONNECT_FAILED, "Address already in use")

    async def main() -> None:
        words = ["-R", spec] + (["-o", "ExitOnForwardFailure=yes"] if exits else [])
        async with forwards(*words) as there, asyncio.TaskGroup() as group:
            group.create_task(refuse(there))
            complaint = f"remote port forwarding failed for listen {what}"
            if exits:
                with pytest.raises(Failure, match=f"Error: {re.escape(complaint)}"):
                    await there.forwards.remote.ask()
            else:
                await there.forwards.remote.ask()
                assert there.complaints == [f"Warning: {complaint}"]

    run(main)


def test_a_go_server_names_the_target_back(target: socket.socket) -> None:
    where = target.getsockname()[1]

    async def main() -> None:
        words = ("-R", f"8080:127.0.0.1:{where}")
        async with forwards(*words, extensions=NONE) as there:
            async with asyncio.TaskGroup() as group:
                group.create_task(there.forwards.remote.ask())
                asked = await there.next()
                asked.confirm()
            named = IPPort("127.0.0.1", where)
            assert asked.state.opening == RequestReverseTcp(IPPort("127.0.0.1", 8080), named)
            for opening in (
                OpenReverseTcp(named),
                OpenReverseTcp(IPPort("::ffff:127.0.0.1", where)),
                OpenReverseTcp(None),  # old versions do not say, and there is only one
            ):
                channel = there.open(opening)
                far, _ = await asyncio.get_running_loop().sock_accept(target)
                far.close()
                await channel.opened()
            assert await there.refusal(OpenReverseTcp(IPPort("127.0.0.1", where + 1))) == 1
            with pytest.raises(ChannelClosed):  # a refusal would leave its program waiting
                await there.open(AgentConnection()).opened()

    with target:
        run(main)


@pytest.mark.parametrize("spec", ["0:127.0.0.1:80", "/s:127.0.0.1:80"])
def test_what_a_go_server_cannot_listen_on_is_said(spec: str) -> None:
    async def main() -> None:
        async with forwards("-R", spec, extensions=NONE) as there:
            await there.forwards.remote.ask()
            assert "this server cannot" in there.complaints[0]
            assert there.complaints[1].startswith("Warning: remote port forwarding failed")

    run(main)


def test_a_name_as_target_of_a_go_listener_gets_a_stand_in(tmp_path: Path) -> None:
    path = str(tmp_path / "near")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as target:
            target.bind(path)
            target.listen()
            target.setblocking(False)
            async with forwards("-R", f"8080:{path}", extensions=NONE) as there:
                async with asyncio.TaskGroup() as group:
                    group.create_task(there.forwards.remote.ask())
                    asked = await there.next()
                    asked.confirm()
                opening = asked.state.opening
                assert isinstance(opening, RequestReverseTcp)
                await there.open(OpenReverseTcp(opening.target)).opened()
                (await asyncio.get_running_loop().sock_accept(target))[0].close()

    run(main)


async def socks_through(
    there: There, listener: Channel, port: int, host: bytes = b""
) -> tuple[Channel, bytes]:
    channel = there.open(ForwardedTcpip(listener.stream_id, "192.0.2.1", 5))
    where = b"\0\0\0\1me\0" + host + b"\0" if host else b"\x7f\0\0\1me\0"
    request = b"\x04\x01" + port.to_bytes(2, "big") + where + b"ahead"
    await channel.write(request)
    return channel, bytes(await channel.read())


def test_remote_socks_dials_from_here(target: socket.socket) -> None:
    where, closed = target.getsockname()[1], port_free()

    async def main() -> None:
        permitted = f"PermitRemoteOpen=127.0.0.1:{where} 127.0.0.1:{closed}"
        async with forwards("-R", "1080", "-o", permitted) as there:
            async with asyncio.TaskGroup() as group:
                group.create_task(there.forwards.remote.ask())
                listener = await answer_listener(there, 1080)
            channel, answer = await socks_through(there, listener, where)
            assert answer[:2] == b"\0\x5a"
            far, _ = await asyncio.get_running_loop().sock_accept(target)
            with far:
                assert await receive(far, 5) == b"ahead"
            channel.close()
            for port in (closed, 9):
                channel, answer = await socks_through(there, listener, port)
                assert answer[:2] == b"\0\x5b"
                assert await channel.read() == b""
            assert "not permitted" in there.complaints[-1]

    with target:
        run(main)


@pytest.mark.parametrize("host", [b"a" * 64, b"\xff", b".", b"a..b", "ä".encode() * 60])
def test_a_name_that_can_be_none_is_one_callers_failure_and_not_the_end(host: bytes) -> None:
    """Whoever is at the server may send it."""

    async def main() -> None:
        async with forwards("-R", "1080") as there:
            async with asyncio.TaskGroup() as group:
                group.create_task(there.forwards.remote.ask())
                listener = await answer_listener(there, 1080)
            for _ in range(2):
                _, answer = await socks_through(there, listener, 80, host)
                assert answer[:2] == b"\0\x5b"

    run(main)


def test_the_agent_is_reached_by_those_who_may(tmp_path: Path) -> None:
    path = str(tmp_path / "agent")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.bind(path)
            agent.listen()
            agent.setblocking(False)
            for extensions in (OURS, NONE):
                async with forwards(extensions=extensions, agent=path) as there:
                    channel = there.open(AgentConnection())
                    near, _ = await asyncio.get_running_loop().sock_accept(agent)
                    near.setblocking(False)
                    await take_note(near)
                    await channel.opened()
                    await channel.write(b"list")
                    assert await receive(near, 4) == b"list"
                    near.close()
                    assert await channel.read() == b""
                    assert channel.was_reset == (extensions is NONE)

    run(main)


async def take_note(caller: socket.socket, answer: bytes = b"\0\0\0\1\x05") -> None:
    """As an agent that knows nothing of those who call from far away."""
    note = await receive(caller, 4)
    left = 4 + int.from_bytes(note[:4], "big") - len(note)
    note += await receive(caller, left) if left else b""
    assert note[4:].startswith(b"\x1b\0\0\0\x18session-bind@openssh.com")
    await asyncio.get_running_loop().sock_sendall(caller, answer)


@pytest.mark.parametrize("answer", [b"", b"\0\0\0\1\x06\0", b"\0\1\0\0\x06"])
def test_an_agent_that_makes_no_sense_is_refused(tmp_path: Path, answer: bytes) -> None:
    path = str(tmp_path / "agent")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.bind(path)
            agent.listen()
            agent.setblocking(False)
            async with forwards(agent=path) as there:
                refusal = asyncio.ensure_future(there.refusal(AgentConnection()))
                near, _ = await asyncio.get_running_loop().sock_accept(agent)
                near.setblocking(False)
                await take_note(near, answer)
                near.shutdown(socket.SHUT_WR)
                assert await refusal == 1
                near.close()

    run(main)


def test_the_agent_loads_no_libraries_for_those_at_the_server(tmp_path: Path) -> None:
    """Whoever is root there could have code of his choice run here, else."""
    path, log = str(tmp_path / "agent"), tmp_path / "log"

    async def main() -> None:
        async with forwards(agent=path) as there:
            channel = there.open(AgentConnection())
            await channel.opened()
            request = b"\x14" + put_string(b"/usr/lib/libany.so") + put_string(b"")
            await channel.write(put_string(request))
            assert bytes(await channel.read()) == b"\0\0\0\1\x05"
            channel.close()

    with log.open("wb") as written:
        agent = subprocess.Popen(
            ["ssh-agent", "-d", "-a", path], stdout=subprocess.DEVNULL, stderr=written
        )
    try:
        wait_until(lambda: is_listening(path), 30, "the agent listens")
        run(main)
    finally:
        agent.terminate()
        agent.wait(timeout=30)
    assert "remote addition of providers is disabled" in log.read_text()


def is_listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(path) == 0


def test_an_agent_that_is_gone_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with forwards(agent=str(tmp_path / "gone")) as there:
            assert await there.refusal(AgentConnection()) == 1

    run(main)


# --------------------------------------------------------------------------- X11

SESSION = 4


@asynccontextmanager
async def display_at(path: Path, *more: str) -> AsyncIterator[tuple[There, socket.socket, bytes]]:
    """Forwardings with a display at that socket, its server's listener, and the cookie for session
    SESSION."""
    lines: list[str] = []
    words = ("-Y", "-o", "XAuthLocation=/nonexistent/xauth", *more)
    log = Log(DEBUG1, lambda level, line: lines.append(line))
    display = ForwardedDisplay(str(path), options_of(*words), log)
    assert await display.prepare()
    cookie = bytes.fromhex(display.request_for(SESSION).cookie)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        async with forwards(*words, display=display) as there:
            yield there, listener, cookie


def test_who_shows_the_stand_in_is_led_to_the_display(tmp_path: Path) -> None:
    async def main() -> None:
        async with display_at(tmp_path / "X") as (there, listener, cookie):
            channel = there.open(X11(SESSION, "127.0.0.1", 40000))
            said = setup(cookie=cookie) + b"more"
            await channel.write(said[:20])
            await channel.write(said[20:])
            near, _ = await asyncio.get_running_loop().sock_accept(listener)
            with near:
                got = await receive(near, len(said))
                assert (len(got), got[-4:], got[:32]) == (len(said), b"more", said[:32])
                assert cookie not in got
                await send(near, b"welcome")
                assert await channel.read() == b"welcome"
                channel.finish()
                assert await receive(near) == b""

    run(main)


def test_who_shows_another_cookie_never_reaches_the_display(tmp_path: Path) -> None:
    async def main() -> None:
        async with display_at(tmp_path / "X") as (there, listener, cookie):
            channel = there.open(X11(SESSION, "127.0.0.1", 40000))
            await channel.write(setup(cookie=bytes(len(cookie))))
            assert await channel.read() == b""
            assert channel.was_reset
            with pytest.raises(BlockingIOError):
                listener.accept()
            line = "X11 connection rejected because of wrong authentication."
            assert there.complaints == [line]

    run(main)


def test_only_sessions_that_asked_have_the_display(tmp_path: Path) -> None:
    async def main() -> None:
        async with display_at(tmp_path / "X") as (there, _, _):
            assert await there.refusal(X11(SESSION + 4, "127.0.0.1", 40000)) == 1
        async with forwards("-L", f"{port_free()}:x:1") as there:
            assert await there.refusal(X11(SESSION, "127.0.0.1", 40000)) == 1

    run(main)


def test_a_display_that_is_gone_closes_the_channel(tmp_path: Path) -> None:
    async def main() -> None:
        async with display_at(tmp_path / "X") as (there, listener, cookie):
            listener.close()
            channel = there.open(X11(SESSION, "127.0.0.1", 40000))
            await channel.write(setup(cookie=cookie))
            assert await channel.read() == b""
            assert channel.was_reset

    run(main)
