"""Process: monitor [root]. The terminals of a login, on record (utmp, wtmp, lastlog) for as long as
a program has them.

The leader asks for it; a terminal is known by its descriptor alone, since a name could lead
anywhere.
"""

import contextlib
import grp
import os
import stat
import time

from sshoq.server import log
from sshoq.server.account import Account
from sshoq.server.connection import ConnectionFacts
from sshoq.server.login import is_root
from sshoq.server.privsep import RecordLogin
from sshoq.server.privsep_socket import PrivsepError
from sshoq.server.records import (
    LoginRecord,
    RecordFiles,
    read_last_login,
    record_login,
    record_logout,
)

TTY_GROUP = "tty"
MAX_TERMINALS = 1024

PTY_FOLDER = "/dev/pts"
_UNIX98_SLAVES = range(136, 144)
"""Major numbers of pty slaves."""


class Terminals:
    """By session."""

    def __init__(self) -> None:
        self._records: dict[int, LoginRecord] = {}
        self._files = RecordFiles()

    def begin(
        self,
        request: RecordLogin,
        terminal: int,
        account: Account,
        connection: ConnectionFacts,
        *,
        tells_last: bool,
    ) -> str:
        """The line about the login before this one, if it is to be told and is known."""
        if len(self._records) >= MAX_TERMINALS:
            raise PrivsepError("logins on too many terminals")
        if request.session in self._records:  # nobody would ever log out the first
            raise PrivsepError("a second login of a session")
        line = _terminal_line(terminal, account)
        if not is_root():
            return ""
        _give_to_tty_group(terminal, account)
        last = read_last_login(self._files, account.uid) if tells_last else None
        where = connection
        record = LoginRecord(
            account.name, account.uid, line, request.pid, where.peer_address, where.peer_name
        )
        for complaint in record_login(self._files, record, time.time()):
            log.error(complaint)
        self._records[request.session] = record
        return last.line() if last is not None else ""

    def end(self, session: int) -> None:
        record = self._records.pop(session, None)
        if record is not None:
            for complaint in record_logout(self._files, record, time.time()):
                log.error(complaint)

    def end_all(self) -> None:
        for session in list(self._records):
            self.end(session)


def _terminal_line(descriptor: int, account: Account) -> str:
    """The terminal's name without /dev/, after a look at what the descriptor really is."""
    status = os.fstat(descriptor)
    major = os.major(status.st_rdev)
    if not stat.S_ISCHR(status.st_mode) or major not in _UNIX98_SLAVES:
        raise PrivsepError("a login on what is no pty")
    if status.st_uid != account.uid:
        raise PrivsepError("a login on somebody else's terminal")
    # Whoever has a devpts of his own, in namespaces of his own, has terminals of any number there.
    with contextlib.suppress(FileNotFoundError):
        if status.st_dev != os.stat(PTY_FOLDER).st_dev:
            raise PrivsepError("a login on a terminal from elsewhere")
    return f"pts/{(major - _UNIX98_SLAVES.start) * 256 + os.minor(status.st_rdev)}"


def _give_to_tty_group(descriptor: int, account: Account) -> None:
    """So that write and wall can write to it, and nobody can read it."""
    try:
        gid, mode = grp.getgrnam(TTY_GROUP).gr_gid, 0o620
    except KeyError:
        gid, mode = account.gid, 0o600
    try:
        os.fchown(descriptor, account.uid, gid)
        os.fchmod(descriptor, mode)
    except OSError as error:
        log.error(f"cannot give the terminal to {account.name}: {error.strerror}")
