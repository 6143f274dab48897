"""Whose keys may log in, and what each may do: authorized_keys and the Go server's identities.

Takes bytes: who opens the files, and with whose rights, is the login's business (but see
`distrust_reason`). Follows sshd(8), AUTHORIZED_KEYS FILE FORMAT. Doubt means no: an option that is
not known refuses its key.
"""

import os
import re
import stat as status_bits
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from sshoq.auth.keys import KeyFormatError, PublicKey, parse_public_key
from sshoq.named_tuple import NamedTuple

MAX_FILE = 4 << 20
MAX_LINE = 1 << 16  # the Go server's bound, and room for OpenSSH's longest key with options
MAX_ENVIRONMENT = 1024
MAX_HOST = 1025  # NI_MAXHOST


class OptionError(ValueError):
    """An option that is unknown or malformed; its key must not be used."""


class Permission(NamedTuple):
    """A destination or listening address that a key may use; ``*`` and port 0 stand for any."""

    host: str
    port: int


@dataclass(slots=True)
class KeyRights:
    """What the holder of a key may do. Starts with everything; options take away."""

    port_forwarding: bool = True
    agent_forwarding: bool = True
    x11_forwarding: bool = True
    pty: bool = True
    user_rc: bool = True
    touch_required: bool = True
    verify_required: bool = False
    certificate_authority: bool = False
    command: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    expires: int | None = None  # the key is good up to this second
    from_patterns: str | None = None  # pattern and CIDR list, for the caller to match
    source_addresses: str | None = None  # CIDR list out of a certificate, likewise
    principals: str | None = None
    permit_open: list[Permission] = field(default_factory=list)  # empty: anything
    permit_listen: list[Permission] = field(default_factory=list)
    tunnel: int | None = None

    def is_expired(self, now: float) -> bool:
        return self.expires is not None and now > self.expires


class Line(NamedTuple):
    """One that says something: neither empty nor a comment."""

    number: int
    text: bytes


class AuthorizedKey(NamedTuple):
    """A key that may log in, or whose certificates may: `rights.certificate_authority`."""

    line: int
    key: PublicKey
    rights: KeyRights


class OidcIdentity(NamedTuple):
    """A person who may log in through OpenID Connect (protocol.md 3.5)."""

    line: int
    client_id: str
    issuer: str
    email: str


class RefusedLine(NamedTuple):
    """A line that grants nothing, and why, for the log."""

    line: int
    reason: str


Identity = AuthorizedKey | OidcIdentity | RefusedLine


def lines_with(data: bytes, marks: Collection[bytes] = (b"",)) -> Iterator[Line]:
    """The lines of an authorized_keys or authorized_identities file, in order, in which one of the
    marks stands: a hundred times faster than to read them all.
    None of a file that is too large."""
    if len(data) > MAX_FILE:
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if any(mark in line for mark in marks):
            stripped = line.strip(b" \t\r")
            if stripped and not stripped.startswith(b"#"):
                yield Line(number, stripped)


