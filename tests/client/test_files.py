"""-scp and -sftp as programs, against servers that say what the test wants: the recorded Go server,
and servers that mean harm."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sshoq.file_frames import (
    CHUNK,
    MAX_REQUEST,
    Command,
    FileInfo,
    FileRequest,
    FileResponse,
    FrameReader,
    encode_frame,
)
from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.messages import Sftp
from sshoq.protocol.request import UNAUTHORIZED, ConnectRequest, Response
from sshoq.protocol.version import OUR_VERSION
from sshoq.transport.channel import Channel
from tests.client.little_server import (
    CLIENT,
    Listener,
    LittleServer,
    Result,
    client_environment,
    listening,
)
from tests.client.test_run import keys, run  # noqa: F401  # a fixture
from tests.golden_replay import Transcript

GO_VERSION = b"SSH 3.0 h4sh5/sshoq 0.2.1 experimental_spec_version=alpha-00"
WRITING = (Command.PUT, Command.MKDIR, Command.RM, Command.RMDIR, Command.CD, Command.REPLACE)

Answer = Callable[[FileRequest], FileResponse | bytes | None]
"""None: the server ends its side. Bytes are said as they are."""


SSH3_VERSION = GO_VERSION.replace(b"h4sh5/sshoq", b"francoismichel/ssh3")


class VersionResponse(Response):
    """Let in, by a server that says that it is another one's."""

    def __init__(self, version: bytes) -> None:
        super().__init__(200)
        self._version = version

    def fields(self, wall_clock: float) -> list[tuple[bytes, bytes]]:
        return [
            (name, self._version if value == str(OUR_VERSION).encode() else value)
            for name, value in super().fields(wall_clock)
        ]


Judge = Callable[[ConnectRequest], Response]


def let_in_as_go(request: ConnectRequest) -> Response:
    return VersionResponse(GO_VERSION)


class FileParty:
    """What a server does with one channel of files, and what it was asked."""

    def __init__(self, answer: Answer | str) -> None:
        self.requests: list[FileRequest] = []
        self.headers: list[object] = []
        self._answer = answer

    def accept(self, server: LittleServer, channel: Channel) -> None:
        self.headers.append(channel.state.opening)
        if isinstance(self._answer, str):
            channel.refuse(1, self._answer)
            return
        channel.confirm()
        server.spawn(self._serve(channel, self._answer))

    async def _serve(self, channel: Channel, answer: Answer) -> None:
        reader = FrameReader(MAX_REQUEST)
        while data := await channel.read():
            for payload in reader.feed(data):
                request = FileRequest.decode(payload)
                self.requests.append(request)
                response = answer(request)
                if response is None:
                    channel.finish()
                    return
                frame = response if isinstance(response, bytes) else encode_frame(response)
                await channel.write(frame)
        channel.finish()

    def changes(self) -> list[tuple[int, bytes, int, bytes]]:
        return [
            (one.command, one.path, one.offset, one.data)
            for one in self.requests
            if one.command in WRITING
        ]


def place(listener: Listener) -> str:
    return f"alice@127.0.0.1:{listener.port}/secret"


