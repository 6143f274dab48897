"""The files that say which key a host has: OpenSSH's `known_hosts`, and the pins of the Go client.

Reads and writes them by OpenSSH's rules (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT), so that ssh-keygen
and ssh go on working with the same files. What follows from an entry is host_policy's business.
"""

import os
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from enum import Enum

from sshoq.auth.keys import KeyFormatError, PublicKey, decode_base64, parse_public_key
from sshoq.named_tuple import NamedTuple

MAX_FILE = 16 << 20
MAX_LINE = 1 << 16

LOCK_TRIES, LOCK_PAUSE = 100, 0.01
"""A change of the file takes milliseconds, so a second is enough for many."""

CERTIFICATE_AUTHORITY = "@cert-authority"
REVOKED = "@revoked"
_MARKERS = {CERTIFICATE_AUTHORITY.encode(): CERTIFICATE_AUTHORITY, REVOKED.encode(): REVOKED}


class KnownHostsError(Exception):
    """A known_hosts file that must not be passed over, or could not be written."""


class HostStatus(Enum):
    """What the files say about a host and a key."""

    FOUND = "found"
    CHANGED = "changed"  # other keys are recorded, of whatever type
    REVOKED = "revoked"
    UNKNOWN = "unknown"


class HostEntry(NamedTuple):
    """One line: whose key it is, where it stands, and the key."""

    file: str
    line: int
    marker: str
    hosts: str
    key: PublicKey

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


class Lookup(NamedTuple):
    """What the files say; `entry` is the one that vouches, offends or revokes."""

    status: HostStatus
    entry: HostEntry | None = None


def host_with_port(host: str, port: int) -> str:
    """The name that a host has in the files: bare on SSH's own port, ``[host]:port`` elsewhere."""
    return host if port == 22 else f"[{host}]:{port}"


class KnownHosts:
    """Some files, read once, in the order in which they are asked."""

    def __init__(self) -> None:
        self._files: list[tuple[str, bytes]] = []
        self._entries: dict[str, list[HostEntry]] = {}

    @classmethod
    def from_files(cls, paths: Iterable[str]) -> "KnownHosts":
        """Missing and unreadable files are empty, as for OpenSSH."""
        known = cls()
        for path in paths:
            known.add_text(path, _read_file(path))
        return known

    def add_text(self, label: str, data: bytes) -> None:
        """More lines, from a file or from the output of KnownHostsCommand."""
        self._files.append((label, data))
        self._entries.clear()

    def entries_for(self, name: str) -> list[HostEntry]:
        """Every readable line about `name`, whatever its marker."""
        if (found := self._entries.get(name)) is None:
            wanted = _as_bytes(name)
            found = list(self._scan(lambda hosts, _key: _hosts_match(hosts, wanted)))
            self._entries[name] = found
        return found

    def entries_with(self, key: PublicKey, *, marked: bool = False) -> list[HostEntry]:
        """Every line that vouches for this very key, for any host; `marked`: or says otherwise."""
        text = key.base64.encode()
        return [
            entry
            for entry in self._scan(lambda _hosts, key_text: text in key_text)
            if (marked or entry.marker == "") and entry.key == key
        ]

    def look_up(self, name: str, key: PublicKey) -> Lookup:
        """A revocation beats everything, then the key itself; any other key means: changed."""
        entries = self.entries_for(name)
        result = Lookup(HostStatus.UNKNOWN)
        for entry in entries:
            if entry.marker == REVOKED and entry.key == key:
                return Lookup(HostStatus.REVOKED, entry)
        for entry in entries:
            if entry.marker:
                continue
            if entry.key == key:
                return Lookup(HostStatus.FOUND, entry)
            result = Lookup(HostStatus.CHANGED, entry)
        return result

    def key_algorithms(self, *names: str) -> list[str]:
        """Of the keys recorded for the first of these names that has any: what to ask the server
        for first."""
        for name in names:
            entries = [entry for entry in self.entries_for(name) if not entry.marker]
            if entries:
                return list(dict.fromkeys(entry.key.algorithm for entry in entries))
        return []

    def _scan(self, wanted: Callable[[bytes, bytes], bool]) -> Iterator[HostEntry]:
        """The lines whose hosts and key text are wanted; a key is decoded only then."""
        for file, data in self._files:
            for number, line in enumerate(data.split(b"\n"), 1):
                parts = split_line(line)
                if parts is None or not wanted(parts.hosts, parts.key):
                    continue
                try:
                    key = parse_public_key(parts.key)
                except KeyFormatError:  # OpenSSH passes over what it cannot read
                    continue
                hosts = parts.hosts.decode("utf-8", "surrogateescape")
                yield HostEntry(file, number, parts.marker, hosts, key)


