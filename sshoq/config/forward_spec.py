"""Forwarding specifications: OpenSSH's -L, -R, -D and -W, Go's port@address@port, and udp:."""

from sshoq.config.lexer import C_SPACE, ConfigSyntaxError, parse_number, parse_port_number
from sshoq.config.patterns import parse_address

MAX_HOST = 1025
MAX_PATH = 108
MAX_FIELDS = 4


class Forward:
    """One forwarding: where to listen and where to connect to. A value; never changed once made.

    listen_host None means that no bind address was given; "" and "*" mean all addresses. Ports
    are None where a path stands. dynamic: the listener speaks SOCKS and the target comes from its
    client.
    """

    __slots__ = (
        "connect_host",
        "connect_path",
        "connect_port",
        "dynamic",
        "listen_host",
        "listen_path",
        "listen_port",
        "protocol",
    )

    def __init__(
        self,
        *,
        listen_host: str | None = None,
        listen_port: int | None = None,
        listen_path: str | None = None,
        connect_host: str | None = None,
        connect_port: int | None = None,
        connect_path: str | None = None,
        dynamic: bool = False,
        protocol: str = "tcp",
    ) -> None:
        self.listen_host = listen_host
        self.listen_port = listen_port
        self.listen_path = listen_path
        self.connect_host = connect_host
        self.connect_port = connect_port
        self.connect_path = connect_path
        self.dynamic = dynamic
        self.protocol = protocol

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Forward) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Forward({self.listen_text()!r} -> {self.connect_text()!r}, {self.protocol})"

    def with_paths(self, listen_path: str | None, connect_path: str | None) -> "Forward":
        """The same forwarding with its paths replaced (by their expansions)."""
        return Forward(
            listen_host=self.listen_host,
            listen_port=self.listen_port,
            listen_path=listen_path,
            connect_host=self.connect_host,
            connect_port=self.connect_port,
            connect_path=connect_path,
            dynamic=self.dynamic,
            protocol=self.protocol,
        )

    def listen_text(self) -> str:
        """The listening side as -G prints it."""
        if self.listen_path is not None:
            return self.listen_path
        return _address_text(self.listen_host, self.listen_port)

    def connect_text(self) -> str:
        """The connecting side as -G prints it."""
        if self.connect_path is not None:
            return self.connect_path
        if self.dynamic:
            return "[socks]:0"
        return _address_text(self.connect_host, self.connect_port)


def _address_text(host: str | None, port: int | None) -> str:
    return str(port or 0) if host is None else f"[{host}]:{port or 0}"


def parse_forward(text: str, *, dynamic: bool = False, remote: bool = False) -> Forward:
    """Read one specification. Raises ConfigSyntaxError; the caller has OpenSSH's words for it.

    dynamic asks for "[bind:]port"; without it the target is required.
    """
    protocol = "tcp"
    if text.startswith("udp:"):
        protocol, text = "udp", text[4:]
    if not dynamic and (forward := parse_go_forward(text, protocol)) is not None:
        return forward
    if protocol == "udp" and dynamic:
        raise _bad(text)
    fields = _split_fields(text)
    forward = _arrange(text, fields, protocol)
    _check(text, forward, len(fields), dynamic=dynamic, remote=remote)
    return forward


def _bad(text: str) -> ConfigSyntaxError:
    return ConfigSyntaxError(f"bad forwarding specification '{text}'")


def _split_fields(text: str) -> list[tuple[str, bool]]:
    """The fields between colons, each with whether it is a path (holds an unescaped slash)."""
    position: int | None = len(text) - len(text.lstrip(C_SPACE))
    fields: list[tuple[str, bool]] = []
    while position is not None and position < len(text):
        if len(fields) == MAX_FIELDS:
            raise _bad(text)
        if text[position] == "[":
            field, position = _bracketed_field(text, position)
        else:
            field, position = _plain_field(text, position)
        fields.append(field)
    return fields


def _bracketed_field(text: str, position: int) -> tuple[tuple[str, bool], int]:
    close = text.find("]", position)
    if close < 0 or text[close + 1 : close + 2] not in (":", ""):
        raise _bad(text)
    inside = text[position + 1 : close]
    return (inside, "/" in inside), close + 2


