"""What the session leader starts, as whom, in which surroundings, and under which orders."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sshoq.server.privsep import (
    CloseSession,
    ProgramExited,
    SessionRefused,
    SignalProgram,
    StartProgram,
)
from tests.accounts import Account, make_pam_service, unique_name
from tests.janitor import Janitor, run_account_tool
from tests.needs import need_root
from tests.privileged.monitor_driver import Monitor, open_to_users, receive
from tests.processes import C_LIBRARY_SIGNALS, is_running, processes_of, wait_until

pytestmark = pytest.mark.privileged


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def keys(account: Account) -> Iterator[Callable[[str], None]]:
    """Puts options before the account's key; without them again after the test."""

    def write(options: str) -> None:
        account.write(".ssh/authorized_keys", f"{options} {account.public_key}\n")

    yield write
    account.write(".ssh/authorized_keys", f"{account.public_key}\n")


# --------------------------------------------------------------------------- who and where


def test_a_program_is_the_user_and_nothing_of_root(tmp_path: Path, janitor: Janitor,
                                                   account_factory: Callable[..., Account]) -> None:
    group = unique_name("sqg")
    run_account_tool("groupadd", group)
    try:
        account = account_factory(groups=(group,))
        with Monitor(tmp_path) as monitor:
            monitor.log_in(account)
            shown = "grep -E '^(Uid|Gid|Cap|NoNewPrivs|Sig)' /proc/self/status; id -nG"
            out, _, _ = monitor.run(shown)
    finally:
        run_account_tool("groupdel", "--force", group)
    lines = {line.split(":")[0]: line.split()[1:] for line in out.splitlines()[:-1]}
    assert lines["Uid"] == [str(account.uid)] * 4
    assert lines["Gid"] == [str(account.gid)] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(lines[name][0], 16) == 0, name
    assert lines["NoNewPrivs"] == ["0"], "sudo must work"
    for name in ("SigIgn", "SigBlk"):
        assert int(lines[name][0], 16) & ~C_LIBRARY_SIGNALS == 0, name
    assert set(out.splitlines()[-1].split()) == {account.name, group}


def test_a_program_is_a_session_of_its_own_without_our_descriptors(
    tmp_path: Path, account: Account
) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        out, _, _ = monitor.run("echo $$; ps -o pid=,pgid=,sid= -p $$; ls /proc/$$/fd; umask; pwd")
    pid, ids, *descriptors, umask, directory = out.splitlines()
    assert ids.split() == [pid] * 3
    assert descriptors == ["0", "1", "2"] or descriptors == ["0", "1", "2", "255"]
    assert umask in ("0022", "022")
    assert directory == str(account.home)


