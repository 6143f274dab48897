"""The command line: OpenSSH's clustered letters, the Go client's long flags, and our own --stdio.

A word that is exactly a long flag (with one dash or two, "=value" behind it or not) is that flag;
every other word with a dash is read letter by letter, as getopt does.
"""

from __future__ import annotations

import os

from sshoq.config import algorithms
from sshoq.config.destination import (
    Destination,
    DestinationError,
    is_safe_host,
    is_safe_user,
    parse_destination,
    parse_jump_hosts,
)
from sshoq.config.forward_spec import (
    Forward,
    parse_forward,
    parse_go_forwards,
    parse_stdio_forward,
)
from sshoq.config.keywords import KEYWORDS, QUIC, collect, keep_identity
from sshoq.config.lexer import ConfigSyntaxError, ascii_lower, parse_port, split_keyword
from sshoq.config.match import Target
from sshoq.config.reader import ConfigReader
from sshoq.config.surroundings import Surroundings
from sshoq.config.tokens import ExpansionError, expand, expand_tilde
from sshoq.config.usage import DEBUG1, DEBUG3, QUIET, Notes, make_visible, usage_error
from sshoq.config.values import parse_escape, parse_tunnel_device

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL_COMMANDS = (
    "cancel",
    "channels",
    "check",
    "conninfo",
    "exit",
    "forward",
    "proxy",
    "stop",
)
DEFAULT_STDIO_HOST, DEFAULT_STDIO_PORT = "127.0.0.1", 22


class Finished(Exception):
    """The command line asks for an answer and nothing else: the action and its operand."""

    def __init__(self, action: str, operand: str = "") -> None:
        super().__init__(action)
        self.action = action
        self.operand = operand


class CommandLine:
    """What the words say. Settings go where the files' settings will go, so they win over them."""

    def __init__(self, surroundings: Surroundings, notes: Notes) -> None:
        self.settings: dict[str, object] = {}
        self.surroundings = surroundings
        self.notes = notes
        self.target = Target("")
        self.reader = ConfigReader(self.settings, self.target, surroundings, notes)
        self.action = "session"
        self.destination: Destination | None = None
        self.command_words: list[str] = []
        self.config_file: str | None = None
        self.control_command: str | None = None
        self.log_file: str | None = None
        self.use_syslog = False
        self.wants_dump = False
        self.verbose = False
        self.ssh_words: list[str] = []
        self.is_sshoq_only = False

    def parse(self, words: list[str]) -> None:
        """Read all words. Raises UsageError, or Finished for -V, -Q and -version."""
        rest, terminated = self._parse_options(words)
        if not rest:
            raise usage_error(self.notes)
        if self.action == "scp":
            self.command_words = rest
            return
        self._set_destination(rest.pop(0))
        if not terminated:
            rest, _ = self._parse_options(rest)
        self.command_words = rest
        self.ssh_words += ["--", *rest] if rest else []

    def _parse_options(self, words: list[str]) -> tuple[list[str], bool]:
        """Read options up to the first other word; what is left, and whether "--" ended them."""
        words = list(words)
        while words and words[0].startswith("-") and words[0] != "-":
            word = words.pop(0)
            if word == "--":
                return words, True
            if not self._parse_long_flag(word, words):
                self._parse_cluster(word, words)
        return words, False

    def _parse_long_flag(self, word: str, words: list[str]) -> bool:
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        flag = LONG_FLAGS.get(name)
        if flag is None or (len(name) == 1 and equals):
            return False
        takes_value, handler = flag
        if takes_value and not equals:
            if not words:
                raise usage_error(self.notes, f"flag needs an argument: -{name}")
            value = words.pop(0)
        if not takes_value and ascii_lower(value) in ("false", "f", "0"):
            return True
        handler(self, value)
        self.is_sshoq_only = True
        return True

    def _parse_cluster(self, word: str, words: list[str]) -> None:
        position = 1
        while position < len(word):
            letter = word[position]
            position += 1
            if letter in SWITCHES:
                SWITCHES[letter](self)
                self.ssh_words.append(f"-{letter}")
            elif letter in WITH_ARGUMENT:
                self._parse_argument(letter, word[position:], words)
                return
            else:
                raise usage_error(self.notes, f"unknown option -- {letter}")

    def _parse_argument(self, letter: str, glued: str, words: list[str]) -> None:
        if not glued and not words:
            raise usage_error(self.notes, f"option requires an argument -- {letter}")
        argument = glued or words.pop(0)
        WITH_ARGUMENT[letter](self, argument)
        if letter != "o" or not _is_own_keyword(argument):
            self.ssh_words += [f"-{letter}", argument]

    def _set_destination(self, word: str) -> None:
        try:
            self.destination = parse_destination(word)
        except DestinationError:
            raise usage_error(self.notes) from None
        if self.destination.user is not None:
            self.settings.setdefault("user", self.destination.user)
        if self.destination.port is not None:
            self.settings.setdefault("port", self.destination.port)
        if self.destination.url_path is not None:
            self.settings.setdefault("url_path", self.destination.url_path)
        self.ssh_words.append(word)

    def set(self, attribute: str, value: object) -> None:
        """A flag beats an earlier -o, unlike everything else."""
        self.settings[attribute] = value


