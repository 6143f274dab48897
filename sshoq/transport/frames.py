"""The frames that bulk data consists of, read and written without ceremony: STREAM and ACK (RFC
9000 19).

Everything else is left to the QUIC library. Pure: bytes to values and back.
"""

ACK = 0x02
STREAM = 0x08
FIN_BIT, LENGTH_BIT, OFFSET_BIT = 0x01, 0x02, 0x04
_STREAM_MASK = 0xF8

_VARINT_MASKS = (0x3F, 0x3FFF, 0x3FFFFFFF, 0x3FFFFFFFFFFFFFFF)


StreamFrame = tuple[int, int, bool, int, int]
"""Stream ID, offset, whether it is the end; where the data begin and end within the payload."""


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A variable-length integer and the position behind it. IndexError when it is cut."""
    first = data[position]
    if first < 0x40:
        return first, position + 1
    kind = first >> 6
    stop = position + (1 << kind)
    if stop > len(data):
        raise IndexError("cut")
    return int.from_bytes(data[position:stop], "big") & _VARINT_MASKS[kind], stop


def read_stream_frame(payload: bytes) -> StreamFrame | None:
    """The STREAM frame that the payload begins with; None when it begins with another, or is
    cut.
    """
    kind = payload[0]
    if kind & _STREAM_MASK != STREAM:
        return None
    offset = 0
    try:
        stream_id, start = read_varint(payload, 1)
        if kind & OFFSET_BIT:
            offset, start = read_varint(payload, start)
        if kind & LENGTH_BIT:
            length, start = read_varint(payload, start)
            stop = start + length
        else:
            stop = len(payload)
    except IndexError:
        return None
    if stop > len(payload):
        return None
    return stream_id, offset, bool(kind & FIN_BIT), start, stop


def is_lone_ack(payload: bytes) -> bool:
    """Whether there is an ACK frame and nothing else."""
    if payload[0] != ACK:
        return False
    try:
        position = 1
        for _ in range(2):
            _, position = read_varint(payload, position)
        count, position = read_varint(payload, position)
        for _ in range(min(2 * count + 1, len(payload))):
            _, position = read_varint(payload, position)
    except IndexError:
        return False
    return position == len(payload)


class BurstHead:
    """What precedes the data in STREAM frames that go on to the end of their packets.

    Equally long for all offsets up to the highest, so that the packets of a burst are.
    """

    __slots__ = ("_mark", "_start", "_width", "size")

    def __init__(self, stream_id: int, highest_offset: int) -> None:
        self._start = bytes((STREAM | OFFSET_BIT,)) + write_varint(stream_id)
        is_short = highest_offset < 0x40000000
        self._width, self._mark = (4, 0x80000000) if is_short else (8, 0xC000000000000000)
        self.size = len(self._start) + self._width

    def at(self, offset: int) -> bytes:
        return self._start + (offset | self._mark).to_bytes(self._width, "big")


def varint_size(value: int) -> int:
    if value < 0x40:
        return 1
    if value < 0x4000:
        return 2
    return 4 if value < 0x40000000 else 8


def write_varint(value: int) -> bytes:
    size = varint_size(value)
    kind = size.bit_length() - 1
    return (value | kind << (8 * size - 2)).to_bytes(size, "big")
