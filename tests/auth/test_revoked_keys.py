"""Revocation: lists of keys, and key revocation lists as ssh-keygen makes them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.keys import PublicKey, parse_public_key, put_mpint, put_string
from sshoq.auth.revoked_keys import (
    KRL_MAGIC,
    RevocationError,
    load_revoked_keys,
    parse_revoked_keys,
)
from tests.auth.keyring import make_key, public_line

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
