"""Which hosts did not speak SSHOQ lately, so that ssh need not wait for their silence each time.

A memory that may be lost, or removed, at any time: whatever is wrong with it, the host is tried.
Names are as private as in a hashed known_hosts. It is asked about hosts alone that never answered;
those that did are fallback.py's.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from errno import ENOSPC
from stat import S_ISREG

from sshoq.named_tuple import NamedTuple

FIRST_REST = 5 * 60
LONGEST_REST = 24 * 60 * 60
"""Seconds for which a host is left alone after its first silence; each one more makes it four times
as long, up to a day."""

KEPT_FOR = 30 * 24 * 60 * 60
"""Seconds after which a host starts anew."""

MAX_SILENCES = 256
MAX_SIZE = 1 << 15
MAX_MISSES = 99

SALT_LENGTH, HOST_LENGTH, NETWORK_LENGTH = 16, 16, 8

LOCK_TRIES, LOCK_WAIT = 20, 0.005
"""Whoever holds the lock is done within a millisecond, or was stopped and is not waited for."""


class Silence(NamedTuple):
    """So often nobody answered there, and when last, in seconds since 1970."""

    host: bytes
    network: bytes
    misses: int
    since: int

    @property
    def rest(self) -> int:
        return int(min(FIRST_REST * 4 ** (self.misses - 1), LONGEST_REST))

    def remaining(self, now: int) -> int:
        """Seconds until the host is tried again; 0 also where the clock was set back."""
        return max(0, self.since + self.rest - now) if self.since <= now else 0


class Silences:
    """All that is known, oldest first. Pure, and never changed."""

    def __init__(self, salt: bytes, known: tuple[Silence, ...] = ()) -> None:
        self.salt = salt
        self.known = known

    @classmethod
    def none(cls) -> "Silences":
        return cls(os.urandom(SALT_LENGTH))

    def find(self, host: str, network: bytes) -> Silence | None:
        keys = keys_of(self.salt, host, network)
        return next((one for one in self.known if (one.host, one.network) == keys), None)

    def noted(self, host: str, network: bytes, now: int) -> "Silences":
        """With one more at this host. No more of them than there is room for, the oldest first."""
        keys = keys_of(self.salt, host, network)
        before = self.find(host, network)
        misses = min(before.misses + 1, MAX_MISSES) if before and _counts(before, now) else 1
        others = [one for one in self.known if one != before and _counts(one, now)]
        return Silences(self.salt, (*others[-(MAX_SILENCES - 1) :], Silence(*keys, misses, now)))

    def forgotten(self, host: str) -> "Silences":
        """Without this host, in all networks."""
        key, _ = keys_of(self.salt, host, b"")
        return Silences(self.salt, tuple(one for one in self.known if one.host != key))


def keys_of(salt: bytes, host: str, network: bytes) -> tuple[bytes, bytes]:
    """How a host, and the network by which it was tried, are named in the file with this salt."""
    from _blake2 import blake2b  # what hashlib has, which is slow to load

    name = host.encode("utf-8", "surrogateescape")
    return (
        blake2b(name, digest_size=HOST_LENGTH, key=salt).digest(),
        blake2b(name + b"\0" + network, digest_size=NETWORK_LENGTH, key=salt).digest(),
    )


def _counts(silence: Silence, now: int) -> bool:
    return 0 <= now - silence.since < KEPT_FOR


# --------------------------------------------------------------------------- as text


def encode(silences: Silences) -> bytes:
    """The salt, then a line for each: hashes of the host and of the network, how often, when."""
    lines = [silences.salt.hex()]
    for host, network, misses, since in silences.known:
        lines.append(f"{host.hex()} {network.hex()} {misses} {since}")
    return "".join(f"{line}\n" for line in lines).encode()


def parse(data: bytes) -> Silences:
    """None known where this is no such file; lines that are not whole are left out."""
    salt, *lines = data.split(b"\n")[: MAX_SILENCES + 1]
    key = _hex(salt, SALT_LENGTH)
    if key is None:
        return Silences.none()
    read = (_parse_line(line) for line in lines)
    return Silences(key, tuple(one for one in read if one is not None))


def find_in(data: bytes, host: str, network: bytes) -> Silence | None:
    """As parse(data).find(), but for what else there is."""
    salt = _hex(data.partition(b"\n")[0], SALT_LENGTH)
    if salt is None:
        return None
    keys = " ".join(key.hex() for key in keys_of(salt, host, network))
    start = data.find(f"\n{keys} ".encode()) + 1
    return _parse_line(data[start:].partition(b"\n")[0]) if start else None


def is_in(data: bytes, host: str) -> bool:
    """Whether there is anything to forget."""
    salt = _hex(data.partition(b"\n")[0], SALT_LENGTH)
    return salt is not None and f"\n{keys_of(salt, host, b'')[0].hex()} ".encode() in data


def _parse_line(line: bytes) -> Silence | None:
    words = line.split(b" ")
    if len(words) != 4:
        return None
    host, network = _hex(words[0], HOST_LENGTH), _hex(words[1], NETWORK_LENGTH)
    misses, since = _number(words[2]), _number(words[3])
    if host is None or network is None or not misses or since is None or misses > MAX_MISSES:
        return None
    return Silence(host, network, misses, since)


def _hex(word: bytes, length: int) -> bytes | None:
    try:
        value = bytes.fromhex(word.decode("ascii"))
    except ValueError:
        return None
    return value if len(value) == length else None


def _number(word: bytes) -> int | None:
    return int(word) if word.isdigit() and len(word) <= 12 else None


# --------------------------------------------------------------------------- as a file


class SilenceFile:
    """In a folder of its own. No fault of the file system is told anybody: without a memory the
    host is tried."""

    def __init__(self, path: str) -> None:
        self._path = path

    def find(self, host: str, network: bytes) -> Silence | None:
        try:
            return find_in(_read(self._path), host, network)
        except OSError:
            return None

    def note(self, host: str, network: bytes, now: int) -> Silence | None:
        """What is known from now on; None where nothing can be."""
        try:
            return self._change(lambda known: known.noted(host, network, now)).find(host, network)
        except OSError:
            return None

    def forget(self, host: str) -> None:
        try:
            if is_in(_read(self._path), host):
                self._change(lambda known: known.forgotten(host))
        except OSError:
            return

    def _change(self, change: Callable[[Silences], Silences]) -> Silences:
        folder_path, name = os.path.split(self._path)
        folder = _open_folder(folder_path)
        try:
            _lock(folder)
            try:
                before = parse(_read(name, folder))
            except OSError:
                before = Silences.none()
            after = change(before)
            _replace(folder, name, encode(after))
            return after
        finally:
            os.close(folder)


def _read(path: str, folder: int | None = None) -> bytes:
    """Of a file of our own, which nobody else can have written."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, dir_fd=folder)
    try:
        status = os.fstat(fd)
        is_right = S_ISREG(status.st_mode) and _is_own(status) and status.st_size <= MAX_SIZE
        return os.read(fd, MAX_SIZE) if is_right else b""
    finally:
        os.close(fd)


