"""From the words of the command line to the finished wishes, in the order of OpenSSH's main().

Words, files, canonical name, files again, defaults, checks, expansion. Every mistake is a
UsageError.
"""

from __future__ import annotations

from sshoq.config import algorithms
from sshoq.config.arguments import CommandLine, Finished, stdio_target
from sshoq.config.canonical import Canonicalizer
from sshoq.config.destination import (
    Destination,
    JumpHost,
    check_names,
    parse_jump_hosts,
)
from sshoq.config.expansion import Expander
from sshoq.config.forward_spec import parse_stdio_forward
from sshoq.config.keywords import (
    DEFAULT_IDENTITIES,
    KEYWORDS,
    ROWS,
    USER_KNOWN_HOSTS,
    Keyword,
    Settings,
)
from sshoq.config.lexer import ConfigSyntaxError, ascii_lower
from sshoq.config.options import Options
from sshoq.config.reader import ConfigReader
from sshoq.config.surroundings import Paths, Surroundings, UnknownUserError
from sshoq.config.usage import (
    INFO,
    USAGE,
    Notes,
    UsageError,
    go_version_line,
    usage_error,
    version_line,
)

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_QUIC_PORT = 443
DEFAULT_SSH_PORT = 22
DEFAULT_URL_PATH = "/sshoq-server"
EDIT_VERBS = ("get", "set", "unset")

# Flags of the Go client and facts of the command line that no configuration file can set.
FLAG_DEFAULTS: Settings = {
    "agent_public_key": None,
    "follow_symlinks": True,
    "force_pty": False,
    "forward_agent_path": None,
    "insecure": False,
    "key_log": None,
    "oidc_config": None,
    "pkce": True,
    "recursive": False,
    "rekey_interval": 0,
    "stdio_forward": None,
    "use_oidc": None,
    "use_password": False,
}


# What scp and sftp tell ssh, and no sharing: a shared connection hands out sessions only.
FOR_FILES: Settings = {
    "clear_all_forwardings": True,
    "control_master": "no",
    "control_path": None,
    "fork_after_authentication": False,
    "forward_agent": False,
    "forward_x11": False,
    "permit_local_command": False,
    "remote_command": None,
    "request_tty": "no",
}


class Answer:
    """All that is left to do is to print: lines for stdout and stderr, and the exit status."""

    __slots__ = ("status", "stderr", "stdout")

    def __init__(
        self, stdout: Sequence[str] = (), stderr: Sequence[str] = (), status: int = 0
    ) -> None:
        self.stdout = tuple(stdout)
        self.stderr = tuple(stderr)
        self.status = status


class Invocation:
    """One run of the program as it was asked for.

    action: "session", "stdio", "sftp", "scp", "control" (-O), "keys" (-Z) or "config"; for "answer"
    the run is over once .answer has been printed, and nothing else is set. notes are lines for
    stderr.
    """

    def __init__(self, action: str, line: CommandLine | None = None) -> None:
        self.action = action
        self.answer: Answer | None = None
        self.notes: tuple[str, ...] = ()
        self.options = Options({})
        self.host = ""
        self.typed_host = ""
        self.command = ""
        self.wants_tty = False
        self.operands: tuple[str, ...] = ()
        self.destination: Destination | None = line.destination if line is not None else None
        self.control_command = line.control_command if line is not None else None
        self.config_file = line.config_file if line is not None else None
        self.log_file = line.log_file if line is not None else None
        self.use_syslog = line is not None and line.use_syslog
        self.names_sshoq = False
        self.ssh_arguments: tuple[str, ...] | None = None


def resolve(
    argv: Sequence[str],
    environ: Mapping[str, str] | None = None,
    paths: Paths | None = None,
    *,
    surroundings: Surroundings | None = None,
    program: str = "sshoq",
) -> Invocation:
    """Read the words (without the program's name) and the files; raises UsageError."""
    if is_edit(argv):
        invocation = Invocation("config")
        invocation.operands = tuple(argv[1:])
        return invocation
    notes = Notes()
    try:
        surroundings = surroundings or Surroundings(environ, paths)
        line = CommandLine(surroundings, notes)
        line.parse(list(argv))
    except UnknownUserError as error:
        raise UsageError(str(error)) from None
    except Finished as finished:
        return _answer(finished, program, notes)
    return Resolution(line, surroundings, notes).run()


def is_edit(argv: Sequence[str]) -> bool:
    """Whether the words are "config get|set|unset HOST KEYWORD ...", not a host called config."""
    return len(argv) >= 4 and argv[0] == "config" and argv[1] in EDIT_VERBS


