"""Jump hosts: a whole conversation with each, and the next one's datagrams through it.

The connection to the destination is end to end: a jump host sees packets that it cannot read. Each
hop is verified and logged in to by itself; nothing of the trust in one is trust in another.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sshoq.client.addresses import HostAddress
from sshoq.client.channel_openings import datagram_opening_for, describe_refusal
from sshoq.client.first_flight import Flight, LinkWish, launch_on
from sshoq.client.log import Failure, Log
from sshoq.client.opening import ClientConversation, Unreachable, reach
from sshoq.client.task_group import task_group
from sshoq.config.forward_spec import Forward
from sshoq.config.options import Options
from sshoq.config.resolve import Invocation
from sshoq.forwarding.datagrams import UdpEnd
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused
from sshoq.transport.udp import RelayedSocket

INNER_DATAGRAM = 1200
"""What every QUIC path must carry, so also the one through a jump host."""

SEARCH_TIME = 15.0
"""Seconds for finding out that the path to the jump host takes such datagrams: one round trip, or a
few timeouts more on a narrow path."""

LOOK_EVERY = 0.005

LogIn = Callable[[Invocation, ClientConversation], Awaitable[None]]
Link = Callable[[Invocation], LinkWish]


class NoWay(Unreachable):
    """A hop did not answer; `place` says which."""

    def __init__(self, options: Options, reason: str) -> None:
        super().__init__(reason)
        self.place = f"{options.hostname} port {options.quic_port}"


@asynccontextmanager
async def way_through(
    hops: Sequence[Invocation],
    destination: Invocation,
    nearest: Callable[[], Awaitable[ClientConversation]],
    link: Link,
    log_in: LogIn,
    log: Log,
    patience: float | None,
) -> AsyncIterator[ClientConversation]:
    """The conversation with the destination, not logged in to; all of them end with the block."""
    async with task_group() as group:
        way = _Way(group, link, log, patience)
        try:
            await way.begin(hops[0], nearest)
            for hop, following in zip(hops, (*hops[1:], destination), strict=True):
                await log_in(hop, way.last)
                await way.go_on(hop, following)
            yield way.last
        finally:
            await way.close()


class _Way:
    """The conversations so far, each inside the one before."""

    def __init__(
        self, group: asyncio.TaskGroup, link: Link, log: Log, patience: float | None
    ) -> None:
        self._group = group
        self._link = link
        self._log = log
        self._patience = patience
        self._conversations: list[ClientConversation] = []
        self._relays: list[asyncio.Task[None]] = []

    @property
    def last(self) -> ClientConversation:
        return self._conversations[-1]

    async def begin(
        self, hop: Invocation, nearest: Callable[[], Awaitable[ClientConversation]]
    ) -> None:
        try:
            self._conversations.append(await nearest())
        except Unreachable as error:
            raise NoWay(hop.options, str(error)) from None

    async def go_on(self, hop: Invocation, following: Invocation) -> None:
        """From the last hop to the next place."""
        options = following.options
        channel = await self._open_channel(options)
        await self._await_room(hop, channel)
        flight = self._launch(channel, following)
        try:
            client = await reach(
                [flight.target],
                self._link(following),
                options.hostname,
                self._log,
                first=flight,
                patience=self._patience,
            )
        except Unreachable as error:
            raise NoWay(options, str(error)) from None
        self._conversations.append(client)

    async def _open_channel(self, options: Options) -> Channel:
        conversation = self.last.conversation
        target = Forward(connect_host=options.hostname, connect_port=options.quic_port)
        try:
            channel = conversation.open_channel(
                await datagram_opening_for(conversation.traits, target)
            )
            async with asyncio.timeout(self._patience):
                await channel.opened()
        except TimeoutError:
            raise NoWay(options, "Connection timed out") from None
        except ChannelRefused as refusal:
            raise Failure(f"channel 0: open failed: {describe_refusal(refusal)}") from None
        except (ChannelClosed, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Failure(f"channel 0: open failed: connect failed: {reason}") from None
        return channel

    async def _await_room(self, hop: Invocation, channel: Channel) -> None:
        """Until the path to the last hop is known to carry another connection's packets."""
        needed = len(channel.state.datagram(bytes(INNER_DATAGRAM)))
        engine = self.last.conversation.engine
        self.last.conversation.seek_larger_datagrams()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SEARCH_TIME
        while engine.max_datagram_payload < needed:
            is_over = self.last.gone.done() or loop.time() > deadline
            if is_over or not engine.is_searching_path:
                raise Failure(
                    f"ssh: the path to jump host {hop.options.hostname} carries no packets that "
                    "another connection fits into"
                )
            await asyncio.sleep(LOOK_EVERY)

    def _launch(self, channel: Channel, following: Invocation) -> Flight:
        options = following.options
        # Where that is, only the jump host knows.
        target = HostAddress(socket.AF_UNSPEC, (options.hostname, options.quic_port))
        relayed, far = RelayedSocket.pair(target.address)
        self._start(UdpEnd(far).join(channel))
        return launch_on(relayed, target, self._link(following))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._relays.append(self._group.create_task(work))

    async def close(self) -> None:
        """From the inside out, so that each can still say goodbye."""
        while self._conversations:
            await self._conversations.pop().close()
        for relay in self._relays:
            relay.cancel()
