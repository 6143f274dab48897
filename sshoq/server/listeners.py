"""Process: session leader [the user]. Listening for forwardings and for the agent, with the user's
rights.

The listening sockets are handed over, so that whoever calls does not wake the leader; what they
leave in the file system is kept in mind here, and removed.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import socket
import stat
import time

from sshoq.listening import UnixListener, open_listeners
from sshoq.server import log
from sshoq.server.dialing import KINDS, PROHIBITED, Send
from sshoq.server.lookup import Lookups, Place, literal_places
from sshoq.server.permits import Permits
from sshoq.server.privsep import (
    Dial,
    EndForwarding,
    ForwardingRefused,
    Listen,
    ListenerOpened,
    ListenForAgent,
)
from sshoq.server.rights import LoginRights

MAX_LISTENERS = 256
MAX_FAMILIES = 4
"""Addresses of one listener: what one message can carry."""

AGENT_DIRECTORY = ".ssh/agent"
AGENT_MASK = 0o177
MAX_PATH = 107
"""What a Unix socket's address has room for."""

SOCKET_TABLE = "/proc/net/unix"

STALE_AFTER = 60.0
"""Seconds. A younger socket may be about to be listened on."""
MAX_SWEPT = 64
"""Of sockets that others have left, as many are looked at each time."""


class Listeners:
    """All listeners of one login."""

    def __init__(
        self, lookups: Lookups, permits: Permits, rights: LoginRights, send: Send
    ) -> None:
        self._lookups = lookups
        self._permits = permits
        self._rights = rights
        self._send = send
        self._open: set[int] = set()
        self._unix: dict[int, UnixListener] = {}
        self._agent: UnixListener | None = None
        self._agent_directory: str | None = None

    @property
    def agent_path(self) -> str | None:
        """SSH_AUTH_SOCK of the programs started from now on."""
        return self._agent.path if self._agent is not None else None

    # ------------------------------------------------------------------ forwardings

    def listen(self, request: Listen) -> None:
        if request.kind not in KINDS or not self._permits.may_listen(
            request.kind, request.host, request.port
        ):
            log.info(f"listening on {request.host or '*'}:{request.port} is not permitted")
            self._refuse(request.channel, PROHIBITED, prohibited=True)
        elif len(self._open) >= MAX_LISTENERS:
            self._refuse(request.channel, os.strerror(errno.EMFILE))
        elif request.kind == Dial.UNIX:
            self._listen_on_path(request)
        else:
            self._listen_on_port(request)

    def _refuse(self, channel: int, reason: str, *, prohibited: bool = False) -> None:
        self._send(ForwardingRefused(channel, prohibited, reason), ())

    def _listen_on_path(self, request: Listen) -> None:
        config = self._rights.config
        try:
            listener = UnixListener(
                request.host,
                config.stream_local_bind_mask,
                unlink=config.stream_local_bind_unlink,
            )
        except (OSError, ValueError) as error:
            self._refuse(request.channel, getattr(error, "strerror", None) or str(error))
            return
        with listener.socket:
            self._unix[request.channel] = listener
            self._open.add(request.channel)
            self._send(ListenerOpened(request.channel, 0), [listener.socket.fileno()])

    def _listen_on_port(self, request: Listen) -> None:
        addresses = self._permits.listen_addresses(request.host)
        try:
            for address in addresses:
                literal_places(address, 0)
        except (OSError, UnicodeError, ValueError):  # a name, which is the only one then
            self._lookups.find(
                addresses[0], 0, lambda places, why: self._bind_found(request, places, why)
            )
        else:
            self._bind(request, addresses)

    def _bind_found(self, request: Listen, places: list[Place], complaint: str) -> None:
        if places:
            self._bind(request, tuple(str(place.address[0]) for place in places[:MAX_FAMILIES]))
        else:
            self._refuse(request.channel, complaint)

    def _bind(self, request: Listen, addresses: tuple[str, ...]) -> None:
        try:
            sockets = open_listeners(
                addresses[:MAX_FAMILIES], request.port, KINDS[request.kind], log.debug, log.debug
            )
        except OSError as error:
            self._refuse(request.channel, error.strerror or str(error))
            return
        with contextlib.ExitStack() as stack:
            for listener in sockets:
                stack.enter_context(listener)
            self._open.add(request.channel)
            port = sockets[0].getsockname()[1]
            descriptors = [listener.fileno() for listener in sockets]
            self._send(ListenerOpened(request.channel, port), descriptors)

    def end(self, request: EndForwarding) -> None:
        """The listening sockets are the other side's, and closed by it."""
        self._open.discard(request.channel)
        listener = self._unix.pop(request.channel, None)
        if listener is not None:
            listener.remove()

    # ------------------------------------------------------------------ the agent

    def listen_for_agent(self, request: ListenForAgent) -> None:
        if not self._permits.agent:
            self._refuse(request.session, PROHIBITED, prohibited=True)
            return
        if self._agent is not None:
            self._send(ListenerOpened(request.session, 0), ())
            return
        try:
            self._agent = UnixListener(self._agent_place(), AGENT_MASK, unlink=False)
        except OSError as error:
            self._remove_agent_directory()
            log.error(f"cannot make an agent socket: {error.strerror or error}")
            self._refuse(request.session, error.strerror or str(error))
            return
        with self._agent.socket:
            self._send(ListenerOpened(request.session, 0), [self._agent.socket.fileno()])

    def _agent_place(self) -> str:
        """In the user's home as sshd has it since 10.1; without one that can be used, in /tmp."""
        directory = os.path.join(self._rights.account.home, AGENT_DIRECTORY)
        path = os.path.join(directory, f"s.{secrets.token_hex(5)}.sshoq.{_host_mark()}")
        if len(os.fsencode(path)) <= MAX_PATH and _is_own_directory(directory):
            sweep_agents(directory)
            return path
        self._agent_directory = f"/tmp/sshoq-{secrets.token_hex(8)}"
        os.mkdir(self._agent_directory, 0o700)
        return f"{self._agent_directory}/agent.{os.getpid()}"

    # ------------------------------------------------------------------ the end

    def remove_all(self) -> None:
        for listener in self._unix.values():
            listener.remove()
        self._unix.clear()
        if self._agent is not None:
            self._agent.remove()
        self._remove_agent_directory()

    def _remove_agent_directory(self) -> None:
        if self._agent_directory is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self._agent_directory)


