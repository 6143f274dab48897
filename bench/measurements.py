"""What is measured, and how. Each measurement runs both pairs of programs in turn and yields rows.

A part that is missing or fails is a row that says so; no figure is ever made up or left over from
another run.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.report import Row
from tests.accounts import Account, make_account
from tests.janitor import Janitor
from tests.netns import Link, delay_link
from tests.processes import unshared_bytes
from tests.programs import PROGRAMS, Client, ProgramMissing, Server, find_program

NAMES = ("openssh", "sshoq")
ROUND_TRIPS = (0.0, 0.02, 0.05, 0.1)
IDLE_CONNECTIONS = 5
MIB = 1 << 20


class Setting:
    """One user, and the means to start either server; everything is undone by the janitor."""

    def __init__(self, janitor: Janitor, runs: int, megabytes: int, crowd: int) -> None:
        self.janitor = janitor
        self.runs = runs
        self.megabytes = megabytes
        self.crowd = crowd
        self.account: Account = make_account(janitor, janitor.directory())

    @contextlib.contextmanager
    def pair(self, name: str, link: Link | None = None) -> Iterator[Client]:
        """A server and a client of it; with a link, at its two ends."""
        server = Server(
            PROGRAMS[name],
            self.janitor,
            self.janitor.directory(),
            ["MaxStartups 100", "PrintMotd no", "Subsystem sftp /usr/lib/openssh/sftp-server"],
            host=link.address_a if link else "127.0.0.1",
            prefix=link.prefix_a if link else (),
        )
        try:
            user = self.account
            folder = self.janitor.directory()
            prefix = link.prefix_b if link else ()
            yield Client(server, user.name, user.key, folder, prefix)
        finally:
            server.stop()

    @contextlib.contextmanager
    def pairs(self, link: Link | None = None) -> Iterator[dict[str, Client]]:
        with contextlib.ExitStack() as stack:
            yield {name: stack.enter_context(self.pair(name, link)) for name in NAMES}


class MeasurementFailed(Exception):
    """Something that should have been measured did not work."""


def interleave(
    setting: Setting, measure: Callable[[str], float], warm_up: bool = True, runs: int = 100
) -> dict[str, list[float]]:
    """Both in turn, so that whatever else the machine does meets both alike. `runs`: at most."""
    samples: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(min(setting.runs, runs) + warm_up):
        for name in NAMES:
            value = measure(name)
            if number >= warm_up:
                samples[name].append(value)
    return samples


def row_of(what: str, unit: str, make: Callable[[], dict[str, list[float]]]) -> Row:
    """A measurement as a row, or the reason why there is none."""
    try:
        samples = make()
    except (ProgramMissing, MeasurementFailed, AssertionError, subprocess.TimeoutExpired) as error:
        return Row(what, unit, failure=" ".join(str(error).split())[-300:])
    return row_with(what, unit, samples)


def row_with(what: str, unit: str, samples: dict[str, list[float]]) -> Row:
    better = unit.endswith("/s")
    return Row(what, unit, samples["openssh"], samples["sshoq"], more_is_better=better)


def timed(run: Callable[[], subprocess.CompletedProcess[bytes]]) -> float:
    """Seconds that a program takes which must succeed."""
    started = time.perf_counter()
    done = run()
    elapsed = time.perf_counter() - started
    if done.returncode != 0:
        errors = done.stderr.decode(errors="replace") if done.stderr else ""
        raise MeasurementFailed(f"status {done.returncode}: {errors}")
    return elapsed


def command_times(setting: Setting) -> Iterator[Row]:
    """`true` on a remote host: start, connect, log in, run, end. Nothing is kept between runs."""
    for rtt in ROUND_TRIPS:

        def make(rtt: float = rtt) -> dict[str, list[float]]:
            with contextlib.ExitStack() as stack:
                link = stack.enter_context(delay_link(rtt)) if rtt else None
                clients = stack.enter_context(setting.pairs(link))
                run = {name: client.run for name, client in clients.items()}
                return {
                    name: [seconds * 1000 for seconds in samples]
                    for name, samples in interleave(
                        setting, lambda name: timed(lambda: run[name]("true"))
                    ).items()
                }

        yield row_of(f"true, round trip {rtt * 1000:.0f} ms", "ms", make)


def bulk_rates(setting: Setting) -> Iterator[Row]:
    """A command's output and input, on loopback: both ends and the kernel share the cores."""
    size = setting.megabytes * 1_000_000
    for what, run in (("down", download), ("up", upload)):

        def make(run: Callable[[Client, int], float] = run) -> dict[str, list[float]]:
            with setting.pairs() as clients:
                samples = interleave(setting, lambda name: run(clients[name], size))
            return {
                name: [setting.megabytes / seconds for seconds in times]
                for name, times in samples.items()
            }

        yield row_of(f"{setting.megabytes} MB {what}, loopback", "MB/s", make)


