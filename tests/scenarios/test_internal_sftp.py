"""`internal-sftp`: files for users who have nothing else, with sftp itself; and with sshd's for
comparison."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account, unique_name
from tests.needs import need_device, need_tools
from tests.processes import processes_of, wait_until
from tests.programs import URL_PATH, Client, Programs, Sshoq, as_user
from tests.scenarios.conftest import ClientFactory, ServerFactory
from tests.scenarios.test_tools import digests

pytestmark = pytest.mark.privileged


@pytest.fixture
def nologin(account_factory: Callable[..., Account]) -> Account:
    """A user who has files and nothing to run."""
    return account_factory(shell="/usr/sbin/nologin")


@pytest.fixture
def root_directory(nologin: Account) -> Iterator[Path]:
    """A root directory with nothing in it but a place for the user: no program, no library."""
    path = Path("/run") / unique_name("sqroot")
    (path / "files").mkdir(parents=True, mode=0o755)
    path.chmod(0o755)
    os.chown(path / "files", nologin.uid, nologin.gid)
    yield path
    shutil.rmtree(path)


class Sftp:
    """The real sftp, with the client under test in ssh's place."""

    def __init__(self, client: Client) -> None:
        self.client = client
        is_ours = client.server.programs.name == "sshoq"
        path = ["-o", f"URLPath={URL_PATH}"] if is_ours else []
        self.options = ["-S", client.server.programs.client(), *client.options(), *path]
        self.remote = f"{client.user}@{client.server.host}"

    def run(self, *lines: str) -> subprocess.CompletedProcess[bytes]:
        """Each line is tried, whatever becomes of the others."""
        text = "".join(f"-{line}\n" for line in lines)
        return subprocess.run(
            ["sftp", "-q", "-b", "-", *self.options, self.remote],
            input=text.encode(),
            env=self.client.environment(),
            cwd=self.client.directory,
            capture_output=True,
            timeout=100,
        )

    def output(self, *lines: str) -> list[str]:
        done = self.run(*lines)
        log = self.client.server.log()[-2000:]
        assert (done.returncode, done.stderr) == (0, b""), (done.stderr, log)
        return [line for line in done.stdout.decode().splitlines() if "sftp>" not in line]


@pytest.fixture
def sftp_of(
    programs: Programs, start_server: ServerFactory, connect: ClientFactory
) -> Callable[..., Sftp]:
    def make(account: Account, *settings: str) -> Sftp:
        return Sftp(connect(start_server(programs, settings), account))

    return make


SUBSYSTEM = "Subsystem sftp internal-sftp"


def test_a_bare_root_directory_is_enough(
    sftp_of: Callable[..., Sftp], nologin: Account, root_directory: Path
) -> None:
    sftp = sftp_of(
        nologin, SUBSYSTEM, f"ChrootDirectory {root_directory}", "ForceCommand internal-sftp"
    )
    here = sftp.client.directory
    blob = os.urandom(2_000_000)
    (here / "blob").write_bytes(blob)
    lines = sftp.output("cd files", "put blob", "get blob back", "pwd", "ls -1 /", "ls -l")
    assert (root_directory / "files/blob").read_bytes() == (here / "back").read_bytes() == blob
    assert lines[-3:-1] == ["Remote working directory: /files", "/files"]
    assert lines[-1].endswith(" blob")
    outside = sftp.run("get /etc/passwd", "ls /..", "ls /proc", "put blob /blob")
    assert outside.stdout.count(b"/files") == 1
    assert outside.stderr.lower().count(b"not found") + outside.stderr.count(b"No such file") >= 2
    assert b"Permission denied" in outside.stderr
    assert not (root_directory / "blob").exists()


def test_there_is_nothing_else_to_be_had(
    sftp_of: Callable[..., Sftp], nologin: Account, root_directory: Path
) -> None:
    sftp = sftp_of(
        nologin, SUBSYSTEM, f"ChrootDirectory {root_directory}", "ForceCommand internal-sftp"
    )
    for flags in ((), ("-tt",)):
        done = sftp.client.run("id", flags=flags)
        assert done.returncode == 1
        told = done.stdout + done.stderr
        assert b"This service allows sftp connections only." in told


def test_no_shell_is_needed(sftp_of: Callable[..., Sftp], nologin: Account) -> None:
    sftp = sftp_of(nologin, SUBSYSTEM)
    assert sftp.output("pwd") == [f"Remote working directory: {nologin.home}"]


def test_its_flags_hold(sftp_of: Callable[..., Sftp], nologin: Account) -> None:
    owned = nologin.write("pub/file", "as it was")
    sftp = sftp_of(nologin, "Subsystem sftp internal-sftp -R -d %d/pub")
    (sftp.client.directory / "new").write_text("new")
    lines = sftp.output("pwd", "get file")
    assert lines[0] == f"Remote working directory: {nologin.home}/pub"
    assert (sftp.client.directory / "file").read_text() == "as it was"
    done = sftp.run(
        "put new", "put new file", "rm file", "mkdir x", "rename file y", "chmod 0 file"
    )
    assert done.stderr.count(b"Permission denied") == 6, done.stderr
    assert owned.read_text() == "as it was"
    assert [path.name for path in owned.parent.iterdir()] == ["file"]


