"""What the user is told: messages with OpenSSH's levels, prefixes and line ends, to stderr, a file
or syslog.

Not the logging module: its import costs more than resolving a configuration. Nothing here decides
anything.
"""

from __future__ import annotations

import os

from sshoq.config.usage import (
    DEBUG1,
    DEBUG2,
    DEBUG3,
    ERROR,
    FATAL,
    INFO,
    LOG_LEVELS,
    QUIET,
    VERBOSE,
)

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

    Writer = Callable[[int, str], None]
    """Takes a level and a line without its end."""

_NAMES = {level: name for name, level in LOG_LEVELS.items() if name not in ("SILENT", "DEBUG")}
_PREFIXES = {DEBUG1: "debug1: ", DEBUG2: "debug2: ", DEBUG3: "debug3: "}
# syslog(3) priorities: LOG_CRIT, LOG_ERR, LOG_INFO, LOG_DEBUG
_PRIORITIES = {FATAL: 2, ERROR: 3, INFO: 6, VERBOSE: 6}
_DEBUG_PRIORITY = 7

FAILED = 255


class Failure(Exception):
    """The run cannot go on. Each argument is one line for the user.

    `level`: that of the lines, which LogLevel is held against; for OpenSSH not every end is FATAL.
    """

    def __init__(self, *lines: str, level: int = FATAL, status: int = FAILED) -> None:
        super().__init__(*lines)
        self.lines = lines
        self.level = level
        self.status = status


class Log:
    """Where this run's messages go, and down to which level."""

    def __init__(self, level: int = INFO, write: Writer | None = None) -> None:
        self.level = level
        self._write = write or write_to(2)

    def message(self, level: int, text: str) -> None:
        if level <= self.level:
            self._write(level, _PREFIXES.get(level, "") + printable(text))

    def repeat(self, line: str) -> None:
        """A line that was held back, with its prefix and after its level was looked at."""
        self._write(INFO, printable(line))

    def fatal(self, text: str) -> None:
        self.message(FATAL, text)

    def error(self, text: str) -> None:
        self.message(ERROR, text)

    def info(self, text: str) -> None:
        self.message(INFO, text)

    def verbose(self, text: str) -> None:
        self.message(VERBOSE, text)

    def debug(self, text: str) -> None:
        self.message(DEBUG1, text)

    def debug2(self, text: str) -> None:
        self.message(DEBUG2, text)

    def debug3(self, text: str) -> None:
        self.message(DEBUG3, text)

    def louder(self) -> str:
        """`~v`: one level more; the name of the level that holds now."""
        self.level = min(self.level + 1, DEBUG3)
        return _NAMES[self.level]

    def quieter(self) -> str:
        """`~V`: one level less."""
        self.level = max(self.level - 1, QUIET)
        return _NAMES[self.level]


def printable(text: str) -> str:
    """Names and reasons come from the peer: no control character of theirs reaches the terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else _octal(c) for c in text.replace("\r\n", "\n")
    )


def one_line(text: str) -> str:
    """What the peer says, within a line of ours: it cannot make two of it."""
    return printable(text).replace("\n", "\\n")


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def write_to(fd: int) -> Writer:
    """A descriptor. Lines end in CR LF, as the terminal may be in raw mode."""

    def write(level: int, line: str) -> None:
        data = line.replace("\n", "\r\n").encode("utf-8", "replace") + b"\r\n"
        write_fully(fd, data)

    return write


def write_fully(fd: int, data: bytes) -> None:
    """Give up silently when nobody reads: there is no one left to tell."""
    while data:
        try:
            data = data[os.write(fd, data):]
        except BlockingIOError:
            _wait_writable(fd)
        except OSError:
            return


def _wait_writable(fd: int) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll(1000)


def lead_nowhere(*descriptors: int) -> None:
    """Standard streams that go to /dev/null from now on; whoever is at their other end is told by
    that."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in descriptors:
        os.dup2(nothing, fd)
    os.close(nothing)


def write_to_file(path: str) -> Writer:
    """-E: append to a file."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        complaint = f"Couldn't open logfile {path}: {error.strerror}"
        raise Failure(complaint, status=1) from None  # the one error that is no 255 for ssh
    return write_to(fd)


def write_to_syslog(facility: str) -> Writer:
    """-y: the system log, with SyslogFacility."""
    import syslog

    code = getattr(syslog, f"LOG_{facility.upper()}", syslog.LOG_USER)
    syslog.openlog("sshoq", syslog.LOG_PID, code)

    def write(level: int, line: str) -> None:
        word = {FATAL: "fatal: ", ERROR: "error: "}.get(level, "")
        syslog.syslog(_PRIORITIES.get(level, _DEBUG_PRIORITY), word + line)

    return write
