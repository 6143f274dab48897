"""Forwarding of UDP, in Go's spelling and as `-L udp:`; ours alone, as ssh has nothing like it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.accounts import Account
from tests.janitor import Janitor
from tests.needs import need_device, need_root, need_tools
from tests.netns import Link, delay_link
from tests.processes import wait_until
from tests.programs import Client, Server, Sshoq, free_port
from tests.scenarios.conftest import ClientFactory, ServerFactory, server_factory

pytestmark = pytest.mark.privileged

PATIENCE = 30.0


@pytest.fixture
def echo_port() -> Iterator[int]:
    """Answers each datagram with itself, prefixed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, sender = server.recvfrom(65536)
                if data == b"end":
                    return
                server.sendto(b"echo:" + data, sender)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.sendto(b"end", server.getsockname())
        thread.join()


@pytest.fixture(scope="module")
def server(sshoq: Sshoq, janitor: Janitor) -> Iterator[Server]:
    for start in server_factory(janitor):
        yield start(sshoq)


@pytest.fixture
def client(connect: ClientFactory, server: Server, account: Account) -> Client:
    return connect(server, account)


Running = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def running(client: Client) -> Iterator[Running]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> subprocess.Popen[bytes]:
        process = client.start("echo ready; exec cat", flags=flags)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def ask(port: int, data: bytes, caller: socket.socket) -> bytes:
    """UDP may lose anything, so the question is asked again until it is answered."""
    answer = b""

    def answered() -> bool:
        nonlocal answer
        caller.sendto(data, ("127.0.0.1", port))
        caller.settimeout(0.5)
        try:
            answer = caller.recv(65536)
        except TimeoutError:
            return False
        return True

    wait_until(answered, PATIENCE, "an answer")
    return answer


@pytest.fixture
def callers() -> Iterator[list[socket.socket]]:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
    yield sockets
    for one in sockets:
        one.close()


@pytest.mark.parametrize(
    "flags",
    [
        ("-L", "udp:{near}:localhost:{far}"),
        ("-L", "udp:127.0.0.1:{near}:127.0.0.1:{far}"),
        ("-forward-udp", "{near}@127.0.0.1@{far}"),
        ("-R", "udp:{near}:localhost:{far}"),
        ("-reverse-udp", "{near}@127.0.0.1@{far}"),
    ],
    ids=" ".join,
)
def test_datagrams_go_there_and_back(
    running: Running, echo_port: int, callers: list[socket.socket], flags: tuple[str, ...]
) -> None:
    near = free_port("udp")
    running(*(flag.format(near=near, far=echo_port) for flag in flags))
    for number, caller in enumerate(callers):
        assert ask(near, b"%d" % number, caller) == b"echo:%d" % number
    payload = os.urandom(1150)
    assert ask(near, payload, callers[0]) == b"echo:" + payload


def test_what_fits_no_packet_is_dropped_and_the_rest_goes_on(
    running: Running, echo_port: int, callers: list[socket.socket]
) -> None:
    near = free_port("udp")
    running("-L", f"udp:{near}:127.0.0.1:{echo_port}")
    caller = callers[0]
    caller.sendto(bytes(60_000), ("127.0.0.1", near))
    assert ask(near, b"small", caller) == b"echo:small"


def test_a_target_where_nobody_listens_does_no_harm(
    running: Running, echo_port: int, callers: list[socket.socket]
) -> None:
    deaf, near = free_port("udp"), free_port("udp")
    closed = free_port("udp")
    running("-L", f"udp:{deaf}:127.0.0.1:{closed}", "-L", f"udp:{near}:127.0.0.1:{echo_port}")
    for _ in range(3):
        callers[0].sendto(b"x", ("127.0.0.1", deaf))
        assert ask(near, b"y", callers[1]) == b"echo:y"


def test_the_server_may_forbid_it(
    sshoq: Sshoq, start_server: ServerFactory, connect: ClientFactory, account: Account,
) -> None:  # fmt: skip
    client = connect(start_server(sshoq, ["AllowTcpForwarding local"]), account)
    flags = ["-R", f"udp:{free_port('udp')}:127.0.0.1:9", "-o", "ExitOnForwardFailure=yes"]
    done = client.run("true", flags=flags)
    assert done.returncode == 255
    assert b"remote port forwarding failed" in done.stderr


def test_the_session_ends_without_waiting_for_datagrams(
    client: Client, echo_port: int, callers: list[socket.socket]
) -> None:
    near = free_port("udp")
    flags = ["-L", f"udp:{near}:127.0.0.1:{echo_port}"]
    process = client.start("echo ready; read line", flags=flags)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert ask(near, b"x", callers[0]) == b"echo:x"
    process.communicate(b"end\n", timeout=30)
    assert process.returncode == 0


# --------------------------------------------------------------------------- multicast

ECHO = """\
import socket
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.bind(("127.0.0.1", 7777))
print("ready", flush=True)
while True:
    data, sender = end.recvfrom(65536)
    end.sendto(b"echo:" + data, sender)
"""

ASK = """\
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
[(_, _, _, _, where)] = socket.getaddrinfo(*sys.argv[1:3], family, socket.SOCK_DGRAM)
end = socket.socket(family, socket.SOCK_DGRAM)
end.settimeout(0.5)
wire = socket.if_nametoindex("wire")
if family == socket.AF_INET6:
    end.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, wire)
else:
    member = bytes(8) + wire.to_bytes(4, sys.byteorder)
    end.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
for _ in range(30):
    end.sendto(b"who is there?", where)
    try:
        print(end.recv(65536).decode())
        break
    except TimeoutError:
        pass
"""


@pytest.fixture
def link() -> Iterator[Link]:
    need_root()
    need_device("/dev/net/tun")
    need_tools("ip", "nsenter")
    with delay_link() as made:
        yield made


@pytest.mark.parametrize("group", ["239.192.7.7", "ff15::7:7"])
@pytest.mark.parametrize("side", ["here", "there"])
def test_a_group_can_be_listened_to(
    link: Link,
    sshoq: Sshoq,
    start_server: ServerFactory,
    connect: ClientFactory,
    account: Account,
    side: str,
    group: str,
) -> None:
    """Client and server in two namespaces; whoever asks the group is in the one that does not
    listen."""
    settings = ["GatewayPorts clientspecified"]
    server = start_server(sshoq, settings, host=link.address_a, prefix=link.prefix_a)
    client = connect(server, account)
    client.prefix = link.prefix_b
    # Who asks is at the other side, and so is who answers: the far end of the forwarding.
    asking, flag = {"here": (link.prefix_a, "-L"), "there": (link.prefix_b, "-R")}[side]
    echo = subprocess.Popen(
        [*asking, sys.executable, "-c", ECHO], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert echo.stdout is not None
    assert echo.stdout.readline() == b"ready\n"
    process = client.start(
        "echo ready; exec cat", flags=[flag, f"udp:[{group}]:5555:127.0.0.1:7777"]
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        done = subprocess.run(
            [*asking, sys.executable, "-c", ASK, group, "5555"], capture_output=True, timeout=60
        )
        assert done.stdout == b"echo:who is there?\n", (done.stderr, server.log()[-2000:])
    finally:
        for one in (echo, process):
            one.kill()
            one.communicate(timeout=20)