def _is_own_directory(directory: str) -> bool:
    """Made if need be; nobody else may have a hand in it."""
    try:
        os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        status = os.lstat(directory)
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & 0o077
    )


# --------------------------------------------------------------------------- what was left behind


def _host_mark() -> str:
    """Part of a socket's name: several machines may have the same home, and none of them can tell
    whether another one's socket is in use."""
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:10]


def sweep_agents(directory: str) -> None:
    """Remove the agent sockets of leaders that were killed. The next one does it, with the user's
    rights: root would have to be careful in a directory that is not its own."""
    left = re.compile(rf"s\.[0-9a-f]{{10}}\.sshoq\.{_host_mark()}")
    bound = _sockets_in_use()
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(directory) if left.fullmatch(name)]
        for name in names[:MAX_SWEPT]:
            path = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):
                if os.fsencode(path) not in bound and _is_stale(path):
                    os.unlink(path)


def _sockets_in_use() -> set[bytes]:
    """As far as can be seen: calling at them would bother those whose agents they lead to."""
    try:
        with open(SOCKET_TABLE, "rb") as table:
            return {line.rpartition(b" ")[2].rstrip() for line in table}
    except OSError:  # in a chroot
        return set()


def _is_stale(path: str) -> bool:
    """A socket of ours that nobody listens on any more."""
    status = os.lstat(path)
    is_ours = stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid()
    if not is_ours or time.time() - status.st_mtime < STALE_AFTER:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
        return caller.connect_ex(path) == errno.ECONNREFUSED