def _answer(finished: Finished, program: str, notes: Notes) -> Invocation:
    invocation = Invocation("answer")
    if finished.action == "version":
        invocation.answer = Answer(stderr=[*notes.lines, version_line()])
    elif finished.action == "help":
        invocation.answer = Answer(stderr=[*notes.lines, *USAGE.split("\n")])
    elif finished.action == "go-version":
        invocation.answer = Answer([go_version_line(program)], notes.lines)
    else:
        lines = algorithms.answer_query(finished.operand)
        if lines is None:
            raise notes.fatal(f'Unsupported query "{finished.operand}"')
        invocation.answer = Answer(lines, notes.lines)
    return invocation


class Resolution:
    """The steps after the words have been read, in order."""

    def __init__(self, line: CommandLine, surroundings: Surroundings, notes: Notes) -> None:
        self.line = line
        self.surroundings = surroundings
        self.notes = notes
        self.settings = line.settings
        self.expander = Expander(line.settings, surroundings, notes)
        self.command_line_port = isinstance(line.settings.get("port"), int)
        self.invocation = Invocation(line.action, line)
        self.host = ""
        self.command = ""

    def run(self) -> Invocation:
        self._name_target()
        self._join_command()
        self._set_log_level()
        self._read_files()
        self._fill_defaults()
        self._resolve_jump()
        self._check_consistency()
        self._decide_tty()
        self.expander.run(self.host, self.invocation.typed_host, self.user_is_default)
        self._finish()
        return self.invocation

    def _name_target(self) -> None:
        if self.line.action == "scp":
            self._name_copy()
        if self.line.action in ("scp", "sftp"):
            self.settings.update(FOR_FILES)
        destination = self.line.destination
        assert destination is not None
        if destination.url_user is not None:
            self.settings.setdefault("user", destination.url_user)
        self.host = self.invocation.typed_host = destination.host
        user = self.settings.get("user")
        error = check_names(self.host, user if isinstance(user, str) else None)
        if error is not None:
            raise self.notes.fatal(*error.lines)

    def _name_copy(self) -> None:
        """-scp takes two operands; the one with '%' names the server and a path on it."""
        operands = self.line.command_words
        remote = [word for word in operands if "%" in word]
        if len(operands) != 2 or len(remote) != 1:
            raise usage_error(
                self.notes, "-scp needs a local path and user@host:port/path%<remote path>"
            )
        self.invocation.operands = tuple(operands)
        self.line._set_destination(remote[0].partition("%")[0])
        self.line.command_words = []
        self.command_line_port = isinstance(self.settings.get("port"), int)

    def _join_command(self) -> None:
        words = self.line.command_words
        if self.line.action == "stdio" and words:
            self._set_stdio_target(words)
            words = []
        self.command = " ".join(words)
        if not words and self.settings.get("session_type") == "subsystem":
            raise usage_error(self.notes, "You must specify a subsystem to invoke.")

    def _set_stdio_target(self, words: list[str]) -> None:
        """--stdio HOST [TARGET[:PORT]]: where to, as seen from the server."""
        try:
            if len(words) != 1:
                raise ConfigSyntaxError("one target")
            self.settings["stdio_forward"] = parse_stdio_forward(stdio_target(words[0]))
        except ConfigSyntaxError:
            complaint = "--stdio takes a destination and at most one target[:port]"
            raise usage_error(self.notes, complaint) from None

    def _set_log_level(self) -> None:
        if self.line.use_syslog and self.line.log_file is not None:
            raise self.notes.fatal("Can't specify both -y and -E")
        level = self.settings.get("log_level")
        self.notes.level = level if isinstance(level, int) else INFO
        if self.line.verbose:
            self.notes.add(INFO, version_line())

    def _read_files(self) -> None:
        """Both passes, and between them the canonical name."""
        target = self.line.target
        target.typed = target.host = self.host
        target.command = self.command
        reader = ConfigReader(self.settings, target, self.surroundings, self.notes)
        reader.read_files(self.line.config_file)
        self._take_hostname()
        self._settle_canonicalization()
        canonicalizer = Canonicalizer(self.settings, self.surroundings, self.notes)
        self.host = canonicalizer.name(self.host)
        if canonicalizer.is_asked_for or reader.matcher.wants_final_pass:
            target.final, target.host = True, self.host
            self.settings["hostname"] = self.host
            reader.read_files(self.line.config_file)

    def _settle_canonicalization(self) -> None:
        """What the first pass leaves open here gets its default; the second cannot change it."""
        for keyword in (
            "canonicalizefallbacklocal",
            "canonicalizehostname",
            "canonicalizemaxdots",
        ):
            row = KEYWORDS[keyword]
            self.settings.setdefault(row.attribute, row.default)

    def _take_hostname(self) -> None:
        hostname = self.settings.get("hostname")
        if isinstance(hostname, str):
            self.host = self.expander.expand(hostname, {"h": self.host})
            self.settings["hostname"] = self.host

    def _fill_defaults(self) -> None:
        settings = self.settings
        self._decide_quic_port()
        for row in ROWS:
            value = settings.setdefault(row.attribute, row.default)
            if isinstance(value, dict):
                settings[row.attribute] = tuple(value)
        for attribute, value in FLAG_DEFAULTS.items():
            settings.setdefault(attribute, value)
        settings.setdefault("config_dir", f"{self.surroundings.home}/.ssh3")
        self._fill_dependent_defaults()
        self._clear_none()
        self._assemble_algorithms()
        if not settings["identity_files"]:
            settings["identity_files"] = DEFAULT_IDENTITIES
        if settings["clear_all_forwardings"]:
            settings["local_forwards"] = settings["remote_forwards"] = ()
            settings["tunnel"] = "no"

    def _decide_quic_port(self) -> None:
        """Command line, QUICPort, a Port that is not sshd's own, 443."""
        settings = self.settings
        port = settings.get("port")
        settings.setdefault("port", DEFAULT_SSH_PORT)
        if self.command_line_port:
            settings["quic_port"] = port
        elif port not in (None, DEFAULT_SSH_PORT):
            settings.setdefault("quic_port", port)
        else:
            settings.setdefault("quic_port", DEFAULT_QUIC_PORT)

    def _fill_dependent_defaults(self) -> None:
        settings = self.settings
        with_stdio = settings["stdio_forward"] is not None
        for attribute in ("clear_all_forwardings", "exit_on_forward_failure"):
            if settings[attribute] is None:
                settings[attribute] = with_stdio
        if settings["update_host_keys"] is None:
            is_plain = settings["user_known_hosts_files"] is USER_KNOWN_HOSTS
            settings["update_host_keys"] = (
                "yes" if is_plain and settings["verify_host_key_dns"] == "no" else "no"
            )
        settings["url_path_is_default"] = settings["url_path"] is None
        if settings["url_path"] is None:
            settings["url_path"] = DEFAULT_URL_PATH
        if settings["gssapi_kex_algorithms"] is None:
            settings["gssapi_kex_algorithms"] = algorithms.DEFAULT_GSS_KEX

    def _clear_none(self) -> None:
        """The word "none" switches these off."""
        for attribute in (
            "control_path",
            "known_hosts_command",
            "local_command",
            "pkcs11_provider",
            "proxy_command",
            "remote_command",
            "security_key_provider",
            "version_addendum",
        ):
            value = self.settings[attribute]
            if isinstance(value, str) and value.lower() == "none":
                self.settings[attribute] = None
        for attribute in (
            "canonical_domains",
            "channel_timeouts",
            "log_verbose",
            "revoked_host_keys",
        ):
            values = self.settings[attribute]
            if isinstance(values, tuple) and [str(v).lower() for v in values[:1]] == ["none"]:
                self.settings[attribute] = ()
        if not self.settings["proxy_jump"]:
            self.settings["proxy_jump"] = None

    def _assemble_algorithms(self) -> None:
        for attribute, name, default, every in _ALGORITHM_LISTS:
            text = self.settings[attribute]
            try:
                self.settings[attribute] = algorithms.assemble(
                    text if isinstance(text, str) else None, default, every
                )
            except algorithms.AlgorithmError as error:
                raise self.notes.fatal(f"{name}: {error}") from None

    def _resolve_jump(self) -> None:
        settings = self.settings
        if settings["user"] is None:
            settings["user"] = self.surroundings.user
            self.user_is_default = True
        jump = settings["proxy_jump"]
        hops: list[JumpHost] = []
        if isinstance(jump, str):
            hops = parse_jump_hosts(jump)
            settings["proxy_command"] = None
            settings["proxy_use_fdpass"] = False
        settings["jump_hosts"] = tuple(hops)
        alias = settings["host_key_alias"]
        if isinstance(alias, str):
            settings["host_key_alias"] = ascii_lower(alias)

    user_is_default = False

    def _check_consistency(self) -> None:
        settings = self.settings
        has_command = bool(self.command) or settings["remote_command"] is not None
        if settings["proxy_command"] == "-" and settings["proxy_use_fdpass"]:
            raise self.notes.fatal("ProxyCommand=- and ProxyUseFDPass are incompatible")
        self._settle_update_host_keys(has_command)
        if settings["connection_attempts"] == 0:
            raise self.notes.fatal("Invalid number of ConnectionAttempts")
        if self.command and settings["remote_command"] is not None:
            raise self.notes.fatal("Cannot execute command-line and remote command.")
        forks = settings["fork_after_authentication"]
        if forks and not has_command and settings["session_type"] != "none":
            raise self.notes.fatal("Cannot fork into background without a command to execute.")
        level = settings["log_level"]
        self.notes.level = level if isinstance(level, int) else INFO

    def _settle_update_host_keys(self, has_command: bool) -> None:
        """Asking is not possible where nobody would see the question."""
        settings = self.settings
        if settings["update_host_keys"] != "ask":
            return
        persist, level = settings["control_persist"], settings["log_level"]
        assert isinstance(persist, tuple)
        assert isinstance(level, int)
        stays = persist[0] and settings["control_path"] is not None
        if stays or has_command or settings["request_tty"] == "no" or level < INFO:
            settings["update_host_keys"] = "no"

    def _decide_tty(self) -> None:
        settings = self.settings
        tty = settings["request_tty"]
        wants = tty in ("yes", "force") or (
            not self.command and settings["remote_command"] is None and tty != "no"
        )
        if settings["session_type"] == "none" or self.line.control_command not in (None, "proxy"):
            wants = False
        if self.line.action not in ("session", "control"):
            wants = False
        if tty != "force" and (settings["stdin_null"] or not self.surroundings.stdin_is_terminal()):
            if wants:
                self.notes.add(
                    INFO,
                    "Pseudo-terminal will not be allocated because stdin is not a terminal.",
                )
            wants = False
        self.invocation.wants_tty = wants

    def _finish(self) -> None:
        settings, invocation = self.settings, self.invocation
        settings["hostname"] = self.host
        for attribute in ("identity_files", "certificate_files", "send_env"):
            values = settings[attribute]
            assert isinstance(values, tuple)
            settings[attribute] = tuple(v[0] if isinstance(v, tuple) else v for v in values)
        settings["path_expander"] = self.expander.path
        settings["tokens"] = self.expander.tokens
        invocation.options = Options(settings)
        invocation.host = self.host
        invocation.command = self.command or str(settings["remote_command"] or "")
        if self.line.control_command is not None:
            invocation.action = "control"
        destination = self.line.destination
        assert destination is not None
        invocation.names_sshoq = self.line.is_sshoq_only or destination.is_url
        if not invocation.names_sshoq:
            invocation.ssh_arguments = tuple(self.line.ssh_words)
        if self.line.wants_dump:
            from sshoq.config.dump import dump_options

            invocation.action = "answer"
            invocation.answer = Answer(dump_options(invocation), self.notes.lines)
        invocation.notes = tuple(self.notes.lines)


