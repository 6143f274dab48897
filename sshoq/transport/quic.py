"""The QUIC library's connection as we want it. The one file that knows aioquic.

aioquic is subclassed, never forked, and pinned: what is overridden here is named `_like_this`
there. Bottom up: `Handshake` (TLS: exporter, hybrid key exchange, remote signing), `Connection`
(flow control by consumption, bounds and checks that aioquic lacks), `FastConnection` (the same
with the fast paths of `fast_receive.py`, `fast_send.py` and `small_send.py` mixed in), and
`EventQueue`, what the library tells in our words. `engine.py` is what others see of it.
"""

import hmac
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, TextIO, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sshoq.der import DerError
from sshoq.transport.client_start import (
    ALPN,
    MAX_DATAGRAM_FRAME,
    SUITES,
    Dice,
)
from sshoq.transport.congestion import CONTROLLERS, Controller
from sshoq.transport.credit import CreditBook, raised
from sshoq.transport.events import (
    Address,
    Cause,
    ConnectionIdRetired,
    DatagramReceived,
    Event,
    HandshakeCompleted,
    Limits,
    SendReady,
    StreamData,
    StreamReset,
    StreamStopped,
    Terminated,
)
from sshoq.transport.fast_receive import MAX_STREAM_GAPS
from sshoq.transport.identity import (
    ECDSA_SCHEMES,
    MIN_RSA_BITS,
    ORDER_COUNTS,
    RSA_SCHEMES,
    PeerCertificate,
    RemoteKey,
    ServerIdentity,
    offered_schemes,
)
from sshoq.transport.pacing import Pacer
from sshoq.transport.packets import (
    CID_LENGTH,
    VERSION_1,
    VERSION_2,
    FirstPacket,
    NameSource,
    own_names,
    parse_packet,
)
from sshoq.transport.path_mtu import PathMtu
from sshoq.transport.small_send import SmallSend
from sshoq.transport.stand_ins import standing_in
from sshoq.transport.stream_halves import Stream
from sshoq.transport.tls_groups import (
    HYBRID_GROUP,
    HybridCurve,
    HybridPrivateKey,
    HybridPublicKey,
)

# What verifies certificate chains there is a third of aioquic's start, and not used by us.
with standing_in({"certifi": [], "service_identity": [], "OpenSSL": ["crypto"]}):
    from aioquic import tls
    from aioquic._buffer import Buffer
    from aioquic.quic import events as told
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.congestion.base import register_congestion_control
    from aioquic.quic.connection import (
        Limit,
        QuicConnection,
        QuicConnectionAdapter,
        QuicConnectionError,
        QuicConnectionId,
        QuicConnectionState,
        QuicNetworkPath,
        QuicReceiveContext,
    )
    from aioquic.quic.crypto import CryptoPair
    from aioquic.quic.packet import (
        QuicErrorCode,
        QuicFrameType,
        QuicPacketType,
        pull_quic_transport_parameters,
    )
    from aioquic.quic.packet_builder import (
        QuicDeliveryState,
        QuicPacketBuilder,
        QuicPacketBuilderStop,
    )
    from aioquic.quic.recovery import QuicPacketSpace
    from aioquic.quic.stream import QuicStream, QuicStreamSender

MAX_WAITING_DATAGRAMS = 1024 * 1024
"""Bytes of received DATAGRAM frames that wait for a reader. More are dropped, newest first."""

DATAGRAM_OVERHEAD = 64
"""What an empty datagram counts for in that bound."""

MAX_CONNECTION_IDS = 4

PLAIN_VARIABLE = "SSHOQ_PLAIN_QUIC"
"""Set to 1 in the environment, everything goes the library's own way, for comparison."""

MAX_CLIENT_HELLO = 16 * 1024
MAX_SERVER_MESSAGE = 96 * 1024
"""Bounds of one TLS message; a chain of certificates is the largest a server sends."""

KEY_PHASE_PACKETS = 1 << 22
"""Packets after which keys are updated: AES-GCM is good for 2^23 (RFC 9001 6.6)."""

MAX_REASON = 512

UNFORESEEN = "Unforeseen"
"""How the reason begins when a packet confused the library."""

OFFERED_SUITES = [tls.CipherSuite(number) for number in SUITES]


# ---------------------------------------------------------------------------------------- TLS


def _teach_hybrid_group() -> None:
    """aioquic finds groups by their curve in two tables and in the module `ec`; give it one more
    there.
    """

    def generate_private_key(
        curve: ec.EllipticCurve | HybridCurve,
    ) -> ec.EllipticCurvePrivateKey | HybridPrivateKey:
        if isinstance(curve, HybridCurve):
            return HybridPrivateKey()
        return ec.generate_private_key(curve)

    library_decode = tls.decode_public_key

    def decode_public_key(key_share: tuple[int, bytes]) -> object:
        group, share = key_share
        return HybridPublicKey(share) if group == HYBRID_GROUP else library_decode(key_share)

    curves = ModuleType("ec")
    vars(curves).update(vars(ec), generate_private_key=generate_private_key)
    vars(tls).update(ec=curves, decode_public_key=decode_public_key)
    ec.EllipticCurvePublicKey.register(HybridPublicKey)
    tls.GROUP_TO_CURVE[HYBRID_GROUP] = HybridCurve
    tls.CURVE_TO_GROUP[HybridCurve] = HYBRID_GROUP


