"""How each kind of value is read from a line's words, with OpenSSH's complaint for each mistake.

A reader takes a Line and answers with the value, or UNSET when the line changes nothing. Storing
it is the keyword's business (keywords.py).
"""

from __future__ import annotations

from sshoq.config.algorithms import list_error
from sshoq.config.destination import (
    DestinationError,
    cut_host,
    domain_error,
    normal_domain,
    parse_jump_hosts,
)
from sshoq.config.forward_spec import Forward, parse_forward, parse_go_forward
from sshoq.config.lexer import (
    WHITESPACE,
    ConfigSyntaxError,
    ascii_lower,
    parse_flag,
    parse_int,
    parse_mask,
    parse_number,
    parse_port,
    parse_size,
    parse_time,
)
from sshoq.config.tokens import ExpansionError, expand
from sshoq.config.usage import LOG_LEVELS, Notes

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_DOMAINS = 32
MAX_HOST_FILES = 32
MAX_SPEC = 255
TUNNEL_ANY = -1
TUNNEL_MAX = 0x7FFFFFFD


class Unset:
    """The type of UNSET: a line that leaves its keyword as it was."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()


class Line:
    """One directive being read: its words are taken one by one, what remains is an error."""

    __slots__ = (
        "_words",
        "active",
        "environ",
        "keyword",
        "notes",
        "number",
        "raw",
        "user_file",
    )

    def __init__(
        self,
        keyword: str,
        raw: str,
        words: list[str],
        *,
        notes: Notes,
        number: int = 0,
        active: bool = True,
        user_file: bool = True,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.keyword = keyword
        self.raw = raw
        self._words = words[::-1]
        self.notes = notes
        self.number = number
        self.active = active
        self.user_file = user_file
        self.environ: Mapping[str, str] = environ if environ is not None else {}

    @property
    def remaining(self) -> int:
        return len(self._words)

    def take(self) -> str | None:
        """The next word, None at the end of the line."""
        return self._words.pop() if self._words else None

    def take_all(self) -> list[str]:
        words = self._words[::-1]
        self._words.clear()
        return words

    def need(self, complaint: str = "Missing argument.") -> str:
        """The next word, which must be there and not be empty."""
        word = self.take()
        if not word:
            raise ConfigSyntaxError(complaint)
        return word


class FatalLine(ConfigSyntaxError):
    """A mistake after which OpenSSH reads no further."""


if TYPE_CHECKING:
    Reader = Callable[[Line], object]


def text(line: Line) -> object:
    return line.need()


def flag(line: Line) -> object:
    word = _state_word(line)
    return parse_flag(word)


def _state_word(line: Line) -> str:
    """The word of a yes/no keyword. OpenSSH complains twice about an empty one."""
    word = line.take()
    if word is None:
        raise ConfigSyntaxError("missing argument.", 'unsupported option "(null)".')
    if not word:
        raise ConfigSyntaxError("missing argument.", 'unsupported option "".')
    return word


def choice(**states: str) -> Reader:
    """One of several words in any case: yes="yes", on="yes"; "_" in a name stands for "-"."""
    table = {name.replace("_", "-"): value for name, value in states.items()}

    def read(line: Line) -> object:
        word = _state_word(line)
        value = table.get(ascii_lower(word))
        if value is None:
            raise ConfigSyntaxError(f'unsupported option "{word}".')
        return value

    return read


YES_NO = {"true": "yes", "false": "no", "yes": "yes", "no": "no"}


def yes_no_or(**more: str) -> Reader:
    return choice(**YES_NO, **more)


def integer(line: Line) -> object:
    return parse_int(line.take() or "")


def port(line: Line) -> object:
    return parse_port(line.need())


def seconds(line: Line) -> object:
    word = line.need("missing time value.")
    return UNSET if word == "none" else parse_time(word)


def mask(line: Line) -> object:
    return parse_mask(line.need("Missing StreamLocalBindMask argument."))


def command(line: Line) -> object:
    """The raw rest of the line; quotes and '#' belong to it."""
    line.take_all()
    return line.raw.lstrip(WHITESPACE + "=")


def algorithms(check: Callable[[str], str | None], complaint: str, *, kex: bool = False) -> Reader:
    """A list of algorithm names; complaint has a %s for it."""

    def read(line: Line) -> object:
        word = line.need()
        unknown = list_error(word, check)
        if unknown is not None:
            if kex and unknown:
                line.notes.error(f'Unsupported KEX algorithm "{unknown}"')
            raise ConfigSyntaxError(complaint % word)
        return word

    return read


def word_list(limit: int | None = None, alone: tuple[str, ...] = ("none",)) -> Reader:
    """All words of the line; those in alone must stand alone."""

    def read(line: Line) -> object:
        words: list[str] = []
        while (word := line.take()) is not None:
            if not word:
                raise ConfigSyntaxError(f"keyword {line.keyword} empty argument")
            if ascii_lower(word) in alone and (words or line.remaining):
                raise ConfigSyntaxError(
                    f'keyword {line.keyword} "{ascii_lower(word)}" argument must appear alone.'
                )
            words.append(word)
            if limit is not None and len(words) > limit and line.active:
                raise ConfigSyntaxError(f"too many {line.keyword} entries.")
        return tuple(words) or UNSET

    return read


host_files = word_list(MAX_HOST_FILES)


def first_word(line: Line) -> object:
    """A list of which OpenSSH keeps the first word alone (LogVerbose)."""
    words = word_list()(line)
    return words[:1] if isinstance(words, tuple) else words


def domains(line: Line) -> object:
    words = word_list()(line)
    if not isinstance(words, tuple):
        return words
    for word in words:
        complaint = domain_error(word)
        if complaint is not None:
            raise ConfigSyntaxError(complaint)
    if len(words) > MAX_DOMAINS:
        raise ConfigSyntaxError("too many hostname suffixes.")
    return tuple(normal_domain(word) for word in words)


def permitted_cnames(line: Line) -> object:
    """Rules (source list, target list) that say which CNAMEs may be followed."""
    words: list[tuple[str, str]] = []
    while (word := line.take()) is not None:
        if word.lower() == "none" and (words or line.remaining):
            raise ConfigSyntaxError(f'keyword {line.keyword} "none" argument must appear alone.')
        words.append(_cname_rule(word))
        if len(words) > MAX_DOMAINS:
            raise ConfigSyntaxError("too many permitted CNAMEs.")
    return tuple(words) or UNSET


def _cname_rule(word: str) -> tuple[str, str]:
    if word.lower() == "none":
        return word, ""
    if word == "*":
        return word, word
    source, colon, target = ascii_lower(word).partition(":")
    if not colon or not target:
        raise ConfigSyntaxError(f'Invalid permitted CNAME "{ascii_lower(word)}"')
    return source, target


def remote_opens(line: Line) -> object:
    """PermitRemoteOpen: host:port words, or any or none alone."""
    words: list[str] = []
    while (word := line.take()) is not None:
        if word.lower() not in ("any", "none"):
            _check_remote_open(line, word)
        elif words or line.remaining:
            raise ConfigSyntaxError(f'keyword {line.keyword} "{word}" argument must appear alone.')
        words.append(word)
    if not words:
        raise FatalLine(f"missing {line.keyword} specification")
    return tuple(words)


def _check_remote_open(line: Line, word: str) -> None:
    try:
        _, stop, port_text = cut_host(word)
    except DestinationError:
        stop, port_text = "/", ""
    if stop == "/":
        raise FatalLine(f"missing host in {line.keyword}")
    if port_text == "*":
        return
    try:
        parse_port(port_text)
    except ConfigSyntaxError:
        raise FatalLine(f"bad port number in {line.keyword}") from None


def log_level(line: Line) -> object:
    word = line.take()
    level = LOG_LEVELS.get((word or "").upper())
    if level is None:
        raise ConfigSyntaxError(f"unsupported log level '{'<NONE>' if word is None else word}'")
    return level


FACILITIES = (
    *("DAEMON", "USER", "AUTH", "AUTHPRIV"),
    *(f"LOCAL{number}" for number in range(8)),
)


def log_facility(line: Line) -> object:
    word = line.take()
    if (word or "").upper() not in FACILITIES:
        raise ConfigSyntaxError(f"unsupported log facility '{'<NONE>' if word is None else word}'")
    return (word or "").upper()


DIGESTS = ("MD5", "SHA1", "SHA256", "SHA384", "SHA512")


def digest(line: Line) -> object:
    word = line.need()
    if word.upper() not in DIGESTS:
        raise ConfigSyntaxError(f'Invalid hash algorithm "{word}".')
    return word.upper()


DSCP = {
    **{f"af{c}{d}": (c << 3 | d << 1) << 2 for c in range(1, 5) for d in range(1, 4)},
    **{f"cs{c}": c << 5 for c in range(8)},
    "ef": 0xB8,
    "le": 0x04,
    "va": 0xB0,
}
# Type-of-service names of old: OpenSSH 10 takes them and leaves the field alone.
OLD_TOS = ("lowdelay", "throughput", "reliability")


def qos(line: Line) -> object:
    """(interactive, bulk) as values of the IP header's field; None leaves it alone."""
    interactive = qos_value(line.take())
    word = line.take()
    return interactive, (interactive if word is None else qos_value(word))


