"""The codec: decoding undoes encoding, and whatever the bytes, a value or a WireError comes out."""

# No `from __future__ import annotations`: messages are declared here.

from socket import AF_INET, AF_INET6, inet_ntop
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.wire import (
    I64,
    MAX_VARINT,
    U8,
    U16,
    U32,
    U64,
    Address,
    Bool,
    Bytes,
    Bytes16,
    Bytes32,
    Incomplete,
    IPPort,
    ListOf,
    Message,
    MessageSet,
    Port,
    Reader,
    Rest,
    Text,
    Text16,
    Text32,
    Varint,
    WireError,
    put_varint,
    varint,
)

VARINTS = {
    0: "00",
    63: "3f",
    64: "4040",
    91: "405b",
    92: "405c",
    94: "405e",
    95: "405f",
    98: "4062",
    255: "40ff",
    15293: "7bbd",
    16383: "7fff",
    16384: "80004000",
    29997: "8000752d",
    30000: "80007530",
    131072: "80020000",
    494878333: "9d7f3e7d",
    1073741823: "bfffffff",
    1073741824: "c000000040000000",
    2939561958: "c0000000af3627e6",
    151288809941952652: "c2197c5eff14e88c",
    MAX_VARINT: "ffffffffffffffff",
}


class Inner(Message):
    number: Varint
    name: Text = "nobody"


class Everything(Message):
    a: Varint
    b: Bytes
    c: Text
    d: Bool
    e: U8
    f: U16
    g: U32
    h: U64
    i: I64
    j: Bytes16
    k: Text16
    ll: Bytes32
    m: Text32
    n: Address
    o: Port
    p: Annotated[tuple[bytes, ...], ListOf(Bytes)]
    q: Inner
    r: Annotated[tuple[Inner, ...], ListOf(Inner)]
    s: Rest


class Empty(Message):
    """Nothing but its number."""


SET = MessageSet({1: Inner, 200: Everything, 3: Empty})

varints = st.integers(0, MAX_VARINT)
raw = st.binary(max_size=80)
# Any bytes are a text and the text gives the same bytes; so texts are made from bytes.
texts = raw.map(lambda data: data.decode("utf-8", "surrogateescape"))
ips = st.one_of(  # in the one spelling that reading gives
    st.binary(min_size=4, max_size=4).map(lambda raw: inet_ntop(AF_INET, raw)),
    st.binary(min_size=16, max_size=16).map(lambda raw: inet_ntop(AF_INET6, raw)),
)
addresses = st.builds(IPPort, ips, st.integers(0, 0xFFFF))


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1)


inners = st.builds(Inner, varints, texts)
everythings = st.builds(
    Everything,
    varints,
    raw,
    texts,
    st.booleans(),
    unsigned(8),
    unsigned(16),
    unsigned(32),
    unsigned(64),
    st.integers(-(1 << 63), (1 << 63) - 1),
    raw,
    texts,
    raw,
    texts,
    addresses,
    unsigned(16),
    st.lists(raw, max_size=4).map(tuple),
    inners,
    st.lists(inners, max_size=4).map(tuple),
    raw,
)
messages = st.one_of(inners, everythings, st.just(Empty()))


@pytest.mark.parametrize(("value", "encoded"), VARINTS.items())
def test_varint_vectors(value: int, encoded: str) -> None:
    assert varint(value).hex() == encoded
    assert Reader(bytes.fromhex(encoded)).varint() == value


@given(varints)
def test_varints_are_written_in_the_shortest_form(value: int) -> None:
    out = bytearray()
    put_varint(out, value)
    assert Reader(out).varint() == value
    assert len(out) == next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size - 2))


@given(varints, st.sampled_from([0, 1, 2, 3]))
def test_longer_forms_are_read_too(value: int, form: int) -> None:
    size = 1 << form
    if value < 1 << (8 * size - 2):
        longer = (value | form << (8 * size - 2)).to_bytes(size, "big")
        assert Reader(longer).varint() == value


@pytest.mark.parametrize("value", [-1, MAX_VARINT + 1])
def test_varints_out_of_range_are_our_bug(value: int) -> None:
    with pytest.raises(ValueError, match="varint"):
        varint(value)


@given(messages)
def test_decoding_undoes_encoding(message: Message) -> None:
    assert type(message).decode(message.encode()) == message
    assert SET.decode(SET.encode(message)) == message


@given(everythings)
def test_a_message_cut_short_is_incomplete(message: Everything) -> None:
    whole = message.encode()
    rest = len(message.s)
    for end in range(len(whole) - rest):
        with pytest.raises(Incomplete):
            Everything.decode(whole[:end])


@given(inners, st.binary(min_size=1, max_size=4))
def test_bytes_behind_a_message_are_an_error(message: Inner, more: bytes) -> None:
    with pytest.raises(WireError):
        Inner.decode(message.encode() + more)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_wire_error(data: bytes) -> None:
    for decode in (Inner.decode, Everything.decode, SET.decode):
        try:
            message = decode(data)
        except WireError:
            continue
        assert isinstance(message, Message)


@pytest.mark.parametrize("encoded", ["c000000000000000", "ffffffffffffffff00"])
def test_announced_lengths_are_not_allocated(encoded: str) -> None:
    """A length of 2**62 - 1 is an answer at once, not a buffer."""

    class Holder(Message):
        payload: Bytes

    data = bytes.fromhex(encoded)
    if data[0] == 0xFF:
        with pytest.raises(Incomplete):
            Holder.decode(data)
    else:
        assert Holder.decode(data).payload == b""


def test_lists_are_bounded_by_what_is_there() -> None:
    class Many(Message):
        items: Annotated[tuple[bytes, ...], ListOf(Bytes)]

    with pytest.raises(Incomplete):
        Many.decode(bytes.fromhex("ffffffffffffffff") + b"\0" * 100)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (U8, [256, -1]),
        (U16, [1 << 16]),
        (U32, [1 << 32]),
        (U64, [1 << 64]),
        (I64, [1 << 63]),
    ],
)
def test_numbers_that_do_not_fit_are_our_bug(kind: Any, values: list[int]) -> None:
    codec = kind.__metadata__[0]
    for value in values:
        with pytest.raises(ValueError, match="does not fit"):
            codec.put(bytearray(), value)


@pytest.mark.parametrize("encoded", ["05c000020a0016", "00", "40" + "06" + "00" * 3])
def test_addresses_of_other_families_are_errors(encoded: str) -> None:
    class Target(Message):
        address: Address

    with pytest.raises(WireError):
        Target.decode(bytes.fromhex(encoded))


def test_names_are_no_addresses() -> None:
    class Target(Message):
        address: Address

    with pytest.raises(ValueError, match="no IP address"):
        Target(IPPort("example.org", 22)).encode()


def test_messages_are_frozen_values() -> None:
    message = Inner(7, name="x")
    assert message == Inner(7, "x")
    assert message != Inner(7)
    assert hash(message) == hash(Inner(7, "x"))
    assert Inner(7) == Inner(7, "nobody")
    assert tuple(message) == (7, "x")
    with pytest.raises(AttributeError):
        message.number = 8  # type: ignore[misc]


@pytest.mark.parametrize("arguments", [(), (1, "a", 2)])
def test_messages_need_exactly_their_fields(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        Inner(*arguments)


def test_unknown_messages_of_a_set_are_errors() -> None:
    with pytest.raises(WireError, match="unknown"):
        SET.decode(b"\x05")


def test_declaring_what_is_no_field_is_refused() -> None:
    with pytest.raises(TypeError):

        class Wrong(Message):
            number: int
