"""Two engines in memory, joined by a simulated link whose clock the test steps.

The link delays, loses, reorders and duplicates datagrams, always the same way for the same seed.
Nothing here sleeps: time jumps to whatever is next, an arrival or an engine's timer.
"""

import datetime
import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sshoq.transport.engine import Engine
from sshoq.transport.events import (
    BEFORE_LOGIN,
    Address,
    Event,
    HandshakeCompleted,
    Limits,
    StreamData,
)
from sshoq.transport.identity import Credential, ServerIdentity, SignatureScheme
from sshoq.transport.packets import FirstPacket, NameSource, own_names

CLIENT: Address = ("192.0.2.1", 40000)
SERVER: Address = ("192.0.2.2", 443)
RESET_KEY = bytes(range(32))
MAX_STEPS = 2_000_000

E = TypeVar("E", bound=Event)

SCHEMES = {
    "ed25519": SignatureScheme.ED25519,
    "p256": SignatureScheme.ECDSA_P256,
    "p384": SignatureScheme.ECDSA_P384,
    "p521": SignatureScheme.ECDSA_P521,
    "rsa": SignatureScheme.RSA_PSS_SHA256,
}

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


# ------------------------------------------------------------------------------- host keys


@cache
def host_key(kind: str) -> PrivateKey:
    """A host key of that kind, the same all through a test run."""
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    curves: dict[str, ec.EllipticCurve] = {
        "p256": ec.SECP256R1(),
        "p384": ec.SECP384R1(),
        "p521": ec.SECP521R1(),
    }
    return ec.generate_private_key(curves[kind])


