"""-sftp and -scp between our programs: every direction, and whatever goes wrong on the way."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account, unique_name
from tests.janitor import Janitor
from tests.needs import need_root, need_tools
from tests.processes import processes_of, wait_until
from tests.programs import URL_PATH, Client, Server, Sshoq, as_user
from tests.scenarios.conftest import ServerFactory, server_factory
from tests.terminal import Terminal

pytestmark = pytest.mark.privileged

LARGE = 100_000_000


class FileClient(Client):
    """The client, as -scp and -sftp are called."""

    @property
    def place(self) -> str:
        return f"{self.user}@{self.server.host}:{self.server.port}{URL_PATH}"

    def scp_command(self, *words: str) -> list[str]:
        """A word that begins with '%' is a path at the server."""
        operands = [f"{self.place}{word}" if word.startswith("%") else word for word in words]
        program = self.server.programs.client()
        return [*self.prefix, program, *self.options(), "-o", "BatchMode=yes", "-scp", *operands]

    def scp(self, *words: str, timeout: float = 100) -> subprocess.CompletedProcess[bytes]:
        return self._run(self.scp_command(*words), b"", timeout)

    def sftp_command(self, *flags: str) -> list[str]:
        return self.command(flags=("-sftp", *flags, "-o", "BatchMode=yes"))

    def sftp(self, *commands: str) -> subprocess.CompletedProcess[bytes]:
        return self._run(self.sftp_command(), "\n".join(commands).encode(), 60)

    def _run(
        self, command: list[str], given: bytes, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            input=given,
            env=self.environment(),
            capture_output=True,
            timeout=timeout,
            cwd=self.directory,
            start_new_session=True,
        )

    def copies(self, *words: str) -> None:
        """-scp without a word, and without an error."""
        done = self.scp(*words)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), self.server.log()


@pytest.fixture(scope="module")
def server(sshoq: Sshoq, janitor: Janitor) -> Iterator[Server]:
    need_root()
    for start in server_factory(janitor):
        yield start(sshoq)


@pytest.fixture
def client(server: Server, account: Account, tmp_path: Path) -> FileClient:
    return FileClient(server, account.name, account.key, tmp_path)


@pytest.fixture
def folder(account: Account, tmp_path: Path) -> Path:
    """A directory of the account's own, for this test alone."""
    path = account.home / tmp_path.name
    path.mkdir(mode=0o755)
    os.chown(path, account.uid, account.gid)
    return path


