"""A path with delay, loss and a rate between two network namespaces, made of two TUN devices and a
relay of our own, since netem is not everywhere. And a row of namespaces that see their neighbours.

    with delay_link(rtt=0.05) as link:
        link.run_a(["ping", "-c", "1", link.address_b])

    with row_of_networks(3) as row:
        subprocess.run([*row.prefix(0), "ping", "-c", "1", row.address(1)])

The namespaces have no name: they live as long as the relay and what runs in them, so nothing is
left behind however the test ends. Run as a script, this file is the relay.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

MTU = 1500
# A packet waits for its turn at the rate, or for its time to arrive; each has a bound, as in a
# router and on a wire.
QUEUE_BYTES = 1 << 20
FLIGHT_BYTES = 64 << 20
# One end must not starve the other, nor the packets that fall due.
BATCH = 64

_TUNSETIFF = 0x400454CA
_IFF_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_CLONE_NEWNET = 0x40000000
_PR_SET_TIMERSLACK = 29


class Path(NamedTuple):
    """What happens to a packet on its way, in one direction."""

    delay: float  # seconds
    loss: float = 0.0  # probability
    rate: float | None = None  # bytes a second
    queue: int = QUEUE_BYTES


class Direction:
    """Packets under way from one device to the other. Pure: time comes in as an argument, in
    nanoseconds."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._delay = int(path.delay * 1e9)
        self._random = random.Random(seed)
        self._free_at = 0  # when the last queued packet will have left at the given rate
        self._heap: list[tuple[int, int, bytes]] = []
        self._order = itertools.count()
        self._in_flight = 0

    def accept(self, packet: bytes, now: int) -> None:
        if self._path.loss and self._random.random() < self._path.loss:
            return
        leaves = now
        if self._path.rate is not None:
            start = max(now, self._free_at)
            if (start - now) * self._path.rate > self._path.queue * 1e9:
                return
            leaves = self._free_at = start + int(len(packet) * 1e9 / self._path.rate)
        if self._in_flight + len(packet) > FLIGHT_BYTES:
            return
        self._in_flight += len(packet)
        heapq.heappush(self._heap, (leaves + self._delay, next(self._order), packet))

    def next_due(self) -> int | None:
        return self._heap[0][0] if self._heap else None

    def due(self, now: int) -> Iterator[bytes]:
        while self._heap and self._heap[0][0] <= now:
            packet = heapq.heappop(self._heap)[2]
            self._in_flight -= len(packet)
            yield packet


