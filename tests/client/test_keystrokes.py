"""ObscureKeystrokeTiming: the rhythm, with a clock that the test sets, and what leaves in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from sshoq.client.keystrokes import MAX_TYPED, SIZE, ObscuredKeys
from sshoq.protocol.channel import ChannelState
from sshoq.protocol.extensions import OURS
from sshoq.protocol.messages import ChannelHeader, Session
from sshoq.protocol.version import PeerTraits
from sshoq.transport.channel import Channel, SinkClosed

INTERVAL = 0.02


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Line:
    """A channel that notes what leaves and when, and the loop's clock."""

    def __init__(self) -> None:
        self.now = 50.0
        self.due: list[tuple[float, Callable[[], None], Timer]] = []
        self.sent: list[tuple[float, bytes | str, int]] = []
        """When, what (or "chaff"), and with how many bytes."""
        self.crowded = False
        self.closed = False
        header = ChannelHeader(0, Session(), 30000)
        traits = PeerTraits(OURS, OURS)
        self._state = ChannelState(0, header, traits, is_client=True, opened_here=True)
        self._state.open()
        loop = cast(asyncio.AbstractEventLoop, self)
        self.keys = ObscuredKeys(cast(Channel, self), INTERVAL, loop)

    # ----- the channel

    def is_crowded(self) -> bool:
        return self.crowded

    def write_now(self, data: bytes) -> None:
        self._check()
        self.sent.append((self.now, data, len(b"".join(self._state.data(data)))))

    async def write(self, data: bytes) -> None:
        self.write_now(data)

    def send_chaff(self, size: int, *, want_answer: bool) -> None:
        self._check()
        size = len(b"".join(self._state.chaff(size, want_answer=want_answer)))
        if want_answer:
            self.sent.append((self.now, "chaff", size))
        else:  # it goes with what was typed
            at, typed, before = self.sent.pop()
            self.sent.append((at, typed, before + size))

    def _check(self) -> None:
        if self.closed:
            raise SinkClosed

    # ----- the loop

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, call: Callable[..., None], *arguments: object) -> Timer:
        timer = Timer()
        self.due.append((at, lambda: call(*arguments), timer))
        return timer

    def call_later(self, delay: float, call: Callable[..., None], *arguments: object) -> Timer:
        return self.call_at(self.now + delay, call, *arguments)

    def advance(self, seconds: float, late: float = 0.0) -> None:
        """Let the time pass; calls come at their moment, or so much later."""
        end = self.now + seconds
        while self.due and self.due[0][0] + late <= end:
            at, call, timer = self.due.pop(0)
            self.now = max(self.now, at + late)
            if not timer.cancelled:
                call()
        self.now = end

    def type(self, data: bytes) -> None:
        run(self.keys.write(data))

    @property
    def typed(self) -> bytes:
        return b"".join(what for _, what, _ in self.sent if isinstance(what, bytes))


def run(work: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(StopIteration):  # it never waits here
        work.send(None)


@pytest.fixture
def line() -> Line:
    return Line()


def test_first_key_is_not_held_back(line: Line) -> None:
    line.type(b"x")
    assert line.sent == [(50.0, b"x", SIZE)]


def test_all_that_leaves_has_one_size_and_one_rhythm(line: Line) -> None:
    line.type(b"e")
    line.advance(0.033)
    line.type(b"c")
    line.advance(0.001)
    line.type(b"h")
    line.advance(0.5)
    line.type(b"\x1b[D")
    line.advance(0.5)
    assert line.typed == b"ech\x1b[D"
    assert {size for _, _, size in line.sent} == {SIZE}
    beats = [round((at - 50.0) / INTERVAL, 6) for at, _, _ in line.sent]
    assert beats == [float(n) for n in range(len(beats))]


def test_late_calls_do_not_shift_the_rhythm(line: Line) -> None:
    line.type(b"x")
    line.advance(0.9, late=0.005)
    assert [round(at - 50.0, 6) for at, _, _ in line.sent[1:4]] == [0.025, 0.045, 0.065]


def test_chaff_goes_on_for_a_while_and_ends(line: Line) -> None:
    line.type(b"x")
    line.advance(0.99)
    assert [what for _, what, _ in line.sent[1:]] == ["chaff"] * 49
    line.advance(2.1)
    assert line.due == []
    line.type(b"y")
    assert line.sent[-1] == (line.now, b"y", SIZE)


def test_what_is_pasted_is_not_held_back(line: Line) -> None:
    line.type(b"x")
    line.type(b"held")
    line.type(b"p" * MAX_TYPED)
    assert line.typed == b"xheld" + b"p" * MAX_TYPED


def test_end_of_input_takes_with_it_what_is_held_back(line: Line) -> None:
    line.type(b"x")
    line.type(b"y")
    line.keys.flush()
    line.keys.stop()
    line.advance(5)
    assert [what for _, what, _ in line.sent] == [b"x", b"y"]


def test_nothing_is_added_to_what_nobody_takes(line: Line) -> None:
    line.type(b"x")
    line.crowded = True
    line.type(b"y")
    line.advance(0.3)
    assert line.typed == b"x"
    line.crowded = False
    line.advance(0.03)
    assert line.typed == b"xy"


def test_closed_channel_ends_the_rhythm_and_is_told_to_who_types(line: Line) -> None:
    line.type(b"x")
    line.closed = True
    line.advance(1)
    assert line.due == []
    with pytest.raises(SinkClosed):
        line.keys.write(b"y").send(None)
