"""Process: main, monitor [root], leader [the user]. The server's log: syslog, standard error, or a
file.

One line per event, in sshd's words, so that fail2ban and friends read it. Text that others chose
(user names, addresses, reasons) is made harmless here, once: a line can never become two, nor drive
a terminal. Without the logging module, which would cost every start 10 ms and every process its
memory.
"""

import errno
import os
import stat
import sys
import syslog
import time
from contextlib import suppress

QUIET, FATAL, ERROR, INFO, VERBOSE, DEBUG1, DEBUG2, DEBUG3 = range(8)

LEVELS = {
    "QUIET": QUIET,
    "SILENT": QUIET,
    "FATAL": FATAL,
    "ERROR": ERROR,
    "INFO": INFO,
    "VERBOSE": VERBOSE,
    "DEBUG": DEBUG1,
    "DEBUG1": DEBUG1,
    "DEBUG2": DEBUG2,
    "DEBUG3": DEBUG3,
}

FACILITIES = {
    "DAEMON": syslog.LOG_DAEMON,
    "USER": syslog.LOG_USER,
    "AUTH": syslog.LOG_AUTH,
    "AUTHPRIV": syslog.LOG_AUTHPRIV,
    **{f"LOCAL{n}": getattr(syslog, f"LOG_LOCAL{n}") for n in range(8)},
}

_PRIORITIES = {
    FATAL: syslog.LOG_CRIT,
    ERROR: syslog.LOG_ERR,
    INFO: syslog.LOG_INFO,
    VERBOSE: syslog.LOG_INFO,
}
_PREFIXES = {FATAL: "fatal: ", ERROR: "error: "}
_DEBUG_PREFIXES = {DEBUG1: "debug1: ", DEBUG2: "debug2: ", DEBUG3: "debug3: "}
_JSON_LEVELS = {FATAL: "fatal", ERROR: "error", INFO: "info", VERBOSE: "info"}

MAX_LINE = 1024
"""As sshd: longer text is cut, whoever made it long."""


class _Destination:
    """Where lines go now. A fork inherits it."""

    def __init__(self) -> None:
        self.level = INFO
        self.descriptor = 2
        self.to_syslog = False
        self.as_json = False
        self.name = "sshoq-server"


_current = _Destination()


def to_stderr(level: int) -> None:
    _current.level, _current.to_syslog = level, False
    _current.descriptor, _current.as_json = 2, False


def to_syslog(level: int, facility: str) -> None:
    """The connection is opened at once, so that it holds in processes that change their root.

    Whoever closes descriptors must spare it: the C library would write to what has its number next.
    """
    lowest = os.dup(2)
    os.close(lowest)
    syslog.openlog(_current.name, syslog.LOG_PID | syslog.LOG_NDELAY, FACILITIES[facility])
    _current.level, _current.to_syslog = level, True
    _current.descriptor = lowest if _is_socket(lowest) else 2


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # no syslogd listens
        return False


def to_file(path: str, level: int, *, as_json: bool = False, is_named: bool = True) -> None:
    """Append to a file; OSError if it cannot be opened. `as_json` is the Go server's form.

    Where nobody has named the file, it lies in whatever directory we were started in: what others
    may have put there is not written to.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    if not is_named:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    opened = os.open(path, flags, 0o600)
    if not is_named and not _is_ours_alone(os.fstat(opened)):
        os.close(opened)
        raise OSError(errno.EPERM, "bad ownership or modes", path)
    if _current.descriptor > 2:
        os.close(_current.descriptor)
    _current.descriptor = opened
    _current.level, _current.to_syslog, _current.as_json = level, False, as_json


def _is_ours_alone(status: os.stat_result) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and status.st_nlink == 1
        and not status.st_mode & 0o022
    )


def set_level(level: int) -> None:
    _current.level = level


def descriptor() -> int:
    """Of the log's file; to be kept open by a process that closes the rest."""
    return _current.descriptor


def level() -> int:
    return _current.level


def fatal(text: str) -> None:
    """The last line of a process; ending it is the caller's to do."""
    write(FATAL, text)


def error(text: str) -> None:
    write(ERROR, text)


def info(text: str) -> None:
    write(INFO, text)


def verbose(text: str) -> None:
    write(VERBOSE, text)


def debug(text: str, level: int = DEBUG1) -> None:
    write(level, text)


def write(level: int, text: str) -> None:
    """A log that cannot be written is no reason to refuse a login: errors are swallowed."""
    if level > _current.level:
        return
    line = _DEBUG_PREFIXES.get(level, "") + harmless(text)
    if _current.to_syslog:
        syslog.syslog(_PRIORITIES.get(level, syslog.LOG_DEBUG), _PREFIXES.get(level, "") + line)
        return
    if _current.as_json:
        line = _json_line(level, line)
    with suppress(OSError):
        os.write(_current.descriptor, line.encode() + b"\n")


def _json_line(level: int, line: str) -> str:
    import json

    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps(
        {"level": _JSON_LEVELS.get(level, "debug"), "time": when, "message": line},
        separators=(",", ":"),
    )


def harmless(text: str) -> str:
    r"""Printable ASCII; any other byte as \ooo and a backslash doubled, so that nothing is
    ambiguous.
    """
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text[:MAX_LINE]
    raw = text[:MAX_LINE].encode("utf-8", "surrogateescape")
    return "".join(_VISIBLE[byte] for byte in raw)[:MAX_LINE]


_VISIBLE = [
    "\\\\" if byte == 0x5C else chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
    for byte in range(256)
]


def complain(text: str) -> None:
    """To the one who starts the server, before there is a log."""
    print(text, file=sys.stderr)
