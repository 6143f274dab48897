"""Many connections through one forward: at the same time, and one after another, with nothing left
over in client or server."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account
from tests.echo import ask, is_open
from tests.processes import Process, unshared_bytes, wait_until
from tests.programs import Client, Server, Sshoq, free_port
from tests.scenarios.conftest import ClientFactory, ServerFactory

pytestmark = pytest.mark.privileged

PARALLEL = 200
IN_SEQUENCE = int(os.environ.get("SSHOQ_MANY", "2000"))
"""`SSHOQ_MANY=10000` for the long run."""
WARM_UP = 300
MEMORY = 2 << 20
"""What a process may grow by: a KiB for each connection would show."""


@pytest.fixture
def server(sshoq: Sshoq, start_server: ServerFactory) -> Server:
    return start_server(sshoq)


@pytest.fixture
def client(connect: ClientFactory, server: Server, account: Account) -> Client:
    return connect(server, account)


@pytest.fixture
def forward(client: Client, echo_port: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The port of a standing forward, and the client that holds it."""
    port = free_port("tcp")
    process = client.start(flags=["-N", "-L", f"{port}:127.0.0.1:{echo_port}"])
    wait_until(lambda: is_open(port), 30, "the forward stands")
    yield port, process
    process.kill()
    process.communicate(timeout=30)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


Count = Callable[[], dict[int, int]]


def counter(server: Server, client: subprocess.Popen[bytes]) -> Count:
    """Descriptors of the client and of all processes of the server, by process."""

    def count() -> dict[int, int]:
        family: list[Process] = server.family()
        return {pid: descriptors(pid) for pid in (client.pid, *(one.pid for one in family))}

    return count


def test_many_at_the_same_time(forward: tuple[int, subprocess.Popen[bytes]]) -> None:
    port, _ = forward
    answers: dict[int, bytes] = {}

    def question(number: int) -> bytes:
        return b"%d " % number * 5000

    def run(number: int) -> None:
        answers[number] = ask(port, question(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(PARALLEL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: b"echo:" + question(number) for number in range(PARALLEL)}


def test_many_one_after_another_leave_nothing(
    forward: tuple[int, subprocess.Popen[bytes]], server: Server
) -> None:
    port, process = forward
    count = counter(server, process)
    for _ in range(WARM_UP):
        assert ask(port, b"x") == b"echo:x"
    before = count()  # perhaps one more than there will be: the last one may not be gone yet
    memory = {pid: unshared_bytes(pid) for pid in before}
    for number in range(IN_SEQUENCE):
        assert ask(port, b"%d" % number) == b"echo:%d" % number

    def as_before() -> bool:
        now = count()
        return now.keys() == before.keys() and all(now[pid] <= before[pid] for pid in now)

    wait_until(as_before, 30, f"no more descriptors than before: {before}")
    for pid, size in memory.items():
        assert unshared_bytes(pid) - size < MEMORY, pid
