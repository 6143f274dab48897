"""UDP in batches: a socket read until it is empty, written with one system call for many datagrams.

Where the kernel can, it splits what we send (UDP_SEGMENT) and joins what we receive (UDP_GRO);
where it cannot, datagrams go one by one. asyncio's own datagram transport is not used: it costs
more per packet than all of QUIC's cryptography. `UdpSocket` blocks nowhere and needs no event loop,
so a client can send its first flight before asyncio is loaded. Knows nothing of QUIC.
"""

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sshoq.transport.events import Address, plain_address

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# linux/udp.h, linux/in.h, linux/in6.h; not all in the socket module.
SOL_UDP = socket.IPPROTO_UDP
UDP_SEGMENT = 103
UDP_GRO = 104
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE = 23, 3

MAX_SEGMENTS = 64
MAX_JOINED = 65000
"""Bytes of payload in one segmented send; an IP packet ends at 65,535."""

RECEIVE_ROUNDS = 16
"""Reads before others get their turn; with UDP_GRO each may bring 64 datagrams."""

BUFFER_SIZE = 4 * 1024 * 1024
"""Asked for; the kernel gives what net.core.rmem_max permits."""

SEND_TRIES = 3
"""An error of an earlier datagram is reported once, in place of sending this one."""

KEPT_MEMORY = 8 * 1024 * 1024
"""Of freed memory, as much is kept for the next batch."""

MAX_BACKLOG = 256
"""Datagrams kept while the socket takes none. More are lost, as they would be on any full queue."""

