"""The session leader's messages: whatever the network process says, with whatever descriptors and
however few the user may have, is done, refused, or the end of the leader, and never an accident.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sshoq.auth.authorized_keys import KeyRights
from sshoq.server import listeners, signals
from sshoq.server.account import Account
from sshoq.server.config_reader import load
from sshoq.server.connection import ConnectionFacts
from sshoq.server.leader import run_leader
from sshoq.server.privsep import (
    FROM_LEADER,
    LEADER_TO_MONITOR,
    MONITOR_TO_LEADER,
    TO_LEADER,
    AllocatePty,
    CloseSession,
    Dial,
    EndForwarding,
    ForwardingRefused,
    Listen,
    ListenForAgent,
    ListenForX11,
    Recorded,
    RecordLogin,
    ServeFiles,
    SessionRefused,
    SignalProgram,
    StartProgram,
)
from sshoq.server.privsep_socket import PeerGone, PrivsepSocket, close_all, make_pair
from sshoq.server.rights import LoginRights
from sshoq.wire import Message

PATIENCE = 20.0
OWN = 2
"""Descriptors that the leader opens for itself as it begins."""

PROBE = Dial(77_777, 99, "", 0)
"""Of no kind, so it is refused at once: the leader is still there."""

ANSWERED = ForwardingRefused(PROBE.channel, True, "open failed")


def rights(home: Path) -> LoginRights:
    """Programs are refused by the shell, so any command will do."""
    config = load(None, ["X11Forwarding yes", "Subsystem sftp internal-sftp"])
    account = Account("me", os.getuid(), os.getgid(), str(home), "/bin/false", ())
    return LoginRights(
        account=account,
        connection=ConnectionFacts("127.0.0.1", 1, "127.0.0.1", 2),
        config=config.for_connection(user="me", address="127.0.0.1"),
        key=KeyRights(),
        authentication="publickey",
        must_change_password=False,
    )


class Stage:
    """A leader in a process of its own, between a network process and a monitor that we play."""

    def __init__(self, home: Path, spare: int | None = None) -> None:
        """`spare`: how many descriptors it may have beside what it begins with."""
        network, leaders = make_pair()
        monitor, leaders_monitor = make_pair()
        self.complaints = home / "complaints"
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            for end in (network, monitor):
                end.close()
            self._become_leader(leaders, leaders_monitor, rights(home), spare)
        for end in (leaders, leaders_monitor):
            end.close()
        self.network = PrivsepSocket(network, TO_LEADER, FROM_LEADER)
        self._monitor = PrivsepSocket(monitor, MONITOR_TO_LEADER, LEADER_TO_MONITOR)
        self._poll = select.poll()
        for one in (self.network, self._monitor):
            self._poll.register(one, select.POLLIN)

    def _become_leader(
        self, network: socket.socket, monitor: socket.socket, login: LoginRights, spare: int | None
    ) -> NoReturn:
        status = 99
        try:
            os.setsid()
            os.dup2(os.open(self.complaints, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            os.chdir(login.account.home)
            root = os.open("/", os.O_PATH | os.O_DIRECTORY)
            signals.dispose((signal.SIGINT,), signals.DEFAULT)
            if spare is not None:
                leave_descriptors(spare + OWN)
            status = run_leader(network, monitor, login, root)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def next(self) -> tuple[Message, list[int]] | None:
        """What the leader says to the network process; None when it has gone."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ready = [fd for fd, _ in self._poll.poll(PATIENCE * 1000)]
            if self._monitor.fileno() in ready:
                self._hear_monitors()
            if self.network.fileno() in ready:
                with contextlib.suppress(PeerGone):
                    return self.network.receive()
                return None
        raise TimeoutError("the leader says nothing")

    def _hear_monitors(self) -> None:
        try:
            message, descriptors = self._monitor.receive()
        except PeerGone:
            self._poll.unregister(self._monitor)
            return
        close_all(descriptors)
        if isinstance(message, RecordLogin):
            self._monitor.send(Recorded("never before"))

    def answers(self) -> list[Message] | None:
        """To all that was said, until the probe is answered; None when the leader has gone."""
        with contextlib.suppress(PeerGone):
            self.network.send(PROBE)
        said: list[Message] = []
        while (heard := self.next()) is not None:
            close_all(heard[1])
            if heard[0] == ANSWERED:
                return said
            said.append(heard[0])
        return None

    def ask(self, message: Message) -> Message:
        """The answer, which is one."""
        self.network.send(message)
        heard = self.next()
        assert heard is not None, self.complaints.read_text()
        close_all(heard[1])
        return heard[0]

    def end(self) -> None:
        self.network.close()
        self._monitor.close()
        _, status = os.waitpid(self._pid, 0)
        assert status == 0, self.complaints.read_text()


def leave_descriptors(spare: int) -> None:
    """So many are free, and all others taken."""
    most = max(int(name) for name in os.listdir("/proc/self/fd")) + 1 + spare
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    for descriptor in taken[len(taken) - spare:]:
        os.close(descriptor)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(spare: int | None = None) -> Stage:
        stages.append(Stage(tmp_path, spare))
        return stages[-1]

    yield make
    for stage in stages:
        stage.end()


# --------------------------------------------------------------------------- few descriptors

