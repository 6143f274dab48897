"""What tests of engines do with a side of a simulated link."""

from collections.abc import Callable

from sshoq.transport.events import Event, StreamData, Terminated
from tests.link import Side


def end_of(side: Side) -> Terminated:
    """How it ended, told exactly once."""
    (terminated,) = side.told(Terminated)
    return terminated


def consume_all(side: Side) -> None:
    """Have that side read everything at once."""

    def read(event: Event) -> None:
        if isinstance(event, StreamData):
            side.engine.consumed(event.stream_id, len(event.data))

    side.on_event = read


def feed(side: Side, stream_id: int, data: bytes, most: int = 256 * 1024) -> Callable[[], bool]:
    """Writes data bit by bit, never more than `most` ahead; call it often, True when all is
    written."""
    at = 0

    def write_more() -> bool:
        nonlocal at
        while at < len(data) and side.engine.buffered(stream_id) < most:
            piece = data[at : at + 16384]
            at += len(piece)
            side.engine.write(stream_id, piece, fin=at == len(data))
        return at == len(data)

    return write_more
