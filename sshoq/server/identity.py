"""Process: main and monitor [root]. The server's TLS identity: keys, and certificates that show
them.

By default they are the host's SSH keys, each in a self-signed certificate that every start makes
alike, so that known_hosts vouches for it, whichever of them it has. The keys never leave these
processes: whoever has the chains asks for signatures.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sshoq.auth.certificates import make_host_certificate
from sshoq.auth.host_key_proof import MAX_KEYS, prove_key
from sshoq.auth.keys import KeyFormatError, PublicKey
from sshoq.auth.private_keys import (
    KeyFileError,
    KeyFileSkipped,
    PrivateKey,
    load_private_key,
    load_public_half,
)
from sshoq.auth.ssh_certificates import parse_certificate
from sshoq.server import log
from sshoq.server.config import ServerConfig

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    KeyObject = Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey

HOST_KEYS = (
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ecdsa_key",
    "/etc/ssh/ssh_host_rsa_key",
)
"""sshd's own."""

OWN_DIRECTORY = "/etc/sshoq"
OWN_KEY = "ssh_host_ed25519_key"

ED25519 = 0x0807
RSA_PSS = {0x0804: "SHA256", 0x0805: "SHA384", 0x0806: "SHA512"}
ECDSA = {0x0403: ("secp256r1", "SHA256"), 0x0503: ("secp384r1", "SHA384")}
ECDSA[0x0603] = ("secp521r1", "SHA512")
"""TLS SignatureScheme (RFC 8446 4.2.3)."""

_SSH_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-256", "rsa-sha2-512", "ssh-rsa")}
_ORDER = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
"""In which clients are shown a key when they do not say which one they know; then come others.

Who has once met this server, and kept what it saw, is to see the same again.
"""

MIN_RSA_BITS = 2048
"""Clients check no TLS signature of a shorter key."""


