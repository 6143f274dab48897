"""A session leader whose programs are coroutines of the test, and a login that has it."""

import asyncio
import os
import pty
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sshoq.forwarding.forwarder import FdSink, FdSource
from sshoq.listening import open_listeners
from sshoq.protocol.messages import ChannelOpening
from sshoq.server.link import NotEntered, Refused
from sshoq.server.privsep import (
    AllocatePty,
    Dial,
    Listen,
    ListenForX11,
    ProgramExited,
    StartProgram,
)
from sshoq.transport.channel import Channel


class Streams:
    """What a program sees: its input, its outputs, its terminal."""

    def __init__(self, stdin: FdSource, stdout: FdSink, stderr: FdSink) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.terminal: AllocatePty | None = None
        self.start: StartProgram | None = None
        self.signals: asyncio.Queue[str] = asyncio.Queue()

    async def read_all(self) -> bytes:
        parts = []
        while data := await self.stdin.read():
            parts.append(data)
        return b"".join(parts)


class Ending:
    """How a program ends: a status, or a signal's name."""

    def __init__(self, status: int = 0, signal: str = "") -> None:
        self.status = status
        self.signal = signal


ProgramBody = Callable[[Streams], Awaitable[Ending]]


class FakeLeader:
    """Stands where SessionLeader stands; every program runs `body`."""

    def __init__(self, body: ProgramBody) -> None:
        self._body = body
        self._masters: dict[int, tuple[AllocatePty, int]] = {}
        self._running: dict[int, asyncio.Task[Ending]] = {}
        self._streams: dict[int, Streams] = {}
        self.refuse_pty = False
        self.refuse_program = False
        self.closed: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.dialled: list[Dial] = []
        self.forsaken: set[int] = set()
        self.targets: asyncio.Queue[socket.socket] = asyncio.Queue()
        self.refusal: Refused | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.ended: list[int] = []
        self.listened: list[Listen] = []
        self.ports: asyncio.Queue[int] = asyncio.Queue()
        self.agent_listens = False
        self.displays: list[ListenForX11] = []

    async def allocate_pty(self, request: AllocatePty) -> int:
        if self.refuse_pty:
            raise Refused("no pty today")
        master, slave = pty.openpty()
        self._masters[request.session] = (request, slave)
        return master

    async def start_program(self, request: StartProgram, *, pipes: bool) -> list[int]:
        if self.refuse_program:
            raise Refused("no program today")
        if pipes:
            streams, ours = _three_pipes()
        else:
            terminal, slave = self._masters.pop(request.session)
            streams, ours = _terminal_streams(slave), []
            streams.terminal = terminal
        streams.start = request
        self._streams[request.session] = streams
        self._running[request.session] = asyncio.ensure_future(self._run(streams))
        return ours

    async def _run(self, streams: Streams) -> Ending:
        try:
            return await self._body(streams)
        finally:
            for end in (streams.stdin, streams.stdout, streams.stderr):
                end.close()

    async def program_exit(self, session: int) -> ProgramExited:
        ending = await self._running[session]
        return ProgramExited(session, ending.status, ending.signal, False)

    def signal(self, session: int, name: str) -> None:
        self._streams[session].signals.put_nowait(name)

    def close_session(self, session: int) -> None:
        self.closed.append(session)
        task = self._running.pop(session, None)
        if task is not None:
            task.cancel()

    async def dial(self, request: Dial) -> int:
        """The other end of what is dialled is put into `targets`."""
        self.dialled.append(request)
        while not self.answering.is_set():
            if request.channel in self.forsaken:
                raise Refused("the client has gone")
            await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        near, far = socket.socketpair(type=_socket_type(request))
        self.targets.put_nowait(far)
        return near.detach()

    def forsake(self, channel: int) -> None:
        self.forsaken.add(channel)

    async def listen(self, request: Listen) -> tuple[list[int], int]:
        if self.refusal is not None:
            raise self.refusal
        self.listened.append(request)
        sockets = open_listeners(["127.0.0.1"], 0, _socket_type(request), print, print)
        port = sockets[0].getsockname()[1]
        self.ports.put_nowait(port)
        return [listener.detach() for listener in sockets], port

    async def listen_for_agent(self, session: int) -> list[int]:
        if self.refusal is not None:
            raise self.refusal
        if self.agent_listens:
            return []
        self.agent_listens = True
        [listener] = open_listeners(["127.0.0.1"], 0, socket.SOCK_STREAM, print, print)
        self.agent_port = listener.getsockname()[1]
        return [listener.detach()]

    async def listen_for_x11(self, request: ListenForX11) -> list[int]:
        if self.refusal is not None:
            raise self.refusal
        self.displays.append(request)
        sockets = open_listeners(["127.0.0.1", "::1"], 0, socket.SOCK_STREAM, print, print)
        self.ports.put_nowait(sockets[0].getsockname()[1])
        return [listener.detach() for listener in sockets]

    async def serve_files(self, session: int) -> int:
        """The far end is put into `targets`."""
        if self.refusal is not None:
            raise self.refusal
        near, far = socket.socketpair()
        self.targets.put_nowait(far)
        return near.detach()

    def end_forwarding(self, channel: int) -> None:
        self.ended.append(channel)

    def close(self) -> None:
        for session in list(self._running):
            self.close_session(session)


def _socket_type(request: Dial | Listen) -> socket.SocketKind:
    return socket.SOCK_DGRAM if request.kind == Dial.UDP else socket.SOCK_STREAM


def _three_pipes() -> tuple[Streams, list[int]]:
    (in_r, in_w), (out_r, out_w), (err_r, err_w) = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
    for fd in (in_r, out_w, err_w):
        os.set_blocking(fd, False)
    return Streams(FdSource(in_r), FdSink(out_w), FdSink(err_w)), [in_w, out_r, err_r]


def _terminal_streams(slave: int) -> Streams:
    descriptors = [slave, os.dup(slave), os.dup(slave)]
    os.set_blocking(slave, False)
    return Streams(FdSource(descriptors[0]), FdSink(descriptors[1]), FdSink(descriptors[2]))


class FakeLogin:
    """A login that is open already."""

    def __init__(self, body: ProgramBody) -> None:
        self.max_sessions = 10
        self.the_leader = FakeLeader(body)
        self.lines: list[str] = []
        self.open_channel: Callable[[ChannelOpening], Channel] = _no_channel
        self.group: asyncio.TaskGroup | None = None
        self.not_entered: NotEntered | None = None

    async def leader(self) -> FakeLeader:
        if self.not_entered is not None:
            raise self.not_entered
        return self.the_leader

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        assert self.group is not None
        self.group.create_task(work)

    def log(self, level: int, text: str) -> None:
        self.lines.append(text)


def _no_channel(opening: ChannelOpening) -> Channel:
    raise AssertionError("no conversation yet")
