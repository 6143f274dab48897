"""QUIC datagrams of a conversation: two stream identifiers and a UDP payload, and a place to wait.

A datagram often arrives ahead of the header of its channel, because QUIC stacks pack DATAGRAM
frames first. What no channel takes yet waits a moment here, within bounds; UDP may lose the rest.
"""

from sshoq.wire import Incomplete, Reader

PER_CHANNEL = 32
MAX_CHANNELS = 64
MAX_BYTES = 256 * 1024
MAX_AGE = 3.0
"""Seconds: longer than a lost channel header takes to be sent again."""


def split_datagram(data: bytes) -> tuple[int, int, bytes] | None:
    """Conversation, channel and payload; None if the bytes are no datagram of ours."""
    reader = Reader(data)
    try:
        return reader.varint(), reader.varint(), reader.take(reader.remaining)
    except Incomplete:
        return None


class WaitingDatagrams:
    """Payloads for channels that are not there yet, oldest first."""

    def __init__(self) -> None:
        self._queues: dict[tuple[int, int], list[tuple[float, bytes]]] = {}
        self._size = 0

    def put(self, conversation_id: int, channel_id: int, payload: bytes, now: float) -> bool:
        """Keep `payload` for a while; False if there is no room."""
        self._drop_old(now)
        key = (conversation_id, channel_id)
        queue = self._queues.get(key, [])
        if len(queue) >= PER_CHANNEL or self._size + len(payload) > MAX_BYTES:
            return False
        if key not in self._queues and len(self._queues) >= MAX_CHANNELS:
            return False
        self._queues[key] = queue
        queue.append((now, payload))
        self._size += len(payload)
        return True

    def take(self, conversation_id: int, channel_id: int, now: float) -> list[bytes]:
        """What waits for this channel."""
        self._drop_old(now)
        queue = self._queues.pop((conversation_id, channel_id), [])
        self._size -= sum(len(payload) for _, payload in queue)
        return [payload for _, payload in queue]

    def _drop_old(self, now: float) -> None:
        for key, queue in list(self._queues.items()):
            while queue and queue[0][0] < now - MAX_AGE:
                self._size -= len(queue.pop(0)[1])
            if not queue:
                del self._queues[key]
