"""From here to the server: a file by chunks of which many are under way, a tree file by file.

What is not complete must not be taken for the whole. A server of ours is given the file under a
name of its own, which then takes the real one's place; a Go server knows no such thing, so there
what was begun and not completed is removed.
"""

import asyncio
import contextlib
import errno
import os
import posixpath
import stat
from collections import deque
from collections.abc import Iterator
from functools import partial

from sshoq.client.progress import Meter
from sshoq.client.remote_files import Answer, FilesGone, Place, RemoteError
from sshoq.client.transfer import MAX_DEPTH, Transfer
from sshoq.file_frames import CHUNK, Command

CLEANING_TIME = 3.0
"""Seconds for removing what was not completed."""


class Upload(Transfer):
    """Files of ours, copied to the server."""

    async def file(self, source: bytes, target: bytes) -> None:
        """One file; `target` is its path there. RemoteError, OSError, FilesGone."""
        with (
            opened(source) as (fd, size),
            self._progress.file(source, size) as meter,
        ):
            if not self.files.replaces:
                await self._write_or_remove(fd, target, meter)
                return
            part = posixpath.join(posixpath.dirname(target), b".sshoq-" + _random_name())
            try:
                await self._write_or_remove(fd, part, meter, target)
            except RemoteError as error:
                if not error.is_denied:
                    raise
                # Perhaps the file may be written, and only its directory not.
                meter.done = 0
                await self._write_or_remove(fd, target, meter)

    async def tree(self, source: bytes, target: bytes) -> None:
        """A directory and all that is in it. TransferFailed, FilesGone."""
        await self.attempt(source, partial(self._send_folder, source, target, ()))

    async def _send_folder(
        self, source: bytes, target: bytes, way: tuple[tuple[int, int], ...]
    ) -> None:
        """`way`: the directories that led here, as the file system knows them."""
        state = os.stat(source)
        here = (state.st_dev, state.st_ino)
        if here in way or len(way) >= MAX_DEPTH:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        with os.scandir(source) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        target = await self._make_folder(target)
        async with self.crew() as hand_out:
            folders = []
            for entry in entries:
                if entry.is_symlink() and not self._follow_links:
                    self.note(f"{os.fsdecode(entry.path)}: a link, left out")
                elif entry.is_dir():
                    folders.append(entry)
                else:
                    there = posixpath.join(target, entry.name)
                    await hand_out(entry.path, partial(self.file, entry.path, there))
            for entry in folders:
                there = posixpath.join(target, entry.name)
                await self.attempt(
                    entry.path, partial(self._send_folder, entry.path, there, (*way, here))
                )

    async def _make_folder(self, path: bytes) -> bytes:
        """Where it then is: a link to a directory that is there already is gone through."""
        try:
            await self.files.ask(Command.MKDIR, path)
        except RemoteError as error:
            place = await self._find_folder(path)
            if place is None:
                raise error from None
            return place.path
        return path

    async def _find_folder(self, path: bytes) -> Place | None:
        try:
            place = await self.files.find(path)
        except RemoteError:
            return None
        return place if place.info.is_directory else None

    # ------------------------------------------------------------------ chunks

    async def _write_or_remove(
        self, fd: int, path: bytes, meter: Meter, final: bytes | None = None
    ) -> None:
        """Write the file, and put it in the place of `final`; or leave nothing of it there."""
        answers: list[Answer] = []
        try:
            await self._write(fd, path, meter, answers)
            if final is not None:
                await self.files.ask(Command.REPLACE, path, data=final)
        except BaseException:
            with contextlib.suppress(RemoteError, FilesGone, TimeoutError):
                async with asyncio.timeout(CLEANING_TIME):
                    await self._remove(path, answers)
            raise

    async def _remove(self, path: bytes, answers: list[Answer]) -> None:
        """If it was begun: a file that we were not let at is not ours to remove."""
        if answers:
            await answers[0]
            await self.files.ask(Command.RM, path)

    async def _write(self, fd: int, path: bytes, meter: Meter, answers: list[Answer]) -> None:
        """`answers` gets the one to the first chunk."""
        ahead: deque[tuple[int, Answer]] = deque()
        offset = 0
        try:
            while True:
                data = _read_fully(fd, offset)
                if not data and offset:
                    break
                while not await self.take_turn(bool(ahead)):
                    await self._take_answer(ahead, meter)
                answer = self.files.ask(Command.PUT, path, offset=offset, data=data)
                ahead.append((len(data), answer))
                answers += [answer] if not answers else []
                offset += len(data)
                if len(data) < CHUNK:
                    break
            while ahead:
                await self._take_answer(ahead, meter)
        finally:
            for _ in ahead:
                self.end_turn()

    async def _take_answer(self, ahead: deque[tuple[int, Answer]], meter: Meter) -> None:
        size, answer = ahead[0]
        # Whether the first chunk was written is asked once more, should this be cancelled.
        await asyncio.shield(answer)
        ahead.popleft()
        self.end_turn()
        meter.advance(size)


@contextlib.contextmanager
def opened(path: bytes) -> Iterator[tuple[int, int]]:
    """A regular file's descriptor and size."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        state = os.fstat(fd)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        yield fd, state.st_size
    finally:
        os.close(fd)


def _read_fully(fd: int, offset: int) -> bytes:
    parts: list[bytes] = []
    left = CHUNK
    while left and (part := os.pread(fd, left, offset)):
        parts.append(part)
        left -= len(part)
        offset += len(part)
    return b"".join(parts)


def _random_name() -> bytes:
    return os.urandom(8).hex().encode()
