"""Jump hosts: two in a row, who is trusted for what, and what is said of one that says no."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.programs import URL_PATH, Server, Sshoq, free_port, quiet_environment
from tests.scenarios.conftest import ServerFactory

pytestmark = pytest.mark.privileged

BLOB = os.urandom(2 << 20)


class Hosts:
    """Servers by name in one configuration, and the client that reads it."""

    def __init__(self, directory: Path, account: Account, servers: dict[str, Server]) -> None:
        self.directory = directory
        self.servers = servers
        self.config = directory / "config"
        self.account = account
        self.write({name: name for name in servers})

    def write(self, keys: dict[str, str]) -> None:
        """`keys`: which server's host key known_hosts has for each name."""
        lines = []
        for name, server in self.servers.items():
            known = self.directory / f"known_{name}"
            _, rest = self.servers[keys[name]].known_hosts().splitlines()[0].split(" ", 1)
            known.write_text(f"[127.0.0.1]:{server.port} {rest}\n")
            lines.append(f"Host {name}\nPort {server.port}\nUserKnownHostsFile {known}\n")
        common = (
            f"Host *\nHostName 127.0.0.1\nUser {self.account.name}\n"
            f"IdentityFile {self.account.key}\nIdentitiesOnly yes\nBatchMode yes\n"
            f"StrictHostKeyChecking yes\nGlobalKnownHostsFile /dev/null\n"
            f"URLPath {URL_PATH}\nTransport quic\nLogLevel INFO\n"
        )
        self.config.write_text("".join(lines) + common)

    def run(self, *words: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [Sshoq().client(), "-F", str(self.config), *words],
            input=input,
            env=quiet_environment(self.directory),
            capture_output=True,
            timeout=60,
        )


@pytest.fixture
def hosts(
    tmp_path: Path, sshoq: Sshoq, start_server: ServerFactory, account: Account
) -> Callable[..., Hosts]:
    def make(**settings: list[str]) -> Hosts:
        servers = {name: start_server(sshoq, lines) for name, lines in settings.items()}
        return Hosts(tmp_path, account, servers)

    return make


def test_two_hops_carry_a_session_and_its_data(hosts: Callable[..., Hosts]) -> None:
    there = hosts(one=[], two=[], target=[])
    done = there.run("-J", "one,two", "target", "cat; exit 7", input=BLOB)
    assert (done.stdout == BLOB, done.returncode) == (True, 7), done.stderr
    # End to end: each server has seen a login, and only the last one a program.
    for name, server in there.servers.items():
        assert "Accepted publickey" in server.log()
        assert ("Starting session" in server.log()) == (name == "target")


def test_gos_spelling(hosts: Callable[..., Hosts]) -> None:
    there = hosts(one=[], target=[])
    assert there.run("-proxy-jump", "one", "target", "echo hello").stdout == b"hello\n"


def test_forwards_go_through_a_jump_host(hosts: Callable[..., Hosts]) -> None:
    """-W of the destination, as when ssh runs us under a ProxyCommand."""
    there = hosts(one=[], target=[])
    done = there.run("-J", "one", "-W", f"127.0.0.1:{free_port('tcp')}", "target")
    assert b"connect failed: Connection refused" in done.stderr


def test_a_jump_host_is_not_trusted_for_the_destination(hosts: Callable[..., Hosts]) -> None:
    there = hosts(one=[], target=[])
    for wrong in ("one", "target"):
        other = "target" if wrong == "one" else "one"
        there.write({wrong: other, other: other})
        done = there.run("-J", "one", "target", "echo hello")
        assert (done.returncode, done.stdout) == (255, b"")
        assert b"Host key verification failed." in done.stderr
    there.write({"one": "one", "target": "target"})
    assert there.run("-J", "one", "target", "echo hello").stdout == b"hello\n"


def test_a_jump_host_may_forbid_it(hosts: Callable[..., Hosts]) -> None:
    there = hosts(one=["AllowTcpForwarding no"], target=[])
    done = there.run("-J", "one", "target", "echo hello")
    assert done.returncode == 255
    assert b"open failed: administratively prohibited: open failed" in done.stderr


def test_a_jump_host_that_is_not_there_is_named(hosts: Callable[..., Hosts]) -> None:
    there = hosts(one=[], target=[])
    there.servers["one"].stop()
    done = there.run("-J", "one", "target", "echo hello")
    assert done.returncode == 255
    port = there.servers["one"].port
    assert f"connect to host 127.0.0.1 port {port}: Connection refused".encode() in done.stderr


def test_a_destination_that_is_not_there_is_named(hosts: Callable[..., Hosts]) -> None:
    there = hosts(one=[], target=[])
    there.servers["target"].stop()
    done = there.run("-o", "ConnectTimeout=2", "-J", "one", "target", "echo hello")
    assert done.returncode == 255
    port = there.servers["target"].port
    assert f"connect to host 127.0.0.1 port {port}:".encode() in done.stderr
