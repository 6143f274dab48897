"""One session: a command, shell or subsystem at the server, with our terminal or standard streams
as ends.

Its rules are OpenSSH's: what is asked for, when it is over, and with which exit status. It is given
an open conversation's channel; how that came to be stands in `main.py`.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from sshoq.client.background import leave_running_session
from sshoq.client.log import Log, write_fully
from sshoq.client.signals import ENDING, catching
from sshoq.client.terminal import Size, Terminal, terminal_modes, window_size
from sshoq.forwarding.forwarder import standard_sink, standard_source
from sshoq.forwarding.relay import Source, pump
from sshoq.named_tuple import NamedTuple
from sshoq.protocol.extensions import Extension
from sshoq.protocol.messages import (
    FORWARD_AGENT,
    MAX_COMMAND,
    AgentReq,
    ChannelRequest,
    EndOfWrite,
    Env,
    Exec,
    PtyReq,
    Shell,
    Subsystem,
    WindowChange,
)
from sshoq.protocol.outcome import Unsupported
from sshoq.protocol.session import SessionClientState
from sshoq.transport.channel import (
    Channel,
    ChannelClosed,
    ChannelRefused,
    ExtendedSource,
    SinkClosed,
)

if TYPE_CHECKING:
    from sshoq.client.display import ForwardedDisplay
    from sshoq.client.keystrokes import ObscuredKeys

FAILED = 255

MAX_DISCARDED = 1 << 20
"""Output that nobody reads any more is taken up to here, for the exit status behind it, where the
server cannot be told.
"""

END_OF_TRANSMISSION = b"\x04"


class TerminalWish(NamedTuple):
    """The pty to ask for. `demanded`: -t was given, so the session is nothing without it."""

    term: str
    size: Size
    modes: bytes
    demanded: bool = False

    @classmethod
    def like(cls, fd: int, term: str, *, demanded: bool) -> "TerminalWish":
        return cls(term, window_size(fd), terminal_modes(fd), demanded)


class SessionWish(NamedTuple):
    """What is to run, and with what."""

    command: str | None = None
    subsystem: str | None = None
    terminal: TerminalWish | None = None
    environment: tuple[tuple[str, str], ...] = ()
    escape_character: bytes | None = None
    stdin_null: bool = False
    forward_agent: bool = False
    display: "ForwardedDisplay | None" = None
    """The X display that is to be taken along; prepared."""
    keystroke_interval: float = 0.0
    """ObscureKeystrokeTiming, in seconds; 0: it is switched off."""


class Streams(NamedTuple):
    """The descriptors that are a session's ends here."""

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2


STANDARD_STREAMS = Streams()


class Ending(NamedTuple):
    """How a session came to its end. No status: it was cut off before the server told one."""

    status: int | None
    signal_number: int | None = None
    """A signal to us ended it."""


# --------------------------------------------------------------------------- asking


class Asked(NamedTuple):
    """A session channel on which everything is asked for, and the answers to come."""

    channel: Channel
    state: SessionClientState
    display: "asyncio.Future[bool] | None"
    terminal: "asyncio.Future[bool] | None"
    program: "asyncio.Future[bool]"
    program_name: str


