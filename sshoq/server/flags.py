"""Process: main [root]. Two command lines in one: sshd's (`-D -f FILE -o …`) and the Go server's
(`-bind ADDRESS -url-path PATH …`, whole words with one dash or two).

Words are looked at first, since sshd's letters could be read into them (`-cert` is not `-c ert`).
Everything becomes lines of configuration: flags beat the file, and what the Go server does by
default is weaker than the file. Reads no file itself.
"""


from sshoq import __version__
from sshoq.config.lexer import ConfigSyntaxError, parse_port, parse_time
from sshoq.config.usage import COMPATIBLE_VERSION
from sshoq.named_tuple import NamedTuple
from sshoq.server.config_dump import parse_test_spec
from sshoq.server.config_reader import DEFAULT_PORT

USAGE = """\
usage: sshoq-server [-46DdeqTtV] [-C connection_spec] [-c host_cert_file]
                    [-E log_file] [-f config_file] [-g login_grace_time]
                    [-h host_key_file] [-o option] [-p port]
       sshoq-server [-bind address] [-url-path path] [-cert file] [-key file]
                    [-generate-selfsigned-cert] [-enable-password-login]
                    [-disable-sftp] [-v] [-version]"""

GO_BIND = f"[::]:{DEFAULT_PORT}"
GO_CERTIFICATE = "cert.pem"
GO_KEY = "priv.key"


