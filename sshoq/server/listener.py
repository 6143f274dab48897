"""Process: main [root] makes them; router and monitor name their addresses. The UDP sockets: one
that listens at each address, and one for each connection, bound to the same address and connected
to the peer.

The kernel tells them apart (SO_REUSEPORT), so connections share nothing. Between bind and connect a
connection's socket must not get other people's packets: a program on the group says that the
listener, its first member, gets whatever is for no connected socket.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
from ipaddress import ip_address
from typing import Any

SO_ATTACH_REUSEPORT_CBPF = 51
SO_DETACH_REUSEPORT_BPF = 68
SO_RCVBUFFORCE = 33
SO_SNDBUFFORCE = 32
IP_PKTINFO = 8

LISTENER_BUFFER = 4 * 1024 * 1024
"""Room for the first packets of everybody while the router forks (1 ms each)."""

CONNECTION_BUFFER = 2 * 1024 * 1024
"""A window's worth; the kernel uses it only as it fills."""

_RETURN_FIRST = struct.pack("HBBI", 0x06, 0, 0, 0)
"""Classic BPF: `ret 0`, the index of the first socket of the group."""

_UNCONNECTED, _CONNECTED = "07", "01"
"""A UDP socket's states in /proc/net/udp."""

MAX_INDEX = (1 << 31) - 1
"""Of an interface. Beyond 32 bits it would be no OSError any more."""

Address = tuple[Any, ...]


class BindError(Exception):
    """The address cannot be had; str() as sshd words it."""

    def __init__(self, address: Address, reason: str) -> None:
        super().__init__(f"Bind to port {address[1]} on {address[0]} failed: {reason}.")
        self.in_use = reason == IN_USE


IN_USE = os.strerror(errno.EADDRINUSE)


def open_listener(family: int, address: Address) -> socket.socket:
    """The socket that newcomers' packets come to."""
    states = _states_at(family, address)
    if _UNCONNECTED in states:
        # With SO_REUSEPORT the kernel would let a second server in, and split the packets.
        raise BindError(address, IN_USE)
    try:
        listener = _bound_socket(family, address, LISTENER_BUFFER)
    except OSError as error:
        raise BindError(address, error.strerror or str(error)) from None
    _report_local_addresses(listener)
    if _CONNECTED in states and not _is_wildcard(address):
        # Connections of a server before us are first in the group, and will be when one of them
        # ends. Without a program the kernel passes over connected sockets, which is right but for
        # the moment between bind and connect.
        _detach_program(listener)
    else:
        _prefer_first(listener)
    return listener


def open_connection(listener: socket.socket, peer: Address, local_address: str) -> socket.socket:
    """A socket for one peer, at the listener's address. OSError when the kernel refuses."""
    family, address = listener.family, listener.getsockname()
    connected = _connected_socket(family, address, peer)
    if not local_address or _same(connected.getsockname()[0], local_address):
        return connected
    # The host has several addresses and would answer from another one than was asked.
    connected.close()
    return _connected_socket(family, (local_address, *address[1:]), peer)


def _connected_socket(family: int, address: Address, peer: Address) -> socket.socket:
    connection = _bound_socket(family, address, CONNECTION_BUFFER)
    try:
        connection.connect(peer)
    except OSError:
        connection.close()
        raise
    return connection


def _bound_socket(family: int, address: Address, buffer: int) -> socket.socket:
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _set_buffers(udp, buffer)
        udp.bind(address)
    except OSError:
        udp.close()
        raise
    udp.setblocking(False)
    return udp


def _set_buffers(udp: socket.socket, size: int) -> None:
    """Root may go beyond the system's limit, others get as much as they may."""
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            udp.setsockopt(socket.SOL_SOCKET, force, size)
        except OSError:
            with contextlib.suppress(OSError):
                udp.setsockopt(socket.SOL_SOCKET, plain, size)


def _report_local_addresses(listener: socket.socket) -> None:
    """Each datagram says which of our addresses it was sent to."""
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        listener.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def _prefer_first(listener: socket.socket) -> None:
    program = ctypes.create_string_buffer(_RETURN_FIRST, len(_RETURN_FIRST))
    holder = struct.pack("HxxxxxxP", 1, ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, holder)


def _detach_program(listener: socket.socket) -> None:
    """It belongs to the group, so the server before us may have left one."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 1)


# --------------------------------------------------------------------------- addresses


def parse_peer(family: int, address: str, port: int) -> Address:
    """The peer as the router named it; ValueError unless it is one that can be answered."""
    host, _, zone = address.partition("%")
    parsed = ip_address(host)
    right_version = parsed.version == (6 if family == socket.AF_INET6 else 4)
    if not right_version or parsed.is_multicast or parsed.is_unspecified or not 0 < port < 65536:
        raise ValueError(f"no peer can be at {address!r} port {port}")
    if parsed.version == 4:
        return (host, port)
    return (host, port, 0, _zone_index(zone))


def _zone_index(zone: str) -> int:
    if not zone or zone.isdecimal():
        index = int(zone or "0")
        if index > MAX_INDEX:
            raise ValueError(f"no interface {zone}")
        return index
    try:
        return socket.if_nametoindex(zone)
    except OSError:
        raise ValueError(f"no interface {zone!r}") from None


def check_local(listener: socket.socket, address: str) -> None:
    """ValueError if nothing sent to `address` can have come to that listener."""
    bound = listener.getsockname()
    if not address:
        return
    if "%" in address:
        raise ValueError("the kernel tells no zone of ours")
    parsed = ip_address(address)
    if parsed.version != (6 if listener.family == socket.AF_INET6 else 4):
        raise ValueError(f"{address} is of another family")
    if not _is_wildcard(bound) and not _same(bound[0], address):
        raise ValueError(f"{address} is not where we listen")


def _is_wildcard(address: Address) -> bool:
    return bool(ip_address(str(address[0]).partition("%")[0]).is_unspecified)


def _same(left: str, right: str) -> bool:
    return ip_address(left.partition("%")[0]) == ip_address(right.partition("%")[0])


def show_address(address: Address) -> str:
    return f"{address[0]} port {address[1]}"


# --------------------------------------------------------------------------- who is there already


def _states_at(family: int, address: Address) -> set[str]:
    """The states of the sockets at exactly that address and port, as the kernel lists them."""
    table = "/proc/net/udp6" if family == socket.AF_INET6 else "/proc/net/udp"
    port = f"{address[1]:04X}"
    wanted = f"{_kernel_hex(family, address[0])}:{port}"
    try:
        with open(table) as file:
            rows = [line.split() for line in file if f":{port} " in line]
    except OSError:
        return set()
    return {row[3] for row in rows if row[1] == wanted}


def _kernel_hex(family: int, host: str) -> str:
    """The address as 32-bit words in the machine's byte order, as /proc has it."""
    raw = socket.inet_pton(family, host.partition("%")[0])
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    return "".join(f"{word:08X}" for word in words)
