"""Command lines of the file shell: words, quotes and wildcards, as sftp reads them. Pure.

Blanks part words. A backslash takes the next character as it is; in double quotes it does so before
a quote, a backslash or a wildcard, in single quotes never. What was quoted is no wildcard.
"""

import re

from sshoq.named_tuple import NamedTuple

WILDCARDS = "*?["
_BLANK = " \t\r\n"
_ESCAPED_IN_DOUBLE = '"\\' + WILDCARDS


class BadLine(ValueError):
    """The line cannot be read; str() says why."""


class Word(NamedTuple):
    """A word's text, which of its characters were quoted, and where it began in the line."""

    text: str
    quoted: tuple[bool, ...]
    start: int

    @property
    def is_home(self) -> bool:
        """Whether it begins with an unquoted tilde for the home directory."""
        return self.text[:1] == "~" and not self.quoted[0] and self.text[1:2] in ("", "/")

    @property
    def has_wildcard(self) -> bool:
        """Whether its last component is a pattern."""
        start = self.text.rfind("/") + 1
        return any(
            char in WILDCARDS and not quoted
            for char, quoted in zip(self.text[start:], self.quoted[start:], strict=True)
        )

    def pattern(self) -> "re.Pattern[str]":
        """Its last component, to be matched against names."""
        start = self.text.rfind("/") + 1
        return _compile(self.text[start:], self.quoted[start:])


def split_line(line: str, *, unfinished: bool = False) -> list[Word]:
    """The words of a line; a comment has none. `unfinished`: the last word may still be being
    typed, and is always there."""
    words: list[Word] = []
    position, end = 0, len(line)
    while True:
        while position < end and line[position] in _BLANK:
            position += 1
        if position == end:
            if unfinished:
                words.append(Word("", (), end))
            return words
        if line[position] == "#" and not words:
            return words
        word, position = _read_word(line, position, unfinished)
        words.append(word)
        if unfinished and position == end:
            return words


def _read_word(line: str, start: int, unfinished: bool) -> tuple[Word, int]:
    text: list[str] = []
    quoted: list[bool] = []
    quote = ""
    position = start
    while position < len(line):
        char = line[position]
        position += 1
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char in _BLANK:
            position -= 1
            break
        elif char == "\\" and quote != "'":
            following = line[position:position + 1]
            if not following and not unfinished:
                raise BadLine("a backslash at the end of the line")
            if quote and following not in _ESCAPED_IN_DOUBLE:
                following = char + following
            text += following
            quoted += [True] * len(following)
            position += 1
        else:
            text.append(char)
            quoted.append(bool(quote))
    if quote and not unfinished:
        raise BadLine("a quote is not closed")
    return Word("".join(text), tuple(quoted), start), min(position, len(line))


def _compile(text: str, quoted: tuple[bool, ...]) -> "re.Pattern[str]":
    """As the shell has it: names that begin with a dot are matched by a dot alone."""
    out = "" if text[:1] == "." else r"(?!\.)"
    position = 0
    while position < len(text):
        char = text[position]
        special = not quoted[position]
        position += 1
        if special and char == "*":
            out += ".*"
        elif special and char == "?":
            out += "."
        elif special and char == "[" and (end := text.find("]", position + 1)) > 0:
            out += _set_of(text[position:end])
            position = end + 1
        else:
            out += re.escape(char)
    return re.compile(out, re.DOTALL)


def _set_of(members: str) -> str:
    """What stands between brackets: characters and ranges, and ! or ^ in front for all others."""
    negated = members[0] in "!^" and len(members) > 1
    body = members[negated:]
    escaped = "".join(rf"\{char}" if char in r"\[]^&~|" else char for char in body)
    pattern = f"[{'^' if negated else ''}{escaped}]"
    try:
        re.compile(pattern)
    except re.error:  # a range that runs backwards matches nothing
        return r"(?!)"
    return pattern


def quote_name(name: str) -> str:
    """A name as it has to be typed."""
    return "".join(f"\\{char}" if char in _BLANK + WILDCARDS + "\\'\"#~" else char for char in name)