class IdentityError(Exception):
    """The server has no key to show. `lines` are for stderr."""

    def __init__(self, *lines: str, status: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.status = status


class ShownKey:
    """A key, the certificates that show it, and the signature schemes that it can serve."""

    __slots__ = ("certificates", "fingerprint", "key", "private", "schemes", "source")

    def __init__(self, certificates: tuple[bytes, ...], key: PrivateKey, source: str) -> None:
        self.certificates = certificates
        """DER, leaf first."""
        self.private = key
        self.key: KeyObject = key.key
        self.fingerprint = f"{key.public_key.algorithm} {key.public_key.fingerprint()}"
        self.source = source
        """The file it came from."""
        self.schemes = _schemes_of(self.key)

    @property
    def scheme(self) -> int:
        """The one to sign with, unless a client insists on another: all know it."""
        return self.schemes[0]

    def sign(self, scheme: int, content: bytes) -> bytes:
        """A TLS 1.3 signature; ValueError for a scheme that is not the key's."""
        if scheme not in self.schemes:
            raise ValueError(f"signature scheme {scheme:#06x} does not fit the host key")
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

        key = self.key
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(content)
        if isinstance(key, rsa.RSAPrivateKey):
            digest = getattr(hashes, RSA_PSS[scheme])()
            salted = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
            return key.sign(content, salted, digest)
        return key.sign(content, ec.ECDSA(getattr(hashes, ECDSA[scheme][1])()))


def _schemes_of(key: "KeyObject") -> tuple[int, ...]:
    """None for a key that TLS 1.3 cannot use."""
    name = type(key).__name__
    if "Ed25519" in name:
        return (ED25519,)
    if "RSA" in name:
        return tuple(RSA_PSS) if getattr(key, "key_size", 0) >= MIN_RSA_BITS else ()
    curve = getattr(getattr(key, "curve", None), "name", "")
    return tuple(scheme for scheme, (kind, _) in ECDSA.items() if kind == curve)


class Identity:
    """Everything that the server can show of itself: one key for each scheme, the first by
    default. Further keys of a kind, such as the next one before it takes the first one's place,
    can only be proven.
    """

    __slots__ = ("_owned", "keys", "prefers_first")

    def __init__(self, keys: Iterable[ShownKey], *, prefers_first: bool = False) -> None:
        """Of two keys for one scheme the first counts. With `prefers_first` the very first one is
        for every client that can check it, whatever other it knows."""
        by_scheme: dict[int, ShownKey] = {}
        self._owned: dict[bytes, PrivateKey] = {}
        for key in keys:
            by_scheme.setdefault(key.scheme, key)
            self._owned.setdefault(key.private.public_key.blob, key.private)
        self.keys = tuple(by_scheme.values())
        self.prefers_first = prefers_first

    @property
    def host_keys(self) -> tuple[bytes, ...]:
        """All of them in SSH's form, shown or not: what clients may learn (UpdateHostKeys)."""
        return tuple(self._owned)[:MAX_KEYS]

    def sign(self, scheme: int, content: bytes) -> bytes:
        """With the one key that the scheme is for; ValueError if there is none."""
        for key in self.keys:
            if scheme in key.schemes:
                return key.sign(scheme, content)
        raise ValueError(f"signature scheme {scheme:#06x} does not fit a host key")

    def prove(self, host_key: bytes, conversation_id: bytes) -> bytes:
        """For a client that wants to know whether we have this one; ValueError if we do not."""
        if host_key not in self._owned:
            raise ValueError("asked to prove a key that is none of the host's")
        return prove_key(self._owned[host_key], conversation_id)

    def forget_keys(self) -> None:
        """For a child that is to act for a user."""
        self.keys = ()
        self._owned = {}


def load_identity(config: ServerConfig, *, may_make: bool = True) -> Identity:
    """As configured, else sshd's host keys, else a key of our own, which is made if it `may` be.
    """
    named = [key for path in config.host_key if (key := _load_named(path))]
    _look_at_certificates(config.host_certificate, [key.public_key for _, key in named])
    if config.certificate is not None and config.certificate_key is not None:
        shown = _from_pem(config.certificate, config.certificate_key)
        return Identity([shown, *_show(config, named)], prefers_first=True)
    if config.host_key:
        return _identity_of(config, named)
    found = [key for path in HOST_KEYS if (key := _load_quietly(path))]
    return _identity_of(config, found or [_own_key(own_directory(), may_make)])


def _identity_of(config: ServerConfig, keys: "list[tuple[str, PrivateKey]]") -> Identity:
    shown = _show(config, keys)
    if not shown:
        raise IdentityError("sshoq-server: no hostkeys available -- exiting.")
    return Identity(shown)


def _show(config: ServerConfig, keys: "list[tuple[str, PrivateKey]]") -> list[ShownKey]:
    """The keys that may and can be shown, in the order in which one is chosen."""
    allowed = config.host_key_algorithms.split(",")
    shown = []
    for path, key in sorted(keys, key=lambda found: _rank(found[1])):
        if not _is_allowed(key, allowed):
            continue
        if not _schemes_of(key.key):
            log.error(f"Host key {path}: Invalid key length")
            continue
        shown.append(ShownKey((make_host_certificate(key),), key, path))
    return shown


def _look_at_certificates(paths: Iterable[str], keys: list[PublicKey]) -> None:
    """HostCertificate: TLS has no use for them, but sshd tells of those that cannot be."""
    for path in paths:
        public = load_public_half(path)
        if public is None:
            log.error(f'Could not load host certificate "{path}": No such file or directory')
            continue
        try:
            shown = parse_certificate(public.blob).key
        except KeyFormatError:
            log.error(f"Certificate file is not a certificate: {path}")
            continue
        if shown not in keys:
            log.error(f"No matching private key for certificate: {path}")


def _is_allowed(key: PrivateKey, allowed: list[str]) -> bool:
    algorithm = key.public_key.algorithm
    return any(name in allowed for name in _SSH_ALGORITHMS.get(algorithm, (algorithm,)))


def _rank(key: PrivateKey) -> int:
    algorithm = key.public_key.algorithm
    return _ORDER.index(algorithm) if algorithm in _ORDER else len(_ORDER)


def _load_named(path: str) -> tuple[str, PrivateKey] | None:
    """A HostKey that cannot be had is reported; the others may do."""
    try:
        return path, load_private_key(path)
    except KeyFileSkipped:
        log.error(f"Unable to load host key: {path}")
    except KeyFileError as error:
        for line in str(error).replace("Load key", "Unable to load host key").splitlines():
            log.error(line)
        log.error(f"Unable to load host key: {path}")
    return None


def _load_quietly(path: str) -> "tuple[str, PrivateKey] | None":
    """One of the default files: missing ones are no matter, nor root's for another user."""
    if not os.access(path, os.R_OK):
        return None
    return _load_named(path)


# --------------------------------------------------------------------------- a key of our own


def own_directory() -> str:
    """Where a server without host keys keeps its own: in /etc, or with a user's state."""
    if os.geteuid() == 0:
        return OWN_DIRECTORY
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "sshoq")


