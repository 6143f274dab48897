"""Who a server is: its certificate chain, and a way to have it signed for. The private key is
elsewhere.

The network process never holds the key: `sign` asks the monitor. Knows nothing of the QUIC library,
nor of how the question travels.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

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


class UnusableKey(ValueError):
    """No TLS 1.3 signature can be made with this kind of key."""


def scheme_for(public_key: object) -> SignatureScheme:
    """The one scheme that we sign with: every TLS 1.3 client must know it (RFC 8446 9.1), or
    commonly does.
    """
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return SignatureScheme.ED25519
    if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size >= MIN_RSA_BITS:
        return SignatureScheme.RSA_PSS_SHA256
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name in ECDSA_SCHEMES:
        return ECDSA_SCHEMES[public_key.curve.name]
    raise UnusableKey("a host key must be Ed25519, ECDSA, or RSA of 2048 bits or more")


class DerCertificate:
    """A certificate that is only passed on; parsing it for each connection would serve nothing."""

    __slots__ = ("_der",)

    def __init__(self, der: bytes) -> None:
        self._der = der

    def public_bytes(self, encoding: Encoding) -> bytes:
        if encoding is not Encoding.DER:
            raise ValueError("only DER is to be had")
        return self._der


class RemoteKey:
    """Where a private key would be: has the handshake signed by whoever holds the key."""

    __slots__ = ("_sign", "scheme")

    def __init__(self, scheme: SignatureScheme, sign: Signer) -> None:
        self.scheme = scheme
        self._sign = sign

    def sign(self, content: bytes, *parameters: object) -> bytes:
        """The scheme says padding and hash already."""
        return self._sign(content, int(self.scheme))


class ServerIdentity:
    """A server's certificates (DER, leaf first), its public key, and who signs for it."""

    __slots__ = ("certificates", "key")

    def __init__(
        self, certificates: Sequence[bytes], sign: Signer, public_key: object = None
    ) -> None:
        """Without `public_key`, the leaf's is taken. UnusableKey when TLS 1.3 cannot use it."""
        if not certificates:
            raise ValueError("a server needs a certificate")
        if public_key is None:
            public_key = leaf_public_key(certificates[0])
        self.certificates = [DerCertificate(der) for der in certificates]
        self.key = RemoteKey(scheme_for(public_key), sign)


def leaf_public_key(certificate: bytes) -> object:
    """The public key in a DER certificate. ValueError when it is none."""
    from cryptography import x509

    return x509.load_der_x509_certificate(certificate).public_key()
