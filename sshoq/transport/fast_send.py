"""The fast path of sending: who has something to say, in which order, and bulk data in bursts.

A part of the engine's connection (see `quic.py`, which alone knows the QUIC library and mixes this
in). Streams with something to say are in one of two queues, urgent ones first; a stream that has
nothing to say costs nothing. Bulk data leaves in bursts of equally long packets, each with one
STREAM frame, sealed together; everything else is put into packets by the library's builder.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sshoq.named_tuple import NamedTuple
from sshoq.transport.credit import raised
from sshoq.transport.events import Address, Limits
from sshoq.transport.fast_receive import FastReceive, SentBurstPacket
from sshoq.transport.frames import BurstHead, varint_size
from sshoq.transport.protection import Keys, seal_packets, sealed_overhead
from sshoq.transport.stream_halves import Stream

if TYPE_CHECKING:
    from sshoq.transport.pacing import Pacer

MOST_IN_BURST = 64
"""Packets: what one segmented send carries. Then it is another stream's turn."""

LEAST_IN_BURST = 2

MOST_URGENT = 64 * 1024
"""Bytes that wait on one stream. A terminal that pours out more is bulk like any other, and must
not keep everything else waiting.
"""


UNTOUCHED_SHARE = 16
"""The peer is not told of more credit for a stream that it has opened before it has used so small a
part of what there is: most streams are short, and this would be a packet for each. What there is
lasts for the round trip that the telling takes."""


class Burst(NamedTuple):
    """Equally long packets for bytes of one stream that follow each other."""

    stream: Stream
    head: BurstHead
    start: int
    packets: int
    room: int
    """Bytes of the stream in each packet."""
    size: int
    """Bytes of each packet."""


