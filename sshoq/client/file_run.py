"""-sftp and -scp from the open channel to the exit status: what both need around them.

The first questions are asked when the channel is opened, which may be in the login's own flight.
"""

import asyncio
import os
import posixpath
import signal
from typing import Any, Protocol

from sshoq.client.download import AHEAD, Download, Prefetch
from sshoq.client.log import Failure, Log
from sshoq.client.progress import Progress, show
from sshoq.client.remote_files import Answer, FilesGone, Place, RemoteError, RemoteFiles
from sshoq.client.session import FAILED, Ending
from sshoq.client.signals import ENDING, catching
from sshoq.client.transfer import Transfer, TransferFailed
from sshoq.client.upload import Upload
from sshoq.config.resolve import Invocation
from sshoq.config.usage import INFO
from sshoq.file_frames import Command
from sshoq.wire import encode_text

CANCELLED = 130
"""The exit status after ^C, as of the Go client."""


class FileWish(Protocol):
    """What is to be done with the server's files."""

    def begin(self, files: RemoteFiles) -> None:
        """Ask the first questions, without waiting."""

    async def run(self, files: RemoteFiles) -> int:
        """Do the rest; the exit status. FilesGone."""

    def interrupt(self) -> bool:
        """^C. False: it is for the whole run."""


def file_wish(invocation: Invocation, log: Log) -> FileWish | None:
    """None for a run that is not about files. Failure when it cannot be had anyway."""
    if invocation.action == "scp":
        return Copy(invocation, log)
    if invocation.action == "sftp":
        from sshoq.client.file_shell import FileShell

        return FileShell(invocation, log)
    return None


async def run_files(
    files: RemoteFiles, wish: FileWish, log: Log, gone: "asyncio.Future[str]"
) -> Ending:
    """To its end, or until a signal ends it. `gone`: the connection is, which others tell."""
    ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def obey(number: int) -> None:
        if number == signal.SIGINT and wish.interrupt():
            return
        if not ended.done():
            status = CANCELLED if number == signal.SIGINT else FAILED
            ended.set_result(Ending(status, signal_number=number))

    async def run() -> Ending:
        try:
            status = await wish.run(files)
        except FilesGone:
            return Ending(None)
        files.finish()
        return Ending(status)

    async with asyncio.TaskGroup() as group:
        with catching(ENDING, obey):
            answers = group.create_task(files.run())
            body = group.create_task(run())
            either: set[asyncio.Future[Any]] = {ended, body, answers}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            body.cancel()  # what was begun is still cleaned up
            await asyncio.wait({body})
        answers.cancel()
    if ended.done():
        return ended.result()
    if not body.cancelled() and body.result().status is not None:
        return body.result()
    if gone.done():
        return Ending(None)
    log.error(files.ending)
    return Ending(FAILED)


# --------------------------------------------------------------------------- -scp


class Copy:
    """-scp: one file or, with -r, a directory; the operand with '%' names the server."""

    def __init__(self, invocation: Invocation, log: Log) -> None:
        source, target = invocation.operands
        self._is_download = "%" in source
        self._remote = remote_path(source if self._is_download else target)
        self._local = os.fsencode(target if self._is_download else source)
        self._recursive = invocation.options.recursive
        self._follow_links = invocation.options.follow_symlinks
        self._log = log
        if not self._is_download:
            self._check_source()

    def _check_source(self) -> None:
        """Before anybody is called."""
        name = show(self._local)
        if not os.path.exists(self._local):
            raise Failure(f"{name}: No such file or directory")
        if os.path.isdir(self._local) and not self._recursive:
            raise Failure(f"{name}: is a directory (-r copies it)")

    def begin(self, files: RemoteFiles) -> None:
        if self._is_download:
            self._prefetch = Prefetch(files, self._remote, chunks=0 if self._recursive else AHEAD)
            return
        self._looks = Looks(files, self._remote)

    def interrupt(self) -> bool:
        return False

    async def run(self, files: RemoteFiles) -> int:
        progress = progress_for(self._log)
        try:
            if self._is_download:
                download = Download(files, self._log, progress, follow_links=self._follow_links)
                await self._download(download)
                return status_of(download)
            upload = Upload(files, self._log, progress, follow_links=self._follow_links)
            await self._upload(upload)
            return status_of(upload)
        except (RemoteError, TransferFailed) as error:
            self._log.error(str(error))
        except OSError as error:
            name = os.fsdecode(error.filename) if error.filename else show(self._local)
            self._log.error(f"{name}: {error.strerror or error}")
        return FAILED

    async def _download(self, download: Download) -> None:
        place = await download.files.find(self._remote, self._prefetch.state)
        target = local_target(self._local, self._remote)
        if not place.info.is_directory:
            await download.file(place, target, self._prefetch)
        elif self._recursive:
            await download.tree(place, made_folder(target))
        else:
            raise RemoteError(f"{show(place.path)}: is a directory (-r copies it)")

    async def _upload(self, upload: Upload) -> None:
        target = await remote_target(upload.files, self._local, self._looks)
        await send_any(upload, self._local, target)


