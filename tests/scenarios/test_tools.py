"""The programs that call ssh: each with ours in ssh's place, and with ssh itself for comparison."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account, PamService
from tests.needs import need_device, need_tools
from tests.programs import Client, OpenSSH, Programs, Server
from tests.scenarios.conftest import ClientFactory, ServerFactory
from tests.terminal import Terminal

pytestmark = pytest.mark.privileged


@pytest.fixture
def wrapper(client: Client) -> Path:
    """What the tools take for ssh: our client with the test's options, as `alias` would have it."""
    path = client.directory / "ssh-program"
    words = shlex.join([client.server.programs.client(), *client.options()])
    extra = "-o URLPath=/hidden-path " if client.server.programs.name == "sshoq" else ""
    path.write_text(f'#!/bin/sh\nexec {words} {extra}"$@"\n')
    path.chmod(0o755)
    return path


def run_tool(client: Client, *command: str, env: dict[str, str] | None = None) -> bytes:
    done = subprocess.run(
        command,
        env=client.environment(env),
        cwd=client.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
    )
    assert done.returncode == 0, (done.stdout, done.stderr, client.server.log()[-2000:])
    return done.stdout


@pytest.fixture
def remote(client: Client) -> str:
    return f"{client.user}@{client.server.host}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of every awkward kind: empty, large, executable, oddly named, linked."""
    root = tmp_path / "tree"
    (root / "sub folder").mkdir(parents=True)
    (root / "empty").touch()
    (root / "large").write_bytes(os.urandom(3_000_000))
    (root / "sub folder/quo'te $HOME *").write_text("odd\n")
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o755)
    return root


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("mode", ["-s", "-O"], ids=["over-sftp", "original-protocol"])
def test_scp_copies_a_tree_there_and_back(
    client: Client, wrapper: Path, remote: str, tree: Path, mode: str
) -> None:
    need_tools("scp")
    scp = ["scp", "-q", "-r", "-p", mode, "-S", str(wrapper)]
    target = f"scp{mode}-{client.server.programs.name}"
    run_tool(client, *scp, str(tree), f"{remote}:{target}")
    run_tool(client, *scp, f"{remote}:{target}", "back")
    assert digests(client.directory / "back") == digests(tree)
    assert (client.directory / "back/program").stat().st_mode & 0o777 == 0o755


