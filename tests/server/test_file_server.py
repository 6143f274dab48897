"""The user's file server: what the Go client asked in the recordings, and every rule of its own."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from sshoq.server import file_server
from sshoq.server.account import Account
from sshoq.server.file_server import FileServer, runs_programs
from tests.golden_replay import NAMES, Transcript

GO_HOME = b"/home/gotest"
MTIME = 1_700_000_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """As the recordings found it: golden/ with a large and a small file, a link, a directory."""
    golden = tmp_path / "home/golden"
    (golden / "sub").mkdir(parents=True)
    (golden / "small.txt").write_bytes(b"small file\n")
    chunks = [response.data for _, response in _frames("sftp-get-300k")]
    (golden / "big.bin").write_bytes(b"".join(chunks))
    (golden / "sub/inner.txt").write_bytes(b"inner\n")
    (golden / "link").symlink_to("small.txt")
    for path in (golden, *golden.rglob("*")):
        os.utime(path, (MTIME, MTIME), follow_symlinks=False)
    return tmp_path / "home"


def server_in(directory: Path, *, read_only: bool = False) -> FileServer:
    return FileServer(os.fsencode(directory), read_only=read_only)


class Asker:
    """Asks a server and looks at its answers."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._server = server_in(directory, read_only=read_only)
        self._numbers = 0

    def __call__(
        self, command: int, path: str | bytes = b"", offset: int = 0, limit: int = 0,
        data: bytes = b"",
    ) -> FileResponse:
        self._numbers += 1
        request = FileRequest(
            command, self._numbers, os.fsencode(path), offset, limit, data
        )
        response = self._server.answer(request.encode())
        assert response.id == self._numbers
        return FileResponse.decode(response.encode())

    def done(self, *values: object, **named: object) -> FileResponse:
        response = self(*values, **named)  # type: ignore[arg-type]  # handed on as they are
        assert response.ok, response.error
        return response

    def fails(self, *values: object, **named: object) -> str:
        response = self(*values, **named)  # type: ignore[arg-type]
        assert not response.ok
        return os.fsdecode(response.error)


@pytest.fixture
def ask(tmp_path: Path) -> Asker:
    return Asker(tmp_path)


# --------------------------------------------------------------------------- the recorded client


def _frames(name: str) -> list[tuple[FileRequest, FileResponse]]:
    transcript = Transcript(name)
    [channel] = transcript.channels
    asked, answered = (
        FrameReader(MAX_FRAME).feed(transcript.speech(channel, side).data)
        for side in ("client", "server")
    )
    return [
        (FileRequest.decode(request), FileResponse.decode(response))
        for request, response in zip(asked, answered, strict=True)
    ]


RECORDED = [name for name in NAMES if name.startswith(("sftp-", "scp-")) and "disabled" not in name]


@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_client_gets_the_recorded_answers(name: str, home: Path) -> None:
    """But for owners, sizes and times of directories, and the order of listings. /root is not
    closed to the user who runs tests."""
    server = server_in(home)
    ours = os.fsencode(home)
    for request, expected in _frames(name):
        if request.path.startswith(b"/root"):
            assert expected.error == b"/root: permission denied"
            continue
        moved = FileRequest(
            request.command, request.id, request.path.replace(GO_HOME, ours, 1), request.offset,
            request.limit, request.data,
        )  # fmt: skip
        response = server.answer(moved.encode())
        assert _comparable(response, ours) == _comparable(expected, GO_HOME)


def _comparable(response: FileResponse, home: bytes) -> object:
    infos = [*response.entries, *([response.info] if response.info else [])]
    return (
        response.id, response.ok, response.error.replace(home, b"~"),
        response.path.replace(home, b"~"), response.data,
        sorted(map(_comparable_info, infos)), response.info is None,
    )  # fmt: skip


def _comparable_info(info: FileInfo) -> tuple[object, ...]:
    own = (info.name, info.mode, info.flags, info.target)
    return own if info.is_directory else (*own, info.size, info.mtime)


# --------------------------------------------------------------------------- looking


def test_it_moves_through_directories_by_the_text(ask: Asker, tmp_path: Path) -> None:
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "door").symlink_to("real/inner")
    ask.done(Command.CD, "door")
    assert ask.done(Command.PWD).path == os.fsencode(tmp_path / "door")
    ask.done(Command.CD, "..")
    assert ask.done(Command.PWD).path == os.fsencode(tmp_path)
    ask.done(Command.CD, "//usr//bin/../lib/")
    assert ask.done(Command.PWD).path == b"/usr/lib"