def download(client: Client, size: int) -> float:
    """Seconds for so many bytes of a command's output."""
    command = client.command(f"head -c {size} /dev/zero", flags=["-o", "BatchMode=yes"])
    return timed(lambda: run_plain(client, command, subprocess.DEVNULL, "wc -c", size))


def upload(client: Client, size: int) -> float:
    """Seconds for so many bytes of a command's input."""
    command = client.command("wc -c", flags=["-o", "BatchMode=yes"])
    with subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE) as feeder:
        assert feeder.stdout is not None
        source = feeder.stdout.fileno()
        return timed(lambda: run_plain(client, command, source, "cat", size))


def run_plain(
    client: Client, command: list[str], stdin: int, counter: str, size: int
) -> subprocess.CompletedProcess[bytes]:
    """Run with the output through a local counter; the bytes must all have arrived."""
    with subprocess.Popen(
        ["sh", "-c", counter], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as sink:
        assert sink.stdin is not None
        assert sink.stdout is not None
        done = subprocess.run(
            command,
            stdin=stdin,
            stdout=sink.stdin,
            stderr=subprocess.PIPE,
            env=client.environment(),
            timeout=600,
        )
        sink.stdin.close()
        counted = sink.stdout.read().strip()
    if done.returncode == 0 and counted != str(size).encode():
        raise MeasurementFailed(f"{counted!r} bytes of {size} arrived")
    return done


def idle_memory(setting: Setting) -> Iterator[Row]:
    """What one more logged-in connection with an idle command costs the server, all its
    processes."""

    def measure(name: str) -> float:
        with setting.pair(name) as client:
            before = {process.pid for process in client.server.family()}
            running = [client.start("echo in; exec cat") for _ in range(IDLE_CONNECTIONS)]
            try:
                for process in running:
                    assert process.stdout is not None
                    if process.stdout.readline() != b"in\n":
                        assert process.stderr is not None
                        process.kill()
                        raise MeasurementFailed(process.stderr.read().decode(errors="replace"))
                # The user's own program is no part of the server's costs.
                own = [p for p in client.server.family() if p.name != "cat" and p.pid not in before]
                total = sum(unshared_bytes(process.pid) for process in own)
                return total / IDLE_CONNECTIONS / MIB
            finally:
                for process in running:
                    process.kill()
                    process.communicate()

    yield row_of(
        "memory of an idle connection (USS)",
        "MiB",
        lambda: interleave(setting, measure, warm_up=False),
    )


def start_times(setting: Setting) -> Iterator[Row]:
    """The start of the client alone."""
    programs = {"openssh": "ssh", "sshoq": "sshoq"}
    folder = setting.janitor.directory()
    for what, arguments in (("-G host", ["-F", "none", "-G", "host"]), ("-V", ["-V"])):

        def make(arguments: list[str] = arguments) -> dict[str, list[float]]:
            samples = interleave(
                setting,
                lambda name: timed(
                    lambda: run_question([find_program(programs[name]), *arguments], folder)
                ),
            )
            return {name: [seconds * 1000 for seconds in times] for name, times in samples.items()}

        yield row_of(f"start of the client, {what}", "ms", make)


def run_question(command: list[str], home: Path) -> subprocess.CompletedProcess[bytes]:
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=30
    )


MEASUREMENTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "start": start_times,
    "command": command_times,
    "bulk": bulk_rates,
    "memory": idle_memory,
}