class UsageError(Exception):
    """The command line makes no sense. `lines` are for stderr."""

    def __init__(self, *lines: str, status: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.status = status


class Bind(NamedTuple):
    """`-bind`: where the Go server listens. Without a host: everywhere."""

    text: str
    host: str
    port: int


class Invocation:
    """What the command line asks for."""

    def __init__(self) -> None:
        self.config_file: str | None = None
        self.no_config_file = False
        self.overrides: list[str] = []
        """Lines that come before the file."""
        self.fallbacks: list[str] = []
        """Lines that come after it."""
        self.ports_given = False
        """-p or -bind: then no Port of the file counts."""
        self.foreground = False
        self.debug = 0
        self.log_to_stderr = False
        self.log_file: str | None = None
        self.mode = "serve"
        """serve, test (-t), dump (-T), version, help"""
        self.test_spec: dict[str, str] | None = None
        self.go_style = False
        self.bind = Bind(GO_BIND, "", DEFAULT_PORT)
        self.certificate: str | None = None
        self.key: str | None = None


def parse_command_line(arguments: list[str]) -> Invocation:
    """UsageError or ConfigError for what cannot be meant."""
    invocation = Invocation()
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            break
        if not argument.startswith("-") or argument == "-":
            waiting.insert(0, argument)
            break
        if not _take_word(invocation, argument, waiting):
            _take_letters(invocation, argument[1:], waiting)
    if waiting:
        raise UsageError(f"Extra argument {waiting[0]}.")
    _conclude(invocation)
    return invocation


def _conclude(invocation: Invocation) -> None:
    if invocation.test_spec is not None and invocation.mode != "dump":
        raise UsageError(
            "Config test connection parameter (-C) provided without test mode (-T)", status=255
        )
    if not invocation.go_style:
        return
    invocation.foreground = True
    without_passwords = ["PasswordAuthentication no", "KbdInteractiveAuthentication no"]
    invocation.fallbacks += [*without_passwords, "PidFile none"]
    if invocation.certificate is not None or invocation.key is not None:
        invocation.overrides += [
            f'Certificate "{invocation.certificate or GO_CERTIFICATE}"',
            f'CertificateKey "{invocation.key or GO_KEY}"',
        ]


# --------------------------------------------------------------------------- the Go server's words


def _take_word(invocation: Invocation, argument: str, waiting: list[str]) -> bool:
    """Act on a whole word; False when it is none."""
    name, equals, value = argument.lstrip("-").partition("=")
    if len(argument) - len(argument.lstrip("-")) > 2:
        return False
    if name in _SWITCHES:
        if equals and value.lower() not in ("true", "false", "1", "0", "t", "f"):
            raise UsageError(f'invalid boolean value "{value}" for -{name}', status=255)
        if not equals or value.lower() in ("true", "1", "t"):
            _set_switch(invocation, name)
        return True
    if name not in _VALUES:
        return False
    if not equals:
        if not waiting:
            raise UsageError(f"flag needs an argument: -{name}", USAGE, status=255)
        value = waiting.pop(0)
    _set_value(invocation, name, value)
    return True


_SWITCHES = frozenset(
    (
        "generate-selfsigned-cert",
        "enable-password-login",
        "disable-sftp",
        "v",
        "version",
        "help",
    )
)
_VALUES = frozenset(("bind", "url-path", "cert", "key", "generate-public-cert"))


def _set_switch(invocation: Invocation, name: str) -> None:
    if name in ("version", "help"):
        invocation.mode = name
        return
    invocation.go_style = True
    if name == "enable-password-login":
        invocation.overrides.append("PasswordAuthentication yes")
    elif name == "disable-sftp":
        invocation.overrides.append("DisableSFTP yes")
    elif name == "v":
        invocation.overrides.append("LogLevel DEBUG")
        invocation.log_to_stderr = True
    # -generate-selfsigned-cert asks for what happens anyway when there is no certificate.


def _set_value(invocation: Invocation, name: str, value: str) -> None:
    invocation.go_style = True
    if name == "generate-public-cert":
        raise UsageError(
            "-generate-public-cert is not supported: get a certificate with an ACME client "
            "and name its files with -cert and -key",
            status=255,
        )
    if name == "bind":
        _set_bind(invocation, value)
    elif name == "url-path":
        invocation.overrides.append(f'URLPath "{value if value[:1] == "/" else "/" + value}"')
    elif name == "cert":
        invocation.certificate = value
    else:
        invocation.key = value


def _set_bind(invocation: Invocation, value: str) -> None:
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    try:
        number = parse_port(port) if colon else 0
    except ConfigSyntaxError:
        number = 0
    if not number:
        raise UsageError(f"-bind {value}: an address and a port are needed", status=255)
    invocation.bind = Bind(value, host, number)
    invocation.ports_given = True
    invocation.overrides.append(f"Port {number}")
    # Go's [::] is both families in one socket; ours are two.
    if host not in ("", "::"):
        invocation.overrides.append(f"ListenAddress {host}")


# --------------------------------------------------------------------------- sshd's letters


_WITH_ARGUMENT = frozenset("CEbcfghkopu")


def _take_letters(invocation: Invocation, letters: str, waiting: list[str]) -> None:
    """`-De`, `-p2022`, `-p 2022`: letters in a row, of which the last may take an argument."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in _WITH_ARGUMENT:
            _set_letter(invocation, letter)
            continue
        if not letters and not waiting:
            raise UsageError(f"option requires an argument -- {letter}", version_line(), USAGE)
        value = letters or waiting.pop(0)
        _set_letter_value(invocation, letter, value)
        return


def _set_letter(invocation: Invocation, letter: str) -> None:
    if letter == "i":
        raise UsageError("-i is not supported: QUIC needs the UDP socket itself", status=255)
    if letter == "d":
        invocation.debug = min(invocation.debug + 1, 3)
        invocation.overrides.insert(0, f"LogLevel DEBUG{invocation.debug}")
        invocation.foreground = invocation.log_to_stderr = True
    elif letter in _LETTERS:
        setattr(invocation, *_LETTERS[letter])
    elif letter in _LETTER_LINES:
        invocation.overrides.append(_LETTER_LINES[letter])
    elif letter not in "QRr":  # of older releases
        raise UsageError(f"unknown option -- {letter}", version_line(), USAGE)


_LETTERS = {
    "D": ("foreground", True),
    "e": ("log_to_stderr", True),
    "t": ("mode", "test"),
    "T": ("mode", "dump"),
    "V": ("mode", "version"),
}
_LETTER_LINES = {
    "4": "AddressFamily inet",
    "6": "AddressFamily inet6",
    "q": "LogLevel QUIET",
}


def _set_letter_value(invocation: Invocation, letter: str, value: str) -> None:
    if letter == "f":
        invocation.no_config_file = value.lower() == "none"
        invocation.config_file = None if invocation.no_config_file else value
    elif letter == "E":
        invocation.log_file = value
    elif letter == "C":
        invocation.test_spec = parse_test_spec(value, invocation.test_spec or {})
    elif letter == "o":
        invocation.overrides.append(value)
    elif letter == "h":
        invocation.overrides.append(f'HostKey "{value}"')
    elif letter == "c":
        invocation.overrides.append(f'HostCertificate "{value}"')
    elif letter == "p":
        _set_port(invocation, value)
    elif letter == "g":
        _set_grace(invocation, value)
    # -b, -k and -u have no meaning here.


def _set_port(invocation: Invocation, value: str) -> None:
    try:
        port = parse_port(value)
    except ConfigSyntaxError:
        raise UsageError("Bad port number.") from None
    invocation.ports_given = True
    invocation.overrides.append(f"Port {port}")


def _set_grace(invocation: Invocation, value: str) -> None:
    try:
        seconds = parse_time(value)
    except ConfigSyntaxError:
        raise UsageError("Invalid login grace time.") from None
    invocation.overrides.append(f"LoginGraceTime {seconds}")


def version_line() -> str:
    return f"sshoq-server {__version__}, {COMPATIBLE_VERSION}"
