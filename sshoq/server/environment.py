"""Process: session leader [the user]. The environment of a program, built from nothing in sshd's
order.

Pure: whatever is read from files or from PAM comes in as an argument. Names and values are bytes,
since a client may send any.
"""

import os
from collections.abc import Collection, Iterable, Mapping

from sshoq.config.patterns import match_pattern
from sshoq.named_tuple import NamedTuple
from sshoq.server.account import Account
from sshoq.server.connection import ConnectionFacts
from sshoq.wire import decode_text

USER_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/games"
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MAX_CLIENT_VARIABLES = 128
MAX_FILE = 1 << 20

PAM_KEEPS = ("SSH_AUTH_INFO*", "SSH_CONNECTION*")
"""What PAM was told for its modules; the program gets our own word for it."""

Variable = tuple[bytes, bytes]


class EnvironmentSources(NamedTuple):
    """Where the variables come from; the order of the fields is that of `build_environment`."""

    account: Account
    connection: ConnectionFacts
    client: tuple[Variable, ...] = ()
    """Already sifted by AcceptEnv."""
    path: str | None = None
    """From /etc/default/login; None: the built-in one."""
    mail: bool = False
    """Without PAM; with it pam_mail says where the mail is."""
    time_zone: str | None = None
    terminal: str | None = None
    display: str | None = None
    agent_socket: str | None = None
    key: tuple[Variable, ...] = ()
    file: tuple[Variable, ...] = ()
    pam: tuple[Variable, ...] = ()
    configured: tuple[Variable, ...] = ()
    tty: str | None = None
    original_command: bytes | None = None


def build_environment(sources: EnvironmentSources) -> dict[bytes, bytes]:
    """Later sources win, but for a key's own names, of which the first one holds."""
    account, connection = sources.account, sources.connection
    environment = dict(sources.client)

    def put(name: str, value: str | None) -> None:
        if value is not None:
            environment[name.encode()] = os.fsencode(value)

    put("USER", account.name)
    put("LOGNAME", account.name)
    put("HOME", account.home)
    put("PATH", sources.path or (ROOT_PATH if account.uid == 0 else USER_PATH))
    put("MAIL", f"/var/mail/{account.name}" if sources.mail else None)
    put("SHELL", account.login_shell)
    put("TZ", sources.time_zone)
    put("TERM", sources.terminal or None)  # a terminal without a name is none to speak of
    put("DISPLAY", sources.display)
    put("SSH_AUTH_SOCK", sources.agent_socket)
    environment.update(dict(reversed(sources.key)))
    environment.update(sources.file)
    environment.update(_without(sources.pam, PAM_KEEPS))
    environment.update(sources.configured)
    peer = f"{connection.peer_address} {connection.peer_port}"
    put("SSH_CLIENT", f"{peer} {connection.local_port}")
    put("SSH_CONNECTION", f"{peer} {connection.local_address} {connection.local_port}")
    put("SSH_TTY", sources.tty)
    if sources.original_command is not None:
        environment[b"SSH_ORIGINAL_COMMAND"] = sources.original_command
    return {name: value for name, value in environment.items() if _is_settable(name, value)}


def split_variable(setting: bytes) -> Variable | None:
    """NAME=VALUE in two; None if it is no such thing."""
    name, equals, value = setting.partition(b"=")
    return (name, value) if equals and _is_settable(name, value) else None


def accept_client_variables(
    settings: Iterable[bytes], patterns: Collection[str]
) -> tuple[Variable, ...]:
    """What AcceptEnv lets pass of what the client asked for; sshd counts, and stops at 128."""
    accepted = []
    for setting in settings:
        variable = split_variable(setting)
        if variable is None or not _is_named(variable[0], patterns):
            continue
        accepted.append(variable)
        if len(accepted) == MAX_CLIENT_VARIABLES:
            break
    return tuple(accepted)


def parse_environment_file(content: bytes) -> tuple[list[Variable], list[int]]:
    """~/.ssh/environment: the variables, and the numbers of the lines that are none."""
    variables, bad = [], []
    for number, line in enumerate(content.split(b"\n"), start=1):
        line = line.lstrip(b" \t")
        if not line or line.startswith(b"#"):
            continue
        variable = split_variable(line)
        if variable is None:
            bad.append(number)
        else:
            variables.append(variable)
    return variables, bad


def parse_login_defaults(content: str) -> Mapping[str, str]:
    """/etc/default/login, where some systems keep PATH and SUPATH."""
    settings = {}
    for line in content.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            settings[name] = value.strip("\"'")
    return settings


def _without(variables: Iterable[Variable], patterns: Collection[str]) -> list[Variable]:
    return [one for one in variables if not _is_named(one[0], patterns)]


def _is_named(name: bytes, patterns: Collection[str]) -> bool:
    return any(match_pattern(decode_text(name), pattern) for pattern in patterns)


def _is_settable(name: bytes, value: bytes) -> bool:
    return bool(name) and b"=" not in name and b"\0" not in name and b"\0" not in value
