"""Keys not to be believed any more: the files of RevokedKeys (server), RevokedHostKeys (client).

A file is a list of public keys or a key revocation list (OpenSSH's PROTOCOL.krl, as `ssh-keygen -k`
writes it). Doubt means no: who cannot read the file must refuse every key.
"""

import os
import stat

from sshoq.auth.keys import KeyFormatError, PublicKey, decode_base64, read_string
from sshoq.wire import Reader, WireError

MAX_FILE = 16 << 20

KRL_MAGIC = b"SSHKRL\n\0"
KRL_FORMAT = 1

# Kinds of sections (PROTOCOL.krl 2). Serial numbers and key IDs revoke certificates alone.
CERTIFICATES = 1
EXPLICIT_KEYS = 2
SHA1_FINGERPRINTS = 3
SHA256_FINGERPRINTS = 5


class RevocationError(Exception):
    """The file cannot be read or understood, so any key might be revoked by it."""


class RevokedKeys:
    """What a file revokes; ask with ``key in revoked``."""

    def __init__(self) -> None:
        self.blobs: set[bytes] = set()
        self.digests: dict[str, set[bytes]] = {"sha1": set(), "sha256": set()}

    def __contains__(self, key: PublicKey) -> bool:
        if key.blob in self.blobs:
            return True
        return any(known and key.digest(name) in known for name, known in self.digests.items())


def load_revoked_keys(path: str) -> RevokedKeys:
    """RevocationError when the file is missing, unreadable or malformed."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):  # without a writer it looks empty
                raise RevocationError(f"{path}: is a FIFO")
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise RevocationError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise RevocationError(f"{path}: file is too large")
    try:
        return parse_revoked_keys(data)
    except RevocationError as error:
        raise RevocationError(f"{path}: {error}") from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a FIFO must not wait


def parse_revoked_keys(data: bytes) -> RevokedKeys:
    if not data.startswith(KRL_MAGIC):
        return _parse_list(data)
    try:
        return _parse_krl(Reader(data, len(KRL_MAGIC)))
    except WireError:
        raise RevocationError("broken key revocation list") from None


def _parse_list(data: bytes) -> RevokedKeys:
    """One ``algorithm base64`` a line. Keys of any kind and size can be revoked."""
    revoked = RevokedKeys()
    for number, line in enumerate(data.split(b"\n"), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        try:
            revoked.blobs.add(decode_base64(words[1]))
        except (IndexError, KeyFormatError):
            raise RevocationError(f"line {number} is no public key") from None
    return revoked


def _parse_krl(reader: Reader) -> RevokedKeys:
    if reader.u32() != KRL_FORMAT:
        raise RevocationError("unknown format of a key revocation list")
    for _ in range(3):  # its number, its date, flags
        reader.u64()
    read_string(reader)  # reserved
    read_string(reader)  # comment
    revoked = RevokedKeys()
    places = {
        EXPLICIT_KEYS: revoked.blobs,
        SHA1_FINGERPRINTS: revoked.digests["sha1"],
        SHA256_FINGERPRINTS: revoked.digests["sha256"],
    }
    while reader.remaining:
        kind, section = reader.u8(), Reader(read_string(reader))
        if kind == CERTIFICATES:
            continue
        if kind not in places:
            raise RevocationError(f"unknown section {kind} in a key revocation list")
        while section.remaining:
            places[kind].add(read_string(section))
    return revoked
