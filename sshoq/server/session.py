"""Process: session leader [the user]. A session channel, and what is to be run in it.

The client asks; the configuration and the key that let the user in may force it to be something
else.
"""


from sshoq.named_tuple import NamedTuple
from sshoq.server import log
from sshoq.server.displays import Display
from sshoq.server.file_access import FileAccess, is_internal_sftp, read_arguments
from sshoq.server.privsep import StartProgram
from sshoq.server.privsep_socket import PrivsepError
from sshoq.server.pty import Pty
from sshoq.server.rights import LoginRights
from sshoq.wire import decode_text


class Session:
    """A session channel, from its first request until the channel is closed."""

    __slots__ = (
        "display",
        "is_closed",
        "is_forced",
        "is_subsystem",
        "number",
        "pid",
        "pty",
        "term",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.pty: Pty | None = None
        self.term: str | None = None
        self.display: Display | None = None
        self.pid: int | None = None
        self.is_closed = False
        self.is_forced = False
        self.is_subsystem = False


class Refusal(Exception):
    """The request cannot be granted; the session may go on."""


class Request(NamedTuple):
    """What is to be run, after everything that can force it to be something else."""

    command: str | None
    original: str | None
    is_forced: bool
    is_subsystem: bool
    only_sftp: bool
    files: FileAccess | None = None
    """internal-sftp, and what its flags allow."""


def decide(request: StartProgram, rights: LoginRights) -> Request:
    """ForceCommand goes before the key's command=, and that before what was asked for.
    Refusal."""
    command = _command_asked(request, rights)
    forced = rights.forced_command
    is_subsystem = request.kind == StartProgram.SUBSYSTEM
    if forced is None:
        files = _files_of(command, rights) if is_subsystem else None
        return Request(command, None, False, is_subsystem, False, files)
    files = _files_of(forced, rights)
    if files is None:
        return Request(forced, command, True, is_subsystem, False)
    return Request(forced, command, True, True, not is_subsystem, files)


def _files_of(command: str | None, rights: LoginRights) -> FileAccess | None:
    if command is None or not is_internal_sftp(command):
        return None
    return read_arguments(command, rights.account)


def _command_asked(request: StartProgram, rights: LoginRights) -> str | None:
    if request.kind == StartProgram.SHELL:
        return None
    name = decode_text(request.command)
    if "\0" in name:
        raise Refusal("a command with a zero byte")
    if request.kind == StartProgram.EXEC:
        return name
    if request.kind != StartProgram.SUBSYSTEM:
        raise PrivsepError("a program of no kind")
    found = rights.config.subsystem.get(name)
    if found is None or (name == "sftp" and rights.config.disable_sftp):
        log.info(
            f"subsystem request for {name} by user {rights.account.name} failed, "
            "subsystem not found"
        )
        raise Refusal("subsystem not found")
    return found
