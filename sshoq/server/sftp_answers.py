"""Process: the session leader's child [the user]. What SFTP's answers say: errors as its codes,
attributes, lines as of `ls -l`.
"""

import errno
import functools
import grp
import os
import pwd
import stat
import struct
import time

from sshoq.server.sftp_messages import (
    BAD_MESSAGE,
    FAILURE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    STATUS_TEXTS,
    UNSUPPORTED,
    Attributes,
    Status,
    encode_packet,
)

MAX_KNOWN_NAMES = 4096
_HALF_A_YEAR = 365 * 24 * 3600 // 2

_CODES = {
    errno.ENOENT: NO_SUCH_FILE,
    errno.ENOTDIR: NO_SUCH_FILE,
    errno.ELOOP: NO_SUCH_FILE,
    errno.EBADF: NO_SUCH_FILE,
    errno.EPERM: PERMISSION_DENIED,
    errno.EACCES: PERMISSION_DENIED,
    errno.ENAMETOOLONG: BAD_MESSAGE,
    errno.EINVAL: BAD_MESSAGE,
    errno.ENOSYS: UNSUPPORTED,
}


def code_of(error: OSError) -> int:
    return _CODES.get(error.errno or 0, FAILURE)


def told(request: int, code: int, error: OSError | None = None) -> Status:
    """A failure that has no name of its own is told by the system's."""
    text = STATUS_TEXTS[code]
    if code == FAILURE and error is not None and error.strerror:
        text = error.strerror.encode()
    return Status(request, code, text)


def status_packet(request: int, code: int) -> bytes:
    return encode_packet(told(request, code))


def attributes_of(state: os.stat_result) -> Attributes:
    return Attributes(
        state.st_size,
        (state.st_uid, state.st_gid),
        state.st_mode,
        (int(state.st_atime), int(state.st_mtime)),
    )


def describe(name: bytes, state: os.stat_result) -> bytes:
    """A line as of `ls -l`."""
    user = os.fsdecode(user_name(state.st_uid) or b"%d" % state.st_uid)
    group = os.fsdecode(group_name(state.st_gid) or b"%d" % state.st_gid)
    when = show_time(state.st_mtime)
    line = (
        f"{stat.filemode(state.st_mode)} {state.st_nlink:3} {user:8} {group:8} "
        f"{state.st_size:8} {when} "
    )
    return os.fsencode(line) + name


def show_time(when: float) -> str:
    """Anybody may set a time that no calendar has, and nobody's listing is to end there."""
    form = "%b %e %H:%M" if 0 <= time.time() - when < _HALF_A_YEAR else "%b %e  %Y"
    try:
        return time.strftime(form, time.localtime(when))
    except (OSError, OverflowError):
        return str(int(when))


def pack_system(state: os.statvfs_result) -> bytes:
    flags = state.f_flag & (os.ST_RDONLY | os.ST_NOSUID)  # the same two bits as on the wire
    return struct.pack(
        ">11Q",
        *(state.f_bsize, state.f_frsize, state.f_blocks, state.f_bfree, state.f_bavail),
        *(state.f_files, state.f_ffree, state.f_favail),
        *(state.f_fsid & (1 << 64) - 1, flags, state.f_namemax),
    )


@functools.lru_cache(MAX_KNOWN_NAMES)
def user_name(uid: int) -> bytes | None:
    try:
        return os.fsencode(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return None


@functools.lru_cache(MAX_KNOWN_NAMES)
def group_name(gid: int) -> bytes | None:
    try:
        return os.fsencode(grp.getgrgid(gid).gr_name)
    except KeyError:
        return None
