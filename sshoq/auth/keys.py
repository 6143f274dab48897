"""Public keys in SSH's form, and the signatures of theirs that a token carries.

A key is known by its blob (RFC 4253 section 6.6); nothing here reads files or knows where a key
came from. Signatures have the form of JSON Web Signatures (RFC 7518): Ed25519 64 raw bytes, RSA as
it is, ECDSA r||s, and those of FIDO tokens have flags and counter behind them. The client loads
this module for every connection, so what is slow to import is imported where it is used.
"""

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, Protocol

from sshoq.named_tuple import NamedTuple
from sshoq.wire import Reader, WireError, put_string, read_string

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    KeyObject = Ed25519PublicKey | RSAPublicKey | EllipticCurvePublicKey

MAX_BLOB = 16384  # OpenSSH takes no longer key, and no RSA key above 16,384 bits
MIN_RSA_BITS = 1024
MAX_RSA_BITS = 16384


class KeyFormatError(ValueError):
    """The bytes are no key that can be read."""


class KeyKind(NamedTuple):
    """What there is to know about a key algorithm before any key of it is seen."""

    name: str  # the word in OpenSSH's messages
    token_algorithm: str | None = None  # RFC 7518 name, or our own; None: cannot sign a token
    curve: str = ""
    width: int = 0  # bytes of one ECDSA coordinate
    hash: str = ""  # of an ECDSA signature
    on_token: bool = False  # the private half lives in a FIDO authenticator
    certified: str = ""  # of certificates: the algorithm of the key inside


def _with_certificates(kinds: dict[str, KeyKind]) -> dict[str, KeyKind]:
    """Certificates are only told apart here; ssh_certificates.py looks into them."""
    certificates = {}
    for algorithm, kind in kinds.items():
        stem, at, domain = algorithm.partition("@")
        certificates[f"{stem}-cert-v01@{domain if at else 'openssh.com'}"] = KeyKind(
            f"{kind.name}-CERT", certified=algorithm
        )
    return {**kinds, **certificates}


SK_ED25519 = "sk-ssh-ed25519@openssh.com"
SK_ECDSA = "sk-ecdsa-sha2-nistp256@openssh.com"

KINDS = _with_certificates(
    {
        "ssh-ed25519": KeyKind("ED25519", "EdDSA"),
        "ssh-rsa": KeyKind("RSA", "RS256"),
        "ecdsa-sha2-nistp256": KeyKind("ECDSA", "ES256", "nistp256", 32, "SHA256"),
        "ecdsa-sha2-nistp384": KeyKind("ECDSA", "ES384", "nistp384", 48, "SHA384"),
        "ecdsa-sha2-nistp521": KeyKind("ECDSA", "ES512", "nistp521", 66, "SHA512"),
        "ssh-dss": KeyKind("DSA"),
        SK_ED25519: KeyKind("ED25519-SK", SK_ED25519, on_token=True),
        SK_ECDSA: KeyKind("ECDSA-SK", SK_ECDSA, "nistp256", 32, "SHA256", on_token=True),
    }
)


# --------------------------------------------------------------------------- integers of RFC 4251


def read_mpint(reader: Reader) -> int:
    """A positive integer of RFC 4251; keys and signatures have no negative ones.

    Only the shortest form counts: a key has one blob, so that no revoked key comes in another.
    """
    raw = read_string(reader)
    if raw and raw[0] & 0x80:
        raise WireError("negative integer in a key")
    if raw.startswith(b"\0") and not raw[1:2] >= b"\x80":
        raise WireError("needless zeros in front of an integer")
    return int.from_bytes(raw, "big")


def put_mpint(value: int) -> bytes:
    return put_string(value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b"")


# --------------------------------------------------------------------------- public keys


