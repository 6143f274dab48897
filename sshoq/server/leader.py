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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from sshoq.server import log, signals
from sshoq.server.dialing import Dialer
from sshoq.server.displays import Display, Displays
from sshoq.server.environment import (
    EnvironmentSources,
    accept_client_variables,
    build_environment,
    parse_login_defaults,
    split_variable,
)
from sshoq.server.file_access import (
    FileAccess,
    decide_access,
    is_internal_sftp,
    read_arguments,
)
from sshoq.server.file_server import run_file_server
from sshoq.server.listeners import Listeners
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
    FilesServed,
    Listen,
    ListenForAgent,
    ListenForX11,
    PrivsepError,
    PrivsepSocket,
    ProgramExited,
    ProgramGone,
    ProgramRunning,
    ProgramStarted,
    PtyAllocated,
    Recorded,
    RecordLogin,
    RecordLogout,
    ServeFiles,
    SessionRefused,
    SignalProgram,
    StartProgram,
    close_all,
)
from sshoq.server.program import Program, read_user_environment, run_program
from sshoq.server.pty import Pty, PtyError, PtySource, WindowSize, set_modes, set_window_size
from sshoq.server.rights import LoginRights
from sshoq.server.sftp_server import run_sftp_server
from sshoq.server.watch import READABLE, Watch
from sshoq.wire import Message, decode_text, encode_text

LOGIN_DEFAULTS = "/etc/default/login"
NOTHING = "dev/null"

# RFC 4254 6.10: the signals that may be asked for.
SIGNALS = {
    name: getattr(signal, f"SIG{name}")
    for name in (
        "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM",
        "USR1", "USR2",
    )
}  # fmt: skip


class Session:
    """A session channel, from its first request until the channel is closed."""

    __slots__ = ("display", "is_forced", "is_subsystem", "number", "pid", "pty", "term")

    def __init__(self, number: int) -> None:
        self.number = number
        self.pty: Pty | None = None
        self.term: str | None = None
        self.display: Display | None = None
        self.pid: int | None = None
        self.is_forced = False
        self.is_subsystem = False


class Refusal(Exception):
    """The request cannot be granted; the session may go on."""


class Request(NamedTuple):
    """What is to be run, after everything that can force it to be something else."""

    command: str | None
    original: str | None
    is_forced: bool
    is_subsystem: bool
    only_sftp: bool
    files: FileAccess | None = None
    """internal-sftp, and what its flags allow."""


