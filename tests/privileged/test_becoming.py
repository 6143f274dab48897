"""Becoming somebody: for a moment, for good, and below another root. Each in a process of its
own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import Account, unique_name
from tests.needs import need_root
from tests.processes import C_LIBRARY_SIGNALS

pytestmark = pytest.mark.privileged

PREPARE = """\
import os, sys
from sshoq.server import libc, signals
from sshoq.server.account import find_account
from sshoq.server.login import *
account = find_account(sys.argv[1])
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder all of whose ancestors are root's alone, which /tmp is not."""
    path = Path("/run") / unique_name("sqroot")
    path.mkdir(mode=0o755)
    yield path
    subprocess.run(["rm", "-rf", "--", str(path)], check=True)


def run(account: Account, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + code, account.name],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stderr.strip().rpartition("\n")[2] or done.stdout.strip()


def test_for_a_moment_ids_and_groups_are_the_users(account: Account) -> None:
    code = """\
os.setgroups([0, 42])
with acting_as(account):
    assert (os.geteuid(), os.getegid()) == (account.uid, account.gid)
    assert os.getgroups() == [account.gid]
    try:
        open("/etc/shadow")
    except PermissionError:
        print("denied")
assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, [0, 42])
open("/etc/shadow")
"""
    assert run(account, code) == "denied"


def test_for_good_nothing_of_root_is_left(account: Account) -> None:
    code = """\
libc.prctl(8, 1)  # PR_SET_KEEPCAPS: even then
become_user(account, None, None)
low, high = libc.get_capabilities()
assert not (low.effective or low.permitted or high.effective or high.permitted)
assert os.getresuid() == (account.uid,) * 3 and os.getresgid() == (account.gid,) * 3
assert os.getgroups() == [account.gid]
print("done")
"""
    assert run(account, code) == "done"


def test_groups_that_pam_gives_survive(account: Account) -> None:
    code = """\
become_user(account, lambda: os.setgroups([account.gid, 20]), None)
print(sorted(os.getgroups()) == sorted([account.gid, 20]))
"""
    assert run(account, code) == "True"


def test_a_step_that_fails_is_the_last(account: Account) -> None:
    """Here the first one, since there is no root to give up any more."""
    code = """\
def fail(): raise LoginError("no credentials")
become_user(account, fail, None)
"""
    assert run(account, code).endswith("LoginError: no credentials")


def test_without_root_only_the_own_account_can_be_become(account: Account) -> None:
    code = """\
become_user(account, None, None)
become_user(account, None, None)
become_user(find_account("root"), None, None)
"""
    assert run(account, code).endswith("LoginError: only root can log in somebody else: root")


def test_the_service_user_is_not_root(account: Account) -> None:
    assert run(account, "give_up_root(0, 5)").endswith("the service user must not be root")


def test_a_chroot_is_entered_as_the_user(account: Account, place: Path) -> None:
    (place / "here").touch()
    code = f"""\
become_user(account, None, {str(place)!r})
print(os.getcwd(), os.listdir("/"), os.getuid() == account.uid)
"""
    assert run(account, code) == "/ ['here'] True"


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        ("chmod", 'bad ownership or modes for chroot directory component "'),
        ("chown", 'bad ownership or modes for chroot directory "'),
        ("file", "is not a directory"),
        ("missing", "stat("),
        ("relative", "chroot path does not begin at root"),
    ],
)
def test_a_chroot_that_others_could_change_is_refused(
    account: Account, place: Path, spoil: str, complaint: str
) -> None:
    inner = place / "root"
    inner.mkdir()
    if spoil == "chmod":
        place.chmod(0o775)
    elif spoil == "chown":
        os.chown(inner, account.uid, 0)
    elif spoil == "file":
        inner.rmdir()
        inner.touch()
    elif spoil == "missing":
        inner.rmdir()
    path = "tmp" if spoil == "relative" else str(inner)
    assert complaint in run(account, f"become_user(account, None, {path!r})")


def test_descriptors_are_closed_but_those_to_keep(account: Account) -> None:
    code = """\
keep = os.dup2(0, 40)
drop = [os.dup2(0, number) for number in (5, 39, 41, 900)]
close_descriptors((keep, 2))
os.fstat(40)
for number in drop:
    try:
        os.fstat(number)
    except OSError:
        print(number, end=" ")
"""
    assert run(account, code) == "5 39 41 900"


def test_signals_are_as_a_program_expects_them(account: Account) -> None:
    code = """\
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
signals.reset()
lines = dict(line.split() for line in open("/proc/self/status") if line.startswith("Sig"))
del lines["SigQ:"], lines["SigPnd:"]
print(*lines.values())
"""
    masks = [int(mask, 16) & ~C_LIBRARY_SIGNALS for mask in run(account, code).split()]
    assert len(masks) == 3  # blocked, ignored, caught
    assert not any(masks)
