"""Conversations and channels in asyncio, both sides real: order, ends, back-pressure, faults."""

import asyncio
import hashlib
import os

import pytest

from sshoq.protocol.channel import Buffer, Chaff, ChannelEvent, Data
from sshoq.protocol.extensions import NONE
from sshoq.protocol.messages import Exec, ExitStatus, PtyReq, Session, Shell, WindowChange
from sshoq.protocol.outcome import Code
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused, SinkClosed
from sshoq.transport.conversation import CHANNEL_SHARE
from sshoq.transport.events import Cause
from tests.pair import Party, a_request, logged_in, pair, read_all, run


async def open_session(client: Party, server: Party) -> tuple[Channel, Channel]:
    ours = client.conversation.open_channel(Session())
    theirs = await server.arrived.get()
    theirs.confirm()
    await ours.opened()
    return ours, theirs


def test_an_end_that_comes_with_the_handshake_is_the_end() -> None:
    """A server that closes before it has heard of us again: there is nobody to say anything to."""

    async def main() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: faults.append(context["message"])
        )
        async with pair() as (client, server):
            server.conversation.close(Code.NO_ERROR, "over already")
            assert (await client.end).cause is Cause.PEER
        assert not faults

    run(main)


def test_data_travels_both_ways_and_ends() -> None:
    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            await ours.write(b"question")
            ours.write_eof()
            assert await read_all(theirs) == b"question"
            await theirs.write(b"answer")
            theirs.request(ExitStatus(3))
            theirs.finish()
            assert await read_all(ours) == b"answer"
            asked = await ours.next_request()
            assert asked is not None
            assert asked.request == ExitStatus(3)
            ours.finish()
            assert await ours.closed == await theirs.closed == ""
            assert not client.conversation.channels
            assert not server.conversation.channels

    run(main)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_large_transfer_arrives_unchanged(direction: str) -> None:
    payload = os.urandom(12_000_000)

    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            source, sink = (ours, theirs) if direction == "up" else (theirs, ours)

            async def send() -> None:
                for start in range(0, len(payload), 100_000):
                    await source.write(payload[start : start + 100_000])
                source.finish()

            async with asyncio.TaskGroup() as group:
                received = group.create_task(read_all(sink))
                group.create_task(send())
            digests = {hashlib.sha256(data).digest() for data in (payload, received.result())}
            assert len(digests) == 1

    run(main)


