"""A session: what may come when on the channel of a program, and what must not be sent there.

Both states watch a channel's events as they arrive and raise ProtocolError for what is out of
order. Whether a request can be granted is only known when its turn comes:
`SessionServerState.permits` is asked then. No process, terminal or user is known here.
"""

from enum import Flag, auto

from sshoq.protocol.channel import (
    Buffer,
    ChannelEvent,
    ChannelState,
    Data,
    ExtendedData,
    Finished,
    Requested,
)
from sshoq.protocol.extensions import Extension
from sshoq.protocol.messages import (
    FORWARD_AGENT,
    AgentReq,
    Break,
    ChannelRequest,
    EndOfWrite,
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
from sshoq.protocol.outcome import Code, ProtocolError

SIGNALS = frozenset({
    "ABRT", "ALRM", "BUS", "CHLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "KILL", "PIPE",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
})
"""What a `signal` request may name."""

NO_STATUS = 255
"""What a client ends with when it was not told how the program ended, as ssh does."""

DEADLY_KEYS = b"\x03\x1c"
"""^C and ^\\: the terminal makes signals of them."""

_Program = Shell | Exec | Subsystem


class Phase(Flag):
    """How far a session is."""

    LARVAL = auto()
    """No program yet, or one that could not be started."""
    RUNNING = auto()
    EXITED = auto()


_WHEN: dict[type[ChannelRequest], Phase] = {
    PtyReq: Phase.LARVAL,
    Env: Phase.LARVAL,
    AgentReq: Phase.LARVAL,
    X11Req: Phase.LARVAL,
    Shell: Phase.LARVAL,
    Exec: Phase.LARVAL,
    Subsystem: Phase.LARVAL,
    WindowChange: Phase.LARVAL | Phase.RUNNING,
    Signal: Phase.RUNNING,
    Break: Phase.RUNNING,
    EndOfWrite: Phase.RUNNING,
}
"""All that clients may ask, and when it can be granted."""

_MAY_MISS = (WindowChange, Signal, Break, EndOfWrite)
"""Requests that cross with the end of the program, or that Go clients send without need."""


class SessionServerState:
    """The server's side of a session channel."""

    def __init__(self, channel: ChannelState) -> None:
        self.channel = channel
        self.phase = Phase.LARVAL
        self.has_pty = False
        self.has_display = False
        self.agent_wanted = False
        """The client asked for agent forwarding in the Go client's way, ahead of all requests."""
        self._program_seen = False
        self._greeting = b""

    def watch(self, event: ChannelEvent) -> bool:
        """Look at each event as it arrives; False for one that goes no further.

        ProtocolError ends the channel, and hangs up what runs on it.
        """
        match event:
            case Data():
                return self._program_seen or self._read_greeting(event.payload)
            case ExtendedData():
                raise ProtocolError("stderr data from a client")
            case Requested():
                self._watch_request(event.request)
            case Finished():
                self._watch_end()
        return True

    def _read_greeting(self, payload: Buffer) -> bool:
        self._greeting += bytes(payload[:len(FORWARD_AGENT) + 1])
        if not FORWARD_AGENT.startswith(self._greeting):
            raise ProtocolError("data ahead of the program")
        self.agent_wanted = self._greeting == FORWARD_AGENT
        return False

    def _watch_request(self, request: ChannelRequest) -> None:
        if type(request) not in _WHEN:
            raise ProtocolError(f"{request.name_on_wire} from a client")
        if self._greeting and not self.agent_wanted:
            raise ProtocolError("data ahead of the program")
        self._program_seen |= isinstance(request, _Program)

    def _watch_end(self) -> None:
        """To peers that know message 96, FIN says no more than it. Others are gone with it."""
        if not self._program_seen or not self.channel.traits.supports(Extension.EOF):
            raise ProtocolError("the client ended the session", Code.NO_ERROR)

    def permits(self, request: ChannelRequest) -> bool:
        """Whether the request, whose turn has come, can be granted at all.

        If not, a client of ours is told so. A Go client cannot be, and is not left waiting for a
        program that will not run: ProtocolError.
        """
        if self.phase in _WHEN[type(request)] and self._is_sensible(request):
            return True
        if self.channel.traits.is_go and not isinstance(request, _MAY_MISS):
            raise ProtocolError(f"{request.name_on_wire} out of place")
        return False

    def _is_sensible(self, request: ChannelRequest) -> bool:
        match request:
            case PtyReq():
                return not self.has_pty
            case X11Req():
                return not self.has_display
            case WindowChange():
                return self.has_pty
            case Signal():
                return request.signal in SIGNALS
        return True

    def granted(self, request: ChannelRequest) -> None:
        """The request was carried out."""
        if isinstance(request, PtyReq):
            self.has_pty = True
        elif isinstance(request, X11Req):
            self.has_display = True
        elif isinstance(request, _Program):
            self.phase = Phase.RUNNING

    def exited(self) -> None:
        """The program has ended."""
        self.phase = Phase.EXITED


class SessionClientState:
    """The client's side of a session channel of its own."""

    def __init__(self, channel: ChannelState, program: ChannelRequest, *, has_pty: bool) -> None:
        self.channel = channel
        self.ending: ExitStatus | ExitSignal | None = None
        """How the program ended, once the server has said."""
        self.keys_withheld = False
        """Whether a key was not sent because it could have ended the server for everybody."""
        # A command itself on a Go server's terminal: if a signal ends it, the whole server ends.
        self._is_fragile = channel.traits.is_go and has_pty and isinstance(program, Exec)

    def watch(self, event: ChannelEvent) -> bool:
        """Look at each event as it arrives. ProtocolError ends the session with NO_STATUS."""
        if isinstance(event, Requested) and isinstance(event.request, ExitStatus | ExitSignal):
            if self.ending is not None:
                raise ProtocolError("the program ended twice")
            self.ending = event.request
        return True

    @property
    def status(self) -> int:
        """What the client exits with, by ssh's rules."""
        return self.ending.status % 256 if isinstance(self.ending, ExitStatus) else NO_STATUS

    @property
    def is_over(self) -> bool:
        """A Go server says nothing behind the exit status, not even FIN, and waits for us to go."""
        return self.ending is not None and self.channel.traits.is_go

    def typed(self, payload: Buffer) -> Buffer:
        """What of the user's input may be sent."""
        if not self._is_fragile or set(DEADLY_KEYS).isdisjoint(payload):
            return payload
        self.keys_withheld = True
        return bytes(payload).translate(None, DEADLY_KEYS)
