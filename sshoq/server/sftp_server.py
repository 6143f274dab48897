"""Process: the session leader's child [the user], one per session. `internal-sftp`: SFTP on
standard input and output.

It is forked and never exec'd, so that it works in a chroot with nothing in it, for users whose
shell runs nothing, and under no influence of an environment. It has the user's rights and no rule
but theirs, and those of sftp-server's flags. Everything it uses is loaded before.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import resource
import signal
import stat
import struct
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from sshoq.named_tuple import NamedTuple
from sshoq.server import libc
from sshoq.server.account import Account
from sshoq.server.file_access import FileAccess
from sshoq.server.login import close_descriptors
from sshoq.server.sftp_answers import (
    attributes_of,
    code_of,
    describe,
    group_name,
    pack_system,
    status_packet,
    told,
    user_name,
)
from sshoq.server.sftp_files import (
    list_entries,
    open_flags,
    real_path,
    set_attributes,
    write_at,
    write_fully,
)
from sshoq.server.sftp_messages import (
    BAD_MESSAGE,
    EOF,
    EXTENDED,
    FAILURE,
    INIT,
    MAX_DATA,
    MAX_PACKET,
    NO_SUCH_FILE,
    OK,
    PERMISSION_DENIED,
    UNSUPPORTED,
    VERSION,
    AttributesOf,
    CopyData,
    Data,
    Extended,
    ExtendedReply,
    Handle,
    Name,
    Names,
    NumbersOfNames,
    OfHandle,
    OfPath,
    OfTwoPaths,
    Open,
    PacketReader,
    Read,
    Request,
    SetOfHandle,
    SetOfPath,
    Version,
    Write,
    encode_packet,
)
from sshoq.wire import Message, Reader, WireError, put_string

READ_SIZE = 512 * 1024
PIPE_SIZE = 512 * 1024
MAX_PENDING = 1 << 20
"""Bytes of answers that wait for the last request of a batch."""

NAMES_AT_ONCE = 100
"""Directory entries in a packet, each with two names of 255 bytes at most."""

COPY_SIZE = 1 << 20
RESERVED_DESCRIPTORS = 8

_NO_LINKS = (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.EPERM, errno.EMLINK)
"""Where a file can have no second name."""

_F_SETPIPE_SZ = 1031


def run_sftp_server(account: Account, access: FileAccess) -> NoReturn:
    """The child's life, from its home on. Standard input and output lead to the client."""
    close_descriptors()  # the root directory's, which could lead out of a chroot
    libc.set_process_name("internal-sftp", account.name)
    listed = access.denied | (access.permitted or frozenset())
    if access.refusal is not None or listed - REQUEST_NAMES:
        os.write(2, b"internal-sftp: arguments that cannot be obeyed\n")
        os._exit(1)
    # A file at the user's limit and a client that left are errors to be told, not deaths.
    for number in (signal.SIGXFSZ, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    if access.umask is not None:
        os.umask(access.umask)
    if access.directory is not None:
        with contextlib.suppress(OSError):
            os.chdir(access.directory)
    for fd in (0, 1):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_SIZE)
    status = 1
    with contextlib.suppress(OSError):  # the network process has gone
        status = SftpServer(account, access).serve(0, 1)
    os._exit(status)


class Denied(Exception):
    """A request that fails for a reason that is no system error's."""

    def __init__(self, code: int) -> None:
        self.code = code


class Folder(NamedTuple):
    listing: Any
    """os.scandir's, which holds the descriptor."""
    entries: Iterator[tuple[bytes, os.stat_result]]


