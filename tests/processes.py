"""Looking at processes through /proc: who they are, what they hold, and whether they are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

POLL = 0.02
STILL = 0.3


class Process(NamedTuple):
    pid: int
    parent: int
    uid: int
    name: str
    started: int  # clock ticks since boot: with the pid it names a process for good


C_LIBRARY_SIGNALS = 0b11 << 31
"""Signals 32 and 33 in the masks of /proc/PID/status: glibc keeps them to itself, and what was
started by its posix_spawn, by make for one, finds them ignored and can do nothing about it.
"""


def wait_until(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Poll until the condition holds; a test that waits for a state says so by name here."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout} s still not: {what}")
        time.sleep(POLL)


def wait_until_still(value: Callable[[], int], timeout: float, what: str) -> None:
    """Poll until a counter has begun and then has not moved for a while."""
    last, since = 0, time.monotonic()

    def is_still() -> bool:
        nonlocal last, since
        now = value()
        if now != last:
            last, since = now, time.monotonic()
        return last > 0 and time.monotonic() - since > STILL

    wait_until(is_still, timeout, what)


def read_process(pid: int) -> Process | None:
    """None when the process is gone or a zombie, which is gone but for its parent's wait()."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(")")
        uid = os.stat(f"/proc/{pid}").st_uid
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            uid = next(int(line.split()[1]) for line in file if line.startswith("Uid:"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = rest.split()
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), uid, name, int(fields[19]))


def all_processes() -> Iterator[Process]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := read_process(int(entry))):
            yield process


def processes_of(uid: int) -> list[Process]:
    return [process for process in all_processes() if process.uid == uid]


def descendants(pid: int) -> list[Process]:
    """Children, their children and so on, parents first."""
    everything = list(all_processes())
    found: list[Process] = []
    wanted = {pid}
    while new := [p for p in everything if p.parent in wanted and p not in found]:
        found += new
        wanted = {process.pid for process in new}
    return found


def processes_with(variable: str, value: str) -> list[Process]:
    """Those started with this in their environment, wherever they have been reparented to."""
    wanted = f"{variable}={value}".encode()
    found = []
    for process in all_processes():
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                found.append(process)
    return found


def is_running(process: Process) -> bool:
    """Whether that very process, and not a later one with its number, still runs."""
    now = read_process(process.pid)
    return now is not None and now.started == process.started


def end_process(process: Process, number: int = signal.SIGKILL) -> None:
    if is_running(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def resident_bytes(pid: int) -> int:
    return _memory(pid, "/status", ("VmRSS",))


def unshared_bytes(pid: int) -> int:
    """The unique set size: what the machine gets back when this process ends."""
    return _memory(pid, "/smaps_rollup", ("Private_Clean", "Private_Dirty"))


def _memory(pid: int, file_name: str, fields: tuple[str, ...]) -> int:
    with open(f"/proc/{pid}{file_name}", encoding="ascii", errors="replace") as file:
        lines = [line.split() for line in file]
    return sum(int(words[1]) * 1024 for words in lines if words[0].rstrip(":") in fields)


def run_python(code: str) -> tuple[str, str]:
    """In an interpreter of its own, that must succeed: what it prints, and its complaints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def memory_holds(pid: int, content: bytes) -> bool:
    """Whether that stands anywhere in what the process could write to."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            extent, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(text, 16) for text in extent.split("-"))
                memory.seek(start)
                if content in memory.read(end - start):
                    return True
    return False


def anonymous_bytes(processes: Iterable[Process]) -> int:
    """The memory of all of them that is no file's, each page once, however many share it. Those
    that end meanwhile have none."""
    total = 0
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += _memory(process.pid, "/smaps_rollup", ("Pss_Anon",))
    return total


def voluntary_switches(processes: Iterable[Process]) -> int:
    """How often they have waited for something and were woken."""
    total = 0
    for process in processes:
        with open(f"/proc/{process.pid}/status", encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
        total += sum(int(words[1]) for words in lines if words[0] == "voluntary_ctxt_switches:")
    return total
