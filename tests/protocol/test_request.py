"""The CONNECT and its answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.interactive import (
    MAX_ANSWERS,
    MAX_TEXT,
    Challenge,
    Prompt,
    answer_authorization,
    challenge_text,
)
from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.http3 import RequestStream
from sshoq.protocol.outcome import Code, ProtocolError
from sshoq.protocol.request import (
    FAILED,
    MAX_BANNER,
    NOT_FOUND,
    TOO_EARLY,
    UNAUTHORIZED,
    ConnectRequest,
    Response,
    accepted,
    escape,
    http_date,
    parse_request,
    parse_response,
    query_value,
    refuse_request,
    refused,
    unescape,
)
from sshoq.protocol.version import OUR_VERSION, PeerTraits
from tests.golden_replay import go_traits
from tests.protocol.speakers import our_traits

NOW = 1795396992.0
PATH = "/sshoq-server"


def ask(**changes: object) -> ConnectRequest:
    values: dict[str, object] = {"authority": "example.org:443", "path": PATH, "user": "alice",
                                 "authorization": "Basic YWxpY2U6czNjcmV0", **changes}
    return ConnectRequest(**values)  # type: ignore[arg-type]  # a test may ask for nonsense


def with_field(name: str, value: str | None) -> list[tuple[bytes, bytes]]:
    fields = [(key, content) for key, content in ask().fields() if key != name.encode()]
    return fields if value is None else [(name.encode(), value.encode()), *fields]


# --------------------------------------------------------------------------- request


def test_the_fields_of_a_request() -> None:
    assert ask().fields() == [
        (b":method", b"CONNECT"), (b":protocol", b"ssh3"), (b":scheme", b"https"),
        (b":authority", b"example.org:443"), (b":path", b"/sshoq-server?user=alice"),
        (b"authorization", b"Basic YWxpY2U6czNjcmV0"), (b"user-agent", str(OUR_VERSION).encode()),
    ]


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30),
       st.text(max_size=30), st.text("abcXYZ0189+/=", min_size=1, max_size=50))
def test_the_server_reads_what_the_client_asks(user: str, path: str, token: str) -> None:
    request = ask(user=user, path="/" + path, authorization=f"Bearer {token}")
    [fields] = RequestStream().receive(request.encode(), False)
    read = parse_request(fields)
    assert (read.user, read.path, read.authorization) == (user, "/" + path, f"Bearer {token}")
    assert (read.authority, read.user_agent) == (request.authority, request.user_agent)
    assert read.is_ssh3


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=8))
def test_any_fields_are_a_request_or_a_message_error(fields: list[tuple[bytes, bytes]]) -> None:
    for some in (fields, [*ask().fields(), *fields]):
        try:
            parse_request(some)
        except ProtocolError as error:
            assert error.code == Code.MESSAGE_ERROR  # noqa: PT017  # both ways are right


@pytest.mark.parametrize("fields", [
    [], with_field(":method", None), with_field(":scheme", None), with_field(":path", None),
    with_field(":authority", None), with_field(":path", ""), with_field(":authority", ""),
    [*ask().fields(), (b":scheme", b"https")],  # pseudo-fields come first, and once
    [(b":scheme", b"https"), *ask().fields()],
    with_field(":unknown", "x"), with_field("User-Agent", "x"), [*ask().fields(), (b"", b"x")],
    [*ask().fields(), (b"authorization", b"Basic other")],
    with_field("x-own", "a\nb"), with_field("x-own", "a\0b"), with_field(":path", "/%zz"),
    with_field(":path", "/%"), with_field(":status", "200"),
])
def test_malformed_requests(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_request(fields)
    assert caught.value.code == Code.MESSAGE_ERROR


@pytest.mark.parametrize(("path", "user"), [
    ("/p?user=alice", "alice"), ("/p?user=a+b%2B", "a b+"), ("/p?user=%C3%A9", "é"),
    ("/p?x=1&user=alice&user=bob", "alice"), ("/p?user", None), ("/p?user=", None), ("/p", None),
    ("/p?User=alice", None), ("/p?user=%zz&user=bob", "bob"), ("/p?user=a;b", None),
    ("/p?user=a%00b", None), ("/p?user=a%0Ab", None), ("/p?user=%FF", None), ("/p?us%65r=x", "x"),
])
def test_the_user_comes_from_the_query(path: str, user: str | None) -> None:
    assert parse_request(with_field(":path", path)).user == user


@given(st.text(max_size=40))
def test_unescaping_undoes_escaping(text: str) -> None:
    assert unescape(escape(text)) == text
    assert escape(text).isascii()
    assert query_value("user=" + escape(text, also=b" ").replace(" ", "+"), "user") == text


@pytest.mark.parametrize(("registered", "asked", "same"), [
    ("/p", "/p", True), ("/p", "/p/", False), ("/p", "/pp", False), ("/p", "/", False),
    ("/p/", "/p/", True), ("/p/", "/p/x", True), ("/p/", "/p", False), ("/", "/any", True),
    ("/é", "/é", True),
])
def test_which_path_is_ours(registered: str, asked: str, same: bool) -> None:
    assert ask(path=asked).is_for(registered) is same


# --------------------------------------------------------------------------- decisions


@pytest.mark.parametrize(("request_", "status"), [
    (ask(), None),
    (ask(path="/"), 404),
    (ask(path="/", user_agent="curl/8"), 404),
    (ask(is_ssh3=False), 404),
    (ask(user_agent="curl/8"), 403),
    (ask(user_agent=""), 403),
    (ask(user_agent="SSH 4.0 x/y 1.0.0", user=None), 403),
    (ask(user=None), 401),
    (ask(authorization=None), None),
])
def test_what_is_refused_without_a_look_at_credentials(
        request_: ConnectRequest, status: int | None) -> None:
    response = refuse_request(request_, PATH)
    assert (response and response.status) == status


@pytest.mark.parametrize(("method", "protocol"), [("GET", None), ("CONNECT", None),
                                                  ("CONNECT", "websocket"), ("POST", "ssh3")])
def test_other_requests_than_ours_find_nothing(method: str, protocol: str | None) -> None:
    fields = dict(ask().fields()) | {b":method": method.encode()}
    del fields[b":protocol"]
    if protocol is not None:
        fields = {b":protocol": protocol.encode(), **fields}
    assert refuse_request(parse_request(list(fields.items())), PATH) is NOT_FOUND


# --------------------------------------------------------------------------- response


def read_back(response: Response) -> tuple[dict[bytes, bytes], bytes]:
    """The fields, and what is behind the HEADERS frame."""
    data = response.encode(NOW)
    [fields] = RequestStream().receive(data, response.ends)
    size = 1 << (data[1] >> 6)
    headers = int.from_bytes(data[1:1 + size], "big") & ((1 << (8 * size - 2)) - 1)
    return dict(fields), data[1 + size + headers:]


@pytest.mark.parametrize(("response", "status", "body"), [
    (accepted(go_traits()), 200, b""), (UNAUTHORIZED, 401, b""), (TOO_EARLY, 425, b""),
    (FAILED, 500, b""), (NOT_FOUND, 404, b"404 page not found\n"),
    (Response(403, "Unsupported version: x"), 403, b"Unsupported version: x"),
])
def test_responses(response: Response, status: int, body: bytes) -> None:
    fields, data = read_back(response)
    assert int(fields[b":status"]) == status
    assert fields[b"server"] == str(OUR_VERSION).encode()
    assert fields[b"date"] == b"Mon, 23 Nov 2026 01:23:12 GMT"
    assert b"www-authenticate" not in fields
    assert response.ends is (status != 200)
    if body:
        assert data == bytes([0, len(body)]) + body
        assert int(fields[b"content-length"]) == len(body)
        assert fields[b"content-type"] == b"text/plain; charset=utf-8"
        assert fields[b"x-content-type-options"] == b"nosniff"
    else:
        assert data == b""
        assert b"content-length" not in fields


def test_the_banner_is_for_those_who_announced_it() -> None:
    banner = "Authorized use only.\nÄlles wird aufgezeichnet.\n"
    silent = our_traits(OURS & ~Extension.BANNER)
    for make in (accepted, refused):
        for traits, expected in ((our_traits(), banner), (go_traits(), ""), (silent, "")):
            stream = RequestStream(keep=MAX_BANNER)
            [fields] = stream.receive(make(traits, banner).encode(NOW), False)
            head = parse_response(fields)
            assert head.banner_size == len(stream.body)
            assert stream.body.decode() == expected
            assert head.version == OUR_VERSION


@pytest.mark.parametrize("banner", ["x" * 200_000, "\u00ff" * 100_000, "~" * MAX_BANNER])
def test_a_long_banner_is_cut_to_what_the_peer_takes(banner: str) -> None:
    stream = RequestStream(keep=MAX_BANNER)
    [fields] = stream.receive(accepted(our_traits(), banner).encode(NOW), False)
    assert parse_response(fields).banner_size == len(stream.body) == MAX_BANNER


@pytest.mark.parametrize("raw", [b"%%%", b"-1", b"", "ä".encode(), b"131073", b"9" * 30])
def test_a_banner_of_no_sensible_size_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_response([(b":status", b"200"), (b"sshoq-banner", raw)])


@pytest.mark.parametrize("server", [None, "nginx", "SSH 3.0 x 1.0.0rc1"])
def test_a_server_without_a_version_is_still_read(server: str | None) -> None:
    fields = [(b":status", b"200")]
    if server is not None:
        fields.append((b"server", server.encode()))
    head = parse_response(fields)
    assert head.version is None
    assert head.server == (server or "")


@pytest.mark.parametrize("fields", [
    [], [(b":status", b"")], [(b":status", b"20")], [(b":status", b"abc")], [(b":status", b"-20")],
    [(b"server", b"x"), (b":status", b"200")], [(b":status", b"200"), (b":path", b"/")],
    [(b":status", b"200"), (b":status", b"200")], [(b":status", "２００".encode())],  # noqa: RUF001
])
def test_malformed_responses(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_response(fields)
    assert caught.value.code == Code.MESSAGE_ERROR


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=8))
def test_any_fields_are_a_response_or_an_error(fields: list[tuple[bytes, bytes]]) -> None:
    try:
        parse_response([(b":status", b"200"), *fields])
    except ProtocolError:
        return


@pytest.mark.parametrize(("moment", "text"), [
    (0, "Thu, 01 Jan 1970 00:00:00 GMT"), (784111777, "Sun, 06 Nov 1994 08:49:37 GMT"),
])
def test_dates(moment: int, text: str) -> None:
    assert http_date(moment) == text


def test_a_refusal_names_the_methods_to_clients_of_ours_only() -> None:
    ours = PeerTraits(OURS, OURS)
    fields = refused(ours, "", "publickey,password").fields(0)
    assert parse_response(fields).methods == ("publickey", "password")
    assert parse_response(refused(ours, "", "").fields(0)).methods == ()
    assert parse_response(refused(PeerTraits(), "", "publickey").fields(0)).methods is None


@pytest.mark.parametrize("is_partial", [False, True])
def test_a_refusal_tells_clients_of_ours_alone_that_a_step_is_done(is_partial: bool) -> None:
    for traits, told in ((PeerTraits(OURS), is_partial), (PeerTraits(), False)):
        answer = refused(traits, "", "password", is_partial=is_partial)
        assert parse_response(answer.fields(0)).is_partial is told


@pytest.mark.parametrize(
    ("traits", "told"),
    [
        (PeerTraits(OURS), "AAAA"),
        (PeerTraits(OURS & ~Extension.KEYBOARD_INTERACTIVE), ""),
        (PeerTraits(), ""),
    ],
)
def test_a_challenge_goes_to_clients_that_know_it_alone(traits: PeerTraits, told: str) -> None:
    answer = refused(traits, "", "password", challenge="AAAA")
    assert parse_response(answer.fields(0)).challenge == told
    assert parse_response(refused(traits).fields(0)).challenge == ""


@given(st.characters(codec="utf-8"))
def test_the_longest_challenge_and_answers_fit_a_field_section(character: str) -> None:
    size = MAX_TEXT // len(character.encode())
    challenge = challenge_text(Challenge("", character * size, (Prompt("", False),)))
    answer = refused(PeerTraits(OURS), "", "password", challenge=challenge)
    [fields] = RequestStream().receive(answer.encode(0), False)
    assert parse_response(fields).challenge == challenge
    size = (MAX_ANSWERS - 3) // len(character.encode())
    answers = answer_authorization([character * size])
    [fields] = RequestStream().receive(ask(authorization=answers).encode(), False)
    assert parse_request(fields).authorization == answers
