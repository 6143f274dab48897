"""Loggers that are made before `logging` is there tell what they would with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
{late}
import logging
logger = logging.getLogger("asyncio")
class Adapter(logging.LoggerAdapter):
    def info(self, *message):
        print("told", *message)
adapter = Adapter(logger, {{}})
def use(logger: logging.Logger | logging.LoggerAdapter | None = None):
    pass
def is_loaded():
    return type(sys.modules["logging"]).__name__ == "module"
{rest}
"""

LATE = "from sshoq.transport.late_logging import put_off_logging; put_off_logging()"

QUIET = [
    "logger.debug('%s', 1)",
    "logger.info('one')",
    "adapter.debug('one')",
    "adapter.info('one', 2)",
    "print(logger.isEnabledFor(10), logger.isEnabledFor(30), logging.DEBUG)",
]
LOUD = [
    "logger.warning('one %s', 2)",
    "logger.error('one'); logger.debug('two')",
    "adapter.error('one')",
    "print(logger.name, logger.level, logger.handlers)",
    "print(logging.WARNING, logging.getLogger('asyncio').name)",
    "logging.basicConfig(level=10); logger.debug('one'); logger.info('two')",
    "logging.root.setLevel(10); print(logger.isEnabledFor(10), logger.isEnabledFor(5))",
    "logger.setLevel(20); print(logging.getLogger('asyncio').level)",
]


def told(rest: str, *, late: bool) -> tuple[str, str]:
    """What a fresh interpreter says, and complains of."""
    program = PROGRAM.format(late=LATE if late else "", rest=rest)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("rest", QUIET)
def test_what_nobody_would_see_does_not_load_it(rest: str) -> None:
    assert told(rest, late=True) == told(rest, late=False)
    assert told(f"{rest}\nprint(is_loaded())", late=True)[0].endswith("False\n")


@pytest.mark.parametrize("rest", LOUD)
def test_all_else_is_told_as_ever(rest: str) -> None:
    assert told(rest, late=True) == told(rest, late=False)
    assert told(f"{rest}\nprint(is_loaded())", late=True)[0].endswith("True\n")


def test_a_loaded_module_stays() -> None:
    rest = f"import logging\n{LATE}\nprint(is_loaded(), type(logging.getLogger('a')).__name__)"
    assert told(rest, late=False) == ("True Logger\n", "")
