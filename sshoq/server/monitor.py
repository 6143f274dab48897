"""Process: monitor [root], one per QUIC connection.

Answers the short table of what the network process and the session leader may ask, and decides all
of it itself. It holds the TLS key and the PAM handle, is the ancestor of everything that the user
runs, and undoes everything at the end. Plain blocking Python; it parses nothing but our own
messages.
"""

import contextlib
import os
import random
import select
import signal
import socket
import time
from collections.abc import Callable
from enum import Enum

from sshoq.named_tuple import NamedTuple
from sshoq.server import libc, log, signals
from sshoq.server.authentication import Authenticator
from sshoq.server.config import ServerConfig
from sshoq.server.connection import ConnectionFacts
from sshoq.server.identity import Identity
from sshoq.server.leader_process import LeaderProcess, check_program
from sshoq.server.listener import parse_peer, show_address
from sshoq.server.pam import PamError
from sshoq.server.privsep import (
    FROM_MONITOR,
    MONITOR_TO_MAIN,
    NOTHING,
    TO_MONITOR,
    AddressValidated,
    Authenticate,
    AuthenticationResult,
    Chain,
    HandshakeSigned,
    HostKeysProven,
    LoginFailed,
    LoginOpened,
    LoginSucceeded,
    LogLine,
    MoveSocket,
    Penalty,
    ProgramGone,
    ProgramRunning,
    ProveHostKeys,
    Recorded,
    RecordLogin,
    RecordLogout,
    SignHandshake,
    SocketMoved,
    Welcome,
)
from sshoq.server.privsep_socket import PeerGone, PrivsepError, PrivsepSocket, close_all
from sshoq.server.rights import LoginRights
from sshoq.server.terminals import Terminals
from sshoq.wire import Message

SIGNED_CONTEXT = b" " * 64 + b"TLS 1.3, server CertificateVerify" + b"\0"
HASH_LENGTHS = (32, 48)
MAX_SIGNATURES = 2
"""One handshake needs one; a second one is spared for a retry."""

GRACE_JITTER = 4.0
"""Seconds by which LoginGraceTime may be longer, so that connections made together do not end
together."""

STUCK = 10
"""Seconds after which the kernel ends a monitor that a PAM module holds beyond the grace time."""

CLOSING_TIME = 5.0
"""Seconds the network process has for closing after it was told that there are no more tries."""

INTERNET = (socket.AF_INET, socket.AF_INET6)
MAX_LOG_LINES = 1000


class Phase(Enum):
    BEFORE_LOGIN = "before login"
    CLOSING = "no more tries"
    AFTER_LOGIN = "after login"


class Rule(NamedTuple):
    """What answers a message, in which phases it may come, and how often."""

    answer: Callable[..., None]
    phases: tuple[Phase, ...]
    most: int | None = None


class Over(Exception):
    """The connection is over: an ordinary end."""


