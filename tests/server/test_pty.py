"""Pseudo terminals and the encoded modes of RFC 4254 section 8."""

from __future__ import annotations

import os
import struct
import termios
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.server.pty import Pty, PtySource, WindowSize, decode_modes, set_modes, set_window_size
from tests.needs import need_device

ECHO, VINTR, VEOL, ICRNL, ONLCR, CS7, OUTPUT_SPEED = 53, 1, 6, 36, 72, 90, 129


@pytest.fixture
def pty() -> Iterator[Pty]:
    need_device("/dev/ptmx")
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    found = PtySource(root).open()
    yield found
    for descriptor in (root, found.master, found.slave):
        os.close(descriptor)


def encode(*modes: tuple[int, int]) -> bytes:
    return b"".join(struct.pack(">BI", *mode) for mode in modes) + b"\0"


def test_both_sides_speak_to_each_other(pty: Pty) -> None:
    assert os.ttyname(pty.slave) == pty.name
    os.write(pty.slave, b"hello\n")
    assert os.read(pty.master, 100) == b"hello\r\n"


def test_no_program_inherits_a_side(pty: Pty) -> None:
    assert not os.get_inheritable(pty.master)
    assert not os.get_inheritable(pty.slave)


def test_the_size_is_what_was_asked_for_within_what_is_possible(pty: Pty) -> None:
    set_window_size(pty.slave, WindowSize(132, 1 << 40, 0, -5))
    assert os.get_terminal_size(pty.slave) == (132, 0xFFFF)


def test_modes_are_applied(pty: Pty) -> None:
    set_modes(pty.slave, encode((ECHO, 0), (VINTR, 24), (VEOL, 255), (ICRNL, 0), (ONLCR, 1)))
    iflag, oflag, _, lflag, _, _, characters = termios.tcgetattr(pty.slave)
    assert not lflag & termios.ECHO
    assert not iflag & termios.ICRNL
    assert oflag & termios.ONLCR
    assert characters[termios.VINTR] == b"\x18"
    assert characters[termios.VEOL] == b"\0"


def test_character_size_and_speed_are_applied(pty: Pty) -> None:
    set_modes(pty.slave, encode((CS7, 1), (OUTPUT_SPEED, 9600)))
    attributes = termios.tcgetattr(pty.slave)
    assert attributes[5] == termios.B9600


def test_no_modes_leave_the_terminal_as_it_is(pty: Pty) -> None:
    before = termios.tcgetattr(pty.slave)
    set_modes(pty.slave, b"")
    assert termios.tcgetattr(pty.slave) == before


def test_the_list_ends_at_its_mark_at_undefined_opcodes_and_where_it_is_cut() -> None:
    assert list(decode_modes(encode((1, 3)) + encode((2, 4)))) == [(1, 3)]
    assert list(decode_modes(encode((1, 3), (160, 9), (2, 4)))) == [(1, 3)]
    assert list(decode_modes(encode((1, 3))[:4])) == []


@given(st.binary(max_size=6000))
def test_any_bytes_are_some_modes(encoded: bytes) -> None:
    for opcode, value in decode_modes(encoded):
        assert 0 < opcode < 160
        assert 0 <= value < 1 << 32


@given(modes=st.lists(st.tuples(st.integers(1, 159), st.integers(0, (1 << 32) - 1)), max_size=60))
def test_no_modes_can_break_the_terminal(modes: list[tuple[int, int]]) -> None:
    need_device("/dev/ptmx")
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    pty = PtySource(root).open()
    try:
        set_modes(pty.slave, encode(*modes))
        termios.tcgetattr(pty.slave)
    finally:
        for descriptor in (root, pty.master, pty.slave):
            os.close(descriptor)
