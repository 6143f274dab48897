"""The table: one line a figure, OpenSSH's and ours and their ratio. What failed says so in its
line."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FORMAT = "{:<38} {:>12} {:>12} {:>8}   {}"


class Row(NamedTuple):
    """Samples in the unit's size; `more_is_better` only words the remark."""

    what: str
    unit: str
    openssh: Sequence[float] = ()
    sshoq: Sequence[float] = ()
    failure: str | None = None
    more_is_better: bool = False


def describe_machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, "
        f"Python {platform.python_version()}, TCP with {tcp_congestion()}; "
        "medians of interleaved runs"
    )


def tcp_congestion() -> str:
    """The kernel's congestion control, which is OpenSSH's."""
    try:
        return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    except OSError:
        return "an unknown congestion control"


def print_header() -> None:
    print(FORMAT.format("", "OpenSSH", "sshoq", "ratio", ""))


def print_row(row: Row) -> None:
    if row.failure is not None:
        print(FORMAT.format(row.what, "", "", "", f"FAILED: {row.failure}"), flush=True)
        return
    one, other = statistics.median(row.openssh), statistics.median(row.sshoq)
    remark = f"spread {spread(row.openssh)}, {spread(row.sshoq)}"
    if row.more_is_better:
        remark += "; more is better"
    texts = [f"{value:.{digits(value)}f} {row.unit}" for value in (one, other)]
    print(FORMAT.format(row.what, *texts, f"{other / one:.2f}" if one else "-", remark), flush=True)


def digits(value: float) -> int:
    """Three significant digits are all that such a measurement carries."""
    return 0 if value >= 100 else 1 if value >= 10 else 2


def spread(samples: Sequence[float]) -> str:
    """How far the samples lie apart, so that nobody reads more into a ratio than is there."""
    middle = statistics.median(samples)
    return f"{(max(samples) - min(samples)) / middle:.0%}" if middle else "-"
