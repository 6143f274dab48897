"""Process: router [service user, sandboxed], one per UDP socket.

Reads the datagrams that no connection's own socket takes: first packets of new connections, packets
of connections whose client moved to another address, and noise. It holds no connection state but a
table of connection IDs, asks main whether a newcomer is welcome, and forks the network process that
will serve it. It never runs an event loop of its own; the child starts one after the fork.
"""

import os
import resource
import select
import signal
import socket
import time
from contextlib import suppress

from sshoq.server import signals
from sshoq.server.arrival import Arrival, read_arrivals, send_from
from sshoq.server.heap import make_immortal, settle_heap
from sshoq.server.libc import set_process_name
from sshoq.server.listener import show_address
from sshoq.server.login import close_descriptors
from sshoq.server.network import NetworkStart, run_network
from sshoq.server.privsep import (
    MAIN_TO_ROUTER,
    NETWORK_TO_ROUTER,
    ROUTER_TO_MAIN,
    ROUTER_TO_NETWORK,
    AddressValidated,
    Admit,
    Admitted,
    NameGranted,
    NameRetired,
    NetworkProcessDied,
    Newcomer,
    NotAdmitted,
    RouterFull,
    RouterReady,
    StrayDatagram,
    Superseded,
)
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, close_all, make_pair
from sshoq.server.rate import RateLimit
from sshoq.server.rehearsal import rehearse
from sshoq.server.sandbox import confine_network, confine_router, prepare_filters
from sshoq.server.secret import Secret
from sshoq.transport.packets import (
    RESET_KEY_LENGTH,
    TICKET_KEY_LENGTH,
    ConnectionName,
    FirstPacket,
    PacketHead,
    RetryTickets,
    TicketInvalid,
    TicketMissing,
    answer_to_noise,
    begins_connection,
    connection_refused,
    new_name,
    parse_packet,
    unasked_reset,
)
from sshoq.transport.udp import UdpSocket

READ_BUDGET = 64
"""Datagrams read before anything else gets its turn."""

NAMES_PER_CONNECTION = 12
"""aioquic keeps eight connection IDs alive; a few lie ready for a client that moves."""

MAX_HALF_OPEN = 5
"""Unvalidated handshakes from which on newcomers must show that they own their address (Retry).

Below the first number of MaxStartups (10): else first packets with forged addresses could use up
the places of those who want to log in. A round trip more, in a rush, is the lesser evil.
"""

ADMISSION_WAIT = 5.0
"""Seconds main may take to answer. It does nothing slow, so longer means that it hangs or is gone.
"""

SPARE_DESCRIPTORS = 32
"""Beside one for each connection: its own sockets, and what a newcomer takes for a moment."""

RESETS_PER_SECOND = 100
"""Stateless resets and version negotiations are answers to noise; more of them is an amplifier."""


SUSPICION = 300.0
"""Seconds for which every newcomer must show its address, after a network process has died of what
came from somebody who had not. They all have the memory layout of the router: it must cost
something to try again and again.
"""

FULL_PAUSE = 60.0
"""Seconds between two complaints that there are no descriptors left."""