async def with_server(
    party: FileParty,
    words: Callable[[Listener], list[str]],
    key: str,
    cwd: Path,
    *,
    given: bytes = b"",
    extensions: Extension | None = None,
    judge: Judge = let_in_as_go,
    meanwhile: Callable[[asyncio.subprocess.Process], Coroutine[Any, Any, None]] | None = None,
) -> Result:
    async with listening(judge, extensions=extensions) as listener:

        async def prepare() -> None:
            server = await listener.arrived
            server.on_channel = lambda channel: party.accept(server, channel)

        preparing = asyncio.ensure_future(prepare())
        process = await asyncio.create_subprocess_exec(
            *CLIENT,
            *("-insecure", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
            *words(listener),
            env=client_environment(),
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await preparing
        if meanwhile is not None:
            await meanwhile(process)
        output, errors = await process.communicate(given)
    assert process.returncode is not None
    return Result(process.returncode, output, errors.decode().replace("\r\n", "\n"))


def scp(
    party: FileParty, key: str, cwd: Path, *words: str, extensions: Extension | None = None,
    judge: Judge = let_in_as_go,
) -> Result:
    """A word that begins with '%' is a path at the server."""

    def command(listener: Listener) -> list[str]:
        named = [f"{place(listener)}{word}" if word.startswith("%") else word for word in words]
        return ["-scp", *named] if words[0] != "-i" else [*named[:2], "-scp", *named[2:]]

    return asyncio.run(
        with_server(party, command, key, cwd, extensions=extensions, judge=judge)
    )


def sftp(party: FileParty, key: str, cwd: Path, *commands: str) -> Result:
    given = "\n".join(commands).encode()
    return asyncio.run(
        with_server(party, lambda there: ["-sftp", place(there)], key, cwd, given=given)
    )


# --------------------------------------------------------------------------- the recorded server


class Recorded:
    """Answers as the Go server did when the Go client asked the same. What was never asked is not
    there."""

    def __init__(self, name: str) -> None:
        transcript = Transcript(name)
        [channel] = transcript.channels
        said = {
            side: FrameReader(1 << 26).feed(transcript.speech(channel, side).data)
            for side in ("client", "server")
        }
        self.requests = [FileRequest.decode(payload) for payload in said["client"]]
        self._answers: dict[tuple[object, ...], deque[FileResponse]] = {}
        for request, payload in zip(self.requests, said["server"], strict=True):
            answers = self._answers.setdefault(_key(request), deque())
            answers.append(FileResponse.decode(payload))
        self._directory = b"/home/gotest"

    def answer(self, request: FileRequest) -> FileResponse:
        if request.command == Command.PWD:
            return FileResponse(request.id, path=self._directory)
        answers = self._answers.get(_key(request))
        if answers is None:
            return FileResponse(request.id, ok=False, error=request.path + b": not recorded")
        response = answers.popleft() if len(answers) > 1 else answers[0]
        if request.command == Command.CD and response.ok:
            self._directory = request.path
        return FileResponse(request.id, *list(response)[1:])

    def changes(self) -> list[tuple[int, bytes, int, bytes]]:
        return [
            (one.command, one.path, one.offset, one.data)
            for one in self.requests
            if one.command in WRITING
        ]

    def uploaded(self) -> bytes:
        return b"".join(one.data for one in self.requests if one.command == Command.PUT)

    def downloaded(self) -> bytes:
        return b"".join(
            response.data
            for request in self.requests
            if request.command == Command.GET
            for response in [self._answers[_key(request)][0]]
        )


def _key(request: FileRequest) -> tuple[object, ...]:
    return (request.command, request.path, request.offset)


def commands_of(name: str) -> list[str]:
    """What was typed, from the recording's command line."""
    line = str(Transcript(name).raw["command"])
    return line.partition("# stdin: ")[2].split("; ")


def test_recorded_commands(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    recorded = Recorded("sftp-basic")
    party = FileParty(recorded.answer)
    result = sftp(party, keys[0], tmp_path, *commands_of("sftp-basic"))
    assert (result.status, result.errors) == (0, "")
    assert party.changes() == recorded.changes()
    assert (tmp_path / "small.txt").read_bytes() == recorded.downloaded()
    lines = result.output.decode().splitlines()
    assert lines[0] == "Remote working directory: /home/gotest"
    assert [line.split()[7] for line in lines if line.startswith("-rw")] == [
        "big.bin", "small.txt"
    ] * 2
    assert any(line.endswith("link -> small.txt") for line in lines)


def test_recorded_errors(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    recorded = Recorded("sftp-errors")
    party = FileParty(recorded.answer)
    (tmp_path / "small.txt").write_bytes(recorded.uploaded())
    (tmp_path / "empty").touch()
    result = sftp(party, keys[0], tmp_path, *commands_of("sftp-errors"))
    assert result.status == 0
    *errors, _ = result.errors.splitlines()
    assert errors == [
        "/home/gotest/nosuchdir: no such file or directory",
        "/home/gotest/nosuchfile: no such file or directory",
        "/home/gotest/golden already exists",
        "/home/gotest/golden: is a directory",
        "/home/gotest/golden: directory not empty",
        "/home/gotest/golden/small.txt: not a directory",
        "/root: permission denied",
        "/root: permission denied",
    ]
    empty = (Command.PUT, b"/home/gotest/golden/empty", 0, b"")
    assert party.changes() == [*recorded.changes(), empty]
    assert (tmp_path / "link").read_bytes() == recorded.downloaded()


def test_recorded_download_in_chunks(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    recorded = Recorded("sftp-get-300k")
    party = FileParty(recorded.answer)
    result = sftp(party, keys[0], tmp_path, *commands_of("sftp-get-300k"))
    assert (result.status, result.errors) == (0, "")
    assert (tmp_path / "big.bin").read_bytes() == recorded.downloaded()
    asked = [one.offset for one in party.requests if one.command == Command.GET]
    assert asked == [0, CHUNK, 2 * CHUNK]


def test_recorded_upload_in_chunks(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    recorded = Recorded("sftp-put-300k")
    party = FileParty(recorded.answer)
    (tmp_path / "big.bin").write_bytes(recorded.uploaded())
    result = sftp(party, keys[0], tmp_path, *commands_of("sftp-put-300k"))
    assert (result.status, result.errors) == (0, "")
    assert party.changes() == recorded.changes()


def test_recorded_refusal(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    party = FileParty("SFTP is disabled on the server")
    result = sftp(party, keys[0], tmp_path, "pwd", "exit")
    assert result == Result(255, b"", "SFTP is disabled on the server\n")
    assert party.headers == [Sftp()]


def test_recorded_copy_from_the_server(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    recorded = Recorded("scp-file-download")
    party = FileParty(recorded.answer)
    assert scp(party, keys[0], tmp_path, "%golden/small.txt", "got.txt") == Result(0, b"", "")
    assert (tmp_path / "got.txt").read_bytes() == recorded.downloaded()


def test_recorded_copy_to_the_server(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    recorded = Recorded("scp-file-upload")
    party = FileParty(recorded.answer)
    (tmp_path / "small.txt").write_bytes(recorded.uploaded())
    assert scp(party, keys[0], tmp_path, "small.txt", "%golden/new.txt") == Result(0, b"", "")
    assert party.changes() == recorded.changes()


def test_recorded_copy_of_what_is_missing(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    party = FileParty(Recorded("scp-missing").answer)
    result = scp(party, keys[0], tmp_path, "%golden/nosuch", "got.txt")
    assert result == Result(255, b"", "/home/gotest/golden/nosuch: no such file or directory\n")
    assert not (tmp_path / "got.txt").exists()


def test_recorded_tree_from_the_server(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    recorded = Recorded("scp-recursive-download")
    party = FileParty(recorded.answer)
    assert scp(party, keys[0], tmp_path, "-r", "%golden/sub", ".") == Result(0, b"", "")
    assert (tmp_path / "sub/inner.txt").read_bytes() == recorded.downloaded()


def test_recorded_tree_to_the_server(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    """With the empty file, which the Go client leaves out."""
    recorded = Recorded("scp-recursive-upload")
    empty = (Command.PUT, b"golden/tree/empty", 0, b"")

    def answer(request: FileRequest) -> FileResponse:
        if (request.command, request.path) == empty[:2]:
            return FileResponse(request.id)
        return recorded.answer(request)

    party = FileParty(answer)
    (tmp_path / "tree/d").mkdir(parents=True)
    (tmp_path / "tree/a.txt").write_text("aaa\n")
    (tmp_path / "tree/d/b.txt").write_text("bbb\n")
    (tmp_path / "tree/empty").touch()
    assert scp(party, keys[0], tmp_path, "-r", "tree", "%golden/") == Result(0, b"", "")
    # A directory comes ahead of what is in it; the rest is in no order.
    assert sorted(party.changes()) == sorted([*recorded.changes(), empty])
    made = [path for command, path, _, _ in party.changes() if command == Command.MKDIR]
    assert made == [b"golden/tree", b"golden/tree/d"]


# --------------------------------------------------------------------------- servers that mean harm


def info(name: bytes, mode: int = 0o100644, target: bytes = b"", size: int = 3) -> FileInfo:
    flags = FileInfo.DIRECTORY * (mode >> 12 == 0o4) | FileInfo.LINK * (mode >> 12 == 0o12)
    return FileInfo(name, size, mode, flags, target, 0, 0, 0, b"", b"")


FOLDER = 0o40755
LINK = 0o120777


def serving(*names: FileInfo) -> Answer:
    """A directory of everything that is asked for, with these in it; files hold "bad"."""

    def answer(request: FileRequest) -> FileResponse:
        match request.command:
            case Command.STAT if request.path == b"tree":
                return FileResponse(request.id, info=info(b"tree", FOLDER))
            case Command.STAT:
                return FileResponse(request.id, info=info(b"x"))
            case Command.LS if request.path == b"tree":
                return FileResponse(request.id, entries=names)
            case Command.LS:
                return FileResponse(request.id, entries=(info(b"inside"),))
            case Command.GET:
                return FileResponse(request.id, data=b"bad" if request.offset == 0 else b"")
        return FileResponse(request.id, ok=False, error=b"no")

    return answer


HARMFUL = [b"../escaped", b"..", b".", b"", b"/tmp/escaped", b"a/../../escaped", b"sub/x", b"x\0y"]


@pytest.mark.parametrize("name", HARMFUL)
@pytest.mark.parametrize("is_folder", [False, True])
def test_names_that_lead_elsewhere_are_left_out(
    keys: list[str], tmp_path: Path, name: bytes, is_folder: bool  # noqa: F811
) -> None:
    mode = 1 << 31 | 0o755 if is_folder else 0o644
    harmful = info(name, FOLDER if is_folder else 0o100644)
    harmful = FileInfo(**{**harmful.__dict__, "mode": mode})
    party = FileParty(serving(harmful, FileInfo(**{**info(b"good").__dict__, "mode": 0o644})))
    work = tmp_path / "work"
    work.mkdir()
    result = scp(party, keys[0], work, "-r", "%tree", "here")
    assert result.status == 255
    assert "left out" in result.errors
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "work", "work/here", "work/here/good"
    ]


def test_wildcards_match_no_names_that_lead_elsewhere(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    names = [FileInfo(**{**info(name).__dict__, "mode": 0o644}) for name in (*HARMFUL, b"good")]

    def answer(request: FileRequest) -> FileResponse:
        if request.command == Command.PWD:
            return FileResponse(request.id, path=b"/")
        if request.command == Command.LS:
            return FileResponse(request.id, entries=tuple(names))
        response = serving()(request)
        assert isinstance(response, FileResponse)
        return response

    work = tmp_path / "work"
    work.mkdir()
    result = sftp(FileParty(answer), keys[0], work, "get *")
    assert (result.status, result.errors) == (0, "")
    assert [path.name for path in work.iterdir()] == ["good"]
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_names_do_not_drive_the_terminal(keys: list[str], tmp_path: Path) -> None:  # noqa: F811
    def answer(request: FileRequest) -> FileResponse:
        if request.command == Command.LS:
            bell = FileInfo(**{**info(b"\x1b]0;x\x07\nnew line").__dict__, "mode": 0o644})
            return FileResponse(request.id, entries=(bell,))
        return FileResponse(request.id, path=b"/\x1b[2J")

    result = sftp(FileParty(answer), keys[0], tmp_path, "pwd", "ls", "ls -1")
    assert b"\x1b" not in result.output
    assert b"\x07" not in result.output
    assert len(result.output.splitlines()) == 3


def test_links_that_lead_round_in_circles_end(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    def answer(request: FileRequest) -> FileResponse:
        return FileResponse(request.id, info=info(b"x", LINK, target=b"x"))

    result = scp(FileParty(answer), keys[0], tmp_path, "%x", "here")
    assert result == Result(255, b"", "too many levels of symbolic links\n")


def test_directories_without_end_are_cut_off(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    def answer(request: FileRequest) -> FileResponse:
        if request.command == Command.STAT:
            return FileResponse(request.id, info=info(b"d", FOLDER))
        again = FileInfo(**{**info(b"d", FOLDER).__dict__, "mode": 1 << 31 | 0o755})
        return FileResponse(request.id, entries=(again,))

    party = FileParty(answer)
    result = scp(party, keys[0], tmp_path, "-r", "%d", ".")
    assert result.status == 255
    assert "too many directories" in result.errors
    assert len(party.requests) < 400


def frame(*values: Any, **named: Any) -> Answer:
    return lambda request: FileResponse(*values, **named)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (frame(99), "bad answer"),
        (lambda request: b"\xff\xff\xff\xff", "bad answer"),
        (lambda request: b"\0\0\0\1\0", "bad answer"),
        (lambda request: encode_frame(FileResponse(request.id)) * 2, "does not say"),
        (frame(0), "does not say"),
        (frame(0, ok=False, error=b"\x1b[1mloud"), "\\033[1mloud"),
        (lambda request: None, "has closed"),
        (lambda request: b'{"Error":"unknown"}', "JSON"),
    ],
)
def test_wrong_answers_end_the_copy_with_255(
    keys: list[str], tmp_path: Path, answer: Answer, complaint: str  # noqa: F811
) -> None:
    result = scp(FileParty(answer), keys[0], tmp_path, "%x", "here")
    assert result.status == 255
    assert complaint in result.errors
    assert list(tmp_path.iterdir()) == []


def chunks_then(ending: Callable[[FileRequest], FileResponse | None], size: int) -> Answer:
    """A file of that size, whose last chunk is not had in good order."""

    def answer(request: FileRequest) -> FileResponse | None:
        if request.command == Command.STAT:
            return FileResponse(request.id, info=info(b"x", size=size))
        if request.offset < size - CHUNK:
            return FileResponse(request.id, data=bytes(CHUNK))
        return ending(request)

    return answer


@pytest.mark.parametrize(
    "ending",
    [
        lambda request: None,
        lambda request: FileResponse(request.id, ok=False, error=b"input/output error"),
        lambda request: FileResponse(request.id, data=bytes(CHUNK + 1)),
    ],
    ids=["gone", "error", "too-long"],
)
def test_a_part_never_takes_the_place_of_the_whole(
    keys: list[str], tmp_path: Path, ending: Callable[[FileRequest], FileResponse | None]  # noqa: F811
) -> None:
    (tmp_path / "here").write_text("old and whole")
    result = scp(FileParty(chunks_then(ending, 40 * CHUNK)), keys[0], tmp_path, "%x", "here")
    assert result.status == 255
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "here": "old and whole"
    }


def test_a_file_that_shrinks_meanwhile_is_what_it_then_is(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    def answer(request: FileRequest) -> FileResponse:
        if request.command == Command.STAT:
            return FileResponse(request.id, info=info(b"x", size=10 * CHUNK))
        return FileResponse(request.id, data=b"less"[request.offset:])

    assert scp(FileParty(answer), keys[0], tmp_path, "%x", "here").status == 0
    assert (tmp_path / "here").read_text() == "less"


def test_a_file_without_a_size_is_read_to_its_end(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    content = os.urandom(3 * CHUNK + 5)

    def answer(request: FileRequest) -> FileResponse:
        if request.command == Command.STAT:
            return FileResponse(request.id, info=info(b"x", size=0))
        return FileResponse(request.id, data=content[request.offset:request.offset + CHUNK])

    assert scp(FileParty(answer), keys[0], tmp_path, "%x", "here").status == 0
    assert (tmp_path / "here").read_bytes() == content


# --------------------------------------------------------------------------- uploads that fail


class Store:
    """A server that takes files, to a limit."""

    def __init__(self, most: int = 1 << 40) -> None:
        self.files: dict[bytes, bytearray] = {}
        self._most = most

    def answer(self, request: FileRequest) -> FileResponse:
        match request.command:
            case Command.PUT if request.offset >= self._most:
                return FileResponse(request.id, ok=False, error=b"x: no space left on device")
            case Command.PUT:
                if request.offset == 0:
                    self.files[request.path] = bytearray()
                self.files[request.path][request.offset:] = request.data
            case Command.RM:
                del self.files[request.path]
            case Command.REPLACE:
                self.files[request.data] = self.files.pop(request.path)
            case _:
                return FileResponse(request.id, ok=False, error=b"no such file or directory")
        return FileResponse(request.id)


def test_what_was_not_completed_at_a_go_server_is_removed(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    store = Store(most=5 * CHUNK)
    (tmp_path / "source").write_bytes(bytes(40 * CHUNK))
    result = scp(FileParty(store.answer), keys[0], tmp_path, "source", "%there")
    assert result == Result(255, b"", "x: no space left on device\n")
    assert store.files == {}


def test_a_file_that_was_not_opened_is_not_removed(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    def answer(request: FileRequest) -> FileResponse:
        return FileResponse(request.id, ok=False, error=b"there: permission denied")

    party = FileParty(answer)
    (tmp_path / "source").write_text("x")
    result = scp(party, keys[0], tmp_path, "source", "%there")
    assert result == Result(255, b"", "there: permission denied\n")
    assert Command.RM not in [one.command for one in party.requests]


def test_our_server_gets_the_file_under_another_name_first(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    store = Store()
    party = FileParty(store.answer)
    (tmp_path / "source").write_bytes(os.urandom(3 * CHUNK))
    assert scp(party, keys[0], tmp_path, "source", "%d/there", extensions=OURS).status == 0
    assert store.files == {b"d/there": (tmp_path / "source").read_bytes()}
    written = {one.path for one in party.requests if one.command == Command.PUT}
    assert [path.startswith(b"d/.sshoq-") for path in written] == [True]


def test_a_file_in_a_directory_that_takes_none_is_written_itself(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    store = Store()

    def answer(request: FileRequest) -> FileResponse:
        if request.command == Command.PUT and request.path != b"there":
            return FileResponse(request.id, ok=False, error=b"permission denied")
        return store.answer(request)

    (tmp_path / "source").write_text("x")
    words = ("source", "%there")
    assert scp(FileParty(answer), keys[0], tmp_path, *words, extensions=OURS).status == 0
    assert store.files == {b"there": b"x"}


def test_interrupt_while_the_server_is_silent_is_130(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    asked = asyncio.Event()

    def answer(request: FileRequest) -> FileResponse | bytes:
        asked.set()
        return b""

    async def interrupt(process: asyncio.subprocess.Process) -> None:
        await asked.wait()
        process.send_signal(signal.SIGINT)

    async def test() -> Result:
        return await with_server(
            FileParty(answer),
            lambda there: ["-scp", f"{place(there)}%x", "here"],
            keys[0], tmp_path, meanwhile=interrupt,
        )  # fmt: skip

    assert asyncio.run(test()) == Result(130, b"", "")


def test_the_first_questions_ride_with_the_login(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    """What stands in the header's own flight: all that a file of one chunk takes."""
    party = FileParty(serving())
    assert scp(party, keys[0], tmp_path, "%x", "here", extensions=OURS).status == 0
    first = [one.command for one in party.requests[:2]]
    assert first == [Command.STAT, Command.GET]
    assert [one.id for one in party.requests] == list(range(1, len(party.requests) + 1))


def test_they_are_asked_again_after_a_refused_key(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    tries: list[ConnectRequest] = []

    def judge(request: ConnectRequest) -> Response:
        tries.append(request)
        return Response(200) if len({one.authorization for one in tries}) > 1 else UNAUTHORIZED

    party = FileParty(serving())
    more = ("-i", keys[1])
    done = scp(party, keys[0], tmp_path, *more, "%x", "here", extensions=OURS, judge=judge)
    assert done == Result(0, b"", "")
    assert (tmp_path / "here").read_text() == "bad"


def test_a_server_that_dies_of_the_question_is_not_asked(
    keys: list[str], tmp_path: Path  # noqa: F811
) -> None:
    party = FileParty(serving())
    done = scp(
        party, keys[0], tmp_path, "%x", "here", judge=lambda _: VersionResponse(SSH3_VERSION)
    )
    assert done.status == 255
    assert "this server has no file transfer" in done.errors
    assert party.headers == []
