"""The two halves of a stream: what is on its way out until it is acknowledged, and what came in out
of order.

Both keep the buffers they are given instead of copying them into one. They stand where the QUIC
library has halves of its own; names that begin with an underscore, and `get_…`, `handle_…` and
`on_…_delivery`, are those under which the library's code asks for them. Knows no packets, frames or
sockets.
"""

from bisect import bisect_right
from collections.abc import Callable

from sshoq.named_tuple import NamedTuple
from sshoq.transport.number_ranges import NumberRanges

Buffer = bytes | bytearray | memoryview

SMALL_WRITE = 4096
"""Writes up to this size are gathered: a keystroke must not cost an object until it is
acknowledged."""


class FinalSizeChanged(Exception):
    """The peer says of a stream's length what cannot be true (RFC 9000 4.5)."""


class ResetWish(NamedTuple):
    """What a RESET_STREAM frame says."""

    stream_id: int
    error_code: int
    final_size: int


class StopWish(NamedTuple):
    """What a STOP_SENDING frame says."""

    stream_id: int
    error_code: int


# ------------------------------------------------------------------------------------ sending


class WrittenBytes:
    """What was written and not yet acknowledged, by offset in the stream: a list of the buffers."""

    __slots__ = ("_chunks", "_offsets", "start", "stop")

    def __init__(self) -> None:
        self.start = 0
        """Everything before has been given up."""
        self.stop = 0
        self._offsets: list[int] = []
        self._chunks: list[bytearray | memoryview] = []

    def append(self, data: Buffer) -> None:
        size = len(data)
        if size <= SMALL_WRITE:
            self._append_small(data)
        else:
            view = memoryview(data)
            self._offsets.append(self.stop)
            self._chunks.append(view if view.readonly else memoryview(bytes(view)))
        self.stop += size

    def _append_small(self, data: Buffer) -> None:
        last = self._chunks[-1] if self._chunks else None
        if isinstance(last, bytearray) and len(last) + len(data) <= SMALL_WRITE:
            last += data
        elif data:
            self._offsets.append(self.stop)
            self._chunks.append(bytearray(data))

    def packed(self, head: bytes, start: int, stop: int) -> bytes:
        """`head` and the bytes from `start` until before `stop`, in one piece."""
        at = bisect_right(self._offsets, start) - 1
        offset = self._offsets[at]
        chunk = self._chunks[at]
        if stop - offset <= len(chunk):
            return b"".join((head, chunk[start - offset : stop - offset]))
        pieces: list[Buffer] = [head]
        while start < stop:
            offset, chunk = self._offsets[at], self._chunks[at]
            pieces.append(chunk[start - offset : stop - offset])
            start = offset + len(chunk)
            at += 1
        return b"".join(pieces)

    def release(self, until: int) -> None:
        """Nothing before that offset is needed any more."""
        self.start = until
        if until >= self.stop:
            self._offsets.clear()
            self._chunks.clear()
            return
        gone = bisect_right(self._offsets, until) - 1
        if gone > 0:
            del self._offsets[:gone]
            del self._chunks[:gone]

    def clear(self) -> None:
        self.release(self.stop)


