"""A server for one client, in the test's own event loop: real QUIC over loopback, and rules as the
test wants them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from sshoq.client.addresses import HostAddress
from sshoq.protocol.conversation import ConversationState, _ArrivingStream
from sshoq.protocol.conversation_events import ConversationEvent
from sshoq.protocol.extensions import NONE, OURS, Extension
from sshoq.protocol.messages import (
    ChannelHeader,
    ChannelRequest,
    Exec,
    ExitStatus,
    Shell,
    Subsystem,
)
from sshoq.protocol.outcome import CHANNEL_REFUSED
from sshoq.protocol.request import UNAUTHORIZED, ConnectRequest, Response
from sshoq.transport.channel import Channel, SinkClosed
from sshoq.transport.engine import Engine
from sshoq.transport.events import AFTER_LOGIN
from sshoq.transport.packets import FirstPacket
from sshoq.transport.udp import UdpSocket
from tests.link import identity
from tests.pair import Party

Serve = Callable[["LittleServer", Channel], None]


class LittleServer(Party):
    """Records what is asked; answers by `judge`; runs `serve` for each session that was started."""

    sessions: asyncio.TaskGroup

    def __init__(
        self,
        engine: Engine,
        end: socket.socket,
        extensions: Extension | None,
        judge: Callable[[ConnectRequest], Response],
        serve: Serve,
    ) -> None:
        self.requests: list[ConnectRequest] = []
        self.asked: list[ChannelRequest] = []
        self.decide: Callable[[int, ConnectRequest], object] = self.answer
        self.heard = asyncio.Event()
        self._judge = judge
        self._serve = serve
        super().__init__(engine, UdpSocket(end), _state(extensions))
        self.on_channel = self._accept
        turn = self.conversation._turn

        def turn_and_tell() -> None:
            turn()
            self.heard.set()

        self.conversation._turn = turn_and_tell  # type: ignore[method-assign]

    def request_received(self, stream_id: int, request: ConnectRequest) -> None:
        self.requests.append(request)
        self.decide(stream_id, request)

    def answer(self, stream_id: int, request: ConnectRequest) -> None:
        response = self._judge(request)
        if response.status == 200:
            self.conversation.raise_limits(AFTER_LOGIN)
        self.conversation.respond(stream_id, response, 0.0)

    @property
    def holds_early_streams(self) -> bool:
        """Whether a channel waits for the login to be decided."""
        return bool(self.conversation.state._arriving)

    def _accept(self, channel: Channel) -> None:
        channel.confirm()
        self.spawn(self._run(channel))

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """In the background; the client may leave in the middle of it."""
        self.sessions.create_task(_until_it_leaves(work))

    async def _run(self, channel: Channel) -> None:
        while (requested := await channel.next_request()) is not None:
            self.asked.append(requested.request)
            if requested.want_reply:
                channel.reply(True)
            if isinstance(requested.request, Exec | Shell | Subsystem):
                self._serve(self, channel)


class GoState(ConversationState):
    """Sends the SETTINGS that a Go server sends, and keeps no channel that comes too early."""

    def __init__(self) -> None:
        super().__init__(False, NONE)
        self.refused: list[int] = []

    def control_stream(self) -> bytes:
        return bytes.fromhex("0004023301")

    def register(self, stream_id: int) -> None:
        """The login is decided, and channels are known from now on; the answer leaves later."""
        self.conversation_id = stream_id

    def _judge_channel(
        self,
        stream_id: int,
        stream: _ArrivingStream,
        header: ChannelHeader,
        events: list[ConversationEvent],
    ) -> None:
        if self.conversation_id is None:
            self.refused.append(stream_id)
            self._refuse_arriving(stream_id, CHANNEL_REFUSED, events)
        else:
            super()._judge_channel(stream_id, stream, header, events)


def _state(extensions: Extension | None) -> ConversationState:
    return GoState() if extensions is None else ConversationState(False, extensions)


def say_and_exit(text: bytes, status: int) -> Serve:
    def serve(server: LittleServer, channel: Channel) -> None:
        server.spawn(say(channel))

    async def say(channel: Channel) -> None:
        await channel.write(text)
        await end(channel, status)

    return serve


async def _until_it_leaves(work: Coroutine[object, object, None]) -> None:
    with suppress(SinkClosed):
        await work


async def end(channel: Channel, status: int) -> None:
    """Towards a client that takes us for a Go server, the stream stays open, as theirs do."""
    channel.request(ExitStatus(status))
    if not channel.state.traits.is_go:
        channel.finish()


EXIT_0 = say_and_exit(b"", 0)


def let_in(request: ConnectRequest) -> Response:
    return Response(200)


def turn_away(request: ConnectRequest) -> Response:
    return UNAUTHORIZED


class Listener:
    """The address, and the server once somebody has called."""

    def __init__(self, sock: socket.socket) -> None:
        self.target = HostAddress(socket.AF_INET, sock.getsockname())
        self.port = self.target.port
        self.arrived: asyncio.Future[LittleServer] = asyncio.get_running_loop().create_future()

    @property
    def server(self) -> LittleServer:
        return self.arrived.result()


@asynccontextmanager
async def listening(
    judge: Callable[[ConnectRequest], Response] = let_in,
    serve: Serve = EXIT_0,
    extensions: Extension | None = OURS,
    round_trip: float = 0.0,
    prepare: Callable[[LittleServer], None] = lambda server: None,
) -> AsyncIterator[Listener]:
    """Serves the first caller, until the block ends; with no extensions at all, as a Go server.

    `round_trip`: as long as that the way there and back seems to the caller. `prepare`: called
    with the server before it has heard anything.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        listener = Listener(sock)

        def answer() -> None:
            loop.remove_reader(sock)
            loop.call_later(round_trip, serve_caller)

        def serve_caller() -> None:
            first, caller = sock.recvfrom(2000, socket.MSG_PEEK)
            sock.connect(caller)
            engine = Engine.server(FirstPacket.of(first), identity())
            end = socket.socket(fileno=os.dup(sock.fileno()))
            server = LittleServer(engine, end, extensions, judge, serve)
            server.sessions = group
            prepare(server)
            server.conversation.start()
            listener.arrived.set_result(server)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            loop.add_reader(sock, answer)
            try:
                yield listener
            finally:
                loop.remove_reader(sock)
                if listener.arrived.done():
                    listener.server.conversation.close()
                    await listener.server.conversation.over()


class Result(NamedTuple):
    status: int
    output: bytes
    errors: str


CLIENT = [sys.executable, "-m", "sshoq", "-F", "none"]


def client_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    wanted = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**wanted, "PYTHONPATH": str(Path(__file__).parents[2]), **(more or {})}


async def run_client(
    *words: str,
    environ: Mapping[str, str] | None = None,
    given: bytes = b"",
    prefix: Sequence[str] = (),
) -> Result:
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *CLIENT,
        *words,
        env=client_environment(environ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(given)
    text = errors.decode().replace("\r\n", "\n")
    assert process.returncode is not None
    return Result(process.returncode, output, text)


def to(listener: Listener, key: str, *options: str) -> Sequence[str]:
    """The words that reach the listener without asking who it is."""
    return [
        *("-insecure", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
        *options,
        f"alice@127.0.0.1:{listener.port}/secret",
    ]

