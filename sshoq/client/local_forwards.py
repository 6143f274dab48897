"""Forwardings that listen here: -L and -D. Who calls is led to the server's side.

Messages are OpenSSH's.
"""

import contextlib
import socket

from sshoq.client.channel_openings import check_paths_are_known, datagram_opening_for, opening_for
from sshoq.client.dialing import look_up
from sshoq.client.log import Failure
from sshoq.client.passages import Passages
from sshoq.client.run_context import RunContext
from sshoq.config.forward_spec import Forward
from sshoq.forwarding.acceptor import Acceptor
from sshoq.forwarding.datagrams import UdpListener
from sshoq.forwarding.forwarder import SocketEnd, set_no_delay
from sshoq.forwarding.joint import join, join_opening
from sshoq.forwarding.socks import SocksState
from sshoq.listening import FAMILIES, UnixListener, addresses_for, family_of, open_listeners
from sshoq.protocol.messages import ChannelOpening
from sshoq.protocol.outcome import Unsupported
from sshoq.protocol.version import PeerTraits
from sshoq.transport.channel import Channel, SinkClosed
from sshoq.wire import IPPort


class LocalForwards:
    """All that is listened on here for one conversation."""

    def __init__(self, context: RunContext, passages: Passages) -> None:
        self._traits: PeerTraits = context.client.conversation.traits
        self._options = context.options
        self._log = context.log
        self._passages = passages
        self._standing: list[tuple[Forward, Acceptor | UdpListener, UnixListener | None]] = []

    def standing(self) -> list[Forward]:
        return [forward for forward, _, _ in self._standing]

    async def listen(self) -> None:
        """Failure if one cannot be had and ExitOnForwardFailure is set."""
        granted = [await self.add(forward) for forward in self._options.local_forwards]
        if not all(granted) and self._options.exit_on_forward_failure:
            raise Failure("Could not request local forwarding.")
        if granted and not any(granted):
            self._log.error("Could not request local forwarding.")

    async def add(self, forward: Forward) -> bool:
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

    def cancel(self, wanted: Forward) -> bool:
        """Stop listening where `wanted` says; what came through goes on. False: nobody listens."""
        place = self._place(wanted)
        for index, (forward, _, _) in enumerate(self._standing):
            if self._place(forward) == place:
                self._stop_listening(index)
                return True
        return False

    def _place(self, forward: Forward) -> tuple[object, ...]:
        """What two forwardings have in common that cannot both be had."""
        if forward.listen_path is not None:
            return (forward.listen_path,)
        gateway = self._options.gateway_ports
        addresses = addresses_for(forward.listen_host, gateway=gateway)
        return (forward.protocol, addresses, forward.listen_port)

    def _stop_listening(self, index: int) -> None:
        _, acceptor, listener = self._standing.pop(index)
        acceptor.close()
        if listener is not None:
            listener.remove()

    def close(self) -> None:
        while self._standing:
            self._stop_listening(0)

    # ------------------------------------------------------------------ listening

    async def _listen(self, forward: Forward) -> None:
        if forward.connect_path is not None:
            check_paths_are_known(self._traits, forward.connect_path)
        if forward.protocol == "udp":
            self._standing.append((forward, await self._listen_for_datagrams(forward), None))
            return
        unix = None
        if forward.listen_path is not None:
            unix = self._listen_on_path(forward.listen_path)
            sockets = [unix.socket]
        else:
            sockets = await self._open_listeners(forward, socket.SOCK_STREAM)

        def take(connection: socket.socket, caller: IPPort) -> None:
            number = self._passages.free_number()
            self._passages.start(number, self._lead_out(number, forward, connection, caller))

        self._standing.append((forward, Acceptor(sockets, take), unix))

    async def _open_listeners(
        self, forward: Forward, kind: socket.SocketKind
    ) -> list[socket.socket]:
        addresses = await self._addresses(forward)
        port, log = forward.listen_port or 0, self._log
        sockets = open_listeners(addresses, port, kind, log.error, log.verbose)
        for listener in sockets:
            ip, number = listener.getsockname()[:2]
            self._log.debug(f"Local forwarding listening on {ip} port {number}.")
        return sockets

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
            return self._passages.open(self._passages.free_number(), opening)

        sockets = await self._open_listeners(forward, socket.SOCK_DGRAM)
        return UdpListener(sockets, open_flow, self._passages.start_aside)

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
        channel = self._passages.open(number, opening)
        if channel is None:
            return
        channel.write_now(end.source.at_hand())
        await join_opening(channel, end)
        await self._passages.await_opened(number, channel)  # which says why, if it was not

    async def _lead_out_by_socks(self, number: int, end: SocketEnd, caller: IPPort) -> None:
        state = SocksState()
        with contextlib.suppress(SinkClosed):
            if not await self._passages.take_socks_request(number, state, end.source, end.sink):
                return
            assert state.target is not None
            target = Forward(connect_host=state.target.host, connect_port=state.target.port)
            channel = self._passages.open(number, await opening_for(self._traits, target, caller))
            if channel is None or not await self._passages.await_opened(number, channel):
                await end.sink.write(state.failed())
                return
            await end.sink.write(state.granted())
            if state.rest:
                await channel.write(state.rest)
            await join(channel, end)
