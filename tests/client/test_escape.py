"""Escape characters: only right after a line end, with their state kept across reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.client.escape import COMMANDS, Command, Escapes, help_text, visible


def fed(*pieces: bytes) -> list[bytes | Command]:
    escapes = Escapes(b"~", COMMANDS)
    return [item for piece in pieces for item in escapes.feed(piece)]


@pytest.mark.parametrize(
    ("typed", "result"),
    [
        (b"~.", [Command(b".")]),
        (b"ls\r~.", [b"ls\r", Command(b".")]),
        (b"ls\n~?", [b"ls\n", Command(b"?")]),
        (b"a~.", [b"a~."]),
        (b"~~.", [b"~."]),
        (b"~~", [b"~"]),
        (b"~x", [b"~x"]),
        (b"~x~.", [b"~x~."]),
        (b"~\r~.", [b"~\r", Command(b".")]),
        (b"~?~?x", [Command(b"?"), Command(b"?"), b"x"]),
        (b"~\x1als\r", [Command(b"\x1a"), b"ls\r"]),
    ],
)
def test_escape_is_known_only_after_a_line_end(typed: bytes, result: list[object]) -> None:
    assert fed(typed) == result


def joined(items: list[bytes | Command]) -> list[bytes | Command]:
    whole: list[bytes | Command] = []
    for item in items:
        last = whole[-1] if whole else None
        if isinstance(item, bytes) and isinstance(last, bytes):
            whole[-1] = last + item
        else:
            whole.append(item)
    return whole


@given(st.lists(st.text("~.?a\r\n").map(str.encode)))
def test_bytes_cut_anywhere_mean_the_same(pieces: list[bytes]) -> None:
    assert joined(fed(*pieces)) == joined(fed(b"".join(pieces)))


def test_another_character_and_a_control_character() -> None:
    escapes = Escapes(b"\x1d", COMMANDS)
    assert list(escapes.feed(b"~.\r\x1d.")) == [b"~.\r", Command(b".")]
    assert visible(b"\x1d") == "^]"


def test_help_names_every_command_between_the_lines_that_scripts_look_for() -> None:
    lines = help_text(b"%", command_line=True).splitlines()
    assert lines[:2] == ["%?", "Supported escape sequences:"]
    assert lines[-1] == "(Note that escapes are only recognized immediately after newline.)"
    assert {line.split()[0] for line in lines[2:-1]} == {
        "%.", "%B", "%C", "%R", "%V/v", "%^Z", "%#", "%&", "%?", "%%",
    }  # fmt: skip
