"""What the commands behind the escape character do to a session: `~.`, `~?` and their kin, in
OpenSSH's words. When something typed is one stands in `escape.py`.

Loaded for sessions with a terminal alone.
"""

import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable

from sshoq.client.escape import COMMANDS, SUSPEND, Command, Escapes, help_text, visible
from sshoq.client.session import FAILED, Ending, SessionRun
from sshoq.forwarding.relay import Source, Take
from sshoq.protocol.extensions import Extension
from sshoq.protocol.messages import Break

BREAK_MILLISECONDS = 1000


class EscapeCommands:
    """Those that are typed in one session."""

    def __init__(self, run: SessionRun, character: bytes) -> None:
        self._run = run
        self._character = character

    async def obey(self, command: Command) -> None:
        echo = visible(self._character) + visible(command.character)
        if command.character in self._run.unavailable_commands:
            self._run.say(f"{echo} escape not available to multiplexed sessions")
        else:
            await _COMMANDS[command.character](self, echo)

    async def _end(self, echo: str) -> None:
        self._run.say(echo)
        self._run.end(Ending(FAILED))

    async def _suspend(self, echo: str) -> None:
        self._run.say(f"{echo} [suspend ssh]")
        self._run.terminal.leave_raw()
        os.kill(os.getpid(), signal.SIGTSTP)  # we stand still here until somebody continues us
        self._run.terminal.enter_raw()
        self._run.send_size()

    async def _background(self, echo: str) -> None:
        self._run.say(f"{echo} [backgrounded]")
        self._run.terminal.leave_raw()
        self._run.go_to_background()

    async def _help(self, echo: str) -> None:
        self._run.say(help_text(self._character, command_line=self._run.command_line is not None))

    async def _list(self, echo: str) -> None:
        lines = [echo, "The following connections are open:", *self._run.connections()]
        self._run.say("\n".join(lines))

    async def _break(self, echo: str) -> None:
        if self._run.supports(Extension.SIGNAL):
            self._run.say(echo)
            self._run.request(Break(BREAK_MILLISECONDS))
        else:
            self._run.say(f"{echo} [this server knows no BREAK]")

    async def _command_line(self, echo: str) -> None:
        if self._run.command_line is None:
            self._run.say("commandline disabled")
            return
        self._run.terminal.leave_raw()
        try:
            await self._run.command_line()
        finally:
            self._run.terminal.enter_raw()

    async def _rekey(self, echo: str) -> None:
        self._run.say(f"{echo} [QUIC changes its keys by itself]")

    async def _louder(self, echo: str) -> None:
        self._run.say(f"{echo} [LogLevel {self._run.log.louder()}]")

    async def _quieter(self, echo: str) -> None:
        self._run.say(f"{echo} [LogLevel {self._run.log.quieter()}]")


_COMMANDS: dict[bytes, Callable[[EscapeCommands, str], Awaitable[None]]] = {
    b".": EscapeCommands._end,
    b"B": EscapeCommands._break,
    b"C": EscapeCommands._command_line,
    b"R": EscapeCommands._rekey,
    b"V": EscapeCommands._quieter,
    b"v": EscapeCommands._louder,
    SUSPEND: EscapeCommands._suspend,
    b"#": EscapeCommands._list,
    b"&": EscapeCommands._background,
    b"?": EscapeCommands._help,
}


class EscapedSource:
    """What is typed, without the escape commands, which are obeyed on the way."""

    def __init__(
        self,
        source: Source,
        character: bytes,
        obey: Callable[[Command], Awaitable[None]],
        last: Callable[[], bytes | None],
    ) -> None:
        """`last`, asked after a command: None, or what is to end the input here and now."""
        self._source = source
        self._escapes = Escapes(character, COMMANDS)
        self._obey = obey
        self._last = last
        self._items: deque[bytes | memoryview | Command] = deque()

    async def read(self, take: Take | None = None) -> bytes | memoryview:
        """What was typed before a command goes out before the command is obeyed."""
        while True:
            while self._items:
                item = self._items.popleft()
                if not isinstance(item, Command):
                    return item
                await self._obey(item)
                if (last := self._last()) is not None:
                    self._items = deque([b""])
                    return last
            data = await self._source.read()
            if not data:
                return b""
            self._items.extend(self._escapes.feed(data))
