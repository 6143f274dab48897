"""Process: network process [service user, sandboxed]. Forwarding: channels joined to sockets.

The session leader makes every socket and decides whether the user may have it; here is only what
travels. Channels of our own clients and of Go's differ in what they are called, not in what is
done.
"""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, Protocol

from sshoq.forwarding.acceptor import Acceptor
from sshoq.forwarding.datagrams import UdpEnd, UdpListener
from sshoq.forwarding.forwarder import SocketEnd, set_no_delay
from sshoq.forwarding.joint import join, join_opening
from sshoq.protocol.channel import ChannelEvent, Requested
from sshoq.protocol.messages import (
    X11,
    AgentConnection,
    ChannelOpening,
    DirectStreamlocal,
    DirectTcp,
    DirectTcpip,
    DirectUdp,
    DirectUdpip,
    ForwardedStreamlocal,
    ForwardedTcpip,
    ForwardedUdpip,
    Listening,
    OpenReverseTcp,
    OpenReverseUdp,
    RefusalReason,
    RequestReverseTcp,
    RequestReverseUdp,
    StreamlocalForward,
    TcpipForward,
    UdpipForward,
    X11Req,
    unmapped,
)
from sshoq.protocol.outcome import ProtocolError
from sshoq.server.link import Refused, SessionLeader
from sshoq.server.privsep import Dial, Listen, ListenForX11
from sshoq.server.privsep_socket import close_all
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused, SinkClosed
from sshoq.wire import IPPort

MAX_CALLERS = 1024
"""Connections to the listeners of one login that are open at a time. A caller in excess is turned
away."""

INFO, DEBUG = 1, 3


class Login(Protocol):
    """What forwarding needs of the login it belongs to."""

    async def leader(self) -> SessionLeader: ...

    def open_channel(self, opening: ChannelOpening) -> Channel: ...

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside everything else, until the conversation ends."""

    def log(self, level: int, text: str) -> None: ...


class Callers:
    """Who called at sockets of this login: each gets a channel to the client."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._open = 0

    def take(self, connection: socket.socket, opening: ChannelOpening) -> None:
        """A caller in excess is turned away."""
        if self._open >= MAX_CALLERS:
            connection.close()
            return
        self._open += 1
        set_no_delay(connection)
        self._login.start(self._serve(SocketEnd(connection), opening))

    async def _serve(self, end: SocketEnd, opening: ChannelOpening) -> None:
        try:
            await self._join(end, self._login.open_channel(opening))
        except (ChannelRefused, ChannelClosed) as error:
            self._login.log(DEBUG, f"a caller is turned away: {error}")
            end.abort()
        finally:
            self._open -= 1

    async def _join(self, end: SocketEnd, channel: Channel) -> None:
        channel.write_now(end.source.at_hand())
        await join_opening(channel, end)
        try:
            await channel.opened()
        except (ChannelRefused, ChannelClosed) as error:
            self._login.log(DEBUG, f"{channel}: {error}")


# --------------------------------------------------------------------------- connecting

def _dial_for(number: int, opening: ChannelOpening) -> Dial:
    match opening:
        case DirectTcp():
            target = unmapped(opening.target)
            return Dial(number, Dial.TCP, target.ip, target.port)
        case DirectTcpip():
            return Dial(number, Dial.TCP, opening.host, opening.port)
        case DirectStreamlocal():
            return Dial(number, Dial.UNIX, opening.path, 0)
        case DirectUdp():
            target = unmapped(opening.target)
            return Dial(number, Dial.UDP, target.ip, target.port)
        case DirectUdpip():
            return Dial(number, Dial.UDP, opening.host, opening.port)
    raise TypeError(f"{opening!r} is not to be dialled")


class DirectHost:
    """A channel to be connected to where the client says."""

    def __init__(self, channel: Channel, login: Login) -> None:
        self._channel = channel
        self._login = login
        self._leader: SessionLeader | None = None

    async def run(self) -> None:
        """Until the connection has ended, or did not come about."""
        if end := await self._dial():
            await self._connect(end)

    async def _connect(self, end: SocketEnd | UdpEnd) -> None:
        try:
            self._channel.confirm()
        except SinkClosed:
            end.close()
            return
        if isinstance(end, UdpEnd):
            await end.join(self._channel)
        else:
            await join(self._channel, end)

    async def _dial(self) -> SocketEnd | UdpEnd | None:
        dial = _dial_for(self._channel.stream_id, self._channel.state.opening)
        try:
            leader = self._leader = await self._login.leader()
            self._channel.closed.add_done_callback(lambda _: leader.forsake(dial.channel))
            descriptor = await leader.dial(dial)
        except Refused as refusal:
            self._login.log(DEBUG, f"{self._channel}: {dial.host} port {dial.port}: {refusal}")
            refuse(self._channel, refusal)
            return None
        self._leader = None  # there is nothing left for it to give up
        end = socket.socket(fileno=descriptor)
        return UdpEnd(end) if dial.kind == Dial.UDP else SocketEnd(end)

    def close(self) -> None:
        if self._leader is not None:
            self._leader.end_forwarding(self._channel.stream_id)
        self._channel.close()


def refuse(channel: Channel, refusal: Refused) -> None:
    """In the words of OpenSSH's server, behind which its client puts its own."""
    if not channel.is_usable():
        return
    if refusal.is_prohibited:
        channel.refuse(RefusalReason.ADMINISTRATIVELY_PROHIBITED, str(refusal))
    else:
        channel.refuse(RefusalReason.CONNECT_FAILED, str(refusal))


