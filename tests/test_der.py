"""The key in a certificate is the one that cryptography finds there, or there is none."""

from __future__ import annotations

import contextlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sshoq.der import DerError, subject_key
from tests.auth.authority import Authority
from tests.link import self_signed

KEY_KINDS = ("ed25519", "p256", "p384", "p521", "rsa")
CERTIFICATES = [*map(self_signed, KEY_KINDS), Authority().issue("host.example")]


def key_by_cryptography(der: bytes) -> bytes:
    key = x509.load_der_x509_certificate(der).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("der", CERTIFICATES)
def test_the_key_is_found(der: bytes) -> None:
    assert subject_key(der) == key_by_cryptography(der)


@pytest.mark.parametrize("der", CERTIFICATES)
def test_a_certificate_cut_short_or_run_long_is_none(der: bytes) -> None:
    for end in range(len(der)):
        with pytest.raises(DerError):
            subject_key(der[:end])
    with pytest.raises(DerError):
        subject_key(der + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_no_certificate(data: bytes) -> None:
    with contextlib.suppress(DerError):
        subject_key(b"\x30" + bytes([len(data) % 128]) + data)


@given(st.sampled_from(CERTIFICATES), st.data())
def test_both_readings_agree_on_what_both_can_read(der: bytes, data: st.DataObject) -> None:
    """Else a host might be vouched for by one key and prove itself by another."""
    at = data.draw(st.integers(0, len(der) - 1))
    changed = der[:at] + bytes([data.draw(st.integers(0, 255))]) + der[at + 1 :]
    try:
        other = key_by_cryptography(changed)
    except Exception:  # whatever it says to what is no certificate
        return
    with contextlib.suppress(DerError):
        ours = subject_key(changed)
        assert ours == other or load_again(ours) == other


def load_again(key: bytes) -> bytes:
    """In cryptography's own words: the parameters of an algorithm can be written in two ways."""
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return load_der_public_key(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "length", [b"\x80", b"\x81\x05", b"\x82\x00\x85", b"\x84\x00\x00\x00\x05", b"\xff", b"\x81"]
)
def test_lengths_must_be_those_of_der(length: bytes) -> None:
    with pytest.raises(DerError):
        subject_key(b"\x30" + length + bytes(200))
