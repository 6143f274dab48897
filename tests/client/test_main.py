"""How a run ends that could not go on: in a line where the machine has too little, in a traceback
where the fault is ours."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sshoq.client import main

PROGRAM = Path(__file__).parents[2] / "packaging/scripts/sshoq"

SPENT = OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/usr/lib/some/module.py")
BUG = ValueError("of ours")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SPENT, "ssh: Too many open files\n"),
        (MemoryError(), "ssh: Cannot allocate memory\n"),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [SPENT])]), "ssh: Too many open files\n"),
    ],
)
def test_what_the_machine_lacks_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    assert run_that_raises(error, monkeypatch) == 255
    assert capfd.readouterr() == ("", line)


@pytest.mark.parametrize(
    "error", [BUG, OSError(errno.ENOENT, "none"), ExceptionGroup("tasks", [SPENT, BUG])]
)
def test_a_fault_of_ours_can_be_seen(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert run_that_raises(error, monkeypatch) == 255
    assert "Traceback" in capfd.readouterr().err


def run_that_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    def fail(invocation: object) -> int:
        raise error

    monkeypatch.setattr(main, "run", fail)
    monkeypatch.setattr("sys.argv", ["sshoq", "-V"])
    monkeypatch.setattr("gc.disable", lambda: None)
    return main.run_program()


@pytest.mark.parametrize("path", [":/nonexistent", "/nonexistent:", ".", "../work"])
def test_nothing_of_the_current_directory_is_run(tmp_path: Path, path: str) -> None:
    """An empty part of PYTHONPATH means it, and many have one without knowing."""
    work = tmp_path / "work"
    work.mkdir()
    for name in ("sshoq.py", "enum.py", "asyncio.py"):
        (work / name).write_text("raise SystemExit('taken from the current directory')\n")
    done = subprocess.run(
        [sys.executable, PROGRAM, "-V"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr[:8]) == (0, b"OpenSSH_")
