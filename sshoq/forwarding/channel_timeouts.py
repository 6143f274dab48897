"""What ends for want of use: channels on which nothing has moved for too long (ChannelTimeout), and
a connection without channels (UnusedConnectionTimeout).

Listeners at the server, which are channels of ours and none of SSH's, do not count.
"""

import asyncio
from collections.abc import Callable, Sequence

from sshoq.config.lexer import parse_time
from sshoq.config.patterns import match_pattern
from sshoq.protocol.messages import (
    HostKeys,
    RequestReverseTcp,
    RequestReverseUdp,
    StreamlocalForward,
    TcpipForward,
    UdpipForward,
)
from sshoq.transport.channel import Channel
from sshoq.transport.conversation import Conversation

GLOBAL = "global"
"""The pattern that stands for all channels together."""

_NO_CHANNELS_OF_SSH = (
    TcpipForward,
    StreamlocalForward,
    UdpipForward,
    RequestReverseTcp,
    RequestReverseUdp,
    HostKeys,
)
_NAMES = {
    "direct-tcp": "direct-tcpip",
    "open-request-reverse-tcp": "forwarded-tcpip",
    "sftp": "session:subsystem:sftp",
    "x11": "x11-connection",
}
"""What ssh calls the channels of Go programs, and one that has another name on the wire."""


class ChannelTimeouts:
    """Watches a conversation's channels until it ends."""

    def __init__(
        self,
        conversation: Conversation,
        words: Sequence[str],
        debug: Callable[[str], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`words`: `type=time` each, as they were configured and checked. `loop` for tests."""
        self._conversation = conversation
        self._debug = debug
        rules = [word.rpartition("=") for word in words]
        self._rules = [(kind, parse_time(time)) for kind, _, time in rules]
        self._loop = loop or asyncio.get_running_loop()

    def watch(self) -> None:
        """Close what has been idle for too long, and come again when more may have been."""
        waits: list[float] = [time for _, time in self._rules if time > 0]
        if self._conversation.ended is not None or not waits:
            return
        now = self._loop.time()
        channels = open_channels(self._conversation)
        newest = max((channel.last_used for channel in channels), default=now)
        for channel in channels:
            kind, time = self._rule_for(channel)
            last_used = newest if kind == GLOBAL else channel.last_used
            left = last_used + time - now
            if time and left <= 0:
                self._close(channel, time)
            elif time:
                waits.append(left)
        self._loop.call_later(min(waits), self.watch)

    def _rule_for(self, channel: Channel) -> tuple[str, float]:
        """The first one that fits; for all others, the one for all. 0: none."""
        name = _name_of(channel)
        own = [rule for rule in self._rules if rule[0] != GLOBAL and match_pattern(name, rule[0])]
        common = [rule for rule in self._rules if rule[0] == GLOBAL]
        return next(iter(own + common), (name, 0))

    def _close(self, channel: Channel, time: float) -> None:
        self._debug(f"{_name_of(channel)} channel: closing after {time:g}s of inactivity")
        channel.close()


class UnusedTimeout:
    """Ends a conversation that has had no channel for so many seconds."""

    def __init__(
        self,
        conversation: Conversation,
        seconds: float,
        end: Callable[[], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._conversation = conversation
        self._seconds = seconds
        self._end = end
        self._loop = loop or asyncio.get_running_loop()
        self._begun = self._loop.time()

    def watch(self) -> None:
        """End it if it is time, and else come again when it may be."""
        if self._conversation.ended is not None:
            return
        now = self._loop.time()
        since = max(self._begun, self._conversation.last_gone)
        left = self._seconds if open_channels(self._conversation) else since + self._seconds - now
        if left <= 0:
            self._end()
        else:
            self._loop.call_later(left, self.watch)


def open_channels(conversation: Conversation) -> list[Channel]:
    """Those that SSH has, too."""
    channels = conversation.channels.values()
    return [one for one in channels if not isinstance(one.state.opening, _NO_CHANNELS_OF_SSH)]


def _name_of(channel: Channel) -> str:
    name = channel.kind or channel.state.opening.type_name
    return _NAMES.get(name, name)