class Monitor:
    """One connection, from its first packet to the last trace of its login."""

    def __init__(
        self,
        network: PrivsepSocket,
        main: PrivsepSocket,
        config: ServerConfig,
        identity: Identity,
        connection: ConnectionFacts,
    ) -> None:
        self._network = network
        self._main: PrivsepSocket | None = main
        self._config = config
        self._identity = identity
        self._connection = connection
        self._is_validated = False
        self._authenticator = Authenticator(config, connection, self._exchange)
        self._is_exchanging = False
        self._next_try: Authenticate | None = None
        self._phase = Phase.BEFORE_LOGIN
        self._counts: dict[type[Message], int] = {}
        self._deadline: float | None = None
        self._grace_over = False
        self._leader: LeaderProcess | None = None
        self._terminals = Terminals()
        self._poll = select.poll()
        self._wakeup = -1

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Until the network process or the leader is gone, or breaks the rules."""
        self._start_grace()
        self._wakeup = signals.watch((signal.SIGCHLD, signal.SIGTERM))
        self._poll.register(self._network, select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)
        if self._main is not None:
            self._poll.register(self._main, 0)  # it only ever hangs up, which is no reason to end
        self._network.send(self._welcome())
        while True:
            self._serve_next()

    def _serve_next(self) -> None:
        for fd, _ in self._poll.poll(self._milliseconds_left()):
            self._serve(fd)
        self._check_deadline()

    def _serve(self, fd: int) -> None:
        if fd == self._wakeup:
            self._take_signals(self._wakeup)
        elif fd == self._network.fileno():
            self._answer(self._network, NETWORK_RULES)
        elif self._leader is not None and fd == self._leader.control.fileno():
            self._answer(self._leader.control, LEADER_RULES)
        elif self._main is not None and fd == self._main.fileno():
            self._lose_main()

    def _answer(self, end: PrivsepSocket, rules: dict[type[Message], Rule]) -> None:
        message, descriptors = end.receive()
        try:
            rule = rules[type(message)]
            count = self._counts.get(type(message), 0) + 1
            self._counts[type(message)] = count
            if self._phase not in rule.phases or (rule.most is not None and count > rule.most):
                raise PrivsepError(f"{type(message).__name__} is not permitted {self._phase.value}")
            rule.answer(self, message, descriptors)
        finally:
            close_all(descriptors)

    def _take_signals(self, wakeup: int) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGTERM in os.read(wakeup, 4096):
                raise Over
        if self._leader is not None:  # before there is one, children may be a PAM module's own
            self._leader.reap()
            if self._leader.status is not None:
                raise Over

    def _lose_main(self) -> None:
        """Main has ended or starts anew; a running connection is no concern of its."""
        if self._main is not None:
            self._poll.unregister(self._main)
            self._main.close()
            self._main = None

    def _tell_main(self, message: Message) -> None:
        if self._main is None:
            return
        try:
            self._main.send(message)
        except (PrivsepError, BlockingIOError):
            self._lose_main()

    # ------------------------------------------------------------------ time

    def _start_grace(self) -> None:
        grace = self._config.login_grace_time
        if not grace:
            return
        self._deadline = time.monotonic() + grace + random.uniform(0, GRACE_JITTER)
        # A PAM module may hang in the middle of an answer; this ends even that.
        signals.dispose((signal.SIGALRM,), signals.DEFAULT)
        signal.alarm(int(grace + GRACE_JITTER) + STUCK)

    def _milliseconds_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic()) * 1000 + 1

    def _check_deadline(self) -> None:
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        if self._phase is Phase.BEFORE_LOGIN:
            self._grace_over = True
            where = self._connection
            log.info(
                f"Timeout before authentication for connection from {where.peer_address} to "
                f"{where.local_address}, pid = {os.getpid()}"
            )
        raise Over

    # ------------------------------------------------------------------ before login

    def _welcome(self) -> Welcome:
        config, where = self._config, self._connection
        return Welcome(
            url_path=config.url_path,
            chains=tuple(Chain(key.scheme, key.certificates) for key in self._identity.keys),
            prefers_first=self._identity.prefers_first,
            host_keys=self._identity.host_keys,
            peer_address=where.peer_address,
            local_address=where.local_address,
            peer_port=where.peer_port,
            local_port=where.local_port,
            login_grace_time=config.login_grace_time,
            client_alive_interval=config.client_alive_interval,
            client_alive_count_max=config.client_alive_count_max,
            congestion_control=config.congestion_control,
            verbosity=max(0, log.level() - log.INFO + 1),
        )

    def sign_handshake(self, request: SignHandshake, _: list[int]) -> None:
        """Nothing but the very content of a server's CertificateVerify: else whoever has the
        network process could have anything signed with the host's key."""
        content = request.content
        length = len(content) - len(SIGNED_CONTEXT)
        if not content.startswith(SIGNED_CONTEXT) or length not in HASH_LENGTHS:
            raise PrivsepError("asked to sign what is no handshake")
        try:
            signature = self._identity.sign(request.scheme, content)
        except ValueError as error:
            raise PrivsepError(str(error)) from None
        self._network.answer(HandshakeSigned(signature))

    def prove_host_keys(self, request: ProveHostKeys, _: list[int]) -> None:
        """What is signed says for which connection: the one whose login we have let in."""
        if len(set(request.keys)) != len(request.keys):
            raise PrivsepError("asked to prove a host key more than once")
        conversation_id = self._authenticator.conversation_id
        try:
            proofs = [self._identity.prove(key, conversation_id) for key in request.keys]
        except ValueError as error:
            raise PrivsepError(str(error)) from None
        self._network.answer(HostKeysProven(tuple(proofs)))

    def authenticate(self, request: Authenticate, _: list[int]) -> None:
        if self._is_exchanging:
            self._next_try = request
            return
        try:
            result = self._authenticator.attempt(request)
        except PamError as error:
            log.fatal(f"PAM: {error}")
            raise Over from None
        if result.outcome == AuthenticationResult.ACCEPTED:
            self._phase = Phase.AFTER_LOGIN
            self._deadline = None
            signal.alarm(0)
            self._network.answer(result)
            self._tell_main(LoginSucceeded())
            self._open_login()
            return
        if result.outcome == AuthenticationResult.CLOSED:
            self._phase = Phase.CLOSING
            self._deadline = time.monotonic() + CLOSING_TIME
        self._network.answer(result)

    def _exchange(self, challenge: AuthenticationResult) -> Authenticate:
        """PAM asks in the middle of a try. Everything is served as ever until the client's next
        request is there; LoginGraceTime and the other ends of a connection end it here, too."""
        self._network.answer(challenge)
        self._is_exchanging = True
        try:
            while self._next_try is None:
                self._serve_next()
            request, self._next_try = self._next_try, None
            return request
        finally:
            self._is_exchanging = False

    def note_address(self, _: Message, __: list[int]) -> None:
        """The client has answered from its address. A network process that lies about it can only
        have its own client's address punished."""
        self._is_validated = True

    def move_socket(self, request: MoveSocket, descriptors: list[int]) -> None:
        """The kernel is to give the connection's socket the packets from where the client is now.
        """
        if len(descriptors) != 1:
            raise PrivsepError("a move without a socket")
        try:
            # It takes the descriptor over, unless that is no socket at all.
            udp = socket.socket(fileno=descriptors[0])
        except OSError:
            raise PrivsepError("a move with what is no socket") from None
        descriptors.clear()
        try:
            with udp:
                if udp.type != socket.SOCK_DGRAM or udp.family not in INTERNET:
                    raise PrivsepError("a move with another kind of socket")
                udp.connect(parse_peer(udp.family, request.peer_address, request.peer_port))
        except (OSError, ValueError) as error:
            log.debug(f"cannot connect the socket to {request.peer_address}: {error}")
        self._network.answer(SocketMoved())

    def pass_log_line(self, line: LogLine, _: list[int]) -> None:
        """The log makes it harmless; here it is said whose word it is, and that it ends."""
        suffix = "" if self._phase is Phase.AFTER_LOGIN else " [preauth]"
        level = min(log.ERROR + line.level, log.DEBUG3)
        log.write(level, line.text + suffix)

    # ------------------------------------------------------------------ the login

    def _open_login(self) -> None:
        rights = self._authenticator.login
        assert rights is not None
        libc.set_process_name("sshoq-monitor", rights.account.name)
        try:
            rights = self._open_session(rights)
        except PamError as error:
            log.error(f"PAM: {error}")
            pam = self._authenticator.pam
            told = "" if pam is None else pam.take_messages()
            self._network.answer(LoginFailed("PAM session not opened", told))
            return
        config = rights.config
        pam = self._authenticator.pam
        self._leader, theirs = LeaderProcess.start(rights, pam, self._identity)
        self._poll.register(self._leader.control, select.POLLIN)
        try:
            self._network.answer(
                LoginOpened(
                    max(0, config.max_sessions),
                    config.client_alive_interval,
                    config.client_alive_count_max,
                    config.channel_timeout,
                    config.unused_connection_timeout or 0,
                ),
                [theirs.fileno()],
            )
        finally:
            theirs.close()

    def _open_session(self, rights: LoginRights) -> LoginRights:
        """In this process, since modules mark the one that calls them, and its children."""
        pam = self._authenticator.pam
        if pam is None:
            return rights
        pam.set_credentials()
        pam.open_session()
        return rights._replace(pam_environment=pam.environment(), messages=pam.take_messages())

    # ------------------------------------------------------------------ what the leader asks

    def record_login(self, request: RecordLogin, descriptors: list[int]) -> None:
        rights = self._authenticator.login
        assert rights is not None
        assert self._leader is not None
        if len(descriptors) != 1:
            raise PrivsepError("a login on no terminal, or on several")
        check_program(request.pid)
        tells_last = rights.config.print_last_log
        last_login = self._terminals.begin(
            request,
            descriptors[0],
            rights.account,
            rights.connection,
            tells_last=tells_last,
        )
        self._leader.control.answer(Recorded(last_login))

    def record_logout(self, request: RecordLogout, _: list[int]) -> None:
        self._terminals.end(request.session)

    def note_program(self, request: ProgramRunning, _: list[int]) -> None:
        assert self._leader is not None
        self._leader.note_program(request.pid)

    def forget_program(self, request: ProgramGone, _: list[int]) -> None:
        assert self._leader is not None
        self._leader.forget_program(request.pid)

    # ------------------------------------------------------------------ the end

    def finish(self) -> None:
        """Leave nothing behind: no process, no record, no PAM session. Never stops half-way."""
        signal.alarm(0)
        for step in (
            self._log_end,
            self._end_leader,
            self._hang_up_orphans,
            self._terminals.end_all,
            self._close_pam,
            self._tell_penalty,
        ):
            try:
                step()
            except Exception as error:
                log.error(f"while ending: {error!r}")

    def _log_end(self) -> None:
        where = self._connection.peer
        authenticator = self._authenticator
        if authenticator.login is not None:
            log.info(f"Disconnected from user {authenticator.login.account.name} {where}")
        elif self._phase is Phase.BEFORE_LOGIN and not self._grace_over:
            who = f"{authenticator.description} " if authenticator.user is not None else ""
            log.info(f"Connection closed by {who}{where} [preauth]")

    def _end_leader(self) -> None:
        self._network.close()
        if self._leader is not None:
            self._leader.end()

    def _hang_up_orphans(self) -> None:
        rights = self._authenticator.login
        if self._leader is not None and rights is not None:
            self._leader.hang_up_orphans(rights.account)

    def _close_pam(self) -> None:
        if self._authenticator.pam is not None:
            self._authenticator.pam.close()

    def _tell_penalty(self) -> None:
        kind = self._penalty()
        if kind is not None:
            self._tell_main(Penalty(kind))

    def _penalty(self) -> str | None:
        authenticator = self._authenticator
        if authenticator.login is not None:
            return None
        if authenticator.is_refused:
            return "refuseconnection"
        if not self._is_validated:
            return None  # whoever sent the first packet, it need not have been that address
        if self._grace_over:
            return "grace-exceeded"
        if authenticator.user is not None and not authenticator.is_valid:
            return "invaliduser"
        return "authfail" if authenticator.failures else "noauth"


