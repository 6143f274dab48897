"""Jump hosts: two in a row, who is trusted for what, and what is said of one that says no."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account, make_key
from tests.needs import need_device, need_root, need_tools
from tests.netns import Link, Row, delay_link, row_of_networks
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


def test_each_hop_tells_its_other_keys(hosts: Callable[..., Hosts], tmp_path: Path) -> None:
    key = make_key(tmp_path / "second", "ecdsa")
    there = hosts(one=[f"HostKey {key}"], two=[f"HostKey {key}"], target=[f"HostKey {key}"])
    there.config.write_text(f"UpdateHostKeys yes\n{there.config.read_text()}")
    done = there.run("-J", "one,two", "target", "true")
    assert done.returncode == 0, done.stderr
    blob = Path(f"{key}.pub").read_text().split()[1]
    for name in there.servers:
        assert blob in (tmp_path / f"known_{name}").read_text()


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


# --------------------------------------------------------------------------- narrow paths


@pytest.fixture
def link() -> Iterator[Link]:
    need_root()
    need_device("/dev/net/tun")
    need_tools("ip", "nsenter")
    with delay_link(rtt=0.02) as made:
        yield made


Behind = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def across(
    link: Link, sshoq: Sshoq, start_server: ServerFactory, account: Account, tmp_path: Path
) -> Behind:
    """Run the client in one namespace, for a target that is in the other one with the jump host."""

    def run(address: str, mtu: int, command: str) -> subprocess.CompletedProcess[bytes]:
        for run_there in (link.run_a, link.run_b):
            run_there(["ip", "link", "set", "wire", "mtu", str(mtu)], check=True)
        hop, target = (
            start_server(sshoq, host=address, prefix=link.prefix_b) for _ in range(2)
        )
        known = tmp_path / "known_hosts"
        known.write_text(hop.known_hosts() + target.known_hosts())
        config = tmp_path / "config"
        config.write_text(
            f"Host hop\nPort {hop.port}\nHost target\nPort {target.port}\n"
            f"Host *\nHostName {address}\nUser {account.name}\nIdentityFile {account.key}\n"
            f"IdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking yes\n"
            f"UserKnownHostsFile {known}\nGlobalKnownHostsFile /dev/null\n"
            f"URLPath {URL_PATH}\nTransport quic\n"
        )
        words = [sshoq.client(), "-F", str(config), "-J", "hop", "target", command]
        return link.run_a(
            words, env=quiet_environment(tmp_path), capture_output=True, timeout=60, input=BLOB
        )

    return run


@pytest.mark.parametrize(
    ("address", "mtu"),
    [(Link.address_b, 1260), (Link.address_b, 1280), (Link.address_b, 1320),
     (Link.address6_b, 1280)],
    ids=["the least", "1280", "1320", "least of IPv6"],
)  # fmt: skip
def test_another_connection_fits_into_a_narrow_path(
    across: Behind, address: str, mtu: int
) -> None:
    """Of 1232 bytes, 1200 are another connection's packet: IPv6 has no narrower path."""
    done = across(address, mtu, "cat; exit 7")
    assert (done.stdout == BLOB, done.returncode) == (True, 7), done.stderr


def test_a_path_that_is_too_narrow_for_that_is_told_of(across: Behind) -> None:
    """One byte less. The jump host itself could be reached."""
    done = across(Link.address_b, 1259, "cat")
    assert (done.returncode, done.stdout) == (255, b"")
    line = b"the path to jump host %s carries no packets that another connection fits into"
    assert line % Link.address_b.encode() in done.stderr, done.stderr


class TestThreeNetworks:
    """Two hops, each of which alone can reach the next one; the client reaches the first."""

    @pytest.fixture
    def row(self) -> Iterator[Row]:
        need_root()
        need_tools("ip", "nsenter")
        with row_of_networks(4) as row:
            yield row

    @pytest.fixture
    def config(
        self, row: Row, tmp_path: Path, sshoq: Sshoq, start_server: ServerFactory, account: Account
    ) -> Path:
        lines = []
        known = tmp_path / "known_hosts"
        with known.open("w") as file:
            for number, name in enumerate(("one", "two", "target"), start=1):
                address = row.address(number)
                server = start_server(sshoq, prefix=row.prefix(number), host=address)
                file.write(server.known_hosts())
                lines.append(f"Host {name}\nHostName {address}\nPort {server.port}\n")
        path = tmp_path / "config"
        path.write_text(
            "".join(lines) + f"Host *\nUser {account.name}\nIdentityFile {account.key}\n"
            f"IdentitiesOnly yes\nBatchMode yes\nUserKnownHostsFile {known}\n"
            f"StrictHostKeyChecking yes\nGlobalKnownHostsFile /dev/null\n"
            f"URLPath {URL_PATH}\nTransport quic\nConnectTimeout 20\n"
        )
        return path

    @pytest.fixture
    def run(self, row: Row, config: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
        def run(*words: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(
                [*row.prefix(0), Sshoq().client(), "-F", str(config), *words],
                input=input,
                env=quiet_environment(config.parent),
                cwd=config.parent,
                capture_output=True,
                timeout=100,
            )

        return run

    Run = Callable[..., subprocess.CompletedProcess[bytes]]

    def test_a_session_and_its_data(self, run: Run) -> None:
        done = run("-J", "one,two", "target", "echo $SSH_CONNECTION; cat; exit 7", input=BLOB)
        line, _, rest = done.stdout.partition(b"\n")
        assert (rest == BLOB, done.returncode) == (True, 7), done.stderr
        assert line.split()[0] == b"10.78.3.1", "it comes from the last hop"
        assert line.split()[2] == b"10.78.3.2"

    def test_there_is_no_shorter_way(self, run: Run) -> None:
        for words in (["target"], ["-J", "one", "target"], ["-J", "two", "target"]):
            done = run("-o", "ConnectTimeout=1", *words, "echo hello")
            assert (done.returncode, done.stdout) == (255, b"")

    def test_standard_input_as_a_connection_at_the_end(self, run: Run) -> None:
        done = run("-J", "one,two", "-W", f"127.0.0.1:{free_port('tcp')}", "target")
        assert b"connect failed: Connection refused" in done.stderr

    def test_files_are_copied(self, run: Run, config: Path, account: Account) -> None:
        """The Go programs' file transfer, all the way."""
        (config.parent / "blob").write_bytes(BLOB)
        done = run("-J", "one,two", "-scp", "blob", "target%jumped")
        assert done.returncode == 0, done.stderr
        assert (account.home / "jumped").read_bytes() == BLOB
        done = run("-J", "one,two", "-sftp", "target", input=b"get jumped back\nrm jumped\n")
        assert done.returncode == 0, done.stderr
        assert (config.parent / "back").read_bytes() == BLOB
        assert not (account.home / "jumped").exists()
