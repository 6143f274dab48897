"""The router between datagrams, main, and processes that it cannot start. What it does when all
goes well is shown by the real server in tests/scenarios.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from sshoq.server.arrival import Arrival, read_arrivals
from sshoq.server.listener import open_listener
from sshoq.server.privsep import (
    MAIN_TO_ROUTER,
    ROUTER_TO_MAIN,
    Admit,
    Admitted,
    PrivsepSocket,
    make_pair,
)
from sshoq.server.router import Router
from sshoq.transport.quic import Engine
from tests.needs import need_root

HOST = "127.0.0.1"
PEER = (HOST, 4433)
WAIT = 10.0


class Stage(NamedTuple):
    router: Router
    main: PrivsepSocket
    listener: socket.socket


@pytest.fixture
def stage() -> Iterator[Stage]:
    ours, theirs = make_pair()
    with ours, theirs, open_listener(socket.AF_INET, (HOST, 0)) as listener:
        router = Router(listener, PrivsepSocket(theirs, ROUTER_TO_MAIN, MAIN_TO_ROUTER), 1)
        yield Stage(router, PrivsepSocket(ours, MAIN_TO_ROUTER, ROUTER_TO_MAIN), listener)


def first_flight() -> list[Arrival]:
    engine = Engine.client((HOST, 443), "localhost", now=0.0)
    return [Arrival(one, PEER, HOST) for _, flight in engine.outgoing(0.0) for one in flight]


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


def test_newcomers_are_not_admitted_when_descriptors_run_out(stage: Stage) -> None:
    stage.router._most = 0
    stage.router._welcome(first_flight())
    assert not stage.main.wait(0.0)


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
