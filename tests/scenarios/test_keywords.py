"""Keywords of ssh_config that are obeyed, each beside ssh: what happens, and what is said."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account, make_key
from tests.echo import is_open
from tests.needs import need_tools
from tests.processes import wait_until
from tests.programs import Client, Programs, free_port
from tests.scenarios.conftest import ClientFactory, ServerFactory
from tests.terminal import Terminal

pytestmark = pytest.mark.privileged


def said(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stderr.decode().replace("\r\n", "\n").splitlines()


def option(keyword: str, value: object) -> list[str]:
    return ["-o", f"{keyword}={value}"]


# --------------------------------------------------------------------------- the way there


def test_bind_address_is_where_we_come_from(client: Client) -> None:
    told = client.output("echo $SSH_CLIENT", flags=option("BindAddress", "127.0.0.9"))
    assert told.split()[0] == b"127.0.0.9"


def test_bind_interface_is_where_we_come_from(client: Client) -> None:
    told = client.output("echo $SSH_CLIENT", flags=["-B", "lo"])
    assert told.split()[0] == b"127.0.0.1"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["-b", "192.0.2.1"], "bind 192.0.2.1: Cannot assign requested address"),
        (["-B", "nowhere0"], "getifaddrs: nowhere0: no suitable addresses"),
    ],
)
def test_a_local_end_that_cannot_be_had_is_told(
    client: Client, flags: list[str], line: str
) -> None:
    done = client.run("true", flags=flags)
    port = client.server.port
    last = f"ssh: connect to host 127.0.0.1 port {port}: failure"
    assert (done.returncode, said(done)) == (255, [line, last])


@pytest.mark.parametrize(("level", "is_told"), [("FATAL", False), ("ERROR", True)])
def test_a_host_that_cannot_be_found_is_an_error(
    client: Client, level: str, is_told: bool
) -> None:
    flags = [*option("LogLevel", level), *option("HostName", "nowhere.invalid")]
    done = client.run("true", flags=flags)
    assert done.returncode == 255
    assert [line.rpartition(":")[0] for line in said(done)] == (
        ["ssh: Could not resolve hostname nowhere.invalid"] if is_told else []
    )


def test_connect_timeout_of_nothing_is_none(client: Client) -> None:
    assert client.output("echo in", flags=option("ConnectTimeout", 0)) == b"in\n"


def test_verbose_tells_what_was_transferred(client: Client) -> None:
    lines = said(client.run("true", flags=option("LogLevel", "VERBOSE")))
    assert re.fullmatch(
        r"Transferred: sent \d+, received \d+ bytes, in \d+\.\d seconds", lines[-2]
    )
    assert re.fullmatch(r"Bytes per second: sent \d+\.\d, received \d+\.\d", lines[-1])


@pytest.mark.parametrize(
    ("flags", "word", "line"),
    [([], "true", "Sending command: true"), (["-s"], "sftp", "Sending subsystem: sftp")],
)
def test_debugging_tells_what_is_asked_for(
    client: Client, flags: list[str], word: str, line: str
) -> None:
    assert f"debug1: {line}" in said(client.run(word, flags=[*flags, "-v"]))


def test_debugging_tells_which_entry_vouches_and_where_is_listened(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = client.run("true", flags=["-v", "-L", f"127.0.0.1:{port}:127.0.0.1:9"])
    lines = said(done)
    assert any(
        re.fullmatch(r"debug1: Host '.*' is known and matches the ED25519 host key\.", line)
        for line in lines
    )
    assert any(re.fullmatch(r"debug1: Found key in .*known_hosts:\d+", line) for line in lines)
    assert f"debug1: Local forwarding listening on 127.0.0.1 port {port}." in lines
    assert lines.count("debug1: Entering interactive session.") == 1


def test_debugging_tells_that_no_method_is_left(client: Client) -> None:
    flags = ["-v", *option("BatchMode", "yes"), *option("PubkeyAuthentication", "no")]
    lines = said(client.run("true", flags=flags))
    assert "debug1: No more authentication methods to try." in lines


# --------------------------------------------------------------------------- the right host


@pytest.fixture
def knowing_command(client: Client) -> Path:
    """Knows the server, and notes what it was asked."""
    known = client.directory / "known_to_command"
    known.write_text(client.server.known_hosts())
    program = client.directory / "knowing"
    program.write_text(f'#!/bin/sh\necho "$@" >>{program}.log\ncat {known}\n')
    program.chmod(0o755)
    return program


def test_known_hosts_command_is_asked_twice(client: Client, knowing_command: Path) -> None:
    words = "%I %H %t %f %K %h %n %p %r %u %i %d %%"
    flags = [
        *option("KnownHostsCommand", f"{knowing_command} {words}"),
        *option("UserKnownHostsFile", "/dev/null"),
    ]
    assert client.output("echo in", flags=flags) == b"in\n"
    kind, key, *_ = (client.server.directory / "host_key.pub").read_text().split()
    listed = subprocess.run(
        ["ssh-keygen", "-lf", client.server.directory / "host_key.pub"],
        capture_output=True, check=True,
    )  # fmt: skip
    port = client.server.port
    rest = f"127.0.0.1 127.0.0.1 {port} {client.user} root 0 /root %"
    assert Path(f"{knowing_command}.log").read_text().splitlines() == [
        f"ORDER 127.0.0.1 NONE NONE NONE {rest}",
        f"HOSTNAME [127.0.0.1]:{port} {kind} {listed.stdout.split()[1].decode()} {key} {rest}",
    ]


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (
            "/bin/false",
            ["KnownHostsCommand-ORDER /bin/false failed, status 1", "KnownHostsCommand failed"],
        ),
        (
            "/bin/true %Q",
            ["vdollar_percent_expand: unknown key %Q", "percent_dollar_expand: failed"],
        ),
    ],
)
def test_known_hosts_command_that_fails_ends_the_run(
    client: Client, command: str, lines: list[str]
) -> None:
    done = client.run("true", flags=option("KnownHostsCommand", command))
    assert (done.returncode, said(done)) == (255, lines)


def test_a_stranger_that_cannot_be_recorded_is_refused(client: Client) -> None:
    flags = [*option("UserKnownHostsFile", "none"), *option("StrictHostKeyChecking", "no")]
    done = client.run("true", flags=flags)
    assert (done.returncode, said(done)) == (255, ["Host key verification failed."])


def test_an_untrusted_host_gets_nothing_to_abuse(
    client: Client, agent: dict[str, str]
) -> None:
    changed = client.directory / "changed"
    key = Path(f"{make_key(client.directory / 'other')}.pub").read_text()
    changed.write_text(f"[127.0.0.1]:{client.server.port} {key}")
    flags = [
        *option("UserKnownHostsFile", changed),
        *option("StrictHostKeyChecking", "no"),
        *option("ClearAllForwardings", "no"),
        *["-A", "-L", f"{free_port('tcp')}:127.0.0.1:1"],
    ]
    done = client.run("echo agent=$SSH_AUTH_SOCK", flags=flags, env=agent)
    assert (done.returncode, done.stdout) == (0, b"agent=\n")
    end = " is disabled to avoid man-in-the-middle attacks."
    disabled = {line.removesuffix(end) for line in said(done) if line.endswith(end)}
    assert disabled == {
        "Password authentication", "Keyboard-interactive authentication", "Agent forwarding",
        "Port forwarding",
    }  # fmt: skip


# --------------------------------------------------------------------------- the agent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[dict[str, str]]:
    need_tools("ssh-agent", "ssh-add")
    path = tmp_path / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(path.exists, 30, "the agent listens")
    yield {"SSH_AUTH_SOCK": str(path)}
    process.terminate()
    process.wait(timeout=30)


def held_by(agent: dict[str, str]) -> list[str]:
    """The comments of the keys that the agent holds."""
    listed = subprocess.run(
        ["ssh-add", "-L"], env={**os.environ, **agent}, capture_output=True, check=False
    )
    return [line.split()[2] for line in listed.stdout.decode().splitlines() if "ssh-" in line]


@pytest.mark.parametrize(
    ("rule", "permit", "is_held"),
    [
        ("yes", "no", True),
        ("no", "yes", False),
        ("ask", "yes", True),
        ("ask", "no", False),
        ("confirm", "no", True),
        ("1h", "no", True),
    ],
)
def test_the_key_that_lets_in_is_added_to_the_agent(
    client: Client, agent: dict[str, str], rule: str, permit: str, is_held: bool
) -> None:
    askpass = client.directory / "askpass"
    askpass.write_text(
        f'#!/bin/sh\necho "$1 $SSH_ASKPASS_PROMPT" >>{askpass}.log\n[ {permit} = yes ]\n'
    )
    askpass.chmod(0o755)
    env = {**agent, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    client.output("true", flags=option("AddKeysToAgent", rule), env=env)
    assert client.key is not None
    assert held_by(agent) == ([client.key.name] if is_held else [])
    asked = Path(f"{askpass}.log")
    question = f"Add key {client.key} ({client.key.name}) to agent? confirm\n"
    assert (asked.read_text() if asked.exists() else "") == (question if rule == "ask" else "")


@pytest.mark.parametrize("where", ["{path}", "$ELSEWHERE", "${{ELSEWHERE}}", "SSH_AUTH_SOCK"])
def test_identity_agent_says_where_the_agent_is(
    client: Client, agent: dict[str, str], where: str
) -> None:
    path = agent["SSH_AUTH_SOCK"]
    assert client.key is not None
    subprocess.run(["ssh-add", "-q", client.key], env={**os.environ, **agent}, check=True)
    client.key = None
    env = {"ELSEWHERE": path, "SSH_AUTH_SOCK": path if where == "SSH_AUTH_SOCK" else "/nowhere"}
    flags = [*option("IdentityAgent", where.format(path=path)), *option("IdentityFile", "none")]
    assert client.output("echo in", flags=flags, env=env) == b"in\n"
    refused = client.run("true", flags=[*option("IdentityAgent", "none"), *flags[2:]], env=env)
    assert refused.returncode == 255


# --------------------------------------------------------------------------- the session


def test_remote_and_local_commands_know_their_tokens(client: Client) -> None:
    tokens = "%h %n %r %u %p %%"
    flags = [
        *option("PermitLocalCommand", "yes"),
        *option("LocalCommand", f"echo here {tokens} %T"),
        *option("RemoteCommand", f"echo there {tokens}"),
    ]
    values = f"127.0.0.1 127.0.0.1 {client.user} root {client.server.port} %"
    told = client.output(flags=flags).decode().splitlines()
    assert sorted(told) == [f"here {values} NONE", f"there {values}"]


def test_a_terminal_without_a_name_is_dumb(client: Client) -> None:
    assert client.output("echo $TERM", flags=["-tt"], env={"TERM": ""}).strip() == b"dumb"


class TestCommandLine:
    """~C"""

    FLAGS = ("-tt", "-o", "EnableEscapeCommandline=yes")

    def test_it_is_off_unless_enabled(
        self, client: Client, open_terminal: Callable[..., Terminal]
    ) -> None:
        terminal = open_terminal(client)
        terminal.expect(r"\$ ")
        terminal.send("\r~C")
        terminal.expect(r"commandline disabled\r\n")
        terminal.send("\rexit\r")
        assert terminal.wait() == 0

    def test_a_forwarding_comes_and_goes(
        self, client: Client, open_terminal: Callable[..., Terminal], account: Account
    ) -> None:
        port, target = free_port("tcp"), client.server
        with socket.create_server(("127.0.0.1", 0)) as echo:
            spec = f"{port}:127.0.0.1:{echo.getsockname()[1]}"
            terminal = open_terminal(client, flags=self.FLAGS)
            terminal.expect(r"\$ ")
            terminal.send("\r~C")
            terminal.expect("ssh> ")
            terminal.send(f"-L {spec}\r")
            terminal.expect(r"Forwarding port\.\r")
            with socket.create_connection(("127.0.0.1", port), timeout=30) as caller:
                connection, _ = echo.accept()
                with connection:
                    caller.sendall(b"through")
                    assert connection.recv(100) == b"through"
            for line, answer in (
                (f"-KL {port}", r"Canceled forwarding\."),
                (f"-KL {port}", r"Unknown port forwarding\."),
                ("-L nonsense", r"Bad local forwarding specification\."),
                ("nonsense", r"Invalid command\."),
            ):
                terminal.send("\r")
                terminal.expect(r"\$ ")
                terminal.send("~C")
                terminal.expect("ssh> ")
                terminal.send(f"{line}\r")
                terminal.expect(answer)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=30)
            terminal.send("\rexit\r")
            assert terminal.wait() == 0, target.log()

    def test_a_forwarding_at_the_server_comes_and_goes(
        self, client: Client, open_terminal: Callable[..., Terminal]
    ) -> None:
        port = free_port("tcp")
        terminal = open_terminal(client, flags=self.FLAGS)
        terminal.expect(r"\$ ")
        for line, answer in (
            (f"-R {port}:127.0.0.1:1", r"Forwarding port\."),
            (f"-KR {port}", r"Canceled forwarding\."),
        ):
            terminal.send("\r")
            terminal.expect(r"\$ ")
            terminal.send("~C")
            terminal.expect("ssh> ")
            terminal.send(f"{line}\r")
            terminal.expect(answer)
        wait_until(lambda: not is_open(port), 30, "the server no longer listens")
        terminal.send("\rexit\r")
        assert terminal.wait() == 0


# --------------------------------------------------------------------------- messages


def test_log_file_and_system_log_exclude_each_other(client: Client) -> None:
    done = client.run("true", flags=["-y", "-E", str(client.directory / "log")])
    assert (done.returncode, said(done)) == (255, ["Can't specify both -y and -E"])


def test_a_log_file_that_cannot_be_had_is_told(client: Client) -> None:
    done = client.run("true", flags=["-E", "/nonexistent/log"])
    line = "Couldn't open logfile /nonexistent/log: No such file or directory"
    assert (done.returncode, said(done)) == (1, [line])


# --------------------------------------------------------------------------- logging in


def test_a_refused_password_is_an_empty_one(client: Client, tmp_path: Path) -> None:
    program = tmp_path / "askpass"
    program.write_text(f"#!/bin/sh\necho \"$1\" >>{tmp_path}/questions\nexit 1\n")
    program.chmod(0o755)
    flags = [*option("PreferredAuthentications", "password"), *option("NumberOfPasswordPrompts", 2)]
    done = client.run(
        "true", flags=flags, env={"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}
    )
    assert done.returncode == 255
    asked = (tmp_path / "questions").read_text().splitlines()
    assert asked == [f"{client.user}@127.0.0.1's password: "] * 2
    lines = said(done)
    assert lines[0] == "Permission denied, please try again."
    assert lines[1].startswith(f"{client.user}@127.0.0.1: Permission denied (publickey,password")
    assert len(lines) == 2


def test_the_end_of_all_tries_is_told_with_sshds_number(
    programs: Programs, start_server: ServerFactory, account: Account, connect: ClientFactory
) -> None:
    client = connect(start_server(programs, ["MaxAuthTries 1"]), account)
    stranger = make_key(client.directory / "stranger")
    done = client.run("true", flags=option("IdentityFile", stranger))
    assert done.returncode == 255
    assert said(done)[0] == (
        f"Received disconnect from 127.0.0.1 port {client.server.port}:2: "
        "Too many authentication failures"
    )
