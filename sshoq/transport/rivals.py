"""Whose the queue is: losses that a full one made, and what to do while others fill it, too.

A model of the path, as BBR has it, is of one flow alone. Beside flows that grow until a queue
overflows it takes nearly all where queues are short, and nearly nothing where they are long and
were full when it came. So BBR asks here, and while others contest the path, it gives way and comes
back about as CUBIC does. Counts in packets; time and round trips are arguments.
"""

import math

from sshoq.transport.congestion import Acknowledged, Sent

NEAR = 1.1
"""Times the shortest round trip: as good as without a queue."""

NOISE = 0.003
"""Seconds that loops and timers add to a round trip, or do not."""


def is_crowded(rtt: float, shortest: float) -> bool:
    """Whether there was a queue worth the name."""
    return rtt > max(CROWDED * shortest, shortest + NOISE)


def is_near(rtt: float, shortest: float) -> bool:
    """Whether there was hardly a queue."""
    return rtt <= max(NEAR * shortest, shortest + NOISE)


# ------------------------------------------------------------------------------------ losses

FULL = 0.5
"""Of the way from the shortest round trip to the longest of late: what is lost beyond may be the
queue's."""

LONGEST_FOR = 10.0
"""Seconds for which the longest round trip is remembered, once or twice: in about that time CUBIC
fills a queue again."""

ROUNDS_OF_A_QUEUE = 3
"""In so many in a row some are as long, or it was no queue: an end was busy."""

CHANCE = 4.0
"""Standard deviations from what the line loses anyway. It is asked after each loss."""

ASSUMED_LOST, ASSUMED_SEEN = 1.0, 200.0
"""Of the line, before it is known."""

MOST_REMEMBERED = 16384.0
"""Packets, among which the line's losses are counted; of older ones half as much counts."""

SETTLING = 2
"""Round trips in which losses still come to light after the queue has gone."""


class QueueLosses:
    """Tells the losses of a full queue from those of a bad line.

    The line loses as much when round trips are short. What is lost beyond that while they are long
    was the queue's.
    """

    __slots__ = (
        "_is_long",
        "_line_lost",
        "_line_seen",
        "_longest",
        "_longest_before",
        "_longest_in_round",
        "_longest_in_rounds",
        "_longest_since",
        "_lost",
        "_seen",
        "_settling",
    )

    def __init__(self) -> None:
        self._is_long = False
        self._line_lost = self._line_seen = 0.0
        self._lost = self._seen = 0.0
        """Of this round, while round trips were long."""
        self._longest = self._longest_before = self._longest_since = 0.0
        self._longest_in_round = 0.0
        self._longest_in_rounds = [0.0] * (ROUNDS_OF_A_QUEUE - 1)
        """In those before this one."""
        self._settling = 0

    def begin_round(self) -> None:
        self._lost = self._seen = 0.0
        self._settling = max(0, self._settling - 1)
        self._longest_in_rounds = [*self._longest_in_rounds[1:], self._longest_in_round]
        self._longest_in_round = 0.0

    def note_own_queue(self) -> None:
        """In the round before, one filled the queue oneself until it overflowed: so long it is."""
        self._longest = max(self._longest, self._longest_in_rounds[-1])
        self.settle()

    def settle(self) -> None:
        """The queue has just overflowed, for whatever reason."""
        self._settling = SETTLING

    def note_arrival(self, packets: float, rtt: float | None, shortest: float, now: float) -> None:
        """`shortest`: of all round trips."""
        if rtt is not None:
            self._note_round_trip(rtt, shortest, now)
        if self._is_long:
            self._seen += packets
            return
        if self._settling:
            return  # nor are losses counted
        self._line_seen += packets
        if self._line_seen > MOST_REMEMBERED:
            self._line_seen /= 2
            self._line_lost /= 2

    def _note_round_trip(self, rtt: float, shortest: float, now: float) -> None:
        if now > self._longest_since + LONGEST_FOR:
            self._longest_before, self._longest = self._longest, 0.0
            self._longest_since = now
        self._longest_in_round = max(self._longest_in_round, rtt)
        self._longest = max(self._longest, min(self._longest_in_round, *self._longest_in_rounds))
        queue = max(self._longest, self._longest_before) - shortest
        self._is_long = rtt > max(shortest + FULL * queue, NEAR * shortest)

    def note_not_lost(self, packets: float) -> None:
        """They had been told as lost."""
        self._line_lost = max(0.0, self._line_lost - packets)

    def note_lost(self, packets: float) -> bool:
        """Whether by now that is more than the line loses: a queue has overflowed."""
        if not self._is_long:
            if not self._settling:
                self._line_lost += packets
            return False
        self._lost += packets
        share = (self._line_lost + ASSUMED_LOST) / (self._line_seen + ASSUMED_SEEN)
        expected = share * (self._seen + self._lost)
        noise = CHANCE * math.sqrt(expected)
        if self._line_lost >= 1:
            noise += 1  # a line that loses anything at all may well lose one now
        if self._lost <= expected + noise:
            return False
        self.settle()
        return True


