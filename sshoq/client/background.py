"""Going to the background: -f after authentication, and `~&` out of a running session.

An event loop, its threads and its sockets do not take a fork well, so -f forks first, while nothing
runs yet: the child does everything, prompts included (it is in the same foreground process group),
and tells the waiting parent when it may leave. Only `~&` cannot know beforehand; it forks a loop
that has no other thread.
"""

import os
import signal
from types import FrameType
from typing import NoReturn

_FORWARDED = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)


class Background:
    """What the child of -f holds: the way to let the parent go."""

    def __init__(self, waiting_parent: int) -> None:
        self._parent = waiting_parent

    def detach(self) -> bool:
        """Leave the terminal's session and let the parent exit 0. False: somebody ended the parent
        before.
        """
        try:
            os.write(self._parent, b"\0")
        except BrokenPipeError:
            return False
        os.close(self._parent)
        os.setsid()
        return True


def fork_with_waiting_parent() -> Background:
    """Returns in the child alone. The parent leaves with 0 on its word, or else as the child ends.
    """
    receiver, sender = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(receiver)
        return Background(sender)
    os.close(sender)
    _wait_for_word(child, receiver)


def _wait_for_word(child: int, receiver: int) -> NoReturn:
    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in _FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    if os.read(receiver, 1):
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def leave_running_session() -> None:
    """`~&`: the child goes on in a session of its own, the parent exits 0 on the spot.

    Both share the loop's epoll, and the parent touches it no more. The loop is told that it still
    runs, since asyncio takes a loop for one of the parent's by the process ID.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
    asyncio._set_running_loop(loop)
