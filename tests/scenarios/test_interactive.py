"""Keyboard-interactive logins: what PAM's modules ask, one after another, with both pairs of
programs.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.accounts import Account, PamService, make_pam_service
from tests.janitor import Janitor
from tests.pam_asking import OTHER_STEPS, asking, build_module
from tests.processes import Process, is_running, wait_until
from tests.programs import URL_PATH, Client, Programs, Server, Sshoq, quiet_environment
from tests.scenarios.conftest import ClientFactory, ServerFactory
from tests.terminal import Terminal

OpenTerminal = Callable[..., Terminal]

pytestmark = pytest.mark.privileged

ON = ["KbdInteractiveAuthentication yes"]
CODE = "secret|Verification code: |123456"
FLOOR = "visible|Which floor? |third"


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_module(tmp_path_factory.mktemp("pam"))


@pytest.fixture
def serve(programs: Programs, start_server: ServerFactory) -> Callable[..., Server]:
    def start(service: PamService, *settings: str) -> Server:
        return start_server(programs, [*settings, *ON], pam=service)

    return start


class Talk(NamedTuple):
    """Both ends of the questions: services that ask, and clients without a key whose user
    answers.
    """

    usual: PamService
    """Asks for the password alone."""
    module: Path
    janitor: Janitor
    connect: ClientFactory
    open_terminal: OpenTerminal
    folder: Path

    def service(self, lines: str) -> PamService:
        """With these lines."""
        return make_pam_service(self.janitor, self.janitor.directory(), lines)

    def asking(self, *steps: str, kind: str = "auth") -> str:
        """The lines of a service that ask and check so."""
        return asking(self.module, *steps, kind=kind)

    def client(self, server: Server, account: Account, *options: str, user: str = "") -> Client:
        client = self.connect(server, account, user=user)
        client.key = None
        client.more_options = ["-o", "PubkeyAuthentication=no"]
        client.more_options += [word for option in options for word in ("-o", option)]
        return client

    def on_terminal(self, client: Client, *words: str) -> Terminal:
        """The prompts are answered there."""
        return self.open_terminal(client, *words, flags=("-T",))

    def answering(self, *answers: str) -> dict[str, str]:
        """An environment for answers to prompts in turn, the last one for ever."""
        (self.folder / "prompts").mkdir(exist_ok=True)
        self.folder.joinpath("answers").write_text("".join(f"{answer}\n" for answer in answers))
        program = self.folder / "askpass"
        program.write_text(
            f"#!/bin/sh\ncd {self.folder}\nn=$(ls prompts | wc -l)\n"
            'printf %s "$1" > prompts/$(printf %03d "$n")\nhead -n 1 answers\n'
            'test "$(wc -l < answers)" -le 1 || sed -i 1d answers\n'
        )
        program.chmod(0o755)
        return {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}

    def prompts(self) -> list[str]:
        """What was asked so far where `answering` answers."""
        return [path.read_text() for path in sorted((self.folder / "prompts").glob("*"))]


@pytest.fixture
def talk(
    pam_service: PamService,
    module: Path,
    janitor: Janitor,
    connect: ClientFactory,
    open_terminal: OpenTerminal,
    tmp_path: Path,
) -> Talk:
    return Talk(pam_service, module, janitor, connect, open_terminal, tmp_path)


Serve = Callable[..., Server]


class TestPassword:
    def test_the_password_lets_in_and_the_log_names_the_device(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        server = serve(talk.usual, "ExposeAuthInfo yes")
        client = talk.client(server, account)
        output = client.output("id -un; cat $SSH_USER_AUTH", env=talk.answering(account.password))
        assert output.decode() == f"{account.name}\nkeyboard-interactive/pam\n"
        assert talk.prompts() == [f"({account.name}@127.0.0.1) Password: "]
        accepted = f"Accepted keyboard-interactive/pam for {account.name} from 127.0.0.1 port"
        assert accepted in server.log()

    def test_it_is_asked_before_the_plain_password_and_both_as_often_as_wanted(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        server = serve(talk.usual)
        client = talk.client(server, account, "NumberOfPasswordPrompts=2")
        done = client.run("true", env=talk.answering("wrong"))
        assert done.returncode == 255
        name = f"{account.name}@127.0.0.1"
        assert talk.prompts() == [f"({name}) Password: "] * 2 + [f"{name}'s password: "] * 2
        assert f"Failed keyboard-interactive/pam for {account.name} from" in server.log()
        assert f"PAM: Authentication failure for {account.name} from 127.0.0.1" in server.log()
        denied = f"{name}: Permission denied (publickey,password,keyboard-interactive)."
        assert done.stderr.decode().splitlines()[-1] == denied

    def test_the_second_answer_may_be_right(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        client = talk.client(serve(talk.usual), account)
        done = client.run("echo in", env=talk.answering("wrong", account.password))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"in\n", b"")

    def test_tries_are_counted(self, serve: Serve, talk: Talk, account: Account) -> None:
        server = serve(talk.usual, "MaxAuthTries 2")
        done = talk.client(server, account).run("true", env=talk.answering("wrong"))
        assert done.returncode == 255
        assert b"Too many authentication failures" in done.stderr
        assert len(talk.prompts()) == 2

    @pytest.mark.parametrize("user", ["nobody-of-this-name", "root"])
    def test_who_may_not_log_in_is_asked_the_same(
        self, serve: Serve, talk: Talk, account: Account, user: str
    ) -> None:
        server = serve(talk.usual, "PermitRootLogin prohibit-password")
        client = talk.client(server, account, "NumberOfPasswordPrompts=1", user=user)
        done = client.run("true", env=talk.answering(account.password))
        assert done.returncode == 255
        asked = [f"({user}@127.0.0.1) Password: ", f"{user}@127.0.0.1's password: "]
        assert talk.prompts() == asked
        invalid = "" if user == "root" else "invalid user "
        assert f"Failed keyboard-interactive/pam for {invalid}{user} from" in server.log()

    @pytest.mark.parametrize(
        "option", ["KbdInteractiveAuthentication=no", "PreferredAuthentications=publickey"]
    )
    def test_who_does_not_want_it_is_not_asked(
        self, serve: Serve, talk: Talk, account: Account, option: str
    ) -> None:
        client = talk.client(serve(talk.usual), account, option, "PasswordAuthentication=no")
        assert client.run("true", env=talk.answering(account.password)).returncode == 255
        assert talk.prompts() == []

    def test_batch_mode_asks_nobody(self, serve: Serve, talk: Talk, account: Account) -> None:
        client = talk.client(serve(talk.usual), account, "BatchMode=yes")
        done = client.run("true", env=talk.answering(account.password))
        assert b"Permission denied (publickey,password,keyboard-interactive)." in done.stderr
        assert talk.prompts() == []

    def test_debugging_names_the_method(self, serve: Serve, talk: Talk, account: Account) -> None:
        client = talk.client(serve(talk.usual), account)
        done = client.run("true", flags=["-v"], env=talk.answering(account.password))
        lines = done.stderr.decode().replace("\r", "").splitlines()
        assert "debug1: Next authentication method: keyboard-interactive" in lines
        assert any('using "keyboard-interactive".' in line for line in lines)


class TestMoreThanAPassword:
    def test_all_questions_come_in_order_and_only_some_are_shown(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        """The whole terminal, to the letter."""
        lines = "auth required pam_unix.so\n"
        lines += talk.asking("info|Look at your phone.", CODE, FLOOR) + OTHER_STEPS
        client = talk.client(serve(talk.service(lines)), account)
        terminal = talk.on_terminal(client, "echo", "in")
        name = f"({account.name}@127.0.0.1)"
        for answer in (account.password, "123456", "third"):
            terminal.expect(r"(Password|code|floor[?]).*: |floor[?] ")
            terminal.send(answer + "\n")
        assert terminal.wait() == 0
        assert terminal.transcript.decode() == (
            f"\r{name} Password: \r\n"
            f"\r{name} Look at your phone.\r\nVerification code: \r\n"
            f"\r{name} Which floor? third\r\nin\r\n"
        )

    @pytest.mark.parametrize("wrong", [0, 1, 2])
    def test_each_answer_counts(
        self, serve: Serve, talk: Talk, account: Account, wrong: int
    ) -> None:
        lines = "auth required pam_unix.so\n" + talk.asking(CODE, FLOOR) + OTHER_STEPS
        client = talk.client(serve(talk.service(lines)), account, "NumberOfPasswordPrompts=1")
        client.more_options += ["-o", "PasswordAuthentication=no"]
        answers = [account.password, "123456", "third"]
        answers[wrong] = "wrong"
        assert client.run("true", env=talk.answering(*answers)).returncode == 255
        assert len(talk.prompts()) == 3

    def test_control_characters_of_a_module_do_not_reach_the_terminal(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        lines = talk.asking("secret|\x1b[31mRed\u00e9: |yes") + OTHER_STEPS
        terminal = talk.on_terminal(talk.client(serve(talk.service(lines)), account), "true")
        asked = terminal.expect(r"\(.*Red.*: ").group()
        assert asked == f"({account.name}@127.0.0.1) \\033[31mRed\u00e9: ".encode()
        terminal.send("yes\n")
        assert terminal.wait() == 0

    def test_what_a_module_says_when_it_refuses_is_shown(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        lines = talk.asking(CODE) + talk.asking("error|You are locked out.", "fail")
        client = talk.client(
            serve(talk.service(lines + OTHER_STEPS)), account, "PasswordAuthentication=no"
        )
        done = client.run("true", env=talk.answering("123456"))
        assert done.returncode == 255
        said = done.stderr.decode().replace("\r", "").splitlines()
        assert said[:-1] == ["You are locked out.", ""] * 3
        assert len(talk.prompts()) == 3

    def test_what_a_module_says_when_it_agrees_is_shown(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        lines = talk.asking(CODE) + talk.asking("info|Two days are left.") + OTHER_STEPS
        client = talk.client(serve(talk.service(lines)), account)
        done = client.run("true", env=talk.answering("123456"))
        assert done.returncode == 0
        assert b"Two days are left." in done.stderr

    def test_nothing_to_ask_lets_in_at_once(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        client = talk.client(
            serve(talk.service("auth required pam_permit.so\n" + OTHER_STEPS)), account
        )
        assert client.output("echo in", env=talk.answering("x")) == b"in\n"
        assert talk.prompts() == []


class TestExpiredPassword:
    @pytest.fixture
    def expired(self, fresh_account: Account) -> Account:
        subprocess.run(["chage", "--lastday", "0", fresh_account.name], check=True)
        return fresh_account

    def test_it_is_changed_on_the_way_in(self, serve: Serve, talk: Talk, expired: Account) -> None:
        new = "another battery staple"
        client = talk.client(serve(talk.usual), expired)
        answers = talk.answering(expired.password, expired.password, new, new)
        assert client.output("echo in", env=answers) == b"in\n"
        name = f"({expired.name}@127.0.0.1)"
        first, change, once, again = talk.prompts()
        assert (first, once, again) == (
            f"{name} Password: ",
            f"{name} New password: ",
            f"{name} Retype new password: ",
        )
        assert change.startswith(f"{name} You are required to change your password immediately")
        assert change.endswith("Current password: ")
        assert (
            talk.client(client.server, expired).output("echo new", env=talk.answering(new))
            == b"new\n"
        )

    def test_who_does_not_change_it_stays_out(
        self, serve: Serve, talk: Talk, expired: Account
    ) -> None:
        client = talk.client(
            serve(talk.usual), expired, "NumberOfPasswordPrompts=1", "PasswordAuthentication=no"
        )
        done = client.run(
            "echo in", env=talk.answering(expired.password, expired.password, "one", "two")
        )
        assert (done.returncode, done.stdout) == (255, b"")
        assert talk.prompts()[-1] == f"({expired.name}@127.0.0.1) Retype new password: "


class TestAccount:
    def test_an_expired_account_stays_out(
        self, serve: Serve, talk: Talk, fresh_account: Account
    ) -> None:
        subprocess.run(["chage", "--expiredate", "1", fresh_account.name], check=True)
        server = serve(talk.usual)
        client = talk.client(server, fresh_account, "PasswordAuthentication=no")
        done = client.run("true", env=talk.answering(fresh_account.password))
        assert done.returncode == 255
        assert b"Your account has expired" in done.stderr
        failed = f"Failed keyboard-interactive/pam for {fresh_account.name} from 127.0.0.1"
        assert failed in server.log()

    def test_the_account_step_may_ask_too(self, serve: Serve, talk: Talk, account: Account) -> None:
        lines = talk.asking(CODE) + talk.asking(FLOOR, kind="account") + OTHER_STEPS
        client = talk.client(serve(talk.service(lines)), account)
        assert client.output("echo in", env=talk.answering("123456", "third")) == b"in\n"
        assert talk.prompts()[1] == f"({account.name}@127.0.0.1) Which floor? "


class TestSeveralMethods:
    @pytest.mark.parametrize("method", ["keyboard-interactive", "keyboard-interactive:pam"])
    def test_a_key_and_a_code_open_together(
        self, serve: Serve, talk: Talk, connect: ClientFactory, account: Account, method: str
    ) -> None:
        server = serve(
            talk.service(talk.asking(CODE) + OTHER_STEPS),
            f"AuthenticationMethods publickey,{method}",
            "ExposeAuthInfo yes",
        )
        client = connect(server, account)
        shown = client.output("cat $SSH_USER_AUTH", env=talk.answering("123456")).decode()
        kind, key, *_ = account.public_key.split()
        assert shown == f"publickey {kind} {key}\nkeyboard-interactive/pam\n"
        assert talk.prompts() == [f"({account.name}@127.0.0.1) Verification code: "]
        assert f"Partial publickey for {account.name} from" in server.log()

    def test_neither_alone_opens_anything(
        self, serve: Serve, talk: Talk, connect: ClientFactory, account: Account
    ) -> None:
        service = talk.service(talk.asking(CODE) + OTHER_STEPS)
        server = serve(service, "AuthenticationMethods publickey,keyboard-interactive")
        done = connect(server, account).run("true")  # BatchMode: the key is all there is
        assert b"Permission denied (keyboard-interactive)." in done.stderr
        done = talk.client(server, account).run("true", env=talk.answering("123456"))
        assert b"Permission denied (publickey)." in done.stderr
        assert talk.prompts() == []

    def test_a_code_and_then_a_password(self, serve: Serve, talk: Talk, account: Account) -> None:
        """The password is the answer to whatever is hidden."""
        service = talk.service(talk.asking("secret|Code: |123456") + OTHER_STEPS)
        server = serve(service, "AuthenticationMethods keyboard-interactive,password")
        client = talk.client(server, account)
        assert client.output("echo in", env=talk.answering("123456")) == b"in\n"
        name = f"{account.name}@127.0.0.1"
        assert talk.prompts() == [f"({name}) Code: ", f"{name}'s password: "]


def serving(server: Server) -> list[Process]:
    """The processes of connections; a router serves them all."""
    return [one for one in server.family() if one.pid != server.pid and one.name != "sshoq-router"]


class TestUnfinished:
    def test_who_leaves_in_the_middle_leaves_nothing_behind(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        server = serve(talk.usual)
        terminal = talk.on_terminal(talk.client(server, account), "true")
        terminal.expect("Password: ")
        busy = serving(server)
        assert busy
        terminal.process.kill()
        terminal.process.wait(timeout=30)
        wait_until(lambda: not any(map(is_running, busy)), 60, f"{busy} have ended")
        assert "Accepted" not in server.log()

    def test_the_grace_time_ends_a_question(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        server = serve(talk.usual, "LoginGraceTime 3")
        terminal = talk.on_terminal(talk.client(server, account), "true")
        terminal.expect("Password: ")
        busy = serving(server)
        wait_until(lambda: not any(map(is_running, busy)), 60, f"{busy} have ended")
        terminal.send(f"{account.password}\n")
        assert terminal.wait() == 255
        assert "Accepted" not in server.log()

    def test_end_of_input_is_an_empty_answer(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        server = serve(talk.usual)
        terminal = talk.on_terminal(talk.client(server, account), "echo", "in")
        terminal.expect(r"\) Password: ")
        terminal.send("\x04")
        terminal.expect(r"\) Password: ")
        terminal.send(f"{account.password}\n")
        assert terminal.wait() == 0
        failed = f"Failed keyboard-interactive/pam for {account.name} from"
        assert failed in server.log()


class TestWaysThere:
    def test_a_shared_connection_asks_once(
        self, serve: Serve, talk: Talk, account: Account, tmp_path: Path
    ) -> None:
        path = tmp_path / "master"
        client = talk.client(
            serve(talk.service(talk.asking(CODE) + OTHER_STEPS)), account, f"ControlPath={path}"
        )
        flags = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
        done = client.run("echo first", flags=flags, env=talk.answering("123456"))
        assert (done.returncode, done.stdout) == (0, b"first\n"), done.stderr
        try:
            assert client.output("echo second") == b"second\n"
            assert talk.prompts() == [f"({account.name}@127.0.0.1) Verification code: "]
        finally:
            client.run(flags=["-O", "exit"])

    def test_each_host_on_the_way_asks_for_itself(
        self,
        talk: Talk,
        sshoq: Sshoq,
        start_server: ServerFactory,
        account: Account,
        tmp_path: Path,
    ) -> None:
        lines = []
        for name, question in (("hop", CODE), ("target", FLOOR)):
            server = start_server(sshoq, ON, pam=talk.service(talk.asking(question) + OTHER_STEPS))
            known = tmp_path / name
            known.write_text(server.known_hosts())
            lines.append(f"Host {name}\nPort {server.port}\nUserKnownHostsFile {known}\n")
        config = tmp_path / "config"
        config.write_text(
            "".join(lines) + f"Host *\nHostName 127.0.0.1\nUser {account.name}\n"
            f"URLPath {URL_PATH}\nTransport quic\nPubkeyAuthentication no\n"
            "StrictHostKeyChecking yes\nGlobalKnownHostsFile /dev/null\n"
        )
        done = subprocess.run(
            [sshoq.client(), "-F", str(config), "-J", "hop", "target", "echo", "in"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=quiet_environment(tmp_path, talk.answering("123456", "third")),
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr
        name = f"({account.name}@127.0.0.1)"
        assert talk.prompts() == [f"{name} Verification code: ", f"{name} Which floor? "]

    def test_standard_input_and_output_lead_on_once_all_is_answered(
        self, serve: Serve, talk: Talk, account: Account
    ) -> None:
        client = talk.client(serve(talk.service(talk.asking(CODE) + OTHER_STEPS)), account)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(30)
            there = f"127.0.0.1:{listener.getsockname()[1]}"
            with subprocess.Popen(
                client.command(flags=["-W", there]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=client.environment(talk.answering("123456")),
                start_new_session=True,
            ) as process:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"hello")
                output, _ = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, b"hello")
