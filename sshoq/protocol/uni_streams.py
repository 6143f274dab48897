"""The peer's unidirectional streams in HTTP/3: its control stream with the SETTINGS, and QPACK's,
on which nothing is to be said. What is of another type is not read.
"""

from sshoq.protocol.conversation_events import Consumed, ConversationEvent, StopStream
from sshoq.protocol.http3 import (
    MAX_SKIPPED,
    STREAM_CONTROL,
    STREAM_PUSH,
    STREAM_QPACK_DECODER,
    STREAM_QPACK_ENCODER,
    ControlStream,
)
from sshoq.protocol.outcome import Code, ConnectionFault
from sshoq.wire import Incomplete, Reader

Data = bytes | memoryview


class _UniStream:
    """A unidirectional stream of the peer's."""

    __slots__ = ("control", "head", "kind", "skipped")

    def __init__(self) -> None:
        self.head = bytearray()
        self.kind: int | None = None
        self.control: ControlStream | None = None
        self.skipped = 0


class UniStreams:
    """All of them in one conversation. Those that end up in `discarded` are the caller's: it drops
    what still comes on them.
    """

    def __init__(self, is_client: bool, discarded: set[int]) -> None:
        self.settings: dict[int, int] | None = None
        """The peer's, once they are there."""
        self._is_client = is_client
        self._discarded = discarded
        self._streams: dict[int, _UniStream] = {}
        self._kinds: set[int] = set()

    def receive(
        self, stream_id: int, data: Data, fin: bool, events: list[ConversationEvent]
    ) -> None:
        """Bytes and perhaps the end of one of them."""
        stream = self._streams.setdefault(stream_id, _UniStream())
        if data:
            events.append(Consumed(stream_id, len(data)))
        if stream.kind is None:
            stream.kind, data = _read_kind(stream.head, data)
            if not self._accept(stream):
                self._discard(stream_id, fin, events)
                return
        if stream.control is not None:
            stream.control.receive(data, fin)
            self.settings = stream.control.settings
        else:
            stream.skipped += len(data)
            if stream.skipped > MAX_SKIPPED:
                raise ConnectionFault("too much on a QPACK stream", Code.EXCESSIVE_LOAD)
        if fin:
            _check_not_critical(self._streams.pop(stream_id))

    def _accept(self, stream: _UniStream) -> bool:
        kind = stream.kind
        if kind is None:
            return True
        if kind == STREAM_PUSH:
            raise ConnectionFault("a push stream",
                                  Code.ID_ERROR if self._is_client else Code.STREAM_CREATION_ERROR)
        if kind not in (STREAM_CONTROL, STREAM_QPACK_ENCODER, STREAM_QPACK_DECODER):
            return False
        if kind in self._kinds:
            raise ConnectionFault(f"a second stream of type {kind}", Code.STREAM_CREATION_ERROR)
        self._kinds.add(kind)
        if kind == STREAM_CONTROL:
            stream.control = ControlStream()
        return True

    def _discard(self, stream_id: int, fin: bool, events: list[ConversationEvent]) -> None:
        del self._streams[stream_id]
        if not fin:
            self._discarded.add(stream_id)
            events.append(StopStream(stream_id, Code.STREAM_CREATION_ERROR))

    def reset(self, stream_id: int) -> None:
        """The peer reset it, if it is one of them."""
        if stream_id in self._streams:
            _check_not_critical(self._streams.pop(stream_id))


def _read_kind(head: bytearray, data: Data) -> tuple[int | None, Data]:
    """The type, None if it is not all there yet, and the bytes behind it."""
    had = len(head)
    head += data[:8]
    reader = Reader(head)
    try:
        return reader.varint(), data[reader.position - had:]
    except Incomplete:
        return None, b""


def _check_not_critical(stream: _UniStream) -> None:
    if stream.kind is not None:
        raise ConnectionFault("a stream that has to stay ended", Code.CLOSED_CRITICAL_STREAM)