def ask_for_session(channel: Channel, wish: SessionWish, log: Log) -> Asked:
    """Write all requests at once: they travel in one flight, and that may be the login's.

    Raises Unsupported, before anything is written, when this server cannot be asked.
    """
    traits = channel.state.traits
    program = _program_request(wish)
    if not traits.supports(program.needs):
        name = program.name_on_wire
        raise Unsupported(f"{name} request failed on channel 0: unknown to this server")
    if len(os.fsencode(wish.command or "")) > MAX_COMMAND:
        raise Unsupported(f"exec request failed on channel 0: more than {MAX_COMMAND} bytes")
    state = SessionClientState(channel.state, program, has_pty=wish.terminal is not None)
    channel.watcher = state.watch
    terminal = None
    display = None if wish.display is None else _ask_for_display(channel, wish.display, log)
    if wish.forward_agent:
        _ask_for_agent(channel, log)
    if wish.terminal is not None:
        terminal = channel.ask(_pty_request(wish.terminal))
        channel.prefer()
    if traits.supports(Extension.ENV):
        for name, value in wish.environment:
            log.debug(f'channel 0: setting env {name} = "{value}"')
            channel.request(Env(name, value))
    elif wish.environment:
        log.debug("this server takes no environment")
    if isinstance(program, Exec):
        log.debug(f"Sending command: {program.command}")
    elif isinstance(program, Subsystem):
        log.debug(f"Sending subsystem: {program.subsystem}")
    return Asked(channel, state, display, terminal, channel.ask(program), program.name_on_wire)


def _ask_for_display(
    channel: Channel, display: "ForwardedDisplay", log: Log
) -> "asyncio.Future[bool] | None":
    if channel.state.traits.supports(Extension.X11):
        return channel.ask(display.request_for(channel.stream_id))
    log.error("X11 forwarding request failed on channel 0: unknown to this server")
    return None


def _ask_for_agent(channel: Channel, log: Log) -> None:
    """As OpenSSH does, or as the Go client does. Whether it is granted shows by itself."""
    traits = channel.state.traits
    if traits.supports(Extension.AGENT):
        log.debug("Requesting authentication agent forwarding.")
        channel.request(AgentReq())
    elif traits.is_go:
        channel.write_now(FORWARD_AGENT)
    else:
        log.debug("this server forwards no agent")


def _program_request(wish: SessionWish) -> ChannelRequest:
    if wish.subsystem is not None:
        return Subsystem(wish.subsystem)
    return Shell() if wish.command is None else Exec(wish.command)


def _pty_request(wish: TerminalWish) -> PtyReq:
    return PtyReq(wish.term, *wish.size, wish.modes)


# --------------------------------------------------------------------------- running


