"""The session leader's sockets: connected and listening as asked, refused as configured, never
waited for."""

from __future__ import annotations

import os
import select
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sshoq.auth.authorized_keys import KeyRights, parse_options
from sshoq.server import dialing, listeners, lookup
from sshoq.server.account import Account
from sshoq.server.config_reader import load
from sshoq.server.connection import ConnectionFacts
from sshoq.server.dialing import Dialer
from sshoq.server.listeners import Listeners
from sshoq.server.lookup import Lookups, Place
from sshoq.server.permits import Permits
from sshoq.server.privsep import (
    Dial,
    Dialled,
    EndForwarding,
    ForwardingRefused,
    Listen,
    ListenerOpened,
    ListenForAgent,
)
from sshoq.server.rights import LoginRights
from sshoq.server.watch import READABLE, Watch
from sshoq.wire import Message

PATIENCE = 20.0


def rights(home: Path, *settings: str, key: str = "", uid: int = 1000) -> LoginRights:
    config = load(None, list(settings)).for_connection(user="me", address="127.0.0.1")
    account = Account("me", uid, 1000, str(home), "/bin/sh", ())
    return LoginRights(
        account=account,
        connection=ConnectionFacts("127.0.0.1", 1, "127.0.0.1", 2),
        config=config,
        key=parse_options(key) if key else KeyRights(),
        authentication="publickey",
        must_change_password=False,
    )


class Desk:
    """Dialer and listeners as the leader has them, and what they answered."""

    def __init__(self, login: LoginRights) -> None:
        self.watch = Watch()
        self.answers: list[tuple[Message, list[socket.socket]]] = []
        permits = Permits(login)
        lookups = Lookups(self.watch)
        self.dialer = Dialer(self.watch, lookups, permits, self._send)
        self.listeners = Listeners(lookups, permits, login, self._send)

    def _send(self, message: Message, descriptors: Sequence[int]) -> None:
        sockets = [socket.socket(fileno=os.dup(descriptor)) for descriptor in descriptors]
        self.answers.append((message, sockets))

    def next(self) -> tuple[Message, list[socket.socket]]:
        deadline = time.monotonic() + PATIENCE
        self.watch.call_after(PATIENCE, lambda: None)
        while not self.answers:
            assert time.monotonic() < deadline
            self.watch.turn()
        return self.answers.pop(0)

    def refusal(self) -> ForwardingRefused:
        message, sockets = self.next()
        assert not sockets
        assert isinstance(message, ForwardingRefused)
        return message


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(rights(tmp_path))


@pytest.fixture
def target() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def port_of(server: socket.socket) -> int:
    port: int = server.getsockname()[1]
    return port


# --------------------------------------------------------------------------- dialling


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::ffff:127.0.0.1"])
def test_a_connection_is_made_and_handed_over(
    desk: Desk, target: socket.socket, host: str
) -> None:
    desk.dialer.dial(Dial(4, Dial.TCP, host, port_of(target)))
    message, [end] = desk.next()
    assert message == Dialled(4)
    with end, target.accept()[0] as far:
        assert not os.get_blocking(end.fileno())
        far.sendall(b"hello")
        end.setblocking(True)
        assert end.recv(5) == b"hello"
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_refused_connection_is_said_in_the_systems_words(desk: Desk) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        desk.dialer.dial(Dial(4, Dial.TCP, "127.0.0.1", port_of(closed)))
        assert desk.refusal() == ForwardingRefused(4, False, "Connection refused")


def test_a_name_nobody_knows_is_said_so(desk: Desk) -> None:
    desk.dialer.dial(Dial(4, Dial.TCP, "nowhere.invalid", 80))
    refusal = desk.refusal()
    assert not refusal.is_prohibited
    assert "resolution" in refusal.reason or "not known" in refusal.reason


def test_an_abstract_socket_is_no_path(desk: Desk) -> None:
    name = f"\0sshoq-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        desk.dialer.dial(Dial(4, Dial.UNIX, name, 0))
        assert desk.refusal().is_prohibited


def test_a_port_beyond_all_ports_is_not_taken_for_another(
    desk: Desk, target: socket.socket
) -> None:
    desk.dialer.dial(Dial(4, Dial.TCP, "127.0.0.1", 65536 + port_of(target)))
    assert desk.refusal().is_prohibited
    desk.listeners.listen(Listen(8, Dial.TCP, "127.0.0.1", 65536 + 80))
    assert desk.refusal().is_prohibited


