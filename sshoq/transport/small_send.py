"""The fast path of answering: a little data of a few streams, the credit that they give, and the
acknowledgement that goes with it, or that alone, in one packet.

A part of the engine's connection (see `quic.py`, which alone knows the QUIC library and mixes this
in). A keystroke, its echo, a request for a file and the answer are each one such packet. Whatever
is due besides, or does not fit, takes the way of `fast_send.py`.
"""

from typing import Any

from sshoq.named_tuple import NamedTuple
from sshoq.transport.credit import raised
from sshoq.transport.events import Address
from sshoq.transport.fast_send import FastSend, wants_credit
from sshoq.transport.frames import write_ack_frame, write_max_stream_data, write_stream_head
from sshoq.transport.protection import seal_packets
from sshoq.transport.stream_halves import Stream

MOST_SMALL = 1000
"""Bytes of data: with frames and seal they fit into the least datagram that every path takes."""


FEW = 4
"""Streams that are looked at one by one."""


class SentSmallPacket:
    """The record of such a packet. The library asks some of it, too."""

    __slots__ = (
        "delivery_handlers",
        "in_flight",
        "is_ack_eliciting",
        "packet_number",
        "sent_bytes",
        "sent_time",
        "snapshot",
    )
    is_crypto_packet = False

    def __init__(self, number: int, handlers: list[tuple[Any, Any]], *, has_data: bool) -> None:
        self.packet_number = number
        self.delivery_handlers = handlers
        self.in_flight = self.is_ack_eliciting = has_data
        self.sent_bytes = 0
        self.sent_time = 0.0
        self.snapshot: object = None


class _Span(NamedTuple):
    """Bytes of a stream, up to the last that was written; perhaps none."""

    stream: Stream
    start: int
    stop: int
    fin: bool
    credit: bool
    """Whether the peer is to be told of more credit, too."""


class SmallSend(FastSend):
    """Single small packets, made by hand."""

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        if self._is_quiet(now):
            self._note_idleness(now)
            return []
        datagram = self._small_datagram(now)
        if datagram is None:
            return super().datagrams_to_send(now)
        self._note_idleness(now)
        path = self._network_paths[0]
        path.bytes_sent += len(datagram)
        return [(datagram, path.addr)]

    def _small_datagram(self, now: float) -> bytes | None:
        """None: there is nothing to send, or not in this way."""
        space = self.application_space
        if not self._is_plain_sailing():
            return None
        spans = self._small_spans()
        if spans is None:
            self._tidy_queues()
            spans = self._small_spans()
        if spans is None or (spans and not self._may_send(now)):
            return None
        if not spans and (space.ack_at is None or space.ack_at > now):
            return None
        if space.ack_at is not None and len(space.ack_queue) != 1:
            return None
        return self._send_small(spans, now)

    def _small_spans(self) -> list[_Span] | None:
        """What the streams in the queues have to say, if there are few and it is little."""
        if len(self._urgent) + len(self._busy) > FEW:
            return None
        room = min(MOST_SMALL, self._remote_max_data - self._remote_max_data_used)
        spans = []
        for queue in (self._urgent, self._busy):
            for stream in queue.values():
                span = self._small_span(stream)
                if span is None:
                    return None
                room -= span.stop - span.start
                spans.append(span)
        return spans if room >= 0 else None

    def _tidy_queues(self) -> None:
        """Some were roused for nothing, or are done: there is no packet to be begun for them."""
        if len(self._urgent) + len(self._busy) <= FEW:
            for queue in (self._urgent, self._busy):
                for stream in list(queue.values()):
                    if stream.is_finished:
                        self._discard(stream, queue)
                    elif not self._credit_due(stream):
                        self._settle(stream, queue)

    def _is_plain_sailing(self) -> bool:
        return (
            self._handshake_confirmed
            and len(self._network_paths) == 1
            and self._network_paths[0].is_validated
            and not (self._close_pending or self._close_event)
            and not self.application_keys._update_key_requested
            and not self._rare_frames_due()
        )

    def _may_send(self, now: float) -> bool:
        """Whether congestion control lets a whole datagram out."""
        controller = self.controller
        room = controller.congestion_window - controller.bytes_in_flight
        return room >= self._max_datagram_size and self.pacer.next_send_time(now) is None

    def _small_span(self, stream: Stream) -> _Span | None:
        """All that the stream has to say, if it is short and said for the first time."""
        sender = stream.sender
        start, stop = sender.highest_offset, sender.written.stop
        if sender.reset_pending or stream.receiver.stop_pending:
            return None
        credit = self._credit_due(stream)
        if sender.buffer_is_empty:
            return _Span(stream, start, start, False, True) if credit else None
        limit = self._permitted(stream)
        if (
            stop > limit
            or not sender.is_sendable(limit)
            or sender.next_span(limit) != (start, stop)
            or wants_credit(stream)
        ):
            return None
        return _Span(stream, start, stop, sender.fin_offset == stop, credit)

    def _send_small(self, spans: list[_Span], now: float) -> bytes:
        handlers: list[tuple[Any, Any]] = []
        payload = b"".join([self._stream_frames(span, handlers) for span in spans])
        if self.application_space.ack_at is not None:
            payload += self._ack_frame(now, handlers)
        number = self._packet_number
        [datagram] = seal_packets([payload], self._sealing_keys(), number)
        self._packet_number = number + 1
        packet = SentSmallPacket(number, handlers, has_data=bool(spans))
        packet.sent_bytes = len(datagram)
        if spans:
            self.pacer.spend(len(datagram))
            self._urgent.clear()
            self._busy.clear()
        self._register([packet], now)
        self._pacing_at = None
        return datagram

    def _stream_frames(self, span: _Span, handlers: list[tuple[Any, Any]]) -> bytes:
        stream, start, stop, fin, credit = span
        sender, frames = stream.sender, b""
        if stop > start or fin:
            frames = write_stream_head(stream.stream_id, start, stop - start, fin)
            if stop > start:
                frames = sender.written.packed(frames, start, stop)
            self._take(stream, start, stop)
            if fin:
                sender.take_fin()
            handlers.append((sender.on_data_delivery, (start, stop, fin)))
        return frames + self._credit_frame(stream, handlers) if credit else frames

    def _credit_frame(self, stream: Stream, handlers: list[tuple[Any, Any]]) -> bytes:
        window = self.credit.limits.stream_window
        wanted = self.credit.stream_limit(stream.stream_id)
        limit = raised(stream.max_stream_data_local, wanted, window)
        stream.max_stream_data_local = stream.max_stream_data_local_sent = limit
        handlers.append((self._on_max_stream_data_delivery, (stream,)))
        return write_max_stream_data(stream.stream_id, limit)

    def _ack_frame(self, now: float, handlers: list[tuple[Any, Any]]) -> bytes:
        """Behind the data, where the fast path of receiving looks for it."""
        space = self.application_space
        delay = int((now - (space.largest_received_time or now)) * 1e6)
        seen = space.ack_queue[0]
        handlers.append((self._on_ack_delivery, (space, space.largest_received_packet)))
        self._note_ack_sent()
        return write_ack_frame(
            seen.stop - 1, delay >> self._local_ack_delay_exponent, seen.stop - 1 - seen.start
        )
