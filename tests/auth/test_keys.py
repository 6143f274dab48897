"""Public keys: the blobs, the lines, the fingerprints, and what their signatures are worth."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.keys import (
    KINDS,
    KeyFormatError,
    PublicKey,
    Touch,
    parse_public_key,
    public_key_from_object,
    put_mpint,
    read_mpint,
    read_signature,
    touch_of,
)
from sshoq.auth.private_keys import PrivateKey, load_private_key
from sshoq.wire import Reader, WireError, put_string
from tests.auth.keyring import KEY_TYPES, make_key
from tests.auth.security_key import SecurityKey


@pytest.fixture(scope="module", params=KEY_TYPES)
def key_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys"), request.param)


@pytest.fixture
def public_key(key_path: Path) -> PublicKey:
    return parse_public_key(key_path.with_suffix(".pub").read_text())


@pytest.fixture
def private_key(key_path: Path) -> PrivateKey:
    return load_private_key(str(key_path))


def ssh_keygen(*arguments: str | Path) -> str:
    run = subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, check=True)
    return run.stdout


def test_line_is_written_as_it_was_read(key_path: Path, public_key: PublicKey) -> None:
    assert public_key.line == key_path.with_suffix(".pub").read_text().strip()


@pytest.mark.parametrize("hash_name", ["sha256", "md5", "sha512"])
def test_fingerprint_size_and_name_are_those_of_ssh_keygen(
    key_path: Path, public_key: PublicKey, hash_name: str
) -> None:
    shown = ssh_keygen("-l", "-E", hash_name, "-f", key_path).split()
    assert shown[0] == str(public_key.bits)
    assert shown[1] == public_key.fingerprint(hash_name)
    assert shown[-1] == f"({public_key.kind.name})"


def test_key_object_and_blob_are_the_same_key(public_key: PublicKey) -> None:
    assert public_key_from_object(public_key.key_object()) == public_key


def test_good_signature_verifies(private_key: PrivateKey) -> None:
    assert private_key.public_key.verify(private_key.sign(b"data"), b"data")


def test_signature_over_other_data_is_refused(private_key: PrivateKey) -> None:
    assert not private_key.public_key.verify(private_key.sign(b"data"), b"Data")


@given(st.data())
def test_changed_signature_is_refused(data: st.DataObject) -> None:
    key = _SHARED_KEYS[data.draw(st.sampled_from(sorted(_SHARED_KEYS)))]
    signature = bytearray(key.sign(b"data"))
    position = data.draw(st.integers(0, len(signature) - 1))
    signature[position] ^= data.draw(st.integers(1, 255))
    assert not key.public_key.verify(bytes(signature), b"data")


@given(st.binary(max_size=600))
def test_any_bytes_are_no_signature(signature: bytes) -> None:
    for key in _SHARED_KEYS.values():
        assert not key.public_key.verify(signature, b"data")


def test_signature_of_another_key_is_refused(private_key: PrivateKey) -> None:
    for other in _SHARED_KEYS.values():
        assert not private_key.public_key.verify(other.sign(b"data"), b"data")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_or_a_format_error(blob: bytes) -> None:
    try:
        key = PublicKey(blob)
    except KeyFormatError:
        return
    assert key.blob == blob


@given(st.sampled_from(sorted(KINDS)), st.lists(st.binary(max_size=70), max_size=4), st.binary())
def test_any_fields_behind_a_known_algorithm_are_a_key_or_a_format_error(
    algorithm: str, fields: list[bytes], rest: bytes
) -> None:
    blob = b"".join(map(put_string, [algorithm.encode(), *fields])) + rest[:3]
    try:
        key = PublicKey(blob)
        key.key_object()
    except KeyFormatError:
        return
    assert parse_public_key(key.line) == key


@given(st.binary(max_size=200))
def test_any_line_is_a_key_or_a_format_error(line: bytes) -> None:
    try:
        parse_public_key(line)
    except KeyFormatError:
        return


@given(st.integers(min_value=0, max_value=1 << 2100))
def test_reading_an_integer_undoes_writing_it(value: int) -> None:
    assert read_mpint(Reader(put_mpint(value))) == value


def test_line_of_another_algorithm_is_refused(public_key: PublicKey) -> None:
    other = "ssh-rsa" if public_key.algorithm != "ssh-rsa" else "ssh-ed25519"
    with pytest.raises(KeyFormatError, match="another algorithm"):
        parse_public_key(f"{other} {public_key.base64}")


@pytest.mark.parametrize("bits", [768, 1023, 16385])
def test_rsa_keys_of_other_sizes_are_refused(bits: int) -> None:
    blob = put_string(b"ssh-rsa") + put_mpint(65537) + put_mpint((1 << (bits - 1)) | 1)
    with pytest.raises(KeyFormatError, match="RSA key"):
        PublicKey(blob)


def test_rsa_key_with_a_huge_exponent_verifies_nothing() -> None:
    blob = put_string(b"ssh-rsa") + put_mpint((1 << 65) | 1) + put_mpint((1 << 2047) | 1)
    assert not PublicKey(blob).verify(b"\0" * 256, b"data")


def test_point_off_the_curve_verifies_nothing() -> None:
    point = b"\x04" + b"\x01" * 64
    parts = (b"ecdsa-sha2-nistp256", b"nistp256", point)
    assert not PublicKey(b"".join(map(put_string, parts))).verify(b"\1" * 64, b"data")


def test_certificates_are_known_but_verify_nothing() -> None:
    key = PublicKey(put_string(b"ssh-ed25519-cert-v01@openssh.com") + put_string(b"x" * 32))
    assert key.kind.token_algorithm is None
    assert not key.verify(b"\0" * 64, b"data")


def test_integer_with_needless_zeros_makes_no_key() -> None:
    """One key must not have two blobs, of which one is revoked."""
    modulus = (1 << 2047) | 1
    blob = put_string(b"ssh-rsa") + put_mpint(65537) + put_mpint(modulus)
    padded = put_string(b"\0\0" + modulus.to_bytes(256, "big"))
    assert PublicKey(blob).bits == 2048
    with pytest.raises(KeyFormatError, match="needless zeros"):
        PublicKey(put_string(b"ssh-rsa") + put_mpint(65537) + padded)


# --------------------------------------------------------------------------- FIDO tokens


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_signature_of_a_security_key_verifies_with_its_flags_and_counter(kind: str) -> None:
    token = SecurityKey(kind, flags=5)
    signature = token.sign(b"data")
    assert token.public_key.verify(signature, b"data")
    assert touch_of(signature) == Touch(flags=5, counter=1)
    assert not token.public_key.verify(signature, b"other")
    assert not SecurityKey(kind).public_key.verify(signature, b"data")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_flags_and_counter_cannot_be_changed(kind: str) -> None:
    token = SecurityKey(kind, flags=0)
    signature = token.sign(b"data")
    for position in range(len(signature)):
        changed = bytearray(signature)
        changed[position] ^= 1
        assert not token.public_key.verify(bytes(changed), b"data"), position
    for length in range(len(signature)):
        assert not token.public_key.verify(signature[:length], b"data"), length


def test_security_key_signs_for_its_application_alone() -> None:
    token = SecurityKey(application=b"ssh:")
    other = PublicKey(token.public_key.blob.replace(b"ssh:", b"web:"))
    assert not other.verify(token.sign(b"data"), b"data")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_agents_form_of_a_security_keys_signature_is_read(kind: str) -> None:
    token = SecurityKey(kind)
    signature = read_signature(token.public_key, token.sign_for_ssh(b"data"))
    assert token.public_key.verify(signature.raw, b"data")


@given(st.binary(max_size=100))
def test_any_bytes_are_a_signature_or_an_error(data: bytes) -> None:
    for token in TOKENS:
        head = put_string(token.algorithm)
        for blob in (data, head + data, head + put_string(data[:64]) + data[64:]):
            with contextlib.suppress(KeyFormatError, WireError):
                raw = read_signature(token.public_key, blob).raw
                assert not token.public_key.verify(raw, b"data")


TOKENS = [SecurityKey("ed25519"), SecurityKey("ecdsa")]


def _generate(key_type: str) -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if key_type == "rsa":
        return PrivateKey(rsa.generate_private_key(65537, 2048))
    if key_type == "ed25519":
        return PrivateKey(ed25519.Ed25519PrivateKey.generate())
    curves = {"ecdsa-256": ec.SECP256R1(), "ecdsa-384": ec.SECP384R1()}
    return PrivateKey(ec.generate_private_key(curves.get(key_type, ec.SECP521R1())))


_SHARED_KEYS = {key_type: _generate(key_type) for key_type in KEY_TYPES}
