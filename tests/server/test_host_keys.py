"""The network process tells a client the host's keys, and keeps what it asks within bounds."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

import pytest

from sshoq.protocol.channel import IllegalSend
from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.messages import (
    ChannelRequest,
    Env,
    GiveProof,
    HostKeys,
    OfferKeys,
    WantProof,
    join_strings,
    split_strings,
)
from sshoq.server.channels import ChannelHost, Login
from sshoq.transport.channel import Channel, ChannelRefused
from tests.pair import Party, logged_in
from tests.server.fake_leader import Ending, FakeLogin, Streams

KEYS = (b"one", b"two", b"three")


async def no_program(streams: Streams) -> Ending:
    return Ending()


class ProvingLogin(FakeLogin):
    """Signs by putting a word in front."""

    def __init__(self) -> None:
        super().__init__(no_program)
        self.host_keys = KEYS
        self.proven: list[tuple[bytes, ...]] = []

    async def prove_host_keys(self, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        self.proven.append(tuple(keys))
        return tuple(b"signed " + key for key in keys)


_Asked = TypeVar("_Asked", bound=ChannelRequest)


async def expect(channel: Channel, kind: type[_Asked]) -> _Asked:
    asked = await channel.next_request()
    assert asked is not None
    assert isinstance(asked.request, kind)
    return asked.request


async def told_keys(client: Party) -> tuple[Channel, list[bytes]]:
    channel = client.conversation.open_channel(HostKeys())
    return channel, split_strings((await expect(channel, OfferKeys)).keys)


Test = Callable[[Party, ProvingLogin], Awaitable[None]]


def run(test: Test) -> None:
    async def main() -> None:
        login = ProvingLogin()
        host = ChannelHost(cast(Login, login))
        async with logged_in() as (client, server), asyncio.TaskGroup() as group:

            def accept(channel: Channel) -> None:
                served = host.accept(channel)
                if served is not None:
                    serving.append(group.create_task(host.serve(served)))

            serving: list[asyncio.Task[None]] = []
            server.on_channel = accept
            await test(client, login)
            for task in serving:
                task.cancel()

    asyncio.run(main())


def test_all_keys_are_told_and_those_are_proven_that_are_asked_for() -> None:
    async def test(client: Party, login: ProvingLogin) -> None:
        channel, keys = await told_keys(client)
        assert keys == list(KEYS)
        channel.request(WantProof(join_strings([b"three", b"one"])))
        proofs = split_strings((await expect(channel, GiveProof)).signatures)
        assert proofs == [b"signed three", b"signed one"]
        channel.finish()
        assert await channel.closed == ""

    run(test)


def test_a_client_that_knows_enough_ends_it() -> None:
    async def test(client: Party, login: ProvingLogin) -> None:
        channel, _ = await told_keys(client)
        channel.finish()
        assert await channel.closed == ""
        assert login.proven == []

    run(test)


def test_once_is_enough() -> None:
    """Each proof is the monitor's time, and it ends the connection of who asks for more."""

    async def test(client: Party, login: ProvingLogin) -> None:
        await told_keys(client)
        again = client.conversation.open_channel(HostKeys())
        with pytest.raises(ChannelRefused):
            await again.opened()

    run(test)


@pytest.mark.parametrize(
    "asked",
    [
        WantProof(join_strings([b"one", b"four"])),
        WantProof(join_strings([b"one", b"one"])),
        WantProof(b"\x05one"),
        Env("A", "b"),
    ],
    ids=["another's", "twice", "cut", "out of place"],
)
def test_what_the_monitor_would_not_sign_does_not_reach_it(asked: ChannelRequest) -> None:
    async def test(client: Party, login: ProvingLogin) -> None:
        channel, _ = await told_keys(client)
        channel.request(asked)
        assert "reset by the peer" in await channel.closed
        assert login.proven == []
        assert len(login.lines) == 1

    run(test)


def test_the_keys_go_one_way_and_the_questions_the_other() -> None:
    async def test(client: Party, login: ProvingLogin) -> None:
        channel, _ = await told_keys(client)
        with pytest.raises(IllegalSend):
            channel.request(OfferKeys(b""))

    run(test)


def test_nobody_asks_a_server_that_did_not_announce_it() -> None:
    async def main() -> None:
        async with logged_in(server_extensions=OURS & ~Extension.HOST_KEYS) as (client, _):
            with pytest.raises(IllegalSend):
                client.conversation.open_channel(HostKeys())

    asyncio.run(main())