class PublicKey:
    """A public key: equal to another when the blobs are, whatever the comments say."""

    __slots__ = ("algorithm", "bits", "blob", "comment", "kind")

    def __init__(self, blob: bytes, comment: str = "") -> None:
        """KeyFormatError unless the blob is a whole key of an algorithm in KINDS."""
        if len(blob) > MAX_BLOB:
            raise KeyFormatError(f"key of {len(blob)} bytes")
        reader = Reader(blob)
        try:
            self.algorithm = read_string(reader).decode("ascii")
            self.kind = KINDS[self.algorithm]
            self.bits = _measure(self.kind, reader)
        except (WireError, UnicodeDecodeError) as error:
            raise KeyFormatError(f"broken key: {error}") from None
        except KeyError:
            raise KeyFormatError(f"unknown key algorithm {self.algorithm[:64]!r}") from None
        self.blob = blob
        self.comment = comment

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.blob == self.blob

    def __hash__(self) -> int:
        return hash(self.blob)

    def __repr__(self) -> str:
        return f"<{self.kind.name} key {self.fingerprint()}>"

    @property
    def base64(self) -> str:
        return b2a_base64(self.blob, newline=False).decode()

    @property
    def line(self) -> str:
        """The key as `.pub` files and authorized_keys have it, without a newline."""
        return f"{self.algorithm} {self.base64} {self.comment}".rstrip()

    def digest(self, hash_name: str = "sha256") -> bytes:
        # Who has keys has cryptography loaded; hashlib would load a second OpenSSL.
        from cryptography.hazmat.primitives import hashes

        algorithm: hashes.HashAlgorithm = getattr(hashes, hash_name.upper())()
        state = hashes.Hash(algorithm)
        state.update(self.blob)
        return state.finalize()

    def fingerprint(self, hash_name: str = "sha256") -> str:
        """As `ssh-keygen -l` prints it: ``SHA256:…`` in base64, ``MD5:…`` in hexadecimal."""
        digest = self.digest(hash_name)
        if hash_name == "md5":
            return "MD5:" + digest.hex(":")
        return f"{hash_name.upper()}:{b2a_base64(digest, newline=False).decode().rstrip('=')}"

    def key_object(self) -> "KeyObject":
        """The key as `cryptography` has it; KeyFormatError if the numbers are no key."""
        reader = Reader(self.blob)
        read_string(reader)
        if self.kind.token_algorithm is None:
            raise KeyFormatError(f"{self.algorithm} keys are not supported")
        try:
            if self.kind.curve:
                return _ecdsa_object(self.kind, reader)
            if self.algorithm == "ssh-rsa":
                return _rsa_object(reader)
            return _ed25519_object(reader)
        except ValueError as error:  # a point off the curve, an even exponent
            raise KeyFormatError(f"broken key: {error}") from None

    def verify(self, signature: bytes, data: bytes, *, rsa_hash: str = "SHA256") -> bool:
        """Whether `signature`, in the form that a token carries, is this key's over `data`.

        With a key on a FIDO token this says nothing of its flags: see `touch_of`.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

        try:
            key = self.key_object()
            if self.kind.on_token:
                signature, data = _signed_by_token(self.blob, signature, data)
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, data)
            elif isinstance(key, RSAPublicKey):
                _verify_rsa(key, signature, data, rsa_hash)
            else:
                _verify_ecdsa(key, self.kind, signature, data)
        except (InvalidSignature, KeyFormatError):
            return False
        return True


class Signer(Protocol):
    """What can sign a token: a private key, or an agent on a key's behalf."""

    @property
    def public_key(self) -> PublicKey: ...

    def sign(self, data: bytes) -> bytes:
        """The signature over `data` in the form that a token carries."""


def parse_public_key(line: str | bytes) -> PublicKey:
    """The key in ``algorithm base64 [comment]``, as a `.pub` file has it, or KeyFormatError."""
    text = line.encode("utf-8", "surrogateescape") if isinstance(line, str) else line
    words = text.split(None, 2)
    if len(words) < 2:
        raise KeyFormatError("no key")
    comment = words[2].strip() if len(words) > 2 else b""
    key = PublicKey(decode_base64(words[1]), comment.decode("utf-8", "surrogateescape"))
    if key.algorithm.encode() != words[0]:
        raise KeyFormatError("the key is of another algorithm than its line says")
    return key


