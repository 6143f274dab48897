"""Standard input and output as one connection to somewhere behind the server: -W and --stdio.

What a ProxyCommand does. Loaded only for that.
"""

import asyncio
import signal

from sshoq.client.log import Log, lead_nowhere
from sshoq.client.session import FAILED, Ending
from sshoq.client.signals import ENDING, catching
from sshoq.forwarding.forwarder import FdSink, FdSource, standard_sink, standard_source
from sshoq.forwarding.joint import join
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused


class _Output:
    """Standard output. Its reader learns of its end at once, and `ended` tells us."""

    def __init__(self) -> None:
        self._sink: FdSink = standard_sink(1)
        self.take = self._sink.take
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def write(self, data: bytes | memoryview) -> None:
        await self._sink.write(data)

    async def write_eof(self) -> None:
        self.close()
        lead_nowhere(1)
        self.ended.set_result(None)

    def close(self) -> None:
        self._sink.close()


class StandardEnd:
    """Our standard input and output as an end of a channel."""

    def __init__(self) -> None:
        self.source: FdSource = standard_source(0)
        self.sink = _Output()

    def stop_reading(self) -> None:
        """Who writes to us gets the signal that nobody reads."""
        self.source.close()
        lead_nowhere(0)

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        self.source.close()
        self.sink.close()


async def run_stdio(channel: Channel, log: Log) -> Ending:
    """Until both directions have ended, or a signal ends us. The channel may not be open yet."""
    ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def obey(number: int) -> None:
        status = 0 if number == signal.SIGTERM else FAILED
        if not ended.done():
            ended.set_result(Ending(status, signal_number=number))

    async with asyncio.TaskGroup() as group:
        with catching(ENDING, obey):
            body = group.create_task(_run(channel, log))
            await asyncio.wait({ended, body}, return_when=asyncio.FIRST_COMPLETED)
        body.cancel()
    return ended.result() if ended.done() else body.result()


async def _run(channel: Channel, log: Log) -> Ending:
    """What is there to be sent travels ahead of the answer. When the far side has closed, it is
    over, whether or not there would be more to send: as with ssh, and hardly anybody half-closes.
    """
    end = StandardEnd()
    async with asyncio.TaskGroup() as group:
        joint = group.create_task(join(channel, end))
        try:
            await channel.opened()
        except ChannelRefused as refusal:
            from sshoq.client.channel_openings import describe_refusal

            log.error(f"channel 0: open failed: {describe_refusal(refusal)}")
            log.error("stdio forwarding failed")
            joint.cancel()
            return Ending(FAILED)
        except ChannelClosed:
            joint.cancel()
            return Ending(None)
        either: set[asyncio.Future[None]] = {joint, end.sink.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        joint.cancel()
    return Ending(0)
