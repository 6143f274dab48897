"""Files of this machine that are written while they arrive: whole, or not at all.

What is under way has a name of its own, and takes the real one when it is complete. Names come from
the server, so directories are held by descriptor: a link that stands in one is never gone through.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""With these, the next file would fare no better."""


class LocalFolder:
    """A directory to write into. Close it."""

    def __init__(self, fd: int, path: bytes) -> None:
        self._fd = fd
        self.path = path
        """For messages only."""

    @classmethod
    def open(cls, path: bytes) -> "LocalFolder":
        """Where the user said; links on the way are the user's own."""
        return cls(os.open(path or b".", _DIRECTORY), path)

    @contextmanager
    def enter(self, name: bytes) -> "Iterator[LocalFolder]":
        """The directory of that name in it, made if need be. NotADirectoryError for a link."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=self._fd)
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._fd)
        folder = LocalFolder(fd, os.path.join(self.path, name))
        try:
            yield folder
        finally:
            folder.close()

    @contextmanager
    def new_file(self, name: bytes, mode: int) -> "Iterator[LocalFile]":
        """A file that takes the name at the end of the block, or leaves nothing behind when that
        fails. `mode`: its permissions, unless it replaces a file, whose permissions it takes."""
        mode = self._permissions(name, mode)
        part = b".sshoq-" + os.urandom(8).hex().encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(part, flags, 0o600, dir_fd=self._fd)
        try:
            try:
                yield LocalFile(fd)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
            os.rename(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=self._fd)
            raise

    def _permissions(self, name: bytes, mode: int) -> int:
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            found = stat.S_IFLNK
        if stat.S_ISREG(found):
            return found & 0o777
        if stat.S_ISDIR(found):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISLNK(found):
            raise FileExistsError(errno.EEXIST, "not a regular file")
        mask = os.umask(0o077)
        os.umask(mask)
        return mode & 0o777 & ~mask

    def close(self) -> None:
        os.close(self._fd)


class LocalFile:
    """An open file, written at any place of it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view = view[written:]
            offset += written


class LocalStream(LocalFile):
    """What has no places, such as a pipe or a terminal: written in order."""

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view):]


def _behind_links(path: bytes) -> bytes:
    """Where it leads to. In a directory like /tmp a link that somebody else has laid is left as it
    stands, as by the kernel (protected_symlinks): there it can be neither followed nor replaced.
    """
    folder, name = os.path.split(path)
    above = os.stat(folder or b".")
    if above.st_mode & stat.S_ISVTX and above.st_mode & stat.S_IWOTH:
        with contextlib.suppress(FileNotFoundError):
            link = os.lstat(path)
            if stat.S_ISLNK(link.st_mode) and link.st_uid in (os.geteuid(), above.st_uid):
                return os.path.realpath(path)  # nobody else can change it
        return os.path.join(os.path.realpath(folder), name)
    return os.path.realpath(path)


@contextmanager
def written_file(path: bytes, mode: int) -> Iterator[LocalFile]:
    """The file that the user named. A link of the user's own is followed; what is no ordinary file
    is written as it stands."""
    if path.endswith(b"/"):
        raise FileNotFoundError(errno.ENOENT, "no such directory", path)
    path = _behind_links(path)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        # O_CREAT, although it is there: then the kernel looks whose FIFO it is (protected_fifos).
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            yield LocalStream(fd)
        finally:
            os.close(fd)
        return
    with (
        contextlib.closing(LocalFolder.open(os.path.dirname(path))) as folder,
        folder.new_file(os.path.basename(path), mode) as file,
    ):
        yield file
