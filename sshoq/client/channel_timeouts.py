"""ChannelTimeout: channels on which nothing has moved for too long are closed.

Loaded only where it is configured. Listeners at the server, which are channels of ours and none of
SSH's, do not count.
"""

import asyncio
from collections.abc import Sequence

from sshoq.client.log import Log
from sshoq.config.lexer import parse_time
from sshoq.config.patterns import match_pattern
from sshoq.protocol.messages import StreamlocalForward, TcpipForward, UdpipForward
from sshoq.transport.channel import Channel
from sshoq.transport.conversation import Conversation

GLOBAL = "global"
"""The pattern that stands for all channels together."""

_LISTENERS = (TcpipForward, StreamlocalForward, UdpipForward)
_NAMES = {
    "direct-tcp": "direct-tcpip",
    "open-request-reverse-tcp": "forwarded-tcpip",
    "x11": "x11-connection",
}
"""What ssh calls the channels of Go servers, and one that has another name on the wire."""


class ChannelTimeouts:
    """Watches a conversation's channels until it ends."""

    def __init__(
        self,
        conversation: Conversation,
        words: Sequence[str],
        log: Log,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`words`: `type=time` each, as they were configured and checked. `loop` for tests."""
        self._conversation = conversation
        self._log = log
        rules = [word.rpartition("=") for word in words]
        self._rules = [(kind, parse_time(time)) for kind, _, time in rules]
        self._loop = loop or asyncio.get_running_loop()

    def watch(self) -> None:
        """Close what has been idle for too long, and come again when more may have been."""
        waits: list[float] = [time for _, time in self._rules if time > 0]
        if self._conversation.ended is not None or not waits:
            return
        now = self._loop.time()
        channels = self._channels()
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

    def _channels(self) -> list[Channel]:
        channels = self._conversation.channels.values()
        return [one for one in channels if not isinstance(one.state.opening, _LISTENERS)]

    def _rule_for(self, channel: Channel) -> tuple[str, float]:
        """The first one that fits; for all others, the one for all. 0: none."""
        name = channel.state.opening.type_name
        name = _NAMES.get(name, name)
        own = [rule for rule in self._rules if rule[0] != GLOBAL and match_pattern(name, rule[0])]
        common = [rule for rule in self._rules if rule[0] == GLOBAL]
        return next(iter(own + common), (name, 0))

    def _close(self, channel: Channel, time: float) -> None:
        name = channel.state.opening.type_name
        self._log.debug(f"{name} channel: closing after {time:g}s of inactivity")
        channel.close()
