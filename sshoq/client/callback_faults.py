"""A fault of ours in a callback of the event loop: the run ends with it. The loop would only write
it down, and the run wait for ever for what the callback was to do.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def ending_with_faults(work: Coroutine[Any, Any, int]) -> int:
    """The work's result, or the first exception of a callback, once the work has been cancelled.

    What else the loop has to tell, such as a task's exception that nobody has asked for, is told
    as ever.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    faults: list[Exception] = []

    def take(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if "handle" not in context or not isinstance(fault, Exception):
            loop.default_exception_handler(context)
        elif not faults:
            faults.append(fault)
            task.cancel()

    loop.set_exception_handler(take)
    try:
        return await work
    finally:
        if faults:
            raise faults[0] from None
