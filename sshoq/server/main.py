"""Process: main [root, or the invoking user: then everything is single-user]. Starts the server and
keeps it running.

Reads flags, configuration and key, binds the sockets, starts one router for each; then answers the
routers, which ask whether a newcomer is welcome, by forking a monitor. It parses no packet and sees
no user's byte, and takes what a router says for the words of a stranger.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence

from sshoq.server import log, signals
from sshoq.server.admission import Admission, Refused, Source
from sshoq.server.children import (
    ROUTER_CODE,
    RunMonitor,
    protect_from_oom,
    raise_descriptor_limit,
    start_monitor,
    start_router,
)
from sshoq.server.config import (
    DEFAULT_FILE,
    ConfigError,
    ServerConfig,
    dump,
    load,
    login_for_test,
)
from sshoq.server.connection import ConnectionFacts
from sshoq.server.flags import (
    GO_CERTIFICATE,
    GO_KEY,
    USAGE,
    Invocation,
    UsageError,
    parse_command_line,
    version_line,
)
from sshoq.server.heap import settle_heap
from sshoq.server.identity import Identity, IdentityError, ensure_certificate, load_identity
from sshoq.server.libc import clear_inheritable_capabilities
from sshoq.server.listener import (
    Address,
    BindError,
    check_local,
    open_connection,
    open_listener,
    parse_peer,
    show_address,
)
from sshoq.server.privsep import (
    MAIN_TO_ROUTER,
    MONITOR_TO_MAIN,
    NOTHING,
    ROUTER_TO_MAIN,
    Admit,
    Admitted,
    LoginSucceeded,
    NetworkProcessDied,
    NotAdmitted,
    Penalty,
    PrivsepError,
    PrivsepSocket,
    RouterFull,
    RouterReady,
    close_all,
    make_pair,
)
from sshoq.server.rate import RateLimit
from sshoq.wire import Message

ROUTER_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a router that died is started again, the more the sooner it dies each time."""

ROUTER_HEALTHY = 60.0
"""A router that lived so long has done nothing wrong: the next pause is the first again."""

BIND_TRIES = 20
BIND_PAUSE = 0.1
"""A server that was just stopped may still hold the address for a moment."""

GO_LOG_FILE = "sshoq.log"
"""Of a start in the Go style, in the directory where that happens."""

STOP_TIME = 2.0
"""Seconds for the routers to end."""

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

