"""A channel and an end of this machine joined: both directions, each with an end of its own.

Half-close passes through either way. A direction that is broken off breaks the other side's, so
that a part of the data is never taken for the whole.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from sshoq.forwarding.relay import Sink, Source, pump
from sshoq.protocol.outcome import Code
from sshoq.transport.channel import Channel, DataSink, SinkClosed


class End(Protocol):
    """What is joined to a channel, for instance a socket."""

    @property
    def source(self) -> Source: ...

    @property
    def sink(self) -> Sink: ...

    def stop_reading(self) -> None:
        """Nobody wants what comes from it any more."""

    def abort(self) -> None:
        """Close it so that its peer notices the break."""

    def close(self) -> None: ...


async def join(channel: Channel, end: End, finish: Callable[[], None] | None = None) -> None:
    """Until both directions have ended, or the channel is broken off. Closes both.

    `finish`: how to say that no more comes from this end, if not as most channels do.
    """

    def cut(closed: asyncio.Future[str]) -> None:
        if closed.result():
            end.abort()  # which ends both pumps

    channel.closed.add_done_callback(cut)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_send(end, channel, finish or channel.finish))
            await _receive(channel, end)
    except BaseException:
        end.abort()
        raise
    finally:
        channel.closed.remove_done_callback(cut)
        if channel.was_reset or (channel.closed.done() and channel.closed.result()):
            end.abort()
        else:
            end.close()
        channel.close()


async def join_opening(channel: Channel, end: End) -> None:
    """The same with a channel that the peer has yet to accept; if it does not, that is the end."""
    channel.close_if_refused()
    await join(channel, end)


async def _send(end: End, channel: Channel, finish: Callable[[], None]) -> None:
    try:
        await pump(end.source, DataSink(channel, finish))
    except SinkClosed:
        end.stop_reading()


async def _receive(channel: Channel, end: End) -> None:
    try:
        await pump(channel, end.sink)
    except SinkClosed:
        channel.stop_reading(Code.SINK_FAILED)
    if channel.was_reset:
        end.abort()
