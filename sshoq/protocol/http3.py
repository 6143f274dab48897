"""The part of HTTP/3 that a conversation needs: SETTINGS, and HEADERS on the stream of a CONNECT.

QPACK is used without its dynamic table and without its streams, so every block of fields stands for
itself. What a peer may make us keep is bounded: compressed fields, decoded fields, frames that we
skip.
"""

from collections.abc import Sequence

from pylsqpack import Decoder, DecompressionFailed, Encoder, StreamBlocked

from sshoq.protocol.extensions import SETTING, Extension
from sshoq.protocol.outcome import Code, ConnectionFault, ProtocolError
from sshoq.wire import Incomplete, Reader, varint

Fields = Sequence[tuple[bytes, bytes]]

MAX_COMPRESSED = 16 * 1024
MAX_FIELDS = 64
MAX_DECODED = 64 * 1024
MAX_BLOCKS = 8
"""Interim responses, the response, trailers."""
MAX_SETTINGS = 8 * 1024
MAX_SKIPPED = 64 * 1024
"""The most bytes of a stream's frames that mean nothing to us."""

FRAME_DATA = 0x00
FRAME_HEADERS = 0x01
FRAME_SETTINGS = 0x04

STREAM_CONTROL = 0x00
STREAM_PUSH = 0x01
STREAM_QPACK_ENCODER = 0x02
STREAM_QPACK_DECODER = 0x03

ENABLE_CONNECT_PROTOCOL = 0x08
H3_DATAGRAM = 0x33

_HTTP2_FRAMES = frozenset({0x02, 0x06, 0x08, 0x09})
_HTTP2_SETTINGS = frozenset({0x00, 0x02, 0x03, 0x04, 0x05})
"""Types and settings of HTTP/2 that RFC 9114 7.2.8 and 7.2.4.1 keep out of HTTP/3."""
_NOT_ON_REQUESTS = frozenset({0x03, 0x04, 0x05, 0x07, 0x0D}) | _HTTP2_FRAMES
_NOT_ON_CONTROL = frozenset({0x00, 0x01, 0x04, 0x05}) | _HTTP2_FRAMES


# --------------------------------------------------------------------------- fields


def encode_headers(fields: Fields) -> bytes:
    """A HEADERS frame: static table and literals, none marked never-indexed (Go refuses those)."""
    instructions, block = Encoder().encode(0, list(fields))
    if instructions:
        raise RuntimeError("the QPACK encoder used a dynamic table")
    return varint(FRAME_HEADERS) + varint(len(block)) + block


def encode_data(body: bytes) -> bytes:
    """A DATA frame."""
    return varint(FRAME_DATA) + varint(len(body)) + body


