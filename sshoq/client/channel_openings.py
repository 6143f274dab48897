"""What a channel to somewhere behind the server is asked for with, and how its refusal is told.

The server may be one that knows addresses only: then names are looked up here.
"""

from sshoq.client.dialing import look_up
from sshoq.client.log import one_line
from sshoq.config.forward_spec import Forward
from sshoq.protocol.extensions import Extension
from sshoq.protocol.messages import (
    ChannelOpening,
    DirectStreamlocal,
    DirectTcp,
    DirectTcpip,
    DirectUdp,
    DirectUdpip,
    RefusalReason,
)
from sshoq.protocol.outcome import Unsupported
from sshoq.protocol.version import PeerTraits
from sshoq.transport.channel import ChannelRefused
from sshoq.wire import IPPort

NOBODY = IPPort("", 0)

_REASONS = {
    RefusalReason.ADMINISTRATIVELY_PROHIBITED: "administratively prohibited",
    RefusalReason.CONNECT_FAILED: "connect failed",
    RefusalReason.UNKNOWN_CHANNEL_TYPE: "unknown channel type",
    RefusalReason.RESOURCE_SHORTAGE: "resource shortage",
}
_KNOWN = frozenset(int(reason) for reason in RefusalReason)


async def opening_for(
    traits: PeerTraits, forward: Forward, caller: IPPort = NOBODY
) -> ChannelOpening:
    """Names are the server's to look up, if it can be told them. Unsupported, OSError."""
    host, port = forward.connect_host or "", forward.connect_port or 0
    if forward.connect_path is not None:
        check_paths_are_known(traits, forward.connect_path)
        return DirectStreamlocal(forward.connect_path)
    if traits.supports(Extension.FORWARD):
        return DirectTcpip(host, port, *caller)
    [(_, address), *_] = await look_up(host, port)
    return DirectTcp(IPPort(str(address[0]).partition("%")[0], port))


async def datagram_opening_for(traits: PeerTraits, forward: Forward) -> ChannelOpening:
    """OSError when a name cannot be looked up for a Go server."""
    host, port = forward.connect_host or "", forward.connect_port or 0
    if traits.supports(Extension.FORWARD):
        return DirectUdpip(host, port)
    [(_, address), *_] = await look_up(host, port)
    return DirectUdp(IPPort(str(address[0]).partition("%")[0], port))


def check_paths_are_known(traits: PeerTraits, path: str) -> None:
    """A Go server is told addresses only."""
    if not traits.supports(Extension.FORWARD):
        raise Unsupported(f"{path}: this server forwards no Unix sockets")


def describe_refusal(refusal: ChannelRefused) -> str:
    """As OpenSSH puts it: the reason's name, and what the server said."""
    name = _REASONS.get(RefusalReason(refusal.reason), "") if refusal.reason in _KNOWN else ""
    return ": ".join(filter(None, (name or "unknown reason", one_line(refusal.text))))