def mark_of(key: PublicKey) -> bytes:
    """What stands in every line of that key. The last letters of base64 can be written in more than
    one way.
    """
    return key.base64[: len(key.blob) // 3 * 4].encode()


def read_line(line: Line) -> Identity:
    """What one line grants."""
    return _read_line(line.number, line.text)


def _read_line(number: int, line: bytes) -> Identity:
    if len(line) > MAX_LINE:
        return RefusedLine(number, "line is too long")
    if line.split(None, 1)[:1] == [b"oidc"]:
        return _read_oidc(number, line)
    rights = KeyRights()
    try:
        try:
            key = parse_public_key(line)
        except KeyFormatError:  # so it begins with options
            options, rest = _split_options(line.decode("utf-8", "surrogateescape"))
            rights = parse_options(options)
            key = parse_public_key(rest)
    except OptionError as error:
        return RefusedLine(number, f"bad key options: {error}")
    except KeyFormatError as error:
        return RefusedLine(number, str(error))
    if rights.principals is not None and not rights.certificate_authority:
        return RefusedLine(number, "principals on non-CA key")
    if key.kind.token_algorithm is None:
        return RefusedLine(number, f"{key.algorithm} keys are not supported")
    return AuthorizedKey(number, key, rights)


def _read_oidc(number: int, line: bytes) -> Identity:
    words = line.decode("utf-8", "surrogateescape").split()
    if len(words) != 4:
        return RefusedLine(number, "oidc wants a client ID, an issuer and an e-mail address")
    return OidcIdentity(number, *words[1:])


# What matters to where options and values end. A loop over these takes no longer than a line's
# length explains; the possessive repeats that would spare it match too much before Python 3.11.5.
_QUOTE = re.compile(r'\\"|"')
_QUOTE_OR_BLANK = re.compile(r'\\"|[" \t]')


def _split_options(line: str) -> tuple[str, str]:
    """The options, up to the first blank outside quotes, and the key behind them."""
    quoted = False
    for found in _QUOTE_OR_BLANK.finditer(line):
        if found[0] == '"':
            quoted = not quoted
        elif found[0] in " \t" and not quoted:
            return line[: found.start()], line[found.start() :]
    if quoted:
        raise OptionError("missing end quote")
    return line, ""


# --------------------------------------------------------------------------- options

# What `restrict` takes away, and what then can be given back.
PERMISSIONS = {
    "port-forwarding": "port_forwarding",
    "agent-forwarding": "agent_forwarding",
    "x11-forwarding": "x11_forwarding",
    "pty": "pty",
    "user-rc": "user_rc",
}
FLAGS = {**PERMISSIONS, "touch-required": "touch_required", "verify-required": "verify_required"}


def parse_options(text: str) -> KeyRights:
    """The rights that a key's options leave; OptionError if one is unknown or malformed."""
    rights = KeyRights()
    rest = text
    while True:
        name, rest = _take_name(rest)
        if rest.startswith("="):
            if (setter := VALUES.get(name)) is None:
                raise OptionError("unknown key option")
            value, rest = _take_quoted(rest[1:])
            setter(rights, value)
        else:
            _set_flag(rights, name)
        if not rest:
            return rights
        if not rest.startswith(","):
            raise OptionError("unknown key option")
        rest = rest[1:]
        if not rest:
            raise OptionError("unexpected end-of-options")


def _take_name(text: str) -> tuple[str, str]:
    end = 0
    while end < len(text) and text[end] not in ",=":
        end += 1
    return text[:end].lower(), text[end:]


def _take_quoted(text: str) -> tuple[str, str]:
    r"""The value in double quotes at the start, where ``\"`` stands for a quote, and the rest."""
    if not text.startswith('"'):
        raise OptionError("missing start quote")
    for found in _QUOTE.finditer(text, 1):
        if found[0] == '"':
            return text[1 : found.start()].replace('\\"', '"'), text[found.end() :]
    raise OptionError("missing end quote")


def _set_flag(rights: KeyRights, name: str) -> None:
    if name == "restrict":
        for attribute in PERMISSIONS.values():
            setattr(rights, attribute, False)
    elif name == "cert-authority":
        rights.certificate_authority = True
    elif name in FLAGS:
        setattr(rights, FLAGS[name], True)
    elif name.startswith("no-") and name.removeprefix("no-") in FLAGS:
        setattr(rights, FLAGS[name.removeprefix("no-")], False)
    else:
        raise OptionError("unknown key option")


def _set_once(attribute: str, name: str) -> Callable[[KeyRights, str], None]:
    def setter(rights: KeyRights, value: str) -> None:
        if getattr(rights, attribute) is not None:
            raise OptionError(f'multiple "{name}" clauses')
        setattr(rights, attribute, value)

    return setter


def _add_environment(rights: KeyRights, value: str) -> None:
    name, equals, content = value.partition("=")
    plain = name.replace("_", "")
    if not equals or not name or (plain and not (plain.isascii() and plain.isalnum())):
        raise OptionError("invalid environment string")
    if len(rights.environment) >= MAX_ENVIRONMENT:
        raise OptionError("too many environment strings")
    rights.environment.setdefault(name, content)  # the first of a name wins


def _set_expiry(rights: KeyRights, value: str) -> None:
    expires = parse_time(value)
    if rights.expires is None or expires < rights.expires:  # the earliest wins
        rights.expires = expires


def _add_permit_open(rights: KeyRights, value: str) -> None:
    rights.permit_open.append(_read_permission(value))


def _add_permit_listen(rights: KeyRights, value: str) -> None:
    # a bare port means any address
    rights.permit_listen.append(_read_permission(value if ":" in value else f"*:{value}"))


def _read_permission(value: str) -> Permission:
    """``host:port``, the host perhaps in brackets, the port perhaps ``*``."""
    if value.startswith("["):
        host, colon, port = value[1:].partition("]:")
    else:
        host, colon, port = value.partition(":")
    if not host or len(host) >= MAX_HOST:
        raise OptionError("invalid permission hostname")
    if colon and port == "*":
        return Permission(host, 0)
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    if not 0 < number < 65536:
        raise OptionError("invalid permission port")
    return Permission(host, number)


def _set_tunnel(rights: KeyRights, value: str) -> None:
    if value.lower() == "any":
        rights.tunnel = ANY_TUNNEL
        return
    if not (value.isascii() and value.isdecimal() and len(value) <= 10) or int(value) > MAX_TUNNEL:
        raise OptionError("invalid tun device")
    rights.tunnel = int(value)


ANY_TUNNEL = 0x7FFFFFFF
MAX_TUNNEL = ANY_TUNNEL - 2

VALUES: dict[str, Callable[[KeyRights, str], None]] = {
    "command": _set_once("command", "command"),
    "principals": _set_once("principals", "principals"),
    "from": _set_once("from_patterns", "from"),
    "environment": _add_environment,
    "expiry-time": _set_expiry,
    "permitopen": _add_permit_open,
    "permitlisten": _add_permit_listen,
    "tunnel": _set_tunnel,
}


def parse_time(text: str) -> int:
    """``YYYYMMDD[HHMM[SS]]`` in local time, or with ``Z`` behind it in UTC, as Unix time."""
    import calendar
    import time

    utc = text.upper().endswith(("Z", "UTC"))
    digits = text[: -3 if text.upper().endswith("UTC") else -1] if utc else text
    if not (digits.isascii() and digits.isdecimal()) or len(digits) not in (8, 12, 14):
        raise OptionError("invalid expires time")
    padded = digits.ljust(14, "0")
    year, month, day = int(padded[:4]), int(padded[4:6]), int(padded[6:8])
    hour, minute, second = int(padded[8:10]), int(padded[10:12]), int(padded[12:14])
    in_range = 1 <= month <= 12 and 1 <= day <= 31 and hour <= 23 and minute <= 59 and second <= 60
    if not in_range or year < 1970:
        raise OptionError("invalid expires time")
    if utc:
        return calendar.timegm((year, month, day, hour, minute, second))
    try:
        return int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))
    except (OverflowError, ValueError):
        raise OptionError("invalid expires time") from None


