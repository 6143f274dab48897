"""Process: main [root, or the invoking user: then everything is single-user]. Starts the server and
keeps it running.

Reads flags, configuration and key, binds the sockets, starts one router for each; then answers the
routers, which ask whether a newcomer is welcome, by forking a monitor. It parses no packet and sees
no user's byte, and takes what a router says for the words of a stranger.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from sshoq.server import log, signals
from sshoq.server.admission import Admission
from sshoq.server.children import ROUTER_CODE, RunMonitor, protect_from_oom, start_monitor
from sshoq.server.config import ConfigError, ServerConfig
from sshoq.server.config_dump import dump, login_for_test
from sshoq.server.config_reader import DEFAULT_FILE, load
from sshoq.server.connection import ConnectionFacts
from sshoq.server.connections import Connections
from sshoq.server.control_poll import ControlPoll
from sshoq.server.daemon import (
    daemonise,
    fill_standard_descriptors,
    notify_systemd,
    remove_pid_file,
    settle_process,
    write_pid_file,
)
from sshoq.server.flags import (
    GO_CERTIFICATE,
    GO_KEY,
    USAGE,
    Invocation,
    UsageError,
    parse_command_line,
    version_line,
)
from sshoq.server.heap import make_immortal, settle_heap
from sshoq.server.identity import Identity, IdentityError, ensure_certificate, load_identity
from sshoq.server.libc import clear_inheritable_capabilities
from sshoq.server.listener import Address
from sshoq.server.privsep import Admit, NetworkProcessDied, RouterFull, RouterReady
from sshoq.server.privsep_socket import PrivsepSocket
from sshoq.server.rate import RateLimit
from sshoq.server.routers import Listener, Routers
from sshoq.wire import Message

GO_LOG_FILE = "sshoq.log"
"""Of a start in the Go style, in the directory where that happens."""

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

MAX_COMPLAINTS_LOGGED = 5
"""Lines a second about full routers, which may complain without end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    fill_standard_descriptors()
    log.to_stderr(log.INFO)
    tell = log.complain
    try:
        invocation = parse_command_line(list(sys.argv[1:] if arguments is None else arguments))
        if invocation.log_file is not None and invocation.mode in _LOGGING_MODES:
            _open_named_log(invocation.log_file)
            tell = log.error
        return _MODES[invocation.mode](invocation)
    except (UsageError, ConfigError, IdentityError) as error:
        for line in error.lines:
            tell(line)
        return error.status


def _open_named_log(path: str) -> None:
    """`-E`: as with sshd, whatever is wrong with the rest is told there already."""
    try:
        log.to_file(path, log.INFO)
    except OSError as error:
        raise UsageError(f"Couldn't open logfile {path}: {error.strerror}") from None


def _show_version(invocation: Invocation) -> int:
    log.complain(version_line())
    return 0


def _show_help(invocation: Invocation) -> int:
    log.complain(USAGE)
    return 0


def _test(invocation: Invocation) -> int:
    """`-t`: whether the server could start."""
    _read_all(invocation)
    _check_privileges()
    return 0


def _read_all(invocation: Invocation) -> ServerConfig:
    """Whatever a start reads and looks up, with what there is to say of it."""
    config = read_configuration(invocation)
    log.set_level(log.LEVELS[config.log_level])
    _tell_notes(config)
    config.listen_addresses()
    read_identity(invocation, config)
    return config


def _check_privileges() -> None:
    from sshoq.server.sandbox import prepare_sandbox

    amiss = prepare_sandbox()
    if amiss is not None:
        raise UsageError(amiss, status=255)


def _dump(invocation: Invocation) -> int:
    """`-T`: what the configuration comes to."""
    config = _read_all(invocation)
    login = login_for_test(config, invocation.test_spec or {})
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for "| grep -q"
    sys.stdout.write("".join(f"{line}\n" for line in dump(config, login)))
    return 0


def _serve(invocation: Invocation) -> int:
    from sshoq.server.authentication import preload
    from sshoq.server.monitor import run_monitor

    preload()
    return serve(invocation, run_monitor)


def serve(invocation: Invocation, run_monitor: RunMonitor, router_code: str = ROUTER_CODE) -> int:
    """The files that are named may be descriptors of our starter's, which we do not keep."""
    config = read_configuration(invocation)
    make_immortal()  # but no key: a session leader has to be without them
    identity = read_identity(invocation, config)
    settle_process(log.descriptor())
    return Server(invocation, config, identity, run_monitor, router_code).run()


_MODES = {
    "version": _show_version,
    "help": _show_help,
    "test": _test,
    "dump": _dump,
    "serve": _serve,
}
_LOGGING_MODES = ("test", "dump", "serve")


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


def read_identity(
    invocation: Invocation, config: ServerConfig, *, may_make: bool = True
) -> Identity:
    """A server that runs shows nobody a key that was just made: its own have been taken away, be it
    for a moment, and are better kept."""
    if may_make and invocation.go_style and config.certificate and config.certificate_key:
        ensure_certificate(config.certificate, config.certificate_key)
    return load_identity(config, may_make=may_make)


def _tell_notes(config: ServerConfig) -> None:
    for note in config.notes:
        log.write(note.level, note.text)


