"""Messages: which are shown, and with which bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sshoq.client.log import Failure, Log, write_fully, write_to_file
from sshoq.config.usage import DEBUG1, DEBUG3, ERROR, INFO, QUIET


class Lines(list[str]):
    def write(self, level: int, line: str) -> None:
        self.append(line)


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (QUIET, []),
        (ERROR, ["fatal", "error"]),
        (INFO, ["fatal", "error", "info"]),
        (DEBUG1, ["fatal", "error", "info", "verbose", "debug1: debug"]),
    ],
)
def test_level_decides_what_is_shown(level: int, shown: list[str]) -> None:
    lines = Lines()
    log = Log(level, lines.write)
    log.fatal("fatal")
    log.error("error")
    log.info("info")
    log.verbose("verbose")
    log.debug("debug")
    log.debug2("debug2")
    assert lines == shown


def test_levels_stop_at_both_ends() -> None:
    log = Log(DEBUG3, Lines().write)
    assert log.louder() == "DEBUG3"
    assert [log.quieter() for _ in range(9)][-2:] == ["QUIET", "QUIET"]


def test_control_characters_of_the_peer_are_shown_as_octal() -> None:
    lines = Lines()
    Log(INFO, lines.write).info("bad \x1b[2J name\a\udcff, good ü")
    assert lines == ["bad \\033[2J name\\007\\377, good ü"]


def test_lines_end_in_cr_lf_and_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    Log(INFO, write_to_file(str(path))).info("one\ntwo")
    assert path.read_bytes() == b"before\none\r\ntwo\r\n"


def test_unwritable_log_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"Couldn't open logfile .*: No such file") as caught:
        write_to_file(str(tmp_path / "missing" / "log"))
    assert caught.value.status == 1


def test_closed_stderr_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    write_fully(writer, b"nobody reads this")
    os.close(writer)
