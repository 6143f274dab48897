"""Forwarding in the network process: channels of our clients and of Go's, joined to sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from sshoq.protocol.extensions import NONE, OURS, Extension
from sshoq.protocol.messages import (
    AgentConnection,
    AgentReq,
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
)
from sshoq.server.channels import ChannelHost, Login
from sshoq.server.link import Refused
from sshoq.server.privsep import Dial
from sshoq.transport.channel import Channel, ChannelRefused
from sshoq.wire import IPPort
from tests.pair import Party, logged_in
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

        async def end_all() -> None:
            await asyncio.get_running_loop().create_future()

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


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(main())


async def read_all(channel: Channel) -> bytes:
    parts = bytearray()
    while data := await channel.read():
        parts += data
    return bytes(parts)


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
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            asking = there.open(RequestReverseTcp(IPPort("127.0.0.1", port), MAPPED))
            asking.finish()
            await asking.opened()
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
