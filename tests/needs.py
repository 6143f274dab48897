"""What a test needs of the machine. Where it is absent the test is skipped with the reason, but
never in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def give_up(reason: str) -> NoReturn:
    """Skip the test; in CI a machine that cannot run it is a failure, or the test would silently
    never run."""
    if os.environ.get("CI"):
        pytest.fail(f"in CI nothing may be missing: {reason}", pytrace=False)
    pytest.skip(reason)


def need_root() -> None:
    if os.geteuid() != 0:
        give_up("needs root")


def need_tools(*names: str) -> None:
    missing = [name for name in names if shutil.which(name, path=SEARCH_PATH) is None]
    if missing:
        give_up(f"needs {', '.join(missing)}")


def need_device(path: str) -> None:
    if not Path(path).exists():
        give_up(f"needs {path}")


# An ordinary user's PATH lacks the sbin folders, where sshd and ip live.
SEARCH_PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