class Leader:
    """The sessions of one login."""

    def __init__(
        self, network: PrivsepSocket, monitor: PrivsepSocket, rights: LoginRights, root: int
    ) -> None:
        self._network = network
        self._monitor = monitor
        self._rights = rights
        self._root = root
        self._ptys = PtySource(root)
        self._sessions: dict[int, Session] = {}
        self._programs: dict[int, Session] = {}
        self._login_file: str | None = None
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
        self._reap()

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
        if self._login_file is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._login_file)

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
        asked = self._decide(request)
        session.is_forced, session.is_subsystem = asked.is_forced, asked.is_subsystem
        self._log_start(session, asked)
        environment = self._environment(session, request, asked)
        inside: Callable[[], NoReturn] | None = None
        if asked.files is not None:
            inside = functools.partial(run_sftp_server, self._rights.account, asked.files)
        try:
            if session.pty is not None:
                self._start_on_terminal(session, session.pty, asked, environment, inside)
            else:
                self._start_on_pipes(session, asked, environment, inside)
        except OSError as error:  # a limit of the user's
            log.error(f"cannot start a program: {error}")
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
        self._log_start(session, asked)
        start = StartProgram(session.number, StartProgram.SUBSYSTEM, b"", ())
        environment = self._environment(session, start, asked)

        def serve() -> NoReturn:
            end = socket.socket(fileno=0)
            run_file_server(end, self._rights.account, access, environment)

        try:
            self._start_on_socket(session, asked, environment, serve)
        except OSError as error:
            log.error(f"cannot start a file server: {error}")
            raise Refusal(f"cannot start a file server: {error.strerror}") from None

    def signal_program(self, request: SignalProgram) -> None:
        session = self._sessions.get(request.session)
        if session is None or session.pid not in self._programs:
            return  # the number of a program that was waited for may be another's by now
        number = SIGNALS.get(request.name)
        if number is None:
            log.debug(f"unsupported signal {request.name}")
        elif session.is_forced or session.is_subsystem:
            kind = "forced-command" if session.is_forced else "subsystem"
            log.error(f"refusing to send signal {request.name} to {kind} session")
        else:
            _signal_group(session.pid, number)

    def close_session(self, request: CloseSession) -> None:
        session = self._sessions.get(request.session)
        if session is not None:
            self._close(session)

    def _session(self, number: int) -> Session:
        """The session, perhaps a new one; no more than MaxSessions of them."""
        if number not in self._sessions:
            if len(self._sessions) >= self._rights.config.max_sessions:
                log.debug("no more sessions")
                raise Refusal("too many sessions")
            self._sessions[number] = Session(number)
        return self._sessions[number]

    def _close(self, session: Session) -> None:
        del self._sessions[session.number]
        if session.pty is not None and session.pid is None:
            os.close(session.pty.slave)
        if session.pid in self._programs:
            _signal_group(session.pid, signal.SIGHUP)
            # A program that is stopped could not act on it.
            _signal_group(session.pid, signal.SIGCONT)

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

    def _decide(self, request: StartProgram) -> Request:
        """ForceCommand goes before the key's command=, and that before what was asked for."""
        command = self._command_asked(request)
        forced = self._rights.forced_command
        is_subsystem = request.kind == StartProgram.SUBSYSTEM
        if forced is None:
            files = self._files_of(command) if is_subsystem else None
            return Request(command, None, False, is_subsystem, False, files)
        files = self._files_of(forced)
        if files is None:
            return Request(forced, command, True, is_subsystem, False)
        return Request(forced, command, True, True, not is_subsystem, files)

    def _files_of(self, command: str | None) -> FileAccess | None:
        if command is None or not is_internal_sftp(command):
            return None
        return read_arguments(command, self._rights.account)

    def _command_asked(self, request: StartProgram) -> str | None:
        if request.kind == StartProgram.SHELL:
            return None
        name = decode_text(request.command)
        if "\0" in name:
            raise Refusal("a command with a zero byte")
        if request.kind == StartProgram.EXEC:
            return name
        if request.kind != StartProgram.SUBSYSTEM:
            raise PrivsepError("a program of no kind")
        found = self._rights.config.subsystem.get(name)
        if found is None or (name == "sftp" and self._rights.config.disable_sftp):
            log.info(
                f"subsystem request for {name} by user {self._rights.account.name} failed, "
                "subsystem not found"
            )
            raise Refusal("subsystem not found")
        return found

    def _environment(
        self, session: Session, request: StartProgram, asked: Request
    ) -> dict[bytes, bytes]:
        rights = self._rights
        config = rights.config
        environment = build_environment(
            EnvironmentSources(
                rights.account,
                rights.connection,
                client=accept_client_variables(request.environment, config.accept_env),
                path=_configured_path(rights.account.uid),
                mail=not config.use_pam,
                time_zone=os.environ.get("TZ"),
                terminal=session.term if session.pty is not None else None,
                display=session.display.name if session.display is not None else None,
                agent_socket=self._listeners.agent_path,
                key=self._key_environment(),
                file=self._file_environment(),
                pam=tuple(filter(None, map(split_variable, rights.pam_environment))),
                configured=tuple(
                    filter(None, (split_variable(encode_text(text)) for text in config.set_env))
                ),
                tty=session.pty.name if session.pty is not None else None,
                original_command=None if asked.original is None else encode_text(asked.original),
            )
        )
        if config.expose_auth_info and (path := self._expose_login()) is not None:
            environment[b"SSH_USER_AUTH"] = os.fsencode(path)
        return environment

    def _key_environment(self) -> tuple[tuple[bytes, bytes], ...]:
        key = self._rights.key
        if key is None:
            return ()
        return tuple(
            (encode_text(name), encode_text(value))
            for name, value in key.environment.items()
            if self._rights.config.accepts_user_environment(name)
        )

    def _file_environment(self) -> tuple[tuple[bytes, bytes], ...]:
        if not self._rights.config.permit_user_environment:
            return ()
        variables, bad = read_user_environment(self._rights.account)
        for number in bad:
            log.info(f"Bad line {number} in {self._rights.account.home}/.ssh/environment")
        accepts = self._rights.config.accepts_user_environment
        return tuple(one for one in variables if accepts(decode_text(one[0])))

    def _expose_login(self) -> str | None:
        """SSH_USER_AUTH: a file that says how the user got in; made for the first program."""
        if self._login_file is None:
            try:
                self._login_file = _write_login_file(f"{self._rights.authentication}\n")
            except OSError as error:
                log.error(f"cannot make the file for SSH_USER_AUTH: {error}")
        return self._login_file

    def _log_start(self, session: Session, asked: Request) -> None:
        what = "shell" if asked.command is None else "command"
        if asked.is_subsystem:
            what = f"subsystem '{asked.command}'"
        if asked.is_forced:
            source = "(config)" if self._rights.config.force_command else "(key-option)"
            what = f"forced-command {source} '{asked.command}'"
        where = f" on {session.pty.name.removeprefix('/dev/')}" if session.pty else ""
        peer = self._rights.connection
        log.verbose(
            f"Starting session: {what}{where} for {self._rights.account.name} from "
            f"{peer.peer_address} port {peer.peer_port} id {session.number}"
        )

    # ------------------------------------------------------------------ starting it

    def _start_on_pipes(
        self,
        session: Session,
        asked: Request,
        environment: dict[bytes, bytes],
        inside: Callable[[], NoReturn] | None,
    ) -> None:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr) = pipes
        try:
            self._fork(session, asked, environment, (stdin, stdout, stderr), None, inside)
            self._network.send(
                ProgramStarted(session.number), [to_stdin, from_stdout, from_stderr]
            )
        finally:
            close_all([end for pipe in pipes for end in pipe])

    def _start_on_socket(
        self,
        session: Session,
        asked: Request,
        environment: dict[bytes, bytes],
        inside: Callable[[], NoReturn],
    ) -> None:
        """Its standard input leads to the network process, the rest nowhere."""
        # In a chroot there need not be any such file.
        nothing = os.open(NOTHING, os.O_RDWR | os.O_CLOEXEC, dir_fd=self._root)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                standard = (theirs.fileno(), nothing, nothing)
                self._fork(session, asked, environment, standard, None, inside)
            finally:
                os.close(nothing)
            self._network.send(FilesServed(session.number), [ours.fileno()])

    def _start_on_terminal(
        self,
        session: Session,
        pty: Pty,
        asked: Request,
        environment: dict[bytes, bytes],
        inside: Callable[[], NoReturn] | None,
    ) -> None:
        """The login is put on record by the monitor, which the program waits for: it greets the
        user with the login before this one."""
        gate = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._fork(session, asked, environment, (pty.slave,) * 3, gate, inside)
            self._network.send(ProgramStarted(session.number))
            os.write(gate[1], self._record(session, pid, pty))
            os.close(pty.slave)  # so that the master sees when the last program is gone
        finally:
            close_all(gate)

    def _record(self, session: Session, pid: int, pty: Pty) -> bytes:
        self._monitor.send(RecordLogin(session.number, pid), [pty.slave])
        answer, descriptors = self._monitor.receive()
        close_all(descriptors)
        return encode_text(answer.last_login) if isinstance(answer, Recorded) else b""

    def _fork(
        self,
        session: Session,
        asked: Request,
        environment: dict[bytes, bytes],
        standard: tuple[int, int, int],
        gate: tuple[int, int] | None,
        inside: Callable[[], NoReturn] | None,
    ) -> int:
        program = self._program(session, asked, environment, standard, gate)
        program = program._replace(inside=inside)
        pid = os.fork()
        if pid == 0:
            try:
                run_program(program)
            finally:
                os._exit(1)
        session.pid = pid
        self._programs[pid] = session
        self._monitor.send(ProgramRunning(pid))
        return pid

    def _program(
        self,
        session: Session,
        asked: Request,
        environment: dict[bytes, bytes],
        standard: tuple[int, int, int],
        gate: tuple[int, int] | None,
    ) -> Program:
        rights = self._rights
        return Program(
            account=rights.account,
            root=self._root,
            command=None if asked.command is None else encode_text(asked.command),
            environment=environment,
            is_subsystem=asked.is_subsystem,
            only_sftp=asked.only_sftp,
            must_change_password=rights.must_change_password,
            check_nologin=not rights.config.use_pam,
            in_chroot=rights.config.chroot_directory is not None,
            allows_user_rc=rights.allows_user_rc,
            display=session.display,
            messages=encode_text(rights.messages),
            shows_motd=rights.config.print_motd,
            standard=standard,
            has_terminal=session.pty is not None,
            gate=gate,
        )

    # ------------------------------------------------------------------ how it ends

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            session = self._programs.pop(pid, None)
            if session is not None:
                self._report_exit(session, pid, status)

    def _report_exit(self, session: Session, pid: int, status: int) -> None:
        self._monitor.send(ProgramGone(pid))
        if session.pty is not None:
            self._monitor.send(RecordLogout(session.number))
        if self._sessions.get(session.number) is not session:
            return  # its channel is closed: nobody asks any more
        if os.WIFSIGNALED(status):
            name = _signal_name(os.WTERMSIG(status))
            exited = ProgramExited(session.number, 0, name, os.WCOREDUMP(status))
        else:
            exited = ProgramExited(session.number, os.WEXITSTATUS(status), "", False)
        self._network.send(exited)


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


# --------------------------------------------------------------------------- small things


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def _signal_group(pid: int, number: int) -> None:
    """The program's group; itself while it has not made its group yet. It is ours until reaped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            os.kill(pid, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return f"RT{number}"


@functools.cache
def _configured_path(uid: int) -> str | None:
    try:
        with open(LOGIN_DEFAULTS, encoding="utf-8", errors="surrogateescape") as file:
            settings = parse_login_defaults(file.read())
    except OSError:
        return None
    return settings.get("SUPATH" if uid == 0 else "PATH")


def _write_login_file(text: str) -> str:
    path = f"/tmp/sshauth.{os.urandom(12).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    return path
