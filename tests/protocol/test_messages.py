"""Headers and messages: the vectors, decoding undoes encoding, bounds."""

from __future__ import annotations

from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.protocol.channel import MAX_MESSAGE
from sshoq.protocol.messages import (
    MAX_COMMAND,
    MAX_HEADER,
    OPENINGS,
    REQUESTS,
    X11,
    AgentConnection,
    BoundedReader,
    ChannelHeader,
    ChannelOpening,
    ChannelRequest,
    Confirmation,
    DirectStreamlocal,
    DirectTcp,
    DirectTcpip,
    DirectUdp,
    DirectUdpip,
    Env,
    Exec,
    ExitSignal,
    ExitStatus,
    ForwardedStreamlocal,
    ForwardedTcpip,
    ForwardedUdpip,
    Listening,
    OpenReverseTcp,
    OpenReverseUdp,
    PtyReq,
    Refusal,
    RequestReverseTcp,
    RequestReverseUdp,
    Session,
    Sftp,
    Shell,
    Signal,
    StreamlocalForward,
    Subsystem,
    TcpipForward,
    UdpipForward,
    UnknownChannel,
    WindowChange,
    X11Req,
    encode_request,
    format_address,
    parse_address,
    read_header,
    read_request,
    unmapped,
)
from sshoq.protocol.outcome import CHANNEL_REFUSED, ProtocolError
from sshoq.wire import MAX_VARINT, Incomplete, IPPort, WireError, varint
from tests.protocol.speakers import requests, varints

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
MAPPED = "::ffff:192.0.2.10"

HEADERS = [
    (0, Session(), "c0000000af3627e6000773657373696f6e80007530"),
    (4, Session(), "c0000000af3627e6040773657373696f6e80007530"),
    (0, Sftp(), "c0000000af3627e600047366747080007530"),
    (0, AgentConnection(), "c0000000af3627e600106167656e742d636f6e6e656374696f6e80007530"),
    (0, DirectTcp(IPPort("192.0.2.10", 22)),
     "c0000000af3627e6000a6469726563742d7463708000753004c000020a0016"),
    (0, DirectTcp(IPPort(MAPPED, 22)),
     "c0000000af3627e6000a6469726563742d746370800075300600000000000000000000ffffc000020a0016"),
    (0, DirectUdp(IPPort("2001:db8::1", 443)),
     "c0000000af3627e6000a6469726563742d756470800075300620010db800000000000000000000000101bb"),
    (0, RequestReverseTcp(IPPort("127.0.0.1", 8080), IPPort("::ffff:127.0.0.1", 3000)),
     "c0000000af3627e60013726571756573742d726576657273652d74637080007530047f0000011f90060000"
     "0000000000000000ffff7f0000010bb80bb8"),
    (0, RequestReverseUdp(IPPort("127.0.0.1", 8888), IPPort("::ffff:127.0.0.1", 53)),
     "c0000000af3627e60013726571756573742d726576657273652d75647080007530047f00000122b8060000"
     "0000000000000000ffff7f00000100350035"),
    (0, OpenReverseTcp(IPPort("127.0.0.1", 3000)),
     "c0000000af3627e600276f70656e2d726571756573742d726576657273652d7463702c3132372e302e302e"
     "313a3330303080007530"),
    (0, OpenReverseUdp(IPPort("127.0.0.1", 8888), IPPort("127.0.0.1", 53)),
     "c0000000af3627e600346f70656e2d726571756573742d726576657273652d7564702c3132372e302e302e"
     "313a383838382c3132372e302e302e313a353380007530"),
]

REQUEST_VECTORS = [
    (PtyReq("xterm-256color", 80, 24), True,
     "4062077074792d726571010e787465726d2d323536636f6c6f72405018000000"),
    (Shell(), True, "4062057368656c6c01"),
    (Exec("uname -a"), True, "406204657865630108756e616d65202d61"),
    (Subsystem("sftp"), True, "40620973756273797374656d010473667470"),
    (WindowChange(132, 43), False, "40620d77696e646f772d6368616e67650040842b0000"),
    (Signal("INT"), False, "4062067369676e616c0003494e54"),
    (Signal("HUP"), False, "4062067369676e616c0003485550"),
    (ExitStatus(0), False, "40620b657869742d7374617475730000"),
    (ExitStatus(1), False, "40620b657869742d7374617475730001"),
    (ExitStatus(255), False, "40620b657869742d7374617475730040ff"),
    (ExitSignal("TERM"), False, "40620b657869742d7369676e616c00045445524d000002656e"),
    (X11Req(True, "MIT-MAGIC-COOKIE-1", "00", 0), False,
     "4062077831312d7265710001124d49542d4d414749432d434f4f4b49452d3102303000"),
]

ips = st.one_of(  # in the one spelling that reading gives
    st.binary(min_size=4, max_size=4).map(lambda raw: inet_ntop(AF_INET, raw)),
    st.binary(min_size=16, max_size=16).map(lambda raw: inet_ntop(AF_INET6, raw)))
