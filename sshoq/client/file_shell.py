"""-sftp: files of the server's and of ours, by commands that are typed or come from a pipe.

Paths are made absolute here, by the text, so that the server's own current directory matters to
nobody. A command that fails says so and is over; the next one comes.
"""

import asyncio
import contextlib
import os
import posixpath
import stat
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from sshoq.client.download import Download, Prefetch
from sshoq.client.file_run import (
    Looks,
    local_target,
    made_folder,
    progress_for,
    remote_target,
    send_any,
)
from sshoq.client.file_words import BadLine, Word, quote_name, split_line
from sshoq.client.log import FAILED, Log, printable, write_fully
from sshoq.client.progress import show
from sshoq.client.remote_files import FilesGone, RemoteError, RemoteFiles, is_plain_name
from sshoq.client.transfer import TransferFailed, first_of
from sshoq.client.upload import Upload
from sshoq.config.resolve import Invocation
from sshoq.config.usage import INFO
from sshoq.file_frames import Command, FileInfo
from sshoq.forwarding.forwarder import standard_source
from sshoq.named_tuple import NamedTuple
from sshoq.wire import decode_text, encode_text

PROMPT = "sftp> "
MAX_LINE = 1 << 20
COMPLETION_WAIT = 10.0
"""Seconds the server has for naming what a Tab may stand for."""


class CommandError(Exception):
    """The command cannot be done; str() says why."""


class Leave(Exception):
    """exit."""


class Verb(NamedTuple):
    """A command: what it does, and how many words it takes."""

    do: "Callable[[FileShell, list[Word], set[str]], Awaitable[None]]"
    usage: str
    least: int
    most: int
    help: str
    flags: str = ""
    completes: str = ""
    """"r" and "l" for each of its words: a path at the server, or here."""