# --------------------------------------------------------------------------- StrictModes


GroupRule = Callable[[int | str, os.stat_result], bool]
"""Whether what that group may write, of an open file or a name, nobody but its owner may."""


def no_group(place: int | str, status: os.stat_result) -> bool:
    """OpenSSH's own rule."""
    return False


def distrust_reason(
    path: str,
    uid: int,
    home: str | None,
    file: int | None = None,
    *,
    only_owner_in_group: GroupRule = no_group,
    stat: Callable[[int | str], os.stat_result] = os.stat,
    realpath: Callable[[str], str] = os.path.realpath,
) -> str | None:
    """Why others than root and the user could have changed the file; None if nobody could.

    OpenSSH's rule: the file and every directory above it, up to the home, or to the root for files
    elsewhere, belong to root or the user and are writable by nobody else. Give the descriptor of
    the file if it is open: the name may lead elsewhere by now.
    """

    def is_safe(place: int | str, status: os.stat_result) -> bool:
        if status.st_uid not in (0, uid) or status.st_mode & status_bits.S_IWOTH:
            return False
        if not status.st_mode & status_bits.S_IWGRP:
            return True
        return status.st_uid == uid and only_owner_in_group(place, status)

    try:
        real = realpath(path)
        opened = real if file is None else file
        status = stat(opened)
        if not status_bits.S_ISREG(status.st_mode):
            return f"{real} is not a regular file"
        if not is_safe(opened, status):
            return f"bad ownership or modes for file {real}"
        top = realpath(home) if home else "/"
        directory = real
        while directory not in ("/", "", top):
            directory = os.path.dirname(directory)
            if not is_safe(directory, stat(directory)):
                return f"bad ownership or modes for directory {directory}"
    except OSError as error:
        return f"cannot check {path}: {error.strerror}"
    return None
