"""Process: main [root]; every process forked from it keeps what it read. The server's
configuration, in sshd_config's language.

Lines are read once, into the values outside of Match and a list of Match blocks; `for_connection`
then decides which blocks hold for a login. sshd's rules: the first value wins, a Match block beats
what stands outside, some keywords add up. Values and their formats stand in keywords.py. What
cannot be read stops the start.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sshoq.config.lexer import (
    ConfigSyntaxError,
    ascii_lower,
    parse_port_number,
    read_lines,
    split_keyword,
    split_words,
)
from sshoq.config.patterns import (
    AddressListError,
    match_address_list,
    match_host_list,
    match_pattern_list,
)
from sshoq.config.usage import COMPATIBLE_VERSION
from sshoq.server import log
from sshoq.server.keywords import (
    ALIASES,
    APPEND,
    DEPRECATED,
    KEYWORDS,
    LATER,
    MERGE,
    REFUSED,
    SILENT,
    UNSUPPORTED,
    VOID,
    BadLine,
    BadValue,
    Keyword,
    Line,
    Listen,
    MaxStartups,
    NetBlockSize,
    show_endpoint,
)

DEFAULT_FILE = "/etc/ssh/sshoq_server_config"
INCLUDE_DIRECTORY = "/etc/ssh"
COMMAND_LINE = "command-line"
DEFAULT_PORT = 443
PID_FILE = "/run/sshoq-server.pid"
MAX_INCLUDE_DEPTH = 16
MAX_FILE = 1024 * 1024
"""No real configuration comes near; a device or a log by mistake must not be read into memory."""


class ConfigError(Exception):
    """The configuration cannot be used. `lines` are for stderr, as sshd words them."""

    def __init__(self, lines: Sequence[str], status: int = 255) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)
        self.status = status


class Options:
    """Every keyword that is acted upon, as a typed attribute: UsePAM is `use_pam`."""

    port: tuple[int, ...]
    address_family: str
    """any, inet, inet6"""
    listen_address: tuple[Listen, ...]
    host_key: tuple[str, ...]
    """() when none is named: then sshd's are looked for."""
    host_certificate: tuple[str, ...]
    """Looked at, and shown to nobody."""
    host_key_algorithms: str
    pid_file: str | None
    log_level: str
    """A name in log.LEVELS."""
    syslog_facility: str
    use_dns: bool
    url_path: str
    congestion_control: str
    """bbr, cubic"""
    certificate: str | None
    certificate_key: str | None

    max_startups: MaxStartups
    per_source_max_startups: int | None
    per_source_net_block_size: NetBlockSize
    per_source_penalties: Mapping[str, int | str | bool]
    """The keys of keywords.PENALTIES."""
    per_source_penalty_exempt_list: str | None
    login_grace_time: int
    """Seconds; 0: none."""
    refuse_connection: bool
    """End the connection once the user is known: no method is tried."""

    use_pam: bool
    pam_service_name: str
    strict_modes: bool
    authorized_keys_file: tuple[str, ...]
    """Tokens not expanded; () for none."""
    revoked_keys: str | None
    authentication_methods: tuple[str, ...]
    """("any",), or comma lists of which each is enough: see `method_lists`. The flags for
    passwords and keys heed it already.
    """
    password_authentication: bool
    kbd_interactive_authentication: bool
    """As written: `method_lists` has it with PAM alone."""
    pubkey_authentication: bool
    pubkey_accepted_algorithms: str
    """Comma list; see `accepts_key`."""
    pubkey_auth_options: tuple[str, ...]
    """Of keywords.TOKEN_DEMANDS."""
    trusted_user_ca_keys: str | None
    authorized_principals_file: str | None
    """Tokens not expanded, here as in what follows."""
    authorized_keys_command: str | None
    authorized_keys_command_user: str | None
    authorized_principals_command: str | None
    authorized_principals_command_user: str | None
    ca_signature_algorithms: str
    required_rsa_size: int
    fingerprint_hash: str
    permit_root_login: str
    """yes, no, prohibit-password, forced-commands-only"""
    permit_empty_passwords: bool
    allow_users: tuple[str, ...]
    deny_users: tuple[str, ...]
    allow_groups: tuple[str, ...]
    deny_groups: tuple[str, ...]
    max_auth_tries: int
    banner: str | None

    max_sessions: int
    client_alive_interval: int
    client_alive_count_max: int
    channel_timeout: tuple[str, ...]
    """type=time each."""
    unused_connection_timeout: int | None
    accept_env: tuple[str, ...]
    set_env: tuple[str, ...]
    """NAME=VALUE"""
    permit_user_environment: str
    """A pattern list of names: "" none, "*" all."""
    permit_tty: bool
    permit_user_rc: bool
    force_command: str | None
    chroot_directory: str | None
    print_motd: bool
    print_last_log: bool
    expose_auth_info: bool
    subsystem: Mapping[str, str]
    disable_sftp: bool

    allow_tcp_forwarding: str
    """yes, no, local, remote"""
    allow_stream_local_forwarding: str
    allow_agent_forwarding: bool
    disable_forwarding: bool
    gateway_ports: str
    permit_open: tuple[str, ...]
    permit_listen: tuple[str, ...]
    permit_tunnel: str
    stream_local_bind_mask: int
    stream_local_bind_unlink: bool
    x11_forwarding: bool
    x11_display_offset: int
    x11_use_localhost: bool
    x_auth_location: str | None

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    @property
    def method_lists(self) -> tuple[tuple[str, ...], ...]:
        """What lets in: all methods of one of these, one after another."""
        return _usable_lists(self.__dict__)

    def accepts_key(self, algorithm: str) -> bool:
        """PubkeyAcceptedAlgorithms, by the key's type ("ssh-rsa" signs as rsa-sha2-256 here)."""
        is_rsa = algorithm == "ssh-rsa" or algorithm.startswith("ssh-rsa-cert-")
        name = algorithm.replace("ssh-rsa", "rsa-sha2-256") if is_rsa else algorithm
        return name in self.pubkey_accepted_algorithms.split(",")

    def accepts_user_environment(self, name: str) -> bool:
        """PermitUserEnvironment: may environment= and ~/.ssh/environment set that variable?"""
        return match_pattern_list(name, self.permit_user_environment) > 0


