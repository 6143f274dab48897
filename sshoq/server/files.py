"""Process: network process [service user, sandboxed]. The Go programs' file transfer: a channel
joined to a file server of the user's.

What is asked and answered passes through as bytes; only where frames begin is looked at, because a
Go client wants each at the start of a data message.
"""

import socket
from collections import deque
from contextlib import suppress
from typing import Protocol

from sshoq.file_frames import MAX_FRAME, MAX_REQUEST, FrameCutter, FrameError
from sshoq.forwarding.forwarder import SocketEnd
from sshoq.forwarding.joint import join
from sshoq.forwarding.relay import Source, Take
from sshoq.protocol.channel import ChannelEvent, Data
from sshoq.protocol.messages import RefusalReason
from sshoq.protocol.outcome import ProtocolError
from sshoq.server.link import Refused, SessionLeader
from sshoq.server.privsep import FilesServed
from sshoq.transport.channel import Channel, SinkClosed

INFO = 1
MAX_REASON = 200


class Login(Protocol):
    """What a file transfer needs of the login it belongs to."""

    async def leader(self) -> SessionLeader: ...

    def log(self, level: int, text: str) -> None: ...


class FilesHost:
    """One channel of type `sftp`."""

    def __init__(self, channel: Channel, login: Login) -> None:
        self._channel = channel
        self._login = login
        self._leader: SessionLeader | None = None
        self._requests = FrameCutter(MAX_REQUEST)
        channel.watcher = self._watch

    def _watch(self, event: ChannelEvent) -> bool:
        """The file server would only end without a word: it has nobody to tell."""
        if isinstance(event, Data):
            try:
                self._requests.cut(event.payload)
            except FrameError as error:
                raise ProtocolError(str(error)) from None
        return True

    async def run(self) -> None:
        """Until the client has ended its side, and the last answer is out."""
        try:
            end = await self._start()
        except Refused as refusal:
            self._login.log(INFO, f"{self._channel}: {refusal}")
            if self._channel.is_usable():
                self._channel.refuse(RefusalReason.ADMINISTRATIVELY_PROHIBITED, str(refusal))
            return
        try:
            self._channel.confirm()
        except SinkClosed:
            end.close()
        else:
            await join(self._channel, _FramedEnd(end))

    async def _start(self) -> SocketEnd:
        """The end that leads to the file server, when that is ready."""
        self._leader = await self._login.leader()
        end = SocketEnd(socket.socket(fileno=await self._leader.serve_files(self._number)))
        try:
            greeting = await end.source.read()
            if greeting != FilesServed.READY:
                reason = bytes(greeting[:MAX_REASON]).decode("utf-8", "replace")
                raise Refused(reason or "open failed")
        except BaseException:
            end.close()
            raise
        return end

    @property
    def _number(self) -> int:
        return self._channel.stream_id

    def close(self) -> None:
        if self._leader is not None:
            self._leader.close_session(self._number)
        self._channel.close()


class _FramedSource:
    """What the file server says, frame by frame."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._cutter = FrameCutter(MAX_FRAME)
        self._pieces: deque[memoryview] = deque()

    async def read(self, take: Take | None = None) -> bytes | memoryview:
        if not self._pieces:
            with suppress(FrameError):  # it is the user's own, and so is what comes of it
                self._pieces.extend(self._cutter.cut(await self._source.read()))
        return self._pieces.popleft() if self._pieces else b""


class _FramedEnd:
    """The socket to the file server, read by frames."""

    def __init__(self, end: SocketEnd) -> None:
        self._end = end
        self.source = _FramedSource(end.source)
        self.sink = end.sink

    def stop_reading(self) -> None:
        self._end.stop_reading()

    def abort(self) -> None:
        self._end.abort()

    def close(self) -> None:
        self._end.close()