def test_a_listing_tells_all_kinds(ask: Asker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / os.fsdecode(b"\xff\xfe")).touch()
    listed = {entry.name: entry.with_posix_mode() for entry in ask.done(Command.LS).entries}
    assert listed.keys() == {b"file", b"folder", b"dangling", b"pipe", b"\xff\xfe"}
    assert listed[b"file"].size == 5
    assert listed[b"file"].user == pwd.getpwuid(os.getuid()).pw_name.encode()
    assert listed[b"folder"].is_directory
    assert (listed[b"dangling"].is_link, listed[b"dangling"].target) == (True, b"nowhere")
    assert stat.S_ISFIFO(listed[b"pipe"].mode)
    (tmp_path / "door").symlink_to("folder")
    assert ask.done(Command.LS, "door").entries == ()
    assert ask.fails(Command.LS, "file").endswith("/file: not a directory")


def test_a_look_does_not_follow_the_link_itself(ask: Asker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    (tmp_path / "link").symlink_to("file")
    link = ask.done(Command.STAT, "link").info
    assert link is not None
    assert (link.name, stat.S_ISLNK(link.mode), link.target) == (b"link", True, b"file")
    root = ask.done(Command.STAT, "/").info
    assert root is not None
    assert root.name == b"/"


# --------------------------------------------------------------------------- contents


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [
        (0, CHUNK, (0, CHUNK)), (0, 0, (0, CHUNK)), (0, CHUNK + 1, (0, CHUNK)),
        (5, 7, (5, 12)), (CHUNK, CHUNK, (CHUNK, CHUNK + 100)), (CHUNK + 100, CHUNK, (0, 0)),
        (1 << 40, CHUNK, (0, 0)),
    ],
)  # fmt: skip
def test_chunks_are_full_but_for_the_last(
    ask: Asker, tmp_path: Path, offset: int, limit: int, expected: tuple[int, int]
) -> None:
    content = os.urandom(CHUNK + 100)
    (tmp_path / "file").write_bytes(content)
    assert ask.done(Command.GET, "file", offset, limit).data == content[slice(*expected)]


def test_short_reads_are_gone_on_with(
    ask: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(1000)
    (tmp_path / "file").write_bytes(content)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 7), offset))
    assert ask.done(Command.GET, "file").data == content


def test_writing_creates_truncates_and_goes_on(ask: Asker, tmp_path: Path) -> None:
    ask.done(Command.PUT, "file", 0, data=b"0123456789")
    ask.done(Command.PUT, "file", 4, data=b"four")
    assert (tmp_path / "file").read_bytes() == b"0123four89"
    ask.done(Command.PUT, "file", 0, data=b"")
    assert (tmp_path / "file").read_bytes() == b""
    ask.done(Command.PUT, "other", 3, data=b"x")
    assert (tmp_path / "other").read_bytes() == b"\0\0\0x"
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644 & ~mask


def test_neither_reading_nor_writing_goes_through_a_link(ask: Asker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "door").symlink_to("folder")
    for command in (Command.GET, Command.PUT):
        assert "too many levels of symbolic links" in ask.fails(command, "link", data=b"x")
    assert "too many levels of symbolic links" in ask.fails(Command.PUT, "door/x", data=b"x")
    (tmp_path / "folder/x").write_text("through the door")
    assert ask.done(Command.GET, "door/x").data == b"through the door"
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("command", [Command.GET, Command.PUT])
def test_only_ordinary_files_have_contents(ask: Asker, tmp_path: Path, command: int) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it must not wait for its other end
    assert ask.fails(command, "pipe", data=b"x").endswith(
        "invalid argument" if command == Command.GET else "no such device or address"
    )
    assert ask.fails(command, ".", data=b"x").endswith("is a directory")
    assert "invalid argument" in ask.fails(command, "/dev/null", data=b"x")


# --------------------------------------------------------------------------- names