class SftpServer:
    """The files as one client sees them, and what it has open."""

    def __init__(self, account: Account, access: FileAccess) -> None:
        self._account = account
        self._rules = _permitted(access)
        self._read_only = access.read_only
        self._open: dict[bytes, int | Folder] = {}
        """Descriptors of files, and directories; the user's limit of descriptors bounds it."""
        self._number = 0
        self._greeted = False

    # ------------------------------------------------------------------ the loop

    def serve(self, source: int, sink: int) -> int:
        """Until the client has ended its side; the exit status."""
        reader = PacketReader()
        try:
            while data := os.read(source, READ_SIZE):
                self._answer_all(reader.feed(data), sink)
        except WireError as error:
            os.write(2, f"internal-sftp: bad message: {error}\n".encode())
            return 1
        return 0

    def _answer_all(self, packets: list[bytes], sink: int) -> None:
        pending: list[bytes] = []
        size = 0
        for packet in packets:
            for part in self.answer(packet):
                pending.append(part)
                size += len(part)
            if size >= MAX_PENDING:
                write_fully(sink, pending)
                pending, size = [], 0
        write_fully(sink, pending)

    def answer(self, packet: bytes) -> tuple[bytes, ...]:
        """The packet that answers this one, in parts. WireError: nobody can tell what it was."""
        number = packet[0]
        if not self._greeted:
            return (self._greet(packet),)
        if number == EXTENDED:
            return (self._answer_extended(packet),)
        rule = REQUESTS.get(number)
        if rule is None:
            return (status_packet(Reader(packet, 1).u32(), UNSUPPORTED),)
        answer = self._serve(rule, rule.shape.decode(memoryview(packet)[1:]))
        if isinstance(answer, Data):  # not copied once more
            size = len(answer.data)
            return struct.pack(">IBII", size + 9, 103, answer.id, size), answer.data
        return (encode_packet(answer),)

    def _greet(self, packet: bytes) -> bytes:
        if packet[0] != INIT or len(packet) < 5:
            raise WireError("no greeting")
        self._greeted = True
        extensions = b"".join(
            put_string(name) + put_string(rule.version)
            for name, rule in EXTENSIONS.items()
            if rule.name in self._rules
        )
        return encode_packet(Version(VERSION, extensions))

    def _answer_extended(self, packet: bytes) -> bytes:
        asked = Extended.decode(memoryview(packet)[1:])
        rule = EXTENSIONS.get(asked.name)
        if rule is None:
            return status_packet(asked.id, UNSUPPORTED)
        request = rule.shape.decode(asked.id.to_bytes(4, "big") + asked.rest)
        return encode_packet(self._serve(rule, request))

    def _serve(self, rule: "Rule", request: Any) -> Message:
        """The answer to a request, whose shape is the rule's."""
        if rule.name not in self._rules:
            return told(request.id, PERMISSION_DENIED)
        try:
            answer = rule.serve(self, request)
        except Denied as denied:
            return told(request.id, denied.code)
        except OSError as error:
            return told(request.id, code_of(error), error)
        except (ValueError, OverflowError):  # a zero byte in a path; an offset beyond all files
            return told(request.id, BAD_MESSAGE)
        except RecursionError:  # a thousand links one behind another, on the way to a real path
            return told(request.id, FAILURE)
        return told(request.id, OK) if answer is None else answer

    # ------------------------------------------------------------------ what is open

    def _add(self, request: int, one: int | Folder) -> Handle:
        self._number += 1
        handle = self._number.to_bytes(8, "big")
        self._open[handle] = one
        return Handle(request, handle)

    def _file(self, handle: bytes) -> int:
        one = self._open.get(handle)
        if not isinstance(one, int):
            raise Denied(FAILURE)
        return one

    def open(self, request: Open) -> Message:
        flags = open_flags(request.flags)
        changes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if self._read_only and changes:
            raise Denied(PERMISSION_DENIED)
        mode = 0o666 if request.attributes.mode is None else request.attributes.mode & 0o7777
        return self._add(request.id, os.open(request.path, flags, mode))

    def close(self, request: OfHandle) -> None:
        one = self._open.pop(request.handle, None)
        if one is None:
            raise Denied(FAILURE)
        if isinstance(one, Folder):
            one.listing.close()
        else:
            os.close(one)

    def read(self, request: Read) -> Message:
        fd = self._file(request.handle)
        data = os.pread(fd, min(request.length, MAX_DATA), request.offset)
        return Data(request.id, data) if data or not request.length else told(request.id, EOF)

    def write(self, request: Write) -> None:
        write_at(self._file(request.handle), request.data, request.offset)

    def sync(self, request: OfHandle) -> None:
        os.fsync(self._file(request.handle))

    def copy(self, request: CopyData) -> None:
        """From file to file, or within one where the ranges do not overlap."""
        source, target = self._file(request.handle), self._file(request.target)
        start, length, to = request.offset, request.length, request.target_offset
        if os.path.sameopenfile(source, target):
            end = start + length
            if not length or (start < to + length and to < end):
                raise Denied(FAILURE)
        left = length or None
        while left is None or left:
            data = os.pread(source, min(COPY_SIZE, left or COPY_SIZE), start)
            if not data:
                return
            write_at(target, data, to)
            start, to = start + len(data), to + len(data)
            left = None if left is None else left - len(data)

    # ------------------------------------------------------------------ directories

    def open_folder(self, request: OfPath) -> Message:
        path = request.path or b"."
        listing = os.scandir(path)
        return self._add(request.id, Folder(listing, list_entries(path, listing)))

    def read_folder(self, request: OfHandle) -> Message:
        folder = self._open.get(request.handle)
        if not isinstance(folder, Folder):
            raise Denied(FAILURE)
        names = []
        for name, state in folder.entries:
            names.append(Name(name, describe(name, state), attributes_of(state)))
            if len(names) == NAMES_AT_ONCE:
                break
        return Names(request.id, tuple(names)) if names else told(request.id, EOF)

    def make_folder(self, request: SetOfPath) -> None:
        mode = request.attributes.mode
        os.mkdir(request.path, 0o777 if mode is None else mode & 0o7777)

    def remove_folder(self, request: OfPath) -> None:
        os.rmdir(request.path)

    # ------------------------------------------------------------------ attributes

    def stat(self, request: OfPath) -> Message:
        return AttributesOf(request.id, attributes_of(os.stat(request.path)))

    def stat_link(self, request: OfPath) -> Message:
        return AttributesOf(request.id, attributes_of(os.lstat(request.path)))

    def stat_file(self, request: OfHandle) -> Message:
        return AttributesOf(request.id, attributes_of(os.fstat(self._file(request.handle))))

    def set(self, request: SetOfPath) -> None:
        set_attributes(request.path, request.attributes)

    def set_file(self, request: SetOfHandle) -> None:
        set_attributes(self._file(request.handle), request.attributes)

    def set_link(self, request: SetOfPath) -> None:
        """Of a link itself, if it is one; that has no size to be set, and no mode."""
        wanted = request.attributes
        if wanted.size is not None:
            raise Denied(BAD_MESSAGE)
        if wanted.mode is not None:
            try:
                os.chmod(request.path, wanted.mode & 0o7777, follow_symlinks=False)
            except NotImplementedError:
                raise Denied(UNSUPPORTED) from None
        if wanted.times is not None:
            os.utime(request.path, wanted.times, follow_symlinks=False)
        if wanted.owner is not None:
            os.chown(request.path, *wanted.owner, follow_symlinks=False)

    def stat_system(self, request: OfPath) -> Message:
        return ExtendedReply(request.id, pack_system(os.statvfs(request.path)))

    def stat_system_of_file(self, request: OfHandle) -> Message:
        state = os.fstatvfs(self._file(request.handle))
        return ExtendedReply(request.id, pack_system(state))

    # ------------------------------------------------------------------ names

    def remove(self, request: OfPath) -> None:
        os.unlink(request.path)

    def rename(self, request: OfTwoPaths) -> None:
        """Version 3 replaces nothing. A link cannot, either; where there are none, we look."""
        if stat.S_ISREG(os.lstat(request.first).st_mode):
            try:
                os.link(request.first, request.second, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            else:
                os.unlink(request.first)
                return
        if os.path.lexists(request.second):
            raise Denied(FAILURE)
        os.rename(request.first, request.second)

    def replace(self, request: OfTwoPaths) -> None:
        os.rename(request.first, request.second)

    def link(self, request: OfTwoPaths) -> None:
        os.link(request.first, request.second, follow_symlinks=False)

    def link_by_name(self, request: OfTwoPaths) -> None:
        """OpenSSH's order, which all clients have come to use: what it says, where it stands."""
        os.symlink(request.first, request.second)

    def read_link(self, request: OfPath) -> Message:
        target = os.readlink(request.path)
        return Names(request.id, (Name(target, target),))

    def resolve(self, request: OfPath) -> Message:
        path = real_path(request.path or b".")
        return Names(request.id, (Name(path, path),))

    def expand(self, request: OfPath) -> Message:
        """`~` and `~user` in front; what is relative is so to the home directory."""
        path = request.path
        if path.startswith(b"~"):
            name, _, rest = path[1:].partition(b"/")
            path = os.path.join(self._home(name), rest)
        found = real_path(path or b".")
        return Names(request.id, (Name(found, found),))

    def find_home(self, request: OfPath) -> Message:
        path = real_path(self._home(request.path))
        return Names(request.id, (Name(path, path),))

    def _home(self, name: bytes) -> bytes:
        if name in (b"", os.fsencode(self._account.name)):
            return os.fsencode(self._account.home)
        try:
            return os.fsencode(pwd.getpwnam(os.fsdecode(name)).pw_dir)
        except KeyError:
            raise Denied(NO_SUCH_FILE) from None

    # ------------------------------------------------------------------ questions

    def tell_limits(self, request: Request) -> Message:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        handles = 0 if soft == resource.RLIM_INFINITY else max(soft - RESERVED_DESCRIPTORS, 1)
        limits = struct.pack(">4Q", MAX_PACKET, MAX_DATA, MAX_DATA, handles)
        return ExtendedReply(request.id, limits)

    def tell_names(self, request: NumbersOfNames) -> Message:
        """Of users and of groups; empty where there is none."""
        users = (user_name(number) for number in _unpack_numbers(request.users))
        groups = (group_name(number) for number in _unpack_numbers(request.groups))
        content = b"".join(
            put_string(b"".join(put_string(name or b"") for name in names))
            for names in (users, groups)
        )
        return ExtendedReply(request.id, content)


# --------------------------------------------------------------------------- what is served


class Rule(NamedTuple):
    """A kind of request. `name` is what sftp-server's -p and -P call it."""

    name: str
    shape: type[Request]
    serve: Callable[[SftpServer, Any], Message | None]
    writes: bool = False
    version: bytes = b"1"
    """Of an extension."""


REQUESTS: dict[int, Rule] = {
    3: Rule("open", Open, SftpServer.open),  # which looks at its flags
    4: Rule("close", OfHandle, SftpServer.close),
    5: Rule("read", Read, SftpServer.read),
    6: Rule("write", Write, SftpServer.write, writes=True),
    7: Rule("lstat", OfPath, SftpServer.stat_link),
    8: Rule("fstat", OfHandle, SftpServer.stat_file),
    9: Rule("setstat", SetOfPath, SftpServer.set, writes=True),
    10: Rule("fsetstat", SetOfHandle, SftpServer.set_file, writes=True),
    11: Rule("opendir", OfPath, SftpServer.open_folder),
    12: Rule("readdir", OfHandle, SftpServer.read_folder),
    13: Rule("remove", OfPath, SftpServer.remove, writes=True),
    14: Rule("mkdir", SetOfPath, SftpServer.make_folder, writes=True),
    15: Rule("rmdir", OfPath, SftpServer.remove_folder, writes=True),
    16: Rule("realpath", OfPath, SftpServer.resolve),
    17: Rule("stat", OfPath, SftpServer.stat),
    18: Rule("rename", OfTwoPaths, SftpServer.rename, writes=True),
    19: Rule("readlink", OfPath, SftpServer.read_link),
    20: Rule("symlink", OfTwoPaths, SftpServer.link_by_name, writes=True),
}

EXTENSIONS: dict[bytes, Rule] = {
    b"posix-rename@openssh.com": Rule(
        "posix-rename", OfTwoPaths, SftpServer.replace, writes=True
    ),
    b"statvfs@openssh.com": Rule("statvfs", OfPath, SftpServer.stat_system, version=b"2"),
    b"fstatvfs@openssh.com": Rule(
        "fstatvfs", OfHandle, SftpServer.stat_system_of_file, version=b"2"
    ),
    b"hardlink@openssh.com": Rule("hardlink", OfTwoPaths, SftpServer.link, writes=True),
    b"fsync@openssh.com": Rule("fsync", OfHandle, SftpServer.sync, writes=True),
    b"lsetstat@openssh.com": Rule("lsetstat", SetOfPath, SftpServer.set_link, writes=True),
    b"limits@openssh.com": Rule("limits", Request, SftpServer.tell_limits),
    b"expand-path@openssh.com": Rule("expand-path", OfPath, SftpServer.expand),
    b"copy-data": Rule("copy-data", CopyData, SftpServer.copy, writes=True),
    b"home-directory": Rule("home-directory", OfPath, SftpServer.find_home),
    b"users-groups-by-id@openssh.com": Rule(
        "users-groups-by-id", NumbersOfNames, SftpServer.tell_names
    ),
}

_RULES = (*REQUESTS.values(), *EXTENSIONS.values())
REQUEST_NAMES = frozenset(rule.name for rule in _RULES)


def _permitted(access: FileAccess) -> frozenset[str]:
    """The names of what is served. What is in neither list is, unless there is one of permits."""
    return frozenset(
        rule.name
        for rule in _RULES
        if rule.name not in access.denied
        and (access.permitted is None or rule.name in access.permitted)
        and not (rule.writes and access.read_only)
    )


def _unpack_numbers(packed: bytes) -> tuple[int, ...]:
    if len(packed) % 4:
        raise Denied(BAD_MESSAGE)
    return struct.unpack(f">{len(packed) // 4}I", packed)
