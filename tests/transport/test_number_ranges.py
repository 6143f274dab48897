"""Ranges against sets of the same numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sshoq.transport.number_ranges import NumberRanges, SeenNumbers

SPANS = st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 12))


@given(st.lists(SPANS, max_size=40))
def test_ranges_hold_what_was_added_and_not_removed(spans: list[tuple[bool, int, int]]) -> None:
    ranges, numbers = NumberRanges(), set[int]()
    for is_added, start, size in spans:
        span = range(start, start + size)
        if is_added:
            ranges.add(start, start + size)
            numbers |= set(span)
        else:
            ranges.remove(start, start + size)
            numbers -= set(span)
        pieces = list(ranges)
        assert {n for start, stop in pieces for n in range(start, stop)} == numbers
        # They are in order, and between two of them something is missing.
        assert all(left[1] < right[0] for left, right in pairwise(pieces))
        assert all((number in ranges) == (number in numbers) for number in range(75))
        assert len(ranges) == len(pieces)
        assert bool(ranges) == bool(numbers)
        assert ranges.end == max(numbers, default=-1) + 1


def test_the_first_range_can_be_taken_away() -> None:
    ranges = NumberRanges()
    ranges.add(5, 7)
    ranges.add(1, 3)
    assert ranges.first == (1, 3)
    assert ranges.pop_first() == (1, 3)
    assert list(ranges) == [(5, 7)]


def test_seen_numbers_forget_none_but_remember_little() -> None:
    seen = SeenNumbers()
    for number in range(0, 4 * SeenNumbers.MOST_RANGES, 2):
        assert number not in seen
        seen.add(number)
        assert number in seen
    assert len(seen._seen) == SeenNumbers.MOST_RANGES
    assert 1 in seen  # too long ago to tell
    assert 4 * SeenNumbers.MOST_RANGES - 3 not in seen
    assert seen.end == 4 * SeenNumbers.MOST_RANGES - 1
