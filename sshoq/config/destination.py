"""Where to go: OpenSSH's destinations and jump hosts, and the URLs of the Go client."""

from sshoq.config.lexer import ConfigSyntaxError, ascii_lower, parse_number, parse_port
from sshoq.config.usage import UsageError

HTTPS = "https://"
_HEX = frozenset("0123456789abcdefABCDEF")
_HOST_FORBIDDEN = frozenset("'`\"$\\;&<>|(){},")
_USER_FORBIDDEN = frozenset("'`\";&<>|(){}")


class Destination:
    """The one word of the command line that names the server, taken apart.

    url_path and query are None unless the word was of the Go client's form.
    """

    __slots__ = ("host", "is_url", "port", "text", "url_path", "url_user", "user")

    def __init__(
        self,
        text: str,
        host: str,
        user: str | None = None,
        port: int | None = None,
        url_path: str | None = None,
        url_user: str | None = None,
        is_url: bool = False,
    ) -> None:
        self.text = text
        self.host = host
        self.user = user
        self.port = port
        self.url_path = url_path
        self.url_user = url_user
        self.is_url = is_url


class DestinationError(ValueError):
    """A word that is no destination; OpenSSH answers with the usage text."""


def parse_destination(text: str) -> Destination:
    """Take a destination apart; raises DestinationError.

    A word with a slash or with one colon and a number behind it is the Go client's; to OpenSSH it
    would be a host name that no resolver could ever find.
    """
    if text.startswith("ssh://"):
        user, host, port = parse_ssh_uri(text)
        return Destination(text, host, user, port)
    if text.startswith(HTTPS):
        return _parse_url(text, text[len(HTTPS) :])
    rest = text.rpartition("@")[2]
    if "/" in rest or "/" in text:
        return _parse_url(text, text)
    if rest.count(":") == 1 and _is_port(rest.partition(":")[2]):
        return _parse_url(text, text)
    user_part, at, host = text.rpartition("@")
    if at and not user_part:
        raise DestinationError(text)
    return Destination(text, host, user_part if at else None)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _parse_url(text: str, url: str) -> Destination:
    """[user@]host[:port][/path][?user=name]"""
    authority, slash, rest = url.partition("/")
    path, _, query = (slash + rest).partition("?")
    if not slash:
        authority, _, query = authority.partition("?")
    user, at, host_port = authority.rpartition("@")
    host, port = _split_host_port(text, host_port)
    if not host or (at and not user):
        raise DestinationError(text)
    return Destination(
        text,
        host,
        _url_decode(user.partition(":")[0]) if at else None,
        port,
        path or None,
        _query_user(query),
        is_url=True,
    )


