"""The words of OpenSSH's configuration language: lines, keywords, quoting, and the value formats.

Shared by the readers of ssh_config and sshd_config, so it knows no keyword. Every function is
total: it returns a value or raises ConfigSyntaxError, whose text is what OpenSSH prints after
"FILE line N: ". Text is str decoded with surrogateescape, so any byte survives the way to a path
or a remote command.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator


INT_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

BLANKS = " \t"
WHITESPACE = " \t\r\n"
LINE_END = " \t\r\n\f"
C_SPACE = " \t\n\v\f\r"
DIGITS = frozenset("0123456789")

_ODD_IN_LINE = frozenset('"=\t\r\n\f')
_ODD_IN_WORDS = frozenset("'\"\\#\t")
_ASCII_LOWER = {ord(upper): ord(upper) + 32 for upper in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZE_UNITS = {unit: 1 << (10 * power) for power, unit in enumerate("bkmgtpe")}
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}


class ConfigSyntaxError(ValueError):
    """A line that cannot be read: its complaints, each without file and line number."""

    def __init__(self, *complaints: str) -> None:
        super().__init__("; ".join(complaints))
        self.complaints = complaints


def ascii_lower(text: str) -> str:
    """Lower-case A-Z alone, as OpenSSH does whatever the locale: other letters are bytes to it."""
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)


def decode(data: bytes) -> str:
    """Bytes of a file or an argument as the str that this package works on."""
    return data.decode("utf-8", "surrogateescape")


def read_lines(data: bytes) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file. A NUL ends its line, as it ends a C string."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line:
            yield number, decode(line.partition(b"\0")[0])


def split_keyword(line: str) -> tuple[str, str] | None:
    """A line as (keyword in lower case, rest of the line); None for a line that says nothing.

    The rest is "" when the keyword stands alone, which is an error that the caller words.
    """
    line = line[:1] + line[1:].rstrip(LINE_END)
    if _ODD_IN_LINE.isdisjoint(line):  # the common case, quickly
        head, _, tail = line.lstrip(" ").partition(" ")
        return (ascii_lower(head), tail.lstrip(" ")) if head and head[0] != "#" else None
    keyword, rest = _cut_keyword(line)
    if keyword == "" and rest is not None:
        keyword, rest = _cut_keyword(rest)
    if not keyword or keyword.startswith("#"):
        return None
    return ascii_lower(keyword), (rest or "").lstrip(WHITESPACE)


def _cut_keyword(text: str) -> tuple[str | None, str | None]:
    """Cut the first token at white space, '=' or quotes, with OpenSSH's quirks about these.

    A token of None is an unclosed quote: OpenSSH passes over such a line in silence.
    """
    end = next((i for i, char in enumerate(text) if char in ' \t\r\n"='), None)
    if end is None:
        return text, None
    head, stop, rest = text[:end], text[end], text[end + 1 :]
    if stop == '"':
        inside, quote, rest = rest.partition('"')
        return (head + inside if quote else None), rest.lstrip(WHITESPACE)
    rest = rest.lstrip(WHITESPACE)
    if stop != "=" and rest.startswith("="):
        rest = rest[1:].lstrip(WHITESPACE)
    return head, rest


def split_words(text: str, *, comments: bool = True) -> list[str]:
    """Split a value into words by blanks, taking quotes and escapes away.

    Quotes may begin and end anywhere in a word. A '#' at the start of a word ends the line unless
    comments is false. Raises ConfigSyntaxError("invalid quotes") when a quote is left open.
    """
    if _ODD_IN_WORDS.isdisjoint(text):  # the common case, quickly
        return [word for word in text.split(" ") if word]
    words: list[str] = []
    position, end = 0, len(text)
    while position < end:
        if text[position] in BLANKS:
            position += 1
            continue
        if comments and text[position] == "#":
            break
        word, position = _take_word(text, position)
        words.append(word)
    return words


def _take_word(text: str, position: int) -> tuple[str, int]:
    word: list[str] = []
    quote, end = "", len(text)
    while position < end:
        char = text[position]
        if char == "\\":
            following = text[position + 1 : position + 2]
            if following and (following in "'\"\\" or (not quote and following == " ")):
                char, position = following, position + 1
            word.append(char)
        elif quote:
            if char == quote:
                quote = ""
            else:
                word.append(char)
        elif char in BLANKS:
            break
        elif char in "'\"":
            quote = char
        else:
            word.append(char)
        position += 1
    if quote:
        raise ConfigSyntaxError("invalid quotes")
    return "".join(word), position


def _leading_integer(text: str) -> tuple[int, str]:
    """What C's strtoll reads (white space, a sign, digits), and the rest of the text."""
    body = text.lstrip(C_SPACE)
    sign = -1 if body.startswith("-") else 1
    if body[:1] in ("+", "-"):
        body = body[1:]
    rest = body.lstrip("0123456789")
    digits = body[: len(body) - len(rest)]
    if not digits:
        raise ValueError("no digits")
    # int() refuses absurdly long numbers; anything of 20 digits is out of every range here.
    return sign * int(digits.lstrip("0")[:20] or "0"), rest


