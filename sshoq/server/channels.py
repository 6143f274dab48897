"""Process: network process [service user, sandboxed]. The channels that clients open.

A session is carried out here: its requests become questions to the session leader, whose
descriptors are then joined to the channel by the one pump. Nothing here decides what the user may
do; leader and monitor do.
"""

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

from sshoq.forwarding.forwarder import FdSink, FdSource
from sshoq.forwarding.relay import Sink, pump
from sshoq.protocol.messages import (
    AgentReq,
    Break,
    ChannelOpening,
    ChannelRequest,
    DirectStreamlocal,
    DirectTcp,
    DirectTcpip,
    DirectUdp,
    DirectUdpip,
    EndOfWrite,
    Env,
    Exec,
    ExitSignal,
    ExitStatus,
    HostKeys,
    PtyReq,
    RefusalReason,
    RequestReverseTcp,
    RequestReverseUdp,
    Session,
    Sftp,
    Shell,
    Signal,
    StreamlocalForward,
    Subsystem,
    TcpipForward,
    UdpipForward,
    WindowChange,
    X11Req,
)
from sshoq.protocol.outcome import ProtocolError
from sshoq.protocol.session import SessionServerState
from sshoq.server.files import FilesHost
from sshoq.server.forwards import AgentHost, Callers, DirectHost, DisplayHost, ListenerHost
from sshoq.server.host_keys import HostKeysHost
from sshoq.server.link import NotEntered, Refused, SessionLeader
from sshoq.server.privsep import AllocatePty, ProgramExited, StartProgram
from sshoq.server.privsep_socket import MAX_PACKET
from sshoq.transport.channel import Channel, DataSink, ExtendedSink, SinkClosed
from sshoq.wire import encode_text

MAX_VARIABLES = 128
"""sshd's own bound for what a client may put into a session's environment."""

MAX_ENVIRONMENT = 64 * 1024
MAX_START = MAX_PACKET - 16
"""Bytes of a command with its environment: what the session leader can be told at once."""

ERROR, INFO, VERBOSE, DEBUG = range(4)
"""Levels of `Login.log`."""

NOT_ENTERED = 254
"""The exit status where the login could not be opened: sshd's."""

MAX_SIZE = 0xFFFF
"""Of a terminal, in any unit: the kernel keeps 16 bits."""