SCARCE: dict[str, tuple[Message, type[Message]]] = {
    "a name to connect to": (Dial(4, Dial.TCP, "localhost", 9), ForwardingRefused),
    "an address to connect to": (Dial(4, Dial.TCP, "127.0.0.1", 9), ForwardingRefused),
    "a path to connect to": (Dial(4, Dial.UNIX, "nowhere", 0), ForwardingRefused),
    "a name to listen on": (Listen(4, Dial.TCP, "localhost", 0), ForwardingRefused),
    "a port to listen on": (Listen(4, Dial.UDP, "127.0.0.1", 0), ForwardingRefused),
    "a path to listen on": (Listen(4, Dial.UNIX, "here", 0), ForwardingRefused),
    "an agent socket": (ListenForAgent(4), ForwardingRefused),
    "a pty": (AllocatePty(4, "xterm", 80, 24, 0, 0, b""), SessionRefused),
    "a program": (StartProgram(4, StartProgram.EXEC, b"true", ()), SessionRefused),
    "files": (ServeFiles(4), SessionRefused),
}


@pytest.mark.parametrize("name", SCARCE)
def test_without_descriptors_it_refuses_and_goes_on(
    start: Callable[..., Stage], name: str
) -> None:
    message, refusal = SCARCE[name]
    stage = start(spare=0)
    for _ in range(20):
        answer = stage.ask(message)
        assert isinstance(answer, refusal)
    assert stage.answers() == []


@pytest.mark.parametrize(("name", "spare"), [("a program", 2), ("a program", 4), ("files", 2)])
def test_what_could_not_be_started_keeps_no_descriptors(
    start: Callable[..., Stage], name: str, spare: int
) -> None:
    """There is room for a pipe or two but not for three, for a socket pair alone."""
    message, refusal = SCARCE[name]
    stage = start(spare=spare)
    for _ in range(20):
        assert isinstance(stage.ask(message), refusal)
    answer = stage.ask(Dial(8, Dial.UNIX, "nowhere", 0))
    assert answer == ForwardingRefused(8, False, "No such file or directory")


def test_an_agent_socket_that_cannot_be_made_leaves_nothing(
    start: Callable[..., Stage], tmp_path: Path
) -> None:
    (tmp_path / ".ssh").write_text("no folder, so a new one is made elsewhere")
    before = set(os.listdir("/tmp"))
    stage = start(spare=0)
    assert isinstance(stage.ask(ListenForAgent(4)), ForwardingRefused)
    made = {name for name in set(os.listdir("/tmp")) - before if name.startswith("sshoq-")}
    owned = [name for name in made if len(name) == len("sshoq-") + 16]
    assert owned == []


# --------------------------------------------------------------------------- anything at all

sessions = st.sampled_from([0, 4, 8, 1 << 31, (1 << 62) - 1])
kinds = st.sampled_from([0, 1, 2, 3, 4, 1 << 40])
ports = st.sampled_from([0, 1, 9, 65535, 65536, 1 << 40])
numbers = st.sampled_from([0, 80, 65535, 65536, (1 << 62) - 1])
texts = st.sampled_from(
    ["", "127.0.0.1", "::1", "localhost", "a\0b", "\udcff", "x" * 5000, "here", "..", "*", "\n"]
)
blobs = st.sampled_from([b"", b"\0", b"LANG=C", b"sftp", b"=", b"\xff" * 5000, b"\x80" * 64])

MESSAGES = st.one_of(
    st.builds(AllocatePty, sessions, texts, numbers, numbers, numbers, numbers, blobs),
    st.builds(StartProgram, sessions, kinds, blobs, st.lists(blobs, max_size=3).map(tuple)),
    st.builds(SignalProgram, sessions, st.sampled_from(["", "HUP", "KILL", "STOP", "\0"])),
    st.builds(CloseSession, sessions),
    st.builds(Dial, sessions, kinds, texts, ports),
    st.builds(Listen, sessions, kinds, texts, ports),
    st.builds(ListenForAgent, sessions),
    st.builds(EndForwarding, sessions),
    st.builds(ServeFiles, sessions),
    st.builds(ListenForX11, sessions, texts, texts, numbers),
)
OFFERED = st.lists(st.sampled_from(["null", "folder", "epoll", "socket"]), max_size=4)


@contextlib.contextmanager
def oddities() -> Iterator[dict[str, int]]:
    """What a network process might send along."""
    with socket.socket() as end, select.epoll() as epoll, contextlib.ExitStack() as stack:
        found = {"socket": end.fileno(), "epoll": epoll.fileno()}
        for name, path in (("null", "/dev/null"), ("folder", "/")):
            found[name] = os.open(path, os.O_RDONLY)
            stack.callback(os.close, found[name])
        yield found


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.none() | st.integers(0, 9),
    st.lists(st.tuples(MESSAGES | st.binary(max_size=40), OFFERED), max_size=12),
)
def test_any_messages_are_obeyed_refused_or_the_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spare: int | None,
    said: list[tuple[Message | bytes, list[str]]],
) -> None:
    monkeypatch.setattr(listeners, "MAX_LISTENERS", 3)
    stage = Stage(tmp_path, spare)
    with oddities() as found, contextlib.suppress(PeerGone, BrokenPipeError, ConnectionResetError):
        for message, wanted in said:
            descriptors = [found[name] for name in wanted]
            if isinstance(message, bytes):
                socket.send_fds(stage.network.socket, [message or b"\0"], descriptors)
            else:
                stage.network.send(message, descriptors)
    stage.answers()
    stage.end()
