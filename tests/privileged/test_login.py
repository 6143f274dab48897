from __future__ import annotations

from pathlib import Path

import pytest

from tests.accounts import Account
from tests.privileged.monitor_driver import Monitor

pytestmark = pytest.mark.privileged

def test_a_key_opens_a_login_and_a_command_runs(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        out, err, status = monitor.run("id -un; echo oops >&2; exit 7")
    assert (out, err, status) == (f"{account.name}\n", "oops\n", 7), monitor.log
    print(monitor.log)
