"""A session: what may be asked of a program's channel, when, and what the end of each side means.

The server's state says what to do (`Perform`, `InputArrived` …), the client's what became of it
(`Output`, `Exited` …). Both know what Go peers can and cannot be told. No process, terminal or user
is known here.
"""

from collections.abc import Sequence
from enum import Flag, auto

from sshoq.protocol.channel import (
    Buffer,
    ChannelEvent,
    ChannelState,
    Confirmed,
    Data,
    Eof,
    ExtendedData,
    Finished,
    Refused,
    Replied,
    Requested,
)
from sshoq.protocol.extensions import Extension
from sshoq.protocol.messages import (
    FORWARD_AGENT,
    STDERR,
    Break,
    ChannelRequest,
    Env,
    Exec,
    ExitSignal,
    ExitStatus,
    PtyReq,
    Shell,
    Signal,
    Subsystem,
    WindowChange,
    X11Req,
)
from sshoq.protocol.outcome import Event, ProtocolError, Unsupported
from sshoq.wire import encode_text

MAX_ENVIRONMENT = 24 * 1024
"""Of all variables of a session: with the command they fit one message between processes."""

SIGNALS = frozenset({
    "ABRT", "ALRM", "BUS", "CHLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "KILL", "PIPE",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN",
    "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
})
"""What a `signal` request may name."""

Program = Shell | Exec | Subsystem

_END_OF_TRANSMISSION = b"\x04"
_DEADLY_KEYS = b"\x03\x1c"
"""^C and ^\\: the terminal makes signals of them."""


class SessionEvent(Event):
    """What a session's peer wants done, or did."""


# --------------------------------------------------------------------------- server


class Perform(SessionEvent):
    """Do what is requested, then say with `concluded` how it went, before anything else is fed."""

    request: ChannelRequest


class InputArrived(SessionEvent):
    """For the program's standard input."""

    payload: Buffer


class InputEnded(SessionEvent):
    """The program's standard input ends here."""


class AgentWanted(SessionEvent):
    """Agent forwarding, asked for in the way of the Go client."""


class Answer(SessionEvent):
    """To be written on the channel."""

    buffers: list[Buffer]


class HangUp(SessionEvent):
    """The client left: SIGHUP for what runs, and nobody to tell how it ended."""


class Phase(Flag):
    """How far a session is."""

    LARVAL = auto()
    """No program yet."""
    RUNNING = auto()
    EXITED = auto()
    """The client was told how it ended."""
    FAILED = auto()
    """The program could not be started; input meant for it is dropped."""
    STARTABLE = LARVAL | FAILED


_NEVER = Phase(0)


class _Rule:
    """When a request is performed; `late`: when it missed the program and is ignored."""

    __slots__ = ("late", "phases")

    def __init__(self, phases: Phase, late: Phase = _NEVER) -> None:
        self.phases = phases
        self.late = late


_RULES: dict[type[ChannelRequest], _Rule] = {
    PtyReq: _Rule(Phase.LARVAL),
    Env: _Rule(Phase.STARTABLE),
    X11Req: _Rule(Phase.LARVAL),
    Shell: _Rule(Phase.STARTABLE),
    Exec: _Rule(Phase.STARTABLE),
    Subsystem: _Rule(Phase.STARTABLE),
    WindowChange: _Rule(Phase.LARVAL | Phase.RUNNING, late=Phase.EXITED | Phase.FAILED),
    Signal: _Rule(Phase.RUNNING, late=Phase.EXITED | Phase.FAILED),
    Break: _Rule(Phase.RUNNING, late=Phase.EXITED | Phase.FAILED),
}