def test_a_reader_that_takes_at_once_gets_everything_in_order() -> None:
    """Of a little it takes all, or a part, or nothing; the credit for what it took is given back.
    """
    payload = os.urandom(3 * CHANNEL_SHARE)
    received = bytearray()
    ways = {"taken": 0, "read": 0}

    def take(data: Buffer) -> Buffer:
        ways["taken"] += 1
        count = (len(data), len(data) // 2, 0)[ways["taken"] % 3]
        received.extend(data[:count])
        return data[count:]

    async def receive(channel: Channel) -> None:
        while data := await channel.read(take):
            ways["read"] += 1
            received.extend(data)

    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            async with asyncio.TaskGroup() as group:
                group.create_task(receive(theirs))
                for start in range(0, len(payload), 1000):
                    await ours.write(payload[start : start + 1000])
                    while start < 30_000 and len(received) < start:  # a little at a time
                        await asyncio.sleep(0)
                ours.write_eof()
        assert received == payload
        assert all(ways.values())

    run(main)


def test_what_taking_raises_is_raised_where_the_reader_waits() -> None:
    def take(data: Buffer) -> Buffer:
        raise SinkClosed("nobody there")

    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            for reading, write in (
                (theirs.read, ours.write),
                (ours.read_extended, theirs.write_extended),
            ):
                waiting = asyncio.ensure_future(reading(take))
                await asyncio.sleep(0)
                await write(b"lost")
                with pytest.raises(SinkClosed, match="nobody there"):
                    await waiting
                await write(b"more")
                assert bytes(await reading()) == b"more"

    run(main)


def test_nothing_is_taken_where_too_much_is_under_way() -> None:
    """A channel as a sink: what `take` leaves is for `write`, which waits."""

    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            sent = 0
            while ours.take(bytes(65536)) == b"":
                sent += 65536
            assert CHANNEL_SHARE <= sent <= 2 * CHANNEL_SHARE
            received = 0
            while received < sent:
                received += len(await theirs.read())
            ours.close()
            with pytest.raises(SinkClosed):
                ours.take(b"x")

    run(main)


def test_a_reader_that_stops_stops_the_writer() -> None:
    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while True:
                    await ours.write(bytes(65536))
                    sent += 65536

            flooding = asyncio.ensure_future(flood())
            before = -1
            while sent != before:  # until nothing moves any more
                before = sent
                for _ in range(500):
                    await asyncio.sleep(0.0002)
            assert sent < 3 * CHANNEL_SHARE
            flooding.cancel()
            await asyncio.wait([flooding])
            assert theirs is not None

    run(main)


def test_requests_overtake_data_that_nobody_reads() -> None:
    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            ours.request(PtyReq("xterm", 80, 24))
            ours.request(Shell())
            await ours.write(bytes(500_000))
            ours.request(WindowChange(100, 50))
            names = [await theirs.next_request() for _ in range(3)]
            assert [asked.request.name_on_wire for asked in names if asked] == [
                "pty-req", "shell", "window-change",
            ]

    run(main)


def test_a_wanted_reply_comes_to_the_one_who_asked() -> None:
    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            pty, start = ours.ask(PtyReq("xterm", 80, 24)), ours.ask(Exec("true"))
            for granted in (False, True):
                assert await theirs.next_request() is not None
                theirs.reply(granted)
            assert await pty is False
            assert await start is True

    run(main)


def test_chaff_is_answered_with_chaff_and_by_the_server_alone() -> None:
    async def test() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            heard: asyncio.Queue[ChannelEvent] = asyncio.Queue()

            def watch(event: ChannelEvent) -> bool:
                heard.put_nowait(event)
                return True

            ours.watcher = watch
            ours.send_chaff(16, want_answer=False)
            ours.send_chaff(16, want_answer=True)
            theirs.send_chaff(4, want_answer=True)
            await theirs.write(b"end")
            events = [await heard.get() for _ in range(3)]
            assert events.count(Chaff(False)) == events.count(Chaff(True)) == 1
            assert sum(isinstance(event, Data) for event in events) == 1
            ours.write_now(b"end")  # had the client answered, too, the server would have by now
            assert await theirs.read() == b"end"
            assert heard.empty()

    run(test)


def test_a_go_peer_counts_as_granting() -> None:
    async def main() -> None:
        async with logged_in(server_extensions=NONE) as (client, server):
            ours, theirs = await open_session(client, server)
            assert client.conversation.traits.extensions == NONE
            assert server.conversation.traits.extensions == NONE
            assert theirs.stream_id == ours.stream_id

    run(main)


def test_a_refused_channel_says_why() -> None:
    async def main() -> None:
        async with logged_in() as (client, server):
            ours = client.conversation.open_channel(Session())
            theirs = await server.arrived.get()
            theirs.refuse(1, "not today")
            with pytest.raises(ChannelRefused, match="not today"):
                await ours.opened()

    run(main)


def test_a_closed_reader_ends_the_writer() -> None:
    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            ours.close()
            with pytest.raises(SinkClosed):
                while True:
                    await theirs.write(b"x")
                    await asyncio.sleep(0)

    run(main)


def test_early_channels_are_served_after_the_login() -> None:
    async def main() -> None:
        async with pair() as (client, server):
            await client.ready
            while not client.conversation.state.settings_known:
                await asyncio.sleep(0)
            client.conversation.send_request(a_request())
            ours = client.conversation.open_channel(Session())
            ours.request(Exec("true"))
            theirs = await server.arrived.get()
            theirs.confirm()
            asked = await theirs.next_request()
            assert asked is not None
            assert asked.request == Exec("true")
            await ours.opened()

    run(main)


def test_early_channels_go_with_a_refused_login() -> None:
    async def main() -> None:
        async with pair() as (client, server):
            server.admit = lambda request: False
            await client.ready
            while not client.conversation.state.settings_known:
                await asyncio.sleep(0)
            client.conversation.send_request(a_request())
            ours = client.conversation.open_channel(Session())
            response = await client.response
            assert response is not None
            assert response.status == 401
            with pytest.raises(ChannelClosed):
                await ours.opened()
            assert server.arrived.empty()

    run(main)


def test_a_broken_rule_ends_only_its_channel() -> None:
    async def main() -> None:
        async with logged_in() as (client, server):
            good, their_good = await open_session(client, server)
            bad, their_bad = await open_session(client, server)
            client.conversation.write(bad.stream_id, [b"\x7f\xff"])  # message 16383
            with pytest.raises(SinkClosed):
                while True:
                    await bad.write(b"x")
                    await asyncio.sleep(0)
            assert len(server.faults) == 1
            assert "message 16383" in server.faults[0]
            await good.write(b"still here")
            assert await their_good.read() == b"still here"
            assert their_bad.closed.done()

    run(main)


def test_nothing_counts_that_comes_behind_a_broken_rule_of_the_connection() -> None:
    """In the same flight, that is: how well the program ended is not for such a server to say."""

    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            engine = server.conversation.engine
            engine.write(engine.open_stream(), b"\x01\x00")
            theirs.request(ExitStatus(0))
            theirs.finish()
            assert (await client.end).cause is Cause.LOCAL
            assert client.faults == ["the server opened a stream that is no channel"]
            assert await ours.next_request() is None
            assert await ours.closed == client.faults[0]

    run(main)


def test_the_end_of_the_connection_ends_every_channel() -> None:
    async def main() -> None:
        async with logged_in() as (client, server):
            ours, theirs = await open_session(client, server)
            client.conversation.close(0x100, "bye")
            end = await server.end
            assert end.by_peer
            assert end.code == 0x100
            assert await ours.closed
            assert await theirs.closed
            assert await theirs.read() == b""

    run(main)


def test_thousands_of_channels_in_a_row_leave_nothing() -> None:
    async def main() -> None:
        async with logged_in() as (client, server):
            for _ in range(1500):
                ours, theirs = await open_session(client, server)
                ours.finish()
                theirs.finish()
                await ours.closed
                await theirs.closed
            assert not client.conversation.channels
            assert not server.conversation.channels
            assert not server.conversation.state.channels

    run(main)