def _plain_field(text: str, position: int) -> tuple[tuple[str, bool], int]:
    field: list[str] = []
    is_path = False
    while position < len(text) and text[position] != ":":
        if text[position] == "\\":
            position += 1
            if position == len(text):
                raise _bad(text)
        elif text[position] == "/":
            is_path = True
        field.append(text[position])
        position += 1
    return ("".join(field), is_path), position + 1


def _arrange(text: str, fields: list[tuple[str, bool]], protocol: str) -> Forward:
    """Say which field is what: by their number and by which of them are paths."""
    values = [value for value, _ in fields]
    paths = [is_path for _, is_path in fields]
    match paths:
        case [True]:
            return Forward(listen_path=values[0], dynamic=True, protocol=protocol)
        case [False]:
            return Forward(listen_port=_port(text, values[0]), dynamic=True, protocol=protocol)
        case [True, True]:
            return Forward(listen_path=values[0], connect_path=values[1], protocol=protocol)
        case [_, True]:
            port = _port(text, values[0])
            return Forward(listen_port=port, connect_path=values[1], protocol=protocol)
        case [_, False]:
            port = _port(text, values[1])
            return Forward(listen_host=values[0], listen_port=port, dynamic=True, protocol=protocol)
        case [True, _, _]:
            return Forward(
                listen_path=values[0],
                connect_host=values[1],
                connect_port=_port(text, values[2]),
                protocol=protocol,
            )
        case [_, _, True]:
            return Forward(
                listen_host=values[0],
                listen_port=_port(text, values[1]),
                connect_path=values[2],
                protocol=protocol,
            )
        case [_, _, _]:
            values.insert(0, "")
            bind = None
        case [_, _, _, _]:
            bind = values[0]
        case _:
            raise _bad(text)
    return Forward(
        listen_host=bind,
        listen_port=_port(text, values[1]),
        connect_host=values[2],
        connect_port=_port(text, values[3]),
        protocol=protocol,
    )


def _port(text: str, field: str) -> int:
    try:
        return parse_port_number(field)
    except ConfigSyntaxError:
        raise _bad(text) from None


def _check(text: str, forward: Forward, count: int, *, dynamic: bool, remote: bool) -> None:
    if dynamic:
        wrong = count > 2
    else:
        has_path = forward.connect_path is not None or forward.listen_path is not None
        wrong = (count < 3 and not has_path) or (
            forward.connect_path is None and not forward.connect_port
        )
    too_long = any(
        value is not None and len(value.encode("utf-8", "surrogateescape")) >= limit
        for value, limit in (
            (forward.listen_host, MAX_HOST),
            (forward.connect_host, MAX_HOST),
            (forward.listen_path, MAX_PATH),
            (forward.connect_path, MAX_PATH),
        )
    )
    if wrong or too_long or (forward.listen_port == 0 and not remote):
        raise _bad(text)


def parse_go_forward(text: str, protocol: str = "tcp") -> Forward | None:
    """The Go client's [bindIP@]port@targetIP@targetPort; None for anything of another shape.

    Without a bind address it listens on 127.0.0.1, whatever the target's family: so does the Go
    client.
    """
    fields = text.split("@")
    if len(fields) not in (3, 4):
        return None
    bind = fields[0] if len(fields) == 4 else "127.0.0.1"
    listen_port, target, target_port = fields[-3:]
    if parse_address(bind) is None or parse_address(target) is None:
        return None
    try:
        return Forward(
            listen_host=bind,
            listen_port=parse_number(listen_port, 0, 65535),
            connect_host=target,
            connect_port=parse_number(target_port, 1, 65535),
            protocol=protocol,
        )
    except ConfigSyntaxError:
        return None


def parse_go_forwards(text: str, protocol: str = "tcp") -> list[Forward]:
    """A comma list of Go specifications, as -forward-tcp and its kin take it."""
    forwards = [parse_go_forward(part, protocol) for part in text.split(",")]
    if None in forwards:
        raise _bad(text)
    return [forward for forward in forwards if forward is not None]


def parse_stdio_forward(text: str) -> Forward:
    """-W: host:port, or a path of a socket on the far side."""
    target = parse_forward(text, dynamic=True)
    if target.listen_path is not None and target.connect_path is None:
        return Forward(connect_path=target.listen_path)
    if target.listen_host is None or not target.dynamic:
        raise _bad(text)
    return Forward(connect_host=target.listen_host, connect_port=target.listen_port)