def decode_base64(text: bytes) -> bytes:
    try:
        return a2b_base64(text, strict_mode=True)
    except Base64Error as error:
        raise KeyFormatError(f"broken base64: {error}") from None


def public_key_from_object(key: object, comment: str = "") -> PublicKey:
    """The SSH form of a key that `cryptography` holds; KeyFormatError where SSH has none."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(key, Ed25519PublicKey):
        return PublicKey(put_string(b"ssh-ed25519") + put_string(key.public_bytes_raw()), comment)
    if isinstance(key, RSAPublicKey):
        numbers = key.public_numbers()
        parts = put_string(b"ssh-rsa") + put_mpint(numbers.e) + put_mpint(numbers.n)
        return PublicKey(parts, comment)
    if isinstance(key, EllipticCurvePublicKey):
        return PublicKey(_ecdsa_blob(key), comment)
    raise KeyFormatError(f"SSH has no form for a {type(key).__name__}")


# --------------------------------------------------------------------------- one algorithm each


def _measure(kind: KeyKind, reader: Reader) -> int:
    """Check the shape of the key behind the algorithm name; its size in bits."""
    if kind.token_algorithm is None:  # never used, so never looked into
        return 0
    if kind.curve:
        size = int(kind.curve.removeprefix("nistp"))
        _read_point(kind, reader)
    elif kind.token_algorithm == "RS256":
        read_mpint(reader)
        size = read_mpint(reader).bit_length()
        if not MIN_RSA_BITS <= size <= MAX_RSA_BITS:
            raise WireError(f"RSA key of {size} bits")
    else:
        size = 256
        if len(read_string(reader)) != 32:
            raise WireError("an Ed25519 key has 32 bytes")
    if kind.on_token:
        read_string(reader)  # the application
    if reader.remaining:
        raise WireError("bytes behind the key")
    return size


def _read_point(kind: KeyKind, reader: Reader) -> bytes:
    curve, point = read_string(reader), read_string(reader)
    if curve != kind.curve.encode() or len(point) != 1 + 2 * kind.width or point[0] != 4:
        raise WireError("no uncompressed point of the curve")
    return point


def _ed25519_object(reader: Reader) -> "Ed25519PublicKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(read_string(reader))


def _rsa_object(reader: Reader) -> "RSAPublicKey":
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    exponent, modulus = read_mpint(reader), read_mpint(reader)
    if exponent.bit_length() > 64:  # the work to verify grows with it
        raise ValueError("RSA exponent is too large")
    return RSAPublicNumbers(exponent, modulus).public_key()


def _ecdsa_object(kind: KeyKind, reader: Reader) -> "EllipticCurvePublicKey":
    from cryptography.hazmat.primitives.asymmetric import ec

    curve: EllipticCurve = getattr(ec, kind.curve.replace("nistp", "SECP") + "R1")()
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, _read_point(kind, reader))


def _ecdsa_blob(key: "EllipticCurvePublicKey") -> bytes:
    curve = f"nistp{key.curve.key_size}"
    algorithm = f"ecdsa-sha2-{curve}"
    if key.curve.name != f"secp{key.curve.key_size}r1" or algorithm not in KINDS:
        raise KeyFormatError(f"SSH has no form for curve {key.curve.name}")
    numbers = key.public_numbers()
    width = KINDS[algorithm].width
    point = b"\x04" + numbers.x.to_bytes(width, "big") + numbers.y.to_bytes(width, "big")
    return put_string(algorithm.encode()) + put_string(curve.encode()) + put_string(point)


def _verify_rsa(key: "RSAPublicKey", signature: bytes, data: bytes, hash_name: str) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    key.verify(signature, data, PKCS1v15(), getattr(hashes, hash_name)())


def _verify_ecdsa(
    key: "EllipticCurvePublicKey", kind: KeyKind, signature: bytes, data: bytes
) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if len(signature) != 2 * kind.width:
        raise InvalidSignature
    r = int.from_bytes(signature[: kind.width], "big")
    s = int.from_bytes(signature[kind.width :], "big")
    key.verify(encode_dss_signature(r, s), data, ECDSA(getattr(hashes, kind.hash)()))


# --------------------------------------------------------------------------- FIDO tokens

TOUCHED = 1  # flags of a signature (PROTOCOL.u2f): somebody was there
VERIFIED = 4  # and was known, by a PIN or a finger
TOUCH_LENGTH = 5  # one byte of flags, four of the counter, behind 64 of the signature itself


class Touch(NamedTuple):
    """What a FIDO token vouches for besides the data."""

    flags: int
    counter: int


def touch_of(signature: bytes) -> Touch:
    """Of a signature that has been verified, in the form that a token carries."""
    end = signature[-TOUCH_LENGTH:]
    return Touch(end[0], int.from_bytes(end[1:], "big"))


def _signed_by_token(blob: bytes, signature: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The bare signature, and what it stands under: an authenticator signs no data of ours, but
    hashes of its application and of them, with its flags and counter between.
    """
    import hashlib

    reader = Reader(blob)
    while reader.remaining:
        application = read_string(reader)  # the last field
    digests = [hashlib.sha256(part).digest() for part in (application, data)]
    return signature[:-TOUCH_LENGTH], digests[0] + signature[-TOUCH_LENGTH:] + digests[1]