def _is_own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _open_folder(path: str) -> int:
    """Made where it is missing, and the one above it. Nothing is made in somebody else's, as in
    that of a user who has become root but for his environment."""
    cache, name = os.path.split(path)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        above = os.open(cache, flags)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(cache, 0o700)
        above = os.open(cache, flags)
    try:
        if os.fstat(above).st_uid != os.geteuid():
            raise PermissionError
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
        folder = os.open(name, flags | os.O_NOFOLLOW, dir_fd=above)
    finally:
        os.close(above)
    if not _is_own(os.fstat(folder)):
        os.close(folder)
        raise PermissionError
    return folder


def _lock(folder: int) -> None:
    """Where that fails, as on some network file systems, a note may be lost to another's; then its
    host is tried once more."""
    from fcntl import LOCK_EX, LOCK_NB, flock
    from time import sleep

    for _ in range(LOCK_TRIES):
        try:
            return flock(folder, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            sleep(LOCK_WAIT)
        except OSError:
            return None


def _replace(folder: int, name: str, data: bytes) -> None:
    """All or nothing: whoever reads meanwhile has the old file."""
    new = f"{name}.new"
    with suppress(FileNotFoundError):  # of one that was killed, or had no room
        os.unlink(new, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(new, flags, 0o600, dir_fd=folder)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(ENOSPC, os.strerror(ENOSPC))
    finally:
        os.close(fd)
    os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
