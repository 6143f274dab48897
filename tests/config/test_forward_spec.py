"""Forwarding specifications of OpenSSH and of the Go client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.config.forward_spec import (
    Forward,
    parse_forward,
    parse_go_forward,
    parse_go_forwards,
    parse_stdio_forward,
)
from sshoq.config.lexer import ConfigSyntaxError


@pytest.mark.parametrize(
    ("text", "listen", "connect"),
    [
        ("80:h:81", "80", "[h]:81"),
        ("b:80:h:81", "[b]:80", "[h]:81"),
        (":80:h:81", "[]:80", "[h]:81"),
        ("[::1]:80:[::2]:81", "[::1]:80", "[::2]:81"),
        ("80:/s", "80", "/s"),
        ("b:80:/s", "[b]:80", "/s"),
        ("/s:/t", "/s", "/t"),
        ("/s:h:81", "/s", "[h]:81"),
        ("80:a\\:b:81", "80", "[a:b]:81"),
        ("ssh:h:http", "22", "[h]:80"),
        (" 80:h:81:", "80", "[h]:81"),
    ],
)
def test_local_forwards(text: str, listen: str, connect: str) -> None:
    forward = parse_forward(text)
    assert (forward.listen_text(), forward.connect_text()) == (listen, connect)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        "80:h",
        "0:h:1",
        "80:h:0",
        "80:h:x",
        "a:b:c:d:e",
        "[a:80:h:1",
        "[a]b:80:h:1",
        "x\\",
        "1:2:3:4:5",
    ],
)
def test_what_is_no_local_forward(text: str) -> None:
    with pytest.raises(ConfigSyntaxError):
        parse_forward(text)


def test_a_remote_port_may_be_chosen_by_the_server() -> None:
    assert parse_forward("0:h:1", remote=True).listen_port == 0


def test_dynamic_forwards_have_no_target() -> None:
    assert parse_forward("1080", dynamic=True) == Forward(listen_port=1080, dynamic=True)
    assert parse_forward("[::]:1080", dynamic=True).listen_host == "::"
    with pytest.raises(ConfigSyntaxError):
        parse_forward("80:h:81", dynamic=True)


def test_paths_and_hosts_have_bounds() -> None:
    assert parse_forward("/" + "s" * 106 + ":h:1").listen_path
    for text in ("/" + "s" * 107 + ":h:1", "80:" + "h" * 1025 + ":1"):
        with pytest.raises(ConfigSyntaxError):
            parse_forward(text)


def test_udp_is_said_in_front() -> None:
    forward = parse_forward("udp:53:resolver:53")
    assert (forward.protocol, forward.listen_port, forward.connect_host) == ("udp", 53, "resolver")
    with pytest.raises(ConfigSyntaxError):
        parse_forward("udp:53", dynamic=True)


@pytest.mark.parametrize(
    ("text", "listen", "connect"),
    [
        ("8080@127.0.0.1@3000", "[127.0.0.1]:8080", "[127.0.0.1]:3000"),
        ("10.0.0.1@8080@::1@3000", "[10.0.0.1]:8080", "[::1]:3000"),
        ("0@::1@3000", "[127.0.0.1]:0", "[::1]:3000"),
    ],
)
def test_the_go_client_separates_by_at_signs(text: str, listen: str, connect: str) -> None:
    forward = parse_forward(text)
    assert (forward.listen_text(), forward.connect_text()) == (listen, connect)


@pytest.mark.parametrize(
    "text", ["80:u@h:81", "x@127.0.0.1@1", "80@host@1", "80@127.0.0.1@0", "a@b", "80@1.2.3.4@x"]
)
def test_other_at_signs_are_not_the_go_client_s(text: str) -> None:
    assert parse_go_forward(text) is None


def test_go_lists_are_separated_by_commas() -> None:
    forwards = parse_go_forwards("1@127.0.0.1@2,3@127.0.0.1@4", "udp")
    assert [(f.listen_port, f.protocol) for f in forwards] == [(1, "udp"), (3, "udp")]
    with pytest.raises(ConfigSyntaxError):
        parse_go_forwards("1@127.0.0.1@2,x")


def test_a_stdio_forward_is_a_host_and_port_or_a_path() -> None:
    assert parse_stdio_forward("h:1") == Forward(connect_host="h", connect_port=1)
    assert parse_stdio_forward("/s") == Forward(connect_path="/s")
    for text in ("h", "1", "h:0", "h:1:2", "/a:/b", ""):
        with pytest.raises(ConfigSyntaxError):
            parse_stdio_forward(text)


@given(st.text("80ah:/[]\\@.,"), st.booleans(), st.booleans())
def test_any_text_is_a_forward_or_refused(text: str, dynamic: bool, remote: bool) -> None:
    try:
        forward = parse_forward(text, dynamic=dynamic, remote=remote)
    except ConfigSyntaxError:
        return
    assert forward.listen_port is not None or forward.listen_path is not None


def test_forwards_are_values() -> None:
    assert len({parse_forward("80:h:81"), parse_forward("80:h:81"), parse_forward("81:h:81")}) == 2
    assert "[h]:81" in repr(parse_forward("80:h:81"))
