"""A certificate authority for the tests."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = 1_700_000_000.0
_BEFORE = datetime.datetime.fromtimestamp(NOW - 86400, datetime.UTC)
_AFTER = datetime.datetime.fromtimestamp(NOW + 300 * 86400, datetime.UTC)

_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Has a key and a certificate of its own, and issues others."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey | None = None, name: x509.Name | None = None
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = name or _name("test authority")

    @property
    def pem(self) -> bytes:
        return self._authority(self.name, self.key.public_key()).public_bytes(Encoding.PEM)

    @property
    def certificate(self) -> bytes:
        """Its own (DER)."""
        return self._authority(self.name, self.key.public_key()).public_bytes(Encoding.DER)

    def delegate(self) -> tuple[Authority, bytes]:
        """An authority below this one, and its certificate (DER)."""
        below = Authority(name=_name("authority below"))
        certificate = self._authority(below.name, below.key.public_key())
        return below, certificate.public_bytes(Encoding.DER)

    def issue(
        self,
        *names: str | ipaddress.IPv4Address | ipaddress.IPv6Address,
        public_key: CertificatePublicKeyTypes | None = None,
        subject: x509.Name | None = None,
    ) -> bytes:
        """A server's certificate (DER) for these names."""
        alternatives = [
            x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name) for name in names
        ]
        public = public_key or ec.generate_private_key(ec.SECP256R1()).public_key()
        builder = self._builder(subject or _name("server"), public)
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        builder = builder.add_extension(purposes, critical=False)
        return self._sign(builder).public_bytes(Encoding.DER)

    def _authority(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key)
        builder = self._builder(name, key).add_extension(constraints, critical=True)
        builder = builder.add_extension(_CA_USAGE, critical=True)
        return self._sign(builder.add_extension(identifier, critical=False))

    def _builder(
        self, subject: x509.Name, key: CertificatePublicKeyTypes
    ) -> x509.CertificateBuilder:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEFORE)
            .not_valid_after(_AFTER)
            .add_extension(issuer, critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
