"""Process: the session leader's child [the user], one per channel. Serves the user's files to the
Go programs' file transfer.

It is forked and never exec'd, so that it works inside a chroot and needs no interpreter that the
user can read: everything it uses is loaded before. It answers one request after another, in their
order, with the user's rights and no other rule but theirs. Its first byte says that it is ready;
anything else is the reason why not.
"""

import contextlib
import errno
import functools
import grp
import os
import pwd
import select
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from typing import NoReturn

from sshoq.file_frames import (
    CHUNK,
    MAX_ENTRIES,
    MAX_FRAME,
    MAX_REQUEST,
    Command,
    FileInfo,
    FileRequest,
    FileResponse,
    FrameError,
    FrameReader,
    encode_frame,
    go_mode,
)
from sshoq.server.account import Account
from sshoq.server.file_access import PROHIBITED, FileAccess
from sshoq.server.login import close_descriptors
from sshoq.server.privsep import FilesServed
from sshoq.wire import WireError

READ_SIZE = 256 * 1024
MAX_ERROR = 8192
"""A path at its longest, and the reason."""
MAX_LISTING = MAX_FRAME - 64 * 1024

MAX_NAMES = 4096
"""Names of users and groups that are remembered."""

SHELL_PATIENCE = 10.0
"""Seconds for the login shell to run a program. A menu may be waiting for an answer instead."""
_RAN = 42
_PROBE = b'/bin/sh -c "exit %d"' % _RAN


def run_file_server(
    end: socket.socket, account: Account, access: FileAccess, environment: dict[bytes, bytes]
) -> NoReturn:
    """The child's life. `end` leads to the network process; the working directory is the start."""
    status = 1
    close_descriptors()  # the root directory's, which could lead out of a chroot
    with contextlib.suppress(OSError):  # the network process has gone
        # A file at the user's limit and a client that left are errors to be told, not deaths.
        for number in (signal.SIGXFSZ, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        if access.needs_shell and not runs_programs(account, environment):
            end.sendall(PROHIBITED.encode())
        else:
            end.sendall(FilesServed.READY)
            server = FileServer(_start_directory(account, access), read_only=access.read_only)
            status = server.serve(end)
    os._exit(status)


def runs_programs(account: Account, environment: dict[bytes, bytes]) -> bool:
    """Whether the login shell would run any program that is asked for, as it would sftp-server."""
    shell = account.login_shell
    pid = os.fork()
    if pid == 0:
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(nothing, number)
            os.execve(shell, [os.path.basename(shell).encode(), b"-c", _PROBE], environment)
        finally:
            os._exit(1)
    ended = os.pidfd_open(pid)
    try:
        if not select.select([ended], [], [], SHELL_PATIENCE)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == _RAN


def _start_directory(account: Account, access: FileAccess) -> bytes:
    if access.umask is not None:
        os.umask(access.umask)
    wanted = os.path.join(account.home, access.directory or "")
    for path in (os.fsencode(wanted), os.fsencode(account.home)):
        if path.startswith(b"/") and os.path.isdir(path):
            return os.path.normpath(path)
    return b"/"


class Denied(Exception):
    """A request that fails for a reason of our own; str() is what the client is told."""


class FileServer:
    """The files as one client sees them, and its current directory."""

    def __init__(self, directory: bytes, *, read_only: bool = False) -> None:
        self._directory = directory
        self._read_only = read_only

    def serve(self, end: socket.socket) -> int:
        """Until the client has ended its side; the exit status."""
        reader = FrameReader(MAX_REQUEST)
        while data := end.recv(READ_SIZE):
            try:
                requests = reader.feed(data)
            except FrameError:
                return 1  # the network process saw it, too, and said so
            for request in requests:
                end.sendall(encode_frame(self.answer(request)))
        return 0

    def answer(self, payload: bytes) -> FileResponse:
        try:
            request = FileRequest.decode(payload)
        except WireError as error:
            return _refusal(0, f"malformed request: {error}".encode())
        serve = _COMMANDS.get(request.command)
        if serve is None:
            return _refusal(request.id, b"unknown command: %d" % request.command)
        path = self._absolute(request.path)
        try:
            self._check(request)
            return serve(self, request, path)
        except Denied as denied:
            return _refusal(request.id, os.fsencode(str(denied)))
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            return _refusal(request.id, path + b": " + reason.encode())

    def _check(self, request: FileRequest) -> None:
        names = (request.path, request.data if request.command == Command.REPLACE else b"")
        if request.offset < 0 or any(b"\0" in name for name in names):
            raise OSError(errno.EINVAL, "")
        if self._read_only and request.command in _WRITING:
            raise PermissionError(errno.EACCES, "")

    def _absolute(self, path: bytes) -> bytes:
        """By the text alone, as the Go server does: a link on the way is left as it stands."""
        joined = os.path.join(self._directory, path)
        return b"/" + os.path.normpath(joined).lstrip(b"/")

    # ------------------------------------------------------------------ looking

    def pwd(self, request: FileRequest, path: bytes) -> FileResponse:
        return FileResponse(request.id, path=self._directory)

    def cd(self, request: FileRequest, path: bytes) -> FileResponse:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "")
        if not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "")
        self._directory = path
        return FileResponse(request.id)

    def ls(self, request: FileRequest, path: bytes) -> FileResponse:
        return FileResponse(request.id, entries=tuple(_list(path)))

    def stat(self, request: FileRequest, path: bytes) -> FileResponse:
        state = os.lstat(path)
        name = os.path.basename(path) or b"/"
        return FileResponse(request.id, info=_describe(path, name, state, state.st_mode))

    # ------------------------------------------------------------------ contents

    def get(self, request: FileRequest, path: bytes) -> FileResponse:
        """Full chunks, as long as the file has them: a shorter one is taken for its end."""
        limit = request.limit if 0 < request.limit <= CHUNK else CHUNK
        with _opened(path, os.O_RDONLY) as fd:
            return FileResponse(request.id, data=_read_fully(fd, limit, request.offset))

    def put(self, request: FileRequest, path: bytes) -> FileResponse:
        with (
            _parent(path) as (folder, name),
            _opened(name, os.O_WRONLY | os.O_CREAT, folder) as fd,
        ):
            if request.offset == 0:
                os.ftruncate(fd, 0)
            _write_fully(fd, request.data, request.offset)
        return FileResponse(request.id)

    # ------------------------------------------------------------------ names

    def mkdir(self, request: FileRequest, path: bytes) -> FileResponse:
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            raise Denied(os.fsdecode(path + b" already exists")) from None
        return FileResponse(request.id)

    def rm(self, request: FileRequest, path: bytes) -> FileResponse:
        os.unlink(path)
        return FileResponse(request.id)

    def rmdir(self, request: FileRequest, path: bytes) -> FileResponse:
        os.rmdir(path)
        return FileResponse(request.id)

    def replace(self, request: FileRequest, path: bytes) -> FileResponse:
        """One file in the other's place, in one step and with its permissions."""
        target = self._absolute(request.data)
        with (
            _parent(path) as (source_folder, source),
            _parent(target) as (folder, name),
            _opened(source, os.O_RDONLY, source_folder) as fd,
        ):
            _take_permissions(fd, name, folder)
            os.rename(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)
        return FileResponse(request.id)


