"""The bench's own honesty: what failed is said, and what is printed was measured."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.costs import cost_of
from bench.far import percentile
from bench.forwarding import drain, source
from bench.measurements import MeasurementFailed, row_of, run_question, timed
from bench.report import Row, digits, print_row, spread
from tests.janitor import Janitor
from tests.programs import ProgramMissing


@pytest.mark.parametrize("error", [ProgramMissing("no sshoq"), MeasurementFailed("status 1")])
def test_a_failure_becomes_a_line_without_figures(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> dict[str, list[float]]:
        raise error

    print_row(row_of("what", "ms", fail))
    assert capsys.readouterr().out.split() == ["what", "FAILED:", *str(error).split()]


def test_a_line_has_both_medians_and_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    print_row(Row("what", "ms", openssh=[1.0, 9.0, 2.0], sshoq=[3.0, 3.0, 4.0]))
    assert capsys.readouterr().out.split()[:6] == ["what", "2.00", "ms", "3.00", "ms", "1.50"]


@pytest.mark.parametrize(("value", "expected"), [(1234.5, 0), (12.3, 1), (1.23, 2)])
def test_three_digits_are_printed(value: float, expected: int) -> None:
    assert digits(value) == expected


def test_without_a_figure_to_divide_by_there_is_no_ratio(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_row(Row("wakeups", "1/s", openssh=[0.0], sshoq=[0.5]))
    assert capsys.readouterr().out.split()[:6] == ["wakeups", "0.00", "1/s", "0.50", "1/s", "-"]


def test_the_spread_is_relative_to_the_median() -> None:
    assert spread([1.0, 2.0, 3.0]) == "100%"


def test_a_program_that_fails_has_no_time() -> None:
    janitor = Janitor()
    folder = janitor.directory()
    with pytest.raises(MeasurementFailed, match="status 3: reason"):
        timed(lambda: run_question(["sh", "-c", "echo reason >&2; exit 3"], folder))
    janitor.close()


def test_what_processes_that_have_ended_took_is_counted() -> None:
    """Of a child, and of a child's child."""
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    for script in (busy, nested):
        cost = cost_of([], lambda script=script: _run_python(script))  # type: ignore[misc]
        assert cost.cpu >= 0.2
        assert cost.elapsed > 0


def _run_python(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_what_uses_no_processor_has_no_cost() -> None:
    with pytest.raises(MeasurementFailed):
        cost_of([], lambda: None)


def test_bytes_that_are_missing_are_no_measurement() -> None:
    with source() as far:
        far.size = 1_000_000
        drain(far.port, 1_000_000)
        with pytest.raises(MeasurementFailed, match="1 bytes short"):
            drain(far.port, 1_000_001)


@pytest.mark.parametrize(("percent", "expected"), [(1, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)])
def test_so_many_per_cent_are_no_slower(percent: int, expected: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], percent) == expected


def test_a_single_key_is_its_own_percentile() -> None:
    assert percentile([7.0], 99) == percentile([7.0], 1) == 7.0
