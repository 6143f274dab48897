"""Sharing a connection: each program's master with each program's clients, since both speak
OpenSSH's protocol, and what a person sees of it at a terminal."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import socketserver
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sshoq.client.mux_link import MasterLink
from sshoq.client.mux_messages import (
    NO_ESCAPE,
    AskInfo,
    AskProxy,
    CloseForward,
    Hello,
    NewSession,
    NewStdioForward,
    OpenForward,
    encode_packet,
)
from tests.accounts import Account
from tests.echo import Echo, UnixEchoServer, ask, serving
from tests.processes import processes_of, wait_until
from tests.programs import Client, Programs, find_program, free_port
from tests.scenarios.conftest import ClientFactory, ServerFactory
from tests.terminal import Terminal

pytestmark = pytest.mark.privileged

BLOB = os.urandom(1 << 20)
GREETING = {"SCENARIO_GREETING": "good morning", "SCENARIO_OTHER": "x"}


class Sharer(NamedTuple):
    """A program that is to share a master's connection. It knows nothing but the socket."""

    program: str
    path: str
    environment: dict[str, str]

    def command(self, *words: str, flags: tuple[str, ...] = ()) -> list[str]:
        return [self.program, "-F", "none", "-S", self.path, *flags, "somewhere.invalid", *words]

    def run(
        self,
        *words: str,
        flags: tuple[str, ...] = (),
        input: bytes = b"",
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(*words, flags=flags),
            input=input,
            capture_output=True,
            env=self.environment | (env or {}),
            timeout=60,
        )

    def control(self, command: str, *flags: str) -> tuple[int, str, str]:
        done = self.run(flags=(*flags, "-O", command))
        return done.returncode, done.stdout.decode(), done.stderr.decode().replace("\r\n", "\n")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "master")


@pytest.fixture
def start_master(
    client: Client, path: str
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, flags: tuple[str, ...] = ("-N",)) -> subprocess.Popen[bytes]:
        process = client.start(*words, flags=("-M", "-S", path, *flags))
        started.append(process)
        wait_until(lambda: os.path.exists(path), 30, "the master listens")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


@pytest.fixture(params=["ssh", "sshoq"])
def sharer(request: pytest.FixtureRequest, client: Client, path: str) -> Sharer:
    return Sharer(find_program(request.param), path, client.environment())


@pytest.fixture
def master(start_master: Callable[..., subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    return start_master()


Master = subprocess.Popen[bytes]
StartMaster = Callable[..., Master]


# --------------------------------------------------------------------------- sessions


@pytest.mark.usefixtures("master")
def test_streams_and_status_are_those_of_the_program(sharer: Sharer) -> None:
    done = sharer.run("cat; echo complaint >&2; exit 7", input=BLOB)
    assert (done.returncode, done.stdout, done.stderr) == (7, BLOB, b"complaint\n")


@pytest.mark.usefixtures("master")
def test_a_program_that_a_signal_ended_has_no_status(sharer: Sharer) -> None:
    assert sharer.run("kill -KILL $$").returncode == 255


@pytest.mark.usefixtures("master")
def test_many_sessions_at_once(sharer: Sharer) -> None:
    commands = [sharer.command("cat") for _ in range(8)]
    running = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=sharer.environment,
        )
        for command in commands
    ]
    for number, process in enumerate(running):
        output, _ = process.communicate(b"%d\n" % number * 10_000, timeout=60)
        assert output == b"%d\n" % number * 10_000