def qos_value(word: str | None) -> int | None:
    name = ascii_lower(word or "")
    if name == "none" or name in OLD_TOS:
        return None
    if name in DSCP:
        return DSCP[name]
    try:
        return parse_number(word or "", 0, 255)
    except ConfigSyntaxError:
        raise ConfigSyntaxError(f"Bad IPQoS value: {'(null)' if word is None else word}") from None


def escape_character(line: Line) -> object:
    """The escape character as a byte value, None for none."""
    return parse_escape(line.need())


def parse_escape(word: str) -> int | None:
    data = word.encode("utf-8", "surrogateescape")
    if data == b"none":
        return None
    if len(data) == 1:
        return data[0]
    if len(data) == 2 and data[:1] == b"^" and 64 <= data[1] < 128:
        return data[1] & 31
    raise ConfigSyntaxError("Bad escape character.")


def tunnel_device(line: Line) -> object:
    return parse_tunnel_device(line.need())


def parse_tunnel_device(word: str) -> tuple[int, int]:
    """(local, remote) numbers of tunnel devices, TUNNEL_ANY for any."""
    local, colon, remote = word.partition(":")
    return _tunnel_number(local), _tunnel_number(remote) if colon else TUNNEL_ANY


def _tunnel_number(word: str) -> int:
    if word.lower() == "any":
        return TUNNEL_ANY
    try:
        return parse_number(word, 0, TUNNEL_MAX)
    except ConfigSyntaxError:
        raise ConfigSyntaxError("Bad tun device.") from None