_ANCILLARY = socket.CMSG_SPACE(struct.calcsize("i"))
_NO_SEGMENTATION = frozenset((errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT))
_UNREACHABLE = frozenset(
    (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
)
_LOST = frozenset((errno.EMSGSIZE, errno.ENOBUFS, errno.EPERM))
"""Of one datagram: too large for the path, no room, forbidden by a filter. QUIC sends it again."""

_keeps_memory = False

Batch = tuple[Address, list[bytes]]


class UdpSocket:
    """A connected or bound UDP socket, not blocking, that takes and gives lists of datagrams."""

    def __init__(
        self, sock: socket.socket, *, segmentation: bool = True, coalescing: bool = True
    ) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.segmentation = segmentation
        self.coalescing = coalescing and _try_option(sock, SOL_UDP, UDP_GRO, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            # Whoever made the socket may have been allowed more than we are.
            if sock.getsockopt(socket.SOL_SOCKET, option) < BUFFER_SIZE:
                _try_option(sock, socket.SOL_SOCKET, option, BUFFER_SIZE)
        _forbid_fragments(sock)
        self._buffer = bytearray(65536)
        self._view = memoryview(self._buffer)
        self._backlog: deque[tuple[Address | None, bytes]] = deque()
        self._peer = _peer_of(sock)
        self._error: OSError | None = None
        self.sent = self.received = 0
        """Bytes that went through the socket."""

    @classmethod
    def connect(cls, address: Address, family: int) -> "UdpSocket":
        """A new socket towards that address. OSError when there is no way there."""
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.connect(address)
            return cls(sock)
        except OSError:
            sock.close()
            raise

    @property
    def peer(self) -> Address | None:
        """Whom the socket is connected to."""
        return self._peer

    @property
    def backlog(self) -> int:
        """Datagrams that wait for room in the socket."""
        return len(self._backlog)

    def forget_peer(self) -> None:
        """The socket is about to be connected to somebody else: until `find_peer` every datagram
        is sent with its address."""
        self._peer = None

    def find_peer(self) -> None:
        self._peer = _peer_of(self.socket)

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    # ------------------------------------------------------------------ receiving

    def receive(self) -> list[Batch]:
        """All that waits, in batches per sender. What the network reports goes to `take_error`."""
        batches: dict[Address, list[bytes]] = {}
        for _ in range(RECEIVE_ROUNDS):
            try:
                size, ancillary, _, sender = self.socket.recvmsg_into([self._buffer], _ANCILLARY)
                self.received += size
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno not in _UNREACHABLE:
                    raise
                self._error = error
                continue
            peer = self._peer or plain_address(sender)
            batches.setdefault(peer, []).extend(self._split(size, ancillary))
        return list(batches.items())

    def take_error(self) -> OSError | None:
        """The latest word of the network that the peer cannot be reached; it may be wrong, or
        forged.
        """
        error, self._error = self._error, None
        return error

    def _split(self, size: int, ancillary: list[tuple[int, int, bytes]]) -> list[bytes]:
        step = size
        for level, kind, data in ancillary:
            if level == SOL_UDP and kind == UDP_GRO:
                step = struct.unpack_from("i", data)[0]
        return [bytes(self._view[at : min(at + step, size)]) for at in range(0, size, step or 1)]

    # ------------------------------------------------------------------ sending

    def send(self, datagrams: Sequence[bytes], address: Address | None = None) -> None:
        """Send to the connected peer, or elsewhere. What finds no room waits for `flush`."""
        target = None if address is None or plain_address(address) == self._peer else address
        if self._backlog:
            self._keep(datagrams, target)
            return
        start = 0
        while start < len(datagrams):
            stop = self._run_end(datagrams, start)
            if not self._send_run(datagrams[start:stop], target):
                self._keep(datagrams[start:], target)
                return
            start = stop

    def flush(self) -> bool:
        """Send what waits. True when nothing does any more."""
        while self._backlog:
            target, datagram = self._backlog[0]
            if not self._send_run([datagram], target):
                return False
            self._backlog.popleft()
        return True

    def _keep(self, datagrams: Sequence[bytes], target: Address | None) -> None:
        room = MAX_BACKLOG - len(self._backlog)
        self._backlog.extend((target, datagram) for datagram in datagrams[: max(0, room)])

    def _run_end(self, datagrams: Sequence[bytes], start: int) -> int:
        """The end of a run that one segmented send can carry: equal sizes, the last may be
        shorter.
        """
        stop = start + 1
        if not self.segmentation:
            return stop
        size = total = len(datagrams[start])
        while stop < len(datagrams) and stop - start < MAX_SEGMENTS:
            following = len(datagrams[stop])
            total += following
            if following > size or total > MAX_JOINED:
                break
            stop += 1
            if following < size:
                break
        return stop

    def _send_run(self, run: Sequence[bytes], target: Address | None) -> bool:
        """False when the socket has no room. What the network reports goes to `take_error`."""
        control = [(SOL_UDP, UDP_SEGMENT, struct.pack("H", len(run[0])))] if len(run) > 1 else []
        for _ in range(SEND_TRIES):
            try:
                self._sendmsg(run, control, target)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if control and error.errno in _NO_SEGMENTATION:
                    self.segmentation = False
                    return all([self._send_run([datagram], target) for datagram in run])
                if error.errno in _UNREACHABLE:
                    self._error = error  # of an earlier datagram: this one has not been tried yet
                    continue
                if error.errno not in _LOST:
                    raise
            return True
        return True

    def _sendmsg(
        self, run: Sequence[bytes], control: list[tuple[int, int, bytes]], target: Address | None
    ) -> None:
        if target is None:
            alone = len(run) == 1
            self.sent += self.socket.send(run[0]) if alone else self.socket.sendmsg(run, control)
        else:
            self.sent += self.socket.sendmsg(run, control, 0, target)


class RelayedSocket(UdpSocket):
    """One end of a pair of datagram sockets, whose other end is somebody's way to `peer`."""

    def __init__(self, end: socket.socket, peer: Address) -> None:
        super().__init__(end, segmentation=False, coalescing=False)
        self._peer = plain_address(peer)

    @classmethod
    def pair(cls, peer: Address) -> "tuple[RelayedSocket, socket.socket]":
        """One, and the other end, with as much room towards here: whoever has that hands on in one
        go what came while the machine was busy."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        _try_option(far, socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_SIZE)
        return cls(near, peer), far

    def send(self, datagrams: Sequence[bytes], address: Address | None = None) -> None:
        try:
            super().send(datagrams)
        except OSError as error:
            # The other end has gone, which its owner has noticed. It is told once, then forgotten.
            if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
                raise


class UdpTransport:
    """A `UdpSocket` in an event loop: tells what arrives, and sends the backlog when there is
    room.
    """

    def __init__(
        self,
        loop: "AbstractEventLoop",
        udp: UdpSocket,
        on_batches: Callable[[list[Batch]], None],
        on_unreachable: Callable[[OSError], None],
    ) -> None:
        self.udp = udp
        self._loop = loop
        self._on_batches = on_batches
        self._on_unreachable = on_unreachable
        self._writing = False
        keep_freed_memory()
        loop.add_reader(udp.fileno(), self._readable)

    def send(self, batches: Sequence[Batch]) -> None:
        """All that an engine has to send."""
        for address, datagrams in batches:
            self.udp.send(datagrams, address)
        if self.udp.backlog and not self._writing:
            self._writing = True
            self._loop.add_writer(self.udp.fileno(), self._writable)

    def close(self) -> None:
        """Leave the loop and close the socket."""
        self._loop.remove_reader(self.udp.fileno())
        self._stop_writing()
        self.udp.close()

    def _readable(self) -> None:
        batches = self.udp.receive()
        if batches:
            self._on_batches(batches)
        if (error := self.udp.take_error()) is not None:
            self._on_unreachable(error)

    def _writable(self) -> None:
        if self.udp.flush():
            self._stop_writing()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.udp.fileno())


def keep_freed_memory() -> None:
    """Each batch takes and frees a few megabytes. glibc would give them back to the kernel each
    time, and page faults would cost a third of all; having freed a large block once, it keeps
    twice that. Forked processes go on so.
    """
    global _keeps_memory
    if not _keeps_memory:
        bytes(KEPT_MEMORY // 2)
        _keeps_memory = True


def _peer_of(sock: socket.socket) -> Address | None:
    try:
        peer = sock.getpeername()
    except OSError:
        return None
    return plain_address(peer) if isinstance(peer, tuple) else None


def _try_option(sock: socket.socket, level: int, option: int, value: int) -> bool:
    """For options that help, but that not every kernel has."""
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def _forbid_fragments(sock: socket.socket) -> None:
    """RFC 9000 14: no fragments; and a forged "too big" must not make the kernel refuse our
    packets.
    """
    if sock.family == socket.AF_INET6:
        _try_option(sock, socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE)
    _try_option(sock, socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
