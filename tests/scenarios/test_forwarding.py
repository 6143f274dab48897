"""Forwarding of TCP, Unix sockets and the agent; standard input as a connection; jump hosts;
sharing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.echo import BLOB, Echo, UnixEchoServer, ask, exchange, is_open, serving
from tests.processes import end_process, processes_with, wait_until
from tests.programs import Client, Programs, free_port
from tests.scenarios.conftest import ClientFactory, ServerFactory

pytestmark = pytest.mark.privileged

MARK = "SSHOQ_TEST_FORWARDING"


@pytest.fixture
def running(client: Client) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the client with forwards and a session that says when they stand."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> subprocess.Popen[bytes]:
        flags = (*flags, "-o", "ExitOnForwardFailure=yes")
        process = client.start("echo ready; exec cat", flags=flags)
        started.append(process)
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            assert process.stderr is not None
            raise AssertionError(process.stderr.read())
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


Running = Callable[..., subprocess.Popen[bytes]]


def test_a_local_port_leads_to_the_far_side(running: Running, echo_port: int) -> None:
    port = free_port("tcp")
    running("-L", f"{port}:127.0.0.1:{echo_port}")
    assert ask(port) == b"echo:" + BLOB


def test_many_connections_through_one_forward(running: Running, echo_port: int) -> None:
    port = free_port("tcp")
    running("-L", f"{port}:127.0.0.1:{echo_port}")
    answers: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.update({n: ask(port, b"%d" % n * 10_000)}))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: b"echo:" + b"%d" % n * 10_000 for n in range(20)}


def test_a_host_name_is_resolved_at_the_far_side(running: Running, echo_port: int) -> None:
    port = free_port("tcp")
    running("-L", f"{port}:localhost:{echo_port}")
    assert ask(port, b"x") == b"echo:x"


def test_a_remote_port_leads_back_here(running: Running, echo_port: int) -> None:
    port = free_port("tcp")
    running("-R", f"{port}:127.0.0.1:{echo_port}")
    assert ask(port) == b"echo:" + BLOB


def test_the_server_chooses_a_remote_port(client: Client, echo_port: int) -> None:
    process = client.start("echo ready; exec cat", flags=["-R", f"0:127.0.0.1:{echo_port}"])
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"ready\n"
    line = process.stderr.readline().decode()
    match = re.match(r"Allocated port (\d+) for remote forward to 127\.0\.0\.1:\d+", line)
    assert match is not None, line
    assert ask(int(match[1]), b"x") == b"echo:x"
    process.kill()
    process.communicate(timeout=30)


def test_unix_sockets_at_both_sides(
    running: Running, account: Account, tmp_path: Path, client: Client
) -> None:
    far = account.home / f"far-{client.server.programs.name}.sock"
    near = str(tmp_path / "near.sock")
    server = UnixEchoServer(str(far), Echo)
    far.chmod(0o666)
    with serving(server):
        running("-L", f"{near}:{far}")
        assert ask(near) == b"echo:" + BLOB
    far.unlink()


def test_a_unix_socket_is_dialled_as_the_user(running: Running, tmp_path: Path) -> None:
    """A socket in a folder that the user may not enter stays closed, whoever the server is."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    server = UnixEchoServer(str(private / "s"), Echo)
    near = str(tmp_path / "near.sock")
    with serving(server):
        running("-L", f"{near}:{private}/s")
        with contextlib.suppress(ConnectionError):
            assert ask(near, b"x") == b""


@pytest.mark.parametrize("version", [4, 5])
def test_a_dynamic_forward_is_a_socks_proxy(running: Running, echo_port: int, version: int) -> None:
    port = free_port("tcp")
    running("-D", str(port))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        if version == 4:
            connection.sendall(b"\x04\x01" + echo_port.to_bytes(2, "big") + b"\x7f\0\0\1user\0")
            assert read_exactly(connection, 8)[:2] == b"\x00\x5a"
        else:
            connection.sendall(b"\x05\x01\x00")
            assert read_exactly(connection, 2) == b"\x05\x00"
            host = b"localhost"
            target = bytes([len(host)]) + host + echo_port.to_bytes(2, "big")
            connection.sendall(b"\x05\x01\x00\x03" + target)
            assert read_exactly(connection, 10)[:2] == b"\x05\x00"
        assert exchange(connection, BLOB) == b"echo:" + BLOB


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        assert part, data
        data += part
    return data


