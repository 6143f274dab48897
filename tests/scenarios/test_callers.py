"""The programs that look for `ssh` themselves, with ours under that name, and with ssh for
comparison.

test_tools.py has those that are told which program to run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.accounts import Account, make_key
from tests.janitor import Janitor
from tests.needs import SEARCH_PATH, need_tools
from tests.processes import descendants, wait_until
from tests.programs import URL_PATH, Client, Programs, find_program, free_port
from tests.scenarios.conftest import ClientFactory, ServerFactory
from tests.terminal import Terminal

pytestmark = pytest.mark.privileged

REMOTE_PYTHON = "/usr/bin/python3"


class Caller:
    """A place with `ssh` first in PATH, and the words that a person would type there."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.home = client.directory
        self.remote = f"{client.user}@{client.server.host}"
        self.folder = self.home / "in-place-of-ssh"
        self.folder.mkdir()
        (self.home / ".ssh").mkdir(mode=0o700)
        self.program = self.folder / "ssh"
        words = shlex.join([client.server.programs.client(), "-F", str(self._configure())])
        self.log = self.home / "calls"
        self.program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$*" >>{self.log}\nexec {words} "$@"\n'
        )
        self.program.chmod(0o755)

    def _configure(self) -> Path:
        """What a person has in ~/.ssh/config."""
        lines = [
            "Host *",
            f"Port {self.client.server.port}",
            f"User {self.client.user}",
            f"UserKnownHostsFile {self.client.known_hosts}",
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
            f"IdentityFile {self.client.key}",
            "IdentitiesOnly yes",
        ]
        if self.client.server.programs.name == "sshoq":
            lines += [f"URLPath {URL_PATH}", "Transport quic"]
        path = self.home / "config"
        path.write_text("\n".join(lines) + "\n")
        return path

    def forget_key(self) -> None:
        """From now on there is only the password, which is asked for by SSH_ASKPASS."""
        path = self.home / "config"
        path.write_text(re.sub("Identit.*\n", "", path.read_text()))

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        environment = self.client.environment(dict(extra or {}))
        environment["PATH"] = f"{self.folder}:{environment['PATH']}"
        return environment

    def try_to(
        self, *command: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            env=self.environment(env),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
        )

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> bytes:
        done = self.try_to(*command, env=env)
        log = self.client.server.log()[-2000:]
        assert done.returncode == 0, (done.stdout, done.stderr, self.calls(), log)
        return done.stdout

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def caller(client: Client) -> Caller:
    return Caller(client)


def test_git_asks_which_ssh_it_has_and_hands_the_port_on(
    caller: Caller, account: Account
) -> None:
    """A name that git does not know is asked with -G whether it is ssh."""
    need_tools("git")
    caller.client.output("rm -rf probed.git; git init -q --bare -b main probed.git")
    link = caller.folder / "my-own-ssh"
    link.symlink_to(caller.program)
    port = caller.client.server.port
    url = f"ssh://{caller.remote}:{port}{account.home}/probed.git"
    env = {"GIT_SSH": str(link), "GIT_CONFIG_GLOBAL": "/dev/null"}
    caller.run("git", "ls-remote", url, env=env)
    assert any(call.startswith("-G ") for call in caller.calls())
    assert any(f"-p {port} " in call for call in caller.calls())


def test_scp_copies_between_two_remote_places(caller: Caller) -> None:
    need_tools("scp")
    caller.client.output("echo traveller >from.txt; rm -f to.txt")
    scp = ["scp", "-q", "-3", "-S", str(caller.program)]
    caller.run(*scp, f"{caller.remote}:from.txt", f"{caller.remote}:to.txt")
    assert caller.client.output("cat to.txt") == b"traveller\n"


