"""Tasks that run beside a block of code, as the forwards of a session do.

asyncio's own group wraps up what the block raises, and cancels the tasks for it. Here it comes out
as it is, and the tasks end as the block has them end.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


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
