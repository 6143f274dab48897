"""Process: main [root], router and network process [service user]. What may happen only so
often.
"""


class RateLimit:
    """At most `per_second` events in any second of the clock."""

    def __init__(self, per_second: int) -> None:
        self._most = per_second
        self._second = 0
        self._count = 0

    def allows(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._count = int(now), 0
        self._count += 1
        return self._count <= self._most
