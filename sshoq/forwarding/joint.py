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
    try:
        async with asyncio.TaskGroup() as group:
            pumps = [
                group.create_task(_send(end, channel, finish or channel.finish)),
                group.create_task(_receive(channel, end)),
            ]

            def cut(closed: asyncio.Future[str]) -> None:
                if closed.result():
                    for task in pumps:
                        task.cancel()

            channel.closed.add_done_callback(cut)
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
