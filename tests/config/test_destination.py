"""Destinations, jump hosts, and names that must not reach a shell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.config import destination
from sshoq.config.destination import DestinationError, parse_destination, parse_jump_hosts


def parts(text: str) -> tuple[str | None, str, int | None, str | None]:
    result = parse_destination(text)
    return result.user, result.host, result.port, result.url_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", (None, "web", None, None)),
        ("u@web", ("u", "web", None, None)),
        ("a@b@web", ("a@b", "web", None, None)),
        ("::1", (None, "::1", None, None)),
        ("ssh://u@web:5/", ("u", "web", 5, None)),
        ("ssh://u;x=y@web", ("u", "web", None, None)),
        ("ssh://a%20b+c@web", ("a b c", "web", None, None)),
        ("web:4443", (None, "web", 4443, None)),
        ("u@web:4443", ("u", "web", 4443, None)),
        ("web/secret", (None, "web", None, "/secret")),
        ("u@web:4443/a/b", ("u", "web", 4443, "/a/b")),
        ("[::1]:4443/a", (None, "::1", 4443, "/a")),
        ("https://u@web/a", ("u", "web", None, "/a")),
        ("https://web:4443", (None, "web", 4443, None)),
        ("https://[::1]", (None, "::1", None, None)),
        ("web:", (None, "web:", None, None)),
        ("web:x", (None, "web:x", None, None)),
    ],
)
def test_destinations(text: str, expected: tuple[str | None, str, int | None, str | None]) -> None:
    assert parts(text) == expected


def test_a_url_may_name_the_user_in_its_query() -> None:
    assert parse_destination("https://web/p?user=al%20ice&x=y").url_user == "al ice"
    assert parse_destination("https://web?user=bob").url_user == "bob"
    assert parse_destination("web/p").url_user is None


def test_only_the_go_client_s_forms_count_as_urls() -> None:
    assert all(parse_destination(t).is_url for t in ("web/p", "web:443", "https://web"))
    assert not any(parse_destination(t).is_url for t in ("web", "u@web", "ssh://web:443"))


@pytest.mark.parametrize(
    "text",
    ["@web", "ssh://", "ssh://@web", "ssh://web/x", "ssh://web:0", "ssh://-web", "ssh://a..b", "ssh://a%2@b",
     "ssh://[::1]", "https://", "https:///p", "web:0/p", "web:99999/p", "@web/p", "[::1/p"],
)  # fmt: skip
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(DestinationError):
        parse_destination(text)


@given(st.text("ssh:/@[]%0;.?=wu"))
def test_any_word_is_a_destination_or_refused(text: str) -> None:
    for parse in (parse_destination, parse_jump_hosts):
        try:
            parse(text)
        except DestinationError:
            continue


def test_jump_hosts() -> None:
    hops = parse_jump_hosts("a,u@b:2222,ssh://v@c:1,[::1]:5")
    assert [(h.user, h.host, h.port) for h in hops] == [
        (None, "a", None), ("u", "b", 2222), ("v", "c", 1), (None, "::1", 5),
    ]  # fmt: skip
    assert [str(h) for h in hops] == ["a", "u@b:2222", "v@c:1", "[::1]:5"]
    assert repr(hops[0]) == "JumpHost(a)"
    for text in ("", "a,,b", "@a", "a:0", "[a", "a/22"):
        with pytest.raises(DestinationError):
            parse_jump_hosts(text)


@pytest.mark.parametrize("host", ["-h", "a'b", "a b", "a;b", "a$b", "a,b", "a\nb", "a{b"])
def test_host_names_that_no_shell_should_see(host: str) -> None:
    error = destination.check_names(host, None)
    assert error is not None
    assert error.lines == ("hostname contains invalid characters",)


@pytest.mark.parametrize("user", ["-u", "a`b", "a -b", "a\\", "a|b", "a\x7f"])
def test_user_names_that_no_shell_should_see(user: str) -> None:
    error = destination.check_names("web", user)
    assert error is not None
    assert error.lines == ("remote username contains invalid characters",)


def test_harmless_names() -> None:
    for user in ("a b", "a$b", "a-b", "DOM\\user", "ü"):
        assert destination.check_names("web.example", user) is None


def test_domains() -> None:
    assert destination.domain_error("a-b.c_d.") is None
    assert destination.domain_error("") == "empty domain name"
    assert destination.domain_error("-a") == 'domain name "-a" starts with invalid character'
    assert destination.domain_error("AB*C") == 'domain name "ab*C" contains invalid characters'
    assert destination.domain_error("a..b") == 'domain name "a..b" contains consecutive separators'
    assert destination.normal_domain("A.B.") == "a.b"
