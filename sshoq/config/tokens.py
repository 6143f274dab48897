"""Expansion inside values: %-tokens, ${VARIABLES} and a leading ~, with OpenSSH's complaints."""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


MAX_EXPANSION = 128 * 1024


class ExpansionError(ValueError):
    """A value that cannot be expanded. lines is what OpenSSH prints, one or two lines."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def expand(
    text: str,
    tokens: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> str:
    """Replace %x by tokens["x"] and ${NAME} by environ["NAME"], each if given, in one pass."""
    pieces: list[str] = []
    position, end, size = 0, len(text), 0
    while position < end:
        if environ is not None and text.startswith("${", position):
            piece, position = _take_variable(text, position + 2, tokens, environ)
        elif tokens is not None and text[position] == "%":
            piece, position = _take_token(text, position + 1, tokens, environ)
        else:
            piece, position = text[position], position + 1
        pieces.append(piece)
        size += len(piece)
        if size > MAX_EXPANSION:
            raise ExpansionError("vdollar_percent_expand: expanded string too long")
    return "".join(pieces)


def _take_token(
    text: str, position: int, tokens: Mapping[str, str], environ: Mapping[str, str] | None
) -> tuple[str, int]:
    last = "percent_expand: failed" if environ is None else "percent_dollar_expand: failed"
    key = text[position : position + 1]
    if not key:
        raise ExpansionError("vdollar_percent_expand: invalid format", last)
    if key == "%":
        return "%", position + 1
    try:
        return tokens[key], position + 1
    except KeyError:
        raise ExpansionError(f"vdollar_percent_expand: unknown key %{key}", last) from None


def _take_variable(
    text: str, position: int, tokens: Mapping[str, str] | None, environ: Mapping[str, str]
) -> tuple[str, int]:
    stop = text.find("}", position)
    name = text[position:] if stop < 0 else text[position:stop]
    if stop < 0:
        raise _unusable(f"environment variable '{name}' missing closing '}}'", tokens)
    if not name:
        raise _unusable("zero-length environment variable", tokens)
    value = environ.get(name)
    if value is None:
        first = f"vdollar_percent_expand: env var ${{{name}}} has no value"
        last = ("invalid environment variable expansion",) if tokens is not None else ()
        raise ExpansionError(first, *last)
    return value, stop + 1


def _unusable(complaint: str, tokens: Mapping[str, str] | None) -> ExpansionError:
    last = ("percent_dollar_expand: failed",) if tokens is not None else ()
    return ExpansionError(f"vdollar_percent_expand: {complaint}", *last)


class Tokens(dict[str, str]):
    """The values of %-tokens; %C, a hash over some of the others, is made when it is asked for."""

    def __missing__(self, key: str) -> str:
        if key != "C":
            raise KeyError(key)
        from _sha1 import sha1  # type: ignore[import-not-found]  # typeshed lacks the C half

        parts = "".join(self.get(name, "") for name in "lhprj")
        self["C"] = sha1(parts.encode("utf-8", "surrogateescape")).hexdigest()
        return self["C"]

    def without(self, keys: str) -> Tokens:
        """The same tokens for a keyword that does not know all of them."""
        return Tokens((key, value) for key, value in self.items() if key not in keys)


def expand_tilde(text: str, home: str, home_of: Callable[[str], str | None]) -> str:
    """~ and ~user at the start of a path; home_of answers None for a user who does not exist."""
    if not text.startswith("~"):
        return text
    user, _, rest = text[1:].partition("/")
    base = home_of(user) if user else home
    if base is None:
        raise ExpansionError(f"tilde_expand: No such user {user}")
    return f"{base.rstrip('/')}/{rest.lstrip('/')}"
