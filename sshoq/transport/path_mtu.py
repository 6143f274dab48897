"""How large a datagram the path takes: tried out with packets that may get lost (RFC 8899).

The handshake uses the size that every QUIC path must take. Afterwards one probe at a time asks for
more; what was acknowledged is used. When large datagrams vanish and small ones get through, the
path has become narrower. Nothing is tried for a short while, unless somebody wants it: most
connections are over by then. Knows no packets; time is an argument.
"""

PROBE_SIZES = (1352, 1392, 1452, 8952, 16200)
"""UDP payloads: inside another QUIC connection, inside WireGuard over IPv4, plain Ethernet and
jumbo frames over IPv6, and for loopback what fits four times into one segmented send."""

NARROW_SIZES = (1232, 1252, 1288)
"""Where the first of those is too large, so rarely tried: a full IPv6 packet at the least MTU there
is, in which another QUIC connection just fits; an IPv4 packet of that MTU; inside another QUIC
connection with what Go programs begin with."""

CALM = 1.0
"""Seconds before the search, unless there is use for larger datagrams at once."""

TRIES = 2
"""A single probe may be lost for any reason."""

BLACK_HOLE_TIMEOUTS = 3
"""So many probe timeouts in a row with large datagrams: perhaps only small ones get through now."""

BLACK_HOLE_LOSSES = 3
"""The same when losses were told so often, each time because something small was acknowledged, and
nothing large was."""

TRY_AGAIN_AFTER = 600.0
"""Seconds (RFC 8899 5.1.1). Paths change, and three lost packets may have been an accident."""


class PathMtu:
    """The size in use, and the search for a better one."""

    __slots__ = (
        "_again_at",
        "_begins_at",
        "_failures",
        "_in_flight",
        "_limit",
        "_losses",
        "_untried",
        "base",
        "is_wanted",
        "size",
    )

    def __init__(self, base: int) -> None:
        self.base = base
        self.is_wanted = False
        """Whether there is use for larger datagrams."""
        self._begins_at: float | None = None
        self._limit = PROBE_SIZES[-1]
        self.restart()

    def restart(self) -> None:
        """The path is a new one."""
        self.size = self.base
        self._in_flight = False
        self._search()

    def _search(self) -> None:
        self._untried = [size for size in PROBE_SIZES if self.size < size <= self._limit]
        self._failures = 0
        self._losses = 0
        self._again_at: float | None = None

    def limit(self, most: int) -> None:
        """The peer takes no larger ones."""
        self._limit = most
        self.base = min(self.base, most)
        self.size = min(self.size, most)
        self._untried = [size for size in self._untried if size <= most]

    @property
    def is_searching(self) -> bool:
        """Whether larger ones may be found to get through before long."""
        return self._in_flight or bool(self._untried)

    @property
    def begins_at(self) -> float | None:
        """When to ask for the first probe, if it is known and still to come."""
        return None if self.is_wanted else self._begins_at

    def next_probe(self, now: float) -> int | None:
        """The size to try now, of which `succeeded` or `failed` must tell the end."""
        if self._in_flight or not self._has_begun(now):
            return None
        if not self._untried and not self._is_time_again(now):
            return None
        self._in_flight = True
        return self._untried[0]

    def _has_begun(self, now: float) -> bool:
        if self._begins_at is None:
            self._begins_at = now + CALM
        self.is_wanted = self.is_wanted or now >= self._begins_at
        return self.is_wanted

    def _is_time_again(self, now: float) -> bool:
        """Whether to begin anew, with the sizes that did not get through."""
        if self.size >= min(self._limit, PROBE_SIZES[-1]):
            return False
        if self._again_at is None:
            self._again_at = now + TRY_AGAIN_AFTER
        if now < self._again_at:
            return False
        self._search()
        return bool(self._untried)

    def succeeded(self, size: int) -> None:
        self._in_flight = False
        self._failures = 0
        if size in self._untried:
            self.size = size
            self._untried.remove(size)

    def failed(self, size: int) -> None:
        self._in_flight = False
        self._failures += 1
        if self._failures < TRIES:
            return
        is_narrow = self._untried[:1] == [size] == [PROBE_SIZES[0]]
        self._untried.clear()  # what is larger will not get through either
        if is_narrow:
            most = min(self._limit, size - 1)
            self._untried = [one for one in NARROW_SIZES if self.size < one <= most]
            self._failures = 0

    # ------------------------------------------------------------------ black holes

    def note_timeouts(self, count: int) -> None:
        """So many probe timeouts in a row without an answer."""
        if count >= BLACK_HOLE_TIMEOUTS:
            self._shrink()

    def note_delivered(self, largest: int) -> None:
        """The largest of some datagrams that have arrived."""
        if largest > self.base:
            self._losses = 0

    def note_lost(self, smallest: int) -> None:
        """The smallest of some datagrams that were lost."""
        if smallest <= self.base or self.size == self.base:
            return
        self._losses += 1
        if self._losses >= BLACK_HOLE_LOSSES:
            self._shrink()

    def _shrink(self) -> None:
        if self.size > self.base:
            self.size = self.base
            self._untried.clear()
            self._losses = 0
            self._again_at = None
