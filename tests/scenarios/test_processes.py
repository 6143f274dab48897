"""What is left when something ends early, and what must not be touched by it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from tests.accounts import Account
from tests.processes import (
    Process,
    all_processes,
    descendants,
    end_process,
    is_running,
    memory_holds,
    processes_of,
    resident_bytes,
    wait_until,
    wait_until_still,
)
from tests.programs import Client, Programs, Server, as_user
from tests.scenarios.conftest import ClientFactory, ServerFactory

pytestmark = pytest.mark.privileged

MIB = 1 << 20
# Everything that is buffered has a stated bound, a few MiB for one channel end to end.
BOUNDED_GROWTH = 8 * MIB


@pytest.fixture
def own_server(programs: Programs, start_server: ServerFactory) -> Server:
    """A server of the test's own, because the test kills parts of it."""
    return start_server(programs)


@pytest.fixture
def user(fresh_account: Account) -> Account:
    """A user of the test's own, so that its processes can be counted."""
    return fresh_account


class Session:
    """A connection that stays open: it echoes lines, so one can ask whether it still lives."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._server = client.server
        self.process = client.start(f"echo $$; while read line; do echo {name} $line; done")
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self.far_pid = int(self._stdout.readline() or self.fail())

    def fail(self) -> int:
        assert self.process.stderr is not None
        raise AssertionError(self.process.stderr.read(), self._server.log()[-2000:])

    def answers(self, word: str) -> bool:
        self._stdin.write(word.encode() + b"\n")
        self._stdin.flush()
        return self._stdout.readline() == f"{self.name} {word}\n".encode()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


@pytest.fixture
def session(own_server: Server, connect: ClientFactory, user: Account) -> Iterator[Session]:
    session = Session(connect(own_server, user), "first")
    yield session
    session.end()


def test_a_killed_client_leaves_nothing_behind(
    own_server: Server, session: Session, user: Account
) -> None:
    idle = {process.pid for process in own_server.family()} - {
        process.pid for process in processes_of(user.uid)
    }
    session.process.kill()
    # A killed QUIC client says nothing; its host does, once something is sent there.
    wait_until(lambda: not processes_of(user.uid), 45, "the user's processes are gone")
    wait_until(
        lambda: {process.pid for process in own_server.family()} <= idle, 30, "no new process left"
    )


def test_a_terminated_client_ends_its_session_at_once(
    own_server: Server, session: Session, user: Account
) -> None:
    session.process.terminate()
    assert session.process.wait(timeout=30) == 255
    wait_until(lambda: not processes_of(user.uid), 30, "the user's processes are gone")


def test_a_reader_that_never_reads_is_not_buffered_for(
    own_server: Server, connect: ClientFactory, user: Account
) -> None:
    """Neither side may grow while 200 MB wait behind a reader that has stopped."""
    client = connect(own_server, user)
    running = client.start("head -c 1000; read go; exec head -c 200000000 /dev/zero")
    assert running.stdout is not None
    assert running.stdin is not None
    running.stdin.write(b"x" * 1000 + b"\n")
    running.stdin.flush()
    assert running.stdout.read(1000) == b"x" * 1000
    before = resident_bytes(running.pid)
    sizes = {process.pid: resident_bytes(process.pid) for process in own_server.processes()}
    running.stdin.write(b"go\n")
    running.stdin.flush()
    [sender] = [process for process in wait_for_head(user) if process.name == "head"]
    wait_until_still(lambda: written_bytes(sender.pid), 30, "the sender waits for its reader")
    assert resident_bytes(running.pid) - before < BOUNDED_GROWTH
    for process in own_server.processes():
        grown = resident_bytes(process.pid) - sizes.get(process.pid, 0)
        assert grown < BOUNDED_GROWTH, process
    running.kill()
    running.communicate(timeout=30)


def wait_for_head(user: Account) -> list[Process]:
    def found() -> list[Process]:
        return [process for process in processes_of(user.uid) if process.name == "head"]

    wait_until(found, 30, "the sender runs")
    return found()


def written_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


def test_a_remote_command_that_never_reads_holds_its_sender(
    own_server: Server, connect: ClientFactory, user: Account
) -> None:
    """The same in the other direction: the local program is made to wait."""
    client = connect(own_server, user)
    command = client.command("echo in; exec sleep 60", flags=["-o", "BatchMode=yes"])
    feeder = subprocess.Popen(["head", "-c", "200000000", "/dev/zero"], stdout=subprocess.PIPE)
    with subprocess.Popen(
        command, stdin=feeder.stdout, stdout=subprocess.PIPE, env=client.environment()
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"in\n"
        before = resident_bytes(running.pid)
        sizes = {process.pid: resident_bytes(process.pid) for process in own_server.processes()}
        wait_until_still(lambda: written_bytes(feeder.pid), 30, "the local program waits")
        assert resident_bytes(running.pid) - before < BOUNDED_GROWTH
        for process in own_server.processes():
            grown = resident_bytes(process.pid) - sizes.get(process.pid, 0)
            assert grown < BOUNDED_GROWTH, process
        running.kill()
        feeder.kill()
    feeder.communicate()


def test_connections_outlive_the_main_process(
    own_server: Server, session: Session, connect: ClientFactory, user: Account
) -> None:
    own_server.end_main(signal.SIGKILL)
    assert session.answers("still")
    own_server.start()
    assert session.answers("here")
    assert connect(own_server, user).output("echo new") == b"new\n"
    assert session.answers("yet")


def test_a_restart_keeps_connections_and_takes_new_settings(
    own_server: Server, session: Session, connect: ClientFactory, user: Account
) -> None:
    own_server.write_settings(["ForceCommand echo new settings"])
    own_server.end_main()
    own_server.start()
    assert session.answers("still")
    assert connect(own_server, user).output("asked") == b"new settings\n"


def test_a_reload_takes_new_settings_for_new_connections(
    own_server: Server, session: Session, connect: ClientFactory, user: Account
) -> None:
    client = connect(own_server, user)
    own_server.write_settings(["ForceCommand echo new settings"])
    own_server.reload()
    wait_until(lambda: client.run("asked").stdout == b"new settings\n", 30, "the settings hold")
    assert session.answers("still")


class Kinds(NamedTuple):
    """The processes of one of our servers with one connection, told apart by who made whom."""

    main: Process
    router: Process
    network: Process
    monitor: Process
    leader: Process


def kinds_of(server: Server, session: Session) -> Kinds:
    """Upwards from the user's program: leader, monitor, main; and down from main: router,
    network."""
    everything = {process.pid: process for process in all_processes()}
    leader = everything[everything[session.far_pid].parent]
    monitor = everything[leader.parent]
    main = everything[server.pid]
    assert leader.uid != 0
    assert monitor.uid == 0
    family = descendants(main.pid)
    [router] = [p for p in family if p.parent == main.pid and p.uid not in (0, leader.uid)]
    networks = [p for p in family if p.parent == router.pid]
    assert all(process.uid == router.uid for process in networks)
    return Kinds(main, router, networks[-1], monitor, leader)


def title_of(process: Process) -> str:
    """As ps -f shows it."""
    return Path(f"/proc/{process.pid}/cmdline").read_text().rstrip("\0")


class TestEachKindOfProcess:
    """Ours alone: one of the five is killed; the other connection must not notice."""

    @pytest.mark.parametrize("kind", ["network", "monitor", "leader"])
    def test_killing_it_ends_its_connection_and_nothing_else(
        self,
        sshoq: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
        account: Account,
        kind: str,
    ) -> None:
        server = start_server(sshoq)
        other = Session(connect(server, account), "other")
        idle = {process.pid for process in server.processes()}
        session = Session(connect(server, fresh_account), "doomed")
        victim = getattr(kinds_of(server, session), kind)
        end_process(victim)
        assert session.process.wait(timeout=45) == 255
        wait_until(lambda: not processes_of(fresh_account.uid), 30, "the user's processes are gone")
        wait_until(
            lambda: {process.pid for process in server.processes()} <= idle, 30, "all of it is gone"
        )
        assert other.answers("untouched")
        assert connect(server, fresh_account).output("echo again") == b"again\n"
        for ended in (session, other):
            ended.end()

    @pytest.mark.parametrize("kind", ["main", "router"])
    def test_killing_it_leaves_the_connections_alone(
        self,
        sshoq: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
        account: Account,
        kind: str,
    ) -> None:
        server = start_server(sshoq)
        sessions = [
            Session(connect(server, account), "one"),
            Session(connect(server, fresh_account), "two"),
        ]
        victim = getattr(kinds_of(server, sessions[1]), kind)
        end_process(victim)
        wait_until(lambda: not is_running(victim), 30, "it is gone")
        for session in sessions:
            assert session.answers("alive")
        if kind == "main":
            server.end_main()
            server.start()
        client = connect(server, fresh_account)
        wait_until(lambda: client.run("echo new").stdout == b"new\n", 30, "a new login works")
        for session in sessions:
            assert session.answers("still alive")
            session.end()
        wait_until(lambda: not processes_of(fresh_account.uid), 45, "the user's processes are gone")

    def test_nobody_but_root_and_the_user_is_more_than_the_service_user(
        self,
        sshoq: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
    ) -> None:
        server = start_server(sshoq)
        session = Session(connect(server, fresh_account), "only")
        kinds = kinds_of(server, session)
        assert kinds.main.uid == kinds.monitor.uid == 0
        assert kinds.leader.uid == fresh_account.uid
        assert kinds.router.uid == kinds.network.uid
        assert kinds.router.uid not in (0, fresh_account.uid)
        names = [kind.name for kind in (kinds.router, kinds.network, kinds.monitor, kinds.leader)]
        assert names == ["sshoq-router", "sshoq-network", "sshoq-monitor", "sshoq-leader"]
        assert title_of(kinds.router) == f"sshoq-router: 127.0.0.1 port {server.port}"
        assert title_of(kinds.network).startswith("sshoq-network: 127.0.0.1 port ")
        assert title_of(kinds.monitor) == f"sshoq-monitor: {fresh_account.name}"
        assert title_of(kinds.leader) == f"sshoq-leader: {fresh_account.name}"
        for process in (kinds.router, kinds.network):
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "\nNoNewPrivs:\t1\n" in status
            assert "\nSeccomp:\t2\n" in status
            assert "\nCapEff:\t0000000000000000\n" in status
        session.end()

    def test_only_main_and_the_monitor_hold_the_hosts_private_key(
        self,
        sshoq: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        fresh_account: Account,
    ) -> None:
        server = start_server(sshoq)
        session = Session(connect(server, fresh_account), "only")
        key = load_ssh_private_key(server.host_key.read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        kinds = kinds_of(server, session)._asdict()
        holders = {
            kind for kind, one in kinds.items() if memory_holds(one.pid, key.private_bytes_raw())
        }
        assert holders == {"main", "monitor"}
        session.end()


class TestSingleUser:
    """Ours alone: a server without root serves the one who started it."""

    def test_a_user_serves_the_own_account(
        self,
        sshoq: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        account: Account,
    ) -> None:
        server = start_server(
            sshoq,
            prefix=as_user(account.name, account.uid, account.gid),
            owner=(account.uid, account.gid),
        )
        client = connect(server, account)
        assert client.output("id -un").decode() == f"{account.name}\n"
        assert client.output("cat", input=b"x" * 100_000) == b"x" * 100_000
        assert client.output("tty", flags=["-tt"]).startswith(b"/dev/pts/")
        assert {process.uid for process in server.processes()} == {account.uid}

    def test_nobody_else_gets_in(
        self,
        sshoq: Programs,
        start_server: ServerFactory,
        connect: ClientFactory,
        account: Account,
        fresh_account: Account,
    ) -> None:
        server = start_server(
            sshoq,
            prefix=as_user(account.name, account.uid, account.gid),
            owner=(account.uid, account.gid),
        )
        done = connect(server, fresh_account).run("id -un")
        assert (done.returncode, done.stdout) == (255, b"")
