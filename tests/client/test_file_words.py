"""Words, quotes and wildcards of the file shell."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.client.file_words import BadLine, Word, quote_name, split_line


def texts(line: str) -> list[str]:
    return [word.text for word in split_line(line)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("   \t", []),
        ("# get x", []),
        ("get a#b #c", ["get", "a#b", "#c"]),
        ("get  a\tb\r", ["get", "a", "b"]),
        ("put 'two words'", ["put", "two words"]),
        ('put "two words"', ["put", "two words"]),
        ("put two\\ words", ["put", "two words"]),
        ("put '' x", ["put", "", "x"]),
        ("a'b'\"c\"d", ["abcd"]),
        (r"'a\b'", ["a\\b"]),
        (r'"a\"b\\c\d"', ['a"b\\c\\d']),
        (r"a\\b", ["a\\b"]),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert texts(line) == words


@pytest.mark.parametrize("line", ["'open", '"open', "end\\"])
def test_what_is_not_closed_is_an_error(line: str) -> None:
    with pytest.raises(BadLine):
        split_line(line)
    assert len(split_line(line, unfinished=True)) == 1


def word(line: str) -> Word:
    [one] = split_line(line)
    return one


@pytest.mark.parametrize(
    ("line", "yes", "no"),
    [
        ("*", ["a", "a.b"], [".a"]),
        (".*", [".a"], ["a"]),
        ("a?c", ["abc", "a?c"], ["ac", "abbc"]),
        ("[a-c]1", ["a1", "c1"], ["d1", "-1"]),
        ("[!a-c]1", ["d1"], ["a1"]),
        ("[^a]1", ["b1"], ["a1"]),
        ("[]x]*", ["]", "xy"], ["a"]),
        ("[z-a]*", [], ["a", "z"]),
        ("a[", ["a["], ["a"]),
        (r"a\*?", ["a*b"], ["aab"]),
        ("'*'?", ["*a"], ["aa"]),
        ("dir*/b*", ["bc"], ["dirb"]),
        (r"[\\]*", ["\\a"], ["a"]),
    ],
)
def test_wildcards(line: str, yes: list[str], no: list[str]) -> None:
    assert word(line).has_wildcard
    pattern = word(line).pattern()
    assert [name for name in yes + no if pattern.fullmatch(name)] == yes


@pytest.mark.parametrize("line", ["plain", r"\*", "'[a]'", '"?"', "a*/b"])
def test_no_wildcard_in_the_last_component(line: str) -> None:
    assert not word(line).has_wildcard


@pytest.mark.parametrize(
    ("line", "home"),
    [("~", True), ("~/x", True), ("~x", False), (r"\~", False), ("'~/x'", False), ("x~", False)],
)
def test_an_unquoted_tilde_is_the_home_directory(line: str, home: bool) -> None:
    assert word(line).is_home is home


def test_the_word_that_is_being_typed_is_there_even_if_it_is_empty() -> None:
    assert [w.text for w in split_line("get ", unfinished=True)] == ["get", ""]
    assert [w.text for w in split_line("get a", unfinished=True)] == ["get", "a"]
    assert split_line("get a", unfinished=True)[-1].start == 4


@given(st.text(st.characters(exclude_characters="\r\n"), min_size=1))
def test_a_quoted_name_is_read_back_as_it_was(name: str) -> None:
    one = word(quote_name(name))
    assert one.text == name
    assert not one.has_wildcard
    assert not one.is_home


@given(st.text())
def test_any_line_has_words_or_is_bad(line: str) -> None:
    with contextlib.suppress(BadLine):
        for one in split_line(line):
            one.pattern()
    split_line(line, unfinished=True)
