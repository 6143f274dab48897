"""Much to copy, by the usual programs with ours in ssh's place: a large file, many small ones, and
work on a mounted directory. What arrives is told by its checksums."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.echo import is_open
from tests.janitor import Janitor
from tests.needs import need_device, need_tools
from tests.processes import wait_until
from tests.programs import URL_PATH, Client, OpenSSH, Server, Sshoq, free_port, is_bound
from tests.scenarios.conftest import ClientFactory, server_factory
from tests.scenarios.test_tools import digests

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(300)]

LARGE = 100_000_000
SMALL_FILES = 2000
SOME_FOLDERS = 4
"""Of twenty."""
SERVERS = {"installed": "/usr/lib/openssh/sftp-server", "internal": "internal-sftp"}
PATIENCE = 200.0

whoever_serves = pytest.mark.parametrize("server", sorted(SERVERS), indirect=True)
once = pytest.mark.parametrize("server", ["installed"], indirect=True)
by_ours = pytest.mark.parametrize("server", ["internal"], indirect=True)


@pytest.fixture(scope="module")
def server(
    sshoq: Sshoq, janitor: Janitor, request: pytest.FixtureRequest
) -> Iterator[Server]:
    for start in server_factory(janitor):
        yield start(sshoq, [f"Subsystem sftp {SERVERS[request.param]}"])


@pytest.fixture
def client(connect: ClientFactory, server: Server, account: Account) -> Client:
    return connect(server, account)


@pytest.fixture
def program(client: Client) -> Path:
    """Our client with the test's options, as one word."""
    path = client.directory / "ssh-program"
    words = shlex.join([client.server.programs.client(), *client.options()])
    path.write_text(f'#!/bin/sh\nexec {words} -o URLPath={URL_PATH} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def remote(client: Client) -> str:
    return f"{client.user}@{client.server.host}"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large"
    path.write_bytes(random.Random(4).randbytes(LARGE))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 files, most of them of a few hundred bytes, in folders."""
    root = tmp_path_factory.mktemp("small") / "small"
    source = random.Random(5)
    for number in range(SMALL_FILES):
        path = root / f"folder {number % 20}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(source.choice([0, 10, 300, 2000, 9000])))
    return root


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(client: Client, *command: str, input: bytes = b"") -> bytes:
    done = subprocess.run(
        command, input=input, env=client.environment(), cwd=client.directory,
        capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, (done.stderr, client.server.log()[-2000:])
    return done.stdout


@whoever_serves
def test_scp_of_a_large_file(
    client: Client, program: Path, remote: str, large: Path, account: Account
) -> None:
    need_tools("scp")
    scp = ["scp", "-q", "-S", str(program)]
    run(client, *scp, str(large), f"{remote}:large")
    assert digest(account.home / "large") == digest(large)
    run(client, *scp, f"{remote}:large", "back")
    (account.home / "large").unlink()
    assert digest(client.directory / "back") == digest(large)


@whoever_serves
def test_sftp_of_a_large_file(
    client: Client, program: Path, remote: str, large: Path, account: Account
) -> None:
    need_tools("sftp")
    sftp = ["sftp", "-q", "-S", str(program), "-b", "-", remote]
    run(client, *sftp, input=f"put {large} large\nget large back\n".encode())
    assert digest(account.home / "large") == digest(large)
    assert digest(client.directory / "back") == digest(large)
    (account.home / "large").unlink()


@once
def test_scp_of_many_small_files(
    client: Client, program: Path, remote: str, small: Path
) -> None:
    need_tools("scp")
    scp = ["scp", "-q", "-r", "-S", str(program)]
    client.output("rm -rf small")
    run(client, *scp, str(small), f"{remote}:small")
    run(client, *scp, f"{remote}:small", "back")
    assert digests(client.directory / "back") == digests(small)


@by_ours
def test_sftp_of_many_small_files(
    client: Client, program: Path, remote: str, small: Path
) -> None:
    need_tools("sftp")
    sftp = ["sftp", "-q", "-S", str(program), "-b", "-", remote]
    client.output("rm -rf small")
    run(client, *sftp, input=f"put -R {small} small\nget -R small back\n".encode())
    assert digests(client.directory / "back") == digests(small)


@once
def test_rsync_of_many_small_files_and_a_large_one(
    client: Client, program: Path, remote: str, small: Path, large: Path
) -> None:
    need_tools("rsync")
    rsync = ["rsync", "-rt", "-e", str(program)]
    client.output("rm -rf synced")
    run(client, *rsync, f"{small}/", str(large), f"{remote}:synced/")
    run(client, *rsync, f"{remote}:synced/", "back/")
    assert digests(client.directory / "back") == digests(small) | {"large": digest(large)}
    client.output("rm -rf synced")


@once
def test_our_own_file_transfer(client: Client, large: Path, small: Path) -> None:
    words = [client.server.programs.client(), *client.options(), "-scp", "-r"]
    there = client.server.programs.destination(client.user, client.server.host)
    client.output("rm -rf own; mkdir own")
    for source in (large, small):
        run(client, *words, str(source), f"{there}%own")
    run(client, *words, f"{there}%own", "back")
    back = digests(client.directory / "back")
    expected = {f"small/{name}": value for name, value in digests(small).items()}
    assert back == expected | {"large": digest(large)}
    client.output("rm -rf own")


# --------------------------------------------------------------------------- mounted


class Mount:
    """A mounted directory of the account's, and what people do in one."""

    def __init__(self, point: Path, there: Path) -> None:
        self.point = point
        self.there = there

    def check_sums(self, small: Path) -> None:
        """Copy some folders into it, and have their files read through it by sha256sum."""
        tree = self.point / "tree"
        tree.mkdir()
        folders = [str(small / f"folder {number}") for number in range(SOME_FOLDERS)]
        subprocess.run(["cp", "-r", *folders, str(tree)], check=True, timeout=100)
        some = {
            name: value
            for name, value in digests(small).items()
            if str(small / name).startswith(tuple(f"{folder}/" for folder in folders))
        }
        assert digests(self.there / "tree") == some
        listed = subprocess.run(
            "find . -type f -print0 | sort -z | xargs -0 sha256sum",
            shell=True, cwd=self.there / "tree", capture_output=True, check=True, timeout=100,
        ).stdout  # fmt: skip
        done = subprocess.run(
            ["sha256sum", "--check", "--quiet", "--strict"],
            input=listed, cwd=self.point / "tree", capture_output=True, timeout=100,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, b"")

    def build(self) -> None:
        """A build: many processes read, write, rename and look at times."""
        folder = self.point / "built"
        folder.mkdir()
        names = [f"part{number}" for number in range(30)]
        for name in names:
            (folder / f"{name}.in").write_text(f"{name}\n" * 100)
        (folder / "Makefile").write_text(
            f"PARTS := {' '.join(f'{name}.out' for name in names)}\n"
            "all: $(PARTS)\n\tcat $^ >all.tmp && mv all.tmp all\n"
            "%.out: %.in\n\tsort $< | uniq -c >$@.tmp && mv $@.tmp $@\n"
        )
        make = ["make", "-s", "-j2", "-C", str(folder)]
        subprocess.run(make, check=True, capture_output=True, timeout=100)
        lines = (self.there / "built/all").read_text().split()
        assert lines == [word for name in names for word in ("100", name)]


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    need_tools("sshfs", "fusermount3", "make")
    need_device("/dev/fuse")
    path = tmp_path / "mounted"
    path.mkdir()
    yield path
    subprocess.run(["fusermount3", "-u", "-z", str(path)], check=False, timeout=30)


@pytest.fixture
def folder(account: Account) -> Iterator[Path]:
    """Where the mount leads: the account's own, and empty."""
    path = account.home / "shared"
    path.mkdir()
    os.chown(path, account.uid, account.gid)
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True, timeout=60)


