"""Process: main [root]. The connections: who may come, the monitor that each gets, and how it ends.

A connection counts as one that has not logged in until its monitor says otherwise or is gone. What
its monitor reports against its peer is held against whoever comes from there.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable

from sshoq.server import log
from sshoq.server.admission import Admission, Refused, Source
from sshoq.server.connection import ConnectionFacts
from sshoq.server.control_poll import ControlPoll
from sshoq.server.listener import Address, check_local, open_connection, parse_peer
from sshoq.server.privsep import (
    MONITOR_TO_MAIN,
    NOTHING,
    Admit,
    Admitted,
    LoginSucceeded,
    NetworkProcessDied,
    NotAdmitted,
    Penalty,
)
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, close_all, make_pair
from sshoq.server.rate import RateLimit

MAX_REFUSALS_LOGGED = 5
"""Lines a second about refused connections; a flood must not fill the disk."""

ForkMonitor = Callable[[tuple[socket.socket, socket.socket], ConnectionFacts], int]


class Connection:
    """A monitor, and whether its connection still counts as one that has not logged in."""

    __slots__ = ("control", "peer", "pid", "source")

    def __init__(self, pid: int, peer: str, source: Source, control: PrivsepSocket) -> None:
        self.pid = pid
        self.peer = peer
        self.source: Source | None = source
        self.control = control


class Connections:
    """By the pid of the monitor."""

    def __init__(
        self,
        poll: ControlPoll,
        admission: Admission,
        fork_monitor: ForkMonitor,
        *,
        only_one: bool,
    ) -> None:
        """`only_one`: with -d one connection is served, as sshd does it."""
        self._poll = poll
        self._admission = admission
        self._fork_monitor = fork_monitor
        self._only_one = only_one
        self._connections: dict[int, Connection] = {}
        self._refusals = RateLimit(MAX_REFUSALS_LOGGED)

    def __len__(self) -> int:
        return len(self._connections)

    def __contains__(self, pid: int) -> bool:
        return pid in self._connections

    # ------------------------------------------------------------------ newcomers

    def admit(self, udp: socket.socket, control: PrivsepSocket, request: Admit) -> None:
        """Whom the router at this socket has asked about."""
        where = f"from [{request.peer_address}]:{request.peer_port}"
        try:
            peer = parse_peer(udp.family, request.peer_address, request.peer_port)
            check_local(udp, request.local_address)
        except ValueError as error:
            # No fault of the router's: anybody can send a datagram from port 0, or from nowhere.
            self._log_refusal(f"no connection {where}: {error}")
            control.answer(NotAdmitted("impossible address"))
            return
        try:
            if self._only_one and self._connections:
                raise Refused("in debug mode one connection is served")
            source = self._admission.admit(peer[0], time.monotonic())
        except Refused as error:
            local, port = request.local_address or udp.getsockname()[0], udp.getsockname()[1]
            waiting = self._admission.waiting
            self._log_refusal(f"drop connection #{waiting} {where} on [{local}]:{port} {error}")
            control.answer(NotAdmitted(str(error)))
            return
        try:
            self._connect(udp, control, request, peer, source)
        except OSError as error:
            self._log_refusal(f"no connection {where}: {error.strerror}")
            control.answer(NotAdmitted(error.strerror or "error"))

    def _connect(
        self,
        listener: socket.socket,
        control: PrivsepSocket,
        request: Admit,
        peer: Address,
        source: Source,
    ) -> None:
        """Make the connection's socket and its monitor, and hand both to the router."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as place:
            place.callback(self._admission.release, source)
            udp = ours.enter_context(open_connection(listener, peer, request.local_address))
            local = request.local_address or udp.getsockname()[0]
            facts = ConnectionFacts(peer[0], peer[1], local, udp.getsockname()[1])
            network_end, monitor_end = map(ours.enter_context, make_pair())
            to_monitor, to_main = make_pair()
            ours.enter_context(to_main)
            pid = self._fork_monitor((monitor_end, to_main), facts)
            to_monitor.setblocking(False)
            connection = Connection(
                pid, peer[0], source, PrivsepSocket(to_monitor, NOTHING, MONITOR_TO_MAIN)
            )
            self._connections[pid] = connection
            place.pop_all()  # it is given back when the monitor ends
            self._poll.add(to_monitor.fileno(), lambda: self._hear(connection))
            # The monitor, which has the other end, ends by itself when nobody takes this one.
            control.answer(Admitted(), [udp.fileno(), network_end.fileno()])

    def _log_refusal(self, text: str) -> None:
        if self._refusals.allows(time.monotonic()):
            log.info(text)

    # ------------------------------------------------------------------ monitors

    def _hear(self, connection: Connection) -> None:
        """What a monitor tells; the end of its socket says nothing, its process' end does."""
        try:
            while True:
                message, descriptors = connection.control.receive()
                close_all(descriptors)
                if isinstance(message, LoginSucceeded):
                    self._settle(connection)
                elif isinstance(message, Penalty):
                    self._admission.penalise(connection.peer, message.kind, time.monotonic())
        except BlockingIOError:
            return
        except PrivsepError:
            self._poll.close(connection.control)

    def _settle(self, connection: Connection) -> None:
        if connection.source is not None:
            self._admission.release(connection.source)
            connection.source = None

    # ------------------------------------------------------------------ the end

    def note_end(self, pid: int, status: int) -> None:
        """The monitor has ended."""
        connection = self._connections.pop(pid)
        if connection.control.fileno() >= 0:
            self._hear(connection)
            self._poll.close(connection.control)
        self._settle(connection)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            log.error(f"monitor {connection.pid} was killed by signal {number}")
            # Its own alarm ends it when a PAM module has not answered within the grace time.
            kind = "grace-exceeded" if number == signal.SIGALRM else "crash"
            self._admission.penalise(connection.peer, kind, time.monotonic())

    def note_fault(self, died: NetworkProcessDied) -> None:
        """As sshd does when its confined process crashes. Who has not shown that the address is
        its own gets nobody punished."""
        peer = f"[{died.peer_address}]:{died.peer_port}"
        self._log_refusal(f"network process for {peer} was killed by signal {died.signal}")
        if died.is_validated:
            with contextlib.suppress(ValueError):
                self._admission.penalise(died.peer_address, "crash", time.monotonic())
