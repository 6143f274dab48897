"""How far a file has come, on one line of the terminal, as scp shows it.

The line belongs to the file that was begun first of those under way; one that is done leaves its
line behind.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sshoq.client.log import printable, write_fully
from sshoq.client.terminal import window_size

INTERVAL = 0.5
"""Seconds between two looks at the line."""

_UNITS = ("B ", "KB", "MB", "GB", "TB", "PB")
_RIGHT = 36
"""Columns behind the name."""


class Meter:
    """One file: bytes so far, and how many there will be."""

    def __init__(self, name: str, total: int, now: float) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self.began = now

    def advance(self, count: int) -> None:
        self.done += count


class Progress:
    """The line. `fd` None: nobody looks at it."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._meters: list[Meter] = []
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def file(self, name: bytes, total: int) -> Iterator[Meter]:
        """A file from its first byte to its last."""
        meter = Meter(printable(show(name)), total, time.monotonic())
        self._meters.append(meter)
        self._draw_soon()
        completed = False
        try:
            yield meter
            completed = True
        finally:
            self._meters.remove(meter)
            self._end_line(meter, completed)

    def _draw_soon(self) -> None:
        if self._fd is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._redraw)

    def _redraw(self) -> None:
        self._timer = None
        if self._meters:
            self._show(self._meters[0], "")
            self._draw_soon()

    def _end_line(self, meter: Meter, completed: bool) -> None:
        if completed:
            self._show(meter, "\r\n")
        elif self._fd is not None:
            write_fully(self._fd, b"\r\x1b[K")

    def _show(self, meter: Meter, end: str) -> None:
        if self._fd is not None:
            columns = window_size(self._fd).columns or 80
            line = describe(meter, time.monotonic(), columns)
            write_fully(self._fd, f"\r{line}{end}".encode())


def show(name: bytes) -> str:
    """A name in a line of text; it cannot make two of it."""
    return name.decode("utf-8", "replace").replace("\n", "\\n")


def describe(meter: Meter, now: float, columns: int) -> str:
    """Name, share, size, speed, and the time it took or will take."""
    seconds = max(now - meter.began, 0.001)
    speed = meter.done / seconds
    ended = meter.done >= meter.total
    share = 100 if ended else 100 * meter.done // meter.total
    left = seconds if ended else (meter.total - meter.done) / speed if speed else None
    clock = "--:--" if left is None else f"{int(left) // 60:02}:{int(left) % 60:02}"
    room = max(columns - _RIGHT - 1, 1)
    name = meter.name[:room].ljust(room)
    eta = "    " if ended else " ETA"
    return f"{name} {share:3}% {amount(meter.done)} {amount(speed)}/s {clock:>7}{eta}"


def amount(count: float) -> str:
    """Seven characters."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:5.0f}{_UNITS[unit]}" if unit == 0 else f"{count:5.1f}{_UNITS[unit]}"
