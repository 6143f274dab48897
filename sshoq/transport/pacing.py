"""When the next datagrams may leave: spread over the round trip, in bursts that are worth a system
call.

The event loop wakes to the millisecond at best, so what may leave at once grows with the rate; for
slow paths it stays at what any sender may begin with. Knows no packets; time is an argument.
"""

from collections.abc import Callable

MOST_WAIT = 1.0
BURST_TIME = 0.002
"""Seconds of the rate that may leave at once: twice what the loop's timers can tell apart."""

LEAST_BURST = 10
"""Datagrams: the initial window (RFC 9002 7.2)."""


class Pacer:
    """A bucket that fills at the pacing rate. It may be overdrawn by part of a datagram.

    `next_send_time`, `update_after_send` and `update_rate` are what the QUIC library calls.
    """

    __slots__ = ("_credit", "_filled_at", "_max_datagram_size", "_rate_for", "rate")

    def __init__(self, datagram_size: int, rate_for: Callable[[float], float]) -> None:
        """`rate_for`: the rate that goes with a smoothed round trip."""
        self.rate: float | None = None
        """Bytes per second; None until a round trip has been measured."""
        self._rate_for = rate_for
        self._max_datagram_size = datagram_size
        self._credit = 0.0
        self._filled_at = 0.0

    @property
    def burst(self) -> float:
        """The most that may leave at once."""
        return max(LEAST_BURST * self._max_datagram_size, (self.rate or 0.0) * BURST_TIME)

    def allowance(self, now: float) -> float:
        """Bytes that may leave now."""
        if self.rate is None:
            return float("inf")
        if now > self._filled_at:
            earned = (now - self._filled_at) * self.rate
            self._credit = min(self._credit + earned, self.burst)
            self._filled_at = now
        return self._credit

    def spend(self, count: int) -> None:
        """So many bytes have left."""
        if self.rate is not None:
            self._credit -= count

    def next_send_time(self, now: float) -> float | None:
        """None: at once. Else wait for a few datagrams' worth, not for one."""
        if self.allowance(now) > 0 or self.rate is None:
            return None
        enough = min(self.burst / 2, 4 * self._max_datagram_size)
        return now + min((enough - self._credit) / self.rate, MOST_WAIT)

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        if self.rate is None:
            self._credit = LEAST_BURST * self._max_datagram_size
        self.rate = max(self._rate_for(smoothed_rtt), 1.0)

    def update_after_send(self, now: float) -> None:
        self.spend(self._max_datagram_size)
