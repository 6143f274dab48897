"""Private key files: what OpenSSH reads, what it refuses and in which words.

An unencrypted Ed25519 key in OpenSSH's format, the usual case, is read by own code: the readers
that `cryptography` has for files take 15 ms to import. All other keys go through them.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sshoq.auth.keys import (
    KeyFormatError,
    PublicKey,
    decode_base64,
    join_ecdsa_signature,
    parse_public_key,
    public_key_from_object,
    put_mpint,
)
from sshoq.named_tuple import NamedTuple
from sshoq.wire import Reader, WireError, put_string, read_string

if TYPE_CHECKING:
    from io import BufferedReader

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    KeyObject = Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey

MAX_KEY_FILE = 1 << 20  # OpenSSH's bound (MAX_KEY_FILE_SIZE)
PASSPHRASE_TRIES = 3  # NumberOfPasswordPrompts

AskPassphrase = Callable[[str], str | None]


class KeyFileError(Exception):
    """A key file that cannot be used; the text is what OpenSSH would print, one line or several."""


class KeyFileSkipped(KeyFileError):
    """A key file that OpenSSH passes over without a word: missing, or no passphrase fits."""


class PrivateKey:
    """A private key in this process's memory. A Signer."""

    __slots__ = ("key", "public_key")

    def __init__(self, key: "KeyObject", comment: str = "") -> None:
        self.key = key
        self.public_key = public_key_from_object(key.public_key(), comment)

    def sign(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(data)
        if isinstance(self.key, RSAPrivateKey):
            return _sign_rsa(self.key, data)
        return self._sign_ecdsa(self.key, data)

    def _sign_ecdsa(self, key: "EllipticCurvePrivateKey", data: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        kind = self.public_key.kind
        r, s = decode_dss_signature(key.sign(data, ECDSA(getattr(hashes, kind.hash)())))
        return join_ecdsa_signature(kind, r, s)

    def agent_fields(self, certificate: PublicKey | None = None) -> bytes:
        """Algorithm and numbers, as a request to add the key to an agent has them; or a certificate
        of the key's, and what is secret."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

        if isinstance(self.key, RSAPrivateKey):
            public, secret = _rsa_fields(self.key)
        elif isinstance(self.key, Ed25519PrivateKey):
            point = self.key.public_key().public_bytes_raw()
            public = put_string(b"ssh-ed25519")
            secret = put_string(point) + put_string(self.key.private_bytes_raw() + point)
        else:  # algorithm, curve and point are just what comes before the secret number
            public = self.public_key.blob
            secret = put_mpint(self.key.private_numbers().private_value)
        if certificate is not None:
            public = put_string(certificate.algorithm.encode()) + put_string(certificate.blob)
        return public + secret


def load_private_key(
    path: str, ask: AskPassphrase | None = None, tries: int = PASSPHRASE_TRIES
) -> PrivateKey:
    """The key in the file; `ask` is called with OpenSSH's prompt as long as a passphrase is wanted.

    KeyFileSkipped when the file is missing or no passphrase fits, KeyFileError with the text to
    print otherwise.
    """
    data = _read_key_file(path)
    for passphrase in _passphrases(path, ask, tries):
        try:
            return parse_private_key(data, passphrase, comment=path)
        except WrongPassphraseError:
            continue
        except KeyFormatError as error:
            raise KeyFileError(f'Load key "{path}": {error}') from None
    raise KeyFileSkipped(f"no passphrase for {path}")


def _passphrases(path: str, ask: AskPassphrase | None, tries: int) -> Iterator[str | None]:
    """First none at all, then what the user says; an empty answer means: leave this key out."""
    yield None
    for _ in range(tries if ask else 0):
        passphrase = ask(f"Enter passphrase for key '{path}': ") if ask else None
        if not passphrase:
            return
        yield passphrase


def load_public_half(path: str) -> PublicKey | None:
    """The public key that belongs to an identity file, found without a passphrase, or None.

    The file may be a public key itself (its private half is in an agent), have a `.pub` beside it,
    or be in OpenSSH's format, which carries the public key in the clear.
    """
    for name in (path, path + ".pub"):
        with contextlib.suppress(OSError, KeyFormatError):
            return _first_public_key(_read_bounded(name))
    try:
        return PublicKey(_open_container(_read_bounded(path)).public)
    except (OSError, KeyFormatError):
        return None


def _first_public_key(data: bytes) -> PublicKey:
    for line in data.splitlines():
        if line.strip() and not line.lstrip().startswith(b"#"):
            return parse_public_key(line)
    raise KeyFormatError("no key")


# --------------------------------------------------------------------------- files


UNPROTECTED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Permissions 0{mode:03o} for '{path}' are too open.
It is required that your private key files are NOT accessible by others.
This private key will be ignored.
Load key "{path}": bad permissions"""


def _read_key_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            # OpenSSH looks at the user's own files only: root's keys may be lent to a group
            if status.st_uid == os.getuid() and status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode) & 0o777
                raise KeyFileError(UNPROTECTED.format(mode=mode, path=path))
            return _bounded(file)
    except FileNotFoundError as error:
        raise KeyFileSkipped(f'Load key "{path}": {error.strerror}') from None
    except OSError as error:
        raise KeyFileError(f'Load key "{path}": {error.strerror}') from None
    except KeyFormatError as error:
        raise KeyFileError(f'Load key "{path}": {error}') from None


def _read_bounded(path: str) -> bytes:
    with open(path, "rb") as file:
        return _bounded(file)


def _bounded(file: "BufferedReader") -> bytes:
    data = file.read(MAX_KEY_FILE + 1)
    if len(data) > MAX_KEY_FILE:
        raise KeyFormatError("invalid format")
    return data


# --------------------------------------------------------------------------- formats


class WrongPassphraseError(KeyFormatError):
    """The key is encrypted, and not with this passphrase."""


def parse_private_key(data: bytes, passphrase: str | None, comment: str = "") -> PrivateKey:
    """The key in the bytes of a file (OpenSSH's format, PKCS#1, PKCS#8, SEC1)."""
    secret = None if passphrase is None else passphrase.encode("utf-8", "surrogateescape")
    if OPENSSH_BEGIN in data:
        return _parse_openssh(data, secret, comment)
    if b"-----BEGIN " in data and b"PRIVATE KEY-----" in data:
        return _parse_pem(data, secret, comment)
    raise KeyFormatError("error in libcrypto")  # what OpenSSH says of a file that is no key at all


OPENSSH_BEGIN = b"-----BEGIN OPENSSH PRIVATE KEY-----"
OPENSSH_END = b"-----END OPENSSH PRIVATE KEY-----"
OPENSSH_MAGIC = b"openssh-key-v1\0"


class Container(NamedTuple):
    """A file in OpenSSH's format (PROTOCOL.key), opened but not decrypted."""

    cipher: bytes
    public: bytes
    private: bytes


def _open_container(data: bytes) -> Container:
    begin, end = data.find(OPENSSH_BEGIN), data.find(OPENSSH_END)
    if begin < 0 or end < begin:
        raise KeyFormatError("error in libcrypto")
    body = decode_base64(b"".join(data[begin + len(OPENSSH_BEGIN) : end].split()))
    if not body.startswith(OPENSSH_MAGIC):
        raise KeyFormatError("error in libcrypto")
    reader = Reader(body, len(OPENSSH_MAGIC))
    try:
        cipher, _kdf, _kdf_options = (read_string(reader) for _ in range(3))
        if reader.u32() != 1:
            raise KeyFormatError("invalid format")
        return Container(cipher, read_string(reader), read_string(reader))
    except WireError:
        raise KeyFormatError("invalid format") from None


def _parse_openssh(data: bytes, secret: bytes | None, comment: str) -> PrivateKey:
    container = _open_container(data)
    if container.cipher == b"none":
        if (key := _parse_plain_ed25519(container.private)) is not None:
            return key
        secret = None
    elif secret is None:
        raise WrongPassphraseError(WRONG_PASSPHRASE)
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    return _load(load_ssh_private_key, data, secret, comment)


def _parse_plain_ed25519(private: bytes) -> PrivateKey | None:
    """The key if it is an Ed25519 one, None if it is another; a broken one is an error."""
    reader = Reader(private)
    try:
        first_check, second_check = reader.u32(), reader.u32()
        if read_string(reader) != b"ssh-ed25519":
            return None
        public, seed_and_public = read_string(reader), read_string(reader)
        comment = read_string(reader)
        padding = reader.take(reader.remaining)
    except WireError:
        raise KeyFormatError("invalid format") from None
    if first_check != second_check or padding != bytes(range(1, len(padding) + 1)):
        raise KeyFormatError("invalid format")

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(seed_and_public) != 64:
        raise KeyFormatError("invalid format")
    key = Ed25519PrivateKey.from_private_bytes(seed_and_public[:32])
    # A public half that is not the seed's own makes signatures that give the seed away.
    if not key.public_key().public_bytes_raw() == public == seed_and_public[32:]:
        raise KeyFormatError("invalid format")
    return PrivateKey(key, comment.decode("utf-8", "surrogateescape"))


def _parse_pem(data: bytes, secret: bytes | None, comment: str) -> PrivateKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if b"ENCRYPTED" not in data:  # in PKCS#8's label and in RFC 1421's Proc-Type alike
        secret = None
    elif secret is None:
        raise WrongPassphraseError(WRONG_PASSPHRASE)
    return _load(load_pem_private_key, data, secret, comment)


WRONG_PASSPHRASE = "incorrect passphrase supplied to decrypt private key"


def _load(
    load: Callable[..., object], data: bytes, secret: bytes | None, comment: str
) -> PrivateKey:
    from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    try:
        # The check of an RSA key's primes takes 100 ms at 3072 bits, at every start. It guards
        # against keys from strangers; that a damaged key betrays itself OpenSSL prevents otherwise.
        key = load(data, secret, unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm as error:
        raise KeyFormatError(f"unsupported: {error}") from None
    except (ValueError, TypeError, InvalidTag):
        # With a passphrase at hand broken data and a wrong passphrase look alike, in OpenSSH too.
        if secret is None:
            raise KeyFormatError("invalid format") from None
        raise WrongPassphraseError(WRONG_PASSPHRASE) from None
    if not isinstance(key, Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey):
        raise KeyFormatError(f"{type(key).__name__} is not supported")
    return PrivateKey(key, comment)


# --------------------------------------------------------------------------- RSA


def _sign_rsa(key: "RSAPrivateKey", data: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    return key.sign(data, PKCS1v15(), SHA256())


def _rsa_fields(key: "RSAPrivateKey") -> tuple[bytes, bytes]:
    """What is public, which agents have in another order than everybody else, and what is not."""
    private = key.private_numbers()
    public = private.public_numbers
    secret = (private.d, private.iqmp, private.p, private.q)
    return (
        put_string(b"ssh-rsa") + put_mpint(public.n) + put_mpint(public.e),
        b"".join(map(put_mpint, secret)),
    )
