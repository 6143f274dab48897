"""PermitOpen and its kin: what the words mean, and what they match."""

from __future__ import annotations

import pytest

from sshoq.config.permitted import Place, may_listen, may_open, parse_places


def test_words_become_places() -> None:
    assert parse_places(("any",)) is None
    assert parse_places(()) is None
    assert parse_places(("none",)) == []
    words = ("host:80", "*:443", "[::1]:22", "10.0.0.1:*")
    assert parse_places(words) == [
        Place("host", 80), Place("*", 443), Place("::1", 22), Place("10.0.0.1", 0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "host", "port", "permitted"),
    [
        (("any",), "h", 1, True),
        (("none",), "h", 1, False),
        (("h:1",), "h", 1, True),
        (("h:1",), "h", 2, False),
        (("h:1",), "H", 1, False),
        (("h:*",), "h", 2, True),
        (("*:1",), "x", 1, True),
        (("x:9", "h:1"), "h", 1, True),
        (("localhost:1",), "127.0.0.1", 1, False),
    ],
)
def test_names_are_compared_as_written(
    words: tuple[str, ...], host: str, port: int, permitted: bool
) -> None:
    assert may_open(parse_places(words), host, port) is permitted


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_for_listening_loopback_is_one_place(host: str) -> None:
    for word in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080"):
        assert may_listen(parse_places((word,)), host, 8080)
    assert not may_listen(parse_places(("localhost:8080",)), "", 8080)
    assert not may_listen(parse_places(("localhost:8080",)), host, 0)
