"""Paths that are long, lossy or cut, between two namespaces of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.needs import need_device, need_root, need_tools
from tests.netns import Link, delay_link
from tests.processes import processes_of, wait_until
from tests.programs import Client, Programs, Server
from tests.scenarios.conftest import ServerFactory

pytestmark = pytest.mark.privileged

BLOB = os.urandom(3 << 20)


@pytest.fixture
def make_link() -> Iterator[Callable[..., Link]]:
    need_root()
    need_device("/dev/net/tun")
    need_tools("ip", "nsenter")
    with ExitStack() as stack:
        yield lambda **path: stack.enter_context(delay_link(**path))


@pytest.fixture
def across(
    programs: Programs,
    start_server: ServerFactory,
    fresh_account: Account,
    tmp_path: Path,
) -> Callable[..., Client]:
    """A client in one namespace of a server in the other."""

    def make(link: Link, *settings: str, address: str = Link.address_a) -> Client:
        server: Server = start_server(programs, settings, prefix=link.prefix_a, host=address)
        return Client(server, fresh_account.name, fresh_account.key, tmp_path, link.prefix_b)

    return make


Across = Callable[..., Client]
MakeLink = Callable[..., Link]


def test_data_crosses_a_long_path_unharmed(make_link: MakeLink, across: Across) -> None:
    client = across(make_link(rtt=0.04))
    assert client.output("cat", input=BLOB) == BLOB


def test_data_crosses_a_lossy_path_unharmed(make_link: MakeLink, across: Across) -> None:
    client = across(make_link(rtt=0.01, loss=0.02))
    assert client.output("cat", input=BLOB, timeout=100) == BLOB


def test_data_crosses_a_narrow_path_unharmed(make_link: MakeLink, across: Across) -> None:
    """2 MB/s with a queue of 64 kB: the sender must find the rate."""
    client = across(make_link(rtt=0.02, rate=2e6, queue=65536))
    assert client.output("cat", input=BLOB, timeout=100) == BLOB


def test_a_path_by_the_other_protocol_family(make_link: MakeLink, across: Across) -> None:
    client = across(make_link(), address=Link.address6_a)
    client_address = client.output("echo $SSH_CLIENT").split()[0]
    assert client_address.decode() == Link.address6_b


def cut(link: Link) -> None:
    link.run_b(["ip", "link", "set", "wire", "down"], check=True)


def test_the_client_gives_up_on_a_silent_server(make_link: MakeLink, across: Across) -> None:
    link = make_link()
    client = across(link)
    flags = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2"]
    running = client.start("echo in; exec cat", flags=flags)
    assert running.stdout is not None
    assert running.stdout.readline() == b"in\n"
    cut(link)
    _, errors = running.communicate(timeout=45)
    assert running.returncode == 255
    assert f"Timeout, server {Link.address_a} not responding." in errors.decode()


def test_the_server_gives_up_on_a_silent_client(
    make_link: MakeLink, across: Across, fresh_account: Account
) -> None:
    link = make_link()
    client = across(link, "ClientAliveInterval 1", "ClientAliveCountMax 2")
    running = client.start("echo in; exec cat")
    assert running.stdout is not None
    assert running.stdout.readline() == b"in\n"
    cut(link)
    wait_until(lambda: not processes_of(fresh_account.uid), 45, "the user's processes are gone")
    line = f"Timeout, client not responding from user {fresh_account.name} {Link.address_b} port "
    wait_until(lambda: line in client.server.log(), 30, "the server has said so")
    running.kill()
    running.communicate(timeout=30)


def test_nobody_at_the_port_is_said_so(make_link: MakeLink, across: Across) -> None:
    """Refusal (TCP's reset, UDP's port unreachable) is known at once, not after a timeout."""
    client = across(make_link())
    client.server.stop()
    done = client.run("true", flags=["-o", "ConnectTimeout=90"], timeout=30)
    assert done.returncode == 255
    expected = f"connect to host {Link.address_a} port {client.server.port}: Connection refused"
    assert expected in done.stderr.decode()


def test_silence_ends_with_the_connect_timeout(make_link: MakeLink, across: Across) -> None:
    link = make_link(loss=1.0)
    client = across(link)
    done = client.run("true", flags=["-o", "ConnectTimeout=1"], timeout=30)
    assert done.returncode == 255
    expected = f"connect to host {Link.address_a} port {client.server.port}: Connection timed out"
    assert expected in done.stderr.decode()