class SendingHalf:
    """What one stream has to send: new bytes, lost ones, its end, or a reset."""

    __slots__ = (
        "_acked",
        "_fin_acked",
        "_fin_due",
        "_lost",
        "_reset_error_code",
        "_rouse",
        "_stream_id",
        "fin_offset",
        "highest_offset",
        "is_finished",
        "reset_pending",
        "written",
    )

    def __init__(self, stream_id: int, *, writable: bool, rouse: Callable[[int], None]) -> None:
        """`rouse` is called with the stream's ID whenever there may be something new to send, or
        the half is done."""
        self.written = WrittenBytes()
        self.highest_offset = 0
        """Behind the last byte that was ever sent."""
        self.fin_offset: int | None = None
        self.is_finished = not writable
        self.reset_pending = False
        self._reset_error_code: int | None = None
        self._stream_id = stream_id
        self._rouse = rouse
        self._fin_due = False
        self._fin_acked = False
        self._lost = NumberRanges()
        self._acked = NumberRanges()

    @property
    def unacknowledged(self) -> int:
        return self.written.stop - self.written.start

    @property
    def unsent(self) -> int:
        """Bytes that have not left even once."""
        return self.written.stop - self.highest_offset

    @property
    def buffer_is_empty(self) -> bool:
        """Nothing to send now, flow control apart."""
        if self._reset_error_code is not None:
            return True
        return not (self._fin_due or self._lost or self.highest_offset < self.written.stop)

    # ------------------------------------------------------------------ writing

    def write(self, data: Buffer, end_stream: bool = False) -> None:
        if self.fin_offset is not None:
            raise RuntimeError("nothing can be written after the end")
        if data:
            self.written.append(data)
        if end_stream:
            self.fin_offset = self.written.stop
            self._fin_due = True
        self._rouse(self._stream_id)

    def reset(self, error_code: int) -> None:
        """Give up; nothing of what was written is sent or kept any more."""
        if self._reset_error_code is not None or self.is_finished:
            return
        self._reset_error_code = error_code
        self.reset_pending = True
        self.written.clear()
        self._rouse(self._stream_id)

    # ------------------------------------------------------------------ sending

    def next_span(self, limit: int) -> tuple[int, int]:
        """The bytes to send next, lost ones first; empty when none. Flow control permits offsets
        below `limit`."""
        if self._lost:
            return self._lost.first
        return self.highest_offset, min(self.written.stop, max(limit, self.highest_offset))

    def is_sendable(self, limit: int) -> bool:
        """Whether flow control lets something out now."""
        if self._reset_error_code is not None:
            return False
        if self._lost or self.highest_offset < min(limit, self.written.stop):
            return True
        return self._fin_due and self.highest_offset == self.written.stop

    def take(self, start: int, stop: int) -> None:
        """These bytes, the beginning of the next span, are sent now."""
        if stop > self.highest_offset:
            self.highest_offset = stop
        if self._lost:
            self._lost.remove(start, stop)

    def take_fin(self) -> None:
        """The end is told now."""
        self._fin_due = False

    def get_reset_frame(self) -> ResetWish:
        self.reset_pending = False
        return ResetWish(self._stream_id, self._reset_error_code or 0, self.highest_offset)

    # ------------------------------------------------------------------ what became of it

    def acknowledge(self, start: int, stop: int, fin: bool) -> None:
        if self._reset_error_code is not None:
            return
        written = self.written
        if start == written.start:
            if self._acked and self._acked.first[0] <= stop:
                stop = max(stop, self._acked.pop_first()[1])
            written.release(stop)
        else:
            self._acked.add(start, stop)
        self._fin_acked |= fin
        if self._fin_acked and written.start == self.fin_offset:
            self.is_finished = True
            self._rouse(self._stream_id)

    def lose(self, start: int, stop: int, fin: bool) -> None:
        if self._reset_error_code is not None:
            return
        self._lost.add(start, stop)
        self._fin_due |= fin
        self._rouse(self._stream_id)

    def on_data_delivery(self, delivery: object, start: int, stop: int, fin: bool) -> None:
        """The library tells what became of a STREAM frame."""
        if _is_acknowledged(delivery):
            self.acknowledge(start, stop, fin)
        else:
            self.lose(start, stop, fin)

    def on_reset_delivery(self, delivery: object) -> None:
        """The library tells what became of RESET_STREAM."""
        if _is_acknowledged(delivery):
            self.is_finished = True
        else:
            self.reset_pending = True
        self._rouse(self._stream_id)


# ------------------------------------------------------------------------------------ receiving