# --------------------------------------------------------------------------- listening


class ListenerHost:
    """A channel that stands for a listener. Whoever calls there gets a channel to the client."""

    def __init__(self, channel: Channel, login: Login, callers: Callers) -> None:
        self._channel = channel
        self._opening = channel.state.opening
        self._login = login
        self._callers = callers
        self._leader: SessionLeader | None = None
        self._acceptor: Acceptor | UdpListener | None = None
        channel.watcher = _refuse_requests

    async def run(self) -> None:
        """Until the client ends the listener; connections that came before go on."""
        if await self._listen():
            await self._wait_for_end()

    async def _listen(self) -> bool:
        listen = _listen_for(self._channel.stream_id, self._opening)
        try:
            self._leader = await self._login.leader()
            descriptors, port = await self._leader.listen(listen)
        except Refused as refusal:
            self._login.log(INFO, f"not listening on {listen.host} port {listen.port}: {refusal}")
            refuse(self._channel, refusal)
            return False
        try:
            self._channel.confirm()
            if not self._is_gos:
                self._channel.request(Listening(port))
        except SinkClosed:
            close_all(descriptors)
            return False
        listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if listen.kind == Dial.UDP:
            self._acceptor = UdpListener(listeners, self._open_flow, self._login.start)
        else:
            self._acceptor = Acceptor(listeners, self._take)
        return True

    @property
    def _is_gos(self) -> bool:
        """A Go client's: it has ended its side already, and the listener stays all the same."""
        return isinstance(self._opening, RequestReverseTcp | RequestReverseUdp)

    async def _wait_for_end(self) -> None:
        if self._is_gos:
            await asyncio.get_running_loop().create_future()  # cancelled with the conversation
        await self._channel.read()

    def _take(self, connection: socket.socket, caller: IPPort) -> None:
        self._callers.take(connection, self._opening_for(caller))

    def _open_flow(self, sender: IPPort) -> Channel | None:
        try:
            return self._login.open_channel(self._opening_for(sender))
        except (ChannelRefused, ChannelClosed):
            return None

    def _opening_for(self, caller: IPPort) -> ChannelOpening:
        match self._opening:
            case RequestReverseTcp():
                return OpenReverseTcp(unmapped(self._opening.target))
            case StreamlocalForward():
                return ForwardedStreamlocal(self._channel.stream_id)
            case RequestReverseUdp():
                listen, target = self._opening.listen, self._opening.target
                return OpenReverseUdp(unmapped(listen), unmapped(target))
            case UdpipForward():
                return ForwardedUdpip(self._channel.stream_id, *caller)
        return ForwardedTcpip(self._channel.stream_id, *caller)

    def close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
        if self._leader is not None:
            self._leader.end_forwarding(self._channel.stream_id)
        if self._channel.state.confirmed and self._channel.is_usable():
            self._channel.finish()
        self._channel.close()


def _listen_for(number: int, opening: ChannelOpening) -> Listen:
    match opening:
        case RequestReverseTcp():
            address = unmapped(opening.listen)
            return Listen(number, Dial.TCP, address.ip, address.port)
        case RequestReverseUdp():
            address = unmapped(opening.listen)
            return Listen(number, Dial.UDP, address.ip, address.port)
        case UdpipForward():
            return Listen(number, Dial.UDP, opening.address, opening.port)
        case TcpipForward():
            return Listen(number, Dial.TCP, opening.address, opening.port)
        case StreamlocalForward():
            return Listen(number, Dial.UNIX, opening.path, 0)
    raise TypeError(f"{opening!r} is nothing to listen for")


def _refuse_requests(event: ChannelEvent) -> bool:
    if isinstance(event, Requested):
        raise ProtocolError(f"{event.request.name_on_wire} on a listener's channel")
    return True


# --------------------------------------------------------------------------- the agent


class AgentHost:
    """The login's agent socket: each program that calls there is led to the client's agent."""

    def __init__(self, login: Login, callers: Callers) -> None:
        self._login = login
        self._callers = callers
        self._acceptor: Acceptor | None = None

    async def open(self, session: int) -> bool:
        """Whether programs started from now on find an agent socket."""
        leader = await self._login.leader()
        try:
            descriptors = await leader.listen_for_agent(session)
        except Refused as refusal:
            self._login.log(INFO, f"no agent socket: {refusal}")
            return False
        if descriptors:
            listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            self._acceptor = Acceptor(listeners, self._take)
        return True

    def _take(self, connection: socket.socket, caller: IPPort) -> None:
        self._callers.take(connection, AgentConnection())

    def close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None


# --------------------------------------------------------------------------- X11


class DisplayHost:
    """A session's display: each X client that calls there is led to the client's own."""

    def __init__(self, login: Login, callers: Callers, session: int) -> None:
        self._login = login
        self._callers = callers
        self._session = session
        self._is_single = False
        self._acceptor: Acceptor | None = None

    async def open(self, request: X11Req) -> bool:
        """Whether the session's program will find a display."""
        self._is_single = request.single
        leader = await self._login.leader()
        try:
            descriptors = await leader.listen_for_x11(
                ListenForX11(self._session, request.protocol, request.cookie, request.screen)
            )
        except Refused as refusal:
            self._login.log(INFO, f"session {self._session}: no display: {refusal}")
            return False
        listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        self._acceptor = Acceptor(listeners, self._take)
        return True

    def _take(self, connection: socket.socket, caller: IPPort) -> None:
        if self._is_single:
            self.close()
        self._callers.take(connection, X11(self._session, *caller))

    def close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
