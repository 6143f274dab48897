"""Pictures of fingerprints: the same as ssh-keygen draws."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.keys import PublicKey, parse_public_key
from sshoq.auth.randomart import draw_randomart
from sshoq.wire import put_string
from tests.auth.keyring import KEY_TYPES, make_key, public_line


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_picture_is_the_one_of_ssh_keygen(tmp_path: Path, key_type: str) -> None:
    path = make_key(tmp_path, key_type)
    key = parse_public_key(public_line(path))
    for hash_name in ("sha256", "md5", "sha512"):
        command = ["ssh-keygen", "-lv", "-E", hash_name, "-f", str(path)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert draw_randomart(key, hash_name).splitlines() == shown.splitlines()[1:]


@given(st.binary(min_size=32, max_size=32))
def test_picture_always_has_its_frame(raw: bytes) -> None:
    lines = draw_randomart(PublicKey(put_string(b"ssh-ed25519") + put_string(raw))).split("\n")
    assert [len(line) for line in lines] == [19] * 11