# --------------------------------------------------------------------------- lines


class LineParts(NamedTuple):
    marker: str
    hosts: bytes
    key: bytes  # algorithm, base64 and comment


def split_line(line: bytes) -> LineParts | None:
    """The parts of a line; None if it is empty, a comment, or no line of this format."""
    if not line or len(line) > MAX_LINE:
        return None
    words = line.split(None, 1)
    marker = ""
    if words and words[0].startswith(b"@"):
        if words[0] not in _MARKERS or len(words) < 2:
            return None
        marker = _MARKERS[words[0]]
        words = words[1].split(None, 1)
    if len(words) < 2 or words[0].startswith(b"#"):
        return None
    return LineParts(marker, *words)


def _as_bytes(name: str) -> bytes:
    """Names are told apart without regard to case, and hashed in lower case."""
    return name.lower().encode("utf-8", "surrogateescape")


def _hosts_match(hosts: bytes, name: bytes) -> bool:
    if hosts.startswith(b"|"):
        return _hash_matches(hosts, name)
    if b"*" not in hosts and b"?" not in hosts and b"!" not in hosts:
        return name in hosts.lower().split(b",")
    matched = False
    for pattern in hosts.lower().split(b","):
        negated = pattern.startswith(b"!")
        if _pattern_matches(pattern[negated:], name):
            if negated:
                return False
            matched = True
    return matched


def _pattern_matches(pattern: bytes, name: bytes) -> bool:
    """Only ``*`` and ``?`` are special, brackets stand for themselves. Going back to the last star
    alone keeps the work bounded by the product of the lengths; `re` has no such bound."""
    at = here = 0
    after_star, tried_from = -1, 0
    while here < len(name):
        letter = pattern[at : at + 1]
        if letter == b"*":
            at += 1
            after_star, tried_from = at, here
        elif letter in (b"?", name[here : here + 1]):
            at += 1
            here += 1
        elif after_star >= 0:
            tried_from += 1
            at, here = after_star, tried_from
        else:
            return False
    return not pattern[at:].strip(b"*")


def _hash_matches(hosts: bytes, name: bytes) -> bool:
    from hmac import compare_digest

    fields = hosts.split(b"|")
    if len(fields) != 4 or fields[1] != b"1":
        return False
    try:
        salt, digest = decode_base64(fields[2]), decode_base64(fields[3])
    except KeyFormatError:
        return False
    return compare_digest(_hash_name(salt, name), digest)


def _hash_name(salt: bytes, name: bytes) -> bytes:
    from hmac import digest

    return digest(salt, name, "sha1")  # the format's choice: |1| means HMAC-SHA1


def hash_host(name: str) -> str:
    """The name as HashKnownHosts writes it: nobody can read it, everybody can ask for it."""
    salt = os.urandom(20)
    digest = _hash_name(salt, _as_bytes(name))
    return "|1|" + "|".join(b2a_base64(part, newline=False).decode() for part in (salt, digest))


# --------------------------------------------------------------------------- reading and writing


def _read_file(path: str) -> bytes:
    try:
        return _read_existing(path)
    except OSError:
        return b""


