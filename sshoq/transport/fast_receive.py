"""The fast path of receiving: batches of ordinary 1-RTT packets with STREAM and ACK frames.

A part of the engine's connection (see `quic.py`, which alone knows the QUIC library and mixes this
in). Packets are opened together, stream data goes straight to where it is handed on, and of the
ACK frames in a batch the newest is read. Whatever else comes, and whatever breaks a rule, takes the
library's own way, which this leaves as it is.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sshoq.transport.congestion import Acknowledged, Controller
from sshoq.transport.events import Address
from sshoq.transport.frames import STREAM, AckFrame, read_lone_ack, read_stream_frame
from sshoq.transport.loss_detection import LossDetection
from sshoq.transport.number_ranges import SeenNumbers
from sshoq.transport.protection import KeyUpdateError, Opener, ordinary_run
from sshoq.transport.stream_halves import (
    Buffer,
    FinalSizeChanged,
    ReceivingHalf,
    SendingHalf,
    Stream,
)

if TYPE_CHECKING:
    from sshoq.transport.quic import Connection as Base
else:
    Base = object

BATCH = 64
"""Packets opened together; as many as one segmented send carries."""

MAX_STREAM_GAPS = 1024
"""Pieces of one stream that may wait for what is missing between them. A window of small packets
with every other one lost makes fewer; one-byte frames sent to burn our time make more.
"""

LONE_ACK_DELAY = 0.005
"""Seconds: most answers are there by then. A peer reckons with the 25 ms that the library
announces."""

LEAST_RTT = 1e-4
MOST_ACK_RANGES = 64

OLD_KEYS_TIMEOUTS = 3
"""Probe timeouts for which the keys before an update stay good (RFC 9001 6.5)."""

FLOW_CONTROL_ERROR, FINAL_SIZE_ERROR = 0x03, 0x06
FRAME_ENCODING_ERROR, PROTOCOL_VIOLATION, INTERNAL_ERROR = 0x07, 0x0A, 0x01
KEY_UPDATE_ERROR = 0x0E
MAX_OFFSET = (1 << 62) - 1


class SentBurstPacket:
    """The record of a packet with one STREAM frame. The library asks some of it, too."""

    __slots__ = (
        "packet_number",
        "sender",
        "sent_bytes",
        "sent_time",
        "snapshot",
        "start",
        "stop",
    )
    in_flight = True
    is_ack_eliciting = True
    is_crypto_packet = False

    def __init__(
        self, number: int, size: int, now: float, sender: SendingHalf, start: int, stop: int
    ) -> None:
        self.packet_number = number
        self.sent_bytes = size
        self.sent_time = now
        self.sender = sender
        self.start = start
        self.stop = stop
        self.snapshot: object = None

    @property
    def delivery_handlers(self) -> list[tuple[Any, tuple[int, int, bool]]]:
        return [(self.sender.on_data_delivery, (self.start, self.stop, False))]


class FastReceive(Base):
    """Streams, incoming packets and acknowledgements of a connection."""

    stream_event: ClassVar[Any]
    reset_event: ClassVar[Any]
    """The library's events for stream data and RESET_STREAM."""
    ACKNOWLEDGED: ClassVar[Any]
    """The library's word for it."""

    controller: Controller
    detect_early_losses: Callable[..., None]
    """The library's way, until the handshake is confirmed."""
    _fast_streams: dict[int, Stream]
    """What the library knows as `_loss._cc` and `_streams`."""
    _seen: SeenNumbers
    _opener: Opener
    _loss_detection: LossDetection
    _round_end: int
    """The number behind the last packet sent when the present round trip began."""
    _arrivals: list[Stream]
    _unacknowledged_packets: int
    """Ours to acknowledge, since we last did."""

    def _begin_fast(self) -> None:
        """What has to be there before the library's own beginning."""
        self._seen = SeenNumbers()
        self._opener = Opener()
        self._loss_detection = LossDetection()
        self._arrivals = []
        self._round_end = 0
        self._unacknowledged_packets = 0

    # ------------------------------------------------------------------ packets

    def request_key_update(self) -> None:
        """The next packet that is sent begins it."""
        self._opener.note(self.application_keys.recv.aead)
        super().request_key_update()

    def receive_ordinary(
        self, datagrams: Sequence[bytes], start: int, source: Address, now: float
    ) -> int:
        """Take datagrams from `start` on as far as they are ordinary; how many those were."""
        if not self._handshake_confirmed:
            return 0
        path = self._network_paths[0]
        if not path.is_validated or path.addr != source:
            return 0
        run = ordinary_run(datagrams, start, BATCH, self.host_cid)
        if not run or self.is_over:
            return 0
        recv, expected = self.application_keys.recv, self.application_space.expected_packet_number
        try:
            opened = self._opener.open(run, recv, self.host_cid, expected, now, self._overlap)
        except KeyUpdateError as error:
            self.close(KEY_UPDATE_ERROR, None, str(error))
            return 1
        if opened:
            self._take_packets(opened, now)
        return len(opened)

    def _overlap(self) -> float:
        """Seconds for which the keys before an update stay good."""
        return OLD_KEYS_TIMEOUTS * self._loss.get_probe_timeout()

    def _take_packets(self, opened: list[tuple[int, bytes]], now: float) -> None:
        """Mostly numbers follow each other; such runs are recorded as a whole."""
        seen = self._seen
        top = run_start = run_stop = seen.end
        eliciting = 0
        newest_ack: int = -1
        ack: AckFrame | None = None
        for number, payload in opened:
            if number != run_stop or number < top:
                self._record(run_start, run_stop, now)
                top = run_start = run_stop = seen.end
                if number in seen:
                    continue
                run_start = number
            run_stop = number + 1
            used = self._take_stream_data(payload)
            if used:
                eliciting += 1
                payload = self._take_more_stream_data(payload[used:])
                if not payload:
                    continue
            told = read_lone_ack(payload) if payload else None
            if told is not None and told[0][-1][1] <= self._packet_number:
                if number > newest_ack:
                    newest_ack, ack = number, told
                continue
            wants_ack = self.take_frames(payload, now)
            eliciting += wants_ack and not used
            if self.is_over:
                return
        self._record(run_start, run_stop, now)
        if ack is not None:
            # What an older ACK of the batch tells, the newest tells, too.
            self._take_ack(*ack, now)
        self._note_life(eliciting, now)

    def _record(self, start: int, stop: int, now: float) -> None:
        if start == stop:
            return
        space = self.application_space
        self._seen.add(start, stop)
        space.ack_queue.add(start, stop)
        if len(space.ack_queue) > MOST_ACK_RANGES:
            space.ack_queue.shift()
        space.expected_packet_number = max(space.expected_packet_number, stop)
        if stop > space.largest_received_packet:
            space.largest_received_packet = stop - 1
            space.largest_received_time = now
        self.last_received = now

    def _note_life(self, eliciting: int, now: float) -> None:
        if self.last_received != now:
            return
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        if eliciting:
            self._owe_ack(eliciting, now)

    def _owe_ack(self, count: int, now: float) -> None:
        """For so many packets more. That of a single one waits for an answer to travel with."""
        space = self.application_space
        self._unacknowledged_packets += count
        is_alone = self._unacknowledged_packets == 1
        due = now + (LONE_ACK_DELAY if is_alone else self._ack_delay)
        if space.ack_at is None or due < space.ack_at:
            space.ack_at = due

    def _note_ack_sent(self) -> None:
        self._unacknowledged_packets = 0
        self.application_space.ack_at = None

    # ------------------------------------------------------------------ stream data

    def _take_more_stream_data(self, payload: bytes) -> bytes:
        """What follows the other STREAM frames that the payload begins with."""
        while payload and payload[0] & STREAM and (used := self._take_stream_data(payload)):
            payload = payload[used:]
        return payload

    def _take_stream_data(self, payload: bytes) -> int:
        """Take the STREAM frame that the payload begins with; where it ends. 0: not in this
        way.
        """
        frame = read_stream_frame(payload) if payload else None
        if frame is None:
            return 0
        stream_id, offset, fin, start, stop = frame
        stream = self._fast_streams.get(stream_id)
        if stream is None:
            return 0
        receiver, limit = stream.receiver, self._local_max_data
        end = offset + stop - start
        fresh = end - receiver.highest_offset
        if (
            end > stream.max_stream_data_local
            or limit.used + fresh > limit.value
            or receiver.is_finished
        ):
            return 0
        try:
            ready = receiver.receive(offset, memoryview(payload)[start:stop], fin)
        except FinalSizeChanged:
            return 0  # noted above the same way
        if fresh > 0:
            limit.used += fresh
        if len(receiver._ranges) > MAX_STREAM_GAPS:
            return 0
        if ready is not None:
            self._gather(stream, ready)
        return stop

    def _gather(self, stream: Stream, ready: list[Buffer]) -> None:
        if not stream.arrived and not stream.ended:
            self._arrivals.append(stream)
        stream.arrived += ready
        stream.ended = stream.receiver.is_finished

    def hand_on(self) -> None:
        """Tell of the stream data gathered: one event per stream."""
        for stream in self._arrivals:
            data = b"".join(stream.arrived)
            stream.arrived.clear()
            self._events.append(
                self.stream_event(data=data, end_stream=stream.ended, stream_id=stream.stream_id)
            )
        self._arrivals.clear()

    def _handle_stream_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        """The same, where it may create the stream or break a rule."""
        stream_id = buf.pull_uint_var()
        offset = buf.pull_uint_var() if frame_type & 4 else 0
        length = buf.pull_uint_var() if frame_type & 2 else buf.capacity - buf.tell()
        end = offset + length
        if end > MAX_OFFSET:
            raise self.misdeed(FRAME_ENCODING_ERROR, frame_type, "Stream data beyond all bounds")
        data = buf.pull_bytes(length)
        self._assert_stream_can_receive(frame_type, stream_id)
        stream = cast(Stream, self._get_or_create_stream(frame_type, stream_id))
        receiver = stream.receiver
        fresh = self._check_credit(stream, end, frame_type)
        try:
            ready = receiver.receive(offset, data, bool(frame_type & 1))
        except FinalSizeChanged as error:
            raise self.misdeed(FINAL_SIZE_ERROR, frame_type, str(error)) from None
        self._local_max_data.used += fresh
        if len(receiver._ranges) > MAX_STREAM_GAPS:
            raise self.misdeed(INTERNAL_ERROR, frame_type, "Stream data in too many pieces")
        if ready is not None:
            self._gather(stream, ready)

    def _check_credit(self, stream: Stream, end: int, frame_type: int) -> int:
        """How many bytes up to `end` are new."""
        if end > stream.max_stream_data_local:
            raise self.misdeed(FLOW_CONTROL_ERROR, frame_type, "Over stream data limit")
        fresh = max(0, end - stream.receiver.highest_offset)
        if self._local_max_data.used + fresh > self._local_max_data.value:
            raise self.misdeed(FLOW_CONTROL_ERROR, frame_type, "Over connection data limit")
        return fresh

    def _handle_reset_stream_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        stream_id, code, final_size = (buf.pull_uint_var() for _ in range(3))
        self._assert_stream_can_receive(frame_type, stream_id)
        stream = cast(Stream, self._get_or_create_stream(frame_type, stream_id))
        fresh = self._check_credit(stream, final_size, frame_type)
        try:
            is_news = stream.receiver.handle_reset(final_size=final_size, error_code=code)
        except FinalSizeChanged as error:
            raise self.misdeed(FINAL_SIZE_ERROR, frame_type, str(error)) from None
        self._local_max_data.used += fresh
        if is_news:
            self.hand_on()  # what came before is told before
            self._events.append(self.reset_event(error_code=code, stream_id=stream_id))

    # ------------------------------------------------------------------ acknowledgements

    def _handle_ack_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        if not self.is_application_data(context):
            super()._handle_ack_frame(context, frame_type, buf)
            return
        self._take_ack(*self._read_ack(frame_type, buf), context.time)

    def _take_ack(self, ranges: list[tuple[int, int]], delay: int, now: float) -> None:
        self._loss.peer_completed_address_validation = True
        seconds = (delay << self._remote_ack_delay_exponent) / 1_000_000
        self._acknowledge(ranges, seconds, now)

    def _read_ack(self, frame_type: int, buf: Any) -> AckFrame:
        largest, delay, count = (buf.pull_uint_var() for _ in range(3))
        if largest >= self._packet_number:
            # RFC 9000 13.1. Who acknowledges the future wants us to send faster than the path
            # allows.
            raise self.misdeed(
                PROTOCOL_VIOLATION, frame_type, "ACK of a packet that was never sent"
            )
        low = largest - buf.pull_uint_var()
        ranges = [(low, largest + 1)]
        for _ in range(count):
            high = low - buf.pull_uint_var() - 2
            low = high - buf.pull_uint_var()
            ranges.append((low, high + 1))
        if low < 0:
            raise self.misdeed(
                FRAME_ENCODING_ERROR, frame_type, "ACK range contains a negative packet number"
            )
        if frame_type & 1:
            for _ in range(3):
                buf.pull_uint_var()
        ranges.reverse()
        return ranges, delay

    def _acknowledge(self, ranges: list[tuple[int, int]], delay: float, now: float) -> None:
        space, loss = self.application_space, self._loss
        largest, largest_before = ranges[-1][1] - 1, space.largest_acked_packet
        space.largest_acked_packet = max(largest_before, largest)
        self._take_late_packets(ranges, now)
        packets = _take_ranges(cast("dict[int, Any]", space.sent_packets), ranges)
        if not packets:
            return
        eliciting = sum(packet.is_ack_eliciting for packet in packets)
        space.ack_eliciting_in_flight -= eliciting
        rtt = None
        if packets[-1].packet_number == largest and eliciting:
            rtt = now - packets[-1].sent_time
            self._measure_round_trip(rtt, delay, now)
        self._loss_detection.note_arrival(packets[0], largest_before, self._round_trip(), now)
        self._tell_controller([p for p in packets if p.in_flight], rtt, now)
        self._tell_what_arrived(packets)
        self.path_mtu.note_delivered(max([packet.sent_bytes for packet in packets]))
        oldest = next(iter(space.sent_packets), None)
        if oldest is not None and oldest < space.largest_acked_packet:
            self._find_losses(now)
        else:
            space.loss_time = None
        if loss.peer_completed_address_validation:
            loss._pto_count = 0

    def _round_trip(self) -> float:
        """The latest or the usual one, whichever is longer."""
        loss = self._loss
        if not loss._rtt_initialized:
            return loss._rtt_initial
        return max(loss._rtt_latest, loss._rtt_smoothed)

    def _take_late_packets(self, ranges: list[tuple[int, int]], now: float) -> None:
        late = self._loss_detection.find_late(ranges, self._round_trip(), now)
        if late:
            self.controller.not_lost(late, sum([packet.sent_bytes for packet in late]), now)

    def detect_losses(self, *, now: float, space: Any) -> None:
        """In the place of the library's own."""
        if space is not self.application_space or not self._handshake_confirmed:
            self.detect_early_losses(now=now, space=space)
        else:
            self._find_losses(now)

    def _find_losses(self, now: float) -> None:
        space, loss = self.application_space, self._loss
        sent = cast("dict[int, Any]", space.sent_packets)
        lost, space.loss_time = self._loss_detection.find_lost(
            sent, space.largest_acked_packet, self._round_trip(), now
        )
        if lost:
            is_persistent = loss._in_persistent_congestion(packets=lost)
            loss._on_packets_lost(
                now=now, packets=lost, persistent_congestion=is_persistent, space=space
            )

    def _measure_round_trip(self, rtt: float, delay: float, now: float) -> None:
        """RFC 9002 5.3."""
        loss = self._loss
        sample = max(rtt, LEAST_RTT)
        loss._rtt_min = min(loss._rtt_min, sample)
        if sample >= loss._rtt_min + min(delay, loss.max_ack_delay):
            sample -= min(delay, loss.max_ack_delay)
        loss._rtt_latest = sample
        if not loss._rtt_initialized:
            loss._rtt_initialized = True
            loss._rtt_first_sample_time = now
            loss._rtt_smoothed, loss._rtt_variance = sample, sample / 2
            return
        deviation = abs(loss._rtt_smoothed - sample)
        loss._rtt_variance += (deviation - loss._rtt_variance) / 4
        loss._rtt_smoothed += (sample - loss._rtt_smoothed) / 8

    def _tell_controller(self, packets: list[Any], rtt: float | None, now: float) -> None:
        if not packets:
            return
        controller, smoothed = self.controller, self._loss._rtt_smoothed
        count = sum([packet.sent_bytes for packet in packets])
        newest = packets[-1]
        is_round_start = newest.packet_number >= self._round_end
        if is_round_start:
            self._round_end = self._packet_number
        batch = Acknowledged(
            now,
            packets,
            count,
            newest.sent_time,
            rtt=rtt,
            smoothed_rtt=smoothed,
            in_flight_before=controller.bytes_in_flight,
            is_round_start=is_round_start,
        )
        controller.bytes_in_flight -= count
        controller.acknowledged(batch)
        if smoothed:
            self._loss._pacer.update_rate(controller.congestion_window, smoothed)

    def _tell_what_arrived(self, packets: list[Any]) -> None:
        """Neighbouring packets of one stream are told as one."""
        sender: SendingHalf | None = None
        start = stop = 0
        for packet in packets:
            if type(packet) is SentBurstPacket:
                if packet.sender is sender and packet.start == stop:
                    stop = packet.stop
                    continue
                if sender is not None:
                    sender.acknowledge(start, stop, False)
                sender, start, stop = packet.sender, packet.start, packet.stop
            else:
                for handler, arguments in packet.delivery_handlers:
                    handler(self.ACKNOWLEDGED, *arguments)
        if sender is not None:
            sender.acknowledge(start, stop, False)

    # ------------------------------------------------------------------ streams

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> Any:
        super()._get_or_create_stream(frame_type, stream_id)
        self._adopt_streams()
        return self._streams[stream_id]

    def _get_or_create_stream_for_send(self, stream_id: int) -> Any:
        super()._get_or_create_stream_for_send(stream_id)
        self._adopt_streams()
        return self._streams[stream_id]

    def rouse(self, stream_id: int) -> None:
        """There may be something to send on that stream, or it is finished."""
        raise NotImplementedError

    def _adopt_streams(self) -> None:
        """The library has made streams, and queued them: have ours in their place."""
        for made in self._streams_queue:
            stream_id = made.stream_id
            assert stream_id is not None
            stream = Stream(
                stream_id,
                SendingHalf(stream_id, writable=not made.sender.is_finished, rouse=self.rouse),
                ReceivingHalf(stream_id, readable=not made.receiver.is_finished, rouse=self.rouse),
            )
            stream.max_stream_data_local = made.max_stream_data_local
            stream.max_stream_data_local_sent = made.max_stream_data_local_sent
            stream.max_stream_data_remote = made.max_stream_data_remote
            self._fast_streams[stream_id] = stream
            self.rouse(stream_id)  # its credit may be larger now than at the beginning
        self._streams_queue.clear()


def _take_ranges(sent: dict[int, Any], ranges: list[tuple[int, int]]) -> list[Any]:
    """Remove and return the packets in the ranges, which mostly are at the front."""
    taken = []
    for start, stop in ranges:
        oldest = next(iter(sent), None)
        if oldest is None:
            break
        for number in range(max(start, oldest), stop):
            packet = sent.pop(number, None)
            if packet is not None:
                taken.append(packet)
    return taken
