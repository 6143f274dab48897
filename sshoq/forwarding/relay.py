"""The one pump: bytes from an end to an end, for terminals, pipes, ptys, sockets and channels
alike.

Knows nothing of descriptors or channels: a Source is read, a Sink is written, and write() waits
while the far end is slow. That waiting is the back-pressure of the whole program; nothing here
buffers.
"""

from collections.abc import Callable
from typing import Protocol

Take = Callable[[bytes | memoryview], bytes | memoryview]
"""A sink's `take`."""


class Source(Protocol):
    async def read(self, take: Take | None = None) -> bytes | memoryview:
        """The next bytes, as many as there are up to a bound of the source; empty at the end.

        A little that comes while this waits may be given to `take` where it arrives, and wakes
        nobody as long as all of it is taken: for a byte and its echo that is most of the work. What
        `take` raises is raised here.
        """


class Sink(Protocol):
    def take(self, data: bytes | memoryview) -> bytes | memoryview:
        """Take as much of `data` as there is room for now; the rest is returned. SinkClosed."""

    async def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`, waiting while the far end is slow. SinkClosed when nobody reads any
        more.
        """

    async def write_eof(self) -> None:
        """No more will be written. The other direction stays as it is."""


async def pump(source: Source, sink: Sink) -> None:
    """Copy until the source ends, then half-close the sink. SinkClosed ends it early."""
    while data := await source.read(sink.take):
        await sink.write(data)
    await sink.write_eof()
