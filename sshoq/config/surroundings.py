"""What a configuration may ask of the machine: the user, the host, files' places, names, addresses.

Everything here can be replaced by a test. Nothing is looked up before it is asked for.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Resolver = Callable[[str, int, str], "Resolved | None"]


class Paths:
    """The configuration files in the order of reading; the first value of a keyword wins."""

    __slots__ = ("system", "system_own", "user", "user_own")

    def __init__(
        self,
        home: str,
        *,
        user_own: str | None = None,
        user: str | None = None,
        system_own: str = "/etc/ssh/sshoq_config",
        system: str = "/etc/ssh/ssh_config",
    ) -> None:
        self.user_own = f"{home}/.ssh/sshoq_config" if user_own is None else user_own
        self.user = f"{home}/.ssh/config" if user is None else user
        self.system_own = system_own
        self.system = system


class Resolved:
    """An answer of the resolver: its name for the host, and the addresses in text form."""

    __slots__ = ("addresses", "canonical")

    def __init__(self, canonical: str, addresses: tuple[str, ...]) -> None:
        self.canonical = canonical
        self.addresses = addresses


class ResolveError(OSError):
    """The resolver's complaint, in its own words."""


class Surroundings:
    """The user and the machine. home is the account's, whatever $HOME says, as in OpenSSH."""

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        paths: Paths | None = None,
        *,
        user: str | None = None,
        uid: int | None = None,
        home: str | None = None,
        host: str | None = None,
        stdin_is_terminal: Callable[[], bool] | None = None,
        resolver: Resolver | None = None,
        interfaces: Callable[[], list[str]] | None = None,
        only_owner_in_group: Callable[[int, os.stat_result], bool] | None = None,
    ) -> None:
        self.environ: Mapping[str, str] = os.environ if environ is None else environ
        self.uid = os.getuid() if uid is None else uid
        if user is None or home is None:
            account_user, account_home = account_of(self.uid)
            user, home = user or account_user, home or account_home
        self.user = user
        self.home = home
        self.paths = Paths(home) if paths is None else paths
        self._host = host
        self.stdin_is_terminal = stdin_is_terminal or _stdin_is_terminal
        self.resolver: Resolver = resolver or look_up
        self.interfaces = interfaces or interface_addresses
        self.only_owner_in_group = only_owner_in_group or _only_owner_in_group

    @property
    def host(self) -> str:
        """The machine's own name, in full."""
        if self._host is None:
            self._host = os.uname().nodename
        return self._host

    @property
    def shell(self) -> str:
        return self.environ.get("SHELL") or "/bin/sh"

    def home_of(self, user: str) -> str | None:
        import pwd

        try:
            return pwd.getpwnam(user).pw_dir
        except (KeyError, ValueError):
            return None

    def run(self, command: str) -> int:
        """Run a command by the user's shell, without input and output; a signal counts negative."""
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
        ]
        argv = [self.shell, "-c", command]
        child = os.posix_spawn(self.shell, argv, dict(self.environ), file_actions=actions)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class UnknownUserError(Exception):
    """A process whose user id has no account."""


def account_of(uid: int) -> tuple[str, str]:
    """(name, home) from the account data base."""
    import pwd

    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise UnknownUserError(f"No user exists for uid {uid}") from None
    return entry.pw_name, entry.pw_dir


def _only_owner_in_group(descriptor: int, status: os.stat_result) -> bool:
    from sshoq.config.own_group import only_owner_in_group

    return only_owner_in_group(descriptor, status)


def _stdin_is_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def look_up(name: str, port: int, family: str) -> Resolved | None:
    """Ask the system for a name. None when it does not exist; ResolveError for other failures."""
    import _socket as socket  # the C half alone: "socket" would triple the start-up time

    families = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
    try:
        # Bytes, because a str would load the codec for international names, and ssh has none.
        answers = socket.getaddrinfo(
            name.encode("utf-8", "surrogateescape"),
            str(port),
            families[family],
            socket.SOCK_STREAM,
            0,
            socket.AI_CANONNAME,
        )
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            return None
        raise ResolveError(error.strerror) from None
    canonical = next((answer[3] for answer in answers if answer[3]), name)
    return Resolved(canonical, tuple(str(answer[4][0]) for answer in answers))


def canonical_address(text: str) -> str | None:
    """The usual text form of a numeric address ("127.1", "0:0::1"), None for a name."""
    import _socket as socket

    if not text or not text.isascii() or not (":" in text or text[0].isdigit()):
        return None
    try:
        answers = socket.getaddrinfo(
            text.encode(), None, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST
        )
    except OSError:
        return None
    name, _ = socket.getnameinfo(answers[0][4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return name


def interface_addresses() -> list[str]:
    """The addresses of the interfaces that are up (Linux; elsewhere none are known)."""
    try:
        return _ipv4_addresses() + _ipv6_addresses()
    except OSError:
        return []


_SIOCGIFCONF, _SIOCGIFFLAGS, _IFF_UP = 0x8912, 0x8913, 1
_MAX_INTERFACES = 1024


def _ipv4_addresses() -> list[str]:
    import array
    import fcntl
    import struct
    from _socket import AF_INET, SOCK_DGRAM, inet_ntoa
    from _socket import socket as raw_socket

    entry = struct.calcsize("16s24s") if struct.calcsize("P") == 8 else 32
    buffer = array.array("B", bytes(entry * _MAX_INTERFACES))
    probe = raw_socket(AF_INET, SOCK_DGRAM, 0)
    try:
        request = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
        (length,) = struct.unpack_from("i", fcntl.ioctl(probe.fileno(), _SIOCGIFCONF, request))
        data = buffer.tobytes()[:length]
        addresses = []
        for start in range(0, length, entry):
            name, address = data[start : start + 16], data[start + 20 : start + 24]
            flags = fcntl.ioctl(probe.fileno(), _SIOCGIFFLAGS, name + bytes(24))
            if struct.unpack_from("H", flags, 16)[0] & _IFF_UP:
                addresses.append(inet_ntoa(address))
        return addresses
    finally:
        probe.close()


def _ipv6_addresses() -> list[str]:
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as table:
            rows = [line.split() for line in table]
    except OSError:
        return []
    return [":".join(row[0][i : i + 4] for i in range(0, 32, 4)) for row in rows if len(row) == 6]
