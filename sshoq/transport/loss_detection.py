"""Which packets are lost: RFC 9002 6.1, with thresholds that learn where packets overtake others.

Three newer packets acknowledged, or an eighth of a round trip, say that one is lost; on a path that
takes some packets another way, or repeats them on a radio link, they say nothing. Once that is
seen, time alone counts, and as much of it as the latest packets took (as in RFC 8985, RACK). Knows
of packets their number and when they were sent; time is an argument.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PACKETS = 3
"""Newer ones acknowledged, after which one is lost, if none overtakes another."""

LEAST_PATIENCE = 9 / 8
"""Round trips after which a packet is lost when a newer one is acknowledged."""

MOST_PATIENCE = 2.0
PATIENCE_STEP = 1 / 8
"""Added to what the latest packets took."""

GRANULARITY = 0.001
"""Seconds."""

MEMORY = 5.0
"""Seconds for which overtaking is remembered, once or twice."""

MOST_GIVEN_UP = 1024
GIVEN_UP_FOR = 3.0
"""Round trips after it was sent, until a packet that was given up is forgotten."""


class LossDetection:
    """Of one connection's 1-RTT packets."""

    __slots__ = ("_given_up", "_latest", "_latest_before", "_remembered_since")

    def __init__(self) -> None:
        self._given_up: dict[int, Any] = {}
        self._latest = self._latest_before = 0.0
        """Round trips that the latest packet took which others had overtaken."""
        self._remembered_since = 0.0

    @property
    def is_ordered(self) -> bool:
        """Whether no packet overtakes another, as far as is known."""
        return not (self._latest or self._latest_before)

    @property
    def patience(self) -> float:
        """Round trips."""
        latest = max(self._latest, self._latest_before)
        return min(max(latest + PATIENCE_STEP, LEAST_PATIENCE), MOST_PATIENCE)

    def find_lost(
        self, sent: Mapping[int, Any], largest: int, round_trip: float, now: float
    ) -> tuple[list[Any], float | None]:
        """The packets that are lost, and when the next one will be.

        `sent`: what is not acknowledged, by number, in order; `largest`: that was acknowledged.
        """
        delay = max(self.patience * round_trip, GRANULARITY)
        too_old = largest - PACKETS if self.is_ordered else -1
        lost = []
        next_at = None
        for number, packet in sent.items():
            if number > largest:
                break
            at = packet.sent_time + delay
            if number <= too_old or at <= now:
                lost.append(packet)
            elif next_at is None or at < next_at:
                next_at = at
        if lost:
            self._give_up(lost, round_trip, now)
        return lost, next_at

    def _give_up(self, packets: Iterable[Any], round_trip: float, now: float) -> None:
        given_up = self._given_up
        for packet in packets:
            if packet.in_flight:
                given_up[packet.packet_number] = packet
        while given_up:
            oldest = next(iter(given_up))
            fresh = given_up[oldest].sent_time + GIVEN_UP_FOR * round_trip > now
            if fresh and len(given_up) <= MOST_GIVEN_UP:
                break
            del given_up[oldest]

    def find_late(
        self, ranges: Sequence[tuple[int, int]], round_trip: float, now: float
    ) -> list[Any]:
        """The packets that had been given up and are acknowledged after all. `ranges`: ascending,
        each up to before its second number."""
        if not self._given_up:
            return []
        starts = [start for start, _ in ranges]
        late = []
        for number, packet in self._given_up.items():
            at = bisect_right(starts, number) - 1
            if at >= 0 and number < ranges[at][1]:
                late.append(packet)
        for packet in late:
            del self._given_up[packet.packet_number]
            self._note_overtaken(packet, round_trip, now)
        return late

    def note_arrival(
        self, oldest: Any, largest_before: int, round_trip: float, now: float
    ) -> None:
        """`oldest`: of the packets newly acknowledged; `largest_before`: acknowledged until now."""
        if now > self._remembered_since + MEMORY:
            self._latest_before, self._latest = self._latest, 0.0
            self._remembered_since = now
        if oldest.packet_number < largest_before - PACKETS:
            self._note_overtaken(oldest, round_trip, now)

    def _note_overtaken(self, packet: Any, round_trip: float, now: float) -> None:
        if round_trip > 0:
            self._latest = max(self._latest, (now - packet.sent_time) / round_trip)
