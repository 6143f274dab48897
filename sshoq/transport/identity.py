"""Who a server is: its certificate chains, and a way to have them signed for. The private keys are
elsewhere.

The network process never holds a key: `sign` asks the monitor. Here is also who decides which of
its keys a server shows: the client, by the order of its signature schemes, if it says that it means
one. Knows nothing of the QUIC library, nor of how the question travels.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum

from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from sshoq.der import subject_key

Signer = Callable[[bytes, int], bytes]
"""(content, scheme) -> signature, DER for ECDSA. What it raises comes out of `Engine.receive`."""


class SignatureScheme(IntEnum):
    """RFC 8446 4.2.3, as far as host keys go."""

    ECDSA_P256 = 0x0403
    ECDSA_P384 = 0x0503
    ECDSA_P521 = 0x0603
    RSA_PSS_SHA256 = 0x0804
    ED25519 = 0x0807


ECDSA_SCHEMES = {
    "secp256r1": SignatureScheme.ECDSA_P256,
    "secp384r1": SignatureScheme.ECDSA_P384,
    "secp521r1": SignatureScheme.ECDSA_P521,
}

MIN_RSA_BITS = 2048

SSH_SCHEMES = {
    "ssh-ed25519": SignatureScheme.ED25519,
    "ecdsa-sha2-nistp256": SignatureScheme.ECDSA_P256,
    "ecdsa-sha2-nistp384": SignatureScheme.ECDSA_P384,
    "ecdsa-sha2-nistp521": SignatureScheme.ECDSA_P521,
    "ssh-rsa": SignatureScheme.RSA_PSS_SHA256,
}
"""The one scheme with which we sign with a key of each SSH algorithm."""

ORDER_COUNTS = 0xFE51
"""No scheme, but a number for private use (RFC 8446 4.2.3), which others pass over. In front of a
client's schemes it says that it knows this server by a key of the first kind, or else the second…

Without it the order means nothing: Go's clients put RSA first, whatever certificate they have
pinned, and other libraries ECDSA.
"""

RSA_SCHEMES = (0x0804, 0x0805, 0x0806)
CERTIFICATE_ONLY_SCHEMES = (0x0401, 0x0501, 0x0601)
"""PKCS#1 v1.5: good in the certificates of public chains, never in the handshake itself."""

OFFERED_SCHEMES = (
    SignatureScheme.ED25519,
    *ECDSA_SCHEMES.values(),
    *RSA_SCHEMES,
    *CERTIFICATE_ONLY_SCHEMES,
)


def offered_schemes(preferred: Sequence[int] = ()) -> list[int]:
    """What a client offers: all that we can check, those preferred in front."""
    rest = [int(scheme) for scheme in OFFERED_SCHEMES if scheme not in preferred]
    return [ORDER_COUNTS, *preferred, *rest] if preferred else rest


class DerCertificate:
    """A certificate that is only passed on; parsing it for each connection would serve nothing."""

    __slots__ = ("_der",)

    def __init__(self, der: bytes) -> None:
        self._der = der

    def public_bytes(self, encoding: Encoding) -> bytes:
        if encoding is not Encoding.DER:
            raise ValueError("only DER is to be had")
        return self._der


class PeerCertificate:
    """A certificate of which the key alone matters here; who vouches for it is judged elsewhere."""

    __slots__ = ("_key",)

    def __init__(self, der: bytes) -> None:
        """DerError where there is no key in it."""
        self._key = subject_key(der)

    def public_key(self) -> object:
        """ValueError or UnsupportedAlgorithm for what is no key, or of no known kind."""
        return load_der_public_key(self._key)


class RemoteKey:
    """Where a private key would be: has the handshake signed by whoever holds the key."""

    __slots__ = ("_sign", "scheme")

    def __init__(self, scheme: SignatureScheme, sign: Signer) -> None:
        self.scheme = scheme
        self._sign = sign

    def sign(self, content: bytes, *parameters: object) -> bytes:
        """The scheme says padding and hash already."""
        return self._sign(content, int(self.scheme))


class Credential:
    """A certificate chain (DER, leaf first), and who signs for it."""

    __slots__ = ("certificates", "key")

    def __init__(
        self, certificates: Sequence[bytes], scheme: SignatureScheme, sign: Signer
    ) -> None:
        if not certificates:
            raise ValueError("a server needs a certificate")
        self.certificates = [DerCertificate(der) for der in certificates]
        self.key = RemoteKey(scheme, sign)


class ServerIdentity:
    """All that a server can show of itself, what it would rather show first."""

    __slots__ = ("_prefers_first", "credentials")

    def __init__(
        self, credentials: Sequence[Credential], *, prefers_first: bool = False
    ) -> None:
        """With `prefers_first` the first one is for every client that can check it."""
        if not credentials:
            raise ValueError("a server needs a certificate")
        self.credentials = tuple(credentials)
        self._prefers_first = prefers_first

    def choose(self, offered: Sequence[int]) -> Credential | None:
        """What to show to a client with these schemes; None if it could check nothing of ours."""
        usable = [one for one in self.credentials if one.key.scheme in offered]
        first_is_usable = usable[:1] == [self.credentials[0]]
        ordered = offered[:1] == [ORDER_COUNTS] and not (self._prefers_first and first_is_usable)
        if ordered:
            usable.sort(key=lambda one: offered.index(one.key.scheme))
        return usable[0] if usable else None