def test_scp_says_when_a_file_is_missing(client: Client, wrapper: Path, remote: str) -> None:
    done = subprocess.run(
        ["scp", "-S", str(wrapper), f"{remote}:no-such-file", "."],
        env=client.environment(),
        cwd=client.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert b"No such file or directory" in done.stderr


def test_sftp_runs_a_batch(client: Client, wrapper: Path, remote: str, tree: Path) -> None:
    need_tools("sftp")
    batch = client.directory / "batch"
    batch.write_text(
        "mkdir batched\ncd batched\n"
        f"put {tree}/large\nrename large bigger\nchmod 600 bigger\nln -s bigger link\n"
        "ls -l\nget bigger\nrm bigger\nrm link\ncd ..\nrmdir batched\n"
    )
    output = run_tool(client, "sftp", "-q", "-S", str(wrapper), "-b", str(batch), remote)
    assert b"bigger" in output
    assert (client.directory / "bigger").read_bytes() == (tree / "large").read_bytes()


def test_rsync_copies_and_then_has_nothing_to_do(
    client: Client, wrapper: Path, remote: str, tree: Path
) -> None:
    need_tools("rsync")
    target = f"rsynced-{client.server.programs.name}"
    rsync = ["rsync", "-a", "--no-owner", "--no-group", "-i", "-e", str(wrapper)]
    run_tool(client, *rsync, f"{tree}/", f"{remote}:{target}/")
    assert run_tool(client, *rsync, f"{tree}/", f"{remote}:{target}/") == b""
    run_tool(client, *rsync, f"{remote}:{target}/", "back/")
    assert digests(client.directory / "back") == digests(tree)


def test_git_pushes_and_clones(
    client: Client, wrapper: Path, remote: str, account: Account
) -> None:
    need_tools("git")
    env = {
        "GIT_SSH_COMMAND": str(wrapper),
        "GIT_SSH_VARIANT": "ssh",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
    repository = f"{client.server.programs.name}.git"
    client.output(f"rm -rf {repository}; git init -q --bare -b main {repository}")
    run_tool(client, "git", "init", "-q", "-b", "main", "work", env=env)
    blob = client.directory / "work/blob"
    blob.write_bytes(os.urandom(2_000_000))
    for words in (
        ["add", "blob"],
        ["commit", "-q", "-m", "one"],
        ["push", "-q", f"{remote}:{repository}", "main"],
    ):
        run_tool(client, "git", "-C", "work", *words, env=env)
    run_tool(client, "git", "clone", "-q", f"{remote}:{repository}", "clone", env=env)
    assert (client.directory / "clone/blob").read_bytes() == blob.read_bytes()


@pytest.fixture
def mounted(client: Client, wrapper: Path, remote: str) -> Iterator[Path]:
    need_tools("sshfs", "fusermount3")
    need_device("/dev/fuse")
    point = client.directory / "mounted"
    point.mkdir()
    command = f"ssh_command={wrapper}"
    run_tool(client, "sshfs", "-o", command, f"{remote}:", str(point))
    yield point
    subprocess.run(["fusermount3", "-u", "-z", str(point)], check=True, timeout=30)


def test_sshfs_shows_the_remote_home(mounted: Path, account: Account) -> None:
    (mounted / "through.txt").write_text("through the mount\n")
    assert (account.home / "through.txt").read_text() == "through the mount\n"
    os.rename(mounted / "through.txt", mounted / "renamed.txt")
    assert "renamed.txt" in os.listdir(mounted)
    (mounted / "renamed.txt").unlink()
    assert not (account.home / "renamed.txt").exists()


def test_sshpass_types_the_password(
    programs: Programs,
    start_server: ServerFactory,
    connect: ClientFactory,
    account: Account,
    pam_service: PamService,
) -> None:
    need_tools("sshpass")
    client = connect(start_server(programs, pam=pam_service), account)
    client.key = None
    command = ["sshpass", "-p", account.password, *client.command("id", "-un")]
    assert run_tool(client, *command).decode() == f"{account.name}\n"


class TestProxyCommand:
    """Plain ssh through our client to the sshd behind our server."""

    @pytest.fixture
    def inner(self, openssh: OpenSSH, start_server: ServerFactory) -> Server:
        return start_server(openssh)

    def command(
        self, sshoq: Programs, outer: Server, inner: Server, connect: ClientFactory, user: Account
    ) -> tuple[Client, list[str]]:
        through = connect(outer, user)
        # Its own known_hosts and options; ssh replaces %h and %p by the inner server's.
        words = shlex.join([sshoq.client(), *through.options(), "-W", "%h:%p"])
        proxy = f"ProxyCommand={words} {sshoq.destination(user.name, outer.host)}"
        through.known_hosts.write_text(outer.known_hosts() + inner.known_hosts())
        client = Client(inner, user.name, user.key, through.directory)
        client.known_hosts.write_text(outer.known_hosts() + inner.known_hosts())
        return client, ["-o", proxy]

    def test_ssh_reaches_an_sshd_behind_our_server(
        self,
        sshoq: Programs,
        start_server: ServerFactory,
        inner: Server,
        connect: ClientFactory,
        account: Account,
    ) -> None:
        client, flags = self.command(sshoq, start_server(sshoq), inner, connect, account)
        assert client.output("id -un", flags=flags).decode() == f"{account.name}\n"
        blob = os.urandom(1 << 20)
        assert client.output("cat", input=blob, flags=flags) == blob


def test_two_terminals_of_one_user_are_apart(
    client: Client, open_terminal: Callable[..., Terminal]
) -> None:
    first, second = open_terminal(client, "tty; cat"), open_terminal(client, "tty; cat")
    lines = [terminal.expect(r"/dev/pts/(\d+)\r\n")[1] for terminal in (first, second)]
    assert lines[0] != lines[1]
    first.send("only here\r")
    first.expect("only here\r\nonly here\r\n")
    second.send(b"\x04")
    assert second.wait() == 0
    first.send(b"\x04")
    assert first.wait() == 0
