"""Who may log in, what they are told when they may not, and as whom their programs run."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account, PamService, make_key
from tests.needs import need_root
from tests.processes import C_LIBRARY_SIGNALS, processes_of, wait_until
from tests.programs import Client, OpenSSH, Programs, Server
from tests.scenarios.conftest import ClientFactory, ServerFactory
from tests.terminal import Terminal

OpenTerminal = Callable[..., Terminal]

pytestmark = pytest.mark.privileged


def askpass(directory: Path, *answers: str) -> dict[str, str]:
    """Answers to prompts in turn, the last one for ever; the prompts are kept in a file."""
    directory.joinpath("answers").write_text("".join(f"{answer}\n" for answer in answers))
    program = directory / "askpass"
    program.write_text(
        f'#!/bin/sh\ncd {directory}\necho "$1" >> prompts\nhead -n 1 answers\n'
        'test "$(wc -l < answers)" -le 1 || sed -i 1d answers\n'
    )
    program.chmod(0o755)
    return {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}


def prompts(directory: Path) -> list[str]:
    path = directory / "prompts"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def pam_server(programs: Programs, start_server: ServerFactory, pam_service: PamService) -> Server:
    return start_server(programs, [], pam=pam_service)


class TestIdentity:
    def test_the_command_runs_as_the_user_in_the_home(
        self, client: Client, account: Account
    ) -> None:
        output = client.output("id -u; id -g; id -un; pwd").decode().split()
        assert output == [str(account.uid), str(account.gid), account.name, str(account.home)]

    def test_the_groups_are_the_users_and_no_more(
        self,
        server: Server,
        connect: ClientFactory,
        account_factory: Callable[..., Account],
    ) -> None:
        member = account_factory(groups=("games", "audio"))
        groups = connect(server, member).output("id -Gn").decode().split()
        assert sorted(groups) == sorted([member.name, "games", "audio"])

    def test_the_environment_is_made_from_nothing(self, client: Client, account: Account) -> None:
        lines = client.output("exec /usr/bin/env").decode().splitlines()
        environment = dict(line.split("=", 1) for line in lines)
        assert environment.pop("PATH").split(":")[0].startswith("/")
        assert environment.pop("SSH_CLIENT").split()[0] == "127.0.0.1"
        peer, peer_port, own, own_port = environment.pop("SSH_CONNECTION").split()
        assert (peer, own) == ("127.0.0.1", "127.0.0.1")
        assert int(own_port) == client.server.port
        assert 0 < int(peer_port) < 65536
        for variable in ("_", "SHLVL", "PWD", "OLDPWD", "LANG", "TZ"):
            environment.pop(variable, None)
        assert environment == {
            "USER": account.name,
            "LOGNAME": account.name,
            "HOME": str(account.home),
            "SHELL": "/bin/bash",
            "MAIL": f"/var/mail/{account.name}",
        }

    def test_no_descriptor_signal_or_privilege_leaks_into_the_command(self, client: Client) -> None:
        shell = client.output("ls /proc/self/fd | sort -n | tr '\\n' ' '").split()
        assert shell == [b"0", b"1", b"2", b"3"]  # 3 is the folder that ls reads
        status = client.output("grep -E '^(Sig(Blk|Ign)|Cap(Inh|Prm|Eff|Amb))' /proc/self/status")
        for line in status.decode().splitlines():
            mask = ~C_LIBRARY_SIGNALS if line.startswith("Sig") else -1
            assert int(line.split()[1], 16) & mask == 0, line

    def test_the_umask_and_the_session_are_ordinary(self, client: Client) -> None:
        output = client.output("umask; ps -o sid= -p $$; echo $$").split()
        assert output[0] == b"0022"
        assert output[1] == output[2]

    def test_a_hundred_logins_of_five_users_at_once(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        account_factory: Callable[..., Account],
    ) -> None:
        """Each sees the own user, groups and environment; afterwards nothing of them is left."""
        server = start_server(programs, ["MaxStartups 200", "AcceptEnv SCENARIO_*"])
        groups = ("games", "audio", "video", "src", "users")
        users = [account_factory(groups=(group,)) for group in groups]
        clients = [connect(server, user) for user in users]
        started: list[tuple[Account, str, str, subprocess.Popen[bytes]]] = []
        for number in range(100):
            user, group = users[number % 5], groups[number % 5]
            flags = ["-o", f"SetEnv=SCENARIO_N={number}"]
            process = clients[number % 5].start(
                "id -un; id -Gn; echo $HOME $SCENARIO_N", flags=flags
            )
            started.append((user, group, str(number), process))
        for user, group, text, process in started:
            output, errors = process.communicate(timeout=100)
            expected = [user.name, user.name, group, str(user.home), text]
            assert output.decode().split() == expected, errors
            assert process.returncode == 0
        for user in users:
            wait_until(lambda uid=user.uid: not processes_of(uid), 20, "the user has no process")  # type: ignore[misc]  # mypy cannot infer a lambda with a default


class TestRefusals:
    def test_a_wrong_key_is_denied_with_the_methods_that_could_go_on(
        self, client: Client, connect: ClientFactory, account: Account, tmp_path: Path
    ) -> None:
        other = connect(client.server, account, key=make_key(tmp_path / "other"))
        done = other.run("true")
        assert done.returncode == 255
        expected = f"{account.name}@127.0.0.1: Permission denied (publickey,password"
        assert expected in done.stderr.decode()

    def test_an_unknown_user_is_told_the_same(
        self, server: Server, connect: ClientFactory, account: Account
    ) -> None:
        done = connect(server, account, user="nobody-of-this-name").run("true")
        assert done.returncode == 255
        expected = "nobody-of-this-name@127.0.0.1: Permission denied (publickey,password"
        assert expected in done.stderr.decode()

    def test_a_key_file_that_others_may_write_is_not_trusted(
        self, server: Server, connect: ClientFactory, fresh_account: Account
    ) -> None:
        client = connect(server, fresh_account)
        assert client.run("true").returncode == 0
        fresh_account.authorized_keys.chmod(0o602)
        assert client.run("true").returncode == 255
        fresh_account.authorized_keys.chmod(0o600)
        fresh_account.home.chmod(0o777)
        assert client.run("true").returncode == 255
        assert "bad ownership or modes" in server.log()

    def test_strict_modes_can_be_switched_off(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
    ) -> None:
        server = start_server(programs, ["StrictModes no"])
        fresh_account.home.chmod(0o777)
        assert connect(server, fresh_account).run("true").returncode == 0

    def test_a_shell_that_does_not_exist_refuses_the_user(
        self, server: Server, connect: ClientFactory, account_factory: Callable[..., Account]
    ) -> None:
        user = account_factory(shell="/nonexistent/shell")
        assert connect(server, user).run("true").returncode == 255

    def test_a_changed_host_key_is_refused_loudly(self, client: Client, tmp_path: Path) -> None:
        other = Path(f"{make_key(tmp_path / 'other_host')}.pub").read_text().split()[1]
        lines = client.known_hosts.read_text().splitlines()
        client.known_hosts.write_text(
            "".join(f"{line.rsplit(' ', 1)[0]} {other}\n" for line in lines)
        )
        done = client.run("true")
        assert done.returncode == 255
        assert b"REMOTE HOST IDENTIFICATION HAS CHANGED!" in done.stderr
        assert b"Host key verification failed." in done.stderr

    def test_an_unknown_host_key_is_refused_when_checking_is_strict(self, client: Client) -> None:
        client.known_hosts.write_text("")
        done = client.run("true")
        assert done.returncode == 255
        assert b"Host key verification failed." in done.stderr

    def test_an_unknown_host_key_can_be_learned(self, client: Client) -> None:
        client.known_hosts.write_text("")
        done = client.run("true", flags=["-o", "StrictHostKeyChecking=accept-new"])
        assert done.returncode == 0
        assert b"Permanently added" in done.stderr
        assert client.run("true").returncode == 0


class TestPassword:
    def test_the_right_password_opens(
        self, pam_server: Server, connect: ClientFactory, account: Account, tmp_path: Path
    ) -> None:
        client = password_client(connect, pam_server, account)
        env = askpass(tmp_path, account.password)
        assert client.output("id -un", env=env).decode() == f"{account.name}\n"
        assert prompts(tmp_path) == [f"{account.name}@127.0.0.1's password: "]
        assert "Accepted password for" in pam_server.log()

    def test_a_wrong_password_is_asked_again_three_times_in_all(
        self, pam_server: Server, connect: ClientFactory, account: Account, tmp_path: Path
    ) -> None:
        client = password_client(connect, pam_server, account)
        done = client.run("true", env=askpass(tmp_path, "wrong"))
        assert done.returncode == 255
        assert len(prompts(tmp_path)) == 3
        assert done.stderr.count(b"Permission denied, please try again.") == 2
        # pam_unix has had enough after three, and sshd then no longer offers passwords.
        assert b"Permission denied (publickey" in done.stderr
        assert f"Failed password for {account.name} from 127.0.0.1 port" in pam_server.log()

    def test_the_second_try_may_be_right(
        self, pam_server: Server, connect: ClientFactory, account: Account, tmp_path: Path
    ) -> None:
        client = password_client(connect, pam_server, account)
        done = client.run("echo in", env=askpass(tmp_path, "wrong", account.password))
        assert (done.returncode, done.stdout) == (0, b"in\n")

    @pytest.mark.parametrize("answer", ["", "x" * 1000])
    def test_an_empty_or_huge_password_is_only_wrong(
        self,
        pam_server: Server,
        connect: ClientFactory,
        account: Account,
        tmp_path: Path,
        answer: str,
    ) -> None:
        client = password_client(connect, pam_server, account)
        env = askpass(tmp_path, answer)
        assert client.run("true", env=env).returncode == 255
        assert connect(pam_server, account).run("true").returncode == 0

    def test_no_password_when_the_server_does_not_offer_it(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        account: Account,
        tmp_path: Path,
    ) -> None:
        settings = ["PasswordAuthentication no", "KbdInteractiveAuthentication no"]
        server = start_server(programs, settings)
        client = password_client(connect, server, account)
        done = client.run("true", env=askpass(tmp_path, account.password))
        assert done.returncode == 255
        assert b"Permission denied (publickey)." in done.stderr
        assert prompts(tmp_path) == []

    def test_the_pam_session_gives_its_environment(
        self, pam_server: Server, connect: ClientFactory, account: Account
    ) -> None:
        assert connect(pam_server, account).output("echo $FROM_PAM") == b"yes\n"

    def test_an_expired_account_is_refused_with_a_key_too(
        self, pam_server: Server, connect: ClientFactory, fresh_account: Account
    ) -> None:
        client = connect(pam_server, fresh_account)
        assert client.run("true").returncode == 0
        subprocess.run(["chage", "--expiredate", "1", fresh_account.name], check=True)
        assert client.run("true").returncode == 255
        assert (
            f"Access denied for user {fresh_account.name} by PAM account configuration"
            in pam_server.log()
        )

    def test_nologin_keeps_users_out(
        self,
        pam_server: Server,
        pam_service: PamService,
        connect: ClientFactory,
        account: Account,
    ) -> None:
        client = connect(pam_server, account)
        notice = pam_service.directory / "nologin"
        notice.write_text("Down until Tuesday.\n")
        done = client.run("true")
        assert done.returncode == 255
        assert b"Down until Tuesday." in done.stderr
        notice.unlink()
        assert client.run("true").returncode == 0


class TestSeveralMethods:
    @pytest.fixture
    def client(
        self,
        programs: Programs,
        start_server: ServerFactory,
        pam_service: PamService,
        connect: ClientFactory,
        account: Account,
    ) -> Client:
        settings = ["AuthenticationMethods publickey,password", "ExposeAuthInfo yes"]
        server = start_server(programs, settings, pam=pam_service)
        client = connect(server, account)
        client.more_options = ["-o", "PreferredAuthentications=password,publickey"]
        return client

    def test_a_key_and_a_password_open_together(
        self, client: Client, account: Account, tmp_path: Path
    ) -> None:
        env = askpass(tmp_path, account.password)
        shown = client.output("cat $SSH_USER_AUTH", env=env).decode()
        kind, key, *_ = account.public_key.split()
        assert shown == f"publickey {kind} {key}\npassword\n"
        assert f"Partial publickey for {account.name} from" in client.server.log()
        assert f"Accepted password for {account.name} from" in client.server.log()

    def test_either_alone_opens_nothing(
        self, client: Client, account: Account, tmp_path: Path
    ) -> None:
        done = client.run("true", env=askpass(tmp_path, "wrong"))
        assert done.returncode == 255
        # The key is done with; and PAM, behind sshd, may want no more passwords either.
        last_line = done.stderr.splitlines()[-1]
        assert b": Permission denied" in last_line
        assert b"publickey" not in last_line
        without = client.run("true")  # BatchMode: the key is all there is
        assert without.returncode == 255
        client.key = None
        (tmp_path / "prompts").unlink()
        alone = client.run("true", env=askpass(tmp_path, account.password))
        assert b"Permission denied (publickey)." in alone.stderr
        assert prompts(tmp_path) == []


def password_client(connect: ClientFactory, server: Server, account: Account) -> Client:
    """One that has no key to offer, and prefers the plain method to keyboard-interactive."""
    client = connect(server, account)
    client.key = None
    client.more_options = ["-o", "PreferredAuthentications=password"]
    return client


class TestKeyOptions:
    @pytest.fixture
    def user(self, fresh_account: Account) -> Account:
        return fresh_account

    def set_options(self, user: Account, options: str) -> None:
        user.authorized_keys.write_text(f"{options} {user.public_key}\n")

    def test_command_replaces_what_was_asked(
        self, server: Server, connect: ClientFactory, user: Account
    ) -> None:
        self.set_options(user, 'command="echo forced: $SSH_ORIGINAL_COMMAND"')
        assert connect(server, user).output("rm", "-rf", "x") == b"forced: rm -rf x\n"

    def test_a_command_without_request_leaves_no_original(
        self, server: Server, connect: ClientFactory, user: Account
    ) -> None:
        self.set_options(user, 'command="echo ${SSH_ORIGINAL_COMMAND-none}"')
        assert connect(server, user).output(flags=["-T"]) == b"none\n"

    @pytest.mark.parametrize("options", ["no-pty", "restrict"])
    def test_no_pty_refuses_the_terminal_and_runs_the_command(
        self, server: Server, connect: ClientFactory, user: Account, options: str
    ) -> None:
        self.set_options(user, options)
        client = connect(server, user)
        assert client.output("echo fine") == b"fine\n"
        done = client.run("tty", flags=["-tt"])
        assert b"PTY allocation request failed on channel 0" in done.stderr
        assert b"/dev/pts" not in done.stdout

    def test_restrict_with_pty_gives_the_terminal_back(
        self, server: Server, connect: ClientFactory, user: Account
    ) -> None:
        self.set_options(user, "restrict,pty")
        assert connect(server, user).output("tty", flags=["-tt"]).startswith(b"/dev/pts/")

    def test_environment_needs_the_servers_permission(
        self, programs: Programs, start_server: ServerFactory, connect: ClientFactory, user: Account
    ) -> None:
        self.set_options(user, 'environment="GIVEN=by key",environment="OTHER=1"')
        refused = start_server(programs)
        assert connect(refused, user).output("echo $GIVEN") == b"\n"
        some = start_server(programs, ["PermitUserEnvironment GIV*"])
        assert connect(some, user).output("echo $GIVEN-$OTHER") == b"by key-\n"
        every = start_server(programs, ["PermitUserEnvironment yes"])
        assert connect(every, user).output("echo $GIVEN-$OTHER") == b"by key-1\n"

    @pytest.mark.parametrize(
        ("sources", "status"),
        [
            ("127.0.0.1", 0),
            ("127.0.0.0/8", 0),
            ("10.0.0.0/8", 255),
            ("!127.0.0.1,127.*", 255),
            ("10.0.0.1,127.0.0.?", 0),
        ],
    )
    def test_from_limits_where_the_key_may_be_used(
        self, server: Server, connect: ClientFactory, user: Account, sources: str, status: int
    ) -> None:
        self.set_options(user, f'from="{sources}"')
        assert connect(server, user).run("true").returncode == status

    @pytest.mark.parametrize(
        ("date", "status"), [("19990101", 255), ("20380101", 0), ("199901010000Z", 255)]
    )
    def test_expiry_time_ends_a_key(
        self, server: Server, connect: ClientFactory, user: Account, date: str, status: int
    ) -> None:
        self.set_options(user, f'expiry-time="{date}"')
        assert connect(server, user).run("true").returncode == status

    def test_an_unknown_option_refuses_the_key(
        self, server: Server, connect: ClientFactory, user: Account
    ) -> None:
        self.set_options(user, "no-such-option")
        assert connect(server, user).run("true").returncode == 255

    def test_garbage_beside_the_key_does_no_harm(
        self, server: Server, connect: ClientFactory, user: Account
    ) -> None:
        user.authorized_keys.write_text(
            f"\n# comment\nssh-ed25519 garbage\n\x00\xff\n  {user.public_key}"
        )
        assert connect(server, user).run("true").returncode == 0


class TestServerSettings:
    @pytest.fixture
    def run(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        account: Account,
    ) -> Callable[..., subprocess.CompletedProcess[bytes]]:
        def run(
            settings: list[str], *words: str, flags: tuple[str, ...] = ()
        ) -> subprocess.CompletedProcess[bytes]:
            settings = [line.replace("USER", account.name) for line in settings]
            return connect(start_server(programs, settings), account).run(*words, flags=flags)

        return run

    def test_force_command_beats_request_and_key(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
    ) -> None:
        key = fresh_account.public_key
        fresh_account.authorized_keys.write_text(f'command="echo key" {key}\n')
        server = start_server(programs, ["ForceCommand echo server: $SSH_ORIGINAL_COMMAND"])
        assert connect(server, fresh_account).output("asked") == b"server: asked\n"

    def test_only_accepted_variables_arrive(
        self, run: Callable[..., subprocess.CompletedProcess[bytes]]
    ) -> None:
        flags = ("-o", "SetEnv=GOOD_ONE=1 BAD_ONE=1")
        done = run(["AcceptEnv GOOD_*"], "echo $GOOD_ONE-$BAD_ONE", flags=flags)
        assert done.stdout == b"1-\n"

    def test_the_servers_own_variables_win(
        self, run: Callable[..., subprocess.CompletedProcess[bytes]]
    ) -> None:
        settings = ["AcceptEnv A", "SetEnv A=server B=also"]
        done = run(settings, "echo $A $B", flags=("-o", "SetEnv=A=client"))
        assert done.stdout == b"server also\n"

    @pytest.mark.parametrize(
        ("settings", "status"),
        [
            (["AllowUsers USER"], 0),
            (["AllowUsers somebody else"], 255),
            (["AllowUsers USER@127.0.0.0/8"], 0),
            (["AllowUsers USER@10.0.0.0/8"], 255),
            (["DenyUsers USER"], 255),
            (["DenyUsers somebody"], 0),
            (["AllowUsers USER", "DenyUsers USER"], 255),
            (["AllowGroups USER"], 0),
            (["AllowGroups wheel"], 255),
            (["DenyGroups USER"], 255),
            (["PubkeyAuthentication no"], 255),
        ],
    )
    def test_allow_and_deny(
        self,
        run: Callable[..., subprocess.CompletedProcess[bytes]],
        settings: list[str],
        status: int,
    ) -> None:
        assert run(settings, "true").returncode == status

    def test_a_match_block_holds_for_its_user_only(
        self, run: Callable[..., subprocess.CompletedProcess[bytes]]
    ) -> None:
        blocks = ["Match User somebody", "ForceCommand echo no", "Match User USER"]
        done = run([*blocks, "ForceCommand echo matched"], "asked")
        assert done.stdout == b"matched\n"

    def test_a_match_block_may_look_at_the_address(
        self, run: Callable[..., subprocess.CompletedProcess[bytes]]
    ) -> None:
        blocks = ["Match Address 10.0.0.0/8", "ForceCommand echo far"]
        done = run([*blocks, "Match Address 127.0.0.1", "ForceCommand echo near"], "asked")
        assert done.stdout == b"near\n"

    @pytest.mark.parametrize("size", [0, 10, 100_000])
    def test_the_banner_is_shown_on_stderr(
        self,
        run: Callable[..., subprocess.CompletedProcess[bytes]],
        tmp_path: Path,
        size: int,
    ) -> None:
        banner = tmp_path / "banner"
        text = ("All your keys\n" * (size // 14 + 1))[:size]
        banner.write_text(text)
        done = run([f"Banner {banner}"], "true")
        assert done.returncode == 0
        assert done.stderr.decode().replace("\r\n", "\n") == text

    def test_quiet_clients_see_no_banner(
        self, run: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path
    ) -> None:
        (tmp_path / "banner").write_text("text\n")
        done = run([f"Banner {tmp_path}/banner"], "true", flags=("-q",))
        assert (done.returncode, done.stderr) == (0, b"")

    def test_a_missing_banner_is_silent(
        self, run: Callable[..., subprocess.CompletedProcess[bytes]]
    ) -> None:
        done = run(["Banner /nonexistent/banner"], "true")
        assert (done.returncode, done.stderr) == (0, b"")

    def test_terminals_can_be_forbidden(
        self, run: Callable[..., subprocess.CompletedProcess[bytes]]
    ) -> None:
        done = run(["PermitTTY no"], "tty", flags=("-tt",))
        assert b"PTY allocation request failed on channel 0" in done.stderr

    def test_several_key_files_are_read(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
    ) -> None:
        fresh_account.authorized_keys.rename(fresh_account.home / ".ssh/elsewhere")
        settings = ["AuthorizedKeysFile .ssh/authorized_keys %h/.ssh/elsewhere"]
        server = start_server(programs, settings)
        assert connect(server, fresh_account).run("true").returncode == 0

    def test_a_command_may_name_the_keys(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
    ) -> None:
        with root_owned_script(fresh_account) as script:
            fresh_account.authorized_keys.unlink()
            settings = [f"AuthorizedKeysCommand {script} %u %k", "AuthorizedKeysCommandUser nobody"]
            server = start_server(programs, settings)
            assert connect(server, fresh_account).run("true").returncode == 0

    def test_a_chroot_is_all_there_is(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
    ) -> None:
        """With a statically linked shell's worth of files: the dynamic loader and sh."""
        with small_root() as root:
            server = start_server(programs, [f"ChrootDirectory {root}"])
            client = connect(server, fresh_account)
            assert client.output("exec /bin/sh -c 'echo /*'", flags=["-T"]).split() == [
                f"/{name}".encode() for name in sorted(os.listdir(root))
            ]

    def test_a_chroot_that_others_may_write_is_refused(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
    ) -> None:
        with small_root() as root:
            os.chmod(root, 0o777)
            server = start_server(programs, [f"ChrootDirectory {root}"])
            assert connect(server, fresh_account).run("true").returncode == 255


