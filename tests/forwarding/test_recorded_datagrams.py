"""The recorded conversations of the Go programs that carry datagrams, with either of our sides in
the place of theirs: UDP forwards in both directions, and a jump host's.
"""

from __future__ import annotations

import asyncio
import socket

import pytest

from sshoq.client.channel_openings import datagram_opening_for
from sshoq.config.forward_spec import Forward
from sshoq.forwarding.datagrams import UdpEnd
from sshoq.protocol.datagrams import split_datagram
from sshoq.protocol.extensions import NONE
from sshoq.protocol.messages import (
    DirectUdp,
    OpenReverseUdp,
    RequestReverseUdp,
    unmapped,
)
from sshoq.server.privsep import Dial
from sshoq.transport.channel import Channel
from sshoq.wire import IPPort
from tests.client.test_forwards import forwards
from tests.golden_replay import Side, Transcript
from tests.pair import Party, logged_in, run
from tests.server.test_forwards import header_of, replay, served, with_our_maximum

DIRECT = ["direct-udp", "direct-udp-sizes", "proxy-jump-outer"]


def exchanged(transcript: Transcript, stream: int) -> list[tuple[Side, bytes]]:
    """The datagrams of a channel that were not lost, in their order."""
    found: list[tuple[Side, bytes]] = []
    for step in transcript.steps:
        parts = split_datagram(step.data or b"") if step.stream is None else None
        if parts is not None and parts[1] == stream:
            found.append((step.sender, bytes(parts[2])))
    assert found
    return found


def direct_stream(transcript: Transcript) -> int:
    [stream] = [
        one
        for one in transcript.channels
        if isinstance(header_of(transcript, one).opening, DirectUdp)
    ]
    return stream


async def room_for(party: Party, channel: Channel, payload: bytes) -> None:
    """Until the path is known to carry it; Go's packets were up to 1,450 bytes long."""
    engine = party.conversation.engine
    party.conversation.seek_larger_datagrams()
    while engine.max_datagram_payload < len(channel.state.datagram(payload)):
        assert engine.is_searching_path, f"{len(payload)} bytes never fit"
        await asyncio.sleep(0)


