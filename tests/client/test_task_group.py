"""Tasks beside a block: how both of them end."""

from __future__ import annotations

import asyncio

import pytest

from sshoq.client.task_group import task_group, unless_callbacks_fail


def test_what_the_block_raises_comes_out_as_it_is_when_the_tasks_have_ended() -> None:
    ended = []

    async def work(told: asyncio.Event) -> None:
        await told.wait()
        ended.append(True)

    async def test() -> None:
        told = asyncio.Event()
        async with task_group() as group:
            group.create_task(work(told))
            await asyncio.sleep(0)
            try:
                raise KeyError("the block's")
            finally:
                told.set()

    with pytest.raises(KeyError, match="the block's"):
        asyncio.run(test())
    assert ended == [True]


def test_what_a_task_raises_ends_the_block() -> None:
    async def fail() -> None:
        raise KeyError("the task's")

    async def test() -> None:
        async with task_group() as group:
            group.create_task(fail())
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(test())
    assert [str(error) for error in caught.value.exceptions] == ['"the task\'s"']


def test_what_a_callback_raises_ends_the_work() -> None:
    def fail() -> None:
        raise KeyError("the callback's")

    async def work() -> None:
        asyncio.get_running_loop().call_soon(fail)
        await asyncio.Event().wait()

    async def test() -> None:
        await unless_callbacks_fail(work())

    with pytest.raises(KeyError, match="the callback's"):
        asyncio.run(test())
