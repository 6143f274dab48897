"""What has come through the forwardings of a conversation and is still open, in either direction.

A connection has a number while it lasts, by which messages speak of it. That there are none, and
that there is one again, is told to whoever stays for their sake.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sshoq.client.channel_openings import describe_refusal
from sshoq.client.run_context import RunContext
from sshoq.forwarding.relay import Sink, Source
from sshoq.forwarding.socks import SocksError, SocksState
from sshoq.protocol.messages import ChannelOpening
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused

FIRST_NUMBER = 1
"""The session is channel 0."""


class Passages:
    """The tasks that lead through, and the channels that they go by."""

    def __init__(self, context: RunContext, group: asyncio.TaskGroup) -> None:
        self._conversation = context.client.conversation
        self._log = context.log
        self._group = group
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._flows: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.on_activity: Callable[[], None] = lambda: None
        """Called when the first connection comes through, and when the last one has ended."""

    async def drained(self) -> None:
        """Until nothing that came through a forwarding is open any more. Listeners do not count."""
        await self._quiet.wait()

    @property
    def is_quiet(self) -> bool:
        return self._quiet.is_set()

    def free_number(self) -> int:
        used = set(self._tasks.values())
        return next(n for n in range(FIRST_NUMBER, len(used) + 2) if n not in used)

    def start(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._tasks[task] = number
        if self.is_quiet:
            self._quiet.clear()
            self.on_activity()
        task.add_done_callback(self._note_end)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        del self._tasks[task]
        if not self._tasks:
            self._quiet.set()
            self.on_activity()

    def start_aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Nobody waits for datagrams: they keep nothing alive."""
        task = self._group.create_task(work)
        self._flows.add(task)
        task.add_done_callback(self._flows.discard)

    def close(self) -> None:
        for task in (*self._tasks, *self._flows):
            task.cancel()

    # ------------------------------------------------------------------ channels

    def open(self, number: int, opening: ChannelOpening) -> Channel | None:
        try:
            return self._conversation.open_channel(opening)
        except ChannelRefused as refusal:
            self._log.error(f"channel {number}: open failed: {describe_refusal(refusal)}")
        except ChannelClosed as closed:
            self._log.debug(f"channel {number}: {closed}")
        return None

    async def await_opened(self, number: int, channel: Channel) -> bool:
        try:
            await channel.opened()
        except ChannelRefused as refusal:
            self._log.error(f"channel {number}: open failed: {describe_refusal(refusal)}")
        except ChannelClosed as closed:
            self._log.debug(f"channel {number}: {closed}")
        else:
            return True
        return False

    async def take_socks_request(
        self, number: int, state: SocksState, source: Source, sink: Sink
    ) -> bool:
        """Until the request is known. False: the caller has gone, or was told why not."""
        try:
            while state.target is None:
                data = await source.read()
                if not data:
                    return False
                answer = state.receive(data)
                if answer:
                    await sink.write(answer)
        except SocksError as error:
            self._log.debug(f"channel {number}: {error}")
            if error.answer:
                await sink.write(error.answer)
            return False
        return True
