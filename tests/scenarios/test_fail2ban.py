"""What packaging/fail2ban makes of the log: who fails is told apart from who gets in."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.accounts import Account, make_key
from tests.needs import need_tools
from tests.programs import Programs, Server
from tests.scenarios.conftest import ClientFactory, ServerFactory
from tests.test_architecture import ROOT

pytestmark = pytest.mark.privileged

FILTER = ROOT / "packaging/fail2ban/filter.d/sshoq.conf"
MAX_AUTH_TRIES = 3


def matched(lines: str, directory: Path) -> int:
    """How many of these lines count against somebody."""
    config = directory / "fail2ban"
    if not config.exists():
        shutil.copytree("/etc/fail2ban", config)
        shutil.copy(FILTER, config / "filter.d")
    log = directory / "auth.log"
    stamp = time.strftime("%b %d %H:%M:%S")
    log.write_text(
        "".join(f"{stamp} box sshoq-server[77]: {line}\n" for line in lines.splitlines())
    )
    done = subprocess.run(
        ["fail2ban-regex", "--config", str(config), str(log), "sshoq"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"^Lines: \d+ lines, \d+ ignored, (\d+) matched", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return int(found[1])


def test_failures_are_found_and_logins_are_not(
    sshoq: Programs,
    start_server: ServerFactory,
    connect: ClientFactory,
    account: Account,
    tmp_path: Path,
) -> None:
    need_tools("fail2ban-regex")
    server = start_server(sshoq, [f"MaxAuthTries {MAX_AUTH_TRIES}"])
    assert connect(server, account).output("echo in") == b"in\n"
    welcome = server.log()
    for name in ("no-such-user", account.name):
        wrong = [make_key(tmp_path / f"{name}{number}") for number in range(MAX_AUTH_TRIES)]
        flags = [word for key in wrong for word in ("-i", str(key))]
        command = connect(server, account, user=name, key=wrong[0])
        assert command.run("true", flags=flags).returncode == 255
    failures = log_after(server, welcome)
    assert "Invalid user no-such-user" in failures
    assert matched(welcome, tmp_path) == 0
    assert matched(failures, tmp_path) >= 2


def log_after(server: Server, start: str) -> str:
    log = server.log()
    assert log.startswith(start)
    return log.removeprefix(start)
