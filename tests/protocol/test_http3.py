"""HTTP/3: settings, fields and frames, the vectors and what breaks the rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pylsqpack import Decoder, Encoder

from sshoq.protocol.extensions import OURS, SETTING
from sshoq.protocol.http3 import (
    MAX_COMPRESSED,
    MAX_SETTINGS,
    MAX_SKIPPED,
    ControlStream,
    RequestStream,
    control_stream,
    decode_fields,
    decode_settings,
    encode_data,
    encode_headers,
)
from sshoq.protocol.outcome import Code, ConnectionFault, ProtocolError
from sshoq.wire import MAX_VARINT, varint
from tests.protocol.speakers import cut

REQUEST = bytes.fromhex(
    "0140980000500f6578616d706c652e6f72673a343433cf51182f7373686f712d7365727665723f757365723d616c"
    "696365d727023a70726f746f636f6c04737368335f45164261736963205957787059325536637a4e6a636d56305f"
    "503d53534820332e30206578616d706c652f696d706c20312e302e30206578706572696d656e74616c5f73706563"
    "5f76657273696f6e3d616c7068612d3030")
RESPONSE_200 = bytes.fromhex(
    "0140420000d95f4d3c53534820332e302068347368352f7373686f7120302e322e31206578706572696d656e7461"
    "6c5f737065635f76657273696f6e3d616c7068612d3030")
RESPONSE_401 = bytes.fromhex(
    "01404700005f09033430315f4d3c53534820332e302068347368352f7373686f7120302e322e3120657870657269"
    "6d656e74616c5f737065635f76657273696f6e3d616c7068612d3030")
SERVER = b"SSH 3.0 h4sh5/sshoq 0.2.1 experimental_spec_version=alpha-00"
REQUEST_FIELDS = [
    (b":authority", b"example.org:443"), (b":method", b"CONNECT"),
    (b":path", b"/sshoq-server?user=alice"), (b":scheme", b"https"), (b":protocol", b"ssh3"),
    (b"authorization", b"Basic YWxpY2U6czNjcmV0"),
    (b"user-agent", b"SSH 3.0 example/impl 1.0.0 experimental_spec_version=alpha-00"),
]

field_names = st.sampled_from([
    b":method", b":status", b":path", b"authorization", b"user-agent", b"server", b"date", b"x-own",
])
fields = st.lists(st.tuples(field_names, st.binary(max_size=100)), min_size=1,
                  max_size=20)


def frame(kind: int, payload: bytes) -> bytes:
    return varint(kind) + varint(len(payload)) + payload


def code_of(error: pytest.ExceptionInfo[ProtocolError]) -> Code:
    return Code(error.value.code)


def code_raised(act: Callable[[], object]) -> Code | None:
    """None if nothing is raised; whatever is no ProtocolError is the test's failure."""
    try:
        act()
    except ProtocolError as error:
        return Code(error.code)
    return None


# --------------------------------------------------------------------------- fields


@pytest.mark.parametrize(("data", "listed"), [
    (REQUEST, REQUEST_FIELDS),
    (RESPONSE_200, [(b":status", b"200"), (b"server", SERVER)]),
    (RESPONSE_401, [(b":status", b"401"), (b"server", SERVER)]),
])
def test_header_vectors(data: bytes, listed: list[tuple[bytes, bytes]]) -> None:
    assert RequestStream().receive(data, False) == [listed]


@given(fields)
def test_decoding_undoes_encoding(some: list[tuple[bytes, bytes]]) -> None:
    assert RequestStream().receive(encode_headers(some), False) == [some]


@given(fields)
def test_rail_11_no_field_is_marked_never_indexed(some: list[tuple[bytes, bytes]]) -> None:
    """Walk over the block as RFC 9204 4.5 lays it out and look at each N bit."""
    data = encode_headers(some)
    size = 1 << (data[1] >> 6)
    block = data[1 + size:]
    assert block[:2] == b"\0\0"  # no dynamic table: required insert count and base are 0
    position, count = 2, 0
    while position < len(block):
        first = block[position]
        count += 1
        if first & 0x80:  # indexed: of the static table
            assert first & 0x40
            position = _skip_integer(block, position, 6)
            continue
        if first & 0x40:  # a literal with a name of the static table
            assert first & 0x10
            assert not first & 0x20
            position = _skip_integer(block, position, 4)
        else:  # a literal with a literal name
            assert first & 0xF0 == 0x20
            position = _skip_string(block, position, 3)
        position = _skip_string(block, position, 7)
    assert count == len(some)


