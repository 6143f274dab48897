"""Tasks that run beside a block of code, as the forwards of a session do; and what the event loop's
callbacks raise.

asyncio's own group wraps up what the block raises, and cancels the tasks for it. Here it comes out
as it is, and the tasks end as the block has them end.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Waits for all tasks, which the block itself must have told to end. What a task raises cancels
    the block, as in any group."""
    failure: BaseException | None = None
    async with asyncio.TaskGroup() as group:
        try:
            yield group
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure


async def unless_callbacks_fail(work: Coroutine[Any, Any, Result]) -> Result:
    """What a callback raises comes out here, and ends the work. asyncio would print it and go on,
    and the work would wait for ever for what the callback was about. What else the loop has to
    tell is told as ever.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    failures: list[BaseException] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or "handle" not in context:
            loop.default_exception_handler(context)
        elif not failures:
            failures.append(error)
            task.cancel()

    loop.set_exception_handler(note)
    try:
        return await work
    finally:  # also when the work has hidden the cancellation, or raised something on the way out
        loop.set_exception_handler(None)
        if failures:
            raise failures[0] from None