async def receive(end: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(end, 65536)


def receiver(channel: Channel) -> asyncio.Queue[bytes]:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    channel.take_datagrams(lambda payload: arrived.put_nowait(bytes(payload)))
    return arrived


def bound() -> socket.socket:
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind(("127.0.0.1", 0))
    end.setblocking(False)
    return end


# --------------------------------------------------------------------------- our server


@pytest.mark.parametrize("name", DIRECT)
def test_a_recorded_client_reaches_its_target(name: str) -> None:
    transcript = Transcript(name)
    stream = direct_stream(transcript)

    async def main() -> None:
        async with served(NONE) as there:
            channel = await replay(there, transcript, stream)
            answers = receiver(channel)
            await channel.opened()
            with await there.leader.targets.get() as target:
                target.setblocking(False)
                for sender, payload in exchanged(transcript, stream):
                    if sender == "client":
                        await room_for(there.client, channel, payload)
                        assert channel.send_datagram(payload)
                        assert await receive(target) == payload
                    else:
                        await room_for(there.server, channel, payload)
                        target.send(payload)
                        assert await answers.get() == payload
            opening = header_of(transcript, stream).opening
            assert isinstance(opening, DirectUdp)
            [dial] = there.leader.dialled
            assert (dial.kind, (dial.host, dial.port)) == (Dial.UDP, unmapped(opening.target))

    run(main)


def test_what_a_recorded_client_sends_with_its_header_is_not_lost() -> None:
    """It waits for no confirmation, and its datagram may be here before its channel is."""
    transcript = Transcript("direct-udp")
    stream = direct_stream(transcript)
    [(_, first), *_] = exchanged(transcript, stream)

    async def main() -> None:
        async with served(NONE) as there:
            channel = await replay(there, transcript, stream)
            assert channel.send_datagram(first)
            with await there.leader.targets.get() as target:
                target.setblocking(False)
                assert await receive(target) == first

    run(main)


def test_a_recorded_client_is_led_back_to() -> None:
    """To all three callers' datagrams it would have got an answer, had it not stopped reading."""
    transcript = Transcript("reverse-udp")
    header = header_of(transcript, 1)

    async def main() -> None:
        async with served(NONE) as there:
            await (await replay(there, transcript, 4)).opened()
            [listen] = there.leader.listened
            assert (listen.kind, listen.host, listen.port) == (Dial.UDP, "127.0.0.1", 19703)
            address = ("127.0.0.1", await there.leader.ports.get())
            asked = [data for sender, data in exchanged(transcript, 1) if sender == "server"]
            [answer] = [data for sender, data in exchanged(transcript, 1) if sender == "client"]
            with bound() as caller:
                caller.sendto(asked[0], address)
                channel = await there.client.arrived.get()
                assert channel.state.header.encode() == with_our_maximum(header)
                arrived = receiver(channel)
                confirmation = transcript.written(1, "client")
                there.client.conversation.write(channel.stream_id, [confirmation], fin=True)
                assert await arrived.get() == asked[0]
                channel.state.confirm()  # for our own bookkeeping: it is said already
                assert channel.send_datagram(answer)
                assert await receive(caller) == answer
                for data in asked[1:]:
                    caller.sendto(data, address)
                    assert await arrived.get() == data

    run(main)


# --------------------------------------------------------------------------- our client


@pytest.mark.parametrize("name", DIRECT[:2])
def test_a_recorded_server_is_asked_as_by_the_go_client(name: str) -> None:
    transcript = Transcript(name)
    stream = direct_stream(transcript)
    opening = header_of(transcript, stream).opening
    assert isinstance(opening, DirectUdp)
    far = unmapped(opening.target)
    with bound() as probe:
        port = probe.getsockname()[1]

    async def main() -> None:
        words = ("-L", f"udp:127.0.0.1:{port}:{far.ip}:{far.port}")
        async with forwards(*words, extensions=NONE) as there:
            await there.forwards.local.listen()
            with bound() as caller:
                caller.connect(("127.0.0.1", port))
                [(_, first), *rest] = exchanged(transcript, stream)
                caller.send(first)
                channel = await there.next()
                asked = channel.state.opening
                assert isinstance(asked, DirectUdp)
                assert unmapped(asked.target) == far
                arrived = receiver(channel)
                channel.confirm()
                assert await arrived.get() == first
                for sender, payload in rest:
                    party = there.client if sender == "client" else there.server
                    await room_for(party, channel, payload)
                    if sender == "client":
                        caller.send(payload)
                        assert await arrived.get() == payload
                    else:
                        assert channel.send_datagram(payload)
                        assert await receive(caller) == payload

    run(main)


def test_a_recorded_server_leads_back() -> None:
    transcript = Transcript("reverse-udp")
    recorded, back = (header_of(transcript, stream).opening for stream in (4, 1))
    assert isinstance(recorded, RequestReverseUdp)
    assert isinstance(back, OpenReverseUdp)

    async def main() -> None:
        with bound() as target:
            near = IPPort("127.0.0.1", target.getsockname()[1])
            listen = unmapped(recorded.listen)
            words = ("-R", f"udp:{listen.ip}:{listen.port}:{near.ip}:{near.port}")
            async with forwards(*words, extensions=NONE) as there:
                async with asyncio.TaskGroup() as group:
                    group.create_task(there.forwards.remote.ask())
                    asked = await there.next()
                    asked.confirm()
                opening = asked.state.opening
                assert isinstance(opening, RequestReverseUdp)
                assert (unmapped(opening.listen), unmapped(opening.target)) == (listen, near)
                channel = there.open(OpenReverseUdp(listen, near))
                answers = receiver(channel)
                await channel.opened()
                loop = asyncio.get_running_loop()
                for sender, payload in exchanged(transcript, 1):
                    if sender == "server":
                        assert channel.send_datagram(payload)
                        data, dialler = await loop.sock_recvfrom(target, 65536)
                        assert data == payload
                    else:
                        target.sendto(payload, dialler)
                        assert await answers.get() == payload

    run(main)


def test_a_recorded_jump_host_is_asked_as_by_the_go_client() -> None:
    """The recorded packets of the inner connection stand in for ours."""
    transcript = Transcript("proxy-jump-outer")
    stream = direct_stream(transcript)
    opening = header_of(transcript, stream).opening
    assert isinstance(opening, DirectUdp)
    place = unmapped(opening.target)

    async def main() -> None:
        async with logged_in(NONE, NONE) as (client, server), asyncio.TaskGroup() as group:
            forward = Forward(connect_host=place.ip, connect_port=place.port)
            asked = await datagram_opening_for(client.conversation.traits, forward)
            assert isinstance(asked, DirectUdp)
            assert unmapped(asked.target) == place
            channel = client.conversation.open_channel(asked)
            arrived_channel = await server.arrived.get()
            arrived = receiver(arrived_channel)
            arrived_channel.confirm()
            await channel.opened()
            inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            inner.setblocking(False)
            relay = group.create_task(UdpEnd(outer).join(channel))
            with inner:
                for sender, payload in exchanged(transcript, stream):
                    await room_for(server, arrived_channel, payload)
                    await room_for(client, channel, payload)
                    if sender == "client":
                        inner.send(payload)
                        assert await arrived.get() == payload
                    else:
                        assert arrived_channel.send_datagram(payload)
                        assert await receive(inner) == payload
            relay.cancel()

    run(main)
