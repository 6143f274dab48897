"""Files by scp and sftp, with either client in ssh's place; sftp-server is the same for both."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.costs import Cost, cost_of
from bench.forwarding import rate_and_cpu
from bench.measurements import MeasurementFailed, Setting, interleave, row_of, timed
from bench.report import Row
from tests.programs import URL_PATH, Client

FILES = 2000


def options(client: Client) -> list[str]:
    """scp's and sftp's, for that client program."""
    is_ours = client.server.programs.name == "sshoq"
    path = ["-o", f"URLPath={URL_PATH}"] if is_ours else []
    return ["-S", client.server.programs.client(), *client.options(), *path]


def remote(client: Client) -> str:
    return f"{client.user}@{client.server.host}"


def run(client: Client, *command: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, input=input, capture_output=True, env=client.environment(), timeout=600
    )


def copied_rates(setting: Setting) -> Iterator[Row]:
    """One large file."""
    size = setting.megabytes * 1_000_000
    folder = setting.janitor.directory()
    source, back = folder / "source", folder / "back"
    with source.open("wb") as file:
        file.truncate(size)
    with setting.pairs() as clients:
        for way in ("up", "down"):

            def measure(name: str, way: str = way) -> Cost:
                client = clients[name]
                there = f"{remote(client)}:large"
                words = (str(source), there) if way == "up" else (there, str(back))

                def copy() -> None:
                    timed(lambda: run(client, "scp", "-q", *options(client), *words))

                cost = cost_of([client.server], copy)
                arrived = setting.account.home / "large" if way == "up" else back
                check_size(arrived, size)
                return cost

            yield from rate_and_cpu(setting, f"{way} by scp", measure, setting.megabytes)


def check_size(path: Path, size: int) -> None:
    if path.stat().st_size != size:
        raise MeasurementFailed(f"{path.stat().st_size} bytes of {size} arrived")


def small_file_rates(setting: Setting) -> Iterator[Row]:
    """Many small files: round trips, and what a request costs."""
    folder = setting.janitor.directory()
    source = folder / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"file {number}").write_bytes(b"x" * 300)
    with setting.pairs() as clients:
        for way, line in (("up", f"put -R {source} small"), ("down", "get -R small back")):

            def measure(name: str, way: str = way, line: str = line) -> float:
                client = clients[name]
                there, back = setting.account.home / "small", client.directory / "back"
                arrived = there if way == "up" else back
                shutil.rmtree(arrived, ignore_errors=True)
                batch = f"lcd {client.directory}\n{line}\n".encode()
                sftp = ["sftp", "-q", *options(client), "-b", "-", remote(client)]
                seconds = timed(lambda: run(client, *sftp, input=batch))
                if len(list(arrived.iterdir())) != FILES:
                    raise MeasurementFailed("files are missing")
                return FILES / seconds

            yield row_of(
                f"{FILES} small files {way} by sftp",
                "/s",
                lambda measure=measure: interleave(setting, measure),  # type: ignore[misc]
            )
