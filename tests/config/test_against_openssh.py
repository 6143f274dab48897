"""`sshoq -G` beside the machine's `ssh -G`: same output, messages and status, case by case."""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.cases import CATEGORIES
from tests.config.differences import REWRITES, comparable, expected, left_out
from tests.config.oracle import SSH, Case, Outcome

ROOT = Path(__file__).parents[2]
WORKERS = 2
MINIMUM = 1500
SHOWN = 12

# One group, so that parallel test processes do not each run all the cases.
pytestmark = [
    pytest.mark.privileged,
    pytest.mark.xdist_group("openssh"),
    pytest.mark.timeout(300),
]


def _reason_to_skip() -> str | None:
    if os.getuid() != 0:
        return "needs root, to make a private namespace"
    if shutil.which("unshare") is None or not Path(SSH).exists():
        return "needs unshare and OpenSSH's client"
    version = subprocess.run([SSH, "-V"], capture_output=True, text=True, check=False).stderr
    if not version.startswith("OpenSSH_9.2"):
        return f"the table of differences is written for OpenSSH 9.2, this is {version.split()[0]}"
    probe = subprocess.run(["unshare", "-unm", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "this machine lets nobody make namespaces"


@functools.cache
def outcomes() -> dict[str, list[tuple[Case, Outcome, Outcome]]]:
    """All cases of all categories, run once by two workers."""
    if (reason := _reason_to_skip()) is not None:
        pytest.skip(reason)
    cases = [
        (category, case)
        for category, make in CATEGORIES.items()
        for case in make()
        if left_out(case) is None
    ]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    workers = [
        subprocess.Popen(
            ["unshare", "-unm", sys.executable, "-m", "tests.config.oracle"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environ,
        )
        for _ in range(WORKERS)
    ]
    shares = [cases[start::WORKERS] for start in range(WORKERS)]
    for worker, share in zip(workers, shares, strict=True):
        assert worker.stdin is not None
        worker.stdin.write(json.dumps([case for _, case in share]).encode())
        worker.stdin.close()
        worker.stdin = None
    result: dict[str, list[tuple[Case, Outcome, Outcome]]] = {name: [] for name in CATEGORIES}
    for worker, share in zip(workers, shares, strict=True):
        output, _ = worker.communicate(timeout=280)
        assert worker.returncode == 0
        for (category, case), (theirs, ours) in zip(share, json.loads(output), strict=True):
            result[category].append((case, theirs, ours))
    return result


def difference(case: Case, theirs: Outcome, ours: Outcome) -> str | None:
    """What disagrees, in a few lines; None if nothing does."""
    theirs, ours = expected(case, theirs), comparable(case, ours)
    if theirs == ours:
        return None
    lines = [f"{case['name']!r}: {case['argv']} {case['files']}"]
    if theirs["status"] != ours["status"]:
        lines.append(f"  status {theirs['status']} became {ours['status']}")
    streams = [("stderr", theirs["stderr"], ours["stderr"])]
    if theirs["status"] == ours["status"]:
        streams.append(("stdout", theirs["stdout"], ours["stdout"]))
    for stream, old_text, new_text in streams:
        old, new = old_text.split("\n"), new_text.split("\n")
        lines += [f"  - {line[:200]!r}" for line in old if line not in new]
        lines += [f"  + {line[:200]!r}" for line in new if line not in old]
        if sorted(old) == sorted(new) and old != new:
            lines.append(f"  another order in {stream}")
    return "\n".join(lines)


@pytest.mark.parametrize("category", CATEGORIES)
def test_sshoq_and_ssh_agree(category: str) -> None:
    results = outcomes()[category]
    disagreements = [text for row in results if (text := difference(*row)) is not None]
    assert not disagreements, "\n".join(
        [f"{len(disagreements)} of {len(results)} cases differ", *disagreements[:SHOWN]]
    )


def test_enough_cases_are_compared() -> None:
    counts = Counter({category: len(rows) for category, rows in outcomes().items()})
    assert counts.total() >= MINIMUM
    accepted = sum(row[1]["status"] == 0 for rows in outcomes().values() for row in rows)
    assert accepted >= MINIMUM // 2


@pytest.mark.parametrize("row", REWRITES, ids=[reason for reason, _ in REWRITES])
def test_each_rewrite_is_needed(row: tuple[str, Callable[[Case, str], str]]) -> None:
    _, rewrite = row
    rows = (row for rows in outcomes().values() for row in rows)
    assert any(rewrite(case, theirs["stdout"]) != theirs["stdout"] for case, theirs, _ in rows)
