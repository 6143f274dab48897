"""Process: main [root]. Values in sshd_config that say where to listen, and how many may come
from where: MaxStartups, PerSourcePenalties and their like. `admission.py` acts upon them.
"""


from sshoq.config.lexer import ConfigSyntaxError, ascii_lower, parse_number, parse_time
from sshoq.config.patterns import AddressListError, match_cidr_list
from sshoq.named_tuple import NamedTuple
from sshoq.server.values import (
    APPEND,
    MERGE,
    BadValue,
    Kind,
    Line,
    none_or,
    of_word,
    parse_integer,
    parse_port,
    show_text,
)


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
    of_word(_parse_max_startups, "missing MaxStartups spec."),
    lambda value: [f"{value.begin}:{value.rate}:{value.full}"],
)


def _parse_source_limit(line: Line) -> int | None:
    if line.words and ascii_lower(line.words[0]) == "none":
        return None
    return parse_integer(line)


SOURCE_LIMIT = Kind(_parse_source_limit, show_text)


def _parse_block_size(text: str) -> NetBlockSize:
    ipv4, colon, ipv6 = text.partition(":")
    try:
        size = NetBlockSize(parse_number(ipv4, 0, 32), parse_number(ipv6, 0, 128) if colon else 128)
    except ConfigSyntaxError:
        raise ConfigSyntaxError("Invalid PerSourceNetBlockSize spec.") from None
    return size


NET_BLOCK = Kind(
    of_word(_parse_block_size, "missing PerSourceNetBlockSize spec."),
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


NETWORKS = Kind(of_word(none_or(_parse_networks), "missing argument."), show_text)


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
        return Listen(host, parse_port(rest))
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
