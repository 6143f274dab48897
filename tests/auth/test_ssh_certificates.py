"""Certificates as ssh-keygen makes them, and what is none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sshoq.auth.keys import KINDS, KeyFormatError, parse_public_key
from sshoq.auth.ssh_certificates import (
    FOR_EVER,
    HOST,
    USER,
    Certificate,
    parse_certificate,
)
from sshoq.wire import put_string
from tests.auth.keyring import KEY_TYPES, make_certificate, make_key, public_line
from tests.auth.security_key import SecurityKey


def load(path: Path) -> Certificate:
    return parse_certificate(parse_public_key(path.read_bytes()).blob)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("authority"), "ed25519", name="ca")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> bytes:
    key = make_key(tmp_path_factory.mktemp("sample"), "ed25519")
    path = make_certificate(authority, key.with_name(key.name + ".pub"), "-n", "a,b")
    return parse_public_key(path.read_bytes()).blob


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_certificate_of_every_kind_is_read_and_its_signature_is_good(
    tmp_path: Path, authority: Path, key_type: str
) -> None:
    key = make_key(tmp_path, key_type)
    certificate = load(make_certificate(authority, Path(f"{key}.pub"), "-n", "alice", "-z", "7"))
    assert certificate.key == parse_public_key(public_line(key))
    assert certificate.authority == parse_public_key(public_line(authority))
    assert (certificate.role, certificate.serial, certificate.key_id) == (USER, 7, "me")
    assert certificate.principals == ("alice",)
    assert (certificate.valid_after, certificate.valid_before) == (0, FOR_EVER)
    assert certificate.kind_name == f"{certificate.key.kind.name}-CERT"
    assert certificate.find_flaw() is None


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_authority_of_every_kind_is_believed(tmp_path: Path, key_type: str) -> None:
    authority = make_key(tmp_path, key_type, name="ca")
    key = make_key(tmp_path, "ed25519")
    certificate = load(make_certificate(authority, Path(f"{key}.pub"), "-n", "alice"))
    assert certificate.find_flaw() is None
    assert certificate.signature_algorithm == {"rsa": "rsa-sha2-512"}.get(
        key_type, certificate.authority.algorithm
    )


def test_rsa_authority_may_use_the_shorter_hash_but_not_sha1(tmp_path: Path) -> None:
    authority, key = make_key(tmp_path, "rsa", name="ca"), make_key(tmp_path, "ed25519")
    public = Path(f"{key}.pub")
    good = load(make_certificate(authority, public, "-n", "a", "-t", "rsa-sha2-256"))
    assert good.find_flaw() is None
    old = load(make_certificate(authority, public, "-n", "a", "-t", "ssh-rsa"))
    assert old.signature_algorithm == "ssh-rsa"
    assert old.find_flaw() is not None


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_certificate_of_a_security_key_is_read(
    tmp_path: Path, authority: Path, kind: str
) -> None:
    key = SecurityKey(kind)
    public = tmp_path / "token.pub"
    public.write_text(key.public_key.line)
    certificate = load(make_certificate(authority, public, "-n", "alice"))
    assert certificate.key == key.public_key
    assert certificate.find_flaw() is None


def test_options_are_read(tmp_path: Path, authority: Path) -> None:
    key = make_key(tmp_path, "ed25519")
    options = ["clear", "permit-pty", "force-command=id -u", "source-address=10.0.0.0/8"]
    options += ["extension:own@example.com=x", "verify-required"]
    words = [word for option in options for word in ("-O", option)]
    words += ["-V", "19700101000005Z:19700101000010Z"]
    path = make_certificate(authority, Path(f"{key}.pub"), "-n", "a", *words)
    certificate = load(path)
    assert (certificate.valid_after, certificate.valid_before) == (5, 10)
    assert dict(certificate.critical) == {
        "force-command": put_string(b"id -u"),
        "source-address": put_string(b"10.0.0.0/8"),
        "verify-required": b"",
    }
    assert dict(certificate.extensions) == {
        "own@example.com": put_string(b"x"),
        "permit-pty": b"",
    }


def test_host_certificate_is_told_apart(tmp_path: Path, authority: Path) -> None:
    key = make_key(tmp_path, "ed25519")
    assert load(make_certificate(authority, Path(f"{key}.pub"), "-h", "-n", "a")).role == HOST


def test_plain_key_is_no_certificate(authority: Path) -> None:
    key = parse_public_key(public_line(authority))
    with pytest.raises(KeyFormatError, match="no certificate"):
        parse_certificate(key.blob)


def test_every_changed_bit_is_noticed(sample: bytes) -> None:
    assert parse_certificate(sample).find_flaw() is None
    for position in range(len(sample)):
        changed = bytearray(sample)
        changed[position] ^= 1
        try:
            certificate = parse_certificate(bytes(changed))
        except KeyFormatError:
            continue
        assert certificate.find_flaw() is not None, position


def test_certificate_cut_anywhere_is_an_error(sample: bytes) -> None:
    for length in range(len(sample)):
        with pytest.raises(KeyFormatError):
            parse_certificate(sample[:length])
    with pytest.raises(KeyFormatError, match="behind"):
        parse_certificate(sample + b"\0")


@given(st.binary(max_size=400))
def test_any_bytes_are_a_certificate_or_an_error(data: bytes) -> None:
    head = put_string(b"ssh-ed25519-cert-v01@openssh.com") + put_string(b"nonce")
    body = head + put_string(b"k" * 32) + bytes(8) + b"\0\0\0\1" + put_string(b"id")
    for blob in (data, head + data, body + data):
        try:
            certificate = parse_certificate(blob)
        except KeyFormatError:
            continue
        assert certificate.find_flaw() is not None


@given(st.binary(max_size=120))
@example(b"")
@example(put_string(b"ssh-ed25519") + put_string(bytes(64)))
def test_any_bytes_in_place_of_the_signature_are_none(signature: bytes) -> None:
    """Whoever may not get in can write the rest himself."""
    key = put_string(b"ssh-ed25519") + put_string(b"k" * 32)
    fields = [b"ssh-ed25519-cert-v01@openssh.com", b"nonce", b"k" * 32]
    blob = b"".join(map(put_string, fields)) + bytes(8) + b"\0\0\0\1"
    blob += put_string(b"id") + put_string(put_string(b"root")) + bytes(8) + b"\xff" * 8
    blob += put_string(b"") * 3 + put_string(key) + put_string(signature)
    certificate = parse_certificate(blob)
    assert certificate.find_flaw() is not None
    assert certificate.signature_algorithm in ("", *KINDS) or b"\0" in signature


def test_certificate_cannot_be_an_authority(tmp_path: Path, authority: Path) -> None:
    """ssh-keygen does not make such a one, so the field is replaced."""
    key = make_key(tmp_path, "ed25519")
    path = make_certificate(authority, Path(f"{key}.pub"), "-n", "a")
    blob = parse_public_key(path.read_bytes()).blob
    own = put_string(parse_public_key(public_line(authority)).blob)
    assert blob.count(own) == 1
    with pytest.raises(KeyFormatError, match="authority of kind ED25519-CERT"):
        parse_certificate(blob.replace(own, put_string(blob)))


def test_option_that_stands_twice_is_an_error(sample: bytes) -> None:
    packed = (put_string(b"permit-pty") + put_string(b"")) * 2
    extensions = [
        put_string(name.encode()) + put_string(b"")
        for name, _ in parse_certificate(sample).extensions
    ]
    blob = sample.replace(put_string(b"".join(extensions)), put_string(packed))
    assert blob != sample
    with pytest.raises(KeyFormatError, match="twice"):
        parse_certificate(blob)


def test_what_we_read_is_what_ssh_keygen_shows(tmp_path: Path, authority: Path) -> None:
    key = make_key(tmp_path, "ed25519")
    path = make_certificate(authority, Path(f"{key}.pub"), "-n", "a,b c", "-z", "9", key_id="x y")
    shown = subprocess.run(["ssh-keygen", "-L", "-f", path], capture_output=True, text=True).stdout
    certificate = load(path)
    assert f'Key ID: "{certificate.key_id}"' in shown
    assert f"Serial: {certificate.serial}" in shown
    assert f"CERT {certificate.key.fingerprint()}" in shown
    assert f"Signing CA: ED25519 {certificate.authority.fingerprint()}" in shown
    for principal in certificate.principals:
        assert f" {principal}\n" in shown
