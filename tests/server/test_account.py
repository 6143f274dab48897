"""Who may log in by the rules of the configuration."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from sshoq.server.account import Account, find_account, host_matches, refusal
from sshoq.server.config_reader import load
from sshoq.server.connection import ConnectionFacts

HERE = ConnectionFacts("192.0.2.7", 40007, "192.0.2.1", 443)
ANN = Account("ann", 1001, 1001, "/home/ann", "/bin/sh", ("ann", "staff"))


def judge(tmp_path: Path, *rules: str, account: Account = ANN) -> str:
    config = tmp_path / "config"
    config.write_text("\n".join(rules) + "\n")
    login = load(str(config)).for_connection(user=account.name, groups=account.groups)
    return refusal(account, login, HERE) or ""


def test_without_rules_everybody_may(tmp_path: Path) -> None:
    assert judge(tmp_path) == ""


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (["DenyUsers ann"], "listed in DenyUsers"),
        (["DenyUsers a*@192.0.2.*"], "listed in DenyUsers"),
        (["DenyUsers ann@198.51.100.0/24"], ""),
        (["AllowUsers bob ann"], ""),
        (["AllowUsers bob"], "not listed in AllowUsers"),
        (["AllowUsers ann@198.51.100.0/24"], "not listed in AllowUsers"),
        (["AllowUsers ann", "DenyUsers ann"], "listed in DenyUsers"),
        (["DenyGroups st*"], "a group is listed in DenyGroups"),
        (["AllowGroups staff"], ""),
        (["AllowGroups wheel"], "none of user's groups are listed in AllowGroups"),
        (["AllowUsers ann", "DenyGroups staff"], "a group is listed in DenyGroups"),
    ],
)
def test_lists_go_in_sshds_order(tmp_path: Path, rules: list[str], reason: str) -> None:
    said = judge(tmp_path, *rules)
    wanted = f"User ann from 192.0.2.7 not allowed because {reason}"
    assert said == (wanted if reason else "")


def test_who_is_in_no_group_fails_group_rules(tmp_path: Path) -> None:
    lonely = ANN._replace(groups=())
    assert "not in any group" in judge(tmp_path, "AllowGroups staff", account=lonely)
    assert "not in any group" in judge(tmp_path, "DenyGroups staff", account=lonely)


def test_the_shell_must_be_there_and_run(tmp_path: Path) -> None:
    gone = ANN._replace(shell="/nonexistent")
    assert judge(tmp_path, account=gone) == (
        "User ann not allowed because shell /nonexistent does not exist"
    )
    plain = tmp_path / "shell"
    plain.write_text("")
    assert "is not executable" in judge(tmp_path, account=ANN._replace(shell=str(plain)))
    assert "is not executable" in judge(tmp_path, account=ANN._replace(shell=str(tmp_path)))


def test_in_a_chroot_the_shell_is_another(tmp_path: Path) -> None:
    gone = ANN._replace(shell="/nonexistent")
    assert judge(tmp_path, "ChrootDirectory /srv", account=gone) == ""


def test_an_empty_shell_is_sh() -> None:
    assert ANN._replace(shell="").login_shell == "/bin/sh"


@pytest.mark.parametrize(
    ("patterns", "matches"),
    [
        ("192.0.2.0/24", True),
        ("192.0.2.*", True),
        ("198.51.100.0/24", False),
        ("!192.0.2.7,192.0.2.0/24", False),
        ("*,!192.0.2.0/24", False),
        ("*", True),
        ("192.0.2.0/33", False),
        ("", False),
    ],
)
def test_host_lists(patterns: str, matches: bool) -> None:
    assert host_matches(HERE, patterns) == matches


@pytest.mark.parametrize(
    ("patterns", "matches"),
    [
        ("*.example.org", True),
        ("192.0.2.0/24", True),
        ("192.0.2.*", True),
        ("198.51.100.*", False),
        ("*.example.org,!192.0.2.0/24", False),
        ("192.0.2.0/24,!ann.example.org", False),
    ],
)
def test_host_lists_know_the_name_where_there_is_one(patterns: str, matches: bool) -> None:
    """The address counts beside it."""
    assert host_matches(HERE._replace(peer_name="ann.example.org"), patterns) == matches


def test_a_name_is_listed_and_told(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("DenyUsers ann@*.example.org\n")
    named = HERE._replace(peer_name="ann.example.org")
    assert refusal(ANN, load(str(config)).for_connection(), named) == (
        "User ann from ann.example.org not allowed because listed in DenyUsers"
    )


def test_an_account_is_found_with_its_groups() -> None:
    own = pwd.getpwuid(os.getuid())
    found = find_account(own.pw_name)
    assert (found.exists, found.uid, found.home) == (True, own.pw_uid, own.pw_dir)
    assert found.groups


@pytest.mark.parametrize("name", ["no such user", "", "a\0b", "\udcff", "x" * 5000])
def test_nobody_is_found_for_other_names(name: str) -> None:
    found = find_account(name)
    assert not found.exists
    assert found.uid != 0
    assert found.name == name