class FileShell:
    """One interactive session."""

    def __init__(self, invocation: Invocation, log: Log) -> None:
        self._log = log
        self._follow_links = invocation.options.follow_symlinks
        self._interactive = os.isatty(0) and os.isatty(1)
        self._progress = progress_for(log)
        self._here = self._home = b"/"
        self._before: bytes | None = None
        self._running: asyncio.Task[None] | None = None
        self._files: RemoteFiles

    def begin(self, files: RemoteFiles) -> None:
        self._files = files
        self._first = files.ask(Command.PWD)

    def interrupt(self) -> bool:
        """^C ends the command that runs, and at a prompt nothing. Without one it is the end."""
        if self._interactive and self._running is not None:
            self._running.cancel()
        return self._interactive

    async def run(self, files: RemoteFiles) -> int:
        try:
            self._here = self._home = (await self._first).path
            with contextlib.suppress(Leave):
                lines = self._typed_lines() if self._interactive else self._given_lines()
                async with contextlib.aclosing(lines):
                    async for line in lines:
                        await self._run_line(line)
        except (CommandError, RemoteError) as error:
            self._log.error(str(error))
            return FAILED
        return 0

    # ------------------------------------------------------------------ lines

    async def _typed_lines(self) -> AsyncGenerator[str, None]:
        from sshoq.client.line_editor import LineEditor  # readline takes its time

        loop = asyncio.get_running_loop()

        def complete(line: str, begin: int, end: int) -> list[str]:
            names = asyncio.run_coroutine_threadsafe(self._complete(line, begin, end), loop)
            try:
                return names.result(COMPLETION_WAIT)
            except Exception:  # whatever it was: a Tab must not end anything
                return []

        editor = LineEditor(complete)
        while (line := await editor.read(PROMPT)) is not None:
            yield line
        self._print("")

    async def _given_lines(self) -> AsyncGenerator[str, None]:
        rest = b""
        with contextlib.closing(standard_source(0)) as source:
            while data := await source.read():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield os.fsdecode(line)
                if len(rest) > MAX_LINE:
                    raise CommandError("the line is too long")
        if rest:
            yield os.fsdecode(rest)

    async def _run_line(self, line: str) -> None:
        """One command. ^C makes an end of it alone."""
        ends: list[Exception] = []
        try:
            async with asyncio.TaskGroup() as group:
                self._running = task = group.create_task(self._obey(line))
        except* (Leave, FilesGone) as several:
            ends += first_of(several)
        finally:
            self._running = None
        if ends:
            raise ends[0]
        if task.cancelled():
            self._print("Interrupted")

    async def _obey(self, line: str) -> None:
        try:
            words = split_line(line)
            if words:
                await self._do(words[0].text, words[1:])
        except (BadLine, CommandError, RemoteError, TransferFailed) as error:
            self._log.error(str(error))
        except OSError as error:
            name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            self._log.error(f"{name}{error.strerror or error}")

    async def _do(self, name: str, words: list[Word]) -> None:
        verb = VERBS.get(name)
        if verb is None:
            raise CommandError(f"{name}: unknown command; help lists what there is")
        flags: set[str] = set()
        while words and len(words[0].text) > 1 and words[0].text[0] == "-" and verb.flags:
            flags |= set(words.pop(0).text[1:])
        if flags - set(verb.flags) or not verb.least <= len(words) <= verb.most:
            raise CommandError(f"usage: {verb.usage}")
        await verb.do(self, words, flags)

    def _print(self, text: str) -> None:
        write_fully(1, f"{printable(text)}\n".encode("utf-8", "surrogateescape"))

    def _note(self, text: str) -> None:
        """What is being copied where; not with -q."""
        if self._log.level >= INFO:
            self._print(text)

    # ------------------------------------------------------------------ names

    def _remote(self, word: Word) -> bytes:
        """The path that a word means at the server."""
        path = encode_text(word.text)
        if word.is_home:
            path = self._home + b"/" + path[1:]
        return _clean(posixpath.join(self._here, path))

    def _local(self, word: Word) -> bytes:
        return os.fsencode(os.path.expanduser(word.text) if word.is_home else word.text)

    async def _remote_matches(self, word: Word) -> list[bytes]:
        """What a word with wildcards stands for."""
        if not word.has_wildcard:
            return [self._remote(word)]
        folder = posixpath.dirname(self._remote(word))
        names = [entry.name for entry in await self._files.list(folder)]
        return _matching(word, folder, [name for name in names if is_plain_name(name)])

    def _local_matches(self, word: Word) -> list[bytes]:
        path = self._local(word)
        if not word.has_wildcard:
            return [path]
        folder = os.path.dirname(path)
        return _matching(word, folder, sorted(os.listdir(folder or b".")))

    # ------------------------------------------------------------------ commands at the server

    async def pwd(self, words: list[Word], flags: set[str]) -> None:
        self._print(f"Remote working directory: {show(self._here)}")

    async def cd(self, words: list[Word], flags: set[str]) -> None:
        """The server has the last word about where that is."""
        if not words:
            target = self._home
        elif words[0].text == "-":
            if self._before is None:
                raise CommandError("cd -: there is no directory before this one")
            target = self._before
        else:
            target = self._remote(words[0])
        moved = self._files.ask(Command.CD, target)
        place = self._files.ask(Command.PWD)
        await moved
        self._before, self._here = self._here, (await place).path

    async def ls(self, words: list[Word], flags: set[str]) -> None:
        for word in words or [Word(".", (False,), 0)]:
            for path in await self._remote_matches(word):
                if word.has_wildcard:
                    shown = posixpath.join(posixpath.dirname(word.text), show(_name(path)))
                    self._print_entries([(shown, await self._files.look(path))], flags)
                else:
                    await self._list(path, word, flags)

    async def _list(self, path: bytes, word: Word, flags: set[str]) -> None:
        try:
            entries = await self._files.list(path)
        except RemoteError as error:
            if not error.is_no_directory:
                raise
            self._print_entries([(word.text, await self._files.look(path))], flags)
            return
        shown = [entry for entry in entries if "a" in flags or not entry.name.startswith(b".")]
        self._print_entries([(show(entry.name), entry) for entry in shown], flags)

    def _print_entries(self, entries: list[tuple[str, FileInfo]], flags: set[str]) -> None:
        if "1" in flags:
            lines = [name for name, _ in entries]
        else:
            lines = describe_entries(entries, time.time())
        for line in lines:
            self._print(line.replace("\n", "\\n"))

    async def mkdir(self, words: list[Word], flags: set[str]) -> None:
        for word in words:
            await self._files.ask(Command.MKDIR, self._remote(word))

    async def rm(self, words: list[Word], flags: set[str]) -> None:
        for word in words:
            for path in await self._remote_matches(word):
                await self._files.ask(Command.RM, path)

    async def rmdir(self, words: list[Word], flags: set[str]) -> None:
        for word in words:
            await self._files.ask(Command.RMDIR, self._remote(word))

    # ------------------------------------------------------------------ copying

    async def get(self, words: list[Word], flags: set[str]) -> None:
        target = self._local(words[1]) if len(words) > 1 else b"."
        paths = await self._remote_matches(words[0])
        if len(paths) > 1 and not os.path.isdir(target):  # noqa: ASYNC240  # a look at our own
            raise CommandError(f"{show(target)}: several files need a directory")
        for path in paths:
            await self._get(path, target, flags, is_named=not words[0].has_wildcard)

    async def _get(
        self, path: bytes, target: bytes, flags: set[str], *, is_named: bool
    ) -> None:
        """`is_named`: by the user. A name that comes from the server goes through no link here."""
        download = Download(
            self._files, self._log, self._progress, follow_links=self._follow_links
        )
        prefetch = Prefetch(self._files, path, chunks=0 if flags else 1)
        place = await self._files.find(path, prefetch.state)
        folder = target if os.path.isdir(target) else None  # noqa: ASYNC240
        target = local_target(target, path)
        self._note(f"Fetching {show(path)} to {show(target)}")
        if place.info.is_directory and not flags:
            raise CommandError(f"{show(path)}: is a directory; get -r copies it")
        if folder is not None and not is_named:
            await download.member(place, folder, _name(path))
        elif place.info.is_directory:
            await download.tree(place, made_folder(target))
        else:
            await download.file(place, target, prefetch)

    async def put(self, words: list[Word], flags: set[str]) -> None:
        target = self._remote(words[1]) if len(words) > 1 else self._here
        if len(words) > 1 and words[1].text.endswith("/"):
            target += b"/"
        sources = self._local_matches(words[0])
        if len(sources) > 1 and not (await self._files.find(target)).info.is_directory:
            raise CommandError(f"{show(target)}: several files need a directory")
        for source in sources:
            await self._put(source, target, flags)

    async def _put(self, source: bytes, target: bytes, flags: set[str]) -> None:
        mode = os.stat(source).st_mode
        if stat.S_ISDIR(mode) and not flags:
            raise CommandError(f"{show(source)}: is a directory; put -r copies it")
        upload = Upload(self._files, self._log, self._progress, follow_links=self._follow_links)
        target = await remote_target(self._files, source, Looks(self._files, target))
        self._note(f"Uploading {show(source)} to {show(target)}")
        await send_any(upload, source, target)

    # ------------------------------------------------------------------ commands here

    async def lcd(self, words: list[Word], flags: set[str]) -> None:
        os.chdir(self._local(words[0]) if words else os.path.expanduser("~"))  # noqa: ASYNC240

    async def lpwd(self, words: list[Word], flags: set[str]) -> None:
        self._print(f"Local working directory: {os.getcwd()}")

    async def lls(self, words: list[Word], flags: set[str]) -> None:
        paths = [path for word in words for path in self._local_matches(word)]
        options = [os.fsencode(f"-{flag}") for flag in sorted(flags)]
        process = await asyncio.create_subprocess_exec(b"ls", *options, b"--", *paths)
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()

    async def help(self, words: list[Word], flags: set[str]) -> None:
        shown = {verb.usage: verb.help for verb in VERBS.values()}
        for usage, text in shown.items():
            self._print(f"{usage:<28} {text}")

    async def leave(self, words: list[Word], flags: set[str]) -> None:
        raise Leave

    # ------------------------------------------------------------------ completion

    async def _complete(self, line: str, begin: int, end: int) -> list[str]:
        """What may stand in the place of line[begin:end], quoted as it has to be."""
        words = split_line(line[:end], unfinished=True)
        word = words[-1]
        head, typed = line[word.start:begin], line[word.start:end]
        quote = typed[:1] if typed[:1] in ("'", '"') else ""
        if len(words) == 1:
            return [name + " " for name in sorted(VERBS) if name.startswith(word.text)]
        where = self._side_of(words)
        folder = word.text[:word.text.rfind("/") + 1]
        found = []
        for name, is_folder in await self._names(where, word):
            full = folder + name + ("/" if is_folder else "")
            shown = quote + full if quote else quote_name(full)
            if word.is_home:
                shown = shown.replace("\\~", "~", 1)
            if shown.startswith(head):
                found.append(shown[len(head):] + ("" if is_folder or quote else " "))
        return found

    def _side_of(self, words: list[Word]) -> str:
        """Whether the word at the end is a path here or there."""
        verb = VERBS.get(words[0].text)
        operands = [word for word in words[1:-1] if not word.text.startswith("-")]
        sides = verb.completes if verb is not None else ""
        return sides[min(len(operands), len(sides) - 1)] if sides else ""

    async def _names(self, where: str, word: Word) -> list[tuple[str, bool]]:
        """Names that go on from the word, and whether they are directories."""
        start = word.text[word.text.rfind("/") + 1:]
        found: list[tuple[str, bool]] = []
        if where == "r":
            folder = self._remote(word) + b"/" if not start else self._remote(word)
            for entry in await self._files.list(posixpath.dirname(folder) or b"/"):
                if is_plain_name(entry.name):
                    found.append((decode_text(entry.name), entry.is_directory))
        elif where == "l":
            with os.scandir(os.path.dirname(self._local(word)) or b".") as entries:
                found = sorted((os.fsdecode(entry.name), entry.is_dir()) for entry in entries)
        return [
            (name, is_folder)
            for name, is_folder in found
            if name.startswith(start) and name.isprintable() and (start or name[0] != ".")
        ]


