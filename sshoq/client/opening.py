"""From a flight in the air to an open conversation: handshake, requests, and what became of either.

The client's side of a Conversation's callbacks. Addresses are tried one after another; every end of
the connection is turned into the one line that OpenSSH has for it.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence

from sshoq.client.addresses import BindError, HostAddress
from sshoq.client.first_flight import Flight, LinkWish, launch
from sshoq.client.log import Failure, Log, one_line
from sshoq.protocol.conversation import ConversationState
from sshoq.protocol.messages import AgentConnection, RefusalReason
from sshoq.protocol.outcome import Code
from sshoq.protocol.request import ConnectRequest, ResponseHead
from sshoq.protocol.version import PeerTraits
from sshoq.transport.channel import Channel
from sshoq.transport.conversation import Conversation
from sshoq.transport.engine import NoStreamCredit
from sshoq.transport.events import AFTER_LOGIN, Address, Cause, Terminated
from sshoq.transport.packets import CONNECTION_REFUSED

LAST_WAIT = 60.0
"""Seconds for an answer when ConnectTimeout is not given. TCP would wait for two minutes."""
NEXT_WAIT = 5.0
"""The same, when there is another address to try."""
SETTINGS_WAIT = 5.0
"""Seconds in which a server says what it understands, if that is waited for at all."""

EXPORTER_LABEL = b"EXPORTER-SSH3"
CONVERSATION_ID_LENGTH = 32


class Unreachable(Exception):
    """No handshake came about: str() says why, in the words of strerror()."""


class Silent(Unreachable):
    """Nothing at all was heard from there."""


class Foreign(Unreachable):
    """Somebody answers there who is no SSHOQ server for us, such as a web server's HTTP/3."""


class _EagerConversation(Conversation):
    """Believes an ICMP error at once while it is connecting: there is nothing yet to be lost."""

    def _unreachable(self, error: OSError) -> None:
        owner = self._owner
        if isinstance(owner, ClientConversation) and not owner.ready.done():
            owner.give_up(os.strerror(error.errno or 0))
        else:
            super()._unreachable(error)


class Patience:
    """How long silence is borne, asked about once an interval. The time in which we were suspended
    does not count: nobody asked the server then, nor heard it.
    """

    def __init__(self, interval: float, count: int, now: float) -> None:
        self.interval = interval
        self._most = interval * max(1, count)
        self._awake_since = self._last_asked = now

    def is_over(self, now: float, last_received: float) -> bool:
        if now - self._last_asked > 2 * self.interval:
            self._awake_since = now
        self._last_asked = now
        return now - max(self._awake_since, last_received) >= self._most