DEADLY_FAULTS = frozenset(
    getattr(signal, f"SIG{name}") for name in ("ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "SYS")
)
"""What ends one that was made to do what it was not written for. Others send it SIGKILL."""

NOT_ALLOWED = "Not allowed at this time"


class NetworkProcess:
    """What the router keeps of one connection."""

    __slots__ = ("control", "local_address", "peer", "pid", "routes", "validated")

    def __init__(self, control: PrivsepSocket, pid: int, first: Arrival) -> None:
        self.control = control
        self.pid = pid
        self.peer = first.peer
        self.local_address = first.local_address
        self.routes: set[bytes] = set()
        self.validated = False


class Router:
    """The table of connection IDs, and the way of a datagram through it."""

    def __init__(
        self, listener: socket.socket, main: PrivsepSocket, number: int, children: int
    ) -> None:
        """`children` can be read when a child has ended."""
        self._listener = listener
        self._main = main
        self._number = number
        self._ticket_secret = Secret(TICKET_KEY_LENGTH)
        self._tickets = RetryTickets(self._ticket_secret.key)
        self._reset_secret = Secret(RESET_KEY_LENGTH)
        self._routes: dict[bytes, NetworkProcess] = {}
        self._processes: dict[int, NetworkProcess] = {}
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS
        self._by_pid: dict[int, NetworkProcess] = {}
        self._half_open = 0
        self._suspicious_until = 0.0
        self._full_since: float | None = None
        self._wakeup = children
        self._noise = RateLimit(RESETS_PER_SECOND)
        self._poll = select.epoll()
        self._poll.register(listener, select.EPOLLIN)
        self._poll.register(main, select.EPOLLIN)
        self._poll.register(self._wakeup, select.EPOLLIN)

    def serve(self) -> None:
        """Until main closes its end."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._main.fileno():
                    return  # main says nothing unasked: it is gone, or wants us gone
                if fd == self._listener.fileno():
                    self._serve_listener()
                elif fd == self._wakeup:
                    self._take_children()
                elif fd in self._processes:
                    self._serve_process(self._processes[fd])

    # ------------------------------------------------------------------ datagrams

    def _serve_listener(self) -> None:
        newcomers: dict[tuple[str, int, bytes], list[Arrival]] = {}
        for arrival in read_arrivals(self._listener, READ_BUDGET):
            packet = parse_packet(arrival.payload)
            if packet is None:
                continue
            process = self._routes.get(packet.destination_cid)
            if process is not None:
                self._pass_on(process, arrival)
            elif packet.is_initial and begins_connection(arrival.payload):
                key = (*arrival.peer, packet.destination_cid)
                newcomers.setdefault(key, []).append(arrival)
            else:
                self._answer_noise(packet, arrival)
        for arrivals in newcomers.values():
            self._welcome(arrivals)

    def _pass_on(self, process: NetworkProcess, arrival: Arrival) -> None:
        """To the process that owns the connection; a process that does not keep up loses it, as on
        a network.
        """
        try:
            process.control.send(StrayDatagram(*arrival.peer, arrival.payload))
        except BlockingIOError:
            pass
        except PrivsepError:
            self._forget(process)

    def _answer_noise(self, packet: PacketHead, arrival: Arrival) -> None:
        answer = answer_to_noise(packet, len(arrival.payload), self._reset_secret.key)
        if answer is not None and self._noise.allows(time.monotonic()):
            self._send(answer, arrival)

    def _send(self, payload: bytes, arrival: Arrival) -> None:
        with suppress(OSError):  # unreachable, or no room: an answer to noise is not worth more
            send_from(self._listener, payload, arrival.peer, arrival.local_address)

    # ------------------------------------------------------------------ new connections

    def _welcome(
        self, arrivals: list[Arrival], predecessor: NetworkProcess | None = None
    ) -> None:
        """Retry, refuse, or admit whoever sent a connection's first packets. A predecessor had its
        address before."""
        first = arrivals[0]
        if len(self._processes) >= self._most:
            self._complain_of_room(time.monotonic())
            self._turn_away(first)  # running out of descriptors would end the router
            return
        try:
            start = self._tickets.redeem(first.payload, first.peer, time.monotonic())
        except TicketMissing:
            if predecessor is None and not self._wants_proof(time.monotonic()):
                start = FirstPacket.of(first.payload)
            else:
                self._send(self._tickets.retry(first.payload, first.peer, time.monotonic()), first)
                return
        except TicketInvalid:
            return
        descriptors = self._ask_admission(first)
        if isinstance(descriptors, NotAdmitted):
            self._turn_away(first)
            return
        if predecessor is not None:
            self._supersede(predecessor)
        self._start_process(start, arrivals, descriptors)

    def _wants_proof(self, now: float) -> bool:
        return self._half_open >= MAX_HALF_OPEN or now < self._suspicious_until

    def _complain_of_room(self, now: float) -> None:
        if self._full_since is None or now - self._full_since > FULL_PAUSE:
            self._full_since = now
            self._main.send(RouterFull(self._most))

    def _meet_newcomer(self, predecessor: NetworkProcess, payload: bytes) -> None:
        """A client that was started anew can have the address of one that is not given up yet, and
        the kernel gives its packets to that one's socket. Anybody could put that address on a
        packet, so it must be shown first.
        """
        arrival = Arrival(payload, predecessor.peer, predecessor.local_address)
        packet = parse_packet(payload)
        if packet is None or not packet.is_initial or not begins_connection(payload):
            return
        process = self._routes.get(packet.destination_cid)
        if process is None:
            self._welcome([arrival], predecessor)
        elif process is not predecessor:
            self._pass_on(process, arrival)

    def _supersede(self, process: NetworkProcess) -> None:
        with suppress(PrivsepError, BlockingIOError):
            process.control.send(Superseded())

    def _turn_away(self, first: Arrival) -> None:
        """In sshd's words, which do not tell why; and not to everybody in a flood."""
        if self._noise.allows(time.monotonic()):
            self._send(connection_refused(first.payload, NOT_ALLOWED), first)

    def _ask_admission(self, first: Arrival) -> list[int] | NotAdmitted:
        self._main.send(
            Admit(*first.peer, first.local_address, self._listener.getsockname()[1], self._number)
        )
        if not self._main.wait(ADMISSION_WAIT):
            raise PrivsepError("main does not answer")
        answer, descriptors = self._main.receive()
        if isinstance(answer, NotAdmitted):
            return answer
        if not isinstance(answer, Admitted) or len(descriptors) != 2:
            close_all(descriptors)
            raise PrivsepError("main's answer has no sense")
        return descriptors

    def _start_process(
        self, start: FirstPacket, arrivals: list[Arrival], descriptors: list[int]
    ) -> None:
        own, theirs = make_pair()
        own.setblocking(False)
        names = [new_name(self._reset_secret.key) for _ in range(NAMES_PER_CONNECTION)]
        try:
            if (pid := os.fork()) == 0:
                own.close()
                self._become_network_process(theirs, start, names, arrivals, descriptors)
        except OSError:  # no room for a process: the monitor finds itself alone, and ends
            own.close()
            return
        finally:
            theirs.close()
            close_all(descriptors)
        control = PrivsepSocket(own, ROUTER_TO_NETWORK, NETWORK_TO_ROUTER)
        process = NetworkProcess(control, pid, arrivals[0])
        self._processes[own.fileno()] = self._by_pid[pid] = process
        self._poll.register(own, select.EPOLLIN)
        self._half_open += 1
        # The client names us by its own choice of ID until it has heard ours.
        for connection_id in (start.destination_cid, *(name.connection_id for name in names)):
            self._add_route(process, connection_id)

    def _become_network_process(
        self,
        control: socket.socket,
        start: FirstPacket,
        names: list[ConnectionName],
        arrivals: list[Arrival],
        descriptors: list[int],
    ) -> None:
        """The child: keep nothing of the router's but memory, and never come back."""
        status = 1
        try:
            # The objects stay, on frames that never return. There are many of them, and to close
            # each by itself would copy the memory they are in.
            close_descriptors((control.fileno(), *descriptors))
            signal.set_wakeup_fd(-1)
            signals.dispose((signal.SIGCHLD,), signals.DEFAULT)
            set_process_name("sshoq-network", show_address(arrivals[0].peer))
            confine_network()
            status = run_network(
                NetworkStart(
                    udp=UdpSocket(socket.socket(fileno=descriptors[0])),
                    monitor=socket.socket(fileno=descriptors[1]),
                    router=control,
                    first=start,
                    datagrams=[arrival.payload for arrival in arrivals],
                    peer=arrivals[0].peer,
                    local_address=arrivals[0].local_address,
                    names=names,
                )
            )
        finally:
            os._exit(status)

    # ------------------------------------------------------------------ what network processes say

    def _serve_process(self, process: NetworkProcess) -> None:
        try:
            message, descriptors = process.control.receive()
            close_all(descriptors)
        except BlockingIOError:
            return
        except PrivsepError:
            self._forget(process)
            return
        if isinstance(message, NameRetired):
            self._replace_name(process, message.connection_id)
        elif isinstance(message, AddressValidated):
            self._settle(process)
        elif isinstance(message, Newcomer):
            self._meet_newcomer(process, message.payload)

    def _add_route(self, process: NetworkProcess, connection_id: bytes) -> None:
        """An ID that another connection uses stays there: it could only be a guess or a theft."""
        if connection_id not in self._routes:
            self._routes[connection_id] = process
            process.routes.add(connection_id)

    def _replace_name(self, process: NetworkProcess, connection_id: bytes) -> None:
        if connection_id not in process.routes:
            return
        process.routes.discard(connection_id)
        del self._routes[connection_id]
        name = new_name(self._reset_secret.key)
        try:
            process.control.send(NameGranted(*name))
        except BlockingIOError:
            return  # who does not read goes without
        except PrivsepError:
            self._forget(process)
            return
        self._add_route(process, name.connection_id)

    def _settle(self, process: NetworkProcess) -> None:
        if not process.validated:
            process.validated = True
            self._half_open -= 1

    def _forget(self, process: NetworkProcess) -> None:
        """The process is gone, or broke the rules: without its socket to us it gives up."""
        fd = process.control.fileno()
        if self._processes.pop(fd, None) is None:
            return
        if not process.validated:
            self._half_open -= 1
        for connection_id in process.routes:
            del self._routes[connection_id]
        self._poll.unregister(fd)
        process.control.close()

    def _take_children(self) -> None:
        """Network processes that have ended; how, may have to be told."""
        with suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        for pid, status in signals.ended_children():
            process = self._by_pid.pop(pid, None)
            if process is not None and os.WIFSIGNALED(status):
                self._tell_peer(process)
                if os.WTERMSIG(status) in DEADLY_FAULTS:
                    self._tell_fault(process, os.WTERMSIG(status))

    def _tell_peer(self, process: NetworkProcess) -> None:
        """Who was killed could not say goodbye: the client is to hear of it now, not when it next
        sends something. It knows some of the names. All of them together are less than its first
        packet was, so that an address that was not shown may be told, too."""
        where = Arrival(b"", process.peer, process.local_address)
        for connection_id in process.routes:
            self._send(unasked_reset(self._reset_secret.key, connection_id), where)

    def _tell_fault(self, process: NetworkProcess, number: int) -> None:
        self._main.send(NetworkProcessDied(*process.peer, number, process.validated))
        if not process.validated:
            self._suspicious_until = time.monotonic() + SUSPICION


def run_router(listener: socket.socket, to_main: socket.socket, number: int) -> int:
    """The router's life. Returns its exit status when main is gone or wants it to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a ^C at the terminal is main's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_process_name("sshoq-router", show_address(listener.getsockname()))
    listener.setblocking(False)
    main = PrivsepSocket(to_main, ROUTER_TO_MAIN, MAIN_TO_ROUTER)
    rehearse()
    children = signals.watch((signal.SIGCHLD,))
    prepare_filters()
    make_immortal()
    settle_heap()  # what is loaded now stays shared with every network process
    confine_router()
    try:
        main.send(RouterReady())
        Router(listener, main, number, children).serve()
    except PrivsepError:
        return 1
    return 0