_COMMANDS: dict[int, Callable[[FileServer, FileRequest, bytes], FileResponse]] = {
    Command.PWD: FileServer.pwd,
    Command.CD: FileServer.cd,
    Command.LS: FileServer.ls,
    Command.STAT: FileServer.stat,
    Command.GET: FileServer.get,
    Command.PUT: FileServer.put,
    Command.MKDIR: FileServer.mkdir,
    Command.RM: FileServer.rm,
    Command.RMDIR: FileServer.rmdir,
    Command.REPLACE: FileServer.replace,
}
_WRITING = {Command.PUT, Command.MKDIR, Command.RM, Command.RMDIR, Command.REPLACE}


def _refusal(number: int, text: bytes) -> FileResponse:
    return FileResponse(number, ok=False, error=text[:MAX_ERROR])


# --------------------------------------------------------------------------- descriptors


@contextlib.contextmanager
def _parent(path: bytes) -> Iterator[tuple[int, bytes]]:
    """The directory of what is to be written, which must not be a link itself, and the name."""
    above, name = os.path.split(path)
    if not name:
        raise IsADirectoryError(errno.EISDIR, "")
    if stat.S_ISLNK(os.lstat(above).st_mode):
        raise OSError(errno.ELOOP, "")
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(above, flags)
    try:
        yield folder, name
    finally:
        os.close(folder)


@contextlib.contextmanager
def _opened(path: bytes, flags: int, folder: int | None = None) -> Iterator[int]:
    """An ordinary file, by its own name. Opening must not wait for a FIFO's other end."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(path, flags, 0o644, dir_fd=folder)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "")
        yield fd
    finally:
        os.close(fd)


def _take_permissions(fd: int, name: bytes, folder: int) -> None:
    """Those of the file of that name. It must be an ordinary one, if there is any."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "")
        os.fchmod(fd, stat.S_IMODE(mode) & 0o777)


def _read_fully(fd: int, size: int, offset: int) -> bytes:
    parts = []
    while size and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write_fully(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


# --------------------------------------------------------------------------- what is told of files


def _list(path: bytes) -> Iterator[FileInfo]:
    """In no order, without "." and ".."; what vanishes meanwhile is left out."""
    room = MAX_LISTING
    with os.scandir(path) as entries:
        for count, entry in enumerate(entries):
            try:
                state = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            info = _describe(entry.path, entry.name, state, go_mode(state.st_mode))
            room -= len(info.encode())
            if room < 0 or count >= MAX_ENTRIES:
                raise Denied(os.fsdecode(path + b": too many entries"))
            yield info


def _describe(path: bytes, name: bytes, state: os.stat_result, mode: int) -> FileInfo:
    is_link = stat.S_ISLNK(state.st_mode)
    flags = FileInfo.DIRECTORY * stat.S_ISDIR(state.st_mode) | FileInfo.LINK * is_link
    target = b""
    if is_link:
        with contextlib.suppress(OSError):
            target = os.readlink(path)
    return FileInfo(
        name=name,
        size=state.st_size,
        mode=mode,
        flags=flags,
        target=target,
        mtime=int(state.st_mtime),
        uid=state.st_uid,
        gid=state.st_gid,
        user=_user_name(state.st_uid),
        group=_group_name(state.st_gid),
    )


@functools.lru_cache(MAX_NAMES)
def _user_name(uid: int) -> bytes:
    try:
        return os.fsencode(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return b"%d" % uid


@functools.lru_cache(MAX_NAMES)
def _group_name(gid: int) -> bytes:
    try:
        return os.fsencode(grp.getgrgid(gid).gr_name)
    except KeyError:
        return b"%d" % gid