# --------------------------------------------------------------------------- SSH's signatures

RSA_HASHES = {"rsa-sha2-256": "SHA256", "rsa-sha2-512": "SHA512"}


class Signature(NamedTuple):
    """A signature out of SSH's form (RFC 4253 6.6): `raw` is in the form that a token carries."""

    algorithm: str
    raw: bytes

    @property
    def rsa_hash(self) -> str:
        return RSA_HASHES.get(self.algorithm, "SHA256")


def read_signature(key: PublicKey, blob: bytes) -> Signature:
    """Of `key`'s (RFC 4253, RFC 5656, RFC 8332, PROTOCOL.u2f). KeyFormatError or WireError if it
    cannot be; SHA-1 and the web's form of FIDO signatures count as that.
    """
    reader = Reader(blob)
    algorithm = read_string(reader).decode("ascii", "replace")
    if algorithm not in (RSA_HASHES if key.algorithm == "ssh-rsa" else (key.algorithm,)):
        raise KeyFormatError(f"a signature by {algorithm[:64]} with a key of {key.algorithm}")
    body = read_string(reader)
    touch = reader.take(TOUCH_LENGTH) if key.kind.on_token else b""
    if reader.remaining:
        raise KeyFormatError("bytes behind a signature")
    return Signature(algorithm, _bare_signature(key, body) + touch)


def _bare_signature(key: PublicKey, body: bytes) -> bytes:
    if key.kind.curve:
        numbers = Reader(body)
        return join_ecdsa_signature(key.kind, read_mpint(numbers), read_mpint(numbers))
    if key.algorithm == "ssh-rsa":
        # agents may leave leading zeros out, JWT verifiers insist on them
        return body.rjust((key.bits + 7) // 8, b"\0")
    if len(body) != 64:
        raise KeyFormatError("an Ed25519 signature has 64 bytes")
    return body


def join_ecdsa_signature(kind: KeyKind, r: int, s: int) -> bytes:
    """r||s (RFC 7518 section 3.4); KeyFormatError if the numbers are too large for the curve."""
    try:
        return r.to_bytes(kind.width, "big") + s.to_bytes(kind.width, "big")
    except OverflowError:
        raise KeyFormatError("the signature does not fit the curve") from None
