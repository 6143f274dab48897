"""Which keys can serve, and how they sign."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from sshoq.transport.identity import (
    DerCertificate,
    ServerIdentity,
    SignatureScheme,
    UnusableKey,
    scheme_for,
)
from tests.link import host_key, self_signed


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("ed25519", SignatureScheme.ED25519),
        ("p256", SignatureScheme.ECDSA_P256),
        ("p384", SignatureScheme.ECDSA_P384),
        ("p521", SignatureScheme.ECDSA_P521),
        ("rsa", SignatureScheme.RSA_PSS_SHA256),
    ],
)
def test_each_kind_of_key_has_one_scheme(kind: str, scheme: SignatureScheme) -> None:
    asked: list[tuple[bytes, int]] = []

    def sign(content: bytes, wanted: int) -> bytes:
        asked.append((content, wanted))
        return b"signature"

    by_certificate = ServerIdentity([self_signed(kind)], sign)
    by_key = ServerIdentity([b"any"], sign, host_key(kind).public_key())
    assert by_certificate.key.scheme is by_key.key.scheme is scheme
    assert by_key.key.sign(b"content", "padding", "hash") == b"signature"
    assert asked == [(b"content", int(scheme))]


@pytest.mark.parametrize(
    "key",
    [
        ed448.Ed448PrivateKey.generate().public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        rsa.RSAPublicNumbers(65537, (1 << 1023) + 1).public_key(),
        None,
    ],
    ids=["ed448", "another curve", "short rsa", "nothing"],
)
def test_other_keys_are_refused(key: object) -> None:
    with pytest.raises(UnusableKey):
        scheme_for(key)


def test_a_server_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="needs a certificate"):
        ServerIdentity([], lambda content, scheme: b"")


def test_certificates_are_passed_on_as_they_are() -> None:
    assert DerCertificate(b"der").public_bytes(Encoding.DER) == b"der"
    with pytest.raises(ValueError, match="DER"):
        DerCertificate(b"der").public_bytes(Encoding.PEM)
