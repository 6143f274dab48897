"""Raw mode, size and modes, on a real pty."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Iterator

import pytest

from sshoq.client.terminal import LFLAG, OFLAG, Size, Terminal, terminal_modes, window_size


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_raw_mode_is_left_as_it_was_found(pty: tuple[int, int]) -> None:
    _, slave = pty
    before = termios.tcgetattr(slave)

    def fail_while_raw() -> None:
        with Terminal(slave).raw():
            raw = termios.tcgetattr(slave)
            assert not raw[LFLAG] & (termios.ECHO | termios.ICANON | termios.ISIG)
            assert not raw[OFLAG] & termios.OPOST
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_raw()
    assert termios.tcgetattr(slave) == before


def test_entering_twice_keeps_the_first_state(pty: tuple[int, int]) -> None:
    _, slave = pty
    before = termios.tcgetattr(slave)
    terminal = Terminal(slave)
    terminal.enter_raw()
    terminal.enter_raw()
    terminal.leave_raw()
    terminal.leave_raw()
    assert termios.tcgetattr(slave) == before


def test_raw_terminal_passes_every_byte(pty: tuple[int, int]) -> None:
    master, slave = pty
    everything = bytes(range(256))
    with Terminal(slave).raw():
        os.write(master, everything)
        assert os.read(slave, 300) == everything
        os.write(slave, everything)
        assert os.read(master, 300) == everything


def test_no_terminal_is_no_error() -> None:
    reader, writer = os.pipe()
    with Terminal(reader).raw():
        assert window_size(reader) == Size(0, 0, 0, 0)
        assert terminal_modes(reader) == b"\0"
    os.close(reader)
    os.close(writer)


def test_terminal_that_is_gone_is_no_error() -> None:
    master, slave = os.openpty()
    terminal = Terminal(slave)
    terminal.enter_raw()
    os.close(master)
    terminal.leave_raw()
    os.close(slave)


def test_size_in_characters_and_pixels(pty: tuple[int, int]) -> None:
    _, slave = pty
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 132, 1320, 800))
    assert window_size(slave) == Size(columns=132, rows=40, width=1320, height=800)


def decoded(modes: bytes) -> dict[int, int]:
    *records, end = [modes[start:start + 5] for start in range(0, len(modes), 5)]
    assert end == b"\0"
    return {record[0]: int.from_bytes(record[1:], "big") for record in records}


def test_modes_follow_the_terminal(pty: tuple[int, int]) -> None:
    _, slave = pty
    attributes = termios.tcgetattr(slave)
    attributes[LFLAG] &= ~termios.ECHO
    attributes[6][termios.VINTR] = b"\x18"
    attributes[6][termios.VEOL] = b"\0"
    attributes[4] = attributes[5] = termios.B38400
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    modes = decoded(terminal_modes(slave))
    assert modes[1] == 0x18
    assert modes[6] == 255, "an undefined character is 255 on the wire"
    assert modes[51] == 1
    assert modes[53] == 0
    assert modes[91] == 1, "CS8"
    assert modes[128] == modes[129] == 38400