class Link:
    """Two namespaces, `a` and `b`, and how to run something in either."""

    address_a, address_b = "10.77.0.1", "10.77.0.2"
    address6_a, address6_b = "fd77::1", "fd77::2"

    def __init__(self, relay_pid: int, namespace_a: int, namespace_b: int) -> None:
        self._paths = [f"/proc/{relay_pid}/fd/{fd}" for fd in (namespace_a, namespace_b)]

    @property
    def prefix_a(self) -> list[str]:
        """Words that run a command in `a` when they are put before it."""
        return ["nsenter", f"--net={self._paths[0]}", "--"]

    @property
    def prefix_b(self) -> list[str]:
        return ["nsenter", f"--net={self._paths[1]}", "--"]

    def run_a(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """As subprocess.run, whose options are too many to repeat."""
        return subprocess.run([*self.prefix_a, *command], **options)

    def run_b(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        return subprocess.run([*self.prefix_b, *command], **options)


class Row:
    """Namespaces in a row, numbered from 0. None forwards anything."""

    def __init__(self, keeper: int, namespaces: Sequence[int]) -> None:
        self._paths = [f"/proc/{keeper}/fd/{fd}" for fd in namespaces]

    def prefix(self, number: int) -> list[str]:
        return ["nsenter", f"--net={self._paths[number]}", "--"]

    @staticmethod
    def address(number: int) -> str:
        """Where the one before it finds it; nobody else does."""
        return f"10.78.{number}.2"


@contextlib.contextmanager
def row_of_networks(count: int) -> Iterator[Row]:
    with _script(f"--row={count}") as (keeper, namespaces):
        yield Row(keeper, namespaces)


@contextlib.contextmanager
def delay_link(
    rtt: float = 0.0,
    loss: float = 0.0,
    rate: float | None = None,
    *,
    queue: int = QUEUE_BYTES,
    seed: int = 1,
) -> Iterator[Link]:
    """`loss` and `rate` (bytes a second) hold for each direction, `rtt` (seconds) for both
    together."""
    words = [f"--delay={rtt / 2}", f"--loss={loss}", f"--seed={seed}", f"--queue={queue}"]
    words += [f"--rate={rate}"] if rate is not None else []
    with _script(*words) as (relay, namespaces):
        yield Link(relay, *namespaces)


@contextlib.contextmanager
def _script(*words: str) -> Iterator[tuple[int, list[int]]]:
    """This file as a process, which keeps namespaces: its pid, and their descriptors there."""
    relay = subprocess.Popen(
        [sys.executable, __file__, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert relay.stdin is not None
    assert relay.stdout is not None
    try:
        ready = relay.stdout.readline().split()
        if not ready:
            raise RuntimeError("no namespaces; they need root and /dev/net/tun")
        yield relay.pid, [int(word) for word in ready]
    finally:
        relay.stdin.close()  # tells the relay to end
        relay.stdout.close()
        relay.wait(timeout=10)


def make_end(libc: ctypes.CDLL, number: int) -> tuple[int, int]:
    """A new namespace with a TUN device in it, which this process keeps: (device, namespace)."""
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"wire", _IFF_TUN_WITHOUT_HEADER))
    address, peer = (f"10.77.0.{number}", f"10.77.0.{3 - number}")
    for words in (
        "link set lo up",
        f"link set wire mtu {MTU} txqueuelen 10000 up",
        f"address add {address} peer {peer} dev wire",
        f"-6 address add fd77::{number}/64 dev wire nodad",
    ):
        subprocess.run(["ip", *words.split()], check=True, stdin=subprocess.DEVNULL)
    return device, os.open("/proc/self/ns/net", os.O_RDONLY)


def make_row(libc: ctypes.CDLL, count: int) -> list[int]:
    """The namespaces, each joined to the one before it by a pair of devices."""
    namespaces: list[int] = []
    for number in range(count):
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        _ip("link set lo up")
        namespaces.append(os.open("/proc/self/ns/net", os.O_RDONLY))
        if number:
            before = f"/proc/{os.getpid()}/fd/{namespaces[-2]}"
            _ip(f"link add name back type veth peer name next netns {before}")
            _ip(f"address add 10.78.{number}.2/24 dev back")
            _ip("link set back up")
            _ip(f"address add 10.78.{number}.1/24 dev next", f"--net={before}")
            _ip("link set next up", f"--net={before}")
    return namespaces


def _ip(words: str, network: str = "") -> None:
    prefix = ["nsenter", network, "--"] if network else []
    subprocess.run([*prefix, "ip", *words.split()], check=True, stdin=subprocess.DEVNULL)


def read_batch(device: int, direction: Direction) -> None:
    for _ in range(BATCH):
        try:
            packet = os.read(device, MTU + 64)
        except BlockingIOError:
            return
        direction.accept(packet, time.monotonic_ns())


def relay(devices: tuple[int, int], directions: tuple[Direction, Direction], end: int) -> None:
    """Until `end` is closed. select() takes microseconds; poll() would round up to milliseconds."""
    first, second = devices
    routes = ((directions[0], second), (directions[1], first))
    while True:
        dues = [due for direction, _ in routes if (due := direction.next_due()) is not None]
        wait = max(min(dues) - time.monotonic_ns(), 0) / 1e9 if dues else None
        readable = select.select([first, second, end], [], [], wait)[0]
        if end in readable:
            return
        for device, direction in zip(devices, directions, strict=True):
            if device in readable:
                read_batch(device, direction)
        now = time.monotonic_ns()
        for direction, device in routes:
            for packet in direction.due(now):
                with contextlib.suppress(OSError):  # a full device queue drops, as a router does
                    os.write(device, packet)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("delay", "loss", "rate"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("queue", "seed", "row"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    libc = ctypes.CDLL(None, use_errno=True)
    if options.row:
        print(*make_row(libc, options.row), flush=True)
        sys.stdin.read()
        return
    libc.prctl(_PR_SET_TIMERSLACK, 1)
    (first, namespace_a), (second, namespace_b) = make_end(libc, 1), make_end(libc, 2)
    path = Path(options.delay, options.loss, options.rate, options.queue)
    directions = (Direction(path, options.seed), Direction(path, options.seed + 1))
    print(namespace_a, namespace_b, flush=True)
    relay((first, second), directions, sys.stdin.fileno())


if __name__ == "__main__":
    main()