def sign_with(key: PrivateKey, content: bytes, scheme: int) -> bytes:
    """What the holder of the key does when it is asked for a handshake signature."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        assert scheme == SignatureScheme.ED25519
        return key.sign(content)
    if isinstance(key, rsa.RSAPrivateKey):
        assert scheme == SignatureScheme.RSA_PSS_SHA256
        return key.sign(content, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    hashes_of: dict[int, hashes.HashAlgorithm] = {
        SignatureScheme.ECDSA_P256: hashes.SHA256(),
        SignatureScheme.ECDSA_P384: hashes.SHA384(),
        SignatureScheme.ECDSA_P521: hashes.SHA512(),
    }
    return key.sign(content, ec.ECDSA(hashes_of[scheme]))


@cache
def self_signed(kind: str = "ed25519") -> bytes:
    """A certificate over `host_key(kind)`, DER."""
    key = host_key(kind)
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test")])
    start = datetime.datetime(2020, 1, 1)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def identity(kind: str = "ed25519") -> ServerIdentity:
    """A server whose key is behind a function, as it is behind the monitor."""
    return ServerIdentity([credential(kind)])


def credential(kind: str = "ed25519", chain: Sequence[bytes] = ()) -> Credential:
    key = host_key(kind)
    return Credential(
        chain or [self_signed(kind)],
        SCHEMES[kind],
        lambda content, scheme: sign_with(key, content, scheme),
    )


# ------------------------------------------------------------------------------- the link


@dataclass(frozen=True)
class Weather:
    """What the link does to datagrams; chances from 0 to 1, delays in seconds, one way."""

    delay: float = 0.01
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    seed: int = 1


@dataclass
class Side:
    """One engine, where it is, and what it has told so far."""

    engine: Engine
    address: Address
    on_event: Callable[[Event], None] | None = None
    events: list[Event] = field(default_factory=list)
    received: int = 0
    sent: int = 0

    def collect(self) -> None:
        """Take the engine's events, and let the application react to them."""
        while (event := self.engine.next_event()) is not None:
            self.events.append(event)
            if self.on_event is not None:
                self.on_event(event)

    def told(self, kind: type[E]) -> list[E]:
        """The events of that kind, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    def bytes_of(self, stream_id: int) -> bytes:
        """What came on one stream."""
        return b"".join(e.data for e in self.told(StreamData) if e.stream_id == stream_id)


class Link:
    """Joins two sides. `run` is all a test needs; `drop` may look at each datagram and eat it."""

    def __init__(self, left: Side, right: Side, weather: Weather, *, now: float = 0.0) -> None:
        self.now = now
        self.sides = (left, right)
        self.weather = weather
        self.drop: Callable[[Side, bytes], bool] = lambda sender, datagram: False
        self._chance = random.Random(weather.seed)
        self._in_flight: list[tuple[float, int, Side, Address, bytes]] = []
        self._count = 0

    def run(self, until: Callable[[], bool] | None = None, *, seconds: float = 30.0) -> None:
        """Let time pass until that is so. AssertionError when it is not within so many seconds."""
        end = self.now + seconds
        for _ in range(MAX_STEPS):
            self.pump()
            if until is not None and until():
                return
            upcoming = self._next_moment()
            if upcoming is None or upcoming > end:
                break
            self.now = max(self.now, upcoming)
            self._arrive()
            self._fire_timers()
        self.now = max(self.now, end)
        if until is not None:
            raise AssertionError(f"it did not happen within {seconds} simulated seconds")

    def pump(self) -> None:
        """Have both sides react, and send what they have."""
        for side in self.sides:
            side.collect()
            for address, datagrams in side.engine.outgoing(self.now):
                for datagram in datagrams:
                    self.send(side, datagram, address)
            side.collect()

    def send(self, sender: Side, datagram: bytes, address: Address | None = None) -> None:
        """Put one datagram on the way to the other side."""
        receiver = self.sides[1] if sender is self.sides[0] else self.sides[0]
        sender.sent += 1
        if address is not None and address != receiver.address:
            return  # nobody is there
        if self.drop(sender, datagram) or self._chance.random() < self.weather.loss:
            return
        self._launch(receiver, sender.address, datagram)
        if self._chance.random() < self.weather.duplicate:
            self._launch(receiver, sender.address, datagram)

    def _launch(self, receiver: Side, source: Address, datagram: bytes) -> None:
        delay = self.weather.delay
        if self._chance.random() < self.weather.reorder:
            delay *= 1 + 2 * self._chance.random()
        self._count += 1
        heapq.heappush(self._in_flight, (self.now + delay, self._count, receiver, source, datagram))

    def _next_moment(self) -> float | None:
        moments = [side.engine.timer() for side in self.sides]
        if self._in_flight:
            moments.append(self._in_flight[0][0])
        return min((at for at in moments if at is not None), default=None)

    def _arrive(self) -> None:
        """Whatever is due, one batch per receiver, as a socket read until empty would have it."""
        batches: dict[tuple[int, Address], tuple[Side, list[bytes]]] = {}
        while self._in_flight and self._in_flight[0][0] <= self.now:
            _, _, receiver, source, datagram = heapq.heappop(self._in_flight)
            receiver.received += 1
            batches.setdefault((id(receiver), source), (receiver, []))[1].append(datagram)
        for (_, source), (receiver, datagrams) in batches.items():
            receiver.engine.receive(datagrams, source, self.now)

    def _fire_timers(self) -> None:
        for side in self.sides:
            deadline = side.engine.timer()
            if deadline is not None and deadline <= self.now:
                side.engine.handle_timer(self.now)


def make_link(
    *,
    server_identity: ServerIdentity | None = None,
    weather: Weather | None = None,
    server_name: str | None = "host.example",
    keep_alive: float | None = None,
    idle_timeout: float = 30.0,
    limits: Limits = BEFORE_LOGIN,
    names: NameSource | None = None,
    preferred_schemes: Sequence[int] = (),
    plain_client: bool | None = None,
    plain_server: bool | None = None,
) -> tuple[Link, Side, Side]:
    """A client at the start of its handshake, the server that its first packet calls for, and
    the link.
    """
    client = Engine.client(
        SERVER,
        server_name,
        now=0.0,
        keep_alive=keep_alive,
        idle_timeout=idle_timeout,
        limits=limits,
        preferred_schemes=preferred_schemes,
        plain=plain_client,
    )
    first_flight = first_datagrams(client)
    server = Engine.server(
        FirstPacket.of(first_flight[0]),
        server_identity or identity(),
        names=names or own_names(RESET_KEY),
        keep_alive=keep_alive,
        idle_timeout=idle_timeout,
        limits=limits,
        plain=plain_server,
    )
    left, right = Side(client, CLIENT), Side(server, SERVER)
    link = Link(left, right, weather or Weather())
    for datagram in first_flight:
        link.send(left, datagram, SERVER)
    return link, left, right


def first_datagrams(client: Engine, now: float = 0.0) -> list[bytes]:
    """A client's first flight."""
    return [datagram for _, datagrams in client.outgoing(now) for datagram in datagrams]


def connected(**options: object) -> tuple[Link, Side, Side]:
    """The same, with the handshake behind them."""
    link, left, right = make_link(**options)  # type: ignore[arg-type]  # passed on as they are
    link.run(lambda: bool(left.told(HandshakeCompleted) and right.told(HandshakeCompleted)))
    return link, left, right