def test_scp_speaks_its_old_protocol(caller: Caller, tmp_path: Path) -> None:
    need_tools("scp")
    blob = os.urandom(300_000)
    (tmp_path / "blob").write_bytes(blob)
    scp = ["scp", "-q", "-O", "-S", str(caller.program)]
    caller.run(*scp, str(tmp_path / "blob"), f"{caller.remote}:old.blob")
    caller.run(*scp, f"{caller.remote}:old.blob", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == blob


class TestAnsible:
    @pytest.fixture
    def ansible(self, caller: Caller) -> Callable[..., str]:
        need_tools("ansible", REMOTE_PYTHON)

        def run(*words: str, env: Mapping[str, str] | None = None) -> str:
            inventory = f"{caller.client.server.host},"
            python = f"ansible_python_interpreter={REMOTE_PYTHON}"
            command = ["ansible", "all", "-i", inventory, "-u", caller.client.user, "-e", python]
            settings = {
                "ANSIBLE_HOST_KEY_CHECKING": "True",
                "ANSIBLE_LOCAL_TEMP": str(caller.home / "tmp"),
                "ANSIBLE_SSH_ARGS": "-C",
                "ANSIBLE_SSH_EXECUTABLE": str(caller.program),
                **(env or {}),
            }
            return caller.run(*command, *words, env=settings).decode()

        return run

    def test_the_host_answers(self, ansible: Callable[..., str]) -> None:
        assert '"ping": "pong"' in ansible("-m", "ping")

    @pytest.mark.parametrize("method", ["sftp", "scp", "piped"])
    def test_a_file_is_copied(
        self, caller: Caller, ansible: Callable[..., str], account: Account, method: str
    ) -> None:
        source = caller.home / "source"
        source.write_text(f"by {method}\n")
        target = account.home / f"{method}.{caller.client.server.programs.name}.txt"
        program = f"-S {caller.program}"
        settings = {
            "ANSIBLE_SSH_TRANSFER_METHOD": method,
            "ANSIBLE_SFTP_EXTRA_ARGS": program,
            "ANSIBLE_SCP_EXTRA_ARGS": program,
        }
        for is_changed in ("true", "false"):
            told = ansible("-m", "copy", "-a", f"src={source} dest={target}", env=settings)
            assert f'"changed": {is_changed}' in told
        assert target.read_text() == f"by {method}\n"

    def test_its_connections_are_shared(
        self, caller: Caller, ansible: Callable[..., str], janitor: Janitor
    ) -> None:
        """As it is set up by itself: ControlMaster auto, ControlPersist 60s."""
        folder = janitor.directory()  # with a short name, as a socket wants it
        settings = {
            "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=60s",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder),
        }
        assert "pong" in ansible("-m", "ping", env=settings)
        [path] = folder.iterdir()
        before = path.stat().st_ino
        assert "pong" in ansible("-m", "ping", env=settings)
        assert path.stat().st_ino == before
        caller.run(str(caller.program), "-S", str(path), "-O", "exit", caller.remote)
        wait_until(lambda: not path.exists(), 30, "the master has gone")

    def test_a_command_that_fails_is_a_failure(self, caller: Caller) -> None:
        need_tools("ansible", REMOTE_PYTHON)
        command = ["ansible", "all", "-i", f"{caller.client.server.host},", "-u"]
        command += [caller.client.user, "-m", "raw", "-a", "echo said; exit 3"]
        settings = {
            "ANSIBLE_LOCAL_TEMP": str(caller.home / "tmp"),
            "ANSIBLE_SSH_ARGS": "-C",
            "ANSIBLE_SSH_EXECUTABLE": str(caller.program),
        }
        done = caller.try_to(*command, env=settings)
        assert b"FAILED | rc=3" in done.stdout
        assert b"said" in done.stdout


def test_parallel_spreads_jobs_over_the_host(caller: Caller) -> None:
    need_tools("parallel")
    login = f"2/{caller.program} {caller.remote}"
    output = caller.run(
        "parallel", "--will-cite", "-k", "--sshlogin", login, "echo job {} $USER", ":::",
        "a b", "c'd", "e",
    )  # fmt: skip
    user = caller.client.user
    assert output.decode().splitlines() == [f"job {word} {user}" for word in ("a b", "c'd", "e")]


def test_parallel_hands_files_over_and_back(caller: Caller, account: Account) -> None:
    need_tools("parallel", "rsync")
    for name in ("one", "two"):
        (caller.home / name).write_text(f"{name}\n")
    caller.run(
        "parallel", "--will-cite", "--ssh", str(caller.program), "-S", caller.remote,
        "--transfer", "--return", "{}.up", "--cleanup", "tr a-z A-Z <{} >{}.up", ":::",
        "one", "two",
    )  # fmt: skip
    assert (caller.home / "two.up").read_text() == "TWO\n"
    assert not (account.home / "one").exists()


