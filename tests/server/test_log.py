"""The server's log: levels, destinations, and text that cannot forge lines."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.server import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    log.to_stderr(log.INFO)


def test_lines_above_the_level_are_not_written(capfd: pytest.CaptureFixture[str]) -> None:
    log.to_stderr(log.INFO)
    log.fatal("one")
    log.error("two")
    log.info("three")
    log.verbose("four")
    log.debug("five")
    assert capfd.readouterr().err == "one\ntwo\nthree\n"


def test_debug_lines_say_how_deep(capfd: pytest.CaptureFixture[str]) -> None:
    log.to_stderr(log.DEBUG2)
    log.debug("a")
    log.debug("b", log.DEBUG2)
    log.debug("c", log.DEBUG3)
    assert capfd.readouterr().err == "debug1: a\ndebug2: b\n"


def test_quiet_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    log.to_stderr(log.QUIET)
    log.fatal("nothing")
    assert capfd.readouterr().err == ""


def test_a_file_is_appended_to_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    log.to_file(str(path), log.INFO)
    log.info("after")
    assert path.read_text() == "before\nafter\n"
    log.to_file(str(tmp_path / "new"), log.INFO)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("there", ["link", "loose", "second name", "fifo", "directory"])
def test_a_file_that_nobody_named_is_not_what_others_have_put_there(
    tmp_path: Path, there: str
) -> None:
    path, target = tmp_path / "sshoq.log", tmp_path / "target"
    target.write_text("secret\n")
    if there == "link":
        path.symlink_to(target)
    elif there == "second name":
        path.hardlink_to(target)
    elif there == "loose":
        path.touch()
        path.chmod(0o666)
    elif there == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError, match=r"sshoq\.log"):
        log.to_file(str(path), log.INFO, is_named=False)
    assert log.descriptor() == 2
    assert target.read_text() == "secret\n"


def test_a_file_that_nobody_named_is_made_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "sshoq.log"
    for word in ("one", "two"):
        log.to_file(str(path), log.INFO, is_named=False)
        log.info(word)
    assert path.read_text() == "one\ntwo\n"


def test_an_administrator_may_name_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    log.to_file(str(tmp_path / "link"), log.INFO)
    log.info("through")
    assert (tmp_path / "target").read_text() == "through\n"


def test_the_go_servers_form_is_a_json_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.to_file(str(path), log.DEBUG1, as_json=True)
    log.error('a "b"')
    log.debug("c")
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert (first["level"], first["message"]) == ("error", 'a "b"')
    assert second["level"] == "debug"
    assert sorted(first) == ["level", "message", "time"]


def test_syslog_gets_facility_priority_name_and_pid(tmp_path: Path) -> None:
    """In a mount namespace of its own there would be a real /dev/log; the format is libc's."""
    if os.geteuid() != 0 or os.path.lexists("/dev/log"):
        pytest.skip("needs root, and a machine without a syslog of its own")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.settimeout(10)
        end.bind("/dev/log")
        try:
            log.to_syslog(log.INFO, "AUTHPRIV")
            log.error("trouble")
            line = end.recv(999).decode()
        finally:
            os.unlink("/dev/log")
    assert line.startswith("<83>")
    assert line.endswith(f"sshoq-server[{os.getpid()}]: error: trouble")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("a\nb", "a\\012b"),
        ("\x1b[31m", "\\033[31m"),
        ("back\\slash", "back\\\\slash"),
        ("\u00e9", "\\303\\251"),
        ("\udcff", "\\377"),
        ("tab\t", "tab\\011"),
        ("", ""),
    ],
)
def test_text_of_others_is_made_harmless(text: str, shown: str) -> None:
    assert log.harmless(text) == shown


@given(st.text())
def test_no_text_makes_a_second_line(text: str) -> None:
    shown = log.harmless(text)
    assert all(0x20 <= ord(char) < 0x7F for char in shown)
    assert len(shown) <= log.MAX_LINE


@given(st.text(max_size=50), st.text(max_size=50))
def test_different_texts_look_different(one: str, other: str) -> None:
    assert (log.harmless(one) == log.harmless(other)) == (one == other)


def test_a_log_that_cannot_be_written_hurts_nobody(tmp_path: Path) -> None:
    log.to_file("/dev/full", log.INFO)
    log.info("lost")