def _read_integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    limit = (1 << bits) - 1
    value = block[position] & limit
    position += 1
    shift = 0
    while value >= limit and shift >= 0:
        value += (block[position] & 0x7F) << shift
        shift = shift + 7 if block[position] & 0x80 else -1
        position += 1
    return value, position


def _skip_integer(block: bytes, position: int, bits: int) -> int:
    return _read_integer(block, position, bits)[1]


def _skip_string(block: bytes, position: int, bits: int) -> int:
    size, position = _read_integer(block, position, bits)
    return position + size


@given(st.binary(max_size=200))
def test_any_block_gives_fields_or_an_error(block: bytes) -> None:
    code = code_raised(lambda: decode_fields(block))
    assert code in (None, Code.QPACK_DECOMPRESSION_FAILED, Code.EXCESSIVE_LOAD)


def test_blocks_that_need_a_dynamic_table_are_errors_of_the_connection() -> None:
    encoder = Encoder()
    decoder = Decoder(4096, 16)
    instructions = encoder.apply_settings(4096, 16)
    blocks = []
    for _ in range(4):
        more, block = encoder.encode(0, [(b"x-own", b"value" * 10)])
        instructions += more
        blocks.append(block)
    decoder.feed_encoder(instructions)
    assert blocks[-1][:1] != b"\0"  # the control: this block does refer to the table
    with pytest.raises(ConnectionFault) as caught:
        decode_fields(blocks[-1])
    assert code_of(caught) is Code.QPACK_DECOMPRESSION_FAILED


@pytest.mark.parametrize("some", [
    [(b"x", b"y")] * 65, [(b"x", b"y" * 40_000)] * 2, [(b"content-security-policy", b"")] * 65,
])
def test_decoded_fields_are_bounded(some: list[tuple[bytes, bytes]]) -> None:
    block = Encoder().encode(0, some)[1]
    with pytest.raises(ProtocolError) as caught:
        decode_fields(block)
    assert code_of(caught) is Code.EXCESSIVE_LOAD


def test_small_blocks_that_decode_to_much_are_bounded() -> None:
    """Static entries: one byte each, up to a hundred decoded."""
    with pytest.raises(ProtocolError):
        decode_fields(b"\0\0" + b"\xff\x16" * 8000)


# --------------------------------------------------------------------------- settings


def test_our_control_stream() -> None:
    data = control_stream(OURS)
    assert data[0] == 0
    assert data[1] == 4
    assert decode_settings(data[3:]) == {0x33: 1, 0x08: 1, SETTING: int(OURS)}
    stream = ControlStream()
    stream.receive(data[1:], False)
    assert stream.settings == {0x33: 1, 0x08: 1, SETTING: int(OURS)}


def test_a_go_peers_control_stream() -> None:
    stream = ControlStream()
    stream.receive(bytes.fromhex("04023301"), False)
    assert stream.settings == {0x33: 1}


@pytest.mark.parametrize(("payload", "code"), [
    ("33013301", Code.SETTINGS_ERROR), ("3302", Code.SETTINGS_ERROR),
    ("0802", Code.SETTINGS_ERROR), ("0000", Code.SETTINGS_ERROR), ("0201", Code.SETTINGS_ERROR),
    ("0401", Code.SETTINGS_ERROR), ("0510", Code.SETTINGS_ERROR), ("33", Code.FRAME_ERROR),
    ("33c0", Code.FRAME_ERROR),
])
def test_wrong_settings(payload: str, code: Code) -> None:
    with pytest.raises(ConnectionFault) as caught:
        decode_settings(bytes.fromhex(payload))
    assert code_of(caught) is code


@given(st.dictionaries(st.integers(64, MAX_VARINT), st.integers(0, MAX_VARINT), max_size=20))
def test_unknown_settings_are_fine(settings: dict[int, int]) -> None:
    payload = b"".join(varint(key) + varint(value) for key, value in settings.items())
    assert decode_settings(payload) == settings