def test_its_umask_holds(sftp_of: Callable[..., Sftp], nologin: Account) -> None:
    sftp = sftp_of(nologin, "Subsystem sftp internal-sftp -u 0077")
    (sftp.client.directory / "open").write_text("x")
    (sftp.client.directory / "open").chmod(0o666)
    sftp.output("put open", "mkdir folder")
    modes = [(nologin.home / name).stat().st_mode & 0o777 for name in ("open", "folder")]
    assert modes == [0o600, 0o700]


def test_requests_can_be_denied(sftp_of: Callable[..., Sftp], nologin: Account) -> None:
    kept = nologin.write("kept", "x")
    sftp = sftp_of(nologin, "Subsystem sftp internal-sftp -P remove,rename,posix-rename,setstat")
    done = sftp.run("rm kept", "rename kept other", "chmod 777 kept", "ls -1 kept")
    assert done.stderr.count(b"Permission denied") == 3, done.stderr
    assert done.stdout.splitlines()[-1] == b"kept"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_every_command_of_sftp(sftp_of: Callable[..., Sftp], nologin: Account) -> None:
    sftp = sftp_of(nologin, SUBSYSTEM)
    here = sftp.client.directory
    (here / "one").write_text("one\n")
    sftp.output(
        "mkdir d", "cd d", "put -p one", "put -f one synced", "ln -s one link", "ln one hard",
        "rename one two", "chmod 640 two", "chmod -h 640 two", "symlink two other",
        f"chown {nologin.uid} two", "df .", "ls -la", "ls -lan", "get -a two resumed", "reget two",
        "rm link", "rm other", "rm hard", "rm synced", "get -R . copied", "rm two", "cd ..",
        "rmdir d",
    )  # fmt: skip
    assert (here / "resumed").read_text() == (here / "copied/two").read_text() == "one\n"
    assert not (nologin.home / "d").exists()


def test_its_own_memory_is_no_file(sftp_of: Callable[..., Sftp], nologin: Account) -> None:
    """Who may write there runs what he likes, shell or not."""
    sftp = sftp_of(nologin, SUBSYSTEM)
    (sftp.client.directory / "new").write_text("new")
    done = sftp.run("get /proc/self/mem memory", "put new /proc/self/mem")
    assert done.stderr.count(b"Permission denied") == 2, done.stderr


def test_a_tree_of_many_files(sftp_of: Callable[..., Sftp], nologin: Account) -> None:
    sftp = sftp_of(nologin, SUBSYSTEM)
    tree = sftp.client.directory / "tree"
    for number in range(300):
        path = tree / f"folder {number % 7}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 10))
    (tree / "large").write_bytes(os.urandom(20_000_000))
    sftp.output("put -R tree there", "get -R there back")
    assert digests(sftp.client.directory / "back") == digests(tree)


def test_scp_and_sshfs(sftp_of: Callable[..., Sftp], nologin: Account) -> None:
    need_tools("scp", "sshfs", "fusermount3")
    need_device("/dev/fuse")
    sftp = sftp_of(nologin, SUBSYSTEM)
    client = sftp.client
    (client.directory / "file").write_bytes(os.urandom(1_000_000))
    scp = ["scp", "-q", "-p", *sftp.options]
    for source, target in (("file", f"{sftp.remote}:~/sent"), (f"{sftp.remote}:sent", "back")):
        done = subprocess.run(
            [*scp, source, target], env=client.environment(), cwd=client.directory,
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
    assert (client.directory / "back").read_bytes() == (client.directory / "file").read_bytes()
    wrapper = client.directory / "ssh-program"
    words = " ".join(sftp.options[1:])
    wrapper.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    wrapper.chmod(0o755)
    point = client.directory / "mounted"
    point.mkdir()
    mount = ["sshfs", "-o", f"ssh_command={wrapper}", f"{sftp.remote}:", str(point)]
    subprocess.run(mount, env=client.environment(), check=True, timeout=60)
    try:
        (point / "written").write_text("through the mount")
        os.rename(point / "written", point / "sent")
        with (point / "sent").open("r+") as file:
            file.truncate(7)
            os.fsync(file.fileno())
        assert os.statvfs(point).f_blocks == os.statvfs(nologin.home).f_blocks
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=True, timeout=30)
    assert (nologin.home / "sent").read_text() == "through"


def test_its_process_ends_with_the_client(
    sftp_of: Callable[..., Sftp], nologin: Account
) -> None:
    sftp = sftp_of(nologin, SUBSYSTEM)
    process = sftp.client.start("sftp", flags=["-s"])
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\0\0\0\5\1\0\0\0\3")
    process.stdin.flush()
    assert process.stdout.read(5)[4:] == b"\2"
    assert processes_of(nologin.uid)
    process.kill()
    process.communicate(timeout=30)
    wait_until(lambda: not processes_of(nologin.uid), 30, "all of the user's processes are gone")


def test_an_ordinary_user_serves_itself(
    sshoq: Sshoq, start_server: ServerFactory, connect: ClientFactory, account: Account
) -> None:
    need_tools("unshare", "setpriv")
    server = start_server(
        sshoq,
        [SUBSYSTEM],
        prefix=as_user(account.name, account.uid, account.gid),
        owner=(account.uid, account.gid),
    )
    sftp = Sftp(connect(server, account))
    assert sftp.output("pwd") == [f"Remote working directory: {account.home}"]
    done = sftp.run("get /proc/self/mem memory")
    assert b"Permission denied" in done.stderr
