"""The janitor itself: what was owed is undone, however its owner ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.accounts import make_account, unique_name
from tests.janitor import SERVICE_USER, Janitor, user_exists
from tests.needs import need_root
from tests.processes import is_running, processes_of, read_process, wait_until

ROOT = Path(__file__).parent.parent


def test_files_folders_and_processes_go_when_it_is_closed(tmp_path: Path) -> None:
    janitor = Janitor()
    file, folder = tmp_path / "file", janitor.directory()
    file.touch()
    (folder / "inside").touch()
    sleeper = subprocess.Popen(["sleep", "60"])
    process = read_process(sleeper.pid)
    assert process is not None
    janitor.owe("file", str(file))
    janitor.owe("process", f"{process.pid} {process.started}")
    janitor.owe("file", str(tmp_path / "never made"))
    janitor.close()
    assert not file.exists()
    assert not folder.exists()
    assert sleeper.wait(timeout=5) == -signal.SIGKILL


def test_a_process_that_only_took_over_the_number_is_spared() -> None:
    janitor = Janitor()
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        janitor.owe("process", f"{sleeper.pid} 1")
        janitor.close()
        process = read_process(sleeper.pid)
        assert process is not None
        assert is_running(process)
        sleeper.kill()


def test_what_a_killed_test_run_owed_is_undone(tmp_path: Path) -> None:
    """SIGKILL to the whole process group, as an impatient person's ^C^C or a CI timeout may be."""
    script = (
        "import os, signal\nfrom tests.janitor import Janitor\n"
        f"janitor = Janitor()\njanitor.owe('file', {str(tmp_path / 'file')!r})\n"
        f"open({str(tmp_path / 'file')!r}, 'w').close()\nos.killpg(0, signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, start_new_session=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not (tmp_path / "file").exists(), 10, "the file is removed")


@pytest.mark.privileged
def test_a_user_goes_with_home_and_processes(tmp_path: Path) -> None:
    need_root()
    janitor = Janitor()
    account = make_account(janitor, tmp_path)
    become = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
    sleeper = subprocess.Popen([*become, "sleep", "60"])
    wait_until(lambda: processes_of(account.uid), 5, "the user's process runs")
    janitor.close()
    assert sleeper.wait(timeout=5) == -signal.SIGKILL
    assert not user_exists(account.name)
    assert not account.home.exists()


@pytest.mark.privileged
def test_an_account_has_its_groups(
    tmp_path: Path,
) -> None:
    need_root()
    janitor = Janitor()
    account = make_account(janitor, tmp_path, groups=("games",))
    done = subprocess.run(["id", "-Gn", account.name], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [account.name, "games"]
    janitor.close()


@pytest.mark.privileged
def test_the_service_user_is_there_when_it_is_asked_for() -> None:
    """And gone with the last test run, which here may be another one; where it was, it stays."""
    need_root()
    janitor = Janitor()
    janitor.make_service_user()
    assert user_exists(SERVICE_USER)
    janitor.close()


def test_names_differ() -> None:
    assert unique_name() != unique_name()