@pytest.mark.parametrize(("data", "fin", "code"), [
    (frame(0x07, b"\0"), False, Code.MISSING_SETTINGS),
    (frame(0x21, b"grease"), False, Code.MISSING_SETTINGS),
    (frame(0x00, b""), False, Code.MISSING_SETTINGS),
    (varint(4) + varint(MAX_SETTINGS + 1), False, Code.EXCESSIVE_LOAD),
    (frame(4, b"") + frame(4, b""), False, Code.FRAME_UNEXPECTED),
    (frame(4, b"") + frame(0, b"x"), False, Code.FRAME_UNEXPECTED),
    (frame(4, b"") + frame(1, b"x"), False, Code.FRAME_UNEXPECTED),
    (frame(4, b"") + frame(6, b"x"), False, Code.FRAME_UNEXPECTED),
    (frame(4, b""), True, Code.CLOSED_CRITICAL_STREAM),
    (frame(4, b"") + frame(0x21, b"x" * (MAX_SKIPPED + 1)), False, Code.EXCESSIVE_LOAD),
])
def test_what_must_not_be_on_a_control_stream(data: bytes, fin: bool, code: Code) -> None:
    with pytest.raises(ConnectionFault) as caught:
        ControlStream().receive(data, fin)
    assert code_of(caught) is code


def test_goaway_and_unknown_frames_are_skipped() -> None:
    stream = ControlStream()
    stream.receive(frame(4, bytes.fromhex("3301")) + frame(7, b"\0") + frame(0x21, b"x"), False)
    assert stream.settings == {0x33: 1}


# --------------------------------------------------------------------------- frames


@given(fields, st.lists(st.integers(0, 3000), max_size=8))
def test_frames_cut_anywhere_are_the_same(
        some: list[tuple[bytes, bytes]], places: list[int]) -> None:
    data = frame(0x21, b"grease") + encode_headers(some) + encode_data(b"body") + frame(0x40, b"")
    stream = RequestStream()
    blocks = [block for piece in cut(data, places) for block in stream.receive(piece, False)]
    assert blocks == [some]
    assert stream.receive(b"", True) == []


@given(st.lists(st.binary(max_size=60), max_size=4), st.booleans())
def test_any_bytes_give_blocks_or_an_error(pieces: list[bytes], control: bool) -> None:
    stream = ControlStream() if control else RequestStream()

    def feed() -> None:
        for piece in pieces:
            stream.receive(piece, False)
        stream.receive(b"", True)

    code_raised(feed)


@pytest.mark.parametrize(("data", "fin", "code", "whole"), [
    (encode_data(b"early"), False, Code.FRAME_UNEXPECTED, True),
    (frame(4, b""), False, Code.FRAME_UNEXPECTED, True),
    (frame(7, b""), False, Code.FRAME_UNEXPECTED, True),
    (frame(8, b""), False, Code.FRAME_UNEXPECTED, True),
    (REQUEST[:-1], True, Code.FRAME_ERROR, True),
    (REQUEST + b"\x40", True, Code.FRAME_ERROR, True),
    (b"", True, Code.REQUEST_INCOMPLETE, False),
    (frame(0x21, b"x"), True, Code.REQUEST_INCOMPLETE, False),
    (varint(1) + varint(MAX_COMPRESSED + 1), False, Code.EXCESSIVE_LOAD, False),
    (varint(1) + varint(MAX_VARINT), False, Code.EXCESSIVE_LOAD, False),
    (REQUEST + frame(0, b"x" * (MAX_SKIPPED + 1)), False, Code.EXCESSIVE_LOAD, False),
    (REQUEST * 9, False, Code.EXCESSIVE_LOAD, False),
])
def test_what_must_not_be_on_a_request_stream(
        data: bytes, fin: bool, code: Code, whole: bool) -> None:
    """`whole`: the connection ends with it."""
    with pytest.raises(ProtocolError) as caught:
        RequestStream().receive(data, fin)
    assert code_of(caught) is code
    assert isinstance(caught.value, ConnectionFault) is whole


def test_skipped_bytes_are_not_kept() -> None:
    stream = RequestStream()
    stream.receive(REQUEST + varint(0) + varint(MAX_SKIPPED), False)
    for _ in range(MAX_SKIPPED // 1024 - 1):
        assert stream.receive(b"x" * 1024, False) == []
    assert stream._kept is None
