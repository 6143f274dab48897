"""Reaching a host: one address after another, and what is said when none answers."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sshoq.client.addresses import HostAddress
from sshoq.client.first_flight import (
    Flight,
    LinkWish,
    begin,
    go_on,
    launch,
    server_name_of,
)
from sshoq.client.log import Log
from sshoq.client.opening import ClientConversation, Patience, Unreachable, reach
from sshoq.config.usage import DEBUG1
from sshoq.protocol.request import ConnectRequest
from tests.client.little_server import listening


def closed_port() -> HostAddress:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return HostAddress(socket.AF_INET, sock.getsockname())


def first_flight(target: HostAddress) -> Flight | OSError:
    try:
        return launch(target, LinkWish())
    except OSError as error:
        return error


async def reach_one_of(
    *targets: HostAddress, lines: list[str] | None = None, patience: float | None = None,
    attempts: int = 1,
) -> ClientConversation:  # fmt: skip
    log = Log(DEBUG1, lambda level, line: (lines if lines is not None else []).append(line))
    return await reach(
        targets, LinkWish(), "little.test", log,
        first=first_flight(targets[0]), patience=patience, attempts=attempts,
    )  # fmt: skip


def test_next_address_is_tried_when_one_refuses() -> None:
    async def test() -> None:
        lines: list[str] = []
        async with listening() as listener:
            client = await reach_one_of(closed_port(), listener.target, lines=lines)
            assert client.target == listener.target
            assert len(client.certificates) == 1
            assert len(client.conversation_id) == 32
            await client.close()
        assert any("Connection refused" in line for line in lines)

    asyncio.run(test())


def test_address_that_cannot_be_sent_to_is_passed_over() -> None:
    async def test() -> None:
        # EACCES, without SO_BROADCAST
        nowhere = HostAddress(socket.AF_INET, ("255.255.255.255", 443))
        async with listening() as listener:
            client = await reach_one_of(nowhere, listener.target)
            assert client.target == listener.target
            await client.close()

    asyncio.run(test())


def test_last_reason_is_told_when_all_fail() -> None:
    with pytest.raises(Unreachable, match="Connection refused"):
        asyncio.run(reach_one_of(closed_port(), closed_port()))


def test_all_addresses_together_have_the_users_patience() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        target = HostAddress(socket.AF_INET, silent.getsockname())
        lines: list[str] = []
        with pytest.raises(Unreachable, match="Connection timed out"):
            asyncio.run(reach_one_of(target, target, lines=lines, patience=0.2))
    assert sum("Connecting to" in line for line in lines) == 1


def test_attempts_go_through_the_addresses_again() -> None:
    lines: list[str] = []
    with pytest.raises(Unreachable):
        asyncio.run(reach_one_of(closed_port(), lines=lines, attempts=3))
    assert sum("Connecting to" in line for line in lines) == 3


def test_both_sides_have_the_same_conversation_id_and_the_request_is_answered() -> None:
    async def test() -> None:
        async with listening() as listener:
            client = await reach_one_of(listener.target)
            server = listener.server.conversation.engine
            assert client.conversation_id == server.export(b"EXPORTER-SSH3", b"", 32)
            request = ConnectRequest(
                authority="x:1", path="/", user="me", authorization="Bearer x"
            )
            response = await client.answer_to(request)
            assert response is not None
            assert response.status == 200
            await client.close()
            assert client.gone.done()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("host", "name"),
    [("example.com", "example.com"), ("127.0.0.1", None), ("::1", None), ("fe80::1%eth0", None)],
)
def test_server_name_is_left_out_for_addresses(host: str, name: str | None) -> None:
    assert server_name_of(host) == name


@pytest.mark.parametrize(
    ("host", "name"),
    [("Bücher.example", "xn--bcher-kva.example"), ("ü" * 80, None), ("\udcff", None)],
)
def test_server_name_is_the_one_that_was_looked_up(host: str, name: str | None) -> None:
    assert server_name_of(host) == name


@pytest.mark.parametrize(
    ("interval", "count", "keep_alive", "idle"),
    [(0, 3, 10.0, 900.0), (5, 3, 5.0, 900.0), (600, 3, 10.0, 2400.0)],
)
def test_idle_timeout_never_undercuts_the_users_patience(
    interval: int, count: int, keep_alive: float, idle: float
) -> None:
    wish = LinkWish(alive_interval=interval, alive_count=count)
    assert (wish.keep_alive, wish.idle_timeout) == (keep_alive, idle)


@pytest.mark.parametrize("congestion", ["bbr", "cubic"])
def test_congestion_is_controlled_as_the_user_wants(congestion: str) -> None:
    flight = launch(closed_port(), LinkWish(congestion=congestion))
    flight.udp.close()
    assert flight.engine.congestion == congestion


# --------------------------------------------------------------------------- ahead of the engine


def bound_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(10)
    return sock


def test_the_engine_takes_over_what_was_sent_without_it() -> None:
    async def test() -> None:
        async with listening() as listener:
            begun = begin(listener.target, LinkWish("little.test"))
            flight = go_on(begun, LinkWish("little.test"))
            assert flight.udp is begun.udp
            client = ClientConversation(flight, "little.test", Log(DEBUG1, lambda *_: None))
            await client.handshake(10)
            await client.close()

    asyncio.run(test())


def test_a_flight_that_the_engine_would_not_have_sent_is_given_up() -> None:
    """As with another release of the library, which writes something else."""
    wish = LinkWish("little.test")
    with bound_socket() as server:
        begun = begin(HostAddress(socket.AF_INET, server.getsockname()), wish)
        _, first = server.recvfrom(2000)
        server.recvfrom(2000)
        flight = go_on(begun._replace(datagrams=[b"something else"]), wish)
        assert begun.udp.fileno() == -1
        datagram, second = server.recvfrom(2000)
        assert second != first
        assert second == flight.udp.socket.getsockname()
        assert datagram not in begun.datagrams
        flight.udp.close()


def test_silence_is_borne_so_often() -> None:
    patience = Patience(15, 3, 100.0)
    assert [patience.is_over(100.0 + 15 * n, 104.0) for n in (1, 2, 3, 4)] == [False] * 3 + [True]


def test_who_was_suspended_asks_the_server_first() -> None:
    patience = Patience(15, 3, 100.0)
    assert not patience.is_over(115.0, 114.0)
    assert not patience.is_over(3600.0, 114.0)
    assert [patience.is_over(3600.0 + 15 * n, 114.0) for n in (1, 2, 3)] == [False, False, True]