_teach_hybrid_group()


def _key_makers(dice: Dice) -> dict[str, ModuleType]:
    """The two modules that aioquic makes a client's keys with, as they are, but for those keys."""
    curves, montgomery = ModuleType("ec"), ModuleType("x25519")
    vars(curves).update(vars(vars(tls)["ec"]), generate_private_key=lambda curve: dice.hybrid_key)
    maker = ModuleType("X25519PrivateKey")
    vars(maker).update(generate=lambda: dice.curve_key)
    vars(montgomery).update(vars(vars(tls)["x25519"]), X25519PrivateKey=maker)
    return {"ec": curves, "x25519": montgomery}


class _AllSupported:
    """What aioquic asks OpenSSL about, for lists that `Handshake.configure` replaces. To ask
    OpenSSL itself loads modules for 2 ms, ahead of the first flight.
    """

    def __getattr__(self, name: str) -> Callable[[], bool]:
        return lambda: True


vars(tls).update(default_backend=_AllSupported)


def export_keying_material(
    algorithm: hashes.HashAlgorithm, master_secret: bytes, label: bytes, context: bytes, length: int
) -> bytes:
    """RFC 8446 7.5."""

    def digest(data: bytes) -> bytes:
        state = hashes.Hash(algorithm)
        state.update(data)
        return state.finalize()

    size = algorithm.digest_size
    secret = tls.hkdf_expand_label(algorithm, master_secret, label, digest(b""), size)
    return tls.hkdf_expand_label(algorithm, secret, b"exporter", digest(context), length)


class Handshake(tls.Context):
    """TLS 1.3 as we want it: our groups and signatures, an exporter, and bounds."""

    exporter_master_secret = b""
    peer_chain: Sequence[bytes] = ()

    def configure(
        self,
        identity: ServerIdentity | None,
        preferred_schemes: Sequence[int],
        dice: Dice | None,
    ) -> None:
        """Instead of __init__, as aioquic makes the object."""
        self._dice = dice
        if dice is not None:
            self.client_random = dice.random
        self._identity = identity
        self._supported_groups: list[int] = [HYBRID_GROUP, tls.Group.X25519]  # type: ignore[assignment]  # a group is a number
        if not self._is_client:
            self._supported_groups.append(tls.Group.SECP256R1)
        self._signature_algorithms = offered_schemes(preferred_schemes)

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        """RFC 8446 7.5, once our side may send."""
        if self.key_schedule is None or not self.exporter_master_secret:
            raise RuntimeError("the handshake is not far enough")
        algorithm, secret = self.key_schedule.algorithm, self.exporter_master_secret
        return export_keying_material(algorithm, secret, label, context, length)

    @property
    def cipher_suite(self) -> str:
        return self.key_schedule.cipher_suite.name if self.key_schedule is not None else ""

    @property
    def key_exchange(self) -> str:
        """The group agreed upon."""
        for key in cast("list[object]", self._ec_private_keys):
            if isinstance(key, HybridPrivateKey):
                if key.exchanged:
                    return "X25519MLKEM768"
            elif not self._is_client:
                return "P-256"
        return "X25519"

    def _client_send_hello(self, output_buf: Buffer) -> None:
        own = {name: vars(tls)[name] for name in ("ec", "x25519")}
        if self._dice is not None:
            vars(tls).update(_key_makers(self._dice))
        try:
            super()._client_send_hello(output_buf)
        finally:
            vars(tls).update(own)

    def handle_message(self, input_data: bytes, output_buf: dict[tls.Epoch, Buffer]) -> None:
        super().handle_message(input_data, output_buf)
        waiting = self._receive_buffer
        longest = MAX_SERVER_MESSAGE if self._is_client else MAX_CLIENT_HELLO
        if int.from_bytes(waiting[1:4], "big") > longest:
            raise tls.AlertDecodeError("TLS message is too long")

    def _setup_traffic_protection(
        self, direction: tls.Direction, epoch: tls.Epoch, label: bytes
    ) -> None:
        # Here, on both sides, the transcript is ClientHello … server Finished, as the exporter
        # wants it.
        if label == b"s ap traffic" and self.key_schedule is not None:
            self.exporter_master_secret = self.key_schedule.derive_secret(b"exp master")
        super()._setup_traffic_protection(direction, epoch, label)

    def _server_handle_hello(
        self, input_buf: Buffer, initial_buf: Buffer, handshake_buf: Buffer
    ) -> None:
        # aioquic takes the client's first share that it knows; take the hybrid one wherever it
        # stands.
        whole = input_buf.data_slice(0, input_buf.capacity)
        hello = tls.pull_client_hello(Buffer(data=whole))
        if any(group == HYBRID_GROUP for group, _ in hello.key_share or ()):
            self._supported_groups = [HYBRID_GROUP]
        self._choose_credential(hello.signature_algorithms or [])
        super()._server_handle_hello(input_buf, initial_buf, handshake_buf)

    def _choose_credential(self, offered: list[int]) -> None:
        """The first one stays where none fits; it then does not fit either, and the library says
        so to the client."""
        chosen = self._identity.choose(offered) if self._identity is not None else None
        if chosen is not None:
            self.certificate, *self.certificate_chain = chosen.certificates  # type: ignore[assignment]  # only their bytes are asked for
            self.certificate_private_key = chosen.key  # type: ignore[assignment]  # only asked to sign

    def _signature_algorithms_for_private_key(self) -> list[tls.SignatureAlgorithm]:
        key = cast(object, self.certificate_private_key)
        return [tls.SignatureAlgorithm(key.scheme)] if isinstance(key, RemoteKey) else []

    def _set_peer_certificate(self, certificate: tls.Certificate) -> None:
        self.peer_chain = [der for der, _ in certificate.certificates]
        try:
            self._peer_certificate = PeerCertificate(self.peer_chain[0])  # type: ignore[assignment]  # only its key is asked for
        except DerError as error:
            raise tls.AlertBadCertificate(str(error)) from error

    def _check_certificate_verify_signature(self, verify: tls.CertificateVerify) -> None:
        if verify.algorithm == ORDER_COUNTS:
            raise tls.AlertIllegalParameter("no signature scheme")
        super()._check_certificate_verify_signature(verify)
        assert self._peer_certificate is not None
        key = self._peer_certificate.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            # RFC 8446 4.2.3: the scheme names the curve, too.
            if ECDSA_SCHEMES.get(key.curve.name) != verify.algorithm:
                raise tls.AlertIllegalParameter(
                    "the signature's scheme is not that of the key's curve"
                )
        elif verify.algorithm in RSA_SCHEMES and getattr(key, "key_size", 0) < MIN_RSA_BITS:
            raise tls.AlertBadCertificate("the server's RSA key is too short")


