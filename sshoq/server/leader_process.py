"""Process: monitor [root]. The session leader as its parent sees it: how it comes to be the user,
which programs it has, and what is left of them when it is gone.

It runs nothing of the user's before it has given up root, and the host's keys before that.
"""

import contextlib
import os
import signal
import socket
import time

from sshoq.server import libc, log, signals
from sshoq.server.account import Account
from sshoq.server.identity import Identity
from sshoq.server.leader import run_leader
from sshoq.server.login import LoginError, become_user, close_descriptors
from sshoq.server.pam import PamError, PamTransaction
from sshoq.server.privsep import LEADER_TO_MONITOR, MONITOR_TO_LEADER
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, make_pair
from sshoq.server.rights import LoginRights
from sshoq.server.user_keys import expand_tokens

LEADER_TIME = 3.0
"""Seconds the session leader has for ending after its sockets are closed."""

MAX_PROGRAMS = 1024
MAX_PID = 1 << 22
"""The kernel gives no higher numbers (PID_MAX_LIMIT)."""


class LeaderProcess:
    """Of one login, from its fork to the last of its programs."""

    def __init__(self, pid: int, control: PrivsepSocket) -> None:
        self._pid = pid
        self.control = control
        self.status: int | None = None
        """As waitpid has it, once it has ended."""
        self._programs: set[int] = set()

    @classmethod
    def start(
        cls, rights: LoginRights, pam: PamTransaction | None, identity: Identity
    ) -> tuple["LeaderProcess", socket.socket]:
        """Returns the network process's end of the socket to it, too. `identity`: whose keys it
        must not have."""
        network_end, leader_end = make_pair()
        ours, leaders = make_pair()
        pid = os.fork()
        if pid == 0:
            status = 255
            try:
                identity.forget_keys()
                status = _become_leader(leader_end, leaders, rights, pam)
            finally:
                os._exit(status)
        leader_end.close()
        leaders.close()
        return cls(pid, PrivsepSocket(ours, MONITOR_TO_LEADER, LEADER_TO_MONITOR)), network_end

    # ------------------------------------------------------------------ programs

    def note_program(self, pid: int) -> None:
        if len(self._programs) >= MAX_PROGRAMS:
            raise PrivsepError("too many programs")
        check_program(pid)
        self._programs.add(pid)

    def forget_program(self, pid: int) -> None:
        self._programs.discard(pid)

    def reap(self) -> None:
        """The leader, and strangers that have come to be our children when their parents ended.

        A program of the leader's is only ours when the leader is dead. It is then not waited for:
        as long as it stays a zombie, its number means its process group and no other.
        """
        with contextlib.suppress(ChildProcessError):
            while self.status is None:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if child is None:
                    return
                if child.si_pid in self._programs and self._is_dead():
                    return
                _, status = os.waitpid(child.si_pid, 0)
                if child.si_pid == self._pid:
                    self.status = status

    def _is_dead(self) -> bool:
        """If it is not, what seems to be its program only has the number of one: the leader has
        waited for that, and has yet to say so."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self.status = status
        return bool(pid)

    # ------------------------------------------------------------------ the end

    def end(self) -> None:
        """That its sockets are closed is all it needs to be told."""
        self.control.close()
        deadline = time.monotonic() + LEADER_TIME
        while self.status is None and time.monotonic() < deadline:
            self.reap()
            if self.status is None:
                time.sleep(0.002)
        if self.status is None:
            log.error("the session leader hangs")
            os.kill(self._pid, signal.SIGKILL)
            _, self.status = os.waitpid(self._pid, 0)

    def hang_up_orphans(self, account: Account) -> None:
        """What a leader left that could not do it itself. Its programs are our children now (we are
        the subreaper), so their numbers mean them and nobody else until we have waited for them."""
        if self.status in (None, 0):
            return
        own = [pid for pid in self._programs if _is_own_child(pid)]
        if not own:
            return
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return
        try:
            # As the user: what has become another's since is not ours to signal.
            become_user(account, None, None)
            for group in own:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGHUP)
                    os.killpg(group, signal.SIGCONT)
        finally:
            os._exit(0)


def _become_leader(
    to_network: socket.socket,
    to_monitor: socket.socket,
    rights: LoginRights,
    pam: PamTransaction | None,
) -> int:
    """The child, which has no keys any more: give up root and all else that was the monitor's."""
    signals.reset(keep=(signal.SIGCHLD, signal.SIGPIPE))
    # What PAM modules hold open must end with the monitor, too, so it is not kept here.
    close_descriptors((to_network.fileno(), to_monitor.fileno(), log.descriptor()))
    libc.set_process_name("sshoq-leader", rights.account.name)
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 0)
    account = rights.account
    try:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        become_user(account, pam.set_credentials if pam else None, chroot_of(rights))
    except (LoginError, PamError, OSError) as error:
        log.fatal(str(error))
        return 255
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    return run_leader(to_network, to_monitor, rights, root)


def chroot_of(rights: LoginRights) -> str | None:
    path = rights.config.chroot_directory
    return None if path is None else expand_tokens(path, rights.account)


def check_program(pid: int) -> None:
    """PrivsepError for a number that the leader cannot have of a program."""
    if not 1 < pid <= MAX_PID:
        raise PrivsepError("a program of an impossible number")


def _is_own_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
