"""The first flight: a QUIC handshake started on a connected socket, ahead of everything that is
slow to load.

What is imported here and above is paid for before the first packet leaves;
tests/client/test_startup.py has the list. The rest of the program is loaded while the packet is in
the air.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from sshoq.client.addresses import BindWish, HostAddress, open_socket
from sshoq.transport.quic import IDLE_TIMEOUT, KEEP_ALIVE, Engine
from sshoq.transport.udp import UdpSocket


class LinkWish(NamedTuple):
    """How the connection is to be made and kept."""

    server_name: str | None = None
    bind: BindWish = BindWish()
    alive_interval: int = 0
    """ServerAliveInterval and ServerAliveCountMax: after so many seconds so often, the server is
    gone."""
    alive_count: int = 3
    keylog: Callable[[str], None] | None = None
    preferred_schemes: tuple[int, ...] = ()
    """Of which kinds the server's key is known; see host_keys.py."""

    @property
    def keep_alive(self) -> float:
        return min(KEEP_ALIVE, self.alive_interval or KEEP_ALIVE)

    @property
    def idle_timeout(self) -> float:
        """QUIC's own patience; the shorter one of both sides holds."""
        return max(IDLE_TIMEOUT, self.alive_interval * (self.alive_count + 1))


class Flight(NamedTuple):
    """A handshake under way."""

    target: HostAddress
    udp: UdpSocket
    engine: Engine


def launch(target: HostAddress, wish: LinkWish) -> Flight:
    """Send the first flight to this address. OSError when there is no way there."""
    return launch_on(UdpSocket(open_socket(target, wish.bind)), target, wish)


def launch_on(udp: UdpSocket, target: HostAddress, wish: LinkWish) -> Flight:
    """The same on a socket that is there."""
    now = time.monotonic()
    engine = Engine.client(
        target.address,
        wish.server_name,
        now=now,
        idle_timeout=wish.idle_timeout,
        keep_alive=wish.keep_alive,
        keylog=wish.keylog,
        preferred_schemes=wish.preferred_schemes,
    )
    for _, datagrams in engine.outgoing(now):
        udp.send(datagrams)
    return Flight(target, udp, engine)


def server_name_of(host: str) -> str | None:
    """SNI: the host's name; none for a literal address (RFC 6066 section 3)."""
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return None
    return host
