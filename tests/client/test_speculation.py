"""A session asked for ahead of the login's answer, at servers that behave as the Go server does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import cast

import pytest

from sshoq.client.speculation import LEAST_GAIN, LONGEST, SHORTEST, delay_of
from sshoq.protocol.conversation_events import ConversationEvent
from sshoq.protocol.messages import Exec
from sshoq.protocol.outcome import CHANNEL_REFUSED
from sshoq.protocol.request import UNAUTHORIZED, ConnectRequest, Response
from sshoq.transport.channel import Channel
from tests.auth.keyring import make_key
from tests.client.little_server import (
    GoState,
    Listener,
    LittleServer,
    Result,
    end,
    listening,
    run_client,
    to,
)

FAR = 2 * LEAST_GAIN

Decide = Callable[[LittleServer, int, ConnectRequest], Coroutine[object, object, None]]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("keys")
    return [str(make_key(folder, "ed25519")), str(make_key(folder, "rsa"))]


def echo(server: LittleServer, channel: Channel) -> None:
    """As no FIN tells a Go server that the input has ended, the length does."""

    async def answer() -> None:
        got = b""
        while len(got) < len(INPUT):
            got += bytes(await channel.read())
        await channel.write(got)
        await end(channel, 0)

    server.spawn(answer())


INPUT = b"all of the input"


def go_state(server: LittleServer) -> GoState:
    return cast(GoState, server.conversation.state)


async def until(server: LittleServer, condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            server.heard.clear()
            await server.heard.wait()


async def see_nothing_tried(server: LittleServer) -> None:
    """A slow server: what the client sends ahead of the answer is there by then."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(until(server, lambda: go_state(server).refused), 2 * LONGEST)


def ask(
    keys: list[str],
    decide: Decide,
    judge: Callable[[ConnectRequest], Response] = lambda request: Response(200),
    round_trip: float = FAR,
    words: tuple[str, ...] = (),
) -> tuple[Result, Listener]:
    """What the client says, and whom it has spoken with."""

    async def test() -> tuple[Result, Listener]:
        async with listening(judge, echo, extensions=None, round_trip=round_trip) as listener:
            identities = [word for key in keys[1:] for word in ("-i", key)]
            process = asyncio.ensure_future(
                run_client(*to(listener, keys[0], *identities, *words), "x", given=INPUT)
            )
            server = await listener.arrived
            server.decide = lambda stream_id, request: server.spawn(
                decide(server, stream_id, request)
            )
            return await process, listener

    return asyncio.run(test())


@pytest.mark.parametrize("round_trip", [None, 0.0, LEAST_GAIN / 2])
def test_a_short_way_is_not_worth_it(round_trip: float | None) -> None:
    assert delay_of(round_trip) is None


def test_the_delay_grows_with_the_way_within_bounds() -> None:
    delays = [delay_of(round_trip) for round_trip in (LEAST_GAIN, 0.05, 0.1, 1.0)]
    assert delays == sorted(delays, key=float)  # type: ignore[arg-type]  # a None would fail here
    assert (delays[0], delays[-1]) == (SHORTEST, LONGEST)
    assert all(delay is not None and delay <= LONGEST for delay in delays)


def test_a_session_comes_between_the_decision_and_its_answer(keys: list[str]) -> None:
    async def decide(server: LittleServer, stream_id: int, request: ConnectRequest) -> None:
        go_state(server).register(stream_id)
        # Only a client that does not wait for the answer ever gets one.
        await until(server, lambda: server.conversation.channels)
        server.answer(stream_id, request)

    result, listener = ask(keys[:1], decide)
    assert result == Result(0, INPUT, "")
    assert listener.server.asked == [Exec("x")]
    assert go_state(listener.server).refused == []


def test_a_session_that_came_too_early_is_asked_for_again(keys: list[str]) -> None:
    async def decide(server: LittleServer, stream_id: int, request: ConnectRequest) -> None:
        await until(server, lambda: go_state(server).refused)
        server.answer(stream_id, request)

    result, listener = ask(keys[:1], decide)
    assert result == Result(0, INPUT, "")
    assert listener.server.asked == [Exec("x")]
    assert len(go_state(listener.server).refused) == 1


def test_no_input_is_lost_when_the_answer_overtakes_the_reset(keys: list[str]) -> None:
    async def decide(server: LittleServer, stream_id: int, request: ConnectRequest) -> None:
        state, engine = go_state(server), server.conversation.engine
        put_off: list[int] = []
        state._refuse_arriving = (  # type: ignore[method-assign]
            lambda stream_id, code, events: put_off.append(stream_id)
        )
        await until(server, lambda: put_off)
        held = {number: state._arriving.pop(number) for number in put_off}
        server.answer(stream_id, request)
        await until(server, lambda: engine.buffered(stream_id) == 0)  # the client has the answer
        vars(state).pop("_refuse_arriving")
        state._arriving.update(held)
        server.conversation._act(lambda: refusals(state, put_off))
        server.conversation.flush()

    def refusals(state: GoState, numbers: list[int]) -> list[ConversationEvent]:
        events: list[ConversationEvent] = []
        for number in numbers:
            state._refuse_arriving(number, CHANNEL_REFUSED, events)
        return events

    result, listener = ask(keys[:1], decide)
    assert result == Result(0, INPUT, "")
    assert listener.server.asked == [Exec("x")]


def test_there_is_one_try_however_many_keys_there_are(keys: list[str]) -> None:
    seen: list[str | None] = []

    def judge(request: ConnectRequest) -> Response:
        seen.append(request.authorization)
        return UNAUTHORIZED if len(seen) == 1 else Response(200)

    async def decide(server: LittleServer, stream_id: int, request: ConnectRequest) -> None:
        if not seen:
            await until(server, lambda: go_state(server).refused)
        server.answer(stream_id, request)

    result, listener = ask(keys, decide, judge)
    assert result == Result(0, INPUT, "")
    assert listener.server.asked == [Exec("x")]
    assert len(go_state(listener.server).refused) == 1


def test_nothing_is_tried_with_remote_forwardings(keys: list[str]) -> None:
    """They must stand before the session starts."""

    async def decide(server: LittleServer, stream_id: int, request: ConnectRequest) -> None:
        await see_nothing_tried(server)
        server.answer(stream_id, request)

    result, listener = ask(keys[:1], decide, words=("-R", "0:127.0.0.1:9"))
    assert listener.server.asked == [Exec("x")], result


def test_nothing_is_tried_with_a_password(keys: list[str], tmp_path: Path) -> None:
    program = tmp_path / "askpass"
    program.write_text("#!/bin/sh\necho secret\n")
    program.chmod(0o700)

    async def test() -> None:
        async with listening(serve=echo, extensions=None, round_trip=FAR) as listener:
            words = to(listener, keys[0], "-o", "PreferredAuthentications=password")
            process = asyncio.ensure_future(
                run_client(
                    *(word.replace("BatchMode=yes", "BatchMode=no") for word in words),
                    "x",
                    environ={"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"},
                    given=INPUT,
                )
            )
            server = await listener.arrived
            server.decide = lambda stream_id, request: server.spawn(
                decide(server, stream_id, request)
            )
            assert (await process).status == 0

    async def decide(server: LittleServer, stream_id: int, request: ConnectRequest) -> None:
        await see_nothing_tried(server)
        server.answer(stream_id, request)

    asyncio.run(test())