def test_the_shell_is_a_login_shell_and_a_command_is_not(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        assert monitor.run("echo $0")[0] == "bash\n"
        shell = monitor.start(None)
        os.write(shell.descriptors[0], b"echo $0; shopt -q login_shell && echo login\nexit 3\n")
        assert shell.finish() == ("-bash\nlogin\n", "", 3)


def test_the_environment_is_built_from_nothing(tmp_path: Path, account: Account) -> None:
    rules = ("AcceptEnv LANG LC_*", "SetEnv FROM_CONFIG=1")
    with Monitor(tmp_path, *rules) as monitor:
        monitor.log_in(account)
        wanted = (b"LANG=xx_YY", b"LC_ALL=C", b"LD_PRELOAD=/evil", b"USER=root", b"no")
        out, _, _ = monitor.run("exec /usr/bin/env", environment=wanted)
    found = dict(line.split("=", 1) for line in out.splitlines() if not line.startswith("_="))
    assert found == {
        "LANG": "xx_YY",
        "LC_ALL": "C",
        "USER": account.name,
        "LOGNAME": account.name,
        "HOME": str(account.home),
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/games",
        "MAIL": f"/var/mail/{account.name}",
        "SHELL": "/bin/bash",
        "FROM_CONFIG": "1",
        "SSH_CLIENT": "192.0.2.7 40007 443",
        "SSH_CONNECTION": "192.0.2.7 40007 192.0.2.1 443",
        # bash's own
        "PWD": str(account.home),
        "SHLVL": "0",
    }


def test_users_may_add_to_the_environment_if_that_is_permitted(
    tmp_path: Path, account: Account, keys: Callable[[str], None]
) -> None:
    keys('environment="FROM_KEY=first",environment="FROM_KEY=second",environment="X_KEY=1"')
    account.write(".ssh/environment", "# comment\nFROM_FILE=1\nX_FILE=1\nnonsense\n")
    show = "echo $FROM_KEY $FROM_FILE ${X_KEY-none} ${X_FILE-none}"
    with Monitor(tmp_path / "no") as monitor:
        monitor.log_in(account)
        assert monitor.run(show)[0] == "none none\n"
    with Monitor(tmp_path / "some", "PermitUserEnvironment FROM_*") as monitor:
        monitor.log_in(account)
        assert monitor.run(show)[0] == "first 1 none none\n"
        assert "Bad line 4 in" in monitor.log


def test_the_way_in_is_exposed_if_that_is_wanted(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path, "ExposeAuthInfo yes") as monitor:
        monitor.log_in(account)
        show = "stat -c %a $SSH_USER_AUTH; echo $SSH_USER_AUTH; cat $SSH_USER_AUTH"
        out, _, _ = monitor.run(show)
        mode, path, text = out.splitlines()
        assert (mode, text) == ("600", f"publickey {' '.join(account.public_key.split()[:2])}")
    assert not os.path.exists(path)


def test_limits_that_pam_sets_hold_in_programs(
    tmp_path: Path, account: Account, janitor: Janitor
) -> None:
    (tmp_path / "limits").write_text(f"{account.name} hard nofile 333\n")
    open_to_users(tmp_path)
    stack = (
        "auth required pam_permit.so\naccount required pam_permit.so\n"
        "session required pam_limits.so conf={directory}/limits\n"
        "session optional pam_umask.so umask=0027\n"
    )
    service = make_pam_service(janitor, tmp_path, stack)
    with Monitor(tmp_path / "m", pam_service=service.name) as monitor:
        monitor.log_in(account)
        assert monitor.run("ulimit -Hn; umask")[0] == "333\n0027\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] != 333


def test_a_home_that_is_gone_is_said_and_no_obstacle(
    tmp_path: Path, fresh_account: Account
) -> None:
    run_account_tool("usermod", "--home", "/nowhere", fresh_account.name)
    keys = tmp_path / "keys"
    keys.write_text(fresh_account.public_key)
    keys.chmod(0o644)
    open_to_users(tmp_path)
    with Monitor(tmp_path / "m", f"AuthorizedKeysFile {keys}", "StrictModes no") as monitor:
        monitor.log_in(fresh_account)
        out, err, _ = monitor.run("pwd")
    assert err == "Could not chdir to home directory /nowhere: No such file or directory\n"
    assert out == "/\n"


# --------------------------------------------------------------------------- orders from above


def test_a_forced_command_goes_before_the_keys_and_that_before_the_request(
    tmp_path: Path, account: Account, keys: Callable[[str], None]
) -> None:
    keys('command="echo key: $SSH_ORIGINAL_COMMAND"')
    with Monitor(tmp_path / "key") as monitor:
        monitor.log_in(account)
        assert monitor.run("rm -rf /")[0] == "key: rm -rf /\n"
        assert monitor.start(None).finish()[0] == "key:\n"
    rule = 'ForceCommand echo "config: $SSH_ORIGINAL_COMMAND"'
    with Monitor(tmp_path / "config", rule) as monitor:
        monitor.log_in(account)
        assert monitor.run("true")[0] == "config: true\n"


def test_a_subsystem_is_a_configured_command(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path, "Subsystem greet /bin/echo hello") as monitor:
        monitor.log_in(account)
        greeting = monitor.start("greet", kind=StartProgram.SUBSYSTEM)
        assert greeting.finish() == ("hello\n", "", 0)
        assert "Starting session: subsystem 'greet' for" in monitor.log
        monitor.leader.send(StartProgram(99, StartProgram.SUBSYSTEM, b"other", ()))
        assert monitor.expect(SessionRefused, monitor.leader).reason == "subsystem not found"


def test_forced_internal_sftp_serves_nothing_else(tmp_path: Path, account: Account) -> None:
    rules = ("ForceCommand internal-sftp", "Subsystem sftp internal-sftp")
    with Monitor(tmp_path, *rules) as monitor:
        monitor.log_in(account)
        refused = monitor.run("id")
        assert refused == ("", "This service allows sftp connections only.\n", 1)
        sftp = monitor.start("sftp", kind=StartProgram.SUBSYSTEM)
        os.write(sftp.descriptors[0], b"\0\0\0\5\1\0\0\0\3")  # INIT, version 3
        assert os.read(sftp.descriptors[1], 9)[4:] == b"\2\0\0\0\3"


def test_the_users_rc_runs_before_the_program_where_it_may(
    tmp_path: Path, fresh_account: Account
) -> None:
    fresh_account.write(".ssh/rc", "echo rc for $USER\n")
    with Monitor(tmp_path / "yes") as monitor:
        monitor.log_in(fresh_account)
        assert monitor.run("echo main")[0] == f"rc for {fresh_account.name}\nmain\n"
    for rule in ("PermitUserRC no", "ForceCommand echo main"):
        with Monitor(tmp_path / rule.split()[0], rule) as monitor:
            monitor.log_in(fresh_account)
            assert monitor.run("echo main")[0] == "main\n"
    fresh_account.write(".ssh/authorized_keys", f"no-user-rc {fresh_account.public_key}\n")
    with Monitor(tmp_path / "key") as monitor:
        monitor.log_in(fresh_account)
        assert monitor.run("echo main")[0] == "main\n"


def test_a_chroot_holds_the_program(tmp_path: Path, fresh_account: Account) -> None:
    root = Path("/run") / unique_name("sqroot")
    (root / "bin").mkdir(parents=True)
    try:
        subprocess.run(["cp", "/bin/busybox", str(root / "bin/sh")], check=False)
        if not (root / "bin/sh").exists():
            _copy_with_libraries("/bin/dash", root, "bin/sh")
        run_account_tool("usermod", "--shell", "/bin/sh", fresh_account.name)
        with Monitor(tmp_path / "m", f"ChrootDirectory {root}") as monitor:
            monitor.log_in(fresh_account)
            out, err, _ = monitor.run("echo /*; pwd")
            assert out.splitlines()[-1] == "/"
            assert "/etc" not in out
            assert err == "", "in a chroot a missing home is no news"
            program = monitor.start_on_pty("echo on $SSH_TTY")
            assert "on /dev/pts/" in program.read_terminal()
        root.chmod(0o777)
        with Monitor(tmp_path / "bad", f"ChrootDirectory {root}") as monitor:
            monitor.log_in(fresh_account)
            assert monitor.wait() == 0
            assert "bad ownership or modes for chroot directory" in monitor.log
    finally:
        subprocess.run(["rm", "-rf", "--", str(root)], check=True)


def _copy_with_libraries(program: str, root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", program, str(root / name)], check=True)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in (word for word in listed.split() if word.startswith("/")):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-L", path, str(target)], check=True)


