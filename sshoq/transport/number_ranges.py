"""A set of numbers kept as ranges: stream offsets that are missing, packet numbers that arrived.

Both come mostly in order, so adding at the end is the case that matters; the rest is bisection.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class NumberRanges:
    """Disjoint ranges that do not touch, ascending; `stop` is the first number not in a range."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._stops[at]

    @property
    def first(self) -> tuple[int, int]:
        return self._starts[0], self._stops[0]

    @property
    def end(self) -> int:
        """Behind the highest number; 0 when there is none."""
        return self._stops[-1] if self._stops else 0

    def add(self, start: int, stop: int) -> None:
        """Every number from `start` until before `stop`."""
        if start >= stop:
            return
        starts, stops = self._starts, self._stops
        if not stops or start > stops[-1]:
            starts.append(start)
            stops.append(stop)
            return
        low = bisect_left(stops, start)
        high = bisect_right(starts, stop)
        if low < high:
            start = min(start, starts[low])
            stop = max(stop, stops[high - 1])
        starts[low:high] = [start]
        stops[low:high] = [stop]

    def remove(self, start: int, stop: int) -> None:
        """None of them any more."""
        if start >= stop:
            return
        starts, stops = self._starts, self._stops
        low = bisect_right(stops, start)
        high = bisect_left(starts, stop)
        if low >= high:
            return
        left = (starts[low], start) if starts[low] < start else None
        right = (stop, stops[high - 1]) if stop < stops[high - 1] else None
        kept = [piece for piece in (left, right) if piece is not None]
        starts[low:high] = [piece[0] for piece in kept]
        stops[low:high] = [piece[1] for piece in kept]

    def pop_first(self) -> tuple[int, int]:
        return self._starts.pop(0), self._stops.pop(0)


class SeenNumbers:
    """Which packet numbers have arrived, to tell duplicates: ranges, and a floor below which
    everything counts as seen, so that a peer that skips numbers cannot make us remember without
    end.
    """

    MOST_RANGES = 256

    __slots__ = ("_floor", "_seen")

    def __init__(self) -> None:
        self._seen = NumberRanges()
        self._floor = 0

    def __contains__(self, number: int) -> bool:
        return number < self._floor or number in self._seen

    @property
    def end(self) -> int:
        """Behind the highest number seen: from there on nothing is a duplicate."""
        return max(self._seen.end, self._floor)

    def add(self, start: int, stop: int | None = None) -> None:
        """One number, or all until before `stop`."""
        self._seen.add(start, start + 1 if stop is None else stop)
        if len(self._seen) > self.MOST_RANGES:
            self._floor = self._seen.pop_first()[1]
