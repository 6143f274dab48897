"""The search for a larger datagram."""

import pytest

from sshoq.transport.path_mtu import (
    BLACK_HOLE_LOSSES,
    BLACK_HOLE_TIMEOUTS,
    CALM,
    NARROW_SIZES,
    PROBE_SIZES,
    TRIES,
    TRY_AGAIN_AFTER,
    PathMtu,
)


def wanted(base: int) -> PathMtu:
    search = PathMtu(base)
    search.is_wanted = True
    return search


def test_what_is_short_and_carries_little_tries_nothing() -> None:
    search = PathMtu(1200)
    assert search.next_probe(5.0) is None
    assert search.begins_at == 5.0 + CALM
    assert search.next_probe(5.0 + CALM / 2) is None
    assert search.is_searching
    assert search.next_probe(5.0 + CALM) == PROBE_SIZES[0]
    assert search.begins_at is None


def test_who_wants_larger_datagrams_need_not_wait() -> None:
    search = PathMtu(1200)
    assert search.next_probe(5.0) is None
    search.is_wanted = True
    assert search.begins_at is None
    assert search.next_probe(5.0) == PROBE_SIZES[0]


def test_one_probe_at_a_time_until_all_have_succeeded() -> None:
    search = wanted(1200)
    for size in PROBE_SIZES:
        assert search.next_probe(0.0) == size
        assert search.next_probe(0.0) is None
        search.succeeded(size)
        assert search.size == size
    assert search.next_probe(0.0) is None


def fail(search: PathMtu, size: int) -> None:
    for _ in range(TRIES):
        assert search.is_searching
        assert search.next_probe(0.0) == size
        search.failed(size)


def test_a_size_that_fails_again_ends_the_search() -> None:
    search = wanted(1200)
    search.next_probe(0.0)
    search.succeeded(PROBE_SIZES[0])
    fail(search, PROBE_SIZES[1])
    assert not search.is_searching
    assert search.next_probe(0.0) is None
    assert search.size == PROBE_SIZES[0]


@pytest.mark.parametrize("count", range(len(NARROW_SIZES) + 1))
def test_on_a_narrow_path_smaller_steps_are_made(count: int) -> None:
    search = wanted(1200)
    fail(search, PROBE_SIZES[0])
    for size in NARROW_SIZES[:count]:
        assert search.next_probe(0.0) == size
        search.succeeded(size)
    if count < len(NARROW_SIZES):
        fail(search, NARROW_SIZES[count])
    assert not search.is_searching
    assert search.size == (1200, *NARROW_SIZES)[count]


def test_small_steps_keep_to_the_peers_limit_and_are_not_repeated() -> None:
    search = wanted(1200)
    fail(search, PROBE_SIZES[0])
    search.limit(1240)
    search.next_probe(0.0)
    search.succeeded(1232)
    assert search.next_probe(5.0) is None
    search.limit(16200)
    for _ in range(TRIES):
        assert search.next_probe(5.0 + TRY_AGAIN_AFTER) == PROBE_SIZES[0]
        search.failed(PROBE_SIZES[0])
    assert search.next_probe(0.0) == 1252


def test_sizes_below_the_base_or_above_the_peers_limit_are_not_tried() -> None:
    search = wanted(1360)
    search.limit(1400)
    assert search.next_probe(0.0) == 1392
    search.succeeded(1392)
    assert search.next_probe(0.0) is None
    search.restart()
    assert search.next_probe(0.0) == 1392


def test_a_black_hole_takes_it_back() -> None:
    search = wanted(1200)
    search.next_probe(0.0)
    search.succeeded(PROBE_SIZES[0])
    search.note_timeouts(BLACK_HOLE_TIMEOUTS - 1)
    assert search.size == PROBE_SIZES[0]
    search.note_timeouts(BLACK_HOLE_TIMEOUTS)
    assert search.size == 1200
    assert search.next_probe(0.0) is None


def test_timeouts_with_small_datagrams_say_nothing_about_size() -> None:
    search = wanted(1200)
    search.note_timeouts(BLACK_HOLE_TIMEOUTS)
    assert search.next_probe(0.0) == PROBE_SIZES[0]


def test_an_answer_to_a_probe_of_an_older_path_changes_nothing() -> None:
    search = wanted(1200)
    search.next_probe(0.0)
    search.restart()
    search.limit(1300)
    search.succeeded(1352)
    assert search.size == 1200


def test_the_peers_limit_holds_for_the_base_too() -> None:
    search = wanted(1300)
    search.limit(1250)
    assert search.size == search.base == 1250
    assert search.next_probe(0.0) is None


def grown() -> PathMtu:
    search = wanted(1200)
    search.next_probe(0.0)
    search.succeeded(PROBE_SIZES[0])
    return search


def test_losses_of_large_datagrams_alone_are_a_black_hole() -> None:
    search = grown()
    for _ in range(BLACK_HOLE_LOSSES):
        assert search.size == PROBE_SIZES[0]
        search.note_delivered(300)
        search.note_lost(PROBE_SIZES[0])
    assert search.size == 1200


def test_losses_with_large_datagrams_arriving_between_them_are_none() -> None:
    search = grown()
    for _ in range(3 * BLACK_HOLE_LOSSES):
        search.note_lost(PROBE_SIZES[0])
        search.note_delivered(PROBE_SIZES[0])
    assert search.size == PROBE_SIZES[0]


def test_losses_of_small_datagrams_say_nothing_about_size() -> None:
    search = grown()
    for _ in range(3 * BLACK_HOLE_LOSSES):
        search.note_lost(200)
    assert search.size == PROBE_SIZES[0]


def test_a_search_that_ended_early_begins_anew_after_a_while() -> None:
    search = grown()
    search.note_timeouts(BLACK_HOLE_TIMEOUTS)
    assert search.next_probe(5.0) is None
    assert search.next_probe(4.0 + TRY_AGAIN_AFTER) is None
    assert search.next_probe(5.0 + TRY_AGAIN_AFTER) == PROBE_SIZES[0]
    search.failed(PROBE_SIZES[0])
    assert search.next_probe(6.0 + TRY_AGAIN_AFTER) == PROBE_SIZES[0]


def test_a_search_that_found_the_largest_is_over() -> None:
    search = wanted(1200)
    for size in PROBE_SIZES:
        search.next_probe(0.0)
        search.succeeded(size)
    assert search.next_probe(10 * TRY_AGAIN_AFTER) is None