def test_a_refused_connection_is_reported_and_the_forward_lives_on(
    running: Running, echo_port: int
) -> None:
    port, closed = free_port("tcp"), free_port("tcp")
    process = running("-L", f"{port}:127.0.0.1:{closed}")
    with contextlib.suppress(ConnectionError):
        assert ask(port, b"") == b""
    assert process.stderr is not None
    assert b"open failed: connect failed: Connection refused" in process.stderr.readline()
    with contextlib.suppress(ConnectionError):
        assert ask(port, b"") == b""
    assert b"open failed" in process.stderr.readline()


def test_a_busy_port_ends_the_client_when_asked(client: Client) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ["-L", f"127.0.0.1:{port}:127.0.0.1:9", "-o", "ExitOnForwardFailure=yes"]
        done = client.run("true", flags=flags)
    assert done.returncode == 255
    assert b"Address already in use" in done.stderr
    assert b"Could not request local forwarding." in done.stderr


def test_standard_input_can_be_a_connection(client: Client, echo_port: int) -> None:
    done = client.run(flags=["-W", f"127.0.0.1:{echo_port}"], input=BLOB)
    assert (done.stdout, done.returncode) == (b"echo:" + BLOB, 0)


def test_standard_input_as_a_connection_ends_with_the_far_side(client: Client) -> None:
    """Nobody has to close our standard input first."""
    with socket.create_server(("127.0.0.1", 0)) as target:
        process = client.start(flags=["-W", f"127.0.0.1:{target.getsockname()[1]}"])
        connection, _ = target.accept()
        with connection:
            connection.sendall(b"all of it")
            connection.shutdown(socket.SHUT_WR)
            assert process.stdout is not None
            assert process.stdout.read() == b"all of it"
            assert process.wait(timeout=30) == 0
        process.communicate()


def test_a_failed_connection_of_standard_input_is_255(client: Client) -> None:
    done = client.run(flags=["-W", f"127.0.0.1:{free_port('tcp')}"], input=b"")
    assert done.returncode == 255
    assert b"stdio forwarding failed" in done.stderr


@pytest.mark.parametrize(
    ("settings", "works"),
    [
        (["AllowTcpForwarding no"], False),
        (["AllowTcpForwarding local"], True),
        (["AllowTcpForwarding remote"], False),
        (["PermitOpen 127.0.0.1:1"], False),
        (["PermitOpen 127.0.0.1:*"], True),
        (["DisableForwarding yes"], False),
    ],
)
def test_the_server_decides_what_may_be_opened(
    programs: Programs,
    start_server: ServerFactory,
    connect: ClientFactory,
    account: Account,
    echo_port: int,
    settings: list[str],
    works: bool,
) -> None:
    client = connect(start_server(programs, settings), account)
    done = client.run(flags=["-W", f"127.0.0.1:{echo_port}"], input=b"x")
    assert (done.stdout == b"echo:x") == works
    assert works or b"administratively prohibited" in done.stderr


def test_the_agent_can_be_taken_along(client: Client, account: Account, tmp_path: Path) -> None:
    address = str(tmp_path / "agent.sock")
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: os.path.exists(address), 30, "the agent listens")
        env = {"SSH_AUTH_SOCK": address}
        subprocess.run(
            ["ssh-add", "-q", str(account.key)], env=client.environment(env), check=True, timeout=30
        )
        listed = client.output("ssh-add -L", flags=["-A"], env=env).decode()
        assert account.public_key.split()[1] in listed
        done = client.run("ssh-add -L", flags=["-a"], env=env)
        assert done.returncode == 2
    finally:
        agent.terminate()
        agent.wait(timeout=30)


def test_without_a_command_the_forwards_alone_run(client: Client, echo_port: int) -> None:
    port = free_port("tcp")
    flags = ["-N", "-L", f"{port}:127.0.0.1:{echo_port}"]
    process = client.start(flags=flags)
    wait_until(lambda: is_open(port), 30, "the forward stands")
    assert ask(port, b"x") == b"echo:x"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    process.communicate()


def test_the_client_goes_to_the_background_after_login(
    client: Client, account: Account, echo_port: int
) -> None:
    """The first process ends once the login and the forward stand; the session goes on behind
    it."""
    port = free_port("tcp")
    flags = ["-f", "-L", f"{port}:127.0.0.1:{echo_port}", "-o", "ExitOnForwardFailure=yes"]
    running = account.write("running", "")
    done = subprocess.run(
        client.command("while test -e running; do sleep 0.05; done", flags=flags),
        env=client.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
    )
    assert done.returncode == 0
    assert ask(port, b"x") == b"echo:x"
    running.unlink()
    wait_until(lambda: not is_open(port), 30, "the client in the background has ended")