def parse_number(text: str, low: int, high: int) -> int:
    """A decimal number in low..high; the complaint is just "invalid", "too small", "too large"."""
    try:
        number, rest = _leading_integer(text)
    except ValueError:
        raise ConfigSyntaxError("invalid") from None
    if rest:
        raise ConfigSyntaxError("invalid")
    if number < low:
        raise ConfigSyntaxError("too small")
    if number > high:
        raise ConfigSyntaxError("too large")
    return number


def parse_int(text: str) -> int:
    """A number from 0 to INT_MAX, with the complaint worded as for an integer keyword."""
    if not text:
        raise ConfigSyntaxError("integer value missing.")
    try:
        return parse_number(text, 0, INT_MAX)
    except ConfigSyntaxError as error:
        raise ConfigSyntaxError(f"integer value {error}.") from None


def parse_port_number(text: str) -> int:
    """A port, 0-65535, or the name of a TCP service."""
    try:
        return parse_number(text, 0, 65535)
    except ConfigSyntaxError:
        pass
    from _socket import getservbyname  # the C half alone: "socket" would triple the start-up time

    try:
        return getservbyname(text, "tcp")
    except (OSError, UnicodeError, ValueError):
        raise ConfigSyntaxError(f"Bad port '{text}'.") from None


def parse_port(text: str) -> int:
    """A port that can be connected to."""
    port = parse_port_number(text)
    if port == 0:
        raise ConfigSyntaxError(f"Bad port '{text}'.")
    return port


def parse_flag(text: str) -> bool:
    """yes, no, true or false in any case."""
    try:
        return _FLAGS[ascii_lower(text)]
    except KeyError:
        raise ConfigSyntaxError(f'unsupported option "{text}".') from None


def parse_time(text: str) -> int:
    """Seconds from "90", "1h30m", "2w"; the seconds stand at most once and may have a fraction.

    Fractions are cut off in the result, as OpenSSH 10 does where it stores whole seconds.
    """
    total = 0
    seen_seconds = False
    position, end = 0, len(text)
    while position < end:
        position += text[position] == "+"
        start = position
        while position < end and (text[position] in DIGITS or text[position] == "."):
            position += 1
        amount = text[start:position]
        unit = text[position].lower() if position < end else "s"
        position += 1
        if unit == "s" and seen_seconds:
            raise ConfigSyntaxError("invalid time value.")
        seen_seconds = seen_seconds or unit == "s"
        total += _time_part(amount, unit)
        if total > INT_MAX:
            raise ConfigSyntaxError("invalid time value.")
    if not text:
        raise ConfigSyntaxError("invalid time value.")
    return total


def _time_part(amount: str, unit: str) -> int:
    whole, dot, fraction = amount.partition(".")
    if unit not in _TIME_UNITS or not whole or "." in fraction or (dot and unit != "s"):
        raise ConfigSyntaxError("invalid time value.")
    return int(whole.lstrip("0")[:20] or "0") * _TIME_UNITS[unit]


def parse_size(text: str) -> int:
    """A byte count with an optional fraction and one unit of BKMGTPE, as in RekeyLimit."""
    body = text.lstrip(C_SPACE)
    sign = -1 if body.startswith("-") else 1
    if body[:1] in ("+", "-"):
        body = body[1:]
    unit = body.lstrip("0123456789.")
    whole, _, fraction = body[: len(body) - len(unit)].partition(".")
    if "." in fraction:
        raise ConfigSyntaxError(f"Bad number '{text}': Invalid argument")
    number = int(whole.lstrip("0")[:20] or "0")
    if number > INT64_MAX:
        raise ConfigSyntaxError(f"Bad number '{text}': Numerical result out of range")
    if not unit:
        return sign * number
    scale = _SIZE_UNITS.get(unit[0].lower())
    if scale is None or (len(unit) > 1 and unit[1].isalnum()):
        raise ConfigSyntaxError(f"Bad number '{text}': Invalid argument")
    if number > INT64_MAX // scale:
        raise ConfigSyntaxError(f"Bad number '{text}': Numerical result out of range")
    tail = _fraction_of(fraction[:18], scale)
    return sign * (number * scale + tail)


def _fraction_of(digits: str, scale: int) -> int:
    """The digits behind a decimal point, times scale, rounded down."""
    return int(digits) * scale // int("1" + "0" * len(digits)) if digits else 0


def parse_mask(text: str) -> int:
    """A file mode in octal up to 0777; like C's strtol it stops at the first other character."""
    body = text.lstrip(C_SPACE)
    negative = body.startswith("-")
    if body[:1] in ("+", "-"):
        body = body[1:]
    digits = body[: len(body) - len(body.lstrip("01234567"))]
    value = int(digits.lstrip("0")[:12] or "0", 8)
    if not digits or value > 0o777 or (negative and value):
        raise ConfigSyntaxError("Bad mask.")
    return value
