"""BBR: send at the rate that the path delivers, with about as much under way as it holds.

After the IETF's draft (draft-ietf-ccwg-bbr). Where CUBIC takes any loss for a full queue, this
measures: the highest rate of delivery and the shortest round trip make a model of the path, losses
above LOSS_LIMIT bound it, and it is probed for more again and again. Knows packets only as far as
`congestion.py` does.

In one thing it leaves the draft, which probes every few seconds: the rate remembered is then that
of seconds ago, and a CUBIC flow that has come meanwhile finds no room (simulated: a tenth of the
path). Here one probe follows the other after some five round trips, as in BBR's first version; and
what a loss has bounded stays so until the next measurement of the round trip. Where others contest
the path, `rivals.py` decides how much is under way.
"""

import math
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from sshoq.named_tuple import NamedTuple
from sshoq.transport.congestion import (
    INITIAL_WINDOW,
    Acknowledged,
    Controller,
    Sent,
    count_sent,
)
from sshoq.transport.rivals import (
    ASSUMED_SEEN,
    DEEP,
    MOST_REMEMBERED,
    PACE,
    PATIENCE,
    Contest,
    QueueLosses,
    is_crowded,
    is_near,
    kept_share,
)

STARTUP_PACE = 2.77
"""4 ln 2: the least that doubles the rate each round trip."""

MARGIN = 0.99
"""Of the measured rate: a little less lets queues go."""

LEAST_WINDOW = 4
LOSS_LIMIT = 0.02
"""Of what was under way; where the line alone loses more than half of it, that much more."""

MOST_OF_LINE = 0.15
CHANCE = 2.0
"""Of what was under way: less is noise, and where few packets were under way a little more may be.
So many times the root of what LOSS_LIMIT permits: random losses of half that rate come to it in one
round of a thousand."""

YIELD = 0.7
HEADROOM = 0.85
"""Of the bound found by losses, what is used between probes: others find room."""

GROWTH_OF_FULL_PIPE = 1.25
FULL_PIPE_ROUNDS = 3
STARTUP_LOSSES = 6
"""Times in one round that losses were noticed, for them to end the startup."""

MIN_RTT_WINDOW = 10.0
PROBE_RTT_INTERVAL = 5.0
PROBE_RTT_TIME = 0.2
PROBE_RTT_SHARE = 0.5

EXTRA_ROUNDS = 5
"""Round trips over which the burstiness of acknowledgements is remembered, once or twice."""


class Phase(Enum):
    """What is done now, at which multiple of the rate and with how many round trips' worth."""

    STARTUP = ("startup", STARTUP_PACE, 2.0)
    DRAIN = ("drain", 0.5, 2.0)
    DOWN = ("down", 0.9, 2.0)
    CRUISE = ("cruise", 1.0, 2.0)
    UP = ("up", 1.25, 2.25)
    PROBE_RTT = ("probe rtt", 1.0, 1.0)
    CONTEST = ("contest", PACE, 1.0)

    def __init__(self, word: str, pace: float, span: float) -> None:
        # With its word, or members with equal numbers would be one.
        self.word = word
        self.pace = pace
        self.span = span


OWN_QUEUE = (Phase.STARTUP, Phase.DRAIN)
"""The startup fills a queue until it overflows, which comes to light when that is drained."""

PROBING = (Phase.STARTUP, Phase.UP)


class _Snapshot:
    """What was known when some packets were sent, against which their arrival is measured."""

    __slots__ = ("delivered", "delivered_at", "in_flight", "is_limited", "lost", "sent_since")

    def __init__(
        self,
        delivered: int,
        delivered_at: float,
        sent_since: float,
        in_flight: int,
        lost: int,
        is_limited: bool,
    ) -> None:
        self.delivered = delivered
        self.delivered_at = delivered_at
        self.sent_since = sent_since
        self.in_flight = in_flight
        self.lost = lost
        self.is_limited = is_limited