class Login(Protocol):
    """What a channel needs of the login it belongs to."""

    max_sessions: int

    @property
    def host_keys(self) -> tuple[bytes, ...]:
        """All that the host has, in SSH's form."""

    async def prove_host_keys(self, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        """Signatures for some of them, once."""

    async def leader(self) -> SessionLeader:
        """The user's session leader, as soon as it is there. Refused when the login could not be
        opened.
        """

    def open_channel(self, opening: ChannelOpening) -> Channel:
        """A channel to the client. ChannelRefused, ChannelClosed."""

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside everything else, until the conversation ends."""

    def log(self, level: int, text: str) -> None: ...


class Host(Protocol):
    """Who serves one channel."""

    async def run(self) -> None:
        """To its end. Never raises for what client or program do."""

    def close(self) -> None: ...


class ChannelHost:
    """Serves whatever channels the client opens, within the login's limits."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._sessions: set[Host] = set()
        self._callers = Callers(login)
        self._agent = AgentHost(login, self._callers)
        self._has_told_keys = False

    @property
    def is_busy(self) -> bool:
        """Whether any session is still open."""
        return bool(self._sessions)

    def accept(self, channel: Channel) -> Host | None:
        """Decide at once, before the channel's first bytes are looked at; None: it was refused."""
        accept = _ACCEPTS.get(type(channel.state.opening))
        if accept is not None:
            return accept(self, channel)
        channel.refuse(RefusalReason.UNKNOWN_CHANNEL_TYPE, "open failed")
        return None

    def _has_room_for(self, channel: Channel) -> bool:
        """Within MaxSessions. Else it is refused, and that is told as sshd tells it."""
        if len(self._sessions) < self._login.max_sessions:
            return True
        self._login.log(ERROR, "no more sessions")
        channel.refuse(RefusalReason.ADMINISTRATIVELY_PROHIBITED, "open failed")
        return False

    def _accept_session(self, channel: Channel) -> Host | None:
        if not self._has_room_for(channel):
            return None
        session = SessionHost(channel, self._login, self._agent, self._callers)
        self._sessions.add(session)
        return session

    def _accept_files(self, channel: Channel) -> Host | None:
        if not self._has_room_for(channel):
            return None
        files = FilesHost(channel, self._login)
        self._sessions.add(files)
        return files

    def _accept_host_keys(self, channel: Channel) -> Host | None:
        """Once: what a client learns does not change, and each proof costs the monitor time."""
        if self._has_told_keys:
            channel.refuse(RefusalReason.ADMINISTRATIVELY_PROHIBITED, "open failed")
            return None
        self._has_told_keys = True
        return HostKeysHost(channel, self._login)

    def _accept_direct(self, channel: Channel) -> Host:
        return DirectHost(channel, self._login)

    def _accept_listener(self, channel: Channel) -> Host:
        return ListenerHost(channel, self._login, self._callers)

    async def serve(self, host: Host) -> None:
        """An accepted channel to its end. Never raises for what client or program do."""
        try:
            await host.run()
        finally:
            self._sessions.discard(host)
            host.close()

    def close(self) -> None:
        """The conversation is over."""
        self._agent.close()


_ACCEPTS: dict[type[ChannelOpening], Callable[[ChannelHost, Channel], Host | None]] = {
    Session: ChannelHost._accept_session,
    Sftp: ChannelHost._accept_files,
    HostKeys: ChannelHost._accept_host_keys,
    DirectTcp: ChannelHost._accept_direct,
    DirectTcpip: ChannelHost._accept_direct,
    DirectUdp: ChannelHost._accept_direct,
    DirectUdpip: ChannelHost._accept_direct,
    DirectStreamlocal: ChannelHost._accept_direct,
    RequestReverseTcp: ChannelHost._accept_listener,
    RequestReverseUdp: ChannelHost._accept_listener,
    UdpipForward: ChannelHost._accept_listener,
    TcpipForward: ChannelHost._accept_listener,
    StreamlocalForward: ChannelHost._accept_listener,
}


class SessionHost:
    """One session: a pty or three pipes, a program, and the channel they are joined to."""

    def __init__(
        self, channel: Channel, login: Login, agent: AgentHost, callers: Callers
    ) -> None:
        self._channel = channel
        self._state = SessionServerState(channel.state)
        self._login = login
        self._agent = agent
        self._display = DisplayHost(login, callers, channel.stream_id)
        self._number = channel.stream_id
        self._leader: SessionLeader | None = None
        self._environment: list[bytes] = []
        self._master: int | None = None
        self._ends: list[FdSource | FdSink] = []
        self._output: FdSource | None = None
        self._relaying: asyncio.Task[None] | None = None
        self._told_end = False
        channel.watcher = self._state.watch
        channel.confirm()

    async def run(self) -> None:
        """Until the client was told how the program ended, or has gone."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await self._follow()
            except ProtocolError as error:
                self._login.log(INFO, f"{self._channel}: {error.reason}")
            except (Refused, SinkClosed):
                pass  # there is no program, and nobody to tell
            else:
                if self._told_end or self._channel.is_usable():
                    return  # what runs goes on: the client only has nothing more to ask
            if self._relaying is not None:
                self._relaying.cancel()

    async def _follow(self) -> None:
        """Do what the client asks, until it can ask no more."""
        while (asked := await self._channel.next_request()) is not None:
            granted = self._state.permits(asked.request) and await self._grant(asked.request)
            if granted:
                self._state.granted(asked.request)
            if asked.want_reply:
                self._channel.reply(granted)

    async def _grant(self, request: ChannelRequest) -> bool:
        grant = _GRANTS.get(type(request))
        return grant is not None and await grant(self, request)

    # ------------------------------------------------------------------ requests

    async def _set_variable(self, request: Env) -> bool:
        """AcceptEnv is the leader's to apply; here is only the bound."""
        pair = encode_text(f"{request.variable}={request.value}")
        size = sum(len(known) for known in self._environment) + len(pair)
        if len(self._environment) >= MAX_VARIABLES or size > MAX_ENVIRONMENT or b"\0" in pair:
            return False
        self._environment.append(pair)
        return True

    async def _allocate_pty(self, request: PtyReq) -> bool:
        try:
            leader = await self._login.leader()
        except NotEntered:
            return True  # as sshd: what there is to say is said where the program would be
        try:
            self._master = await leader.allocate_pty(
                AllocatePty(self._number, request.term, *_size(request), request.modes)
            )
        except Refused as refusal:
            return self._fail("no pty", refusal)
        os.set_blocking(self._master, False)
        self._channel.prefer()
        return True

    async def _forward_agent(self, request: AgentReq) -> bool:
        return await self._agent.open(self._number)

    async def _forward_display(self, request: X11Req) -> bool:
        return await self._display.open(request)

    async def _start_shell(self, request: Shell) -> bool:
        return await self._start(StartProgram.SHELL, "", "session:shell")

    async def _start_command(self, request: Exec) -> bool:
        return await self._start(StartProgram.EXEC, request.command, "session:command")

    async def _start_subsystem(self, request: Subsystem) -> bool:
        name = request.subsystem
        return await self._start(StartProgram.SUBSYSTEM, name, f"session:subsystem:{name}")

    async def _start(self, kind: int, command: str, purpose: str) -> bool:
        self._channel.kind = purpose
        if self._state.agent_wanted:  # a Go client cannot be told that it gets none
            await self._agent.open(self._number)
        try:
            leader = self._leader = await self._login.leader()
        except NotEntered as error:
            self._relaying = self._group.create_task(self._tell_shut(error.told))
            return True
        message = StartProgram(self._number, kind, encode_text(command), tuple(self._environment))
        try:
            if len(message.encode()) > MAX_START:  # each is within its own bound
                raise Refused("the command and its environment are too long")
            pipes = await leader.start_program(message, pipes=self._master is None)
        except Refused as refusal:
            return self._fail("not started", refusal)
        stdin, outputs = self._make_ends(pipes)  # here: a task that never begins closes nothing
        self._relaying = self._group.create_task(self._relay(leader, stdin, outputs))
        return True

    def _fail(self, what: str, refusal: Refused) -> bool:
        """A Go client learns of a failure only by the end of its channel."""
        self._login.log(INFO, f"session {self._number}: {what}: {refusal}")
        if self._channel.state.traits.is_go:
            raise refusal
        return False

    async def _resize(self, request: WindowChange) -> bool:
        """Without a pty it means nothing, as in sshd; the Go client sends it all the same."""
        if self._master is None:
            return False
        columns, rows, width, height = _size(request)
        size = struct.pack("HHHH", rows, columns, width, height)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        return True

    async def _send_signal(self, request: Signal) -> bool:
        if self._leader is None:
            return False
        self._leader.signal(self._number, request.signal)
        return True

    async def _send_break(self, request: Break) -> bool:
        if self._master is None:
            return False
        termios.tcsendbreak(self._master, 0)
        return True

    async def _end_output(self, request: EndOfWrite) -> bool:
        """The program hears of it by SIGPIPE. A terminal has no end that could be closed."""
        if self._output is None:
            return False
        self._output.close()
        return True

    # ------------------------------------------------------------------ the program

    async def _relay(
        self, leader: SessionLeader, stdin: FdSink, outputs: list[tuple[FdSource, Sink]]
    ) -> None:
        """Until the program has ended and its output has been sent."""
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(self._feed(stdin))
            sending = [group.create_task(self._send_output(*output)) for output in outputs]
            exited = await leader.program_exit(self._number)
            if self._master is not None:
                # Background processes may hold the terminal on; the session ends with its program.
                for source, _ in outputs:
                    source.drain()
            await asyncio.gather(*sending)
            feeding.cancel()
        self._report_exit(exited)

    async def _tell_shut(self, told: str) -> None:
        """No program, but PAM's words of why: "There were too many logins", say. sshd has them on
        standard output, where scp and its like would take them for something else."""
        text = encode_text(told)
        with suppress(SinkClosed):
            if self._state.has_pty:
                await self._channel.write(text.replace(b"\n", b"\r\n"))
            else:
                await ExtendedSink(self._channel).write(text)
        self._report_exit(ProgramExited(self._number, NOT_ENTERED, "", False))

    def _make_ends(self, pipes: list[int]) -> tuple[FdSink, list[tuple[FdSource, Sink]]]:
        output = DataSink(self._channel, _nothing)
        if self._master is not None:
            source, stdin = FdSource(self._master, owned=False), FdSink(self._master, owned=False)
            self._ends += (source, stdin)
            return stdin, [(source, output)]
        for pipe in pipes:
            os.set_blocking(pipe, False)
        stdin, stdout, stderr = FdSink(pipes[0]), FdSource(pipes[1]), FdSource(pipes[2])
        self._ends += (stdin, stdout, stderr)
        self._output = stdout
        return stdin, [(stdout, output), (stderr, ExtendedSink(self._channel))]

    async def _feed(self, stdin: FdSink) -> None:
        """The client's data to the program; what the program does not want is read and dropped."""
        try:
            await pump(self._channel, stdin)
        except SinkClosed:
            stdin.close()
            while await self._channel.read():
                pass

    async def _send_output(self, source: FdSource, sink: Sink) -> None:
        """The program's output to the client. If nobody listens, the program hears of it by
        SIGPIPE.
        """
        try:
            await pump(source, sink)
        except SinkClosed:
            source.close()

    def _report_exit(self, exited: ProgramExited) -> None:
        self._told_end = True
        self._state.exited()
        with suppress(SinkClosed):  # the client did not want to know
            if exited.signal:
                self._channel.request(ExitSignal(exited.signal, exited.core_dumped))
            else:
                self._channel.request(ExitStatus(exited.status))
            self._channel.finish()
        self._channel.end_requests()

    def close(self) -> None:
        """Hang up what still runs, give back what was lent."""
        self._display.close()
        for end in self._ends:
            end.close()
        if self._master is not None:
            os.close(self._master)
            self._master = None
        if self._leader is not None:
            self._leader.close_session(self._number)
        if not self._told_end:
            self._channel.close()


def _nothing() -> None:
    """The end of a program's output is told with its exit status, not by itself."""


def _size(request: PtyReq | WindowChange) -> tuple[int, int, int, int]:
    """Columns, rows and pixels, cut to what a terminal can be told."""
    wanted = (request.columns, request.rows, request.width, request.height)
    columns, rows, width, height = (min(value, MAX_SIZE) for value in wanted)
    return columns, rows, width, height


_GRANTS: dict[type[ChannelRequest], Callable[..., Awaitable[bool]]] = {
    Env: SessionHost._set_variable,
    AgentReq: SessionHost._forward_agent,
    X11Req: SessionHost._forward_display,
    PtyReq: SessionHost._allocate_pty,
    Shell: SessionHost._start_shell,
    Exec: SessionHost._start_command,
    Subsystem: SessionHost._start_subsystem,
    WindowChange: SessionHost._resize,
    Signal: SessionHost._send_signal,
    Break: SessionHost._send_break,
    EndOfWrite: SessionHost._end_output,
}