@contextlib.contextmanager
def root_owned_script(user: Account) -> Iterator[Path]:
    """sshd wants every folder above it to be root's and closed to others, so not below /tmp."""
    path = Path(f"/usr/local/lib/{user.name}-keys")
    try:
        path.write_text(f'#!/bin/sh\ntest "$1" = {user.name} && echo "{user.public_key}"\n')
        path.chmod(0o755)
        yield path
    finally:
        path.unlink()


@contextlib.contextmanager
def small_root() -> Iterator[str]:
    """A root for /bin/bash, in a place whose every parent is root's."""
    root = tempfile.mkdtemp(prefix="sshoq-test-root-", dir="/var/lib")
    try:
        os.chmod(root, 0o755)
        needed = subprocess.run(
            ["ldd", "/bin/bash"], capture_output=True, text=True, check=True
        ).stdout.split()
        for path in [*(word for word in needed if word.startswith("/")), "/bin/bash"]:
            target = Path(root + path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(os.path.realpath(path), target)
        Path(root, "bin/sh").symlink_to("bash")
        yield root
    finally:
        shutil.rmtree(root)


class TestRoot:
    """Root's key is taken from a file of the test's own; ~root is not touched."""

    @pytest.fixture
    def key(self, tmp_path: Path) -> Path:
        need_root()
        return make_key(tmp_path / "root")

    @pytest.mark.parametrize(
        ("setting", "options", "output"),
        [
            ("yes", "", b"asked\n"),
            ("prohibit-password", "", b"asked\n"),
            ("no", "", b""),
            ("forced-commands-only", "", b""),
            ("forced-commands-only", 'command="echo forced" ', b"forced\n"),
        ],
    )
    def test_permit_root_login(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        account: Account,
        key: Path,
        tmp_path: Path,
        setting: str,
        options: str,
        output: bytes,
    ) -> None:
        keys = tmp_path / "root_keys"
        keys.write_text(options + Path(f"{key}.pub").read_text())
        settings = [f"PermitRootLogin {setting}", f"AuthorizedKeysFile {keys}", "StrictModes no"]
        server = start_server(programs, settings)
        done = connect(server, account, user="root", key=key).run("echo asked")
        assert done.stdout == output
        assert (done.returncode == 0) == bool(output)


class TestGreeting:
    def test_the_motd_is_shown_on_a_terminal_only(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
        open_terminal: OpenTerminal,
    ) -> None:
        """/etc/motd is the machine's; where there is none, there is nothing to see."""
        text = Path("/etc/motd").read_text() if Path("/etc/motd").exists() else ""
        words = [line.strip() for line in text.splitlines() if line.strip()][:1]
        server = start_server(programs, ["PrintMotd yes"])
        client = connect(server, fresh_account)
        terminal = open_terminal(client)
        terminal.expect(r"\$ ")
        shown = terminal.transcript.decode()
        assert all(word in shown for word in words)
        assert client.output(flags=["-T"], input=b"true\n") == b""
        fresh_account.write(".hushlogin", "")
        terminal = open_terminal(client)
        terminal.expect(r"\$ ")
        assert not any(word in terminal.transcript.decode() for word in words)


UTMP_RECORD = struct.Struct("hi32s4s32s256shhiii4i20s")
USER_PROCESS, DEAD_PROCESS = 7, 8


def login_records(path: str, line: str) -> list[tuple[int, str, str]]:
    """(kind, user, host) of what utmp or wtmp says about the terminal line, the oldest first."""
    data = Path(path).read_bytes()
    whole = data[: len(data) // UTMP_RECORD.size * UTMP_RECORD.size]
    return [
        (record[0], text(record[4]), text(record[5]))
        for record in UTMP_RECORD.iter_unpack(whole)
        if text(record[2]) == line
    ]


def text(field: bytes) -> str:
    return field.rstrip(b"\0").decode()


@pytest.fixture
def utmp() -> Iterator[None]:
    """Containers have no utmp; programs write it only when it is there."""
    need_root()
    made = [path for path in ("/run/utmp", "/var/log/wtmp") if not os.path.exists(path)]
    for path in made:
        Path(path).touch(0o664)
    yield
    for path in made:
        Path(path).unlink(missing_ok=True)


@pytest.mark.xdist_group("utmp")
@pytest.mark.usefixtures("utmp")
class TestRecords:
    def test_a_terminal_login_is_recorded_and_its_end_too(
        self, client: Client, account: Account, open_terminal: OpenTerminal
    ) -> None:
        terminal = open_terminal(client)
        terminal.expect(r"\$ ")
        terminal.send("tty\n")
        line = terminal.expect(r"/dev/(pts/\d+)")[1].decode()
        login = (USER_PROCESS, account.name, "127.0.0.1")
        assert login_records("/run/utmp", line) == [login]
        assert login_records("/var/log/wtmp", line)[-1] == login
        terminal.send("exit\n")
        terminal.wait()
        # By then another test may have the line, so we look for what must be gone or have followed.
        wait_until(lambda: login not in login_records("/run/utmp", line), 30, "utmp has the logout")
        history = [kind for kind, *_ in login_records("/var/log/wtmp", line)]
        assert DEAD_PROCESS in history[login_records("/var/log/wtmp", line).index(login) :]

    def test_a_command_without_terminal_is_not_recorded(
        self, client: Client, account: Account
    ) -> None:
        before = Path("/var/log/wtmp").read_bytes().count(account.name.encode())
        client.output("true")
        assert Path("/var/log/wtmp").read_bytes().count(account.name.encode()) == before


class TestLog:
    """fail2ban and the administrator's eye read these lines."""

    def test_a_login_is_logged_as_sshd_does(self, client: Client, account: Account) -> None:
        client.output("true")
        assert f"Accepted publickey for {account.name} from 127.0.0.1 port " in client.server.log()
        assert ": ED25519 SHA256:" in client.server.log()

    def test_an_unknown_user_is_logged(
        self, server: Server, connect: ClientFactory, account: Account
    ) -> None:
        connect(server, account, user="no-such-user").run("true")
        assert "Invalid user no-such-user from 127.0.0.1 port " in server.log()


class TestPath:
    """Ours alone: the URL path is part of the server's address."""

    def test_a_wrong_path_is_not_found(
        self, sshoq: Programs, start_server: ServerFactory, connect: ClientFactory, account: Account
    ) -> None:
        client = connect(start_server(sshoq), account)
        command = [*client.command()[:-1], f"{account.name}@127.0.0.1/elsewhere", "true"]
        done = subprocess.run(command, env=client.environment(), capture_output=True, timeout=30)
        assert done.returncode == 255
        assert b"404" in done.stderr

    def test_the_default_path_is_sshoq_server(
        self, sshoq: Programs, start_server: ServerFactory, connect: ClientFactory, account: Account
    ) -> None:
        server = start_server(sshoq, ["URLPath /sshoq-server"])
        client = connect(server, account)
        command = [*client.command()[:-1], f"{account.name}@127.0.0.1", "echo", "in"]
        done = subprocess.run(command, env=client.environment(), capture_output=True, timeout=30)
        assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr


def test_the_pair_of_openssh_is_the_reference(openssh: OpenSSH) -> None:
    """Without it the scenarios would hold our programs against nothing."""
    done = subprocess.run([openssh.client(), "-V"], capture_output=True, timeout=30)
    assert b"OpenSSH" in done.stderr
