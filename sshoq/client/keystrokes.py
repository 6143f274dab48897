"""ObscureKeystrokeTiming: what is typed leaves in a fixed rhythm, among messages that say nothing.

Who watches the line sees packets of one size at one interval while somebody types and for a while
after, and so neither when a key was pressed nor how many were. Needs a server that knows chaff. The
first key after a pause is not held back: it starts the rhythm.
"""

import asyncio
import os

from sshoq.transport.channel import LEAST_CHAFF, Channel, SinkClosed

MAX_TYPED = 256
"""More at once is pasted, not typed, and is not held back."""

SIZE = 16
"""Of the messages in one packet, typed or not."""

HEADER = 3
"""What a message with typed characters has in front of them."""

CHAFF_LEAST, CHAFF_MORE = 1.0, 2.0
"""Seconds for which chaff goes on after the last key: the first, and up to the second more."""


class ObscuredKeys:
    """Typed bytes on their way to a channel. A sink, but for its end: `flush` comes before that."""

    def __init__(
        self, channel: Channel, interval: float, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """`interval` in seconds. `loop` for tests."""
        self._channel = channel
        self._interval = interval
        self._loop = loop or asyncio.get_running_loop()
        self._typed = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._chaff_until = 0.0

    def take(self, data: bytes | memoryview) -> bytes | memoryview:
        return data

    async def write(self, data: bytes | memoryview) -> None:
        """SinkClosed when the channel takes no more."""
        if len(self._typed) + len(data) > MAX_TYPED:
            self.flush()
            await self._channel.write(data)
            return
        self._typed += data
        if self._timer is None:
            self._begin()

    def flush(self) -> None:
        """Send what is held back, whatever the rhythm. SinkClosed."""
        if self._typed:
            typed = bytes(self._typed)
            self._typed.clear()
            self._send(typed)

    def stop(self) -> None:
        """No more chaff."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self.flush()
        self._timer = self._loop.call_later(self._interval, self._beat, self._loop.time())

    def _beat(self, last: float) -> None:
        """Once an interval, from the beginning on: late calls do not shift the rhythm."""
        self._timer = None
        now = self._loop.time()
        try:
            if self._channel.is_crowded():  # nobody takes what is typed: there is room for no more
                pass
            elif self._typed:
                self.flush()
            elif now < self._chaff_until:
                self._channel.send_chaff(SIZE, want_answer=True)
            else:
                return
        except SinkClosed:
            return
        missed = int((now - last) / self._interval)
        beat = last + missed * self._interval
        self._timer = self._loop.call_at(beat + self._interval, self._beat, beat)

    def _send(self, typed: bytes) -> None:
        self._channel.write_now(typed)
        room = SIZE - HEADER - len(typed)
        if room >= LEAST_CHAFF:
            self._channel.send_chaff(room, want_answer=False)
        chance = int.from_bytes(os.urandom(2), "big") / 0xFFFF
        self._chaff_until = self._loop.time() + CHAFF_LEAST + CHAFF_MORE * chance
