"""Wildcards, lists and addresses."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.config import patterns
from sshoq.config.patterns import MATCH, NEGATED, NO_MATCH, AddressListError


@given(st.text("ab*?"), st.text("ab"))
def test_stars_and_question_marks_mean_what_a_shell_means(pattern: str, text: str) -> None:
    assert patterns.match_pattern(text, pattern) == fnmatch.fnmatchcase(text, pattern)


def test_nothing_else_is_special() -> None:
    assert not patterns.match_pattern("a", "[a-c]")
    assert patterns.match_pattern("[a-c]", "[a-c]")
    assert not patterns.match_pattern("a", "A")


def test_a_question_mark_is_one_byte() -> None:
    assert patterns.match_pattern("é", "??")
    assert not patterns.match_pattern("é", "?")


def test_many_stars_take_no_time() -> None:
    assert not patterns.match_pattern("a" * 2000, "*a" * 200 + "b")


@pytest.mark.parametrize(
    ("text", "entries", "expected"),
    [
        ("web", "db,web", MATCH),
        ("web", "w*,!web", NEGATED),
        ("web", "!web,w*", NEGATED),
        ("web", "!db", NO_MATCH),
        ("web", "", NO_MATCH),
        ("", "a,", NO_MATCH),
        ("", "a,,b", MATCH),
        ("web", "x" * 1024 + ",web", NO_MATCH),
    ],
)
def test_a_list_needs_a_match_and_no_veto(text: str, entries: str, expected: int) -> None:
    assert patterns.match_pattern_list(text, entries) == expected


def test_host_lists_ignore_case() -> None:
    assert patterns.match_host_list("WEB", "Web") == MATCH
    assert patterns.match_pattern_list("web", "WEB", lower=True) == MATCH
    assert patterns.match_pattern_list("WEB", "web", lower=True) == NO_MATCH


@pytest.mark.parametrize(
    ("address", "entries", "expected"),
    [
        ("10.1.2.3", "10.0.0.0/8", MATCH),
        ("10.1.2.3", "10.1.2.*", MATCH),
        ("10.1.2.3", "10.0.0.0/8,!10.1.0.0/16", NEGATED),
        ("::1", "::/0", MATCH),
        ("::1", "0.0.0.0/0", NO_MATCH),
        ("2001:db8::5", "2001:db8::/32", MATCH),
        ("nonsense", "*", NO_MATCH),
        (None, "10.0.0.0/8", NO_MATCH),
        ("10.0.0.1", "10.1", MATCH),
    ],
)
def test_address_lists(address: str | None, entries: str, expected: int) -> None:
    assert patterns.match_address_list(address, entries) == expected


@pytest.mark.parametrize("entries", ["", "a,,b", "!", "10.0.0.1/8", "10.0.0.0/33"])
def test_a_doubtful_address_list_is_an_error(entries: str) -> None:
    with pytest.raises(AddressListError):
        patterns.match_address_list(None, entries)


def test_a_strict_list_takes_networks_only() -> None:
    assert patterns.match_cidr_list("10.1.2.3", "::1,10.0.0.0/8") == MATCH
    for entries in ("10.*", "!10.0.0.0/8", "x", ""):
        with pytest.raises(AddressListError):
            patterns.match_cidr_list("10.1.2.3", entries)


def test_addresses_are_read_as_the_resolver_reads_them() -> None:
    assert patterns.parse_address("127.1") == bytes([127, 0, 0, 1])
    assert patterns.parse_address("fe80::1%lo") == b"\xfe\x80" + bytes(13) + b"\x01"
    for text in ("", "x", "1.2.3.4 x", "1.2.3.4\0", "::g", "1.2.3.4.5"):
        assert patterns.parse_address(text) is None
