"""Listening sockets of forwardings, made as OpenSSH makes them, on either side.

Plain sockets without an event loop: the server's session leader makes them for its user, the client
for itself. Nothing here looks up a name or decides whether anybody may listen.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterable

BACKLOG = 128

LOOPBACK = ("127.0.0.1", "::1")
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


def family_of(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def open_listeners(
    addresses: Iterable[str], port: int, kind: socket.SocketKind, complain: Complain
) -> list[socket.socket]:
    """A socket for each literal address that can be had; all on one port, also if that is 0.

    One is enough, as for OpenSSH. OSError, the last one, if there is none; `complain` hears of all.
    """
    sockets: list[socket.socket] = []
    failure = OSError(0, "no address to listen on")
    for address in addresses:
        try:
            listener = listen_at(address, port, kind)
        except OSError as error:
            failure = error
            complain(f"bind [{address}]:{port}: {error.strerror}")
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
        if kind == socket.SOCK_STREAM:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        [(_, _, _, _, where), *_] = socket.getaddrinfo(
            address, port, family, kind, 0, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
        listener.bind(where)
        if kind == socket.SOCK_STREAM:
            listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


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
        with contextlib.suppress(OSError):
            status = os.lstat(self.path)
            if stat.S_ISSOCK(status.st_mode) and (status.st_dev, status.st_ino) == self._identity:
                os.unlink(self.path)
