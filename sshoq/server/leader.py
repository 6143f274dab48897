"""Process: session leader [the user], one per conversation.

Starts programs, opens ptys and makes the sockets of forwardings for its user, and hands their
descriptors to the network process; the data passes it by. It was root's child and knows from there
what the login may do; what the network process says is only what the client asks for. It ends when
either of the two others does, and hangs up what then still runs.
"""

import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from sshoq.server import log, signals
from sshoq.server.dialing import Dialer
from sshoq.server.displays import Displays
from sshoq.server.file_access import decide_access
from sshoq.server.file_server import run_file_server
from sshoq.server.launcher import Launcher, Start
from sshoq.server.listeners import Listeners
from sshoq.server.login_environment import LoginEnvironment
from sshoq.server.lookup import Lookups
from sshoq.server.permits import Permits
from sshoq.server.privsep import (
    FROM_LEADER,
    LEADER_TO_MONITOR,
    MONITOR_TO_LEADER,
    TO_LEADER,
    AllocatePty,
    CloseSession,
    Dial,
    EndForwarding,
    Listen,
    ListenForAgent,
    ListenForX11,
    PtyAllocated,
    ServeFiles,
    SessionRefused,
    SignalProgram,
    StartProgram,
)
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, close_all
from sshoq.server.pty import PtyError, PtySource, WindowSize, set_modes, set_window_size
from sshoq.server.rights import LoginRights
from sshoq.server.session import Refusal, Request, Session, decide
from sshoq.server.sftp_server import run_sftp_server
from sshoq.server.watch import READABLE, Watch
from sshoq.wire import Message, decode_text

# RFC 4254 6.10: the signals that may be asked for.
SIGNALS = {
    name: getattr(signal, f"SIG{name}")
    for name in (
        "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM",
        "USR1", "USR2",
    )
}  # fmt: skip


