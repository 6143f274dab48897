"""UDP ends on channels of a real conversation: senders apart, early and late datagrams, ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sshoq.forwarding import datagrams
from sshoq.forwarding.datagrams import UdpEnd, UdpListener
from sshoq.protocol.extensions import OURS
from sshoq.protocol.messages import (
    DirectUdpip,
    ForwardedUdpip,
    OpenReverseUdp,
    RefusalReason,
    Session,
)
from sshoq.transport.channel import Channel
from sshoq.wire import IPPort, varint
from tests.pair import Party, logged_in, run

OPENING = DirectUdpip("far.test", 53)


def bound() -> socket.socket:
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind(("127.0.0.1", 0))
    end.setblocking(False)
    return end


class Listening:
    """A listener of the client's, and the server's party."""

    def __init__(self, client: Party, server: Party, group: asyncio.TaskGroup) -> None:
        self.server = server
        self.senders: list[IPPort] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.permitted = True
        self._client = client
        self._group = group
        end = bound()
        self.address = end.getsockname()
        self.listener = UdpListener([end], self._open, self._start)

    def _open(self, sender: IPPort) -> Channel | None:
        self.senders.append(sender)
        return self._client.conversation.open_channel(OPENING) if self.permitted else None

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def next(self) -> tuple[Channel, asyncio.Queue[bytes]]:
        """The next channel at the server, confirmed, and what comes out of it."""
        channel = await self.server.arrived.get()
        channel.confirm()
        arrived: asyncio.Queue[bytes] = asyncio.Queue()
        channel.take_datagrams(arrived.put_nowait)
        return channel, arrived


@asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    async with logged_in() as (client, server), asyncio.TaskGroup() as group:
        there = Listening(client, server, group)
        try:
            yield there
        finally:
            there.listener.close()
            for task in there.tasks:
                task.cancel()


async def receive(end: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(end, 65536)


def test_each_sender_has_a_channel_and_gets_its_own_answers() -> None:
    async def main() -> None:
        async with listening() as there:
            with bound() as one, bound() as two:
                channels = []
                for sender, text in ((one, b"1"), (two, b"2")):
                    sender.sendto(text, there.address)
                    channel, arrived = await there.next()
                    assert await arrived.get() == text
                    channels.append(channel)
                assert there.senders == [one.getsockname(), two.getsockname()]
                for channel, sender in zip(channels, (one, two), strict=True):
                    assert channel.send_datagram(b"to %d" % channel.stream_id)
                    assert await receive(sender) == b"to %d" % channel.stream_id
                one.sendto(b"again", there.address)
                two.sendto(b"and this", there.address)
                assert len(there.senders) == 2

    run(main)


def test_datagrams_ahead_of_the_acceptance_are_kept() -> None:
    async def main() -> None:
        async with listening() as there:
            with bound() as sender:
                for number in range(5):
                    sender.sendto(b"%d" % number, there.address)
                channel = await there.server.arrived.get()
                for _ in range(50):
                    await asyncio.sleep(0)
                channel.confirm()
                arrived: asyncio.Queue[bytes] = asyncio.Queue()
                channel.take_datagrams(arrived.put_nowait)
                assert [await arrived.get() for _ in range(5)] == [b"%d" % n for n in range(5)]

    run(main)


def test_a_channel_that_is_idle_ends_and_the_next_datagram_opens_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datagrams, "IDLE", 0.05)

    async def main() -> None:
        async with listening() as there:
            with bound() as sender:
                for _ in range(2):
                    sender.sendto(b"x", there.address)
                    channel, arrived = await there.next()
                    assert await arrived.get() == b"x"
                    assert await channel.read() == b""
                    channel.finish()
                    while there.tasks:
                        await asyncio.wait(there.tasks)

    run(main)


def test_the_far_side_may_end_a_channel() -> None:
    async def main() -> None:
        async with listening() as there:
            with bound() as sender:
                sender.sendto(b"x", there.address)
                channel, _ = await there.next()
                channel.finish()
                await channel.closed
                sender.sendto(b"y", there.address)
                _, arrived = await there.next()
                assert await arrived.get() == b"y"

    run(main)


def test_a_refused_channel_is_tried_again_with_the_next_datagram() -> None:
    async def main() -> None:
        async with listening() as there:
            with bound() as sender:
                sender.sendto(b"x", there.address)
                refused = await there.server.arrived.get()
                refused.refuse(RefusalReason.CONNECT_FAILED, "no")
                await refused.closed
                while there.tasks:
                    await asyncio.wait(there.tasks)
                sender.sendto(b"y", there.address)
                _, arrived = await there.next()
                assert await arrived.get() == b"y"

    run(main)


def test_senders_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "MAX_FLOWS", 1)

    async def main() -> None:
        async with listening() as there:
            with bound() as one, bound() as two:
                one.sendto(b"x", there.address)
                _, arrived = await there.next()
                assert await arrived.get() == b"x"
                two.sendto(b"dropped", there.address)
                one.sendto(b"y", there.address)
                assert await arrived.get() == b"y"
                assert len(there.senders) == 1

    run(main)


def test_without_a_channel_the_datagram_is_dropped() -> None:
    async def main() -> None:
        async with listening() as there:
            there.permitted = False
            with bound() as sender:
                sender.sendto(b"x", there.address)
                while not there.senders:
                    await asyncio.sleep(0)
                there.permitted = True
                sender.sendto(b"y", there.address)
                _, arrived = await there.next()
                assert await arrived.get() == b"y"

    run(main)


def test_a_connected_socket_is_the_end_of_one_channel() -> None:
    async def main() -> None:
        async with logged_in() as (client, server), asyncio.TaskGroup() as group:
            channel = client.conversation.open_channel(OPENING)
            answers: asyncio.Queue[bytes] = asyncio.Queue()
            channel.take_datagrams(answers.put_nowait)
            assert channel.send_datagram(b"early")
            arrived = await server.arrived.get()
            with bound() as target:
                end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                end.connect(target.getsockname())
                arrived.confirm()
                joined = group.create_task(UdpEnd(end).join(arrived))
                assert await receive(target) == b"early"
                target.sendto(b"answer", end.getsockname())
                assert await answers.get() == b"answer"
                channel.finish()
                await joined
                assert end.fileno() == -1
                assert not channel.send_datagram(b"late")

    run(main)


def test_a_server_waits_for_the_confirmation() -> None:
    """A Go client's datagrams end with one for a channel that it has not accepted."""

    async def main() -> None:
        async with logged_in() as (client, server), asyncio.TaskGroup() as group:
            end = bound()
            address = end.getsockname()
            tasks = []

            def start(work: Coroutine[Any, Any, None]) -> None:
                tasks.append(group.create_task(work))

            def open_channel(sender: IPPort) -> Channel:
                return server.conversation.open_channel(ForwardedUdpip(4, *sender))

            listener = UdpListener([end], open_channel, start)
            with bound() as sender:
                for text in (b"one", b"two"):
                    sender.sendto(text, address)
                channel = await client.arrived.get()
                arrived: asyncio.Queue[bytes] = asyncio.Queue()
                channel.take_datagrams(arrived.put_nowait)
                for _ in range(50):
                    await asyncio.sleep(0)
                assert arrived.empty()
                channel.confirm()
                assert [await arrived.get(), await arrived.get()] == [b"one", b"two"]
            listener.close()
            for task in tasks:
                task.cancel()

    run(main)


def test_a_go_client_goes_on_behind_its_own_end() -> None:
    async def main() -> None:
        async with logged_in() as (client, server), asyncio.TaskGroup() as group:
            client.conversation.open_channel(Session())
            await server.arrived.get()
            server.conversation.state.traits.learn(None, OURS)
            opening = OpenReverseUdp(IPPort("127.0.0.1", 1), IPPort("127.0.0.1", 2))
            channel = server.conversation.open_channel(opening)
            arrived = await client.arrived.get()
            arrived.confirm()
            arrived.finish()
            await channel.opened()
            with bound() as target:
                end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                end.connect(target.getsockname())
                joined = group.create_task(UdpEnd(end).join(channel))
                # Our own side would not say anything more there, so it is said for it.
                header = varint(0) + varint(arrived.stream_id)
                assert client.conversation.send_datagram(header + b"question")
                assert await receive(target) == b"question"
                answers: asyncio.Queue[bytes] = asyncio.Queue()
                arrived.take_datagrams(answers.put_nowait)
                while not answers.qsize():
                    target.sendto(b"answer", end.getsockname())
                    await asyncio.sleep(0)
                assert not joined.done()
                joined.cancel()

    run(main)