# ---------------------------------------------------------------------------------------- QUIC


class _Silence(QuicConnectionAdapter):
    """aioquic logs what peers do; with no handler set, its warnings would end on the user's
    terminal.
    """

    def _ignore(self, msg: object, *args: object, **kwargs: object) -> None:
        pass

    debug = info = warning = error = _ignore


_SILENCE = _Silence(logging.getLogger("quic"), {})


class _KeyLog:
    """A callback in the shape of the file that aioquic writes secrets to."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.write = tell

    def flush(self) -> None:
        pass


def _peek_varints(buf: Buffer, count: int) -> list[int]:
    start = buf.tell()
    values = [buf.pull_uint_var() for _ in range(count)]
    buf.seek(start)
    return values


class Connection(QuicConnection):
    """aioquic's connection with our credit, our connection IDs, and the checks and bounds it
    lacks.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        limits: Limits,
        *,
        start: FirstPacket | None = None,
        names: NameSource | None = None,
        identity: ServerIdentity | None = None,
        preferred_schemes: Sequence[int] = (),
        dice: Dice | None = None,
    ) -> None:
        self._identity = identity
        self._preferred_schemes = preferred_schemes
        self._dice = dice
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=start.original_cid if start else None,
            retry_source_connection_id=start.retry_cid if start else None,
        )
        self._logger = _SILENCE
        self._loss._logger = None
        self._next_name = names or own_names(os.urandom(32))
        self._announced_cid = 0
        self._begun_by_application = False
        self._key_phase_began = 0
        self.credit = CreditBook(limits)
        self.last_received = 0.0
        self.migration_allowed = True
        self.path_mtu = PathMtu(configuration.max_datagram_size)
        self._challenges = 0
        self._challenge_again_at: float | None = None
        self.notices: deque[Event] = deque()
        for limit, count in (
            (self._local_max_streams_bidi, limits.bidirectional_streams),
            (self._local_max_streams_uni, limits.unidirectional_streams),
        ):
            limit.value = limit.sent = count
        if dice is not None:
            self._take_first_name(dice.source_cid, b"")
            self._peer_cid.cid = self._original_destination_connection_id = dice.destination_cid
        elif not self._is_client:
            name = self._next_name()
            assert name is not None
            self._take_first_name(*name)

    def _take_first_name(self, connection_id: bytes, token: bytes) -> None:
        first = self._host_cids[0]
        first.cid = self.host_cid = self._local_initial_source_connection_id = connection_id
        if token:
            first.stateless_reset_token = token

    # ------------------------------------------------------------------ what Engine asks

    @property
    def handshake(self) -> Handshake:
        return cast(Handshake, self.tls)

    @property
    def is_complete(self) -> bool:
        return self._handshake_complete

    @property
    def is_over(self) -> bool:
        return self._close_event is not None

    def is_idle(self, now: float) -> bool:
        """Whether the silence has been too long."""
        return self._close_at is not None and now >= self._close_at

    def ending(self, is_idle: bool) -> Terminated:
        """How it ended, once it is over."""
        assert self._close_event is not None
        how = self._close_event
        cause = Cause.LOCAL
        if is_idle:
            cause = Cause.IDLE
        elif self._state == QuicConnectionState.DRAINING:
            cause = Cause.PEER
        return Terminated(int(how.error_code), how.reason_phrase, cause, how.frame_type is None)

    @property
    def proven_address(self) -> Address | None:
        """Where the peer has shown to be."""
        path = self._network_paths[0] if self._network_paths else None
        return path.addr if path is not None and path.is_validated else None

    def trust_address(self) -> bool:
        """Count the peer's address as proven; False before there is one."""
        if self._network_paths:
            self._network_paths[0].is_validated = True
        return bool(self._network_paths)

    @property
    def own_cids(self) -> list[bytes]:
        """The names by which the peer may call us now."""
        own = [cid.cid for cid in self._host_cids]
        return own if self._is_client else [self.original_destination_connection_id, *own]

    @property
    def congestion(self) -> str:
        """The name of our controller; "" where it is the library's own."""
        return str(getattr(self._loss._cc, "name", ""))

    @property
    def congestion_window(self) -> int:
        return self._loss.congestion_window

    @property
    def round_trip_time(self) -> float | None:
        """Seconds, smoothed; None before the first measurement."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else None

    def knows_cid(self, cid: bytes) -> bool:
        return any(cid == own.cid for own in self._host_cids)

    def is_for_another(self, datagram: bytes) -> bool:
        """Whether somebody begins a connection of his own with it."""
        head = None if self._is_client else parse_packet(datagram)
        return (
            head is not None
            and head.is_initial
            and head.destination_cid != self.original_destination_connection_id
            and head.destination_cid != self._retry_source_connection_id
            and not self.knows_cid(head.destination_cid)
        )

    def is_reset_token(self, token: bytes) -> bool:
        """Whether that is the peer's secret for one of the connection IDs we use (RFC 9000
        10.3.1).
        """
        known = [self._peer_cid, *self._peer_cid_available]
        known += [path.peer_cid for path in self._network_paths if path.peer_cid is not None]
        return any(hmac.compare_digest(token, cid.stateless_reset_token or b"") for cid in known)

    def raise_limits(self, limits: Limits) -> None:
        before = self.credit.limits
        self.credit.limits = limits
        self._local_max_streams_bidi.value += max(
            0, limits.bidirectional_streams - before.bidirectional_streams
        )
        self._local_max_streams_uni.value += max(
            0, limits.unidirectional_streams - before.unidirectional_streams
        )

    def ask_for_life(self) -> None:
        if not self._ping_pending:
            self.send_ping(0)

    def note_timeouts(self) -> None:
        """Packets that the path no longer takes show by nothing else."""
        self.path_mtu.note_timeouts(self._loss._pto_count)

    def keep_keys_fresh(self) -> None:
        sent = self._packet_number
        if self._handshake_confirmed and sent - self._key_phase_began >= KEY_PHASE_PACKETS:
            self.request_key_update()
            self._key_phase_began = sent

    def request_key_update(self) -> None:
        """With something that is repeated when lost: as old keys are not kept for long, a peer that
        never hears of the new ones would be heard no more.
        """
        super().request_key_update()
        self._ping_pending = self._ping_pending or [0]

    def close_by_application(self, code: int, reason: str) -> None:
        self._begun_by_application = True
        self.close(code, None, reason)

    def close(
        self,
        error_code: int = QuicErrorCode.NO_ERROR,
        frame_type: int | None = None,
        reason_phrase: str = "",
    ) -> None:
        if frame_type is None and not self._begun_by_application:
            frame_type = QuicFrameType.PADDING  # aioquic means itself, and would say it was us
        reason = reason_phrase.encode()[:MAX_REASON].decode(errors="ignore")
        super().close(error_code, frame_type, reason)

    # ------------------------------------------------------------------ streams

    @property
    def stream_ids(self) -> Iterable[int]:
        return self._streams.keys()

    def begin_stream(self, unidirectional: bool) -> int | None:
        """The ID of a new stream, if the peer permits one."""
        stream_id = self.get_next_available_stream_id(is_unidirectional=unidirectional)
        uni, bidi = self._remote_max_streams_uni, self._remote_max_streams_bidi
        if stream_id // 4 >= (uni if unidirectional else bidi):
            return None
        self._get_or_create_stream_for_send(stream_id)
        return stream_id

    def write(self, stream_id: int, data: bytes | memoryview, fin: bool) -> bool:
        """Whether the stream takes any more."""
        stream = self._streams.get(stream_id)
        if stream is None or _takes_no_more(stream.sender):
            return False
        stream.sender.write(cast(bytes, data), end_stream=fin)
        return True

    def buffered(self, stream_id: int) -> int:
        """Bytes written and not yet acknowledged."""
        stream = self._streams.get(stream_id)
        return self.unacknowledged(stream) if stream else 0

    def may_send(self, stream_id: int) -> bool:
        """Whether the peer permits more than is written already."""
        stream = self._streams.get(stream_id)
        return stream is not None and self.has_credit(stream)

    def give_up_sending(self, stream_id: int, code: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.sender.is_finished:
            stream.sender.reset(code)
            self.forget_unsent(stream)

    def give_up_reading(self, stream_id: int, code: int) -> None:
        stream = self._streams.get(stream_id)
        still_open = stream is not None and not stream.receiver.is_finished
        self.credit.forsake(stream_id, more_to_come=still_open)
        if stream is not None and still_open:
            stream.receiver.stop(code)

    # ------------------------------------------------------------------ what the fast paths ask

    application_space: QuicPacketSpace
    application_keys: CryptoPair
    application_crypto: QuicStream
    """Of 1-RTT packets; looked up once, as the names of the library's epochs are slow keys."""

    def is_application_data(self, context: QuicReceiveContext) -> bool:
        """Whether the packet was protected by 1-RTT keys."""
        return context.epoch == tls.Epoch.ONE_RTT

    def misdeed(self, code: int, frame_type: int, reason: str) -> QuicConnectionError:
        """To be raised while a frame is handled: the end of the connection."""
        return QuicConnectionError(code, frame_type, reason)

    def take_frames(self, payload: bytes, now: float) -> bool:
        """Handle the frames of an ordinary 1-RTT packet; whether it wants an acknowledgement."""
        context = QuicReceiveContext(
            epoch=tls.Epoch.ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        try:
            return self._payload_received(context, payload)[0]
        except QuicConnectionError as error:
            self.close(error.error_code, error.frame_type, error.reason_phrase)
            return False

    # ------------------------------------------------------------------ what those replace

    def receive_ordinary(
        self, datagrams: Sequence[bytes], start: int, source: Address, now: float
    ) -> int:
        """Take datagrams from `start` on as far as there is a faster way; how many those were."""
        return 0

    def hand_on(self) -> None:
        """Events for the stream data gathered."""

    def has_news(self) -> bool:
        """Whether there may be something to tell, or something has changed."""
        return bool(self._events or self.notices or self.is_over)

    def consumed(self, stream_id: int, count: int) -> bool:
        """Whether that may have to be told."""
        self.credit.consume(stream_id, count)
        return True

    def peer_wants_credit(self, stream_id: int) -> None:
        self.credit.widen(stream_id)

    def unacknowledged(self, stream: QuicStream) -> int:
        return stream.sender._buffer_stop - stream.sender._buffer_start

    def has_credit(self, stream: QuicStream) -> bool:
        return stream.sender._buffer_stop < stream.max_stream_data_remote

    def forget_unsent(self, stream: QuicStream) -> None:
        """After a reset nothing of the buffer is sent again, so it need not wait for the reset's
        acknowledgement.
        """
        stream.sender._buffer = bytearray()
        stream.sender._buffer_start = stream.sender._buffer_stop

    def set_priority(self, stream_id: int, urgent: bool) -> None:
        """The library serves all streams alike."""

    def use_datagram_size(self, size: int) -> None:
        self._max_datagram_size = size
        self._loss._pacer._max_datagram_size = size
        controller = self._loss._cc
        controller.congestion_window = max(controller.congestion_window, 2 * size)

    # ------------------------------------------------------------------ datagrams

    @property
    def max_datagram_payload(self) -> int:
        accepted = self._remote_max_datagram_frame_size or 0
        # Short header with a 2-byte packet number, and the AEAD's tag; then type and 2-byte length.
        packet = self.path_mtu.size - (3 + len(self._peer_cid.cid)) - 16
        return max(0, min(accepted, packet) - 3)

    @property
    def unsent_datagrams(self) -> int:
        return len(self._datagrams_pending)

    def _drop_unsendable_datagrams(self) -> None:
        """aioquic would wait for ever for a packet that has room for them."""
        longest = self.max_datagram_payload
        if any(len(payload) > longest for payload in self._datagrams_pending):
            self._datagrams_pending = deque(
                payload for payload in self._datagrams_pending if len(payload) <= longest
            )

    # ------------------------------------------------------------------ path MTU

    def probe_path(self, now: float) -> list[tuple[bytes, Address]]:
        """A datagram larger than those in use, when it is time to try one."""
        path = self._network_paths[0]
        if not self._handshake_confirmed or not path.is_validated or self.is_over:
            return []
        size = self.path_mtu.next_probe(now)
        if size is None:
            return []
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            spin_bit=self._spin_bit,
            version=self._version or VERSION_1,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[tls.Epoch.ONE_RTT])
        buf = builder.start_frame(
            QuicFrameType.PING, handler=self._on_probe_delivery, handler_args=(size,)
        )
        buf.push_bytes(bytes(builder.remaining_buffer_space))  # PADDING frames are zeros
        # Its loss says nothing about congestion, so that must not count it (RFC 9000 14.4).
        assert builder._packet is not None
        builder._packet.in_flight = False
        self._loss._time_of_last_sent_ack_eliciting_packet = now
        sent: list[tuple[bytes, Address]] = self._flush_builder(
            builder=builder, network_path=path, peer_cid=self._peer_cid.cid, now=now
        )
        return sent

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        path = self._network_paths[0]
        if not path.is_validated:
            self.path_mtu.restart()  # the peer has moved
        # aioquic fills up what validates a path, and that must get through it.
        self.use_datagram_size(self.path_mtu.base if path.remote_challenges else self.path_mtu.size)
        self._drop_unsendable_datagrams()
        datagrams = super().datagrams_to_send(now)
        self._schedule_challenge(now)
        if self.is_over and not path.is_validated and path.bytes_sent > 3 * path.bytes_received:
            return []  # aioquic holds all but the last word to that
        return datagrams

    def note_stray(self, size: int, source: Address) -> None:
        """What still comes after the end."""
        if self._network_paths and self._network_paths[0].addr == source:
            self._network_paths[0].bytes_received += size

    def may_repeat(self, size: int) -> bool:
        """Whether the last word may go out once more: an address that is not proven gets three
        times what came from there at most (RFC 9000 8.1)."""
        path = self._network_paths[0]
        if not path.is_validated and path.bytes_sent + size > 3 * path.bytes_received:
            return False
        path.bytes_sent += size
        return True

    # ------------------------------------------------------------------ path validation

    def _schedule_challenge(self, now: float) -> None:
        """RFC 9000 8.2.1: one that is not answered is repeated, as rarely as a first packet would
        be. The library gives up after three probe timeouts, and goes back to where the peer was.
        """
        path = self._network_paths[0]
        if path.is_validated:
            self._challenges = 0
        if path.is_validated or not path.local_challenge_sent:
            self._challenge_again_at = None
        elif self._challenge_again_at is None:
            self._challenge_again_at = now + self._loss.get_probe_timeout() * 2**self._challenges
            self._challenges += 1

    def get_timer(self) -> float | None:
        due, again_at = super().get_timer(), self._challenge_again_at
        return due if due is None or again_at is None else min(due, again_at)

    def handle_timer(self, now: float) -> None:
        if self._challenge_again_at is not None and now >= self._challenge_again_at:
            self._network_paths[0].local_challenge_sent = False
            self._challenge_again_at = None
        super().handle_timer(now)

    def _send_probing_frames(
        self, network_path: QuicNetworkPath, now: float
    ) -> list[tuple[bytes, Address]]:
        self._max_datagram_size = self.path_mtu.base
        try:
            return super()._send_probing_frames(network_path, now)
        finally:
            self._max_datagram_size = self.path_mtu.size

    def _on_path_challenge_delivery(
        self, delivery: QuicDeliveryState, network_path: QuicNetworkPath
    ) -> None:
        """aioquic repeats a challenge that was lost; one whose answer was lost must be, too."""
        if network_path is self._network_paths[0] and not network_path.is_validated:
            network_path.local_challenge_sent = False

    def _on_probe_delivery(self, delivery: QuicDeliveryState, size: int) -> None:
        if delivery == QuicDeliveryState.ACKED:
            self.path_mtu.succeeded(size)
        else:
            self.path_mtu.failed(size)

    # ------------------------------------------------------------------ handshake

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.application_space = self._spaces[tls.Epoch.ONE_RTT]
        self.application_keys = self._cryptos[tls.Epoch.ONE_RTT]
        self.application_crypto = self._crypto_streams[tls.Epoch.ONE_RTT]
        # aioquic names its class for TLS outright; this is the one way to ours without a copy of
        # the method.
        self.tls.__class__ = Handshake
        self.handshake.configure(self._identity, self._preferred_schemes, self._dice)

    def _update_traffic_key(
        self,
        direction: tls.Direction,
        epoch: tls.Epoch,
        cipher_suite: tls.CipherSuite,
        secret: bytes,
    ) -> None:
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)
        if direction == tls.Direction.ENCRYPT and epoch == tls.Epoch.ONE_RTT:
            self.notices.append(SendReady())

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        parameters = pull_quic_transport_parameters(Buffer(data=data))
        if parameters.ack_delay_exponent is not None:
            self._remote_ack_delay_exponent = parameters.ack_delay_exponent
        if not self._remote_max_idle_timeout:
            self._remote_max_idle_timeout = None  # RFC 9000 18.2: 0 is no timeout, not one at once
        if parameters.max_udp_payload_size is not None:
            self.path_mtu.limit(parameters.max_udp_payload_size)
        self.migration_allowed = not parameters.disable_active_migration
        # A server that would rather be elsewhere: our socket is connected to where the user told
        # us.
        self._remote_preferred_address = None

    # ------------------------------------------------------------------ connection IDs

    def _replenish_connection_ids(self) -> None:
        wanted = min(MAX_CONNECTION_IDS, self._remote_active_connection_id_limit)
        while len(self._host_cids) < wanted and (name := self._next_name()) is not None:
            self._host_cids.append(
                QuicConnectionId(
                    cid=name.connection_id,
                    sequence_number=self._host_cid_seq,
                    stateless_reset_token=name.reset_token,
                )
            )
            self._host_cid_seq += 1

    def _write_new_connection_id_frame(
        self, builder: QuicPacketBuilder, connection_id: QuicConnectionId
    ) -> None:
        super()._write_new_connection_id_frame(builder, connection_id)
        self._announced_cid = max(self._announced_cid, connection_id.sequence_number)

    def _consume_peer_cid(self) -> None:
        if not self._peer_cid_available:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION,
                QuicFrameType.NEW_CONNECTION_ID,
                "All connection IDs were retired",
            )
        super()._consume_peer_cid()

    # ----------------------------------------------------------------- checks and bounds on receipt

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self.last_received = context.time
        try:
            return super()._payload_received(context, plain, crypto_frame_required)
        except (AssertionError, LookupError, ValueError) as error:
            # Something the library did not foresee in what the peer sent. The tests know of no such
            # packet; should there be one, it ends its connection and not the process.
            reason = f"{UNFORESEEN}: {type(error).__name__}"
            raise QuicConnectionError(
                QuicErrorCode.INTERNAL_ERROR, QuicFrameType.PADDING, reason
            ) from error

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        (largest,) = _peek_varints(buf, 1)
        if largest >= self._packet_number:
            # RFC 9000 13.1. Who acknowledges the future wants us to send faster than the path
            # allows.
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "ACK of a packet that was never sent"
            )
        super()._handle_ack_frame(context, frame_type, buf)

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        offset, length = _peek_varints(buf, 2)
        receiver = self._crypto_streams[context.epoch].receiver
        longest = MAX_SERVER_MESSAGE if self._is_client else MAX_CLIENT_HELLO
        if offset + length - receiver.starting_offset() > longest:
            raise QuicConnectionError(
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "Too much handshake data ahead"
            )
        super()._handle_crypto_frame(context, frame_type, buf)
        if len(receiver._ranges) > MAX_STREAM_GAPS:
            raise QuicConnectionError(
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type,
                "Handshake data in too many pieces",
            )

    def _handle_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        (stream_id,) = _peek_varints(buf, 1)
        super()._handle_stream_frame(context, frame_type, buf)
        if len(self._streams[stream_id].receiver._ranges) > MAX_STREAM_GAPS:
            raise QuicConnectionError(
                QuicErrorCode.INTERNAL_ERROR, frame_type, "Stream data in too many pieces"
            )

    def _handle_stream_data_blocked_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        (stream_id,) = _peek_varints(buf, 1)
        super()._handle_stream_data_blocked_frame(context, frame_type, buf)
        self.peer_wants_credit(stream_id)

    def _handle_stop_sending_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        stream_id, code = _peek_varints(buf, 2)
        known = self._streams.get(stream_id)
        ended = known is not None and _takes_no_more(known.sender)
        super()._handle_stop_sending_frame(context, frame_type, buf)
        if not ended:
            self.forget_unsent(self._streams[stream_id])
            self.notices.append(StreamStopped(stream_id, code))

    def _handle_retire_connection_id_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        (sequence_number,) = _peek_varints(buf, 1)
        if sequence_number > self._announced_cid:
            # Else one packet could have us make new IDs without end, each to be retired unseen.
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "Cannot retire unknown connection ID"
            )
        super()._handle_retire_connection_id_frame(context, frame_type, buf)

    # ------------------------------------------------------------------ credit

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        for limit in self.limits_due():
            self._write_limit(builder, limit)

    def limits_due(self) -> list[Limit]:
        """Of the whole connection: those that have grown enough to be announced."""
        data = self._local_max_data
        window = self.credit.limits.connection_window
        data.value = raised(data.value, self.credit.connection_limit(), window)
        due = [data] if data.value != data.sent else []
        for streams in (self._local_max_streams_bidi, self._local_max_streams_uni):
            left, more = streams.sent - streams.used, streams.value - streams.sent
            if more > left:
                due.append(streams)
        return due

    def _write_limit(self, builder: QuicPacketBuilder, limit: Limit) -> None:
        buf = builder.start_frame(
            limit.frame_type,
            capacity=9,
            handler=self._on_connection_limit_delivery,
            handler_args=(limit,),
        )
        buf.push_uint_var(limit.value)
        limit.sent = limit.value

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        receiver = stream.receiver
        if receiver.is_finished or receiver._final_size is not None or stream.stream_id is None:
            return  # all that will come has its credit already
        window = self.credit.limits.stream_window
        limit = raised(
            stream.max_stream_data_local, self.credit.stream_limit(stream.stream_id), window
        )
        stream.max_stream_data_local = limit
        if stream.max_stream_data_local_sent != limit:
            buf = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=17,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buf.push_uint_var(stream.stream_id)
            buf.push_uint_var(limit)
            stream.max_stream_data_local_sent = limit


