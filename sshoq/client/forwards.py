"""All that is forwarded in one conversation: what listens here and there, agent and display.

Loaded only when something is to be forwarded. What the server may open is what was asked of it and
nothing else; messages are OpenSSH's.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sshoq.client.dialing import dial_path
from sshoq.client.local_forwards import LocalForwards
from sshoq.client.opening import refuse_unasked
from sshoq.client.passages import Passages
from sshoq.client.remote_forwards import RemoteForwards
from sshoq.client.run_context import RunContext
from sshoq.client.task_group import task_group
from sshoq.forwarding.forwarder import SocketEnd
from sshoq.forwarding.joint import join
from sshoq.protocol.messages import X11, AgentConnection
from sshoq.transport.channel import Channel, SinkClosed

if TYPE_CHECKING:
    from sshoq.client.display import ForwardedDisplay


AGENT_PATIENCE = 30.0
"""Seconds for an agent to take note of something."""

_LENGTH = 4
"""Bytes in front of each of its messages."""
MAX_NOTE = 1024
"""Bytes with which it says that it has: one would do."""


@asynccontextmanager
async def forwarding(context: RunContext) -> AsyncIterator["Forwards"]:
    """Forwards that end with the block, and everything that came through them."""
    async with task_group() as group:
        forwards = Forwards(context, Passages(context, group))
        context.client.on_channel = forwards.take
        try:
            yield forwards
        finally:
            forwards.close()


class Forwards:
    """What is listened on, and what the server opens of its own accord."""

    def __init__(self, context: RunContext, passages: Passages) -> None:
        self.passages = passages
        self.local = LocalForwards(context, passages)
        self.remote = RemoteForwards(context, passages)
        self._agent = context.agent
        self._display = context.display
        self._log = context.log

    async def drained(self) -> None:
        await self.passages.drained()

    def close(self) -> None:
        self.local.close()
        self.passages.close()

    def take(self, channel: Channel) -> None:
        """The server opened a channel. What it was not asked for it does not get."""
        opening = channel.state.opening
        number = self.passages.free_number()
        if isinstance(opening, AgentConnection) and self._agent is not None:
            self.passages.start(number, self._lead_to_agent(channel, self._agent))
            return
        if isinstance(opening, X11) and self._display is not None:
            if self._display.may_use(opening.session):
                self.passages.start(number, self._lead_to_display(channel, self._display))
            else:
                refuse_unasked(channel)
            return
        if not self.remote.take(channel):
            self._log.debug(f"{opening.type_name} was not asked for")
            refuse_unasked(channel)

    async def _lead_to_agent(self, channel: Channel, path: str) -> None:
        """Towards a Go server, whose agent socket would not notice the end of a stream, a reset
        says that the agent is through."""
        try:
            end = await _call_agent(path)
        except OSError as error:
            self._log.debug(f"agent at {path}: {error.strerror or error}")
            refuse_unasked(channel)
            return
        try:
            channel.confirm()
        except SinkClosed:
            end.close()
            return
        is_go = channel.state.traits.is_go
        await join(channel, end, channel.close if is_go else channel.finish)

    async def _lead_to_display(self, channel: Channel, display: "ForwardedDisplay") -> None:
        """It hears of nobody who cannot show that our own server has sent him."""
        from sshoq.forwarding.x11 import X11Error

        try:
            channel.confirm()
            setup = await display.read_setup(channel)
            end = await display.dial()
        except (SinkClosed, OSError):
            channel.close()
            return
        except X11Error as error:
            self._log.debug2(str(error))
            self._log.info("X11 connection rejected because of wrong authentication.")
            channel.close()
            return
        try:
            await end.sink.write(setup)
        except SinkClosed:
            end.close()
            channel.close()
        else:
            await join(channel, end)


async def _call_agent(path: str) -> SocketEnd:
    """An agent that knows who is calling: there is much that it does for its own user alone.
    OSError."""
    from sshoq.auth.agent import request_of_strangers

    end = await dial_path(path)
    try:
        async with asyncio.timeout(AGENT_PATIENCE):
            await end.sink.write(request_of_strangers())
            await _await_note(end)
    except SinkClosed:
        end.close()
        raise ConnectionResetError("the agent has hung up") from None
    except BaseException:
        end.close()
        raise
    return end


async def _await_note(end: SocketEnd) -> None:
    """Whatever the answer is; what comes behind it belongs to nobody."""
    answer = bytearray()
    wanted = _LENGTH
    while len(answer) < wanted:
        data = await end.source.read()
        if not data:
            raise ConnectionResetError("the agent has hung up")
        answer += data
        if len(answer) >= _LENGTH:
            wanted = _LENGTH + int.from_bytes(answer[:_LENGTH], "big")
        if max(len(answer), wanted) > MAX_NOTE:
            break
    if len(answer) != wanted:
        raise ConnectionResetError("the agent says what it was not asked")