VERBS: dict[str, Verb] = {
    "cd": Verb(FileShell.cd, "cd [path | -]", 0, 1, "change the remote directory",
               completes="r"),
    "exit": Verb(FileShell.leave, "exit, quit, bye", 0, 0, "leave"),
    "get": Verb(FileShell.get, "get [-r] remote [local]", 1, 2, "fetch files",
                flags="rR", completes="rl"),
    "help": Verb(FileShell.help, "help", 0, 0, "this text"),
    "lcd": Verb(FileShell.lcd, "lcd [path]", 0, 1, "change the local directory", completes="l"),
    "lls": Verb(FileShell.lls, "lls [path ...]", 0, 99, "list local files",
                flags="ABCFRSUacdfghiklmnopqrstuvxZ1", completes="l"),
    "lpwd": Verb(FileShell.lpwd, "lpwd", 0, 0, "print the local directory"),
    "ls": Verb(FileShell.ls, "ls [-1al] [path ...]", 0, 99, "list remote files",
               flags="1al", completes="r"),
    "mkdir": Verb(FileShell.mkdir, "mkdir path ...", 1, 99, "make remote directories",
                  completes="r"),
    "put": Verb(FileShell.put, "put [-r] local [remote]", 1, 2, "send files",
                flags="rR", completes="lr"),
    "pwd": Verb(FileShell.pwd, "pwd", 0, 0, "print the remote directory"),
    "rm": Verb(FileShell.rm, "rm path ...", 1, 99, "remove remote files", completes="r"),
    "rmdir": Verb(FileShell.rmdir, "rmdir path ...", 1, 99, "remove remote directories",
                  completes="r"),
}
VERBS |= {name: VERBS["exit"] for name in ("quit", "bye")} | {"?": VERBS["help"]}


