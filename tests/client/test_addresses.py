"""Resolving hosts and opening connected sockets, over loopback."""

from __future__ import annotations

import socket

import pytest

from sshoq.client.addresses import (
    BindError,
    BindWish,
    HostAddress,
    open_socket,
    resolve_host,
)
from sshoq.client.log import Failure


def test_literal_addresses_need_no_resolver() -> None:
    assert resolve_host("127.0.0.1", 443) == [HostAddress(socket.AF_INET, ("127.0.0.1", 443))]
    assert resolve_host("::1", 443, "inet6")[0].ip == "::1"


@pytest.mark.parametrize("host", ["name.invalid", "a..b", "x" * 300])
def test_unknown_host_in_the_words_of_openssh(host: str) -> None:
    with pytest.raises(Failure, match=r"^ssh: Could not resolve hostname .*: \S"):
        resolve_host(host, 443)


def test_address_of_the_other_family_is_not_found() -> None:
    with pytest.raises(Failure, match="Could not resolve hostname"):
        resolve_host("127.0.0.1", 443, "inet6")


def loopback_target() -> tuple[socket.socket, HostAddress]:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    return receiver, HostAddress(socket.AF_INET, receiver.getsockname())


@pytest.mark.parametrize(
    ("wish", "local"),
    [
        (BindWish(), "127.0.0.1"),
        (BindWish(address="127.0.0.7"), "127.0.0.7"),
        (BindWish(interface="lo"), "127.0.0.1"),
    ],
)
def test_socket_is_bound_as_wished_and_connected(wish: BindWish, local: str) -> None:
    receiver, target = loopback_target()
    with receiver, open_socket(target, wish) as sock:
        assert sock.getpeername() == target.address
        sock.send(b"hello")
        data, sender = receiver.recvfrom(100)
        assert (data, sender[0]) == (b"hello", local)


def test_traffic_class_is_set() -> None:
    receiver, target = loopback_target()
    with receiver, open_socket(target, BindWish(traffic_class=0xB8)) as sock:
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0xB8


def test_refused_port_is_heard_of() -> None:
    receiver, target = loopback_target()
    receiver.close()
    with open_socket(target, BindWish()) as sock:
        sock.send(b"anybody?")
        sock.setblocking(True)
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


def test_address_that_is_not_ours_cannot_be_bound() -> None:
    receiver, target = loopback_target()
    with receiver, pytest.raises(BindError) as caught:
        open_socket(target, BindWish(address="192.0.2.1"))
    assert caught.value.line == "bind 192.0.2.1: Cannot assign requested address"


def test_address_to_bind_may_be_a_name() -> None:
    receiver, target = loopback_target()
    with receiver, open_socket(target, BindWish(address="localhost")) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    with receiver, pytest.raises(BindError) as caught:
        open_socket(target, BindWish(address="nowhere.invalid"))
    assert caught.value.line.startswith("getaddrinfo: nowhere.invalid: ")


def test_interface_without_an_address_is_one_line() -> None:
    receiver, target = loopback_target()
    with receiver, pytest.raises(BindError) as caught:
        open_socket(target, BindWish(interface="nonexistent0"))
    assert caught.value.line == "getifaddrs: nonexistent0: no suitable addresses"