@once
def test_work_on_a_mounted_directory(
    client: Client, program: Path, remote: str, point: Path, folder: Path, small: Path
) -> None:
    command = ["sshfs", "-o", f"ssh_command={program}", f"{remote}:shared", str(point)]
    run(client, *command)
    mount = Mount(point, folder)
    mount.check_sums(small)
    mount.build()


@once
def test_work_on_a_directory_mounted_through_a_proxy_command(
    client: Client, openssh: OpenSSH, janitor: Janitor, account: Account, program: Path,
    point: Path, folder: Path, small: Path,
) -> None:  # fmt: skip
    for start in server_factory(janitor):
        inner = start(openssh, ["Subsystem sftp /usr/lib/openssh/sftp-server"])
        known = client.directory / "known_inner"
        known.write_text(inner.known_hosts())
        config = client.directory / "ssh_config"
        config.write_text(
            f"Host {inner.host}\nPort {inner.port}\nUser {account.name}\n"
            f"IdentityFile {account.key}\nIdentitiesOnly yes\nBatchMode yes\n"
            f"UserKnownHostsFile {known}\nStrictHostKeyChecking yes\n"
            f"ProxyCommand {program} --stdio %r@%h %p\n"
        )
        run(client, "sshfs", "-F", str(config), f"{inner.host}:shared", str(point))
        mount = Mount(point, folder)
        mount.check_sums(small)
        mount.build()
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=True, timeout=30)


@once
@pytest.mark.parametrize("spelling", ["go", "ssh", "socket"])
def test_a_directory_mounted_through_a_forwarded_port(
    client: Client, point: Path, folder: Path, small: Path, spelling: str
) -> None:
    """As the Go programs' manual has it, who served no files: an sftp-server that listens."""
    need_tools("socat")
    near, far = free_port("tcp"), free_port("tcp")
    serve = "EXEC:/usr/lib/openssh/sftp-server"
    path = folder / "sftp.sock"
    flags, listen = {
        "go": (
            ["-forward-tcp", f"{near}@127.0.0.1@{far}"],
            f"TCP-LISTEN:{far},bind=127.0.0.1,reuseaddr,fork,nodelay",
        ),
        "ssh": (
            ["-L", f"{near}:127.0.0.1:{far}"],
            f"TCP-LISTEN:{far},bind=127.0.0.1,reuseaddr,fork,nodelay",
        ),
        "socket": (["-L", f"{near}:{path}"], f"UNIX-LISTEN:{path},mode=600,fork,unlink-early"),
    }[spelling]
    process = client.start("exec", "socat", listen, serve, flags=flags)
    try:
        wait_until(lambda: is_open(near), 30, "our client listens")
        if spelling == "socket":
            wait_until(path.exists, 30, "socat listens")
        else:
            wait_until(lambda: is_bound(process.pid, "tcp", far), 30, "socat listens")
        run(client, "sshfs", "-o", f"directport={near}", f"127.0.0.1:{folder}", str(point))
        mount = Mount(point, folder)
        mount.check_sums(small)
        mount.build()
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=True, timeout=30)
    finally:
        process.kill()
        process.communicate(timeout=10)
