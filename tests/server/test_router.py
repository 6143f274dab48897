"""The router between datagrams, main, and processes that it cannot start. What it does when all
goes well is shown by the real server in tests/scenarios.
"""

import errno
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from sshoq.server.arrival import Arrival, read_arrivals
from sshoq.server.listener import open_listener
from sshoq.server.privsep import (
    MAIN_TO_ROUTER,
    NETWORK_TO_ROUTER,
    ROUTER_TO_MAIN,
    ROUTER_TO_NETWORK,
    Admit,
    Admitted,
    NameGranted,
    NameRetired,
    NetworkProcessDied,
    Newcomer,
    RouterFull,
    Superseded,
)
from sshoq.server.privsep_socket import PrivsepSocket, make_pair
from sshoq.server.router import NAMES_PER_CONNECTION, NetworkProcess, Router
from sshoq.transport.engine import Engine
from sshoq.transport.packets import MIN_INITIAL_DATAGRAM, parse_packet, reset_token
from tests.needs import need_root

HOST = "127.0.0.1"
PEER = (HOST, 4433)
WAIT = 20.0

Where = tuple[str, int]


class Stage(NamedTuple):
    router: Router
    main: PrivsepSocket
    listener: socket.socket


@pytest.fixture
def stage() -> Iterator[Stage]:
    ours, theirs = make_pair()
    with ours, theirs, open_listener(socket.AF_INET, (HOST, 0)) as listener:
        children, _ = ends = socket.socketpair()
        with ends[0], ends[1]:
            children.setblocking(False)
            to_main = PrivsepSocket(theirs, ROUTER_TO_MAIN, MAIN_TO_ROUTER)
            router = Router(listener, to_main, 1, children.fileno())
            yield Stage(router, PrivsepSocket(ours, MAIN_TO_ROUTER, ROUTER_TO_MAIN), listener)


def flight_of(engine: Engine) -> list[bytes]:
    return [one for _, flight in engine.outgoing(0.0) for one in flight]


def first_flight(sender: Where = PEER) -> list[Arrival]:
    engine = Engine.client((HOST, 443), "localhost", now=0.0)
    return [Arrival(one, sender, HOST) for one in flight_of(engine)]


def peer() -> socket.socket:
    """A client's socket."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((HOST, 0))
    udp.settimeout(WAIT)
    return udp


def test_a_process_that_cannot_be_started_costs_one_newcomer_and_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", no_room)
    for _ in range(2):
        network, monitor = make_pair()
        with monitor:
            with network:
                stage.main.send(Admitted(), [network.fileno(), network.fileno()])
            stage.router._welcome(first_flight())
            assert isinstance(stage.main.receive()[0], Admit)
            assert monitor.recv(1) == b""  # the monitor sees that nobody is there


def test_newcomers_are_turned_away_when_descriptors_run_out_and_main_hears_of_it_once(
    stage: Stage,
) -> None:
    stage.router._most = 0
    with peer() as client:
        for _ in range(3):
            stage.router._welcome(first_flight(client.getsockname()))
        assert parse_packet(client.recv(2048)) is not None  # Not allowed at this time
    assert isinstance(stage.main.receive()[0], RouterFull)
    assert not stage.main.wait(0.0)


# --------------------------------------------------------------------------- who has it already


def join(stage: Stage, client: Where, pid: int = 0) -> tuple[NetworkProcess, PrivsepSocket]:
    """A connection that is there already, and its process' end of the socket."""
    own, theirs = make_pair()
    own.setblocking(False)
    control = PrivsepSocket(own, ROUTER_TO_NETWORK, NETWORK_TO_ROUTER)
    process = NetworkProcess(control, pid, Arrival(b"", client, HOST))
    stage.router._processes[own.fileno()] = stage.router._by_pid[pid] = process
    stage.router._poll.register(own)
    stage.router._half_open += 1
    return process, PrivsepSocket(theirs, NETWORK_TO_ROUTER, ROUTER_TO_NETWORK)


def test_who_has_the_address_of_another_must_show_it_and_takes_its_place(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Router, "_start_process", lambda *_: None)
    with peer() as client:
        where = client.getsockname()
        process, end = join(stage, where)
        engine = Engine.client((HOST, 443), "localhost", now=0.0)
        end.send(Newcomer(flight_of(engine)[0]))
        stage.router._serve_process(process)
        engine.receive([client.recv(2048)], (HOST, 443), 0.0)  # the Retry
        assert not stage.main.wait(0.0)
        assert not end.wait(0.0)
        network, monitor = make_pair()
        with network, monitor:
            stage.main.send(Admitted(), [network.fileno(), monitor.fileno()])
            end.send(Newcomer(flight_of(engine)[0]))
            stage.router._serve_process(process)
        assert isinstance(end.receive()[0], Superseded)
        asked, _ = stage.main.receive()
        assert isinstance(asked, Admit)
        assert (asked.peer_address, asked.peer_port) == where
    stage.router._forget(process)
    end.close()


