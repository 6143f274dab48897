"""The server's files, as the Go programs' file transfer shows them: one channel, questions and
answers.

Many questions may be under way; the answers come in their order. Each has a number of its own all
the same, so that no answer is ever taken for another's. What the server says about names is not
believed: see `is_plain_name`.
"""

import asyncio
import posixpath
from collections import deque

from sshoq.client.log import one_line
from sshoq.file_frames import (
    MAX_FRAME,
    Command,
    FileInfo,
    FileRequest,
    FileResponse,
    FrameReader,
    encode_frame,
)
from sshoq.named_tuple import NamedTuple
from sshoq.protocol.extensions import Extension
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused, SinkClosed
from sshoq.wire import WireError, decode_text

MAX_HOPS = 40
"""Links that lead to links, as for the kernel."""

_DENIED = ("permission denied", "operation not permitted")
_FULL = ("no space left on device", "disk quota exceeded")


class RemoteError(Exception):
    """The server did not do it; str() is its reason, which is for the user."""

    @property
    def is_denied(self) -> bool:
        return any(words in str(self) for words in _DENIED)

    @property
    def is_no_directory(self) -> bool:
        return "not a directory" in str(self)

    @property
    def is_full(self) -> bool:
        return any(words in str(self) for words in _FULL)


class FilesGone(Exception):
    """The channel has ended, or never was: no more answers."""


Answer = asyncio.Future[FileResponse]


class Place(NamedTuple):
    """A path behind all links, and what is there."""

    path: bytes
    info: FileInfo


class RemoteFiles:
    """Made on the channel at once, so that the first questions travel with its header; `run` must
    run while answers are waited for."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: deque[tuple[int, Answer]] = deque()
        self._numbers = 0
        self._gone: FilesGone | None = None
        self.replaces = channel.state.traits.supports(Extension.FILES)
        """Whether the server can put one file in the place of another."""

    async def run(self) -> None:
        """Take answers until the channel ends; then all who wait are told why."""
        try:
            await self._channel.opened()
            await self._take_answers()
            failure = FilesGone("the server has closed the file transfer")
        except ChannelRefused as refusal:
            failure = FilesGone(one_line(refusal.text))
        except ChannelClosed as closed:
            failure = FilesGone(self._channel.fault or str(closed))
        except WireError as error:
            failure = FilesGone(f"bad answer of the server: {error}")
        self._gone = failure
        while self._waiting:
            _, answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(failure)
                answer.exception()  # nobody may be waiting for it any more

    async def _take_answers(self) -> None:
        reader = FrameReader(MAX_FRAME)
        while data := await self._channel.read():
            for payload in reader.feed(data):
                self._settle(FileResponse.decode(payload))

    def _settle(self, response: FileResponse) -> None:
        if not self._waiting:
            raise WireError("an answer to no question")
        number, answer = self._waiting.popleft()
        if response.id not in (number, 0):
            raise WireError(f"answer {response.id}, where {number} is due")
        if answer.done():
            return  # whoever asked does not want to know any more
        if response.ok:
            answer.set_result(response)
        else:
            reason = one_line(decode_text(response.error))
            answer.set_exception(RemoteError(reason or "failed"))
            answer.exception()

    @property
    def ending(self) -> str:
        """Why there are no more answers."""
        return str(self._gone or "the server answers no more")

    def finish(self) -> None:
        """No more questions."""
        self._channel.finish()

    # ------------------------------------------------------------------ questions

    def ask(
        self,
        command: Command,
        path: bytes = b"",
        *,
        offset: int = 0,
        limit: int = 0,
        data: bytes = b"",
    ) -> Answer:
        """Ask now, without waiting for room: how much is under way is the caller's to bound. The
        future fails with RemoteError or FilesGone."""
        answer: Answer = asyncio.get_running_loop().create_future()
        try:
            self._send(command, path, offset, limit, data, answer)
        except (FilesGone, RemoteError) as failure:
            answer.set_exception(failure)
            answer.exception()
        return answer

    def _send(
        self, command: Command, path: bytes, offset: int, limit: int, data: bytes, answer: Answer
    ) -> None:
        if self._gone is not None:
            raise FilesGone(str(self._gone))
        self._numbers += 1
        try:
            frame = encode_frame(
                FileRequest(command, self._numbers, path, offset, limit, data)
            )
        except ValueError:
            raise RemoteError("file name too long") from None
        try:
            self._channel.write_now(frame)
        except SinkClosed:
            raise FilesGone("the server takes no more questions") from None
        self._waiting.append((self._numbers, answer))

    async def list(self, path: bytes) -> list[FileInfo]:
        """In the order of their names, which may be anything."""
        response = await self.ask(Command.LS, path)
        return sorted((e.with_posix_mode() for e in response.entries), key=lambda e: e.name)

    async def look(self, path: bytes) -> FileInfo:
        """At the path itself, even if it is a link."""
        return _info_of(await self.ask(Command.STAT, path))

    async def find(self, path: bytes, first: Answer | None = None) -> Place:
        """What the path leads to. `first`: the answer to STAT, if that was asked already."""
        for _ in range(MAX_HOPS):
            info = _info_of(await (first or self.ask(Command.STAT, path)))
            if not info.is_link:
                return Place(path, info)
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), info.target))
            first = None
        raise RemoteError("too many levels of symbolic links")


def _info_of(response: FileResponse) -> FileInfo:
    if response.info is None:
        raise RemoteError("the server does not say what is there")
    return response.info


def is_plain_name(name: bytes) -> bool:
    """Whether a name from the server is one step down from a directory and nothing else."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


def is_plain_file(info: FileInfo) -> bool:
    return info.mode & 0o170000 == 0o100000
