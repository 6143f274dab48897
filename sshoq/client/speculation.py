"""A session asked for ahead of the login's answer, where the server does not keep what comes early.

A Go server knows a channel's conversation from the moment the login is decided, before its answer
has travelled. A session that arrives between the two saves a round trip. One that comes too soon is
reset, which leaves no trace but a line in the server's log, and is asked for again after the
answer; so there is only one try.
"""

from sshoq.client.session import Asked
from sshoq.protocol.outcome import CHANNEL_REFUSED
from sshoq.transport.channel import ChannelClosed, ChannelRefused

LEAST_GAIN = 0.02
"""Seconds of a round trip below which it is not worth the try."""

SHARE = 0.2
SHORTEST, LONGEST = 0.005, 0.025
"""Seconds behind the request, as a share of the round trip and within bounds: a Go server checks a
key in one to three milliseconds, a busy one in ten or more."""


def delay_of(round_trip: float | None) -> float | None:
    """How long behind the request a session is to follow; None: let it wait for the answer."""
    if round_trip is None or round_trip < LEAST_GAIN:
        return None
    return min(max(round_trip * SHARE, SHORTEST), LONGEST)


async def was_taken(asked: Asked) -> bool:
    """After the answer: whether the session stands. False, and it must be asked for again.

    No input may be sent before: what goes to a stream that was reset is lost.
    """
    channel = asked.channel
    try:
        await channel.opened()
    except ChannelRefused:
        return True  # the server knew it, and said no
    except ChannelClosed:
        if channel.reset_code != CHANNEL_REFUSED:
            return True
        channel.close()
        return False
    return True
