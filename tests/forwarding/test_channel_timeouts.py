"""ChannelTimeout, with a clock that the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from sshoq.forwarding.channel_timeouts import ChannelTimeouts, UnusedTimeout
from sshoq.protocol.messages import ChannelOpening, DirectTcp, DirectTcpip, Session, TcpipForward
from sshoq.transport.channel import Channel
from sshoq.transport.conversation import Conversation
from sshoq.wire import IPPort

SESSION = Session()
FORWARD = DirectTcpip("host", 80, "", 0)


class Stage:
    """Channels, a clock, and the one call that is due next."""

    def __init__(self, *words: str) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.channels: dict[int, Channel] = {}
        self.ended: object = None
        self.closed: list[ChannelOpening] = []
        self.lines: list[str] = []
        loop = cast(asyncio.AbstractEventLoop, self)
        self.timeouts = ChannelTimeouts(cast(Conversation, self), words, self.lines.append, loop)
        self.timeouts.watch()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        self.due.append((self.now + delay, call))

    def open(self, opening: ChannelOpening, kind: str = "") -> Channel:
        number = len(self.channels)

        def close() -> None:
            self.closed.append(opening)
            del self.channels[number]

        state = SimpleNamespace(opening=opening)
        channel = SimpleNamespace(state=state, last_used=self.now, close=close, kind=kind)
        self.channels[number] = cast(Channel, channel)
        return self.channels[number]

    def advance(self, seconds: float) -> None:
        """Let the time pass, with every call at its moment."""
        end = self.now + seconds
        while self.due and self.due[0][0] <= end:
            self.now, call = self.due.pop(0)
            call()
        self.now = end


def test_idle_channel_is_closed_and_a_used_one_is_not() -> None:
    stage = Stage("session=10", "direct-*=5")
    used = stage.open(FORWARD)
    stage.open(SESSION)
    for _ in range(9):
        stage.advance(1)
        used.last_used = stage.now
    assert stage.closed == []
    stage.advance(2)
    assert stage.closed == [SESSION]
    assert stage.lines == ["session channel: closing after 10s of inactivity"]
    stage.advance(5)
    assert stage.closed == [SESSION, FORWARD]


def test_channel_that_comes_later_is_watched_as_well() -> None:
    stage = Stage("direct-tcpip=5")
    stage.advance(7)
    stage.open(FORWARD)
    stage.advance(10)
    assert stage.closed == [FORWARD]


def test_channel_without_a_rule_is_left_alone() -> None:
    stage = Stage("x11-connection=1", "session=0")
    stage.open(FORWARD)
    stage.open(SESSION)
    stage.advance(1000)
    assert stage.closed == []


def test_first_rule_that_fits_holds() -> None:
    stage = Stage("direct-*=0", "*=1")
    stage.open(FORWARD)
    stage.open(SESSION)
    stage.advance(5)
    assert stage.closed == [SESSION]


def test_global_rule_waits_for_all_channels() -> None:
    stage = Stage("global=5")
    used, _ = stage.open(FORWARD), stage.open(SESSION)
    for _ in range(10):
        stage.advance(1)
        used.last_used = stage.now
    assert stage.closed == []
    stage.advance(6)
    assert set(stage.closed) == {SESSION, FORWARD}


@pytest.mark.parametrize("opening", [TcpipForward("", 0)])
def test_listener_at_the_server_is_no_channel(opening: ChannelOpening) -> None:
    stage = Stage("*=1", "global=1")
    stage.open(opening)
    stage.advance(10)
    assert stage.closed == []


def test_channel_of_a_go_server_goes_by_its_name_in_ssh() -> None:
    stage = Stage("direct-tcpip=1")
    opening = DirectTcp(IPPort("127.0.0.1", 80))
    stage.open(opening)
    stage.advance(3)
    assert stage.closed == [opening]


def test_watch_ends_with_the_conversation() -> None:
    stage = Stage("session=10")
    stage.ended = "ended"
    stage.advance(100)
    assert stage.due == []


def test_nothing_is_watched_where_nothing_times_out() -> None:
    assert Stage("session=0").due == []


def test_what_a_session_has_become_has_its_own_rule() -> None:
    stage = Stage("session:shell=5", "session:subsystem:*=1")
    stage.open(SESSION)
    stage.open(SESSION, "session:shell")
    stage.open(SESSION, "session:subsystem:sftp")
    stage.advance(3)
    assert len(stage.closed) == 1
    stage.advance(10)
    assert len(stage.closed) == 2
    assert stage.lines[-1] == "session:shell channel: closing after 5s of inactivity"


class Unused(Stage):
    """A connection that may do without channels for ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []
        self.last_gone = 0.0
        loop = cast(asyncio.AbstractEventLoop, self)
        conversation = cast(Conversation, self)
        UnusedTimeout(conversation, 10, lambda: self.ends.append(self.now), loop).watch()

    def close_all(self) -> None:
        self.channels.clear()
        self.last_gone = self.now


def test_a_connection_that_is_never_used_ends() -> None:
    stage = Unused()
    stage.advance(9)
    assert stage.ends == []
    stage.advance(50)
    assert stage.ends == [110]


def test_a_channel_keeps_the_connection_until_it_goes() -> None:
    stage = Unused()
    stage.advance(5)
    stage.open(SESSION)
    stage.advance(98)
    stage.close_all()
    stage.advance(9)
    assert stage.ends == []
    stage.advance(50)
    assert stage.ends == [213]


def test_a_channel_between_two_looks_is_not_missed() -> None:
    stage = Unused()
    stage.advance(1)
    stage.open(SESSION)
    stage.advance(7)
    stage.close_all()
    stage.advance(50)
    assert stage.ends == [118]


def test_a_listener_keeps_no_connection() -> None:
    stage = Unused()
    stage.open(TcpipForward("", 0))
    stage.advance(50)
    assert stage.ends == [110]


def test_nobody_ends_what_has_ended() -> None:
    stage = Unused()
    stage.ended = "ended"
    stage.advance(50)
    assert (stage.ends, stage.due) == ([], [])