def decode_fields(block: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a HEADERS frame, in their order."""
    try:
        _, fields = Decoder(0, 0).feed_header(0, block)
    except (DecompressionFailed, StreamBlocked):
        raise ConnectionFault("fields that cannot be decoded without a dynamic table",
                              Code.QPACK_DECOMPRESSION_FAILED) from None
    size = sum(len(name) + len(value) for name, value in fields)
    if len(fields) > MAX_FIELDS or size > MAX_DECODED:
        raise ProtocolError(f"{len(fields)} fields of {size} bytes", Code.EXCESSIVE_LOAD)
    return fields


# --------------------------------------------------------------------------- settings


def control_stream(extensions: Extension) -> bytes:
    """All that we ever write on our control stream: its type and the SETTINGS frame."""
    settings = {H3_DATAGRAM: 1, ENABLE_CONNECT_PROTOCOL: 1, SETTING: int(extensions)}
    payload = b"".join(varint(key) + varint(value) for key, value in settings.items())
    return varint(STREAM_CONTROL) + varint(FRAME_SETTINGS) + varint(len(payload)) + payload


def decode_settings(payload: bytes) -> dict[int, int]:
    """The settings of a SETTINGS frame, checked by RFC 9114 7.2.4 and RFC 9297 2.1.1."""
    reader = Reader(payload)
    settings: dict[int, int] = {}
    try:
        while reader.remaining:
            key, value = reader.varint(), reader.varint()
            if key in settings or key in _HTTP2_SETTINGS:
                raise ConnectionFault(f"setting {key:#x} twice or reserved", Code.SETTINGS_ERROR)
            settings[key] = value
    except Incomplete:
        raise ConnectionFault("SETTINGS cut short", Code.FRAME_ERROR) from None
    for key in (H3_DATAGRAM, ENABLE_CONNECT_PROTOCOL):
        if settings.get(key, 0) > 1:
            raise ConnectionFault(f"setting {key:#x} = {settings[key]}", Code.SETTINGS_ERROR)
    return settings


# --------------------------------------------------------------------------- frames


class _FrameReader:
    """Cuts a stream into frames, wherever its bytes were cut. What is skipped is counted."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self._kept: bytearray | None = None
        self._type = 0
        self._skipped = 0

    @property
    def is_between_frames(self) -> bool:
        return not self._head and not self._left

    def judge(self, frame_type: int, size: int) -> bool:
        """Whether the frame is kept; raises for one that must not be here."""
        raise NotImplementedError

    def finish_frame(self, frame_type: int, payload: bytes) -> None:
        """A kept frame is complete."""
        raise NotImplementedError

    def read(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        position = 0
        while position < len(view):
            if self._left:
                piece = view[position:position + self._left]
                position += len(piece)
                self._take_payload(piece)
            else:
                position += self._take_head(view[position:position + 16])

    def _take_head(self, view: memoryview) -> int:
        """Complete the next frame's type and length from `view`; how many bytes that took."""
        had = len(self._head)
        reader = Reader(self._head + view)
        try:
            self._type, self._left = reader.varint(), reader.varint()
        except Incomplete:
            self._head += view
            return len(view)
        self._head.clear()
        self._kept = bytearray() if self.judge(self._type, self._left) else None
        self._skipped += self._kept is None
        if not self._left:
            self._end_frame()
        return reader.position - had

    def _take_payload(self, piece: memoryview) -> None:
        self._left -= len(piece)
        if self._kept is not None:
            self._kept += piece
        else:
            self._skipped += len(piece)
            if self._skipped > MAX_SKIPPED:
                raise ProtocolError("too much that means nothing here", Code.EXCESSIVE_LOAD)
        if not self._left:
            self._end_frame()

    def _end_frame(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            self.finish_frame(self._type, bytes(kept))


class ControlStream(_FrameReader):
    """The peer's control stream behind its type: SETTINGS first, nothing else that matters."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[int, int] | None = None

    def receive(self, data: bytes | memoryview, fin: bool) -> None:
        """Sets `settings` once they are there; every fault here is one of the connection."""
        try:
            self.read(data)
        except ProtocolError as error:
            raise ConnectionFault(error.reason, error.code) from None
        if fin:
            raise ConnectionFault("the control stream ended", Code.CLOSED_CRITICAL_STREAM)

    def judge(self, frame_type: int, size: int) -> bool:
        if self.settings is not None:
            if frame_type in _NOT_ON_CONTROL:
                raise ConnectionFault(f"frame {frame_type:#x} on the control stream",
                                      Code.FRAME_UNEXPECTED)
            return False
        if frame_type != FRAME_SETTINGS:
            raise ConnectionFault("no SETTINGS first", Code.MISSING_SETTINGS)
        if size > MAX_SETTINGS:
            raise ConnectionFault(f"SETTINGS of {size} bytes", Code.EXCESSIVE_LOAD)
        return True

    def finish_frame(self, frame_type: int, payload: bytes) -> None:
        self.settings = decode_settings(payload)


class RequestStream(_FrameReader):
    """One direction of a CONNECT's stream: blocks of fields, and of DATA the first `keep` bytes."""

    def __init__(self, keep: int = 0) -> None:
        super().__init__()
        self.body = bytearray()
        self._keep = keep
        self._blocks: list[list[tuple[bytes, bytes]]] = []
        self._had_headers = False
        self._count = 0

    def receive(self, data: bytes | memoryview, fin: bool) -> list[list[tuple[bytes, bytes]]]:
        """The blocks of fields that are complete now."""
        self.read(data)
        if fin and not self.is_between_frames:
            raise ConnectionFault("the stream ends inside a frame", Code.FRAME_ERROR)
        if fin and not self._had_headers:
            raise ProtocolError("the stream ends without fields", Code.REQUEST_INCOMPLETE)
        blocks, self._blocks = self._blocks, []
        return blocks

    def judge(self, frame_type: int, size: int) -> bool:
        if frame_type in _NOT_ON_REQUESTS or (frame_type == FRAME_DATA and not self._had_headers):
            raise ConnectionFault(f"frame {frame_type:#x} on a request stream",
                                  Code.FRAME_UNEXPECTED)
        if frame_type == FRAME_DATA:
            return len(self.body) + size <= self._keep
        if frame_type != FRAME_HEADERS:
            return False
        if size > MAX_COMPRESSED:
            raise ProtocolError(f"HEADERS of {size} bytes", Code.EXCESSIVE_LOAD)
        self._count += 1
        if self._count > MAX_BLOCKS:
            raise ProtocolError("too many blocks of fields", Code.EXCESSIVE_LOAD)
        return True

    def finish_frame(self, frame_type: int, payload: bytes) -> None:
        if frame_type == FRAME_DATA:
            self.body += payload
            return
        self._had_headers = True
        self._blocks.append(decode_fields(payload))
