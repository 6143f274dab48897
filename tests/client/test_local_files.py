"""Files that are written while they arrive: whole or not at all, and nowhere else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sshoq.client.local_files import LocalFolder, written_file
from tests.needs import need_root


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[LocalFolder]:
    with contextlib.closing(LocalFolder.open(os.fsencode(tmp_path))) as there:
        yield there


@pytest.fixture(autouse=True)
def _mask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def contents(path: Path) -> dict[str, str]:
    return {one.name: one.read_text() for one in path.iterdir() if one.is_file()}


def test_a_file_appears_when_it_is_whole(folder: LocalFolder, tmp_path: Path) -> None:
    with folder.new_file(b"name", 0o755) as file:
        file.write(3, b"def")
        file.write(0, b"abc")
        assert not (tmp_path / "name").exists()
        [part] = tmp_path.iterdir()
        assert part.stat().st_mode & 0o777 == 0o600
    assert contents(tmp_path) == {"name": "abcdef"}
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o750


def test_a_failure_leaves_what_was_there(folder: LocalFolder, tmp_path: Path) -> None:
    (tmp_path / "name").write_text("old")
    with pytest.raises(KeyboardInterrupt), folder.new_file(b"name", 0o644) as file:
        file.write(0, b"ne")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"name": "old"}


def test_a_replaced_file_gives_its_permissions(folder: LocalFolder, tmp_path: Path) -> None:
    (tmp_path / "name").write_text("old")
    (tmp_path / "name").chmod(0o777)
    with folder.new_file(b"name", 0o600) as file:
        file.write(0, b"new")
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o777


def test_special_bits_are_not_taken_over(folder: LocalFolder, tmp_path: Path) -> None:
    with folder.new_file(b"name", 0o106755):
        pass
    assert (tmp_path / "name").stat().st_mode & 0o7777 == 0o750


def test_a_link_is_replaced_and_not_written_through(folder: LocalFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (tmp_path / "name").symlink_to(outside / "file")
    with folder.new_file(b"name", 0o644) as file:
        file.write(0, b"new")
    assert not (tmp_path / "name").is_symlink()
    assert (outside / "file").read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_replaced(
    folder: LocalFolder, tmp_path: Path, make: object
) -> None:
    assert callable(make)
    make(tmp_path / "name")
    with pytest.raises(OSError, match=r"."), folder.new_file(b"name", 0o644):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_directory_is_entered_or_made_but_no_link(folder: LocalFolder, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "door").symlink_to("there")
    for name in (b"there", b"new"):
        with folder.enter(name) as inner, inner.new_file(b"file", 0o644) as file:
            file.write(0, name)
    assert (tmp_path / "there/file").read_text() == "there"
    assert (tmp_path / "new/file").read_text() == "new"
    with pytest.raises(NotADirectoryError), folder.enter(b"door"):
        pass


def test_the_user_may_name_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with written_file(os.fsencode(tmp_path / "link"), 0o644) as file:
        file.write(0, b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("ours", [True, False])
def test_a_link_in_a_directory_of_everybodys_is_followed_if_it_is_the_users(
    tmp_path: Path, ours: bool
) -> None:
    """Else whoever lays one in /tmp decides which of the user's files is overwritten."""
    need_root()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    os.chown(shared, 65533, 65533)
    (tmp_path / "precious").write_text("old")
    (shared / "link").symlink_to(tmp_path / "precious")
    if not ours:
        os.chown(shared / "link", 65534, 65534, follow_symlinks=False)
    with written_file(os.fsencode(shared / "link"), 0o644) as file:
        file.write(0, b"new")
    assert (shared / "link").is_symlink() == ours
    assert (tmp_path / "precious").read_text() == ("new" if ours else "old")


def test_a_new_file_in_a_directory_of_everybodys(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with written_file(os.fsencode(tmp_path / "new"), 0o644) as file:
        file.write(0, b"data")
    assert (tmp_path / "new").read_text() == "data"


def test_the_user_may_name_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with written_file(os.fsencode(tmp_path / "pipe"), 0o644) as file:
        file.write(0, b"one")
        file.write(131072, b"two")
    assert os.read(reader, 100) == b"onetwo"
    os.close(reader)
    with written_file(b"/dev/null", 0o644) as file:
        file.write(0, b"gone")
    assert not Path("/dev/null").is_file()


def test_a_directory_that_is_not_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_file(os.fsencode(tmp_path) + b"/new/", 0o644):
        pass
    assert list(tmp_path.iterdir()) == []
