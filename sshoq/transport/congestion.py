"""How much may be under way: the controllers' common shape, and CUBIC (RFC 9438).

A controller is told of batches: what one acknowledgement covered, what was lost. It knows no
packets beyond their size and time of sending, no sockets and no clock. The methods named after
single packets are those that the QUIC library calls during the handshake. CUBIC's slow start ends
by HyStart++ (RFC 9406).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

INITIAL_WINDOW = 10
LEAST_WINDOW = 2
"""In datagrams (RFC 9002 7.2)."""


class Sent(Protocol):
    """What a controller sees of a packet."""

    @property
    def sent_bytes(self) -> int: ...
    @property
    def sent_time(self) -> float | None: ...


def count_sent(packets: Iterable[Sent], since: float, until: float) -> int:
    """How many left after the one moment and not after the other."""
    return sum(since < (packet.sent_time or 0.0) <= until for packet in packets)


class Acknowledged:
    """What one ACK frame newly acknowledged."""

    __slots__ = (
        "count",
        "in_flight_before",
        "is_round_start",
        "newest",
        "now",
        "packets",
        "rtt",
        "smoothed_rtt",
    )

    def __init__(
        self,
        now: float,
        packets: list[Sent],
        count: int,
        newest: float,
        *,
        rtt: float | None,
        smoothed_rtt: float,
        in_flight_before: int,
        is_round_start: bool,
    ) -> None:
        self.now = now
        self.packets = packets
        """Those that counted as in flight, oldest first."""
        self.count = count
        """Their bytes."""
        self.newest = newest
        """When the last of them was sent."""
        self.rtt = rtt
        """This round trip; None when it cannot be told from this ACK."""
        self.smoothed_rtt = smoothed_rtt
        self.in_flight_before = in_flight_before
        self.is_round_start = is_round_start
        """A packet sent after the previous round began has come through."""


class Controller:
    """What the sender asks: window and pacing rate."""

    name = ""
    ssthresh: int | None = None

    def __init__(self, datagram_size: int) -> None:
        self.datagram_size = datagram_size
        self.congestion_window = INITIAL_WINDOW * datagram_size
        self.bytes_in_flight = 0
        self.watch_losses: Callable[[int], None] = lambda smallest: None
        """Told the size of the smallest packet when some were lost."""

    def use_datagram_size(self, size: int) -> None:
        """The path takes larger datagrams now, or smaller ones."""
        self.datagram_size = size

    @property
    def least_window(self) -> int:
        return LEAST_WINDOW * self.datagram_size

    def pacing_rate(self, smoothed_rtt: float) -> float:
        """Bytes per second."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what happens

    def sent(self, packets: Iterable[Sent], count: int, now: float) -> None:
        """These left now, `count` bytes in all."""
        self.bytes_in_flight += count

    def acknowledged(self, batch: Acknowledged) -> None:
        """The bytes in flight are brought up to date by the caller, before."""
        raise NotImplementedError

    def lost(self, packets: list[Sent], count: int, now: float) -> None:
        """Lost to congestion, as far as anybody can tell. The bytes in flight are up to date."""
        raise NotImplementedError

    def not_lost(self, packets: Sequence[Sent], count: int, now: float) -> None:
        """These were told as lost, and have arrived after all."""
        raise NotImplementedError

    def idle(self, now: float) -> None:
        """The application had nothing to send while there was room."""

    def persistent_congestion(self) -> None:
        """Nothing at all got through for a long time."""
        raise NotImplementedError

    # ------------------------------------------------------------------ as the library calls it

    def on_packet_sent(self, *, packet: Sent) -> None:
        self.sent([packet], packet.sent_bytes, packet.sent_time or 0.0)

    def on_packet_acked(self, *, now: float, packet: Sent) -> None:
        """Of the handshake."""
        self.bytes_in_flight -= packet.sent_bytes
        if self.ssthresh is None:
            self.congestion_window += packet.sent_bytes

    def on_packets_expired(self, *, packets: Iterable[Sent]) -> None:
        """They count no longer, but were not lost to congestion."""
        self.bytes_in_flight -= sum(packet.sent_bytes for packet in packets)

    def on_packets_lost(self, *, now: float, packets: Iterable[Sent]) -> None:
        gone = list(packets)
        count = sum(packet.sent_bytes for packet in gone)
        self.bytes_in_flight -= count
        self.lost(gone, count, now)
        self.watch_losses(min(packet.sent_bytes for packet in gone))

    def on_persistent_congestion(self) -> None:
        self.persistent_congestion()

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """Part of `acknowledged` here."""


# ------------------------------------------------------------------------------------ slow start

LEAST_RTT_RISE = 0.004
MOST_RTT_RISE = 0.016
SAMPLES = 8
CAUTIOUS_GROWTH = 4
CAUTIOUS_ROUNDS = 5


class SlowStart:
    """HyStart++: leave slow start when round trips grow longer, before the queue overflows.

    A first suspicion slows the growth down; when it was wrong, growth goes on.
    """

    __slots__ = ("_baseline", "_cautious_rounds", "_fastest", "_previous_fastest", "_samples")

    def __init__(self) -> None:
        self._fastest = float("inf")
        self._previous_fastest = float("inf")
        self._baseline = float("inf")
        self._samples = 0
        self._cautious_rounds = 0

    @property
    def is_cautious(self) -> bool:
        return self._cautious_rounds > 0

    def observe(self, rtt: float | None, is_round_start: bool) -> bool:
        """Note a round trip. True: slow start is over."""
        if is_round_start:
            self._previous_fastest, self._fastest = self._fastest, float("inf")
            self._samples = 0
            if self.is_cautious:
                self._cautious_rounds += 1
        if rtt is not None:
            self._fastest = min(self._fastest, rtt)
            self._samples += 1
        if self._samples >= SAMPLES:
            self._judge()
        return self._cautious_rounds > CAUTIOUS_ROUNDS

    def _judge(self) -> None:
        if self.is_cautious:
            if self._fastest < self._baseline:
                self._cautious_rounds = 0
            return
        if self._previous_fastest == float("inf"):
            return
        rise = min(max(self._previous_fastest / 8, LEAST_RTT_RISE), MOST_RTT_RISE)
        if self._fastest >= self._previous_fastest + rise:
            self._baseline = self._fastest
            self._cautious_rounds = 1

    def growth(self, count: int) -> int:
        """By how much the window grows for so many bytes acknowledged."""
        return count // CAUTIOUS_GROWTH if self.is_cautious else count


