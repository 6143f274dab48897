"""UDP ends: sockets whose datagrams travel on channels, a channel for each sender.

Nothing waits here: what the other side cannot take now is dropped, as UDP may be. A channel that
has been idle for a minute ends; the next datagram of the same sender opens another one.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from sshoq.forwarding.acceptor import caller
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused, SinkClosed
from sshoq.wire import IPPort

IDLE = 60.0
"""Seconds without a datagram either way."""

MAX_FLOWS = 256
"""Senders of one socket at a time; datagrams of others are dropped."""

MAX_PENDING = 32
"""Datagrams kept until the other side has accepted the channel."""

AT_ONCE = 64
MAX_DATAGRAM = 65535

Deliver = Callable[[bytes], None]


class Flow:
    """One channel's datagrams, and where what comes out of it goes."""

    def __init__(self, channel: Channel, deliver: Deliver) -> None:
        self._channel = channel
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        state = channel.state
        # A Go client must not get datagrams ahead of its confirmation; ours are treated alike.
        self._pending: list[bytes] | None = [] if _must_wait(channel) else None
        self._heeds_end = not state.traits.is_go

    def start(self) -> None:
        """From here on datagrams are delivered; those that came early are at once."""
        self._channel.take_datagrams(self._arrived)

    def send(self, payload: bytes) -> None:
        """Into the channel, or nowhere."""
        self._last = self._loop.time()
        if self._pending is None:
            self._channel.send_datagram(payload)
        elif len(self._pending) < MAX_PENDING:
            self._pending.append(payload)

    def _arrived(self, payload: bytes) -> None:
        self._last = self._loop.time()
        self._deliver(payload)

    async def run(self) -> None:
        """Until it has been idle for long, or is over at the other side."""
        try:
            if self._channel.state.opened_here:
                await self._channel.opened()
            self._release()
            async with asyncio.TaskGroup() as group:
                ended = group.create_task(self._peer_end())
                await self._until_idle(ended)
                ended.cancel()
            self._channel.finish()
        except (ChannelRefused, ChannelClosed, SinkClosed):
            pass
        finally:
            self._channel.close()

    def _release(self) -> None:
        pending, self._pending = self._pending or [], None
        for payload in pending:
            self._channel.send_datagram(payload)

    async def _peer_end(self) -> None:
        """A Go client ends its side at once and goes on sending all the same."""
        if self._heeds_end:
            await self._channel.read()
        else:
            await asyncio.shield(self._channel.closed)

    async def _until_idle(self, ended: "asyncio.Task[None]") -> None:
        while (left := self._last + IDLE - self._loop.time()) > 0:
            done, _ = await asyncio.wait({ended}, timeout=left)
            if done:
                return


def _must_wait(channel: Channel) -> bool:
    state = channel.state
    return state.opened_here and not state.is_client


class UdpEnd:
    """A connected socket, which it owns: the end of one channel."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._flow: Flow | None = None
        self._loop = asyncio.get_running_loop()

    async def join(self, channel: Channel) -> None:
        """Until the channel's end."""
        flow = self._flow = Flow(channel, self._send)
        self._loop.add_reader(self._end.fileno(), self._readable)
        try:
            flow.start()
            await flow.run()
        finally:
            self.close()

    def _send(self, payload: bytes) -> None:
        _try(lambda: self._end.send(payload))

    def _readable(self) -> None:
        assert self._flow is not None
        for _ in range(AT_ONCE):
            payload = _try(lambda: self._end.recv(MAX_DATAGRAM))
            if payload is None:
                return
            self._flow.send(payload)

    def close(self) -> None:
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end.fileno())
            self._end.close()


Opened = Callable[[IPPort], Channel | None]
"""Opens a channel for a new sender; None: there is none to be had."""

Start = Callable[[Any], None]
"""Runs a coroutine beside everything else."""


class UdpListener:
    """Bound sockets, which it owns: a channel for each sender."""

    def __init__(self, sockets: Sequence[socket.socket], opened: Opened, start: Start) -> None:
        self._sockets = list(sockets)
        self._opened = opened
        self._start = start
        self._flows: dict[tuple[int, Any], Flow] = {}
        self._loop = asyncio.get_running_loop()
        for one in self._sockets:
            one.setblocking(False)
            self._loop.add_reader(one.fileno(), self._readable, one)

    def _readable(self, end: socket.socket) -> None:
        for _ in range(AT_ONCE):
            arrived = _try(lambda: end.recvfrom(MAX_DATAGRAM))
            if arrived is None:
                return
            payload, address = arrived
            flow = self._flow_of(end, address)
            if flow is not None:
                flow.send(payload)

    def _flow_of(self, end: socket.socket, address: Any) -> Flow | None:
        key = (end.fileno(), address)
        flow = self._flows.get(key)
        if flow is not None or len(self._flows) >= MAX_FLOWS:
            return flow
        channel = self._opened(caller(address))
        if channel is None:
            return None

        def answer(payload: bytes) -> None:
            if end.fileno() >= 0:
                _try(lambda: end.sendto(payload, address))

        flow = self._flows[key] = Flow(channel, answer)
        flow.start()
        self._start(self._run(key, flow))
        return flow

    async def _run(self, key: tuple[int, Any], flow: Flow) -> None:
        try:
            await flow.run()
        finally:
            if self._flows.get(key) is flow:
                del self._flows[key]

    def close(self) -> None:
        for one in self._sockets:
            self._loop.remove_reader(one.fileno())
            one.close()
        self._sockets.clear()


def _try(call: Callable[[], Any]) -> Any:
    """None when nothing is there, there is no room, or the network complains of an earlier
    datagram."""
    try:
        return call()
    except OSError:
        return None
