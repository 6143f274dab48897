"""Where to: the addresses of a host, and a UDP socket connected to one of them.

Runs before the first flight, so it is plain and blocking. A connected socket hears of ICMP errors:
that is how "Connection refused" comes to a protocol without resets.
"""

import os
import socket
from typing import Any

from sshoq.client.log import Failure
from sshoq.config.usage import ERROR
from sshoq.named_tuple import NamedTuple

SocketAddress = tuple[Any, ...]

_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}


class HostAddress(NamedTuple):
    """One of the addresses that a name stands for."""

    family: int
    address: SocketAddress

    @property
    def ip(self) -> str:
        """The name instead, where only a jump host knows the address."""
        return str(self.address[0])

    @property
    def known_ip(self) -> str | None:
        return None if self.family == socket.AF_UNSPEC else self.ip

    @property
    def port(self) -> int:
        return int(self.address[1])


class BindError(OSError):
    """The local end cannot be had as it is wished for: str() is the line that says so."""

    def __init__(self, line: str) -> None:
        super().__init__(0, "failure")  # which is all that ssh has to say of the connection
        self.line = line


class BindWish(NamedTuple):
    """BindAddress, BindInterface and IPQoS: how the local end is to be."""

    address: str | None = None
    interface: str | None = None
    traffic_class: int | None = None


def resolve_host(host: str, port: int, family: str = "any") -> list[HostAddress]:
    """In the order in which they are to be tried. Failure in OpenSSH's words when there is none."""
    try:
        # As bytes, or getaddrinfo() imports the IDNA codec for every host.
        name: str | bytes = host.encode() if host.isascii() else host
        found = socket.getaddrinfo(name, port, _FAMILIES[family], socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        complaint = f"ssh: Could not resolve hostname {host}: {_reason(error)}"
        raise Failure(complaint, level=ERROR) from None
    addresses = [HostAddress(entry[0], entry[4]) for entry in found]
    return list(dict.fromkeys(addresses))


def _reason(error: Exception) -> str:
    """getaddrinfo() hides the errno of EAI_SYSTEM; a name no resolver can be asked is not known."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "Name or service not known"


def open_socket(target: HostAddress, wish: BindWish) -> socket.socket:
    """A socket connected to the address; OSError says what the kernel said."""
    sock = socket.socket(target.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        _bind(sock, target, wish)
        if wish.traffic_class:
            _set_traffic_class(sock, target.family, wish.traffic_class)
        sock.connect(target.address)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def network_towards(target: HostAddress, wish: BindWish) -> bytes:
    """What tells the network by which this address is reached: our own one there, b"" when there is
    no way. Of IPv6 the half that does not change daily (RFC 8981). Sends nothing.
    """
    try:
        with open_socket(target, wish) as sock:
            here = str(sock.getsockname()[0])
        return socket.inet_pton(target.family, here.partition("%")[0])[:8]
    except OSError:
        return b""


def _bind(sock: socket.socket, target: HostAddress, wish: BindWish) -> None:
    if wish.address:
        local = _local_address(wish.address, target.family)
    elif wish.interface:
        local = _interface_address(wish.interface, target.family)
    else:
        return
    try:
        sock.bind(local)
    except OSError as error:
        raise BindError(f"bind {local[0]}: {error.strerror}") from None


def _local_address(name: str, family: int) -> SocketAddress:
    """BindAddress: it may be a name, too."""
    try:
        found = socket.getaddrinfo(name, 0, family, socket.SOCK_DGRAM, 0, socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise BindError(f"getaddrinfo: {name}: {_reason(error)}") from None
    address: SocketAddress = found[0][4]
    return address


def _set_traffic_class(sock: socket.socket, family: int, value: int) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, value)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, value)


# --------------------------------------------------------------------- addresses of interfaces

_SIOCGIFADDR = 0x8915
_LINK_SCOPE = 0x20


def _interface_address(name: str, family: int) -> SocketAddress:
    """BindInterface: the first address that can be used to reach others."""
    find = _inet6_address if family == socket.AF_INET6 else _inet_address
    address = find(name)
    if address is None:
        raise BindError(f"getifaddrs: {name}: no suitable addresses")
    return address


def _inet_address(name: str) -> SocketAddress | None:
    import fcntl
    import struct

    request = struct.pack("16s24x", os.fsencode(name)[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, request)
        except OSError:
            return None
    return socket.inet_ntop(socket.AF_INET, answer[20:24]), 0


def _inet6_address(name: str) -> SocketAddress | None:
    """/proc/net/if_inet6: address, index, prefix length, scope, flags, name."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return None
    for raw, index, _, scope, _, interface in rows:
        if interface == name and int(scope, 16) != _LINK_SCOPE:
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw)), 0, 0, int(index, 16)
    return None
