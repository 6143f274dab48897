"""The master of a shared connection: takes clients at ControlPath, and knows when it is over.

What a single client asks for is served in mux_guest.py. Loaded only with ControlMaster.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from sshoq.client.control_socket import ControlSocket, PlaceTaken, is_ours
from sshoq.client.forwards import Forwards
from sshoq.client.mux_guest import Guest
from sshoq.client.run_context import RunContext
from sshoq.client.session import FAILED, Ending
from sshoq.client.signals import ENDING, catching
from sshoq.client.task_group import task_group
from sshoq.forwarding.acceptor import Acceptor
from sshoq.wire import IPPort

MAX_GUESTS = 256
"""Clients at a time. Each may hold seven descriptors."""


@asynccontextmanager
async def mastering(context: RunContext, forwards: Forwards) -> AsyncIterator["Master | None"]:
    """A master for as long as the block runs; its socket is gone afterwards, however it ends. None
    where another one has the place: then there is no sharing."""
    path, log = context.options.control_path, context.log
    assert path is not None
    log.debug("setting up multiplex master socket")
    place: ControlSocket | None = None

    def leave(number: int) -> None:
        """Between what catches signals by itself."""
        if place is not None:
            place.remove()
        os._exit(FAILED)

    try:
        with catching(ENDING, leave):
            try:
                place = ControlSocket(path)
            except PlaceTaken as error:
                log.error(f"ControlSocket {error} already exists, disabling multiplexing")
            if place is None:
                yield None
                return
            async with task_group() as group:
                master = Master(context, forwards, place, group)
                try:
                    with catching((signal.SIGWINCH,), master.resize):
                        yield master
                finally:
                    master.close()
    finally:
        if place is not None:
            place.remove()


class Master:
    """Who is served, and for how long."""

    def __init__(
        self,
        context: RunContext,
        forwards: Forwards,
        place: ControlSocket,
        group: asyncio.TaskGroup,
    ) -> None:
        self.context = context
        self.forwards = forwards
        self._log = context.log
        self._options = context.options
        self._place = place
        self._group = group
        self._guests: dict[Guest, asyncio.Task[None]] = {}
        self._alone = asyncio.Event()
        self._alone.set()
        self._is_stopped = False
        self._over: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._acceptor = Acceptor([place.socket], self._take)
        forwards.passages.on_activity = self._note_activity
        self._note_activity()

    # ----- clients

    def _take(self, connection: socket.socket, caller: IPPort) -> None:
        if not is_ours(connection) or len(self._guests) >= MAX_GUESTS:
            self._log.error("multiplex client turned away")
            connection.close()
            return
        guest = Guest(connection, self)
        task = self._guests[guest] = self._group.create_task(guest.serve())
        self._alone.clear()
        self._note_activity()

        def forget(task: asyncio.Task[None]) -> None:
            del self._guests[guest]
            if not self._guests:
                self._alone.set()
            self._note_activity()

        task.add_done_callback(forget)

    def resize(self, number: int) -> None:
        """SIGWINCH, which clients pass on: anybody's terminal may have changed."""
        for guest in self._guests:
            guest.resize()

    # ----- the end

    async def run(self, work: Coroutine[Any, Any, Ending]) -> Ending:
        """Our own work, unless a client or the end of ControlPersist ends it before."""
        failure: Exception | None = None

        async def do() -> Ending:
            nonlocal failure
            try:
                return await work
            except Exception as error:  # the group would wrap it up
                failure = error
                return Ending(None)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(do())
            await asyncio.wait({task, self._over}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
        if failure is not None:
            raise failure
        return self._over.result() if task.cancelled() else task.result()

    async def drained(self) -> None:
        """Until no client is here any more, and nothing that came through a forwarding."""
        while self._guests or not self.forwards.passages.is_quiet:
            await self._alone.wait()
            await self.forwards.drained()

    def end(self) -> None:
        """-O exit."""
        self._end(Ending(None))

    def stop_listening(self) -> None:
        """-O stop: nobody comes any more. Who is here may go on."""
        self._acceptor.close()
        self._place.remove()
        self._is_stopped = True
        self._note_activity()

    def _end(self, ending: Ending) -> None:
        if not self._over.done():
            self._over.set_result(ending)

    def _note_activity(self) -> None:
        """Whether there is anything to stay for, now that somebody has come or gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._guests or not self.forwards.passages.is_quiet:
            return
        persists, seconds = self._options.control_persist
        if self._is_stopped and (persists or self._options.session_type == "none"):
            self.end()
        elif persists and seconds > 0:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._log.verbose("ControlPersist timeout expired")
        self._end(Ending(0))

    def close(self) -> None:
        self.forwards.passages.on_activity = lambda: None
        self._acceptor.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._guests.values():
            task.cancel()
