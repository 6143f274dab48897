"""Forwardings of a run: who calls here is led to the server's side, who calls there to ours.

Loaded only when something is to be forwarded. What the server may open is what was asked of it and
nothing else; messages are OpenSSH's.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sshoq.client.log import Failure, Log
from sshoq.client.opening import ClientConversation, refuse_unasked
from sshoq.client.task_group import task_group
from sshoq.config.forward_spec import Forward
from sshoq.config.options import Options
from sshoq.config.permitted import may_open, parse_places
from sshoq.forwarding.acceptor import Acceptor
from sshoq.forwarding.datagrams import UdpEnd, UdpListener
from sshoq.forwarding.forwarder import SocketEnd, set_no_delay
from sshoq.forwarding.joint import join
from sshoq.forwarding.relay import Sink, Source
from sshoq.forwarding.socks import SocksError, SocksState
from sshoq.listening import FAMILIES, UnixListener, addresses_for, family_of, open_listeners
from sshoq.protocol.extensions import Extension
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
    unmapped,
)
from sshoq.protocol.outcome import Unsupported
from sshoq.protocol.version import PeerTraits
from sshoq.transport.channel import (
    Channel,
    ChannelClosed,
    ChannelRefused,
    DataSink,
    SinkClosed,
)
from sshoq.transport.quic import NoStreamCredit, StreamClosed
from sshoq.wire import IPPort

if TYPE_CHECKING:
    from sshoq.client.display import ForwardedDisplay

LOCALHOST = "localhost"
NOBODY = IPPort("", 0)

_REASONS = {
    RefusalReason.ADMINISTRATIVELY_PROHIBITED: "administratively prohibited",
    RefusalReason.CONNECT_FAILED: "connect failed",
    RefusalReason.UNKNOWN_CHANNEL_TYPE: "unknown channel type",
    RefusalReason.RESOURCE_SHORTAGE: "resource shortage",
}

FIRST_NUMBER = 1
"""The session is channel 0."""

_LITERAL = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


def describe_refusal(refusal: ChannelRefused) -> str:
    """As OpenSSH puts it: the reason's name, and what the server said."""
    name = _REASONS.get(RefusalReason(refusal.reason), "") if refusal.reason in _KNOWN else ""
    return ": ".join(filter(None, (name or "unknown reason", refusal.text)))


_KNOWN = frozenset(int(reason) for reason in RefusalReason)


@asynccontextmanager
async def forwarding(
    client: ClientConversation,
    options: Options,
    log: Log,
    agent: str | None,
    display: "ForwardedDisplay | None" = None,
) -> AsyncIterator["Forwards"]:
    """Forwards that end with the block, and everything that came through them."""
    async with task_group() as group:
        forwards = Forwards(client, options, log, agent, display, group)
        client.on_channel = forwards.take
        try:
            yield forwards
        finally:
            forwards.close()


