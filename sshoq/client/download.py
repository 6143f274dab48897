"""From the server to here: a file by chunks that are asked for ahead, a tree file by file.

The server names what is in its directories, and is not believed: a name is one step and no more,
and a link that stands here is never followed. Links at the server are followed by the client, one
by one, because the Go server's own rule is not to.
"""

import contextlib
import posixpath
from collections import deque
from functools import partial

from sshoq.client.local_files import LocalFile, LocalFolder, written_file
from sshoq.client.progress import Meter, show
from sshoq.client.remote_files import (
    Answer,
    Place,
    RemoteError,
    RemoteFiles,
    is_plain_file,
    is_plain_name,
)
from sshoq.client.transfer import MAX_DEPTH, Transfer
from sshoq.file_frames import CHUNK, Command, FileInfo

AHEAD = 8
"""Chunks asked for before it is known what is there: more than a first flight carries."""


class Prefetch:
    """A path, and the questions about it that are under way already."""

    def __init__(self, files: RemoteFiles, path: bytes, *, chunks: int = AHEAD) -> None:
        self.path = path
        self.state = files.ask(Command.STAT, path)
        self.chunks = [ask_chunk(files, path, number * CHUNK) for number in range(chunks)]


def ask_chunk(files: RemoteFiles, path: bytes, offset: int) -> Answer:
    return files.ask(Command.GET, path, offset=offset, limit=CHUNK)


class Download(Transfer):
    """Files of the server's, copied here."""

    async def file(self, place: Place, target: bytes, prefetch: Prefetch | None = None) -> None:
        """One file, to a path of the user's choice. RemoteError, OSError, FilesGone."""
        check_is_file(place)
        chunks = prefetch.chunks if prefetch is not None and prefetch.path == place.path else []
        with (
            self._progress.file(target, place.info.size) as meter,
            written_file(target, place.info.mode) as file,
        ):
            await self._fetch(place, file, meter, chunks)

    async def tree(self, place: Place, target: bytes) -> None:
        """A directory and all that is in it, into one that exists here. TransferFailed,
        FilesGone, OSError."""
        with contextlib.closing(LocalFolder.open(target)) as folder:
            await self.attempt(place.path, partial(self._fill, folder, (place.path,)))

    async def member(self, place: Place, target: bytes, name: bytes) -> None:
        """The same for what has its name from a listing: a file or a directory, into a directory
        that exists here, through no link."""
        with contextlib.closing(LocalFolder.open(target)) as folder:
            if place.info.is_directory:
                await self._enter(folder, name, place, ())
            else:
                await self._member(folder, name, place)

    async def _fill(self, folder: LocalFolder, way: tuple[bytes, ...]) -> None:
        """`way`: the directories that led here, this one at the end. Files of it are under way
        while the directories in it are gone into one by one."""
        folders: list[tuple[bytes, Place]] = []
        async with self.crew() as hand_out:
            for entry in await self.files.list(way[-1]):
                place = await self._find_entry(way[-1], entry)
                if place is None:
                    continue
                if place.info.is_directory:
                    folders.append((entry.name, place))
                else:
                    await hand_out(place.path, partial(self._member, folder, entry.name, place))
            for name, place in folders:
                await self.attempt(
                    posixpath.join(folder.path, name),
                    partial(self._enter, folder, name, place, way),
                )

    async def _find_entry(self, path: bytes, entry: FileInfo) -> Place | None:
        """What is to be copied by that name; None for nothing, which has been told."""
        if not is_plain_name(entry.name):
            self.complain(f"{show(path)}: the server names a file {show(entry.name)!r}, left out")
            return None
        here = posixpath.join(path, entry.name)
        if not entry.is_link:
            return Place(here, entry)
        if not self._follow_links:
            self.note(f"{show(here)}: a link, left out")
            return None
        found: list[Place] = []

        async def find() -> None:
            found.append(await self.files.find(here))

        await self.attempt(here, find)
        return found[0] if found else None

    async def _enter(
        self, folder: LocalFolder, name: bytes, place: Place, way: tuple[bytes, ...]
    ) -> None:
        if place.path in way:
            raise RemoteError(f"{show(place.path)}: a link leads back to it, left out")
        if len(way) >= MAX_DEPTH:
            raise RemoteError(f"{show(place.path)}: too many directories below one another")
        with folder.enter(name) as inner:
            await self._fill(inner, (*way, place.path))

    async def _member(self, folder: LocalFolder, name: bytes, place: Place) -> None:
        check_is_file(place)
        with (
            self._progress.file(name, place.info.size) as meter,
            folder.new_file(name, place.info.mode) as file,
        ):
            await self._fetch(place, file, meter, [])

    async def _fetch(
        self, place: Place, file: LocalFile, meter: Meter, first: list[Answer]
    ) -> None:
        """All chunks up to the size that was told, and on until one is not full: that is the end.
        `first`: answers to come for the first chunks."""
        ahead = deque(enumerate(first))
        for _ in first:
            await self.take_turn(False)
        number, end = len(first), None
        try:
            while ahead or end is None:
                while (
                    end is None
                    and (number * CHUNK <= place.info.size or not ahead)
                    and await self.take_turn(bool(ahead))
                ):
                    ahead.append((number, ask_chunk(self.files, place.path, number * CHUNK)))
                    number += 1
                data = await self._take(ahead[0][1], is_surplus=end is not None)
                at = ahead.popleft()[0] * CHUNK
                self.end_turn()
                if len(data) > CHUNK or (data and end is not None):
                    raise RemoteError(f"{show(place.path)}: it changes while it is read")
                file.write(at, data)
                meter.advance(len(data))
                if len(data) < CHUNK:
                    end = at + len(data)
        finally:
            for _ in ahead:
                self.end_turn()

    async def _take(self, answer: Answer, *, is_surplus: bool) -> bytes:
        """A chunk. What was asked for behind the end of the file may as well have failed."""
        try:
            return (await answer).data
        except RemoteError:
            if not is_surplus:
                raise
            return b""


def check_is_file(place: Place) -> None:
    if place.info.is_directory:
        raise RemoteError(f"{show(place.path)}: is a directory")
    if not is_plain_file(place.info):
        raise RemoteError(f"{show(place.path)}: not a regular file")
