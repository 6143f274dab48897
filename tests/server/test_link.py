"""The network process' sockets to the others: what is kept for one that does not read just now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from sshoq.server.link import MAX_WAITING, MAX_WAITING_BYTES, PrivsepLink
from sshoq.server.privsep import FROM_LEADER, TO_LEADER, Dial, EndForwarding, StartProgram
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, make_pair
from sshoq.wire import Message
from tests.pair import run

CHANNELS = 1024
LONG = b"x" * 128 * 1024


Talk = Callable[[PrivsepLink, PrivsepSocket, list[PrivsepError]], Awaitable[None]]


def linked(talk: Talk) -> None:
    """The network process' end on an event loop, the leader's end, and how the first was lost."""

    async def main() -> None:
        ours, theirs = make_pair()
        lost: list[PrivsepError] = []
        link = PrivsepLink(
            PrivsepSocket(ours, TO_LEADER, FROM_LEADER), lambda message, fds: None, lost.append
        )
        leader = PrivsepSocket(theirs, FROM_LEADER, TO_LEADER)
        try:
            await talk(link, leader, lost)
        finally:
            link.close()
            leader.close()

    run(main)


def test_a_leader_that_has_not_run_yet_is_asked_by_every_channel() -> None:
    """In order, and without a loss; then all of them may give up."""
    asked: list[Message] = [Dial(n, Dial.TCP, "h" * 255, 80) for n in range(CHANNELS)]
    asked += [EndForwarding(number) for number in range(CHANNELS)]

    async def talk(link: PrivsepLink, leader: PrivsepSocket, lost: list[PrivsepError]) -> None:
        for message in asked:
            link.send(message)
        assert not lost
        for message in asked:
            assert await asyncio.to_thread(leader.receive) == (message, [])

    linked(talk)


@pytest.mark.parametrize(
    "message",
    [EndForwarding(1), StartProgram(1, StartProgram.EXEC, LONG, ())],
    ids=["many", "long"],
)
def test_one_that_never_reads_counts_as_hung(message: Message) -> None:
    async def talk(link: PrivsepLink, leader: PrivsepSocket, lost: list[PrivsepError]) -> None:
        sent = 0
        while not lost:
            link.send(message)
            sent += 1
            assert sent <= 2 * MAX_WAITING
            assert sent * len(message.encode()) <= 2 * MAX_WAITING_BYTES
        assert str(lost[0]) == "the other process does not read"

    linked(talk)