def test_directories_and_files_come_and_go(ask: Asker, tmp_path: Path) -> None:
    ask.done(Command.MKDIR, "new")
    assert ask.fails(Command.MKDIR, "new") == f"{tmp_path}/new already exists"
    assert ask.fails(Command.MKDIR, "a/b").endswith("a/b: no such file or directory")
    (tmp_path / "new/file").touch()
    assert ask.fails(Command.RMDIR, "new").endswith("new: directory not empty")
    assert ask.fails(Command.RM, "new").endswith("new: is a directory")
    ask.done(Command.RM, "new/file")
    ask.done(Command.RMDIR, "new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_takes_the_place_and_the_permissions_of_another(
    ask: Asker, tmp_path: Path
) -> None:
    (tmp_path / "part").write_text("new")
    (tmp_path / "part").chmod(0o600)
    (tmp_path / "there").write_text("old")
    (tmp_path / "there").chmod(0o751)
    ask.done(Command.REPLACE, "part", data=b"there")
    assert (tmp_path / "there").read_text() == "new"
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o751
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [("folder", "is a directory"), ("link", "invalid argument"), ("pipe", "invalid argument"),
     ("door/x", "symbolic links"), ("none/x", "no such file")],
)  # fmt: skip
def test_only_ordinary_files_are_replaced(
    ask: Asker, tmp_path: Path, target: str, reason: str
) -> None:
    (tmp_path / "part").write_text("new")
    (tmp_path / "folder").mkdir()
    (tmp_path / "door").symlink_to("folder")
    (tmp_path / "link").symlink_to("part")
    os.mkfifo(tmp_path / "pipe")
    assert reason in ask.fails(Command.REPLACE, "part", data=os.fsencode(target))
    assert (tmp_path / "part").exists()


# --------------------------------------------------------------------------- what is refused


def test_an_unknown_command_has_an_answer(ask: Asker) -> None:
    assert ask.fails(99) == "unknown command: 99"


def test_a_malformed_request_has_an_answer_without_a_number(tmp_path: Path) -> None:
    response = server_in(tmp_path).answer(b"\x01short")
    assert (response.id, response.ok) == (0, False)
    assert response.error.startswith(b"malformed request")


@pytest.mark.parametrize("command", list(Command))
def test_a_zero_byte_and_a_negative_offset_are_refused(ask: Asker, command: int) -> None:
    assert "invalid argument" in ask.fails(command, b"a\0b")
    assert "invalid argument" in ask.fails(command, b"file", -1)


def test_read_only_means_that(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    ask = Asker(tmp_path, read_only=True)
    for command in (Command.PUT, Command.MKDIR, Command.RM, Command.RMDIR, Command.REPLACE):
        assert "permission denied" in ask.fails(command, "file", data=b"file")
    assert ask.done(Command.GET, "file").data == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@given(payload=st.binary(max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_request_has_an_answer(tmp_path: Path, payload: bytes) -> None:
    folder = tmp_path / "any"
    folder.mkdir(exist_ok=True)
    # Only what cannot harm the machine that tests run on.
    response = server_in(folder, read_only=True).answer(payload)
    assert FileResponse.decode(response.encode()) == response


# --------------------------------------------------------------------------- as a process


def test_answers_come_in_order_until_the_client_has_ended(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    (tmp_path / "file").write_bytes(bytes(range(256)) * 4096)
    thread = threading.Thread(target=server_in(tmp_path).serve, args=(theirs,))
    thread.start()
    requests = [FileRequest(Command.GET, n, b"file", n * 1000, 1000) for n in range(500)]
    ours.sendall(b"".join(map(encode_frame, requests)))
    ours.shutdown(socket.SHUT_WR)
    reader = FrameReader(MAX_FRAME)
    answers: list[FileResponse] = []
    while len(answers) < len(requests) and (data := ours.recv(1 << 20)):
        answers += [FileResponse.decode(payload) for payload in reader.feed(data)]
    thread.join()
    ours.close()
    theirs.close()
    content = (tmp_path / "file").read_bytes()
    assert [answer.id for answer in answers] == list(range(500))
    assert all(a.data == content[n * 1000:(n + 1) * 1000] for n, a in enumerate(answers))


def account(shell: str) -> Account:
    return Account("me", os.getuid(), os.getgid(), "/", shell, ())


@pytest.fixture
def make_shell(tmp_path: Path) -> Callable[[str], str]:
    def make(text: str) -> str:
        path = tmp_path / "shell"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_a_shell_is_one_if_it_runs_what_it_is_given(make_shell: Callable[[str], str]) -> None:
    assert runs_programs(account("/bin/sh"), {})
    assert runs_programs(account(make_shell('exec /bin/sh "$@"')), {})
    assert not runs_programs(account("/no/such/shell"), {})
    assert not runs_programs(account("/bin/false"), {})
    assert not runs_programs(account("/bin/true"), {})
    assert not runs_programs(account(make_shell("exit 1")), {})
    assert not runs_programs(account(make_shell("read answer; echo menu")), {})


def test_a_shell_that_does_not_end_is_none(
    make_shell: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_server, "SHELL_PATIENCE", 0.05)
    assert not runs_programs(account(make_shell("exec sleep 1000")), {})