# ------------------------------------------------------------------------------------ the contest

CROWDED = 1.15
PATIENCE = 8
"""Round trips in a row, so many times the shortest all through, after which the queue is somebody
else's: one's own would have gone. Where the ends are busy, somewhat longer ones are no queue."""

DEEP = 1.75
"""Times the shortest round trip, all through one: of such a queue enough is left when one flow
gives way, if another has a fair share of it."""

LEAST_KEPT, MOST_KEPT = 0.4, 0.7
DRAINED = 0.57
"""Of what the path holds without a queue: so much is kept when one has overflowed, within bounds.
A short queue is to run hardly dry. A long one is given up to those who came late, as these take it
to be shorter than it is: when they came it was full."""

GROWTH = 250.0
"""Packets per second, for each second of the round trip: a longer queue holds more, and so much is
the more to be had. More where Reno has more, which is where round trips are short."""

CURVE = 0.5
"""Packets per second, cubed: about CUBIC's time to come back to where it was. CUBIC gives way less
and waits at the top, which keeps shares as they are for long; to give way more and come back in the
same time evens them out."""

PACE = 1.25
"""As CUBIC's: the window decides, not the rate."""

LEAST_WINDOW = 4.0

QUIET = 1.5
"""Times what it takes to come back to where a queue overflowed: others would have filled it."""

LEAST_QUIET = 4.0


def kept_share(rtt: float, shortest: float) -> float:
    """Of the window, after a round trip so long, when the queue overflowed."""
    return min(max(DRAINED * shortest / rtt, LEAST_KEPT), MOST_KEPT)


class Contest:
    """The window while others contest the path. Learns of the queue's losses alone."""

    __slots__ = (
        "_datagram_size",
        "_epoch",
        "_last_ack",
        "_lost_at",
        "_reno",
        "_start",
        "_summit",
        "_window",
    )

    def __init__(self, datagram_size: int, window: float, now: float) -> None:
        self._datagram_size = datagram_size
        self._start = self._summit = self._window = max(window / datagram_size, LEAST_WINDOW)
        self._epoch = self._last_ack = self._lost_at = now
        self._reno = 0.0

    @property
    def window(self) -> int:
        """In bytes."""
        return int(self._window * self._datagram_size)

    def use_datagram_size(self, size: int) -> None:
        self._start *= self._datagram_size / size
        self._summit *= self._datagram_size / size
        self._window *= self._datagram_size / size
        self._datagram_size = size

    def acknowledged(self, batch: Acknowledged) -> None:
        slept, self._last_ack = batch.now - self._last_ack, batch.now
        # A window that is not used proves nothing (RFC 9002 7.8).
        if 2 * batch.in_flight_before < self.window:
            self._epoch += slept
            return
        elapsed = batch.now - self._epoch
        self._reno += batch.count / self._datagram_size / self._window
        self._window = (
            self._start
            + max(self._reno, GROWTH * batch.smoothed_rtt * elapsed)
            + CURVE * elapsed**3
        )

    def lost(self, packets: list[Sent], share: float, now: float) -> None:
        """To a full queue. `share`: of the window, is kept."""
        if max(packet.sent_time or 0.0 for packet in packets) <= self._lost_at:
            return  # part of what has been answered already
        self._begin_anew(share * self._window, now)

    def collapse(self) -> None:
        """Nothing gets through any more."""
        self._begin_anew(LEAST_WINDOW, self._last_ack)

    def _begin_anew(self, window: float, now: float) -> None:
        self._summit = self._window
        self._start = self._window = max(window, LEAST_WINDOW)
        self._epoch = self._lost_at = now
        self._reno = 0.0

    def is_quiet(self, now: float) -> bool:
        """Whether nobody else has filled the queue for long."""
        way_back = math.cbrt(max(self._summit - self._start, 0.0) / CURVE)
        return now > self._lost_at + max(LEAST_QUIET, QUIET * way_back)
