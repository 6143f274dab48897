"""Process: router [service user, sandboxed], before it is confined. Whole connections, with itself.

Libraries load parts of themselves when they are first needed, and a confined process can open no
file; and Python fits its code to what runs, by writing into it. So the router first is the network
process of a few clients, as its children will be: whatever a handshake, a login and a session need
is then loaded and fitted, and shared by all that are forked later. A child of its own plays all the
others: the client, the monitor, the session leader, and a program that is both ends of one pipe.
"""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import CodeType

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import (
    CertificateBuilder,
    DNSName,
    Name,
    NameAttribute,
    SubjectAlternativeName,
)
from cryptography.x509.oid import NameOID

from sshoq.named_tuple import NamedTuple
from sshoq.protocol.conversation import ConversationState
from sshoq.protocol.messages import Exec, Session
from sshoq.protocol.request import ConnectRequest, ResponseHead
from sshoq.server import log
from sshoq.server.heap import gather_code
from sshoq.server.link import PrivsepLink
from sshoq.server.network import NetworkStart, run_network
from sshoq.server.privsep import (
    FROM_LEADER,
    FROM_MONITOR,
    TO_LEADER,
    TO_MONITOR,
    Authenticate,
    AuthenticationResult,
    Chain,
    HandshakeSigned,
    LoginOpened,
    LogLine,
    ProgramExited,
    ProgramStarted,
    SignHandshake,
    StartProgram,
    Welcome,
)
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, close_all, make_pair
from sshoq.transport.channel import Channel
from sshoq.transport.conversation import Conversation
from sshoq.transport.engine import Engine
from sshoq.transport.events import Terminated
from sshoq.transport.identity import SignatureScheme
from sshoq.transport.packets import RESET_KEY_LENGTH, FirstPacket, RetryTickets, new_name
from sshoq.transport.udp import RelayedSocket
from sshoq.wire import Message

_PEER = ("127.0.0.1", 1)

_TIMES = 4
"""One for finding out what code is used, and after three more Python has fitted it."""

_PATIENCE = 20.0
"""Seconds for all of it, which takes a fraction of one; a bound, so that a server that cannot talk
to itself says so."""

_NAMES = 4

_LARGEST_DATAGRAM = 65536


class RehearsalFailed(Exception):
    """The server cannot talk to itself, so it could talk to nobody."""


class _Stage(NamedTuple):
    """What joins the two processes for one connection: the ends of both."""

    server: RelayedSocket
    client: RelayedSocket
    network: tuple[socket.socket, socket.socket]
    """Of the network process: to its monitor and to the router."""
    others: tuple[socket.socket, socket.socket]

    @classmethod
    def make(cls) -> "_Stage":
        near, far = RelayedSocket.pair(_PEER)
        (monitor, to_monitor), (router, to_router) = make_pair(), make_pair()
        return cls(near, RelayedSocket(far, _PEER), (to_monitor, to_router), (monitor, router))


def rehearse() -> None:
    """Go through what every connection goes through. RehearsalFailed."""
    stages = [_Stage.make() for _ in range(_TIMES)]
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(asyncio.wait_for(_play_the_others(stages), _PATIENCE))
            status = 0
        finally:
            os._exit(status)
    try:
        _touch_other_keys()
        for stage in stages:
            for end in stage.others:
                end.close()
            stage.client.close()
        gather_code(_code_of(lambda: _be_network_process(stages[0])))
        for stage in stages[1:]:
            _be_network_process(stage)
    finally:
        for stage in stages:
            stage.server.close()
            for end in stage.network:
                end.close()
        _, status = os.waitpid(pid, 0)
    if status:
        raise RehearsalFailed("no answer to a request of our own")


def _be_network_process(stage: _Stage) -> None:
    stage.server.socket.settimeout(_PATIENCE)
    try:
        flight = stage.server.socket.recv(_LARGEST_DATAGRAM)
    except OSError as error:
        raise RehearsalFailed("no client of our own") from error
    stage.server.socket.setblocking(False)
    RetryTickets().retry(flight, _PEER, 0.0)
    monitor, router = stage.network
    start = NetworkStart(
        udp=stage.server,
        monitor=monitor,
        router=router,
        first=FirstPacket.of(flight),
        datagrams=[flight],
        peer=_PEER,
        local_address=_PEER[0],
        names=[new_name(os.urandom(RESET_KEY_LENGTH)) for _ in range(_NAMES)],
    )
    status = run_network(start)
    monitor.close()
    if status:
        raise RehearsalFailed("a connection with ourselves has failed")


def _code_of(work: Callable[[], None]) -> set[CodeType]:
    """All that runs for it."""
    used: set[CodeType] = set()
    sys.setprofile(lambda frame, event, argument: used.add(frame.f_code))
    try:
        work()
    finally:
        sys.setprofile(None)
    return used


def _touch_other_keys() -> None:
    """Clients may offer key shares of other kinds."""
    key = ec.generate_private_key(ec.SECP256R1())
    key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    key.sign(b"", ec.ECDSA(hashes.SHA256()))


