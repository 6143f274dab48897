"""What the server's processes say to each other, on a real socket pair."""

import fcntl
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from sshoq.server import leader, privsep
from sshoq.server.monitor import LEADER_RULES, NETWORK_RULES
from sshoq.server.privsep import FROM_MONITOR, TO_MONITOR, HandshakeSigned, LoginOpened, LogLine
from sshoq.server.privsep_socket import (
    MAX_DESCRIPTORS,
    MAX_PACKET,
    PeerGone,
    PrivsepError,
    PrivsepSocket,
    close_all,
    make_pair,
)
from sshoq.wire import Message, MessageSet

Pair = tuple[PrivsepSocket, PrivsepSocket]
ABOVE_SELECT = 1100


@pytest.fixture
def pair() -> Iterator[Pair]:
    network, monitor = make_pair()
    with network, monitor:
        yield (
            PrivsepSocket(network, TO_MONITOR, FROM_MONITOR),
            PrivsepSocket(monitor, FROM_MONITOR, TO_MONITOR),
        )


def test_a_message_arrives_with_its_descriptors(pair: Pair) -> None:
    network, monitor = pair
    reader, writer = os.pipe()
    monitor.send(LoginOpened(10, 0, 3), [writer])
    os.close(writer)
    message, [received] = network.receive()
    assert message == LoginOpened(10, 0, 3)
    os.write(received, b"through")
    assert os.read(reader, 99) == b"through"
    assert not os.get_inheritable(received)
    close_all([reader, received])


def test_who_does_not_read_its_answers_is_not_waited_for(pair: Pair) -> None:
    network, monitor = pair
    with pytest.raises(PrivsepError, match="does not read"):
        for _ in range(100_000):
            monitor.answer(LoginOpened(10, 0, 3))
    assert network.receive()[0] == LoginOpened(10, 0, 3)


def test_every_message_is_in_the_table_of_a_direction() -> None:
    tables = [one for one in vars(privsep).values() if isinstance(one, MessageSet)]
    said = set().union(*(table._ids for table in tables))
    declared = {
        one
        for one in vars(privsep).values()
        if isinstance(one, type) and issubclass(one, Message) and one.__module__ == privsep.__name__
    }
    assert declared - said == {privsep.Chain}  # which is a part of others


@pytest.mark.parametrize(
    ("rules", "table"),
    [
        (NETWORK_RULES, privsep.TO_MONITOR),
        (LEADER_RULES, privsep.LEADER_TO_MONITOR),
        (leader.RULES, privsep.TO_LEADER),
    ],
)
def test_every_request_has_its_rule(rules: dict[type[Message], object], table: MessageSet) -> None:
    assert rules.keys() == table._ids.keys()


def test_what_is_not_in_the_table_of_a_direction_is_refused(pair: Pair) -> None:
    network, monitor = pair
    network.socket.send(FROM_MONITOR.encode(LoginOpened(10, 0, 3)))  # a claim of the wrong side
    with pytest.raises(PrivsepError):
        monitor.receive()


@pytest.mark.parametrize("packet", [b"\x3f", b"\x01\x07", bytes(MAX_PACKET + 1)])
def test_bytes_that_are_no_message_are_refused(pair: Pair, packet: bytes) -> None:
    network, monitor = pair
    network.socket.send(packet)
    with pytest.raises(PrivsepError):
        monitor.receive()


def test_too_many_descriptors_are_refused_and_none_is_kept(pair: Pair) -> None:
    network, monitor = pair
    reader, writer = os.pipe()
    packet = TO_MONITOR.encode(LogLine(1, "text"))
    socket.send_fds(network.socket, [packet], [writer] * (MAX_DESCRIPTORS + 1))
    os.close(writer)
    with pytest.raises(PrivsepError):
        monitor.receive()
    assert os.read(reader, 1) == b""  # nobody has the other end any more
    os.close(reader)


def test_the_end_of_the_other_process_is_told(pair: Pair) -> None:
    network, monitor = pair
    network.close()
    with pytest.raises(PeerGone):
        monitor.receive()


def test_waiting_works_for_descriptors_that_select_does_not_know(pair: Pair) -> None:
    network, monitor = pair
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= ABOVE_SELECT:
        pytest.skip("so many descriptors are not permitted")
    number = fcntl.fcntl(network.fileno(), fcntl.F_DUPFD_CLOEXEC, ABOVE_SELECT)
    with socket.socket(fileno=number) as high:
        end = PrivsepSocket(high, TO_MONITOR, FROM_MONITOR)
        assert not end.wait(0.0)
        monitor.send(HandshakeSigned(b"signature"))
        assert end.wait(10.0)
