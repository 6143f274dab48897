"""Forwarding in the network process: channels of our clients and of Go's, joined to sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from sshoq.protocol.channel import GO_MAX_MESSAGE
from sshoq.protocol.extensions import NONE, OURS, Extension
from sshoq.protocol.messages import (
    X11,
    AgentConnection,
    AgentReq,
    ChannelHeader,
    ChannelOpening,
    DirectStreamlocal,
    DirectTcp,
    DirectTcpip,
    Exec,
    ForwardedTcpip,
    Listening,
    OpenReverseTcp,
    RefusalReason,
    RequestReverseTcp,
    Session,
    Shell,
    TcpipForward,
    X11Req,
    read_header,
    unmapped,
)
from sshoq.server.channels import ChannelHost, Login
from sshoq.server.link import Refused
from sshoq.server.privsep import Dial, ListenForX11
from sshoq.transport.channel import Channel, ChannelRefused
from sshoq.wire import IPPort
from tests.golden_replay import Transcript
from tests.pair import Party, logged_in, read_all, run
from tests.server.fake_leader import Ending, FakeLeader, FakeLogin, Streams

TARGET = IPPort("192.0.2.1", 80)
MAPPED = IPPort("::ffff:192.0.2.1", 80)
LISTEN = IPPort("127.0.0.1", 0)
BLOB = bytes(range(256)) * 4096


class Served:
    """A client's party, and the leader of the server it talks to."""

    def __init__(self, client: Party, server: Party, login: FakeLogin) -> None:
        self.client = client
        self.server = server
        self.login = login

    @property
    def leader(self) -> FakeLeader:
        return self.login.the_leader

    def open(self, opening: ChannelOpening) -> Channel:
        return self.client.conversation.open_channel(opening)


async def until_killed(streams: Streams) -> Ending:
    await streams.read_all()
    return Ending()


@asynccontextmanager
async def served(client_extensions: Extension = OURS) -> AsyncIterator[Served]:
    login = FakeLogin(until_killed)
    host = ChannelHost(cast(Login, login))
    async with logged_in(client_extensions) as (client, server), asyncio.TaskGroup() as group:

        def accept(channel: Channel) -> None:
            accepted = host.accept(channel)
            if accepted is not None:
                login.start(host.serve(accepted))

        if client_extensions is NONE:
            server.conversation.state.traits.learn(None, OURS)  # as a Go client
        login.group = group
        login.open_channel = server.conversation.open_channel
        server.on_channel = accept
        yield Served(client, server, login)
        client.conversation.close()
        server.conversation.close()
        host.close()
        login.the_leader.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


async def receive_all(end: socket.socket) -> bytes:
    end.setblocking(False)
    loop, parts = asyncio.get_running_loop(), bytearray()
    while data := await loop.sock_recv(end, 65536):
        parts += data
    return bytes(parts)


@pytest.mark.parametrize(
    ("opening", "extensions", "dial"),
    [
        (DirectTcpip("far.test", 80, "127.0.0.1", 9), OURS, (Dial.TCP, "far.test", 80)),
        (DirectStreamlocal("/run/s"), OURS, (Dial.UNIX, "/run/s", 0)),
        (DirectTcp(TARGET), NONE, (Dial.TCP, "192.0.2.1", 80)),
        (DirectTcp(MAPPED), NONE, (Dial.TCP, "192.0.2.1", 80)),
    ],
)
def test_a_channel_is_joined_to_what_the_leader_dialled(
    opening: ChannelOpening, extensions: Extension, dial: tuple[int, str, int]
) -> None:
    async def main() -> None:
        async with served(extensions) as there:
            channel = there.open(opening)
            await channel.write(BLOB)
            channel.finish()
            target = await there.leader.targets.get()
            with target:
                assert await receive_all(target) == BLOB
                await asyncio.get_running_loop().sock_sendall(target, BLOB)
            assert await read_all(channel) == BLOB
            [asked] = there.leader.dialled
            assert (asked.kind, asked.host, asked.port) == dial

    run(main)


