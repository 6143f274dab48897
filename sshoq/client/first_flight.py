"""The first flight: a QUIC handshake started on a connected socket, ahead of everything that is
slow to load.

What is imported here and above is paid for before the first packet leaves;
tests/client/test_startup.py has the list. The rest of the program is loaded while the packet is in
the air, even the engine that goes on with it.
"""

import time
from collections.abc import Callable

from sshoq.client.addresses import BindWish, HostAddress, open_socket
from sshoq.named_tuple import NamedTuple
from sshoq.transport.client_start import IDLE_TIMEOUT, KEEP_ALIVE, Dice, first_flight
from sshoq.transport.events import BEFORE_LOGIN, DEFAULT_CONGESTION
from sshoq.transport.udp import UdpSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sshoq.transport.engine import Engine


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
    congestion: str = DEFAULT_CONGESTION

    @property
    def keep_alive(self) -> float:
        return min(KEEP_ALIVE, self.alive_interval or KEEP_ALIVE)

    @property
    def idle_timeout(self) -> float:
        """QUIC's own patience; the shorter one of both sides holds."""
        return max(IDLE_TIMEOUT, self.alive_interval * (self.alive_count + 1))


class FirstDatagrams(NamedTuple):
    """What was sent ahead of the engine's being there."""

    target: HostAddress
    udp: UdpSocket
    dice: Dice
    datagrams: list[bytes]
    sent_at: float


class Flight(NamedTuple):
    """A handshake under way."""

    target: HostAddress
    udp: UdpSocket
    engine: "Engine"


def begin(target: HostAddress, wish: LinkWish) -> FirstDatagrams:
    """Send a first flight to this address without an engine. OSError when there is no way there."""
    udp = UdpSocket(open_socket(target, wish.bind))
    dice = Dice()
    datagrams = first_flight(
        dice,
        wish.server_name,
        idle_timeout=wish.idle_timeout,
        limits=BEFORE_LOGIN,
        preferred_schemes=wish.preferred_schemes,
    )
    now = time.monotonic()
    udp.send(datagrams)
    return FirstDatagrams(target, udp, dice, datagrams, now)


def go_on(begun: FirstDatagrams, wish: LinkWish) -> Flight:
    """That flight with its engine; or where that would have said something else, another one."""
    target, udp, dice, datagrams, sent_at = begun
    engine = _engine(target, wish, sent_at, dice)
    if [one for _, some in engine.outgoing(sent_at) for one in some] == datagrams:
        return Flight(target, udp, engine)
    udp.close()
    return launch(target, wish)


def launch(target: HostAddress, wish: LinkWish) -> Flight:
    """Send the first flight to this address. OSError when there is no way there."""
    return launch_on(UdpSocket(open_socket(target, wish.bind)), target, wish)


def launch_on(udp: UdpSocket, target: HostAddress, wish: LinkWish) -> Flight:
    """The same on a socket that is there."""
    now = time.monotonic()
    engine = _engine(target, wish, now)
    for _, datagrams in engine.outgoing(now):
        udp.send(datagrams)
    return Flight(target, udp, engine)


def _engine(target: HostAddress, wish: LinkWish, now: float, dice: Dice | None = None) -> "Engine":
    from sshoq.transport.engine import Engine

    return Engine.client(
        target.address,
        wish.server_name,
        now=now,
        idle_timeout=wish.idle_timeout,
        keep_alive=wish.keep_alive,
        keylog=wish.keylog,
        preferred_schemes=wish.preferred_schemes,
        dice=dice,
        congestion=wish.congestion,
    )


def server_name_of(host: str) -> str | None:
    """SNI: the host's name; none for a literal address (RFC 6066 section 3)."""
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return None
    return host if host.isascii() else _name_in_ascii(host)


def _name_in_ascii(host: str) -> str | None:
    """As it was looked up: Python asks for other letters in their IDNA form."""
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return None
