"""Logins on a terminal: whose it is, what it shows, and what is on record of it."""

from __future__ import annotations

import os
import subprocess
import termios
from pathlib import Path
from typing import NamedTuple

import pytest

from sshoq.server.privsep import AllocatePty, PtyAllocated, SessionRefused
from sshoq.server.records import RecordFiles, read_last_login
from tests.accounts import Account, make_pam_service
from tests.janitor import Janitor
from tests.needs import need_root
from tests.privileged.monitor_driver import Monitor, open_to_users, receive
from tests.processes import wait_until

pytestmark = pytest.mark.privileged


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


class Records(NamedTuple):
    """The record files of a monitor that is started with `wrapper`, and of nobody else."""

    files: RecordFiles
    wrapper: tuple[str, ...]


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Folders that the monitor sees as /run and /var/log."""
    run, log = tmp_path / "run", tmp_path / "varlog"
    files = RecordFiles(*(str(path) for path in (run / "utmp", log / "wtmp", log / "lastlog")))
    for path in files[:3]:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    mounts = f'mount --bind {run} /run && mount --bind {log} /var/log && exec "$@"'
    return Records(files, ("unshare", "--mount", "sh", "-c", mounts, "sh"))


def test_the_terminal_is_the_users_and_group_ttys(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        program = monitor.start_on_pty(None)
        os.write(program.descriptors[0], b"stat -c '%U:%G:%a' $(tty) $SSH_TTY\n")
        line = f"{account.name}:tty:620\r\n"
        program.read_until(line * 2)


def test_a_program_controls_its_terminal(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        show = "tty; echo $TERM; stty size; ps -o tpgid=,sid= -p $$; exit 3"
        program = monitor.start_on_pty(show)
        lines = program.read_terminal().split("\r\n")
        assert lines[0].startswith("/dev/pts/")
        assert lines[1:3] == ["vt220", "37 91"]
        group, session = lines[3].split()
        assert group == session
        assert program.wait().status == 3


def test_modes_are_the_clients(tmp_path: Path, account: Account) -> None:
    modes = bytes((53, 0, 0, 0, 0, 3, 0, 0, 0, 8, 36, 0, 0, 0, 1, 0))  # ECHO off, VERASE ^H, ICRNL
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        monitor.leader.send(AllocatePty(1, "xterm", 80, 24, 0, 0, modes))
        message, [master] = receive(monitor.leader)
        assert isinstance(message, PtyAllocated)
        attributes = termios.tcgetattr(master)
        assert not attributes[3] & termios.ECHO
        assert attributes[6][termios.VERASE] == b"\b"
        os.close(master)


@pytest.mark.parametrize("options", ["PermitTTY no", "restrict", "no-pty"])
def test_a_terminal_can_be_denied(tmp_path: Path, account: Account, options: str) -> None:
    is_rule = " " in options
    if not is_rule:
        account.write(".ssh/authorized_keys", f"{options} {account.public_key}\n")
    try:
        with Monitor(tmp_path, *([options] if is_rule else [])) as monitor:
            monitor.log_in(account)
            monitor.leader.send(AllocatePty(1, "xterm", 80, 24, 0, 0, b""))
            monitor.expect(SessionRefused, monitor.leader)
            assert monitor.run("echo still here", session=1)[0] == "still here\n"
    finally:
        account.write(".ssh/authorized_keys", f"{account.public_key}\n")


def test_a_login_is_on_record_while_it_lasts(
    tmp_path: Path, account: Account, records: Records
) -> None:
    with Monitor(tmp_path, wrapper=records.wrapper) as monitor:
        monitor.log_in(account)
        program = monitor.start_on_pty(None)
        program.read_until("$")
        [line] = [line for line in _who(records) if line.split()[0] == account.name]
        assert line.split()[1].startswith("pts/")
        assert "(192.0.2.7)" in line
        entry = _last(records, account)[0]
        assert "192.0.2.7" in entry
        assert "still logged in" in entry or "gone - no logout" in entry
        last = read_last_login(records.files, account.uid)
        assert last is not None
        assert last.host == "192.0.2.7"
        os.write(program.descriptors[0], b"exit\n")
        program.wait()
        wait_until(
            lambda: not any(line.startswith(account.name) for line in _who(records)), 30, "gone"
        )
        entry = _last(records, account)[0]
        assert "still logged in" not in entry
        assert "gone - no logout" not in entry


def test_records_are_closed_when_the_client_just_goes(
    tmp_path: Path, account: Account, records: Records
) -> None:
    with Monitor(tmp_path, wrapper=records.wrapper) as monitor:
        monitor.log_in(account)
        program = monitor.start_on_pty(None)
        program.read_until("$")
        monitor.hang_up()
        monitor.wait()
    assert not any(line.startswith(account.name) for line in _who(records))


def _who(records: Records) -> list[str]:
    return subprocess.run(
        ["who", records.files.utmp], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def _last(records: Records, account: Account) -> list[str]:
    shown = subprocess.run(
        ["last", "-w", "-i", "-f", records.files.wtmp, account.name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [line for line in shown if line.startswith(account.name)]


def test_a_commands_login_is_on_record_but_greets_nobody(
    tmp_path: Path, account: Account, records: Records
) -> None:
    with Monitor(tmp_path, wrapper=records.wrapper) as monitor:
        monitor.log_in(account)
        for expected in ("first\r\n", "first\r\n"):
            assert monitor.start_on_pty("echo first").read_terminal() == expected
            monitor.leader.receive()
    assert len(_last(records, account)) >= 2


def test_a_login_is_greeted_in_sshds_order(
    tmp_path: Path, fresh_account: Account, janitor: Janitor, records: Records
) -> None:
    """What modules say, the last login, the motd."""
    stack = (
        "auth required pam_permit.so\naccount required pam_permit.so\n"
        "session required pam_permit.so\nsession optional pam_motd.so motd={directory}/motd\n"
    )
    (tmp_path / "motd").write_text("the motd of PAM\n")
    open_to_users(tmp_path)
    service = make_pam_service(janitor, tmp_path, stack)
    with Monitor(tmp_path / "m", pam_service=service.name, wrapper=records.wrapper) as monitor:
        monitor.log_in(fresh_account)
        monitor.start_on_pty(None).read_until("$")
        text = monitor.start_on_pty(None).read_until("$")
        fresh_account.write(".hushlogin", "")
        hushed = monitor.start_on_pty(None).read_until("$")
    assert "motd" not in hushed
    assert "Last login" not in hushed
    system_motd = Path("/etc/motd").read_text() if Path("/etc/motd").exists() else ""
    positions = [text.find("the motd of PAM"), text.find("Last login: ")]
    if system_motd.strip():
        positions.append(text.find(system_motd.strip().splitlines()[0]))
    assert -1 not in positions
    assert positions == sorted(positions)
    assert "from 192.0.2.7\r" in text


@pytest.mark.parametrize("rule", ["PrintLastLog no", "PrintMotd no"])
def test_greetings_can_be_left_out(
    tmp_path: Path, account: Account, records: Records, rule: str
) -> None:
    motd = Path("/etc/motd").read_text().strip() if Path("/etc/motd").exists() else ""
    with Monitor(tmp_path, rule, wrapper=records.wrapper) as monitor:
        monitor.log_in(account)
        monitor.start_on_pty(None).read_until("$")
        text = monitor.start_on_pty(None).read_until("$")
    assert ("Last login: " in text) == (rule != "PrintLastLog no")
    if motd:
        assert (motd.splitlines()[0] in text) == (rule != "PrintMotd no")


def test_the_terminal_ends_with_its_last_program(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        child = "trap '' HUP; (sleep 0.2; echo two) & echo one"
        program = monitor.start_on_pty(child)
        text = program.read_terminal()
        assert text == "one\r\ntwo\r\n"


def test_slaves_do_not_stay_open_in_the_leader(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        for _ in range(3):
            program = monitor.start_on_pty("true")
            program.read_terminal()
            program.wait()
        directory = f"/proc/{monitor.leader_process().pid}/fd"
        targets = [os.readlink(f"{directory}/{number}") for number in os.listdir(directory)]
        assert not [target for target in targets if "pts/" in target]
        pipes = [target for target in targets if target.startswith("pipe:")]
        assert len(set(pipes)) == 1, "its own wakeup pipe, and no program's"
