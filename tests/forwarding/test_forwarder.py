"""Descriptors as ends: what is written comes out, ends are ends, and nobody's flags change."""

import asyncio
import os
import pty
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sshoq.forwarding.forwarder import (
    READ_SIZE,
    FdSink,
    FdSource,
    standard_sink,
    standard_source,
)
from sshoq.forwarding.relay import pump
from sshoq.transport.channel import SinkClosed


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())


def non_blocking_pipe() -> tuple[int, int]:
    return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def test_more_than_a_pipe_holds_arrives_whole() -> None:
    payload = os.urandom(3_000_000)

    async def main() -> None:
        first_read, first_write = non_blocking_pipe()
        second_read, second_write = non_blocking_pipe()

        async def collect() -> bytes:
            source, parts = FdSource(second_read), []
            while data := await source.read():
                parts.append(data)
            return b"".join(parts)

        async def feed() -> None:
            sink = FdSink(first_write)
            await sink.write(payload)
            await sink.write_eof()

        async with asyncio.TaskGroup() as group:
            collected = group.create_task(collect())
            group.create_task(feed())
            group.create_task(pump(FdSource(first_read), FdSink(second_write)))
        assert collected.result() == payload

    run(main)


def test_a_writer_waits_for_a_slow_reader() -> None:
    async def main() -> None:
        read_end, write_end = non_blocking_pipe()
        sink = FdSink(write_end)
        writing = asyncio.ensure_future(sink.write(bytes(1_000_000)))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not writing.done()
        received = 0
        while received < 1_000_000:
            try:
                received += len(os.read(read_end, 65536))
            except BlockingIOError:
                await asyncio.sleep(0)
        await writing
        sink.close()
        os.close(read_end)

    run(main)


def test_a_reader_that_left_closes_the_sink() -> None:
    async def main() -> None:
        read_end, write_end = non_blocking_pipe()
        os.close(read_end)
        sink = FdSink(write_end)
        with pytest.raises(SinkClosed):
            await sink.write(b"x")
        sink.close()

    run(main)


def test_closing_a_source_ends_a_waiting_read() -> None:
    async def main() -> None:
        read_end, write_end = non_blocking_pipe()
        source = FdSource(read_end)
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0)
        source.close()
        assert await reading == b""
        os.close(write_end)

    run(main)


def test_what_comes_while_nobody_reads_stays_where_it_is() -> None:
    """The loop goes on watching behind a read, but takes nothing that nobody waits for."""

    async def main() -> None:
        read_end, write_end = non_blocking_pipe()
        source = FdSource(read_end)
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0)
        os.write(write_end, b"first")
        assert await reading == b"first"
        os.write(write_end, b"second")
        for _ in range(5):
            await asyncio.sleep(0)
        assert os.read(read_end, 100) == b"second"
        assert source.at_hand() == b""
        os.write(write_end, b"third")
        assert source.at_hand() == b"third"
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0)
        os.write(write_end, b"fourth")
        assert await reading == b"fourth"
        source.close()
        os.close(write_end)

    run(main)


def test_a_drained_source_still_gives_what_is_there_and_then_ends() -> None:
    async def main() -> None:
        read_end, write_end = non_blocking_pipe()
        source = FdSource(read_end)
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0)
        os.write(write_end, b"last")
        source.drain()
        assert await reading == b"last"
        assert await source.read() == b""
        reading = asyncio.ensure_future(FdSource(read_end, owned=False).read())
        await asyncio.sleep(0)
        os.close(write_end)
        assert await reading == b""
        source.close()

    run(main)


def test_a_pty_without_a_slave_has_ended() -> None:
    async def main() -> None:
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        os.write(slave, b"last words")
        source = FdSource(master)
        assert await source.read() == b"last words"
        os.close(slave)
        assert await source.read() == b""
        source.close()

    run(main)


def test_a_pty_master_stays_open_for_output_after_the_input_ends() -> None:
    async def main() -> None:
        master, slave = pty.openpty()
        sink = FdSink(master, keep_open=True)
        await sink.write_eof()
        assert os.get_blocking(master) is True  # still a descriptor of ours
        sink.close()
        os.close(slave)

    run(main)


def test_a_regular_file_is_read_to_its_end(tmp_path: Path) -> None:
    content = os.urandom(2 * READ_SIZE + 17)
    (tmp_path / "input").write_bytes(content)

    async def main() -> None:
        fd = os.open(tmp_path / "input", os.O_RDONLY)
        source, parts = standard_source(fd), []
        while data := await source.read():
            parts.append(data)
        assert b"".join(parts) == content
        os.close(fd)

    run(main)


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero"])
def test_devices_that_epoll_refuses_can_be_read(name: str) -> None:
    async def main() -> None:
        fd = os.open(name, os.O_RDONLY)
        data = await standard_source(fd).read()
        assert data == (b"" if name == "/dev/null" else bytes(READ_SIZE))
        os.close(fd)

    run(main)


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket", "datagrams"])
def test_shared_descriptors_keep_their_flags(kind: str) -> None:
    async def main() -> None:
        makers: dict[str, Callable[[], tuple[int, int]]] = {
            "pipe": os.pipe,
            "terminal": pty.openpty,
            "socket": _socket_pair,
            "datagrams": lambda: _socket_pair(socket.SOCK_DGRAM),
        }
        ends = makers[kind]()
        source, sink = standard_source(ends[0]), standard_sink(ends[1])
        await sink.write(b"hello\n")
        assert bytes(await source.read()).strip() == b"hello"
        assert all(os.get_blocking(end) for end in ends)
        source.close()
        sink.close()
        for end in ends:
            os.close(end)

    run(main)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_shared_socket_takes_and_gives_much_at_a_time(size: int) -> None:
    """However slow its other end is; it is the same socket for both, as sshfs gives it."""
    payload = os.urandom(size)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        fd = ours.detach()
        other = os.dup(fd)
        source, sink = standard_source(fd), standard_sink(other)
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(sink.write(payload))
            group.create_task(loop.sock_sendall(theirs, payload))
            received, sent = b"", b""
            while len(received) < size or len(sent) < size:
                if len(received) < size:
                    received += await loop.sock_recv(theirs, 65536)
                if len(sent) < size:
                    sent += await source.read()
            await writing
        assert (received == payload, sent == payload) == (True, True)
        theirs.close()
        assert await source.read() == b""
        with pytest.raises(SinkClosed):
            await sink.write(b"x")
        assert os.get_blocking(fd)
        for one in (source, sink):
            one.close()
            one.close()
        for one_fd in (fd, other):
            os.close(one_fd)

    run(main)


def test_closing_a_shared_socket_leaves_the_others_theirs() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        source = standard_source(ours.fileno())
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0)
        source.close()
        assert await reading == b""
        ours.sendall(b"still there")
        assert theirs.recv(20) == b"still there"
        ours.close()
        theirs.close()

    run(main)


def _socket_pair(kind: socket.SocketKind = socket.SOCK_STREAM) -> tuple[int, int]:
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    return left.detach(), right.detach()
