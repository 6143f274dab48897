"""The user's terminal: its size and modes as a pty request carries them, raw mode, and the way back
from it.

Knows no channel. Raw mode is left on every way out: the context manager for returns and exceptions,
`session.py`'s signal handlers for signals, which all end in an exception here.
"""

import fcntl
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sshoq.named_tuple import NamedTuple

Attributes = list[Any]
"""What tcgetattr() returns: four flag words, two speeds, the control characters."""

IFLAG, OFLAG, CFLAG, LFLAG, ISPEED, OSPEED, CC = range(7)


class Size(NamedTuple):
    columns: int
    rows: int
    width: int
    height: int


def window_size(fd: int) -> Size:
    """All zero when there is no terminal."""
    try:
        packed = fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8)
    except OSError:
        return Size(0, 0, 0, 0)
    rows, columns, width, height = struct.unpack("HHHH", packed)
    return Size(columns, rows, width, height)


# -------------------------------------------------------------------- modes, RFC 4254 section 8

_IUTF8 = 0o40000  # termios has no name for it before Python 3.13
_END, _INPUT_SPEED, _OUTPUT_SPEED = 0, 128, 129
_UNDEFINED = 255

_CHARACTERS = {
    1: "VINTR", 2: "VQUIT", 3: "VERASE", 4: "VKILL", 5: "VEOF", 6: "VEOL", 7: "VEOL2",
    8: "VSTART", 9: "VSTOP", 10: "VSUSP", 11: "VDSUSP", 12: "VREPRINT", 13: "VWERASE",
    14: "VLNEXT", 15: "VFLUSH", 16: "VSWTC", 17: "VSTATUS", 18: "VDISCARD",
}  # fmt: skip

_MODES = {
    IFLAG: {
        30: "IGNPAR", 31: "PARMRK", 32: "INPCK", 33: "ISTRIP", 34: "INLCR", 35: "IGNCR",
        36: "ICRNL", 37: "IUCLC", 38: "IXON", 39: "IXANY", 40: "IXOFF", 41: "IMAXBEL", 42: "IUTF8",
    },
    LFLAG: {
        50: "ISIG", 51: "ICANON", 52: "XCASE", 53: "ECHO", 54: "ECHOE", 55: "ECHOK", 56: "ECHONL",
        57: "NOFLSH", 58: "TOSTOP", 59: "IEXTEN", 60: "ECHOCTL", 61: "ECHOKE", 62: "PENDIN",
    },
    OFLAG: {70: "OPOST", 71: "OLCUC", 72: "ONLCR", 73: "OCRNL", 74: "ONOCR", 75: "ONLRET"},
    CFLAG: {90: "CS7", 91: "CS8", 92: "PARENB", 93: "PARODD"},
}  # fmt: skip


def terminal_modes(fd: int) -> bytes:
    """The modes of the terminal, for the remote one to be like it; only the end mark without a
    terminal.
    """
    try:
        attributes = termios.tcgetattr(fd)
    except termios.error:
        return bytes((_END,))
    return encode_modes(attributes)


def encode_modes(attributes: Attributes) -> bytes:
    out = bytearray()

    def put(opcode: int, value: int) -> None:
        out.append(opcode)
        out.extend(value.to_bytes(4, "big"))

    put(_OUTPUT_SPEED, _baud(attributes[OSPEED]))
    put(_INPUT_SPEED, _baud(attributes[ISPEED]))
    for opcode, name in _CHARACTERS.items():
        index = getattr(termios, name, None)
        if index is not None:
            put(opcode, _character(attributes[CC][index]))
    for word, modes in _MODES.items():
        for opcode, name in modes.items():
            mask = _IUTF8 if name == "IUTF8" else getattr(termios, name, 0)
            if mask:
                put(opcode, int(attributes[word] & mask == mask))
    out.append(_END)
    return bytes(out)


def _character(value: bytes | int) -> int:
    """NUL is "undefined" on this side (_POSIX_VDISABLE), 255 on the wire. VMIN and VTIME come as
    int.
    """
    code = value if isinstance(value, int) else value[0]
    return code or _UNDEFINED


def _baud(speed: int) -> int:
    """B9600 and its kin are codes; the wire carries bits per second."""
    return _SPEEDS.get(speed, 9600)


_SPEEDS = {
    getattr(termios, name): int(name[1:])
    for name in dir(termios)
    if name.startswith("B") and name[1:].isdigit()
}


# --------------------------------------------------------------------------- raw mode


def _raw(attributes: Attributes) -> Attributes:
    """Every byte passes as it is, both ways; signals are made by the remote terminal."""
    raw = [*attributes[:CC], list(attributes[CC])]
    raw[IFLAG] |= termios.IGNPAR
    raw[IFLAG] &= ~(
        termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL
        | termios.IXON | termios.IXANY | termios.IXOFF | getattr(termios, "IUCLC", 0)
    )  # fmt: skip
    raw[LFLAG] &= ~(
        termios.ISIG | termios.ICANON | termios.ECHO | termios.ECHOE | termios.ECHOK
        | termios.ECHONL | termios.IEXTEN
    )  # fmt: skip
    raw[OFLAG] &= ~termios.OPOST
    raw[CC][termios.VMIN] = 1
    raw[CC][termios.VTIME] = 0
    return raw


class Terminal:
    """The terminal on a descriptor, as it was found, and whether it is raw now."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._saved: Attributes | None = None

    def enter_raw(self) -> None:
        """Nothing happens without a terminal (-tt with a pipe on stdin)."""
        if self._saved is not None:
            return
        try:
            self._saved = termios.tcgetattr(self._fd)
            termios.tcsetattr(self._fd, termios.TCSADRAIN, _raw(self._saved))
        except termios.error:
            self._saved = None

    def leave_raw(self) -> None:
        """As it was found. A terminal that is gone (SIGHUP) needs nothing any more."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, saved)
        except termios.error:
            return

    @contextmanager
    def raw(self) -> Iterator[None]:
        self.enter_raw()
        try:
            yield
        finally:
            self.leave_raw()
