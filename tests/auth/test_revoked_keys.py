"""Revocation: lists of keys, and key revocation lists as ssh-keygen makes them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.keys import PublicKey, parse_public_key, put_mpint
from sshoq.auth.revoked_keys import (
    KRL_MAGIC,
    RevocationError,
    load_revoked_keys,
    parse_revoked_keys,
)
from sshoq.auth.ssh_certificates import Certificate, parse_certificate
from sshoq.wire import put_string
from tests.auth.keyring import make_certificate, make_key, public_line

KEY = PublicKey(put_string(b"ssh-ed25519") + put_string(b"k" * 32))
OTHER = PublicKey(put_string(b"ssh-ed25519") + put_string(b"o" * 32))


def test_list_revokes_its_keys_alone() -> None:
    revoked = parse_revoked_keys(f"# gone\n\n  {KEY.line} comment\n".encode())
    assert KEY in revoked
    assert OTHER not in revoked


def test_empty_list_revokes_nothing() -> None:
    assert KEY not in parse_revoked_keys(b"")


def test_key_that_is_too_weak_to_be_used_can_be_listed() -> None:
    weak = put_string(b"ssh-rsa") + put_mpint(3) + put_mpint((1 << 511) | 1)
    import base64

    text = f"ssh-rsa {base64.b64encode(weak).decode()}\n{KEY.line}\n"
    assert KEY in parse_revoked_keys(text.encode())


@pytest.mark.parametrize("text", ["garbage", "ssh-ed25519", "ssh-ed25519 !!!", "\0\0\0\0"])
def test_line_that_is_no_key_makes_the_whole_list_worthless(text: str) -> None:
    with pytest.raises(RevocationError, match="line 2"):
        parse_revoked_keys(f"{KEY.line}\n{text}\n".encode())


@pytest.mark.parametrize("how", ["", "sha1: ", "sha256: ", "key: ", "hash: "])
def test_key_revocation_list_of_ssh_keygen_is_understood(tmp_path: Path, how: str) -> None:
    paths = [make_key(tmp_path, kind) for kind in ("ed25519", "rsa", "ecdsa-256")]
    good = make_key(tmp_path, "ed25519", name="good")
    keys = [parse_public_key(public_line(path)) for path in paths]
    specification = tmp_path / "specification"
    if how == "hash: ":
        specification.write_text("".join(f"hash: {key.fingerprint()}\n" for key in keys))
    else:
        specification.write_text("".join(f"{how}{public_line(path)}\n" for path in paths))
    krl = tmp_path / "krl"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", krl, specification], check=True)
    assert krl.read_bytes().startswith(KRL_MAGIC)
    revoked = load_revoked_keys(str(krl))
    assert all(key in revoked for key in keys)
    assert parse_public_key(public_line(good)) not in revoked


def test_list_that_revokes_certificates_revokes_no_plain_key(tmp_path: Path) -> None:
    authority = make_key(tmp_path, "ed25519")
    specification = tmp_path / "specification"
    specification.write_text("serial: 1-100\nid: somebody\n")
    krl = tmp_path / "krl"
    arguments = ["-q", "-k", "-s", f"{authority}.pub", "-f", str(krl), str(specification)]
    subprocess.run(["ssh-keygen", *arguments], check=True)
    assert parse_public_key(public_line(authority)) not in load_revoked_keys(str(krl))


def certificate_of(folder: Path, authority: Path, serial: int, key_id: str = "me") -> Certificate:
    key = make_key(folder, "ed25519", name=f"key{serial}{key_id}{authority.name}")
    options = ["-n", "a", "-z", str(serial)]
    path = make_certificate(authority, Path(f"{key}.pub"), *options, key_id=key_id)
    return parse_certificate(parse_public_key(path.read_bytes()).blob)


@pytest.mark.parametrize(
    "lines",
    [
        "serial: 5\nserial: 2000\n",
        "serial: 3-7\nserial: 1990-18446744073709551615\n",
        "".join(f"serial: {n}\n" for n in (*range(1, 400, 2), 2000)),
        "id: bad\n",
    ],
    ids=["list", "range", "bitmap", "key id"],
)
@pytest.mark.parametrize("any_authority", [False, True])
def test_certificates_are_revoked_by_number_and_key_id(
    tmp_path: Path, lines: str, any_authority: bool
) -> None:
    """ssh-keygen writes whatever of lists, ranges and bitmaps is the shortest."""
    authority = make_key(tmp_path, "ed25519", name="ca")
    other = make_key(tmp_path, "ed25519", name="other")
    specification, krl = tmp_path / "specification", tmp_path / "krl"
    specification.write_text(lines)
    signer = ["-s", "none" if any_authority else f"{authority}.pub"]
    command = ["ssh-keygen", "-q", "-k", *signer, "-f", str(krl), str(specification)]
    subprocess.run(command, check=True)
    revoked = load_revoked_keys(str(krl))
    by_id = lines.startswith("id")
    for serial, key_id in ((5, "bad"), (2000, "bad"), (4, "good"), (100000, "good"), (0, "good")):
        certificate = certificate_of(tmp_path, authority, serial, key_id)
        blob = tmp_path / "certificate.pub"
        blob.write_text(certificate.public.line)
        shown = subprocess.run(["ssh-keygen", "-Q", "-f", krl, blob], capture_output=True)
        assert revoked.revokes(certificate) == (shown.returncode != 0), serial
        assert by_id is False or revoked.revokes(certificate) == (key_id == "bad")
        assert revoked.revokes(certificate_of(tmp_path, other, serial, key_id)) == (
            any_authority and revoked.revokes(certificate)
        )


def test_certificate_goes_with_its_key_and_with_its_authority(tmp_path: Path) -> None:
    authority = make_key(tmp_path, "ed25519", name="ca")
    certificate = certificate_of(tmp_path, authority, 1)
    for line in (certificate.key.line, public_line(authority), certificate.public.line):
        assert parse_revoked_keys(f"{line}\n".encode()).revokes(certificate)
    assert not parse_revoked_keys(f"{KEY.line}\n".encode()).revokes(certificate)


def krl_with(kind: int, section: bytes) -> bytes:
    return KRL_MAGIC + b"\0\0\0\1" + bytes(32) + bytes((kind,)) + put_string(section)


def test_extensions_of_a_list_are_skipped_unless_they_are_critical() -> None:
    name = put_string(b"new@example.com")
    for critical in (0, 1):
        own = name + bytes((critical,)) + put_string(b"x")
        inside = put_string(b"") * 2 + b"\x39" + put_string(own)
        for data in (krl_with(255, own), krl_with(1, inside)):
            if critical:
                with pytest.raises(RevocationError, match="extension"):
                    parse_revoked_keys(data)
            else:
                assert KEY not in parse_revoked_keys(data)


def test_unknown_section_about_certificates_makes_the_list_worthless() -> None:
    with pytest.raises(RevocationError, match="unknown section 36"):
        parse_revoked_keys(krl_with(1, put_string(b"") * 2 + b"\x24" + put_string(b"")))


def test_list_cut_anywhere_is_an_error_or_a_shorter_list(tmp_path: Path) -> None:
    path = make_key(tmp_path, "ed25519")
    krl = tmp_path / "krl"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", krl, f"{path}.pub"], check=True)
    whole = krl.read_bytes()
    header = len(KRL_MAGIC) + 4 + 24 + 4 + 4
    for length in range(len(KRL_MAGIC), len(whole)):
        if length == header:  # no section has begun
            assert KEY not in parse_revoked_keys(whole[:length])
            continue
        with pytest.raises(RevocationError):
            parse_revoked_keys(whole[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_an_error(data: bytes) -> None:
    for content in (data, KRL_MAGIC + data, KRL_MAGIC + b"\0\0\0\1" + bytes(32) + data):
        try:
            revoked = parse_revoked_keys(content)
        except RevocationError:
            continue
        assert KEY not in revoked


def test_unreadable_file_is_an_error(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(RevocationError, match="No such file"):
        load_revoked_keys(str(tmp_path / "none"))
    with pytest.raises(RevocationError, match="directory"):
        load_revoked_keys(str(tmp_path))
    with pytest.raises(RevocationError, match="FIFO"):
        load_revoked_keys(str(fifo))
    assert KEY not in load_revoked_keys("/dev/null")