class Forwards:
    """All that is forwarded in one conversation."""

    def __init__(
        self,
        client: ClientConversation,
        options: Options,
        log: Log,
        agent: str | None,
        display: "ForwardedDisplay | None",
        group: asyncio.TaskGroup,
    ) -> None:
        self._client = client
        self._options = options
        self._log = log
        self._agent = agent
        self._display = display
        self._group = group
        self._local: list[tuple[Forward, Acceptor | UdpListener, UnixListener | None]] = []
        self._listeners: dict[int, Forward] = {}
        """By the channel that stands for the server's listener."""
        self._remote: list[tuple[Forward, int, Channel]] = []
        """Those that stand at the server, with the port that it chose if that was left to it."""
        self._targets: dict[tuple[str, IPPort], Forward] = {}
        """By protocol and target, as a Go server names it."""
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._flows: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._remote_open = parse_places(options.permit_remote_open)
        self.on_activity: Callable[[], None] = lambda: None
        """Called when the first connection comes through, and when the last one has ended."""

    # ------------------------------------------------------------------ what is open

    async def drained(self) -> None:
        """Until nothing that came through a forwarding is open any more. Listeners do not count."""
        await self._quiet.wait()

    def _start(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._tasks[task] = number
        if self.is_quiet:
            self._quiet.clear()
            self.on_activity()
        task.add_done_callback(self._note_end)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        del self._tasks[task]
        if not self._tasks:
            self._quiet.set()
            self.on_activity()

    @property
    def is_quiet(self) -> bool:
        return self._quiet.is_set()

    def _free_number(self) -> int:
        used = set(self._tasks.values())
        return next(n for n in range(FIRST_NUMBER, len(used) + 2) if n not in used)

    def close(self) -> None:
        while self._local:
            self._stop_listening(0)
        for task in (*self._tasks, *self._flows):
            task.cancel()

    # ------------------------------------------------------------------ what is listened on

    def standing_locally(self) -> list[Forward]:
        return [forward for forward, _, _ in self._local]

    def standing_remotely(self) -> list[tuple[Forward, int]]:
        """With the port at which the server listens."""
        return [(forward, port) for forward, port, _ in self._remote]

    # ------------------------------------------------------------------ listening here

    async def listen_locally(self) -> None:
        """Failure if one cannot be had and ExitOnForwardFailure is set."""
        granted = [await self.add_local(forward) for forward in self._options.local_forwards]
        if not all(granted) and self._options.exit_on_forward_failure:
            raise Failure("Could not request local forwarding.")
        if granted and not any(granted):
            self._log.error("Could not request local forwarding.")

    async def add_local(self, forward: Forward) -> bool:
        """False, and the user was told why: nobody listens there now."""
        try:
            await self._listen(forward)
        except Unsupported as error:
            self._log.error(str(error))
            return False
        except OSError as error:
            self._complain_of_listener(forward, error)
            return False
        return True

    def cancel_local(self, wanted: Forward) -> bool:
        """Stop listening where `wanted` says; what came through goes on. False: nobody listens."""
        place = self._local_place(wanted)
        for index, (forward, _, _) in enumerate(self._local):
            if self._local_place(forward) == place:
                self._stop_listening(index)
                return True
        return False

    def _local_place(self, forward: Forward) -> tuple[object, ...]:
        """What two forwardings have in common that cannot both be had."""
        if forward.listen_path is not None:
            return (forward.listen_path,)
        gateway = self._options.gateway_ports
        addresses = addresses_for(forward.listen_host, gateway=gateway)
        return (forward.protocol, addresses, forward.listen_port)

    def _stop_listening(self, index: int) -> None:
        _, acceptor, listener = self._local.pop(index)
        acceptor.close()
        if listener is not None:
            listener.remove()

    async def _listen(self, forward: Forward) -> None:
        if forward.connect_path is not None:
            check_paths_are_known(self._traits, forward.connect_path)
        if forward.protocol == "udp":
            self._local.append((forward, await self._listen_for_datagrams(forward), None))
            return
        unix = None
        if forward.listen_path is not None:
            unix = self._listen_on_path(forward.listen_path)
            sockets = [unix.socket]
        else:
            sockets = await self._open_listeners(forward, socket.SOCK_STREAM)

        def take(connection: socket.socket, caller: IPPort) -> None:
            number = self._free_number()
            self._start(number, self._lead_out(number, forward, connection, caller))

        self._local.append((forward, Acceptor(sockets, take), unix))

    async def _open_listeners(
        self, forward: Forward, kind: socket.SocketKind
    ) -> list[socket.socket]:
        addresses = await self._addresses(forward)
        sockets = open_listeners(addresses, forward.listen_port or 0, kind, self._log.error)
        for listener in sockets:
            self._log.debug(f"Local forwarding listening on {listener.getsockname()!r}.")
        return sockets

    @property
    def _traits(self) -> PeerTraits:
        traits: PeerTraits = self._client.conversation.traits
        return traits

    @property
    def _knows_names(self) -> bool:
        return self._traits.supports(Extension.FORWARD)

    def _listen_on_path(self, path: str) -> UnixListener:
        options = self._options
        return UnixListener(
            path, options.stream_local_bind_mask, unlink=options.stream_local_bind_unlink
        )

    async def _addresses(self, forward: Forward) -> list[str]:
        """Literal ones, of the family that is wanted."""
        wanted = FAMILIES[self._options.address_family]
        found: list[str] = []
        for host in addresses_for(forward.listen_host, gateway=self._options.gateway_ports):
            found += [str(address[0]) for _, address in await look_up(host, 0)]
        return [ip for ip in dict.fromkeys(found) if wanted in (None, family_of(ip))]

    def _complain_of_listener(self, forward: Forward, error: OSError) -> None:
        reason = error.strerror or str(error)
        if forward.listen_path is not None:
            self._log.error(f"unix_listener: cannot bind to path {forward.listen_path}: {reason}")
        else:
            self._log.error(
                f"channel_setup_fwd_listener_tcpip: cannot listen to port: {forward.listen_port}"
            )

    async def _listen_for_datagrams(self, forward: Forward) -> UdpListener:
        """One opening serves all senders: there is no time to look up a name for each."""
        opening = await datagram_opening_for(self._traits, forward)

        def open_flow(sender: IPPort) -> Channel | None:
            return self._open(self._free_number(), opening)

        sockets = await self._open_listeners(forward, socket.SOCK_DGRAM)
        return UdpListener(sockets, open_flow, self._start_aside)

    def _start_aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Nobody waits for datagrams: they keep nothing alive."""
        task = self._group.create_task(work)
        self._flows.add(task)
        task.add_done_callback(self._flows.discard)

    # ------------------------------------------------------------------ from here to there

    async def _lead_out(
        self, number: int, forward: Forward, connection: socket.socket, caller: IPPort
    ) -> None:
        set_no_delay(connection)
        end = SocketEnd(connection)
        try:
            if forward.dynamic:
                await self._lead_out_by_socks(number, end, caller)
            else:
                opening = await opening_for(self._traits, forward, caller)
                await self._join_opened(number, end, opening)
        except OSError as error:  # a name that nobody knows; the server was not asked
            self._log.error(
                f"channel {number}: open failed: connect failed: {error.strerror or error}"
            )
        finally:
            end.close()

    async def _join_opened(self, number: int, end: SocketEnd, opening: ChannelOpening) -> None:
        """What the caller says travels with the request to connect, ahead of the answer."""
        channel = self._open(number, opening)
        if channel is None:
            return
        channel.write_now(end.source.at_hand())
        async with asyncio.TaskGroup() as group:
            joint = group.create_task(join(channel, end))
            if not await self._await_opened(number, channel):
                joint.cancel()

    def _open(self, number: int, opening: ChannelOpening) -> Channel | None:
        try:
            return self._client.conversation.open_channel(opening)
        except NoStreamCredit:
            self._log.error(f"channel {number}: open failed: resource shortage: too many channels")
        except StreamClosed:
            self._log.debug(f"channel {number}: the connection is gone")
        return None

    async def _await_opened(self, number: int, channel: Channel) -> bool:
        try:
            await channel.opened()
        except ChannelRefused as refusal:
            self._log.error(f"channel {number}: open failed: {describe_refusal(refusal)}")
        except ChannelClosed as closed:
            self._log.debug(f"channel {number}: {closed}")
        else:
            return True
        return False

    async def _lead_out_by_socks(self, number: int, end: SocketEnd, caller: IPPort) -> None:
        state = SocksState()
        with contextlib.suppress(SinkClosed):
            if not await self._negotiate(number, state, end.source, end.sink):
                return
            assert state.target is not None
            target = Forward(connect_host=state.target.host, connect_port=state.target.port)
            channel = self._open(number, await opening_for(self._traits, target, caller))
            if channel is None or not await self._await_opened(number, channel):
                await end.sink.write(state.failed())
                return
            await end.sink.write(state.granted())
            if state.rest:
                await channel.write(state.rest)
            await join(channel, end)

    async def _negotiate(self, number: int, state: SocksState, source: Source, sink: Sink) -> bool:
        """Until the request is known. False: the caller has gone, or was told why not."""
        try:
            while state.target is None:
                data = await source.read()
                if not data:
                    return False
                answer = state.receive(data)
                if answer:
                    await sink.write(answer)
        except SocksError as error:
            self._log.debug(f"channel {number}: {error}")
            if error.answer:
                await sink.write(error.answer)
            return False
        return True

    # ------------------------------------------------------------------ listening there

    async def ask_remote(self) -> None:
        """All at once, and then the answers: when this is over, the listeners stand. Failure if
        one does not and ExitOnForwardFailure is set."""
        asked = []
        for forward in self._options.remote_forwards:
            try:
                asked.append((forward, await self._ask_listener(forward)))
            except Unsupported as error:
                self._log.error(str(error))
                self._complain_of_remote(forward)
        for forward, channel in asked:
            if await self._take_answer(forward, channel) is None:
                self._complain_of_remote(forward)

    async def add_remote(self, forward: Forward) -> int | None:
        """The port on which the server listens now, 0 for a path. None, and the user was told why
        if that is known: it does not."""
        try:
            channel = await self._ask_listener(forward)
        except Unsupported as error:
            self._log.error(str(error))
            return None
        return await self._take_answer(forward, channel)

    def cancel_remote(self, wanted: Forward) -> bool:
        """Have the server listen there no longer; what came through goes on. False: it did not, or
        cannot be told."""
        if not self._knows_names:
            return False
        place = _remote_place(wanted, wanted.listen_port)
        for index, (forward, port, channel) in enumerate(self._remote):
            if _remote_place(forward, port) == place:
                del self._remote[index]
                self._listeners.pop(channel.stream_id, None)
                channel.finish()
                return True
        return False

    async def _ask_listener(self, forward: Forward) -> Channel:
        conversation = self._client.conversation
        if not self._knows_names:
            return await self._ask_go_listener(forward)
        if forward.listen_path is not None:
            channel = conversation.open_channel(StreamlocalForward(forward.listen_path))
        else:
            kind = UdpipForward if forward.protocol == "udp" else TcpipForward
            opening = kind(_address_to_ask(forward), forward.listen_port or 0)
            channel = conversation.open_channel(opening)
        self._listeners[channel.stream_id] = forward
        return channel

    async def _ask_go_listener(self, forward: Forward) -> Channel:
        """It listens on addresses only, does not report a port, and names the target back to us."""
        if not self._traits.knows_fork_channels or forward.listen_path is not None:
            raise Unsupported(f"{forward.listen_text()}: this server cannot listen there")
        if not forward.listen_port:
            raise Unsupported("this server cannot tell which port it chose")
        [address, *_] = addresses_for(_address_to_ask(forward), gateway=False)
        try:
            [(_, found), *_] = await look_up(address, 0)
        except OSError as error:
            raise Unsupported(f"{address}: {error.strerror or error}") from None
        listen = IPPort(str(found[0]).partition("%")[0], forward.listen_port)
        target = self._name_target(forward)
        kind = RequestReverseUdp if forward.protocol == "udp" else RequestReverseTcp
        channel = self._client.conversation.open_channel(kind(listen, target))
        channel.finish()
        return channel

    def _name_target(self, forward: Forward) -> IPPort:
        """The target itself where it is an address; else a name for it that looks like one."""
        target = IPPort("127.0.0.1", len(self._targets) + 1)
        with contextlib.suppress(OSError, UnicodeError):
            if forward.connect_host is not None:
                port = forward.connect_port or 0
                [(_, address), *_] = literal_addresses(forward.connect_host, port)
                target = IPPort(str(address[0]), port)
        self._targets[forward.protocol, target] = forward
        return target

    async def _take_answer(self, forward: Forward, channel: Channel) -> int | None:
        """The port at the server, or None if it refuses."""
        try:
            port = await self._await_listener(forward, channel)
        except (ChannelRefused, ChannelClosed) as error:
            self._log.debug(f"remote forward failure for {forward.listen_text()}: {error}")
            self._listeners.pop(channel.stream_id, None)
            return None
        if forward.listen_port == 0 and forward.listen_path is None:
            target = forward.connect_path or f"{forward.connect_host}:{forward.connect_port}"
            if forward.dynamic:
                target = "[socks]:0"
            self._log.info(f"Allocated port {port} for remote forward to {target}")
        self._log.debug(f"remote forward success for: listen {forward.listen_text()}")
        self._remote.append((forward, port, channel))
        return port

    async def _await_listener(self, forward: Forward, channel: Channel) -> int:
        await channel.opened()
        if not self._knows_names:
            return forward.listen_port or 0
        requested = await channel.next_request()
        if requested is None or not isinstance(requested.request, Listening):
            raise ChannelClosed("the server did not say where it listens")
        return requested.request.port

    def _complain_of_remote(self, forward: Forward) -> None:
        what = f"listen port {forward.listen_port}"
        if forward.listen_path is not None:
            what = f"listen path {forward.listen_path}"
        if self._options.exit_on_forward_failure:
            raise Failure(f"Error: remote port forwarding failed for {what}")
        self._log.info(f"Warning: remote port forwarding failed for {what}")

    # ------------------------------------------------------------------ from there to here

    def take(self, channel: Channel) -> None:
        """The server opened a channel. What it was not asked for it does not get."""
        opening = channel.state.opening
        number = self._free_number()
        if isinstance(opening, AgentConnection) and self._agent is not None:
            self._start(number, self._lead_to_agent(channel, self._agent))
            return
        if isinstance(opening, X11) and self._display is not None:
            if self._display.may_use(opening.session):
                self._start(number, self._lead_to_display(channel, self._display))
            else:
                refuse_unasked(channel)
            return
        forward = self._forward_of(opening)
        if forward is None:
            self._log.debug(f"{opening.type_name} was not asked for")
            refuse_unasked(channel)
        elif forward.protocol == "udp":
            self._start_aside(self._lead_datagrams_in(forward, channel))
        else:
            self._start(number, self._lead_in(number, forward, channel))

    def _forward_of(self, opening: ChannelOpening) -> Forward | None:
        match opening:
            case ForwardedTcpip() | ForwardedStreamlocal():
                return self._listener("tcp", opening.listener)
            case ForwardedUdpip():
                return self._listener("udp", opening.listener)
            case OpenReverseTcp() if opening.target is not None:
                return self._targets.get(("tcp", unmapped(opening.target)))
            case OpenReverseUdp():
                return self._targets.get(("udp", unmapped(opening.target)))
            case OpenReverseTcp():  # old servers do not say; it must be the only one
                tcp = [self._targets[key] for key in self._targets if key[0] == "tcp"]
                return tcp[0] if len(tcp) == 1 else None
        return None

    def _listener(self, protocol: str, number: int) -> Forward | None:
        forward = self._listeners.get(number)
        return forward if forward is not None and forward.protocol == protocol else None

    async def _lead_in(self, number: int, forward: Forward, channel: Channel) -> None:
        if forward.dynamic:
            await self._lead_in_by_socks(number, channel)
            return
        try:
            end = await self._dial(forward)
        except OSError as error:
            if channel.is_usable():
                channel.refuse(RefusalReason.CONNECT_FAILED, error.strerror or str(error))
            return
        try:
            channel.confirm()
        except SinkClosed:
            end.close()
        else:
            await join(channel, end)

    async def _lead_datagrams_in(self, forward: Forward, channel: Channel) -> None:
        try:
            end = await dial_udp(forward.connect_host or "", forward.connect_port or 0)
        except OSError as error:
            where = f"{forward.connect_host} port {forward.connect_port}"
            self._log.error(f"connect_to {where}: {error.strerror or error}")
            if channel.is_usable():
                channel.refuse(RefusalReason.CONNECT_FAILED, error.strerror or str(error))
            return
        try:
            channel.confirm()
        except SinkClosed:
            end.close()
        else:
            await end.join(channel)

    async def _dial(self, forward: Forward) -> SocketEnd:
        """OSError, after the user was told."""
        try:
            if forward.connect_path is not None:
                return await dial_path(forward.connect_path)
            return await dial(forward.connect_host or "", forward.connect_port or 0)
        except OSError as error:
            where = forward.connect_path or (
                f"{forward.connect_host} port {forward.connect_port}"
            )
            self._log.error(f"connect_to {where}: failed.")
            self._log.debug(f"connect_to {where}: {error.strerror or error}")
            raise

    async def _lead_in_by_socks(self, number: int, channel: Channel) -> None:
        """-R with a port alone: the caller there says where to, and it is dialled from here."""
        state = SocksState()
        sink = DataSink(channel, channel.finish)
        try:
            channel.confirm()
            if not await self._negotiate(number, state, channel, sink):
                return
            assert state.target is not None
            end = await self._dial_permitted(state, sink)
            if end is None:
                return
            await sink.write(state.granted())
            if state.rest:
                await end.sink.write(state.rest)
            await join(channel, end)
        except SinkClosed:
            channel.close()
        finally:
            channel.finish()
            channel.stop_reading(0)

    async def _dial_permitted(self, state: SocksState, sink: Sink) -> SocketEnd | None:
        assert state.target is not None
        host, port = state.target
        if not may_open(self._remote_open, host, port):
            self._log.error(f"PermitRemoteOpen: {host} port {port} is not permitted")
            await sink.write(state.failed(is_prohibited=True))
            return None
        try:
            return await dial(host, port)
        except OSError as error:
            self._log.error(f"connect_to {host} port {port}: {error.strerror or error}")
            await sink.write(state.failed())
            return None

    async def _lead_to_agent(self, channel: Channel, path: str) -> None:
        """Towards a Go server, whose agent socket would not notice the end of a stream, a reset
        says that the agent is through."""
        try:
            end = await dial_path(path)
        except OSError as error:
            self._log.debug(f"agent at {path}: {error.strerror or error}")
            refuse_unasked(channel)
            return
        try:
            channel.confirm()
        except SinkClosed:
            end.close()
            return
        is_go = channel.state.traits.is_go
        await join(channel, end, channel.close if is_go else channel.finish)

    async def _lead_to_display(self, channel: Channel, display: "ForwardedDisplay") -> None:
        """It hears of nobody who cannot show that our own server has sent him."""
        from sshoq.forwarding.x11 import X11Error

        try:
            channel.confirm()
            setup = await display.read_setup(channel)
            end = await display.dial()
        except (SinkClosed, OSError):
            channel.close()
            return
        except X11Error as error:
            self._log.debug2(str(error))
            self._log.info("X11 connection rejected because of wrong authentication.")
            channel.close()
            return
        try:
            await end.sink.write(setup)
        except SinkClosed:
            end.close()
            channel.close()
        else:
            await join(channel, end)


def _remote_place(forward: Forward, port: int | None) -> tuple[object, ...]:
    """By which a forwarding at the server is told from others."""
    if forward.listen_path is not None:
        return (forward.listen_path,)
    return (_address_to_ask(forward), port)


def _address_to_ask(forward: Forward) -> str:
    """What OpenSSH puts into its request: "" is everywhere."""
    if forward.listen_host is None:
        return LOCALHOST
    return "" if forward.listen_host == "*" else forward.listen_host


# --------------------------------------------------------------------------- what to ask for


async def opening_for(
    traits: PeerTraits, forward: Forward, caller: IPPort = NOBODY
) -> ChannelOpening:
    """Names are the server's to look up, if it can be told them. Unsupported, OSError."""
    host, port = forward.connect_host or "", forward.connect_port or 0
    if forward.connect_path is not None:
        check_paths_are_known(traits, forward.connect_path)
        return DirectStreamlocal(forward.connect_path)
    if traits.supports(Extension.FORWARD):
        return DirectTcpip(host, port, *caller)
    [(_, address), *_] = await look_up(host, port)
    return DirectTcp(IPPort(str(address[0]).partition("%")[0], port))


async def datagram_opening_for(traits: PeerTraits, forward: Forward) -> ChannelOpening:
    """OSError when a name cannot be looked up for a Go server."""
    host, port = forward.connect_host or "", forward.connect_port or 0
    if traits.supports(Extension.FORWARD):
        return DirectUdpip(host, port)
    [(_, address), *_] = await look_up(host, port)
    return DirectUdp(IPPort(str(address[0]).partition("%")[0], port))


def check_paths_are_known(traits: PeerTraits, path: str) -> None:
    """A Go server is told addresses only."""
    if not traits.supports(Extension.FORWARD):
        raise Unsupported(f"{path}: this server forwards no Unix sockets")


# --------------------------------------------------------------------------- dialling


Addresses = Sequence[tuple[int, tuple[Any, ...]]]


def literal_addresses(host: str, port: int) -> Addresses:
    """gaierror for a name, or for what cannot be one: whoever calls at a forwarding may send it.
    Asks nobody.
    """
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, _LITERAL)
    except ValueError:  # too long for a label, or with a zero byte
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return [(family, address) for family, _, _, _, address in found]


async def look_up(host: str, port: int) -> Addresses:
    """OSError when there is no such host; never empty."""
    with contextlib.suppress(socket.gaierror):
        return literal_addresses(host, port)
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError:
        raise OSError(0, "Name or service not known") from None
    return [(family, address) for family, _, _, _, address in found]


async def dial(host: str, port: int) -> SocketEnd:
    """The first address that can be connected to. OSError of the last one."""
    failure: OSError = OSError(0, "no address")
    for family, address in await look_up(host, port):
        try:
            return await _connect(family, address)
        except OSError as error:
            failure = error
    raise failure


async def dial_udp(host: str, port: int) -> UdpEnd:
    [(family, address), *_] = await look_up(host, port)
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    end = socket.socket(family, kind)
    try:
        end.connect(address)
    except BaseException:
        end.close()
        raise
    return UdpEnd(end)


async def dial_path(path: str) -> SocketEnd:
    return await _connect(socket.AF_UNIX, os.fsencode(path))


async def _connect(family: int, address: Any) -> SocketEnd:
    end = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(end, address)
    except BaseException:
        end.close()
        raise
    set_no_delay(end)
    return SocketEnd(end)
