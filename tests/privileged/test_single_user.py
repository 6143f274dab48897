"""A server that an ordinary user started: it serves that user and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sshoq.server.privsep import AuthenticationResult
from tests.accounts import Account
from tests.needs import need_root
from tests.privileged.monitor_driver import Monitor, open_to_users
from tests.processes import processes_of

pytestmark = pytest.mark.privileged


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()  # to become an ordinary user, and to make one


def test_the_own_key_opens_a_login_with_a_terminal(tmp_path: Path, account: Account) -> None:
    open_to_users(tmp_path)
    with Monitor(tmp_path, user=account.name) as monitor:
        monitor.log_in(account)
        assert monitor.run("id -un")[0] == f"{account.name}\n"
        assert monitor.start_on_pty("tty").read_terminal().startswith("/dev/pts/")
        assert all(process.uid == account.uid for process in monitor.family())
    assert processes_of(account.uid) == []


def test_nobody_else_gets_in(
    tmp_path: Path, account: Account, account_factory: Callable[..., Account]
) -> None:
    other = account_factory()
    other.home.chmod(0o755)
    with Monitor(tmp_path, "StrictModes no", user=account.name) as monitor:
        assert monitor.try_key(other.name, other.key).outcome == AuthenticationResult.REFUSED


def test_no_password_is_taken(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path, user=account.name) as monitor:
        result = monitor.try_password(account.name, account.password)
        assert result.outcome == AuthenticationResult.REFUSED
