"""Process: network process [service user, sandboxed], one per QUIC connection.

Speaks QUIC, HTTP/3 and SSHOQ with one client. It is believed by nobody: the monitor signs the
handshake and decides the login, the session leader starts what the user asked for, and both check
what they are told. When this process ends, however it ends, they see their sockets closed and clean
up.
"""

import asyncio
import os
import socket
import time
import traceback
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from sshoq.forwarding.channel_timeouts import ChannelTimeouts, UnusedTimeout
from sshoq.named_tuple import NamedTuple
from sshoq.protocol.conversation import ConversationState
from sshoq.protocol.messages import ChannelOpening
from sshoq.protocol.outcome import Code
from sshoq.protocol.request import (
    UNAUTHORIZED,
    ConnectRequest,
    Response,
    ResponseHead,
    accepted,
    refuse_request,
    refused,
)
from sshoq.server.channels import DEBUG, ERROR, INFO, VERBOSE, ChannelHost, Host, SessionHost
from sshoq.server.link import NotEntered, PrivsepLink, SessionLeader
from sshoq.server.privsep import (
    FROM_LEADER,
    FROM_MONITOR,
    NETWORK_TO_ROUTER,
    ROUTER_TO_NETWORK,
    TO_LEADER,
    TO_MONITOR,
    AddressValidated,
    Authenticate,
    AuthenticationResult,
    HandshakeSigned,
    HostKeysProven,
    LoginFailed,
    LoginOpened,
    LogLine,
    MoveSocket,
    NameGranted,
    NameRetired,
    Newcomer,
    ProveHostKeys,
    SignHandshake,
    SocketMoved,
    StrayDatagram,
    Superseded,
    Welcome,
)
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, close_all
from sshoq.server.rate import RateLimit
from sshoq.transport.channel import Channel
from sshoq.transport.conversation import Conversation
from sshoq.transport.engine import Engine
from sshoq.transport.events import AFTER_LOGIN, Address, Cause, Terminated
from sshoq.transport.identity import Credential, ServerIdentity, SignatureScheme
from sshoq.transport.packets import ConnectionName, FirstPacket
from sshoq.transport.udp import UdpSocket
from sshoq.wire import Message, encode_text

EXPORTER_LABEL = b"EXPORTER-SSH3"
CONVERSATION_ID_LENGTH = 32

SIGNATURE_WAIT = 10.0
"""Seconds the monitor may take to sign. It does it in one; after ten it counts as hung."""

HANDSHAKE_TIMEOUT = 30.0
"""Seconds until the client must have shown its address; LoginGraceTime, which the monitor keeps, is
for what comes then. Ample, for a hundred logins at once on a small machine."""
IDLE_TIMEOUT = 900.0
"""Seconds of silence after which a client is given up; the lower of both sides' values counts, and
the Go client says 30, ours as much as we. A laptop may sleep so long and go on."""

KEEP_ALIVE = 10.0
"""Seconds of silence after which the client is asked for a sign of life, so that a killed one is
noticed.
"""

LINGER_REFUSED = 1.0
"""Seconds for the answer that there will be no more tries, before the connection is closed."""

LINGER = 10.0
"""Seconds that a Go client, which just goes away, may still use for reading its exit status."""

EARLY_SESSIONS = 10
"""MaxSessions until the monitor has told; the session leader holds the real limit, too."""

NEWCOMERS_PER_SECOND = 8
"""First packets of others that are passed on: two or three flights."""

MAX_TRACE = 900
MAX_LOG = 500
MAX_LOG_LINES = 200
"""Per connection: a hostile client cannot fill the disk with what we say of it."""


class NetworkStart(NamedTuple):
    """What the router leaves to the process it forks."""

    udp: UdpSocket
    monitor: socket.socket
    router: socket.socket
    first: FirstPacket
    datagrams: list[bytes]
    peer: Address
    local_address: str
    names: list[ConnectionName]


def run_network(start: NetworkStart) -> int:
    """The life of the process; its exit status."""
    try:
        asyncio.run(_serve_connection(start))
    except PrivsepError:
        return 1  # the monitor is gone, and with it whoever could be told why
    except BaseException as error:
        _confess(start.monitor, error)
        return 70
    return 0


