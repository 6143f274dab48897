"""What downloads and uploads have in common: how much is under way, what is said, what went wrong.

A tree goes on after a file that cannot be copied, and says so at the end by its status; it stops
when no other file would fare better.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from sshoq.client.local_files import FULL
from sshoq.client.log import Log
from sshoq.client.progress import Progress, show
from sshoq.client.remote_files import FilesGone, RemoteError, RemoteFiles
from sshoq.file_frames import WINDOW

PARALLEL = 16
"""Files of a tree that are copied at a time: with small ones, a round trip each is what counts."""

Work = Callable[[], Coroutine[Any, Any, None]]
HandOut = Callable[[bytes, Work], Coroutine[Any, Any, None]]

MAX_DEPTH = 256
"""Directories below one another: a server could make them up without end."""


class TransferFailed(Exception):
    """The whole of it is given up; str() is for the user."""


class Transfer:
    """One run of copying, in either direction."""

    def __init__(
        self, files: RemoteFiles, log: Log, progress: Progress, *, follow_links: bool = True
    ) -> None:
        self.files = files
        self.failures = 0
        """What could not be copied, and has been told."""
        self._progress = progress
        self._follow_links = follow_links
        self._log = log
        self._window = asyncio.Semaphore(WINDOW)
        self._places = asyncio.Semaphore(PARALLEL)

    def complain(self, text: str) -> None:
        """One line, and on with the next file."""
        self.failures += 1
        self._log.error(text)

    def note(self, text: str) -> None:
        self._log.verbose(text)

    async def attempt(self, name: bytes, work: Work) -> None:
        """Do it; an error is told and does not end the rest, unless it would end the rest, too."""
        try:
            await work()
        except RemoteError as error:
            if error.is_full:
                raise TransferFailed(str(error)) from None
            self.complain(str(error))
        except OSError as error:
            if error.errno in FULL:
                raise TransferFailed(f"{show(name)}: {error.strerror}") from None
            self.complain(f"{show(name)}: {error.strerror or error}")

    @asynccontextmanager
    async def crew(self) -> AsyncIterator[HandOut]:
        """Hands out work: `await hand_out(name, work)` returns when it has begun. All of it has
        ended behind the block."""
        failed: list[Exception] = []

        async def do(name: bytes, work: Work) -> None:
            try:
                await self.attempt(name, work)
            finally:
                self._places.release()

        async def hand_out(name: bytes, work: Work) -> None:
            await self._places.acquire()
            group.create_task(do(name, work))

        try:
            async with asyncio.TaskGroup() as group:
                yield hand_out
        except* (TransferFailed, FilesGone) as several:
            failed += first_of(several)
        if failed:
            raise failed[0]

    async def take_turn(self, has_others: bool) -> bool:
        """A place in the window of chunks under way. False: it is full, and whoever has others
        under way is to take their answers first."""
        if has_others and self._window.locked():
            return False
        await self._window.acquire()
        return True

    def end_turn(self) -> None:
        self._window.release()


def first_of(several: BaseExceptionGroup[Any]) -> list[Exception]:
    """The first plain exception of a group, in a list."""
    for error in several.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return first_of(error)
        return [error]
    return []
