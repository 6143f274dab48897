"""The way to the destination: its jump hosts, each with a configuration of its own.

Only reads configuration; runs before the first flight, and only when there is a jump host.
"""

from sshoq.client.log import Failure
from sshoq.config.destination import JumpHost
from sshoq.config.keywords import DEFAULT_IDENTITIES
from sshoq.config.resolve import Invocation, resolve
from sshoq.config.usage import UsageError

MAX_HOPS = 16
"""More are a loop that the configuration has been written into."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MERELY_PASSING = (
    *("-N", "-T", "-a", "-x", "-n"),
    *("-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none"),
    *("-o", "ForkAfterAuthentication=no", "-o", "Tunnel=no", "-o", "ControlPath=none"),
)
"""Nothing is run or forwarded at a jump host but the datagrams of the next connection."""


def find_hops(invocation: Invocation, environ: "Mapping[str, str]") -> list[Invocation]:
    """The jump hosts, nearest first; none without ProxyJump or UDPProxyJump."""
    hops = _hops_of(invocation, environ, MAX_HOPS)
    if len(hops) > MAX_HOPS:
        raise Failure(f"more than {MAX_HOPS} jump hosts")
    return hops


def _hops_of(
    invocation: Invocation, environ: "Mapping[str, str]", left: int
) -> list[Invocation]:
    options = invocation.options
    if left < 0:
        raise Failure(f"jumphost loop via {options.hostname}")
    if options.jump_hosts:
        words = [_words_for(jump) for jump in options.jump_hosts]
    elif options.udp_proxy_jump is not None:
        words = [[*_credentials(invocation), options.udp_proxy_jump]]
    else:
        return []
    # The way to the first one is its own configuration's business, as with ssh; that to the others
    # is through the one before.
    nearest = _resolve(invocation, words[0], environ)
    direct = ["-o", "ProxyJump=none", "-o", "UDPProxyJump=none"]
    others = [_resolve(invocation, [*direct, *more], environ) for more in words[1:]]
    return [*_hops_of(nearest, environ, left - 1), nearest, *others]


def _words_for(jump: JumpHost) -> list[str]:
    user = ["-l", jump.user] if jump.user is not None else []
    port = ["-p", str(jump.port)] if jump.port is not None else []
    return [*user, *port, "--", jump.host]


def _credentials(invocation: Invocation) -> list[str]:
    """The Go client gives its jump host the keys of the command line."""
    options = invocation.options
    default = tuple(path for path, _ in DEFAULT_IDENTITIES)
    keys = options.identity_files if options.identity_files != default else ()
    insecure = ["-insecure"] if options.insecure else []
    return [*insecure, *(word for path in keys for word in ("-i", path)), "--"]


def _resolve(
    invocation: Invocation, words: "Sequence[str]", environ: "Mapping[str, str]"
) -> Invocation:
    file = ["-F", invocation.config_file] if invocation.config_file is not None else []
    try:
        return resolve([*file, *_MERELY_PASSING, *words], environ)
    except UsageError as error:
        raise Failure(*error.lines) from None
