"""Process: router [service user, sandboxed]. Datagrams at the listening socket, with the address
they came to.

A server with several addresses must answer from the one it was asked at, so every datagram is read,
and every answer sent, with its IP_PKTINFO. Knows nothing of QUIC.
"""

import socket
import struct
from collections.abc import Iterator

from sshoq.named_tuple import NamedTuple

IPV6_PKTINFO = getattr(socket, "IPV6_PKTINFO", 50)
IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)

# ip(7): interface, local address (to send from), address in the header (as received)
_IN_PKTINFO = struct.Struct("=i4s4s")
_IN6_PKTINFO = struct.Struct("=16si")  # ipv6(7): address, interface
_ANCILLARY = socket.CMSG_SPACE(_IN6_PKTINFO.size) + socket.CMSG_SPACE(_IN_PKTINFO.size)

MAX_DATAGRAM = 2048
"""What a listener reads of one datagram. First packets fit an ordinary path; the rest would be cut
and dropped.
"""

_PASSING = (ConnectionError, InterruptedError)
"""A port that is closed at some earlier peer is reported on the next read; it is not about this
datagram.
"""


class Arrival(NamedTuple):
    """A datagram at the listener: who sent it, and to which of our addresses ("" when not told)."""

    payload: bytes
    peer: tuple[str, int]
    local_address: str


def read_arrivals(listener: socket.socket, most: int) -> Iterator[Arrival]:
    """What waits at a non-blocking listener, at most so many datagrams. A link-local peer keeps its
    %zone.
    """
    for _ in range(most):
        try:
            payload, ancillary, flags, peer = listener.recvmsg(MAX_DATAGRAM, _ANCILLARY)
        except BlockingIOError:
            return
        except _PASSING:
            continue
        if flags & socket.MSG_TRUNC or not payload or not peer[1]:
            continue  # nobody can be answered at port 0
        yield Arrival(payload, (_with_zone(peer), peer[1]), _local_address(ancillary))


def _with_zone(peer: tuple[str, int] | tuple[str, int, int, int]) -> str:
    if len(peer) == 4 and peer[3] and "%" not in peer[0]:
        return f"{peer[0]}%{peer[3]}"
    return peer[0]


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> str:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
            return socket.inet_ntop(socket.AF_INET6, data[:16])
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return socket.inet_ntop(socket.AF_INET, data[8:12])
    return ""


def send_from(
    listener: socket.socket, payload: bytes, peer: tuple[str, int], local_address: str
) -> None:
    """Send from that local address ("": the kernel chooses). OSError as sendmsg has it."""
    listener.sendmsg([payload], source_control(local_address), 0, peer)


def source_control(local_address: str) -> list[tuple[int, int, bytes]]:
    """The ancillary data that makes `local_address` a datagram's source."""
    if not local_address:
        return []
    if ":" in local_address:
        raw = socket.inet_pton(socket.AF_INET6, local_address.partition("%")[0])
        return [(socket.IPPROTO_IPV6, IPV6_PKTINFO, _IN6_PKTINFO.pack(raw, 0))]
    raw = socket.inet_pton(socket.AF_INET, local_address)
    return [(socket.IPPROTO_IP, IP_PKTINFO, _IN_PKTINFO.pack(0, raw, bytes(4)))]
