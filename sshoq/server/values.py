"""Process: main [root]. How values in sshd_config are read and shown: formats of one word
and of lists of words. `keywords.py` says which keyword has which.

Reads no file. Complaints are sshd's, word for word.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sshoq.config.lexer import (
    ConfigSyntaxError,
    ascii_lower,
    parse_int,
    parse_mask,
    parse_port_number,
    parse_time,
)
from sshoq.config.patterns import AddressListError, match_address_list
from sshoq.named_tuple import NamedTuple


class BadValue(ValueError):
    """The value cannot be used. str() follows "FILE line N: ", `details` come before it."""

    def __init__(self, text: str, *details: str) -> None:
        super().__init__(text)
        self.details = details


class BadLine(ValueError):
    """The line's form is wrong: it is counted, and the reading goes on to find more."""


class Line(NamedTuple):
    """A line of the file, taken apart."""

    keyword: str
    """As written."""
    words: list[str]
    raw: str
    """All behind the keyword."""


# How a second value for the same keyword is taken.
FIRST = "the first wins"
APPEND = "values add up"
MERGE = "the first wins for each name in it"


class Kind(NamedTuple):
    """A value's format."""

    parse: Callable[[Line], Any]
    show: Callable[[Any], list[str]]
    merge: str = FIRST
    single: bool = True
    """One word; another is an "extra argument"."""


# --------------------------------------------------------------------------- formats of one word


def of_word(parse: Callable[[str], Any], missing: str) -> Callable[[Line], Any]:
    def read(line: Line) -> Any:
        if not line.words or not line.words[0]:
            raise BadValue(missing)
        try:
            return parse(line.words[0])
        except ConfigSyntaxError as error:
            raise BadValue(str(error)) from None

    return read


def show_text(value: Any) -> list[str]:
    return ["none" if value is None else str(value)]


def choice(*names: str | tuple[str, str], complaint: str = 'unsupported option "{}".') -> Kind:
    """One of some words, any case; a pair is (word, word that means the same and is kept)."""
    table = {name if isinstance(name, str) else name[0]: name for name in names}

    def parse(text: str) -> str:
        name = table.get(ascii_lower(text))
        if name is None:
            raise ConfigSyntaxError(complaint.format(text))
        return name if isinstance(name, str) else name[1]

    return Kind(of_word(parse, "missing argument."), show_text)


def _parse_flag(text: str) -> bool:
    lower = ascii_lower(text)
    if lower not in ("yes", "no"):
        raise ConfigSyntaxError(f'unsupported option "{text}".')
    return lower == "yes"


FLAG = Kind(of_word(_parse_flag, "missing argument."), lambda value: ["yes" if value else "no"])


def parse_integer(line: Line) -> int:
    try:
        return parse_int(line.words[0] if line.words else "")
    except ConfigSyntaxError as error:
        raise BadValue(f"{line.keyword} {error}") from None


INTEGER = Kind(parse_integer, show_text)
TIME = Kind(of_word(parse_time, "missing time value."), show_text)


