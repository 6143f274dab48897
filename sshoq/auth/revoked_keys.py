"""Keys not to be believed any more: the files of RevokedKeys (server), RevokedHostKeys (client).

A file is a list of public keys or a key revocation list (OpenSSH's PROTOCOL.krl, as `ssh-keygen -k`
writes it). Doubt means no: who cannot read the file must refuse every key.
"""

import contextlib
import os
import stat

from sshoq.auth.keys import KeyFormatError, PublicKey, decode_base64, read_mpint
from sshoq.auth.ssh_certificates import Certificate, parse_certificate
from sshoq.wire import Reader, WireError, encode_text, read_string

MAX_FILE = 16 << 20

KRL_MAGIC = b"SSHKRL\n\0"
KRL_FORMAT = 1

# Kinds of sections (PROTOCOL.krl 2).
CERTIFICATES = 1
EXPLICIT_KEYS = 2
SHA1_FINGERPRINTS = 3
SHA256_FINGERPRINTS = 5
EXTENSION = 255

# Kinds of sections inside one about certificates (PROTOCOL.krl 3).
SERIAL_LIST = 0x20
SERIAL_RANGE = 0x21
SERIAL_BITMAP = 0x22
KEY_IDS = 0x23
CERTIFICATE_EXTENSION = 0x39

ANY_AUTHORITY = b""


class RevocationError(Exception):
    """The file cannot be read or understood, so any key might be revoked by it."""


class RevokedCertificates:
    """Of one authority, or of any."""

    def __init__(self) -> None:
        self.serials: set[int] = set()
        self.ranges: list[tuple[int, int]] = []
        self.bitmaps: list[tuple[int, int]] = []
        """The serial number of the lowest bit, and the bits."""
        self.key_ids: set[bytes] = set()

    def __contains__(self, certificate: Certificate) -> bool:
        serial = certificate.serial
        if encode_text(certificate.key_id) in self.key_ids:
            return True
        if serial == 0:  # its authority gives no numbers
            return False
        return (
            serial in self.serials
            or any(first <= serial <= last for first, last in self.ranges)
            or any(serial >= first and bits >> (serial - first) & 1 for first, bits in self.bitmaps)
        )


class RevokedKeys:
    """What a file revokes; ask with ``key in revoked``, and `revokes` for certificates."""

    def __init__(self) -> None:
        self.blobs: set[bytes] = set()
        self.digests: dict[str, set[bytes]] = {"sha1": set(), "sha256": set()}
        self.certificates: dict[bytes, RevokedCertificates] = {}
        """By the blob of their authority."""

    def revokes(self, certificate: Certificate) -> bool:
        """By itself, by the key in it, or with its authority."""
        if certificate.key in self or certificate.authority in self:
            return True
        return any(
            certificate in self.certificates[authority]
            for authority in (certificate.authority.blob, ANY_AUTHORITY)
            if authority in self.certificates
        )

    def __contains__(self, key: PublicKey) -> bool:
        if key.blob in self.blobs:
            return True
        return any(known and key.digest(name) in known for name, known in self.digests.items())


def load_revoked_keys(path: str) -> RevokedKeys:
    """RevocationError when the file is missing, unreadable or malformed."""
    try:
        with open(path, "rb", opener=open_at_once) as file:
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


def open_at_once(path: str, flags: int) -> int:
    """An `opener` that does not wait for the other end of a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


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
            blob = decode_base64(words[1])
        except (IndexError, KeyFormatError):
            raise RevocationError(f"line {number} is no public key") from None
        revoked.blobs.add(blob)
        with contextlib.suppress(KeyFormatError):  # in place of a key, its certificate
            revoked.blobs.add(parse_certificate(blob).key.blob)
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
            _read_certificates(section, revoked)
            continue
        if kind == EXTENSION:
            _skip_extension(section)
            continue
        if kind not in places:
            raise RevocationError(f"unknown section {kind} in a key revocation list")
        while section.remaining:
            places[kind].add(read_string(section))
    return revoked


def _read_certificates(section: Reader, revoked: RevokedKeys) -> None:
    authority = read_string(section)
    read_string(section)  # reserved
    found = revoked.certificates.setdefault(authority, RevokedCertificates())
    while section.remaining:
        kind, part = section.u8(), Reader(read_string(section))
        if kind == CERTIFICATE_EXTENSION:
            _skip_extension(part)
        elif kind in _CERTIFICATE_SECTIONS:
            _CERTIFICATE_SECTIONS[kind](part, found)
        else:
            raise RevocationError(f"unknown section {kind} in a key revocation list")


def _read_serials(part: Reader, found: RevokedCertificates) -> None:
    while part.remaining:
        found.serials.add(part.u64())


def _read_range(part: Reader, found: RevokedCertificates) -> None:
    found.ranges.append((part.u64(), part.u64()))


def _read_bitmap(part: Reader, found: RevokedCertificates) -> None:
    found.bitmaps.append((part.u64(), read_mpint(part)))


def _read_key_ids(part: Reader, found: RevokedCertificates) -> None:
    while part.remaining:
        found.key_ids.add(read_string(part))


_CERTIFICATE_SECTIONS = {
    SERIAL_LIST: _read_serials,
    SERIAL_RANGE: _read_range,
    SERIAL_BITMAP: _read_bitmap,
    KEY_IDS: _read_key_ids,
}


def _skip_extension(section: Reader) -> None:
    """Its name, and whether it must be understood."""
    name, is_critical = read_string(section), section.u8()
    if is_critical:
        raise RevocationError(f"unknown extension {name[:64]!r} in a key revocation list")