class FastSend(FastReceive):
    """What leaves, and when."""

    PACKET_FULL: ClassVar[type[Exception]]
    """What the library's builder raises when there is no room."""
    ONE_RTT: ClassVar[Any]
    DATAGRAM_WITH_LENGTH: ClassVar[Any]
    STREAM_DATA_BLOCKED: ClassVar[Any]
    """The library's names for a type of packet and of frames."""

    pacer: "Pacer"
    _urgent: dict[int, Stream]
    _busy: dict[int, Stream]
    _blocked: dict[int, Stream]
    """With data, but without credit for it."""

    def _begin_fast(self) -> None:
        super()._begin_fast()
        self._urgent, self._busy, self._blocked = {}, {}, {}

    # ------------------------------------------------------------------ who has something to say

    def rouse(self, stream_id: int) -> None:
        """There may be something to send on that stream, or it is finished."""
        stream = self._fast_streams.get(stream_id)
        if stream is None:
            return
        queue, other = self._busy, self._urgent
        if stream.is_urgent and stream.sender.unsent <= MOST_URGENT:
            queue, other = other, queue
        other.pop(stream_id, None)
        queue[stream_id] = stream

    def set_priority(self, stream_id: int, urgent: bool) -> None:
        stream = self._fast_streams.get(stream_id)
        if stream is None or stream.is_urgent == urgent:
            return
        stream.is_urgent = urgent
        self.rouse(stream_id)

    def _unblock(self) -> None:
        for stream_id in self._blocked:
            self.rouse(stream_id)
        self._blocked.clear()

    def _permitted(self, stream: Stream) -> int:
        """The offset that flow control lets the stream reach now."""
        return min(
            stream.sender.highest_offset + self._remote_max_data - self._remote_max_data_used,
            stream.max_stream_data_remote,
        )

    def _settle(self, stream: Stream, queue: dict[int, Stream]) -> None:
        """Out of the queue with a stream that can say nothing more now."""
        sender = stream.sender
        if stream.receiver.stop_pending or sender.reset_pending:
            return
        if sender.buffer_is_empty:
            queue.pop(stream.stream_id, None)
        elif not (sender.is_sendable(self._permitted(stream)) or wants_credit(stream)):
            queue.pop(stream.stream_id, None)
            self._blocked[stream.stream_id] = stream

    def _discard(self, stream: Stream, queue: dict[int, Stream]) -> None:
        stream_id = stream.stream_id
        queue.pop(stream_id, None)
        self._blocked.pop(stream_id, None)
        if self._streams.pop(stream_id, None) is not None and self._is_peers(stream_id):
            # One may be opened in its place (RFC 9000 4.6).
            self._stream_limit(stream_id).value += 1

    def _is_peers(self, stream_id: int) -> bool:
        return bool(stream_id & 1) == self._is_client

    # ------------------------------------------------------------------ credit

    def consumed(self, stream_id: int, count: int) -> bool:
        super().consumed(stream_id, count)
        stream = self._fast_streams.get(stream_id)
        if stream is not None and self._credit_due(stream):
            self.rouse(stream_id)
            return True
        return bool(self.limits_due())

    def _credit_due(self, stream: Stream) -> bool:
        credit, told = self.credit, stream.max_stream_data_local_sent
        wanted = credit.stream_limit(stream.stream_id)
        if raised(stream.max_stream_data_local, wanted, credit.limits.stream_window) == told:
            return False
        receiver = stream.receiver
        if receiver.is_finished or receiver._final_size is not None:
            return False  # all that will come has its credit already
        untouched = UNTOUCHED_SHARE * receiver.highest_offset < told
        return not untouched or stream.credit_wanted or not self._is_peers(stream.stream_id)

    def _write_stream_limits(self, builder: Any, space: Any, stream: Any) -> None:
        if self._credit_due(stream):
            super()._write_stream_limits(builder, space, stream)

    def raise_limits(self, limits: Limits) -> None:
        super().raise_limits(limits)
        for stream_id in self._streams:
            self.rouse(stream_id)

    def _on_max_stream_data_delivery(self, delivery: Any, stream: Any) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        self.rouse(stream.stream_id)

    def peer_wants_credit(self, stream_id: int) -> None:
        super().peer_wants_credit(stream_id)
        stream = self._fast_streams.get(stream_id)
        if stream is None:
            return
        stream.credit_wanted = True
        if self._credit_due(stream):
            self.rouse(stream_id)

    def _handle_max_data_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        super()._handle_max_data_frame(context, frame_type, buf)
        self._unblock()

    def _handle_max_stream_data_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        super()._handle_max_stream_data_frame(context, frame_type, buf)
        self._unblock()

    # ------------------------------------------------------------------ what the Engine asks

    def unacknowledged(self, stream: Any) -> int:
        return cast(Stream, stream).sender.unacknowledged

    def has_credit(self, stream: Any) -> bool:
        sending = cast(Stream, stream)
        return sending.sender.written.stop < sending.max_stream_data_remote

    def forget_unsent(self, stream: Any) -> None:
        """Done by our sending half itself."""

    def use_datagram_size(self, size: int) -> None:
        super().use_datagram_size(size)
        self.controller.use_datagram_size(size)

    # ------------------------------------------------------------------ all that is due

    def get_timer(self) -> float | None:
        """As the library has it, without what does not happen on a path in use."""
        if not self._handshake_confirmed or self.is_over or not self._network_paths[0].is_validated:
            return super().get_timer()
        if len(self._network_paths) > 1:
            return super().get_timer()
        space, loss = self.application_space, self._loss
        loss_at = space.loss_time
        is_waiting = space.ack_eliciting_in_flight or not loss.peer_completed_address_validation
        if loss_at is None and is_waiting:
            loss_at = loss._time_of_last_sent_ack_eliciting_packet + loss.get_probe_timeout() * (
                1 << loss._pto_count
            )
        self._loss_at = loss_at
        assert self._close_at is not None
        due: float = self._close_at
        for at in (space.ack_at, loss_at, self._pacing_at):
            if at is not None and at < due:
                due = at
        return due

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        datagrams = [] if self._is_quiet(now) else super().datagrams_to_send(now)
        self._note_idleness(now)
        return datagrams

    def _note_idleness(self, now: float) -> None:
        controller = self.controller
        has_room = controller.bytes_in_flight < controller.congestion_window
        if has_room and not (self._busy or self._urgent):
            controller.idle(now)

    def _is_quiet(self, now: float) -> bool:
        """Whether there is nothing to send; then nothing waits for the pacer either."""
        if (
            self._busy
            or self._urgent
            or self._close_pending
            or self._probe_pending
            or not self._handshake_confirmed
            or len(self._network_paths) > 1
            or self._frames_due(now)
        ):
            return False
        self._pacing_at = None
        return True

    def _frames_due(self, now: float) -> bool:
        """Whether there is something to send that belongs to no stream."""
        ack_at = self.application_space.ack_at
        return (ack_at is not None and ack_at <= now) or self._rare_frames_due()

    def _rare_frames_due(self) -> bool:
        """The same, acknowledgements apart."""
        path = self._network_paths[0]
        return bool(
            self._probe_pending
            or self._ping_pending
            or self._datagrams_pending
            or self._handshake_done_pending
            or self._retire_connection_ids
            or path.remote_challenges
            or not (path.is_validated or path.local_challenge_sent)
            or not self.application_crypto.sender.buffer_is_empty
            or not all([cid.was_sent for cid in self._host_cids])
            or self.limits_due()
        )

    def _write_application(self, builder: Any, network_path: Any, now: float) -> None:
        keys = self.application_keys
        if not keys.send.is_valid():
            return
        space = self.application_space
        while True:
            ack_due = space.ack_at is not None and space.ack_at <= now
            if not ack_due:
                wait = self.pacer.next_send_time(now)
                if wait is not None:
                    if self._busy or self._urgent or self._frames_due(now):
                        self._pacing_at = wait
                    return
                if self._handshake_confirmed and self._write_burst(builder, now):
                    continue
            builder.start_packet(self.ONE_RTT, keys)
            with suppress(self.PACKET_FULL):
                self._write_frames(builder, network_path, ack_due, now)
            if builder.packet_is_empty:
                if not self.limits_due():
                    return
                if builder.remaining_flight_space < 16:
                    return
            elif builder._packet.in_flight:
                self.pacer.spend(builder._buffer.tell() - builder._packet_start)

    def _write_ack_frame(self, builder: Any, space: Any, now: float) -> None:
        super()._write_ack_frame(builder, space, now)
        if space is self.application_space:
            self._note_ack_sent()

    def _write_frames(self, builder: Any, path: Any, ack_due: bool, now: float) -> None:
        space = self.application_space
        if ack_due:
            self._write_ack_frame(builder, space, now)
        if self._handshake_complete:
            self._write_rare_frames(builder, path, now)
            self._write_connection_limits(builder, space)
        if self._ping_pending:
            self._write_ping_frame(builder, self._ping_pending)
            self._ping_pending.clear()
        if self._probe_pending:
            self._write_ping_frame(builder, comment="probe")
            self._probe_pending = False
        if not self.application_crypto.sender.buffer_is_empty:
            self._write_crypto_frame(builder, space, self.application_crypto)
        self._write_streams(builder, self._urgent)
        self._write_waiting_datagrams(builder)
        self._write_streams(builder, self._busy)

    def _write_rare_frames(self, builder: Any, path: Any, now: float) -> None:
        if not (path.is_validated or path.local_challenge_sent):
            self._write_path_challenge_frame(builder, path)
            if path.validation_deadline is None:
                # RFC 9000 8.2.4
                longest = max(self._loss.get_probe_timeout(), 2 * self._configuration.initial_rtt)
                path.validation_deadline = now + 3 * longest
        if self._handshake_done_pending:
            self._write_handshake_done_frame(builder)
            self._handshake_done_pending = False
        while path.remote_challenges:
            self._write_path_response_frame(builder, path.remote_challenges[0])
            path.remote_challenges.popleft()
        for connection_id in self._host_cids:
            if not connection_id.was_sent:
                self._write_new_connection_id_frame(builder, connection_id)
        while self._retire_connection_ids:
            self._write_retire_connection_id_frame(builder, self._retire_connection_ids[0])
            self._retire_connection_ids.pop(0)

    def _write_waiting_datagrams(self, builder: Any) -> None:
        while self._datagrams_pending:
            try:
                self._write_datagram_frame(
                    builder, self._datagrams_pending[0], self.DATAGRAM_WITH_LENGTH
                )
            except self.PACKET_FULL:
                return
            self._datagrams_pending.popleft()

    # ------------------------------------------------------------------ streams, frame by frame

    def _write_streams(self, builder: Any, queue: dict[int, Stream]) -> None:
        """Each in its turn, until the packet is full; who was served goes to the end."""
        for stream in list(queue.values()):
            if stream.is_finished:
                self._discard(stream, queue)
                continue
            served = self._write_stream(builder, stream)
            self._settle(stream, queue)
            if stream.stream_id in queue:  # no room for more
                if served:
                    del queue[stream.stream_id]
                    queue[stream.stream_id] = stream
                return

    def _write_stream(self, builder: Any, stream: Stream) -> bool:
        """What it has to say, as far as there is room; whether that was data."""
        if stream.receiver.stop_pending:
            self._write_stop_sending_frame(builder, cast(Any, stream))
        self._write_stream_limits(builder, self.application_space, cast(Any, stream))
        if stream.sender.reset_pending:
            self._write_reset_stream_frame(builder, cast(Any, stream))
            return False
        served = False
        while self._write_stream_data(builder, stream):
            served = True
        if wants_credit(stream):
            self._write_blocked(builder, stream)
        return served

    def _write_blocked(self, builder: Any, stream: Stream) -> None:
        """STREAM_DATA_BLOCKED: by it the peer knows that a larger window would be used. Should it
        get lost, the next one will do."""
        limit = stream.max_stream_data_remote
        buf = builder.start_frame(self.STREAM_DATA_BLOCKED, capacity=17)
        buf.push_uint_var(stream.stream_id)
        buf.push_uint_var(limit)
        stream.blocked_at = limit

    def _write_stream_data(self, builder: Any, stream: Stream) -> bool:
        """One STREAM frame, where credit and room permit one."""
        sender, stream_id = stream.sender, stream.stream_id
        limit = self._permitted(stream)
        if not sender.is_sendable(limit):
            return False
        start, stop = sender.next_span(limit)
        overhead = 3 + varint_size(stream_id) + (varint_size(start) if start else 0)
        room = builder.remaining_flight_space - overhead
        stop = min(stop, start + room)
        if room < 0 or (stop == start and sender.fin_offset != stop):
            return False
        fin = sender.fin_offset == stop
        buf = builder.start_frame(
            0x0A | (0x04 if start else 0) | fin,
            capacity=overhead,
            handler=sender.on_data_delivery,
            handler_args=(start, stop, fin),
        )
        buf.push_uint_var(stream_id)
        if start:
            buf.push_uint_var(start)
        buf.push_uint16((stop - start) | 0x4000)
        if stop > start:
            buf.push_bytes(sender.written.packed(b"", start, stop))
        self._take(stream, start, stop)
        if fin:
            sender.take_fin()
        return True

    def _take(self, stream: Stream, start: int, stop: int) -> None:
        self._remote_max_data_used += max(0, stop - stream.sender.highest_offset)
        stream.sender.take(start, stop)

    # ------------------------------------------------------------------ bursts

    def _write_burst(self, builder: Any, now: float) -> bool:
        """Equally long packets of one stream, when that is all there is to do."""
        if self.application_keys._update_key_requested or self._frames_due(now):
            return False
        if not self._network_paths[0].is_validated:
            return False  # packet by packet, the library keeps to what may go there
        for burst in self._possible_bursts(builder, now):
            self._send_burst(builder, burst, now)
            stream_id = burst.stream.stream_id
            queue = self._urgent if stream_id in self._urgent else self._busy
            queue.pop(stream_id, None)
            queue[stream_id] = burst.stream
            self._settle(burst.stream, queue)
            return True
        return False

    def _possible_bursts(self, builder: Any, now: float) -> Iterator[Burst]:
        room = builder.max_flight_bytes - builder._flight_bytes
        if builder._packet is not None:
            room -= builder._buffer.tell() + 16
        most = int(min(room, self.pacer.allowance(now) + self._max_datagram_size))
        for stream in list(self._urgent.values()) or list(self._busy.values()):
            burst = self._plan_burst(stream, most // self._max_datagram_size)
            if burst is not None:
                yield burst

    def _plan_burst(self, stream: Stream, packets: int) -> Burst | None:
        sender, limit = stream.sender, self._permitted(stream)
        if not sender.is_sendable(limit) or stream.receiver.stop_pending:
            return None
        if self._credit_due(stream):
            return None
        start, stop = sender.next_span(limit)
        head = BurstHead(stream.stream_id, stop)
        size = self._max_datagram_size
        room = size - sealed_overhead(self._peer_cid.cid) - head.size
        count = min((stop - start) // room, packets, MOST_IN_BURST)
        if count < LEAST_IN_BURST:
            return None
        return Burst(stream, head, start, count, room, size)

    def _send_burst(self, builder: Any, burst: Burst, now: float) -> None:
        if builder._packet is not None:
            builder._end_packet()
        sender, first, start = burst.stream.sender, builder.packet_number, burst.start
        payloads, records = [], []
        for number in range(first, first + burst.packets):
            stop = start + burst.room
            payloads.append(sender.written.packed(burst.head.at(start), start, stop))
            records.append(SentBurstPacket(number, burst.size, now, sender, start, stop))
            start = stop
        builder._datagrams += seal_packets(payloads, self._sealing_keys(), first)
        builder._packets += records
        builder._packet_number += burst.packets
        self.path_mtu.is_wanted = True  # where much is sent, fewer packets cost less
        size = burst.packets * burst.size
        builder._flight_bytes += size
        builder._total_bytes += size
        self.pacer.spend(size)
        self._take(burst.stream, burst.start, start)

    def _sealing_keys(self) -> Keys:
        pair = self.application_keys
        assert pair.send.aead is not None
        assert pair.send.hp is not None
        return Keys(pair.send.aead, pair.send.hp, self._peer_cid.cid, pair.key_phase)

    def _flush_builder(
        self, builder: Any, network_path: Any, peer_cid: bytes, now: float
    ) -> list[tuple[bytes, Address]]:
        if not self._handshake_confirmed:
            return super()._flush_builder(builder, network_path, peer_cid, now)
        datagrams, packets = builder.flush()
        if not datagrams:
            return []
        self._packet_number = builder.packet_number
        self._register(packets, now)
        network_path.bytes_sent += sum(map(len, datagrams))
        address = network_path.addr
        return [(datagram, address) for datagram in datagrams]

    def _register(self, packets: list[Any], now: float) -> None:
        """Remember what was sent, until it is acknowledged or lost."""
        space, loss = self.application_space, self._loss
        for packet in packets:
            packet.sent_time = now
        space.sent_packets.update({packet.packet_number: packet for packet in packets})
        counted = [packet for packet in packets if packet.in_flight]
        if counted:
            count = sum([packet.sent_bytes for packet in counted])
            self.controller.sent(counted, count, now)
        eliciting = sum([packet.is_ack_eliciting for packet in packets])
        if not eliciting:
            return
        space.ack_eliciting_in_flight += eliciting
        loss._time_of_last_sent_ack_eliciting_packet = now
        if not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True


def wants_credit(stream: Stream) -> bool:
    """Whether the stream's limit alone holds back what is written, and the peer does not know."""
    limit, sender = stream.max_stream_data_remote, stream.sender
    return sender.highest_offset == limit < sender.written.stop and stream.blocked_at != limit