def none_or(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if ascii_lower(text) == "none" else parse(text)


def _absolute(path: str) -> str:
    """As sshd: relative to where it is started. There is no '~': whose would it be?"""
    import os

    return path if path.startswith("/") else os.path.join(os.getcwd(), path)


FILE = Kind(of_word(none_or(_absolute), "missing file name."), show_text)
PATH = Kind(of_word(none_or(str), "missing file name."), show_text)
"""Not made absolute: it holds tokens."""
FILES = Kind(
    of_word(lambda text: (_absolute(text),), "missing file name."),
    lambda paths: list(paths),
    APPEND,
)
FILES_OR_NONE = FILES._replace(
    parse=of_word(
        lambda text: () if ascii_lower(text) == "none" else (_absolute(text),),
        "missing file name.",
    )
)
USER = Kind(of_word(none_or(str), "missing argument."), show_text)


def parse_port(text: str) -> int:
    try:
        port = parse_port_number(text)
    except ConfigSyntaxError:
        port = 0
    if not port:
        raise ConfigSyntaxError("Badly formatted port number.")
    return port


PORTS = Kind(
    of_word(lambda text: (parse_port(text),), "missing port number."),
    lambda ports: [str(port) for port in ports],
    APPEND,
)


def log_name(table: Mapping[str, int], what: str) -> Kind:
    def parse(text: str) -> str:
        if text.upper() not in table:
            raise ConfigSyntaxError(f"unsupported log {what} '{text}'")
        name = text.upper()
        return {"QUIET": "SILENT", "DEBUG1": "DEBUG"}.get(name, name)

    def read(line: Line) -> str:
        return str(of_word(parse, f"unsupported log {what} '<NONE>'")(line))

    return Kind(read, show_text)


def _parse_mask(text: str) -> int:
    try:
        return parse_mask(text)
    except ConfigSyntaxError:
        raise ConfigSyntaxError("Invalid StreamLocalBindMask.") from None


MASK = Kind(
    of_word(_parse_mask, "missing StreamLocalBindMask argument."), lambda mask: [f"0{mask:o}"]
)


def _parse_hash(text: str) -> str:
    if text.upper() not in ("MD5", "SHA256", "SHA384", "SHA512", "SHA1"):
        raise ConfigSyntaxError(f'Invalid FingerprintHash algorithm "{text}".')
    return text.upper()


HASH = Kind(of_word(_parse_hash, "missing argument."), show_text)


def _parse_user_environment(text: str) -> str:
    """A pattern list of names: "" none, "*" all."""
    return {"yes": "*", "no": ""}.get(text, text)


USER_ENVIRONMENT = Kind(
    of_word(_parse_user_environment, "missing argument."),
    lambda names: [{"": "no", "*": "yes"}.get(names, names)],
)


def _parse_path(text: str) -> str:
    if not text.startswith("/"):
        raise ConfigSyntaxError("URLPath must begin with a slash.")
    if not text.isascii() or not text.isprintable() or any(char in text for char in " ?#"):
        raise ConfigSyntaxError("URLPath must be a plain path.")
    return text


URL_PATH = Kind(of_word(_parse_path, "missing path."), show_text)


def _parse_service(text: str) -> str:
    if "/" in text or text.startswith("."):
        raise ConfigSyntaxError("PAMServiceName must be a file name in /etc/pam.d.")
    return text


PAM_SERVICE = Kind(of_word(_parse_service, "missing argument."), show_text)


def _ignore(line: Line) -> None:
    return None


IGNORED = Kind(_ignore, show_text, single=False)
TEXT = Kind(lambda line: line.words, show_text)


def _harmless_only(*values: str) -> Kind:
    """The values that ask for nothing."""

    def parse(line: Line) -> None:
        if [ascii_lower(word) for word in line.words[:1]] not in [[value] for value in values]:
            raise BadValue(f'Unsupported option "{line.keyword}": sshoq-server cannot enforce it.')

    return Kind(parse, show_text, single=False)


UNSET = _harmless_only("none")


# --------------------------------------------------------------------------- lists of words


def show_each(values: Iterable[str]) -> list[str]:
    return list(values)


def show_joined(values: tuple[str, ...]) -> list[str]:
    return [" ".join(values)]


def _parse_patterns(line: Line) -> tuple[str, ...]:
    for word in line.words:
        if not word or not _is_user_pattern(word):
            raise BadValue(f'invalid {line.keyword} pattern: "{word}"')
    return tuple(line.words)


def _is_user_pattern(pattern: str) -> bool:
    user, at, host = pattern.rpartition("@")
    if not at:
        return True
    try:
        match_address_list(None, host)
    except AddressListError:
        return False
    return bool(user)


def _parse_accepted_names(line: Line) -> tuple[str, ...]:
    if any(not word or "=" in word for word in line.words):
        raise BadValue("Invalid environment name.")
    return tuple(line.words)


def _parse_assignments(line: Line) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for word in line.words:
        name, equals, _ = word.partition("=")
        if not equals:
            raise BadValue("Invalid environment.")
        first.setdefault(name, word)
    return tuple(first.values())


def _parse_key_files(line: Line) -> tuple[str, ...]:
    if not all(line.words):
        raise BadLine(f"keyword {line.keyword} empty argument")
    if line.words and ascii_lower(line.words[0]) == "none" and len(line.words) == 1:
        return ()
    return tuple(line.words)


def _parse_permitted(line: Line) -> tuple[str, ...]:
    """PermitOpen host:port, PermitListen [host:]port; any, none."""
    words = line.words
    if not words or not words[0]:
        raise BadValue(f"{line.keyword} missing argument.")
    if words[0] in ("any", "none"):
        if len(words) > 1:
            raise BadLine(f"keyword {line.keyword} extra arguments at end of line")
        return (words[0],)
    listen = ascii_lower(line.keyword) == "permitlisten"
    return tuple(_parse_permitted_word(word, line.keyword, listen) for word in words)


def _parse_permitted_word(word: str, keyword: str, listen: bool) -> str:
    host, colon, port = word.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if (":" in host and not bracketed) or not (colon or listen):
        raise BadValue(f"{keyword} bad port number")
    if port != "*":
        try:
            parse_port(port)
        except ConfigSyntaxError:
            raise BadValue(f"{keyword} bad port number") from None
    return word if colon else f"*:{port}"


def _parse_subsystem(line: Line) -> dict[str, str]:
    words = line.words
    if not words or not words[0]:
        raise BadValue("Subsystem missing argument.")
    if len(words) < 2 or not words[1]:
        raise BadValue("Missing subsystem command.")
    return {words[0]: " ".join(words[1:])}


def _parse_command(line: Line) -> str | None:
    return None if line.raw.lower() == "none" else line.raw


def _parse_absolute_command(line: Line) -> str | None:
    if not line.raw.startswith("/") and ascii_lower(line.raw) != "none":
        raise BadValue(f"{line.keyword} must be an absolute path")
    return _parse_command(line)


_METHODS = ("publickey", "password", "keyboard-interactive", "hostbased", "gssapi-with-mic")


def _parse_methods(line: Line) -> tuple[str, ...]:
    """Lists, each of methods that must succeed one after another, joined by commas."""
    words = line.words
    if not words:
        raise BadValue(f"no {line.keyword} specified")
    if "any" in words:
        if len(words) > 1:
            raise BadValue('"any" must appear alone in AuthenticationMethods')
        return ("any",)
    for word in words:
        names = [entry.partition(":")[0] for entry in word.split(",")]
        for name in names:
            if name not in (*_METHODS, "none"):
                raise BadValue(
                    "invalid AuthenticationMethods method list.",
                    f'Unknown authentication method "{name}" in list',
                )
    return tuple(words)


TOUCH_REQUIRED, VERIFY_REQUIRED = TOKEN_DEMANDS = ("touch-required", "verify-required")


def _parse_demands(line: Line) -> tuple[str, ...]:
    """PubkeyAuthOptions: what a FIDO key must have seen its owner do."""
    for word in line.words:
        if ascii_lower(word) not in ("none", *TOKEN_DEMANDS):
            raise BadLine(f"unsupported {line.keyword} option {word}")
    wanted = {ascii_lower(word) for word in line.words}
    return tuple(name for name in TOKEN_DEMANDS if name in wanted)


def _parse_channel_timeouts(line: Line) -> tuple[str, ...]:
    words = line.words
    if words and ascii_lower(words[0]) == "none":
        if len(words) > 1:
            raise BadLine(f'keyword {line.keyword} "none" argument must appear alone.')
        return ()
    for word in words:
        kind, _, time = word.partition("=")
        try:
            parse_time(time if kind else "")
        except ConfigSyntaxError:
            raise BadValue(f"invalid channel timeout {word}") from None
    return tuple(words)


TIMEOUT = Kind(of_word(none_or(parse_time), "missing time value."), show_text)
TIMEOUTS = Kind(
    _parse_channel_timeouts, lambda words: show_joined(words or ("none",)), single=False
)
COMMAND = Kind(_parse_command, show_text, single=False)
ABSOLUTE_COMMAND = Kind(_parse_absolute_command, show_text, single=False)
DEMANDS = Kind(_parse_demands, lambda names: show_joined(names or ("none",)), single=False)
PATTERNS = Kind(_parse_patterns, show_each, APPEND, single=False)
NAMES = Kind(_parse_accepted_names, show_each, APPEND, single=False)
ASSIGNMENTS = Kind(_parse_assignments, show_each, single=False)
KEY_FILES = Kind(_parse_key_files, lambda files: show_joined(files or ("none",)), single=False)
PERMITTED = Kind(_parse_permitted, show_joined, single=False)
METHODS = Kind(_parse_methods, show_joined, single=False)
SUBSYSTEMS = Kind(
    _parse_subsystem,
    lambda table: [f"{name} {command}" for name, command in table.items()],
    MERGE,
    single=False,
)
