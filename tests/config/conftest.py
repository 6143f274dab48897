"""The machine of paper as a fixture."""

from pathlib import Path

import pytest

from tests.config.wishes import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
