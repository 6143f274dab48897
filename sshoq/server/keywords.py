"""Process: main [root]. The keywords of sshd_config as a table: how each is read, shown, merged,
and what becomes of it here.

Every keyword of OpenSSH 10.5 has its row, so that an sshd_config can be used as it stands, and none
that limits who gets in is passed over in silence: what cannot be enforced is REFUSED. Reads no file
and knows no Match.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sshoq.config.algorithms import (
    list_error,
    unknown_cipher,
    unknown_gss_kex,
    unknown_kex,
    unknown_mac,
)
from sshoq.config.lexer import (
    ConfigSyntaxError,
    ascii_lower,
    parse_int,
    parse_mask,
    parse_number,
    parse_port_number,
    parse_size,
    parse_time,
)
from sshoq.config.patterns import AddressListError, match_address_list, match_cidr_list
from sshoq.config.values import qos_value
from sshoq.server.log import FACILITIES, LEVELS


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


class MaxStartups(NamedTuple):
    begin: int
    rate: int
    full: int


class NetBlockSize(NamedTuple):
    """How many bits of an address say which source it is."""

    ipv4: int
    ipv6: int


class Listen(NamedTuple):
    host: str
    port: int
    """0: every Port."""


# What becomes of a keyword here.
ACTED = "acted upon"
LATER = "checked and kept, but tunnels are not made, so there is nothing to permit"
VOID = "without meaning over QUIC, or for a method that is never offered"
REFUSED = "a limit that is not enforced, so a value that sets it stops the start"

# How a second value for the same keyword is taken.
FIRST = "the first wins"
APPEND = "values add up"
MERGE = "the first wins for each name in it"

# Where it may stand.
GLOBAL = False
MATCH = True


class Kind(NamedTuple):
    """A value's format."""

    parse: Callable[[Line], Any]
    show: Callable[[Any], list[str]]
    merge: str = FIRST
    single: bool = True
    """One word; another is an "extra argument"."""


class Keyword(NamedTuple):
    name: str
    kind: Kind
    default: Any
    in_match: bool
    treatment: str
    attribute: str


# --------------------------------------------------------------------------- formats of one word


def _word(parse: Callable[[str], Any], missing: str) -> Callable[[Line], Any]:
    def read(line: Line) -> Any:
        if not line.words or not line.words[0]:
            raise BadValue(missing)
        try:
            return parse(line.words[0])
        except ConfigSyntaxError as error:
            raise BadValue(str(error)) from None

    return read


def _show_text(value: Any) -> list[str]:
    return ["none" if value is None else str(value)]


def _choice(*names: str | tuple[str, str]) -> Kind:
    """One of some words, any case; a pair is (word, word that means the same and is kept)."""
    table = {name if isinstance(name, str) else name[0]: name for name in names}

    def parse(text: str) -> str:
        name = table.get(ascii_lower(text))
        if name is None:
            raise ConfigSyntaxError(f'unsupported option "{text}".')
        return name if isinstance(name, str) else name[1]

    return Kind(_word(parse, "missing argument."), _show_text)


def _parse_flag(text: str) -> bool:
    lower = ascii_lower(text)
    if lower not in ("yes", "no"):
        raise ConfigSyntaxError(f'unsupported option "{text}".')
    return lower == "yes"


FLAG = Kind(_word(_parse_flag, "missing argument."), lambda value: ["yes" if value else "no"])


def _parse_integer(line: Line) -> int:
    try:
        return parse_int(line.words[0] if line.words else "")
    except ConfigSyntaxError as error:
        raise BadValue(f"{line.keyword} {error}") from None


INTEGER = Kind(_parse_integer, _show_text)
TIME = Kind(_word(parse_time, "missing time value."), _show_text)


