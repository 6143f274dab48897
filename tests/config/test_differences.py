"""The table of differences forgives nothing that does not happen."""

import pytest

from tests.config import cases
from tests.config.differences import LEFT_OUT, touches

CASES = [case for make in cases.CATEGORIES.values() for case in make()]


@pytest.mark.parametrize(("reason", "pattern"), LEFT_OUT, ids=[row[0] for row in LEFT_OUT])
def test_each_row_leaves_something_out_but_little(reason: str, pattern: str) -> None:
    count = sum(touches(case, pattern) for case in CASES)
    assert 0 < count < len(CASES) // 10


def test_cases_are_the_same_every_time() -> None:
    assert [case for make in cases.CATEGORIES.values() for case in make()] == CASES
