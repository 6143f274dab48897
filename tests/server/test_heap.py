"""What a parent does to its heap so that its children copy little of it."""

import subprocess
import sys
from pathlib import Path

START = """\
import gc
from sshoq.server.heap import SMALL, settle_heap
"""


def run(code: str) -> str:
    """In an interpreter of its own: what is frozen there stays so."""
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_made_later_falls_into_no_gap() -> None:
    code = """\
blocks = [bytes(47) for _ in range(5000)]
gaps = {id(block) for block in blocks[::3]}
del blocks[::3]
settle_heap()
later = [bytes(47) for _ in range(len(gaps))]
print(len(gaps), len(gaps & set(map(id, later))))
"""
    count, fallen = map(int, run(code).split())
    assert count > 1000
    assert fallen == 0


def test_the_collector_no_longer_looks_at_what_was_there() -> None:
    code = """\
there = [[]]
settle_heap()
print(gc.get_freeze_count() > 1000, any(one is there for one in gc.get_objects()))
"""
    assert run(code) == "True False"


def test_it_takes_a_bounded_amount_of_memory() -> None:
    code = """\
from sshoq.server import heap
settle_heap()
print(sum(map(len, filter(None, (b for b in heap._stoppers if isinstance(b, bytes))))))
"""
    assert int(run(code)) < 4 * 1024 * 1024