# --------------------------------------------------------------------------- from where to where


def remote_path(operand: str) -> bytes:
    """What stands behind the first '%'. Relative to the user's home, where the server starts."""
    path = operand.partition("%")[2]
    if path == "~" or path.startswith("~/"):
        path = path[2:]
    return encode_text(path or ".")


def local_target(target: bytes, source: bytes) -> bytes:
    """Into a directory that is there, under the name at the server; or as it was given."""
    name = posixpath.basename(source.rstrip(b"/"))
    if not os.path.isdir(target) or name in (b"", b".", b".."):
        return target
    return name if target == b"." else os.path.join(target, name)


def made_folder(path: bytes) -> bytes:
    if not os.path.isdir(path):
        os.mkdir(path)
    return path


async def send_any(upload: Upload, source: bytes, target: bytes) -> None:
    """A file, or a directory with all that is in it."""
    if os.path.isdir(source):  # noqa: ASYNC240  # a look at what is ours does not block for long
        await upload.tree(source, target)
    else:
        await upload.file(source, target)


class Looks:
    """A path at the server that something is to be copied to, and the questions about it and the
    directory above, which are under way."""

    def __init__(self, files: RemoteFiles, path: bytes) -> None:
        self.is_folder = path.endswith(b"/")
        """The path says so."""
        self.path = path.rstrip(b"/") or path[:1]
        self.state = files.ask(Command.STAT, self.path)
        self.above = files.ask(Command.STAT, folder_of(self.path))


async def remote_target(files: RemoteFiles, source: bytes, looks: Looks) -> bytes:
    """Into a directory that is there, or under the name that was given. Links on the way are gone
    through here: a Go server writes through none."""
    target, above = looks.path, looks.above
    place = await find_or_none(files, target, looks.state)
    if place is not None and place.info.is_directory:
        return posixpath.join(place.path, local_name(source))
    if looks.is_folder:
        raise RemoteError(f"{show(target)}: no such directory")
    if place is not None and place.path != target:
        target = place.path
        above = files.ask(Command.STAT, folder_of(target))
    folder = await find_or_none(files, folder_of(target), above)
    return target if folder is None else posixpath.join(folder.path, posixpath.basename(target))


def folder_of(path: bytes) -> bytes:
    return posixpath.dirname(path) or b"."


def local_name(path: bytes) -> bytes:
    """The last component, also of "." and "..", and not that of what a link leads to."""
    name = os.path.basename(path.rstrip(b"/"))
    return os.path.basename(os.path.realpath(path)) if name in (b"", b".", b"..") else name


async def find_or_none(
    files: RemoteFiles, path: bytes, first: Answer | None = None
) -> Place | None:
    """None for what is not there. Other errors show again when it is used."""
    try:
        return await files.find(path, first)
    except RemoteError:
        return None


def progress_for(log: Log) -> Progress:
    return Progress(1 if os.isatty(1) and log.level >= INFO else None)


def status_of(transfer: Transfer) -> int:
    return FAILED if transfer.failures else 0
