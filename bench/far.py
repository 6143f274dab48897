"""Measurements on a path with distance, a rate and loss, made between two network namespaces.

The path is tests/netns.py's relay, which loses and delays packets of TCP and UDP alike; it carries
more than ten times the rates set here.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.measurements import (
    NAMES,
    MeasurementFailed,
    Setting,
    download,
    interleave,
    row_of,
    row_with,
    upload,
)
from bench.report import Row, tcp_congestion
from tests.netns import Link, delay_link
from tests.processes import wait_until
from tests.programs import Client

MBIT = 1_000_000 / 8
ROUND_TRIP = 0.05
BULK_LOSS, BULK_RATE = 0.01, 200 * MBIT
KEY_LOSS, KEY_RATE = 0.005, 50 * MBIT
LOSS_BASED = ("cubic", "reno")
FAR_RUNS = 3
"""At most: each takes seconds."""

KEYS = 150
KEY_INTERVAL = 0.1
"""Typed at that pace, whether or not the echo has come."""

WARM_UP = 3.0
"""Seconds of the bulk transfer before the first key."""

ECHO_WAIT = 20.0


def far_rates(setting: Setting) -> Iterator[Row]:
    """A command's output and input over a long path that loses packets at random: beside TCP as
    this machine has it, and less of it beside TCP as most have it. That is CUBIC, which does at
    such losses what Reno does, and only Reno may be chosen in every namespace."""
    yield from _far_rates(setting, setting.megabytes // 2, tcp_congestion())
    if tcp_congestion() not in LOSS_BASED:
        yield from _far_rates(setting, max(1, setting.megabytes // 20), "reno")


def _far_rates(setting: Setting, megabytes: int, tcp: str) -> Iterator[Row]:
    size = megabytes * 1_000_000
    for what, run in (("down", download), ("up", upload)):

        def make(run: Callable[[Client, int], float] = run) -> dict[str, list[float]]:
            with delay_link(ROUND_TRIP, BULK_LOSS, BULK_RATE) as link, setting.pairs(link) as pairs:
                _use_tcp(link, tcp)
                samples = interleave(
                    setting, lambda name: run(pairs[name], size), warm_up=False, runs=FAR_RUNS
                )
            return {name: [megabytes / seconds for seconds in samples[name]] for name in NAMES}

        yield row_of(f"{megabytes} MB {what}, 50 ms, 1 %, TCP {tcp}", "MB/s", make)


def _use_tcp(link: Link, congestion: str) -> None:
    setting = f"net.ipv4.tcp_congestion_control={congestion}"
    for run in (link.run_a, link.run_b):
        if run(["sysctl", "-q", "-w", setting], capture_output=True).returncode != 0:
            raise MeasurementFailed(f"the kernel knows no TCP by {congestion}")


# ------------------------------------------------------------------------------------ keys


class Typing(NamedTuple):
    """What came of typing beside a bulk transfer."""

    delays: list[float]
    """Seconds from key to echo, shortest first."""
    bulk_rate: float
    """Bytes per second that the path carried meanwhile."""


def key_delays(setting: Setting) -> Iterator[Row]:
    """From a key to its echo by the far terminal, while the same connection carries all it can."""
    for what, bulk in (("down", "cat /dev/zero"), ("up", "cat >/dev/null")):
        seen: dict[str, Typing] = {}

        def measure(bulk: str = bulk, seen: dict[str, Typing] = seen) -> dict[str, list[float]]:
            with delay_link(ROUND_TRIP, KEY_LOSS, KEY_RATE) as link:
                for name in NAMES:
                    seen[name] = _type_beside(setting, name, link, bulk)
            return {name: [1000 * percentile(seen[name].delays, 50)] for name in NAMES}

        first = row_of(f"key beside bulk {what}, p50", "ms", measure)
        yield first
        if first.failure is not None:
            continue
        slowest = {name: [1000 * percentile(seen[name].delays, 99)] for name in NAMES}
        yield row_with(f"key beside bulk {what}, p99", "ms", slowest)
        rates = {name: [seen[name].bulk_rate / 1e6] for name in NAMES}
        yield row_with(f"bulk {what} meanwhile, with headers", "MB/s", rates)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest sample that so many per cent do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _type_beside(setting: Setting, name: str, link: Link, bulk: str) -> Typing:
    with setting.pair(name, link) as client, contextlib.ExitStack() as stack:
        control = setting.janitor.directory() / "control"
        _start(stack, client, flags=["-M", "-S", str(control), "-N"])
        wait_until(control.exists, 20, "the shared connection")
        _start_bulk(stack, client, control, bulk)
        terminal = _start(
            stack, client, "stty raw -echo; printf r; cat", flags=["-tt", "-S", str(control)]
        )
        assert terminal.stdout is not None
        if terminal.stdout.read(1) != b"r":
            raise MeasurementFailed("the far terminal does not start")
        time.sleep(WARM_UP)
        before, began = carried(link), time.perf_counter()
        delays = sorted(type_keys(terminal))
        rate = (carried(link) - before) / (time.perf_counter() - began)
        return Typing(delays, rate)


def carried(link: Link) -> int:
    """Bytes that went through one end's device, both ways: next to all of them are the bulk's."""
    table = link.run_b(["cat", "/proc/net/dev"], capture_output=True, text=True).stdout
    wire = next(line for line in table.splitlines() if line.strip().startswith("wire:"))
    received, sent = (int(wire.split(":")[1].split()[column]) for column in (0, 8))
    return received + sent


def _start_bulk(stack: contextlib.ExitStack, client: Client, control: Path, command: str) -> None:
    zero = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, zero)
    flags = ["-S", str(control), "-o", "BatchMode=yes"]
    process = subprocess.Popen(
        client.command(command, flags=flags),
        stdin=zero,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=client.environment(),
    )
    stack.callback(_end, process)


def _start(
    stack: contextlib.ExitStack, client: Client, *words: str, flags: Sequence[str]
) -> subprocess.Popen[bytes]:
    process = client.start(*words, flags=flags)
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def type_keys(terminal: subprocess.Popen[bytes]) -> list[float]:
    """The n-th byte that comes back is the n-th key's echo."""
    assert terminal.stdin is not None
    assert terminal.stdout is not None
    keyboard, screen = terminal.stdin.fileno(), terminal.stdout.fileno()
    typed: list[float] = []
    delays: list[float] = []
    begin = time.perf_counter()
    give_up = begin + KEYS * KEY_INTERVAL + ECHO_WAIT
    while len(delays) < KEYS:
        now = time.perf_counter()
        due = begin + len(typed) * KEY_INTERVAL if len(typed) < KEYS else give_up
        if now >= give_up:
            raise MeasurementFailed(f"only {len(delays)} of {KEYS} keys came back")
        if now >= due:
            os.write(keyboard, b"k")
            typed.append(now)
        elif select.select([screen], [], [], due - now)[0]:
            echo = os.read(screen, 4096)
            if not echo:
                raise MeasurementFailed("the far terminal has gone")
            now = time.perf_counter()
            delays += [now - at for at in typed[len(delays) : len(delays) + len(echo)]]
    return delays
