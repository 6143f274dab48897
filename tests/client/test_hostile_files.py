"""What a hostile server can answer to -scp and -sftp: nothing is written but below the target, no
part of a file is left, and the user sees why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from sshoq.file_frames import (
    CHUNK,
    MAX_FRAME,
    Command,
    FileInfo,
    FileRequest,
    FileResponse,
    FrameReader,
    encode_frame,
)
from sshoq.transport.channel import Channel
from tests.client.little_server import LittleServer, Result, listening, to
from tests.client.quick_client import QuickClient

Answer = FileResponse | bytes
Rule = Callable[[FileRequest], Answer]

FILE, FOLDER = 0o100644, 0o040755
GO_FOLDER = 1 << 31 | 0o755
PROMPT = b"\x1b[31m\nalice@host's password: "


class Place(NamedTuple):
    """A target with links in it that lead out of it."""

    inside: Path
    outside: Path

    def files(self) -> list[str]:
        """All that is there now and was not, by their paths from above both."""
        top = self.inside.parent
        links = {"inside/folder-link", "inside/file-link"}
        found = {str(one.relative_to(top)) for one in top.rglob("*") if not one.is_dir()}
        return sorted(found - {link for link in links if (top / link).is_symlink()})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "inside", tmp_path / "outside")
    for folder in place:
        folder.mkdir()
    (place.inside / "folder-link").symlink_to("../outside")
    (place.inside / "file-link").symlink_to("../outside/victim")
    return place


class Run(NamedTuple):
    client: QuickClient
    key: str

    def _call(self, answer: Rule, words: list[str], operands: list[str], given: bytes) -> Result:
        async def run() -> Result:
            async with listening() as listener:
                def take(channel: Channel) -> None:
                    channel.confirm()
                    listener.server.spawn(_serve(channel, answer))

                def arrived(server: asyncio.Future[LittleServer]) -> None:
                    server.result().on_channel = take

                listener.arrived.add_done_callback(arrived)
                *options, destination = to(listener, self.key)
                if operands:
                    destination += f"%{operands[0]}"
                ends = [destination, *operands[1:]]
                return await self.client.run("-F", "none", *words, *options, *ends, given=given)

        return asyncio.run(run())

    def copy(self, answer: Rule, target: Path, *, source: str = "thing") -> Result:
        """-r -scp from there to here."""
        return self._call(answer, ["-r", "-scp"], [source, str(target)], b"")

    def shell(self, answer: Rule, *lines: str) -> Result:
        """-sftp with these commands."""
        return self._call(answer, ["-sftp"], [], "".join(f"{line}\n" for line in lines).encode())


@pytest.fixture
def run(client: QuickClient, key: str) -> Run:
    return Run(client, key)


async def _serve(channel: Channel, answer: Rule) -> None:
    reader = FrameReader(MAX_FRAME)
    while data := await channel.read():
        for payload in reader.feed(data):
            said = answer(FileRequest.decode(payload))
            await channel.write(said if isinstance(said, bytes) else encode_frame(said))


def about(name: bytes, mode: int = FILE, *, size: int = 3, flags: int = 0) -> FileInfo:
    return FileInfo(name, size, mode, flags, b"again", 0, 0, 0, b"user", b"group")


def files(**rules: Rule) -> Rule:
    """A file wherever one looks; `rules` by the names of commands."""
    usual: dict[Command, Rule] = {
        Command.PWD: lambda asked: FileResponse(asked.id, path=b"/home"),
        Command.STAT: lambda asked: FileResponse(asked.id, info=about(b"thing")),
        Command.GET: lambda asked: FileResponse(asked.id, data=b"abc"[asked.offset:]),
    }
    usual |= {Command[name.upper()]: rule for name, rule in rules.items()}

    def answer(asked: FileRequest) -> Answer:
        return usual[Command(asked.command)](asked)

    return answer


def tree(*entries: FileInfo) -> Rule:
    """A directory with that in it."""

    def stat(asked: FileRequest) -> Answer:
        is_top = asked.path.endswith(b"thing")
        folder = about(b"thing", FOLDER, flags=FileInfo.DIRECTORY)
        return FileResponse(asked.id, info=folder if is_top else about(b"file"))

    return files(stat=stat, ls=lambda asked: FileResponse(asked.id, entries=entries))


def check(result: Result, text: str, status: int = 255) -> None:
    assert result.status == status
    assert text in result.errors
    assert all(c.isprintable() or c == "\n" for c in result.errors + result.output.decode())
    assert "\nalice" not in result.errors


# --------------------------------------------------------------------------- names


def test_names_are_one_step_and_no_more(run: Run, place: Place) -> None:
    names = [
        b"../outside/evil", b"..", b".", b"", b"/evil", b"a/b", b"x\0y", b"folder-link/evil",
        b"good", b"-rf", b"new\nline",
    ]  # fmt: skip
    result = run.copy(tree(*[about(name, 0o644) for name in names]), place.inside)
    check(result, "the server names a file '../outside/evil', left out")
    assert place.files() == [f"inside/thing/{name}" for name in ("-rf", "good", "new\nline")]


def test_no_link_is_gone_through(run: Run, place: Place) -> None:
    """A file may take a link's place; a directory finds one in its way."""
    entries = [
        about(b"file-link", 0o644),
        about(b"folder-link", GO_FOLDER, flags=FileInfo.DIRECTORY),
    ]
    (place.inside / "thing").mkdir()
    for name in ("file-link", "folder-link"):
        (place.inside / name).rename(place.inside / "thing" / name)
    result = run.copy(tree(*entries), place.inside)
    check(result, "folder-link: Not a directory")
    assert place.files() == ["inside/thing/file-link", "inside/thing/folder-link"]


