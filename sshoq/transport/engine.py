"""One QUIC connection, sans-IO: datagrams in, datagrams out, a timer, events.

All that others see of QUIC is `Engine`. What it is a face of, the QUIC library's connection as we
want it, is in `quic.py`; neither knows a socket, a clock or an event loop.
"""

from collections.abc import Callable, Sequence

from sshoq.transport.client_start import DATAGRAM_SIZE, IDLE_TIMEOUT, KEEP_ALIVE, Dice, plain_name
from sshoq.transport.events import (
    BEFORE_LOGIN,
    DEFAULT_CONGESTION,
    Address,
    Cause,
    Event,
    Limits,
    NewcomerArrived,
    PathChanged,
    Terminated,
    plain_address,
)
from sshoq.transport.identity import ServerIdentity
from sshoq.transport.packets import CID_LENGTH, RESET_TOKEN_LENGTH, FirstPacket, NameSource
from sshoq.transport.quic import (
    Connection,
    EventQueue,
    client_connection,
    library_settings,
    server_connection,
)

MAX_UNSENT_DATAGRAMS = 256
"""Of our own, waiting for the congestion window."""

MAX_HELD_PACKETS = 16
"""1-RTT packets that overtook the handshake, kept until it completes (RFC 9001 5.7)."""

ROUNDING = 1e-6
"""Seconds. aioquic says when a packet will count as lost, and by a rounding error may not yet agree
at that very moment; asked exactly then, it would set the same timer again and again."""


class NoStreamCredit(Exception):
    """The peer does not permit another stream now."""


class StreamClosed(Exception):
    """The stream takes no more data: stopped by the peer, reset, or gone with its connection."""