def _takes_no_more(sender: QuicStreamSender) -> bool:
    return sender.is_finished or sender._reset_error_code is not None


class FastConnection(SmallSend, Connection):
    """The connection with its fast paths, and with congestion controllers of our own."""

    stream_event = told.StreamDataReceived
    reset_event = told.StreamReset
    ACKNOWLEDGED = QuicDeliveryState.ACKED
    PACKET_FULL = QuicPacketBuilderStop
    ONE_RTT = QuicPacketType.ONE_RTT
    DATAGRAM_WITH_LENGTH = QuicFrameType.DATAGRAM_WITH_LENGTH
    STREAM_DATA_BLOCKED = QuicFrameType.STREAM_DATA_BLOCKED

    def __init__(self, configuration: QuicConfiguration, limits: Limits, **options: Any) -> None:
        self._begin_fast()
        super().__init__(configuration, limits, **options)
        self._fast_streams = cast("dict[int, Stream]", self._streams)
        self.controller = cast(Controller, self._loss._cc)
        self.pacer = Pacer(configuration.max_datagram_size, self.controller.pacing_rate)
        self._loss._pacer = cast(Any, self.pacer)
        self.detect_early_losses = self._loss._detect_loss
        self._loss._detect_loss = self.detect_losses  # type: ignore[method-assign]
        self.controller.watch_losses = self.path_mtu.note_lost

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.application_space.received_packets = cast(Any, self._seen)