def test_sessions_are_counted(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path, "MaxSessions 2") as monitor:
        assert monitor.try_key(account.name, account.key).outcome == 1
        assert monitor.open_login().max_sessions == 2
        first = monitor.start("cat")
        monitor.start("cat")
        monitor.leader.send(StartProgram(77, StartProgram.EXEC, b"true", ()))
        assert monitor.expect(SessionRefused, monitor.leader).session == 77
        monitor.leader.send(CloseSession(first.session))
        assert monitor.run("echo again")[0] == "again\n"


def test_the_second_program_of_a_session_ends_the_conversation(
    tmp_path: Path, account: Account
) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        program = monitor.start("sleep 1000")
        monitor.leader.send(StartProgram(program.session, StartProgram.EXEC, b"true", ()))
        assert monitor.wait() == 0
        assert "a second program" in monitor.log


# --------------------------------------------------------------------------- how programs end


def test_a_shell_that_cannot_be_run_is_said_as_sshd_says_it(
    tmp_path: Path, account_factory: Callable[..., Account]
) -> None:
    broken = Path("/run") / unique_name("sqshell")
    broken.write_text("#!/nonexistent/interpreter\n")
    broken.chmod(0o755)
    try:
        account = account_factory(shell=str(broken))
        with Monitor(tmp_path) as monitor:
            monitor.log_in(account)
            assert monitor.run("true") == ("", f"{broken}: No such file or directory\n", 1)
    finally:
        broken.unlink()


