"""The paramiko adapter against a program that stands in for the client: what it is told, and what
becomes of its streams. tests/scenarios/test_paramiko.py has the real one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest

import sshoq.paramiko
from sshoq.paramiko import PIPE_SIZE, ProxySocket, SSHClient, Transport
from tests.processes import wait_until

# Logging in (-f) leaves a socket, as a master would; the rest is the test's.
STAND_IN = """\
#!{python}
import os, signal, socket, sys
with open({calls!r}, "a") as file:
    print(*(repr(word) for word in sys.argv[1:]), sep=" ", file=file)
if "-f" in sys.argv:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[sys.argv.index("-S") + 1])
    listener.listen()
    if os.fork() == 0:
        os.setsid()
        listener.settimeout(60)
        while listener.accept()[0].recv(1) != b"q": pass
    os._exit(0)
if "-O" in sys.argv:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(sys.argv[sys.argv.index("-S") + 1])
        end.send(b"q")
    if "--deaf" in sys.argv: signal.pause()
    os._exit(0)
{body}
"""


class StandIn:
    def __init__(self, folder: Path, body: str) -> None:
        self.path = folder / "stand-in"
        self.calls_path = folder / "calls"
        self.path.write_text(
            STAND_IN.format(python=sys.executable, calls=str(self.calls_path), body=body)
        )
        self.path.chmod(0o755)

    def calls(self) -> list[list[str]]:
        lines = self.calls_path.read_text().splitlines() if self.calls_path.exists() else []
        return [[word.strip("'") for word in line.split("' '")] for line in lines]

    def transport(self, *flags: str) -> Transport:
        return Transport("box/secret", flags=flags, program=str(self.path))


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], StandIn]:
    return lambda body: StandIn(tmp_path, body)


def test_nothing_is_taken_for_a_flag(stand_in: Callable[[str], StandIn]) -> None:
    program = stand_in("sys.stdin.read()")
    with program.transport("-p", "443") as transport:
        channel = transport.open_session()
        channel.exec_command("-V")
        channel.shutdown_write()
        assert channel.recv_exit_status() == 0
    logged_in, ran, ended = program.calls()
    path = logged_in[logged_in.index("-S") + 1]
    common = ["-o", "BatchMode=yes", "-S", path, "-p", "443"]
    assert logged_in[:6] == ran[:6] == ended[:6] == common
    assert ran[6:] == ["-T", "--", "box/secret", "-V"]
    assert ended[6:] == ["-O", "exit", "--", "box/secret"]
    assert not os.path.exists(os.path.dirname(path))


def test_a_master_that_does_not_answer_keeps_nobody_from_closing(
    stand_in: Callable[[str], StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshoq.paramiko, "CLOSE_TIME", 0.5)
    transport = stand_in("").transport("--deaf")
    folder = os.path.dirname(transport._path)
    transport.close()
    assert not os.path.exists(folder)


def test_the_parameters_of_connect_are_flags(stand_in: Callable[[str], StandIn]) -> None:
    program = stand_in("")
    with SSHClient() as client:
        client.connect(
            "box", 444, "alice", key_filename="/k", timeout=2.4, program=str(program.path)
        )
    words = program.calls()[0]
    start = words.index("-i")
    assert words[start : start + 8] == [
        "-i", "/k", "-p", "444", "-l", "alice", "-o", "ConnectTimeout=2",
    ]  # fmt: skip


def test_what_sshoq_would_not_heed_is_refused() -> None:
    with pytest.raises(TypeError):
        SSHClient().connect("box", password="secret")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("alice@box: Permission denied (publickey).", paramiko.AuthenticationException),
        ("alice@box: Permission denied.", paramiko.AuthenticationException),
        ("cannot bind to path /s: Permission denied", paramiko.SSHException),
        ("ssh: Could not resolve hostname box", paramiko.SSHException),
        ("", paramiko.SSHException),
    ],
)
def test_a_login_that_fails_is_an_exception(tmp_path: Path, text: str, kind: type) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nprintf %s {text!r} >&2\nexit 255\n")
    program.chmod(0o755)
    with pytest.raises(kind) as caught:
        Transport("box", program=str(program))
    assert type(caught.value) is kind
    assert str(caught.value) == (text or "sshoq ended with status 255")


def test_errors_do_not_stop_output(stand_in: Callable[[str], StandIn]) -> None:
    """Much on standard error that nobody reads yet."""
    half = PIPE_SIZE // 2
    program = stand_in(f"sys.stderr.write('e' * {half}); sys.stderr.flush(); print('out')")
    with program.transport() as transport, transport.open_session() as channel:
        channel.exec_command("x")
        assert channel.makefile("rb").read() == b"out\n"
        assert channel.makefile_stderr("rb").read() == b"e" * half


def test_errors_can_be_had_with_the_output(stand_in: Callable[[str], StandIn]) -> None:
    program = stand_in("print('out', flush=True); print('err', file=sys.stderr)")
    with program.transport() as transport, transport.open_session() as channel:
        channel.set_combine_stderr(True)
        channel.exec_command("x")
        assert channel.makefile("rb").read() == b"out\nerr\n"
        assert channel.recv_stderr(1) == b""


def test_a_terminal_has_its_size_and_its_type(stand_in: Callable[[str], StandIn]) -> None:
    body = (
        "import tty, signal\n"
        "seen = lambda *a: print(*os.get_terminal_size(0), os.environ['TERM'], flush=True)\n"
        "signal.signal(signal.SIGWINCH, seen)\n"
        "tty.setraw(0)\n"
        "seen()\n"
        "while os.read(0, 1) != b'q': pass\n"
    )
    program = stand_in(body)
    with program.transport() as transport, transport.open_session() as channel:
        channel.get_pty("vt220", 90, 30)
        channel.invoke_shell()
        lines = channel.makefile("rb")
        assert lines.readline() == b"90 30 vt220\n"
        channel.resize_pty(100, 40)
        assert lines.readline() == b"100 40 vt220\n"
        channel.sendall(b"q")
        assert channel.recv_exit_status() == 0
    assert program.calls()[1][-5:] == ["-tt", "-e", "none", "--", "box/secret"]


def test_a_program_that_does_not_end_is_ended(
    stand_in: Callable[[str], StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sshoq.paramiko.GRACE", 0.05)
    program = stand_in(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with program.transport() as transport:
        channel = transport.open_session()
        channel.exec_command("x")
        assert channel.makefile("rb").readline() == b"ready\n"
        process = channel._process
        assert process is not None
        channel.close()
        channel.close()
        wait_until(lambda: process.returncode is not None, 20, "it is gone")
        with pytest.raises(paramiko.SSHException):
            channel.exec_command("again")


def test_a_connection_that_has_gone_idle_is_made_anew(
    stand_in: Callable[[str], StandIn],
) -> None:
    program = stand_in("")
    with program.transport() as transport:
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(transport._path)
            end.send(b"q")  # the master leaves
        os.unlink(transport._path)
        assert not transport.is_active()
        transport.open_session().exec_command("x")
        assert transport.is_active()
        assert [("-f" in call) for call in program.calls()].count(True) == 2
    with pytest.raises(paramiko.SSHException, match="not active"):
        transport.open_session()


def test_a_proxy_socket_is_the_programs_standard_streams(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$@"\nexec cat\n')
    program.chmod(0o755)
    with ProxySocket("box/secret", "8022", program=str(program)) as near:
        near.settimeout(20)
        lines = near.makefile("rb")
        assert lines.readline() == b"-o BatchMode=yes --stdio -- box/secret 8022\n"
        near.sendall(b"there and back\n")
        assert lines.readline() == b"there and back\n"
        lines.close()


def test_a_proxy_socket_without_a_program_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        ProxySocket("box", program="/no/such/program")
