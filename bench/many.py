"""What many of a kind cost the server: log-ins, idle connections, idle forwarded channels.

Memory is that of the server's whole family, before and after. What several processes share counts
once, so what a monitor shares with its session leader alone is in it, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import select
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from bench.measurements import MIB, NAMES, MeasurementFailed, Setting, interleave, row_of
from bench.report import Row
from sshoq.protocol.messages import Exec, Session
from sshoq.transport.channel import Channel
from tests.accounts import Account
from tests.processes import Process, anonymous_bytes, read_process, voluntary_switches
from tests.programs import Client, Server
from tests.raw_client import connected

LOGINS = 24
AT_A_TIME = 4
CHANNELS = 1000

SETTLING = 11.0
IDLE_SECONDS = 22.0
"""After 10 seconds a silent peer is asked for a sign of life."""

PATIENCE = 60.0
LIFETIME = 600.0
DESCRIPTORS = 8192
COMMAND = "echo in; exec cat"
KIB = 1024


# --------------------------------------------------------------------------- log-ins


def login_rates(setting: Setting) -> Iterator[Row]:
    """`true`, a few at a time; the clients share the machine with the server."""

    def rate(client: Client) -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for done in pool.map(lambda _: client.run("true"), range(LOGINS)):
                if done.returncode != 0:
                    raise MeasurementFailed(done.stderr.decode(errors="replace"))
        return LOGINS / (time.perf_counter() - started)

    def make() -> dict[str, list[float]]:
        with setting.pairs() as clients:
            return interleave(setting, lambda name: rate(clients[name]))

    yield row_of(f"log-ins, {AT_A_TIME} clients at a time", "1/s", make)


# --------------------------------------------------------------------------- idle connections


class Idle(NamedTuple):
    """What one of a crowd costs while nobody says anything."""

    memory: float
    wakeups: float


def crowd_costs(setting: Setting) -> Iterator[Row]:
    """Logged in, with a command that waits; in the end each has to answer."""
    count = setting.crowd
    found: dict[str, Idle] = {}

    def make() -> dict[str, list[float]]:
        for name in NAMES:
            with _no_answer_fails(), _more_descriptors(), setting.pair(name) as client:
                found[name] = asyncio.run(CROWDS[name](client, setting.account, count))
        return {name: [idle.memory / MIB] for name, idle in found.items()}

    yield row_of(f"memory of each of {count} idle", "MiB", make)
    if len(found) == len(NAMES):
        yield row_of(
            f"wakeups of each of {count} idle",
            "1/s",
            lambda: {name: [idle.wakeups] for name, idle in found.items()},
        )._replace(more_is_better=False)


async def _programs(client: Client, _: Account, count: int) -> Idle:
    """Of OpenSSH's clients; ours would need all of the machine's memory themselves."""
    before = client.server.family()
    memory = anonymous_bytes(before)
    running: list[subprocess.Popen[bytes]] = []

    async def all_answer() -> None:
        for process in running:
            assert process.stdin is not None
            process.stdin.write(b"alive\n")
            process.stdin.flush()
            _expect_line(process, b"alive\n")

    try:
        for _number in range(count):
            running.append(client.start(COMMAND))
            _expect_line(running[-1], b"in\n")
        return await _watch_idling(client.server, before, memory, count, all_answer)
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _expect_line(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
    if not ready or process.stdout.readline() != line:
        raise MeasurementFailed("a connection does not answer")


async def _conversations(client: Client, account: Account, count: int) -> Idle:
    before = client.server.family()
    memory = anonymous_bytes(before)
    channels: list[Channel] = []

    async def all_answer() -> None:
        for channel in channels:
            await channel.write(b"alive\n")
            await _expect_bytes(channel, b"alive\n")

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            party = await stack.enter_async_context(connected(client.server, account, LIFETIME))
            channels.append(party.conversation.open_channel(Session()))
            channels[-1].request(Exec(COMMAND))
            await _expect_bytes(channels[-1], b"in\n")
        return await _watch_idling(client.server, before, memory, count, all_answer)


async def _expect_bytes(channel: Channel, wanted: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        got = b""
        while len(got) < len(wanted) and (data := bytes(await channel.read())):
            got += data
    if got != wanted:
        raise MeasurementFailed("a connection does not answer")


async def _watch_idling(
    server: Server,
    before: list[Process],
    memory: int,
    count: int,
    all_answer: Callable[[], Awaitable[None]],
) -> Idle:
    await asyncio.sleep(SETTLING)
    # The users' own programs are no part of the server's costs.
    crowd = [one for one in server.family() if one.name != "cat" and one not in before]
    grown = anonymous_bytes([*before, *crowd]) - memory
    woken = voluntary_switches(crowd)
    await asyncio.sleep(IDLE_SECONDS)
    woken = voluntary_switches(crowd) - woken
    await all_answer()
    return Idle(grown / count, woken / count / IDLE_SECONDS)


CROWDS = {"openssh": _programs, "sshoq": _conversations}


# --------------------------------------------------------------------------- idle channels


def channel_costs(setting: Setting) -> Iterator[Row]:
    """TCP connections through one -L, which nobody uses."""
    grown: dict[str, tuple[float, float]] = {}

    def make(part: int) -> dict[str, list[float]]:
        for name in NAMES:
            if name not in grown:
                with _no_answer_fails(), _more_descriptors(), setting.pair(name) as client:
                    grown[name] = _hold_channels(client, CHANNELS)
        return {name: [both[part] / KIB] for name, both in grown.items()}

    what = f"memory of each of {CHANNELS} channels"
    yield row_of(f"{what}, server", "KiB", functools.partial(make, 0))
    yield row_of(f"{what}, client", "KiB", functools.partial(make, 1))


def _hold_channels(client: Client, count: int) -> tuple[float, float]:
    """Bytes that each takes at the server and at the client."""
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=count))
        way = client.directory / "way"
        forward = f"{way}:127.0.0.1:{target.getsockname()[1]}"
        running = client.start(COMMAND, flags=["-L", forward])
        stack.callback(running.communicate)
        stack.callback(running.kill)
        _expect_line(running, b"in\n")
        family = client.server.family()
        before = anonymous_bytes(family), _anonymous(running.pid)
        target.settimeout(PATIENCE)
        pairs = []
        for _ in range(count):
            end = stack.enter_context(_connect(str(way)))
            pairs.append((end, stack.enter_context(target.accept()[0])))
        after = anonymous_bytes(family), _anonymous(running.pid)
        for end, far_end in pairs:
            far_end.sendall(b"alive")
            if end.recv(5) != b"alive":
                raise MeasurementFailed("a channel does not answer")
        return (after[0] - before[0]) / count, (after[1] - before[1]) / count


def _connect(path: str) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(PATIENCE)
    end.connect(path)
    return end


def _anonymous(pid: int) -> int:
    process = read_process(pid)
    return anonymous_bytes([process] if process else [])


@contextlib.contextmanager
def _no_answer_fails() -> Iterator[None]:
    """Waits that were in vain, and connections that are gone, are a line of the table."""
    try:
        yield
    except OSError as error:
        raise MeasurementFailed(f"{type(error).__name__}: {error}") from None


@contextlib.contextmanager
def _more_descriptors() -> Iterator[None]:
    """For us, and for the programs that are started meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
