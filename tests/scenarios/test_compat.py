"""What lies in compat/: commands in the place of others, and settings to be included."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.janitor import Janitor
from tests.needs import need_device, need_tools
from tests.programs import URL_PATH, Client, OpenSSH, Server, Sshoq
from tests.scenarios.conftest import ClientFactory, server_factory
from tests.terminal import Terminal

pytestmark = pytest.mark.privileged

COMPAT = Path(__file__).parents[2] / "compat"
SFTP = "Subsystem sftp /usr/lib/openssh/sftp-server"
GIT = {"GIT_CONFIG_SYSTEM": "/dev/null"} | {
    f"GIT_{who}_{what}": "a@example.org"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}


@pytest.fixture(scope="module")
def servers(janitor: Janitor, sshoq: Sshoq, openssh: OpenSSH) -> Iterator[tuple[Server, Server]]:
    for start in server_factory(janitor):
        yield start(sshoq, [SFTP]), start(openssh, [SFTP])


@pytest.fixture
def client(
    connect: ClientFactory, servers: tuple[Server, Server], account: Account
) -> Client:
    return connect(servers[0], account)


class Place:
    """A machine on which `sshoq` is in PATH and knows the server."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.directory = client.directory
        self.remote = f"{client.user}@{client.server.host}"
        self.bin = self.directory / "programs of mine"
        self.bin.mkdir()
        self.config = self.directory / "our config"
        self.config.write_text(
            f"URLPath {URL_PATH}\nTransport quic\nQUICPort {client.server.port}\n"
            + self.common_lines()
        )
        program = self.bin / "sshoq"
        words = shlex.join([client.server.programs.client(), "-F", str(self.config)])
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        program.chmod(0o755)

    def common_lines(self) -> str:
        client = self.client
        return (
            f"User {client.user}\nIdentityFile {client.key}\nIdentitiesOnly yes\n"
            f'UserKnownHostsFile "{client.known_hosts}"\nGlobalKnownHostsFile /dev/null\n'
            "StrictHostKeyChecking yes\nBatchMode yes\n"
        )

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        environment = self.client.environment(extra)
        environment["PATH"] = f"{self.bin}:{environment['PATH']}"
        return environment

    def run(
        self, *command: str, env: dict[str, str] | None = None, status: int = 0
    ) -> bytes:
        done = subprocess.run(
            command,
            env=self.environment() | (env or {}),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
        )
        log = self.client.server.log()[-2000:]
        assert done.returncode == status, (done.stdout, done.stderr, log)
        return done.stdout


@pytest.fixture
def place(client: Client) -> Place:
    return Place(client)


class Wrappers:
    """The commands of compat/, called in one of the ways in which people call commands."""

    def __init__(self, place: Place, way: str) -> None:
        self.place = place
        self.way = way
        self.folder = COMPAT
        if way == "spaces":
            self.folder = place.directory / "a folder with blanks"
            shutil.copytree(COMPAT, self.folder)
        elif way == "link":
            self.folder = place.directory / "links"
            self.folder.mkdir()
            for path in COMPAT.iterdir():
                (self.folder / path.name).symlink_to(path)

    def __call__(self, name: str) -> str:
        return name if self.way == "path" else str(self.folder / name)

    def environment(self) -> dict[str, str]:
        if self.way != "path":
            return {}
        return {"PATH": f"{COMPAT}:{self.place.environment()['PATH']}"}

    def run(self, name: str, *words: str, env: dict[str, str] | None = None) -> bytes:
        command = [self(name), *words]
        environment = self.environment() | (env or {})
        if self.way == "path":
            command = ["env", *command]  # which looks it up in the new PATH
        return self.place.run(*command, env=environment)


@pytest.fixture(params=["absolute", "link", "spaces", "path"])
def wrappers(place: Place, request: pytest.FixtureRequest) -> Wrappers:
    return Wrappers(place, request.param)


def test_ssh(wrappers: Wrappers, place: Place) -> None:
    assert wrappers.run("ssh", place.remote, "echo $SSH_CONNECTION").split()[-1] == (
        str(place.client.server.port).encode()
    )


def test_scp_and_sftp(wrappers: Wrappers, place: Place) -> None:
    blob = os.urandom(300_000)
    (place.directory / "blob").write_bytes(blob)
    wrappers.run("scp", "-q", "blob", f"{place.remote}:compat-scp")
    (place.directory / "batch").write_text("get compat-scp back\nrm compat-scp\n")
    wrappers.run("sftp", "-q", "-b", "batch", place.remote)
    assert (place.directory / "back").read_bytes() == blob


def test_rsync(wrappers: Wrappers, place: Place) -> None:
    need_tools("rsync")
    (place.directory / "tree").mkdir()
    (place.directory / "tree/file").write_text("through rsync\n")
    wrappers.run("rsync", "-r", "tree/", f"{place.remote}:compat-rsync")
    wrappers.run("rsync", "-r", f"{place.remote}:compat-rsync/", "back")
    assert (place.directory / "back/file").read_text() == "through rsync\n"


def test_git(wrappers: Wrappers, place: Place) -> None:
    need_tools("git")
    place.client.output("rm -rf compat.git; git init -q --bare -b main compat.git")
    git = GIT | {"GIT_CONFIG_GLOBAL": "/dev/null"}
    wrappers.run("git", "init", "-q", "-b", "main", "work", env=git)
    commit = ["-C", "work", "commit", "-q", "--allow-empty", "-m", "one"]
    wrappers.run("git", *commit, env=git)
    wrappers.run("git", "-C", "work", "push", "-q", f"{place.remote}:compat.git", "main", env=git)
    listed = wrappers.run("git", "ls-remote", f"{place.remote}:compat.git", env=git)
    assert listed.endswith(b"refs/heads/main\n")


