"""A session leader whose programs are coroutines of the test, and a login that has it."""

import asyncio
import os
import pty
from collections.abc import Awaitable, Callable

from sshoq.forwarding.forwarder import FdSink, FdSource
from sshoq.server.link import Refused
from sshoq.server.privsep import AllocatePty, ProgramExited, StartProgram


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

    def close(self) -> None:
        for session in list(self._running):
            self.close_session(session)


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

    async def leader(self) -> FakeLeader:
        return self.the_leader

    def log(self, level: int, text: str) -> None:
        self.lines.append(text)