class Stop(Exception):
    """The server shall end, with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Server:
    """Main's life, from the start to the last signal."""

    def __init__(
        self,
        invocation: Invocation,
        config: ServerConfig,
        identity: Identity,
        run_monitor: RunMonitor,
        router_code: str,
    ) -> None:
        self._invocation = invocation
        self._config = config
        self._identity = identity
        self._run_monitor = run_monitor
        self._poll = ControlPoll()
        self._admission = Admission(config)
        self._routers = Routers(self._poll, self._hear_router, router_code)
        self._connections = Connections(
            self._poll, self._admission, self._fork_monitor, only_one=invocation.debug > 0
        )
        self._complaints = RateLimit(MAX_COMPLAINTS_LOGGED)
        self._announced = False
        self._log_descriptor = -1

    # ------------------------------------------------------------------ start

    def run(self) -> int:
        _check_privileges()
        self._routers.bind(self._config)
        if not self._routers.places:
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
            daemonise()
        if os.geteuid() == 0:
            protect_from_oom()
            clear_inheritable_capabilities()
        self._wakeup = signals.watch(_SIGNALS)
        self._poll.add(self._wakeup, self._take_signals)
        self._announce_addresses()
        self._announce_lack_of_rules()
        if self._pid_file is not None:
            write_pid_file(self._pid_file)
        settle_heap()  # monitors are forked from here: what is loaded now is shared with them
        return self._serve()

    def _keep_paths(self) -> None:
        """A daemon leaves the directory that it is started in, and reads these files later."""
        invocation = self._invocation
        if invocation.config_file is not None:
            invocation.config_file = os.path.abspath(invocation.config_file)
        if invocation.log_file is not None:
            invocation.log_file = os.path.abspath(invocation.log_file)

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
        for place in self._routers.places.values():
            log.info(f"Server listening on {place}.")
        for key in self._identity.keys:
            log.debug(f"host key {key.fingerprint} from {key.source}")

    def _announce_lack_of_rules(self) -> None:
        from sshoq.server.pam import missing_rules

        has_pam = self._config.use_pam and os.geteuid() == 0
        if has_pam and (lack := missing_rules(self._config.pam_service_name)):
            log.info(lack)

    @property
    def _pid_file(self) -> str | None:
        return None if self._invocation.debug else self._config.pid_file

    # ------------------------------------------------------------------ the loop

    def _serve(self) -> int:
        try:
            while True:
                self._routers.start_due(time.monotonic())
                self._poll.turn(self._routers.until_next_start(time.monotonic()))
        except Stop as stop:
            if self._pid_file is not None:
                remove_pid_file(self._pid_file)
            notify_systemd("STOPPING=1")
            self._routers.stop()
            return stop.status

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

    # ------------------------------------------------------------------ children

    def _hear_router(self, listener: Listener, control: PrivsepSocket, message: Message) -> None:
        if isinstance(message, RouterReady):
            listener.ready = True
            self._announce_ready()
        elif isinstance(message, Admit):
            self._connections.admit(listener.udp, control, message)
        elif isinstance(message, RouterFull):
            self._note_full(listener, message)
        elif isinstance(message, NetworkProcessDied):
            self._connections.note_fault(message)

    def _note_full(self, listener: Listener, full: RouterFull) -> None:
        if self._complaints.allows(time.monotonic()):
            log.error(
                f"no room for more than {full.most} connections at {listener.place}: "
                "RLIMIT_NOFILE is too low"
            )

    def _announce_ready(self) -> None:
        if self._announced or not self._routers.are_ready():
            return
        self._announced = True
        notify_systemd(f"READY=1\nMAINPID={os.getpid()}")
        if self._invocation.go_style:
            where = f"{self._invocation.bind.text}{self._config.url_path}"
            log.complain(f"Server started, listening on {where}")

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
            first_closed=self._poll.fileno(),
        )

    def _reap(self) -> None:
        for pid, status in signals.ended_children():
            if pid in self._connections:
                self._connections.note_end(pid, status)
                self._end_debug_mode(status)
            else:
                self._routers.note_end(pid, status)

    def _end_debug_mode(self, status: int) -> None:
        """With the one connection that is served in it."""
        if self._invocation.debug and not self._connections:
            raise Stop(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 255)

    # ------------------------------------------------------------------ SIGHUP

    def _reload(self) -> None:
        """The configuration anew, for new connections; a bad one changes nothing."""
        log.info("Received SIGHUP; reading the configuration anew.")
        notify_systemd(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = read_configuration(self._invocation)
            identity = read_identity(self._invocation, config, may_make=False)
            wanted = [address for _, address in config.listen_addresses()]
        except (ConfigError, IdentityError) as error:
            for line in error.lines:
                log.error(line)
            log.error("the configuration is kept as it was")
        else:
            self._change_to(config, identity, wanted)
        notify_systemd("READY=1")

    def _change_to(self, config: ServerConfig, identity: Identity, wanted: list[Address]) -> None:
        old_pid_file = self._pid_file
        self._config, self._identity = config, identity
        self._admission.reconfigure(config)
        if self._pid_file != old_pid_file:
            self._move_pid_file(old_pid_file)
        try:
            self._open_log(config)  # the file may have been rotated
        except OSError as error:
            log.error(f"Couldn't open logfile {error.filename}: {error.strerror}")
        known = self._routers.places
        self._routers.bind(config)
        self._routers.keep_only(wanted)
        for address, place in self._routers.places.items():
            if address not in known:
                log.info(f"Server listening on {place}.")

    def _move_pid_file(self, old: str | None) -> None:
        if old is not None:
            remove_pid_file(old)
        if self._pid_file is not None:
            write_pid_file(self._pid_file)


if __name__ == "__main__":
    sys.exit(main())