def test_half_close_by_the_target_leaves_the_way_there_open() -> None:
    async def main() -> None:
        async with served() as there:
            channel = there.open(DirectTcpip("far.test", 80))
            target = await there.leader.targets.get()
            with target:
                target.shutdown(socket.SHUT_WR)
                assert await read_all(channel) == b""
                await channel.write(b"still")
                channel.finish()
                assert await receive_all(target) == b"still"

    run(main)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Refused("Connection refused"), RefusalReason.CONNECT_FAILED),
        (
            Refused("open failed", is_prohibited=True),
            RefusalReason.ADMINISTRATIVELY_PROHIBITED,
        ),
    ],
)
@pytest.mark.parametrize("extensions", [OURS, NONE])
def test_what_cannot_be_dialled_is_refused(
    refusal: Refused, reason: int, extensions: Extension
) -> None:
    async def main() -> None:
        async with served(extensions) as there:
            there.leader.refusal = refusal
            opening = DirectTcp(TARGET) if extensions is NONE else DirectTcpip("h", 80)
            channel = there.open(opening)
            with pytest.raises(ChannelRefused) as caught:
                await channel.opened()
            assert (caught.value.reason, caught.value.text) == (reason, str(refusal))
            assert await channel.closed == ""

    run(main)


def test_a_client_that_gives_up_ends_the_dialling() -> None:
    async def main() -> None:
        async with served() as there:
            there.leader.answering.clear()
            channel = there.open(DirectTcpip("slow.test", 80))
            while not there.leader.dialled:
                await asyncio.sleep(0)
            channel.close()
            while not there.leader.ended:
                await asyncio.sleep(0)
            assert there.leader.ended == [channel.stream_id]

    run(main)


def test_a_target_that_breaks_off_does_not_pretend_to_have_heard_all() -> None:
    """What is written to a socket that is gone comes back as STOP_SENDING 42."""

    async def main() -> None:
        async with served() as there:
            channel = there.open(DirectTcpip("far.test", 80))
            (await there.leader.targets.get()).close()
            with pytest.raises(Exception, match=r"stopped|ended|no more"):
                while True:
                    await channel.write(b"x" * 1000)
            await channel.closed

    run(main)


def test_a_reset_by_the_client_is_one_at_the_target() -> None:
    async def main() -> None:
        async with served() as there:
            channel = there.open(DirectTcpip("far.test", 80))
            target = await there.leader.targets.get()
            await channel.opened()
            channel.close()
            with target:
                assert await receive_all(target) == b""

    run(main)


def connect(port: int) -> socket.socket:
    end = socket.create_connection(("127.0.0.1", port))
    end.setblocking(False)
    return end


async def listening(channel: Channel) -> int:
    asked = await channel.next_request()
    assert asked is not None
    assert isinstance(asked.request, Listening)
    return asked.request.port


def test_callers_at_a_listener_get_channels_that_name_it() -> None:
    async def main() -> None:
        async with served() as there:
            listener = there.open(TcpipForward("localhost", 0))
            port = await listening(listener)
            with connect(port) as caller:
                channel = await there.client.arrived.get()
                opening = channel.state.opening
                assert opening == ForwardedTcpip(listener.stream_id, *caller.getsockname())
                channel.confirm()
                await channel.write(b"hello")
                channel.finish()
                assert await receive_all(caller) == b"hello"

    run(main)


def test_a_listener_ends_with_its_channel_and_its_callers_go_on() -> None:
    async def main() -> None:
        async with served() as there:
            listener = there.open(TcpipForward("localhost", 0))
            port = await listening(listener)
            with connect(port) as caller:
                channel = await there.client.arrived.get()
                channel.confirm()
                listener.finish()
                assert await listener.closed == ""
                with pytest.raises(ConnectionRefusedError):
                    connect(port)
                assert there.leader.ended == [listener.stream_id]
                await channel.write(b"goes on")
                channel.finish()
                assert await receive_all(caller) == b"goes on"

    run(main)


def test_a_caller_whom_the_client_refuses_is_cut_off() -> None:
    async def main() -> None:
        async with served() as there:
            port = await listening(there.open(TcpipForward("localhost", 0)))
            with connect(port) as caller:
                channel = await there.client.arrived.get()
                channel.refuse(RefusalReason.CONNECT_FAILED, "Connection refused")
                with suppress(ConnectionResetError):
                    assert await receive_all(caller) == b""

    run(main)


def test_a_listener_that_cannot_be_had_is_refused() -> None:
    async def main() -> None:
        async with served() as there:
            there.leader.refusal = Refused("Address already in use")
            with pytest.raises(ChannelRefused, match="Address already in use"):
                await there.open(TcpipForward("localhost", 80)).opened()

    run(main)


