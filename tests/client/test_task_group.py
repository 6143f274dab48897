"""Tasks beside a block: how both of them end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from typing import Any

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


def fail() -> None:
    raise KeyError("the callback's")


async def wait() -> None:
    asyncio.get_running_loop().call_soon(fail)
    await asyncio.Event().wait()


async def wait_in_groups() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(wait())


async def hide_the_cancellation() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await wait()


async def fail_on_the_way_out() -> None:
    try:
        await wait()
    finally:
        raise OSError("on the way out")


@pytest.mark.parametrize("work", [wait, wait_in_groups, hide_the_cancellation, fail_on_the_way_out])
def test_what_a_callback_raises_ends_the_work(
    work: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    with pytest.raises(KeyError, match="the callback's"):
        asyncio.run(unless_callbacks_fail(work()))


def test_without_such_a_fault_the_work_ends_as_it_does() -> None:
    async def done() -> int:
        return 7

    async def broken() -> int:
        raise OSError("no")

    assert asyncio.run(unless_callbacks_fail(done())) == 7
    with pytest.raises(OSError, match="no"):
        asyncio.run(unless_callbacks_fail(broken()))


def test_a_task_that_nobody_asks_is_only_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> int:
        async def forgotten() -> None:
            fail()

        task = asyncio.get_running_loop().create_task(forgotten())
        await asyncio.sleep(0)
        del task
        gc.collect()
        return 7

    assert asyncio.run(unless_callbacks_fail(work())) == 7
    assert "never retrieved" in caplog.text
