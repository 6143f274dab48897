"""SOCKS from the proxy's side: requests of each version, cut anywhere, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.forwarding.socks import SocksError, SocksState, SocksTarget

V4 = b"\x04\x01\x00\x50\xc0\x00\x02\x01user\0"
V4A = b"\x04\x01\x00\x50\0\0\0\x01user\0far.test\0"
GREETING = b"\x05\x02\x00\x02"
V5_NAME = b"\x05\x01\x00\x03\x08far.test\x01\xbb"
V5_IPV4 = b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"
V5_IPV6 = b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x01\xbb"
REST = b"GET / HTTP/1.0\r\n\r\n"

REQUESTS = [
    (V4, b"", SocksTarget("192.0.2.1", 80)),
    (V4A, b"", SocksTarget("far.test", 80)),
    (GREETING + V5_NAME, b"\x05\x00", SocksTarget("far.test", 443)),
    (GREETING + V5_IPV4, b"\x05\x00", SocksTarget("192.0.2.1", 443)),
    (GREETING + V5_IPV6, b"\x05\x00", SocksTarget("::1", 443)),
]


@pytest.mark.parametrize(("request_", "answer", "target"), REQUESTS)
@given(data=st.data())
def test_a_request_is_read_however_it_is_cut(
    request_: bytes, answer: bytes, target: SocksTarget, data: st.DataObject
) -> None:
    state = SocksState()
    whole = request_ + REST
    cut = data.draw(st.integers(0, len(whole)))
    answers = state.receive(whole[:cut]) + state.receive(whole[cut:])
    assert (answers, state.target, state.rest) == (answer, target, REST)


@pytest.mark.parametrize(("request_", "answer", "target"), REQUESTS)
def test_byte_by_byte_it_is_known_at_the_last(
    request_: bytes, answer: bytes, target: SocksTarget
) -> None:
    state = SocksState()
    answers = b""
    for at in range(len(request_)):
        assert state.target is None
        answers += state.receive(request_[at : at + 1])
    assert (answers, state.target) == (answer, target)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET / HTTP/1.0\r\n", b""),
        (b"\x04\x02\x00\x50\xc0\x00\x02\x01\0", b"\x00\x5b"),  # BIND
        (b"\x04\x01\x00\x50\0\0\0\x01\0\0", b"\x00\x5b"),  # an empty name
        (b"\x05\x01\x02", b"\x05\xff"),  # a password only
        (b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6), b"\x05\x07"),  # UDP ASSOCIATE
        (b"\x05\x01\x00\x05\x01\x00\x09" + bytes(6), b"\x05\x08"),
        (b"\x05\x01\x00\x04\x01\x00\x01" + bytes(6), b""),  # another version in the middle
        (b"\x04\x01\x00\x50\xc0\x00\x02\x01" + b"x" * 2000, b""),
    ],
)
def test_what_is_not_done_is_refused(request_: bytes, answer: bytes) -> None:
    with pytest.raises(SocksError) as caught:
        SocksState().receive(request_)
    assert caught.value.answer[:2] == answer


@pytest.mark.parametrize(
    ("request_", "granted", "failed", "prohibited"),
    [
        (V4, "005a000000000000", "005b000000000000", "005b000000000000"),
        (
            GREETING + V5_NAME,
            "05000001000000000000",
            "05050001000000000000",
            "05020001000000000000",
        ),
    ],
)
def test_answers(request_: bytes, granted: str, failed: str, prohibited: str) -> None:
    state = SocksState()
    state.receive(request_)
    assert state.granted().hex() == granted
    assert state.failed().hex() == failed
    assert state.failed(is_prohibited=True).hex() == prohibited


@given(st.binary(max_size=2000))
def test_any_bytes_give_a_target_or_an_error(data: bytes) -> None:
    state = SocksState()
    try:
        state.receive(data)
    except SocksError:
        return
    assert state.target is None or state.target.host
