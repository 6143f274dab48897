"""One byte there and back through a session: the time, and what it costs the processors."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

from bench.measurements import NAMES, MeasurementFailed, Setting, interleave, row_of
from bench.report import Row
from tests.programs import Client

TRIPS = 2000
WARM_UP = 200
MICROSECONDS = 1e6
NANOSECONDS = 1e9


class Trip:
    """What one takes, in microseconds: on the clock, of the client, of the server's processes."""

    def __init__(self, elapsed: float, client: float, server: float) -> None:
        self.elapsed = elapsed
        self.client = client
        self.server = server


def trip_times(setting: Setting) -> Iterator[Row]:
    """Three rows of the same runs. The far end is `cat`, whose own time counts nowhere but on the
    clock."""
    trips: dict[str, list[Trip]] = {name: [] for name in NAMES}

    def times() -> dict[str, list[float]]:
        with setting.pairs() as clients:

            def once(name: str) -> float:
                trips[name].append(measure_trips(clients[name]))
                return trips[name][-1].elapsed

            return interleave(setting, once)

    row = row_of("a byte there and back", "µs", times)
    yield row
    if row.failure is None:
        client = {name: [trip.client for trip in trips[name][1:]] for name in NAMES}
        server = {name: [trip.server for trip in trips[name][1:]] for name in NAMES}
        yield row_of("  CPU, client", "µs", lambda: client)
        yield row_of("  CPU, server", "µs", lambda: server)


def measure_trips(client: Client, count: int = TRIPS) -> Trip:
    running = client.start("echo in; exec cat")
    try:
        assert running.stdin is not None
        assert running.stdout is not None
        to, back = running.stdin.fileno(), running.stdout.fileno()
        if os.read(back, 3) != b"in\n":
            raise MeasurementFailed("there is no session")
        _go(to, back, WARM_UP)
        server = [one.pid for one in client.server.family() if one.name != "cat"]
        before = _cpu([running.pid, *server])
        started = time.perf_counter()
        _go(to, back, count)
        elapsed = time.perf_counter() - started
        after = _cpu([running.pid, *server])
        spent = {pid: after[pid] - before[pid] for pid in after}
        own = spent.pop(running.pid)
        per_trip = MICROSECONDS / count
        return Trip(elapsed * per_trip, own * per_trip, sum(spent.values()) * per_trip)
    finally:
        _end(running)


def _go(to: int, back: int, count: int) -> None:
    for _ in range(count):
        os.write(to, b"x")
        if os.read(back, 2) != b"x":
            raise MeasurementFailed("the byte does not come back")


def _cpu(pids: list[int]) -> dict[int, float]:
    """Seconds, finer than the clock ticks of /proc/PID/stat; of those that are still there."""
    spent = {}
    for pid in pids:
        with (
            contextlib.suppress(FileNotFoundError),
            open(f"/proc/{pid}/schedstat", encoding="ascii") as file,
        ):
            spent[pid] = int(file.read().split()[0]) / NANOSECONDS
    return spent


def _end(running: subprocess.Popen[bytes]) -> None:
    running.kill()
    running.communicate()
