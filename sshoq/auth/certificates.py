"""X.509, as far as hosts are known by it: the server's own certificate, and a public chain.

The TLS key of a server can be its SSH host key. `make_host_certificate` wraps that key into the
self-signed certificate that TLS wants, and `read_leaf` gets the SSH key out again.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sshoq.auth.keys import KeyFormatError, PublicKey, public_key_from_object
from sshoq.auth.private_keys import PrivateKey
from sshoq.der import DerError, subject_key
from sshoq.named_tuple import NamedTuple

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, CertificateBuilder, DNSName, IPAddress, KeyUsage
    from cryptography.x509.verification import Store

MAX_CHAIN = 16
SELF_SIGNED_NAME = "selfsigned.ssh3"  # what Go clients ask for when the certificate is pinned


class CertificateError(Exception):
    """The certificate cannot be read, or proves nothing."""


# --------------------------------------------------------------------------- the server's


def make_host_certificate(private_key: PrivateKey) -> bytes:
    """The self-signed certificate (DER) of a host key, in the form that Go clients accept.

    Every start makes the same bytes again, because the Go client pins the bytes: serial number from
    the key, fixed dates, deterministic signature. The dates mean nothing, the key is what counts.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding

    builder = _host_certificate_builder(private_key)
    key = private_key.key
    if isinstance(key, Ed25519PrivateKey):
        certificate = builder.sign(key, None)
    elif isinstance(key, EllipticCurvePrivateKey):
        digest = getattr(hashes, private_key.public_key.kind.hash)()
        certificate = builder.sign(key, digest, ecdsa_deterministic=True)  # RFC 6979
    else:
        certificate = builder.sign(key, hashes.SHA256())  # PKCS#1 v1.5
    return certificate.public_bytes(Encoding.DER)


def _host_certificate_builder(private_key: PrivateKey) -> "CertificateBuilder":
    from datetime import datetime

    from cryptography import x509

    public = private_key.key.public_key()
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.ORGANIZATION_NAME, "SSHOQ host key")])
    names = x509.SubjectAlternativeName([x509.DNSName("*"), x509.DNSName(SELF_SIGNED_NAME)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    # Go checks "signed by itself" as the signature of a CA: without these two it is refused.
    authority = x509.BasicConstraints(ca=True, path_length=None)
    usage = _key_usage("digital_signature", "key_encipherment", "key_cert_sign")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(_serial_number(private_key.public_key))
        .not_valid_before(datetime(2000, 1, 1))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59))  # RFC 5280 4.1.2.5: no end
        .add_extension(authority, critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(names, critical=False)
        .add_extension(identifier, critical=False)
    )


def _key_usage(*wanted: str) -> "KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(**{usage: usage in wanted for usage in KEY_USAGES})


KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _serial_number(key: PublicKey) -> int:
    return int.from_bytes(key.digest()[:16], "big") or 1


# --------------------------------------------------------------------------- the peer's


class Leaf(NamedTuple):
    """What a server showed first, and its key in SSH's form."""

    der: bytes
    key: PublicKey

    @property
    def self_signed(self) -> bool:
        """Whether it vouches for itself. What is no certificate otherwise vouches for nothing."""
        try:
            return _is_self_signed(_load_der(self.der))
        except CertificateError:
            return False


def read_leaf(der: bytes) -> Leaf:
    """CertificateError if it is no certificate, or of a key that SSH has no form for.

    Only the key is read: the rest matters to authorities, and takes a client 20 ms to load.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = public_key_from_object(load_der_public_key(subject_key(der)))
    except DerError as error:
        raise CertificateError(f"broken certificate: {error}") from None
    except (KeyFormatError, ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"unusable host key: {error}") from None
    return Leaf(der, key)


def verify_chain(
    chain: Sequence[bytes], host: str, now: float, authority: bytes | None = None
) -> None:
    """Return if the chain proves `host` to that authority, by default to those of the system;
    CertificateError otherwise."""
    from datetime import UTC, datetime

    from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

    leaf, *others = [_load_der(der) for der in chain[:MAX_CHAIN]]
    store = _system_store() if authority is None else Store([_load_der(authority)])
    builder = PolicyBuilder().store(store).time(datetime.fromtimestamp(now, UTC))
    try:
        builder.build_server_verifier(_subject(host)).verify(leaf, others)
    except (VerificationError, ValueError) as error:  # the latter: the host is no name to verify
        raise CertificateError(f"chain does not verify: {error}") from None
    if public_key_from_object(leaf.public_key()) != read_leaf(chain[0]).key:
        raise CertificateError("two readings of the certificate give two keys")


def _subject(host: str) -> "DNSName | IPAddress":
    import ipaddress

    from cryptography.x509 import DNSName, IPAddress

    try:
        return IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return DNSName(host.removesuffix("."))


BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # the BSDs, macOS
)


def _system_store() -> "Store":
    """The authorities that the system trusts; SSL_CERT_FILE replaces them, as OpenSSL has it."""
    import warnings

    from cryptography.x509 import load_pem_x509_certificates
    from cryptography.x509.verification import Store

    chosen = os.environ.get("SSL_CERT_FILE")
    for path in [chosen] if chosen else BUNDLES:
        try:
            with open(path, "rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old authorities with an odd serial number
                return Store(load_pem_x509_certificates(file.read()))
        except OSError:
            continue
        except ValueError as error:
            raise CertificateError(f"{path}: {error}") from None
    raise CertificateError("the system has no certificate authorities")


def _load_der(der: bytes) -> "Certificate":
    import warnings

    from cryptography.x509 import load_der_x509_certificate

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_der_x509_certificate(der)
    except ValueError as error:
        raise CertificateError(f"broken certificate: {error}") from None


def _is_self_signed(certificate: "Certificate") -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
