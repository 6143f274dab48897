"""Programs that use paramiko: through a socket of ours to an sshd, and all over SSHOQ."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from sshoq.paramiko import ProxySocket, SSHClient, Transport
from tests.accounts import Account, make_key
from tests.echo import Echo, EchoServer, serving
from tests.janitor import Janitor
from tests.processes import wait_until
from tests.programs import Client, OpenSSH, Server, Sshoq
from tests.scenarios.conftest import ClientFactory, ServerFactory, server_factory

pytestmark = pytest.mark.privileged

BLOB = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def server(sshoq: Sshoq, janitor: Janitor) -> Iterator[Server]:
    for start in server_factory(janitor):
        yield start(
            sshoq,
            ["AcceptEnv SCENARIO_*", "Subsystem sftp /usr/lib/openssh/sftp-server"],
        )


@pytest.fixture
def client(connect: ClientFactory, server: Server, account: Account) -> Client:
    return connect(server, account)


def destination(client: Client) -> str:
    return client.server.programs.destination(client.user, client.server.host)


@pytest.fixture
def transport(client: Client) -> Iterator[Transport]:
    program = client.server.programs.client()
    with Transport(destination(client), flags=client.options(), program=program) as transport:
        yield transport


@pytest.fixture
def user(client: Client) -> Iterator[SSHClient]:
    """paramiko's client, as a program has it."""
    with SSHClient() as user:
        user.connect(
            destination(client), flags=client.options(), program=client.server.programs.client()
        )
        yield user


def test_a_command_has_its_streams_and_status(user: SSHClient) -> None:
    stdin, stdout, stderr = user.exec_command("echo error >&2; cat; exit 7")
    stdin.write("in and out")
    stdin.close()
    assert stdout.read() == b"in and out"
    assert stderr.read() == b"error\n"
    assert stdout.channel.recv_exit_status() == 7


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("printf '%s|' 'two  blanks' \"$USER\" -x", "two  blanks|{user}|-x|"),
        ("echo a\necho b", "a\nb\n"),
        ("", "sh\n"),
    ],
)
def test_a_command_is_the_shells_to_read(
    user: SSHClient, command: str, output: str, account: Account
) -> None:
    stdin, stdout, _ = user.exec_command(command)
    if not command:  # a shell
        stdin.write("echo sh; exit\n")
    assert stdout.read().decode() == output.format(user=account.name)


def test_environment_is_sent_as_it_is(user: SSHClient) -> None:
    value = "it's \"quoted\"  \\ $HOME # ü"
    environment = {"SCENARIO_ONE": value, "SCENARIO_TWO": "2"}
    command = 'printf "%s|%s" "$SCENARIO_ONE" "$SCENARIO_TWO"'
    _, stdout, _ = user.exec_command(command, environment=environment)
    assert stdout.read().decode() == f"{value}|2"
    with pytest.raises(ValueError, match="SCENARIO"):
        user.exec_command("true", environment={"SCENARIO": "two\nlines"})


def test_much_goes_both_ways(transport: Transport) -> None:
    channel = transport.open_session()
    channel.exec_command("cat")

    def send() -> None:
        channel.sendall(BLOB)
        channel.shutdown_write()

    sender = threading.Thread(target=send)
    sender.start()
    parts = []
    while part := channel.recv(65536):
        parts.append(part)
    sender.join()
    assert b"".join(parts) == BLOB
    assert channel.recv_exit_status() == 0


def test_waiting_for_output_has_a_limit(transport: Transport) -> None:
    channel = transport.open_session()
    channel.exec_command("cat")
    assert not channel.recv_ready()
    channel.settimeout(0.05)
    with pytest.raises(TimeoutError):
        channel.recv(1)
    channel.settimeout(None)
    channel.sendall(b"now")
    wait_until(channel.recv_ready, 30, "something to read")
    assert channel.recv(10) == b"now"
    assert not channel.exit_status_ready()
    channel.shutdown_write()
    assert channel.recv_exit_status() == 0


def test_a_shell_has_a_terminal_of_the_size_that_is_told(user: SSHClient) -> None:
    shell = user.invoke_shell(term="xterm", width=101, height=31)
    files = shell.makefile("rb")
    shell.sendall(b"stty -echo; echo; echo begin; stty size; echo $TERM\n")
    while files.readline() != b"begin\r\n":
        pass
    assert [files.readline() for _ in range(2)] == [b"31 101\r\n", b"xterm\r\n"]
    shell.sendall(b"trap 'echo changed' WINCH; echo ready\n")
    while not files.readline().endswith(b"ready\r\n"):
        pass
    shell.resize_pty(width=77, height=22)
    shell.sendall(b"until test \"$(stty size)\" = '22 77'; do sleep 0.05; done; echo resized\n")
    while not files.readline().endswith(b"resized\r\n"):
        pass
    shell.sendall(b"exit 3\n")
    assert files.read().endswith(b"logout\r\n")
    assert shell.recv_exit_status() == 3


def test_what_was_sent_arrives_though_the_channel_is_closed_at_once(
    transport: Transport, account: Account
) -> None:
    with transport.open_session() as channel:
        channel.exec_command("cat >closed.txt")
        channel.sendall(BLOB)
    path = account.home / "closed.txt"
    wait_until(lambda: path.exists() and path.stat().st_size == len(BLOB), 30, "all has arrived")
    path.unlink()


