"""Process: router [service user, sandboxed], before it is confined. A whole connection, in memory.

Libraries load parts of themselves when they are first needed, and a confined process can open no
file. So the router first serves a client of its own: whatever a handshake, a login and a session
need is then loaded, and shared by all network processes that are forked later.
"""

import asyncio
import time
from datetime import UTC, datetime

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

from sshoq.protocol.conversation import ConversationState
from sshoq.protocol.conversation_events import ConversationEvent, RequestReceived, WriteStream
from sshoq.protocol.request import ConnectRequest, accepted
from sshoq.transport.engine import Engine
from sshoq.transport.events import AFTER_LOGIN, SendReady, StreamData
from sshoq.transport.identity import Credential, ServerIdentity, SignatureScheme
from sshoq.transport.packets import FirstPacket, RetryTickets

_PEER = ("127.0.0.1", 1)
_FLIGHTS = 12
"""A connection needs five; a bound, so that a server that cannot talk to itself says so."""


_TIMES = 4
"""Python fits its code to what runs, by writing into it. What is written here is shared, later."""


class RehearsalFailed(Exception):
    """The server cannot talk to itself, so it could talk to nobody."""


def rehearse() -> None:
    """Go through what every connection goes through. RehearsalFailed."""
    for _ in range(_TIMES):
        _connect()
    asyncio.new_event_loop().close()


def _connect() -> None:
    client = Engine.client(_PEER, "localhost", now=0.0)
    flight = client.outgoing(0.0)[0][1]
    RetryTickets().retry(flight[0], _PEER, 0.0)
    server = Engine.server(FirstPacket.of(flight[0]), _throwaway_identity())
    talk = _Talk(client, server)
    server.receive(flight, _PEER, 0.0)
    talk.run()
    client.close(0x100, "done")


def _throwaway_identity() -> ServerIdentity:
    key = ed25519.Ed25519PrivateKey.generate()
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
    der = certificate.public_bytes(Encoding.DER)
    _touch_other_keys()
    return ServerIdentity(
        [Credential([der], SignatureScheme.ED25519, lambda content, scheme: key.sign(content))]
    )


def _touch_other_keys() -> None:
    """Clients may offer key shares of other kinds."""
    key = ec.generate_private_key(ec.SECP256R1())
    key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    key.sign(b"", ec.ECDSA(hashes.SHA256()))


class _Talk:
    """Datagrams to and fro until the client has had its answer."""

    def __init__(self, client: Engine, server: Engine) -> None:
        self._client = client
        self._server = server
        self._states = {
            client: ConversationState(is_client=True),
            server: ConversationState(is_client=False),
        }

    def run(self) -> None:
        for flight in range(_FLIGHTS):
            now = flight / 1000
            for sender, receiver in (
                (self._server, self._client),
                (self._client, self._server),
            ):
                self._listen(sender, now)
                for _, datagrams in sender.outgoing(now):
                    receiver.receive(datagrams, _PEER, now)
            if self._states[self._client].conversation_id is not None:
                return
        raise RehearsalFailed("no answer to a request of our own")

    def _listen(self, engine: Engine, now: float) -> None:
        state = self._states[engine]
        while (event := engine.next_event()) is not None:
            if isinstance(event, SendReady):
                self._begin(engine, state)
            elif isinstance(event, StreamData):
                for action in state.receive(event.stream_id, event.data, event.fin, now):
                    self._act(engine, state, action)

    def _begin(self, engine: Engine, state: ConversationState) -> None:
        engine.export(b"EXPORTER-SSH3", b"", 32)
        engine.write(engine.open_stream(unidirectional=True), state.control_stream())
        if state.is_client:
            request = ConnectRequest(
                authority="localhost:443", path="/", user="nobody", authorization="Basic "
            )
            stream_id = engine.open_stream()
            engine.write(stream_id, state.connect(stream_id, request))

    def _act(self, engine: Engine, state: ConversationState, action: ConversationEvent) -> None:
        if isinstance(action, RequestReceived):
            engine.raise_limits(AFTER_LOGIN)
            for answer in state.respond(action.stream_id, accepted(state.traits), time.time()):
                self._act(engine, state, answer)
        elif isinstance(action, WriteStream):
            engine.write(action.stream_id, action.data, fin=action.fin)