def test_a_request_on_a_listener_ends_it() -> None:
    async def main() -> None:
        async with served() as there:
            listener = there.open(TcpipForward("localhost", 0))
            port = await listening(listener)
            listener.request(Shell())
            await listener.closed
            with pytest.raises(ConnectionRefusedError):
                connect(port)

    run(main)


def test_a_go_client_listens_in_its_own_way() -> None:
    """Its listener outlives its channel, of which it ends its side at once."""

    async def main() -> None:
        async with served(NONE) as there:
            asking = there.open(RequestReverseTcp(IPPort("127.0.0.1", 8080), MAPPED))
            asking.finish()
            await asking.opened()
            [listen] = there.leader.listened
            assert (listen.host, listen.port) == ("127.0.0.1", 8080)
            port = await there.leader.ports.get()
            for _ in range(2):
                with connect(port) as caller:
                    channel = await there.client.arrived.get()
                    assert channel.state.opening == OpenReverseTcp(TARGET)
                    channel.confirm()
                    await channel.write(b"hi")
                    channel.finish()
                    assert await receive_all(caller) == b"hi"

    run(main)


@pytest.mark.parametrize("extensions", [OURS, NONE])
def test_programs_reach_the_clients_agent(extensions: Extension) -> None:
    async def main() -> None:
        async with served(extensions) as there:
            session = there.open(Session())
            if extensions is NONE:
                await session.write(b"forward-agent")
                session.ask(Exec("ssh-add -l"))
            else:
                assert await session.ask(AgentReq())
            while not there.leader.agent_listens:
                await asyncio.sleep(0)
            with connect(there.leader.agent_port) as program:
                channel = await there.client.arrived.get()
                assert channel.state.opening == AgentConnection()
                channel.confirm()
                await channel.write(b"answer")
                await asyncio.get_running_loop().sock_sendall(program, b"question")
                program.shutdown(socket.SHUT_WR)
                assert await read_all(channel) == b"question"
                channel.close() if extensions is NONE else channel.finish()

    run(main)


def test_without_an_agent_socket_the_request_is_denied() -> None:
    async def main() -> None:
        async with served() as there:
            there.leader.refusal = Refused("open failed", is_prohibited=True)
            assert not await there.open(Session()).ask(AgentReq())

    run(main)


# --------------------------------------------------------------------------- X11

DISPLAY = X11Req(False, "MIT-MAGIC-COOKIE-1", "0011", 2)


def test_x_clients_of_a_session_reach_the_client() -> None:
    async def main() -> None:
        async with served() as there:
            session = there.open(Session())
            assert await session.ask(DISPLAY)
            wanted = ListenForX11(session.stream_id, DISPLAY.protocol, DISPLAY.cookie, 2)
            assert there.leader.displays == [wanted]
            port = await there.leader.ports.get()
            for _ in range(2):
                with connect(port) as program:
                    channel = await there.client.arrived.get()
                    where = program.getsockname()
                    assert channel.state.opening == X11(session.stream_id, *where)
                    channel.confirm()
                    await asyncio.get_running_loop().sock_sendall(program, b"setup")
                    program.shutdown(socket.SHUT_WR)
                    assert await read_all(channel) == b"setup"
                    await channel.write(b"screen")
                    channel.finish()
                    assert await receive_all(program) == b"screen"

    run(main)


def test_the_display_goes_with_its_session_but_not_who_uses_it() -> None:
    async def main() -> None:
        async with served() as there:
            session = there.open(Session())
            assert await session.ask(DISPLAY)
            port = await there.leader.ports.get()
            with connect(port) as program:
                channel = await there.client.arrived.get()
                channel.confirm()
                session.close()
                while not is_refused(port):
                    await asyncio.sleep(0)
                await channel.write(b"still")
                channel.finish()
                assert await receive_all(program) == b"still"

    run(main)


