"""internal-sftp: each request's answer, its flags, and that nothing else comes of any bytes."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.server.account import Account
from sshoq.server.file_access import FileAccess
from sshoq.server.sftp_answers import show_time
from sshoq.server.sftp_files import list_entries
from sshoq.server.sftp_messages import (
    APPEND_FLAG,
    BAD_MESSAGE,
    CREATE_FLAG,
    EOF,
    EXCLUSIVE_FLAG,
    FAILURE,
    MAX_DATA,
    MAX_PACKET,
    NO_SUCH_FILE,
    OK,
    PERMISSION_DENIED,
    READ_FLAG,
    TRUNCATE_FLAG,
    UNSUPPORTED,
    WRITE_FLAG,
    Attributes,
    AttributesOf,
    CopyData,
    Data,
    ExtendedReply,
    Handle,
    Names,
    NumbersOfNames,
    OfHandle,
    OfPath,
    OfTwoPaths,
    Open,
    PacketReader,
    Read,
    Request,
    SetOfHandle,
    SetOfPath,
    Status,
    Version,
    Write,
    encode_packet,
)
from sshoq.server.sftp_server import EXTENSIONS, REQUEST_NAMES, REQUESTS, SftpServer
from sshoq.wire import Message, WireError, put_string

NUMBERS = {rule.name: number for number, rule in REQUESTS.items()}
EXTENDED_NAMES = {rule.name: name for name, rule in EXTENSIONS.items()}
ANSWERS: dict[int, type[Message]] = {
    2: Version, 101: Status, 102: Handle, 103: Data, 104: Names, 105: AttributesOf,
    201: ExtendedReply,
}  # fmt: skip
INIT = b"\1\0\0\0\3"
NEW = WRITE_FLAG | CREATE_FLAG | TRUNCATE_FLAG


class Asker:
    """A client that has said hello."""

    def __init__(self, home: Path, **access: Any) -> None:
        account = Account("me", 1000, 1000, str(home), "/bin/sh", ())
        self.server = SftpServer(account, FileAccess(**access))
        self.greeting = self.read(self.server.answer(INIT))
        self._number = 0

    @staticmethod
    def read(parts: tuple[bytes, ...]) -> Any:
        packet = b"".join(parts)
        assert int.from_bytes(packet[:4], "big") == len(packet) - 4
        return ANSWERS[packet[4]].decode(packet[5:])

    def ask(self, name: str, shape: type[Request], *values: Any) -> Any:
        self._number += 1
        body = shape(self._number, *values).encode()
        if name in NUMBERS:
            packet = bytes([NUMBERS[name]]) + body
        else:
            packet = b"\xc8" + body[:4] + put_string(EXTENDED_NAMES[name]) + body[4:]
        answer = self.read(self.server.answer(packet))
        assert answer.id == self._number
        return answer

    def code(self, name: str, shape: type[Request], *values: Any) -> int:
        answer = self.ask(name, shape, *values)
        assert isinstance(answer, Status), answer
        return answer.code

    def open(self, path: str, flags: int = READ_FLAG, **attributes: Any) -> bytes:
        answer = self.ask("open", Open, os.fsencode(path), flags, Attributes(**attributes))
        assert isinstance(answer, Handle), answer
        return answer.handle


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, as of a login."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def asker(home: Path) -> Asker:
    return Asker(home)


def test_it_greets_with_what_it_can(asker: Asker) -> None:
    assert asker.greeting.version == 3
    for name in (b"posix-rename@openssh.com", b"fsync@openssh.com", b"copy-data"):
        assert put_string(name) + put_string(b"1") in asker.greeting.extensions
    assert put_string(b"statvfs@openssh.com") + put_string(b"2") in asker.greeting.extensions


def test_nothing_is_answered_before_the_greeting(home: Path) -> None:
    server = SftpServer(Account("me", 1, 1, str(home), "", ()), FileAccess())
    with pytest.raises(WireError):
        server.answer(b"\x11" + OfPath(1, b".").encode())


class TestFiles:
    def test_what_was_written_is_read(self, asker: Asker, home: Path) -> None:
        handle = asker.open("file", NEW | READ_FLAG, mode=0o640)
        assert asker.code("write", Write, handle, 0, b"hello") == OK
        assert asker.code("write", Write, handle, 8, b"there") == OK
        assert asker.ask("read", Read, handle, 3, 100).data == b"lo\0\0\0there"
        assert asker.code("read", Read, handle, 13, 1) == EOF
        assert asker.code("fsync", OfHandle, handle) == OK
        assert asker.ask("fstat", OfHandle, handle).attributes.size == 13
        assert asker.code("close", OfHandle, handle) == OK
        assert asker.code("close", OfHandle, handle) == FAILURE
        assert (home / "file").read_bytes() == b"hello\0\0\0there"
        assert (home / "file").stat().st_mode & 0o777 == 0o640

    def test_much_is_read_in_parts(self, asker: Asker, home: Path) -> None:
        blob = os.urandom(MAX_DATA + 1)
        (home / "file").write_bytes(blob)
        handle = asker.open("file")
        assert asker.ask("read", Read, handle, 0, 0xFFFF_FFFF).data == blob[:-1]
        assert asker.ask("read", Read, handle, MAX_DATA, 0xFFFF_FFFF).data == blob[-1:]

    def test_appending_is_at_the_end_whatever_is_said(self, asker: Asker, home: Path) -> None:
        (home / "file").write_text("one")
        handle = asker.open("file", WRITE_FLAG | APPEND_FLAG)
        assert asker.code("write", Write, handle, 0, b"two") == OK
        assert (home / "file").read_text() == "onetwo"

    def test_what_must_be_new_is_not_opened(self, asker: Asker, home: Path) -> None:
        (home / "file").touch()
        flags = NEW | EXCLUSIVE_FLAG
        assert asker.code("open", Open, b"file", flags, Attributes()) == FAILURE

    @pytest.mark.parametrize(
        ("path", "flags", "code"),
        [
            (b"none", READ_FLAG, NO_SUCH_FILE),
            (b".", WRITE_FLAG, FAILURE),
            (b"zero\0byte", READ_FLAG, BAD_MESSAGE),
            (b"x" * 5000, READ_FLAG, BAD_MESSAGE),
            (b"", READ_FLAG, NO_SUCH_FILE),
            (b"loop", READ_FLAG, NO_SUCH_FILE),
            (b"fifo", WRITE_FLAG, FAILURE),
        ],
    )
    def test_what_cannot_be_opened(
        self, asker: Asker, home: Path, path: bytes, flags: int, code: int
    ) -> None:
        (home / "loop").symlink_to("loop")
        os.mkfifo(home / "fifo")
        assert asker.code("open", Open, path, flags, Attributes()) == code

    def test_a_fifo_keeps_nobody_waiting(self, asker: Asker, home: Path) -> None:
        os.mkfifo(home / "fifo")
        handle = asker.open("fifo")
        assert asker.code("read", Read, handle, 0, 1) == FAILURE

    def test_a_handle_is_good_for_its_kind_alone(self, asker: Asker, home: Path) -> None:
        folder = asker.ask("opendir", OfPath, b".").handle
        assert asker.code("read", Read, folder, 0, 1) == FAILURE
        assert asker.code("close", OfHandle, folder) == OK
        (home / "file").touch()
        assert asker.code("readdir", OfHandle, asker.open("file")) == FAILURE
        assert asker.code("readdir", OfHandle, b"\0" * 8) == FAILURE
        assert asker.code("read", Read, b"", 0, 1) == FAILURE

    def test_an_offset_beyond_all_files(self, asker: Asker, home: Path) -> None:
        handle = asker.open("file", NEW)
        assert asker.code("write", Write, handle, (1 << 64) - 1, b"x") == BAD_MESSAGE

    def test_a_file_is_copied_within_the_server(self, asker: Asker, home: Path) -> None:
        blob = os.urandom(3_000_000)
        (home / "from").write_bytes(blob)
        source, target = asker.open("from"), asker.open("to", NEW)
        assert asker.code("copy-data", CopyData, source, 0, 0, target, 0) == OK
        assert (home / "to").read_bytes() == blob
        assert asker.code("copy-data", CopyData, source, 10, 20, target, 5) == OK
        assert (home / "to").read_bytes() == blob[:5] + blob[10:30] + blob[25:]
        both = asker.open("to", READ_FLAG | WRITE_FLAG)
        assert asker.code("copy-data", CopyData, both, 0, 10, both, 5) == FAILURE
        assert asker.code("copy-data", CopyData, both, 0, 0, both, 5) == FAILURE
        assert asker.code("copy-data", CopyData, both, 0, 10, both, 10) == OK


class TestFolders:
    def list(self, asker: Asker, path: bytes) -> list[Any]:
        handle = asker.ask("opendir", OfPath, path).handle
        names: list[Any] = []
        while isinstance(answer := asker.ask("readdir", OfHandle, handle), Names):
            names += answer.names
        assert answer.code == EOF
        assert asker.code("close", OfHandle, handle) == OK
        return names

    def test_all_entries_are_listed_whatever_their_names(self, asker: Asker, home: Path) -> None:
        names = {b"\xff not text", b"two\nlines", *(b"%d" % number for number in range(250))}
        for name in names:
            (home / os.fsdecode(name)).touch()
        listed = self.list(asker, b"")
        assert {entry.name for entry in listed} == names | {b".", b".."}
        assert len(listed) == len(names) + 2

    def test_a_line_is_for_people(self, asker: Asker, home: Path) -> None:
        (home / "file").write_text("12345")
        (home / "file").chmod(0o4751)
        os.utime(home / "file", (0, 86400 * 365))
        (home / "link").symlink_to("nowhere")
        lines = {entry.name: entry.line.decode() for entry in self.list(asker, b".")}
        words = lines[b"file"].split()
        assert words[:2] == ["-rwsr-x--x", "1"]
        assert words[4:] == ["5", "Jan", "1", "1971", "file"]
        assert lines[b"link"].startswith("lrwxrwxrwx ")

    def test_an_entry_that_may_not_be_looked_at_hides_no_other(self) -> None:
        class Entry:
            def __init__(self, name: bytes, failure: OSError | None) -> None:
                self.name, self._failure = name, failure

            def stat(self, *, follow_symlinks: bool) -> os.stat_result:
                if self._failure is not None:
                    raise self._failure
                return os.stat(".")

        entries = [Entry(b"gone", FileNotFoundError()), Entry(b"closed", PermissionError())]
        listed = list_entries(b".", [*entries, Entry(b"seen", None)])
        assert [name for name, _ in listed] == [b".", b"..", b"seen"]

    @pytest.mark.parametrize("when", [1e10, -1e10, 6.8e16, 9.2e18, -9.2e18])
    def test_any_time_is_shown(self, when: float) -> None:
        assert show_time(when)

    def test_making_and_removing(self, asker: Asker, home: Path) -> None:
        assert asker.code("mkdir", SetOfPath, b"new", Attributes(mode=0o700)) == OK
        assert (home / "new").stat().st_mode & 0o777 == 0o700
        assert asker.code("mkdir", SetOfPath, b"new", Attributes()) == FAILURE
        assert asker.code("remove", OfPath, b"new") == FAILURE
        assert asker.code("rmdir", OfPath, b"new") == OK
        assert asker.code("rmdir", OfPath, b"new") == NO_SUCH_FILE

    def test_closing_it_early_closes_its_descriptor(self, asker: Asker, home: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        handle = asker.ask("opendir", OfPath, b".").handle
        asker.ask("readdir", OfHandle, handle)
        asker.code("close", OfHandle, handle)
        assert len(os.listdir("/proc/self/fd")) == before


class TestAttributes:
    def test_links_are_followed_or_not(self, asker: Asker, home: Path) -> None:
        (home / "file").write_text("12345")
        (home / "link").symlink_to("file")
        assert asker.ask("stat", OfPath, b"link").attributes.size == 5
        state = (home / "file").stat()
        told = asker.ask("stat", OfPath, b"file").attributes
        assert told.owner == (state.st_uid, state.st_gid)
        assert told.times == (int(state.st_atime), int(state.st_mtime))
        assert stat.S_ISLNK(asker.ask("lstat", OfPath, b"link").attributes.mode)
        assert asker.code("stat", OfPath, b"none") == NO_SUCH_FILE

    @pytest.mark.parametrize("by", ["path", "handle"])
    def test_they_are_set(self, asker: Asker, home: Path, by: str) -> None:
        (home / "file").write_text("12345")
        wanted = Attributes(2, (os.getuid(), os.getgid()), 0o100600, (1, 2))
        if by == "path":
            assert asker.code("setstat", SetOfPath, b"file", wanted) == OK
        else:
            handle = asker.open("file", WRITE_FLAG)
            assert asker.code("fsetstat", SetOfHandle, handle, wanted) == OK
        state = (home / "file").stat()
        assert (state.st_size, state.st_mode & 0o7777) == (2, 0o600)
        assert (state.st_atime, state.st_mtime) == (1, 2)
        assert (home / "file").read_text() == "12"

    def test_of_a_link_itself(self, asker: Asker, home: Path) -> None:
        (home / "file").touch()
        (home / "link").symlink_to("file")
        before = (home / "file").stat().st_mtime
        code = asker.code("lsetstat", SetOfPath, b"link", Attributes(times=(1, 2)))
        assert code == OK
        assert (home / "link").lstat().st_mtime == 2
        assert (home / "file").stat().st_mtime == before
        for wanted, code in ((Attributes(size=0), BAD_MESSAGE), (Attributes(mode=0), UNSUPPORTED)):
            assert asker.code("lsetstat", SetOfPath, b"link", wanted) == code
        assert asker.code("lsetstat", SetOfPath, b"file", Attributes(mode=0o604)) == OK
        assert (home / "file").stat().st_mode & 0o777 == 0o604

    def test_of_the_file_system(self, asker: Asker, home: Path) -> None:
        content = struct.unpack(">11Q", asker.ask("statvfs", OfPath, b".").content)
        state = os.statvfs(home)
        assert (content[0], content[2], content[10]) == (
            state.f_bsize, state.f_blocks, state.f_namemax,
        )  # fmt: skip
        handle = asker.open("file", NEW)
        assert len(asker.ask("fstatvfs", OfHandle, handle).content) == 88


class TestNames:
    def test_renaming_replaces_nothing_unless_asked_to(self, asker: Asker, home: Path) -> None:
        (home / "one").write_text("1")
        (home / "two").write_text("2")
        (home / "folder").mkdir()
        assert asker.code("rename", OfTwoPaths, b"one", b"two") == FAILURE
        assert asker.code("rename", OfTwoPaths, b"folder", b"two") == FAILURE
        assert (home / "two").read_text() == "2"
        assert asker.code("rename", OfTwoPaths, b"one", b"three") == OK
        assert asker.code("rename", OfTwoPaths, b"folder", b"other") == OK
        assert asker.code("posix-rename", OfTwoPaths, b"three", b"two") == OK
        assert (home / "two").read_text() == "1"
        assert sorted(path.name for path in home.iterdir()) == ["other", "two"]

    def test_a_link_is_renamed_and_not_its_target(self, asker: Asker, home: Path) -> None:
        (home / "file").touch()
        (home / "link").symlink_to("file")
        assert asker.code("rename", OfTwoPaths, b"link", b"moved") == OK
        assert os.readlink(home / "moved") == "file"

    def test_links(self, asker: Asker, home: Path) -> None:
        (home / "file").touch()
        assert asker.code("symlink", OfTwoPaths, b"target", b"link") == OK
        assert asker.ask("readlink", OfPath, b"link").names[0].name == b"target"
        assert asker.code("readlink", OfPath, b"file") == BAD_MESSAGE
        assert asker.code("hardlink", OfTwoPaths, b"file", b"other") == OK
        assert (home / "other").stat().st_ino == (home / "file").stat().st_ino
        assert asker.code("remove", OfPath, b"other") == OK
        assert asker.code("remove", OfPath, b"other") == NO_SUCH_FILE

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            (b"", b""), (b".", b""), (b"new", b"/new"), (b"link/../x", b"/x"),
            (b"folder/./y", b"/folder/y"),
        ],
    )  # fmt: skip
    def test_a_path_is_resolved(
        self, asker: Asker, home: Path, path: bytes, expected: bytes
    ) -> None:
        (home / "folder").mkdir()
        (home / "link").symlink_to("folder")
        here = os.fsencode(home.resolve())
        assert asker.ask("realpath", OfPath, path).names[0].name == here + expected

    def test_what_is_above_must_be_there(self, asker: Asker) -> None:
        assert asker.code("realpath", OfPath, b"none/below") == NO_SUCH_FILE

    def test_links_without_end_do_not_end_the_server(self, asker: Asker, home: Path) -> None:
        for number in range(1500):
            (home / f"{number}").symlink_to(f"{number + 1}")
        asker.ask("realpath", OfPath, b"0")  # refused, or followed by Python 3.13 and later
        assert asker.ask("realpath", OfPath, b".").names[0].name == os.fsencode(home.resolve())

    def test_tildes(self, asker: Asker, home: Path) -> None:
        (home / "folder").mkdir()
        here = os.fsencode(home.resolve())
        for path in (b"~/folder", b"~me/folder", b"folder"):
            assert asker.ask("expand-path", OfPath, path).names[0].name == here + b"/folder"
        assert asker.ask("expand-path", OfPath, b"~root/x").names[0].name == b"/root/x"
        assert asker.code("expand-path", OfPath, b"~no-such-user/") == NO_SUCH_FILE
        assert asker.ask("home-directory", OfPath, b"me").names[0].name == here


class TestQuestions:
    def test_limits(self, asker: Asker) -> None:
        limits = struct.unpack(">4Q", asker.ask("limits", Request).content)
        assert limits[:3] == (MAX_PACKET, MAX_DATA, MAX_DATA)
        assert limits[3] > 0

    def test_names_of_numbers(self, asker: Asker) -> None:
        numbers = struct.pack(">2I", 0, 0xFFFF_FFF0)
        answer = asker.ask("users-groups-by-id", NumbersOfNames, numbers, numbers)
        names = put_string(put_string(b"root") + put_string(b""))
        assert answer.content == names + names
        assert asker.code("users-groups-by-id", NumbersOfNames, b"abc", b"") == BAD_MESSAGE


class TestRules:
    WRITING = (
        ("open", Open, b"file", NEW, Attributes()),
        ("open", Open, b"file", CREATE_FLAG | READ_FLAG, Attributes()),
        ("open", Open, b"file", READ_FLAG | WRITE_FLAG, Attributes()),
        ("setstat", SetOfPath, b"file", Attributes(mode=0o777)),
        ("mkdir", SetOfPath, b"new", Attributes()),
        ("remove", OfPath, b"file"),
        ("rmdir", OfPath, b"folder"),
        ("rename", OfTwoPaths, b"file", b"other"),
        ("symlink", OfTwoPaths, b"file", b"other"),
        ("posix-rename", OfTwoPaths, b"file", b"other"),
        ("hardlink", OfTwoPaths, b"file", b"other"),
        ("lsetstat", SetOfPath, b"file", Attributes(times=(1, 1))),
    )

    @pytest.mark.parametrize("request_", WRITING, ids=lambda words: words[0])
    def test_read_only_is_read_only(self, home: Path, request_: tuple[Any, ...]) -> None:
        asker = Asker(home, read_only=True)
        (home / "file").write_text("as it was")
        (home / "folder").mkdir()
        state = (home / "file").stat()
        assert asker.code(*request_) == PERMISSION_DENIED
        now = (home / "file").stat()
        assert (now.st_mode, now.st_mtime, now.st_nlink) == (
            state.st_mode, state.st_mtime, state.st_nlink,
        )  # fmt: skip
        assert {path.name for path in home.iterdir()} == {"file", "folder"}
        assert asker.ask("read", Read, asker.open("file"), 0, 9).data == b"as it was"

    def test_every_request_that_changes_something_is_known_as_such(self) -> None:
        harmless = {
            *("open", "close", "read", "lstat", "fstat", "opendir", "readdir", "realpath", "stat"),
            *("readlink", "statvfs", "fstatvfs", "limits", "expand-path", "home-directory"),
            "users-groups-by-id",
        }
        rules = (*REQUESTS.values(), *EXTENSIONS.values())
        assert {rule.name for rule in rules if not rule.writes} == harmless

    def test_requests_can_be_denied_by_name(self, home: Path) -> None:
        (home / "file").touch()
        asker = Asker(home, denied=frozenset({"remove", "posix-rename"}))
        assert asker.code("remove", OfPath, b"file") == PERMISSION_DENIED
        assert asker.code("posix-rename", OfTwoPaths, b"file", b"x") == PERMISSION_DENIED
        assert asker.code("rename", OfTwoPaths, b"file", b"x") == OK
        assert b"hardlink@openssh.com" in asker.greeting.extensions
        assert b"posix-rename" not in asker.greeting.extensions

    def test_requests_can_be_permitted_by_name(self, home: Path) -> None:
        (home / "file").touch()
        asker = Asker(home, permitted=frozenset({"stat", "remove"}), denied=frozenset({"remove"}))
        assert isinstance(asker.ask("stat", OfPath, b"file"), AttributesOf)
        assert asker.code("lstat", OfPath, b"file") == PERMISSION_DENIED
        assert asker.code("remove", OfPath, b"file") == PERMISSION_DENIED

    def test_an_unknown_request_is_unsupported(self, asker: Asker) -> None:
        for packet in (
            b"\x63" + Request(7).encode(),
            b"\xc8" + Request(7).encode() + put_string(b"check-file") + b"anything",
        ):
            answer = asker.read(asker.server.answer(packet))
            assert (answer.id, answer.code) == (7, UNSUPPORTED)


class TestBytes:
    @given(packet=st.binary(min_size=1, max_size=200))
    def test_any_packet_is_answered_or_malformed(self, packet: bytes) -> None:
        asker = Asker(Path("/"), read_only=True, denied=frozenset({"open", "opendir"}))
        with contextlib.suppress(WireError):
            assert asker.read(asker.server.answer(packet)) is not None

    @given(
        number=st.sampled_from([*REQUESTS, 200]),
        words=st.lists(st.binary(max_size=30), max_size=4),
        rest=st.binary(max_size=30),
    )
    def test_so_is_what_looks_like_a_request(
        self, number: int, words: list[bytes], rest: bytes
    ) -> None:
        asker = Asker(Path("/"), read_only=True, denied=frozenset({"open", "opendir"}))
        packet = bytes([number]) + bytes(4) + b"".join(map(put_string, words)) + rest
        with contextlib.suppress(WireError):
            assert asker.read(asker.server.answer(packet)).id == 0

    @given(cuts=st.lists(st.integers(0, 60), max_size=5))
    def test_packets_are_found_however_the_bytes_are_cut(self, cuts: list[int]) -> None:
        bodies = [b"\1", b"x" * 20, b"y" * 9]
        data = b"".join(map(put_string, bodies))
        reader, found, position = PacketReader(), [], 0
        for cut in [*sorted(cuts), len(data)]:
            found += reader.feed(data[position:cut])
            position = max(position, cut)
        assert found == bodies

    @pytest.mark.parametrize("size", [0, MAX_PACKET + 1, 0xFFFF_FFFF])
    def test_a_packet_has_a_size(self, size: int) -> None:
        with pytest.raises(WireError):
            PacketReader().feed(size.to_bytes(4, "big"))

    @given(
        st.builds(
            Attributes,
            st.none() | st.integers(0, (1 << 64) - 1),
            st.none() | st.tuples(*[st.integers(0, 0xFFFF_FFFF)] * 2),
            st.none() | st.integers(0, 0xFFFF_FFFF),
            st.none() | st.tuples(*[st.integers(0, 0xFFFF_FFFF)] * 2),
        )
    )
    def test_attributes_are_the_same_when_decoded(self, attributes: Attributes) -> None:
        encoded = AttributesOf(1, attributes)
        assert AttributesOf.decode(encode_packet(encoded)[5:]) == encoded


class TestProcess:
    """As the leader runs it: a process with pipes."""

    SCRIPT = (
        "import sys\n"
        "from sshoq.server.sftp_server import run_sftp_server\n"
        "from sshoq.server.file_access import read_arguments\n"
        "from sshoq.server.account import Account\n"
        "account = Account('me', 1, 1, sys.argv[1], '/bin/sh', ())\n"
        "run_sftp_server(account, read_arguments(sys.argv[2], account))\n"
    )

    def start(self, home: Path, command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, str(home), command],
            cwd=home,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @contextlib.contextmanager
    def serving(self, home: Path, command: str = "internal-sftp") -> Iterator[paramiko.SFTPClient]:
        process = self.start(home, command)
        try:
            sock: Any = _Pipes(process)
            yield paramiko.SFTPClient(sock)
        finally:
            _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, b"")

    def test_another_client_gets_on_with_it(self, home: Path) -> None:
        blob = os.urandom(3_000_000)
        (home / "from").write_bytes(blob)
        with self.serving(home) as client:
            client.get(str(home / "from"), str(home / "got"))
            client.put(str(home / "from"), "put")
            assert sorted(client.listdir(".")) == ["from", "got", "put"]
        assert (home / "got").read_bytes() == (home / "put").read_bytes() == blob

    def test_umask_and_directory(self, home: Path) -> None:
        (home / "sub").mkdir()
        with self.serving(home, "internal-sftp -u 077 -d %d/sub -f AUTH -l VERBOSE") as client:
            assert client.normalize(".") == str((home / "sub").resolve())
            with client.open("file", "w"):
                pass
        assert (home / "sub/file").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("flags", ["-Z", "-P no-such-request", "-p read,,", "-u 8", "-Q all"])
    def test_what_cannot_be_obeyed_is_not_half_obeyed(self, home: Path, flags: str) -> None:
        process = self.start(home, f"internal-sftp {flags}")
        out, errors = process.communicate(b"\0\0\0\5" + INIT, timeout=20)
        assert (process.returncode, out) == (1, b"")
        assert errors == b"internal-sftp: arguments that cannot be obeyed\n"

    def test_malformed_bytes_end_it(self, home: Path) -> None:
        process = self.start(home, "internal-sftp")
        out, errors = process.communicate(b"GET / HTTP/1.1\r\n\r\n", timeout=20)
        assert (process.returncode, out) == (1, b"")
        assert b"bad message" in errors

    def test_a_client_that_has_gone_ends_it(self, home: Path) -> None:
        process = self.start(home, "internal-sftp")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        process.stdin.write(b"\0\0\0\5" + INIT)
        process.stdin.close()
        assert process.wait(timeout=20) == 1
        assert process.stderr is not None
        process.stderr.close()


class _Pipes:
    """A process's pipes, as paramiko would have a channel."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin.fileno(), process.stdout.fileno()
        self._lock = threading.Lock()

    def send(self, data: bytes) -> int:
        return os.write(self._input, data)

    def recv(self, size: int) -> bytes:
        return os.read(self._output, size)

    def get_name(self) -> str:
        return "pipes"


def test_the_names_are_those_of_sftp_server() -> None:
    """So that lists which administrators have written go on meaning what they meant."""
    program = Path("/usr/lib/openssh/sftp-server")
    if not program.exists():
        pytest.skip("needs sftp-server")
    listed = subprocess.run(
        [program, "-Q", "requests"], capture_output=True, text=True, check=True, timeout=20
    ).stdout.split()
    assert set(listed) <= REQUEST_NAMES
