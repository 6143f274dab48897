"""Process: session leader [the user]. Programs: on pipes, on a terminal, as our own code on a
socket; what is told of them to the network process and to the monitor, and how they end.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from sshoq.named_tuple import NamedTuple
from sshoq.server import signals
from sshoq.server.privsep import (
    FilesServed,
    ProgramExited,
    ProgramGone,
    ProgramRunning,
    ProgramStarted,
    Recorded,
    RecordLogin,
    RecordLogout,
)
from sshoq.server.privsep_socket import PrivsepSocket, close_all
from sshoq.server.program import Program, run_program
from sshoq.server.pty import Pty
from sshoq.server.rights import LoginRights
from sshoq.server.session import Request, Session
from sshoq.wire import encode_text

NOTHING = "dev/null"


class Start(NamedTuple):
    """What is started, and for whom."""

    session: Session
    asked: Request
    environment: dict[bytes, bytes]
    inside: Callable[[], NoReturn] | None = None
    """Our own code, run as the program would be."""


class Launcher:
    """The programs of one login."""

    def __init__(
        self, network: PrivsepSocket, monitor: PrivsepSocket, rights: LoginRights, root: int
    ) -> None:
        self._network = network
        self._monitor = monitor
        self._rights = rights
        self._root = root
        self._running: dict[int, Session] = {}

    def start(self, start: Start) -> None:
        """OSError: a limit of the user's."""
        if start.session.pty is not None:
            self._start_on_terminal(start, start.session.pty)
        else:
            self._start_on_pipes(start)

    def _start_on_pipes(self, start: Start) -> None:
        pipes: list[tuple[int, int]] = []
        try:
            for _ in range(3):
                pipes.append(os.pipe2(os.O_CLOEXEC))
            (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr) = pipes
            self._fork(start, (stdin, stdout, stderr))
            ends = [to_stdin, from_stdout, from_stderr]
            self._network.send(ProgramStarted(start.session.number), ends)
        finally:
            close_all([end for pipe in pipes for end in pipe])

    def start_on_socket(self, start: Start) -> None:
        """Its standard input leads to the network process, the rest nowhere."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # In a chroot there need not be any such file.
            nothing = os.open(NOTHING, os.O_RDWR | os.O_CLOEXEC, dir_fd=self._root)
            try:
                standard = (theirs.fileno(), nothing, nothing)
                self._fork(start, standard)
            finally:
                os.close(nothing)
            self._network.send(FilesServed(start.session.number), [ours.fileno()])

    def _start_on_terminal(self, start: Start, pty: Pty) -> None:
        """The login is put on record by the monitor, which the program waits for: it greets the
        user with the login before this one."""
        gate = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._fork(start, (pty.slave,) * 3, gate)
            self._network.send(ProgramStarted(start.session.number))
            os.write(gate[1], self._record(start.session, pid, pty))
            os.close(pty.slave)  # so that the master sees when the last program is gone
        finally:
            close_all(gate)

    def _record(self, session: Session, pid: int, pty: Pty) -> bytes:
        self._monitor.send(RecordLogin(session.number, pid), [pty.slave])
        answer, descriptors = self._monitor.receive()
        close_all(descriptors)
        return encode_text(answer.last_login) if isinstance(answer, Recorded) else b""

    def _fork(
        self, start: Start, standard: tuple[int, int, int], gate: tuple[int, int] | None = None
    ) -> int:
        program = self._program(start, standard, gate)
        pid = os.fork()
        if pid == 0:
            try:
                run_program(program)
            finally:
                os._exit(1)
        start.session.pid = pid
        self._running[pid] = start.session
        self._monitor.send(ProgramRunning(pid))
        return pid

    def _program(
        self, start: Start, standard: tuple[int, int, int], gate: tuple[int, int] | None
    ) -> Program:
        rights, asked, session = self._rights, start.asked, start.session
        return Program(
            account=rights.account,
            root=self._root,
            command=None if asked.command is None else encode_text(asked.command),
            environment=start.environment,
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
            inside=start.inside,
        )

    # ------------------------------------------------------------------ while they run

    def is_running(self, session: Session) -> bool:
        """The number of a program that was waited for may be another's by now."""
        return session.pid in self._running

    def signal(self, session: Session, *numbers: int) -> None:
        """To its process group, if it still runs."""
        if session.pid is not None and session.pid in self._running:
            for number in numbers:
                _signal_group(session.pid, number)

    def reap(self) -> None:
        """Wait for those that have ended, and tell."""
        for pid, status in signals.ended_children():
            session = self._running.pop(pid, None)
            if session is not None:
                self._report_exit(session, pid, status)

    def _report_exit(self, session: Session, pid: int, status: int) -> None:
        self._monitor.send(ProgramGone(pid))
        if session.pty is not None:
            self._monitor.send(RecordLogout(session.number))
        if session.is_closed:
            return  # nobody asks any more
        if os.WIFSIGNALED(status):
            name = _signal_name(os.WTERMSIG(status))
            exited = ProgramExited(session.number, 0, name, os.WCOREDUMP(status))
        else:
            exited = ProgramExited(session.number, os.WEXITSTATUS(status), "", False)
        self._network.send(exited)


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
