"""Process: network process [service user, sandboxed]. Its sockets to monitor, leader and router, in
asyncio.

Bounded both ways: what the other process does not take is queued up to a limit, behind which it
counts as hung; what it says is handed on at once and may not pile up anywhere.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from sshoq.server.privsep import (
    AllocatePty,
    CloseSession,
    Dial,
    Dialled,
    EndForwarding,
    FilesServed,
    ForwardingRefused,
    Listen,
    ListenerOpened,
    ListenForAgent,
    ListenForX11,
    ProgramExited,
    ProgramStarted,
    PtyAllocated,
    ServeFiles,
    SessionRefused,
    SignalProgram,
    StartProgram,
)
from sshoq.server.privsep_socket import MAX_DESCRIPTORS, PrivsepError, PrivsepSocket, close_all
from sshoq.wire import Message

MAX_WAITING = 2048
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Kept for a process that reads slowly: for each of a thousand channels, opened together, a
question and the word that nobody waits for its answer any more. On a busy machine the other process
may not have run yet; more means that it hangs.
"""

Receiver = Callable[[Message, list[int]], None]


class PrivsepLink:
    """A privsep socket on the event loop: `receiver` gets every message, `lost` the end, once."""

    def __init__(
        self, end: PrivsepSocket, receiver: Receiver, lost: Callable[[PrivsepError], None]
    ) -> None:
        self._end = end
        self._receiver = receiver
        self._lost = lost
        self._waiting: deque[tuple[Message, Sequence[int], int]] = deque()
        self._waiting_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._closed = False
        end.socket.setblocking(False)
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """In order, without waiting; the descriptors must live on. After the end it does nothing.
        """
        if self._closed:
            return
        size = len(message.encode()) if self._waiting else 0
        self._waiting.append((message, descriptors, size))
        self._waiting_bytes += size
        if len(self._waiting) == 1:
            self._writable()
        elif len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
            self._fail(PrivsepError("the other process does not read"))

    def _writable(self) -> None:
        try:
            while self._waiting:
                message, descriptors, size = self._waiting[0]
                self._end.send(message, descriptors)
                self._waiting.popleft()
                self._waiting_bytes -= size
        except BlockingIOError:
            self._loop.add_writer(self._end.fileno(), self._writable)
            return
        except PrivsepError as error:
            self._fail(error)
            return
        self._loop.remove_writer(self._end.fileno())

    def _readable(self) -> None:
        try:
            message, descriptors = self._end.receive()
        except BlockingIOError:
            return
        except PrivsepError as error:
            self._fail(error)
            return
        self._receiver(message, descriptors)

    def _fail(self, error: PrivsepError) -> None:
        if not self._closed:
            self.close()
            self._lost(error)

    def leave(self) -> None:
        """Neither hear nor send any more; the socket stays open, for somebody's last word."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())

    def close(self) -> None:
        self.leave()
        self._end.close()


class Refused(Exception):
    """The session leader did not give what it was asked for; the text says why."""

    def __init__(self, reason: str, *, is_prohibited: bool = False) -> None:
        super().__init__(reason)
        self.is_prohibited = is_prohibited
        """The user may not have it at all."""


class NotEntered(Refused):
    """There is no session leader: the login could not be opened."""

    def __init__(self, reason: str, told: str) -> None:
        super().__init__(reason)
        self.told = told
        """For the user: what PAM's modules have said."""