_ALWAYS = (Phase.BEFORE_LOGIN, Phase.CLOSING, Phase.AFTER_LOGIN)

NETWORK_RULES: dict[type[Message], Rule] = {
    SignHandshake: Rule(Monitor.sign_handshake, (Phase.BEFORE_LOGIN,), most=MAX_SIGNATURES),
    AddressValidated: Rule(Monitor.note_address, (Phase.BEFORE_LOGIN,), most=1),
    Authenticate: Rule(Monitor.authenticate, (Phase.BEFORE_LOGIN,)),
    MoveSocket: Rule(Monitor.move_socket, _ALWAYS),
    ProveHostKeys: Rule(Monitor.prove_host_keys, (Phase.AFTER_LOGIN,), most=1),
    LogLine: Rule(Monitor.pass_log_line, _ALWAYS, most=MAX_LOG_LINES),
}

LEADER_RULES: dict[type[Message], Rule] = {
    RecordLogin: Rule(Monitor.record_login, (Phase.AFTER_LOGIN,)),
    RecordLogout: Rule(Monitor.record_logout, (Phase.AFTER_LOGIN,)),
    ProgramRunning: Rule(Monitor.note_program, (Phase.AFTER_LOGIN,)),
    ProgramGone: Rule(Monitor.forget_program, (Phase.AFTER_LOGIN,)),
}