class SessionServerState:
    """The server's side of a session channel that was accepted."""

    def __init__(self, channel: ChannelState) -> None:
        self.channel = channel
        self.phase = Phase.LARVAL
        self.has_pty = False
        self.input_ended = False
        self._performing: Requested | None = None
        self._larval_data = b""
        self._environment_size = 0

    def receive(self, event: ChannelEvent) -> list[SessionEvent]:
        """ProtocolError ends the channel, and of a Go client the conversation, as it expects."""
        if self._performing is not None:
            raise RuntimeError("the last request is not concluded")
        match event:
            case Data():
                return self._receive_data(event.payload)
            case Requested():
                return self._receive_request(event)
            case Eof():
                return self._end_input()
            case Finished():
                return self._receive_end()
        raise ProtocolError(f"{type(event).__name__} from a session's client")

    def _receive_data(self, payload: Buffer) -> list[SessionEvent]:
        if self.phase is Phase.RUNNING:
            return [InputArrived(payload)]
        if self.phase is not Phase.LARVAL:
            return []
        self._larval_data += bytes(payload[:len(FORWARD_AGENT) + 1])
        if self._larval_data == FORWARD_AGENT:
            return [AgentWanted()]
        if not FORWARD_AGENT.startswith(self._larval_data):
            raise ProtocolError("data ahead of the program")
        return []

    def _receive_request(self, event: Requested) -> list[SessionEvent]:
        request = event.request
        if self._larval_data not in (b"", FORWARD_AGENT):
            raise ProtocolError("data ahead of the program")
        rule = _RULES.get(type(request))
        if rule is None:
            raise ProtocolError(f"{request.name_on_wire} from a session's client")
        if self.phase in rule.late:
            return self._answer(event, False)
        if self.phase not in rule.phases or not self._is_sensible(request):
            return self._refuse(event)
        self._performing = event
        return [Perform(request)]

    def _is_sensible(self, request: ChannelRequest) -> bool:
        match request:
            case PtyReq():
                return not self.has_pty
            case WindowChange():
                return self.has_pty
            case Signal():
                return request.signal in SIGNALS
            case Env():
                self._environment_size += len(encode_text(request.variable + request.value)) + 2
                return self._environment_size <= MAX_ENVIRONMENT
        return True

    def _refuse(self, event: Requested) -> list[SessionEvent]:
        """Ours are told. A Go client resizes terminals that it never asked for, without harm."""
        if self.channel.traits.is_go and not isinstance(event.request, WindowChange):
            raise ProtocolError(f"{event.request.name_on_wire} out of place")
        return self._answer(event, False)

    def _answer(self, event: Requested, success: bool) -> list[SessionEvent]:
        buffers = self.channel.reply(success) if event.want_reply else []
        return [Answer(buffers)] if buffers else []

    def concluded(self, success: bool) -> list[SessionEvent]:
        """The request of the last `Perform` was carried out, or could not be.

        A program that cannot be started for a Go client leaves only `abandon`.
        """
        event, self._performing = self._performing, None
        if event is None:
            raise RuntimeError("nothing to conclude")
        events = self._answer(event, success)
        if isinstance(event.request, PtyReq):
            self.has_pty = success
        elif isinstance(event.request, Program):
            self.phase = Phase.RUNNING if success else Phase.FAILED
            if success and self.input_ended:
                events.append(InputEnded())
        return events

    def _end_input(self) -> list[SessionEvent]:
        if self.input_ended:
            return []
        self.input_ended = True
        return [InputEnded()] if self.phase is Phase.RUNNING else []

    def _receive_end(self) -> list[SessionEvent]:
        if self.phase is Phase.EXITED:
            return []
        if self.phase is Phase.RUNNING and self.channel.traits.supports(Extension.EOF):
            return self._end_input()
        return [HangUp()]

    # ----------------------------------------------------------------- what the program does

    def output(self, payload: Buffer) -> list[Buffer]:
        return self.channel.data(payload)

    def error_output(self, payload: Buffer) -> list[Buffer]:
        return self.channel.extended(STDERR, payload)

    def output_ended(self) -> list[Buffer]:
        """The program closed its output and runs on; only our clients can be told."""
        return self.channel.eof() if self.channel.traits.supports(Extension.EOF) else []

    def exited(self, status: int) -> list[Buffer]:
        """The program ended, its output is sent: what to write with the end of the stream."""
        return self._tell_end(ExitStatus(status))

    def killed(self, signal: str, core_dumped: bool = False, text: str = "") -> list[Buffer]:
        """Like `exited`, for a program that a signal ended; `signal` without SIG."""
        return self._tell_end(ExitSignal(signal, core_dumped, text))

    def _tell_end(self, request: ChannelRequest) -> list[Buffer]:
        self.phase = Phase.EXITED
        return [*self.channel.request(request), *self.channel.finish()]

    def abandon(self) -> list[Buffer]:
        """There is no program and will be none: what to write with the stream's end."""
        self.phase = Phase.EXITED
        return self.channel.finish()


# --------------------------------------------------------------------------- client


class Accepted(SessionEvent):
    """The server took the channel; whether the program starts is yet to be seen."""


class NotAccepted(SessionEvent):
    reason: int
    text: str


class Output(SessionEvent):
    payload: Buffer


class ErrorOutput(SessionEvent):
    payload: Buffer


class OutputEnded(SessionEvent):
    """No more output; the program may still run."""


class RequestAnswered(SessionEvent):
    request: ChannelRequest
    success: bool


class Exited(SessionEvent):
    """The program's exit status, 0 to 255."""

    status: int


