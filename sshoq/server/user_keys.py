"""Process: monitor [root]. The keys that may open an account, read from the user's files with the
user's rights.

A file that anybody else could have written is not believed (StrictModes), and no name in a home
can make root read what the user could not.
"""

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from sshoq.auth.authorized_keys import (
    MAX_FILE,
    AuthorizedKey,
    RefusedLine,
    distrust_reason,
    read_identities,
)
from sshoq.server import log
from sshoq.server.account import Account
from sshoq.server.config import LoginConfig
from sshoq.server.login import acting_as

GO_FILE = ".ssh3/authorized_identities"
_DEFAULT_FILE = ".ssh/authorized_keys"


class FoundKey(NamedTuple):
    path: str
    entry: AuthorizedKey


def key_files(account: Account, config: LoginConfig) -> list[str]:
    """The Go server's file first, as there; then those of AuthorizedKeysFile.

    Who has moved AuthorizedKeysFile away from the homes has decided that users do not say who gets
    in, so the Go server's file is then not read either.
    """
    names = list(config.authorized_keys_file)
    if any(name in (_DEFAULT_FILE, f"%h/{_DEFAULT_FILE}") for name in names):
        names.insert(0, GO_FILE)
    return [expand_file(name, account) for name in names]


def expand_file(name: str, account: Account) -> str:
    """A name with tokens; below the home unless it is absolute."""
    return os.path.join(account.home, expand_tokens(name, account))


def expand_tokens(text: str, account: Account) -> str:
    """%% %h %u %U; any other stays as it is, and names no file."""
    values = {"%": "%", "h": account.home, "u": account.name, "U": str(account.uid)}
    parts = []
    at = 0
    while at < len(text):
        if text[at] == "%" and text[at + 1 : at + 2] in values:
            parts.append(values[text[at + 1]])
            at += 2
        else:
            parts.append(text[at])
            at += 1
    return "".join(parts)


def authorized_keys(account: Account, config: LoginConfig) -> Iterator[FoundKey]:
    """Every key and authority of every file, in order, read with the user's rights before the
    first is given.
    """
    with acting_as(account):
        contents = [
            (path, read_key_file(path, account, strict=config.strict_modes))
            for path in key_files(account, config)
        ]
    for path, content in contents:
        yield from keys_in(path, content)


def keys_in(path: str, content: bytes) -> Iterator[FoundKey]:
    for identity in read_identities(content):
        if isinstance(identity, AuthorizedKey):
            yield FoundKey(path, identity)
        elif isinstance(identity, RefusedLine):
            log.debug(f"{path}:{identity.line}: {identity.reason}")


def read_key_file(path: str, account: Account, *, strict: bool, what: str = "keys") -> bytes:
    """The content, or nothing. Opening must not wait: the user may have put a FIFO there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            log.info(f"Could not open user '{account.name}' authorized {what} '{path}': {error}")
        return b""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            log.info(f"User '{account.name}' authorized {what} '{path}' is not a regular file")
            return b""
        home = _home_of(path, account)
        if strict and (reason := distrust_reason(path, account.uid, home, status)):
            log.info(f"Authentication refused: {reason}")
            return b""
        return _read_all(descriptor)
    except OSError as error:
        log.info(f"Could not read user '{account.name}' authorized {what} '{path}': {error}")
        return b""
    finally:
        os.close(descriptor)


def _home_of(path: str, account: Account) -> str | None:
    """Up to where directories are checked: the home, for files in it."""
    home = os.path.realpath(account.home)
    return home if os.path.realpath(path).startswith(home + "/") else None


def _read_all(descriptor: int) -> bytes:
    """One byte more than is allowed shows the reader that the file is too large."""
    parts = []
    left = MAX_FILE + 1
    while left > 0 and (part := os.read(descriptor, min(left, 1 << 16))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
