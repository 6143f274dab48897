"""However a connection ends, nothing of it is left: no process, no PAM session, no terminal."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from sshoq.server.privsep import MoveSocket, SignalProgram, SocketMoved
from tests.accounts import Account, PamService, make_pam_service
from tests.janitor import Janitor
from tests.needs import need_root
from tests.privileged.monitor_driver import Monitor
from tests.processes import Process, is_running, processes_of, wait_until

pytestmark = pytest.mark.privileged

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def closing(tmp_path: Path, janitor: Janitor) -> PamService:
    """A PAM service that writes a line when the session is closed."""
    script = tmp_path / "note"
    script.write_text(f'#!/bin/sh\necho "$PAM_TYPE" >> {tmp_path}/pam.log\n')
    script.chmod(0o755)
    stack = (
        "auth required pam_permit.so\naccount required pam_permit.so\n"
        f"session required pam_exec.so {script}\n"
    )
    return make_pam_service(janitor, tmp_path, stack)


def start_programs(monitor: Monitor, account: Account) -> list[Process]:
    """One without and one on a terminal, each with a child."""
    monitor.log_in(account)
    monitor.start("sleep 2001 & sleep 2002; :")
    monitor.start_on_pty("sleep 2003 & sleep 2004; :")
    wait_until(
        lambda: [one.name for one in processes_of(account.uid)].count("sleep") == 4,
        PATIENCE,
        "four children run",
    )
    return processes_of(account.uid)


@pytest.mark.parametrize("how", ["network", "leader", "monitor", "terminate"])
def test_nothing_outlives_the_connection(
    tmp_path: Path, fresh_account: Account, closing: PamService, how: str
) -> None:
    with Monitor(tmp_path / "m", pam_service=closing.name) as monitor:
        running = start_programs(monitor, fresh_account)
        leader = monitor.leader_process()
        if how == "network":
            monitor.hang_up()
        elif how == "leader":
            os.kill(leader.pid, signal.SIGKILL)
        elif how == "monitor":
            monitor.process.kill()
        else:
            monitor.process.terminate()
        monitor.wait()
        wait_until(
            lambda: not any(is_running(one) for one in [*running, leader]),
            PATIENCE,
            f"all are gone, not {[one for one in running if is_running(one)]}",
        )
    assert processes_of(fresh_account.uid) == []
    lines = (tmp_path / "pam.log").read_text().split()
    expected = ["open_session"] if how == "monitor" else ["open_session", "close_session"]
    assert lines == expected  # nobody is left to close it when root's own process is killed


def test_a_killed_leader_takes_detached_groups_along_but_no_daemon(
    tmp_path: Path, fresh_account: Account
) -> None:
    """HUP goes to the groups on record, as the user, and to nothing that left them."""
    with Monitor(tmp_path) as monitor:
        monitor.log_in(fresh_account)
        monitor.start("setsid sleep 3001 & sleep 3002 & sleep 3003; :")
        wait_until(
            lambda: [one.name for one in processes_of(fresh_account.uid)].count("sleep") == 3,
            PATIENCE,
            "three children run",
        )
        os.kill(monitor.leader_process().pid, signal.SIGKILL)
        monitor.wait()
        wait_until(
            lambda: [one.name for one in processes_of(fresh_account.uid)] == ["sleep"],
            PATIENCE,
            "the daemon alone is left",
        )
        [daemon] = processes_of(fresh_account.uid)
        os.kill(daemon.pid, signal.SIGKILL)


def test_mains_death_is_nothing_to_a_running_login(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        program = monitor.start("cat")
        monitor.main.close()
        os.write(program.descriptors[0], b"alive\n")
        assert os.read(program.descriptors[1], 100) == b"alive\n"
        assert monitor.run("echo more")[0] == "more\n"


def test_a_stopped_program_is_hung_up_too(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        monitor.start("kill -STOP $$; :")
        wait_until(lambda: len(processes_of(account.uid)) == 2, PATIENCE, "it runs")
        running = processes_of(account.uid)
        monitor.hang_up()
        monitor.wait()
        wait_until(lambda: not any(map(is_running, running)), PATIENCE, "it is gone")


def test_a_signal_for_a_program_that_has_ended_reaches_nobody(
    tmp_path: Path, account: Account
) -> None:
    """Its number may be another's by now. What it left in its group stands in for the other."""
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        program = monitor.start("sleep 4001 </dev/null >/dev/null 2>&1 &")
        program.wait()

        def sleepers() -> list[Process]:
            return [one for one in processes_of(account.uid) if one.name == "sleep"]

        wait_until(sleepers, PATIENCE, "the shell's child has become sleep")
        [left] = sleepers()
        monitor.leader.send(SignalProgram(program.session, "KILL"))
        assert monitor.run("echo the signal was looked at")[0] != ""
        assert is_running(left)
        os.kill(left.pid, signal.SIGKILL)


def test_only_a_udp_socket_can_be_moved(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        monitor.network.send(MoveSocket("127.0.0.1", 9), [udp.fileno()])
        monitor.expect(SocketMoved)
        assert udp.getpeername() == ("127.0.0.1", 9)
        monitor.network.send(MoveSocket("127.0.0.1", 0), [udp.fileno()])
        monitor.expect(SocketMoved)
        assert udp.getpeername() == ("127.0.0.1", 9)
        monitor.network.send(MoveSocket("/run/utmp", 9), [monitor.network.fileno()])
        monitor.wait()
        assert "a move with another kind of socket" in monitor.log