def _read_existing(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:  # its @revoked lines would be passed over in silence
        raise KnownHostsError(f"{path}: file is too large")
    return data


def record_host(path: str, names: Sequence[str], key: PublicKey, *, hashed: bool) -> None:
    """Append the key for these names as OpenSSH does; KnownHostsError when that is not possible."""
    text = _new_lines(names, key, hashed)
    try:
        _make_directory(os.path.dirname(path))
        with _alone(path):
            _append(path, text)
    except OSError as error:
        raise KnownHostsError(f"{path}: {error.strerror}") from None


def _append(path: str, text: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with open(descriptor, "ab") as file:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # edited by hand: end its line
            text = b"\n" + text
        file.write(text)


def replace_host_keys(
    path: str, names: Sequence[str], keys: Sequence[PublicKey], *, hashed: bool
) -> bool:
    """Make `keys` the ones that the file has for these names (UpdateHostKeys); True if it changed.

    Lines with a marker, with patterns, or with names of other hosts as well stay as they are.
    """
    try:
        with _alone(path):
            return _replace_keys(path, names, keys, hashed)
    except OSError as error:
        raise KnownHostsError(f"{path}: {error.strerror}") from None


def _replace_keys(path: str, names: Sequence[str], keys: Sequence[PublicKey], hashed: bool) -> bool:
    wanted = {_as_bytes(name): name for name in names}
    present: dict[PublicKey, set[bytes]] = {key: set() for key in keys}
    kept: list[bytes] = []
    # What could not be read would be gone afterwards: that is no empty file.
    lines = _read_existing(path).splitlines(keepends=True)
    for line in lines:
        key, found = _key_of_hosts(line, wanted.keys())
        if key is not None and key in present:
            present[key] |= found
        if key is None or key in present:
            kept.append(line)
    missing = [
        _new_lines([name for folded, name in wanted.items() if folded not in found], key, hashed)
        for key, found in present.items()
        if found != wanted.keys()
    ]
    if len(kept) == len(lines) and not missing:
        return False
    if kept and not kept[-1].endswith(b"\n"):
        kept[-1] += b"\n"
    _replace_file(path, b"".join([*kept, *missing]))
    return True


def is_plain(hosts: str) -> bool:
    """Whether a line with such hosts is about one host: a name, hashed or not, or a name with its
    address. Others were written by hand, and are left to that hand."""
    if any(letter in hosts for letter in "*?!"):
        return False
    _, *others = hosts.split(",")
    return len(others) == 0 or (len(others) == 1 and _is_address(others[0]))


def _is_address(name: str) -> bool:
    from socket import AF_INET, AF_INET6, inet_pton

    if name.startswith("["):
        name = name[1:].partition("]")[0]
    try:
        inet_pton(AF_INET6 if ":" in name else AF_INET, name)
    except (OSError, ValueError):
        return False
    return True


def _key_of_hosts(line: bytes, names: Set[bytes]) -> tuple[PublicKey | None, set[bytes]]:
    """The key of a line that is about these names and no other host, and for which of them."""
    parts = split_line(line.rstrip(b"\n"))
    if parts is None or parts.marker or not is_plain(parts.hosts.decode("utf-8", "replace")):
        return None, set()
    found = {name for name in names if _hosts_match(parts.hosts, name)}
    if not found:
        return None, found
    try:
        return parse_public_key(parts.key), found
    except KeyFormatError:
        return None, found


def _new_lines(names: Sequence[str], key: PublicKey, hashed: bool) -> bytes:
    """One line for all names, or one for each: a hashed line holds a single name."""
    lowered = [name.lower() for name in names]
    hosts = [hash_host(name) for name in lowered] if hashed else [",".join(lowered)]
    text = "".join(f"{host} {key.algorithm} {key.base64}\n" for host in hosts)
    return text.encode("utf-8", "surrogateescape")


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Keeps out other clients of ours, of which a user may start many at once: what one adds must
    not be lost when another writes the file anew. Ssh itself heeds no lock, and who does not get
    it in time goes on like ssh.

    The folder is locked, since the file will be another one.
    """
    import fcntl
    import time

    try:
        folder = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(LOCK_PAUSE)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(folder)


def _make_directory(directory: str) -> None:
    if directory and not os.path.isdir(directory):
        os.mkdir(directory, 0o700)


def _replace_file(path: str, data: bytes) -> None:
    """Whole or not at all; what was there stays beside it as `.old`, as ssh-keygen leaves it."""
    import tempfile

    path = os.path.realpath(path)  # a link stays a link
    folder, name = os.path.split(path)
    mode = os.stat(path).st_mode & 0o777
    descriptor, temporary = tempfile.mkstemp(prefix=f"{name}.", dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, mode)
            file.flush()
            os.fsync(descriptor)  # else a machine that goes down now may keep the name alone
        with suppress(FileNotFoundError):
            os.unlink(path + ".old")
        with suppress(FileExistsError):  # somebody else's, who has just done the same
            os.link(path, path + ".old")
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# --------------------------------------------------------------------------- the Go client's pins


def read_go_pins(path: str, host: str, port: int, url_path: str) -> list[bytes]:
    """The certificates (DER) that the Go client has recorded for this host, port and URL path."""
    wanted = f"{host}:{port}{url_path}".encode()  # IPv6 literals stand there without brackets
    pins = []
    for line in _read_file(path).split(b"\n"):
        fields = line.split()
        if len(fields) != 3 or fields[0] != wanted or fields[1] != b"x509-certificate":
            continue
        try:
            pins.append(decode_base64(fields[2]))
        except KeyFormatError:
            continue
    return pins
