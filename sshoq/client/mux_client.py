"""A client that shares the connection of a master: OpenSSH's, or ours (mux_master.py).

The master gets our standard streams and does the rest; what is left to do here is the terminal's
raw mode, signals and the exit status. Loads neither event loop nor QUIC nor cryptography: the start
of this program is most of what a shared session costs.
"""

import os

from sshoq.client.log import Failure, Log, write_fully
from sshoq.client.mux_link import Interrupted, MasterLink, Signals, connect
from sshoq.client.mux_messages import (
    CHANNELS_INFO,
    CONNECTION_INFO,
    INFO_EXTENSION,
    NO_ESCAPE,
    PATH_PORT,
    Alive,
    AskInfo,
    CheckAlive,
    CloseForward,
    ExitMessage,
    Failed,
    Hello,
    Info,
    MuxError,
    NewSession,
    NewStdioForward,
    Ok,
    OpenForward,
    PermissionDenied,
    RemotePort,
    SessionOpened,
    StopListening,
    Terminate,
    TtyFailed,
    fields_of,
)
from sshoq.config.usage import INFO, QUIET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sshoq.client.terminal import Terminal
    from sshoq.config.forward_spec import Forward
    from sshoq.config.resolve import Invocation
    from sshoq.wire import Message

FAILED = 255

NEVER_SHARES = ("yes", "ask")
"""ControlMaster: these make a connection of their own, whoever may be listening."""


def share(invocation: "Invocation", log: Log, *, is_own: bool = False) -> int | None:
    """The exit status; None where a connection of our own is to be made. Failure.

    `is_own`: the master has just gone to the background for us, so it is there.
    """
    options, command = invocation.options, invocation.control_command
    if options.control_path is None:
        raise Failure('No ControlPath specified for "-O" command')
    must = is_own or command is not None
    if not must and options.control_master in NEVER_SHARES:
        return None
    sock = connect(options.control_path, options, log, must=must)
    if sock is None:
        return None
    try:
        return _run(MasterLink(sock), invocation, log, must=must)
    except (MuxError, OSError) as error:
        raise Failure(f"muxclient: {error}") from None


def _run(link: MasterLink, invocation: "Invocation", log: Log, *, must: bool) -> int | None:
    options, command = invocation.options, invocation.control_command
    try:
        announced = link.greet(options.connect_timeout)
    except (MuxError, OSError) as error:
        if must:
            raise
        log.error(f"muxclient: master hello exchange failed: {error}")
        return None
    client = _Client(link, invocation, log, announced)
    if command is not None:
        return _COMMANDS[command](client)
    if options.stdio_forward is not None:
        return client.run_stdio()
    status = client.run_session()
    if status is None and must:
        raise MuxError("the new master refuses us")
    return status


# --------------------------------------------------------------------------- what is asked


class _NotGranted(Exception):
    """The master will have no session of ours; the text is the line for the user."""


