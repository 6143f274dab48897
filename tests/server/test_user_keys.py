"""Where keys are looked for, and what is not believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sshoq.auth.authorized_keys import MAX_FILE
from sshoq.server.account import Account
from sshoq.server.config import LoginConfig, load
from sshoq.server.user_keys import authorized_keys, expand_tokens, key_files, read_key_file

ANN = Account("ann", 1001, 1001, "/home/ann", "/bin/sh", ("ann",))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDoUCgS0yBYuzF8Cvn0lKh1bqCRFYlp0FqzaaBmNNQhV"


def login_config(tmp_path: Path, *rules: str) -> LoginConfig:
    config = tmp_path / "config"
    config.write_text("\n".join(rules) + "\n")
    return load(str(config)).for_connection(user="ann")


def own_account(home: Path) -> Account:
    return Account("me", os.getuid(), os.getgid(), str(home), "/bin/sh", ())


@pytest.mark.parametrize(
    ("rules", "files"),
    [
        (
            [],
            [
                "/home/ann/.ssh3/authorized_identities",
                "/home/ann/.ssh/authorized_keys",
                "/home/ann/.ssh/authorized_keys2",
            ],
        ),
        (["AuthorizedKeysFile /etc/keys/%u.%U"], ["/etc/keys/ann.1001"]),
        (["AuthorizedKeysFile %h/keys /k"], ["/home/ann/keys", "/k"]),
        (["AuthorizedKeysFile none"], []),
    ],
)
def test_files_follow_the_configuration(
    tmp_path: Path, rules: list[str], files: list[str]
) -> None:
    assert key_files(ANN, login_config(tmp_path, *rules)) == files


def test_tokens_are_expanded_once() -> None:
    tricky = ANN._replace(name="%h")
    assert expand_tokens("%u/%%u/%h/%x/%", tricky) == "%h/%u//home/ann/%x/%"


def test_a_trusted_file_is_read_line_by_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    keys = home / ".ssh/authorized_keys"
    keys.write_text(f"# comment\nnonsense\n{KEY} one\nfrom=\"10.0.0.1\" {KEY}\n")
    keys.chmod(0o600)
    found = list(authorized_keys(own_account(home), login_config(tmp_path)))
    assert [(entry.line, entry.rights.from_patterns) for _, entry in found] == [
        (3, None),
        (4, "10.0.0.1"),
    ]


@pytest.mark.parametrize("loose", [".", ".ssh", ".ssh/authorized_keys"])
def test_what_others_may_write_is_not_believed_if_modes_are_strict(
    tmp_path: Path, loose: str
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    path = home / ".ssh/authorized_keys"
    path.write_text(KEY)
    path.chmod(0o600)
    (home / loose).chmod(0o777)
    account = own_account(home)
    assert read_key_file(str(path), account, strict=True) == b""
    assert read_key_file(str(path), account, strict=False) == KEY.encode()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    account = own_account(tmp_path)
    assert read_key_file(str(tmp_path / "fifo"), account, strict=False) == b""
    assert read_key_file(str(tmp_path), account, strict=False) == b""
    assert read_key_file(str(tmp_path / "missing"), account, strict=False) == b""
    assert read_key_file("/nul\0byte", account, strict=False) == b""
    assert read_key_file("/dev/zero", account, strict=False) == b""


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(MAX_FILE * 3)
    assert len(read_key_file(str(huge), own_account(tmp_path), strict=False)) == MAX_FILE + 1