# --------------------------------------------------------------------------- small things


def _clean(path: bytes) -> bytes:
    return b"/" + posixpath.normpath(path).lstrip(b"/")


def _name(path: bytes) -> bytes:
    return posixpath.basename(path)


def _matching(word: Word, folder: bytes, names: list[bytes]) -> list[bytes]:
    pattern = word.pattern()
    found = [name for name in names if pattern.fullmatch(decode_text(name))]
    if not found:
        raise CommandError(f"{word.text}: no match")
    return [posixpath.join(folder, name) for name in found]


def describe_entries(entries: list[tuple[str, FileInfo]], now: float) -> list[str]:
    """As ls -l has it."""
    rows = [(name, info, show(info.user), show(info.group), str(info.size))
            for name, info in entries]
    users, groups, sizes = (
        max((len(str(row[column])) for row in rows), default=0) for column in (2, 3, 4)
    )
    return [
        f"{stat.filemode(info.mode)} {user:<{users}} {group:<{groups}} {size:>{sizes}} "
        f"{_date(info.mtime, now)} {name}{_arrow(info)}"
        for name, info, user, group, size in rows
    ]


def _arrow(info: FileInfo) -> str:
    return f" -> {show(info.target)}" if info.is_link else ""


def _date(when: int, now: float) -> str:
    """The time of day for the last half year, else the year."""
    try:
        local = time.localtime(when)
    except (OverflowError, ValueError, OSError):
        return "?" * 12
    recent = now - 182 * 86400 < when <= now + 86400
    return time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", local)