def _is_own_keyword(text: str) -> bool:
    parts = split_keyword(text)
    row = KEYWORDS.get(parts[0]) if parts is not None else None
    return row is not None and row.quic == QUIC


if TYPE_CHECKING:
    Switch = Callable[[CommandLine], None]
    WithArgument = Callable[[CommandLine, str], None]


def _set(**values: object) -> Switch:
    """A flag that just sets attributes."""

    def switch(line: CommandLine) -> None:
        for attribute, value in values.items():
            line.set(attribute, value)

    return switch


def _store(attribute: str) -> WithArgument:
    """A flag whose argument is the value, whatever was set before."""
    return lambda line, argument: line.set(attribute, argument)


def _store_first(attribute: str) -> WithArgument:
    def store(line: CommandLine, argument: str) -> None:
        line.settings.setdefault(attribute, argument)

    return store


def _dump(line: CommandLine) -> None:
    line.wants_dump = True


def _syslog(line: CommandLine) -> None:
    line.use_syslog = True


def _protocol_1(line: CommandLine) -> None:
    raise line.notes.fatal("SSH protocol v.1 is no longer supported")


def _master(line: CommandLine) -> None:
    line.set("control_master", "ask" if line.settings.get("control_master") == "yes" else "yes")


def _tty(line: CommandLine) -> None:
    line.set("request_tty", "force" if line.settings.get("request_tty") == "yes" else "yes")


def _verbose(line: CommandLine) -> None:
    level = line.settings.get("log_level")
    if line.verbose and isinstance(level, int):
        line.set("log_level", min(level + 1, DEBUG3))
    else:
        line.set("log_level", DEBUG1)
    line.verbose = True


def _version(line: CommandLine) -> None:
    raise Finished("version")


def _no_session(line: CommandLine) -> None:
    if line.settings.get("session_type", "none") != "none":
        raise line.notes.fatal("Cannot specify -N with -s/SessionType")
    _set(session_type="none", request_tty="no")(line)


def _subsystem(line: CommandLine) -> None:
    if line.settings.get("session_type", "subsystem") != "subsystem":
        raise line.notes.fatal("Cannot specify -s with -N/SessionType")
    line.set("session_type", "subsystem")


def _list_keys(line: CommandLine) -> None:
    line.action = "keys"
    line.set("request_tty", "no")  # and no word about a terminal that nobody will get


def _nothing(line: CommandLine) -> None:
    pass


SWITCHES: dict[str, Switch] = {
    "1": _protocol_1,
    "2": _nothing,
    "4": _set(address_family="inet"),
    "6": _set(address_family="inet6"),
    "A": _set(forward_agent=True),
    "a": _set(forward_agent=False),
    "C": _set(compression="yes"),
    "f": _set(fork_after_authentication=True, stdin_null=True),
    "G": _dump,
    "g": _set(gateway_ports=True),
    "K": _set(gssapi_authentication=True, gssapi_delegate_credentials=True),
    "k": _set(gssapi_delegate_credentials=False),
    "M": _master,
    "N": _no_session,
    "n": _set(stdin_null=True),
    "q": _set(log_level=QUIET),
    "s": _subsystem,
    "T": _set(request_tty="no"),
    "t": _tty,
    "V": _version,
    "v": _verbose,
    "X": _set(forward_x11=True),
    "x": _set(forward_x11=False),
    "Y": _set(forward_x11=True, forward_x11_trusted=True),
    "y": _syslog,
    "Z": _list_keys,
}


def _config_file(line: CommandLine, argument: str) -> None:
    line.config_file = argument


