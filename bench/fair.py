"""What one of our transfers and a flow of the kernel's TCP get of a bottleneck that they share.

The queue's length, in what the path holds without one, and who comes first make the difference;
shares are looked at when both have found theirs. As a program, this file is TCP's sender.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.far import LOSS_BASED, MBIT, ROUND_TRIP
from bench.measurements import NAMES, MeasurementFailed, Setting, row_of
from bench.report import Row
from tests.netns import Link, delay_link
from tests.programs import Client

RATE = 50 * MBIT
QUEUES = (0.25, 1.0, 4.0)
STAGGER = 1.0
"""Seconds between the two beginnings: the first has the path by then."""

SETTLING, MEASURING = 15.0, 15.0
PORT = 5201
BLOCK = bytes(1 << 16)

Start = Callable[[contextlib.ExitStack], "subprocess.Popen[bytes]"]


def fair_shares(setting: Setting) -> Iterator[Row]:
    """The ratio is ours to TCP's, or to that of another one of ours."""
    tcp = next((name for name in LOSS_BASED if name in _known_to_kernel()), "reno")
    for queue in QUEUES:
        for first in NAMES:

            def make(queue: float = queue, first: str = first) -> dict[str, list[float]]:
                with _bottleneck(setting, queue) as (link, client):
                    starts: dict[str, Start] = {
                        "openssh": lambda stack: _start_tcp(stack, link, tcp),
                        "sshoq": lambda stack: _start_own(stack, client),
                    }
                    return _share(starts, first)

            who = "TCP" if first == "openssh" else "ours"
            yield row_of(f"TCP {tcp} : ours, queue {queue:g}, {who} first", "MB/s", make)
    for queue in QUEUES:

        def make_own(queue: float = queue) -> dict[str, list[float]]:
            with _bottleneck(setting, queue) as (_, client):
                return _share(
                    {name: lambda stack: _start_own(stack, client) for name in NAMES}, NAMES[0]
                )

        yield row_of(f"two of ours, queue {queue:g}", "MB/s", make_own)


def _known_to_kernel() -> list[str]:
    return Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


@contextlib.contextmanager
def _bottleneck(setting: Setting, queue: float) -> Iterator[tuple[Link, Client]]:
    room = int(queue * RATE * ROUND_TRIP)
    with (
        delay_link(ROUND_TRIP, rate=RATE, queue=room) as link,
        setting.pair("sshoq", link) as client,
    ):
        yield link, client


def _start_own(stack: contextlib.ExitStack, client: Client) -> subprocess.Popen[bytes]:
    return _keep(stack, client.start("cat /dev/zero"))


def _start_tcp(stack: contextlib.ExitStack, link: Link, tcp: str) -> subprocess.Popen[bytes]:
    """Sent from where our server is, received where our client is."""
    sender = _keep(
        stack,
        subprocess.Popen(
            [*link.prefix_a, sys.executable, "-m", "bench.fair", link.address_a, tcp],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ),
    )
    assert sender.stdout is not None
    if sender.stdout.readline() != b"ready\n":
        raise MeasurementFailed(f"the kernel knows no TCP by {tcp}")
    receive = f"exec 3<>/dev/tcp/{link.address_a}/{PORT}; exec cat <&3"
    command = [*link.prefix_b, "bash", "-c", receive]
    return _keep(stack, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))


def _keep(stack: contextlib.ExitStack, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    def end() -> None:
        process.kill()
        process.communicate()

    stack.callback(end)
    return process


def _share(starts: dict[str, Start], first: str) -> dict[str, list[float]]:
    """Megabytes a second that each gets, of the flows that these start."""
    second = next(name for name in NAMES if name != first)
    with contextlib.ExitStack() as stack:
        flows = {first: starts[first](stack)}
        take(flows, STAGGER)
        flows[second] = starts[second](stack)
        take(flows, SETTLING)
        got = take(flows, MEASURING)
    return {name: [got[name] / MEASURING / 1e6] for name in NAMES}


def take(flows: dict[str, subprocess.Popen[bytes]], seconds: float) -> dict[str, int]:
    """Read what comes for so long; how many bytes those were."""
    names = {flow.stdout: name for name, flow in flows.items() if flow.stdout is not None}
    got = dict.fromkeys(flows, 0)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for stream in select.select(list(names), [], [], left)[0]:
            data = os.read(stream.fileno(), len(BLOCK))
            if not data:
                raise MeasurementFailed(f"the transfer of {names[stream]} has ended")
            got[names[stream]] += len(data)
    return got


def send(address: str, tcp: str) -> None:
    """To whoever comes first, without end."""
    with socket.create_server((address, PORT)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, tcp.encode())
        print("ready", flush=True)
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(BLOCK)


if __name__ == "__main__":
    send(*sys.argv[1:3])
