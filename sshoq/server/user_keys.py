"""Process: monitor [root]. The keys that may open an account, read from the user's files with the
user's rights.

A file that anybody else could have written is not believed (StrictModes), and no name in a home
can make root read what the user could not.
"""

import os
import stat
from collections.abc import Collection, Iterator

from sshoq.auth.authorized_keys import (
    MAX_FILE,
    AuthorizedKey,
    Line,
    RefusedLine,
    distrust_reason,
    lines_with,
    read_line,
)
from sshoq.config.own_group import only_owner_in_group
from sshoq.named_tuple import NamedTuple
from sshoq.server import log
from sshoq.server.account import Account
from sshoq.server.config import LoginConfig
from sshoq.server.login import acting_as

GO_FILE = ".ssh3/authorized_identities"
_DEFAULT_FILE = ".ssh/authorized_keys"

NOBODYS_NAME = "NOUSER"
"""As sshd has it."""

MAX_LINES = 1000
MAX_LINE_BYTES = 1 << 20
"""That are read as keys in one try, and twice as many on one connection. A line in which the key
that is looked for does not stand is passed over and does not count, but the client may not say
which key it has; then a signature is verified for each, by root, for whoever asks.
"""


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
    """%% %h %u %U; any other stays as it is, and names no file. A name that is nobody's could have
    any form, such as ../x, so none is taken for it.
    """
    name = account.name if account.exists else NOBODYS_NAME
    values = {"%": "%", "h": account.home, "u": name, "U": str(account.uid)}
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


class Allowance:
    """How much of the users' files may still be read as keys on one connection."""

    def __init__(self) -> None:
        self._lines, self._bytes = 2 * MAX_LINES, 2 * MAX_LINE_BYTES
        self.begin_try()

    def begin_try(self) -> None:
        self._try_lines = min(self._lines, MAX_LINES)
        self._try_bytes = min(self._bytes, MAX_LINE_BYTES)

    def takes(self, line: Line) -> bool:
        """Whether that line may be read, too."""
        if not self._try_lines or self._try_bytes < len(line.text):
            return False
        self._lines, self._try_lines = self._lines - 1, self._try_lines - 1
        self._bytes -= len(line.text)
        self._try_bytes -= len(line.text)
        return True


def authorized_keys(
    account: Account, config: LoginConfig, marks: Collection[bytes], allowance: Allowance
) -> Iterator[FoundKey]:
    """Every key and authority of every file in whose line a mark stands, in order. The files are
    read with the user's rights before the first is given.
    """
    with acting_as(account):
        contents = [
            (path, read_key_file(path, account, strict=config.strict_modes))
            for path in key_files(account, config)
        ]
    for path, content in contents:
        yield from keys_in(path, content, marks, allowance)


def keys_in(
    path: str, content: bytes, marks: Collection[bytes], allowance: Allowance
) -> Iterator[FoundKey]:
    if len(content) > MAX_FILE:
        log.info(f"{path} is too large: it is not read")
    for line in lines_with(content, marks):
        if not allowance.takes(line):
            log.info(f"{path}:{line.number}: too many keys to try; the rest is not")
            return
        identity = read_line(line)
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
            log.info(
                f"Could not open user '{account.name}' authorized {what} '{path}': {_why(error)}"
            )
        return b""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            log.info(f"User '{account.name}' authorized {what} '{path}' is not a regular file")
            return b""
        home = _home_of(path, account)
        if strict and (
            reason := distrust_reason(
                path, account.uid, home, descriptor, only_owner_in_group=only_owner_in_group
            )
        ):
            log.info(f"Authentication refused: {reason}")
            return b""
        return _read_all(descriptor)
    except OSError as error:
        log.info(f"Could not read user '{account.name}' authorized {what} '{path}': {_why(error)}")
        return b""
    finally:
        os.close(descriptor)


def _why(error: OSError | ValueError) -> str:
    """A path with a zero byte in it is no OSError."""
    return getattr(error, "strerror", None) or str(error)


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