class ClientConversation:
    """A conversation as the client lives it. Made on the event loop."""

    def __init__(self, flight: Flight, host: str, log: Log) -> None:
        loop = asyncio.get_running_loop()
        self.target = flight.target
        self.host = host
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the server has shown its certificate and proven that it is its own."""
        self.gone: asyncio.Future[str] = loop.create_future()
        """Done when the connection has ended; the line that says how."""
        self._settled: asyncio.Future[None] = loop.create_future()
        self._log = log
        self._response: asyncio.Future[ResponseHead | None] | None = None
        self.on_channel: Callable[[Channel], None] = refuse_unasked
        """What is done about a channel that the server opens."""
        self._udp = flight.udp
        self._began = loop.time()
        self.conversation = _EagerConversation(
            flight.engine, flight.udp, ConversationState(is_client=True), self
        )
        self.conversation.start()

    @property
    def certificates(self) -> list[bytes]:
        return self.conversation.engine.peer_certificates

    @property
    def conversation_id(self) -> bytes:
        return self.conversation.engine.export(EXPORTER_LABEL, b"", CONVERSATION_ID_LENGTH)

    async def settled_traits(self) -> PeerTraits:
        """What the server is, awaited: its SETTINGS leave with its part of the handshake, but a
        packet may be lost. One that never says is taken for a Go server.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTINGS_WAIT):
                await asyncio.shield(self._settled)
        traits: PeerTraits = self.conversation.traits
        return traits

    async def handshake(self, wait: float) -> None:
        """Until `ready`; Unreachable when that does not come about in time."""
        try:
            async with asyncio.timeout(wait):
                await asyncio.shield(self.ready)
        except TimeoutError:
            self.give_up("Connection timed out")
            self.ready.exception()
            kind = Unreachable if self._udp.received else Silent
            raise kind("Connection timed out") from None

    def give_up(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(Unreachable(reason))
        self.conversation.close()

    def answer_to(self, request: ConnectRequest) -> "asyncio.Future[ResponseHead | None]":
        """Send the request now; what is written next leaves in the same flight."""
        self._response = asyncio.get_running_loop().create_future()
        if self.gone.done():
            self._response.set_exception(Failure(self.gone.result()))
            return self._response
        try:
            self.conversation.send_request(request)
        except NoStreamCredit:
            place = f"{self.target.ip} port {self.target.port}"
            self._response.set_exception(Failure(f"{place} permits no requests"))
        return self._response

    def note_login(self) -> None:
        """From here on the server may send more at a time."""
        self.conversation.raise_limits(AFTER_LOGIN)

    def watch_server(self, interval: float, count: int) -> None:
        """ServerAliveInterval: QUIC's own pings ask; here is only how long silence is borne."""
        if interval > 0:
            self._watch_server(Patience(interval, count, asyncio.get_running_loop().time()))

    def _watch_server(self, patience: "Patience") -> None:
        loop = asyncio.get_running_loop()
        if self.gone.done():
            return
        if patience.is_over(loop.time(), self.conversation.engine.last_received):
            self.gone.set_result(f"Timeout, server {self.host} not responding.")
            self.conversation.close()
        else:
            loop.call_later(patience.interval, self._watch_server, patience)

    async def close(self) -> None:
        """Say goodbye, so that the server need not wait for silence."""
        self.conversation.close(Code.NO_ERROR)
        await self.conversation.over()

    def describe(self) -> list[str]:
        """Which way the conversation goes, and how it is protected."""
        engine = self.conversation.engine
        here = self._udp.socket.getsockname() if self._udp.socket.fileno() >= 0 else ""
        there = f"{self.target.ip}:{self.target.port}"
        way = f"udp {here[0]}:{here[1]} -> {there}" if isinstance(here, tuple) else f"udp {there}"
        keys = f"TLS 1.3, key exchange {engine.key_exchange}, cipher {engine.cipher_suite}"
        return [way, keys, *self.describe_traffic()]

    def describe_traffic(self) -> tuple[str, str]:
        """The two lines that ssh has for it at VERBOSE."""
        sent, received = self._udp.sent, self._udp.received
        seconds = asyncio.get_running_loop().time() - self._began
        rates = [count / max(seconds, 0.001) for count in (sent, received)]
        return (
            f"Transferred: sent {sent}, received {received} bytes, in {seconds:.1f} seconds",
            f"Bytes per second: sent {rates[0]:.1f}, received {rates[1]:.1f}",
        )

    def list_channels(self) -> list[str]:
        """For `~#`."""
        channels = self.conversation.channels.values()
        return [f"  #{n} {c.state.opening.type_name}" for n, c in enumerate(channels)]

    # ----- what the conversation tells (ConversationOwner)

    def send_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def handshake_completed(self) -> None:
        engine = self.conversation.engine
        self._log.debug(f"kex: {engine.key_exchange}, cipher: {engine.cipher_suite}")

    def settings_received(self) -> None:
        self._settle()
        names = self.conversation.traits.extensions
        self._log.debug(f"extensions in common: {names!r}")

    def request_received(self, stream_id: int, request: ConnectRequest) -> None:
        """Servers request nothing; the rules have refused it already."""

    def response_received(self, stream_id: int, response: ResponseHead | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_result(response)

    def channel_arrived(self, channel: Channel) -> None:
        self.on_channel(channel)

    def name_retired(self, connection_id: bytes) -> None: ...

    def newcomer_arrived(self, datagram: bytes) -> None: ...

    def path_changed(self, address: Address) -> None: ...

    def conversation_ended(self) -> None:
        """The server ended the CONNECT stream: nothing more can be opened, what runs may end."""

    def fault(self, text: str) -> None:
        self._log.debug(f"protocol error: {text}")

    def _settle(self) -> None:
        if not self._settled.done():
            self._settled.set_result(None)

    def terminated(self, end: Terminated) -> None:
        self._settle()
        line = self._describe(end)
        self._log.debug(f"connection ended: {end.cause.value}, code {end.code:#x} {end.reason}")
        if not self.gone.done():
            self.gone.set_result(line)
        if not self.ready.done():
            self.ready.set_exception(Unreachable(_handshake_failure(end)))
        if self._response is not None and not self._response.done():
            self._response.set_exception(Failure(*self._login_failure(end, line)))

    def _describe(self, end: Terminated) -> str:
        if end.cause is Cause.IDLE:
            return f"Timeout, server {self.host} not responding."
        if end.cause is Cause.LOCAL:
            return f"Read from remote host {self.host}: {end.reason or 'Connection reset by peer'}"
        return f"Connection to {self.host} closed by remote host."

    def _login_failure(self, end: Terminated, line: str) -> tuple[str, ...]:
        place = f"{self.target.ip} port {self.target.port}"
        if not end.by_peer:
            return (line,)
        if end.reason:
            return (
                f"Received disconnect from {place}:{_ssh_code(end)}: {one_line(end.reason)}",
                f"Disconnected from {place}",
            )
        return (f"Connection closed by {place}",)


_BY_APPLICATION, _TOO_MANY, _NO_SERVICE, _PROTOCOL_ERROR = 11, 12, 7, 2
_SSH_CODES: dict[int, int] = {
    Code.INTERNAL_ERROR: _BY_APPLICATION,
    Code.REQUEST_CANCELLED: _BY_APPLICATION,
    Code.EXCESSIVE_LOAD: _TOO_MANY,
    Code.REQUEST_REJECTED: _NO_SERVICE,
}


def _ssh_code(end: Terminated) -> int:
    """RFC 4253 11.1. All that sshd ends a login for, tries too many included, is a protocol error.
    """
    if not end.is_application:
        return _PROTOCOL_ERROR
    return _SSH_CODES.get(end.code, _PROTOCOL_ERROR)


def refuse_unasked(channel: Channel) -> None:
    """Nothing was asked for that would make the server open one."""
    if channel.state.traits.is_go and isinstance(channel.state.opening, AgentConnection):
        channel.close()  # else its program would wait for ever
    elif channel.is_usable():
        channel.refuse(RefusalReason.ADMINISTRATIVELY_PROHIBITED, "not requested")


def _handshake_failure(end: Terminated) -> str:
    if end.code == CONNECTION_REFUSED and end.reason and not end.is_application:
        return one_line(end.reason)  # the server's own words
    if end.cause is Cause.IDLE:
        return "Connection timed out"
    reason = one_line(end.reason) or end.cause.value
    return f"QUIC handshake failed ({reason}, code {end.code:#x})"


# --------------------------------------------------------------------------- addresses


async def reach(
    targets: Sequence[HostAddress],
    wish: LinkWish,
    host: str,
    log: Log,
    *,
    first: Flight | OSError,
    patience: float | None,
    attempts: int = 1,
) -> ClientConversation:
    """The first address that answers. Unreachable says why the last one did not.

    `first` is what became of the flight to the first address, which left before anything else;
    `patience` is for all addresses together (ConnectTimeout).
    """
    loop = asyncio.get_running_loop()
    deadline = None if patience is None else loop.time() + patience
    flight: Flight | OSError | None = first
    failure = Unreachable("failure")
    tries = [target for _ in range(max(1, attempts)) for target in targets]
    for number, target in enumerate(tries):
        if number and number % len(targets) == 0:
            log.debug("Trying again...")
        wait = LAST_WAIT if number == len(tries) - 1 else NEXT_WAIT
        if deadline is not None:
            wait = deadline - loop.time()
        log.debug(f"Connecting to {host} [{target.ip}] port {target.port}.")
        try:
            return await _try_address(target, wish, host, log, flight, wait)
        except Unreachable as error:
            failure = error
            log.debug(f"connect to address {target.ip} port {target.port}: {error}")
        flight = None
        if deadline is not None and loop.time() >= deadline:
            break
    raise failure


async def _try_address(
    target: HostAddress,
    wish: LinkWish,
    host: str,
    log: Log,
    flight: Flight | OSError | None,
    wait: float,
) -> ClientConversation:
    if flight is None:
        try:
            flight = launch(target, wish)
        except OSError as error:
            flight = error
    if isinstance(flight, BindError):
        log.error(flight.line)
    if isinstance(flight, OSError):
        raise Unreachable(_reason(flight))
    client = ClientConversation(flight, host, log)
    await client.handshake(max(0.0, wait))
    log.debug("Connection established.")
    return client


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
