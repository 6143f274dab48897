"""A session for a client that shares our connection: its own descriptors are the ends, its terminal
is its own business, and what goes wrong is said on its stderr.
"""

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sshoq.client.escape import SUSPEND, Command, visible
from sshoq.client.log import Log
from sshoq.client.session import Asked, Ending, SessionRun, SessionWish
from sshoq.config.usage import ERROR
from sshoq.protocol.messages import ExitStatus

_NOT_HERE = (SUSPEND, b"&")


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
        stdin, stdout, stderr = descriptors
        super().__init__(
            asked, wish, log, stdin=stdin, stdout=stdout, stderr=stderr, connections=connections
        )
        self._tell_terminal_failed = terminal_failed
        self._tell_exited = exited
        self.was_cut = False
        """It is over before the server said so."""

    def resize(self) -> None:
        self._send_size()

    def _end(self, ending: Ending) -> None:
        self.was_cut = True
        super()._end(ending)

    # ----- what differs from a session of our own

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
        if self._log.level >= ERROR:
            self._say(f"{request} request failed")

    async def _watch_exit(self) -> int | None:
        """Nothing is said of a program that a signal ended, as with ssh. The client leaves when all
        output is out."""
        status = await super()._watch_exit()
        if isinstance(self._asked.state.ending, ExitStatus):
            self._tell_exited(self._asked.state.status)
        return status

    def _say(self, text: str) -> None:
        """Unless that would make everybody wait for a terminal that was stopped."""
        poll = select.poll()
        poll.register(self._stderr, select.POLLOUT)
        if poll.poll(0):
            with suppress(OSError):
                os.write(self._stderr, text.replace("\n", "\r\n").encode() + b"\r\n")

    async def _obey(self, command: Command) -> None:
        if command.character not in _NOT_HERE:
            await super()._obey(command)
            return
        character = self._wish.escape_character or b"~"
        echo = visible(character) + visible(command.character)
        self._say(f"{echo} escape not available to multiplexed sessions")
