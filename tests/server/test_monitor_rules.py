"""A monitor against a leader and a network process that say and send what they like: each message
is obeyed, or ends the conversation with a PrivsepError and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sshoq.server import terminals
from sshoq.server.account import Account
from sshoq.server.connection import ConnectionFacts
from sshoq.server.leader_process import MAX_PID, LeaderProcess
from sshoq.server.monitor import LEADER_RULES, NETWORK_RULES, Monitor, Phase, Rule
from sshoq.server.privsep import (
    FROM_MONITOR,
    LEADER_TO_MONITOR,
    MONITOR_TO_LEADER,
    TO_MONITOR,
    AddressValidated,
    Authenticate,
    LogLine,
    MoveSocket,
    ProgramGone,
    ProgramRunning,
    ProveHostKeys,
    Recorded,
    RecordLogin,
    RecordLogout,
    SignHandshake,
    SocketMoved,
)
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, make_pair
from sshoq.server.records import RecordFiles
from sshoq.server.terminals import Terminals
from sshoq.wire import Message
from tests.needs import need_root

HUGE = (1 << 62) - 1
HERE = ConnectionFacts("192.0.2.7", 40007, "192.0.2.1", 443)


class Desk:
    """A monitor that is logged in, without the rest of its life, and the ends of those who speak
    to it."""

    def __init__(self, folder: Path, phase: Phase = Phase.AFTER_LOGIN) -> None:
        self.leader, leader = make_pair()
        self.network, network = make_pair()
        account = Account("alice", os.getuid(), os.getgid(), "/", "/bin/sh", ())
        config = SimpleNamespace(print_last_log=True)
        self.theirs = PrivsepSocket(leader, MONITOR_TO_LEADER, LEADER_TO_MONITOR)
        self.monitor = Monitor.__new__(Monitor)
        records = Terminals()
        records._files = RecordFiles(*[str(folder / name) for name in ("utmp", "w", "l", "b")])
        self.records = folder / "utmp"
        self.records.touch()
        vars(self.monitor).update(
            _phase=phase,
            _counts={},
            _terminals=records,
            _leader=LeaderProcess(0, self.theirs),
            _network=PrivsepSocket(network, FROM_MONITOR, TO_MONITOR),
            _connection=SimpleNamespace(peer_address="192.0.2.7", peer_port=9),
            _identity=SimpleNamespace(sign=_refuse, prove=_refuse),
            _authenticator=SimpleNamespace(
                login=SimpleNamespace(account=account, config=config, connection=HERE),
                conversation_id=bytes(32),
            ),
            _is_exchanging=True,
            _next_try=None,
        )

    def tell(self, message: Message | bytes, descriptors: list[int], *, leader: bool) -> None:
        """As from the leader, or from the network process."""
        if leader:
            end, theirs, rules = self.leader, self.theirs, LEADER_RULES
        else:
            end, theirs, rules = self.network, self.monitor._network, NETWORK_RULES
        packet = message if isinstance(message, bytes) else theirs.incoming.encode(message)
        socket.send_fds(end, [packet], descriptors)
        self.monitor._answer(theirs, rules)

    def close(self) -> None:
        for one in (self.leader, self.network, self.theirs, self.monitor._network):
            one.close()


def _refuse(*_: object) -> bytes:
    raise ValueError("not ours")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture
def slave() -> Iterator[int]:
    master, slave = pty.openpty()
    yield slave
    os.close(master)
    os.close(slave)


# --------------------------------------------------------------------------- the leader


def test_a_session_has_one_login(desk: Desk, slave: int) -> None:
    """A second one would take the place of the first, which nobody would ever log out."""
    need_root()  # nobody else's server keeps records
    desk.tell(RecordLogin(4, os.getpid()), [slave], leader=True)
    assert MONITOR_TO_LEADER.decode(desk.leader.recv(1000)) == Recorded("")
    with pytest.raises(PrivsepError, match="a second login of a session"):
        desk.tell(RecordLogin(4, os.getpid()), [slave], leader=True)


@pytest.mark.parametrize("pid", [0, 1, MAX_PID + 1, 1 << 31, HUGE])
@pytest.mark.parametrize("kind", [RecordLogin, ProgramRunning])
def test_numbers_that_no_program_has_are_refused(
    desk: Desk, slave: int, pid: int, kind: type[Message]
) -> None:
    with pytest.raises(PrivsepError, match="impossible"):
        if kind is RecordLogin:
            desk.tell(RecordLogin(4, pid), [slave], leader=True)
        else:
            desk.tell(ProgramRunning(pid), [], leader=True)


NO_TERMINALS = {
    "a directory": ("/", os.O_RDONLY),
    "a path": ("/dev/tty", os.O_PATH),
    "another device": ("/dev/null", os.O_RDWR),
    "a master": ("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
}


@pytest.mark.parametrize("name", NO_TERMINALS)
def test_a_login_needs_a_terminal(desk: Desk, name: str) -> None:
    descriptor = os.open(*NO_TERMINALS[name])
    with pytest.raises(PrivsepError, match="a login on what is no pty"):
        desk.tell(RecordLogin(4, os.getpid()), [descriptor], leader=True)
    os.close(descriptor)
    assert desk.records.read_bytes() == b""


def test_an_epoll_is_no_terminal(desk: Desk) -> None:
    with select.epoll() as epoll, pytest.raises(PrivsepError, match="a login on what is no pty"):
        desk.tell(RecordLogin(4, os.getpid()), [epoll.fileno()], leader=True)


def test_a_terminal_of_another_devpts_is_on_no_record(
    desk: Desk, slave: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is somebody else's terminal here."""
    monkeypatch.setattr(terminals, "PTY_FOLDER", "/proc")
    with pytest.raises(PrivsepError, match="from elsewhere"):
        desk.tell(RecordLogin(4, os.getpid()), [slave], leader=True)
    assert desk.records.read_bytes() == b""