def test_what_is_no_first_packet_moves_nobody(stage: Stage) -> None:
    with peer() as client:
        process, end = join(stage, client.getsockname())
        for payload in (b"", b"x" * 1300, flight_of(Engine.client(PEER, "h", now=0.0))[0][:900]):
            end.send(Newcomer(payload))
            stage.router._serve_process(process)
    assert not end.wait(0.0)
    assert not stage.main.wait(0.0)
    stage.router._forget(process)
    end.close()


# --------------------------------------------------------------------------- names


def test_a_name_that_is_retired_is_replaced_and_others_are_nobody_s_business(stage: Stage) -> None:
    process, end = join(stage, PEER)
    other, other_end = join(stage, PEER, 1)
    stage.router._add_route(process, b"mine")
    stage.router._add_route(other, b"theirs")
    for name in (b"theirs", b"nobody's", b"mine"):
        end.send(NameRetired(name))
        stage.router._serve_process(process)
    granted, _ = end.receive()
    assert isinstance(granted, NameGranted)
    assert not end.wait(0.0)
    assert stage.router._routes == {b"theirs": other, granted.connection_id: process}
    key = stage.router._reset_secret.key
    assert granted.reset_token == reset_token(key, granted.connection_id)
    for one, its_end in ((process, end), (other, other_end)):
        stage.router._forget(one)
        its_end.close()
    assert not stage.router._routes


def test_who_does_not_read_gets_no_more_names(stage: Stage) -> None:
    process, end = join(stage, PEER)
    names = [b"name %d" % number for number in range(1000)]
    for name in names:
        stage.router._add_route(process, name)
    for name in names:
        end.send(NameRetired(name))
        stage.router._serve_process(process)
    assert process.control.fileno() >= 0
    assert len(process.routes) < len(names)
    stage.router._forget(process)
    end.close()


# --------------------------------------------------------------------------- processes that fail


@pytest.mark.parametrize(
    ("end", "validated", "told"),
    [
        ("signal.raise_signal(signal.SIGSYS)", True, signal.SIGSYS),
        ("signal.raise_signal(signal.SIGSYS)", False, signal.SIGSYS),
        ("signal.raise_signal(signal.SIGKILL)", True, None),
        ("os._exit(70)", True, None),
        ("os._exit(0)", False, None),
        ("os._exit(1)", True, None),
    ],
)
def test_a_network_process_that_fails_is_told_of(
    stage: Stage, end: str, validated: bool, told: int | None
) -> None:
    """And as long as nobody can be punished for it, newcomers must show their address."""
    pid = os.fork()
    if pid == 0:
        exec(end)
    process, theirs = join(stage, PEER, pid)
    process.validated = validated
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    stage.router._take_children()
    if told is None:
        assert not stage.main.wait(0.0)
    else:
        message, _ = stage.main.receive()
        assert message == NetworkProcessDied(*PEER, told, validated)
    suspicious = told is not None and not validated
    assert stage.router._wants_proof(time.monotonic()) is suspicious
    stage.router._forget(process)
    theirs.close()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(1)"])
@pytest.mark.parametrize("is_forgotten", [True, False])
def test_the_client_of_a_killed_process_hears_of_it(
    stage: Stage, end: str, is_forgotten: bool
) -> None:
    """Whichever the router sees first, the end of the socket or of the process. In all it is less
    than the client has sent."""
    pid = os.fork()
    if pid == 0:
        exec(end)
    with peer() as client:
        process, theirs = join(stage, client.getsockname(), pid)
        names = [b"%08d" % number for number in range(NAMES_PER_CONNECTION + 1)]
        for name in names:
            stage.router._add_route(process, name)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        theirs.close()
        if is_forgotten:
            stage.router._forget(process)
        stage.router._take_children()
        stage.router._send(b"end", Arrival(b"", client.getsockname(), HOST))
        heard = [client.recv(2048)]
        while heard[-1] != b"end":
            heard.append(client.recv(2048))
    key = stage.router._reset_secret.key
    told = "kill" in end
    assert sum(map(len, heard)) < MIN_INITIAL_DATAGRAM
    assert {one[-16:] for one in heard[:-1]} == {reset_token(key, name) for name in names if told}
    stage.router._forget(process)


def test_a_datagram_from_port_0_is_as_if_it_had_not_come(stage: Stage) -> None:
    need_root()
    here = stage.listener.getsockname()
    packet = first_flight()[0].payload
    udp = struct.pack("!HHHH", 0, here[1], 8 + len(packet), 0) + packet
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.sendto(udp, (HOST, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as behind:
        behind.sendto(b"last", here)
        arrived = list(read_arrivals(stage.listener, 2))
    assert [one.payload for one in arrived] == [b"last"]
