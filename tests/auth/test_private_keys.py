"""Private key files: every format that OpenSSH writes, and its words for those it does not take."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.keys import KeyFormatError, parse_public_key
from sshoq.auth.private_keys import (
    KeyFileError,
    KeyFileSkipped,
    load_private_key,
    load_public_half,
    parse_private_key,
)
from tests.auth.keyring import KEY_TYPES, make_key, public_line

FORMATS = {"OpenSSH": (), "PKCS#8": ("-m", "PKCS8"), "PKCS#1 or SEC1": ("-m", "PEM")}


def complaint_of_ssh_keygen(path: Path) -> str:
    """What ssh-keygen says when it cannot load the file."""
    command = ["ssh-keygen", "-y", "-P", "", "-f", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    return run.stderr.replace("\r", "").strip()


@pytest.mark.parametrize("passphrase", ["", "secret"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_every_format_is_read(tmp_path: Path, key_type: str, form: str, passphrase: str) -> None:
    path = make_key(tmp_path, key_type, *FORMATS[form], name="key", passphrase=passphrase)
    key = load_private_key(str(path), lambda prompt: passphrase)
    assert key.public_key == parse_public_key(public_line(path))
    assert key.public_key.verify(key.sign(b"data"), b"data")


def test_comment_of_an_openssh_key_is_kept(tmp_path: Path) -> None:
    path = make_key(tmp_path, "ed25519", "-C", "me at home")
    assert load_private_key(str(path)).public_key.comment == "me at home"


def test_passphrase_is_asked_for_by_the_file_name_three_times(tmp_path: Path) -> None:
    path = make_key(tmp_path, "ed25519", passphrase="right")
    prompts = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return "wrong"

    with pytest.raises(KeyFileSkipped):
        load_private_key(str(path), ask)
    assert prompts == [f"Enter passphrase for key '{path}': "] * 3


def test_third_passphrase_may_be_the_right_one(tmp_path: Path) -> None:
    path = make_key(tmp_path, "ecdsa-256", passphrase="right")
    answers = iter(["wrong", "wrong", "right"])
    assert load_private_key(str(path), lambda prompt: next(answers)).public_key.bits == 256


@pytest.mark.parametrize("answer", ["", None])
def test_empty_passphrase_leaves_the_key_out(tmp_path: Path, answer: str | None) -> None:
    path = make_key(tmp_path, "ed25519", passphrase="right")
    prompts: list[str] = []

    def ask(prompt: str) -> str | None:
        prompts.append(prompt)
        return answer

    with pytest.raises(KeyFileSkipped):
        load_private_key(str(path), ask)
    assert len(prompts) == 1


def test_encrypted_key_without_anybody_to_ask_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(KeyFileSkipped):
        load_private_key(str(make_key(tmp_path, "ed25519", passphrase="right")), None)


def test_missing_file_is_passed_over_in_silence(tmp_path: Path) -> None:
    with pytest.raises(KeyFileSkipped):
        load_private_key(str(tmp_path / "none"))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o601, 0o660])
def test_file_that_others_may_read_is_refused_in_openssh_words(tmp_path: Path, mode: int) -> None:
    path = make_key(tmp_path, "ed25519")
    path.chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        load_private_key(str(path))
    assert str(caught.value) == complaint_of_ssh_keygen(path)
    assert not isinstance(caught.value, KeyFileSkipped)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
    ],
)
def test_broken_file_is_refused_in_openssh_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError) as caught:
        load_private_key(str(path))
    assert str(caught.value) == complaint_of_ssh_keygen(path)


def test_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(KeyFileError, match="Is a directory"):
        load_private_key(str(tmp_path))


def test_huge_file_is_refused(tmp_path: Path) -> None:
    path = make_key(tmp_path, "ed25519")
    with path.open("ab") as file:
        file.truncate(1 << 21)
    with pytest.raises(KeyFileError, match="invalid format"):
        load_private_key(str(path))


def test_key_whose_public_half_is_another_key_is_refused(tmp_path: Path) -> None:
    """Signing with a foreign public half gives an Ed25519 seed away."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    begin, *lines, end = text.split(b"\n")[:-1]
    import base64

    body = base64.b64decode(b"".join(lines))
    forged = body.replace(
        key.public_key().public_bytes_raw(), other.public_key().public_bytes_raw()
    )
    text = b"\n".join([begin, base64.b64encode(forged), end])
    with pytest.raises(KeyFormatError):
        parse_private_key(text, None)


@given(st.binary(max_size=400), st.sampled_from([None, "secret"]))
def test_any_bytes_in_an_openssh_file_are_a_key_or_a_format_error(
    body: bytes, passphrase: str | None
) -> None:
    import base64

    text = b"-----BEGIN OPENSSH PRIVATE KEY-----\n%b\n-----END OPENSSH PRIVATE KEY-----\n"
    for content in (body, text % base64.b64encode(b"openssh-key-v1\0" + body), text % body):
        with pytest.raises(KeyFormatError):
            parse_private_key(content, passphrase)


def test_key_that_cannot_sign_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import x25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    text = x25519.X25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(KeyFormatError, match="not supported"):
        parse_private_key(text, None)


def test_public_half_is_found_without_the_passphrase(tmp_path: Path) -> None:
    path = make_key(tmp_path, "rsa", passphrase="secret")
    wanted = parse_public_key(public_line(path))
    assert load_public_half(str(path)) == wanted  # in the .pub file beside it
    (tmp_path / "rsa.pub").rename(tmp_path / "elsewhere")
    assert load_public_half(str(path)) == wanted  # in the file itself, in the clear
    assert load_public_half(str(tmp_path / "elsewhere")) == wanted  # the file is a public key


def test_public_half_of_nothing_is_none(tmp_path: Path) -> None:
    path = make_key(tmp_path, "rsa", "-m", "PEM", passphrase="secret")
    os.unlink(f"{path}.pub")
    assert load_public_half(str(path)) is None
    assert load_public_half(str(tmp_path / "none")) is None
    assert load_public_half(str(tmp_path)) is None
