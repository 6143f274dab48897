"""Process: session leader [the user]. X displays for sessions, whose X clients are led to the
client's.

A display is a TCP port that nobody else on this machine has, and a cookie in the user's Xauthority:
who cannot show it is turned away at the client. The listening sockets are handed over.
"""

import contextlib
import errno
import os
import socket

from sshoq.listening import FAMILIES, LOOPBACK, WILDCARD, family_of, listen_at
from sshoq.named_tuple import NamedTuple
from sshoq.server import log
from sshoq.server.dialing import PROHIBITED, Send
from sshoq.server.permits import Permits
from sshoq.server.privsep import ForwardingRefused, ListenerOpened, ListenForX11
from sshoq.server.rights import LoginRights

FIRST_PORT = 6000
MAX_DISPLAYS = 1000
"""Where the search ends, as sshd's."""

MAX_SCREEN = 0xFFFF_FFFF
VALID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/.-_")
"""What may be in the words of an authorization, which go to other programs."""

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""The machine has no addresses of that family."""


class Display(NamedTuple):
    """What a session's programs need to reach it."""

    name: str
    """DISPLAY."""
    entry: str
    """The name under which Xlib looks for the cookie: a local display's is that of its socket."""
    protocol: str
    cookie: str
    xauth: str
    """The program that is told of it, unless a file of the user's or of the system does that."""

    @property
    def authorization(self) -> bytes:
        """For ~/.ssh/rc and /etc/ssh/sshrc, on standard input."""
        return f"{self.protocol} {self.cookie}\n".encode()

    @property
    def xauth_commands(self) -> bytes:
        """What an earlier session left under that number goes first."""
        words = f"{self.entry} {self.protocol} {self.cookie}"
        return f"remove {self.entry}\nadd {words}\n".encode()


class Displays:
    """Makes the displays of one login."""

    def __init__(self, permits: Permits, rights: LoginRights, send: Send) -> None:
        self._permits = permits
        self._config = rights.config
        self._send = send

    def open(self, request: ListenForX11) -> Display | None:
        """The request is answered; None if there is no display."""
        reason = self._objection(request)
        if reason is not None:
            log.debug(reason)
            self._send(ForwardingRefused(request.session, True, reason), ())
            return None
        try:
            number, sockets = open_display(self._config.x11_display_offset, self._addresses())
        except OSError as error:
            log.error(f"cannot make a display: {error.strerror or error}")
            reason = error.strerror or str(error)
            self._send(ForwardingRefused(request.session, False, reason), ())
            return None
        with contextlib.ExitStack() as stack:
            for listener in sockets:
                stack.enter_context(listener)
            descriptors = [listener.fileno() for listener in sockets]
            self._send(ListenerOpened(request.session, FIRST_PORT + number), descriptors)
        return self._describe(number, request)

    def _objection(self, request: ListenForX11) -> str | None:
        if not self._permits.x11:
            return PROHIBITED
        xauth = self._config.x_auth_location
        if xauth is None or not os.path.exists(xauth):
            return "No xauth program; cannot forward X11."
        words = (request.protocol, request.cookie)
        if not all(word and VALID.issuperset(word) for word in words):
            return "Invalid X11 forwarding data"
        return "no such screen" if request.screen > MAX_SCREEN else None

    def _addresses(self) -> list[str]:
        wanted = FAMILIES[self._config.address_family]
        addresses = LOOPBACK if self._config.x11_use_localhost else WILDCARD
        return [one for one in addresses if wanted in (None, family_of(one))]

    def _describe(self, number: int, request: ListenForX11) -> Display:
        where = f"{number}.{request.screen}"
        if self._config.x11_use_localhost:
            name, entry = f"localhost:{where}", f"unix:{where}"
        else:
            name = entry = f"{os.uname().nodename[:400]}:{where}"
        xauth = self._config.x_auth_location or ""
        return Display(name, entry, request.protocol, request.cookie, xauth)


def open_display(offset: int, addresses: list[str]) -> tuple[int, list[socket.socket]]:
    """The first number from there on that is free in all families, and what listens there: were one
    of them another user's, X clients might call at his. OSError."""
    for number in range(offset, MAX_DISPLAYS):
        try:
            return number, _listen_at_all(addresses, FIRST_PORT + number)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "Failed to allocate internet-domain X11 display socket.")


def _listen_at_all(addresses: list[str], port: int) -> list[socket.socket]:
    with contextlib.ExitStack() as stack:
        sockets = []
        failure = OSError(errno.EADDRNOTAVAIL, "no address to listen on")
        for address in addresses:
            try:
                sockets.append(stack.enter_context(listen_at(address, port, socket.SOCK_STREAM)))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                failure = error
        if not sockets:
            raise failure
        stack.pop_all()
        return sockets