_OWN = "own "
"""Marks our congestion controllers in the library's table, which has others of these names."""


def _register_controllers() -> None:
    for name, make in CONTROLLERS.items():

        def factory(
            *, max_datagram_size: int, make: Callable[[int], Controller] = make
        ) -> Any:  # in the shape that the library wants, but none of its family
            return make(max_datagram_size)

        register_congestion_control(_OWN + name, factory)


_register_controllers()

# ---------------------------------------------------------------------------------------- makers


def library_settings(
    *,
    is_client: bool,
    limits: Limits,
    idle_timeout: float,
    max_datagram_size: int,
    congestion: str,
    plain: bool | None,
) -> QuicConfiguration:
    """What both sides say alike. See `Engine.client` for what the arguments mean."""
    if plain is None:
        plain = os.environ.get(PLAIN_VARIABLE) == "1"
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        cipher_suites=OFFERED_SUITES,
        congestion_control_algorithm="cubic" if plain else _OWN + congestion,
        connection_id_length=CID_LENGTH,
        idle_timeout=idle_timeout,
        is_client=is_client,
        max_data=limits.connection_window,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME,
        max_datagram_size=max_datagram_size,
        max_stream_data=limits.stream_window,
    )


def client_connection(
    settings: QuicConfiguration,
    limits: Limits,
    server_name: str | None,
    preferred_schemes: Sequence[int],
    dice: Dice | None,
    keylog: Callable[[str], None] | None,
) -> Connection:
    settings.server_name = server_name
    settings.supported_versions = [VERSION_1]
    settings.verify_mode = 0
    if keylog is not None:
        settings.secrets_log_file = cast(TextIO, _KeyLog(keylog))
    make = _connection_for(settings)
    return make(settings, limits, preferred_schemes=preferred_schemes, dice=dice)