class _Client:
    """One of a master's clients: asks for what the command line says."""

    def __init__(
        self, link: MasterLink, invocation: "Invocation", log: Log, announced: Hello
    ) -> None:
        self._link = link
        self._invocation = invocation
        self._options = invocation.options
        self._log = log
        self._announced = announced
        self._number = 0
        self._terminal: Terminal | None = None

    def _ask(
        self, make: "Callable[..., Message]", *fields: object, descriptors: "Iterable[int]" = ()
    ) -> "Message | None":
        """The answer to a request of this kind; None when the master closed instead. MuxError."""
        number, self._number = self._number, self._number + 1
        try:
            self._link.send(make(number, *fields), descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return None
        answer = self._link.receive()
        if answer is not None and getattr(answer, "request", number) != number:
            raise MuxError("the master answers another request")
        return answer

    def _demand(self, what: str, answer: "Message | None") -> None:
        """Failure unless it was granted."""
        if isinstance(answer, PermissionDenied):
            raise Failure(f"Master refused {what} request: {answer.reason}")
        if isinstance(answer, Failed):
            raise Failure(f"{what} request failed: {answer.reason}")

    # ----- -O

    def check(self) -> int:
        _say(f"Master running (pid={self._find_master()})")
        return 0

    def _find_master(self) -> int:
        answer = self._ask(CheckAlive)
        if not isinstance(answer, Alive) or answer.pid == 0:
            raise MuxError("master alive check failed")
        return answer.pid

    def end_master(self) -> int:
        """It may be gone before its answer is here."""
        self._demand("termination", self._ask(Terminate))
        if self._log.level != QUIET:
            _say("Exit request sent.")
        return 0

    def stop_listening(self) -> int:
        answer = self._ask(StopListening)
        self._demand("stop listening", answer)
        if not isinstance(answer, Ok):
            raise MuxError("stop listening request failed")
        if self._log.level != QUIET:
            _say("Stop listening request sent.")
        return 0

    def show_connection(self) -> int:
        return self._show(CONNECTION_INFO)

    def show_channels(self) -> int:
        return self._show(CHANNELS_INFO)

    def _show(self, name: str) -> int:
        if not self._announced.announces(INFO_EXTENSION):
            raise Failure("mux server does not support info request")
        answer = self._ask(AskInfo, name)
        self._demand("info", answer)
        if not isinstance(answer, Info):
            raise MuxError("info request failed")
        if answer.status != 1:
            raise Failure(f"info request failed: {answer.text}")
        write_fully(1, answer.text.encode("utf-8", "surrogateescape"))
        return 0

    # ----- forwardings

    def open_forwards(self) -> int:
        if not self._change_forwards(show_ports=True):
            raise Failure("muxclient: master forward request failed")
        return 0

    def close_forwards(self) -> int:
        if not self._change_forwards(cancel=True):
            self._log.error("muxclient: master cancel forward request failed")
        return 0

    def _change_forwards(self, *, cancel: bool = False, show_ports: bool = False) -> bool:
        """All of them, until one is refused."""
        options = self._options
        wanted = [(forward, False) for forward in options.local_forwards]
        wanted += [(forward, True) for forward in options.remote_forwards]
        kind = CloseForward if cancel else OpenForward
        return all(
            self._change_forward(kind, forward, remote, show_ports=show_ports)
            for forward, remote in wanted
        )

    def _change_forward(
        self,
        kind: "type[OpenForward | CloseForward]",
        forward: "Forward",
        remote: bool,
        *,
        show_ports: bool,
    ) -> bool:
        if forward.protocol != "tcp":
            self._log.error(f"{forward.protocol}: only TCP and Unix sockets can be shared")
            return False
        answer = self._ask(kind, *fields_of(forward, remote=remote))
        if isinstance(answer, RemotePort):
            target = forward.connect_path or f"{forward.connect_host}:{forward.connect_port}"
            self._log.verbose(f"Allocated port {answer.port} for remote forward to {target}")
            if show_ports:
                write_fully(1, b"%d\n" % answer.port)
        elif isinstance(answer, PermissionDenied):
            self._log.error(f"Master refused forwarding request: {answer.reason}")
        elif isinstance(answer, Failed):
            self._log.error(f"mux_client_forward: forwarding request failed: {answer.reason}")
        return isinstance(answer, Ok | RemotePort)

    # ----- sessions

    def run_session(self) -> int | None:
        """None when the master does not grant it."""
        try:
            return self._run_session()
        except _NotGranted as refusal:
            self._log.error(str(refusal))
        except (MuxError, OSError) as error:
            self._log.error(f"mux_client_request_session: {error}")
        return None

    def run_session_or_fail(self) -> int:
        """-O proxy. The program is not told how its messages travel, and passing descriptors is the
        shorter way."""
        try:
            return self._run_session()
        except (_NotGranted, MuxError, OSError) as error:
            raise Failure(f"mux_client_proxy: master returned error: {error}") from None

    def _run_session(self) -> int:
        if not self._change_forwards():
            raise _NotGranted("muxclient: master forward request failed")
        master = self._find_master()
        if self._options.session_type == "none":
            return self._stay(master)
        return self._attend(master, self._open_session())

    def _open_session(self) -> int:
        from sshoq.client import wishes

        options, invocation = self._options, self._invocation
        if options.stdin_null:
            _take_stdin_away()
        if self._wants_tty:
            from sshoq.client.terminal import Terminal  # now: output may come with the answer

            self._terminal = Terminal(0)
        escape = NO_ESCAPE if options.escape_char is None else options.escape_char
        variables = wishes.environment_of(options, os.environ)
        answer = self._ask(
            NewSession,
            "",
            self._wants_tty,
            options.forward_x11,
            options.forward_agent,
            options.session_type == "subsystem",
            escape,
            wishes.terminal_type(options, os.environ),
            invocation.command,
            tuple(f"{name}={value}" for name, value in variables),
            descriptors=(0, 1, 2),
        )
        if isinstance(answer, SessionOpened):
            return answer.session
        if isinstance(answer, PermissionDenied):
            raise _NotGranted(f"Master refused session request: {answer.reason}")
        if isinstance(answer, Failed):
            raise MuxError(f"session request failed: {answer.reason}")
        raise MuxError("unexpected response from master")

    @property
    def _wants_tty(self) -> bool:
        return self._invocation.wants_tty or (self._options.force_pty and os.isatty(0))

    def _attend(self, master: int, session: int) -> int:
        """Until the master closes, which it does when all output is out."""
        wants_tty = self._wants_tty
        if self._options.fork_after_authentication:
            _leave_parent()
            self._terminal = None
        attendance = _Attendance(self._link, session, self._terminal)
        raw = _Nothing() if self._terminal is None else self._terminal.raw()
        with Signals(master) as signals, raw:
            self._link.signals = signals
            if self._terminal is not None:
                signals.tell_of_window()  # it may have changed since the master looked
            try:
                status = attendance.run()
            except Interrupted:
                status = FAILED
            except MuxError as error:
                self._log.fatal(str(error))
                status = FAILED
        self._log.debug2(f"Exit status {status}")
        if wants_tty and self._log.level >= INFO:
            _say(f"Shared connection to {self._options.hostname} closed.")
        return status

    def _stay(self, master: int) -> int:
        """-N: the forwardings are the master's now; with -f there is nothing left to stay for."""
        if self._options.fork_after_authentication:
            return 0
        with Signals(master) as self._link.signals:
            try:
                self._link.receive()
            except Interrupted:
                return FAILED
        return FAILED

    def run_stdio(self) -> int:
        """-W: that it ends is all that we are told."""
        forward = self._options.stdio_forward
        assert forward is not None
        if self._options.stdin_null:
            _take_stdin_away()
        path = forward.connect_path
        place = (path, PATH_PORT) if path is not None else (
            forward.connect_host, forward.connect_port
        )
        master = self._find_master()
        answer = self._ask(NewStdioForward, "", *place, descriptors=(0, 1))
        if isinstance(answer, PermissionDenied):
            raise Failure(f"Master refused stdio forwarding request: {answer.reason}")
        if isinstance(answer, Failed):
            raise Failure(f"Stdio forwarding request failed: {answer.reason}")
        if not isinstance(answer, SessionOpened):
            raise MuxError("unexpected response from master")
        with Signals(master) as self._link.signals:
            try:
                self._link.receive()
            except Interrupted:
                return FAILED
        return 0


_COMMANDS: "dict[str, Callable[[_Client], int]]" = {
    "cancel": _Client.close_forwards,
    "channels": _Client.show_channels,
    "check": _Client.check,
    "conninfo": _Client.show_connection,
    "exit": _Client.end_master,
    "forward": _Client.open_forwards,
    "proxy": _Client.run_session_or_fail,
    "stop": _Client.stop_listening,
}


class _Attendance:
    """What the master has to say about a session while it runs."""

    def __init__(self, link: MasterLink, session: int, terminal: "Terminal | None") -> None:
        self._link = link
        self._session = session
        self._terminal = terminal
        self._status: int | None = None

    def run(self) -> int:
        """The exit status; without one the session was cut off."""
        while (message := self._link.receive()) is not None:
            if isinstance(message, TtyFailed) and message.session == self._session:
                if self._terminal is not None:
                    self._terminal.leave_raw()
            elif isinstance(message, ExitMessage) and message.session == self._session:
                if self._status is not None:
                    raise MuxError("mux_client_request_session: exitval sent twice")
                self._status = message.status
            elif isinstance(message, Failed):
                raise MuxError(
                    f"mux_client_request_session: master returned error: {message.reason}"
                )
            else:
                raise MuxError("mux_client_request_session: unexpected response from master")
        return FAILED if self._status is None else self._status % 256


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


def _say(text: str) -> None:
    write_fully(2, f"{text}\r\n".encode("utf-8", "surrogateescape"))


def _take_stdin_away() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.close(nothing)


def _leave_parent() -> None:
    """-f: the session is open, so whoever started us may go on."""
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
