"""What servers and keys permit of forwarding, what listeners leave behind, and remote SOCKS."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.echo import ask, is_open
from tests.needs import need_tools
from tests.processes import end_process, processes_of, wait_until
from tests.programs import Client, Programs, Sshoq, free_port
from tests.scenarios.conftest import ClientFactory, ServerFactory

pytestmark = pytest.mark.privileged


@pytest.fixture
def website(tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    """A port, and what a file called `large` there holds."""
    root = tmp_path / "website"
    root.mkdir()
    content = os.urandom(4 << 20)
    (root / "large").write_bytes(content)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_address[1], content
    server.shutdown()
    thread.join()
    server.server_close()


Running = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def running() -> Iterator[Running]:
    started: list[subprocess.Popen[bytes]] = []

    def start(client: Client, *flags: str) -> subprocess.Popen[bytes]:
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


def curl(client: Client, *words: str) -> bytes:
    need_tools("curl")
    command = ["curl", "-q", "-s", "-S", "--noproxy", "", *words]
    done = subprocess.run(command, env=client.environment(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_reads_a_website_through_local_remote_and_dynamic_forwards(
    client: Client, running: Running, website: tuple[int, bytes]
) -> None:
    port, content = website
    local, remote, dynamic = (free_port("tcp") for _ in range(3))
    running(
        client,
        *("-L", f"{local}:localhost:{port}", "-R", f"{remote}:localhost:{port}"),
        *("-D", str(dynamic)),
    )
    for where in (local, remote):
        assert curl(client, f"http://127.0.0.1:{where}/large") == content
    for scheme in ("socks4", "socks4a", "socks5", "socks5h"):
        proxy = ["-x", f"{scheme}://127.0.0.1:{dynamic}"]
        assert curl(client, *proxy, f"http://127.0.0.1:{port}/large") == content


def test_a_remote_port_alone_is_a_socks_proxy(
    client: Client, running: Running, website: tuple[int, bytes]
) -> None:
    port, content = website
    far = free_port("tcp")
    running(client, "-R", str(far))
    proxy = ["-x", f"socks5h://127.0.0.1:{far}"]
    assert curl(client, *proxy, f"http://localhost:{port}/large") == content


def test_remote_socks_leads_only_where_the_client_permits(
    client: Client, running: Running, website: tuple[int, bytes]
) -> None:
    port, _ = website
    far = free_port("tcp")
    running(client, "-R", str(far), "-o", f"PermitRemoteOpen=localhost:{port}")
    proxy = ["-x", f"socks5h://127.0.0.1:{far}"]
    assert curl(client, *proxy, f"http://localhost:{port}/")
    with pytest.raises(AssertionError):
        curl(client, *proxy, f"http://127.0.0.1:{port}/")


def test_a_remote_listener_goes_with_the_client(
    client: Client, running: Running, echo_port: int
) -> None:
    port = free_port("tcp")
    process = running(client, "-R", f"{port}:127.0.0.1:{echo_port}")
    assert ask(port, b"x") == b"echo:x"
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    wait_until(lambda: not is_open(port), 30, "the listener is gone")


def test_a_busy_remote_port_is_a_warning_or_the_end(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["-R", f"127.0.0.1:{port}:127.0.0.1:9"]
        done = client.run("echo here", flags=flags)
        assert done.stdout == b"here\n"
        complaint = f"Warning: remote port forwarding failed for listen port {port}".encode()
        assert complaint in done.stderr
        done = client.run("echo here", flags=[*flags, "-o", "ExitOnForwardFailure=yes"])
        assert (done.returncode, done.stdout) == (255, b"")
        complaint = f"Error: remote port forwarding failed for listen port {port}".encode()
        assert complaint in done.stderr


def test_open_connections_outlive_the_session(client: Client, echo_port: int) -> None:
    port = free_port("tcp")
    process = client.start("echo ready; read line", flags=["-L", f"{port}:127.0.0.1:{echo_port}"])
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"ready\n"
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        assert connection.recv(5) == b"echo:"
        process.stdin.write(b"end\n")
        process.stdin.flush()
        assert process.stdout.read() == b""  # the session is over, and its output closed
        connection.sendall(b"still")
        assert connection.recv(5) == b"still"
        assert process.poll() is None
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_half_close_of_each_side_keeps_the_other_open(client: Client, running: Running) -> None:
    port = free_port("tcp")
    with socket.create_server(("127.0.0.1", 0)) as target:
        running(client, "-L", f"{port}:127.0.0.1:{target.getsockname()[1]}")
        for near_first in (True, False):
            with socket.create_connection(("127.0.0.1", port), 30) as near:
                far, _ = target.accept()
                with far:
                    first, second = (near, far) if near_first else (far, near)
                    first.sendall(b"question")
                    first.shutdown(socket.SHUT_WR)
                    assert read_all(second) == b"question"
                    second.sendall(b"answer")
                    second.shutdown(socket.SHUT_WR)
                    assert read_all(first) == b"answer"


def read_all(connection: socket.socket) -> bytes:
    connection.settimeout(30)
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def test_a_unix_socket_at_the_server_has_its_mask_and_goes_with_the_client(
    sshoq: Programs,
    start_server: ServerFactory,
    connect: ClientFactory,
    running: Running,
    account: Account,
    echo_port: int,
) -> None:
    """OpenSSH's server leaves the name behind, for the next one to stumble over."""
    client = connect(start_server(sshoq, ["StreamLocalBindMask 0117"]), account)
    path = account.home / "listening"
    process = running(client, "-R", f"{path}:127.0.0.1:{echo_port}")
    status = path.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (account.uid, 0o660)
    assert ask(str(path), b"x") == b"echo:x"
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: not path.exists(), 30, "the socket is gone")


