"""Through -L, and through a ProxyCommand: bytes and connections."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from bench.costs import Cost, cost_of
from bench.measurements import NAMES, MeasurementFailed, Setting, interleave, row_of
from bench.report import Row
from tests.programs import Client, free_port

CHUNK = bytes(1 << 18)
CONNECTIONS = 200


class Source:
    """Answers the first byte of each connection with so many, and closes it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.size = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                asked = connection.recv(1)
                if asked == b"q":
                    return
                left = self.size
                while left:
                    left -= connection.send(CHUNK[:left])

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"q")
        self._thread.join()
        self._listener.close()


@contextlib.contextmanager
def source() -> Iterator[Source]:
    one = Source()
    try:
        yield one
    finally:
        one.close()


def drain(port: int, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"x")
        while size > 0:
            data = connection.recv(1 << 18)
            if not data:
                raise MeasurementFailed(f"{size} bytes short")
            size -= len(data)


@contextlib.contextmanager
def forward(client: Client, target: int) -> Iterator[int]:
    """A standing -L; its port."""
    port = free_port("tcp")
    flags = ["-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{port}:127.0.0.1:{target}"]
    process = client.start("echo ready; exec cat", flags=flags)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            assert process.stderr is not None
            process.kill()
            raise MeasurementFailed(process.stderr.read().decode(errors="replace"))
        yield port
    finally:
        process.kill()
        process.communicate()


def rate_and_cpu(
    setting: Setting, what: str, measure: Callable[[str], Cost], megabytes: int
) -> Iterator[Row]:
    """Two rows of the same runs."""
    costs: dict[str, list[Cost]] = {name: [] for name in NAMES}

    def rates() -> dict[str, list[float]]:
        def once(name: str) -> float:
            costs[name].append(measure(name))
            return megabytes / costs[name][-1].elapsed

        return interleave(setting, once)

    row = row_of(f"{megabytes} MB {what}", "MB/s", rates)
    yield row
    if row.failure is None:
        cpu = {
            name: [cost.cpu * 1000 / megabytes for cost in costs[name][1:]] for name in NAMES
        }
        yield row_of("  CPU, all processes", "ms/MB", lambda: cpu)


def forwarded_rates(setting: Setting) -> Iterator[Row]:
    """From a server behind the far side, on loopback."""
    size = setting.megabytes * 1_000_000
    with setting.pairs() as clients, source() as far:
        far.size = size

        def measure(name: str) -> Cost:
            """The login is in the CPU time, as it is everywhere, and not in the rate."""
            elapsed = 0.0

            def run() -> None:
                nonlocal elapsed
                with forward(clients[name], far.port) as port:
                    started = time.perf_counter()
                    drain(port, size)
                    elapsed = time.perf_counter() - started

            cost = cost_of([clients[name].server], run)
            return Cost(elapsed, cost.cpu)

        yield from rate_and_cpu(setting, "down through -L", measure, setting.megabytes)
        yield connection_rates(setting, clients, far)


def connection_rates(setting: Setting, clients: dict[str, Client], far: Source) -> Row:
    """One after another: connect, a byte there, a byte back, end."""
    far.size = 1

    def measure(name: str) -> float:
        with forward(clients[name], far.port) as port:
            drain(port, 1)
            started = time.perf_counter()
            for _ in range(CONNECTIONS):
                drain(port, 1)
            return CONNECTIONS / (time.perf_counter() - started)

    return row_of("connections through -L", "/s", lambda: interleave(setting, measure))


def proxied_rates(setting: Setting) -> Iterator[Row]:
    """ssh to an sshd behind the server: by `ssh -W`, and by `sshoq --stdio`."""
    size = setting.megabytes * 1_000_000
    with setting.pairs() as clients, setting.pair("openssh") as behind:
        proxies = {name: proxy_command(clients[name], behind.server.port) for name in NAMES}

        def measure(name: str) -> Cost:
            flags = ["-o", f"ProxyCommand={proxies[name]}"]
            command = behind.command(f"head -c {size} /dev/zero", flags=flags)

            def run() -> None:
                with subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=behind.environment(),
                ) as process:
                    assert process.stdout is not None
                    assert process.stderr is not None
                    got = 0
                    while data := os.read(process.stdout.fileno(), 1 << 18):
                        got += len(data)
                    errors = process.stderr.read().decode(errors="replace")
                if process.returncode or got != size:
                    raise MeasurementFailed(f"{got} bytes of {size}: {errors}")

            return cost_of([clients[name].server, behind.server], run)

        yield from rate_and_cpu(setting, "down through a ProxyCommand", measure, setting.megabytes)


def proxy_command(client: Client, port: int) -> str:
    """What carries ssh's bytes to a port behind that client's server."""
    destination = client.server.programs.destination(client.user, client.server.host)
    words = [client.server.programs.client(), *client.options()]
    if client.server.programs.name == "sshoq":
        return shlex.join([*words, "--stdio", destination, str(port)])
    return shlex.join([*words, "-W", f"127.0.0.1:{port}", destination])
