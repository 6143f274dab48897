"""`ProxyCommand sshoq --stdio`: plain ssh and what is built on it, to an sshd behind our server."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.janitor import Janitor
from tests.needs import need_device, need_tools
from tests.processes import processes_with, wait_until
from tests.programs import URL_PATH, OpenSSH, Server, Sshoq, free_port, quiet_environment
from tests.scenarios.conftest import server_factory
from tests.scenarios.test_tools import digests

pytestmark = pytest.mark.privileged

MARK, VALUE = "SSHOQ_TEST_PROXY", f"proxy-{os.getpid()}"


class Behind:
    """A host `behind` in an ssh_config, reached through our client and server."""

    def __init__(self, directory: Path, outer: Server, inner: Server, account: Account) -> None:
        self.directory = directory
        self.outer = outer
        self.inner = inner
        self.account = account
        self.known_hosts = directory / "known_hosts"
        self.known_hosts.write_text(outer.known_hosts() + inner.known_hosts())
        self.config = directory / "ssh_config"
        self.write_config(str(inner.port))

    def write_config(self, target: str) -> None:
        ours = self.directory / "sshoq_config"
        common = (
            f"User {self.account.name}\nIdentityFile {self.account.key}\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {self.known_hosts}\nGlobalKnownHostsFile /dev/null\n"
            "StrictHostKeyChecking yes\nBatchMode yes\n"
        )
        ours.write_text(f"URLPath {URL_PATH}\nTransport quic\nPort {self.outer.port}\n{common}")
        words = [Sshoq().client(), "-F", str(ours), "--stdio", f"%r@{self.outer.host}", target]
        self.config.write_text(
            f"Host behind\nHostName {self.inner.host}\nPort {self.inner.port}\n"
            f"HostKeyAlias [{self.inner.host}]:{self.inner.port}\n"
            f"ProxyCommand {shlex.join(words)}\n{common}"
        )

    def start(self, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=quiet_environment(self.directory, {MARK: VALUE} | (env or {})),
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(
        self, *command: str, input: bytes = b"", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        with self.start(*command, env=env) as process:
            out, err = process.communicate(input, timeout=100)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def output(self, *command: str, input: bytes = b"", env: dict[str, str] | None = None) -> bytes:
        done = self.run(*command, input=input, env=env)
        assert done.returncode == 0, (done.stderr, self.outer.log()[-2000:])
        return done.stdout

    @property
    def ssh(self) -> list[str]:
        return [OpenSSH().client(), "-F", str(self.config)]


@pytest.fixture(scope="module")
def servers(janitor: Janitor, sshoq: Sshoq, openssh: OpenSSH) -> Iterator[tuple[Server, Server]]:
    for start in server_factory(janitor):
        sftp = "Subsystem sftp /usr/lib/openssh/sftp-server"
        yield start(sshoq), start(openssh, [sftp])


@pytest.fixture
def behind(tmp_path: Path, servers: tuple[Server, Server], account: Account) -> Behind:
    return Behind(tmp_path, *servers, account)


def test_ssh_carries_bytes_both_ways_and_the_exit_status(behind: Behind) -> None:
    blob = os.urandom(3 << 20)
    done = behind.run(*behind.ssh, "behind", "cat; exit 7", input=blob)
    assert (done.stdout, done.returncode) == (blob, 7)


def test_the_whole_target_can_be_named(behind: Behind) -> None:
    behind.write_config(f"{behind.inner.host}:{behind.inner.port}")
    assert behind.output(*behind.ssh, "behind", "id -un").decode().strip() == behind.account.name


def test_a_closed_port_is_said_and_ends_ssh(behind: Behind) -> None:
    behind.write_config(str(free_port("tcp")))
    done = behind.run(*behind.ssh, "behind", "true")
    assert done.returncode == 255
    assert b"connect failed: Connection refused" in done.stderr
    assert b"stdio forwarding failed" in done.stderr


def test_nothing_is_left_when_ssh_is_gone(behind: Behind) -> None:
    """Ended in good order, and killed: our client goes with it."""
    assert behind.output(*behind.ssh, "behind", "echo done") == b"done\n"
    wait_until(lambda: not processes_with(MARK, VALUE), 30, "all programs have ended")
    with behind.start(*behind.ssh, "behind", "echo ready; cat") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    wait_until(lambda: not processes_with(MARK, VALUE), 30, "all programs have ended")


def test_many_at_the_same_time(behind: Behind) -> None:
    answers: dict[int, bytes] = {}

    def run(number: int) -> None:
        command = [*behind.ssh, "behind", f"echo {number}; cat"]
        answers[number] = behind.run(*command, input=b"x" * 100_000).stdout

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: b"%d\n" % n + b"x" * 100_000 for n in range(6)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub folder").mkdir(parents=True)
    (root / "empty").touch()
    (root / "large").write_bytes(os.urandom(5_000_000))
    for number in range(200):
        (root / "sub folder" / f"small {number}").write_text(f"{number}\n")
    return root


def test_scp_copies_there_and_back(behind: Behind, tree: Path) -> None:
    scp = ["scp", "-q", "-r", "-F", str(behind.config)]
    behind.output(*scp, str(tree), "behind:proxied-scp")
    behind.output(*scp, "behind:proxied-scp", "back")
    assert digests(behind.directory / "back") == digests(tree)


def test_sftp_runs_a_batch(behind: Behind, tree: Path) -> None:
    batch = behind.directory / "batch"
    batch.write_text(f"put {tree}/large proxied-sftp\nget proxied-sftp\nrm proxied-sftp\n")
    behind.output("sftp", "-q", "-F", str(behind.config), "-b", str(batch), "behind")
    assert (behind.directory / "proxied-sftp").read_bytes() == (tree / "large").read_bytes()


def test_rsync_copies_there_and_back(behind: Behind, tree: Path) -> None:
    need_tools("rsync")
    rsync = ["rsync", "-r", "-e", shlex.join(behind.ssh)]
    behind.output(*rsync, f"{tree}/", "behind:proxied-rsync/")
    behind.output(*rsync, "behind:proxied-rsync/", "back/")
    assert digests(behind.directory / "back") == digests(tree)


def test_git_pushes_and_clones(behind: Behind, tree: Path) -> None:
    need_tools("git")
    env = {"GIT_SSH_COMMAND": shlex.join(behind.ssh), "GIT_CONFIG_GLOBAL": "/dev/null"}
    env |= {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")}  # fmt: skip
    behind.output(*behind.ssh, "behind", "git init -q --bare -b main proxied.git")
    for words in (
        ["init", "-q", "-b", "main", "."],
        ["add", "."],
        ["commit", "-q", "-m", "one"],
        ["push", "-q", "behind:proxied.git", "main"],
    ):
        behind.output("git", "-C", str(tree), *words, env=env)
    behind.output("git", "clone", "-q", "behind:proxied.git", "clone", env=env)
    assert (behind.directory / "clone/large").read_bytes() == (tree / "large").read_bytes()


def test_sshfs_mounts(behind: Behind, tree: Path) -> None:
    need_tools("sshfs", "fusermount3")
    need_device("/dev/fuse")
    point = behind.directory / "mounted"
    point.mkdir()
    behind.output("sshfs", "-F", str(behind.config), "behind:", str(point))
    try:
        (point / "through.txt").write_bytes((tree / "large").read_bytes())
        assert (point / "through.txt").read_bytes() == (tree / "large").read_bytes()
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=True, timeout=30)


def test_a_forward_of_ssh_works_within(behind: Behind) -> None:
    """ssh's own multiplexing of streams rides on our one stream."""
    port = free_port("tcp")
    with socket.create_server(("127.0.0.1", 0)) as target:
        where = f"{port}:127.0.0.1:{target.getsockname()[1]}"
        command = [*behind.ssh, "-L", where, "behind", "echo ready; cat"]
        with behind.start(*command) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            with socket.create_connection(("127.0.0.1", port), 30) as near:
                far, _ = target.accept()
                with far:
                    far.sendall(b"hello")
                    assert near.recv(5) == b"hello"
            process.communicate(b"", timeout=30)
