"""A line typed at the terminal, with editing, history and completion, while the event loop goes on.

readline blocks, so it runs in a thread of its own. ^C at the prompt is a key like others there: it
empties the line.
"""

import asyncio
import contextlib
import readline
import termios
import threading
from collections.abc import Callable

Complete = Callable[[str, int, int], list[str]]
"""Called in the editor's thread, with the line and where the part to complete begins and ends."""

_OFF = b"\0"
_CC = 6


class LineEditor:
    """The terminal on standard input and output."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self._found: list[str] = []
        self._saved: list[object] | None = None
        readline.set_completer_delims(" \t\n/")
        readline.set_completer(self._candidate)
        readline.parse_and_bind("tab: complete")
        readline.parse_and_bind(r'"\C-c": "\C-e\C-u\C-m"')

    async def read(self, prompt: str) -> str | None:
        """The next line; None at the end of input."""
        loop = asyncio.get_running_loop()
        line: asyncio.Future[str | None] = loop.create_future()

        def settle(text: str | None) -> None:
            if not line.done():
                line.set_result(text)

        def run() -> None:
            try:
                text: str | None = input(prompt)
            except (EOFError, OSError, UnicodeError):
                text = None
            loop.call_soon_threadsafe(settle, text)

        self._disarm_interrupt()
        try:
            threading.Thread(target=run, daemon=True).start()
            return await line
        finally:
            self.restore()

    def _disarm_interrupt(self) -> None:
        with contextlib.suppress(termios.error):
            attributes = termios.tcgetattr(0)
            self._saved = [*attributes[:_CC], list(attributes[_CC])]
            attributes[_CC][termios.VINTR] = _OFF
            termios.tcsetattr(0, termios.TCSADRAIN, attributes)

    def restore(self) -> None:
        """The terminal as it was found, also from under a line that is being typed."""
        saved, self._saved = self._saved, None
        if saved is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, saved)  # type: ignore[arg-type]  # as it came

    def _candidate(self, text: str, state: int) -> str | None:
        """readline asks for one candidate after the other."""
        if state == 0:
            begin, end = readline.get_begidx(), readline.get_endidx()
            self._found = self._complete(readline.get_line_buffer(), begin, end)
        return self._found[state] if state < len(self._found) else None