def default_of(row: Keyword) -> object:
    """What the keyword comes to when nobody says anything about it."""
    for attribute, _, names, _ in _ALGORITHM_LISTS:
        if attribute == row.attribute:
            return ",".join(names)
    if row.attribute == "gssapi_kex_algorithms":
        return algorithms.DEFAULT_GSS_KEX
    return row.default


_KEY_LISTS = (algorithms.DEFAULT_KEYS, algorithms.SIGNATURE_KEYS)
_FILL = "fill_default_options"
# attribute, name in complaints, default list, all names
_ALGORITHM_LISTS = (
    ("ciphers", f"{_FILL}: ciphers", algorithms.DEFAULT_CIPHERS, algorithms.CIPHERS),
    ("macs", f"{_FILL}: macs", algorithms.DEFAULT_MACS, algorithms.MACS),
    ("kex_algorithms", f"{_FILL}: kex_algorithms", algorithms.DEFAULT_KEX, algorithms.KEX),
    ("hostbased_accepted_algorithms", f"{_FILL}: hostbased_accepted_algos", *_KEY_LISTS),
    ("pubkey_accepted_algorithms", f"{_FILL}: pubkey_accepted_algos", *_KEY_LISTS),
    (
        "ca_signature_algorithms",
        f"{_FILL}: ca_sign_algorithms",
        algorithms.DEFAULT_CA_SIGNATURES,
        algorithms.SIGNATURES,
    ),
    ("host_key_algorithms", "dump_client_config: expand HostKeyAlgorithms", *_KEY_LISTS),
)