class Leader:
    """The sessions of one login."""

    def __init__(
        self, network: PrivsepSocket, monitor: PrivsepSocket, rights: LoginRights, root: int
    ) -> None:
        self._network = network
        self._monitor = monitor
        self._rights = rights
        self._ptys = PtySource(root)
        self._sessions: dict[int, Session] = {}
        self._environment = LoginEnvironment(rights)
        self._launcher = Launcher(network, monitor, rights, root)
        self._watch = Watch()
        self._is_over = False
        permits = Permits(rights)
        lookups = Lookups(self._watch)
        self._dialer = Dialer(self._watch, lookups, permits, self._send)
        self._listeners = Listeners(lookups, permits, rights, self._send)
        self._displays = Displays(permits, rights, self._send)

    # ------------------------------------------------------------------ the loop

    def serve(self) -> None:
        """Until the network process or the monitor is gone."""
        self._watch_children()
        # It speaks only when it is asked: it is gone.
        self._watch.add(self._monitor.fileno(), READABLE, self._note_end)
        self._watch.add(self._network.fileno(), READABLE, self._answer)
        while not self._is_over:
            self._watch.turn()

    def _watch_children(self) -> None:
        reader = signals.watch((signal.SIGCHLD,))
        self._watch.add(reader, READABLE, lambda: self._take_children(reader))

    def _take_children(self, wakeup: int) -> None:
        _drain(wakeup)
        self._launcher.reap()

    def _note_end(self) -> None:
        self._is_over = True

    def _send(self, message: Message, descriptors: Sequence[int]) -> None:
        self._network.send(message, descriptors)

    def _answer(self) -> None:
        message, descriptors = self._network.receive()
        close_all(descriptors)
        rule = RULES.get(type(message))
        if rule is None:
            raise PrivsepError(f"{type(message).__name__} is not served")
        try:
            rule(self, message)
        except Refusal as refusal:
            session = getattr(message, "session", 0)
            self._network.send(SessionRefused(session, str(refusal)))

    def end(self) -> None:
        """Hang up what still runs; nobody is left to read it."""
        for session in list(self._sessions.values()):
            self._close(session)
        self._listeners.remove_all()
        self._environment.remove()

    # ------------------------------------------------------------------ requests

    def allocate_pty(self, request: AllocatePty) -> None:
        session = self._session(request.session)
        if session.pty is not None or session.pid is not None:
            raise PrivsepError("a second pty")
        if not self._rights.allows_pty:
            raise Refusal("Allocating a pty not permitted for this connection.")
        try:
            pty = self._ptys.open()
        except PtyError as error:
            log.error(str(error))
            raise Refusal(str(error)) from None
        session.pty, session.term = pty, request.term
        set_window_size(
            pty.slave, WindowSize(request.columns, request.rows, request.width, request.height)
        )
        set_modes(pty.slave, request.modes)
        self._network.send(PtyAllocated(session.number), [pty.master])
        os.close(pty.master)

    def start_program(self, request: StartProgram) -> None:
        session = self._session(request.session)
        if session.pid is not None:
            raise PrivsepError("a second program")
        asked = decide(request, self._rights)
        session.is_forced, session.is_subsystem = asked.is_forced, asked.is_subsystem
        self._log_start(session, asked, decode_text(request.command))
        environment = self._environment_of(session, asked, request.environment)
        inside: Callable[[], NoReturn] | None = None
        if asked.files is not None:
            inside = functools.partial(run_sftp_server, self._rights.account, asked.files)
        try:
            self._launcher.start(Start(session, asked, environment, inside))
        except OSError as error:  # a limit of the user's
            log.error(f"cannot start a program: {error.strerror}")
            raise Refusal(f"cannot start a program: {error.strerror}") from None

    def serve_files(self, request: ServeFiles) -> None:
        session = self._session(request.session)
        if session.pid is not None or session.pty is not None:
            raise PrivsepError("a file server beside a program")
        access = decide_access(self._rights)
        if access.refusal is not None:
            log.info(f"file transfer by user {self._rights.account.name} refused: {access.refusal}")
            raise Refusal(access.refusal)
        session.is_subsystem = True
        asked = Request("file transfer", None, False, True, False)
        self._log_start(session, asked, "file transfer")
        environment = self._environment_of(session, asked)

        def serve() -> NoReturn:
            end = socket.socket(fileno=0)
            run_file_server(end, self._rights.account, access, environment)

        try:
            self._launcher.start_on_socket(Start(session, asked, environment, serve))
        except OSError as error:
            log.error(f"cannot start a file server: {error.strerror}")
            raise Refusal(f"cannot start a file server: {error.strerror}") from None

    def signal_program(self, request: SignalProgram) -> None:
        session = self._sessions.get(request.session)
        if session is None or not self._launcher.is_running(session):
            return
        number = SIGNALS.get(request.name)
        if number is None:
            log.debug(f"unsupported signal {request.name}")
        elif session.is_forced or session.is_subsystem:
            kind = "forced-command" if session.is_forced else "subsystem"
            log.error(f"refusing to send signal {request.name} to {kind} session")
        else:
            self._launcher.signal(session, number)

    def close_session(self, request: CloseSession) -> None:
        session = self._sessions.get(request.session)
        if session is not None:
            self._close(session)

    def _session(self, number: int) -> Session:
        """The session, perhaps a new one; no more than MaxSessions of them."""
        if number not in self._sessions:
            if len(self._sessions) >= self._rights.config.max_sessions:
                log.error("no more sessions")
                raise Refusal("too many sessions")
            self._sessions[number] = Session(number)
        return self._sessions[number]

    def _close(self, session: Session) -> None:
        del self._sessions[session.number]
        if session.pty is not None and session.pid is None:
            os.close(session.pty.slave)
        session.is_closed = True
        # A program that is stopped could not act on the first alone.
        self._launcher.signal(session, signal.SIGHUP, signal.SIGCONT)

    # ------------------------------------------------------------------ forwarding

    def dial(self, request: Dial) -> None:
        self._dialer.dial(request)

    def listen(self, request: Listen) -> None:
        self._listeners.listen(request)

    def listen_for_agent(self, request: ListenForAgent) -> None:
        self._listeners.listen_for_agent(request)

    def listen_for_x11(self, request: ListenForX11) -> None:
        session = self._session(request.session)
        if session.display is not None or session.pid is not None:
            raise PrivsepError("a second display")
        session.display = self._displays.open(request)

    def end_forwarding(self, request: EndForwarding) -> None:
        self._dialer.cancel(request)
        self._listeners.end(request)

    # ------------------------------------------------------------------ what runs

    def _environment_of(
        self, session: Session, asked: Request, sent: Iterable[bytes] = ()
    ) -> dict[bytes, bytes]:
        """`sent`: what the client wishes there to be in it."""
        return self._environment.of(session, asked, sent, self._listeners.agent_path)

    def _log_start(self, session: Session, asked: Request, name: str) -> None:
        what = "shell" if asked.command is None else "command"
        if asked.is_subsystem:
            what = f"subsystem '{name}'"
        if asked.is_forced:
            source = "(config)" if self._rights.config.force_command else "(key-option)"
            what = f"forced-command {source} '{asked.command}'"
        where = f" on {session.pty.name.removeprefix('/dev/')}" if session.pty else ""
        peer = self._rights.connection
        log.verbose(
            f"Starting session: {what}{where} for {self._rights.account.name} from "
            f"{peer.peer} id {session.number}"
        )


# Any, because each rule takes the message it stands beside.
RULES: dict[type[Message], Callable[[Leader, Any], None]] = {
    AllocatePty: Leader.allocate_pty,
    StartProgram: Leader.start_program,
    ServeFiles: Leader.serve_files,
    SignalProgram: Leader.signal_program,
    CloseSession: Leader.close_session,
    Dial: Leader.dial,
    Listen: Leader.listen,
    ListenForAgent: Leader.listen_for_agent,
    ListenForX11: Leader.listen_for_x11,
    EndForwarding: Leader.end_forwarding,
}


def run_leader(
    to_network: socket.socket, to_monitor: socket.socket, rights: LoginRights, root: int
) -> int:
    """The leader's life, as the user already. `root` is a descriptor of the root directory from
    before a chroot. Returns the exit status.
    """
    network = PrivsepSocket(to_network, FROM_LEADER, TO_LEADER)
    monitor = PrivsepSocket(to_monitor, LEADER_TO_MONITOR, MONITOR_TO_LEADER)
    leader = Leader(network, monitor, rights, root)
    try:
        leader.serve()
    except PrivsepError as error:
        log.debug(f"session leader: {error}")
    finally:
        with contextlib.suppress(PrivsepError):
            leader.end()
    return 0


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass
