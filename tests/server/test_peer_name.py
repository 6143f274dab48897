"""Names of addresses, with a resolver that says what each test wants."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from sshoq.server import log
from sshoq.server.peer_name import find_name

V4, V6 = "192.0.2.7", "2001:db8::7"


class Resolver:
    """In the place of libc's: one name for every address, and what that name leads to."""

    def __init__(self, name: str | Exception, *back: str) -> None:
        self._name = name
        self._back = back

    def getnameinfo(self, address: tuple[str, int], flags: int) -> tuple[str, str]:
        assert flags == socket.NI_NAMEREQD
        if isinstance(self._name, Exception):
            raise self._name
        return self._name, "0"

    def getaddrinfo(
        self, name: str, port: None, family: int = 0, type: int = 0, flags: int = 0
    ) -> list[Any]:
        """Numbers are told by the real one, which asks nobody for them."""
        if flags:
            return _getaddrinfo(name, port, family, type, 0, flags)
        assert name == name.lower()
        wanted = {socket.AF_INET: ".", socket.AF_INET6: ":"}[socket.AddressFamily(family)]
        found = [address for address in self._back if wanted in address]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, type, 0, "", (address, 0)) for address in found]


_getaddrinfo = socket.getaddrinfo


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(log, "info", lines.append)
    return lines


def named(monkeypatch: pytest.MonkeyPatch, resolver: Resolver, address: str = V4) -> str:
    monkeypatch.setattr(socket, "getnameinfo", resolver.getnameinfo)
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    return find_name(address)


@pytest.mark.parametrize("address", [V4, V6])
def test_a_name_that_leads_back_counts_in_lower_case(
    monkeypatch: pytest.MonkeyPatch, said: list[str], address: str
) -> None:
    resolver = Resolver("Ann.Example.ORG", "192.0.2.1", V4, V6)
    assert named(monkeypatch, resolver, address) == "ann.example.org"
    assert said == []


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ],
)
def test_without_a_name_it_is_the_address(
    monkeypatch: pytest.MonkeyPatch, said: list[str], error: Exception
) -> None:
    assert named(monkeypatch, Resolver(error)) == V4
    assert said == []


@pytest.mark.parametrize("number", ["198.51.100.7", "198.51.7", "0x7f.1", "2001:db8::1"])
def test_a_number_is_no_name(
    monkeypatch: pytest.MonkeyPatch, said: list[str], number: str
) -> None:
    assert named(monkeypatch, Resolver(number, number, V4)) == V4
    assert said == [f'Nasty PTR record "{number}" is set up for {V4}, ignoring']


def test_a_name_that_leads_elsewhere_does_not_count(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    assert named(monkeypatch, Resolver("ann.example.org", "192.0.2.70", V6)) == V4
    assert said == [
        f"Address {V4} maps to ann.example.org, but this does not map back to the address."
    ]


def test_a_name_that_leads_nowhere_does_not_count(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    assert named(monkeypatch, Resolver("ann.example.org", V6)) == V4
    assert said == [f"reverse mapping checking getaddrinfo for ann.example.org [{V4}] failed."]


@pytest.mark.parametrize("name", ["." * 3, "x" * 300 + ".org", "\udcff.org"])
def test_a_name_that_cannot_be_asked_for_does_not_count(
    monkeypatch: pytest.MonkeyPatch, said: list[str], name: str
) -> None:
    """libc gives what the other side's name server says; Python's own rules for names come first.
    """
    monkeypatch.setattr(socket, "getnameinfo", Resolver(name).getnameinfo)
    assert find_name(V4) == V4
    assert said == [f"reverse mapping checking getaddrinfo for {name} [{V4}] failed."]
