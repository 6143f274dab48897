"""The line that shows how far a file has come."""

from __future__ import annotations

import asyncio
import os

import pytest

from sshoq.client.progress import Meter, Progress, amount, describe, show


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "    0B "), (999, "  999B "), (1000, "  1.0KB"), (1024, "  1.0KB"),
        (5_000_000, "  4.8MB"), (1 << 40, "  1.0TB"), (1 << 62, "4096.0PB"),
    ],
)  # fmt: skip
def test_amounts(count: int, text: str) -> None:
    assert amount(count) == text


def meter(name: str, total: int, done: int) -> Meter:
    one = Meter(name, total, 100.0)
    one.advance(done)
    return one


def test_a_line_under_way_and_at_the_end() -> None:
    under_way = describe(meter("file", 4 << 20, 1 << 20), 102.0, 60)
    assert under_way == f"{'file':23}  25%   1.0MB 512.0KB/s   00:06 ETA"
    ended = describe(meter("file", 4 << 20, 4 << 20), 108.0, 60)
    assert ended == f"{'file':23} 100%   4.0MB 512.0KB/s   00:08    "


def test_a_line_that_has_not_begun_knows_no_time() -> None:
    assert "--:-- ETA" in describe(meter("file", 10, 0), 100.0, 60)


def test_a_line_fits_the_terminal() -> None:
    for columns in (40, 60, 200):
        assert len(describe(meter("n" * 300, 10, 5), 101.0, columns)) < columns


def test_files_that_end_leave_a_line_and_others_none() -> None:
    reader, writer = os.pipe()

    async def main() -> None:
        progress = Progress(writer)
        with progress.file(b"whole\x1b\n", 3) as one:
            one.advance(3)
        with pytest.raises(OSError, match="no"), progress.file(b"part", 3):
            raise OSError("no")

    asyncio.run(main())
    os.close(writer)
    with open(reader, "rb") as end:
        written = end.read()
    assert written.startswith(b"\rwhole\\033\\n ")
    assert written.count(b"\n") == 1
    assert b"part" not in written


def test_names_stay_on_their_line() -> None:
    assert show(b"a\nb\xff") == "a\\nb\ufffd"