class _RecentMaximum:
    """The highest value of the present period and of the one before."""

    __slots__ = ("_before", "_now")

    def __init__(self) -> None:
        self._before = 0.0
        self._now = 0.0

    @property
    def value(self) -> float:
        return max(self._before, self._now)

    def observe(self, value: float) -> None:
        self._now = max(self._now, value)

    def next_period(self) -> None:
        """A period in which nothing was seen does not count."""
        if self._now:
            self._before, self._now = self._now, 0.0


class _Before(NamedTuple):
    """What a loss changes, as it was; of packets sent after `since`, up to `at`."""

    since: float
    at: float
    phase: Phase
    long_bound: float
    short_bound: float
    rate_bound: float
    contest: Contest | None


class Bbr(Controller):
    """The model, and where in its cycle the sender is."""

    name = "bbr"

    def __init__(self, datagram_size: int) -> None:
        super().__init__(datagram_size)
        self.phase = Phase.STARTUP
        self._begin_measuring()
        self._rate = _RecentMaximum()
        self._extra = _RecentMaximum()
        self._extra_rounds = 0
        self._extra_since = 0.0
        self._extra_delivered = 0
        self._long_bound = float("inf")
        """Bytes in flight at which losses set in; and a bound until the next measurement of the
        round trip, as the rate."""
        self._short_bound = float("inf")
        self._rate_bound = float("inf")
        self._min_rtt = float("inf")
        self._min_rtt_at = 0.0
        self._probe_rtt_min = float("inf")
        self._probe_rtt_at = 0.0
        self._probe_rtt_done: float | None = None
        self._wants_probe_rtt = False
        self._window_before = 0
        self._is_full = False
        self._full_rate = 0.0
        self._full_rounds = 0
        self._phase_rounds = 0
        self._up_step = 0.0
        self._before: _Before | None = None
        self._missing = 0
        """Packets lost since then, of those sent before."""
        self._queue_losses = QueueLosses()
        self._contest: Contest | None = None
        self._own_queue_until = 0.0
        """When the startup's own queue was there last."""
        self._long_rounds = 0
        """Round trips in a row that had a queue all along."""
        self._latest_rtt = float("inf")
        self._last_rtt = 0.0
        """The shortest in the round before this one."""
        self._was_deep = False
        self._rtt_alone = float("inf")
        """The shortest while the round trip was measured last, and how long the queue was before:
        whether the flow alone has filled it."""

    def _begin_measuring(self) -> None:
        self._delivered = 0
        self._delivered_at = 0.0
        self._sent_since = 0.0
        self._lost = 0
        self._limited_until = 0
        self._sample_is_limited = False
        self._round_losses = 0
        self._round_lost = 0
        self._round_delivered_from = 0
        self._round_rate = 0.0
        self._round_in_flight = 0.0
        self._round_rtt, self._round_longest = float("inf"), 0.0
        self._is_bare = False
        self._bare_lost = self._bare_seen = 0.0
        """Packets, in rounds without a queue."""

    # ------------------------------------------------------------------ what follows from the model

    @property
    def least_window(self) -> int:
        return LEAST_WINDOW * self.datagram_size

    @property
    def rate(self) -> float:
        """Bytes per second that the path delivers."""
        return min(self._rate.value, self._rate_bound)

    def pacing_rate(self, smoothed_rtt: float) -> float:
        if not self._rate.value:
            return STARTUP_PACE * self.congestion_window / max(smoothed_rtt, 1e-3)
        if self.phase is Phase.CONTEST:
            return PACE * self.congestion_window / max(smoothed_rtt, 1e-3)
        return self.phase.pace * self.rate * MARGIN

    def _pipe(self, rate: float, span: float = 1.0) -> float:
        """Bytes that the path holds, so many times."""
        if self._min_rtt == float("inf"):
            return float(self.congestion_window)
        return max(span * rate * self._min_rtt, float(self.least_window))

    def _room_with_headroom(self) -> float:
        return max(HEADROOM * self._long_bound, float(self.least_window))

    # ------------------------------------------------------------------ sending

    def sent(self, packets: Iterable[Sent], count: int, now: float) -> None:
        if not self.bytes_in_flight:
            self._sent_since = self._delivered_at = now
        self.bytes_in_flight += count
        snapshot = _Snapshot(
            self._delivered,
            self._delivered_at,
            self._sent_since,
            self.bytes_in_flight,
            self._lost,
            self._limited_until > self._delivered,
        )
        for packet in packets:
            _remember(packet, snapshot)

    def idle(self, now: float) -> None:
        """What is measured until all this has arrived is the application's rate."""
        self._limited_until = self._delivered + max(self.bytes_in_flight, 1)

    # ------------------------------------------------------------------ acknowledgements

    def acknowledged(self, batch: Acknowledged) -> None:
        now = batch.now
        self._delivered += batch.count
        self._delivered_at = now
        self._note_round_trip(batch)
        snapshot = _snapshot_of(batch.packets[-1])
        if snapshot is not None:
            self._sample_is_limited = snapshot.is_limited
            self._note_rate(snapshot, batch)
        self._note_extra(batch)
        packets = batch.count / self.datagram_size
        self._queue_losses.note_arrival(packets, batch.rtt, self._min_rtt, now)
        if self._contest is not None:
            self._contest.acknowledged(batch)
        if self.phase in OWN_QUEUE:
            self._own_queue_until = now
        if batch.is_round_start:
            self._end_round()
            self._look_for_rivals(batch)
        self._go_on(batch)
        self._set_window(batch)

    def _note_rate(self, snapshot: _Snapshot, batch: Acknowledged) -> None:
        """The slower of sending and arriving tells what the path did."""
        elapsed = max(batch.newest - snapshot.sent_since, batch.now - snapshot.delivered_at)
        self._sent_since = batch.newest
        delivered = self._delivered - snapshot.delivered
        self._round_in_flight = max(self._round_in_flight, delivered)
        if elapsed <= 0 or elapsed < self._min_rtt / 2:
            return
        rate = delivered / elapsed
        self._round_rate = max(self._round_rate, rate)
        if rate >= self._rate.value or not snapshot.is_limited:
            self._rate.observe(rate)

    def _note_round_trip(self, batch: Acknowledged) -> None:
        rtt, now = batch.rtt, batch.now
        if rtt is None:
            return
        self._latest_rtt = rtt
        self._round_rtt = min(self._round_rtt, rtt)
        self._round_longest = max(self._round_longest, rtt)
        stale = now > self._probe_rtt_at + PROBE_RTT_INTERVAL
        if rtt <= self._probe_rtt_min or stale:
            self._wants_probe_rtt = stale and rtt > self._probe_rtt_min
            self._probe_rtt_min, self._probe_rtt_at = rtt, now
        if self._probe_rtt_min < self._min_rtt or now > self._min_rtt_at + MIN_RTT_WINDOW:
            self._min_rtt, self._min_rtt_at = self._probe_rtt_min, self._probe_rtt_at

    def _note_extra(self, batch: Acknowledged) -> None:
        """Acknowledgements come in lumps; what comes at once has to be replaced at once."""
        if not self._is_full:
            return  # the rate is not known yet
        expected = self.rate * (batch.now - self._extra_since)
        if self._extra_delivered <= expected:
            self._extra_since, self._extra_delivered = batch.now, 0
            expected = 0.0
        self._extra_delivered += batch.count
        extra = min(self._extra_delivered - expected, float(self.congestion_window))
        self._extra.observe(extra)
        self._extra_rounds += batch.is_round_start
        if self._extra_rounds >= EXTRA_ROUNDS:
            self._extra_rounds = 0
            self._extra.next_period()

    def _end_round(self) -> None:
        """At the beginning of a round: what the one before has shown."""
        self._phase_rounds += 1
        self._queue_losses.begin_round()
        if self.phase in OWN_QUEUE:
            self._queue_losses.note_own_queue()  # what it loses says nothing of the line
        delivered = self._delivered - self._round_delivered_from
        heavy = self._is_heavy(self._round_lost, delivered + self._round_lost)
        if self.phase is Phase.STARTUP:
            self._look_for_full_pipe(heavy and self._round_losses >= STARTUP_LOSSES)
        elif self.phase not in PROBING and heavy:
            self._yield()
        self._note_bare_round(delivered)
        self._last_rtt = self._round_rtt
        self._round_delivered_from = self._delivered
        self._round_lost = self._round_losses = 0
        self._round_rate = 0.0
        self._round_in_flight = 0.0
        self._round_rtt, self._round_longest = float("inf"), 0.0

    def _note_bare_round(self, delivered: float) -> None:
        """What is lost in the second of two rounds without any queue is the line's."""
        was_bare, self._is_bare = self._is_bare, is_near(self._round_longest, self._min_rtt)
        if not (was_bare and self._is_bare):
            return
        self._bare_lost += self._round_lost / self.datagram_size
        self._bare_seen += delivered / self.datagram_size
        if self._bare_seen > MOST_REMEMBERED:
            self._bare_seen /= 2
            self._bare_lost /= 2

    def _is_heavy(self, lost: float, under_way: float) -> bool:
        """Whether more was lost than noise takes, of so many bytes."""
        line = min(self._bare_lost / (self._bare_seen + ASSUMED_SEEN), MOST_OF_LINE)
        limit = max(LOSS_LIMIT, line + LOSS_LIMIT / 2) * under_way / self.datagram_size
        return lost / self.datagram_size > limit + CHANCE * math.sqrt(limit)

    def _look_for_full_pipe(self, too_many_losses: bool) -> None:
        if too_many_losses:
            self._is_full = True
            self._long_bound = max(self._pipe(self.rate), self._round_in_flight)
            return
        if self._sample_is_limited:
            return
        if self._rate.value >= self._full_rate * GROWTH_OF_FULL_PIPE:
            self._full_rate, self._full_rounds = self._rate.value, 0
            return
        self._full_rounds += 1
        self._is_full = self._full_rounds >= FULL_PIPE_ROUNDS

    def _yield(self) -> None:
        """More was lost than noise loses: others want their share."""
        rate = min(self._rate_bound, self._rate.value)
        self._rate_bound = max(self._round_rate, YIELD * rate)
        bound = min(self._short_bound, float(self.congestion_window))
        self._short_bound = max(self._round_in_flight, YIELD * bound)

    # ------------------------------------------------------------------ losses

    def lost(self, packets: list[Sent], count: int, now: float) -> None:
        self._keep_in_mind(packets, now)
        self._lost += count
        self._round_lost += count
        self._round_losses += 1
        # What was lost is not replaced before something has arrived.
        self.congestion_window = max(self.congestion_window - count, self.least_window)
        if self._queue_losses.note_lost(self._later_than_startup(packets)):
            self._give_way(packets, count, now)
        snapshot = _snapshot_of(packets[-1])
        if snapshot is None or self.phase is not Phase.UP:
            return
        if self._is_heavy(self._lost - snapshot.lost, snapshot.in_flight):
            if not snapshot.is_limited:
                floor = YIELD * self._pipe(self.rate, self.phase.span)
                self._long_bound = max(float(snapshot.in_flight), floor)
            self._enter_down()

    def _later_than_startup(self, packets: list[Sent]) -> float:
        """In packets. What the startup has lost comes to light for some time, and is its own
        queue's."""
        begun = self._own_queue_until
        later = sum(packet.sent_bytes for packet in packets if (packet.sent_time or 0.0) > begun)
        return later / self.datagram_size

    def _keep_in_mind(self, packets: list[Sent], now: float) -> None:
        newest = max(packet.sent_time or 0.0 for packet in packets)
        since = self._before.at if self._before is not None else 0.0
        if self._before is None or newest > since:
            bounds = self._long_bound, self._short_bound, self._rate_bound
            self._before = _Before(since, now, self.phase, *bounds, self._contest)
            self._missing = 0
        self._missing += len(packets)

    def not_lost(self, packets: Sequence[Sent], count: int, now: float) -> None:
        self._lost -= count
        self._round_lost = max(0, self._round_lost - count)
        self._queue_losses.note_not_lost(len(packets))
        before = self._before
        if before is None:
            return
        self._missing -= count_sent(packets, before.since, before.at)
        if self._missing <= 0:
            self._take_back(before)

    def _take_back(self, before: _Before) -> None:
        """All that seemed lost was late only."""
        self._before = None
        self._long_bound = max(self._long_bound, before.long_bound)
        self._short_bound = max(self._short_bound, before.short_bound)
        self._rate_bound = max(self._rate_bound, before.rate_bound)
        self._full_rate, self._full_rounds = 0.0, 0
        if before.contest is None:
            self._contest = None
        if self.phase is Phase.PROBE_RTT or self.phase is before.phase:
            return
        if before.phase in PROBING or self.phase is Phase.CONTEST:
            self._is_full = self._is_full and before.phase is not Phase.STARTUP
            self._enter(Phase.CRUISE if before.phase is Phase.PROBE_RTT else before.phase)

    def persistent_congestion(self) -> None:
        self._before = None
        self.congestion_window = self.least_window
        if self._contest is not None:
            self._contest.collapse()

    # ------------------------------------------------------------------ others on the path

    def use_datagram_size(self, size: int) -> None:
        super().use_datagram_size(size)
        if self._contest is not None:
            self._contest.use_datagram_size(size)

    def _look_for_rivals(self, batch: Acknowledged) -> None:
        """Each round: one's own queue would have gone by and by."""
        if self._sample_is_limited or not is_crowded(self._last_rtt, self._min_rtt):
            self._long_rounds = 0
            return
        self._long_rounds += 1
        if self._contest is None and self._long_rounds >= PATIENCE:
            self._begin_contest(batch.in_flight_before, batch.now)

    def _give_way(self, packets: list[Sent], count: int, now: float) -> None:
        """A queue has overflowed."""
        share = kept_share(self._latest_rtt, self._min_rtt)
        if self._contest is not None:
            self._contest.lost(packets, share, now)
        else:
            self._begin_contest(share * (self.bytes_in_flight + count), now)

    def _begin_contest(self, window: float, now: float) -> None:
        if self.phase in OWN_QUEUE or self.phase is Phase.PROBE_RTT:
            return  # the queue is one's own, or it is about to be seen whose it is
        self._contest = Contest(self.datagram_size, window, now)
        self._enter(Phase.CONTEST)

    def _in_contest(self, batch: Acknowledged) -> None:
        if self._phase_rounds >= EXTRA_ROUNDS:
            self._phase_rounds = 0
            self._rate.next_period()

    def _is_alone(self, now: float) -> bool:
        """After the flow has all but stopped: whether no queue was left by others."""
        if self._contest is None:
            return True
        if not is_near(self._rtt_alone, self._min_rtt):
            return False
        return self._was_deep or self._contest.is_quiet(now)

    # ------------------------------------------------------------------ the cycle

    def _go_on(self, batch: Acknowledged) -> None:
        if self._wants_probe_rtt and self.phase is not Phase.PROBE_RTT:
            self._enter(Phase.PROBE_RTT)
            self._probe_rtt_done = None
            self._window_before = self.congestion_window
            self._was_deep = self._last_rtt > DEEP * self._min_rtt
            self._rtt_alone = float("inf")
        self._wants_probe_rtt = False
        _STEPS[self.phase](self, batch)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._phase_rounds = 0

    def _in_startup(self, batch: Acknowledged) -> None:
        if self._is_full:
            self._enter(Phase.DRAIN)

    def _in_drain(self, batch: Acknowledged) -> None:
        if self.bytes_in_flight <= self._pipe(self.rate):
            self._enter_down()

    def _enter_down(self) -> None:
        self._enter(Phase.DOWN)
        self._rate.next_period()

    def _in_down(self, batch: Acknowledged) -> None:
        if self.bytes_in_flight <= min(self._pipe(self.rate), self._room_with_headroom()):
            self._enter(Phase.CRUISE)

    def _in_cruise(self, batch: Acknowledged) -> None:
        if self._phase_rounds >= 1:
            self._up_step = float(self.datagram_size)
            self._full_rate, self._full_rounds = self._rate.value, 0
            self._enter(Phase.UP)

    def _in_up(self, batch: Acknowledged) -> None:
        self._raise_long_bound(batch)
        if batch.is_round_start and self._phase_rounds >= 1:
            if self._rate.value >= self._full_rate * GROWTH_OF_FULL_PIPE:
                self._full_rate, self._full_rounds = self._rate.value, 0
            else:
                self._full_rounds += 1
        queue = self.bytes_in_flight > self._pipe(self.rate, self.phase.pace)
        if self._phase_rounds >= 1 and (queue or self._full_rounds >= FULL_PIPE_ROUNDS):
            self._enter_down()

    def _raise_long_bound(self, batch: Acknowledged) -> None:
        """Nothing is lost at that bound any more: raise it, faster each round."""
        if batch.in_flight_before < min(self._long_bound, self.congestion_window):
            return
        if self._long_bound == float("inf"):
            return
        if batch.is_round_start:
            self._up_step *= 2
        self._long_bound += self._up_step * batch.count / self.congestion_window

    def _in_probe_rtt(self, batch: Acknowledged) -> None:
        now = batch.now
        self._limited_until = self._delivered + max(self.bytes_in_flight, 1)
        if self._probe_rtt_done is None:
            if self.bytes_in_flight <= self._probe_rtt_window():
                self._probe_rtt_done = now + PROBE_RTT_TIME
        elif now < self._probe_rtt_done:
            self._rtt_alone = min(self._rtt_alone, batch.rtt or float("inf"))
        else:
            self._end_probe_rtt(now)

    def _end_probe_rtt(self, now: float) -> None:
        self._probe_rtt_at = now
        self._long_rounds = 0
        self._rate_bound = self._short_bound = float("inf")
        self.congestion_window = max(self.congestion_window, self._window_before)
        if not self._is_alone(now):
            self._enter(Phase.CONTEST)
            return
        if self._contest is not None:
            self._contest = None
            self._long_bound = float("inf")
        if self._is_full:
            self._enter_down()
            self._enter(Phase.CRUISE)
        else:
            self._enter(Phase.STARTUP)

    def _probe_rtt_window(self) -> float:
        return self._pipe(self.rate, PROBE_RTT_SHARE)

    # ------------------------------------------------------------------ the window

    def _set_window(self, batch: Acknowledged) -> None:
        if self._contest is not None and self.phase is Phase.CONTEST:
            self.congestion_window = self._contest.window
            return
        wanted = self._pipe(self.rate, self.phase.span) + self._extra.value
        window = float(self.congestion_window)
        if self._is_full:
            window = min(window + batch.count, wanted)
        elif window < wanted or self._delivered < INITIAL_WINDOW * self.datagram_size:
            window += batch.count
        window = min(max(window, float(self.least_window)), self._bound())
        self.congestion_window = int(max(window, self.least_window))

    def _bound(self) -> float:
        if self.phase is Phase.PROBE_RTT:
            return self._probe_rtt_window()
        bound = self._long_bound
        if self.phase is Phase.CRUISE:
            bound = self._room_with_headroom()
        return min(bound, self._short_bound)


_STEPS = {
    Phase.STARTUP: Bbr._in_startup,
    Phase.DRAIN: Bbr._in_drain,
    Phase.DOWN: Bbr._in_down,
    Phase.CRUISE: Bbr._in_cruise,
    Phase.UP: Bbr._in_up,
    Phase.PROBE_RTT: Bbr._in_probe_rtt,
    Phase.CONTEST: Bbr._in_contest,
}


def _remember(packet: Any, snapshot: _Snapshot) -> None:
    """On the packet's record itself, whoever's that is."""
    packet.snapshot = snapshot


def _snapshot_of(packet: Any) -> _Snapshot | None:
    return getattr(packet, "snapshot", None)
