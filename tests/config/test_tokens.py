"""%-tokens, variables and tildes."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.config.tokens import MAX_EXPANSION, ExpansionError, Tokens, expand, expand_tilde

ENVIRON = {"HOME": "/home/u", "P": "%h"}


def test_tokens_and_variables_are_replaced_once() -> None:
    assert expand("%h-${P}-%%", {"h": "web"}, ENVIRON) == "web-%h-%"


def test_what_is_not_asked_for_is_left() -> None:
    assert expand("${HOME} %h", {"h": "web"}) == "${HOME} web"
    assert expand("${HOME} %h", None, ENVIRON) == "/home/u %h"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("%", ("vdollar_percent_expand: invalid format", "percent_dollar_expand: failed")),
        ("%x", ("vdollar_percent_expand: unknown key %x", "percent_dollar_expand: failed")),
        (
            "${NO}",
            (
                "vdollar_percent_expand: env var ${NO} has no value",
                "invalid environment variable expansion",
            ),
        ),
        (
            "${HOME",
            (
                "vdollar_percent_expand: environment variable 'HOME' missing closing '}'",
                "percent_dollar_expand: failed",
            ),
        ),
        (
            "${}",
            (
                "vdollar_percent_expand: zero-length environment variable",
                "percent_dollar_expand: failed",
            ),
        ),
    ],
)
def test_complaints_are_those_of_openssh(text: str, lines: tuple[str, ...]) -> None:
    with pytest.raises(ExpansionError) as error:
        expand(text, {"h": "web"}, ENVIRON)
    assert error.value.lines == lines


def test_an_expansion_has_a_bound() -> None:
    with pytest.raises(ExpansionError, match="too long"):
        expand("%h" * 3, {"h": "x" * (MAX_EXPANSION // 2)})


@given(st.text("%h${}HOME x"))
def test_any_text_expands_or_is_refused(text: str) -> None:
    try:
        expanded = expand(text, Tokens(h="web"), ENVIRON)
    except ExpansionError:
        return
    assert "%x" not in expanded or "%%x" in text


def test_the_connection_hash() -> None:
    tokens = Tokens(l="me.example", h="web", p="22", r="bob", j="")
    assert expand("%C", tokens) == hashlib.sha1(b"me.exampleweb22bob").hexdigest()
    assert (
        expand("%C", Tokens(l="a", h="b", p="1", r="c", j="jump"))
        == hashlib.sha1(b"ab1cjump").hexdigest()
    )


def test_tokens_can_be_kept_from_a_keyword() -> None:
    with pytest.raises(ExpansionError):
        expand("%r", Tokens(r="bob").without("r"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", "/home/u/"),
        ("~/x", "/home/u/x"),
        ("~//x", "/home/u/x"),
        ("~root/x", "/root/x"),
        ("a~", "a~"),
        ("/x", "/x"),
    ],
)
def test_a_leading_tilde(text: str, path: str) -> None:
    assert expand_tilde(text, "/home/u", {"root": "/root"}.get) == path


def test_a_user_who_does_not_exist() -> None:
    with pytest.raises(ExpansionError, match="tilde_expand: No such user nobody"):
        expand_tilde("~nobody/x", "/home/u", lambda name: None)