def test_a_forwarding_in_the_background_holds_nobodys_pipe(client: Client, echo_port: int) -> None:
    """$(ssh -fN …) in a script is over once the forwarding stands."""
    port = free_port("tcp")
    flags = ["-fN", "-L", f"{port}:127.0.0.1:{echo_port}", "-o", "ExitOnForwardFailure=yes"]
    mark = f"{client.server.programs.name}-{port}"
    try:
        done = client.run(flags=flags, env={MARK: mark})
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert ask(port, b"x") == b"echo:x"
    finally:
        for process in processes_with(MARK, mark):
            end_process(process)


class TestJump:
    def test_a_jump_host_leads_on(
        self,
        programs: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        account: Account,
    ) -> None:
        """Both hops of one kind, each with its own host key, both in known_hosts."""
        jump, target = start_server(programs), start_server(programs)
        client = connect(target, account)
        client.known_hosts.write_text(
            "".join(
                f"{line}\n" for s in (jump, target) for line in s.known_hosts().splitlines()[1:]
            )
        )
        config = client.directory / "config"
        lines = [
            f"Host jump target\n  HostName 127.0.0.1\n  User {account.name}",
            f"  IdentityFile {account.key}\n  IdentitiesOnly yes",
            f"  UserKnownHostsFile {client.known_hosts}\n  StrictHostKeyChecking yes",
            "  IgnoreUnknown URLPath,Transport\n  URLPath /hidden-path\n  Transport quic",
            f"Host jump\n  Port {jump.port}\nHost target\n  Port {target.port}\n  ProxyJump jump",
        ]
        config.write_text("\n".join(lines) + "\n")
        command = [programs.client(), "-F", str(config), "target", "echo $SSH_CONNECTION; cat"]
        done = subprocess.run(
            command, input=BLOB, env=client.environment(), capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        first_line, _, rest = done.stdout.partition(b"\n")
        assert first_line.split()[-1] == str(target.port).encode()
        assert rest == BLOB


class TestSharing:
    """ControlMaster: later clients ride on the first one's connection."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        return str(tmp_path / "master")

    @pytest.fixture
    def master(self, client: Client, path: str) -> Iterator[subprocess.Popen[bytes]]:
        process = client.start(flags=["-N", "-M", "-S", path])
        wait_until(lambda: os.path.exists(path), 30, "the master listens")
        yield process
        process.kill()
        process.communicate(timeout=30)

    @pytest.mark.usefixtures("master")
    def test_a_second_client_shares_the_connection(self, client: Client, path: str) -> None:
        before = client.server.log().count("Accepted publickey")
        assert client.output("cat; echo end", input=BLOB, flags=["-S", path]) == BLOB + b"end\n"
        assert client.run("exit 7", flags=["-S", path]).returncode == 7
        assert client.server.log().count("Accepted publickey") == before

    def test_the_master_answers_questions(
        self, client: Client, path: str, master: subprocess.Popen[bytes]
    ) -> None:
        done = client.run(flags=["-S", path, "-O", "check"])
        expected = f"Master running (pid={master.pid})"
        assert (done.returncode, done.stderr.decode().strip()) == (0, expected)
        done = client.run(flags=["-S", path, "-O", "exit"])
        assert (done.returncode, done.stderr.strip()) == (0, b"Exit request sent.")
        master.wait(timeout=30)

    @pytest.mark.usefixtures("master")
    def test_a_forward_can_be_added_and_taken_away(
        self, client: Client, path: str, echo_port: int
    ) -> None:
        port = free_port("tcp")
        forward = ["-S", path, "-L", f"{port}:127.0.0.1:{echo_port}"]
        assert client.run(flags=[*forward, "-O", "forward"]).returncode == 0
        assert ask(port, b"x") == b"echo:x"
        assert client.run(flags=[*forward, "-O", "cancel"]).returncode == 0
        with pytest.raises(ConnectionRefusedError):
            ask(port, b"x")

    def test_a_master_can_stay_in_the_background(
        self, client: Client, path: str, own_control: list[str]
    ) -> None:
        assert client.output("echo one", flags=own_control) == b"one\n"
        before = client.server.log().count("Accepted publickey")
        assert client.output("echo two", flags=own_control) == b"two\n"
        assert client.server.log().count("Accepted publickey") == before
        assert client.run(flags=["-S", path, "-O", "exit"]).returncode == 0
        wait_until(lambda: not os.path.exists(path), 30, "the master is gone")

    @pytest.fixture
    def own_control(self, path: str) -> list[str]:
        return ["-S", path, "-o", "ControlMaster=auto", "-o", "ControlPersist=30"]

    def test_no_master_is_said_so(self, client: Client, path: str) -> None:
        done = client.run(flags=["-S", path, "-O", "check"])
        assert done.returncode == 255
        expected = f"Control socket connect({path}): No such file or directory"
        assert expected in done.stderr.decode()