@pytest.mark.usefixtures("master")
def test_more_sessions_than_the_server_grants_are_refused(sharer: Sharer, client: Client) -> None:
    """MaxSessions is 10; the refused client has nowhere else to go."""
    running = [
        subprocess.Popen(
            sharer.command("echo in; cat"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=sharer.environment,
        )
        for _ in range(10)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
    done = sharer.run("true")
    assert done.returncode == 255
    assert b"Session open refused by peer" in done.stderr
    assert b"Could not resolve hostname somewhere.invalid" in done.stderr
    wait_until(lambda: "no more sessions\n" in client.server.log(), 30, "the log tells")
    if sharer.program.endswith("sshoq"):
        reason = "session request failed: Session open refused by peer"
        done = sharer.run("true", flags=("-O", "proxy"))
        assert done.returncode == 255
        assert done.stderr == f"mux_client_proxy: master returned error: {reason}\r\n".encode()
    for process in running:
        process.communicate(timeout=30)


@pytest.mark.usefixtures("master")
def test_proxy_mode_gives_a_session_or_one_clear_line(sharer: Sharer, client: Client) -> None:
    done = sharer.run("cat; exit 7", flags=("-O", "proxy"), input=b"hello")
    if sharer.program.endswith("sshoq") or client.server.programs.name == "openssh":
        assert (done.returncode, done.stdout, done.stderr) == (7, b"hello", b"")
    else:
        assert done.returncode == 255
        complaint = b"mux_client_proxy: master returned error: unsupported request\r\n"
        assert done.stderr == complaint


@pytest.mark.usefixtures("master")
def test_files_are_copied_over_the_shared_connection(
    sharer: Sharer, account: Account, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(BLOB)
    options = ["-q", "-S", sharer.program, "-F", "none", "-o", f"ControlPath={sharer.path}"]
    target = account.home / "shared-copy"
    command = ["scp", *options, str(source), f"somewhere.invalid:{target.name}"]
    subprocess.run(command, env=sharer.environment, check=True, timeout=60)
    assert target.read_bytes() == BLOB
    target.unlink()


def test_the_masters_wishes_decide_what_environment_is_sent(
    start_master: StartMaster, sharer: Sharer
) -> None:
    """Both must name a variable; SetEnv of the client counts only as what it would send."""
    start_master(flags=("-N", "-o", "SendEnv=SCENARIO_GREETING", "-o", "SetEnv=SCENARIO_SET=m"))
    done = sharer.run(
        "echo $SCENARIO_GREETING,$SCENARIO_OTHER,$SCENARIO_SET,$SCENARIO_MINE",
        flags=("-o", "SendEnv=SCENARIO_*", "-o", "SetEnv=SCENARIO_MINE=c"),
        env=GREETING,
    )
    assert done.stdout == b"good morning,,m,\n"


@pytest.mark.usefixtures("master")
def test_the_client_may_go_to_the_background(sharer: Sharer, account: Account) -> None:
    """-f: back as soon as the session is open. ssh 9.2 waits for its end."""
    if not sharer.program.endswith("sshoq"):
        pytest.skip("ssh of this version does not")
    running = account.write("running-shared", "")
    command = sharer.command("while test -e running-shared; do sleep 0.05; done", flags=("-f",))
    done = subprocess.run(
        command,
        env=sharer.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
    )
    assert done.returncode == 0
    assert running.exists()
    running.unlink()


def test_a_session_goes_when_its_client_is_killed(
    master: Master, sharer: Sharer, account: Account
) -> None:
    """Its input ends, at least; the connection is for the others."""
    done = account.home / "input-ended"
    process = subprocess.Popen(
        # No program of its own for the trap: the hangup would reach that, too.
        sharer.command(f"trap ': >{done}' EXIT HUP; echo begun; cat >/dev/null"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=sharer.environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.kill()
    wait_until(done.exists, 30, "the program has noticed")
    process.communicate()
    done.unlink()
    assert sharer.run("echo here").stdout == b"here\n"
    assert master.poll() is None


@pytest.mark.usefixtures("master")
def test_a_session_goes_when_its_client_left_at_once(path: str, account: Account) -> None:
    """Wherever the session's start was when it left, nothing waits for input any more."""
    command = NewSession(0, "", False, False, False, False, NO_ESCAPE, "", "cat")
    stdin, kept = os.pipe()
    nothing = os.open(os.devnull, os.O_WRONLY)
    for _ in range(10):
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(path)
            link = MasterLink(control)
            link.greet(None)
            link.send(command, (stdin, nothing, nothing))
    for number in (stdin, kept, nothing):
        os.close(number)
    wait_until(
        lambda: "cat" not in [process.name for process in processes_of(account.uid)],
        30,
        "no program is left",
    )


# --------------------------------------------------------------------------- forwarding


@pytest.mark.usefixtures("master")
def test_standard_input_can_be_a_connection(sharer: Sharer, echo_port: int) -> None:
    done = sharer.run(flags=("-W", f"127.0.0.1:{echo_port}"), input=b"question")
    assert (done.returncode, done.stdout) == (0, b"echo:question")
    done = sharer.run(flags=("-W", f"127.0.0.1:{free_port('tcp')}"))
    assert done.returncode == 255
    assert b"Stdio forwarding request failed: Session open refused by peer" in done.stderr


@pytest.mark.usefixtures("master")
def test_a_local_forward_comes_and_goes(sharer: Sharer, echo_port: int) -> None:
    port = free_port("tcp")
    forward = ("-L", f"{port}:127.0.0.1:{echo_port}")
    assert sharer.control("forward", *forward) == (0, "", "")
    assert sharer.control("forward", *forward) == (0, "", "")  # it stands already
    assert ask(port, b"x") == b"echo:x"
    status, output, errors = sharer.control("forward", "-L", f"{port}:127.0.0.1:1")
    assert (status, output) == (255, "")
    assert errors.endswith(
        "mux_client_forward: forwarding request failed: Port forwarding failed\n"
        "muxclient: master forward request failed\n"
    )
    not_forwarded = (
        "mux_client_forward: forwarding request failed: port not forwarded\n"
        "muxclient: master cancel forward request failed\n"
    )
    assert sharer.control("cancel", "-L", f"{port}:127.0.0.1:1") == (0, "", not_forwarded)
    assert sharer.control("cancel", *forward) == (0, "", "")
    with pytest.raises(ConnectionRefusedError):
        ask(port, b"x")
    assert sharer.control("cancel", *forward) == (0, "", not_forwarded)


@pytest.mark.usefixtures("master")
def test_a_remote_forward_is_told_its_port(sharer: Sharer, echo_port: int) -> None:
    forward = ("-R", f"0:127.0.0.1:{echo_port}")
    status, output, _ = sharer.control("forward", *forward)
    assert status == 0
    port = int(output)
    assert ask(port, b"x") == b"echo:x"
    assert sharer.control("forward", *forward)[:2] == (0, output)
    assert sharer.control("cancel", *forward) == (0, "", "")
    wait_until(lambda: not is_open(port), 30, "nobody listens any more")


def is_open(port: int) -> bool:
    try:
        return ask(port, b"x") != b""
    except ConnectionError:
        return False


@pytest.mark.usefixtures("master")
def test_unix_sockets_are_forwarded(sharer: Sharer, account: Account, tmp_path: Path) -> None:
    far, near = account.home / "shared.sock", str(tmp_path / "near")
    server: socketserver.BaseServer = UnixEchoServer(str(far), Echo)
    far.chmod(0o666)
    with serving(server):
        assert sharer.control("forward", "-L", f"{near}:{far}") == (0, "", "")
        assert ask(near, BLOB) == b"echo:" + BLOB
        assert sharer.control("cancel", "-L", f"{near}:{far}") == (0, "", "")
    far.unlink()
    refused = sharer.control("forward", "-R", "/nonexistent/s:/x")
    assert refused == (
        255,
        "",
        "mux_client_forward: forwarding request failed: "
        "remote port forwarding failed for listen path /nonexistent/s\n"
        "muxclient: master forward request failed\n",
    )


@pytest.mark.usefixtures("master")
def test_a_sessions_forwards_are_the_masters(sharer: Sharer, echo_port: int) -> None:
    port = free_port("tcp")
    assert sharer.run("true", flags=("-L", f"{port}:127.0.0.1:{echo_port}")).returncode == 0
    assert ask(port, b"x") == b"echo:x"


# --------------------------------------------------------------------------- commands and the end


def test_questions_and_the_end(master: Master, sharer: Sharer) -> None:
    assert sharer.control("check") == (0, "", f"Master running (pid={master.pid})\n")
    assert sharer.control("exit", "-q") == (0, "", "")
    assert master.wait(timeout=30) == 255
    gone = f"Control socket connect({sharer.path}): No such file or directory\n"
    assert sharer.control("check") == (255, "", gone)


def test_a_stopped_master_serves_who_is_there(master: Master, sharer: Sharer) -> None:
    process = subprocess.Popen(
        sharer.command("echo begun; cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=sharer.environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    assert sharer.control("stop") == (0, "", "Stop listening request sent.\n")
    assert not os.path.exists(sharer.path)
    assert process.communicate(b"still here", timeout=30)[0] == b"still here"
    assert process.returncode == 0
    assert master.wait(timeout=30) == 255  # with -N there is nothing left to do


def test_the_first_client_outlasts_those_who_share(
    start_master: StartMaster, sharer: Sharer
) -> None:
    master = start_master("cat; exit 4", flags=())
    process = subprocess.Popen(
        sharer.command("echo begun; sleep 1; cat; exit 3"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=sharer.environment,
    )
    assert process.stdout is not None
    assert master.stdin is not None
    assert process.stdout.readline() == b"begun\n"
    master.stdin.close()
    assert process.communicate(b"later", timeout=30)[0] == b"later"
    assert process.returncode == 3
    master.stdin = None
    assert master.wait(timeout=30) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_socket_goes_with_the_master(
    client: Client, master: Master, path: str, number: signal.Signals
) -> None:
    assert client.run(flags=["-S", path, "-O", "check"]).returncode == 0  # it is at work
    master.send_signal(number)
    assert master.wait(timeout=30) == (0 if number == signal.SIGTERM else 255)
    assert not os.path.exists(path)


def test_only_the_user_may_connect(master: Master, path: str) -> None:
    assert master.poll() is None
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert [name for name in os.listdir(os.path.dirname(path)) if "master." in name] == []


@pytest.mark.usefixtures("master")
def test_a_second_master_goes_without_sharing(client: Client, path: str) -> None:
    done = client.run("echo own", flags=["-M", "-S", path])
    assert (done.returncode, done.stdout) == (0, b"own\n")
    expected = f"ControlSocket {path} already exists, disabling multiplexing"
    assert expected in done.stderr.decode()


def test_a_socket_that_nobody_listens_on_is_replaced(client: Client, path: str) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    done = client.run("echo own", flags=["-S", path, "-o", "ControlMaster=auto"])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"own\n", b"")
    assert not os.path.exists(path)


def test_a_persistent_master_holds_nobody_up(client: Client, path: str) -> None:
    """The first client's output ends with it, and its status is its own; then the time runs out."""
    flags = ["-S", path, "-o", "ControlMaster=auto", "-o", "ControlPersist=1"]
    done = client.run("cat; echo two >&2; exit 5", flags=flags, input=b"one\n")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"one\n", b"two\n")
    assert os.path.exists(path)
    wait_until(lambda: not os.path.exists(path), 30, "the master has left")


def test_a_persistent_master_without_a_session(client: Client, path: str) -> None:
    flags = ["-N", "-M", "-S", path, "-o", "ControlPersist=yes"]
    assert client.run(flags=flags).returncode == 0
    assert client.run("exit 3", flags=["-S", path]).returncode == 3
    assert client.run(flags=["-S", path, "-O", "exit"]).returncode == 0


def test_a_persistent_master_is_told_by_ps(client: Client, path: str) -> None:
    flags = ["-S", path, "-o", "ControlMaster=auto", "-o", "ControlPersist=yes"]
    assert client.run("true", flags=flags).returncode == 0
    told = client.run(flags=["-S", path, "-O", "check"])
    pid = re.search(rb"\(pid=(\d+)\)", told.stdout + told.stderr)
    assert pid is not None
    title = Path(f"/proc/{int(pid[1])}/cmdline")
    expected = f"ssh: {path} [mux]".encode()
    wait_until(lambda: title.read_bytes().rstrip(b"\0") == expected, 30, "the master's title")
    assert client.run(flags=["-S", path, "-O", "exit"]).returncode == 0


def test_a_persistent_master_that_cannot_log_in_says_why(
    connect: ClientFactory, start_server: ServerFactory, client: Client, account: Account, path: str
) -> None:
    stranger = connect(client.server, account, user="nobody-at-all")
    flags = ["-S", path, "-o", "ControlMaster=auto", "-o", "ControlPersist=yes"]
    done = stranger.run("true", flags=flags)
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr
    assert not os.path.exists(path)


@pytest.mark.parametrize(("answer", "status"), [("exit 0", 3), ("exit 1", 255)])
def test_a_confirmation_can_be_asked_for(
    client: Client, sharer: Sharer, tmp_path: Path, answer: str, status: int
) -> None:
    askpass = tmp_path / "askpass"
    asked = tmp_path / "asked"
    askpass.write_text(f'#!/bin/sh\necho "$SSH_ASKPASS_PROMPT: $1" >{asked}\n{answer}\n')
    askpass.chmod(0o755)
    env = {"SSH_ASKPASS": str(askpass), "DISPLAY": ":0"}
    master = subprocess.Popen(
        client.command(flags=["-N", "-M", "-M", "-S", sharer.path]),
        env=client.environment(env),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: os.path.exists(sharer.path), 30, "the master listens")
    done = sharer.run("exit 3")
    assert done.returncode == status
    assert asked.read_text() == "confirm: Allow shared connection to 127.0.0.1? \n"
    if status == 255:
        assert b"Master refused session request: Permission denied" in done.stderr
    master.kill()
    master.wait(timeout=30)


# --------------------------------------------------------------------------- a terminal

OpenTerminal = Callable[..., Terminal]


@pytest.fixture
def open_shared() -> Iterator[OpenTerminal]:
    terminals: list[Terminal] = []

    def start(
        sharer: Sharer, *words: str, flags: tuple[str, ...] = (), rows: int = 24, columns: int = 80
    ) -> Terminal:
        command = sharer.command(*words, flags=flags)
        terminals.append(Terminal(command, sharer.environment, rows, columns))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.__exit__(None, None, None)


def await_prompt(terminal: Terminal) -> None:
    """The master may show the prompt before the client has learnt that there is a session."""
    terminal.expect(r"\$ ")
    wait_until(
        lambda: terminal.attributes() != terminal.first_attributes, 30, "the client attends to it"
    )


@pytest.mark.usefixtures("master")
def test_a_shared_shell_has_the_clients_terminal(
    sharer: Sharer, open_shared: OpenTerminal
) -> None:
    terminal = open_shared(sharer, rows=37, columns=101)
    before = terminal.first_attributes
    await_prompt(terminal)
    terminal.send("stty size; echo TERM=$TERM; exit 3\r")
    terminal.expect(r"\n37 101\r\nTERM=xterm\r\n")
    terminal.expect(r"Shared connection to somewhere\.invalid closed\.\r+\n")
    assert terminal.wait() == 3
    assert terminal.attributes() == before


@pytest.mark.usefixtures("master")
def test_a_new_window_size_reaches_the_shared_session(
    sharer: Sharer, open_shared: OpenTerminal
) -> None:
    terminal = open_shared(
        sharer,
        "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done",
        flags=("-t",),
    )
    terminal.expect("ready")
    terminal.resize(50, 132)
    terminal.expect(r"50 132\r\n")
    assert terminal.wait() == 0


@pytest.mark.usefixtures("master")
def test_escapes_of_a_shared_session(sharer: Sharer, open_shared: OpenTerminal) -> None:
    terminal = open_shared(sharer)
    before = terminal.first_attributes
    await_prompt(terminal)
    terminal.send("\r~?")
    terminal.expect(r"Supported escape sequences:\r\n")
    terminal.send("\r~\x1a")
    terminal.expect(r"not available to multiplexed sessions")
    terminal.send("\r~.")
    terminal.expect(r"Shared connection to somewhere\.invalid closed\.")
    assert terminal.wait() == 255
    assert terminal.attributes() == before
    assert sharer.run("echo here").stdout == b"here\n"


@pytest.mark.usefixtures("master")
def test_keys_reach_the_program_and_not_the_client(
    sharer: Sharer, open_shared: OpenTerminal
) -> None:
    terminal = open_shared(sharer)
    await_prompt(terminal)
    terminal.send("echo begun; cat\r")
    terminal.expect(r"\nbegun\r\n")
    terminal.send("hello\r")
    terminal.expect(r"hello\r\nhello\r\n")  # the terminal's echo, then the program's
    terminal.send(b"\x03")
    terminal.expect(r"\$ ")
    terminal.send("echo status $?; exit\r")
    terminal.expect(r"\nstatus 130\r\n")


@pytest.mark.usefixtures("master")
def test_a_signal_to_the_client_puts_the_terminal_back(
    sharer: Sharer, open_shared: OpenTerminal
) -> None:
    terminal = open_shared(sharer)
    before = terminal.first_attributes
    await_prompt(terminal)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait() == 255
    assert terminal.attributes() == before
    assert re.search(rb"Shared connection to .* closed", terminal.transcript)


def test_a_socket_of_another_user_is_no_master(
    programs: Programs, client: Client, path: str
) -> None:
    """Whoever lays one where a master is expected would get all that is typed."""
    if programs.name == "openssh":
        pytest.skip("it does not look")
    script = (
        "import os, socket, sys\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[1])\n"
        "os.chmod(sys.argv[1], 0o777)\n"
        "os.setresuid(*[int(sys.argv[2])] * 3)\n"
        "listener.listen()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, path, "65534"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"ready\n"
        done = client.run("echo own way", flags=["-S", path])
        assert (done.returncode, done.stdout) == (0, b"own way\n")
        assert b"is another user's" in done.stderr
        done = client.run(flags=["-S", path, "-O", "check"])
        assert done.returncode == 255
        stranger.kill()


class Nonsense:
    """A client of a master that sends anything, with descriptors of any kind."""

    def __init__(self, path: str, seed: int) -> None:
        self._chance = random.Random(seed)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(path)

    def talk(self) -> None:
        with self._socket, contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            self._socket.sendall(encode_packet(Hello()))
            for _ in range(self._chance.randrange(1, 5)):
                self._socket.sendall(self._packet())
                for _ in range(self._chance.randrange(4)):
                    self._give(opened)
            if self._chance.random() < 0.5:
                self._socket.shutdown(socket.SHUT_WR)
                while self._socket.recv(65536):
                    pass

    def _packet(self) -> bytes:
        chance = self._chance
        text = chance.choice(["", "echo hello", "127.0.0.1", "x" * 3000, "\udcff"])
        number = chance.choice([0, 1, 9, 22, 65535, 65536, 0xFFFF_FFFE, 0xFFFF_FFFF])
        tty, x11, agent, subsystem = (chance.random() < 0.5 for _ in range(4))
        variables = ("LANG=x", "odd", "=")
        packet = encode_packet(
            chance.choice([
                NewSession(
                    number, "", tty, x11, agent, subsystem, number, "vt100", text, variables
                ),
                NewStdioForward(number, "", text, number),
                OpenForward(number, chance.randrange(5), text, number, text, number),
                CloseForward(number, chance.randrange(5), text, number, text, number),
                AskInfo(number, text),
                AskProxy(number),
            ])
        )  # fmt: skip
        if chance.random() < 0.3:
            at = chance.randrange(8, len(packet))  # another type might be -O exit
            packet = packet[:at] + chance.randbytes(chance.randrange(4)) + packet[at + 1 :]
        return packet

    def _give(self, opened: contextlib.ExitStack) -> None:
        kind = self._chance.choice(["path", "directory", "full", "writer", "event", "none", "two"])
        descriptors: list[int] = []
        if kind == "path":
            descriptors = [os.open("/", os.O_PATH)]
        elif kind == "directory":
            descriptors = [os.open("/", os.O_RDONLY)]
        elif kind == "full":
            descriptors = [os.open("/dev/full", os.O_RDWR)]
        elif kind == "event":
            descriptors = [os.eventfd(0)]
        elif kind != "none":
            descriptors = list(os.pipe())[: 1 + (kind == "two")]
        for fd in descriptors:
            opened.callback(os.close, fd)
        socket.send_fds(self._socket, [b"\0"], descriptors)


def test_clients_that_talk_nonsense_harm_nobody_else(
    programs: Programs, master: Master, sharer: Sharer
) -> None:
    if programs.name == "openssh":
        pytest.skip("its master does not survive it")
    with subprocess.Popen(
        sharer.command("echo begun; cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=sharer.environment,
    ) as bystander:
        assert bystander.stdout is not None
        assert bystander.stdout.readline() == b"begun\n"
        for seed in range(150):
            Nonsense(sharer.path, seed).talk()
        assert sharer.run("echo new").stdout == b"new\n"
        assert bystander.communicate(b"still here", timeout=30)[0] == b"still here"
        assert master.poll() is None


def test_a_terminal_that_the_server_refuses(
    connect: ClientFactory,
    start_server: ServerFactory,
    client: Client,
    account: Account,
    path: str,
    sharer: Sharer,
    open_shared: OpenTerminal,
) -> None:
    """The session goes on without, and the client's terminal is as it was."""
    refusing = connect(start_server(client.server.programs, ["PermitTTY no"]), account)
    master = refusing.start(flags=["-N", "-M", "-S", path])
    wait_until(lambda: os.path.exists(path), 30, "the master listens")
    terminal = open_shared(sharer, "test -t 0 || echo none; read x; exit 4", flags=("-t",))
    before = terminal.first_attributes
    # Two streams, so either may be shown first.
    terminal.expect(r"(failed\r+\n.*none\r*\n|none\r*\n.*failed\r+\n)")
    assert b"PTY allocation request failed" in terminal.transcript
    wait_until(lambda: terminal.attributes() == before, 30, "raw mode was left")
    terminal.send("x\n")
    assert terminal.wait() == 4
    master.kill()
    master.communicate(timeout=30)