def _split_host_port(text: str, host_port: str) -> tuple[str, int | None]:
    host, colon, port = host_port, "", ""
    if host_port.startswith("["):
        host, bracket, rest = host_port[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise DestinationError(text)
        colon, port = rest[:1], rest[1:]
    elif host_port.count(":") == 1:
        host, colon, port = host_port.partition(":")
    if not colon or not port:
        return host, None
    try:
        return host, parse_number(port, 1, 65535)
    except ConfigSyntaxError:
        raise DestinationError(text) from None


def _query_user(query: str) -> str | None:
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name == "user" and value:
            return _url_decode(value)
    return None


def parse_ssh_uri(text: str) -> tuple[str | None, str, int | None]:
    """ssh://[user[;parameters]@]host[:port][/] as (user, host, port)."""
    rest = text[len("ssh://") :]
    user: str | None = None
    head, at, tail = rest.partition("@")
    if at:
        name = head.partition(";")[0]
        if not name:
            raise DestinationError(text)
        user, rest = _url_decode(name), tail
    host, stop, after = cut_host(rest)
    if domain_error(host) is not None:
        raise DestinationError(text)
    port: int | None = None
    if stop == ":" and after:
        number, _, after = after.partition("/")
        port = _uri_port(text, number)
    if after:
        raise DestinationError(text)
    return user, host, port


def _uri_port(text: str, number: str) -> int:
    try:
        return parse_port(number)
    except ConfigSyntaxError:
        raise DestinationError(text) from None


def cut_host(text: str) -> tuple[str, str, str]:
    """(host without brackets, the ':' or '/' behind it or "", what follows); the host may be ""."""
    if text.startswith("["):
        end = text.find("]") + 1
        if end == 0 or text[end : end + 1] not in ("", ":", "/"):
            raise DestinationError(text)
    else:
        end = next((i for i, char in enumerate(text) if char in ":/"), len(text))
    host = text[:end]
    if host.startswith("["):
        host = host[1:-1]
    return host, text[end : end + 1], text[end + 1 :]


def _url_decode(text: str) -> str:
    """%XX to bytes and + to a blank."""
    if "%" not in text:
        return text.replace("+", " ")
    data = bytearray()
    source = text.replace("+", " ").encode("utf-8", "surrogateescape")
    position = 0
    while position < len(source):
        if source[position : position + 1] == b"%":
            digits = source[position + 1 : position + 3].decode("latin-1")
            if len(digits) < 2 or not set(digits) <= _HEX:
                raise DestinationError(text)
            data.append(int(digits, 16))
            position += 3
        else:
            data.append(source[position])
            position += 1
    return data.decode("utf-8", "surrogateescape")


class JumpHost:
    """One hop of ProxyJump: user and port are None where the hop's own configuration decides."""

    __slots__ = ("host", "port", "user")

    def __init__(self, host: str, user: str | None = None, port: int | None = None) -> None:
        self.host = host
        self.user = user
        self.port = port

    def __repr__(self) -> str:
        return f"JumpHost({self})"

    def __str__(self) -> str:
        """As -G prints it: brackets around anything that looks like an address."""
        numeric = ":" in self.host or (self.host != "" and not self.host.strip("1234567890."))
        host = f"[{self.host}]" if numeric else self.host
        user = f"{self.user}@" if self.user is not None else ""
        port = f":{self.port}" if self.port is not None else ""
        return f"{user}{host}{port}"


def parse_jump_hosts(text: str) -> list[JumpHost]:
    """The hops of a ProxyJump value, first hop first. Raises DestinationError."""
    return [parse_jump_host(part) for part in text.split(",")]


def parse_jump_host(text: str) -> JumpHost:
    """[user@]host[:port] or an ssh:// URI."""
    if text.startswith("ssh://"):
        user, host, port = parse_ssh_uri(text)
        return JumpHost(host, user, port)
    name, at, rest = text.rpartition("@")
    if at and not name:
        raise DestinationError(text)
    host, stop, port_text = cut_host(rest)
    if stop == "/":
        raise DestinationError(text)
    if not host and not rest.startswith("["):
        raise DestinationError(text)
    port = _uri_port(text, port_text) if port_text else None
    return JumpHost(host, name if at else None, port)


def domain_error(name: str) -> str | None:
    """Why a domain name is not one, in OpenSSH's words; None when it is."""
    if not name:
        return "empty domain name"
    if not (name[0].isascii() and (name[0].isalnum() or name[0] == "_")):
        return f'domain name "{name}" starts with invalid character'
    for position, char in enumerate(name):
        shown = ascii_lower(name[:position]) + name[position:]
        if not (char.isascii() and (char.isalnum() or char in ".-_")):
            return f'domain name "{shown}" contains invalid characters'
        if char == "." and name[position - 1] == "." and position:
            return f'domain name "{shown}" contains consecutive separators'
    return None


def normal_domain(name: str) -> str:
    """A checked domain in lower case and without its final dot."""
    return ascii_lower(name.removesuffix("."))


def is_safe_host(host: str) -> bool:
    """Whether a host name can be put into commands: no option, no shell syntax."""
    if host.startswith("-"):
        return False
    return not any(
        char in _HOST_FORBIDDEN or char.isspace() or not _is_visible(char) for char in host
    )


def is_safe_user(user: str) -> bool:
    """The same for a user name, which may hold blanks but no option after one."""
    if user.startswith("-") or user.endswith("\\"):
        return False
    if any(char in _USER_FORBIDDEN or not (_is_visible(char) or char == " ") for char in user):
        return False
    return not any(user[i] == "-" and user[i - 1].isspace() for i in range(1, len(user)))


def _is_visible(char: str) -> bool:
    return char > " " and char != "\x7f"


def check_names(host: str, user: str | None) -> UsageError | None:
    """The error for names from the command line that no shell should ever see."""
    if not is_safe_host(host):
        return UsageError("hostname contains invalid characters")
    if user is not None and not is_safe_user(user):
        return UsageError("remote username contains invalid characters")
    return None
