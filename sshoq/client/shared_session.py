"""A session for a client that shares our connection: its own descriptors are the ends, its terminal
is its own business, and what goes wrong is said on its stderr.
"""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sshoq.client.escape import SUSPEND
from sshoq.client.log import Log
from sshoq.client.session import Asked, Ending, SessionRun, SessionWish, Streams
from sshoq.config.usage import ERROR
from sshoq.protocol.messages import ExitStatus


class SharedSession(SessionRun):
    """`terminal_failed` and `exited` are called once at most, when it is so."""

    def __init__(
        self,
        asked: Asked,
        wish: SessionWish,
        log: Log,
        descriptors: list[int],
        connections: Callable[[], list[str]],
        terminal_failed: Callable[[], None],
        exited: Callable[[int], None],
    ) -> None:
        super().__init__(
            asked, wish, log, streams=Streams(*descriptors), connections=connections
        )
        self._tell_terminal_failed = terminal_failed
        self._tell_exited = exited
        self.was_cut = False
        """It is over before the server said so."""

    def end(self, ending: Ending) -> None:
        self.was_cut = True
        super().end(ending)

    # ----- what differs from a session of our own

    unavailable_commands = frozenset((SUSPEND, b"&"))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        yield

    @contextmanager
    def _raw_terminal(self) -> Iterator[None]:
        yield

    def _lose_terminal(self) -> None:
        """However much it was demanded: that is the client's to judge, and ssh goes on."""
        self._has_terminal = False
        self._complain_of("PTY allocation")
        self._tell_terminal_failed()

    def _complain_of(self, request: str) -> None:
        if self.log.level >= ERROR:
            self.say(f"{request} request failed")

    async def _watch_exit(self) -> int | None:
        """Nothing is said of a program that a signal ended, as with ssh. The client leaves when all
        output is out."""
        status = await super()._watch_exit()
        if isinstance(self._asked.state.ending, ExitStatus):
            self._tell_exited(self._asked.state.status)
        return status

    def say(self, text: str) -> None:
        """Unless that would make everybody wait for a terminal that was stopped."""
        poll = select.poll()
        poll.register(self._streams.stderr, select.POLLOUT)
        if poll.poll(0):
            with suppress(OSError):
                os.write(self._streams.stderr, text.replace("\n", "\r\n").encode() + b"\r\n")
