"""Transport ssh and auto: when the real ssh is to do it, and how it is called.

A host that is not known to speak SSHOQ is tried for a short time, then ssh takes over with the same
arguments. Once a host was reached it is remembered, and from then on a silent server is an error:
whoever can drop packets must not be able to choose the protocol. That a host was silent is
remembered, too, but for a while and for this network: silence.py.
"""

import os
import signal
from collections.abc import Mapping
from typing import NoReturn

from sshoq.client.log import Failure
from sshoq.config.options import Options
from sshoq.config.resolve import Invocation
from sshoq.config.surroundings import account_of

TYPE_CHECKING = False  # what type checkers take for true
if TYPE_CHECKING:
    from sshoq.client.addresses import HostAddress
    from sshoq.client.silence import Silence

TRY_SECONDS = 1.5
"""How long an unknown host has to answer. A round trip to the other side of the earth takes 0.3."""

REACHED_FILE = "sshoq_reached"
MAX_REACHED = 1 << 20


def may_fall_back(invocation: Invocation) -> bool:
    """Whether nothing says that this host speaks SSHOQ."""
    options = invocation.options
    return (
        options.transport == "auto"
        and invocation.ssh_arguments is not None
        and not is_told_to_speak(options)
        and not was_reached(options)
        and not _is_pinned(options)
    )


def is_told_to_speak(options: Options) -> bool:
    """By the user, and not by what was found out about the host."""
    return (
        options.transport == "quic"
        or not options.url_path_is_default
        or options.server_certificate is not None
    )


def _is_pinned(options: Options) -> bool:
    """Whether the Go client, or we, accepted a certificate of this host before."""
    path = os.path.join(options.config_dir, "known_hosts")
    if not os.path.exists(path):
        return False
    from sshoq.auth.known_hosts import read_go_pins

    return bool(read_go_pins(path, options.hostname, options.quic_port, options.url_path))


# --------------------------------------------------------------------------- memory


def was_reached(options: Options) -> bool:
    try:
        with open(_reached_path(), "rb") as file:
            known = file.read(MAX_REACHED).splitlines()
    except OSError:
        return False
    return place_of(options).encode("utf-8", "surrogateescape") in known


def remember_reached(options: Options) -> None:
    """Best effort: a home that cannot be written must not stop anybody."""
    path = _reached_path()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, place_of(options).encode("utf-8", "surrogateescape") + b"\n")
        finally:
            os.close(fd)
    except OSError:
        return


def _reached_path() -> str:
    """Beside the other files about hosts, in the account's home, as for ssh."""
    return os.path.join(account_of(os.getuid())[1], ".ssh", REACHED_FILE)


def place_of(options: Options) -> str:
    return f"{options.hostname}:{options.quic_port}"


# --------------------------------------------------------------------------- and of silence


def find_silence(
    options: Options, target: "HostAddress", environ: Mapping[str, str]
) -> "Silence | None":
    """When nobody answered there, if there is an ssh to go to at once."""
    path = silence_path(environ)
    if not os.path.lexists(path):
        return None
    from sshoq.client.silence import SilenceFile

    silence = SilenceFile(path).find(place_of(options), _network(options, target))
    return silence if silence is not None and find_ssh(environ) is not None else None


def note_silence(
    options: Options, target: "HostAddress", environ: Mapping[str, str], now: int
) -> "Silence | None":
    """Only where it could be noted as well that the host was reached: or one that was would be left
    to ssh for longer than it is silent."""
    network = _network(options, target)
    if not network or not _could_remember_reached():
        return None
    from sshoq.client.silence import SilenceFile

    return SilenceFile(silence_path(environ)).note(place_of(options), network, now)


def _network(options: Options, target: "HostAddress") -> bytes:
    from sshoq.client.addresses import BindWish, network_towards

    return network_towards(target, BindWish(options.bind_address, options.bind_interface))


def _could_remember_reached() -> bool:
    path = _reached_path()
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.access(path, os.W_OK)


def forget_silence(options: Options, environ: Mapping[str, str]) -> None:
    """The host has answered, or the user knows better."""
    path = silence_path(environ)
    if not os.path.lexists(path):
        return
    from sshoq.client.silence import SilenceFile

    SilenceFile(path).forget(place_of(options))


def silence_path(environ: Mapping[str, str]) -> str:
    """In the user's cache as XDG has it, where a path that is not absolute does not count."""
    cache = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.join(account_of(os.getuid())[1], ".cache")
    return os.path.join(cache, "sshoq", "silent")


# --------------------------------------------------------------------------- the real ssh


def exec_ssh(invocation: Invocation, environ: Mapping[str, str]) -> NoReturn:
    """Become ssh with the arguments that it understands."""
    if invocation.ssh_arguments is None:
        raise Failure("Transport ssh: the command line has options that only sshoq knows")
    program = find_ssh(environ)
    if program is None:
        raise Failure("Transport ssh: no ssh program found")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and ssh would inherit that
    try:
        os.execve(program, ["ssh", *invocation.ssh_arguments], dict(environ))
    except OSError as error:
        raise Failure(f"{program}: {error.strerror}") from None


def find_ssh(environ: Mapping[str, str]) -> str | None:
    """The first `ssh` in PATH that is not this program under another name."""
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in [*folders, "/usr/bin", "/usr/local/bin"]:
        path = os.path.join(folder or ".", "ssh")
        if os.access(path, os.X_OK) and not os.path.isdir(path) and not _is_ours(path):
            return path
    return None


def _is_ours(path: str) -> bool:
    """A link to us, or a wrapper as pip writes them."""
    if os.path.basename(os.path.realpath(path)).startswith("sshoq"):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(2048)
    except OSError:
        return False
    return head.startswith(b"#!") and b"sshoq" in head
