"""A first flight without the library, which must be able to go on with it."""

from __future__ import annotations

import pytest

from sshoq.transport import client_start
from sshoq.transport.client_start import Dice, first_flight
from sshoq.transport.engine import Engine
from sshoq.transport.events import AFTER_LOGIN, BEFORE_LOGIN, HandshakeCompleted, Limits
from sshoq.transport.identity import SignatureScheme
from sshoq.transport.packets import FirstPacket, own_names
from tests.link import (
    CLIENT,
    RESET_KEY,
    SERVER,
    Link,
    Side,
    Weather,
    first_datagrams,
    identity,
)

NAMES = (None, "host.example", "host.example.", "x" * 63 + ".example")
SCHEMES = ((), (SignatureScheme.ED25519,), (SignatureScheme.ECDSA_P384, 0x0804))


def engine_of(
    dice: Dice,
    name: str | None = "host.example",
    *,
    idle_timeout: float = 30.0,
    limits: Limits = BEFORE_LOGIN,
    schemes: tuple[int, ...] = (),
    plain: bool = False,
) -> Engine:
    return Engine.client(
        SERVER,
        name,
        now=1.0,
        idle_timeout=idle_timeout,
        limits=limits,
        preferred_schemes=schemes,
        plain=plain,
        dice=dice,
    )


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("schemes", SCHEMES)
@pytest.mark.parametrize("name", NAMES)
def test_the_library_writes_the_same(
    name: str | None, schemes: tuple[int, ...], plain: bool
) -> None:
    """Where this fails after a new release of it: clients go on, but lose 20 ms at their start."""
    dice = Dice()
    flight = first_flight(
        dice, name, idle_timeout=30.0, limits=BEFORE_LOGIN, preferred_schemes=schemes
    )
    assert first_datagrams(engine_of(dice, name, schemes=schemes, plain=plain), 1.0) == flight


@pytest.mark.parametrize("limits", [BEFORE_LOGIN, AFTER_LOGIN])
@pytest.mark.parametrize("idle_timeout", [0.5, 45.0, 86400.0])
def test_so_it_does_with_other_limits(limits: Limits, idle_timeout: float) -> None:
    dice = Dice()
    flight = first_flight(dice, "host.example", idle_timeout=idle_timeout, limits=limits)
    engine = engine_of(dice, idle_timeout=idle_timeout, limits=limits)
    assert first_datagrams(engine, 1.0) == flight


def test_no_two_flights_are_alike() -> None:
    flights = [
        first_flight(Dice(), "host.example", idle_timeout=30.0, limits=BEFORE_LOGIN)
        for _ in range(2)
    ]
    assert not set(flights[0]) & set(flights[1])


def test_engines_without_dice_throw_their_own() -> None:
    dice = Dice()
    engine_of(dice)
    engines = [Engine.client(SERVER, "host.example", now=1.0) for _ in range(2)]
    names = [engine.connection_ids for engine in engines]
    assert dice.source_cid not in names[0] + names[1]
    assert names[0] != names[1]
    assert first_datagrams(engines[0], 1.0) != first_datagrams(engines[1], 1.0)


@pytest.mark.parametrize("lost", [None, 0, 1])
def test_the_engine_goes_on_with_what_was_sent(lost: int | None) -> None:
    """Also when a part of it is lost, which it then repeats."""
    dice = Dice()
    flight = first_flight(dice, "host.example", idle_timeout=30.0, limits=BEFORE_LOGIN)
    server = Engine.server(FirstPacket.of(flight[0]), identity(), names=own_names(RESET_KEY))
    client = engine_of(dice)
    assert first_datagrams(client, 1.0) == flight
    left, right = Side(client, CLIENT), Side(server, SERVER)
    link = Link(left, right, Weather(), now=1.0)
    for number, datagram in enumerate(flight):
        if number != lost:
            link.send(left, datagram, SERVER)
    link.run(lambda: bool(left.told(HandshakeCompleted) and right.told(HandshakeCompleted)))
    assert client.key_exchange == server.key_exchange == "X25519MLKEM768"
    assert client.export(b"label", b"", 32) == server.export(b"label", b"", 32)


def test_what_is_written_differently_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = Dice()
    monkeypatch.setattr(client_start, "_MAX_ACK_DELAY", client_start._MAX_ACK_DELAY + 1)
    flight = first_flight(dice, "host.example", idle_timeout=30.0, limits=BEFORE_LOGIN)
    assert first_datagrams(engine_of(dice), 1.0) != flight
