"""Process: session leader [the user]. What the flags of internal-sftp allow; whether a login may
have the Go programs' file transfer.

That counts as the sftp subsystem does for sshd: a forced command goes before it, unless that is
internal-sftp, whose arguments then hold here, too. What needs no shell there needs none here;
otherwise the login shell must be one that runs any program, for a user whose shell is git-shell or
nologin has no files to fetch.
"""

import getopt
import shlex

from sshoq.named_tuple import NamedTuple
from sshoq.server.account import Account
from sshoq.server.rights import INTERNAL_SFTP, LoginRights

DISABLED = "SFTP is disabled on the server"
"""The Go server's own words."""
PROHIBITED = "file transfer is not permitted"

_OPTIONS = "d:ef:hl:p:P:Q:Ru:c"
_HARMLESS = ("-e", "-f", "-l", "-c")
"""Where and how much is logged."""


class FileAccess(NamedTuple):
    """What a login may have."""

    refusal: str | None = None
    """Why nothing; None: the rest holds."""
    needs_shell: bool = True
    """The login shell must be asked whether it runs programs."""
    read_only: bool = False
    umask: int | None = None
    directory: str | None = None
    """Where it starts, if not in the user's home."""
    permitted: frozenset[str] | None = None
    """The names of the SFTP requests that are served; None: all."""
    denied: frozenset[str] = frozenset()


def decide_access(rights: LoginRights) -> FileAccess:
    if rights.config.disable_sftp:
        return FileAccess(DISABLED)
    if rights.must_change_password:
        return FileAccess(PROHIBITED)
    forced = rights.forced_command
    command = forced if forced is not None else rights.config.subsystem.get("sftp", "")
    if is_internal_sftp(command):
        access = read_arguments(command, rights.account)
        # The lists are of SFTP's requests, and nobody can tell which of ours they mean.
        has_lists = access.permitted is not None or access.denied
        return FileAccess(PROHIBITED) if has_lists else access
    return FileAccess() if forced is None else FileAccess(PROHIBITED)


def is_internal_sftp(command: str | None) -> bool:
    return command is not None and command.split(None, 1)[:1] == [INTERNAL_SFTP]


def read_arguments(command: str, account: Account) -> FileAccess:
    """sftp-server's. What is not known to be harmless is a no."""
    access = FileAccess(needs_shell=False)
    try:
        options, rest = getopt.getopt(shlex.split(command)[1:], _OPTIONS)
        if rest:
            return FileAccess(PROHIBITED)
        for option, value in options:
            if option == "-R":
                access = access._replace(read_only=True)
            elif option == "-u":
                access = access._replace(umask=int(value, 8) & 0o777)
            elif option == "-d":
                access = access._replace(directory=_expand(value, account))
            elif option == "-p":
                access = access._replace(permitted=frozenset(value.split(",")))
            elif option == "-P":
                access = access._replace(denied=frozenset(value.split(",")))
            elif option not in _HARMLESS:
                return FileAccess(PROHIBITED)
    except (getopt.GetoptError, ValueError):
        return FileAccess(PROHIBITED)
    return access


def _expand(path: str, account: Account) -> str:
    """%d is the home directory, %u the user, %% itself."""
    tokens = {"%d": account.home, "%u": account.name, "%%": "%"}
    out, position = "", 0
    while position < len(path):
        token = path[position:position + 2]
        out += tokens.get(token, path[position])
        position += 2 if token in tokens else 1
    return out
