"""What an authenticated client can send to hurt a server: it loses its channel or its connection, a
line in the log says so, and the server and everybody else go on.

The bytes are those that kill or confuse the Go server, and those that no rule of ours allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator

import pytest

from sshoq.protocol.messages import Exec, ExitStatus, Session
from sshoq.transport.channel import Channel
from sshoq.transport.conversation import Conversation
from sshoq.wire import varint
from tests.accounts import Account
from tests.janitor import Janitor
from tests.pair import Party
from tests.programs import Server, Sshoq
from tests.raw_client import connected
from tests.scenarios.conftest import server_factory

PATIENCE = 30.0
SIGNAL = bytes.fromhex("c0000000af3627e6")

ON_A_SESSION = {
    "a message nobody knows": varint(80),
    "CLOSE as SSHv2 has it": varint(97),
    "WINDOW_ADJUST as SSHv2 has it": varint(93) + varint(1),
    "SUCCESS to no request": varint(99),
    "a request nobody knows": varint(98) + b"\x11keepalive@go.test\x01",
    "data of 2^62 bytes": varint(94) + b"\xff" * 8,
    "a request's name of 2^40 bytes": varint(98) + varint(1 << 40),
    "a command of 2^40 bytes": varint(98) + b"\x04exec\x01" + varint(1 << 40),
    "stderr from a client": bytes.fromhex("405f01026869"),
    "an exit status from a client": bytes.fromhex("40620b657869742d7374617475730000"),
    "data ahead of the program": bytes.fromhex("405e036c730a"),
    "a message that ends inside": bytes.fromhex("40620465"),
}

NEW_STREAMS = {
    "another conversation": SIGNAL + varint(400) + b"\x07session" + varint(30000),
    "a channel type of 2^40 bytes": SIGNAL + b"\x00" + varint(1 << 40),
    "an unknown address family": SIGNAL + b"\x00\x0adirect-tcp" + varint(30000) + b"\x05\0\0\0\0",
    "a frame of HTTP/2": b"\x02\x00",
    "fields that need a dynamic table": b"\x01\x03\x02\x00\x80",
    "HEADERS of a gigabyte": b"\x01" + varint(1 << 30),
}


async def answers(conversation: Conversation) -> None:
    """The connection still serves: a command on it gives its output."""
    channel = conversation.open_channel(Session())
    channel.request(Exec("echo alive"))
    assert bytes(await channel.read()) == b"alive\n"
    asked = await channel.next_request()
    assert asked is not None
    assert asked.request == ExitStatus(0)
    channel.close()


def run_beside_a_bystander(
    server: Server, account: Account, attack: Callable[[Party], Coroutine[None, None, None]]
) -> None:
    """Attack on one connection; another, opened before, must go on, and the log must tell."""

    async def main() -> None:
        before = len(server.log())
        async with connected(server, account) as bystander:
            async with connected(server, account) as attacker:
                await attack(attacker)
            await answers(bystander.conversation)
        async with asyncio.timeout(PATIENCE):
            while "protocol error" not in server.log()[before:]:
                await asyncio.sleep(0.05)

    asyncio.run(main())


@pytest.fixture(scope="module")
def hostile_server(sshoq: Sshoq, janitor: Janitor) -> Iterator[Server]:
    for start in server_factory(janitor):
        yield start(sshoq)


@pytest.mark.parametrize("name", ON_A_SESSION)
def test_bad_bytes_on_a_session_end_it_and_nothing_else(
    hostile_server: Server, account: Account, name: str
) -> None:
    async def attack(party: Party) -> None:
        conversation = party.conversation
        channel: Channel = conversation.open_channel(Session())
        await channel.opened()
        conversation.write(channel.stream_id, [ON_A_SESSION[name]], fin="inside" in name)
        while not channel.was_reset:
            await asyncio.sleep(0.001)
        await answers(conversation)

    run_beside_a_bystander(hostile_server, account, attack)


@pytest.mark.parametrize("name", NEW_STREAMS)
def test_bad_streams_are_refused_or_end_their_connection(
    hostile_server: Server, account: Account, name: str
) -> None:
    async def attack(party: Party) -> None:
        engine = party.conversation.engine
        stream_id = engine.open_stream()
        engine.write(stream_id, NEW_STREAMS[name])
        party.conversation.flush()
        await asyncio.wait([party.end], timeout=1)

    run_beside_a_bystander(hostile_server, account, attack)