@pytest.mark.parametrize(
    ("settings", "flag", "works"),
    [
        ([], "{port}", ["127.0.0.1"]),
        ([], "*:{port}", ["127.0.0.1"]),
        (["GatewayPorts yes"], "{port}", ["0.0.0.0"]),
        (["GatewayPorts clientspecified"], "*:{port}", ["0.0.0.0"]),
        (["GatewayPorts clientspecified"], "{port}", ["127.0.0.1"]),
        (["GatewayPorts clientspecified"], "127.0.0.2:{port}", ["127.0.0.2"]),
        (["AllowTcpForwarding local"], "{port}", []),
        (["PermitListen none"], "{port}", []),
        (["PermitListen localhost:1"], "{port}", []),
        (["PermitListen localhost:*"], "{port}", ["127.0.0.1"]),
    ],
)
def test_the_server_decides_where_is_listened(
    programs: Programs,
    start_server: ServerFactory,
    connect: ClientFactory,
    running: Running,
    account: Account,
    settings: list[str],
    flag: str,
    works: list[str],
) -> None:
    client = connect(start_server(programs, settings), account)
    port = free_port("tcp", "0.0.0.0")
    running(client, "-R", f"{flag.format(port=port)}:127.0.0.1:9")
    assert listeners_on(port) == works


