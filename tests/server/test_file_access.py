"""Who may have the Go programs' file transfer, beside what else is configured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from sshoq.server.account import Account
from sshoq.server.config import LoginConfig
from sshoq.server.file_access import DISABLED, PROHIBITED, FileAccess, decide_access
from sshoq.server.rights import LoginRights

ME = Account("me", 1000, 1000, "/home/me", "/bin/sh", ())


def decide(
    *, subsystem: str | None = None, forced: str | None = None, key: str | None = None,
    disabled: bool = False, must_change_password: bool = False,
) -> FileAccess:
    table = {} if subsystem is None else {"sftp": subsystem}
    config = SimpleNamespace(disable_sftp=disabled, subsystem=table, force_command=forced)
    rights = SimpleNamespace(
        account=ME, config=cast(LoginConfig, config), must_change_password=must_change_password,
        forced_command=forced if forced is not None else key,
    )  # fmt: skip
    return decide_access(cast(LoginRights, rights))


def test_without_anything_configured_the_shell_decides() -> None:
    assert decide() == FileAccess(needs_shell=True)
    assert decide(subsystem="/usr/lib/openssh/sftp-server -R") == FileAccess(needs_shell=True)


def test_it_can_be_disabled() -> None:
    assert decide(disabled=True).refusal == DISABLED
    assert decide(disabled=True, forced="internal-sftp").refusal == DISABLED


def test_an_expired_password_comes_first() -> None:
    assert decide(must_change_password=True).refusal == PROHIBITED


@pytest.mark.parametrize("command", ["true", "", "/usr/lib/openssh/sftp-server", "internal-sftpx"])
def test_a_forced_command_leaves_no_files(command: str) -> None:
    assert decide(forced=command).refusal == PROHIBITED
    assert decide(key=command).refusal == PROHIBITED
    assert decide(key=command, subsystem="internal-sftp").refusal == PROHIBITED


@pytest.mark.parametrize("source", ["forced", "key", "subsystem"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", FileAccess(needs_shell=False)),
        (" -R", FileAccess(needs_shell=False, read_only=True)),
        (" -f AUTH -l INFO -eR", FileAccess(needs_shell=False, read_only=True)),
        (" -u 027", FileAccess(needs_shell=False, umask=0o27)),
        (" -d /pub/%u/%%", FileAccess(needs_shell=False, directory="/pub/me/%")),
        (" -d %d/pub", FileAccess(needs_shell=False, directory="/home/me/pub")),
        (" -P read", FileAccess(PROHIBITED)),
        (" -p read", FileAccess(PROHIBITED)),
        (" -u 999", FileAccess(PROHIBITED)),
        (" -Z", FileAccess(PROHIBITED)),
        (" -d", FileAccess(PROHIBITED)),
        (" surplus", FileAccess(PROHIBITED)),
        (" 'open", FileAccess(PROHIBITED)),
    ],
)
def test_the_arguments_of_internal_sftp_hold(
    source: str, arguments: str, expected: FileAccess
) -> None:
    assert decide(**{source: f"internal-sftp{arguments}"}) == expected  # type: ignore[arg-type]


def test_a_forced_internal_sftp_counts_before_the_subsystem() -> None:
    assert decide(forced="internal-sftp -R", subsystem="internal-sftp").read_only
