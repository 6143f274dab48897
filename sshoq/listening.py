"""Listening sockets of forwardings, made as OpenSSH makes them, on either side.

Plain sockets without an event loop: the server's session leader makes them for its user, the client
for itself. Nothing here looks up a name or decides whether anybody may listen.
"""

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Sequence

BACKLOG = 1024
"""Callers that wait to be taken, as many as there may be channels. OpenSSH's 128 are fewer than
some programs make at once. One that the kernel answers with a SYN cookie, and drops where there is
no room, takes itself for connected; if it waits to be spoken to, it waits for ever.
"""

# In the order in which getaddrinfo has them.
LOOPBACK = ("::1", "127.0.0.1")
WILDCARD = ("0.0.0.0", "::")
FAMILIES = {"any": None, "inet": socket.AF_INET, "inet6": socket.AF_INET6}

Complain = Callable[[str], None]


def addresses_for(host: str | None, *, gateway: bool) -> tuple[str, ...]:
    """What a bind address of a forwarding stands for: literal addresses, or a name to look up.

    None: none was given, so `gateway` decides.
    """
    if host is None:
        return WILDCARD if gateway else LOOPBACK
    if host in ("", "*"):
        return WILDCARD
    return LOOPBACK if host == "localhost" else (host,)


def is_multicast(ip: str) -> bool:
    """Whether it is the address of a group, of either family."""
    for family, first in ((socket.AF_INET, range(224, 240)), (socket.AF_INET6, (0xFF,))):
        with contextlib.suppress(OSError, ValueError):
            return socket.inet_pton(family, ip.partition("%")[0])[0] in first
    return False


def family_of(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def open_listeners(
    addresses: Sequence[str],
    port: int,
    kind: socket.SocketKind,
    complain: Complain,
    mention: Complain,
) -> list[socket.socket]:
    """A socket for each literal address that can be had; all on one port, also if that is 0.

    One is enough, as for OpenSSH. OSError, the last one, if there is none. `complain` hears of the
    last address, `mention` of the others: a machine that has but one family is nothing to tell.
    """
    sockets: list[socket.socket] = []
    failure = OSError(0, "no address to listen on")
    for position, address in enumerate(addresses, 1):
        try:
            listener = listen_at(address, port, kind)
        except OSError as error:
            failure = error
            tell = complain if position == len(addresses) else mention
            tell(f"bind [{address}]:{port}: {error.strerror}")
            continue
        sockets.append(listener)
        port = listener.getsockname()[1]
    if not sockets:
        raise failure
    return sockets


def listen_at(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """On that literal address only. OSError."""
    family = family_of(address)
    listener = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        joins = kind == socket.SOCK_DGRAM and is_multicast(address)
        if kind == socket.SOCK_STREAM or joins:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        [(_, _, _, _, where), *_] = socket.getaddrinfo(
            address, port, family, kind, 0, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
        listener.bind(where)
        if kind == socket.SOCK_STREAM:
            listener.listen(BACKLOG)
        if joins:
            _join_group(listener, family)
    except BaseException:
        listener.close()
        raise
    return listener


# --------------------------------------------------------------------------- multicast

# linux/in.h, linux/in6.h, linux/if.h, linux/sockios.h; not all in the socket module.
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8


def _join_group(listener: socket.socket, family: socket.AddressFamily) -> None:
    """Become a member of the group it is bound to, on all interfaces but loopback, as the Go
    programs do. OSError, the last one, if that works on none."""
    name = listener.getsockname()
    group = socket.inet_pton(family, name[0].partition("%")[0])
    only = name[3] if family == socket.AF_INET6 else 0  # a group of one interface
    failure = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    joined = 0
    for index in [only] if only else _interfaces(listener):
        try:
            _join_on(listener, family, group, index)
            joined += 1
        except OSError as error:
            failure = error
    if not joined:
        raise failure


def _join_on(
    listener: socket.socket, family: socket.AddressFamily, group: bytes, index: int
) -> None:
    """What the same group gets on other interfaces, where others have joined, is not for us."""
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        member = group + struct.pack("I", index)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    else:
        listener.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        member = group + bytes(4) + struct.pack("i", index)
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)


def _interfaces(any_socket: socket.socket) -> list[int]:
    """Those that are up, without loopback."""
    import fcntl

    found = []
    for index, name in socket.if_nameindex():
        request = struct.pack("16sh14x", os.fsencode(name), 0)
        with contextlib.suppress(OSError):  # it has gone meanwhile
            answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFFLAGS, request)
            (flags,) = struct.unpack_from("16xH", answer)
            if flags & _IFF_UP and not flags & _IFF_LOOPBACK:
                found.append(index)
    return found


class UnixListener:
    """A listening Unix socket and its place in the file system, which goes with it."""

    def __init__(self, path: str, mask: int, *, unlink: bool) -> None:
        """StreamLocalBindMask and StreamLocalBindUnlink. OSError as bind has it."""
        self.path = path
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self.socket = socket.socket(socket.AF_UNIX, kind)
        try:
            if unlink:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            self._bind(path, mask)
            status = os.lstat(path)
            self.socket.listen(BACKLOG)
        except BaseException:
            self.socket.close()
            raise
        self._identity = (status.st_dev, status.st_ino)

    def _bind(self, path: str, mask: int) -> None:
        before = os.umask(mask)
        try:
            self.socket.bind(os.fsencode(path))
        finally:
            os.umask(before)

    def remove(self) -> None:
        """Take the name away, unless it means something else by now. The socket stays."""
        remove_socket(self.path, self._identity)


def remove_socket(path: str, identity: tuple[int, int]) -> None:
    """Take a socket's name away, unless it means something else than this device and inode now."""
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        if stat.S_ISSOCK(status.st_mode) and (status.st_dev, status.st_ino) == identity:
            os.unlink(path)
