"""The Go programs' file transfer: what is asked and answered on a channel of type `sftp`.

As pure as wire.py, and beside it: the server's half runs in a process that was root's child, which
may load nothing of `protocol/`. Not SSH's SFTP. Integers have fixed widths here, and paths are
bytes, as the file system has them. docs/protocol.md section 11 shows every byte.
"""

import stat
from enum import IntEnum
from typing import Annotated

from sshoq.wire import (
    I64,
    U8,
    U32,
    U64,
    Bool,
    Bytes16,
    Bytes32,
    Codec,
    Message,
    Reader,
    WireError,
)

CHUNK = 128 * 1024
"""Bytes of a file in one request. An answer that is shorter is the file's last."""
WINDOW = 32
"""Requests with or for a chunk that are under way at a time."""
MAX_FRAME = 64 * 1024 * 1024
"""The longest answer, its length included: what the Go programs take."""
MAX_REQUEST = 1024 * 1024
"""The longest request: a chunk and the longest path take a fifth of it."""
MAX_ENTRIES = 1 << 20

LENGTH = 4
"""Bytes of the number in front of a frame."""


class FrameError(WireError):
    """What came cannot be a frame, and nothing behind it can be found any more."""


class Command(IntEnum):
    """What a request wants. Those from 10 on are our own, and only where both sides know them."""

    PWD = 1
    CD = 2
    LS = 3
    STAT = 4
    GET = 5
    PUT = 6
    MKDIR = 7
    RM = 8
    RMDIR = 9
    REPLACE = 10


class FileRequest(Message):
    """One request. For REPLACE `data` is the path whose place `path` takes."""

    command: U8
    id: U64
    path: Bytes16 = b""
    offset: I64 = 0
    limit: U32 = 0
    data: Bytes32 = b""


class FileInfo(Message):
    """What is known of a file, by its own name: links are not followed."""

    DIRECTORY = 1
    LINK = 2

    name: Bytes16
    size: I64
    mode: U32
    """In an answer to LS the bits of Go's FileMode, else those of POSIX."""
    flags: U8
    target: Bytes16
    mtime: I64
    uid: U32
    gid: U32
    user: Bytes16
    group: Bytes16

    def with_posix_mode(self) -> "FileInfo":
        """The same, from an answer to LS, with a mode as in all other answers."""
        return FileInfo(**{**self.__dict__, "mode": posix_mode(self.mode)})

    @property
    def is_directory(self) -> bool:
        return bool(self.flags & self.DIRECTORY)

    @property
    def is_link(self) -> bool:
        return bool(self.flags & self.LINK)


def _read_entries(reader: Reader) -> tuple[FileInfo, ...]:
    count = reader.u32()
    if count > MAX_ENTRIES:
        raise WireError(f"{count} entries")
    return tuple(FileInfo.read(reader) for _ in range(count))


def _put_entries(out: bytearray, entries: tuple[FileInfo, ...]) -> None:
    out += len(entries).to_bytes(4, "big")
    for entry in entries:
        entry.write(out)


def _read_info(reader: Reader) -> FileInfo | None:
    return FileInfo.read(reader) if reader.u8() else None


def _put_info(out: bytearray, info: FileInfo | None) -> None:
    out.append(info is not None)
    if info is not None:
        info.write(out)


class FileResponse(Message):
    """The answer. Answers come in the order of the requests."""

    id: U64
    ok: Bool = True
    error: Bytes16 = b""
    path: Bytes16 = b""
    entries: Annotated[tuple[FileInfo, ...], Codec(_read_entries, _put_entries)] = ()
    data: Bytes32 = b""
    info: Annotated[FileInfo | None, Codec(_read_info, _put_info)] = None


# --------------------------------------------------------------------------- frames


def encode_frame(message: Message) -> bytes:
    """Write it as one or more data messages of its own: Go peers drop what follows it in one."""
    out = bytearray(LENGTH)
    message.write(out)
    out[:LENGTH] = (len(out) - LENGTH).to_bytes(LENGTH, "big")
    return bytes(out)


def read_length(header: bytes | bytearray, most: int) -> int:
    """The payload's length from a whole header; FrameError beyond `most`."""
    if header.startswith(b'{"'):
        raise FrameError("the peer speaks the JSON file transfer of sshoq v0.3.0 to v0.4.0, which "
                         "is not supported")
    size = int.from_bytes(header, "big")
    if LENGTH + size > most:
        raise FrameError(f"a file transfer frame of {size} bytes")
    return size


class FrameReader:
    """Bytes in, cut anywhere; the payloads of whole frames out."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._partial = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        partial = self._partial
        partial += data
        frames = []
        while len(partial) >= LENGTH:
            end = LENGTH + read_length(partial[:LENGTH], self._most)
            if len(partial) < end:
                break
            with memoryview(partial) as view:
                frames.append(bytes(view[LENGTH:end]))
            del partial[:end]
        return frames


class FrameCutter:
    """Finds where frames begin in passing bytes, and gathers nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._header = bytearray()
        self._left = 0

    def cut(self, data: bytes | memoryview) -> list[memoryview]:
        """The same bytes in pieces, none with bytes of two frames."""
        view = memoryview(data)
        pieces: list[memoryview] = []
        start = position = 0
        while position < len(view):
            if not self._left:
                position = self._read_header(view, position)
                if len(self._header) < LENGTH:
                    break
                self._header.clear()
            step = min(self._left, len(view) - position)
            position += step
            self._left -= step
            if not self._left:
                pieces.append(view[start:position])
                start = position
        if start < len(view):
            pieces.append(view[start:])
        return pieces

    def _read_header(self, view: memoryview, position: int) -> int:
        """Take what is missing of the header. Behind the whole of it, the payload's length is
        known."""
        missing = LENGTH - len(self._header)
        self._header += view[position:position + missing]
        if len(self._header) == LENGTH:
            self._left = read_length(self._header, self._most)
        return min(position + missing, len(view))


# --------------------------------------------------------------------------- kinds and modes

# Go's FileMode: the nine permission bits are POSIX's, the others stand at the top.
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFREG: 0,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}
_GO_IRREGULAR = 1 << 19
_GO_KIND = 0x8F280000


def go_mode(mode: int) -> int:
    """POSIX's st_mode as Go has it."""
    kind = _GO_KINDS.get(stat.S_IFMT(mode), _GO_IRREGULAR)
    return mode & 0o777 | kind | sum(bit for ours, bit in _GO_BITS.items() if mode & ours)


def posix_mode(mode: int) -> int:
    """The way back; what has no counterpart counts as an ordinary file."""
    wanted = mode & _GO_KIND
    kind = next((ours for ours, go in _GO_KINDS.items() if go == wanted), stat.S_IFREG)
    return mode & 0o777 | kind | sum(ours for ours, bit in _GO_BITS.items() if mode & bit)
