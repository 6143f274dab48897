"""The one pump: bytes from an end to an end, for terminals, pipes, ptys, sockets and channels
alike.

Knows nothing of descriptors or channels: a Source is read, a Sink is written, and write() waits
while the far end is slow. That waiting is the back-pressure of the whole program; nothing here
buffers.
"""

from typing import Protocol


class Source(Protocol):
    async def read(self) -> bytes | memoryview:
        """The next bytes, as many as there are up to a bound of the source; empty at the end."""


class Sink(Protocol):
    async def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`, waiting while the far end is slow. SinkClosed when nobody reads any
        more.
        """

    async def write_eof(self) -> None:
        """No more will be written. The other direction stays as it is."""


async def pump(source: Source, sink: Sink) -> None:
    """Copy until the source ends, then half-close the sink. SinkClosed ends it early."""
    while data := await source.read():
        await sink.write(data)
    await sink.write_eof()
