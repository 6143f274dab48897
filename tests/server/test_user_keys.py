"""Where keys are looked for, and what is not believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sshoq.auth.authorized_keys import MAX_FILE
from sshoq.server.account import Account, find_account
from sshoq.server.config import LoginConfig
from sshoq.server.config_reader import load
from sshoq.server.user_keys import (
    MAX_LINE_BYTES,
    MAX_LINES,
    Allowance,
    authorized_keys,
    expand_tokens,
    key_files,
    keys_in,
    read_key_file,
)

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


def test_a_name_that_is_nobodys_leads_nowhere(tmp_path: Path) -> None:
    """It is the client's to choose, and could lead out of the directory of the keys."""
    nobody = find_account("../../home/ann/.ssh/authorized_keys")
    assert not nobody.exists
    [path] = key_files(nobody, login_config(tmp_path, "AuthorizedKeysFile /etc/keys/%u"))
    assert path == "/etc/keys/NOUSER"


# --------------------------------------------------------------------------- how much is read


def count_found(content: bytes, marks: list[bytes], allowance: Allowance) -> int:
    return len(list(keys_in("path", content, marks, allowance)))


def test_lines_without_the_mark_are_not_counted() -> None:
    other = KEY.replace("ssh-ed25519", "ssh-rsa")
    content = f"{other}\n".encode() * 1_000 + KEY.encode()
    allowance = Allowance()
    for _ in range(2 * MAX_LINES):
        allowance.begin_try()
        assert count_found(content, [b"ssh-ed25519"], allowance) == 1
    allowance.begin_try()
    assert count_found(content, [b"ssh-ed25519"], allowance) == 0


def test_a_try_and_a_connection_read_only_so_many_lines(capfd: pytest.CaptureFixture[str]) -> None:
    content = f"{KEY}\n".encode() * (2 * MAX_LINES)
    allowance = Allowance()
    found = []
    for _ in range(3):
        allowance.begin_try()
        found.append(count_found(content, [b"ssh-ed25519"], allowance))
    assert found == [MAX_LINES, MAX_LINES, 0]
    assert f"path:{MAX_LINES + 1}: too many keys to try" in capfd.readouterr().err


def test_a_try_reads_only_so_many_bytes() -> None:
    line = f'command="{"x" * 50_000}" {KEY}\n'.encode()
    allowance = Allowance()
    assert count_found(line * 60, [b""], allowance) == MAX_LINE_BYTES // len(line)


def test_a_trusted_file_is_read_line_by_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    keys = home / ".ssh/authorized_keys"
    keys.write_text(f"# comment\nnonsense\n{KEY} one\nfrom=\"10.0.0.1\" {KEY}\n")
    keys.chmod(0o600)
    config = login_config(tmp_path)
    found = list(authorized_keys(own_account(home), config, [b"ssh-ed25519"], Allowance()))
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