class Engine:
    """One connection. Call `receive`, `handle_timer` and the verbs; then drain `next_event` and
    `outgoing`.
    """

    def __init__(
        self, connection: Connection, *, keep_alive: float | None, address_validated: bool = False
    ) -> None:
        self._connection = connection
        self._keep_alive = keep_alive
        self._address_validated = address_validated
        self._events = EventQueue(connection)
        self._held: list[tuple[bytes, Address]] = []
        self._last_ping = 0.0
        self._path: Address | None = connection.get_peer_address()
        self._terminated: Terminated | None = None
        self._farewell: list[tuple[Address, list[bytes]]] = []
        self._strays = 0
        self._first_source = self._path

    # ------------------------------------------------------------------ makers

    @classmethod
    def client(
        cls,
        peer: Address,
        server_name: str | None,
        *,
        now: float,
        limits: Limits = BEFORE_LOGIN,
        idle_timeout: float = IDLE_TIMEOUT,
        keep_alive: float | None = KEEP_ALIVE,
        max_datagram_size: int = DATAGRAM_SIZE,
        keylog: Callable[[str], None] | None = None,
        preferred_schemes: Sequence[int] = (),
        congestion: str = DEFAULT_CONGESTION,
        plain: bool | None = None,
        dice: Dice | None = None,
    ) -> "Engine":
        """Starts the handshake. The certificate's signature is checked here; whose it is, above.

        A server with several keys is asked for one of `preferred_schemes`, first choice first.
        `congestion`: one of CONTROLLERS. `plain`: all goes the library's own way; None, and the
        environment decides. `dice`: those of a flight that was sent, `client_start.first_flight`
        at the time `now`; if the first of `outgoing` is not the same, it is good for nothing.
        """
        settings = library_settings(
            is_client=True,
            limits=limits,
            idle_timeout=idle_timeout,
            max_datagram_size=max_datagram_size,
            congestion=congestion,
            plain=plain,
        )
        connection = client_connection(
            settings, limits, plain_name(server_name), preferred_schemes, dice, keylog
        )
        connection.connect(plain_address(peer), now)
        return cls(connection, keep_alive=keep_alive)

    @classmethod
    def server(
        cls,
        start: FirstPacket,
        identity: ServerIdentity,
        *,
        limits: Limits = BEFORE_LOGIN,
        names: NameSource | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        keep_alive: float | None = KEEP_ALIVE,
        max_datagram_size: int = DATAGRAM_SIZE,
        congestion: str = DEFAULT_CONGESTION,
        plain: bool | None = None,
    ) -> "Engine":
        """Answers a first packet, which is still to be given to `receive`. See `client`."""
        settings = library_settings(
            is_client=False,
            limits=limits,
            idle_timeout=idle_timeout,
            max_datagram_size=max_datagram_size,
            congestion=congestion,
            plain=plain,
        )
        connection = server_connection(settings, limits, start, identity, names)
        return cls(connection, keep_alive=keep_alive, address_validated=start.retry_cid is not None)

    # ------------------------------------------------------------------ the wire

    def receive(self, datagrams: Sequence[bytes], peer: Address, now: float) -> None:
        """Take what came from one address. Whatever it is: events are all that comes of it."""
        if self._terminated is not None:
            self._strays += len(datagrams)
            self._connection.note_stray(sum(map(len, datagrams)), plain_address(peer))
            return
        source = plain_address(peer)
        if not self._is_home(source):
            return
        position = 0
        while position < len(datagrams) and not self._connection.is_over:
            taken = self._connection.receive_ordinary(datagrams, position, source, now)
            if not taken:
                self._take(datagrams[position], source, now)
            position += taken or 1
        self._collect()

    def _is_home(self, source: Address) -> bool:
        """Whether a packet may come from there: until the handshake is complete, only from where
        the first one came from (RFC 9000 9). The library would follow a client that moves earlier,
        and who has put a false address on the first packet would be taken for its owner.
        """
        if self._first_source is None:
            self._first_source = source
        return self._connection.is_complete or source == self._first_source

    def outgoing(self, now: float) -> list[tuple[Address, list[bytes]]]:
        """What is to be sent now, in batches per address. After the end: the last flight, then
        its echoes.
        """
        if self._terminated is not None and self._farewell:
            return self._echo_farewell()
        connection = self._connection
        if connection.get_peer_address() is None:
            return []
        connection.keep_keys_fresh()
        batches: dict[Address, list[bytes]] = {}
        datagrams = connection.datagrams_to_send(now) + connection.probe_path(now)
        if not datagrams and not connection.has_news():
            return []
        for datagram, address in datagrams:
            batches.setdefault(address, []).append(datagram)
        self._collect()
        if self._terminated is not None:
            self._farewell = list(batches.items())
        return list(batches.items())

    def timer(self) -> float | None:
        """When to call `handle_timer` at the latest."""
        if self._terminated is not None or self._connection.get_peer_address() is None:
            return None
        due, ping_at = self._connection.get_timer(), self._keep_alive_due()
        if due is None or (ping_at is not None and ping_at < due):
            due = ping_at
        search_at = self._connection.path_mtu.begins_at
        return due if due is None or search_at is None else min(due, search_at)

    def handle_timer(self, now: float) -> None:
        """Something may be due. `outgoing()` has what it leads to."""
        connection = self._connection
        if self._terminated is not None or connection.get_peer_address() is None:
            return
        due = self._keep_alive_due()
        if due is not None and now >= due:
            self._last_ping = now
            self.ping()
        is_idle = connection.is_idle(now)
        connection.handle_timer(now + ROUNDING)
        connection.note_timeouts()
        self._collect(is_idle=is_idle)

    def next_event(self) -> Event | None:
        """The oldest event not yet taken."""
        return self._events.take()

    @property
    def is_over(self) -> bool:
        """Nothing more can be said; that it is so may still be among the events."""
        return self._terminated is not None

    # ------------------------------------------------------------------ streams

    def open_stream(self, *, unidirectional: bool = False) -> int:
        """The ID of a new stream. NoStreamCredit when the peer permits none; StreamClosed after
        the end.
        """
        if self._terminated is not None:
            raise StreamClosed("the connection has ended")
        stream_id = self._connection.begin_stream(unidirectional)
        if stream_id is None:
            raise NoStreamCredit("the peer permits no more streams now")
        return stream_id

    def write(self, stream_id: int, data: bytes | memoryview, *, fin: bool = False) -> None:
        """Queue data. It is kept until acknowledged: look at `buffered` before adding more.
        StreamClosed.
        """
        if self._terminated is not None or not self._connection.write(stream_id, data, fin):
            raise StreamClosed(f"stream {stream_id} takes no more data")

    def buffered(self, stream_id: int) -> int:
        """Bytes written and not yet acknowledged."""
        return self._connection.buffered(stream_id)

    def has_credit(self, stream_id: int) -> bool:
        """Whether the peer permits more on that stream than is written already."""
        return self._connection.may_send(stream_id)

    @property
    def buffered_total(self) -> int:
        """The same over all streams; looks at each."""
        return sum(self.buffered(stream_id) for stream_id in self._connection.stream_ids)

    @property
    def congestion_window(self) -> int:
        """Bytes that the path takes at once, as far as is known now."""
        return self._connection.congestion_window

    def consumed(self, stream_id: int, count: int) -> bool:
        """The reader is done with so many bytes of StreamData: the peer may send as many more.
        Whether `outgoing` may have to tell that now."""
        return self._connection.consumed(stream_id, count)

    def set_priority(self, stream_id: int, urgent: bool) -> None:
        """Whether the stream's data goes before that of streams which are not urgent."""
        self._connection.set_priority(stream_id, urgent)

    def reset(self, stream_id: int, code: int) -> None:
        """Give up sending. What is not yet sent or acknowledged is dropped."""
        self._connection.give_up_sending(stream_id, code)

    def stop(self, stream_id: int, code: int) -> None:
        """Give up reading: no more StreamData, and all that was or will be received counts as
        consumed.
        """
        self._connection.give_up_reading(stream_id, code)

    # ------------------------------------------------------------------ datagrams

    @property
    def max_datagram_payload(self) -> int:
        """The longest payload that `send_datagram` takes now; 0 when the peer takes none."""
        return self._connection.max_datagram_payload

    def seek_larger_datagrams(self) -> None:
        """Try at once what the path takes, which bulk data does of its own accord."""
        self._connection.path_mtu.is_wanted = True

    @property
    def is_searching_path(self) -> bool:
        """Whether longer payloads may be possible before long."""
        return self._connection.path_mtu.is_searching

    def send_datagram(self, payload: bytes) -> bool:
        """Queue a DATAGRAM frame. False: too long, not wanted by the peer, or too many are
        waiting.
        """
        if self._terminated is not None or len(payload) > self.max_datagram_payload:
            return False
        if self._connection.unsent_datagrams >= MAX_UNSENT_DATAGRAMS:
            return False
        self._connection.send_datagram_frame(payload)
        return True

    # ------------------------------------------------------------------ the connection

    def close(self, code: int, reason: str = "") -> None:
        """End the connection. What is buffered is not sent; `outgoing()` has the
        CONNECTION_CLOSE. Of what came in, what was not taken yet does not count any more: it may
        be that the peer is closed out for what stood before it in the same flight.
        """
        if self._terminated is None:
            self._connection.close_by_application(code, reason)
            self._events.forget()
            self._collect()

    def ping(self) -> None:
        """Ask the peer for a sign of life; `last_received` shows it."""
        self._connection.ask_for_life()

    def raise_limits(self, limits: Limits) -> None:
        """After login: larger windows, for the streams there are, too."""
        self._connection.raise_limits(limits)

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        """RFC 8446 7.5, from SendReady on."""
        return self._connection.handshake.export(label, context, length)

    @property
    def peer_certificates(self) -> list[bytes]:
        """What the server showed, DER, leaf first. Its key signed this handshake; nothing else
        is verified.
        """
        return list(self._connection.handshake.peer_chain)

    @property
    def connection_ids(self) -> list[bytes]:
        """The names by which the peer may call us now: those issued, and the client's own first
        choice.
        """
        return self._connection.own_cids

    @property
    def peer_address(self) -> Address | None:
        """Where `outgoing()` sends to."""
        address: Address | None = self._connection.get_peer_address()
        return address

    @property
    def migration_allowed(self) -> bool:
        """Whether the peer can bear it when we go on from another address of our own accord."""
        return self._connection.migration_allowed

    @property
    def key_exchange(self) -> str:
        """The group agreed upon, by its name."""
        return self._connection.handshake.key_exchange

    @property
    def congestion(self) -> str:
        """Which of CONTROLLERS decides how much is under way; "" where it is the library's own."""
        return self._connection.congestion

    @property
    def cipher_suite(self) -> str:
        return self._connection.handshake.cipher_suite

    @property
    def last_received(self) -> float:
        """When the peer was last heard; only packets that prove themselves count."""
        return self._connection.last_received

    @property
    def round_trip_time(self) -> float | None:
        """Seconds, smoothed; None before the first measurement."""
        return self._connection.round_trip_time

    # ------------------------------------------------------------------ receiving

    def _take(self, datagram: bytes, peer: Address, now: float) -> None:
        connection = self._connection
        if not datagram:
            return
        if not datagram[0] & 0x80:
            if not connection.is_complete:
                self._hold(datagram, peer)
                return
            if self._is_stateless_reset(datagram):
                self._end(Terminated(0, Cause.RESET.value, Cause.RESET, is_application=False))
                return
        elif connection.is_for_another(datagram):
            self._events.append(NewcomerArrived(datagram))
            return
        connection.receive_datagram(datagram, peer, now)
        if self._address_validated and connection.trust_address():
            self._address_validated = False
        if self._held and connection.is_complete:
            self._release_held(now)

    def _hold(self, datagram: bytes, peer: Address) -> None:
        if len(self._held) < MAX_HELD_PACKETS and self._connection.knows_cid(
            datagram[1 : 1 + CID_LENGTH]
        ):
            self._held.append((datagram, peer))

    def _release_held(self, now: float) -> None:
        held, self._held = self._held, []
        for datagram, peer in held:
            self._connection.receive_datagram(datagram, peer, now)

    def _is_stateless_reset(self, datagram: bytes) -> bool:
        if self._connection.knows_cid(datagram[1 : 1 + CID_LENGTH]):
            return False
        return self._connection.is_reset_token(datagram[-RESET_TOKEN_LENGTH:])

    # ------------------------------------------------------------------ events

    def _collect(self, *, is_idle: bool = False) -> None:
        """Take what the connection has to tell."""
        self._events.collect()
        self._note_path()
        if self._terminated is None and self._connection.is_over:
            self._end(self._connection.ending(is_idle))

    def _note_path(self) -> None:
        here = self._connection.proven_address
        if here is None or here == self._path:
            return
        if self._path is not None:
            self._events.append(PathChanged(here))
        self._path = here

    def _end(self, terminated: Terminated) -> None:
        self._terminated = terminated
        self._held.clear()
        self._events.append(terminated)

    # ------------------------------------------------------------------ sending

    def _keep_alive_due(self) -> float | None:
        if self._keep_alive is None or not self._connection.is_complete:
            return None
        return max(self._connection.last_received, self._last_ping) + self._keep_alive

    def _echo_farewell(self) -> list[tuple[Address, list[bytes]]]:
        """RFC 9000 10.2.1: who still sends has missed the end. Answer ever more rarely."""
        if self._strays == 0 or self._strays & (self._strays - 1):
            return []
        self._strays += 1
        size = sum(len(datagram) for _, datagrams in self._farewell for datagram in datagrams)
        return self._farewell if self._connection.may_repeat(size) else []