@pytest.fixture
def website(tmp_path: Path) -> Iterator[int]:
    root = tmp_path / "website"
    root.mkdir()
    (root / "page").write_text("a page")
    handler = partial(_QuietHandler, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


def test_autossh_brings_a_forwarding_back(caller: Caller, website: int) -> None:
    need_tools("autossh")
    port = free_port("tcp")
    command = ["autossh", "-M", "0", "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{website}"]
    settings = {"AUTOSSH_PATH": str(caller.program), "AUTOSSH_GATETIME": "0"}
    environment = caller.environment(settings)
    running = subprocess.Popen([*command, caller.remote], env=environment, cwd=caller.home)
    try:
        wait_until(lambda: _page(port) == b"a page", 30, "the forwarding works")
        [child, *_] = descendants(running.pid)
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: len(caller.calls()) == 2, 30, "the client was started again")
        wait_until(lambda: _page(port) == b"a page", 30, "the forwarding works again")
    finally:
        wait_until(lambda: _is_ended(running), 30, "it has ended")
    wait_until(lambda: _page(port) is None, 30, "nobody listens any more")


def _is_ended(process: subprocess.Popen[bytes]) -> bool:
    """Asked again each time: just when autossh starts a client anew, it may not hear."""
    process.terminate()
    return process.poll() is not None


def _page(port: int) -> bytes | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=30) as answer:
            return bytes(answer.read())
    except OSError:
        return None


