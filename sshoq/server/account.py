"""Process: monitor [root]. The account that somebody wants into: looked up once, never asked for
again.

An unknown name gets a record, too, so that the steps of a login are the same whoever is asked for.
"""

import grp
import os
import pwd
import stat

from sshoq.config.patterns import (
    AddressListError,
    match_address_list,
    match_host_list,
    match_pattern,
)
from sshoq.named_tuple import NamedTuple
from sshoq.server.config import LoginConfig
from sshoq.server.connection import ConnectionFacts

NOBODY = 65534


class Account(NamedTuple):
    """What the user database says; `groups` are the names of all the groups the user is in."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    groups: tuple[str, ...]
    exists: bool = True

    @property
    def login_shell(self) -> str:
        return self.shell or "/bin/sh"


def find_account(name: str) -> Account:
    """The record of that name, or one that no login can succeed with.

    A database that folds case answers with its own spelling, which is the one the rules are applied
    to.
    """
    entry = _lookup(name)
    if entry is None:
        return Account(name, NOBODY, NOBODY, "/nonexistent", "/nonexistent", (), exists=False)
    return Account(
        entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_shell, _groups(entry)
    )


def _lookup(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):  # a name that cannot be written in the locale is nobody's
        return None


def _groups(entry: pwd.struct_passwd) -> tuple[str, ...]:
    names = []
    for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue  # a number without a name can stand in no list
    return tuple(names)


# --------------------------------------------------------------------------- who may log in


def refusal(account: Account, config: LoginConfig, connection: ConnectionFacts) -> str | None:
    """Why this account may not be used from there, in sshd's words; None if it may.

    Locked and expired accounts are PAM's business, or without PAM shadow.py's.
    """
    reason = _shell_refusal(account, config) or _list_refusal(account, config, connection)
    return f"User {account.name} {reason}" if reason else None


def _shell_refusal(account: Account, config: LoginConfig) -> str | None:
    if config.chroot_directory is not None:  # the shell is then another root's
        return None
    shell = account.login_shell
    try:
        mode = os.stat(shell).st_mode
    except (OSError, ValueError):
        return f"not allowed because shell {shell} does not exist"
    if not stat.S_ISREG(mode) or not mode & 0o111:
        return f"not allowed because shell {shell} is not executable"
    return None


def _list_refusal(
    account: Account, config: LoginConfig, connection: ConnectionFacts
) -> str | None:
    """DenyUsers, AllowUsers, DenyGroups, AllowGroups, in this order."""
    here = f"from {connection.peer_host} not allowed because"
    if _is_listed(account.name, connection, config.deny_users):
        return f"{here} listed in DenyUsers"
    if config.allow_users and not _is_listed(account.name, connection, config.allow_users):
        return f"{here} not listed in AllowUsers"
    if (config.deny_groups or config.allow_groups) and not account.groups:
        return f"{here} not in any group"
    if _has_group(account, config.deny_groups):
        return f"{here} a group is listed in DenyGroups"
    if config.allow_groups and not _has_group(account, config.allow_groups):
        return f"{here} none of user's groups are listed in AllowGroups"
    return None


def _is_listed(name: str, connection: ConnectionFacts, patterns: tuple[str, ...]) -> bool:
    for pattern in patterns:
        user, at, host = pattern.rpartition("@")
        if match_pattern(name, user if at else pattern) and (
            not at or host_matches(connection, host)
        ):
            return True
    return False


def _has_group(account: Account, patterns: tuple[str, ...]) -> bool:
    return any(match_pattern(group, pattern) for group in account.groups for pattern in patterns)


def host_matches(connection: ConnectionFacts, patterns: str) -> bool:
    """A list of addresses, networks and wildcards, also for the name if there is one; an entry with
    '!' forbids what it matches."""
    try:
        by_address = match_address_list(connection.peer_address, patterns)
    except AddressListError:
        return False
    by_name = match_host_list(connection.peer_host, patterns)
    return by_address >= 0 and by_name >= 0 and (by_address > 0 or by_name > 0)
