"""The search for a larger datagram."""

from sshoq.transport.path_mtu import BLACK_HOLE_TIMEOUTS, PROBE_SIZES, TRIES, PathMtu


def test_one_probe_at_a_time_until_all_have_succeeded() -> None:
    search = PathMtu(1200)
    for size in PROBE_SIZES:
        assert search.next_probe() == size
        assert search.next_probe() is None
        search.succeeded(size)
        assert search.size == size
    assert search.next_probe() is None


def test_a_size_that_fails_again_ends_the_search() -> None:
    search = PathMtu(1200)
    for _ in range(TRIES):
        size = search.next_probe()
        assert size is not None
        search.failed(size)
    assert search.next_probe() is None
    assert search.size == 1200


def test_sizes_below_the_base_or_above_the_peers_limit_are_not_tried() -> None:
    search = PathMtu(1360)
    search.limit(1400)
    assert search.next_probe() == 1392
    search.succeeded(1392)
    assert search.next_probe() is None
    search.restart()
    assert search.next_probe() == 1392


def test_a_black_hole_takes_it_back() -> None:
    search = PathMtu(1200)
    search.next_probe()
    search.succeeded(PROBE_SIZES[0])
    search.note_timeouts(BLACK_HOLE_TIMEOUTS - 1)
    assert search.size == PROBE_SIZES[0]
    search.note_timeouts(BLACK_HOLE_TIMEOUTS)
    assert search.size == 1200
    assert search.next_probe() is None


def test_timeouts_with_small_datagrams_say_nothing_about_size() -> None:
    search = PathMtu(1200)
    search.note_timeouts(BLACK_HOLE_TIMEOUTS)
    assert search.next_probe() == PROBE_SIZES[0]


def test_an_answer_to_a_probe_of_an_older_path_changes_nothing() -> None:
    search = PathMtu(1200)
    search.next_probe()
    search.restart()
    search.limit(1300)
    search.succeeded(1352)
    assert search.size == 1200


def test_the_peers_limit_holds_for_the_base_too() -> None:
    search = PathMtu(1300)
    search.limit(1250)
    assert search.size == search.base == 1250
    assert search.next_probe() is None
