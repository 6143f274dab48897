"""Certificates: the server's own, which Go clients must accept, and what the peer shows."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.certificates import (
    CertificateError,
    make_host_certificate,
    read_leaf,
    verify_chain,
)
from sshoq.auth.private_keys import load_private_key
from tests.auth.authority import NOW, Authority
from tests.auth.keyring import KEY_TYPES, make_key


@pytest.fixture(scope="module", params=KEY_TYPES)
def host_key(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_key(tmp_path_factory.mktemp("keys"), request.param))


def test_certificate_is_the_same_at_every_start(host_key: str) -> None:
    """The Go client pins its bytes."""
    first = make_host_certificate(load_private_key(host_key))
    assert make_host_certificate(load_private_key(host_key)) == first


def test_certificate_carries_the_host_key_and_vouches_for_itself(host_key: str) -> None:
    key = load_private_key(host_key)
    leaf = read_leaf(make_host_certificate(key))
    assert leaf.key == key.public_key
    assert leaf.self_signed


def test_certificate_has_the_form_that_go_clients_accept(host_key: str) -> None:
    der = make_host_certificate(load_private_key(host_key))
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(certificate)
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.key_cert_sign
    assert usage.key_encipherment
    assert not usage.crl_sign
    purposes = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert purposes == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["*", "selfsigned.ssh3"]
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc < now < certificate.not_valid_after_utc
    assert 0 < certificate.serial_number < 1 << 159


def test_certificate_of_an_ed25519_key_keeps_the_first_flight_small(tmp_path: Path) -> None:
    key = load_private_key(str(make_key(tmp_path, "ed25519")))
    assert len(make_host_certificate(key)) < 500


def test_keys_of_two_hosts_give_two_serial_numbers(tmp_path: Path) -> None:
    numbers = set()
    for name in ("one", "two"):
        der = make_host_certificate(load_private_key(str(make_key(tmp_path, "ed25519", name=name))))
        numbers.add(x509.load_der_x509_certificate(der).serial_number)
    assert len(numbers) == 2


@given(st.binary(max_size=300))
def test_any_bytes_are_no_certificate(der: bytes) -> None:
    with pytest.raises(CertificateError):
        read_leaf(der)


def test_key_that_ssh_has_no_form_for_is_refused() -> None:
    authority = Authority()
    for public in (
        ed448.Ed448PrivateKey.generate().public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
    ):
        with pytest.raises(CertificateError, match="no form"):
            read_leaf(authority.issue("host", public_key=public))


# --------------------------------------------------------------------------- public chains


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """One that the system trusts."""
    authority = Authority()
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    return authority


def test_chain_of_a_trusted_authority_proves_its_name(authority: Authority) -> None:
    leaf = authority.issue("host.example", "*.wild.example", ipaddress.ip_address("192.0.2.1"))
    assert not read_leaf(leaf).self_signed
    for host in ("host.example", "HOST.example", "host.example.", "a.wild.example", "192.0.2.1"):
        verify_chain([leaf], host, NOW)


def test_chain_through_an_intermediate_authority(authority: Authority) -> None:
    below, certificate = authority.delegate()
    verify_chain([below.issue("host.example"), certificate], "host.example", NOW)
    with pytest.raises(CertificateError):
        verify_chain([below.issue("host.example")], "host.example", NOW)


@pytest.mark.parametrize("host", ["other.example", "example", "192.0.2.2", "a.b.wild.example", ""])
def test_chain_proves_no_other_name(authority: Authority, host: str) -> None:
    leaf = authority.issue("host.example", "*.wild.example", ipaddress.ip_address("192.0.2.1"))
    with pytest.raises(CertificateError):
        verify_chain([leaf], host, NOW)


@pytest.mark.parametrize("days", [-2, 400])
def test_chain_proves_nothing_outside_its_dates(authority: Authority, days: int) -> None:
    with pytest.raises(CertificateError):
        verify_chain([authority.issue("host.example")], "host.example", NOW + days * 86400)


def test_chain_of_a_stranger_proves_nothing(authority: Authority) -> None:
    with pytest.raises(CertificateError):
        verify_chain([Authority().issue("host.example")], "host.example", NOW)


def test_host_key_certificate_proves_nothing_to_authorities(
    authority: Authority, tmp_path: Path
) -> None:
    key = load_private_key(str(make_key(tmp_path, "ecdsa-256")))
    with pytest.raises(CertificateError):
        verify_chain([make_host_certificate(key)], "selfsigned.ssh3", NOW)


def test_ordinary_certificate_cannot_issue_others(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    middle = authority.issue("middle.example", public_key=key.public_key())
    forged = Authority(key, x509.load_der_x509_certificate(middle).subject)
    with pytest.raises(CertificateError):
        verify_chain([forged.issue("host.example"), middle], "host.example", NOW)


def test_system_without_authorities_proves_nothing(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = authority.issue("host.example")
    for content in (None, b"", b"garbage"):
        bundle = tmp_path / "other.pem"
        if content is not None:
            bundle.write_bytes(content)
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        with pytest.raises(CertificateError):
            verify_chain([leaf], "host.example", NOW)


def test_authorities_of_this_system_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(CertificateError):
        verify_chain([Authority().issue("host.example")], "host.example", NOW)


def test_self_signed_means_signed_by_its_own_key() -> None:
    """A name for itself as the issuer is not enough."""
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    impostor = Authority(name=name).issue("host", public_key=key.public_key(), subject=name)
    assert not read_leaf(impostor).self_signed