# --------------------------------------------------------------------------- the network process


def test_what_is_no_socket_cannot_be_moved_and_stays_nowhere(desk: Desk) -> None:
    before = len(os.listdir("/proc/self/fd"))
    nothing = os.open("/dev/null", os.O_RDWR)
    for _ in range(20):
        with pytest.raises(PrivsepError, match="what is no socket"):
            desk.tell(MoveSocket("192.0.2.7", 9), [nothing], leader=False)
    os.close(nothing)
    assert len(os.listdir("/proc/self/fd")) == before


def test_addresses_that_are_none_move_nothing(desk: Desk) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for address, port in (("", 0), ("x\0y", 9), ("::1", 9), ("127.0.0.1", HUGE), ("\udcff", 1)):
            desk.tell(MoveSocket(address, port), [udp.fileno()], leader=False)
            assert FROM_MONITOR.decode(desk.network.recv(1000)) == SocketMoved()
        with pytest.raises(OSError, match="not connected"):
            udp.getpeername()


# --------------------------------------------------------------------------- anything at all

numbers = st.sampled_from([0, 1, 2, 4, 255, 1 << 16, 1 << 31, 1 << 32, HUGE])
texts = st.sampled_from(["", "alice", "a\0b", "\udcff", "x" * 5000, "127.0.0.1", "..", "\n"])
blobs = st.sampled_from([b"", b"\0", b"Basic eA==", b"Bearer a.b.c", b" " * 64, b"\xff" * 5000])

FROM_THE_LEADER = st.one_of(
    st.builds(RecordLogin, numbers, numbers),
    st.builds(RecordLogout, numbers),
    st.builds(ProgramRunning, numbers),
    st.builds(ProgramGone, numbers),
)
FROM_THE_NETWORK = st.one_of(
    st.builds(SignHandshake, numbers, blobs),
    st.builds(Authenticate, texts, blobs, blobs),
    st.builds(LogLine, numbers, texts),
    st.builds(AddressValidated),
    st.builds(MoveSocket, texts, numbers),
    st.builds(ProveHostKeys, st.lists(blobs, max_size=3).map(tuple)),
)
KINDS = st.sampled_from(["null", "folder", "slave", "udp", "unix"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(list(Phase)),
    st.lists(
        st.tuples(st.one_of(FROM_THE_LEADER, FROM_THE_NETWORK, st.binary(max_size=40)),
                  st.booleans(), st.lists(KINDS, max_size=5)),
        max_size=6,
    ),
)
def test_any_messages_are_obeyed_or_a_fault(
    tmp_path: Path, phase: Phase, said: list[tuple[Message | bytes, bool, list[str]]]
) -> None:
    """With whatever descriptors, from either side, in any phase; and none stays open."""
    with contextlib.ExitStack() as open_ones:
        master, slave = pty.openpty()
        sockets = [
            open_ones.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            for family in (socket.AF_INET, socket.AF_UNIX)
        ]
        files = [os.open("/dev/null", os.O_RDWR), os.open("/", os.O_RDONLY)]
        for fd in (master, slave, *files):
            open_ones.callback(os.close, fd)
        kinds = dict(
            zip(
                ("null", "folder", "slave", "udp", "unix"),
                (*files, slave, *[one.fileno() for one in sockets]),
                strict=True,
            )
        )
        desk = Desk(tmp_path, phase)
        open_ones.callback(desk.close)
        before = len(os.listdir("/proc/self/fd"))
        with contextlib.suppress(PrivsepError):
            for message, leader, wanted in said:
                if not isinstance(message, bytes) and type(message) not in _rules(leader):
                    leader = not leader
                desk.tell(message, [kinds[name] for name in wanted], leader=leader)
        assert len(os.listdir("/proc/self/fd")) == before


def _rules(leader: bool) -> dict[type[Message], Rule]:
    return LEADER_RULES if leader else NETWORK_RULES
