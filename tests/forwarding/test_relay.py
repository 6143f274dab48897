"""The pump: what comes while it waits is passed on where it arrives; order and ends stay."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from sshoq.forwarding.forwarder import TRICKLE, FdSource
from sshoq.forwarding.relay import pump
from sshoq.transport.channel import SinkClosed

Data = bytes | memoryview


class Recorder:
    """A sink that takes at most so many bytes at once; what it was given, and how."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken: list[bytes] = []
        self.written: list[bytes] = []
        self.all = b""
        self.ended = False
        self.news = asyncio.Event()

    def take(self, data: Data) -> Data:
        self._note(self.taken, data[: self.most])
        return data[self.most :]

    async def write(self, data: Data) -> None:
        self._note(self.written, data)

    async def write_eof(self) -> None:
        self.ended = True

    def _note(self, where: list[bytes], data: Data) -> None:
        where.append(bytes(data))
        self.all += bytes(data)
        self.news.set()

    async def got(self, everything: bytes) -> None:
        while self.all != everything:
            self.news.clear()
            await self.news.wait()


def run(test: Callable[[int, FdSource], Awaitable[None]]) -> None:
    """With the writing end of a pipe, and the other as a source."""

    async def limited() -> None:
        async with asyncio.timeout(20):
            reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                await test(writing, FdSource(reading))
            finally:
                os.close(writing)

    asyncio.run(limited())


def test_what_comes_while_it_waits_wakes_nobody() -> None:
    async def main(writing: int, source: FdSource) -> None:
        sink = Recorder(most=100)
        pumping = asyncio.ensure_future(pump(source, sink))
        await asyncio.sleep(0)
        for count in range(1, 4):
            os.write(writing, b"x")
            await sink.got(b"x" * count)
        assert (sink.taken, sink.written) == ([b"x"] * 3, [])
        source.close()
        await pumping
        assert sink.ended

    run(main)


def test_what_is_much_wakes_the_task() -> None:
    """It finds more, which leaves with it."""

    async def main(writing: int, source: FdSource) -> None:
        sink = Recorder(most=1 << 20)
        pumping = asyncio.ensure_future(pump(source, sink))
        await asyncio.sleep(0)
        os.write(writing, bytes(TRICKLE + 1))
        await sink.got(bytes(TRICKLE + 1))
        assert (sink.taken, len(sink.written)) == ([], 1)
        source.close()
        await pumping

    run(main)


def test_what_is_not_taken_is_written() -> None:
    async def main(writing: int, source: FdSource) -> None:
        sink = Recorder(most=2)
        pumping = asyncio.ensure_future(pump(source, sink))
        await asyncio.sleep(0)
        os.write(writing, b"abcde")
        await sink.got(b"abcde")
        assert (sink.taken, sink.written) == ([b"ab"], [b"cde"])
        os.write(writing, b"f")
        await sink.got(b"abcdef")
        source.close()
        await pumping

    run(main)


@pytest.mark.parametrize("failure", [SinkClosed("gone"), OSError(28, "no space")])
def test_a_sink_that_cannot_take_ends_it(failure: Exception) -> None:
    class Broken(Recorder):
        def take(self, data: Data) -> Data:
            raise failure

    async def main(writing: int, source: FdSource) -> None:
        pumping = asyncio.ensure_future(pump(source, Broken(0)))
        await asyncio.sleep(0)
        os.write(writing, b"x")
        with pytest.raises(type(failure), match=str(failure.args[-1])):
            await pumping
        source.close()

    run(main)


def test_a_source_that_is_closed_while_it_passes_on_is_at_its_end() -> None:
    async def main(writing: int, source: FdSource) -> None:
        class Closing(Recorder):
            def take(self, data: Data) -> Data:
                source.close()
                return super().take(data)

        sink = Closing(most=100)
        pumping = asyncio.ensure_future(pump(source, sink))
        await asyncio.sleep(0)
        os.write(writing, b"x")
        await pumping
        assert (sink.all, sink.ended) == (b"x", True)

    run(main)


def test_a_source_that_is_drained_ends_behind_what_is_there() -> None:
    async def main(writing: int, source: FdSource) -> None:
        sink = Recorder(most=100)
        pumping = asyncio.ensure_future(pump(source, sink))
        await asyncio.sleep(0)
        os.write(writing, b"last words")
        source.drain()
        await pumping
        assert (sink.all, sink.ended) == (b"last words", True)

    run(main)