LoginConfig = Options
"""What holds for one login: the result of `for_connection`."""


class Facts(NamedTuple):
    """What Match conditions look at; None and -1 where it is not known (`-T` without `-C`)."""

    user: str | None = None
    groups: tuple[str, ...] = ()
    host: str | None = None
    address: str | None = None
    local_address: str | None = None
    local_port: int = -1
    invalid_user: bool = False


class Condition(NamedTuple):
    """A Match line: everything on it must hold. No tests at all is "Match all"."""

    tests: tuple[tuple[str, str], ...]

    def holds(self, facts: Facts) -> bool:
        return all(_CRITERIA[name].holds(facts, argument) for name, argument in self.tests)


class Block(NamedTuple):
    conditions: tuple[Condition, ...]
    """More than one in a file that was included from inside a Match block."""
    values: dict[str, Any]


class Note(NamedTuple):
    """A remark for the log, which is not open yet while the configuration is read."""

    level: int
    text: str


class ServerConfig(Options):
    """The configuration as a whole; its own attributes are the values outside of Match."""

    def __init__(
        self, values: Mapping[str, Any], blocks: Sequence[Block], notes: Sequence[Note]
    ) -> None:
        super().__init__(values)
        self.blocks = tuple(blocks)
        self.notes = tuple(notes)

    def for_connection(
        self,
        *,
        user: str | None = None,
        groups: Sequence[str] = (),
        host: str | None = None,
        address: str | None = None,
        local_address: str | None = None,
        local_port: int = -1,
        invalid_user: bool = False,
    ) -> LoginConfig:
        """The values for this login. `host` is the peer's name, by default its address."""
        facts = Facts(
            user, tuple(groups), host or address, address, local_address, local_port, invalid_user
        )
        found: dict[str, Any] = {}
        for block in self.blocks:
            if all(condition.holds(facts) for condition in block.conditions):
                for attribute, value in block.values.items():
                    _merge(found, attribute, value)
        values = {name: value for name, value in self.__dict__.items() if name in _MERGES}
        for attribute, value in found.items():
            merge = _MERGES[attribute] is MERGE
            values[attribute] = {**values[attribute], **value} if merge else value
        return LoginConfig(_with_methods(values))

    def listen_addresses(self) -> list[tuple[int, tuple[Any, ...]]]:
        """(family, socket address) to bind, in order. ConfigError when a name does not resolve."""
        import socket

        families = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
        found: list[tuple[int, tuple[Any, ...]]] = []
        for host, port in self.listen_endpoints():
            try:
                answers = socket.getaddrinfo(
                    host,
                    port,
                    families[self.address_family],
                    socket.SOCK_DGRAM,
                    0,
                    socket.AI_PASSIVE,
                )
            except (OSError, UnicodeError) as error:
                reason = (
                    error.strerror if isinstance(error, OSError) else "Name or service not known"
                )
                raise ConfigError([f"bad addr or host: {host} ({reason})"]) from None
            for family, _, _, _, address in answers:
                if (family, address) not in found:
                    found.append((family, address))
        return found

    def listen_endpoints(self) -> list[Listen]:
        """Host and port: each address without a port at every Port."""
        if self.listen_address:
            wanted = self.listen_address
        else:
            wanted = tuple(
                Listen(host, 0)
                for host, family in (("::", "inet6"), ("0.0.0.0", "inet"))
                if self.address_family in ("any", family)
            )
        return [
            Listen(host, number)
            for host, port in wanted
            for number in ((port,) if port else self.port)
        ]