def _log_file(line: CommandLine, argument: str) -> None:
    line.log_file = argument


def _query(line: CommandLine, argument: str) -> None:
    raise Finished("query", argument)


def _option(line: CommandLine, argument: str) -> None:
    line.reader.read_option(argument)


def _cipher(line: CommandLine, argument: str) -> None:
    names = argument[1:] if argument.startswith(("+", "^")) else argument
    if algorithms.unknown_cipher(names) is not None:
        raise line.notes.fatal(f"Unknown cipher type '{argument}'")
    line.set("ciphers", argument)


def _mac(line: CommandLine, argument: str) -> None:
    if algorithms.unknown_mac(argument) is not None:
        raise line.notes.fatal(f"Unknown mac type '{argument}'")
    line.set("macs", argument)


def _escape(line: CommandLine, argument: str) -> None:
    try:
        line.set("escape_char", parse_escape(argument))
    except ConfigSyntaxError:
        raise line.notes.fatal(f"Bad escape character '{argument}'.") from None


def _port(line: CommandLine, argument: str) -> None:
    if "port" in line.settings:
        return
    try:
        line.set("port", parse_port(argument))
    except ConfigSyntaxError:
        raise line.notes.fatal(f"Bad port '{argument}'") from None


def _identity(line: CommandLine, argument: str) -> None:
    try:
        path = expand_tilde(argument, line.surroundings.home, line.surroundings.home_of)
    except ExpansionError as error:
        raise line.notes.fatal(*error.lines) from None
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "No such file or directory"
        warning = f"Warning: Identity file {path} not accessible: {reason}."
        line.notes.lines.append(make_visible(warning))  # -q does not silence it
    else:
        keep_identity(line.settings, "identity_files", (path, True))


def _jump(line: CommandLine, argument: str) -> None:
    if line.settings.get("proxy_jump") is not None:
        raise line.notes.fatal(
            "Only a single -J option is permitted (use commas to separate multiple jump hops)"
        )
    if line.settings.get("proxy_command") is not None:
        raise line.notes.fatal("Cannot specify -J with ProxyCommand")
    spec = argument.partition("#")[0].rstrip()
    if argument.lower() == "none":
        line.set("proxy_jump", "")
    else:
        _check_jump(line, spec)
        line.set("proxy_jump", spec)
    line.set("proxy_command", "none")


def _check_jump(line: CommandLine, spec: str) -> None:
    try:
        hops = parse_jump_hosts(spec)
    except DestinationError:
        raise line.notes.fatal("Invalid -J argument") from None
    for hop in reversed(hops):
        if not is_safe_host(hop.host):
            complaint = f'parse_jump: invalid hostname "{hop.host}"'
        elif hop.user is not None and not is_safe_user(hop.user):
            complaint = f'parse_jump: invalid username "{hop.user}"'
        else:
            continue
        raise line.notes.fatal(complaint, "Invalid -J argument")


def _forward(attribute: str, kind: str, *, dynamic: bool, remote: bool) -> WithArgument:
    def add(line: CommandLine, argument: str) -> None:
        for forward in _parse_forwards(line, argument, kind, dynamic=dynamic, remote=remote):
            collect(line.settings, attribute, forward)

    return add


def _parse_forwards(
    line: CommandLine, argument: str, kind: str, *, dynamic: bool, remote: bool
) -> list[Forward]:
    """One forwarding, or a Go list of them; -R alone may do without a target."""
    bad = f"Bad {kind} forwarding specification '{argument}'"
    try:
        spec = expand(argument, None, line.surroundings.environ)
    except ExpansionError as error:
        raise line.notes.fatal(*error.lines, bad) from None
    readings: list[Callable[[], list[Forward]]] = [
        lambda: [parse_forward(spec, dynamic=dynamic, remote=remote)]
    ]
    if remote:
        readings.append(lambda: [parse_forward(spec, dynamic=True, remote=True)])
    if not dynamic:
        readings.append(lambda: parse_go_forwards(spec))
    for read in readings:
        try:
            return read()
        except ConfigSyntaxError:
            continue
    raise line.notes.fatal(bad)


def _stdio_forward(line: CommandLine, argument: str) -> None:
    if line.settings.get("stdio_forward") is not None:
        raise line.notes.fatal("stdio forward already specified")
    if line.control_command is not None:
        raise line.notes.fatal("Cannot specify stdio forward with -O")
    try:
        target = parse_stdio_forward(argument)
    except ConfigSyntaxError:
        raise line.notes.fatal(f"Bad stdio forwarding specification '{argument}'") from None
    _set(stdio_forward=target, request_tty="no", session_type="none")(line)


