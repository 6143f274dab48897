"""Process: monitor [root]. Who is logged in where, and who was: utmp, wtmp, lastlog, and btmp for
failures.

The records are the C library's structs, so that who, last, lastlog and lastb read them. A file that
is not there is not made: that is how an administrator says that it is not wanted.
"""

import contextlib
import fcntl
import os
import platform
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator

from sshoq.named_tuple import NamedTuple
from sshoq.server.connection import ConnectionFacts

LOGIN_PROCESS, USER_PROCESS, DEAD_PROCESS = 6, 7, 8

LINE_SIZE, ID_SIZE, NAME_SIZE, HOST_SIZE = 32, 4, 32, 256

# x86 and most others keep 32-bit times so that 32-bit programs read the same files; aarch64 does
# not.
_WIDE = platform.machine() in ("aarch64", "aarch64_be")
_UTMP = struct.Struct(
    "=hxxi32s4s32s256shh" + ("qqq16s20x4x" if _WIDE else "iII16s20x")
)
_LASTLOG = struct.Struct("=" + ("q" if _WIDE else "I") + "32s256s")

LOCK_TRIES, LOCK_PAUSE = 20, 0.05
"""Anyone who may read utmp can hold a lock on it; a login waits a second for it, not for ever."""


class RecordFiles(NamedTuple):
    utmp: str = "/run/utmp"
    wtmp: str = "/var/log/wtmp"
    lastlog: str = "/var/log/lastlog"
    btmp: str = "/var/log/btmp"


class LoginRecord(NamedTuple):
    """One login on one terminal; `line` is the terminal's name without /dev/."""

    user: str
    uid: int
    line: str
    pid: int
    address: str
    name: str | None = None
    """Of the host at that address, where UseDNS asks for it."""

    @property
    def host(self) -> str:
        """As sshd: a name that would have to be cut says less than the address."""
        if self.name is None or len(os.fsencode(self.name)) > HOST_SIZE:
            return self.address
        return self.name


class LastLogin(NamedTuple):
    when: int
    host: str

    def line(self) -> str:
        """What sshd shows on the terminal."""
        text = f"Last login: {time.ctime(self.when)}"
        return f"{text} from {self.host}\r\n" if self.host else f"{text}\r\n"


def record_login(files: RecordFiles, record: LoginRecord, now: float) -> list[str]:
    """Write the three records; what could not be written comes back in words for the log."""
    entry = _pack(USER_PROCESS, record, now)
    return _complaints(
        (files.utmp, lambda: _update_utmp(files.utmp, record.line, entry)),
        (files.wtmp, lambda: _append(files.wtmp, entry)),
        (files.lastlog, lambda: _write_lastlog(files.lastlog, record, now)),
    )


def record_logout(files: RecordFiles, record: LoginRecord, now: float) -> list[str]:
    entry = _pack(DEAD_PROCESS, record._replace(user="", address="", name=None), now)
    return _complaints(
        (files.utmp, lambda: _update_utmp(files.utmp, record.line, entry)),
        (files.wtmp, lambda: _append(files.wtmp, entry)),
    )


def record_failure(
    files: RecordFiles, user: str, connection: ConnectionFacts, now: float
) -> list[str]:
    """A refused password, for lastb. The name may be a password typed too early: nobody else may
    read it."""
    where = connection
    record = LoginRecord(
        user, 0, "ssh:notty", os.getpid(), where.peer_address, where.peer_name
    )
    return _complaints(
        (
            files.btmp,
            lambda: _append(files.btmp, _pack(LOGIN_PROCESS, record, now), private=True),
        ),
    )


def read_last_login(files: RecordFiles, uid: int) -> LastLogin | None:
    """The login before this one; None if there was none, or nobody keeps count."""
    try:
        with open(files.lastlog, "rb") as file:
            raw = os.pread(file.fileno(), _LASTLOG.size, uid * _LASTLOG.size)
    except OSError:
        return None
    if len(raw) < _LASTLOG.size:
        return None
    when, _, host = _LASTLOG.unpack(raw)
    if when == 0:
        return None
    text = host.split(b"\0")[0].decode("ascii", "replace")
    return LastLogin(when, "".join(char if char.isprintable() else "?" for char in text))


# --------------------------------------------------------------------------- records as bytes


def _pack(kind: int, record: LoginRecord, now: float) -> bytes:
    seconds, fraction = divmod(now, 1)
    return _UTMP.pack(
        kind,
        record.pid,
        _field(record.line, LINE_SIZE),
        _terminal_id(record.line),
        _field(record.user, NAME_SIZE),
        _field(record.host, HOST_SIZE),
        0,
        0,
        0,
        int(seconds),
        int(fraction * 1_000_000),
        _packed_address(record.address),
    )


def _terminal_id(line: str) -> bytes:
    """The end of the terminal's name, by which entries are found again."""
    return os.fsencode(line)[-ID_SIZE:]


def _field(text: str, size: int) -> bytes:
    return os.fsencode(text)[:size]


def _packed_address(address: str) -> bytes:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            return socket.inet_pton(family, address.partition("%")[0]).ljust(16, b"\0")
    return bytes(16)


# --------------------------------------------------------------------------- files


def _complaints(*writes: tuple[str, Callable[[], None]]) -> list[str]:
    """Do all of them; a record that cannot be written must not keep anybody out."""
    complaints = []
    for path, write in writes:
        try:
            write()
        except FileNotFoundError:
            continue
        except OSError as error:
            complaints.append(f"{path}: {error.strerror or error}")
    return complaints


@contextlib.contextmanager
def _locked(path: str, flags: int) -> Iterator[int]:
    """The C library's own lock, so that its writers and we take turns."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for attempt in range(LOCK_TRIES):
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == LOCK_TRIES - 1:
                    raise
                time.sleep(LOCK_PAUSE)
        yield descriptor
    finally:
        os.close(descriptor)


def _append(path: str, entry: bytes, *, private: bool = False) -> None:
    with _locked(path, os.O_WRONLY | os.O_APPEND) as descriptor:
        state = os.fstat(descriptor)
        if private and (state.st_uid != 0 or state.st_mode & (stat.S_IRWXO | stat.S_IXGRP)):
            raise OSError("Excess permission or bad ownership on file")
        # A record cut short by a full disk would put all later ones out of step.
        if os.write(descriptor, entry) != len(entry):
            os.ftruncate(descriptor, state.st_size)
            raise OSError("no room for a record")


def _update_utmp(path: str, line: str, entry: bytes) -> None:
    """In the place of the terminal's last entry, or behind all others."""
    with _locked(path, os.O_RDWR) as descriptor:
        at = 0
        while len(raw := os.pread(descriptor, _UTMP.size, at)) == _UTMP.size:
            fields = _UTMP.unpack(raw)
            if fields[0] in (LOGIN_PROCESS, USER_PROCESS, DEAD_PROCESS) and (
                fields[3].rstrip(b"\0") == _terminal_id(line)
            ):
                break
            at += _UTMP.size
        os.pwrite(descriptor, entry, at)


def _write_lastlog(path: str, record: LoginRecord, now: float) -> None:
    line, host = _field(record.line, LINE_SIZE), _field(record.host, HOST_SIZE)
    entry = _LASTLOG.pack(int(now), line, host)
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.pwrite(descriptor, entry, record.uid * _LASTLOG.size)
    finally:
        os.close(descriptor)
