"""A fault in a callback ends the run, whatever the run was waiting for; nothing else does."""

import asyncio
import contextlib
import gc

import pytest

from sshoq.client.callback_faults import ending_with_faults


class Bug(Exception):
    pass


def fail() -> None:
    raise Bug("here")


async def wait_for_ever() -> int:
    asyncio.get_running_loop().call_soon(fail)
    await asyncio.get_running_loop().create_future()
    return 0


async def wait_in_groups() -> int:
    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_ever())
    return 0


async def hide_the_cancellation() -> int:
    with contextlib.suppress(asyncio.CancelledError):
        await wait_for_ever()
    return 0


async def clean_up_and_fail() -> int:
    try:
        return await wait_for_ever()
    finally:
        raise OSError("in the cleaning up")


@pytest.mark.parametrize(
    "work", [wait_for_ever, wait_in_groups, hide_the_cancellation, clean_up_and_fail]
)
def test_the_run_ends_with_the_fault(work: object) -> None:
    assert callable(work)
    with pytest.raises(Bug, match="here"):
        asyncio.run(ending_with_faults(work()))


def test_results_and_exceptions_pass() -> None:
    async def done() -> int:
        return 7

    async def broken() -> int:
        raise OSError("no")

    assert asyncio.run(ending_with_faults(done())) == 7
    with pytest.raises(OSError, match="no"):
        asyncio.run(ending_with_faults(broken()))


def test_a_task_that_nobody_asks_is_only_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> int:
        async def forgotten() -> None:
            raise Bug("in a task")

        task = asyncio.get_running_loop().create_task(forgotten())
        await asyncio.sleep(0)
        del task
        gc.collect()
        return 7

    assert asyncio.run(ending_with_faults(work())) == 7
    assert "never retrieved" in caplog.text
