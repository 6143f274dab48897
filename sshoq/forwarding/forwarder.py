"""Ends: descriptors of this machine (pipes, terminals, ptys, sockets, files) as sources and sinks
for the pump.

Knows no channel and no protocol. A descriptor that is shared with other programs (our standard
input and output) keeps its flags: it is opened anew through /proc where that works, a socket is
asked at each call not to block, and anything else is waited for before each small read or write.
"""

import asyncio
import errno
import os
import socket
import stat
import struct
from contextlib import suppress

from sshoq.forwarding.relay import Take
from sshoq.transport.channel import SinkClosed

READ_SIZE = 128 * 1024
"""What one read asks for: two full pipes, and one data message towards our own peers."""

TRICKLE = 4096
"""What is passed on where it arrives. More comes with more behind it."""

CAREFUL_WRITE = 4096
"""PIPE_BUF: a descriptor that must stay blocking takes this much without stalling when poll says
so.
"""

_PTY_MULTIPLEXER = os.makedev(5, 2)
_BROKEN = (
    errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.ECONNABORTED, errno.ECONNREFUSED,
    errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN,
)  # fmt: skip
"""What the network does to a connection."""
_READER_GONE = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN, *_BROKEN)
_WRITER_GONE = (errno.EIO, *_BROKEN)  # EIO: the pty's last slave was closed