def _none_or(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if ascii_lower(text) == "none" else parse(text)


def _absolute(path: str) -> str:
    """As sshd: relative to where it is started. There is no '~': whose would it be?"""
    import os

    return path if path.startswith("/") else os.path.join(os.getcwd(), path)


FILE = Kind(_word(_none_or(_absolute), "missing file name."), _show_text)
PATH = Kind(_word(_none_or(str), "missing file name."), _show_text)
"""Not made absolute: it holds tokens."""
FILES = Kind(
    _word(lambda text: (_absolute(text),), "missing file name."), lambda paths: list(paths), APPEND
)
FILES_OR_NONE = FILES._replace(
    parse=_word(
        lambda text: () if ascii_lower(text) == "none" else (_absolute(text),),
        "missing file name.",
    )
)
USER = Kind(_word(_none_or(str), "missing argument."), _show_text)


def _port(text: str) -> int:
    try:
        port = parse_port_number(text)
    except ConfigSyntaxError:
        port = 0
    if not port:
        raise ConfigSyntaxError("Badly formatted port number.")
    return port


PORTS = Kind(
    _word(lambda text: (_port(text),), "missing port number."),
    lambda ports: [str(port) for port in ports],
    APPEND,
)


def _log_name(table: Mapping[str, int], what: str) -> Kind:
    def parse(text: str) -> str:
        if text.upper() not in table:
            raise ConfigSyntaxError(f"unsupported log {what} '{text}'")
        name = text.upper()
        return {"QUIET": "SILENT", "DEBUG1": "DEBUG"}.get(name, name)

    def read(line: Line) -> str:
        return str(_word(parse, f"unsupported log {what} '<NONE>'")(line))

    return Kind(read, _show_text)


def _parse_mask(text: str) -> int:
    try:
        return parse_mask(text)
    except ConfigSyntaxError:
        raise ConfigSyntaxError("Invalid StreamLocalBindMask.") from None


MASK = Kind(
    _word(_parse_mask, "missing StreamLocalBindMask argument."), lambda mask: [f"0{mask:o}"]
)


def _parse_hash(text: str) -> str:
    if text.upper() not in ("MD5", "SHA256", "SHA384", "SHA512", "SHA1"):
        raise ConfigSyntaxError(f'Invalid FingerprintHash algorithm "{text}".')
    return text.upper()


HASH = Kind(_word(_parse_hash, "missing argument."), _show_text)


def _parse_user_environment(text: str) -> str:
    """A pattern list of names: "" none, "*" all."""
    return {"yes": "*", "no": ""}.get(text, text)


USER_ENVIRONMENT = Kind(
    _word(_parse_user_environment, "missing argument."),
    lambda names: [{"": "no", "*": "yes"}.get(names, names)],
)


def _parse_path(text: str) -> str:
    if not text.startswith("/"):
        raise ConfigSyntaxError("URLPath must begin with a slash.")
    if not text.isascii() or not text.isprintable() or any(char in text for char in " ?#"):
        raise ConfigSyntaxError("URLPath must be a plain path.")
    return text


URL_PATH = Kind(_word(_parse_path, "missing path."), _show_text)


def _parse_service(text: str) -> str:
    if "/" in text or text.startswith("."):
        raise ConfigSyntaxError("PAMServiceName must be a file name in /etc/pam.d.")
    return text


PAM_SERVICE = Kind(_word(_parse_service, "missing argument."), _show_text)


# --------------------------------------------------------------------------- admission


def _parse_max_startups(text: str) -> MaxStartups:
    parts = text.split(":")
    try:
        numbers = [parse_number(part, 1, 2**31 - 1) for part in parts]
    except ConfigSyntaxError:
        numbers = []
    if len(numbers) == 1:
        return MaxStartups(numbers[0], 30, numbers[0])
    if len(numbers) != 3 or numbers[0] > numbers[2] or numbers[1] > 100:
        raise ConfigSyntaxError("Invalid MaxStartups spec.")
    return MaxStartups(*numbers)


MAX_STARTUPS = Kind(
    _word(_parse_max_startups, "missing MaxStartups spec."),
    lambda value: [f"{value.begin}:{value.rate}:{value.full}"],
)


def _parse_source_limit(line: Line) -> int | None:
    if line.words and ascii_lower(line.words[0]) == "none":
        return None
    return _parse_integer(line)


SOURCE_LIMIT = Kind(_parse_source_limit, _show_text)


def _parse_block_size(text: str) -> NetBlockSize:
    ipv4, colon, ipv6 = text.partition(":")
    try:
        size = NetBlockSize(parse_number(ipv4, 0, 32), parse_number(ipv6, 0, 128) if colon else 128)
    except ConfigSyntaxError:
        raise ConfigSyntaxError("Invalid PerSourceNetBlockSize spec.") from None
    return size


NET_BLOCK = Kind(
    _word(_parse_block_size, "missing PerSourceNetBlockSize spec."),
    lambda size: [f"{size.ipv4}:{size.ipv6}"],
)

PENALTIES: dict[str, int | str | bool] = {
    "enabled": True,
    "crash": 90,
    "authfail": 5,
    "invaliduser": 5,
    "noauth": 1,
    "grace-exceeded": 10,
    "refuseconnection": 10,
    "max": 600,
    "min": 15,
    "max-sources4": 65536,
    "max-sources6": 65536,
    "overflow": "permissive",
    "overflow6": "permissive",
}
"""PerSourcePenalties: seconds a source is shut out for each kind of failure, and the bounds."""


def _parse_penalties(line: Line) -> dict[str, int | str | bool]:
    found: dict[str, int | str | bool] = {}
    if not line.words or not line.words[0]:
        raise BadValue("missing argument.")
    for word in line.words:
        name, colon, value = word.partition(":")
        try:
            key, setting = _parse_penalty(ascii_lower(name), colon, value)
        except ConfigSyntaxError:
            raise BadValue(f"invalid PerSourcePenalties value {word}") from None
        found.setdefault(key, setting)
    return found


def _parse_penalty(name: str, colon: str, value: str) -> tuple[str, int | str | bool]:
    if not colon and name in ("yes", "no"):
        return "enabled", name == "yes"
    if not colon or name not in PENALTIES or name == "enabled":
        raise ConfigSyntaxError("unknown")
    if name in ("overflow", "overflow6"):
        if value not in ("permissive", "deny-all"):
            raise ConfigSyntaxError("unknown")
        return name, value
    if name in ("max-sources4", "max-sources6"):
        return name, parse_number(value, 1, 2**31 - 1)
    return name, parse_time(value)


def _show_penalties(value: dict[str, int | str | bool]) -> list[str]:
    if not value["enabled"]:
        return ["no"]
    return [" ".join(f"{key}:{value[key]}" for key in PENALTIES if key != "enabled")]


PENALTY_TABLE = Kind(_parse_penalties, _show_penalties, MERGE, single=False)


def _parse_networks(text: str) -> str | None:
    try:
        match_cidr_list(None, text)
    except AddressListError:
        raise ConfigSyntaxError(f'invalid PerSourcePenaltyExemptList argument "{text}"') from None
    return text


NETWORKS = Kind(_word(_none_or(_parse_networks), "missing argument."), _show_text)


def _parse_listen(line: Line) -> tuple[Listen, ...]:
    words = line.words
    if not words or not words[0]:
        raise BadValue("missing address")
    if len(words) > 1:
        known = len(words) == 3 and ascii_lower(words[1]) == "rdomain"
        raise BadValue("bad routing domain" if known else "bad ListenAddress syntax")
    return (_split_listen(words[0]),)


def _split_listen(text: str) -> Listen:
    """host, host:port, [host]:port, or an IPv6 address without brackets."""
    if "[" not in text and text.count(":") > 1:
        return Listen(text, 0)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise BadValue("bad address:port usage")
        rest = rest[1:]
    else:
        host, _, rest = text.partition(":")
    if not rest:
        return Listen(host, 0)
    try:
        return Listen(host, _port(rest))
    except ConfigSyntaxError:
        raise BadValue("bad port number") from None


def show_endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


LISTEN = Kind(
    _parse_listen,
    lambda values: [show_endpoint(*value) for value in values],
    APPEND,
    single=False,
)


# --------------------------------------------------------------------------- lists of words


def _items(values: Iterable[str]) -> list[str]:
    return list(values)


def _joined(values: tuple[str, ...]) -> list[str]:
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
            _port(port)
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


TIMEOUT = Kind(_word(_none_or(parse_time), "missing time value."), _show_text)
TIMEOUTS = Kind(
    _parse_channel_timeouts, lambda words: _joined(words or ("none",)), single=False
)
COMMAND = Kind(_parse_command, _show_text, single=False)
ABSOLUTE_COMMAND = Kind(_parse_absolute_command, _show_text, single=False)
DEMANDS = Kind(_parse_demands, lambda names: _joined(names or ("none",)), single=False)
PATTERNS = Kind(_parse_patterns, _items, APPEND, single=False)
NAMES = Kind(_parse_accepted_names, _items, APPEND, single=False)
ASSIGNMENTS = Kind(_parse_assignments, _items, single=False)
KEY_FILES = Kind(_parse_key_files, lambda files: _joined(files or ("none",)), single=False)
PERMITTED = Kind(_parse_permitted, _joined, single=False)
METHODS = Kind(_parse_methods, _joined, single=False)
SUBSYSTEMS = Kind(
    _parse_subsystem,
    lambda table: [f"{name} {command}" for name, command in table.items()],
    MERGE,
    single=False,
)

# --------------------------------------------------------------------------- key algorithms

_PLAIN_KEYS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
CA_SIGNATURES = ",".join(_PLAIN_KEYS)
DEFAULT_KEYS = ",".join(
    [f"{name.removesuffix('@openssh.com')}-cert-v01@openssh.com" for name in _PLAIN_KEYS]
    + list(_PLAIN_KEYS)
)
_KNOWN_KEYS = (*DEFAULT_KEYS.split(","), "ssh-rsa", "ssh-rsa-cert-v01@openssh.com")


def _algorithms(default: str) -> Kind:
    """A list of names; with + - ^ in front, a change of the default."""

    def parse(text: str) -> str:
        from sshoq.config.patterns import match_pattern_list

        usual = default.split(",")
        change = text[0] if text[0] in "+-^" else ""
        wanted = text[len(change) :]
        if change == "-":
            return ",".join(name for name in usual if match_pattern_list(name, wanted) <= 0)
        for name in wanted.split(","):
            if not any(match_pattern_list(known, name) > 0 for known in _KNOWN_KEYS):
                raise ConfigSyntaxError(f"Bad key types '{text}'.")
        chosen = [
            known
            for name in wanted.split(",")
            for known in ([name] if name in _KNOWN_KEYS else _KNOWN_KEYS)
            if match_pattern_list(known, name) > 0
        ]
        order = {"": chosen, "+": usual + chosen, "^": chosen + usual}[change]
        return ",".join(dict.fromkeys(order))

    return Kind(_word(parse, "Missing argument."), _show_text)


ALGORITHMS = _algorithms(DEFAULT_KEYS)
CA_ALGORITHMS = _algorithms(CA_SIGNATURES)


# --------------------------------------------------------------------------- what is not acted upon


def _ignore(line: Line) -> None:
    return None


IGNORED = Kind(_ignore, _show_text, single=False)


def _names(check: Callable[[str], str | None], complaint: str, *, kex: bool = False) -> Kind:
    """A list of algorithms of SSH's transport; `complaint` has a %s for it."""

    def read(line: Line) -> str:
        if not line.words or not line.words[0]:
            raise BadValue(f"{line.keyword} missing argument.")
        unknown = list_error(line.words[0], check)
        if unknown is None:
            return line.words[0]
        details = [f'Unsupported KEX algorithm "{unknown}"'] if kex and unknown else []
        raise BadValue(complaint % line.words[0], *details)

    return Kind(read, _show_text)


def _parse_qos(line: Line) -> tuple[str, ...]:
    if not line.words or not line.words[0]:
        raise BadValue(f"{line.keyword} missing argument.")
    for word in line.words[:2]:
        try:
            qos_value(word)
        except ConfigSyntaxError as error:
            raise BadValue(str(error)) from None
    if len(line.words) > 2:
        raise BadLine(f"keyword {line.keyword} extra arguments at end of line")
    return tuple(line.words)


def _parse_rekey_limit(line: Line) -> tuple[str, ...]:
    words = line.words
    if not words or not words[0]:
        raise BadValue(f"{line.keyword} missing argument.")
    _check_rekey_size(line.keyword, words[0])
    if len(words) > 1 and words[1] != "none":
        try:
            parse_time(words[1])
        except ConfigSyntaxError as error:
            raise BadValue(str(error)) from None
    if len(words) > 2:
        raise BadLine(f"keyword {line.keyword} extra arguments at end of line")
    return tuple(words)


def _check_rekey_size(keyword: str, word: str) -> None:
    try:
        size = 0 if word == "default" else parse_size(word)
    except ConfigSyntaxError as error:
        raise BadValue(str(error).replace("Bad number", f"Bad {keyword} number")) from None
    if size != 0 and size < 16:
        raise BadValue(f"{keyword} too small")


CIPHERS = _names(unknown_cipher, "Bad SSH2 cipher spec '%s'.")
MACS = _names(unknown_mac, "Bad SSH2 mac spec '%s'.")
KEX = _names(unknown_kex, "Bad SSH2 KexAlgorithms '%s'.", kex=True)
GSS_KEX = _names(unknown_gss_kex, "Bad GSSAPI KexAlgorithms '%s'.", kex=True)
QOS = Kind(_parse_qos, _show_text, single=False)
REKEY_LIMIT = Kind(_parse_rekey_limit, _show_text, single=False)
COMPRESSION = _choice("yes", "delayed", "no")
RHOSTS = _choice("yes", "no", "shosts-only")
TEXT = Kind(lambda line: line.words, _show_text)


def _harmless_only(*values: str) -> Kind:
    """The values that ask for nothing."""

    def parse(line: Line) -> None:
        if [ascii_lower(word) for word in line.words[:1]] not in [[value] for value in values]:
            raise BadValue(f'Unsupported option "{line.keyword}": sshoq-server cannot enforce it.')

    return Kind(parse, _show_text, single=False)


UNSET = _harmless_only("none")


# --------------------------------------------------------------------------- the table


def attribute_name(keyword: str) -> str:
    """PermitRootLogin -> permit_root_login, UsePAM -> use_pam, URLPath -> url_path."""
    out: list[str] = []
    for i, char in enumerate(keyword):
        before, after = keyword[i - 1 : i], keyword[i + 1 : i + 2]
        if char.isupper() and before and (before.islower() or (before and after.islower())):
            out.append("_")
        out.append(char.lower())
    return "".join(out)


def _row(name: str, kind: Kind, default: Any, in_match: bool, treatment: str = ACTED) -> Keyword:
    return Keyword(name, kind, default, in_match, treatment, attribute_name(name))


_FORWARDING = _choice("yes", ("all", "yes"), "no", "remote", "local")

_ROWS = [
    # In the order of `sshd -T`.
    _row("Port", PORTS, (), GLOBAL),
    _row("AddressFamily", _choice("any", "inet", "inet6"), "any", GLOBAL),
    _row("ListenAddress", LISTEN, (), GLOBAL),
    _row("UsePAM", FLAG, True, GLOBAL),
    _row("PAMServiceName", PAM_SERVICE, "sshoq", MATCH),
    _row("LoginGraceTime", TIME, 120, GLOBAL),
    _row("X11DisplayOffset", INTEGER, 10, MATCH),
    _row("MaxAuthTries", INTEGER, 6, MATCH),
    _row("MaxSessions", INTEGER, 10, MATCH),
    _row("ClientAliveInterval", TIME, 0, MATCH),
    _row("ClientAliveCountMax", INTEGER, 3, MATCH),
    _row("RequiredRSASize", INTEGER, 1024, MATCH),
    _row("StreamLocalBindMask", MASK, 0o177, MATCH),
    _row(
        "PermitRootLogin",
        _choice(
            ("without-password", "prohibit-password"),
            "prohibit-password",
            "forced-commands-only",
            "yes",
            "no",
        )._replace(
            show=lambda value: ["without-password" if value == "prohibit-password" else str(value)]
        ),
        "prohibit-password",
        MATCH,
    ),
    _row("PubkeyAuthentication", FLAG, True, MATCH),
    _row("PasswordAuthentication", FLAG, True, MATCH),
    _row("KbdInteractiveAuthentication", FLAG, True, MATCH),
    _row("PrintMotd", FLAG, True, GLOBAL),
    _row("PrintLastLog", FLAG, True, GLOBAL),
    _row("X11Forwarding", FLAG, False, MATCH),
    _row("X11UseLocalhost", FLAG, True, MATCH),
    _row("PermitTTY", FLAG, True, MATCH),
    _row("PermitUserRC", FLAG, True, MATCH),
    _row("StrictModes", FLAG, True, GLOBAL),
    _row("PermitEmptyPasswords", FLAG, False, MATCH),
    _row("GatewayPorts", _choice("clientspecified", "yes", "no"), "no", MATCH),
    _row("UseDNS", FLAG, False, GLOBAL),
    _row("AllowTcpForwarding", _FORWARDING, "yes", MATCH),
    _row("AllowAgentForwarding", FLAG, True, MATCH),
    _row("DisableForwarding", FLAG, False, MATCH),
    _row("AllowStreamLocalForwarding", _FORWARDING, "yes", MATCH),
    _row("StreamLocalBindUnlink", FLAG, False, MATCH),
    _row("FingerprintHash", HASH, "SHA256", GLOBAL),
    _row("ExposeAuthInfo", FLAG, False, MATCH),
    _row("RefuseConnection", FLAG, False, MATCH),
    _row("PidFile", FILE, None, GLOBAL),
    _row("XAuthLocation", FILE, "/usr/bin/xauth", GLOBAL),
    _row("Banner", FILE, None, MATCH),
    _row("ForceCommand", COMMAND, None, MATCH),
    _row("ChrootDirectory", PATH, None, MATCH),
    _row("TrustedUserCAKeys", FILE, None, MATCH),
    _row("RevokedKeys", FILE, None, MATCH),
    _row("AuthorizedPrincipalsFile", PATH, None, MATCH),
    _row("AuthorizedKeysCommand", ABSOLUTE_COMMAND, None, MATCH),
    _row("AuthorizedKeysCommandUser", USER, None, MATCH),
    _row("AuthorizedPrincipalsCommand", ABSOLUTE_COMMAND, None, MATCH),
    _row("AuthorizedPrincipalsCommandUser", USER, None, MATCH),
    _row("CASignatureAlgorithms", CA_ALGORITHMS, CA_SIGNATURES, MATCH),
    _row("HostKeyAlgorithms", ALGORITHMS, DEFAULT_KEYS, GLOBAL),
    _row("PubkeyAcceptedAlgorithms", ALGORITHMS, DEFAULT_KEYS, MATCH),
    _row("LogLevel", _log_name(LEVELS, "level"), "INFO", MATCH),
    _row("SyslogFacility", _log_name(FACILITIES, "facility"), "AUTH", GLOBAL),
    _row("AuthorizedKeysFile", KEY_FILES, (".ssh/authorized_keys", ".ssh/authorized_keys2"), MATCH),
    _row("HostKey", FILES, (), GLOBAL),
    _row("HostCertificate", FILES_OR_NONE, (), GLOBAL),
    _row("AllowUsers", PATTERNS, (), MATCH),
    _row("DenyUsers", PATTERNS, (), MATCH),
    _row("AllowGroups", PATTERNS, (), MATCH),
    _row("DenyGroups", PATTERNS, (), MATCH),
    _row("AcceptEnv", NAMES, (), MATCH),
    _row("SetEnv", ASSIGNMENTS, (), MATCH),
    _row("AuthenticationMethods", METHODS, ("any",), MATCH),
    _row("Subsystem", SUBSYSTEMS, {}, MATCH),
    _row("MaxStartups", MAX_STARTUPS, MaxStartups(10, 30, 100), GLOBAL),
    _row("PerSourceMaxStartups", SOURCE_LIMIT, None, GLOBAL),
    _row("PerSourceNetBlockSize", NET_BLOCK, NetBlockSize(32, 128), GLOBAL),
    _row("PermitTunnel", _choice("point-to-point", "ethernet", "yes", "no"), "no", MATCH, LATER),
    _row("PermitOpen", PERMITTED, ("any",), MATCH),
    _row("PermitListen", PERMITTED, ("any",), MATCH),
    _row("PermitUserEnvironment", USER_ENVIRONMENT, "", GLOBAL),
    _row("PubkeyAuthOptions", DEMANDS, (), MATCH),
    _row("UnusedConnectionTimeout", TIMEOUT, None, MATCH),
    _row("ChannelTimeout", TIMEOUTS, (), MATCH),
    _row("PerSourcePenalties", PENALTY_TABLE, PENALTIES, GLOBAL),
    _row("PerSourcePenaltyExemptList", NETWORKS, None, GLOBAL),
    # Our own.
    _row("URLPath", URL_PATH, "/sshoq-server", GLOBAL),
    _row("CongestionControl", _choice("bbr", "cubic"), "bbr", GLOBAL),
    _row("Certificate", FILE, None, GLOBAL),
    _row("CertificateKey", FILE, None, GLOBAL),
    _row("DisableSFTP", FLAG, False, MATCH),
    # Limits that are not enforced.
    _row("RDomain", UNSET, None, MATCH, REFUSED),
    _row("HostKeyAgent", UNSET, None, GLOBAL, REFUSED),
    # Without meaning here.
    *[
        _row(name, kind, None, in_match, VOID)
        for name, kind, in_match in (
            ("Ciphers", CIPHERS, GLOBAL),
            ("Compression", COMPRESSION, GLOBAL),
            ("DebianBanner", FLAG, GLOBAL),
            ("GSSAPIAuthentication", FLAG, MATCH),
            ("GSSAPICleanupCredentials", FLAG, GLOBAL),
            ("GSSAPIDelegateCredentials", FLAG, GLOBAL),
            ("GSSAPIKexAlgorithms", GSS_KEX, GLOBAL),
            ("GSSAPIKeyExchange", FLAG, GLOBAL),
            ("GSSAPIStoreCredentialsOnRekey", FLAG, GLOBAL),
            ("GSSAPIStrictAcceptorCheck", FLAG, GLOBAL),
            ("HostbasedAcceptedAlgorithms", ALGORITHMS, MATCH),
            ("HostbasedAuthentication", FLAG, MATCH),
            ("HostbasedUsesNameFromPacketOnly", FLAG, MATCH),
            ("IPQoS", QOS, MATCH),
            ("IgnoreRhosts", RHOSTS, MATCH),
            ("IgnoreUserKnownHosts", FLAG, GLOBAL),
            ("KerberosAuthentication", FLAG, MATCH),
            ("KerberosOrLocalPasswd", FLAG, GLOBAL),
            ("KerberosTicketCleanup", FLAG, GLOBAL),
            ("KexAlgorithms", KEX, GLOBAL),
            ("LogVerbose", IGNORED, MATCH),
            ("Macs", MACS, GLOBAL),
            ("ModuliFile", FILE, GLOBAL),
            ("RekeyLimit", REKEY_LIMIT, MATCH),
            ("SecurityKeyProvider", TEXT, GLOBAL),
            ("SshdAuthPath", TEXT, GLOBAL),
            ("SshdSessionPath", TEXT, GLOBAL),
            ("TCPKeepAlive", FLAG, GLOBAL),
            ("VersionAddendum", IGNORED, GLOBAL),
        )
    ],
]

KEYWORDS = {ascii_lower(row.name): row for row in _ROWS}

ALIASES = {
    "challengeresponseauthentication": "kbdinteractiveauthentication",
    "dsaauthentication": "pubkeyauthentication",
    "hostbasedacceptedkeytypes": "hostbasedacceptedalgorithms",
    "keepalive": "tcpkeepalive",
    "pubkeyacceptedkeytypes": "pubkeyacceptedalgorithms",
    "skeyauthentication": "kbdinteractiveauthentication",
}

DEPRECATED = frozenset(
    (
        "authorizedkeysfile2",
        "checkmail",
        "keyregenerationinterval",
        "pamauthenticationviakbdint",
        "reversemappingcheck",
        "rhostsauthentication",
        "rhostsrsaauthentication",
        "rsaauthentication",
        "serverkeybits",
        "uselogin",
        "useprivilegeseparation",
        "verifyreversemapping",
    )
)
"""sshd says "Deprecated option" and goes on."""

SILENT = frozenset(("protocol",))
UNSUPPORTED = frozenset(("kerberostgtpassing", "afstokenpassing", "kerberosgetafstoken"))
"""sshd says "Unsupported option" and goes on: methods that it could have been built with."""