# ------------------------------------------------------------------------------- all the others


async def _play_the_others(stages: Sequence[_Stage]) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    certificate = _throwaway_certificate(key)
    for stage in stages:
        for end in stage.network:
            end.close()
        stage.server.close()
    for stage in stages:
        await _Others(stage, key, certificate).play()


def _throwaway_certificate(key: ed25519.Ed25519PrivateKey) -> bytes:
    name = Name([NameAttribute(NameOID.COMMON_NAME, "rehearsal")])
    year = time.gmtime().tm_year
    certificate = (
        CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(year - 1, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(year + 1, 12, 31, tzinfo=UTC))
        .add_extension(SubjectAlternativeName([DNSName("localhost")]), critical=False)
        .sign(key, None)
    )
    return certificate.public_bytes(Encoding.DER)


class _Others:
    """Client, monitor and session leader of one connection. The program is `cat`."""

    def __init__(self, stage: _Stage, key: ed25519.Ed25519PrivateKey, certificate: bytes) -> None:
        self._key = key
        self._leader: PrivsepLink | None = None
        self._monitor = PrivsepLink(
            PrivsepSocket(stage.others[0], FROM_MONITOR, TO_MONITOR), self._as_monitor, self._end
        )
        self._monitor.send(
            Welcome(
                url_path="/",
                chains=(Chain(int(SignatureScheme.ED25519), (certificate,)),),
                prefers_first=False,
                host_keys=(),
                peer_address=_PEER[0],
                local_address=_PEER[0],
                peer_port=_PEER[1],
                local_port=_PEER[1],
                login_grace_time=0,
                client_alive_interval=0,
                client_alive_count_max=0,
                congestion_control="bbr",
                verbosity=0,
            )
        )
        loop = asyncio.get_running_loop()
        self._conversation = Conversation(
            Engine.client(_PEER, "localhost", now=loop.time()),
            stage.client,
            ConversationState(is_client=True),
            self,
        )
        self._ready: asyncio.Future[None] = loop.create_future()
        self._left_alone: asyncio.Future[None] = loop.create_future()

    async def play(self) -> None:
        """A session from its beginning to its end, and the last word of the network process."""
        try:
            await self._use_session()
        finally:
            await self._left_alone

    async def _use_session(self) -> None:
        conversation = self._conversation
        conversation.start()
        await self._ready
        conversation.send_request(
            ConnectRequest(
                authority="localhost:443", path="/", user="nobody", authorization="Basic "
            )
        )
        channel = conversation.open_channel(Session(), speculative=True)
        started = channel.ask(Exec("cat"))
        await channel.write(b"line\n")
        await started
        await channel.read()
        channel.write_eof()
        await channel.read()
        conversation.close()
        await conversation.over()

    # ------------------------------------------------------------------ the monitor and the leader

    def _as_monitor(self, message: Message, descriptors: list[int]) -> None:
        close_all(descriptors)
        if isinstance(message, LogLine):
            log.error(message.text)
        elif isinstance(message, SignHandshake):
            self._monitor.send(HandshakeSigned(self._key.sign(message.content)))
        elif isinstance(message, Authenticate):
            self._monitor.send(AuthenticationResult(AuthenticationResult.ACCEPTED, "", ""))
            ours, theirs = make_pair()
            self._leader = PrivsepLink(
                PrivsepSocket(ours, FROM_LEADER, TO_LEADER), self._as_leader, _pass
            )
            self._monitor.send(LoginOpened(10, 0, 0), [theirs.fileno()])
            theirs.close()

    def _as_leader(self, message: Message, descriptors: list[int]) -> None:
        close_all(descriptors)
        assert self._leader is not None
        if isinstance(message, StartProgram):
            output, stdin = os.pipe()
            errors, stderr = os.pipe()
            ends = (stdin, output, errors)
            self._leader.send(ProgramStarted(message.session), ends)
            close_all((*ends, stderr))
            self._leader.send(ProgramExited(message.session, 0, "", False))

    def _end(self, error: PrivsepError) -> None:
        self._left_alone.set_result(None)

    # ------------------------------------------------------------------ the client

    def send_ready(self) -> None:
        self._ready.set_result(None)

    def handshake_completed(self) -> None: ...

    def settings_received(self) -> None: ...

    def request_received(self, stream_id: int, request: ConnectRequest) -> None: ...

    def response_received(self, stream_id: int, response: ResponseHead | None) -> None: ...

    def channel_arrived(self, channel: Channel) -> None: ...

    def name_retired(self, connection_id: bytes) -> None: ...

    def newcomer_arrived(self, datagram: bytes) -> None: ...

    def path_changed(self, address: tuple[str, int]) -> None: ...

    def conversation_ended(self) -> None: ...

    def terminated(self, end: Terminated) -> None: ...

    def fault(self, text: str) -> None: ...


def _pass(error: PrivsepError) -> None:
    """A leader's end is its network process's end, which is noticed there."""