class SessionRun:
    """A session from its answers to its end. `run` is the whole of it."""

    def __init__(
        self,
        asked: Asked,
        wish: SessionWish,
        log: Log,
        *,
        streams: Streams = STANDARD_STREAMS,
        connections: Callable[[], list[str]] = list,
        command_line: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`connections`: what `~#` lists. `command_line`: what `~C` opens, if it is enabled."""
        self.log = log
        self.terminal = Terminal(streams.stdin)
        self.connections = connections
        self.command_line = command_line
        self._asked = asked
        self._channel = asked.channel
        self._wish = wish
        self._streams = streams
        self._has_terminal = wish.terminal is not None
        self._in_background = False
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def run(self) -> Ending:
        """The terminal is raw while this runs, and as before when it returns or raises."""
        with self._signals(), self._raw_terminal():
            async with asyncio.TaskGroup() as group:
                answers = group.create_task(self._check_answers())
                feeder = group.create_task(self._feed())
                body = group.create_task(self._watch_output_and_exit())
                await _either(body, self._ended)
                if body.done():
                    await answers  # a refusal and the end of the channel may come together
                for task in (answers, feeder, body):
                    task.cancel()
            return self._ended.result() if self._ended.done() else Ending(body.result())

    async def _watch_output_and_exit(self) -> int | None:
        """The session lasts until all output is out, whoever holds it open, and the status in."""
        status, _, _ = await asyncio.gather(
            self._watch_exit(),
            self._show(self._channel, self._streams.stdout),
            self._show(ExtendedSource(self._channel), self._streams.stderr),
        )
        return status

    # ----- what the server answers

    async def _check_answers(self) -> None:
        """Refusals in OpenSSH's words. Without its terminal a session that demanded it is over."""
        try:
            await self._channel.opened()
            if self._asked.display is not None and not await self._asked.display:
                self._complain_of("X11 forwarding")
            if self._asked.terminal is not None and not await self._asked.terminal:
                self._lose_terminal()
            if not await self._asked.program:
                self._complain_of(self._asked.program_name)
                self.end(Ending(FAILED))
        except ChannelRefused as refusal:
            from sshoq.client.channel_openings import describe_refusal

            self.log.error(f"channel 0: open failed: {describe_refusal(refusal)}")
            self.end(Ending(FAILED))
        except ChannelClosed:
            return  # the exit status is missing, too, and that is told

    def _lose_terminal(self) -> None:
        self._has_terminal = False
        self.terminal.leave_raw()
        self._complain_of("PTY allocation")
        if self._wish.terminal is not None and self._wish.terminal.demanded:
            self.end(Ending(FAILED))

    def _complain_of(self, request: str) -> None:
        self.log.error(f"{request} request failed on channel 0")

    async def _watch_exit(self) -> int | None:
        """Until no more requests can come. The status is what the server told, if it did."""
        state = self._asked.state
        while (requested := await self._channel.next_request()) is not None:
            name = requested.request.name_on_wire
            self.log.debug(f"client_input_channel_req: channel 0 rtype {name} reply 0")
            if state.is_over:
                self._channel.close()
        if self._channel.fault:
            self.log.error(f"channel 0: protocol error: {self._channel.fault}")
            return None
        return None if state.ending is None else state.status

    # ----- bytes in and out

    async def _show(self, source: Source, fd: int) -> None:
        """To our stdout or stderr. When nobody reads there, its end must still be reached."""
        sink = standard_sink(fd)
        try:
            await pump(source, sink)
        except SinkClosed:
            await self._pass_by(source)
        except OSError as error:  # a full disk; ssh says no more of it
            self.log.debug2(f"channel 0: write failed: {error.strerror}")
            await self._pass_by(source)
        finally:
            sink.close()

    async def _pass_by(self, source: Source) -> None:
        """As ssh: a program without a terminal is told by SIGPIPE, and may end in its own way."""
        if source is self._channel and self._can_end_output:
            self.request(EndOfWrite())
            await _discard(source)
        elif not await _discard(source, MAX_DISCARDED):
            self._channel.close()

    @property
    def _can_end_output(self) -> bool:
        return not self._has_terminal and self.supports(Extension.EOW)

    async def _feed(self) -> None:
        with contextlib.suppress(SinkClosed):
            if self._wish.stdin_null:
                await self._end_input()
                return
            with contextlib.closing(standard_source(self._streams.stdin)) as source:
                keys = self._obscured_keys()
                sink = _InputSink(keys or self._channel, self._typed, self._end_input)
                try:
                    await pump(self._without_escapes(source), sink)
                except OSError as error:  # standard input is a directory
                    self.log.error(f"read: {error.strerror}")
                    await self._end_input()
                finally:
                    if keys is not None:
                        keys.stop()

    def _obscured_keys(self) -> "ObscuredKeys | None":
        interval = self._wish.keystroke_interval
        if self._wish.terminal is None or interval <= 0:
            return None
        if not self.supports(Extension.CHAFF):
            self.log.debug("ObscureKeystrokeTiming: this server knows no chaff")
            return None
        from sshoq.client.keystrokes import ObscuredKeys

        return ObscuredKeys(self._channel, interval)

    def _typed(self, data: bytes | memoryview) -> bytes | memoryview:
        state = self._asked.state
        told = state.keys_withheld
        data = state.typed(data)
        if state.keys_withheld and not told:
            self.log.info("^C and ^\\ are not sent: they would end this server for everybody")
        return data

    def _without_escapes(self, source: Source) -> Source:
        character = self._wish.escape_character
        if self._wish.terminal is None or character is None:
            return source
        from sshoq.client.escape_commands import EscapeCommands, EscapedSource

        commands = EscapeCommands(self, character)
        return EscapedSource(source, character, commands.obey, self._last_input)

    def _last_input(self) -> bytes | None:
        """In the background: the key that ends a shell, as from ssh, where `_end_input` sends none.
        The terminal is our parent's shell's again.
        """
        if not self._in_background:
            return None
        can_end_input = self.supports(Extension.EOF)
        return END_OF_TRANSMISSION if can_end_input else b""

    async def _end_input(self) -> None:
        """As the server can be told: by message, by the terminal's own character, or not at all."""
        if self.supports(Extension.EOF):
            self._channel.write_eof()
        elif self._has_terminal:
            await self._channel.write(END_OF_TRANSMISSION)
        else:
            self.log.debug("stdin has ended; this server cannot be told")

    # ----- the terminal and signals

    @contextlib.contextmanager
    def _raw_terminal(self) -> Iterator[None]:
        if self._wish.terminal is None:
            yield
            return
        with self.terminal.raw():
            yield

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ending signals end the session in good order."""
        numbers = ENDING if self._wish.terminal is None else (*ENDING, signal.SIGWINCH)
        with catching(numbers, self._obey_signal):
            yield

    def _obey_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self.send_size()
        else:
            self.end(Ending(FAILED, signal_number=number))

    def send_size(self) -> None:
        if self._has_terminal and self._channel.state.traits.knows_fork_channels:
            self.request(WindowChange(*window_size(self._streams.stdin)))

    def request(self, request: ChannelRequest) -> None:
        with contextlib.suppress(SinkClosed):
            self._channel.request(request)

    def end(self, ending: Ending) -> None:
        """Here and now, whatever still runs."""
        if not self._ended.done():
            self._ended.set_result(ending)

    # ----- what escape commands need besides

    unavailable_commands: frozenset[bytes] = frozenset()

    def say(self, text: str) -> None:
        """To the user, whose terminal may be raw."""
        data = text.replace("\n", "\r\n").encode() + b"\r\n"
        write_fully(self._streams.stderr, data)

    def supports(self, extension: Extension) -> bool:
        return self._channel.state.traits.supports(extension)

    def go_to_background(self) -> None:
        leave_running_session()
        self._in_background = True

# --------------------------------------------------------------------------- ends


class _InputSink:
    """The channel's data, as far as they may be sent; their end as the server understands it."""

    def __init__(
        self,
        keys: "Channel | ObscuredKeys",
        typed: Callable[[bytes | memoryview], bytes | memoryview],
        end: Callable[[], Awaitable[None]],
    ) -> None:
        self._keys = keys
        self._typed = typed
        self._end = end

    def take(self, data: bytes | memoryview) -> bytes | memoryview:
        return self._keys.take(self._typed(data))

    async def write(self, data: bytes | memoryview) -> None:
        await self._keys.write(self._typed(data))

    async def write_eof(self) -> None:
        if not isinstance(self._keys, Channel):
            self._keys.flush()
        await self._end()


async def _discard(source: Source, most: int | None = None) -> bool:
    """Read to the end and forget. False: there is more than `most`."""
    count = 0
    while data := await source.read():
        count += len(data)
        if most is not None and count > most:
            return False
    return True


async def _either(one: "asyncio.Future[Any]", other: "asyncio.Future[Any]") -> None:
    await asyncio.wait({one, other}, return_when=asyncio.FIRST_COMPLETED)


async def wait_without_session(gone: "asyncio.Future[str]", log: Log | None = None) -> Ending:
    """-N: until the connection ends or somebody ends us; SIGTERM is then the way to say: enough."""
    ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def obey(number: int) -> None:
        status = 0 if number == signal.SIGTERM else FAILED
        if not ended.done():
            ended.set_result(Ending(status, signal_number=number))

    with catching(ENDING, obey):
        if log is not None:  # else there was a session before
            log.debug("Entering interactive session.")
        await _either(ended, gone)
    return ended.result() if ended.done() else Ending(None)