def test_ssh_copy_id_lets_another_key_in(caller: Caller, account: Account) -> None:
    need_tools("ssh-copy-id")
    another = make_key(caller.home / "another")
    before = account.authorized_keys.read_text()
    caller.forget_key()
    askpass = caller.home / "askpass"
    askpass.write_text(f"#!/bin/sh\necho '{account.password}'\n")
    askpass.chmod(0o755)
    env = {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    try:
        done = caller.try_to("ssh-copy-id", "-i", f"{another}.pub", caller.remote, env=env)
        assert b"Number of key(s) added: 1" in done.stdout, done.stderr
        assert account.authorized_keys.read_text().count(Path(f"{another}.pub").read_text()) == 1
        caller.client.key = another
        assert caller.client.output("id", "-un").decode() == f"{account.name}\n"
        again = caller.try_to("ssh-copy-id", "-i", f"{another}.pub", caller.remote, env=env)
        assert b"All keys were skipped" in again.stderr
    finally:
        account.write(".ssh/authorized_keys", before)


def test_restic_keeps_a_backup(caller: Caller, account: Account) -> None:
    need_tools("restic")
    (caller.home / "kept").write_bytes(os.urandom(500_000))
    repository = ["-r", f"sftp:{caller.remote}:{account.home}/restic", "--no-cache"]
    repository += ["-o", f"sftp.command={caller.program} {caller.remote} -s sftp"]
    secret = {"RESTIC_PASSWORD": "secret"}
    caller.client.output("rm -rf restic")
    caller.run("restic", *repository, "init", env=secret)
    caller.run("restic", *repository, "backup", "kept", env=secret)
    caller.run("restic", *repository, "restore", "latest", "--target", "restored", env=secret)
    restored = caller.home / f"restored{caller.home}/kept"
    found = [restored, caller.home / "restored/kept"]
    contents = [path.read_bytes() for path in found if path.exists()]
    assert contents == [(caller.home / "kept").read_bytes()]


def test_docker_talks_through_standard_input_and_output(caller: Caller) -> None:
    """As its ssh helper calls: flags first, `--`, and words that are the remote program's."""
    client = caller.client
    command = [
        str(caller.program), "-l", client.user, "-p", str(client.server.port),
        "-o", "ConnectTimeout=30", "-T", "--", client.server.host, "cat", "-u", "--", "-",
    ]  # fmt: skip
    with subprocess.Popen(
        command, env=caller.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for turn in (b"GET /_ping HTTP/1.1\n", b"\n", bytes(range(256)) + b"\n"):
            running.stdin.write(turn)
            running.stdin.flush()
            assert running.stdout.read(len(turn)) == turn
        running.stdin.close()
        assert running.wait(timeout=30) == 0


@pytest.fixture
def engine(account: Account) -> Iterator[None]:
    """In the place of docker's engine, something that answers its first questions."""
    answer = json.dumps({"Version": "99", "ApiVersion": "1.41", "MinAPIVersion": "1.12"})
    script = (
        "import http.server, sys\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    protocol_version = 'HTTP/1.1'\n"
        "    def do_GET(self):\n"
        f"        body = {answer!r}.encode()\n"
        "        self.send_response(200)\n"
        "        self.send_header('Api-Version', '1.41')\n"
        "        self.send_header('Content-Type', 'application/json')\n"
        "        self.send_header('Content-Length', str(len(body)))\n"
        "        self.end_headers()\n"
        "        self.wfile.write(b'' if self.command == 'HEAD' else body)\n"
        "    do_HEAD = do_GET\n"
        "    def log_message(self, *ignored): pass\n"
        "class Connection:\n"
        "    def makefile(self, mode, *ignored):\n"
        "        return sys.stdin.buffer if 'r' in mode else sys.stdout.buffer\n"
        "    def sendall(self, data):\n"
        "        sys.stdout.buffer.write(data); sys.stdout.buffer.flush()\n"
        "Handler(Connection(), ('', 0), None)\n"
    )
    account.write("bin/engine.py", script)
    start = f"#!/bin/sh\nexec {REMOTE_PYTHON} {account.home}/bin/engine.py\n"
    account.write("bin/docker", start, 0o755)
    account.write(".bashrc", f"PATH={account.home}/bin:$PATH\n")
    yield
    for name in (".bashrc", "bin/docker", "bin/engine.py"):
        (account.home / name).unlink()


@pytest.mark.usefixtures("engine")
def test_docker_itself_reaches_an_engine(caller: Caller) -> None:
    if shutil.which("docker", path=SEARCH_PATH) is None:
        pytest.skip("needs docker, which Debian has only together with the engine")
    host = f"ssh://{caller.remote}:{caller.client.server.port}"
    words = ["version", "--format", "{{.Server.Version}}"]
    told = caller.run("docker", *words, env={"DOCKER_HOST": host})
    assert told.strip() == b"99"
    assert any(call.endswith("docker system dial-stdio") for call in caller.calls())


@pytest.fixture
def open_mosh(caller: Caller) -> Iterator[Callable[..., Terminal]]:
    need_tools("mosh", "mosh-client", "mosh-server")
    opened: list[Terminal] = []

    def start(*words: str) -> Terminal:
        environment = caller.environment({"LC_ALL": "C.UTF-8"})
        ports = f"{free_port('udp')}"
        command = ["mosh", f"--ssh={caller.program}", "-p", ports, *words]
        opened.append(Terminal(command, environment))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.__exit__(None, None, None)


def test_mosh_opens_a_shell(caller: Caller, open_mosh: Callable[..., Terminal]) -> None:
    """The address of the server comes from the server; by default mosh would want a byte stream
    to it, as a ProxyCommand."""
    terminal = open_mosh("--experimental-remote-ip=remote", caller.remote)
    terminal.expect(r"\$ ", timeout=40)
    terminal.send("echo mo''sh $((6*7)); exit\r")
    terminal.expect(r"mosh 42")
    assert terminal.wait(30) == 0


def test_compat_ssh_passes_everything_on(
    sshoq: Programs, start_server: ServerFactory, connect: ClientFactory, account: Account
) -> None:
    caller = Caller(connect(start_server(sshoq), account))
    compat = Path(__file__).parents[2] / "compat/ssh"
    environment = caller.environment()
    environment["PATH"] = f"{Path(find_program('sshoq')).parent}:{environment['PATH']}"
    options = [*caller.client.options(), "-o", f"URLPath={URL_PATH}"]
    done = subprocess.run(
        [str(compat), *options, caller.remote, "printf '%s|' 'a  b' \"$0\""],
        env=environment, cwd=caller.home, capture_output=True, stdin=subprocess.DEVNULL,
        timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith(b"a  b|"), done.stderr
    assert done.returncode == 0


# --------------------------------------------------------------------------- versions, backups


def test_subversion_commits(caller: Caller, account: Account) -> None:
    need_tools("svn", "svnadmin", "svnserve")
    repository = account.home / f"svn-{caller.client.server.programs.name}"
    caller.client.output(f"svnadmin create {repository}")
    url = f"svn+ssh://{caller.remote}{repository}"
    caller.run("svn", "checkout", "-q", url, "copy")
    (caller.home / "copy/file").write_bytes(os.urandom(200_000))
    caller.run("svn", "add", "-q", "copy/file")
    caller.run("svn", "commit", "-q", "-m", "one", "copy")
    assert b"| 1 line" in caller.run("svn", "log", url)


def test_mercurial_pushes_and_clones(caller: Caller, account: Account) -> None:
    need_tools("hg")
    name = f"hg-{caller.client.server.programs.name}"
    caller.client.output(f"hg init {name}")
    url = f"ssh://{caller.remote}/{name}"
    caller.run("hg", "init", "copy")
    (caller.home / "copy/file").write_bytes(os.urandom(200_000))
    caller.run("hg", "-R", "copy", "commit", "-q", "-A", "-u", "somebody", "-m", "one")
    caller.run("hg", "-R", "copy", "push", "-q", url)
    caller.run("hg", "clone", "-q", url, "back")
    assert (caller.home / "back/file").read_bytes() == (caller.home / "copy/file").read_bytes()


def test_borg_keeps_a_backup(caller: Caller, account: Account, tmp_path: Path) -> None:
    need_tools("borg")
    repository = f"ssh://{caller.remote}{account.home}/borg-{caller.client.server.programs.name}"
    env = {"BORG_BASE_DIR": str(tmp_path), "BORG_PASSPHRASE": "secret"}
    kept = caller.home / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(os.urandom(2_000_000))
    caller.run("borg", "init", "-e", "repokey", repository, env=env)
    caller.run("borg", "create", f"{repository}::one", "kept", env=env)
    was = (kept / "file").read_bytes()
    shutil.rmtree(kept)
    caller.run("borg", "extract", f"{repository}::one", env=env)
    assert (kept / "file").read_bytes() == was


def test_unison_brings_two_places_together(caller: Caller, account: Account) -> None:
    need_tools("unison")
    place = f"unison-{caller.client.server.programs.name}"
    (caller.home / "here").mkdir()
    (caller.home / "here/from-here").write_text("here\n")
    caller.client.output(f"mkdir {place}; echo there >{place}/from-there")
    words = ["-batch", "-ui", "text", "here", f"ssh://{caller.remote}/{place}"]
    caller.run("unison", *words, env={"UNISON": str(caller.home / "unison")})
    assert (caller.home / "here/from-there").read_text() == "there\n"
    assert (account.home / place / "from-here").read_text() == "here\n"


# --------------------------------------------------------------------------- files, many hosts


@pytest.mark.parametrize("kind", ["sftp", "fish"])
def test_lftp_mirrors_a_directory(caller: Caller, kind: str) -> None:
    need_tools("lftp")
    folder = caller.home / "mirrored"
    folder.mkdir()
    for number in range(20):
        (folder / str(number)).write_text(f"{number}\n")
    place = f"lftp-{kind}-{caller.client.server.programs.name}"
    user, _, host = caller.remote.partition("@")
    script = (
        f"set net:max-retries 1; open {kind}://{user}:@{host}; "
        f"mirror -R mirrored {place}; mirror {place} back; bye"
    )
    caller.run("lftp", "-c", script)
    assert sorted(path.read_text() for path in (caller.home / "back").iterdir()) == sorted(
        f"{number}\n" for number in range(20)
    )


def test_pdsh_tells_the_status_of_each_host(caller: Caller) -> None:
    need_tools("pdsh")
    user, _, host = caller.remote.partition("@")
    done = caller.try_to("pdsh", "-S", "-R", "ssh", "-l", user, "-w", host, "echo there; exit 3")
    assert (done.returncode, done.stdout) == (3, f"{host}: there\n".encode())


def test_emacs_edits_a_file_there(caller: Caller, account: Account) -> None:
    need_tools("emacs")
    place = f"tramp-{caller.client.server.programs.name}"
    path = f"/ssh:{caller.remote}:{account.home}/{place}"
    program = f"""(progn (require 'tramp)
      (setq tramp-verbose 1 tramp-persistency-file-name nil)
      (write-region "written\\n" nil "{path}")
      (let ((default-directory "/ssh:{caller.remote}:{account.home}/"))
        (princ (shell-command-to-string "cat {place}; id -un"))))"""
    output = caller.run("emacs", "-batch", "-Q", "-eval", program)
    assert output.split() == [b"written", account.name.encode()]


# --------------------------------------------------------------------------- editors at a distance


def test_a_script_on_standard_input_runs_beside_a_socks_proxy(caller: Caller) -> None:
    """As Visual Studio Code starts its server: a script, a port that it announces, and it stays."""
    port = free_port("tcp")
    command = ["ssh", "-v", "-T", "-D", str(port), "-o", "ConnectTimeout=15", caller.remote, "bash"]
    script = b"echo running; echo listeningOn==1234==; exec cat\n"
    with subprocess.Popen(
        command,
        env=caller.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(script)
        process.stdin.flush()
        assert process.stdout.readline() == b"running\n"
        assert process.stdout.readline() == b"listeningOn==1234==\n"
        with socket.create_connection(("127.0.0.1", port)) as proxy:
            proxy.sendall(b"\5\1\0")
            assert proxy.recv(2) == b"\5\0"
        process.stdin.write(b"more\n")
        process.stdin.close()
        assert process.stdout.read() == b"more\n"
    assert process.returncode == 0
