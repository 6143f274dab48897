"""Credit follows consumption, whatever becomes of the streams."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sshoq.transport.credit import LIMIT_STEPS, CreditBook, raised
from sshoq.transport.events import AFTER_LOGIN, BEFORE_LOGIN


def test_limits_rise_with_what_is_consumed_not_with_what_arrives() -> None:
    book = CreditBook(BEFORE_LOGIN)
    assert book.deliver(0, 5000)
    assert book.stream_limit(0) == BEFORE_LOGIN.stream_window
    assert book.connection_limit() == BEFORE_LOGIN.connection_window
    book.consume(0, 3000)
    assert book.stream_limit(0) == BEFORE_LOGIN.stream_window + 3000
    assert book.connection_limit() == BEFORE_LOGIN.connection_window + 3000


def test_larger_limits_hold_for_streams_that_exist() -> None:
    book = CreditBook(BEFORE_LOGIN)
    book.deliver(0, 10)
    book.limits = AFTER_LOGIN
    assert book.stream_limit(0) == AFTER_LOGIN.stream_window


def test_more_than_was_handed_up_cannot_be_consumed() -> None:
    book = CreditBook(BEFORE_LOGIN)
    book.deliver(0, 10)
    with pytest.raises(ValueError, match="never handed up"):
        book.consume(0, 11)


def test_what_a_reset_swallowed_is_given_back() -> None:
    book = CreditBook(BEFORE_LOGIN)
    book.deliver(0, 100)
    book.end(0, undelivered=900)
    assert book.connection_limit() == BEFORE_LOGIN.connection_window + 900
    assert len(book) == 1
    book.consume(0, 100)
    assert book.connection_limit() == BEFORE_LOGIN.connection_window + 1000
    assert len(book) == 0


def test_a_forsaken_stream_costs_the_connection_nothing() -> None:
    book = CreditBook(BEFORE_LOGIN)
    book.deliver(0, 100)
    book.forsake(0, more_to_come=True)
    assert not book.deliver(0, 200)
    book.consume(0, 100)
    assert book.connection_limit() == BEFORE_LOGIN.connection_window + 300
    assert book.stream_limit(0) == 0
    book.end(0)
    assert len(book) == 0


def test_a_stream_that_is_over_is_not_remembered_by_forsaking_it() -> None:
    book = CreditBook(BEFORE_LOGIN)
    book.forsake(0, more_to_come=False)
    assert len(book) == 0


def test_small_steps_are_not_announced() -> None:
    step = 1000 // LIMIT_STEPS
    assert raised(1000, 1000 + step - 1, 1000) == 1000
    assert raised(1000, 1000 + step, 1000) == 1000 + step


# ------------------------------------------------------------------------------- wider windows

WINDOW, SPARE = AFTER_LOGIN.stream_window, AFTER_LOGIN.spare_window


def test_a_reader_that_keeps_up_gets_a_wider_window_while_there_is_some() -> None:
    book = CreditBook(AFTER_LOGIN)
    book.deliver(0, 10)
    book.consume(0, 10)
    seen = []
    for _ in range(4):
        book.widen(0)
        seen.append(book.stream_limit(0) - 10)
    assert seen == [2 * WINDOW, 4 * WINDOW, WINDOW + SPARE, WINDOW + SPARE]
    book.deliver(4, 10)
    book.widen(4)
    assert book.stream_limit(4) == WINDOW


def test_a_reader_that_lags_behind_gets_none() -> None:
    book = CreditBook(AFTER_LOGIN)
    book.deliver(0, WINDOW // 2)
    book.widen(0)
    assert book.stream_limit(0) == WINDOW


@pytest.mark.parametrize("way", ["ended", "forsaken"])
def test_what_a_stream_had_above_others_comes_back_with_its_end(way: str) -> None:
    book = CreditBook(AFTER_LOGIN)
    for stream_id in (0, 4):
        book.deliver(stream_id, 0)
        book.widen(stream_id)
        book.widen(stream_id)
        if way == "ended":
            book.end(stream_id)
        else:
            book.forsake(stream_id, more_to_come=True)
    book.deliver(8, 0)
    book.widen(8)
    assert book.stream_limit(8) == 2 * WINDOW


def test_before_login_nothing_is_to_spare() -> None:
    book = CreditBook(BEFORE_LOGIN)
    book.deliver(0, 10)
    book.widen(0)
    assert book.stream_limit(0) == BEFORE_LOGIN.stream_window


class Readers(RuleBasedStateMachine):
    """Whatever the order of things: outstanding credit is exactly what is held by a reader."""

    def __init__(self) -> None:
        super().__init__()
        self.book = CreditBook(BEFORE_LOGIN)
        self.counted = 0
        self.held: dict[int, int] = {}
        self.forsaken: set[int] = set()
        self.ended: set[int] = set()

    streams = st.integers(0, 4)

    @rule(stream=streams, count=st.integers(0, 5000))
    def arrive(self, stream: int, count: int) -> None:
        if stream in self.ended:
            return
        self.counted += count
        wanted = self.book.deliver(stream, count)
        assert wanted == (stream not in self.forsaken)
        if wanted:
            self.held[stream] = self.held.get(stream, 0) + count

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(sorted(self.held)))
        count = data.draw(st.integers(0, self.held[stream]))
        self.book.consume(stream, count)
        self.held[stream] -= count

    @rule(stream=streams, lost=st.integers(0, 500))
    def end(self, stream: int, lost: int) -> None:
        if stream not in self.ended:
            self.ended.add(stream)
            self.counted += lost
            self.book.end(stream, lost)

    @rule(stream=streams)
    def forsake(self, stream: int) -> None:
        self.forsaken.add(stream)
        self.held.pop(stream, None)
        self.book.forsake(stream, more_to_come=stream not in self.ended)

    @rule(stream=streams)
    def ask_for_more(self, stream: int) -> None:
        self.book.widen(stream)

    @invariant()
    def nothing_leaks(self) -> None:
        consumed = self.book.connection_limit() - BEFORE_LOGIN.connection_window
        assert consumed == self.counted - sum(self.held.values())


TestReaders = Readers.TestCase