def _confess(monitor: socket.socket, error: BaseException) -> None:
    """A bug of ours. The monitor writes it down: a confined process has no log of its own."""
    with suppress(OSError, PrivsepError):
        PrivsepSocket(monitor, TO_MONITOR, FROM_MONITOR).send(LogLine(ERROR, _trace(error)))


def _trace(error: BaseException) -> str:
    """What and where, innermost first, on one line; without the source, which cannot be read."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = [
        f"{os.path.basename(frame.f_code.co_filename)}:{line} {frame.f_code.co_qualname}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    what = traceback.format_exception_only(error)[-1].strip()
    return " < ".join([what, *reversed(frames)])[:MAX_TRACE]


async def _serve_connection(start: NetworkStart) -> None:
    await NetworkProcess(start).run()


class NetworkProcess:
    """One client's connection, as conversation owner: the handshake, the login, then channels."""

    def __init__(self, start: NetworkStart) -> None:
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._leader: asyncio.Future[SessionLeader] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._patience: asyncio.TimerHandle | None = None
        self._alive: asyncio.TimerHandle | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._request: int | None = None
        self._user = ""
        self._last_word: str | None = None
        """There are no more tries: the connection is closed with this, at the next one at the
        latest."""
        self._proofs: deque[asyncio.Future[tuple[bytes, ...]]] = deque()
        self._log_lines = 0
        self._names = deque(start.names)
        self._newcomers = RateLimit(NEWCOMERS_PER_SECOND)
        self.max_sessions = EARLY_SESSIONS
        monitor = PrivsepSocket(start.monitor, TO_MONITOR, FROM_MONITOR)
        self._welcome = _read_welcome(monitor)
        self._monitor_end = monitor
        self._monitor = PrivsepLink(monitor, self._receive_from_monitor, self._lose)
        self._router = PrivsepLink(
            PrivsepSocket(start.router, NETWORK_TO_ROUTER, ROUTER_TO_NETWORK),
            self._receive_from_router,
            _live_on,
        )
        self._udp = start.udp
        self._host = ChannelHost(self)
        self._conversation = Conversation(
            self._make_engine(), self._udp, ConversationState(is_client=False), self
        )

    def _make_engine(self) -> Engine:
        return Engine.server(
            self._start.first,
            self._identity(),
            names=self._next_name,
            idle_timeout=IDLE_TIMEOUT,
            keep_alive=KEEP_ALIVE,
            congestion=self._welcome.congestion_control,
        )

    def _identity(self) -> ServerIdentity:
        welcome = self._welcome
        credentials = [
            Credential(chain.certificates, SignatureScheme(chain.scheme), self._sign)
            for chain in welcome.chains
        ]
        return ServerIdentity(credentials, prefers_first=welcome.prefers_first)

    async def run(self) -> None:
        """Until the connection is over, or one of the processes it needs is gone."""
        self._loop.set_exception_handler(self._crash)
        self._patience = self._loop.call_later(HANDSHAKE_TIMEOUT, self._give_up_handshake)
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._conversation.start(self._start.datagrams, self._start.peer)
            try:
                await self._ended
            finally:
                self._close_everything()

    def _close_everything(self) -> None:
        self._conversation.close()
        for timer in (self._patience, self._alive, self._farewell):
            if timer is not None:
                timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._host.close()
        if self._leader.done() and self._leader.exception() is None:
            self._leader.result().close()
        self._monitor.leave()  # it is to hear of a fault of ours, and then of our end
        self._router.close()

    def _crash(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A bug, or the monitor's death in the middle of a question: the end of this one
        connection.
        """
        error = context.get("exception")
        if not isinstance(error, Exception):
            error = RuntimeError(str(context.get("message")))
        if not self._ended.done():
            self._ended.set_exception(error)

    def _lose(self, error: PrivsepError) -> None:
        """Monitor or session leader have gone: so is the login."""
        self._finish()

    def _finish(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def log(self, level: int, text: str) -> None:
        """A line for the server's log, if it asked for that much. The monitor cleans it."""
        if level <= self._welcome.verbosity and self._log_lines < MAX_LOG_LINES:
            self._log_lines += 1
            self._monitor.send(LogLine(level, text[:MAX_LOG]))

    # ------------------------------------------------------------------ handshake and paths

    def _sign(self, content: bytes, scheme: int) -> bytes:
        """The key object of the TLS library asks here; the handshake cannot go on without an
        answer.
        """
        self._monitor_end.send(SignHandshake(scheme, content))
        if not self._monitor_end.wait(SIGNATURE_WAIT):
            raise PrivsepError("the monitor does not sign")
        answer, descriptors = self._monitor_end.receive()
        close_all(descriptors)
        if not isinstance(answer, HandshakeSigned):
            raise PrivsepError("the monitor did not sign")
        return answer.signature

    def _give_up_handshake(self) -> None:
        self._conversation.close(Code.REQUEST_CANCELLED, "the handshake takes too long")

    def _receive_from_router(self, message: Message, descriptors: list[int]) -> None:
        close_all(descriptors)
        if isinstance(message, StrayDatagram):
            address = (message.peer_address, message.peer_port)
            self._conversation.receive_datagrams([message.payload], address)
        elif isinstance(message, NameGranted):
            self._names.append(ConnectionName(message.connection_id, message.reset_token))
        elif isinstance(message, Superseded):
            self.log(VERBOSE, "the client has begun anew")
            self._conversation.close(Code.NO_ERROR, "the client has begun anew")

    def send_ready(self) -> None:
        pass

    def handshake_completed(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._router.send(AddressValidated())
        self._monitor.send(AddressValidated())

    def settings_received(self) -> None:
        pass

    def _next_name(self) -> ConnectionName | None:
        return self._names.popleft() if self._names else None

    def name_retired(self, connection_id: bytes) -> None:
        self._router.send(NameRetired(connection_id))

    def newcomer_arrived(self, datagram: bytes) -> None:
        """The kernel gives our socket whatever comes from the client's address, also when a new
        client has it. The router sees whether it is so."""
        if self._newcomers.allows(self._loop.time()):
            self._router.send(Newcomer(datagram))

    def path_changed(self, address: Address) -> None:
        self.log(VERBOSE, f"the client has moved to {address[0]} port {address[1]}")
        self._udp.forget_peer()
        self._monitor.send(MoveSocket(address[0], address[1]), [self._udp.fileno()])

    # ------------------------------------------------------------------ login

    def request_received(self, stream_id: int, request: ConnectRequest) -> None:
        refusal = refuse_request(request, self._welcome.url_path)
        if refusal is not None or request.user is None:
            self._respond(stream_id, refusal or UNAUTHORIZED)
            return
        if self._last_word is not None:
            self._conversation.close(Code.NO_ERROR, self._last_word)
            return
        self._request = stream_id
        self._user = request.user
        conversation_id = self._conversation.engine.export(
            EXPORTER_LABEL, b"", CONVERSATION_ID_LENGTH
        )
        self._monitor.send(
            Authenticate(request.user, encode_text(request.authorization or ""), conversation_id)
        )

    def _respond(self, stream_id: int, response: Response) -> None:
        self._conversation.respond(stream_id, response, time.time())

    def _receive_from_monitor(self, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, LoginOpened) and len(descriptors) == 1:
            self._open_login(message, descriptors[0])
            return
        close_all(descriptors)
        if isinstance(message, AuthenticationResult):
            self._end_request(message)
        elif isinstance(message, HostKeysProven):
            self._take_proofs(message)
        elif isinstance(message, SocketMoved):
            self._udp.find_peer()  # should it be the old one, datagrams come by the router
        elif isinstance(message, LoginFailed):
            self.log(VERBOSE, f"login not opened: {message.reason}")
            self._leader.set_exception(NotEntered(message.reason, message.told))
            self._leader.exception()

    def _end_request(self, result: AuthenticationResult) -> None:
        stream_id, self._request = self._request, None
        if stream_id is None or self._conversation.ended is not None:
            return
        if result.outcome != AuthenticationResult.ACCEPTED:
            traits = self._conversation.traits
            answer = refused(
                traits,
                result.banner,
                result.methods,
                is_partial=result.is_partial,
                challenge=result.challenge,
            )
            self._respond(stream_id, answer)
            if result.outcome == AuthenticationResult.CLOSED:
                self._last_word = result.reason
                self._leave(LINGER_REFUSED, result.reason)
            return
        self._conversation.raise_limits(AFTER_LOGIN)
        self._respond(stream_id, accepted(self._conversation.traits, result.banner))

    def _open_login(self, message: LoginOpened, descriptor: int) -> None:
        end = PrivsepSocket(socket.socket(fileno=descriptor), TO_LEADER, FROM_LEADER)
        self.max_sessions = message.max_sessions
        self._leader.set_result(SessionLeader(end, self._lose))
        if message.client_alive_interval:
            self._watch_client(message.client_alive_interval, message.client_alive_count_max)
        self._watch_use(message)

    def _watch_use(self, message: LoginOpened) -> None:
        if message.channel_timeouts:
            ChannelTimeouts(
                self._conversation, message.channel_timeouts, partial(self.log, DEBUG)
            ).watch()
        if message.unused_connection_timeout:
            UnusedTimeout(
                self._conversation, message.unused_connection_timeout, self._end_unused
            ).watch()

    @property
    def _whom(self) -> str:
        """The user and where from, as sshd's lines have it."""
        peer = self._start.peer
        return f"user {self._user} {peer[0]} port {peer[1]}"

    def _end_unused(self) -> None:
        """Without a reason for the client, as sshd."""
        self.log(INFO, f"terminating inactive connection from {self._whom}")
        self._conversation.close()

    @property
    def host_keys(self) -> tuple[bytes, ...]:
        return self._welcome.host_keys

    async def prove_host_keys(self, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        answer: asyncio.Future[tuple[bytes, ...]] = self._loop.create_future()
        self._proofs.append(answer)
        self._monitor.send(ProveHostKeys(tuple(keys)))
        return await answer

    def _take_proofs(self, message: HostKeysProven) -> None:
        answer = self._proofs.popleft() if self._proofs else None
        if answer is not None and not answer.done():  # its channel may have gone meanwhile
            answer.set_result(message.signatures)

    async def leader(self) -> SessionLeader:
        return await asyncio.shield(self._leader)

    def response_received(self, stream_id: int, response: ResponseHead | None) -> None:
        """Only servers respond."""

    def _watch_client(self, interval: int, most: int) -> None:
        """ClientAliveInterval and ClientAliveCountMax: no sign of life for that long is the end."""
        silence = self._loop.time() - self._conversation.engine.last_received
        if most and silence > interval * most:
            self.log(INFO, f"Timeout, client not responding from {self._whom}")
            self._conversation.close(Code.NO_ERROR, "client not responding")
            return
        if silence >= interval:
            self._conversation.engine.ping()
            self._conversation.flush_soon()
        self._alive = self._loop.call_later(interval, self._watch_client, interval, most)

    # ------------------------------------------------------------------ channels and the end

    def channel_arrived(self, channel: Channel) -> None:
        host = self._host.accept(channel)
        if host is not None:
            self.start(self._serve(host))

    def open_channel(self, opening: ChannelOpening) -> Channel:
        return self._conversation.open_channel(opening)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, host: Host) -> None:
        await self._host.serve(host)
        if (
            self._conversation.traits.is_go
            and isinstance(host, SessionHost)
            and not self._host.is_busy
        ):
            # A Go client leaves without a word once it has read the exit status.
            self._leave(LINGER, "")

    def _leave(self, delay: float, reason: str) -> None:
        """Close the connection once the peer has had time to read what was said last."""
        if self._farewell is None:
            close = self._conversation.close
            self._farewell = self._loop.call_later(delay, close, Code.NO_ERROR, reason)

    def conversation_ended(self) -> None:
        self._conversation.close()

    def terminated(self, end: Terminated) -> None:
        if end.cause is Cause.IDLE and self._leader.done():
            self.log(INFO, f"Timeout, client not responding from {self._whom}")
        self.log(DEBUG, f"connection over: {end.cause.value} ({end.code:#x} {end.reason})")
        self._finish()

    def fault(self, text: str) -> None:
        self.log(INFO, f"protocol error from {self._start.peer[0]}: {text}")


def _read_welcome(monitor: PrivsepSocket) -> Welcome:
    welcome, descriptors = monitor.receive()
    close_all(descriptors)
    if not isinstance(welcome, Welcome):
        raise PrivsepError("the monitor did not begin with a welcome")
    return welcome


def _live_on(error: PrivsepError) -> None:
    """Without a router the connection goes on, where it is."""