def listeners_on(port: int) -> list[str]:
    """IPv4 addresses that somebody listens on."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return sorted(
        socket.inet_ntoa(bytes.fromhex(row[1].split(":")[0])[::-1])
        for row in rows
        if row[3] == "0A" and int(row[1].split(":")[1], 16) == port
    )


@pytest.mark.parametrize(
    ("options", "local", "remote", "agent"),
    [
        ("", True, True, True),
        ("no-port-forwarding", False, False, True),
        ("no-agent-forwarding", True, True, False),
        ("restrict", False, False, False),
        ("restrict,port-forwarding", True, True, False),
        ('permitopen="127.0.0.1:{echo}"', True, True, True),
        ('permitopen="127.0.0.1:1"', False, True, True),
        ('permitlisten="localhost:{port}"', True, True, True),
        ('permitlisten="localhost:1"', True, False, True),
    ],
)
def test_a_key_may_permit_less(
    client: Client,
    account: Account,
    echo_port: int,
    tmp_path: Path,
    options: str,
    local: bool,
    remote: bool,
    agent: bool,
) -> None:
    port = free_port("tcp")
    before = account.authorized_keys.read_text()
    rights = options.format(echo=echo_port, port=port)
    account.authorized_keys.write_text(f"{rights} {account.public_key}\n".lstrip())
    try:
        done = client.run(flags=["-W", f"127.0.0.1:{echo_port}"], input=b"x")
        assert (done.stdout == b"echo:x") == local
        flags = ["-R", f"{port}:127.0.0.1:9", "-o", "ExitOnForwardFailure=yes"]
        assert (client.run("true", flags=flags).returncode == 0) == remote
        with agent_at(tmp_path / "agent") as address:
            env = {"SSH_AUTH_SOCK": address}
            shown = client.output("echo $SSH_AUTH_SOCK", flags=["-A"], env=env)
            assert (shown != b"\n") == agent
    finally:
        account.authorized_keys.write_text(before)


def test_privileged_ports_are_for_root(client: Client) -> None:
    done = client.run("true", flags=["-R", "81:127.0.0.1:9", "-o", "ExitOnForwardFailure=yes"])
    assert done.returncode == 255
    assert b"remote port forwarding failed for listen port 81" in done.stderr


def test_the_agent_socket_is_the_users_and_goes_with_the_login(
    sshoq: Programs, start_server: ServerFactory, connect: ClientFactory, account: Account,
    tmp_path: Path,
) -> None:  # fmt: skip
    client = connect(start_server(sshoq), account)
    with agent_at(tmp_path / "agent") as address:
        env = {"SSH_AUTH_SOCK": address}
        script = 'echo $SSH_AUTH_SOCK; stat -c "%a %U" $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK)'
        output = client.output(script, flags=["-A"], env=env).decode().splitlines()
        assert re.match(rf"{account.home}/\.ssh/agent/s\.\w+\.sshoq\.\w+$", output[0])
        assert output[1:] == [f"600 {account.name}", f"700 {account.name}"]
    wait_until(lambda: not os.path.exists(output[0]), 30, "the socket is gone")


def test_the_agent_is_not_let_in_when_forbidden(
    programs: Programs, start_server: ServerFactory, connect: ClientFactory, account: Account,
    tmp_path: Path,
) -> None:  # fmt: skip
    client = connect(start_server(programs, ["AllowAgentForwarding no"]), account)
    with agent_at(tmp_path / "agent") as address:
        env = {"SSH_AUTH_SOCK": address}
        assert client.output("echo [$SSH_AUTH_SOCK]", flags=["-A"], env=env) == b"[]\n"


@contextlib.contextmanager
def agent_at(path: Path) -> Iterator[str]:
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(path.exists, 30, "the agent listens")
        yield str(path)
    finally:
        agent.terminate()
        agent.wait(timeout=30)


def test_the_agent_socket_of_a_killed_leader_goes_with_the_next_login(
    sshoq: Sshoq,
    start_server: ServerFactory,
    connect: ClientFactory,
    fresh_account: Account,
    tmp_path: Path,
) -> None:
    """After a minute. sshd leaves it, as all that it cannot remove itself any more."""
    client = connect(start_server(sshoq), fresh_account)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        flags = ["-o", f"ForwardAgent={tmp_path}/agent"]
        process = client.start("echo $SSH_AUTH_SOCK; exec cat", flags=flags)
        assert process.stdout is not None
        left = Path(process.stdout.readline().decode().strip())
        assert left.is_socket()
        for one in sorted(processes_of(fresh_account.uid)):  # the leader first, as the oldest
            end_process(one)
        process.communicate(timeout=30)
        assert left.is_socket()
        os.utime(left, (1.0, 1.0))
        now = client.output("echo $SSH_AUTH_SOCK", flags=flags).decode().strip()
    assert Path(now).parent == left.parent
    assert not left.exists()
