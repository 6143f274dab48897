"""The sockets of the server, on loopback: who gets which datagram."""

import socket
from collections.abc import Iterator

import pytest

from sshoq.server.listener import (
    Address,
    BindError,
    check_local,
    open_connection,
    open_listener,
    parse_peer,
)

WAIT = 10.0


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for one in sockets:
        one.close()


def listen(opened: list[socket.socket], host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = (host, port, 0, 0) if family == socket.AF_INET6 else (host, port)
    listener = open_listener(family, address)
    listener.settimeout(WAIT)
    opened.append(listener)
    return listener


def peer(opened: list[socket.socket], host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.settimeout(WAIT)
    udp.bind((host, 0))
    opened.append(udp)
    return udp


def target(listener: socket.socket, host: str) -> Address:
    return (host, listener.getsockname()[1])


@pytest.mark.parametrize(
    ("bound", "host"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1")],
)
def test_each_connection_gets_its_own_peers_datagrams(
    opened: list[socket.socket], bound: str, host: str
) -> None:
    listener = listen(opened, bound)
    clients = [peer(opened, host) for _ in range(5)]
    served = []
    for client in clients:
        served.append(open_connection(listener, client.getsockname(), host))
        served[-1].settimeout(WAIT)
    opened += served
    stranger = peer(opened, host)
    stranger.sendto(b"stranger", target(listener, host))
    for number, client in enumerate(clients):
        client.sendto(b"%d" % number, target(listener, host))
    assert [one.recv(99) for one in served] == [b"%d" % n for n in range(5)]
    assert listener.recv(99) == b"stranger"


def test_unconnected_members_of_the_group_get_nothing(opened: list[socket.socket]) -> None:
    """As a connection's socket is between bind and connect."""
    listener = listen(opened)
    for _ in range(10):
        member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.append(member)
        member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        member.bind(listener.getsockname())
    for number in range(40):
        peer(opened).sendto(b"%d" % number, listener.getsockname())
        assert listener.recv(99) == b"%d" % number


def test_an_address_beside_the_usual_one_is_answered_from(opened: list[socket.socket]) -> None:
    listener = listen(opened, "0.0.0.0")
    client = peer(opened)
    connection = open_connection(listener, client.getsockname(), "127.0.0.9")
    opened.append(connection)
    connection.send(b"answer")
    assert client.recvfrom(99) == (b"answer", ("127.0.0.9", listener.getsockname()[1]))


def test_a_second_listener_is_refused(opened: list[socket.socket]) -> None:
    port = listen(opened).getsockname()[1]
    with pytest.raises(BindError) as caught:
        listen(opened, port=port)
    assert str(caught.value) == (
        f"Bind to port {port} on 127.0.0.1 failed: Address already in use."
    )
    assert caught.value.in_use is True


def test_an_address_of_another_host_is_refused(opened: list[socket.socket]) -> None:
    with pytest.raises(BindError, match="Cannot assign requested address") as caught:
        listen(opened, "192.0.2.1")
    assert caught.value.in_use is False


def test_both_families_can_have_the_same_port(opened: list[socket.socket]) -> None:
    first = listen(opened, "::")
    listen(opened, "0.0.0.0", first.getsockname()[1])


@pytest.mark.parametrize(
    ("family", "address", "port"),
    [
        (socket.AF_INET, "::1", 1),
        (socket.AF_INET6, "127.0.0.1", 1),
        (socket.AF_INET, "127.0.0.1", 0),
        (socket.AF_INET, "127.0.0.1", 65536),
        (socket.AF_INET, "224.0.0.1", 1),
        (socket.AF_INET6, "ff02::1", 1),
        (socket.AF_INET, "0.0.0.0", 1),
        (socket.AF_INET6, "::", 1),
        (socket.AF_INET, "host.example", 1),
        (socket.AF_INET, "127.1", 1),
        (socket.AF_INET, "", 1),
        (socket.AF_INET6, "fe80::1%no-such-interface", 1),
        (socket.AF_INET6, f"fe80::1%{1 << 80}", 1),
        (socket.AF_INET6, "fe80::1%\0", 1),
    ],
)
def test_a_peer_that_cannot_be_is_refused(family: int, address: str, port: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_peer(family, address, port)


def test_a_peer_on_the_link_keeps_its_zone() -> None:
    index = socket.if_nametoindex("lo")
    assert parse_peer(socket.AF_INET6, "fe80::1%lo", 9) == ("fe80::1", 9, 0, index)
    assert parse_peer(socket.AF_INET6, f"fe80::1%{index}", 9) == ("fe80::1", 9, 0, index)
    assert parse_peer(socket.AF_INET, "127.0.0.1", 9) == ("127.0.0.1", 9)


def test_a_local_address_must_be_one_that_the_listener_serves(
    opened: list[socket.socket],
) -> None:
    """A router that somebody has got hold of may say anything: also what is no text for C."""
    exact, anywhere, link = listen(opened), listen(opened, "0.0.0.0"), listen(opened, "::")
    check_local(exact, "127.0.0.1")
    check_local(exact, "")
    check_local(anywhere, "127.0.0.9")
    for listener, address in (
        (exact, "127.0.0.9"),
        (exact, "::1"),
        (anywhere, "::1"),
        (exact, "x"),
        (exact, "127.0.0.1\0"),
        (link, "fe80::1%\0"),
        (link, "fe80::1%\udcff"),
    ):
        with pytest.raises(ValueError, match=r"."):
            check_local(listener, address)