def test_closing_ends_the_command(transport: Transport, account: Account) -> None:
    channel = transport.open_session()
    channel.exec_command("trap 'rm running' EXIT; touch running; echo ready; sleep 1000")
    assert channel.recv(10) == b"ready\n"
    channel.close()
    assert channel.recv(1) == b""
    with pytest.raises(OSError, match="closed"):
        channel.send(b"x")
    wait_until(lambda: not (account.home / "running").exists(), 30, "the command has ended")


def test_files_by_sftp(user: SSHClient, client: Client, account: Account) -> None:
    source = client.directory / "source"
    source.write_bytes(BLOB)
    with user.open_sftp() as files:
        files.put(str(source), "by-paramiko")
        assert (account.home / "by-paramiko").read_bytes() == BLOB
        files.get("by-paramiko", str(client.directory / "back"))
        assert (client.directory / "back").read_bytes() == BLOB
        with files.open("by-paramiko", "r+") as file:
            file.seek(10)
            file.write(b"changed")
            file.seek(0)
            assert file.read(17) == BLOB[:10] + b"changed"
        files.rename("by-paramiko", "renamed")
        assert "renamed" in files.listdir()
        assert files.stat("renamed").st_size == len(BLOB)
        files.remove("renamed")
        with pytest.raises(FileNotFoundError):
            files.stat("renamed")


def test_a_server_without_sftp_is_an_error(
    sshoq: Sshoq, start_server: ServerFactory, connect: ClientFactory, account: Account
) -> None:
    client = connect(start_server(sshoq), account)
    program = sshoq.client()
    with (
        Transport(destination(client), flags=client.options(), program=program) as transport,
        pytest.raises(paramiko.SSHException),
    ):
        transport.open_sftp_client()


def test_a_connection_as_the_server_sees_it(transport: Transport) -> None:
    echo = EchoServer(("127.0.0.1", 0), Echo)
    with serving(echo):
        port = echo.server_address[1]
        channel = transport.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0))
        channel.sendall(b"hello")
        channel.shutdown_write()
        assert channel.makefile("rb").read() == b"echo:hello"


def test_all_sessions_share_one_login(transport: Transport, client: Client) -> None:
    before = client.server.log().count("Accepted publickey")
    channels = [transport.open_session() for _ in range(3)]
    for number, channel in enumerate(channels):
        channel.exec_command(f"echo {number}; cat")
    assert [channel.recv(10) for channel in channels] == [b"0\n", b"1\n", b"2\n"]
    assert client.server.log().count("Accepted publickey") == before
    assert transport.is_active()
    transport.close()
    assert not transport.is_active()
    assert [channel.recv(10) for channel in channels] == [b"", b"", b""]


def test_a_key_that_does_not_let_in_is_an_authentication_error(
    client: Client, tmp_path: Path
) -> None:
    client.key = make_key(tmp_path / "other")
    with pytest.raises(paramiko.AuthenticationException, match="Permission denied"):
        Transport(
            destination(client), flags=client.options(), program=client.server.programs.client()
        )


def test_an_unknown_host_is_refused_without_a_question(client: Client) -> None:
    client.known_hosts.write_text("")
    with pytest.raises(paramiko.SSHException, match="Host key verification failed"):
        Transport(
            destination(client), flags=client.options(), program=client.server.programs.client()
        )


class TestProxySocket:
    @pytest.fixture
    def inner(self, openssh: OpenSSH, start_server: ServerFactory) -> Server:
        return start_server(openssh, ["Subsystem sftp /usr/lib/openssh/sftp-server"])

    @pytest.fixture
    def open_socket(self, client: Client) -> Callable[[int], ProxySocket]:
        def make(port: int) -> ProxySocket:
            program = client.server.programs.client()
            flags = client.options()
            return ProxySocket(destination(client), str(port), flags=flags, program=program)

        return make

    def test_paramikos_own_client_reaches_the_sshd_behind(
        self, open_socket: Callable[[int], ProxySocket], inner: Server, account: Account
    ) -> None:
        with paramiko.SSHClient() as user:
            _, kind, key = inner.known_hosts().splitlines()[0].split()
            entry = paramiko.Ed25519Key(data=base64.b64decode(key))
            user.get_host_keys().add("behind", kind, entry)
            user.connect(
                "behind",
                username=account.name,
                key_filename=str(account.key),
                sock=open_socket(inner.port),
                allow_agent=False,
                look_for_keys=False,
            )
            assert user.exec_command("id -un")[1].read().decode().strip() == account.name
            with user.open_sftp() as files:
                with files.open("behind.txt", "w") as file:
                    file.write("through it")
                assert (account.home / "behind.txt").read_text() == "through it"
                files.remove("behind.txt")

    def test_it_is_a_socket_and_ends_with_the_far_side(
        self, open_socket: Callable[[int], ProxySocket]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as target:
            near = open_socket(target.getsockname()[1])
            near.settimeout(20)
            far, _ = target.accept()
            with near, far:
                near.sendall(b"there")
                assert far.recv(10) == b"there"
                far.sendall(b"and back")
                far.shutdown(socket.SHUT_WR)
                assert near.makefile("rb").read() == b"and back"
