"""-W of a client that shares our connection: its standard streams as an end of a channel."""

import asyncio

from sshoq.forwarding.forwarder import FdSink, FdSource, standard_sink, standard_source
from sshoq.forwarding.joint import join
from sshoq.transport.channel import Channel


class _Output:
    """`ended` tells that the far side has closed."""

    def __init__(self, fd: int) -> None:
        self._sink: FdSink = standard_sink(fd)
        self.take = self._sink.take
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def write(self, data: bytes | memoryview) -> None:
        await self._sink.write(data)

    async def write_eof(self) -> None:
        self._sink.close()
        self.ended.set_result(None)

    def close(self) -> None:
        self._sink.close()


class _SharedEnd:
    def __init__(self, stdin: int, stdout: int) -> None:
        self.source: FdSource = standard_source(stdin)
        self.sink = _Output(stdout)

    def stop_reading(self) -> None:
        self.source.close()

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        self.source.close()
        self.sink.close()


async def run_shared_stdio(channel: Channel, stdin: int, stdout: int) -> None:
    """Until the far side has closed, as in stdio.py; the client sees that by our hanging up."""
    end = _SharedEnd(stdin, stdout)
    async with asyncio.TaskGroup() as group:
        joint = group.create_task(join(channel, end))
        either: set[asyncio.Future[None]] = {joint, end.sink.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        joint.cancel()
