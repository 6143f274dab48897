"""Lines, words and value formats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.config import lexer
from sshoq.config.lexer import ConfigSyntaxError


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("User bob", ("user", "bob")),
        ("\tUser\t bob \r", ("user", "bob")),
        ("USER=bob", ("user", "bob")),
        ("User = bob", ("user", "bob")),
        ("User ==bob", ("user", "=bob")),
        ('"User" bob', ("user", "bob")),
        ('"User" =bob', ("user", "=bob")),
        (" = User bob", ("user", "bob")),
        ("User", ("user", "")),
        ("", None),
        ("   ", None),
        ("# User bob", None),
        ("  #User bob", None),
        ('"User bob', None),
        ("User bob\f\f", ("user", "bob")),
        ("ÜSER x", ("Üser", "x")),
    ],
)
def test_a_line_is_a_keyword_and_the_rest(line: str, expected: tuple[str, str] | None) -> None:
    assert lexer.split_keyword(line) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b\tc", ["a", "b", "c"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("x'a b'y", ["xa by"]),
        ("'it\"s' \"it's\"", ['it"s', "it's"]),
        (r"\'a \"b \\c", ["'a", '"b', "\\c"]),
        (r"a\ b 'c\ d'", ["a b", r"c\ d"]),
        (r"\n", [r"\n"]),
        ("a #b", ["a"]),
        ("a#b", ["a#b"]),
        ("#", []),
        ('""', [""]),
    ],
)
def test_words_are_split_at_blanks_outside_quotes(text: str, words: list[str]) -> None:
    assert lexer.split_words(text) == words


def test_comments_can_be_words() -> None:
    assert lexer.split_words("a #b c", comments=False) == ["a", "#b", "c"]


@pytest.mark.parametrize("text", ["'", '"a', "a'b", "'\\'"])
def test_an_open_quote_is_an_error(text: str) -> None:
    with pytest.raises(ConfigSyntaxError, match="invalid quotes"):
        lexer.split_words(text)


@given(st.text(alphabet="ab \t'\"\\#="))
def test_any_text_is_words_or_an_error(text: str) -> None:
    try:
        words = lexer.split_words(text)
    except ConfigSyntaxError:
        return
    assert sum(map(len, words)) <= len(text)


def test_lines_end_at_a_nul_and_keep_their_numbers() -> None:
    lines = list(lexer.read_lines(b"a\0b\n\nc\xff"))
    assert lines == [(1, "a"), (3, "c\udcff")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1m", 60), ("1h30m", 5400), ("1W2D", 777600), ("1.9", 1), ("2.5s", 2), ("0", 0)],
)
def test_times(text: str, seconds: int) -> None:
    assert lexer.parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "1x", "s", "-1", "1s1s", "1s1", "1.5m", "1..5", "9999999999", "3600w" * 9]
)
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ConfigSyntaxError, match=r"^invalid time value\.$"):
        lexer.parse_time(text)


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("+5", 5), ("007", 7), (" 2147483647", 2**31 - 1)]
)
def test_integers(text: str, number: int) -> None:
    assert lexer.parse_int(text) == number


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "missing"),
        ("x", "invalid"),
        ("5x", "invalid"),
        ("-1", "too small"),
        ("2147483648", "too large"),
        ("9" * 5000, "too large"),
    ],
)
def test_integers_that_are_none(text: str, complaint: str) -> None:
    with pytest.raises(ConfigSyntaxError, match=f"integer value {complaint}."):
        lexer.parse_int(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16", 16),
        ("1K", 1024),
        ("1.5g", 3 << 29),
        ("K", 0),
        ("7E", 7 << 60),
        ("-3", -3),
        ("20B", 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert lexer.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1X", "Invalid argument"),
        ("1KK", "Invalid argument"),
        ("1.2.3", "Invalid argument"),
        ("8E", "Numerical result out of range"),
        ("9" * 30, "Numerical result out of range"),
    ],
)
def test_sizes_that_are_none(text: str, reason: str) -> None:
    with pytest.raises(ConfigSyntaxError) as error:
        lexer.parse_size(text)
    assert str(error.value) == f"Bad number '{text}': {reason}"


def test_masks_are_octal_and_end_where_the_digits_do() -> None:
    assert lexer.parse_mask("0177") == 0o177
    assert lexer.parse_mask("17x") == 0o17
    for text in ("x", "", "1000", "-1"):
        with pytest.raises(ConfigSyntaxError, match="Bad mask"):
            lexer.parse_mask(text)


def test_ports_are_numbers_or_services() -> None:
    assert lexer.parse_port("22") == 22
    assert lexer.parse_port("ssh") == 22
    assert lexer.parse_port_number("0") == 0
    for text in ("0", "65536", "no-such-service", "a\0b"):
        with pytest.raises(ConfigSyntaxError, match="Bad port"):
            lexer.parse_port(text)


def test_flags_have_four_spellings() -> None:
    assert [lexer.parse_flag(text) for text in ("yes", "TRUE", "no", "False")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(ConfigSyntaxError, match='unsupported option "on"'):
        lexer.parse_flag("on")


def test_only_ascii_is_put_in_lower_case() -> None:
    assert lexer.ascii_lower("ABCÄ") == "abcÄ"