class Killed(SessionEvent):
    """A signal ended the program."""

    signal: str
    core_dumped: bool
    text: str


class SessionOver(SessionEvent):
    """Nothing more comes. Without `Exited` or `Killed` before it, the session was cut off."""


class SessionClientState:
    """The client's side of a session channel of its own."""

    def __init__(self, channel: ChannelState) -> None:
        self.channel = channel
        self.traits = channel.traits
        self.has_pty = False
        self.end_told = False
        self.is_over = False
        self.keys_withheld = False
        """Whether ^C or ^\\ was not sent because it could have ended the server."""
        self._program: Program | None = None

    def start(self, program: Program, *, pty: PtyReq | None = None, environment: Sequence[Env] = (),
              forward_agent: bool = False) -> list[Buffer]:
        """The whole first flight, in one buffer. Unsupported if the server cannot do it.

        Variables are left out towards servers that do not take any.
        """
        if not self.traits.supports(program.needs):
            raise Unsupported("this server knows no subsystems")
        if not self.traits.supports(Extension.ENV):
            environment = ()
        self._program = program
        self.has_pty = pty is not None
        flight = self.channel.open()
        if forward_agent:
            flight += self.channel.data(FORWARD_AGENT)
        if pty is not None:
            flight += self.channel.request(pty, want_reply=True)
        for variable in environment:
            flight += self.channel.request(variable)
        flight += self.channel.request(program, want_reply=True)
        return [b"".join(flight)]

    def input(self, payload: Buffer) -> list[Buffer]:
        if self._is_fragile and not set(_DEADLY_KEYS).isdisjoint(payload):
            self.keys_withheld = True
            payload = bytes(payload).translate(None, _DEADLY_KEYS)
        return self.channel.data(payload)

    @property
    def _is_fragile(self) -> bool:
        """A command on a Go server's terminal: if a key's signal ends it, the server ends."""
        return self.traits.is_go and self.has_pty and isinstance(self._program, Exec)

    def input_ended(self) -> list[Buffer]:
        """Tell the program that its input ends; nothing, if there is no way to."""
        if self.traits.supports(Extension.EOF):
            return self.channel.eof()
        return self.channel.data(_END_OF_TRANSMISSION) if self.has_pty else []

    @property
    def can_end_input(self) -> bool:
        return self.has_pty or self.traits.supports(Extension.EOF)

    def resize(self, columns: int, rows: int, width: int = 0, height: int = 0) -> list[Buffer]:
        """Nothing without a terminal, and nothing for a server that closes the session on it."""
        if not self.has_pty or not self.traits.knows_fork_channels:
            return []
        return self.channel.request(WindowChange(columns, rows, width, height))

    def signal(self, name: str) -> list[Buffer]:
        if not self.traits.supports(Extension.SIGNAL):
            raise Unsupported("this server does not survive signals to programs")
        return self.channel.request(Signal(name))

    def send_break(self, milliseconds: int = 1000) -> list[Buffer]:
        if not self.traits.supports(Extension.SIGNAL):
            raise Unsupported("this server knows no BREAK")
        return self.channel.request(Break(milliseconds))

    def receive(self, event: ChannelEvent) -> list[SessionEvent]:
        """ProtocolError ends the session with status 255."""
        match event:
            case Data():
                return [Output(event.payload)]
            case ExtendedData():
                return [ErrorOutput(event.payload)] if event.kind == STDERR else []
            case Confirmed():
                return [Accepted()]
            case Refused():
                return [NotAccepted(event.reason, event.text)]
            case Requested():
                return self._receive_request(event)
            case Replied():
                return [RequestAnswered(event.request, event.success)]
            case Eof():
                return [OutputEnded()]
            case Finished():
                return self._end()
        raise ProtocolError(f"{type(event).__name__} from a session's server")

    def _receive_request(self, event: Requested) -> list[SessionEvent]:
        match event.request:
            case ExitStatus(status=status):
                return self._learn_end(Exited(status % 256))
            case ExitSignal(signal=signal, core_dumped=core_dumped, text=text):
                return self._learn_end(Killed(signal, core_dumped, text))
        buffers = self.channel.reply(False) if event.want_reply else []
        return [Answer(buffers)] if buffers else []

    def _learn_end(self, event: SessionEvent) -> list[SessionEvent]:
        if self.end_told:
            raise ProtocolError("the program ended twice")
        self.end_told = True
        # A Go server says nothing behind it and waits for us to leave.
        return [event, *self._end()] if self.traits.is_go else [event]

    def _end(self) -> list[SessionEvent]:
        if self.is_over:
            return []
        self.is_over = True
        return [SessionOver()]
