"""One client of a master: its requests, and the session or the connection that it came for.

The client is the user's own program, ssh or ours; it is believed what it wants, not that it keeps
to the protocol.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sshoq.client import wishes
from sshoq.client.channel_openings import describe_refusal, opening_for
from sshoq.client.mux_messages import (
    CHANNELS_INFO,
    CONNECTION_INFO,
    INFO_EXTENSION,
    NO_ESCAPE,
    PATH_PORT,
    REMOTE,
    VERSION,
    Alive,
    AskInfo,
    AskProxy,
    CheckAlive,
    CloseForward,
    ExitMessage,
    Failed,
    ForwardFields,
    Hello,
    Info,
    MuxError,
    NewSession,
    NewStdioForward,
    Ok,
    OpenForward,
    PacketState,
    PermissionDenied,
    RemotePort,
    SessionOpened,
    StopListening,
    Terminate,
    TtyFailed,
    Unknown,
    encode_packet,
    fields_of,
    forward_of,
)
from sshoq.client.prompt import Prompter
from sshoq.client.session import SessionWish, TerminalWish, ask_for_session
from sshoq.client.shared_session import SharedSession
from sshoq.client.shared_stdio import run_shared_stdio
from sshoq.config.forward_spec import Forward
from sshoq.protocol.messages import Session
from sshoq.protocol.outcome import Unsupported
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused, SinkClosed
from sshoq.wire import Message

if TYPE_CHECKING:
    from sshoq.client.mux_master import Master

MAX_UNREAD = 1 << 20
"""Answers that a client does not fetch. One that lets so many wait is gone."""

REFUSED = "Session open refused by peer"

_NO_CHANNEL = (ChannelRefused, ChannelClosed, SinkClosed)


class Guest:
    """Serves a connection until either side has enough of it."""

    def __init__(self, connection: socket.socket, master: "Master") -> None:
        connection.setblocking(False)
        self._socket = connection
        self._master = master
        self._log = master.context.log
        self._options = master.context.options
        self._client = master.context.client
        self._loop = asyncio.get_running_loop()
        self._packets = PacketState()
        self._unread = bytearray()
        self._descriptors: list[int] = []
        self._work: asyncio.Task[None] | None = None
        self._session: SharedSession | None = None

    async def serve(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._read_requests(group)
                if self._work is not None:
                    self._work.cancel()
        finally:
            self._flush()
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def resize(self) -> None:
        if self._session is not None:
            self._session.send_size()

    # ----- messages

    async def _read_requests(self, group: asyncio.TaskGroup) -> None:
        """Until the client has gone, or was hung up on."""
        try:
            self._send(Hello(VERSION, (INFO_EXTENSION, "0")))
            greeting = await self._read()
            if not isinstance(greeting, Hello) or greeting.version != VERSION:
                raise MuxError("no greeting of our version")
            while (message := await self._read()) is not None:
                work = await self._answer(message)
                if work is not None:
                    self._work = group.create_task(self._finish(work))
                    await asyncio.sleep(0)  # what never began could not clean up when cancelled
        except (MuxError, ConnectionError) as error:
            self._log.debug(f"multiplex client: {error}")

    async def _read(self) -> Message | None:
        while True:
            data = await self._loop.sock_recv(self._socket, self._packets.wanted)
            if not data:
                return None
            message = self._packets.receive(data)
            if message is not None:
                return message

    async def _take_descriptors(self, count: int) -> bool:
        """Each comes with a byte of its own. What is given away may be anything but missing."""
        for _ in range(count):
            await self._until_readable()
            flags = socket.MSG_CMSG_CLOEXEC
            _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1, flags)
            self._descriptors += descriptors
            if not descriptors:
                return False
        return True

    async def _until_readable(self) -> None:
        readable = self._loop.create_future()
        self._loop.add_reader(self._socket, _settle, readable)
        try:
            await readable
        finally:
            self._loop.remove_reader(self._socket)

    def _send(self, message: Message) -> None:
        """Never waits: answers are short."""
        self._unread += encode_packet(message)
        if len(self._unread) > MAX_UNREAD:
            raise MuxError("answers are not read")
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unread:
                del self._unread[: self._socket.send(self._unread)]
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._flush)
            return
        except OSError:
            self._unread.clear()  # that it has gone shows by itself
        self._loop.remove_writer(self._socket)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """What the client came for is over, which it sees by our hanging up."""
        try:
            await work
        finally:
            self._session = None
            self._close_descriptors()
            self._flush()
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD if self._unread else socket.SHUT_RDWR)

    # ----- requests

    async def _answer(self, message: Message) -> Coroutine[Any, Any, None] | None:
        """What a session or connection that was granted leaves to be done."""
        opener = _OPENERS.get(type(message))
        if opener is not None:
            return await opener(self, message)
        handler = _HANDLERS.get(type(message))
        if handler is None:
            raise MuxError(f"{type(message).__name__} from a client")
        self._send(await handler(self, message))
        return None

    async def _confirmed(self, question: str) -> bool:
        """ControlMaster ask: somebody at a screen has to agree."""
        if self._options.control_master not in ("ask", "autoask"):
            return True
        answer: asyncio.Future[bool] = self._loop.create_future()
        prompter = Prompter(os.environ, self._log.error, batch=self._options.batch_mode)

        def ask() -> None:
            granted = prompter.confirm(question)
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(_settle, answer, granted)

        threading.Thread(target=ask, daemon=True).start()
        return await answer

    async def _check_alive(self, request: CheckAlive) -> Message:
        return Alive(request.request, os.getpid())

    async def _terminate(self, request: Terminate) -> Message:
        if not await self._confirmed(f"Terminate shared connection to {self._host}? "):
            return self._denied(request.request)
        self._loop.call_soon(self._master.end)
        return Ok(request.request)

    async def _stop_listening(self, request: StopListening) -> Message:
        question = f"Disable further multiplexing on shared connection to {self._host}? "
        if not await self._confirmed(question):
            return self._denied(request.request)
        self._master.stop_listening()
        return Ok(request.request)

    async def _refuse(self, request: AskProxy | Unknown) -> Message:
        return Failed(request.request, "unsupported request")

    async def _inform(self, request: AskInfo) -> Message:
        if request.name == CONNECTION_INFO:
            user = f"  user {self._options.user}, pid {os.getpid()}"
            head = f"Connection information for {self._host}"
            lines = [head, user, *(f"  {line}" for line in self._client.describe())]
        elif request.name == CHANNELS_INFO:
            lines = ["The following connections are open:", *self._client.list_channels()]
        else:
            return Info(request.request, 0, f"unknown info request {request.name}")
        return Info(request.request, 1, "".join(f"{line}\r\n" for line in lines))

    @property
    def _host(self) -> str:
        return self._options.hostname

    def _denied(self, number: int) -> Message:
        self._log.debug("multiplex client: refused by the user")
        return PermissionDenied(number, "Permission denied")

    # ----- forwardings

    async def _open_forward(self, request: OpenForward) -> Message:
        number = request.request
        try:
            forward = forward_of(request)
        except MuxError as error:
            return Failed(number, str(error))
        standing = self._find(request)
        if standing is not None:
            return _granted(number, request, standing[1])
        if not await self._confirmed(f"Open {_describe(request, forward)} on {self._host}?"):
            return self._denied(number)
        if request.kind == REMOTE:
            port = await self._master.forwards.remote.add(forward)
            if port is None:
                return Failed(number, _remote_failure(forward))
            return _granted(number, request, port)
        if not await self._master.forwards.local.add(forward):
            return Failed(number, "Port forwarding failed")
        return Ok(number)

    async def _close_forward(self, request: CloseForward) -> Message:
        number = request.request
        standing = self._find(request)
        if standing is None:
            return Failed(number, "port not forwarded")
        forward, port = standing
        forwards = self._master.forwards
        if request.kind != REMOTE:
            granted = forwards.local.cancel(forward)
            return Ok(number) if granted else Failed(number, "port not found")
        if forward.listen_path is None:
            forward = Forward(listen_host=forward.listen_host, listen_port=port)
        granted = forwards.remote.cancel(forward)
        return Ok(number) if granted else Failed(number, "port not in permitted opens")

    def _find(self, request: OpenForward | CloseForward) -> tuple[Forward, int] | None:
        """The same forwarding, if it stands already, and the port it has at the server."""
        wanted: ForwardFields = tuple(request)[1:]
        forwards = self._master.forwards
        if request.kind == REMOTE:
            candidates = forwards.remote.standing()
        else:
            candidates = [(forward, 0) for forward in forwards.local.standing()]
        remote = request.kind == REMOTE
        return next(
            (
                (forward, port)
                for forward, port in candidates
                if forward.protocol == "tcp" and fields_of(forward, remote=remote) == wanted
            ),
            None,
        )

    # ----- what a client may come for, once

    async def _open_session(self, request: NewSession) -> Coroutine[Any, Any, None] | None:
        question = f"Allow shared connection to {self._host}? "
        if not await self._may_open(request.request, 3, question):
            return None
        wish = self._session_wish(request)
        display = self._master.context.display
        if request.wants_x11 and display is not None and await display.prepare():
            wish = wish._replace(display=display)
        channel: Channel | None = None
        try:
            channel = self._client.conversation.open_channel(Session())
            asked = ask_for_session(channel, wish, self._log)
            await channel.opened()
        except (*_NO_CHANNEL, Unsupported) as error:
            self._log.debug(f"multiplex client: no session: {error}")
            if channel is not None:
                channel.close()
            self._fail(request.request, REFUSED)
            return None
        number = channel.stream_id & 0xFFFF_FFFF
        self._send(SessionOpened(request.request, number))
        self._session = session = SharedSession(
            asked,
            wish,
            self._log,
            self._descriptors,
            self._client.list_channels,
            lambda: self._send(TtyFailed(number)),
            lambda status: self._send(ExitMessage(number, status)),
        )
        return self._run_session(channel, session)

    async def _run_session(self, channel: Channel, session: SharedSession) -> None:
        try:
            await session.run()
        except asyncio.CancelledError:  # the client has gone
            channel.close()
            raise
        if session.was_cut:
            channel.close()
        else:
            channel.finish()

    def _session_wish(self, request: NewSession) -> SessionWish:
        """Only what our own configuration lets be sent, and what it adds."""
        given = dict(
            variable.split("=", 1) for variable in request.environment if "=" in variable
        )
        terminal = None
        if request.wants_tty:
            terminal = TerminalWish.like(self._descriptors[0], request.term, demanded=False)
        escape = request.escape
        return SessionWish(
            command=None if request.is_subsystem else request.command or None,
            subsystem=request.command if request.is_subsystem else None,
            terminal=terminal,
            environment=wishes.environment_of(self._options, given),
            escape_character=None if escape == NO_ESCAPE else bytes((escape & 0xFF,)),
            forward_agent=request.wants_agent and self._master.context.agent is not None,
            keystroke_interval=self._options.obscure_keystroke_interval / 1000,
        )

    async def _open_stdio(self, request: NewStdioForward) -> Coroutine[Any, Any, None] | None:
        question = f"Allow forward to {request.host}:{request.port}? "
        if not await self._may_open(request.request, 2, question):
            return None
        if request.port == PATH_PORT:
            forward = Forward(connect_path=request.host)
        else:
            forward = Forward(connect_host=request.host, connect_port=request.port & 0xFFFF)
        conversation = self._client.conversation
        try:
            channel = conversation.open_channel(await opening_for(conversation.traits, forward))
            await channel.opened()
        except (*_NO_CHANNEL, Unsupported, OSError) as error:
            told = describe_refusal(error) if isinstance(error, ChannelRefused) else str(error)
            self._log.error(f"channel 0: open failed: {told}")
            self._fail(request.request, REFUSED)
            return None
        self._send(SessionOpened(request.request, channel.stream_id & 0xFFFF_FFFF))
        return run_shared_stdio(channel, *self._descriptors)

    async def _may_open(self, number: int, descriptors: int, question: str) -> bool:
        """Once for a client, with its descriptors here, and if the user agrees."""
        is_busy = self._work is not None
        held, self._descriptors = self._descriptors, []
        complete = await self._take_descriptors(descriptors)
        if is_busy:
            self._close_descriptors()
            self._descriptors = held
            self._send(Failed(number, "Multiple sessions not supported"))
        elif not complete:
            self._fail(number, "did not receive file descriptors")
        elif not await self._confirmed(question):
            self._close_descriptors()
            self._send(self._denied(number))
        else:
            return True
        return False

    def _fail(self, number: int, reason: str) -> None:
        self._close_descriptors()
        self._send(Failed(number, reason))


def _settle(future: "asyncio.Future[Any]", result: object = None) -> None:
    if not future.done():
        future.set_result(result)


def _granted(number: int, request: OpenForward, port: int) -> Message:
    if request.kind == REMOTE and request.listen_port == 0:
        return RemotePort(number, port)
    return Ok(number)


def _remote_failure(forward: Forward) -> str:
    where = f"path {forward.listen_path}" if forward.listen_path else f"port {forward.listen_port}"
    return f"remote port forwarding failed for listen {where}"


def _describe(request: OpenForward, forward: Forward) -> str:
    """For the user who is to permit it."""
    kind = {REMOTE: "remote"}.get(request.kind, "dynamic" if forward.dynamic else "local")
    return f"{kind} forward {forward.listen_text()} -> {forward.connect_text()}"


_Handler = Callable[[Guest, Any], Awaitable[Message]]
_Opener = Callable[[Guest, Any], Awaitable[Coroutine[Any, Any, None] | None]]

_HANDLERS: dict[type[Message], _Handler] = {
    AskInfo: Guest._inform,
    AskProxy: Guest._refuse,
    CheckAlive: Guest._check_alive,
    CloseForward: Guest._close_forward,
    OpenForward: Guest._open_forward,
    StopListening: Guest._stop_listening,
    Terminate: Guest._terminate,
    Unknown: Guest._refuse,
}
_OPENERS: dict[type[Message], _Opener] = {
    NewSession: Guest._open_session,
    NewStdioForward: Guest._open_stdio,
}
