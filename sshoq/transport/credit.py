"""Flow-control credit that follows consumption: what the peer may send is what has been read, plus
a window.

QUIC libraries like to grant credit as bytes arrive, and then a reader that stops reading fills the
memory. Here a byte is owed from when it is handed up until it is consumed. Pure bookkeeping.
"""

from sshoq.transport.events import Limits

LIMIT_STEPS = 8
"""So many announcements per window. With fewer the peer has less than the window to fill the path
with; with more there would be a frame for every packet.
"""

UNREAD_SHARE = 4
"""A reader keeps up when less than that part of its window waits for it."""


class _Intake:
    """The receiving half of one stream."""

    __slots__ = ("consumed", "delivered", "ended", "extra", "forsaken")

    def __init__(self) -> None:
        self.delivered = 0
        self.consumed = 0
        self.ended = False
        self.extra = 0
        """What its window has above that of other streams."""
        self.forsaken = False

    @property
    def is_settled(self) -> bool:
        return self.ended and self.consumed >= self.delivered


class CreditBook:
    """What was handed up and what was consumed, per stream and of the whole connection."""

    __slots__ = ("_consumed", "_intakes", "_spent", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._consumed = 0
        self._intakes: dict[int, _Intake] = {}
        self._spent = 0
        """Of the limits' spare window."""

    def deliver(self, stream_id: int, count: int) -> bool:
        """So many bytes are about to be handed up. False: nobody wants them, and they count as
        consumed.
        """
        intake = self._intakes.setdefault(stream_id, _Intake())
        intake.delivered += count
        if intake.forsaken:
            self._settle(stream_id, intake)
        return not intake.forsaken

    def consume(self, stream_id: int, count: int) -> None:
        """The reader is done with so many bytes. ValueError when it never got them: a leak
        turned round.
        """
        intake = self._intakes.get(stream_id)
        if intake is None or intake.forsaken:
            return
        if not 0 <= count <= intake.delivered - intake.consumed:
            raise ValueError(f"stream {stream_id}: {count} bytes were never handed up")
        intake.consumed += count
        self._consumed += count
        self._drop_settled(stream_id, intake)

    def end(self, stream_id: int, undelivered: int = 0) -> None:
        """No more will be handed up; `undelivered` bytes were counted, but will never come
        (RESET_STREAM).
        """
        intake = self._intakes.setdefault(stream_id, _Intake())
        intake.ended = True
        self._consumed += undelivered
        self._drop_settled(stream_id, intake)

    def forsake(self, stream_id: int, *, more_to_come: bool) -> None:
        """The reader has gone: what it holds, and all that still comes, counts as consumed."""
        intake = self._intakes.get(stream_id)
        if intake is None:
            if not more_to_come:
                return
            intake = self._intakes[stream_id] = _Intake()
        intake.forsaken = True
        self._settle(stream_id, intake)

    def delivered(self, stream_id: int) -> int:
        """Bytes handed up on a stream that is still open here."""
        intake = self._intakes.get(stream_id)
        return intake.delivered if intake is not None else 0

    def connection_limit(self) -> int:
        """What MAX_DATA should say."""
        return self._consumed + self.limits.connection_window

    def stream_limit(self, stream_id: int) -> int:
        """What MAX_STREAM_DATA should say; 0 for a stream whose data nobody wants."""
        intake = self._intakes.get(stream_id)
        if intake is None:
            return self.limits.stream_window
        return 0 if intake.forsaken else intake.consumed + self._window(intake)

    def widen(self, stream_id: int) -> None:
        """The peer has used up the stream's credit and wants more. Where the path is to blame and
        not the reader, the window is doubled, as long as there is something to spare.
        """
        intake = self._intakes.get(stream_id)
        if intake is None or intake.forsaken or intake.ended:
            return
        window = self._window(intake)
        if intake.delivered - intake.consumed > window // UNREAD_SHARE:
            return
        more = max(0, min(window, self.limits.spare_window - self._spent))
        intake.extra += more
        self._spent += more

    def _window(self, intake: _Intake) -> int:
        return self.limits.stream_window + intake.extra

    def __len__(self) -> int:
        return len(self._intakes)

    def _settle(self, stream_id: int, intake: _Intake) -> None:
        self._consumed += intake.delivered - intake.consumed
        intake.consumed = intake.delivered
        self._take_back(intake)
        self._drop_settled(stream_id, intake)

    def _drop_settled(self, stream_id: int, intake: _Intake) -> None:
        if intake.is_settled:
            self._take_back(intake)
            del self._intakes[stream_id]

    def _take_back(self, intake: _Intake) -> None:
        self._spent -= intake.extra
        intake.extra = 0


def raised(current: int, wanted: int, window: int) -> int:
    """The next limit to announce: raising it byte by byte would cost a frame each time."""
    return wanted if wanted - current >= window // LIMIT_STEPS else current