def add_keys(line: Line) -> object:
    """AddKeysToAgent: (yes, no, ask or confirm; lifetime in seconds, 0 for no end)."""
    word, lifetime = line.take(), line.take()
    if not word:
        raise ConfigSyntaxError("missing argument.", "unsupported option")
    state = {**YES_NO, "ask": "ask", "confirm": "confirm"}.get(ascii_lower(word))
    if state == "confirm" and lifetime is not None:
        return state, parse_time(lifetime)
    if state is None and lifetime is None:
        try:
            return "yes", parse_time(word)
        except ConfigSyntaxError:
            raise ConfigSyntaxError("unsupported option") from None
    if state is None or lifetime is not None:
        raise ConfigSyntaxError("unsupported option")
    return state, 0


def control_persist(line: Line) -> object:
    """(whether the master stays, seconds or 0 for ever); the words are case-sensitive."""
    word = line.need("Missing ControlPersist argument.")
    if word in YES_NO:
        return YES_NO[word] == "yes", 0
    try:
        return True, parse_time(word)
    except ConfigSyntaxError:
        raise ConfigSyntaxError("Bad ControlPersist argument.") from None


def rekey_limit(line: Line) -> object:
    """(bytes or 0 for the default, seconds or UNSET when the line does not say)."""
    word = line.need()
    limit = 0 if word == "default" else parse_size(word)
    if limit != 0 and limit < 16:
        raise ConfigSyntaxError("RekeyLimit too small")
    return limit, (seconds(line) if line.remaining else UNSET)


def keystroke_timing(line: Line) -> object:
    """The interval in milliseconds at which keystrokes are sent, 0 to send them as they come."""
    word = line.need("missing argument")
    if line.remaining:
        raise ConfigSyntaxError("invalid arguments")
    if word in YES_NO:
        return DEFAULT_KEYSTROKE_INTERVAL if YES_NO[word] == "yes" else 0
    if not word.startswith("interval:"):
        raise ConfigSyntaxError(f'unsupported argument "{word}"')
    value = parse_int(word.removeprefix("interval:"))
    if not 0 < value <= 1000:
        raise ConfigSyntaxError("value out of range.")
    return value


DEFAULT_KEYSTROKE_INTERVAL = 20