MAX_REFUSALS_LOGGED = 5
"""Lines a second about refused connections, and as many about full routers; a flood must not fill
the disk.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    fill_standard_descriptors()
    log.to_stderr(log.INFO)
    try:
        invocation = parse_command_line(list(sys.argv[1:] if arguments is None else arguments))
        return _MODES[invocation.mode](invocation)
    except (UsageError, ConfigError, IdentityError) as error:
        for line in error.lines:
            log.complain(line)
        return error.status


def _show_version(invocation: Invocation) -> int:
    log.complain(version_line())
    return 0


def _show_help(invocation: Invocation) -> int:
    log.complain(USAGE)
    return 0


def _test(invocation: Invocation) -> int:
    """`-t`: whether the server could start."""
    config = read_configuration(invocation)
    log.set_level(log.LEVELS[config.log_level])
    _tell_notes(config)
    read_identity(invocation, config)
    return 0


def _dump(invocation: Invocation) -> int:
    """`-T`: what the configuration comes to."""
    config = read_configuration(invocation)
    log.set_level(log.LEVELS[config.log_level])
    _tell_notes(config)
    read_identity(invocation, config)
    login = login_for_test(config, invocation.test_spec or {})
    sys.stdout.write("".join(f"{line}\n" for line in dump(config, login)))
    return 0


def _serve(invocation: Invocation) -> int:
    from sshoq.server.authentication import preload
    from sshoq.server.monitor import run_monitor

    preload()
    return Server(invocation, run_monitor).run()


_MODES = {
    "version": _show_version,
    "help": _show_help,
    "test": _test,
    "dump": _dump,
    "serve": _serve,
}


def read_configuration(invocation: Invocation) -> ServerConfig:
    """Flags, file, defaults. Also at SIGHUP, so it must not change the invocation."""
    path = invocation.config_file
    named = path is not None or invocation.no_config_file or invocation.go_style
    if not named and os.path.exists(DEFAULT_FILE):
        path = DEFAULT_FILE
    fixed = ("port",) if invocation.ports_given else ()
    config = load(path, invocation.overrides, invocation.fallbacks, fixed=fixed)
    if invocation.go_style and not config.host_key and config.certificate is None:
        files = [f"Certificate {GO_CERTIFICATE}", f"CertificateKey {GO_KEY}"]
        fallbacks = [*invocation.fallbacks, *files]
        config = load(path, invocation.overrides, fallbacks, fixed=fixed)
    return config


def read_identity(invocation: Invocation, config: ServerConfig) -> Identity:
    if invocation.go_style and config.certificate and config.certificate_key:
        ensure_certificate(config.certificate, config.certificate_key)
    return load_identity(config)


def _tell_notes(config: ServerConfig) -> None:
    for note in config.notes:
        log.write(note.level, note.text)


class Listener:
    """An address we listen at, and its router."""

    def __init__(self, udp: socket.socket, number: int) -> None:
        self.udp = udp
        self.number = number
        self.pid = 0
        self.control: PrivsepSocket | None = None
        self.ready = False
        self.started = 0.0
        self.failures = 0
        self.restart_at = 0.0


class Connection:
    """A monitor, and whether its connection still counts as one that has not logged in."""

    __slots__ = ("control", "peer", "pid", "source")

    def __init__(self, pid: int, peer: str, source: Source, control: PrivsepSocket) -> None:
        self.pid = pid
        self.peer = peer
        self.source: Source | None = source
        self.control = control


class Stop(Exception):
    """The server shall end, with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Server:
    """Main's life, from the start to the last signal."""

    def __init__(
        self, invocation: Invocation, run_monitor: RunMonitor, router_code: str = ROUTER_CODE
    ) -> None:
        self._invocation = invocation
        self._run_monitor = run_monitor
        self._router_code = router_code
        self._config = read_configuration(invocation)
        self._identity = read_identity(invocation, self._config)
        self._admission = Admission(self._config)
        self._listeners: dict[Address, Listener] = {}
        self._numbers = 0
        self._by_fd: dict[int, Listener | Connection] = {}
        self._connections: dict[int, Connection] = {}
        self._refusals = RateLimit(MAX_REFUSALS_LOGGED)
        self._complaints = RateLimit(MAX_REFUSALS_LOGGED)
        self._announced = False
        self._log_descriptor = -1

    # ------------------------------------------------------------------ start

    def run(self) -> int:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.umask(os.umask(0o077) | 0o022)
        raise_descriptor_limit()
        self._check_privileges()
        self._poll = select.epoll()
        self._first_descriptor = self._poll.fileno()
        self._bind(self._config)
        if not self._listeners:
            log.fatal("Cannot bind any address.")
            return 255
        self._keep_paths()
        try:
            self._open_log(self._config)
        except OSError as error:
            raise UsageError(
                f"Couldn't open logfile {error.filename}: {error.strerror}", status=255
            ) from None
        if not self._invocation.foreground:
            _daemonise()
        if os.geteuid() == 0:
            protect_from_oom()
            clear_inheritable_capabilities()
        self._wakeup = signals.watch(_SIGNALS)
        self._poll.register(self._wakeup, select.EPOLLIN)
        self._announce_addresses()
        self._write_pid_file()
        settle_heap()  # monitors are forked from here: what is loaded now is shared with them
        return self._serve()

    def _keep_paths(self) -> None:
        """A daemon leaves the directory that it is started in, and reads these files later."""
        invocation = self._invocation
        if invocation.config_file is not None:
            invocation.config_file = os.path.abspath(invocation.config_file)
        if invocation.log_file is not None:
            invocation.log_file = os.path.abspath(invocation.log_file)

    def _check_privileges(self) -> None:
        from sshoq.server.sandbox import prepare_sandbox

        amiss = prepare_sandbox()
        if amiss is not None:
            raise UsageError(amiss, status=255)

    def _bind(self, config: ServerConfig) -> None:
        """Open what is configured and not open yet; an address that cannot be had is reported."""
        for family, address in config.listen_addresses():
            if address in self._listeners:
                continue
            try:
                udp = _open_patiently(family, address)
            except BindError as error:
                log.error(str(error))
                continue
            self._numbers += 1
            self._listeners[address] = Listener(udp, self._numbers)

    def _open_log(self, config: ServerConfig) -> None:
        level = log.LEVELS[config.log_level]
        invocation = self._invocation
        path = invocation.log_file
        if path is not None:
            log.to_file(path, level)
        elif invocation.log_to_stderr:
            log.to_stderr(level)
        elif invocation.go_style:
            named = os.environ.get("SSH3_LOG_FILE")
            log.to_file(named or GO_LOG_FILE, level, as_json=True, is_named=bool(named))
        else:
            log.to_syslog(level, config.syslog_facility)
        self._log_descriptor = log.descriptor()
        _tell_notes(config)

    def _announce_addresses(self) -> None:
        from sshoq.server.sandbox import unconfined_reason

        if reason := unconfined_reason():
            log.error(reason)
        for listener in self._listeners.values():
            log.info(f"Server listening on {show_address(listener.udp.getsockname())}.")
        for key in self._identity.keys:
            log.debug(f"host key {key.fingerprint} from {key.source}")

    def _write_pid_file(self) -> None:
        path = self._config.pid_file
        if path is None or self._invocation.debug:
            return
        try:
            with open(path, "w") as file:
                file.write(f"{os.getpid()}\n")
        except OSError as error:
            log.error(f'Couldn\'t create pid file "{path}": {error.strerror}')

    def _remove_pid_file(self) -> None:
        path = self._config.pid_file
        if path is not None and not self._invocation.debug:
            with contextlib.suppress(OSError):
                os.unlink(path)

    # ------------------------------------------------------------------ the loop

    def _serve(self) -> int:
        try:
            while True:
                self._start_routers(time.monotonic())
                ready = self._poll.poll(self._until_next_start(time.monotonic()))
                # Routers last: what monitors have said counts for whoever comes now.
                for fd, _ in sorted(ready, key=self._is_router):
                    self._dispatch(fd)
        except Stop as stop:
            self._remove_pid_file()
            self._stop_routers()
            return stop.status

    def _is_router(self, event: tuple[int, int]) -> bool:
        return isinstance(self._by_fd.get(event[0]), Listener)

    def _dispatch(self, fd: int) -> None:
        if fd == self._wakeup:
            self._take_signals()
            return
        owner = self._by_fd.get(fd)
        if isinstance(owner, Listener):
            self._hear_router(owner)
        elif owner is not None:
            self._hear_monitor(owner)

    def _take_signals(self) -> None:
        received = set(os.read(self._wakeup, 4096))
        if signal.SIGCHLD in received:
            self._reap()
        if signal.SIGHUP in received:
            self._reload()
        for number in (signal.SIGTERM, signal.SIGINT):
            if number in received:
                log.info(f"Received signal {int(number)}; terminating.")
                raise Stop(0)

    # ------------------------------------------------------------------ routers

    def _start_routers(self, now: float) -> None:
        for listener in self._listeners.values():
            if listener.pid == 0 and listener.restart_at <= now:
                self._start_router(listener, now)

    def _start_router(self, listener: Listener, now: float) -> None:
        ours, theirs = make_pair()
        ours.setblocking(False)
        try:
            listener.pid = start_router(listener.udp, theirs, listener.number, self._router_code)
        except OSError as error:
            log.error(f"fork: {error.strerror}")
            self._plan_restart(listener, now)
            ours.close()
            return
        finally:
            theirs.close()
        listener.started = now
        listener.ready = False
        listener.control = PrivsepSocket(ours, MAIN_TO_ROUTER, ROUTER_TO_MAIN)
        self._watch(ours, listener)

    def _plan_restart(self, listener: Listener, now: float) -> None:
        if now - listener.started > ROUTER_HEALTHY:
            listener.failures = 0
        pause = ROUTER_PAUSES[min(listener.failures, len(ROUTER_PAUSES) - 1)]
        listener.failures += 1
        listener.restart_at = now + pause

    def _until_next_start(self, now: float) -> float | None:
        waiting = [one.restart_at for one in self._listeners.values() if one.pid == 0]
        return max(0.0, min(waiting) - now) if waiting else None

    def _hear_router(self, listener: Listener) -> None:
        control = listener.control
        assert control is not None
        try:
            message, descriptors = control.receive()
            close_all(descriptors)
            self._answer_router(listener, control, message)
        except BlockingIOError:
            return
        except (PrivsepError, OSError) as error:  # the kernel may have no room for an answer
            log.debug(f"router {listener.pid}: {error}")
            self._drop_router(listener)

    def _answer_router(self, listener: Listener, control: PrivsepSocket, message: Message) -> None:
        if isinstance(message, RouterReady):
            listener.ready = True
            self._announce_ready()
        elif isinstance(message, Admit):
            self._admit(listener, control, message)
        elif isinstance(message, RouterFull):
            self._note_full(listener, message)
        elif isinstance(message, NetworkProcessDied):
            self._note_fault(message)

    def _note_full(self, listener: Listener, full: RouterFull) -> None:
        where = show_address(listener.udp.getsockname())
        most = f"{full.most} connections at {where}"
        if self._complaints.allows(time.monotonic()):
            log.error(f"no room for more than {most}: RLIMIT_NOFILE is too low")

    def _note_fault(self, died: NetworkProcessDied) -> None:
        """As sshd does when its confined process crashes. Who has not shown that the address is
        its own gets nobody punished."""
        peer = f"[{died.peer_address}]:{died.peer_port}"
        self._log_refusal(f"network process for {peer} was killed by signal {died.signal}")
        if died.is_validated:
            with contextlib.suppress(ValueError):
                self._admission.penalise(died.peer_address, "crash", time.monotonic())

    def _drop_router(self, listener: Listener) -> None:
        """It broke the rules, or has closed its socket: without it no newcomer is served, so end
        it. Its connections live on.
        """
        if listener.control is not None:
            self._forget(listener.control)
            listener.control = None
        if listener.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(listener.pid, signal.SIGKILL)

    def _announce_ready(self) -> None:
        if self._announced or not all(one.ready for one in self._listeners.values()):
            return
        self._announced = True
        _notify_systemd(f"READY=1\nMAINPID={os.getpid()}")
        if self._invocation.go_style:
            where = f"{self._invocation.bind.text}{self._config.url_path}"
            log.complain(f"Server started, listening on {where}")

    def _stop_routers(self) -> None:
        _notify_systemd("STOPPING=1")
        pids = []
        for listener in self._listeners.values():
            pids += self._retire(listener)
        _wait_for(pids, STOP_TIME)

    def _retire(self, listener: Listener) -> list[int]:
        """Give up an address. Its router ends as its socket to us does; returns its pid."""
        if listener.control is not None:
            self._forget(listener.control)
            listener.control = None
        listener.udp.close()
        return [listener.pid] if listener.pid else []

    # ------------------------------------------------------------------ newcomers

    def _admit(self, listener: Listener, control: PrivsepSocket, request: Admit) -> None:
        where = f"from [{request.peer_address}]:{request.peer_port}"
        try:
            peer = parse_peer(listener.udp.family, request.peer_address, request.peer_port)
            check_local(listener.udp, request.local_address)
        except ValueError as error:
            # No fault of the router's: anybody can send a datagram from port 0, or from nowhere.
            self._log_refusal(f"no connection {where}: {error}")
            control.answer(NotAdmitted("impossible address"))
            return
        try:
            self._limit_debug_mode()
            source = self._admission.admit(peer[0], time.monotonic())
        except Refused as error:
            self._log_refusal(f"drop connection #{self._admission.waiting} {where}: {error}")
            control.answer(NotAdmitted(str(error)))
            return
        try:
            self._connect(listener, control, request, peer, source)
        except OSError as error:
            self._log_refusal(f"no connection {where}: {error.strerror}")
            control.answer(NotAdmitted(error.strerror or "error"))

    def _limit_debug_mode(self) -> None:
        """With -d one connection is served, as sshd does it."""
        if self._invocation.debug and self._connections:
            raise Refused("in debug mode one connection is served")

    def _connect(
        self,
        listener: Listener,
        control: PrivsepSocket,
        request: Admit,
        peer: Address,
        source: Source,
    ) -> None:
        """Make the connection's socket and its monitor, and hand both to the router."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as place:
            place.callback(self._admission.release, source)
            udp = ours.enter_context(open_connection(listener.udp, peer, request.local_address))
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
            self._watch(to_monitor, connection)
            # The monitor, which has the other end, ends by itself when nobody takes this one.
            control.answer(Admitted(), [udp.fileno(), network_end.fileno()])

    def _fork_monitor(
        self, sockets: tuple[socket.socket, socket.socket], facts: ConnectionFacts
    ) -> int:
        return start_monitor(
            self._run_monitor,
            sockets,
            self._config,
            self._identity,
            facts,
            keep=[self._log_descriptor],
            first_closed=self._first_descriptor,
        )

    def _log_refusal(self, text: str) -> None:
        if self._refusals.allows(time.monotonic()):
            log.info(text)

    # ------------------------------------------------------------------ monitors

    def _hear_monitor(self, connection: Connection) -> None:
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
            self._forget(connection.control)

    def _settle(self, connection: Connection) -> None:
        if connection.source is not None:
            self._admission.release(connection.source)
            connection.source = None

    def _watch(self, end: socket.socket, owner: Listener | Connection) -> None:
        self._poll.register(end, select.EPOLLIN)
        self._by_fd[end.fileno()] = owner

    def _forget(self, control: PrivsepSocket) -> None:
        fd = control.fileno()
        if self._by_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)
            control.close()

    # ------------------------------------------------------------------ children that ended

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._connections:
                self._end_connection(self._connections.pop(pid), status)
            else:
                self._end_router(pid, status)

    def _end_connection(self, connection: Connection, status: int) -> None:
        if connection.control.fileno() >= 0:
            self._hear_monitor(connection)
            self._forget(connection.control)
        self._settle(connection)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            log.error(f"monitor {connection.pid} was killed by signal {number}")
            # Its own alarm ends it when a PAM module has not answered within the grace time.
            kind = "grace-exceeded" if number == signal.SIGALRM else "crash"
            self._admission.penalise(connection.peer, kind, time.monotonic())
        if self._invocation.debug and not self._connections:
            raise Stop(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 255)

    def _end_router(self, pid: int, status: int) -> None:
        for listener in self._listeners.values():
            if listener.pid == pid:
                listener.pid = 0
                self._drop_router(listener)
                self._plan_restart(listener, time.monotonic())
                log.error(
                    f"router {pid} at {show_address(listener.udp.getsockname())} "
                    f"{_describe_end(status)}, starting another"
                )

    # ------------------------------------------------------------------ SIGHUP

    def _reload(self) -> None:
        """The configuration anew, for new connections; a bad one changes nothing."""
        log.info("Received SIGHUP; reading the configuration anew.")
        _notify_systemd(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = read_configuration(self._invocation)
            identity = read_identity(self._invocation, config)
            wanted = [address for _, address in config.listen_addresses()]
        except (ConfigError, IdentityError) as error:
            for line in error.lines:
                log.error(line)
            log.error("the configuration is kept as it was")
        else:
            self._change_to(config, identity, wanted)
        _notify_systemd("READY=1")

    def _change_to(self, config: ServerConfig, identity: Identity, wanted: list[Address]) -> None:
        old_pid_file = self._config.pid_file
        if config.pid_file != old_pid_file:
            self._remove_pid_file()
        self._config, self._identity = config, identity
        self._admission.reconfigure(config)
        if config.pid_file != old_pid_file:
            self._write_pid_file()
        try:
            self._open_log(config)  # the file may have been rotated
        except OSError as error:
            log.error(f"Couldn't open logfile {error.filename}: {error.strerror}")
        known = set(self._listeners)
        self._bind(config)
        for address in [one for one in self._listeners if one not in wanted]:
            if len(self._listeners) > 1:
                self._retire(self._listeners.pop(address))
        for address in set(self._listeners) - known:
            log.info(f"Server listening on {show_address(address)}.")


# --------------------------------------------------------------------------- around the server


def _open_patiently(family: int, address: Address) -> socket.socket:
    for _ in range(BIND_TRIES):
        try:
            return open_listener(family, address)
        except BindError as error:
            if not error.in_use:
                raise
        time.sleep(BIND_PAUSE)
    return open_listener(family, address)


def fill_standard_descriptors() -> None:
    """Whoever starts us may have closed some: a socket must not get the number that logs and
    programs write to."""
    opened = os.open(os.devnull, os.O_RDWR)
    while opened <= 2:
        os.set_inheritable(opened, True)
        opened = os.dup(opened)
    os.close(opened)


def _daemonise() -> None:
    """The parent returns to the shell at once, as sshd's does."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _notify_systemd(state: str) -> None:
    """sd_notify(3), which is a datagram."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path or path[0] not in "/@":
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.connect("\0" + path[1:] if path[0] == "@" else path)
        end.send(state.encode())


def _wait_for(pids: list[int], seconds: float) -> None:
    """Until these children have ended; the ones that do not are killed."""
    end = time.monotonic() + seconds
    left = set(pids)
    while left and time.monotonic() < end:
        for pid in list(left):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            left.discard(pid)
        if left:
            time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)


def _describe_end(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"exited with status {os.WEXITSTATUS(status)}"


if __name__ == "__main__":
    sys.exit(main())
