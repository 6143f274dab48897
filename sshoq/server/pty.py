"""Process: session leader [the user]. Pseudo terminals: opening one, and the modes a client asks
for.

The devices are reached through a descriptor of the machine's root directory, so that a login in a
chroot has ptys, too.
"""

import contextlib
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Iterator

from sshoq.named_tuple import NamedTuple

MAX_MODES = 4096
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_IUTF8 = 0o40000


class Pty(NamedTuple):
    master: int
    slave: int
    name: str


class WindowSize(NamedTuple):
    columns: int
    rows: int
    width: int
    height: int


class PtyError(Exception):
    """No pseudo terminal is to be had."""


class PtySource:
    """`root` is a descriptor of the root directory from before any chroot."""

    def __init__(self, root: int) -> None:
        self._root = root

    def open(self) -> Pty:
        """A fresh pair. The one who opens it owns it, so this must run as the user."""
        try:
            master = self._open_master()
        except OSError as error:
            raise PtyError(f"no pseudo terminal: {error.strerror}") from None
        try:
            fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
            number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))[0]
            return Pty(master, self._open_slave(master, number), f"/dev/pts/{number}")
        except OSError as error:
            os.close(master)
            raise PtyError(f"no pseudo terminal: {error.strerror}") from None

    def _open_master(self) -> int:
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        try:
            return os.open("dev/ptmx", flags, dir_fd=self._root)
        except OSError as error:
            # In some containers there is only the one of the devpts mount.
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.ENXIO):
                raise
            return os.open("dev/pts/ptmx", flags, dir_fd=self._root)

    def _open_slave(self, master: int, number: int) -> int:
        try:
            # Not by name: the name may mean another mount's terminal.
            slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTTY):  # before Linux 4.13
                raise
            flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"dev/pts/{number}", flags, dir_fd=self._root)
        os.set_inheritable(slave, False)
        return slave


def set_window_size(descriptor: int, size: WindowSize) -> None:
    """Sizes beyond 65535 are no sizes; a client may send any number."""
    columns, rows, width, height = (min(max(value, 0), 0xFFFF) for value in size)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, width, height))


# ------------------------------------------------------------------------ modes, RFC 4254 section 8

_END, _FIRST_UNDEFINED = 0, 160
_INPUT_SPEED, _OUTPUT_SPEED = 128, 129
_UNUSED = 255
"""Value of a special character that is switched off."""

_CHARACTERS = {
    1: termios.VINTR, 2: termios.VQUIT, 3: termios.VERASE, 4: termios.VKILL, 5: termios.VEOF,
    6: termios.VEOL, 7: termios.VEOL2, 8: termios.VSTART, 9: termios.VSTOP, 10: termios.VSUSP,
    12: termios.VREPRINT, 13: termios.VWERASE, 14: termios.VLNEXT, 16: termios.VSWTC,
    18: termios.VDISCARD,
}  # fmt: skip

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _ISPEED, _OSPEED, _CC = range(7)

_FLAGS = {
    30: (_IFLAG, termios.IGNPAR), 31: (_IFLAG, termios.PARMRK), 32: (_IFLAG, termios.INPCK),
    33: (_IFLAG, termios.ISTRIP), 34: (_IFLAG, termios.INLCR), 35: (_IFLAG, termios.IGNCR),
    36: (_IFLAG, termios.ICRNL), 37: (_IFLAG, termios.IUCLC), 38: (_IFLAG, termios.IXON),
    39: (_IFLAG, termios.IXANY), 40: (_IFLAG, termios.IXOFF), 41: (_IFLAG, termios.IMAXBEL),
    42: (_IFLAG, _IUTF8),
    50: (_LFLAG, termios.ISIG), 51: (_LFLAG, termios.ICANON), 52: (_LFLAG, termios.XCASE),
    53: (_LFLAG, termios.ECHO), 54: (_LFLAG, termios.ECHOE), 55: (_LFLAG, termios.ECHOK),
    56: (_LFLAG, termios.ECHONL), 57: (_LFLAG, termios.NOFLSH), 58: (_LFLAG, termios.TOSTOP),
    59: (_LFLAG, termios.IEXTEN), 60: (_LFLAG, termios.ECHOCTL), 61: (_LFLAG, termios.ECHOKE),
    62: (_LFLAG, termios.PENDIN),
    70: (_OFLAG, termios.OPOST), 71: (_OFLAG, termios.OLCUC), 72: (_OFLAG, termios.ONLCR),
    73: (_OFLAG, termios.OCRNL), 74: (_OFLAG, termios.ONOCR), 75: (_OFLAG, termios.ONLRET),
    92: (_CFLAG, termios.PARENB), 93: (_CFLAG, termios.PARODD),
}  # fmt: skip

_SIZES = {90: termios.CS7, 91: termios.CS8}


def decode_modes(encoded: bytes) -> Iterator[tuple[int, int]]:
    """(opcode, value) pairs up to the end mark, an undefined opcode, or the end of what makes
    sense."""
    for at in range(0, min(len(encoded), MAX_MODES), 5):
        opcode = encoded[at]
        if opcode == _END or opcode >= _FIRST_UNDEFINED or len(encoded) < at + 5:
            return
        yield opcode, int.from_bytes(encoded[at + 1 : at + 5], "big")


def set_modes(descriptor: int, encoded: bytes) -> None:
    """Give the terminal the client's modes; opcodes that Linux has no mode for are passed over."""
    attributes = termios.tcgetattr(descriptor)
    for opcode, value in decode_modes(encoded):
        _apply_mode(attributes, opcode, value)
    # A terminal that refuses a mode is used as it is.
    with contextlib.suppress(termios.error):
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def _apply_mode(attributes: list[int | list[bytes | int]], opcode: int, value: int) -> None:
    if opcode in _CHARACTERS:
        characters = attributes[_CC]
        assert isinstance(characters, list)
        # 255 means "none" on the wire, 0 means it in Linux.
        characters[_CHARACTERS[opcode]] = bytes((0 if value >= _UNUSED else value,))
    elif opcode in _FLAGS:
        word, flag = _FLAGS[opcode]
        _set_bits(attributes, word, flag, flag if value else 0)
    elif opcode in _SIZES and value:
        _set_bits(attributes, _CFLAG, termios.CSIZE, _SIZES[opcode])
    elif opcode in (_INPUT_SPEED, _OUTPUT_SPEED):
        speed = getattr(termios, f"B{value}", None)
        if isinstance(speed, int):
            attributes[_ISPEED if opcode == _INPUT_SPEED else _OSPEED] = speed


def _set_bits(attributes: list[int | list[bytes | int]], word: int, mask: int, bits: int) -> None:
    flags = attributes[word]
    assert isinstance(flags, int)
    attributes[word] = flags & ~mask | bits