def channel_timeouts(line: Line) -> object:
    words = word_list()(line)
    if isinstance(words, tuple) and words[0].lower() != "none":
        for word in words:
            _check_channel_timeout(word)
    return words


def _check_channel_timeout(word: str) -> None:
    kind, equals, interval = word.partition("=")
    try:
        if not kind or not equals:
            raise ConfigSyntaxError("no interval")
        parse_time(interval)
    except ConfigSyntaxError:
        raise FatalLine(f"invalid channel timeout {word}") from None


def sent_variables(line: Line) -> object:
    """SendEnv: patterns of names; one that begins with '-' takes earlier ones away."""
    words = tuple(line.take_all())
    if any(not word or "=" in word for word in words):
        raise ConfigSyntaxError("Invalid environment name.")
    return words


def set_variables(line: Line) -> object:
    """SetEnv: NAME=VALUE words; the first of equal names stays."""
    variables: dict[str, str] = {}
    for word in line.take_all():
        name, equals, _ = word.partition("=")
        if not equals:
            raise ConfigSyntaxError("Invalid SetEnv.")
        variables.setdefault(name, word)
    return tuple(variables.values()) or UNSET


def agent_socket(line: Line) -> object:
    return _check_agent_path(line, line.need())


def forward_agent(line: Line) -> object:
    """(whether to forward, path of the socket or None for the default)."""
    word = line.need("missing argument.")
    state = YES_NO.get(ascii_lower(word))
    if state is not None:
        return state == "yes", None
    return True, _check_agent_path(line, word)


def _check_agent_path(line: Line, word: str) -> str:
    try:
        expand(word, None, line.environ)
    except ExpansionError as error:
        for complaint in error.lines:
            line.notes.error(complaint)
        raise ConfigSyntaxError(f"Invalid environment expansion {word}.") from None
    name = word[1:]
    if word.startswith("$") and not name.startswith("{") and not is_variable_name(name):
        raise ConfigSyntaxError(f"Invalid environment name {word}.")
    return word


def is_variable_name(name: str) -> bool:
    return bool(name) and all(char.isascii() and (char.isalnum() or char == "_") for char in name)


def forwarding(*, dynamic: bool = False, remote: bool = False) -> Reader:
    """A forwarding of one word (dynamic) or two (where to listen, where to connect)."""

    def read(line: Line) -> object:
        spec = line.need()
        target = None if dynamic else line.take()
        if target:
            return _read_forward(line, f"{spec}:{target}", dynamic=False, remote=remote)
        if not dynamic and not remote and parse_go_forward(spec) is None:
            raise ConfigSyntaxError("Missing target argument.")
        return _read_forward(line, spec, dynamic=True, remote=remote)

    return read


def _read_forward(line: Line, spec: str, *, dynamic: bool, remote: bool) -> Forward:
    cut = spec.encode("utf-8", "surrogateescape")[:MAX_SPEC].decode("utf-8", "surrogateescape")
    go_forward = parse_go_forward(cut)
    if go_forward is not None:
        return go_forward
    try:
        text = expand(cut, None, line.environ)
        return parse_forward(text, dynamic=dynamic, remote=remote)
    except ExpansionError as error:
        for complaint in error.lines:
            line.notes.error(complaint)
        raise ConfigSyntaxError("Bad forwarding specification.") from None
    except ConfigSyntaxError:
        raise ConfigSyntaxError("Bad forwarding specification.") from None


def jump(line: Line) -> object:
    """ProxyJump: the raw rest of the line up to a blank or a comment; "" for none."""
    line.take_all()
    value = line.raw.lstrip(WHITESPACE + "=")
    if value.lower() == "none":
        return ""
    spec = (value.partition("#")[0].split(None, 1) or [""])[0]
    try:
        parse_jump_hosts(spec)
    except DestinationError:
        raise ConfigSyntaxError(f'Invalid ProxyJump "{value}"') from None
    return spec


def url_path(line: Line) -> object:
    word = line.need()
    if not word.startswith("/"):
        raise ConfigSyntaxError(f'URLPath must start with "/": "{word}"')
    return word


def raw_text(line: Line) -> object:
    """The raw rest of the line without comment (VersionAddendum)."""
    line.take_all()
    value = line.raw.lstrip(WHITESPACE + "=").partition("#")[0].rstrip(WHITESPACE)
    return value if value else UNSET