class ReceivingHalf:
    """What one stream has received: in order it is handed on at once, else kept until it can be."""

    __slots__ = (
        "_final_size",
        "_held",
        "_ranges",
        "_rouse",
        "_stop_error_code",
        "_stream_id",
        "highest_offset",
        "is_finished",
        "next_offset",
        "stop_pending",
    )

    def __init__(self, stream_id: int, *, readable: bool, rouse: Callable[[int], None]) -> None:
        """`rouse` is called with the stream's ID when there is something to tell the peer, or the
        half is done."""
        self.next_offset = 0
        """Of the first byte not yet handed on."""
        self.highest_offset = 0
        self.is_finished = not readable
        self.stop_pending = False
        self._final_size: int | None = None
        self._held: dict[int, Buffer] = {}
        self._ranges = NumberRanges()
        self._rouse = rouse
        self._stop_error_code = 0
        self._stream_id = stream_id

    def receive(self, offset: int, data: Buffer, fin: bool) -> list[Buffer] | None:
        """What can be handed on now, in order; None when that changes nothing for the reader.
        FinalSizeChanged.
        """
        end = offset + len(data)
        is_next = offset == self.next_offset and end > offset
        if is_next and not (fin or self._ranges) and self._final_size is None:
            self.next_offset = self.highest_offset = end
            return [data]
        self._check_final_size(end, fin)
        self.highest_offset = max(self.highest_offset, end)
        if self.is_finished:
            return None
        if offset <= self.next_offset and not self._ranges:
            fresh = data[self.next_offset - offset :]
            ready = [fresh] if fresh else []
            self.next_offset = max(self.next_offset, end)
        else:
            self._hold(offset, data)
            ready = self._take_ready()
        if self.next_offset == self._final_size:
            self.is_finished = True
            self._rouse(self._stream_id)
            return ready
        return ready or None

    def _check_final_size(self, end: int, fin: bool) -> None:
        if self._final_size is not None:
            if end > self._final_size:
                raise FinalSizeChanged("Data received beyond final size")
            if fin and end != self._final_size:
                raise FinalSizeChanged("Cannot change final size")
        if fin:
            if end < self.highest_offset:
                raise FinalSizeChanged("Data received beyond final size")
            self._final_size = end

    def _hold(self, offset: int, data: Buffer) -> None:
        """Keep what is new of it: the missing stretches within."""
        end = offset + len(data)
        if offset >= self._ranges.end and offset >= self.next_offset and data:
            self._held[offset] = data
            self._ranges.add(offset, end)
            return
        position = max(offset, self.next_offset)
        for start, stop in self._ranges:
            if stop <= position:
                continue
            if start >= end:
                break
            if position < start:
                self._held[position] = data[position - offset : start - offset]
            position = stop
        if position < end:
            self._held[position] = data[position - offset :]
        self._ranges.add(max(offset, self.next_offset), end)

    def _take_ready(self) -> list[Buffer]:
        if not self._ranges or self._ranges.first[0] > self.next_offset:
            return []
        stop = self._ranges.pop_first()[1]
        ready: list[Buffer] = []
        while self.next_offset < stop:
            piece = self._held.pop(self.next_offset)
            ready.append(piece)
            self.next_offset += len(piece)
        return ready

    def handle_reset(self, *, final_size: int, error_code: int) -> bool:
        """The peer gave up; whether that is news. FinalSizeChanged."""
        if self._final_size is not None and final_size != self._final_size:
            raise FinalSizeChanged("Cannot change final size")
        if final_size < self.highest_offset:
            raise FinalSizeChanged("Data received beyond final size")
        self.highest_offset = final_size
        if self.is_finished:
            return False
        self._final_size = final_size
        self.is_finished = True
        self._held.clear()
        self._ranges = NumberRanges()
        self._rouse(self._stream_id)
        return True

    def stop(self, error_code: int) -> None:
        """Ask the peer to send no more."""
        self._stop_error_code = error_code
        self.stop_pending = True
        self._rouse(self._stream_id)

    def get_stop_frame(self) -> StopWish:
        self.stop_pending = False
        return StopWish(self._stream_id, self._stop_error_code)

    def on_stop_sending_delivery(self, delivery: object) -> None:
        """The library tells what became of STOP_SENDING."""
        if not _is_acknowledged(delivery):
            self.stop_pending = True
            self._rouse(self._stream_id)


def _is_acknowledged(delivery: object) -> bool:
    return getattr(delivery, "name", "") == "ACKED"


class Stream:
    """Both halves, and the credit on either side."""

    __slots__ = (
        "arrived",
        "blocked_at",
        "credit_wanted",
        "ended",
        "is_urgent",
        "max_stream_data_local",
        "max_stream_data_local_sent",
        "max_stream_data_remote",
        "receiver",
        "sender",
        "stream_id",
    )

    def __init__(self, stream_id: int, sender: SendingHalf, receiver: ReceivingHalf) -> None:
        self.stream_id = stream_id
        self.sender = sender
        self.receiver = receiver
        self.is_urgent = False
        self.blocked_at = 0
        """The limit at which the peer was told last that we want to send more."""
        self.credit_wanted = False
        """The peer has said that it has none left."""
        self.max_stream_data_local = 0
        self.max_stream_data_local_sent = 0
        self.max_stream_data_remote = 0
        self.arrived: list[Buffer] = []
        """What is to be handed on with the present batch."""
        self.ended = False

    @property
    def is_finished(self) -> bool:
        return self.receiver.is_finished and self.sender.is_finished