def test_names_that_wildcards_find_go_through_no_link_either(run: Run, place: Place) -> None:
    entries = [about(name, 0o644) for name in (b"file-link", b"../outside/evil", b".hidden")]
    answer = files(ls=lambda asked: FileResponse(asked.id, entries=tuple(entries)))
    result = run.shell(answer, f"lcd {place.inside}", "get *")
    check(result, "", status=0)
    assert place.files() == ["inside/file-link"]


def test_directories_have_an_end(run: Run, place: Place) -> None:
    folder = about(b"deeper", GO_FOLDER, flags=FileInfo.DIRECTORY)
    look = about(b"deeper", FOLDER, flags=FileInfo.DIRECTORY)
    answer = files(
        stat=lambda asked: FileResponse(asked.id, info=look),
        ls=lambda asked: FileResponse(asked.id, entries=(folder,)),
    )
    check(run.copy(answer, place.inside), "too many directories below one another")


def test_special_permissions_stay_there(run: Run, place: Place) -> None:
    answer = files(stat=lambda asked: FileResponse(asked.id, info=about(b"thing", 0o107777)))
    check(run.copy(answer, place.inside), "", status=0)
    assert (place.inside / "thing").stat().st_mode & 0o7000 == 0


# --------------------------------------------------------------------------- contents and answers


def _more(size: int) -> Rule:
    return lambda asked: FileResponse(asked.id, data=bytes(size))


ANSWERS: dict[str, tuple[Rule, str]] = {
    "a longer chunk than asked for": (files(get=_more(CHUNK + 1)), "changes while it is read"),
    "ten megabytes of it": (files(get=_more(10 << 20)), "changes while it is read"),
    "an end in the middle": (
        files(
            stat=lambda asked: FileResponse(asked.id, info=about(b"thing", size=CHUNK * 5)),
            get=lambda asked: FileResponse(
                asked.id, data=bytes(5 if asked.offset == CHUNK * 2 else CHUNK)
            ),
        ),
        "changes while it is read",
    ),
    "an error that paints": (
        files(get=lambda asked: FileResponse(asked.id, ok=False, error=PROMPT)),
        "\\033[31m\\nalice@host's password: ",
    ),
    "an error without a word": (
        files(stat=lambda asked: FileResponse(asked.id, ok=False)),
        "failed",
    ),
    "nothing about the file": (
        files(stat=lambda asked: FileResponse(asked.id)),
        "does not say what is there",
    ),
    "links without end": (
        files(
            stat=lambda asked: FileResponse(asked.id, info=about(b"thing", flags=FileInfo.LINK))
        ),
        "too many levels of symbolic links",
    ),
    "a device": (
        files(stat=lambda asked: FileResponse(asked.id, info=about(b"thing", 0o020644))),
        "not a regular file",
    ),
    "somebody else's answer": (
        files(stat=lambda asked: FileResponse(77, info=about(b"thing"))),
        "answer 77, where 1 is due",
    ),
    "a frame of 4 gigabytes": (files(stat=lambda asked: b"\xff" * 4), "frame of 4294967295 bytes"),
    "an empty frame": (files(stat=lambda asked: bytes(4)), "bad answer of the server"),
    "a frame that is none": (
        files(stat=lambda asked: b"\0\0\0\x20" + b"\xff" * 32),
        "bad answer of the server",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_that_are_none(run: Run, place: Place, name: str) -> None:
    answer, line = ANSWERS[name]
    check(run.copy(answer, place.inside), line)
    assert place.files() == []


def test_the_shell_needs_to_know_where_it_is(run: Run) -> None:
    answer = files(pwd=lambda asked: FileResponse(asked.id, ok=False, error=PROMPT))
    check(run.shell(answer, "pwd"), "\\033[31m\\nalice@host's password: ")


def test_what_is_listed_paints_nothing(run: Run) -> None:
    odd = FileInfo(PROMPT, -1, 0xFFFFFFFF, 3, PROMPT, (1 << 63) - 1, 0, 0, PROMPT, PROMPT)
    answer = files(
        pwd=lambda asked: FileResponse(asked.id, path=PROMPT),
        ls=lambda asked: FileResponse(asked.id, entries=(odd,)),
    )
    result = run.shell(answer, "pwd", "ls", "ls -la", "ls -1")
    check(result, "", status=0)
    assert result.output.count(b"\n") == 4