def _own_key(directory: str, may_make: bool) -> tuple[str, PrivateKey]:
    path = os.path.join(directory, OWN_KEY)
    if may_make and not os.path.lexists(path):
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _generate(path)
        except OSError as error:
            raise IdentityError(f"{path}: {error.strerror}") from None
    loaded = _load_named(path)
    if loaded is None:
        raise IdentityError("sshoq-server: no hostkeys available -- exiting.")
    return loaded


def _generate(path: str) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    _write_new(path, secret, 0o600)
    _write_new(path + ".pub", public + b"\n", 0o644)
    log.info(f"Generated host key {path}")


def _write_new(path: str, data: bytes, mode: int) -> None:
    """A new file, whole or not at all; what stands there already is never touched. OSError names
    the file."""
    partial = f"{path}.{os.getpid()}"
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, path)
        finally:
            os.unlink(partial)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


# --------------------------------------------------------------------------- PEM files


def _from_pem(certificate: str, key_file: str) -> ShownKey:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        key = load_private_key(key_file)
    except KeyFileError as error:
        raise IdentityError(*str(error).splitlines()) from None
    try:
        with open(certificate, "rb") as file:
            chain = x509.load_pem_x509_certificates(file.read())
    except OSError as error:
        raise IdentityError(f"{certificate}: {error.strerror}") from None
    except ValueError:
        raise IdentityError(f"{certificate}: no certificate in PEM form") from None
    if chain[0].public_key() != key.key.public_key():
        raise IdentityError(f"{key_file} is not the key of {certificate}")
    shown = ShownKey(tuple(one.public_bytes(Encoding.DER) for one in chain), key, key_file)
    if not shown.schemes:
        raise IdentityError(f"{key_file}: Invalid key length")
    return shown


def ensure_certificate(certificate: str, key_file: str) -> None:
    """The Go server's start: make both files if neither exists. One alone is never overwritten."""
    present = [path for path in (certificate, key_file) if os.path.lexists(path)]
    if len(present) == 2:
        return
    if present:
        missing = key_file if present[0] == certificate else certificate
        raise IdentityError(
            f"{present[0]} exists and {missing} does not: not overwriting it with a new pair",
            status=255,
        )
    try:
        _generate_pair(certificate, key_file)
    except OSError as error:
        raise IdentityError(f"{error.filename}: {error.strerror}", status=255) from None


def _generate_pair(certificate: str, key_file: str) -> None:
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    der = make_host_certificate(PrivateKey(key))
    pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % base64.encodebytes(der)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write_new(key_file, secret, 0o600)
    try:
        _write_new(certificate, pem, 0o644)
    except OSError:
        os.unlink(key_file)  # half a pair would be in the way of the next start
        raise
    log.info(f"Generated a self-signed certificate: {certificate}, {key_file}")