def test_a_program_that_a_signal_ends_is_reported_by_name(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        program = monitor.start("kill -SEGV $$")
        exited = program.wait()
        assert (exited.signal, exited.status) == ("SEGV", 0)


def test_signals_go_to_the_whole_group(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        program = monitor.start("sleep 1001 & echo started; wait; echo no")
        assert os.read(program.descriptors[1], 100) == b"started\n"
        monitor.leader.send(SignalProgram(program.session, "NOSUCH"))
        monitor.leader.send(SignalProgram(program.session, "TERM"))
        assert program.wait().signal == "TERM"
        wait_until(
            lambda: "sleep" not in [one.name for one in processes_of(account.uid)],
            30,
            "the child has got the signal, too",
        )


def test_forced_commands_are_not_signalled(
    tmp_path: Path, account: Account
) -> None:
    with Monitor(tmp_path, "ForceCommand read line; exit 5") as monitor:
        monitor.log_in(account)
        program = monitor.start("x")
        monitor.leader.send(SignalProgram(program.session, "KILL"))
        refusal = "refusing to send signal KILL to forced-command session"
        wait_until(lambda: refusal in monitor.log, 30, "the refusal is logged")
        os.write(program.descriptors[0], b"\n")
        assert program.wait() == ProgramExited(program.session, 5, "", False)


def test_closing_a_session_hangs_up_what_runs_in_it(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        program = monitor.start("sleep 1002 & sleep 1003")
        wait_until(
            lambda: [one.name for one in processes_of(account.uid)].count("sleep") == 2,
            30,
            "both run",
        )
        monitor.leader.send(CloseSession(program.session))
        wait_until(
            lambda: "sleep" not in [one.name for one in processes_of(account.uid)], 30, "hung up"
        )


def test_what_was_put_into_the_background_outlives_its_shell(
    tmp_path: Path, account: Account
) -> None:
    """`ssh host 'daemon >/dev/null 2>&1 &'` is common, and sshd leaves the daemon alone."""
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        out, _, _ = monitor.run("sleep 1004 >/dev/null 2>&1 & echo $!")
        [daemon] = [one for one in processes_of(account.uid) if one.pid == int(out)]
        monitor.hang_up()
        monitor.wait()
        assert is_running(daemon)
        os.kill(daemon.pid, signal.SIGKILL)


def test_a_client_cannot_ask_for_a_zero_byte(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_in(account)
        monitor.leader.send(StartProgram(1, StartProgram.EXEC, b"echo a\0b", ()))
        message, _ = receive(monitor.leader)
        assert isinstance(message, SessionRefused)
        assert monitor.run("echo fine")[0] == "fine\n"


def test_nologin_closes_the_machine_without_pam(tmp_path: Path, account: Account) -> None:
    """Seen by this monitor alone: it gets an /etc of its own."""
    # Without a check: other tests make users meanwhile, whose lock files vanish.
    subprocess.run(["cp", "-a", "/etc", str(tmp_path / "etc")], stderr=subprocess.DEVNULL)
    (tmp_path / "etc/nologin").write_text("Back at noon.\n")
    mount = 'mount --bind "$0" /etc && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", mount, str(tmp_path / "etc"))
    with Monitor(tmp_path / "m", wrapper=wrapper) as monitor:
        monitor.log_in(account)
        assert monitor.run("id") == ("", "Back at noon.\n", 254)