addresses = st.builds(IPPort, ips, st.integers(0, 0xFFFF))
hosts, ports = st.text(max_size=200), st.integers(0, 0xFFFF)
openings: st.SearchStrategy[ChannelOpening] = st.one_of(
    st.just(Session()), st.just(Sftp()), st.just(AgentConnection()),
    st.builds(DirectTcp, addresses), st.builds(DirectUdp, addresses),
    st.builds(RequestReverseTcp, addresses, addresses),
    st.builds(RequestReverseUdp, addresses, addresses),
    st.builds(OpenReverseTcp, st.none() | addresses),
    st.builds(OpenReverseUdp, addresses, addresses),
    st.builds(DirectTcpip, hosts, ports, hosts, ports),
    st.builds(DirectStreamlocal, hosts), st.builds(DirectUdpip, hosts, ports),
    st.builds(TcpipForward, hosts, ports), st.builds(UdpipForward, hosts, ports),
    st.builds(StreamlocalForward, hosts), st.builds(ForwardedTcpip, varints, hosts, ports),
    st.builds(X11, varints, hosts, ports),
    st.builds(ForwardedStreamlocal, varints), st.builds(ForwardedUdpip, varints, hosts, ports),
)


def written_down(what: str) -> bytes:
    """The bytes in docs/protocol.md on the line behind, or at the end of, the line of that text."""
    lines = iter(DOCUMENT.splitlines())
    line = next(line for line in lines if what in line)
    digits = line.partition(what)[2].split() or next(lines).split()
    return bytes.fromhex("".join(digits))


@pytest.mark.parametrize(("text", "opening"), [
    ("direct-tcpip to localhost:80 for a caller at 127.0.0.1:40000, conversation 0",
     DirectTcpip("localhost", 80, "127.0.0.1", 40000)),
    ("client: tcpip-forward, localhost, port 0", TcpipForward("localhost", 0)),
    ("forwarded-tcpip for listener 4, caller 127.0.0.1:40000",
     ForwardedTcpip(4, "127.0.0.1", 40000)),
])
def test_headers_are_as_the_document_has_them(text: str, opening: ChannelOpening) -> None:
    assert ChannelHeader(0, opening, MAX_MESSAGE).encode() == written_down(text)


def test_answers_are_as_the_document_has_them() -> None:
    listening = encode_request(Listening(43210))
    confirmation = varint(91) + Confirmation(MAX_MESSAGE).encode()
    assert written_down("confirmation, listening 43210") == confirmation + listening
    refusal = varint(92) + Refusal(2, "Connection refused").encode()
    assert written_down("or: refusal, then FIN") == refusal


@pytest.mark.parametrize(("conversation_id", "opening", "encoded"), HEADERS)
def test_header_vectors(conversation_id: int, opening: ChannelOpening, encoded: str) -> None:
    header, size = read_header(bytes.fromhex(encoded))
    assert (header.conversation_id, header.opening) == (conversation_id, opening)
    assert header.max_message == 30000
    repeated_port = 2 if opening.ignores_rest else 0
    assert size == len(encoded) // 2 - repeated_port
    assert header.encode().hex() == encoded


@pytest.mark.parametrize(("request_", "want_reply", "encoded"), REQUEST_VECTORS)
def test_request_vectors(request_: ChannelRequest, want_reply: bool, encoded: str) -> None:
    assert encode_request(request_, want_reply).hex() == encoded
    assert _decode(bytes.fromhex(encoded)) == (request_, want_reply)


def _decode(data: bytes) -> tuple[ChannelRequest, bool]:
    reader = BoundedReader(data, 8)
    assert reader.varint() == 98
    result = read_request(reader)
    assert not reader.remaining
    return result


@given(varints, openings, varints)
def test_reading_a_header_undoes_encoding(
        conversation_id: int, opening: ChannelOpening, max_message: int) -> None:
    encoded = ChannelHeader(conversation_id, opening, max_message).encode()
    header, size = read_header(encoded + b"what follows")
    assert (header.conversation_id, header.opening, header.max_message) == (
        conversation_id, opening, max_message)
    assert encoded[size:] in (b"", encoded[-2:])
    for end in range(size):
        with pytest.raises(Incomplete):
            read_header(encoded[:end])


@given(requests, st.booleans())
def test_reading_a_request_undoes_encoding(request_: ChannelRequest, want_reply: bool) -> None:
    assert _decode(encode_request(request_, want_reply)) == (request_, want_reply)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_header_or_a_protocol_error(data: bytes) -> None:
    try:
        header, size = read_header(varint(0xAF3627E6) + data)
    except (Incomplete, ProtocolError):
        return
    assert size <= 8 + len(data)
    assert isinstance(header.opening, ChannelOpening)


@given(st.sampled_from(sorted(OPENINGS)), st.binary(max_size=60))
def test_any_fields_give_a_header_or_a_protocol_error(kind: str, fields: bytes) -> None:
    start = varint(0xAF3627E6) + b"\0" + varint(len(kind)) + kind.encode() + varint(30000)
    try:
        read_header(start + fields)
    except (Incomplete, ProtocolError):
        return