# ------------------------------------------------------------------------------------ CUBIC

CUBIC_C = 0.4
CUBIC_BETA = 0.7
RENO_GROWTH = 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA)
SLOW_START_PACE = 2.0
STEADY_PACE = 1.25


class Cubic(Controller):
    """The window follows a cubic function of the time since the last loss. Counts in datagrams."""

    name = "cubic"

    def __init__(self, datagram_size: int) -> None:
        super().__init__(datagram_size)
        self._slow_start = SlowStart()
        self._recovery_began = self._recovery_before = -1.0
        self._missing = 0
        """Packets lost in this recovery, and what to go back to when all of them arrive."""
        self._before: tuple[int, int | None, float] | None = None
        self._summit = 0.0
        """The window at which something was lost last, in datagrams."""
        self._epoch: float | None = None
        self._time_to_summit = 0.0
        self._reno_window = 0.0
        self._last_ack = 0.0

    def use_datagram_size(self, size: int) -> None:
        self._summit *= self.datagram_size / size
        self._reno_window *= self.datagram_size / size
        super().use_datagram_size(size)

    @property
    def in_slow_start(self) -> bool:
        return self.ssthresh is None or self.congestion_window < self.ssthresh

    def pacing_rate(self, smoothed_rtt: float) -> float:
        pace = SLOW_START_PACE if self.in_slow_start else STEADY_PACE
        return pace * self.congestion_window / max(smoothed_rtt, 1e-4)

    def acknowledged(self, batch: Acknowledged) -> None:
        slept, self._last_ack = batch.now - self._last_ack, batch.now
        in_slow_start = self.in_slow_start
        if self.ssthresh is None and self._slow_start.observe(batch.rtt, batch.is_round_start):
            self.ssthresh = self.congestion_window
        if batch.newest <= self._recovery_began:
            return
        # A window that is not used proves nothing (RFC 9002 7.8).
        if 2 * batch.in_flight_before < self.congestion_window:
            if self._epoch is not None:
                self._epoch += slept
        elif in_slow_start:
            self.congestion_window += self._slow_start.growth(batch.count)
        else:
            self._avoid_congestion(batch)

    def _avoid_congestion(self, batch: Acknowledged) -> None:
        window = self.congestion_window / self.datagram_size
        if self._epoch is None:
            self._begin_epoch(batch.now, window)
        assert self._epoch is not None
        acknowledged = batch.count / self.datagram_size
        elapsed = batch.now - self._epoch
        growth = 1.0 if self._reno_window >= self._summit else RENO_GROWTH
        self._reno_window += growth * acknowledged / window
        if self._curve(elapsed) < self._reno_window:
            window = max(window, self._reno_window)
        else:
            target = min(max(self._curve(elapsed + batch.smoothed_rtt), window), 1.5 * window)
            window += (target - window) / window * acknowledged
        self.congestion_window = int(window * self.datagram_size)

    def _begin_epoch(self, now: float, window: float) -> None:
        self._epoch = now
        self._summit = max(self._summit, window)
        self._time_to_summit = ((self._summit - window) / CUBIC_C) ** (1 / 3)
        self._reno_window = window

    def _curve(self, elapsed: float) -> float:
        return float(CUBIC_C * (elapsed - self._time_to_summit) ** 3 + self._summit)

    def lost(self, packets: list[Sent], count: int, now: float) -> None:
        newest = max(packet.sent_time or 0.0 for packet in packets)
        if newest <= self._recovery_began:
            self._missing += len(packets)
            return  # part of what has been answered already
        self._recovery_before, self._recovery_began = self._recovery_began, now
        self._missing = len(packets)
        self._before = self.congestion_window, self.ssthresh, self._summit
        self._epoch = None
        window = self.congestion_window / self.datagram_size
        # Who has to give way twice in a row gives way further: others may have come.
        shrinking = window < self._summit
        self._summit = window * (1 + CUBIC_BETA) / 2 if shrinking else window
        self.congestion_window = max(int(self.congestion_window * CUBIC_BETA), self.least_window)
        self.ssthresh = self.congestion_window

    def not_lost(self, packets: Sequence[Sent], count: int, now: float) -> None:
        """RFC 9438 4.9.2."""
        self._missing -= count_sent(packets, self._recovery_before, self._recovery_began)
        if self._before is None or self._missing > 0:
            return
        window, self.ssthresh, self._summit = self._before
        self.congestion_window = max(self.congestion_window, window)
        self._before = self._epoch = None
        self._recovery_began = -1.0

    def persistent_congestion(self) -> None:
        self.congestion_window = self.least_window
        self._recovery_began = -1.0
        self._before = self._epoch = None


def _make_bbr(datagram_size: int) -> Controller:
    from sshoq.transport.bbr import Bbr

    return Bbr(datagram_size)


CONTROLLERS: dict[str, Callable[[int], Controller]] = {"cubic": Cubic, "bbr": _make_bbr}
"""By name; each is made with the size of a datagram."""