def owned(account: Account, path: Path) -> Path:
    """The path and all below it, given to the account."""
    for one in [path, *path.rglob("*")]:
        os.chown(one, account.uid, account.gid, follow_symlinks=False)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): digest(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def make_tree(root: Path, folders: int, files: int) -> Path:
    for number in range(folders):
        inner = root / f"folder {number}"
        inner.mkdir(parents=True)
        for count in range(files):
            (inner / f"file{count}").write_bytes(os.urandom(count * 17 % 3000))
    (root / "empty").touch()
    (root / "none").mkdir()
    return root


# --------------------------------------------------------------------------- -scp


def test_a_large_file_there_and_back(client: FileClient, folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(LARGE))
    client.copies(str(source), f"%{folder}/large")
    assert digest(folder / "large") == digest(source)
    client.copies(f"%{folder}/large", "back")
    assert digest(tmp_path / "back") == digest(source)


@pytest.mark.parametrize("size", [0, 1, 131071, 131072, 131073, 262144, 300000])
def test_files_of_every_size(client: FileClient, folder: Path, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    client.copies("source", f"%{folder.name}/there")
    assert (folder / "there").read_bytes() == source.read_bytes()
    client.copies(f"%{folder.name}/there", "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_two_thousand_small_files_there_and_back(
    client: FileClient, folder: Path, tmp_path: Path
) -> None:
    tree = make_tree(tmp_path / "tree", 20, 100)
    client.copies("-r", "tree", f"%{folder}")
    assert digests(folder / "tree") == digests(tree)
    assert (folder / "tree/none").is_dir()
    client.copies("-r", f"%{folder}/tree", "back")
    assert digests(tmp_path / "back") == digests(tree)
    assert (tmp_path / "back/none").is_dir()


def test_a_directory_takes_the_file_under_its_name(
    client: FileClient, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "name").write_text("x")
    (tmp_path / "into").mkdir()
    client.copies("name", f"%{folder}/")
    client.copies(f"%{folder}/name", "into")
    assert (tmp_path / "into/name").read_text() == "x"


def test_paths_start_in_the_home_directory(
    client: FileClient, account: Account, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text("x")
    client.copies("one", f"%~/{folder.name}/one")
    client.copies(f"%{folder.name}/one", "two")
    assert (tmp_path / "two").read_text() == "x"


def test_the_files_belong_to_the_user(
    client: FileClient, account: Account, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text("x")
    client.copies("one", f"%{folder}/one")
    state = (folder / "one").stat()
    assert (state.st_uid, state.st_gid) == (account.uid, account.gid)
    wait_until(lambda: not processes_of(account.uid), 30, "the end of all the user's processes")


def test_links_at_the_server_are_followed_unless_told_otherwise(
    client: FileClient, account: Account, folder: Path, tmp_path: Path
) -> None:
    (folder / "real").mkdir()
    (folder / "real/file").write_text("x")
    (folder / "real/link").symlink_to("../real/file")
    (folder / "real/loop").symlink_to(".")
    (folder / "door").symlink_to("real")
    owned(account, folder)
    done = client.scp("-r", f"%{folder}/door", "followed")
    assert digests(tmp_path / "followed") == {
        name: hashlib.sha256(b"x").hexdigest() for name in ("file", "link")
    }
    assert b"leads back" in done.stderr
    assert done.returncode == 255
    client.copies("-no-follow-symlinks", "-r", f"%{folder}/door", "plain")
    assert digests(tmp_path / "plain").keys() == {"file"}


def test_an_upload_goes_through_links_that_stand_at_the_server(
    client: FileClient, account: Account, folder: Path, tmp_path: Path
) -> None:
    (folder / "real").mkdir()
    (folder / "door").symlink_to("real")
    (folder / "real/file").write_text("old")
    (folder / "real/alias").symlink_to("file")
    owned(account, folder)
    (tmp_path / "one").write_text("new")
    client.copies("one", f"%{folder}/door")
    client.copies("one", f"%{folder}/door/two")
    client.copies("one", f"%{folder}/door/alias")
    assert {p.name: p.read_text() for p in (folder / "real").iterdir()} == {
        "one": "new", "two": "new", "file": "new", "alias": "new"
    }
    assert (folder / "real/alias").is_symlink()


def test_a_replaced_file_keeps_its_permissions(
    client: FileClient, account: Account, folder: Path, tmp_path: Path
) -> None:
    for place in (folder, tmp_path):
        (place / "program").write_text("old")
        (place / "program").chmod(0o750)
    owned(account, folder)
    (tmp_path / "new").write_text("new")
    client.copies("new", f"%{folder}/program")
    assert (folder / "program").read_text() == "new"
    assert (folder / "program").stat().st_mode & 0o7777 == 0o750
    client.copies(f"%{folder}/program", "program")
    assert (tmp_path / "program").read_text() == "new"
    assert (tmp_path / "program").stat().st_mode & 0o7777 == 0o750


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("%no-such-file", "x"), b"no such file or directory"),
        (("%.", "x"), b"is a directory"),
        (("%/etc/shadow", "x"), b"permission denied"),
        (("%/dev/null", "x"), b"not a regular file"),
        (("no-such-file", "%x"), b"No such file or directory"),
        ((".", "%x"), b"is a directory"),
        (("known_hosts", "%/root/x"), b"permission denied"),
        (("known_hosts", "%no-such-folder/x"), b"no such file or directory"),
        (("known_hosts", "%no-such-folder/"), b"no such directory"),
    ],
)
def test_what_cannot_be_copied_is_told_with_255(
    client: FileClient, tmp_path: Path, words: tuple[str, str], complaint: bytes
) -> None:
    done = client.scp(*words)
    assert done.returncode == 255
    assert complaint in done.stderr, done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "x").exists()


