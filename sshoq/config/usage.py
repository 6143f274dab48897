"""What the user is told about the program and about mistakes: usage, version, UsageError."""

from sshoq import __version__

STATUS = 255

FATAL, ERROR, INFO, VERBOSE, DEBUG1, DEBUG2, DEBUG3 = range(7)
QUIET = -1
LOG_LEVELS = {
    "SILENT": QUIET,
    "QUIET": QUIET,
    "FATAL": FATAL,
    "ERROR": ERROR,
    "INFO": INFO,
    "VERBOSE": VERBOSE,
    "DEBUG": DEBUG1,
    "DEBUG1": DEBUG1,
    "DEBUG2": DEBUG2,
    "DEBUG3": DEBUG3,
}

COMPATIBLE_VERSION = "OpenSSH_10.5p1"
GO_VERSION = "0.2.1"

USAGE = """\
usage: sshoq [-46AaCfGgKkMNnqsTtVvXxYyZ] [-B bind_interface] [-b bind_address]
             [-c cipher_spec] [-D [bind_address:]port] [-E log_file]
             [-e escape_char] [-F configfile] [-I pkcs11] [-i identity_file]
             [-J destination] [-L address] [-l login_name] [-m mac_spec]
             [-O ctl_cmd] [-o option] [-P tag] [-p port] [-R address]
             [-S ctl_path] [-W host:port] [-w local_tun[:remote_tun]]
             [-insecure] [-use-password] [-forward-agent]
             [-proxy-jump destination] destination [command [argument ...]]
       sshoq --stdio destination [target[:port]]
       sshoq -sftp destination
       sshoq -scp [-r] source target
       sshoq -Q query_option
       sshoq config get|set|unset host keyword [value]"""


class UsageError(Exception):
    """The run ends here: lines for stderr (without line ends) and the exit status."""

    def __init__(self, *lines: str, status: int = STATUS) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.status = status


def make_visible(text: str) -> str:
    """What OpenSSH lets through to a terminal: control characters and non-ASCII as octal."""
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    data = text.encode("utf-8", "surrogateescape")
    return "".join(_visible_byte(byte) for byte in data)


def _visible_byte(byte: int) -> str:
    if byte == 0x5C:
        return "\\\\"
    if 0x20 <= byte < 0x7F or byte in b"\t\n\a\b\r":
        return chr(byte)
    return f"\\{byte:03o}"


class Notes:
    """Lines for stderr in the order in which they came up, as far as the log level allows."""

    __slots__ = ("level", "lines")

    def __init__(self, level: int = INFO) -> None:
        self.level = level
        self.lines: list[str] = []

    def add(self, level: int, text: str) -> None:
        """Keep a line; debug lines carry their level in front, as OpenSSH's do."""
        if level <= self.level:
            prefix = f"debug{level - VERBOSE}: " if level >= DEBUG1 else ""
            self.lines.append(prefix + make_visible(text))

    def error(self, text: str) -> None:
        self.add(ERROR, text)

    def fatal(self, *texts: str) -> UsageError:
        """The error to raise: everything said so far and these last words."""
        for text in texts:
            self.add(FATAL, text)
        return UsageError(*self.lines)


def usage_error(notes: Notes, *before: str) -> UsageError:
    """The usage text, which no log level silences, after a complaint."""
    return UsageError(*notes.lines, *map(make_visible, before), *USAGE.split("\n"))


def version_line() -> str:
    """What -V prints: own name and version, and the token that programs look for."""
    return f"{COMPATIBLE_VERSION} sshoq_{__version__}, SSH over QUIC"


def go_version_line(program: str) -> str:
    """What the Go client prints for -version, with our own version behind it."""
    return f"{program} version h4sh5/sshoq {GO_VERSION} (sshoq {__version__})"
