"""The frames that most packets consist of, read and written without ceremony: STREAM, ACK and, only
written, MAX_STREAM_DATA (RFC 9000 19).

Everything else is left to the QUIC library. Pure: bytes to values and back.
"""

ACK = 0x02
STREAM = 0x08
MAX_STREAM_DATA = 0x11
FIN_BIT, LENGTH_BIT, OFFSET_BIT = 0x01, 0x02, 0x04
_STREAM_MASK = 0xF8

_VARINT_MASKS = (0x3F, 0x3FFF, 0x3FFFFFFF, 0x3FFFFFFFFFFFFFFF)


StreamFrame = tuple[int, int, bool, int, int]
"""Stream ID, offset, whether it is the end; where the data begin and end within the payload."""

AckFrame = tuple[list[tuple[int, int]], int]
"""Ranges of numbers, lowest first, none below 0; the delay as it is written."""

_ACK_START = bytes((ACK,))


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


def read_lone_ack(payload: bytes) -> AckFrame | None:
    """The ACK frame that is all of the payload; None when it is anything else."""
    if payload[0] != ACK:
        return None
    try:
        largest, position = read_varint(payload, 1)
        delay, position = read_varint(payload, position)
        count, position = read_varint(payload, position)
        length, position = read_varint(payload, position)
        low = largest - length
        ranges = [(low, largest + 1)]
        for _ in range(min(count, len(payload))):
            gap, position = read_varint(payload, position)
            length, position = read_varint(payload, position)
            high = low - gap - 2
            low = high - length
            ranges.append((low, high + 1))
    except IndexError:
        return None
    if position != len(payload) or low < 0:
        return None
    ranges.reverse()
    return ranges, delay


def write_ack_frame(largest: int, delay: int, length: int) -> bytes:
    """For one range: `length` numbers in front of the largest."""
    return b"%b%b%b\0%b" % (
        _ACK_START,
        write_varint(largest),
        write_varint(delay),
        write_varint(length),
    )


def write_stream_head(stream_id: int, offset: int, size: int, fin: bool) -> bytes:
    """What precedes the data in a STREAM frame that says how long it is."""
    kind = STREAM | LENGTH_BIT | (OFFSET_BIT if offset else 0) | fin
    return b"%c%b%b%b" % (
        kind,
        write_varint(stream_id),
        write_varint(offset) if offset else b"",
        write_varint(size),
    )


def write_max_stream_data(stream_id: int, limit: int) -> bytes:
    return b"%c%b%b" % (MAX_STREAM_DATA, write_varint(stream_id), write_varint(limit))


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
    if value < 0x40:
        return value.to_bytes(1, "big")
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x40000000:
        return (value | 0x80000000).to_bytes(4, "big")
    return (value | 0xC000000000000000).to_bytes(8, "big")
