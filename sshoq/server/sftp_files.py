"""Process: the session leader's child [the user]. What SFTP asks of files that takes more
than one system call.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

from sshoq.server.sftp_messages import (
    APPEND_FLAG,
    CREATE_FLAG,
    EXCLUSIVE_FLAG,
    READ_FLAG,
    TRUNCATE_FLAG,
    WRITE_FLAG,
    Attributes,
)

_MOST_PARTS = 512
"""In one call; the kernel takes 1024."""


def open_flags(asked: int) -> int:
    """Opening must not wait for a FIFO's other end, nor take a terminal for our own."""
    if asked & READ_FLAG and asked & WRITE_FLAG:
        flags = os.O_RDWR
    else:
        flags = os.O_WRONLY if asked & WRITE_FLAG else os.O_RDONLY
    for flag, ours in (
        (APPEND_FLAG, os.O_APPEND),
        (CREATE_FLAG, os.O_CREAT),
        (TRUNCATE_FLAG, os.O_TRUNC),
        (EXCLUSIVE_FLAG, os.O_EXCL),
    ):
        flags |= ours if asked & flag else 0
    return flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def list_entries(path: bytes, listing: Any) -> Iterator[tuple[bytes, os.stat_result]]:
    """Itself and the one above it first, as all servers list them."""
    for name in (b".", b".."):
        with contextlib.suppress(OSError):
            yield name, os.lstat(os.path.join(path, name))
    for entry in listing:
        # It has vanished meanwhile, or may not be looked at: the others are listed all the same.
        with contextlib.suppress(OSError):
            yield entry.name, entry.stat(follow_symlinks=False)


def set_attributes(target: bytes | int, wanted: Attributes) -> None:
    """All that can be set; what failed first is told."""
    failure: OSError | None = None
    steps: tuple[tuple[Callable[..., None], tuple[Any, ...] | None], ...] = (
        (os.truncate, None if wanted.size is None else (wanted.size,)),
        (os.chmod, None if wanted.mode is None else (wanted.mode & 0o7777,)),
        (os.utime, None if wanted.times is None else (wanted.times,)),
        (os.chown, wanted.owner),
    )
    for step, arguments in steps:
        if arguments is None:
            continue
        try:
            step(target, *arguments)
        except OSError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def real_path(path: bytes) -> bytes:
    """Without links; the last component alone need not be there."""
    found = os.path.realpath(path)
    if not os.path.isdir(os.path.dirname(found)):
        raise FileNotFoundError(errno.ENOENT, "")
    return found


def write_at(fd: int, data: bytes, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    view = memoryview(data)
    while written < len(view):
        written += os.pwrite(fd, view[written:], offset + written)


def write_fully(fd: int, parts: list[bytes]) -> None:
    """In few calls. What a call does not take is joined for the next."""
    for start in range(0, len(parts), _MOST_PARTS):
        some = parts[start : start + _MOST_PARTS]
        written = os.writev(fd, some)
        if written < sum(map(len, some)):
            rest = memoryview(b"".join(some))[written:]
            while rest:
                rest = rest[os.write(fd, rest) :]
