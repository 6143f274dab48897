"""Process: all of them. The socket on which the server's processes speak to each other.

One SOCK_SEQPACKET socket joins each pair of processes that may talk; every packet is one declared
message (`privsep.py`), with the descriptors that belong to it (SCM_RIGHTS). A packet that is too
long, unknown, or not in the table of its socket is the other side's fault: PrivsepError, and the
caller ends that conversation's processes.
"""

import os
import select
import socket
from array import array
from collections.abc import Sequence

from sshoq.wire import Message, MessageSet, WireError

MAX_PACKET = 160 * 1024
"""The longest message: a command line at the kernel's own limit (128 KiB) and its environment."""

MAX_DESCRIPTORS = 4
"""No message carries more: a program's three pipes are the most."""


_ANCILLARY = socket.CMSG_LEN(MAX_DESCRIPTORS * array("i").itemsize)


class PrivsepError(Exception):
    """The process at the other end broke the rules, or is gone."""


class PeerGone(PrivsepError):
    """The other end was closed: its process has ended."""


class PrivsepSocket:
    """One end of a pair; `outgoing` and `incoming` are the tables of what may be said each way."""

    __slots__ = ("incoming", "outgoing", "socket")

    def __init__(self, end: socket.socket, outgoing: MessageSet, incoming: MessageSet) -> None:
        self.socket = end
        self.outgoing = outgoing
        self.incoming = incoming

    def fileno(self) -> int:
        return self.socket.fileno()

    def answer(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """To a process of less rank, which is not waited for: who lets answers pile up could hold
        us for ever. PrivsepError.
        """
        try:
            self.send(message, descriptors, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise PrivsepError("does not read its answers") from None

    def send(
        self, message: Message, descriptors: Sequence[int] = (), flags: int = 0
    ) -> None:
        """One packet. The caller keeps its own copies of the descriptors. BlockingIOError as the
        socket has it.
        """
        packet = self.outgoing.encode(message)
        if len(packet) > MAX_PACKET:
            raise ValueError(f"{type(message).__name__} of {len(packet)} bytes is too long")
        try:
            # Not socket.send_fds: that of Python 3.11 takes flags and forgets them.
            self.socket.sendmsg([packet], _ancillary(descriptors), socket.MSG_NOSIGNAL | flags)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerGone(str(error)) from None

    def receive(self) -> tuple[Message, list[int]]:
        """The next message and its descriptors, which are the caller's to close."""
        try:
            packet, ancillary, flags, _ = self.socket.recvmsg(
                MAX_PACKET + 1, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError as error:
            raise PeerGone(str(error)) from None
        descriptors = _descriptors_in(ancillary)
        try:
            if not packet:
                raise PeerGone("the other process has ended")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(packet) > MAX_PACKET:
                raise PrivsepError("a message too long, or with too many descriptors")
            return self.incoming.decode(packet), descriptors
        except (WireError, PrivsepError) as error:
            close_all(descriptors)
            if isinstance(error, WireError):
                raise PrivsepError(f"bad message: {error}") from None
            raise

    def wait(self, seconds: float) -> bool:
        """Whether there is something to receive within that time. poll() and not select(), which
        knows no descriptor above 1023."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        self.socket.close()


def _ancillary(descriptors: Sequence[int]) -> list[tuple[int, int, bytes]]:
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors).tobytes())]


def _descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """socket.recv_fds would do this, but forgets its flags, and so close-on-exec."""
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def make_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair of packet sockets, not inherited by programs."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
