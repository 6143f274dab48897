"""How a run ends that could not go on: in a line where the machine has too little, in a traceback
where the fault is ours."""

from __future__ import annotations

import errno
import os

import pytest

from sshoq.client import main

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