_METHOD_FLAGS = {
    "publickey": "pubkey_authentication",
    "password": "password_authentication",
    "keyboard-interactive": "kbd_interactive_authentication",
}
"""What this server can do."""


def _usable_lists(values: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """AuthenticationMethods without the lists in which a method is switched off, or not ours."""
    enabled = _enabled_methods(values)
    texts = values["authentication_methods"]
    if texts == ("any",):
        return tuple((method,) for method in enabled)
    return tuple(one for one in map(_split_methods, texts) if set(enabled).issuperset(one))


def _enabled_methods(values: Mapping[str, Any]) -> list[str]:
    return [
        method
        for method, flag in _METHOD_FLAGS.items()
        if values[flag] and (values["use_pam"] or method != "keyboard-interactive")
    ]


def _split_methods(text: str) -> tuple[str, ...]:
    return tuple(map(_without_device, text.split(",")))


def _without_device(method: str) -> str:
    """`keyboard-interactive:pam` is what we have. Another device remains, and so is never met."""
    name, _, device = method.partition(":")
    return method if name == "keyboard-interactive" and device not in ("", "pam") else name


def _with_methods(values: dict[str, Any]) -> dict[str, Any]:
    """The flags of methods that no list has are off."""
    lists = _usable_lists(values)
    for method in ("publickey", "password"):
        values[_METHOD_FLAGS[method]] = any(method in one for one in lists)
    return values


# --------------------------------------------------------------------------- Match


class Criterion(NamedTuple):
    holds: Callable[[Facts, str], bool]
    check: Callable[[str], None]
    """Raises BadValue for an argument that means nothing."""
    argument: bool = True


def _any_argument(argument: str) -> None:
    """Every text is a pattern."""


def _check_addresses(what: str) -> Callable[[str], None]:
    def check(argument: str) -> None:
        try:
            match_address_list(None, argument)
        except AddressListError:
            raise BadValue(
                "Bad Match condition", f"Invalid Match {what} argument '{argument}'"
            ) from None

    return check


def _check_port(argument: str) -> None:
    try:
        port = parse_port_number(argument)
    except ConfigSyntaxError:
        port = 0
    if port == 0:
        raise BadValue("Bad Match condition", f"Invalid LocalPort '{argument}' on Match line")


def _group_holds(facts: Facts, argument: str) -> bool:
    results = [match_pattern_list(group, argument) for group in facts.groups]
    return any(result > 0 for result in results) and not any(result < 0 for result in results)


_CRITERIA = {
    "user": Criterion(
        lambda facts, arg: facts.user is not None and match_pattern_list(facts.user, arg) > 0,
        _any_argument,
    ),
    "group": Criterion(_group_holds, _any_argument),
    "host": Criterion(
        lambda facts, arg: facts.host is not None and match_host_list(facts.host, arg) > 0,
        _any_argument,
    ),
    "address": Criterion(
        lambda facts, arg: match_address_list(facts.address, arg) > 0, _check_addresses("address")
    ),
    "localaddress": Criterion(
        lambda facts, arg: match_address_list(facts.local_address, arg) > 0,
        _check_addresses("localaddress"),
    ),
    "localport": Criterion(
        lambda facts, arg: facts.local_port == parse_port_number(arg), _check_port
    ),
    "rdomain": Criterion(lambda facts, arg: False, _any_argument),
    "version": Criterion(
        lambda facts, arg: match_pattern_list(COMPATIBLE_VERSION, arg) > 0, _any_argument
    ),
    "invalid-user": Criterion(lambda facts, arg: facts.invalid_user, _any_argument, argument=False),
}


def parse_condition(words: Sequence[str]) -> Condition:
    """The words of a Match line; `name=argument` may be one word."""
    pending = [part for word in words for part in _split_criterion(word)]
    if ascii_lower(pending[0]) == "all" if pending else False:
        if len(pending) > 1:
            raise _combined_all()
        return Condition(())
    tests: list[tuple[str, str]] = []
    while pending:
        written = pending.pop(0)
        name = ascii_lower(written)
        if name == "all":
            raise _combined_all()
        criterion = _CRITERIA.get(name)
        if criterion is None:
            raise BadValue("Bad Match condition", f"Unsupported Match attribute {written}")
        argument = pending.pop(0) if criterion.argument and pending else ""
        if criterion.argument and not argument:
            raise BadValue("Bad Match condition", f"Missing Match criteria for {written}")
        criterion.check(argument)
        tests.append((name, argument))
    if not tests:
        raise BadValue("Bad Match condition", "One or more attributes required for Match")
    return Condition(tuple(tests))


def _split_criterion(word: str) -> list[str]:
    name, equals, argument = word.partition("=")
    if equals and (ascii_lower(name) in _CRITERIA or not name):
        return [part for part in (name, argument) if part]
    return [word]


def _combined_all() -> BadValue:
    return BadValue("Bad Match condition", "'all' cannot be combined with other Match attributes")


# --------------------------------------------------------------------------- reading


_MERGES = {keyword.attribute: keyword.kind.merge for keyword in KEYWORDS.values()}


def _merge(into: dict[str, Any], attribute: str, value: Any) -> None:
    """Add a value to those that came before, by the keyword's rule."""
    if attribute not in into:
        into[attribute] = value
    elif _MERGES[attribute] is APPEND:
        into[attribute] = into[attribute] + value
    elif _MERGES[attribute] is MERGE:
        into[attribute] = into[attribute] | {
            name: one for name, one in value.items() if name not in into[attribute]
        }


class _Reader:
    """Files and command-line options, in the order in which they count."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.blocks: list[Block] = []
        self.notes: list[Note] = []
        self.fixed: frozenset[str] = frozenset()

    def read_option(self, text: str) -> None:
        """`-o`: one line. A bad one ends the start with 1 where its form is wrong, as with sshd."""
        try:
            self._read_line(text, _Place(COMMAND_LINE, 0, (), 0))
        except _CountedError as error:
            raise ConfigError([str(error)], 1) from None

    def read_file(self, path: str, conditions: tuple[Condition, ...] = (), depth: int = 0) -> None:
        """All of a file, or ConfigError with every wrong line up to the first that is fatal."""
        complaints: list[str] = []
        place = _Place(path, 0, conditions, depth)
        for number, text in read_lines(_contents(path)):
            place.number = number
            try:
                self._read_line(text, place)
            except _CountedError as error:
                complaints.append(str(error))
            except ConfigError as error:
                raise ConfigError([*complaints, *error.lines], error.status) from None
        if complaints:
            count = len(complaints)
            complaints.append(f"{path}: terminating, {count} bad configuration options")
            raise ConfigError(complaints)

    def _read_line(self, text: str, place: "_Place") -> None:
        parts = split_keyword(text)
        if parts is None:
            return
        name, raw = parts
        written = _as_written(text, name)
        if not raw:
            raise _CountedError(f'{place} no argument after keyword "{written}"')
        try:
            line = Line(written, split_words(raw), raw)
        except ConfigSyntaxError as error:
            raise _CountedError(f"{place} {error}") from None
        try:
            self._act(ALIASES.get(name, name), line, place)
        except BadLine as error:
            raise _CountedError(f"{place} {error}") from None
        except BadValue as error:
            raise ConfigError([*error.details, f"{place} {error}"]) from None

    def _act(self, name: str, line: Line, place: "_Place") -> None:
        if name in KEYWORDS:
            self._set(KEYWORDS[name], line, place)
        elif name == "match":
            self._match(line, place)
        elif name == "include":
            self._include(line, place)
        elif name in DEPRECATED:
            self.notes.append(Note(log.INFO, f"{place} Deprecated option {line.keyword}"))
        elif name in UNSUPPORTED:
            self.notes.append(Note(log.INFO, f"{place} Unsupported option {line.keyword}"))
        elif name not in SILENT:
            raise _CountedError(
                f"{place.path}: line {place.number}: Bad configuration option: {line.keyword}"
            )

    def _set(self, keyword: Keyword, line: Line, place: "_Place") -> None:
        if not keyword.in_match and not place.is_global:
            raise ConfigError(
                [f"{place} Directive '{line.keyword}' is not allowed within a Match block"]
            )
        value = keyword.kind.parse(line)
        if keyword.kind.single and len(line.words) > 1:
            raise BadLine(f"keyword {line.keyword} extra arguments at end of line")
        if keyword.treatment in (VOID, LATER):
            self.notes.append(Note(log.DEBUG1, f"{place} {keyword.name}: {keyword.treatment}"))
        if keyword.attribute in self.fixed:
            return
        target = self._target(place)
        if keyword.attribute == "subsystem":
            _refuse_second_subsystem(target.get("subsystem", {}), value)
        _merge(target, keyword.attribute, value)
        if place.conditions and place.is_global:
            # "Match all" counts twice: like the lines outside, and for each connection again.
            _merge(self.values, keyword.attribute, value)

    def _target(self, place: "_Place") -> dict[str, Any]:
        if not place.conditions:
            return self.values
        if not self.blocks or self.blocks[-1].conditions is not place.conditions:
            self.blocks.append(Block(place.conditions, {}))
        return self.blocks[-1].values

    def _match(self, line: Line, place: "_Place") -> None:
        if place.path == COMMAND_LINE:
            raise BadLine("Match directive not supported as a command-line option")
        place.conditions = (*place.outer, parse_condition(line.words))

    def _include(self, line: Line, place: "_Place") -> None:
        if place.path == COMMAND_LINE:
            raise BadLine("Include directive not supported as a command-line option")
        if place.depth >= MAX_INCLUDE_DEPTH:
            raise BadLine("Too many recursive configuration includes")
        if not line.words:
            raise BadValue(f"{line.keyword} missing filename argument")
        for word in line.words:
            if not word:
                raise BadLine(f"keyword {line.keyword} empty argument")
            for path in _expand_include(word):
                self.read_file(path, place.conditions, place.depth + 1)


class _CountedError(Exception):
    """A line in the wrong form, worded; reading goes on."""


class _Place:
    """Where the reader is. str() is what a message begins with."""

    __slots__ = ("conditions", "depth", "number", "outer", "path")

    def __init__(self, path: str, number: int, outer: tuple[Condition, ...], depth: int) -> None:
        self.path = path
        self.number = number
        self.outer = outer
        """Those of the line that included this file: a Match here narrows them, never ends them."""
        self.conditions = outer
        self.depth = depth

    def __str__(self) -> str:
        return f"{self.path} line {self.number}:"

    @property
    def is_global(self) -> bool:
        """Outside of Match, or only in "Match all"."""
        return not any(condition.tests for condition in self.conditions)


def _as_written(text: str, name: str) -> str:
    """The keyword in the letters of the file, for messages."""
    start = ascii_lower(text).find(name)
    return text[start : start + len(name)] if start >= 0 else name


def _refuse_second_subsystem(known: Mapping[str, str], value: Mapping[str, str]) -> None:
    for name in value:
        if name in known:
            raise BadValue(f"Subsystem '{name}' already defined.")


def _contents(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"], 1) from None
    if len(data) > MAX_FILE:
        raise ConfigError([f"{path}: File too large"], 1)
    return data


def _expand_include(pattern: str) -> list[str]:
    import glob

    full = pattern if pattern[0] in "/~" else f"{INCLUDE_DIRECTORY}/{pattern}"
    return sorted(glob.glob(full), key=os.fsencode)


def load(
    path: str | None,
    overrides: Sequence[str] = (),
    fallbacks: Sequence[str] = (),
    *,
    fixed: Sequence[str] = (),
    root: bool | None = None,
) -> ServerConfig:
    """Read command-line options, the file, then weaker `fallbacks`; ConfigError when that fails.

    `fixed` are attributes that add up, but of which the file's values do not count (`-p`).
    """
    reader = _Reader()
    for option in overrides:
        reader.read_option(option)
    reader.fixed = frozenset(fixed)
    if path is not None:
        reader.read_file(path)
    for option in fallbacks:
        reader.read_option(option)
    is_root = os.geteuid() == 0 if root is None else root
    values = _with_defaults(reader.values, is_root)
    config = ServerConfig(values, reader.blocks, reader.notes)
    _check_whole(config)
    return config


def _with_defaults(given: Mapping[str, Any], root: bool) -> dict[str, Any]:
    values = {keyword.attribute: keyword.default for keyword in KEYWORDS.values()}
    values["port"] = (DEFAULT_PORT,)
    values["use_pam"] = root
    values["pid_file"] = PID_FILE if root else None
    for attribute, value in given.items():
        merge = _MERGES[attribute] is MERGE
        values[attribute] = {**values[attribute], **value} if merge else value
    return values


def _check_whole(config: ServerConfig) -> None:
    """What no single line shows."""
    if (config.certificate is None) != (config.certificate_key is None):
        raise ConfigError(["Certificate and CertificateKey must be given together"])
    for name in ("AuthorizedKeysCommand", "AuthorizedPrincipalsCommand"):
        attribute = KEYWORDS[ascii_lower(name)].attribute
        command, user = getattr(config, attribute), getattr(config, f"{attribute}_user")
        if command is not None and user is None:
            raise ConfigError([f"{name} set without {name}User"])
    if config.authentication_methods != ("any",) and not config.method_lists:
        disabled = [
            f'Disabled method "{name}" in AuthenticationMethods list "{text}"'
            for text in config.authentication_methods
            for name in _split_methods(text)
            if name not in _enabled_methods(config.__dict__)
        ]
        raise ConfigError(
            [
                *disabled,
                "AuthenticationMethods cannot be satisfied by enabled authentication methods",
            ]
        )


# --------------------------------------------------------------------------- showing


def dump(config: ServerConfig, login: LoginConfig) -> list[str]:
    """`-T`: the values that hold, a line each, as sshd prints them."""
    lines = [f"port {port}" for port in config.port]
    for keyword in KEYWORDS.values():
        if keyword.name == "Port" or keyword.treatment in (VOID, REFUSED):
            continue
        if keyword.name == "ListenAddress":
            lines += [f"listenaddress {show_endpoint(*end)}" for end in config.listen_endpoints()]
            continue
        value = getattr(login, keyword.attribute)
        name = ascii_lower(keyword.name)
        lines += [f"{name} {text}" for text in keyword.kind.show(value)]
    return lines


def parse_test_spec(text: str, known: Mapping[str, str]) -> dict[str, str]:
    """`-C user=…,host=…,addr=…,laddr=…,lport=…,rdomain=…`, added to what earlier ones said."""
    spec = dict(known)
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if part == "invalid-user":
            spec["invalid-user"] = "yes"
        elif not equals or name not in ("user", "host", "addr", "laddr", "lport", "rdomain"):
            raise ConfigError([f"Invalid test mode specification {part}"], 1)
        else:
            if name == "lport":
                _check_test_port(part, value)
            spec[name] = value
    return spec


def _check_test_port(part: str, value: str) -> None:
    try:
        parse_port_number(value)
    except ConfigSyntaxError:
        message = f"Invalid port '{value}' in test mode specification {part}"
        raise ConfigError([message], 1) from None


def login_for_test(config: ServerConfig, spec: Mapping[str, str]) -> LoginConfig:
    """The values for a `-C` specification; groups come from the user database."""
    user = spec.get("user")
    return config.for_connection(
        user=user,
        groups=groups_of(user) if user else (),
        host=spec.get("host"),
        address=spec.get("addr"),
        local_address=spec.get("laddr"),
        local_port=int(spec.get("lport", "-1")),
        invalid_user="invalid-user" in spec,
    )


def groups_of(user: str) -> tuple[str, ...]:
    """The names of a user's groups, () for an unknown one."""
    import grp
    import pwd

    try:
        record = pwd.getpwnam(user)
    except (KeyError, UnicodeError):
        return ()
    names = []
    for gid in os.getgrouplist(user, record.pw_gid):
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return tuple(names)
