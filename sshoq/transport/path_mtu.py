"""How large a datagram the path takes: tried out with packets that may get lost (RFC 8899).

The handshake uses the size that every QUIC path must take. Afterwards one probe at a time asks for
more; what was acknowledged is used. Knows neither packets nor clocks.
"""

PROBE_SIZES = (1352, 1392, 1452)
"""UDP payloads: inside another QUIC connection, inside WireGuard over IPv4, plain Ethernet over
IPv6."""

TRIES = 2
"""A single probe may be lost for any reason."""

BLACK_HOLE_TIMEOUTS = 3
"""So many probe timeouts in a row with large datagrams: perhaps only small ones get through now."""


class PathMtu:
    """The size in use, and the search for a better one."""

    __slots__ = ("_failures", "_in_flight", "_limit", "_untried", "base", "size")

    def __init__(self, base: int) -> None:
        self.base = base
        self._limit = PROBE_SIZES[-1]
        self.restart()

    def restart(self) -> None:
        """The path is a new one."""
        self.size = self.base
        self._untried = [size for size in PROBE_SIZES if self.size < size <= self._limit]
        self._failures = 0
        self._in_flight = False

    def limit(self, most: int) -> None:
        """The peer takes no larger ones."""
        self._limit = most
        self.base = min(self.base, most)
        self.size = min(self.size, most)
        self._untried = [size for size in self._untried if size <= most]

    def next_probe(self) -> int | None:
        """The size to try now, of which `succeeded` or `failed` must tell the end."""
        if self._in_flight or not self._untried:
            return None
        self._in_flight = True
        return self._untried[0]

    def succeeded(self, size: int) -> None:
        self._in_flight = False
        self._failures = 0
        if size in self._untried:
            self.size = size
            self._untried.remove(size)

    def failed(self, size: int) -> None:
        self._in_flight = False
        self._failures += 1
        if self._failures >= TRIES:
            self._untried.clear()  # what is larger will not get through either

    def note_timeouts(self, count: int) -> None:
        """So many probe timeouts in a row without an answer."""
        if count >= BLACK_HOLE_TIMEOUTS and self.size > self.base:
            self.size = self.base
            self._untried.clear()