class _Descriptor:
    """A descriptor that the event loop waits for. `owned`: close() closes it."""

    def __init__(self, fd: int, *, owned: bool) -> None:
        self._fd = fd
        self._owned = owned
        self._closed = False
        mode = os.fstat(fd).st_mode
        self._pollable = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
        self._non_blocking = not self._pollable or not os.get_blocking(fd)

    def fileno(self) -> int:
        return self._fd

    def _stop_waiting(self) -> None:
        """Wake a waiting task, which then finds the descriptor closed; the loop forgets it."""
        raise NotImplementedError

    def close(self) -> None:
        """Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._stop_waiting()
        fd, self._fd = self._fd, -1
        if self._owned:
            os.close(fd)


class FdSource(_Descriptor):
    """Reads a descriptor. A hung-up pty or a reset socket is an end like any other.

    What comes while a task waits is read at once, by the loop, which goes on watching: most often
    it can be passed on there and then, or the task soon waits again. If nobody does when more
    comes, the watch ends.
    """

    def __init__(self, fd: int, *, owned: bool = True, size: int = READ_SIZE) -> None:
        super().__init__(fd, owned=owned)
        self._size = size
        self._draining = False
        self._pass_on: Take | None = None
        self._arrival: asyncio.Future[bytes | memoryview | None] | None = None
        self._watching: asyncio.AbstractEventLoop | None = None

    def drain(self) -> None:
        """Nobody may write to it any more: what is there is still read, but not waited for."""
        self._draining = True
        if self._arrival is not None:
            self._readable()

    def at_hand(self) -> bytes:
        """What can be read without waiting; nothing says nothing."""
        return (self._take() or b"") if self._non_blocking else b""

    async def read(self, take: Take | None = None) -> bytes | memoryview:
        """At most one task at a time."""
        data: bytes | memoryview | None = self._take() if self._non_blocking else None
        self._pass_on = take
        while data is None and not self._closed:
            data = await self._next()
        return data or b""

    def _take(self) -> bytes | None:
        """None: there is nothing yet."""
        if self._closed:
            return b""
        try:
            return self._read_now()
        except BlockingIOError:
            return b"" if self._draining else None
        except OSError as error:
            if error.errno in _WRITER_GONE:
                return b""
            raise

    async def _next(self) -> bytes | memoryview | None:
        """What comes next; None: nothing, but perhaps there is something to be taken now."""
        if not self._pollable:
            await asyncio.sleep(0)
            return self._take()
        loop = asyncio.get_running_loop()
        if self._watching is None:
            try:
                loop.add_reader(self._fd, self._readable)
            except PermissionError:  # epoll refuses what is always ready, such as /dev/zero
                self._pollable = False
                return None
            self._watching = loop
        arrival: asyncio.Future[bytes | memoryview | None] = loop.create_future()
        self._arrival = arrival
        try:
            return await arrival
        finally:
            self._arrival = None

    def _readable(self) -> None:
        arrival = self._arrival
        if arrival is None or arrival.done():
            self._stop_watching()
            return
        rest: bytes | memoryview | None
        try:
            rest = data = self._take()
            if data and self._pass_on is not None and self._is_trickle(data):
                rest = self._pass_on(data) or None
        except (OSError, SinkClosed) as error:
            if not arrival.done():
                arrival.set_exception(error)
            return
        if rest is not None and not arrival.done():
            arrival.set_result(rest)

    def _is_trickle(self, data: bytes) -> bool:
        """Whether there is hardly more. A task that is woken reads on until there is nothing left,
        which makes fewer and longer flights."""
        return len(data) <= TRICKLE and not self._draining

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.remove_reader(self._fd)
            self._watching = None

    def _stop_waiting(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        self._stop_watching()

    def _read_now(self) -> bytes:
        return os.read(self._fd, self._size)


def _sink_error(error: OSError) -> Exception:
    """What a failed write means."""
    return SinkClosed(os.strerror(error.errno)) if error.errno in _READER_GONE else error


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class FdSink(_Descriptor):
    """Writes a descriptor. `shutdown`: a socket, whose sending half is closed at the end of data.
    """

    def __init__(self, fd: int, *, owned: bool = True, keep_open: bool = False) -> None:
        super().__init__(fd, owned=owned)
        self._keep_open = keep_open
        self._room: asyncio.Future[None] | None = None

    async def _wait(self) -> None:
        """Until there is room. At most one task waits on a descriptor."""
        if not self._pollable:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        room = self._room = loop.create_future()
        try:
            loop.add_writer(self._fd, _wake, room)
        except PermissionError:  # epoll refuses what is always ready, such as /dev/null
            self._pollable = False
            return
        try:
            await room
        finally:
            self._room = None
            if self._fd >= 0:
                loop.remove_writer(self._fd)

    def _stop_waiting(self) -> None:
        if self._room is not None:
            _wake(self._room)
            asyncio.get_running_loop().remove_writer(self._fd)

    def take(self, data: bytes | memoryview) -> bytes | memoryview:
        if self._closed or not self._non_blocking:
            return data
        try:
            written = self._write_now(data)
        except BlockingIOError:
            return data
        except OSError as error:
            raise _sink_error(error) from None
        return memoryview(data)[written:] if written < len(data) else b""

    async def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            if self._closed:
                raise SinkClosed
            written = await self._write_some(view)
            view = view[written:]

    async def _write_some(self, view: memoryview) -> int:
        try:
            if self._non_blocking:
                return self._write_now(view)
            await self._wait()
            return 0 if self._closed else os.write(self._fd, view[:CAREFUL_WRITE])
        except BlockingIOError:
            await self._wait()
            return 0
        except OSError as error:
            raise _sink_error(error) from None

    def _write_now(self, view: bytes | memoryview) -> int:
        return os.write(self._fd, view)

    async def write_eof(self) -> None:
        """Close the descriptor, unless it serves the other direction, too (a pty's master)."""
        if not self._keep_open:
            self.close()


class _SocketSink(FdSink):
    def __init__(self, end: socket.socket) -> None:
        super().__init__(end.fileno(), owned=False)
        self._end = end

    async def write_eof(self) -> None:
        """Half-close: the other direction goes on."""
        with suppress(OSError):  # reset by its peer, which is nobody's concern any more
            self._end.shutdown(socket.SHUT_WR)


class SocketEnd:
    """A connected stream socket, which it owns: a source and a sink, whose ends are apart."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self.source = FdSource(end.fileno(), owned=False)
        self.sink: FdSink = _SocketSink(end)

    def stop_reading(self) -> None:
        """Nobody wants what comes from it any more."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RD)

    def abort(self) -> None:
        """Break the connection off, so that its peer does not take what it got for the whole."""
        with suppress(OSError):
            self._end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.source.close()
        self.sink.close()
        self._end.close()


class _SharedSocketSource(FdSource):
    """A stream socket that other programs have, too. rsync, scp, sftp and sshfs give us such."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end.fileno(), owned=False)
        self._end = end
        self._non_blocking = True

    def _read_now(self) -> bytes:
        return self._end.recv(self._size, socket.MSG_DONTWAIT)

    def close(self) -> None:
        super().close()
        self._end.close()


class _SharedSocketSink(FdSink):
    """The same in the other direction."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end.fileno(), owned=False)
        self._end = end
        self._non_blocking = True

    def _write_now(self, view: bytes | memoryview) -> int:
        return self._end.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        super().close()
        self._end.close()


def set_no_delay(end: socket.socket) -> None:
    """What is interactive must not wait for more; as OpenSSH does on whatever it forwards."""
    if end.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reopen_non_blocking(fd: int, flags: int) -> int | None:
    """A descriptor of our own for the file behind `fd`, non-blocking without touching its sharers'
    flags.

    None where the kernel does not allow it (sockets, terminals of another user); then `fd` itself
    must do.
    """
    status = os.fstat(fd)
    if not (stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        return None
    if status.st_rdev == _PTY_MULTIPLEXER:
        return None  # opening that one anew makes a new pty
    try:
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def share_socket(fd: int) -> socket.socket | None:
    """Another descriptor of the stream socket behind `fd`; None for anything else."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return None
    end = socket.socket(fileno=os.dup(fd))
    if end.type == socket.SOCK_STREAM:
        return end
    end.close()
    return None


def standard_source(fd: int) -> FdSource:
    """Standard input as a source: other programs may share it, so its flags stay."""
    end = share_socket(fd)
    if end is not None:
        return _SharedSocketSource(end)
    own = reopen_non_blocking(fd, os.O_RDONLY)
    return FdSource(fd, owned=False) if own is None else FdSource(own)


def standard_sink(fd: int) -> FdSink:
    """Standard output or error as a sink; see standard_source()."""
    end = share_socket(fd)
    if end is not None:
        return _SharedSocketSink(end)
    own = reopen_non_blocking(fd, os.O_WRONLY)
    return FdSink(fd, owned=False) if own is None else FdSink(own)