def server_connection(
    settings: QuicConfiguration,
    limits: Limits,
    start: FirstPacket,
    identity: ServerIdentity,
    names: NameSource | None,
) -> Connection:
    settings.supported_versions = [VERSION_1, VERSION_2]
    first = identity.credentials[0]
    settings.certificate = first.certificates[0]
    settings.certificate_chain = first.certificates[1:]
    settings.private_key = first.key
    make = _connection_for(settings)
    return make(settings, limits, start=start, names=names, identity=identity)


def _connection_for(settings: QuicConfiguration) -> type[Connection]:
    is_fast = settings.congestion_control_algorithm.startswith(_OWN)
    return FastConnection if is_fast else Connection


# ---------------------------------------------------------------------------------------- events


class EventQueue:
    """What a connection has to tell, in our events: one StreamData per stream for each batch of
    datagrams.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._events: deque[Event] = deque()
        self._gathering: dict[int, tuple[StreamData, list[bytes]]] = {}
        self._waiting_datagrams = 0
        self.append = self._events.append

    def take(self) -> Event | None:
        """The oldest one."""
        if not self._events:
            return None
        event = self._events.popleft()
        if isinstance(event, DatagramReceived):
            self._waiting_datagrams -= len(event.data) + DATAGRAM_OVERHEAD
        return event

    def forget(self) -> None:
        """Nobody wants to hear it any more."""
        self._events.clear()
        self._waiting_datagrams = 0

    def collect(self) -> None:
        """Translate what aioquic has to tell."""
        connection = self._connection
        connection.hand_on()
        if connection.notices:
            self._events.extend(connection.notices)
            connection.notices.clear()
        if not connection._events:
            return
        while (event := connection.next_event()) is not None:
            translate = _TRANSLATIONS.get(type(event))
            if translate is not None:
                translate(self, event)
        for gathered, parts in self._gathering.values():
            if len(parts) > 1:
                gathered.data = b"".join(parts)
        self._gathering.clear()

    def _on_stream_data(self, event: told.StreamDataReceived) -> None:
        credit = self._connection.credit
        stream_id = event.stream_id
        wanted = credit.deliver(stream_id, len(event.data))
        if event.end_stream:
            credit.end(stream_id)
        if not wanted:
            return
        if stream_id not in self._gathering:
            fresh = StreamData(stream_id, event.data, event.end_stream)
            self._gathering[stream_id] = (fresh, [event.data])
            self._events.append(fresh)
            return
        gathered, parts = self._gathering[stream_id]
        parts.append(event.data)
        gathered.fin = event.end_stream

    def _on_stream_reset(self, event: told.StreamReset) -> None:
        connection = self._connection
        stream_id = event.stream_id
        final_size = connection._streams[stream_id].receiver.highest_offset
        undelivered = final_size - connection.credit.delivered(stream_id)
        connection.credit.end(stream_id, undelivered)
        self._events.append(StreamReset(stream_id, event.error_code))

    def _on_datagram(self, event: told.DatagramFrameReceived) -> None:
        size = len(event.data) + DATAGRAM_OVERHEAD
        if self._waiting_datagrams + size <= MAX_WAITING_DATAGRAMS:
            self._waiting_datagrams += size
            self._events.append(DatagramReceived(event.data))

    def _on_handshake_completed(self, event: told.HandshakeCompleted) -> None:
        self._events.append(HandshakeCompleted(event.alpn_protocol or ""))

    def _on_cid_retired(self, event: told.ConnectionIdRetired) -> None:
        self._events.append(ConnectionIdRetired(event.connection_id))


_TRANSLATIONS: dict[type[told.QuicEvent], Callable[[EventQueue, told.QuicEvent], None]] = cast(
    "dict[type[told.QuicEvent], Callable[[EventQueue, told.QuicEvent], None]]",
    {
        told.StreamDataReceived: EventQueue._on_stream_data,
        told.StreamReset: EventQueue._on_stream_reset,
        told.DatagramFrameReceived: EventQueue._on_datagram,
        told.HandshakeCompleted: EventQueue._on_handshake_completed,
        told.ConnectionIdRetired: EventQueue._on_cid_retired,
    },
)
