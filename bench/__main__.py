"""Runs the measurements and prints them as a table of ratios to OpenSSH.

python -m bench [--runs N] [--megabytes N] [--crowd N] [--only NAME]...
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from bench import copying, fair, far, forwarding, many, measurements, sharing, trips
from bench.measurements import Setting
from bench.report import describe_machine, print_header, print_row
from tests.janitor import Janitor

MEASUREMENTS = {
    **measurements.MEASUREMENTS,
    "shared": sharing.shared_times,
    "trips": trips.trip_times,
    "forward": forwarding.forwarded_rates,
    "proxy": forwarding.proxied_rates,
    "copy": copying.copied_rates,
    "small": copying.small_file_rates,
    "far": far.far_rates,
    "keys": far.key_delays,
    "fair": fair.fair_shares,
    "logins": many.login_rates,
    "crowd": many.crowd_costs,
    "channels": many.channel_costs,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench BENCH=...")
    parser.add_argument("--runs", type=int, default=7, help="interleaved runs per figure")
    parser.add_argument("--megabytes", type=int, default=200, help="size of a bulk transfer")
    parser.add_argument("--crowd", type=int, default=100, help="idle connections, held at a time")
    parser.add_argument("--only", action="append", choices=sorted(MEASUREMENTS), default=[])
    options = parser.parse_args()
    if os.geteuid() != 0:
        print(
            "bench: needs root, for a real sshd with its own user and network namespaces",
            file=sys.stderr,
        )
        return 1
    janitor = Janitor()
    failed = 0
    try:
        setting = Setting(janitor, options.runs, options.megabytes, options.crowd)
        print(describe_machine())
        print_header()
        for name, measure in MEASUREMENTS.items():
            if options.only and name not in options.only:
                continue
            started = time.monotonic()
            for row in measure(setting):
                print_row(row)
                failed += row.failure is not None
            print(f"  {name} took {time.monotonic() - started:.0f} s", file=sys.stderr)
    finally:
        janitor.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
