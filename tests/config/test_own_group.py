"""Whose group may write what is trusted: the owner's alone, and in doubt nobody's."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from collections.abc import Iterable
from pathlib import Path

import pytest

from sshoq.config import own_group
from sshoq.config.own_group import only_owner_in_group

ALICE, BOB, GROUP = 1000, 1001, 5000
NAMES = {ALICE: "alice", BOB: "bob"}
STATUS = os.stat_result((0o100664, 0, 0, 1, ALICE, GROUP, 0, 0, 0, 0))


class Accounts:
    """The data bases of users and groups, and what the file has besides its mode."""

    def __init__(self) -> None:
        self.listed: list[str] | None = []
        self.first_groups = {ALICE: GROUP, BOB: 100}
        self.access_list: int | bytes = errno.ENODATA
        self.enumerated = 0

    def getgrgid(self, gid: int) -> grp.struct_group:
        if self.listed is None:
            raise KeyError(gid)
        return grp.struct_group(("group", "x", gid, self.listed))

    def getpwuid(self, uid: int) -> pwd.struct_passwd:
        return next(entry for entry in self._entries() if entry.pw_uid == uid)

    def getpwall(self) -> list[pwd.struct_passwd]:
        self.enumerated += 1
        return list(self._entries())

    def _entries(self) -> Iterable[pwd.struct_passwd]:
        for uid, gid in self.first_groups.items():
            yield pwd.struct_passwd((NAMES[uid], "x", uid, gid, "", "/home", "/bin/sh"))

    def getxattr(self, place: int | str, name: str) -> bytes:
        assert (place, name) == ("/file", "system.posix_acl_access")
        if isinstance(self.access_list, int):
            raise OSError(self.access_list, os.strerror(self.access_list))
        return self.access_list


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> Accounts:
    accounts = Accounts()
    monkeypatch.setattr(own_group, "_answers", {})
    monkeypatch.setattr(grp, "getgrgid", accounts.getgrgid)
    monkeypatch.setattr(pwd, "getpwuid", accounts.getpwuid)
    monkeypatch.setattr(pwd, "getpwall", accounts.getpwall)
    monkeypatch.setattr(os, "getxattr", accounts.getxattr)
    return accounts


@pytest.mark.parametrize(
    ("listed", "first_groups", "alone"),
    [
        ([], {ALICE: GROUP, BOB: 100}, True),
        (["alice"], {ALICE: GROUP, BOB: 100}, True),
        (["alice"], {ALICE: 100, BOB: 100}, True),
        ([], {ALICE: 100, BOB: 100}, False),
        ([], {ALICE: GROUP, BOB: GROUP}, False),
        ([], {ALICE: 100, BOB: GROUP}, False),
        (["bob"], {ALICE: GROUP, BOB: 100}, False),
        (["alice", "bob"], {ALICE: GROUP, BOB: 100}, False),
        (["alice"], {ALICE: GROUP, BOB: GROUP}, False),
        (None, {ALICE: GROUP, BOB: 100}, False),
    ],
)
def test_a_group_is_alone_with_no_member_but_the_owner(
    accounts: Accounts, listed: list[str] | None, first_groups: dict[int, int], alone: bool
) -> None:
    accounts.listed, accounts.first_groups = listed, first_groups
    assert only_owner_in_group("/file", STATUS) is alone


def test_a_data_base_that_fails_refuses(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[pwd.struct_passwd]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pwd, "getpwall", fail)
    assert not only_owner_in_group("/file", STATUS)


@pytest.mark.parametrize(
    ("answer", "alone"),
    [
        (errno.ENODATA, True),
        (errno.ENOTSUP, True),
        (errno.EACCES, False),
        (b"\2\0\0\0", False),
    ],
)
def test_an_access_list_may_let_others_write(
    accounts: Accounts, answer: int | bytes, alone: bool
) -> None:
    accounts.access_list = answer
    assert only_owner_in_group("/file", STATUS) is alone


def test_where_access_lists_cannot_be_asked_for_nobody_is_alone(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "getxattr")
    assert not only_owner_in_group("/file", STATUS)


def test_accounts_are_gone_through_once_and_only_if_it_matters(accounts: Accounts) -> None:
    for _ in range(3):
        assert only_owner_in_group("/file", STATUS)
    assert accounts.enumerated == 1
    accounts.listed = ["bob"]
    other = os.stat_result((0o100664, 0, 0, 1, ALICE, GROUP + 1, 0, 0, 0, 0))
    assert not only_owner_in_group("/file", other)
    assert accounts.enumerated == 1


def test_a_group_that_the_machine_does_not_know_is_nobodys(tmp_path: Path) -> None:
    gid = next(gid for gid in range(54321, 1 << 20) if not _is_group(gid))
    status = os.stat(tmp_path)
    unknown = os.stat_result((status.st_mode, 0, 0, 1, status.st_uid, gid, 0, 0, 0, 0))
    assert not only_owner_in_group(str(tmp_path), unknown)


def _is_group(gid: int) -> bool:
    try:
        grp.getgrgid(gid)
    except KeyError:
        return False
    return True
