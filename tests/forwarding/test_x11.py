"""The start of X11 connections: cookies put in their place, and who is turned away."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.forwarding.x11 import Authorization, SetupState, X11Error

PROTOCOL = "MIT-MAGIC-COOKIE-1"
REAL, STAND_IN = bytes(range(16)), bytes(range(100, 116))
AUTHORIZATION = Authorization(PROTOCOL, REAL, STAND_IN)


def setup(
    order: str = "l", protocol: bytes = PROTOCOL.encode(), cookie: bytes = STAND_IN
) -> bytes:
    """A client's first bytes, as Xlib writes them."""
    endian: Literal["big", "little"] = "big" if order == "B" else "little"
    numbers = (11, 0, len(protocol), len(cookie), 0)
    head = order.encode() + b"\0" + b"".join(n.to_bytes(2, endian) for n in numbers)
    fields = (field + bytes(-len(field) % 4) for field in (protocol, cookie))
    return head + b"".join(fields)


@pytest.mark.parametrize("order", ["l", "B"])
def test_the_real_cookie_takes_the_place_of_the_stand_in(order: str) -> None:
    made = SetupState(AUTHORIZATION).receive(setup(order))
    assert made == setup(order, cookie=REAL)


@given(
    protocol=st.text("ABC-1", min_size=1, max_size=40),
    cookies=st.integers(0, 200).flatmap(
        lambda size: st.tuples(*[st.binary(min_size=size, max_size=size)] * 2)
    ),
    order=st.sampled_from("lB"),
    rest=st.binary(max_size=50),
    places=st.lists(st.integers(0, 400), max_size=6),
)
def test_however_it_is_cut_nothing_else_is_changed(
    protocol: str, cookies: tuple[bytes, bytes], order: str, rest: bytes, places: list[int]
) -> None:
    real, stand_in = cookies
    whole = setup(order, protocol.encode(), stand_in) + rest
    edges = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    state, sent = SetupState(Authorization(protocol, real, stand_in)), b""
    for start, end in pairwise(edges):
        piece = whole[start:end]
        sent += piece if sent else state.receive(piece) or b""
    assert sent == setup(order, protocol.encode(), real) + rest


@given(st.integers(0, len(setup()) - 1))
def test_nothing_goes_on_before_all_of_it_is_there(size: int) -> None:
    assert SetupState(AUTHORIZATION).receive(setup()[:size]) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (setup(cookie=REAL), "auth data"),  # who knows it need not come this way
        (setup(cookie=STAND_IN[:-1] + b"x"), "auth data"),
        (setup(cookie=STAND_IN[:-1]), "auth data"),
        (setup(cookie=b""), "auth data"),
        (setup(protocol=b"", cookie=b""), "authentication protocol"),
        (setup(protocol=b"XDM-AUTHORIZATION-"), "authentication protocol"),
        (setup(protocol=b"MIT-MAGIC-COOKIE-2"), "authentication protocol"),
        (setup("x"), "byte order"),
        (b"G", "byte order"),
        (b"GET / HTTP/1.0\r\n\r\n", "byte order"),
    ],
)
def test_whoever_shows_something_else_is_turned_away(data: bytes, reason: str) -> None:
    with pytest.raises(X11Error, match=reason):
        SetupState(AUTHORIZATION).receive(data)


def test_a_wrong_length_is_not_waited_for() -> None:
    """Else somebody could have us keep 128 KiB for as long as he likes."""
    with pytest.raises(X11Error):
        SetupState(AUTHORIZATION).receive(setup(cookie=bytes(65535))[:12])


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_any_bytes_are_waited_for_or_turned_away(pieces: list[bytes]) -> None:
    state = SetupState(AUTHORIZATION)
    for piece in pieces:
        try:
            assert state.receive(piece) is None
        except X11Error:
            return