def run_monitor(
    to_network: socket.socket,
    to_main: socket.socket,
    config: ServerConfig,
    identity: Identity,
    connection: ConnectionFacts,
) -> int:
    """The monitor's life, in a process of its own. Returns its exit status."""
    _prepare_process(connection)
    to_main.setblocking(False)
    monitor = Monitor(
        PrivsepSocket(to_network, FROM_MONITOR, TO_MONITOR),
        PrivsepSocket(to_main, MONITOR_TO_MAIN, NOTHING),
        config,
        identity,
        connection,
    )
    where = connection
    log.verbose(
        f"Connection from {where.peer} on {where.local_address} port {where.local_port}"
    )
    status = 0
    try:
        monitor.run()
    except (Over, PeerGone):
        pass
    except PrivsepError as error:
        log.error(f"{where.peer}: {error}")
        status = 1
    finally:
        monitor.finish()
    return status


_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)


def _prepare_process(where: ConnectionFacts) -> None:
    libc.set_process_name("sshoq-monitor", show_address((where.peer_address, where.peer_port)))
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    # Programs whose leader was killed become our children, and so stay known.
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
    os.umask(os.umask(0o077) | 0o022)
    os.chdir("/")  # a program whose user has no home stays here
    signals.dispose(_IGNORED, signals.IGNORED)
