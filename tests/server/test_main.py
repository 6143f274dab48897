"""Process main: started as a program, with a router and monitors that do what the test says."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sshoq.server import log
from sshoq.server.control_poll import ControlPoll
from sshoq.server.identity import Identity
from sshoq.server.main import Server
from sshoq.server.routers import Routers
from tests.needs import need_root

FAKE = str(Path(__file__).with_name("fake_server.py"))
ROOT = str(Path(__file__).parents[2])
WAIT = 20.0


class FakeServer:
    """A running main, its log, and clients that talk to its monitors."""

    def __init__(
        self,
        directory: Path,
        lines: tuple[str, ...],
        arguments: tuple[str, ...],
        host: str,
        port: int,
    ) -> None:
        self.directory = directory
        self.host = host
        self.port = port
        self.config = directory / "config"
        self.pid_file = directory / "pid"
        self.write_config(*lines)
        self.log = directory / "log"
        self.log.write_text("")
        self.process = subprocess.Popen(
            [sys.executable, FAKE, "-D", "-E", str(self.log), "-f", str(self.config), *arguments],
            cwd=directory,
            env=os.environ | {"PYTHONPATH": ROOT},
            stderr=subprocess.PIPE,
        )
        self.clients: list[Client] = []

    def write_config(self, *lines: str) -> None:
        key = self.directory / "key"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(key)], check=True)
        text = [
            f"ListenAddress {self.host}:{self.port}",
            f"HostKey {key}",
            f"PidFile {self.pid_file}",
            "LogLevel VERBOSE",
        ]
        if not any(line.startswith("PerSourcePenalties") for line in lines):
            text.append("PerSourcePenalties no")
        self.config.write_text("\n".join([*lines, *text]) + "\n")

    def wait_for_log(self, text: str, count: int = 1) -> None:
        """Until the log has the text; it is read as it grows."""
        watch = select.poll()
        for _ in range(int(WAIT / 0.02)):
            if self.log.read_text().count(text) >= count:
                return
            assert self.process.poll() is None, self.complaint()
            watch.poll(20)
        raise AssertionError(f"{text!r} not in the log:\n{self.log.read_text()}")

    def complaint(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def client(self) -> "Client":
        """A peer of its own port, which has sent its first datagram."""
        client = Client(self.port)
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.leave()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(WAIT)
        assert self.process.stderr is not None
        self.process.stderr.close()


class Client:
    def __init__(self, port: int) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.settimeout(WAIT)
        self.udp.connect(("127.0.0.1", port))
        self.connected = False

    def ask(self, text: str) -> str:
        self.udp.send(text.encode())
        answer = self.udp.recv(4096).decode()
        self.connected = self.connected or answer.startswith("router ")
        return answer

    def connect(self) -> "Client":
        """Be admitted."""
        assert self.ask("hello").startswith("router ")
        return self

    def leave(self) -> None:
        """Monitors outlive main, so each is told to end."""
        if self.connected:
            with contextlib.suppress(OSError):
                self.udp.send(b"exit 0")
        self.udp.close()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    running: list[FakeServer] = []
    yield running
    for server in running:
        server.close()


@pytest.fixture
def server(place: Path, servers: list[FakeServer]) -> FakeServer:
    return start(place, servers)


def start(
    place: Path,
    servers: list[FakeServer],
    *lines: str,
    arguments: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    port: int = 0,
) -> FakeServer:
    server = FakeServer(place, lines, arguments, host, port or free_port())
    servers.append(server)
    server.wait_for_log("Server listening on")
    return server


def test_it_says_where_it_listens_and_writes_its_pid(server: FakeServer) -> None:
    assert f"Server listening on 127.0.0.1 port {server.port}." in server.log.read_text()
    server.client().connect()
    assert server.pid_file.read_text() == f"{server.process.pid}\n"


def test_it_says_that_nobody_wrote_rules_for_pam(place: Path, servers: list[FakeServer]) -> None:
    need_root()
    start(place, servers, "UsePAM yes", "PAMServiceName nobody-wrote-it").wait_for_log(
        'PAM service "nobody-wrote-it" has no file in /etc/pam.d: the rules of "other" hold'
    )


def test_a_newcomer_gets_a_monitor_that_knows_both_addresses(server: FakeServer) -> None:
    client = server.client().connect()
    mine = client.udp.getsockname()
    assert client.ask("facts") == repr((mine[0], mine[1], "127.0.0.1", server.port, None))
    assert len(client.ask("signature")) == 128


def test_a_monitor_has_no_descriptors_of_main_and_of_other_monitors(server: FakeServer) -> None:
    first = server.client().connect().ask("descriptors")
    others = [server.client().connect() for _ in range(5)]
    assert {client.ask("descriptors") for client in others} == {first}


def test_each_connection_has_a_monitor_of_its_own(server: FakeServer) -> None:
    clients = [server.client().connect() for _ in range(4)]
    assert len({client.ask("pid") for client in clients}) == 4


def test_connections_that_have_logged_in_do_not_count(
    place: Path, servers: list[FakeServer]
) -> None:
    server = start(place, servers, "MaxStartups 2:100:2")
    first, _second = server.client().connect(), server.client().connect()
    assert server.client().ask("hello") == "refused: past MaxStartups"
    first.ask("login")
    server.client().connect()
    assert server.client().ask("hello") == "refused: past MaxStartups"


def test_connections_that_ended_do_not_count(place: Path, servers: list[FakeServer]) -> None:
    server = start(place, servers, "MaxStartups 1:100:1")
    first = server.client().connect()
    pid = int(first.ask("pid"))
    ended = os.pidfd_open(pid)
    first.udp.send(b"exit 0")
    assert select.select([ended], [], [], WAIT)[0]
    os.close(ended)
    connect_when_free(server)


def connect_when_free(server: FakeServer) -> None:
    """To the one place there is. Main gives it away again when a signal is served."""
    for _ in range(100):
        answer = server.client().ask("hello")
        if answer.startswith("router "):
            return
        assert answer == "refused: past MaxStartups"
    raise AssertionError("the slot was never free again")


def test_a_connection_that_cannot_be_handed_over_gives_its_place_back_once(
    place: Path, servers: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAILURES", "1")
    server = start(place, servers, "MaxStartups 1:100:1")
    assert server.client().ask("hello") == "refused: No buffer space available"
    connect_when_free(server)
    assert server.client().ask("hello") == "refused: past MaxStartups"


def test_a_router_that_cannot_be_answered_is_replaced(
    place: Path, servers: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAILURES", "2")
    server = start(place, servers)
    server.client().udp.send(b"hello")
    server.wait_for_log("starting another")
    server.client().connect()


def test_a_source_is_shut_out_for_what_its_connections_did(
    place: Path, servers: list[FakeServer]
) -> None:
    server = start(place, servers, "PerSourcePenalties authfail:20s")
    client = server.client().connect()
    client.ask("penalty authfail")
    client.ask("login")  # main has read the first when it has read the second
    assert server.client().ask("hello") == "refused: penalty: authfail"
    server.wait_for_log("drop connection #0 from [127.0.0.1]:")
    assert f" on [127.0.0.1]:{server.port} penalty: authfail\n" in server.log.read_text()
    assert client.ask("still") == "still"


@pytest.mark.parametrize(
    ("number", "penalty"), [(signal.SIGKILL, "crash"), (signal.SIGALRM, "grace-exceeded")]
)
def test_a_monitor_that_crashes_or_is_stuck_costs_its_peer_a_penalty(
    place: Path, servers: list[FakeServer], number: int, penalty: str
) -> None:
    server = start(place, servers, "PerSourcePenalties crash:90 grace-exceeded:90")
    client = server.client().connect()
    client.udp.send(b"crash %d" % number)
    server.wait_for_log(f"was killed by signal {number}")
    assert server.client().ask("hello") == f"refused: penalty: {penalty}"


@pytest.mark.parametrize(
    ("word", "answer"), [("validated", "refused: penalty: crash"), ("spoofed", "router")]
)
def test_a_network_process_that_crashes_costs_its_peer_a_penalty_if_it_was_its_peer(
    place: Path, servers: list[FakeServer], word: str, answer: str
) -> None:
    server = start(place, servers, "PerSourcePenalties crash:90")
    server.client().udp.send(f"died 127.0.0.1 31 {word}".encode())
    server.wait_for_log("network process for [127.0.0.1]:9 was killed by signal 31")
    assert server.client().ask("hello").startswith(answer)


def test_what_a_router_says_of_a_crash_and_of_its_room_is_only_written_down(
    server: FakeServer,
) -> None:
    router = server.client().ask("hello")
    server.client().udp.send(b"died pigeon\x1b 11 validated")
    server.wait_for_log("network process for [pigeon\\033]:9 was killed by signal 11")
    server.client().udp.send(b"full 4064")
    server.wait_for_log("no room for more than 4064 connections at 127.0.0.1 port")
    assert server.client().ask("hello") == router


def test_a_router_that_complains_without_end_does_not_fill_the_log(server: FakeServer) -> None:
    server.client().udp.send(b"full 4064 1000")
    assert server.client().ask("hello").startswith("router ")  # main has read all of it by then
    assert 0 < server.log.read_text().count("no room for more than") < 500


@pytest.mark.parametrize("claim", ["127.0.0.1 0", "0.0.0.0 9", "224.0.0.1 9", "::1 9", "pigeon 9"])
def test_a_source_that_cannot_be_answered_is_refused_and_the_router_serves_on(
    server: FakeServer, claim: str
) -> None:
    router = server.client().ask("hello")
    refusal = server.client().ask(f"claim {claim}")
    assert refusal.startswith("refused: ")
    assert server.client().ask("hello") == router


@pytest.mark.parametrize("sin", [b"junk", b"die"])
def test_a_router_that_breaks_the_rules_is_replaced_and_connections_stay(
    server: FakeServer, sin: bytes
) -> None:
    old = server.client()
    router = old.ask("hello")
    pid = int(old.ask("pid"))
    old.leave()
    server.client().udp.send(sin)
    server.wait_for_log("starting another")
    new = server.client()
    assert new.ask("hello") not in (router, "")
    assert pid != int(new.ask("pid"))


def test_hangup_reads_the_configuration_for_new_connections(server: FakeServer) -> None:
    old = server.client().connect()
    server.write_config("Banner /etc/issue.net")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log("Received SIGHUP")
    new = server.client().connect()
    assert new.ask("banner") == "/etc/issue.net"
    assert old.ask("banner") == "None"


def test_a_bad_configuration_at_hangup_changes_nothing(server: FakeServer) -> None:
    server.write_config("Nonsense 1")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log("the configuration is kept as it was")
    assert "Bad configuration option: Nonsense" in server.log.read_text()
    server.client().connect()


def test_hangup_opens_the_log_anew(server: FakeServer) -> None:
    server.client().connect()
    server.log.rename(server.directory / "log.1")
    server.log.write_text("")
    server.write_config()
    server.process.send_signal(signal.SIGHUP)
    for _ in range(3):
        server.client().connect()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(WAIT) == 0
    assert server.log.read_text().splitlines() == ["Received signal 15; terminating."]


def test_a_log_that_cannot_be_opened_stops_the_start(
    place: Path, servers: list[FakeServer]
) -> None:
    server = FakeServer(place, (), ("-E", str(place / "no" / "log")), "127.0.0.1", free_port())
    servers.append(server)
    assert server.process.wait(WAIT) == 1
    assert (
        server.complaint() == f"Couldn't open logfile {place}/no/log: No such file or directory\n"
    )
    server.close()


def test_hangup_may_change_the_address(server: FakeServer) -> None:
    old = server.client().connect()
    server.port = free_port()
    server.write_config()
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log(f"Server listening on 127.0.0.1 port {server.port}.")
    server.client().connect()
    assert old.ask("pid") != ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_main_but_not_its_connections(server: FakeServer, number: int) -> None:
    client = server.client().connect()
    pid = client.ask("pid")
    server.process.send_signal(number)
    assert server.process.wait(WAIT) == 0
    assert not server.pid_file.exists()
    assert f"Received signal {int(number)}; terminating." in server.log.read_text()
    assert client.ask("main-is-there") == "main is gone"
    assert client.ask("pid") == pid


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_new_server_serves_newcomers_beside_the_connections_of_the_old(
    place: Path, servers: list[FakeServer], number: int, host: str
) -> None:
    first = start(place, servers, host=host)
    survivors = [first.client().connect() for _ in range(5)]
    pids = [client.ask("pid") for client in survivors]
    first.process.send_signal(number)
    first.process.wait(WAIT)
    second = start(place, servers, port=first.port, host=host)
    newcomers = [second.client().connect() for _ in range(5)]
    assert [client.ask("pid") for client in survivors] == pids
    survivors.pop(0).leave()
    newcomers += [second.client().connect() for _ in range(5)]
    assert len({client.ask("pid") for client in newcomers}) == 10


def test_a_second_server_at_the_same_address_is_refused(
    place: Path, servers: list[FakeServer]
) -> None:
    server = start(place, servers)
    done = subprocess.run(
        [sys.executable, FAKE, "-D", "-e", "-f", str(server.config)],
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 255
    assert done.stderr.splitlines() == [
        f"Bind to port {server.port} on 127.0.0.1 failed: Address already in use.",
        "Cannot bind any address.",
    ]


def test_debug_mode_serves_one_connection_and_ends(place: Path, servers: list[FakeServer]) -> None:
    server = start(place, servers, arguments=("-d",))
    client = server.client().connect()
    assert server.client().ask("hello") == "refused: in debug mode one connection is served"
    client.udp.send(b"exit 7")
    assert server.process.wait(WAIT) == 7


def test_the_daemon_leaves_the_terminal(place: Path) -> None:
    port = free_port()
    key = place / "key"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(key)], check=True)
    config = place / "config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {key}\nPidFile {place}/pid\nLogLevel QUIET\n"
    )
    done = subprocess.run(
        [sys.executable, FAKE, "-f", "config", "-E", "log"],
        cwd=place,
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    client = Client(port).connect()
    pid = int((place / "pid").read_text())
    client.leave()
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGTERM)
    assert select.select([ended], [], [], WAIT)[0]
    os.close(ended)


def test_systemd_is_told_when_the_routers_are_ready(
    place: Path, servers: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.settimeout(WAIT)
        notify.bind(str(place / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(place / "notify"))
        server = start(place, servers)
        assert notify.recv(99) == f"READY=1\nMAINPID={server.process.pid}".encode()
        server.process.terminate()
        assert notify.recv(99) == b"STOPPING=1"


def test_closed_standard_descriptors_are_opened_before_anything_else(tmp_path: Path) -> None:
    code = f"""\
import os
os.closerange(0, 3)
from sshoq.server.daemon import fill_standard_descriptors
fill_standard_descriptors()
found = [(os.readlink(f"/proc/self/fd/{{fd}}"), os.get_inheritable(fd)) for fd in range(3)]
free = os.dup(0)
open({str(tmp_path / "found")!r}, "w").write(repr((found, free)))
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    assert (tmp_path / "found").read_text() == repr(([("/dev/null", True)] * 3, 3))


def test_a_machine_without_a_system_call_filter_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    server = Server.__new__(Server)
    server._routers = Routers(ControlPoll(), server._hear_router, "")
    server._identity = Identity(())
    log.to_stderr(log.INFO)
    server._announce_addresses()
    assert "no system call filter is known for pdp11" in capfd.readouterr().err