def _tunnel(line: CommandLine, argument: str) -> None:
    line.settings.setdefault("tunnel", "point-to-point")
    try:
        line.set("tunnel_device", parse_tunnel_device(argument))
    except ConfigSyntaxError:
        raise line.notes.fatal(f"Bad tun device '{argument}'") from None


def _control(line: CommandLine, argument: str) -> None:
    if line.settings.get("stdio_forward") is not None:
        raise line.notes.fatal("Cannot specify multiplexing command with -W")
    if line.control_command is not None:
        raise line.notes.fatal("Multiplexing command already specified")
    if argument not in CONTROL_COMMANDS:
        raise line.notes.fatal("Invalid multiplex command.")
    line.control_command = argument


WITH_ARGUMENT: dict[str, WithArgument] = {
    "B": _store("bind_interface"),
    "b": _store("bind_address"),
    "c": _cipher,
    "D": _forward("local_forwards", "dynamic", dynamic=True, remote=False),
    "E": _log_file,
    "e": _escape,
    "F": _config_file,
    "I": _store("pkcs11_provider"),
    "i": _identity,
    "J": _jump,
    "L": _forward("local_forwards", "local", dynamic=False, remote=False),
    "l": _store_first("user"),
    "m": _mac,
    "O": _control,
    "o": _option,
    "P": _store_first("tag"),
    "p": _port,
    "Q": _query,
    "R": _forward("remote_forwards", "remote", dynamic=False, remote=True),
    "S": _store("control_path"),
    "W": _stdio_forward,
    "w": _tunnel,
}


def _answer(action: str) -> WithArgument:
    def finish(line: CommandLine, value: str) -> None:
        raise Finished(action)

    return finish


def _action(action: str) -> WithArgument:
    def choose(line: CommandLine, value: str) -> None:
        line.action = action

    return choose


def _on(**values: object) -> WithArgument:
    switch = _set(**values)
    return lambda line, value: switch(line)


def _go_forward(attribute: str, protocol: str) -> WithArgument:
    def add(line: CommandLine, value: str) -> None:
        try:
            for forward in parse_go_forwards(value, protocol):
                collect(line.settings, attribute, forward)
        except ConfigSyntaxError:
            raise line.notes.fatal(f"Bad forwarding specification '{value}'") from None

    return add


def _stdio(line: CommandLine, value: str) -> None:
    line.action = "stdio"
    _stdio_forward(line, stdio_target(value))


def stdio_target(word: str) -> str:
    """target[:port], port or path, as -W would take it; none: the sshd of the server itself."""
    if word.isascii() and word.isdigit():
        return f"{DEFAULT_STDIO_HOST}:{word}"
    if word and ":" not in word and "/" not in word:
        return f"{word}:{DEFAULT_STDIO_PORT}"
    return word or f"{DEFAULT_STDIO_HOST}:{DEFAULT_STDIO_PORT}"


# name: (takes a value, what it does)
LONG_FLAGS: dict[str, tuple[bool, WithArgument]] = {
    "config-dir": (True, _store("config_dir")),
    "force-pty": (False, _on(force_pty=True)),
    "forward-agent": (False, _on(forward_agent=True)),
    "forward-tcp": (True, _go_forward("local_forwards", "tcp")),
    "forward-udp": (True, _go_forward("local_forwards", "udp")),
    "help": (False, _answer("help")),
    "insecure": (False, _on(insecure=True)),
    "keylog": (True, _store("key_log")),
    "no-follow-symlinks": (False, _on(follow_symlinks=False)),
    "no-pkce": (False, _on(pkce=False)),
    "oidc-config": (True, _store("oidc_config")),
    "proxy-jump": (True, _store("udp_proxy_jump")),
    "pubkey-for-agent": (True, _store("agent_public_key")),
    "r": (False, _on(recursive=True)),
    "reverse-tcp": (True, _go_forward("remote_forwards", "tcp")),
    "reverse-udp": (True, _go_forward("remote_forwards", "udp")),
    "scp": (False, _action("scp")),
    "sftp": (False, _action("sftp")),
    "stdio": (False, _stdio),
    "use-oidc": (True, _store("use_oidc")),
    "use-password": (False, _on(use_password=True)),
    "version": (False, _answer("go-version")),
}