@pytest.mark.parametrize("name", ["", "a b", "\udcff", "x" * 5000, "\0"])
def test_names_that_are_none_are_refused(desk: Desk, name: str) -> None:
    desk.dialer.dial(Dial(4, Dial.TCP, name, 80))
    message, sockets = desk.next()
    for end in sockets:  # an empty name means this machine to the resolver
        end.close()
    assert isinstance(message, ForwardingRefused)


def test_the_next_address_is_tried(
    desk: Desk, target: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = port_of(target)
    places = [
        Place(socket.AF_INET, ("127.0.0.9", port)),  # nobody listens there
        Place(socket.AF_INET, ("127.0.0.1", port)),
    ]
    monkeypatch.setattr(lookup, "literal_places", lambda host, port: list(places))
    desk.dialer.dial(Dial(4, Dial.TCP, "two", port))
    message, [end] = desk.next()
    with end:
        assert message == Dialled(4)


def test_unix_sockets_and_udp(desk: Desk, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        desk.dialer.dial(Dial(4, Dial.UNIX, path, 0))
        message, [end] = desk.next()
        end.close()
        assert message == Dialled(4)
    desk.dialer.dial(Dial(8, Dial.UNIX, str(tmp_path / "none"), 0))
    assert desk.refusal() == ForwardingRefused(8, False, "No such file or directory")
    desk.dialer.dial(Dial(8, Dial.UNIX, "x" * 200, 0))
    assert not desk.refusal().is_prohibited
    desk.dialer.dial(Dial(12, Dial.UDP, "127.0.0.1", 9))
    message, [end] = desk.next()
    with end:
        assert (message, end.type) == (Dialled(12), socket.SOCK_DGRAM)
        assert end.getpeername() == ("127.0.0.1", 9)


def never_answering() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose queue is full, so that a further connection stays under way."""
    server = socket.create_server(("127.0.0.1", 0), backlog=0)
    callers = []
    for _ in range(4):
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(server.getsockname())
        callers.append(caller)
    return server, callers


def test_a_connection_that_does_not_come_about_holds_up_nobody(
    desk: Desk, target: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "PATIENCE", 0.2)
    server, callers = never_answering()
    try:
        desk.dialer.dial(Dial(4, Dial.TCP, "127.0.0.1", port_of(server)))
        desk.dialer.dial(Dial(8, Dial.TCP, "127.0.0.1", port_of(target)))
        message, [end] = desk.next()
        end.close()
        assert message == Dialled(8)
        assert desk.refusal() == ForwardingRefused(4, False, "Connection timed out")
    finally:
        for one in (server, *callers):
            one.close()


def test_what_is_given_up_is_forgotten(desk: Desk) -> None:
    server, callers = never_answering()
    try:
        before = len(os.listdir("/proc/self/fd"))
        desk.dialer.dial(Dial(4, Dial.TCP, "127.0.0.1", port_of(server)))
        assert len(os.listdir("/proc/self/fd")) == before + 1
        desk.dialer.cancel(EndForwarding(4))
        assert len(os.listdir("/proc/self/fd")) == before
        assert not desk.answers
    finally:
        for one in (server, *callers):
            one.close()


def test_only_so_many_are_under_way(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "MAX_DIALS", 1)
    server, callers = never_answering()
    try:
        desk.dialer.dial(Dial(4, Dial.TCP, "127.0.0.1", port_of(server)))
        desk.dialer.dial(Dial(8, Dial.TCP, "127.0.0.1", 9))
        assert not desk.refusal().is_prohibited
        desk.dialer.cancel(EndForwarding(4))
    finally:
        for one in (server, *callers):
            one.close()


def test_more_names_than_children_are_looked_up_in_turn(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "MAX_CHILDREN", 1)
    for number in range(3):
        desk.dialer.dial(Dial(number, Dial.TCP, f"nowhere{number}.invalid", 80))
    assert {desk.refusal().channel for _ in range(3)} == {0, 1, 2}


def test_a_name_that_nobody_waits_for_any_more_is_not_looked_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may ask for one after another, and give up each at once."""
    asked: list[str] = []
    start_child = lookup._start_child

    def note(host: str) -> int:
        asked.append(host)
        return start_child(host)

    monkeypatch.setattr(lookup, "_start_child", note)
    monkeypatch.setattr(lookup, "MAX_CHILDREN", 0)
    for number in range(100):
        desk.dialer.dial(Dial(number, Dial.TCP, f"nowhere{number}.invalid", 80))
        desk.dialer.cancel(EndForwarding(number))
    monkeypatch.setattr(lookup, "MAX_CHILDREN", 1)
    desk.dialer.dial(Dial(4, Dial.TCP, "nowhere.invalid", 80))
    assert desk.refusal().channel == 4
    assert asked == ["nowhere.invalid"]


# --------------------------------------------------------------------------- listening


def test_a_port_is_listened_on_and_told(desk: Desk) -> None:
    desk.listeners.listen(Listen(4, Dial.TCP, "localhost", 0))
    message, sockets = desk.next()
    assert isinstance(message, ListenerOpened)
    assert message.channel == 4
    names = [listener.getsockname() for listener in sockets]
    for listener in sockets:
        listener.close()
    assert ("127.0.0.1", message.port) in names
    assert {name[1] for name in names} == {message.port}


def test_a_busy_port_is_said_so(desk: Desk, target: socket.socket) -> None:
    desk.listeners.listen(Listen(4, Dial.TCP, "127.0.0.1", port_of(target)))
    assert desk.refusal() == ForwardingRefused(4, False, "Address already in use")


def test_a_name_to_listen_on_is_looked_up(tmp_path: Path) -> None:
    desk = Desk(rights(tmp_path, "GatewayPorts clientspecified"))
    desk.listeners.listen(Listen(4, Dial.TCP, "localhost.localdomain.invalid", 0))
    assert not desk.refusal().is_prohibited
    desk.listeners.listen(Listen(4, Dial.TCP, "127.0.0.2", 0))
    _, [listener] = desk.next()
    with listener:
        assert listener.getsockname()[0] == "127.0.0.2"


def test_unix_listeners_leave_nothing(desk: Desk, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one", "two")]
    for number, path in enumerate(paths):
        desk.listeners.listen(Listen(number, Dial.UNIX, str(path), 0))
        message, [listener] = desk.next()
        listener.close()
        assert message == ListenerOpened(number, 0)
        assert path.stat().st_mode & 0o777 == 0o600
    desk.listeners.end(EndForwarding(0))
    assert [path.exists() for path in paths] == [False, True]
    desk.listeners.remove_all()
    assert not paths[1].exists()


@pytest.mark.parametrize("path", ["/nonexistent/s", "x" * 200, "a\0b"])
def test_a_path_that_cannot_be_had_is_refused(desk: Desk, path: str) -> None:
    desk.listeners.listen(Listen(4, Dial.UNIX, path, 0))
    assert not desk.refusal().is_prohibited


def test_listeners_are_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sshoq.server.listeners.MAX_LISTENERS", 1)
    for _ in range(2):  # the place is free again after the end
        desk.listeners.listen(Listen(4, Dial.TCP, "127.0.0.1", 0))
        _, [listener] = desk.next()
        listener.close()
        desk.listeners.listen(Listen(8, Dial.TCP, "127.0.0.1", 0))
        assert not desk.refusal().is_prohibited
        desk.listeners.end(EndForwarding(4))


# --------------------------------------------------------------------------- the agent


def own(home: Path, *settings: str) -> LoginRights:
    return rights(home, *settings, uid=os.getuid())


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A home that leaves room for a socket's name: pytest's own directories are long."""
    with tempfile.TemporaryDirectory(prefix="home") as name:
        yield Path(name)


def test_the_agent_socket_is_the_users_alone(short_home: Path) -> None:
    desk = Desk(own(short_home))
    desk.listeners.listen_for_agent(ListenForAgent(4))
    message, [listener] = desk.next()
    listener.close()
    assert message == ListenerOpened(4, 0)
    path = agent_path(desk)
    assert path.parent == short_home / ".ssh/agent"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    desk.listeners.listen_for_agent(ListenForAgent(8))
    assert desk.next() == (ListenerOpened(8, 0), [])
    assert desk.listeners.agent_path == str(path)
    desk.listeners.remove_all()
    assert not path.exists()


def agent_path(desk: Desk) -> Path:
    path = desk.listeners.agent_path
    assert path is not None
    return Path(path)


@pytest.mark.parametrize("spoil", ["mode", "link", "file", "long"])
def test_a_home_that_others_have_a_hand_in_is_not_used(tmp_path: Path, spoil: str) -> None:
    home = tmp_path / ("x" * 100 if spoil == "long" else "home")
    (home / ".ssh").mkdir(parents=True)
    place = home / ".ssh/agent"
    if spoil == "mode":
        place.mkdir()
        place.chmod(0o777)
    elif spoil == "link":
        place.symlink_to(tmp_path)
    elif spoil == "file":
        place.touch()
    desk = Desk(own(home))
    desk.listeners.listen_for_agent(ListenForAgent(4))
    _, [listener] = desk.next()
    listener.close()
    path = agent_path(desk)
    assert path.parent.parent == Path("/tmp")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    desk.listeners.remove_all()
    assert not path.parent.exists()


def left_behind(path: Path, age: float = 3600.0) -> Path:
    """A socket that nobody listens on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("table", ["/proc/net/unix", "/nonexistent/table"])
def test_sockets_of_killed_leaders_go_with_the_next_login(
    short_home: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in use stay, those of other programs and machines, and what might be begun just now."""
    monkeypatch.setattr(listeners, "SOCKET_TABLE", table)
    first = Desk(own(short_home))
    first.listeners.listen_for_agent(ListenForAgent(4))
    _, [living] = first.next()
    path = agent_path(first)
    os.utime(path, (1.0, 1.0))
    mark, place = path.name.rpartition(".")[2], path.parent
    dead = left_behind(place / f"s.{'0' * 10}.sshoq.{mark}")
    kept = [
        path,
        left_behind(place / f"s.{'1' * 10}.sshoq.{mark}", age=0.0),
        left_behind(place / f"s.{'2' * 10}.sshoq.{'0' * 10}"),
        left_behind(place / f"s.{'3' * 10}.sshd.{mark}"),
    ]
    file = place / f"s.{'4' * 10}.sshoq.{mark}"
    file.touch()
    os.utime(file, (1.0, 1.0))
    second = Desk(own(short_home))
    second.listeners.listen_for_agent(ListenForAgent(4))
    _, [other] = second.next()
    assert not dead.exists()
    assert all(one.exists() for one in (*kept, file, agent_path(second)))
    living.close()
    other.close()


# --------------------------------------------------------------------------- permits

YES = "AllowTcpForwarding yes"


@pytest.mark.parametrize(
    ("setting", "key", "tcp", "unix", "listen", "listen_unix", "agent"),
    [
        (YES, "", 1, 1, 1, 1, 1),
        ("AllowTcpForwarding no", "", 0, 1, 0, 1, 1),
        ("AllowTcpForwarding local", "", 1, 1, 0, 1, 1),
        ("AllowTcpForwarding remote", "", 0, 1, 1, 1, 1),
        ("AllowStreamLocalForwarding no", "", 1, 0, 1, 0, 1),
        ("AllowStreamLocalForwarding local", "", 1, 1, 1, 0, 1),
        ("AllowStreamLocalForwarding remote", "", 1, 0, 1, 1, 1),
        ("DisableForwarding yes", "", 0, 0, 0, 0, 0),
        ("AllowAgentForwarding no", "", 1, 1, 1, 1, 0),
        ("PermitOpen h:80", "", 1, 1, 1, 1, 1),
        ("PermitOpen h:81", "", 0, 1, 1, 1, 1),
        ("PermitListen localhost:8080", "", 1, 1, 1, 1, 1),
        ("PermitListen 8081", "", 1, 1, 0, 1, 1),
        (YES, "restrict", 0, 0, 0, 0, 0),
        (YES, "no-port-forwarding", 0, 0, 0, 0, 1),
        (YES, "no-agent-forwarding", 1, 1, 1, 1, 0),
        (YES, 'permitopen="h:80"', 1, 1, 1, 1, 1),
        (YES, 'permitopen="h:81"', 0, 1, 1, 1, 1),
        ("PermitOpen h:81", 'permitopen="h:80"', 0, 1, 1, 1, 1),
        ("PermitOpen h:80", 'permitopen="h:81"', 0, 1, 1, 1, 1),
        (YES, 'permitlisten="8080"', 1, 1, 1, 1, 1),
        (YES, 'permitlisten="8081"', 1, 1, 0, 1, 1),
    ],
)
def test_configuration_and_key_must_both_permit(
    tmp_path: Path, setting: str, key: str, tcp: int, unix: int, listen: int, listen_unix: int,
    agent: int,
) -> None:  # fmt: skip
    permits = Permits(rights(tmp_path, setting, key=key))
    assert permits.may_dial(Dial.TCP, "h", 80) == bool(tcp)
    assert permits.may_dial(Dial.UDP, "h", 80) == bool(tcp)
    assert permits.may_dial(Dial.UNIX, "/s", 0) == bool(unix)
    assert permits.may_listen(Dial.TCP, "localhost", 8080) == bool(listen)
    assert permits.may_listen(Dial.UNIX, "/s", 0) == bool(listen_unix)
    assert permits.agent == bool(agent)


def test_a_password_that_must_be_changed_forbids_everything(tmp_path: Path) -> None:
    permits = Permits(rights(tmp_path)._replace(must_change_password=True))
    assert not permits.may_dial(Dial.TCP, "h", 80)
    assert not permits.may_listen(Dial.UNIX, "/s", 0)
    assert not permits.agent


def test_low_ports_are_roots(tmp_path: Path) -> None:
    assert not Permits(rights(tmp_path)).may_listen(Dial.TCP, "localhost", 80)
    assert Permits(rights(tmp_path, uid=0)).may_listen(Dial.TCP, "localhost", 80)
    assert Permits(rights(tmp_path)).may_listen(Dial.TCP, "localhost", 0)


@pytest.mark.parametrize(
    ("gateway", "host", "addresses"),
    [
        ("no", "", ("::1", "127.0.0.1")),
        ("no", "192.0.2.1", ("::1", "127.0.0.1")),
        ("no", "127.0.0.1", ("127.0.0.1",)),
        ("no", "239.1.2.3", ("::1", "127.0.0.1")),
        ("yes", "localhost", ("0.0.0.0", "::")),
        ("yes", "239.1.2.3", ("239.1.2.3",)),
        ("clientspecified", "ff15::1", ("ff15::1",)),
        ("clientspecified", "", ("0.0.0.0", "::")),
        ("clientspecified", "localhost", ("::1", "127.0.0.1")),
        ("clientspecified", "192.0.2.1", ("192.0.2.1",)),
    ],
)
def test_gateway_ports(tmp_path: Path, gateway: str, host: str, addresses: object) -> None:
    permits = Permits(rights(tmp_path, f"GatewayPorts {gateway}"))
    assert permits.listen_addresses(host) == addresses


@pytest.mark.parametrize(
    "ask",
    [
        lambda desk: desk.dialer.dial(Dial(4, Dial.TCP, "127.0.0.1", 9)),
        lambda desk: desk.dialer.dial(Dial(4, 7, "127.0.0.1", 9)),
        lambda desk: desk.listeners.listen(Listen(4, Dial.UNIX, "/tmp/never", 0)),
        lambda desk: desk.listeners.listen_for_agent(ListenForAgent(4)),
    ],
)
def test_what_is_not_permitted_is_refused_in_sshds_words(
    tmp_path: Path, ask: Callable[[Desk], None]
) -> None:
    desk = Desk(rights(tmp_path, "DisableForwarding yes"))
    ask(desk)
    assert desk.refusal() == ForwardingRefused(4, True, "open failed")


# --------------------------------------------------------------------------- the watch


def test_deadlines_come_in_order_and_can_be_cancelled() -> None:
    watch, seen = Watch(), list[str]()
    watch.call_after(0.02, lambda: seen.append("second"))
    watch.call_after(0.0, lambda: seen.append("first"))
    watch.call_after(0.01, lambda: seen.append("never")).cancel()
    while len(seen) < 2:
        watch.turn()
    assert seen == ["first", "second"]


def test_a_descriptor_is_watched_until_it_is_removed() -> None:
    watch, seen = Watch(), list[bytes]()
    reader, writer = os.pipe()
    watch.add(reader, READABLE, lambda: seen.append(os.read(reader, 9)))
    os.write(writer, b"x")
    watch.turn()
    assert seen == [b"x"]
    watch.remove(reader)
    os.write(writer, b"y")
    watch.call_after(0.0, lambda: None)
    watch.turn()
    assert seen == [b"x"]
    assert select.select([reader], [], [], 0)[0]
    os.close(reader)
    os.close(writer)