class SessionLeader:
    """What the network process asks of the user's session leader, one answer awaited per session at
    a time.
    """

    def __init__(self, end: PrivsepSocket, lost: Callable[[PrivsepError], None]) -> None:
        self._answers: dict[int, asyncio.Future[list[int]]] = {}
        self._ports: dict[int, int] = {}
        self._exits: dict[int, asyncio.Future[ProgramExited]] = {}
        self._lost = lost
        self._link = PrivsepLink(end, self._receive, self._lose)

    async def allocate_pty(self, request: AllocatePty) -> int:
        """The pty's master side. Refused when it cannot be had."""
        [master] = await self._ask(request.session, request, {1})
        return master

    async def start_program(self, request: StartProgram, *, pipes: bool) -> list[int]:
        """stdin's write end and the read ends of stdout and stderr; nothing with a pty. Refused as
        above.
        """
        self._exits[request.session] = asyncio.get_running_loop().create_future()
        try:
            return await self._ask(request.session, request, {3 if pipes else 0})
        except BaseException:
            del self._exits[request.session]
            raise

    async def serve_files(self, session: int) -> int:
        """A stream socket to a file server of the user's. Refused."""
        [descriptor] = await self._ask(session, ServeFiles(session), {1})
        return descriptor

    async def program_exit(self, session: int) -> ProgramExited:
        """How the program that was started in that session ended."""
        return await self._exits[session]

    def signal(self, session: int, name: str) -> None:
        self._link.send(SignalProgram(session, name))

    def close_session(self, session: int) -> None:
        self._exits.pop(session, None)
        self._link.send(CloseSession(session))

    async def dial(self, request: Dial) -> int:
        """A connected socket. Refused."""
        [descriptor] = await self._ask(request.channel, request, {1})
        return descriptor

    def forsake(self, channel: int) -> None:
        """Whoever waits there for an answer shall wait no more: the client has given up."""
        self._answer(channel, Refused("the client has gone"), ())

    async def listen(self, request: Listen) -> tuple[list[int], int]:
        """Listening sockets, and their port. Refused."""
        counts = set(range(1, MAX_DESCRIPTORS + 1))
        descriptors = await self._ask(request.channel, request, counts)
        return descriptors, self._ports.pop(request.channel, 0)

    async def listen_for_agent(self, session: int) -> list[int]:
        """A listening socket for the login's programs; none when there is one already. Refused."""
        return await self._ask(session, ListenForAgent(session), {0, 1})

    async def listen_for_x11(self, request: ListenForX11) -> list[int]:
        """Listening sockets of a display for the session's program. Refused."""
        counts = set(range(1, MAX_DESCRIPTORS + 1))
        descriptors = await self._ask(request.session, request, counts)
        self._ports.pop(request.session, None)
        return descriptors

    def end_forwarding(self, channel: int) -> None:
        self._link.send(EndForwarding(channel))

    def close(self) -> None:
        self._link.close()

    async def _ask(self, session: int, request: Message, counts: set[int]) -> list[int]:
        """The descriptors that come with the answer, as many as one of `counts` says."""
        if session in self._answers:
            raise ValueError(f"session {session} still waits for an answer")
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._answers[session] = answer
        self._link.send(request)
        try:
            got = await answer
        finally:
            self._answers.pop(session, None)
        if len(got) not in counts:
            close_all(got)
            self._lose(PrivsepError("descriptors of the session leader do not fit its message"))
            raise Refused("the session leader broke the rules")
        return got

    def _receive(self, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, ProgramExited):
            close_all(descriptors)
            self._note_exit(message)
        elif isinstance(message, SessionRefused):
            close_all(descriptors)
            self._answer(message.session, Refused(message.reason), ())
        elif isinstance(message, PtyAllocated | ProgramStarted | FilesServed):
            self._answer(message.session, None, descriptors)
        elif isinstance(message, ForwardingRefused):
            close_all(descriptors)
            refusal = Refused(message.reason, is_prohibited=message.is_prohibited)
            self._answer(message.channel, refusal, ())
        elif isinstance(message, Dialled):
            self._answer(message.channel, None, descriptors)
        elif isinstance(message, ListenerOpened):
            if message.channel in self._answers:
                self._ports[message.channel] = message.port
            self._answer(message.channel, None, descriptors)

    def _answer(self, session: int, refusal: Refused | None, descriptors: Sequence[int]) -> None:
        answer = self._answers.get(session)
        if answer is None or answer.done():
            close_all(descriptors)  # nobody waits any more: its channel has gone meanwhile
        elif refusal is not None:
            answer.set_exception(refusal)
        else:
            answer.set_result(list(descriptors))

    def _note_exit(self, message: ProgramExited) -> None:
        ended = self._exits.get(message.session)
        if ended is not None and not ended.done():
            ended.set_result(message)

    def _lose(self, error: PrivsepError) -> None:
        self._link.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Refused("the session leader has gone"))
        self._lost(error)
