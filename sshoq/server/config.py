"""Process: main [root]; every process forked from it keeps what it read. The server's
configuration: the values that hold, for all and for one login.

sshd's rules: a Match block beats what stands outside (`for_connection` decides which blocks hold),
some keywords add up. How the files are read is in `config_reader.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sshoq.config.patterns import match_pattern_list
from sshoq.named_tuple import NamedTuple
from sshoq.server.admission_values import Listen, MaxStartups, NetBlockSize
from sshoq.server.keywords import MERGES, add_value, overlaid
from sshoq.server.match import Condition, Facts


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
    """The keys of admission_values.PENALTIES."""
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
    """Of values.TOKEN_DEMANDS."""
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
                    add_value(found, attribute, value)
        outside = {name: value for name, value in self.__dict__.items() if name in MERGES}
        return LoginConfig(_with_methods(overlaid(outside, found)))

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
    enabled = enabled_methods(values)
    texts = values["authentication_methods"]
    if texts == ("any",):
        return tuple((method,) for method in enabled)
    return tuple(one for one in map(split_methods, texts) if set(enabled).issuperset(one))


def enabled_methods(values: Mapping[str, Any]) -> list[str]:
    return [
        method
        for method, flag in _METHOD_FLAGS.items()
        if values[flag] and (values["use_pam"] or method != "keyboard-interactive")
    ]


def split_methods(text: str) -> tuple[str, ...]:
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