def test_sshfs(wrappers: Wrappers, place: Place, account: Account) -> None:
    need_tools("sshfs", "fusermount3")
    need_device("/dev/fuse")
    point = place.directory / "mounted"
    point.mkdir()
    account.write("compat-sshfs", "here\n")
    wrappers.run("sshfs", f"{place.remote}:", str(point))
    try:
        assert (point / "compat-sshfs").read_text() == "here\n"
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=True, timeout=30)


def test_mosh(wrappers: Wrappers, place: Place) -> None:
    need_tools("mosh")
    command = [wrappers("mosh"), "--no-init", place.remote]
    if wrappers.way == "path":
        command = ["env", *command]
    with Terminal(command, place.environment() | wrappers.environment()) as terminal:
        terminal.send("echo mo''shed\r")
        terminal.expect("moshed")
        terminal.send("exit\r")
        terminal.wait()


def test_the_real_ssh_is_found_behind_the_wrapper(
    place: Place, servers: tuple[Server, Server]
) -> None:
    """A host that speaks no SSHOQ, with compat/ first in PATH: no wrapper calls itself."""
    inner = servers[1]
    known = place.directory / "known_inner"
    known.write_text(inner.known_hosts())
    wrappers = Wrappers(place, "path")
    flags = ["-o", "Transport=ssh", "-o", f"UserKnownHostsFile={known}"]
    flags += ["-i", str(place.client.key), "-o", "IdentitiesOnly=yes", "-p", str(inner.port)]
    program = place.bin / "sshoq"
    words = shlex.join([place.client.server.programs.client(), "-F", "none", *flags])
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    output = wrappers.run("ssh", place.remote, "echo $SSH_CONNECTION")
    assert output.split()[-1] == str(inner.port).encode()


# --------------------------------------------------------------------------- settings


def test_git_is_told_by_its_configuration(place: Place) -> None:
    need_tools("git")
    place.client.output("rm -rf set.git; git init -q --bare -b main set.git")
    path = place.directory / "gitconfig"
    path.write_text(f'[include]\n\tpath = "{COMPAT / "gitconfig"}"\n')
    git = GIT | {"GIT_CONFIG_GLOBAL": str(path)}
    place.run("git", "init", "-q", "-b", "main", "work", env=git)
    place.run("git", "-C", "work", "commit", "-q", "--allow-empty", "-m", "one", env=git)
    place.run("git", "-C", "work", "push", "-q", f"{place.remote}:set.git", "main", env=git)
    place.run("git", "clone", "-q", f"{place.remote}:set.git", "clone", env=git)
    assert place.run("git", "-C", "clone", "log", "--format=%s", env=git) == b"one\n"


@pytest.mark.parametrize("method", ["sftp", "scp", "piped"])
def test_ansible_is_told_by_its_configuration(
    place: Place, account: Account, method: str
) -> None:
    need_tools("ansible", "/usr/bin/python3")
    env = {
        "ANSIBLE_CONFIG": str(COMPAT / "ansible.cfg"),
        "ANSIBLE_LOCAL_TEMP": str(place.directory / "tmp"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(place.directory / "control"),
        "ANSIBLE_SSH_ARGS": "-C",
        "ANSIBLE_SSH_TRANSFER_METHOD": method,
    }
    (place.directory / "source").write_text(f"by {method}\n")
    target = account.home / f"compat-ansible-{method}"
    told = place.run(
        "ansible", "all", "-i", f"{place.client.server.host},", "-u", place.client.user,
        "-e", "ansible_python_interpreter=/usr/bin/python3",
        "-m", "copy", "-a", f"src={place.directory}/source dest={target}", env=env,
    )  # fmt: skip
    assert b'"changed": true' in told
    assert target.read_text() == f"by {method}\n"


class TestProxyCommand:
    """compat/ssh_config in a Host block of ~/.ssh/config, compat/sshoq_config in one of ours."""

    @pytest.fixture
    def config(self, place: Place, servers: tuple[Server, Server]) -> Path:
        outer, inner = servers
        place.client.known_hosts.write_text(outer.known_hosts() + inner.known_hosts())
        path = place.directory / "ssh_config"
        path.write_text(
            f"Host {inner.host}\nPort {inner.port}\n"
            f"Include {COMPAT / 'ssh_config'}\n{place.common_lines()}"
        )
        place.config.write_text(
            f"Host {outer.host}\nURLPath {URL_PATH}\nQUICPort {outer.port}\n"
            f"Include {COMPAT / 'sshoq_config'}\n"
            # As when ~/.ssh/config is read behind it, by sshoq, too.
            + path.read_text()
        )
        return path

    def test_ssh_reaches_the_sshd_behind(self, place: Place, config: Path) -> None:
        ssh = [OpenSSH().client(), "-F", str(config)]
        output = place.run(*ssh, place.client.server.host, "echo $SSH_CONNECTION")
        port = int(output.split()[-1])
        assert f"Port {port}\n" in config.read_text()

    def test_sshoq_itself_reaches_the_server(self, place: Place, config: Path) -> None:
        """The same lines mean nothing but the server to it."""
        assert "ProxyCommand" in (COMPAT / "ssh_config").read_text()
        output = place.run("sshoq", place.client.server.host, "echo $SSH_CONNECTION")
        assert output.split()[-1] == str(place.client.server.port).encode()