@pytest.mark.parametrize("fields", ["05c000020a0016", "00", "7fff00"])
def test_an_unknown_address_family_refuses_the_channel(fields: str) -> None:
    encoded = ChannelHeader(0, Session(), 30000).encode().replace(b"\x07session", b"\x0adirect-tcp")
    with pytest.raises(ProtocolError) as caught:
        read_header(encoded + bytes.fromhex(fields))
    assert caught.value.code == CHANNEL_REFUSED == 0x10D


@pytest.mark.parametrize("kind", [
    "x12", "", "session,127.0.0.1:80", "direct-tcp,1", "SESSION", "x" * 256,
])
def test_unknown_types_are_kept_by_name(kind: str) -> None:
    encoded = ChannelHeader(0, UnknownChannel(kind), 30000).encode()
    header, _ = read_header(encoded)
    assert header.opening == UnknownChannel(kind)
    assert header.opening.type_text == kind


@pytest.mark.parametrize("kind", [
    "open-request-reverse-tcp,localhost:80", "open-request-reverse-tcp,1.2.3.4:99999",
    "open-request-reverse-tcp,1.2.3.4", "open-request-reverse-tcp,[1.2.3.4]:80",
    "open-request-reverse-tcp,1.2.3.4:1,1.2.3.4:2", "open-request-reverse-udp",
    "open-request-reverse-udp,1.2.3.4:1", "open-request-reverse-tcp,::1:80",
    "open-request-reverse-tcp,1.2.3.4\0:80", "open-request-reverse-tcp,1.2.3.4:-1",
])
def test_types_with_bad_addresses_are_refused(kind: str) -> None:
    encoded = ChannelHeader(0, UnknownChannel(kind), 30000).encode()
    with pytest.raises(ProtocolError):
        read_header(encoded)


@pytest.mark.parametrize("size", [257, 16384, MAX_VARINT])
def test_long_types_are_refused_before_they_arrive(size: int) -> None:
    with pytest.raises(ProtocolError):
        read_header(varint(0xAF3627E6) + b"\0" + varint(size))


def test_no_header_is_longer_than_its_bound() -> None:
    longest = ChannelHeader(MAX_VARINT, UnknownChannel("x" * 256), MAX_VARINT).encode()
    assert len(longest) < MAX_HEADER


@given(addresses)
def test_parsing_an_address_undoes_formatting(address: IPPort) -> None:
    assert parse_address(format_address(address)) == address


def test_addresses_have_one_spelling() -> None:
    assert parse_address("[0:0:0:0:0:0:0:1]:80") == IPPort("::1", 80)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_wire_error(text: str) -> None:
    try:
        address = parse_address(text)
    except WireError:
        return
    assert 0 <= address.port <= 0xFFFF


def test_mapped_addresses_are_ipv4() -> None:
    assert unmapped(IPPort(MAPPED, 22)) == IPPort("192.0.2.10", 22)
    assert unmapped(IPPort("::ffff:0:1", 22)) == IPPort("::ffff:0:1", 22)
    assert unmapped(IPPort("192.0.2.10", 22)) == IPPort("192.0.2.10", 22)


@pytest.mark.parametrize("start", [
    varint(300),
    varint(MAX_VARINT),
    b"\x04exec\x00" + varint(MAX_COMMAND + 30),
    b"\x07pty-req\x01" + varint(1 << 20),
    b"\x06signal\x00" + varint(5000),
    b"\x03env\x00" + varint(1 << 20),
])
def test_long_strings_are_refused_before_they_arrive(start: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_request(BoundedReader(start, 0))


def test_short_ones_are_waited_for() -> None:
    with pytest.raises(Incomplete):
        read_request(BoundedReader(b"\x04exec\x00" + varint(MAX_COMMAND), 0))


@pytest.mark.parametrize("request_", [
    PtyReq("t" * 257, 80, 24), PtyReq("", 80, 24, modes=b"m" * 4097), Exec("c" * (MAX_COMMAND + 1)),
    Signal("S" * 65), Env("v" * 257, ""), Subsystem("s" * 257),
])
def test_fields_over_their_bounds_are_refused(request_: ChannelRequest) -> None:
    with pytest.raises(ProtocolError):
        _decode(encode_request(request_))


def test_a_command_of_128_kib_is_fine() -> None:
    request = Exec("c" * MAX_COMMAND)
    assert _decode(encode_request(request)) == (request, False)


@pytest.mark.parametrize("name", ["", "keepalive@openssh.com", "sftp", "exec\0", "Exec"])
def test_unknown_requests_are_protocol_errors(name: str) -> None:
    with pytest.raises(ProtocolError, match="unknown channel request"):
        read_request(BoundedReader(varint(len(name)) + name.encode() + b"\0", 0))


def test_every_request_has_a_bound() -> None:
    assert all(kind.bound() < 200_000 for kind in REQUESTS.values())