def test_unreadable_files_of_a_tree_are_passed_over(
    client: FileClient, account: Account, folder: Path, tmp_path: Path
) -> None:
    for name in ("a", "b/c", "d"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    os.mkfifo(folder / "pipe")
    (folder / "closed").mkdir(mode=0o700)
    owned(account, folder)
    os.chown(folder / "closed", 0, 0)
    os.chown(folder / "a", 0, 0)
    (folder / "a").chmod(0o600)
    done = client.scp("-r", f"%{folder}", "back")
    assert digests(tmp_path / "back").keys() == {"b/c", "d"}
    assert done.stderr.count(b"permission denied") == 2
    assert done.stderr.count(b"not a regular file") == 1
    assert done.returncode == 255


def test_a_link_that_stands_here_is_not_gone_through(
    client: FileClient, account: Account, folder: Path, tmp_path: Path
) -> None:
    (folder / "inner").mkdir()
    (folder / "inner/file").write_text("from the server")
    (folder / "plain").write_text("from the server")
    owned(account, folder)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("mine")
    target = tmp_path / "target"
    target.mkdir()
    (target / "inner").symlink_to(outside)
    (target / "plain").symlink_to(outside / "kept")
    (tmp_path / "target" / folder.name).symlink_to(target)
    done = client.scp("-r", f"%{folder}", "target")
    assert done.returncode == 255
    assert digests(outside) == {"kept": hashlib.sha256(b"mine").hexdigest()}
    assert (target / "plain").read_text() == "from the server"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Makes a directory into a disk of one megabyte."""
    mounted: list[Path] = []

    def mount(path: Path) -> Path:
        path.mkdir(exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "none", str(path)], check=True
        )
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_here_leaves_the_old_file(
    client: FileClient, folder: Path, account: Account, tmp_path: Path,
    small_disk: Callable[[Path], Path],
) -> None:
    disk = small_disk(tmp_path / "disk")
    (disk / "file").write_text("old")
    (folder / "file").write_bytes(bytes(3_000_000))
    owned(account, folder)
    done = client.scp(f"%{folder}/file", str(disk / "file"))
    assert done.returncode == 255
    assert b"No space left on device" in done.stderr
    assert {p.name: p.read_text() for p in disk.iterdir()} == {"file": "old"}


def test_a_full_disk_there_leaves_the_old_file(
    client: FileClient, folder: Path, account: Account, tmp_path: Path,
    small_disk: Callable[[Path], Path],
) -> None:
    disk = small_disk(folder / "disk")
    (disk / "file").write_text("old")
    owned(account, disk)
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    done = client.scp("file", f"%{disk}/file")
    assert done.returncode == 255
    assert b"no space left on device" in done.stderr
    assert {p.name: p.read_text() for p in disk.iterdir()} == {"file": "old"}


@pytest.mark.parametrize("direction", ["up", "down"])
def test_an_interrupted_copy_leaves_nothing_and_is_130(
    client: FileClient, folder: Path, account: Account, tmp_path: Path, direction: str
) -> None:
    here, there = tmp_path / "big", folder / "big"
    source, target = (here, there) if direction == "up" else (there, here)
    os.truncate(os.open(source, os.O_CREAT | os.O_WRONLY), 1 << 42)
    owned(account, folder)
    words = ("big", f"%{there}") if direction == "up" else (f"%{there}", "big")
    process = subprocess.Popen(
        client.scp_command(*words), env=client.environment(), cwd=tmp_path, stderr=subprocess.PIPE
    )
    wait_until(lambda: any(target.parent.glob(".sshoq-*")), 30, "the copy under way")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"")
    assert [path.name for path in target.parent.glob(".sshoq-*")] == []
    assert not target.exists()


# --------------------------------------------------------------------------- -sftp


def test_commands_from_a_pipe(client: FileClient, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    (tmp_path / "two words").write_text("2")
    done = client.sftp(
        f"cd {folder.name}",
        "pwd",
        "# a comment",
        "mkdir new 'with blank'",
        "put one",
        'put "two words" new/two',
        "cd new",
        "get two here",
        "cd -",
        "ls -1",
        "get -r new",
        "rm one new/two",
        "rmdir new with\\ blank",
        "lpwd",
        "exit",
        "never reached",
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0] == f"Remote working directory: {folder}"
    assert lines[-1] == f"Local working directory: {tmp_path}"
    assert [line for line in lines if line in ("new", "one", "with blank")] == [
        "new", "one", "with blank"
    ]
    assert (tmp_path / "here").read_text() == (tmp_path / "new/two").read_text() == "2"
    assert list(folder.iterdir()) == []


def test_a_failed_command_does_not_end_the_rest(client: FileClient, folder: Path) -> None:
    done = client.sftp(
        "cd no-such", "nonsense", "get", "rm no-such", "get 'open", "ls *.none", "lcd no-such",
        f"mkdir {folder.name}/made",
    )
    assert done.returncode == 0
    assert done.stderr.count(b"\n") == 7
    assert (folder / "made").is_dir()


def test_wildcards(client: FileClient, account: Account, folder: Path, tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1", "[x]", ".hidden", "a*"):
        (folder / name).write_text(name)
    owned(account, folder)
    done = client.sftp(
        f"cd {folder.name}", "lcd " + str(tmp_path), "ls -1 a?", "get b[0-9]", "get \\[x]",
        "get 'a*'", "rm a?",
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split()[:3] == ["a*", "a1", "a2"]
    assert {path.name for path in folder.iterdir()} == {"b1", "[x]", ".hidden"}
    assert {"b1", "[x]", "a*"} <= {path.name for path in tmp_path.iterdir()}
    (tmp_path / "c1").touch()
    (tmp_path / "c2").touch()
    assert client.sftp(f"put c* {folder.name}").stderr == b""
    assert {"c1", "c2"} <= {path.name for path in folder.iterdir()}


def test_a_long_listing(client: FileClient, account: Account, folder: Path) -> None:
    (folder / "file").write_text("12345")
    (folder / "link").symlink_to("file")
    owned(account, folder)
    done = client.sftp(f"ls {folder.name}")
    [first, second] = done.stdout.decode().splitlines()
    assert first.split()[:4] == ["-rw-r--r--", account.name, account.name, "5"]
    assert second.startswith("lrwxrwxrwx")
    assert second.endswith("link -> file")


@pytest.fixture
def terminal(client: FileClient, folder: Path) -> Iterator[Terminal]:
    with Terminal(client.sftp_command(), client.environment({"INPUTRC": "/dev/null"})) as there:
        there.expect("sftp> ")
        there.send(f"lcd {client.directory}\n")
        there.expect("sftp> ")
        there.send(f"cd {folder.name}\n")
        there.expect("sftp> ")
        yield there


def test_a_transfer_at_the_terminal_shows_its_progress(
    terminal: Terminal, folder: Path, account: Account, tmp_path: Path
) -> None:
    (folder / "file").write_bytes(bytes(5_000_000))
    owned(account, folder)
    terminal.send("get file\n")
    terminal.expect(r"file +100% +4\.8MB +[0-9.]+.B/s +\d\d:\d\d")
    terminal.expect("sftp> ")
    assert (tmp_path / "file").stat().st_size == 5_000_000
    terminal.send("exit\n")
    assert terminal.wait() == 0


def test_interrupt_ends_a_transfer_and_the_next_command_works(
    terminal: Terminal, folder: Path, account: Account, tmp_path: Path
) -> None:
    os.truncate(os.open(folder / "big", os.O_CREAT | os.O_WRONLY), 1 << 42)
    owned(account, folder)
    terminal.send("get big\n")
    terminal.expect("big .* ETA")
    terminal.send(b"\x03")
    terminal.expect("Interrupted.*sftp> ")
    assert [path.name for path in tmp_path.iterdir() if "sshoq" in path.name] == []
    assert not (tmp_path / "big").exists()
    terminal.send("pwd\n")
    terminal.expect(f"Remote working directory: {folder}")
    terminal.send("mkdir after\n")
    terminal.expect("sftp> .*sftp> ")
    assert (folder / "after").is_dir()


def test_interrupt_at_the_prompt_empties_the_line(terminal: Terminal) -> None:
    terminal.send("rm -everything")
    terminal.expect("everything")
    terminal.send(b"\x03")
    terminal.expect("sftp> ")
    terminal.send("pwd\n")
    terminal.expect("Remote working directory.*sftp> ")
    assert b"usage" not in terminal.transcript
    terminal.send(b"\x04")
    assert terminal.wait() == 0


def test_the_terminal_is_as_before_when_the_server_goes(
    client: FileClient, server: Server, folder: Path
) -> None:
    with Terminal(client.sftp_command(), client.environment()) as there:
        before = there.first_attributes
        there.expect("sftp> ")
        for process in processes_of(folder.stat().st_uid):
            os.kill(process.pid, signal.SIGKILL)
        assert there.wait() == 255
        assert there.attributes() == before


def test_tab_completes_names_here_and_there(
    terminal: Terminal, folder: Path, account: Account, tmp_path: Path
) -> None:
    (folder / "a long name").mkdir()
    (folder / "a long name/inside").write_text("x")
    owned(account, folder)
    (tmp_path / "only here").write_text("here")
    terminal.send("get a\tins\t\n")
    terminal.expect("Fetching .*/a long name/inside to inside")
    terminal.expect("sftp> ")
    terminal.send("put onl\t\n")
    terminal.expect("Uploading only here")
    terminal.expect("sftp> ")
    assert (folder / "only here").read_text() == "here"
    terminal.send("mk\tmade\n")
    terminal.expect("sftp> ")
    wait_until((folder / "made").is_dir, 30, "the directory")


# --------------------------------------------------------------------------- who may


def refused(client: FileClient) -> bytes:
    done = client.sftp("pwd")
    assert (done.returncode, done.stdout) == (255, b"")
    return done.stderr


def client_of(server: Server, account: Account, tmp_path: Path) -> FileClient:
    return FileClient(server, account.name, account.key, tmp_path)


def test_it_can_be_disabled(
    sshoq: Sshoq, start_server: ServerFactory, account: Account, tmp_path: Path
) -> None:
    server = start_server(sshoq, ["DisableSFTP yes"])
    assert refused(client_of(server, account, tmp_path)) == b"SFTP is disabled on the server\r\n"


@pytest.mark.parametrize(
    "settings",
    [["ForceCommand echo no"], ["ForceCommand internal-sftp -P write"]],
    ids=["command", "unknown-arguments"],
)
def test_a_forced_command_cannot_be_gone_around(
    sshoq: Sshoq, start_server: ServerFactory, account: Account, tmp_path: Path,
    settings: list[str],
) -> None:
    server = start_server(sshoq, settings)
    assert b"not permitted" in refused(client_of(server, account, tmp_path))


def test_nor_can_that_of_a_key(
    server: Server, fresh_account: Account, tmp_path: Path
) -> None:
    fresh_account.authorized_keys.write_text(f'command="true" {fresh_account.public_key}\n')
    assert b"not permitted" in refused(client_of(server, fresh_account, tmp_path))


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/rbash", "/usr/bin/git-shell"])
def test_a_shell_that_runs_nothing_fetches_nothing(
    server: Server, account_factory: Callable[..., Account], tmp_path: Path, shell: str
) -> None:
    if not Path(shell).exists():
        pytest.skip(f"needs {shell}")
    there = account_factory(shell=shell)
    assert b"not permitted" in refused(client_of(server, there, tmp_path))


def test_internal_sftp_needs_no_shell_and_keeps_to_its_arguments(
    sshoq: Sshoq, start_server: ServerFactory, account_factory: Callable[..., Account],
    tmp_path: Path,
) -> None:
    there = account_factory(shell="/usr/sbin/nologin")
    owned(there, there.write("pub/file", "x").parent)
    server = start_server(sshoq, ["ForceCommand internal-sftp -R -d %d/pub"])
    client = client_of(server, there, tmp_path)
    done = client.sftp("pwd", "get file", "rm file", "mkdir new", "put file other")
    assert done.stdout.splitlines()[0].endswith(b"/pub")
    assert (tmp_path / "file").read_text() == "x"
    assert done.stderr.count(b"permission denied") == 3
    assert [path.name for path in (there.home / "pub").iterdir()] == ["file"]


@pytest.fixture
def root_directory() -> Iterator[Path]:
    """For ChrootDirectory: below no directory that others can write to."""
    path = Path("/run") / unique_name("sqroot")
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


def test_a_chroot_holds_the_files(
    sshoq: Sshoq, start_server: ServerFactory, account: Account, root_directory: Path,
    tmp_path: Path,
) -> None:
    (root_directory / "inside").write_text("x")
    server = start_server(
        sshoq, [f"ChrootDirectory {root_directory}", "ForceCommand internal-sftp"]
    )
    client = client_of(server, account, tmp_path)
    done = client.sftp("pwd", "ls -1 /", "get /inside", "ls /etc", "ls /inside")
    lines = done.stdout.splitlines()
    assert lines[:2] == [b"Remote working directory: /", b"inside"]
    assert b"no such file or directory" in done.stderr
    assert (tmp_path / "inside").read_text() == "x"


def test_they_count_as_sessions(
    sshoq: Sshoq, start_server: ServerFactory, account: Account, tmp_path: Path
) -> None:
    server = start_server(sshoq, ["MaxSessions 0"])
    assert b"too many sessions" in refused(client_of(server, account, tmp_path))


def test_an_ordinary_user_serves_itself(
    sshoq: Sshoq, start_server: ServerFactory, account: Account, folder: Path, tmp_path: Path
) -> None:
    need_tools("unshare", "setpriv")
    server = start_server(
        sshoq,
        prefix=as_user(account.name, account.uid, account.gid),
        owner=(account.uid, account.gid),
    )
    client = client_of(server, account, tmp_path)
    (tmp_path / "one").write_bytes(os.urandom(1_000_000))
    client.copies("one", f"%{folder}/one")
    client.copies(f"%{folder}/one", "two")
    assert digest(tmp_path / "two") == digest(tmp_path / "one")
