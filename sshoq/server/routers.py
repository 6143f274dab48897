"""Process: main [root]. The addresses that we listen at, and the router of each: started, heard,
and started again when it ends.

A router's word is a stranger's; one that breaks the rules is replaced. Connections live on.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Collection

from sshoq.server import log
from sshoq.server.children import start_router
from sshoq.server.config import ServerConfig
from sshoq.server.control_poll import ControlPoll
from sshoq.server.daemon import await_children
from sshoq.server.listener import Address, BindError, open_listener, show_address
from sshoq.server.privsep import MAIN_TO_ROUTER, ROUTER_TO_MAIN
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, close_all, make_pair
from sshoq.wire import Message

ROUTER_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a router that died is started again, the more the sooner it dies each time."""

ROUTER_HEALTHY = 60.0
"""A router that lived so long has done nothing wrong: the next pause is the first again."""

BIND_TRIES = 20
BIND_PAUSE = 0.1
"""A server that was just stopped may still hold the address for a moment."""

STOP_TIME = 2.0
"""Seconds for the routers to end."""


class Listener:
    """An address we listen at, and its router."""

    def __init__(self, udp: socket.socket, number: int) -> None:
        self.udp = udp
        self.number = number
        self.pid = 0
        self.control: PrivsepSocket | None = None
        self.ready = False
        self.started = 0.0
        self.failures = 0
        self.restart_at = 0.0

    @property
    def place(self) -> str:
        return show_address(self.udp.getsockname())


Hear = Callable[[Listener, PrivsepSocket, Message], None]


class Routers:
    """One for each address."""

    def __init__(self, poll: ControlPoll, hear: Hear, code: str) -> None:
        """`hear`: what to do with a message. `code`: what routers run."""
        self._poll = poll
        self._hear = hear
        self._code = code
        self._listeners: dict[Address, Listener] = {}
        self._numbers = 0

    @property
    def places(self) -> dict[Address, str]:
        """Where we listen, and how that is told."""
        return {address: listener.place for address, listener in self._listeners.items()}

    def are_ready(self) -> bool:
        return all(one.ready for one in self._listeners.values())

    # ------------------------------------------------------------------ addresses

    def bind(self, config: ServerConfig) -> None:
        """Open what is configured and not open yet; an address that cannot be had is reported."""
        for family, address in config.listen_addresses():
            if address in self._listeners:
                continue
            try:
                udp = _open_patiently(family, address)
            except BindError as error:
                log.error(str(error))
                continue
            self._numbers += 1
            self._listeners[address] = Listener(udp, self._numbers)

    def keep_only(self, wanted: Collection[Address]) -> None:
        """Give up the others, but for the last one."""
        for address in [one for one in self._listeners if one not in wanted]:
            if len(self._listeners) > 1:
                self._retire(self._listeners.pop(address))

    def _retire(self, listener: Listener) -> list[int]:
        """Give up an address. Its router ends as its socket to us does; returns its pid."""
        if listener.control is not None:
            self._poll.close(listener.control)
            listener.control = None
        listener.udp.close()
        return [listener.pid] if listener.pid else []

    def stop(self) -> None:
        """All of them, and wait until they have ended."""
        pids = []
        for listener in self._listeners.values():
            pids += self._retire(listener)
        await_children(pids, STOP_TIME)

    # ------------------------------------------------------------------ processes

    def start_due(self, now: float) -> None:
        for listener in self._listeners.values():
            if listener.pid == 0 and listener.restart_at <= now:
                self._start(listener, now)

    def _start(self, listener: Listener, now: float) -> None:
        ours, theirs = make_pair()
        ours.setblocking(False)
        try:
            listener.pid = start_router(listener.udp, theirs, listener.number, self._code)
        except OSError as error:
            log.error(f"fork: {error.strerror}")
            self._plan_restart(listener, now)
            ours.close()
            return
        finally:
            theirs.close()
        listener.started = now
        listener.ready = False
        listener.control = PrivsepSocket(ours, MAIN_TO_ROUTER, ROUTER_TO_MAIN)
        self._poll.add(ours.fileno(), lambda: self._listen_to(listener), is_last=True)

    def _plan_restart(self, listener: Listener, now: float) -> None:
        if now - listener.started > ROUTER_HEALTHY:
            listener.failures = 0
        pause = ROUTER_PAUSES[min(listener.failures, len(ROUTER_PAUSES) - 1)]
        listener.failures += 1
        listener.restart_at = now + pause

    def until_next_start(self, now: float) -> float | None:
        waiting = [one.restart_at for one in self._listeners.values() if one.pid == 0]
        return max(0.0, min(waiting) - now) if waiting else None

    def note_end(self, pid: int, status: int) -> None:
        """One of the processes has ended; another takes its place soon."""
        for listener in self._listeners.values():
            if listener.pid == pid:
                listener.pid = 0
                self._drop(listener)
                self._plan_restart(listener, time.monotonic())
                log.error(
                    f"router {pid} at {listener.place} {_describe_end(status)}, starting another"
                )

    def _listen_to(self, listener: Listener) -> None:
        control = listener.control
        assert control is not None
        try:
            message, descriptors = control.receive()
            close_all(descriptors)
            self._hear(listener, control, message)
        except BlockingIOError:
            return
        except (PrivsepError, OSError) as error:  # the kernel may have no room for an answer
            log.debug(f"router {listener.pid}: {error}")
            self._drop(listener)

    def _drop(self, listener: Listener) -> None:
        """It broke the rules, or has closed its socket: without it no newcomer is served, so end
        it. Its connections live on.
        """
        if listener.control is not None:
            self._poll.close(listener.control)
            listener.control = None
        if listener.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(listener.pid, signal.SIGKILL)


def _open_patiently(family: int, address: Address) -> socket.socket:
    for _ in range(BIND_TRIES):
        try:
            return open_listener(family, address)
        except BindError as error:
            if not error.in_use:
                raise
        time.sleep(BIND_PAUSE)
    return open_listener(family, address)


def _describe_end(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"exited with status {os.WEXITSTATUS(status)}"