def is_refused(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_single_connection_is_one() -> None:
    async def main() -> None:
        async with served() as there:
            session = there.open(Session())
            assert await session.ask(X11Req(True, "MIT-MAGIC-COOKIE-1", "0011", 0))
            port = await there.leader.ports.get()
            with connect(port):
                await there.client.arrived.get()
                assert is_refused(port)

    run(main)


def test_without_a_display_the_request_is_denied_and_the_session_goes_on() -> None:
    async def main() -> None:
        async with served() as there:
            there.leader.refusal = Refused("open failed", is_prohibited=True)
            session = there.open(Session())
            assert not await session.ask(DISPLAY)
            there.leader.refusal = None
            assert await session.ask(Shell())

    run(main)


# --------------------------------------------------------------------------- recorded Go clients


async def replay(there: Served, transcript: Transcript, stream: int) -> Channel:
    """The recorded client's bytes on a channel of that type, and its end if it ended its side."""
    asked = transcript.speech(stream, "client")
    assert asked.header is not None
    channel = there.open(asked.header.opening)
    written = transcript.written(stream, "client")[len(asked.header.encode()) :]
    there.client.conversation.write(channel.stream_id, [written], fin=asked.fin)
    return channel


@pytest.mark.parametrize("ending", ["half-close-client", "half-close-server", "ipv6", "parallel"])
def test_a_recorded_connection_is_forwarded_as_the_go_server_did(ending: str) -> None:
    transcript = Transcript(f"direct-tcp-{ending}")
    streams = [
        stream
        for stream in transcript.channels
        if isinstance(header_of(transcript, stream).opening, DirectTcp)
    ]

    async def main() -> None:
        async with served(NONE) as there:
            for stream in streams:
                asked = transcript.speech(stream, "client")
                told = transcript.speech(stream, "server")
                channel = await replay(there, transcript, stream)
                target = await there.leader.targets.get()
                target.setblocking(False)
                loop, got = asyncio.get_running_loop(), b""
                with target:
                    while len(got) < len(asked.data):
                        got += await loop.sock_recv(target, 65536)
                    assert got == asked.data
                    await loop.sock_sendall(target, told.data)
                    target.shutdown(socket.SHUT_WR)
                    assert await read_all(channel) == told.data
            opening = header_of(transcript, streams[0]).opening
            assert isinstance(opening, DirectTcp)
            assert there.leader.dialled[0].host == unmapped(opening.target).ip

    assert streams
    run(main)


def header_of(transcript: Transcript, stream: int) -> ChannelHeader:
    return read_header(transcript.written(stream, transcript.opener(stream)))[0]


def test_a_recorded_listener_leads_back_as_the_go_server_did() -> None:
    transcript = Transcript("reverse-tcp")

    async def main() -> None:
        async with served(NONE) as there:
            await (await replay(there, transcript, 4)).opened()
            [listen] = there.leader.listened
            assert (listen.host, listen.port) == ("127.0.0.1", 19703)
            port = await there.leader.ports.get()
            for stream in (1, 5):
                asked, told = (transcript.speech(stream, side) for side in ("server", "client"))
                assert asked.header is not None
                with connect(port) as caller:
                    await asyncio.get_running_loop().sock_sendall(caller, asked.data)
                    caller.shutdown(socket.SHUT_WR)
                    channel = await there.client.arrived.get()
                    assert channel.state.header.encode() == with_our_maximum(asked.header)
                    assert await read_all(channel) == asked.data
                    answer = transcript.written(stream, "client")
                    there.client.conversation.write(channel.stream_id, [answer], fin=told.fin)
                    assert await receive_all(caller) == told.data

    run(main)


def with_our_maximum(header: ChannelHeader) -> bytes:
    """We announce more than Go does."""
    return ChannelHeader(header.conversation_id, header.opening, GO_MAX_MESSAGE).encode()


def test_a_recorded_agent_is_asked_as_the_go_server_did() -> None:
    transcript = Transcript("agent-forwarding")
    question, answer = (transcript.speech(1, side) for side in ("server", "client"))

    async def main() -> None:
        async with served(NONE) as there:
            await replay(there, transcript, 4)
            while not there.leader.agent_listens:
                await asyncio.sleep(0)
            with connect(there.leader.agent_port) as program:
                await asyncio.get_running_loop().sock_sendall(program, question.data)
                channel = await there.client.arrived.get()
                assert isinstance(channel.state.opening, AgentConnection)
                assert bytes(await channel.read()) == question.data
                written = transcript.written(1, "client")
                there.client.conversation.write(channel.stream_id, [written])
                got = b""
                while len(got) < len(answer.data):
                    got += await asyncio.get_running_loop().sock_recv(program, 65536)
                assert got == answer.data

    run(main)
