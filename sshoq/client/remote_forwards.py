"""Forwardings that listen at the server: -R. Who calls there is led to our side.

What the server may open is what was asked of it and nothing else; messages are OpenSSH's.
"""

import contextlib

from sshoq.client.dialing import dial, dial_path, dial_udp, literal_addresses, look_up
from sshoq.client.log import Failure
from sshoq.client.passages import Passages
from sshoq.client.run_context import RunContext
from sshoq.config.forward_spec import Forward
from sshoq.config.permitted import may_open, parse_places
from sshoq.forwarding.datagrams import UdpEnd
from sshoq.forwarding.forwarder import SocketEnd
from sshoq.forwarding.joint import join
from sshoq.forwarding.relay import Sink
from sshoq.forwarding.socks import SocksState
from sshoq.listening import addresses_for
from sshoq.protocol.extensions import Extension
from sshoq.protocol.messages import (
    ChannelOpening,
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
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused, DataSink, SinkClosed
from sshoq.wire import IPPort

LOCALHOST = "localhost"
MAX_PORT = 0xFFFF


class RemoteForwards:
    """All that the server listens on for one conversation."""

    def __init__(self, context: RunContext, passages: Passages) -> None:
        self._conversation = context.client.conversation
        self._traits: PeerTraits = self._conversation.traits
        self._options = context.options
        self._log = context.log
        self._passages = passages
        self._permitted = parse_places(context.options.permit_remote_open)
        self._listeners: dict[int, Forward] = {}
        """By the channel that stands for the server's listener."""
        self._standing: list[tuple[Forward, int, Channel]] = []
        """With the port that the server chose if that was left to it."""
        self._targets: dict[tuple[str, IPPort], Forward] = {}
        """By protocol and target, as a Go server names it."""

    def standing(self) -> list[tuple[Forward, int]]:
        """With the port at which the server listens."""
        return [(forward, port) for forward, port, _ in self._standing]

    @property
    def _knows_names(self) -> bool:
        return self._traits.supports(Extension.FORWARD)

    # ------------------------------------------------------------------ listening there

    async def ask(self) -> None:
        """All at once, and then the answers: when this is over, the listeners stand. Failure if
        one does not and ExitOnForwardFailure is set."""
        asked = []
        for forward in self._options.remote_forwards:
            try:
                asked.append((forward, await self._ask_listener(forward)))
            except (Unsupported, ChannelRefused, ChannelClosed) as error:
                self._log.error(str(error))
                self._complain(forward)
        for forward, channel in asked:
            if await self._take_answer(forward, channel) is None:
                self._complain(forward)

    async def add(self, forward: Forward) -> int | None:
        """The port on which the server listens now, 0 for a path. None, and the user was told why
        if that is known: it does not."""
        try:
            channel = await self._ask_listener(forward)
        except (Unsupported, ChannelRefused, ChannelClosed) as error:
            self._log.error(str(error))
            return None
        return await self._take_answer(forward, channel)

    def cancel(self, wanted: Forward) -> bool:
        """Have the server listen there no longer; what came through goes on. False: it did not, or
        cannot be told."""
        if not self._knows_names:
            return False
        place = _place(wanted, wanted.listen_port)
        for index, (forward, port, channel) in enumerate(self._standing):
            if _place(forward, port) == place:
                del self._standing[index]
                self._listeners.pop(channel.stream_id, None)
                channel.finish()
                return True
        return False

    async def _ask_listener(self, forward: Forward) -> Channel:
        conversation = self._conversation
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
        addresses = addresses_for(_address_to_ask(forward), gateway=False)
        address = min(addresses, key=lambda one: ":" in one)  # it takes one: rather IPv4's
        try:
            [(_, found), *_] = await look_up(address, 0)
        except OSError as error:
            raise Unsupported(f"{address}: {error.strerror or error}") from None
        listen = IPPort(str(found[0]).partition("%")[0], forward.listen_port)
        target = self._name_target(forward)
        kind = RequestReverseUdp if forward.protocol == "udp" else RequestReverseTcp
        channel = self._conversation.open_channel(kind(listen, target))
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
                target = "socks:0"
            self._log.info(f"Allocated port {port} for remote forward to {target}")
        self._log.debug(f"remote forward success for: listen {forward.listen_text()}")
        self._standing.append((forward, port, channel))
        return port

    async def _await_listener(self, forward: Forward, channel: Channel) -> int:
        await channel.opened()
        if not self._knows_names:
            return forward.listen_port or 0
        requested = await channel.next_request()
        if requested is None or not isinstance(requested.request, Listening):
            raise ChannelClosed("the server did not say where it listens")
        port = requested.request.port
        if port > MAX_PORT:
            channel.close()
            raise ChannelClosed(f"the server says that it listens on port {port}")
        return port

    def _complain(self, forward: Forward) -> None:
        what = f"listen port {forward.listen_port}"
        if forward.listen_path is not None:
            what = f"listen path {forward.listen_path}"
        if self._options.exit_on_forward_failure:
            raise Failure(f"Error: remote port forwarding failed for {what}")
        self._log.info(f"Warning: remote port forwarding failed for {what}")

    # ------------------------------------------------------------------ from there to here

    def take(self, channel: Channel) -> bool:
        """Somebody has called there. False: at none of our listeners."""
        forward = self._forward_of(channel.state.opening)
        if forward is None:
            return False
        if forward.protocol == "udp":
            self._passages.start_aside(self._lead_datagrams_in(forward, channel))
        else:
            number = self._passages.free_number()
            self._passages.start(number, self._lead_in(number, forward, channel))
        return True

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
            _refuse(channel, error)
            return
        if _confirms(channel, end):
            await join(channel, end)

    async def _lead_datagrams_in(self, forward: Forward, channel: Channel) -> None:
        try:
            end = await dial_udp(forward.connect_host or "", forward.connect_port or 0)
        except OSError as error:
            where = f"{forward.connect_host} port {forward.connect_port}"
            self._log.error(f"connect_to {where}: {error.strerror or error}")
            _refuse(channel, error)
            return
        if _confirms(channel, end):
            await end.join(channel)

    async def _dial(self, forward: Forward) -> SocketEnd:
        """OSError, after the user was told."""
        try:
            if forward.connect_path is not None:
                return await dial_path(forward.connect_path)
            return await dial(forward.connect_host or "", forward.connect_port or 0)
        except OSError as error:
            where = forward.connect_path or (f"{forward.connect_host} port {forward.connect_port}")
            self._log.error(f"connect_to {where}: failed.")
            self._log.debug(f"connect_to {where}: {error.strerror or error}")
            raise

    async def _lead_in_by_socks(self, number: int, channel: Channel) -> None:
        """-R with a port alone: the caller there says where to, and it is dialled from here."""
        state = SocksState()
        sink = DataSink(channel, channel.finish)
        try:
            channel.confirm()
            if not await self._passages.take_socks_request(number, state, channel, sink):
                return
            assert state.target is not None
            end = await self._dial_permitted(state, sink)
            if end is None:
                return
            with contextlib.closing(end):
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
        if not may_open(self._permitted, host, port):
            self._log.error(f"PermitRemoteOpen: {host} port {port} is not permitted")
            await sink.write(state.failed(is_prohibited=True))
            return None
        try:
            return await dial(host, port)
        except OSError as error:
            self._log.error(f"connect_to {host} port {port}: {error.strerror or error}")
            await sink.write(state.failed())
            return None


def _refuse(channel: Channel, error: OSError) -> None:
    if channel.is_usable():
        channel.refuse(RefusalReason.CONNECT_FAILED, error.strerror or str(error))


def _confirms(channel: Channel, end: SocketEnd | UdpEnd) -> bool:
    """Unless it has gone while we connected; then the end is closed."""
    try:
        channel.confirm()
    except SinkClosed:
        end.close()
        return False
    return True


def _place(forward: Forward, port: int | None) -> tuple[object, ...]:
    """By which a forwarding at the server is told from others."""
    if forward.listen_path is not None:
        return (forward.listen_path,)
    return (_address_to_ask(forward), port)


def _address_to_ask(forward: Forward) -> str:
    """What OpenSSH puts into its request: "" is everywhere."""
    if forward.listen_host is None:
        return LOCALHOST
    return "" if forward.listen_host == "*" else forward.listen_host
