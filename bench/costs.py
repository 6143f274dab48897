"""What a transfer costs in CPU time: of the client, of the server, and of whatever they started."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence

from bench.measurements import MeasurementFailed
from tests.processes import wait_until
from tests.programs import Server

PATIENCE = 20.0
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


class Cost:
    """Seconds on the clock, and of all processors together."""

    def __init__(self, elapsed: float, cpu: float) -> None:
        self.elapsed = elapsed
        self.cpu = cpu


def cost_of(servers: Sequence[Server], run: Callable[[], None]) -> Cost:
    """`run` waits for all that it starts. What the servers started for it is waited for here: its
    time is in its parent's books when it has been reaped."""
    sizes = [len(server.family()) for server in servers]
    before = _cpu(servers)
    started = time.perf_counter()
    run()
    elapsed = time.perf_counter() - started

    def are_alone() -> bool:
        return all(
            len(server.family()) <= size for server, size in zip(servers, sizes, strict=True)
        )

    wait_until(are_alone, PATIENCE, "the servers are alone again")
    cpu = _cpu(servers) - before
    if cpu <= 0:
        raise MeasurementFailed("no CPU time was used")
    return Cost(elapsed, cpu)


def _cpu(servers: Sequence[Server]) -> float:
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    family = [process.pid for server in servers for process in server.family()]
    return own.ru_utime + own.ru_stime + sum(map(_cpu_of, family))


def _cpu_of(pid: int) -> float:
    """With that of the children it has reaped."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) * _TICK
