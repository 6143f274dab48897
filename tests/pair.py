"""Two real conversations in one event loop, joined by a pair of datagram sockets: most tests start
here.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from sshoq.protocol.conversation import ConversationState
from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.request import UNAUTHORIZED, ConnectRequest, ResponseHead, accepted
from sshoq.transport.channel import Channel
from sshoq.transport.conversation import Conversation
from sshoq.transport.engine import Engine
from sshoq.transport.events import AFTER_LOGIN, Address, Terminated
from sshoq.transport.packets import FirstPacket
from sshoq.transport.udp import UdpSocket
from tests.link import identity

PATIENCE = 30.0
PEER: Address = ("pair", 0)


class Party:
    """One side: what happened to it, as futures and lists that a test can look at."""

    def __init__(self, engine: Engine, udp: UdpSocket, state: ConversationState) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.response: asyncio.Future[ResponseHead | None] = loop.create_future()
        self.end: asyncio.Future[Terminated] = loop.create_future()
        self.arrived: asyncio.Queue[Channel] = asyncio.Queue()
        self.faults: list[str] = []
        self.ended_by_peer = False
        self.on_channel: Callable[[Channel], None] = self.arrived.put_nowait
        self.admit: Callable[[ConnectRequest], bool] = lambda request: True
        self.conversation = Conversation(engine, udp, state, self)

    def send_ready(self) -> None:
        self.ready.set_result(None)

    def handshake_completed(self) -> None: ...

    def settings_received(self) -> None: ...

    def request_received(self, stream_id: int, request: ConnectRequest) -> None:
        admitted = self.admit(request)
        if admitted:
            self.conversation.raise_limits(AFTER_LOGIN)
        response = accepted(self.conversation.traits) if admitted else UNAUTHORIZED
        self.conversation.respond(stream_id, response, time.time())

    def response_received(self, stream_id: int, response: ResponseHead | None) -> None:
        if response is not None and response.status == 200:
            self.conversation.raise_limits(AFTER_LOGIN)
        self.response.set_result(response)

    def channel_arrived(self, channel: Channel) -> None:
        self.on_channel(channel)

    def name_retired(self, connection_id: bytes) -> None: ...

    def newcomer_arrived(self, datagram: bytes) -> None: ...

    def path_changed(self, address: Address) -> None: ...

    def conversation_ended(self) -> None:
        self.ended_by_peer = True

    def terminated(self, end: Terminated) -> None:
        self.end.set_result(end)

    def fault(self, text: str) -> None:
        self.faults.append(text)


class UnixSocket(UdpSocket):
    """A datagram socket without addresses: all that comes, comes from the other end."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end, segmentation=False, coalescing=False)
        self._peer = PEER

    def send(self, datagrams: Sequence[bytes], address: Address | None = None) -> None:
        with suppress(OSError):  # the other end has closed already, as on any network
            super().send(datagrams, address)

    def receive(self) -> list[tuple[Address, list[bytes]]]:
        return [(PEER, datagrams) for _, datagrams in super().receive()]


@asynccontextmanager
async def pair(
    client_extensions: Extension = OURS, server_extensions: Extension = OURS
) -> AsyncIterator[tuple[Party, Party]]:
    """Client and server with the handshake under way; ended, and quiet, behind the block."""
    client_end, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    loop = asyncio.get_running_loop()
    client_engine = Engine.client(PEER, "server.test", now=loop.time())
    [(_, flight)] = client_engine.outgoing(loop.time())
    server_engine = Engine.server(FirstPacket.of(flight[0]), identity())
    async with asyncio.timeout(PATIENCE):
        client = Party(client_engine, UnixSocket(client_end), _state(True, client_extensions))
        server = Party(server_engine, UnixSocket(server_end), _state(False, server_extensions))
        client.conversation.start()
        server.conversation.start(flight, PEER)
        try:
            yield client, server
        finally:
            client.conversation.close()
            server.conversation.close()
            await client.conversation.over()
            await server.conversation.over()


@asynccontextmanager
async def logged_in(
    client_extensions: Extension = OURS, server_extensions: Extension = OURS
) -> AsyncIterator[tuple[Party, Party]]:
    """The same with the conversation begun."""
    async with pair(client_extensions, server_extensions) as (client, server):
        await client.ready
        client.conversation.send_request(a_request())
        response = await client.response
        assert response is not None
        assert response.status == 200
        yield client, server


def _state(is_client: bool, extensions: Extension) -> ConversationState:
    return ConversationState(is_client, extensions)


def a_request(user: str = "alice") -> ConnectRequest:
    return ConnectRequest(
        authority="server.test:443", path="/secret", user=user, authorization="Bearer x"
    )


def run(test: Callable[[], Awaitable[None]]) -> None:
    """A test of its own event loop, which has an end whatever happens in it."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await test()

    asyncio.run(main())


async def read_all(channel: Channel) -> bytes:
    parts = bytearray()
    while data := await channel.read():
        parts += data
    return bytes(parts)
