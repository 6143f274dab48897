"""Going to the background: -f and ControlPersist after authentication, and `~&` out of a running
session.

An event loop, its threads and its sockets do not take a fork well, so -f forks first, while nothing
runs yet: the child does everything, prompts included (it is in the same foreground process group),
and tells the waiting parent what to do. Only `~&` cannot know beforehand; it forks a loop that has
no other thread.
"""

import os
import signal
from enum import Enum
from types import FrameType
from typing import NoReturn

_FORWARDED = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)


class Word(Enum):
    """What the child has its parent do."""

    LEAVE = b"l"
    """Exit 0."""
    SHARE = b"s"
    """Become a client of the child, which is a master."""
    FALL_BACK = b"f"
    """Become ssh: nobody here speaks SSHOQ."""


class Background:
    """What the child holds: the way to let the parent go."""

    def __init__(self, waiting_parent: int, *, is_master: bool = False) -> None:
        self._parent = waiting_parent
        self.is_master = is_master
        """ControlPersist: the parent would like to be a client of ours."""

    def say(self, word: Word) -> bool:
        """False: somebody ended the parent before."""
        try:
            os.write(self._parent, word.value)
        except BrokenPipeError:
            return False
        os.close(self._parent)
        return True

    def stay(self) -> None:
        """Go on in the foreground; the parent will end as we do."""
        os.close(self._parent)

    def detach(self, word: Word = Word.LEAVE) -> bool:
        """Let the parent go and leave the terminal's session. False as above."""
        if not self.say(word):
            return False
        os.setsid()
        return True


def fork_with_waiting_parent() -> Background:
    """Returns in the child alone. The parent leaves with 0 on its word, or else as the child ends.
    """
    background = fork_with_following_parent()
    if isinstance(background, Background):
        return background
    os._exit(0)


def fork_with_following_parent(*, is_master: bool = False) -> Background | Word:
    """Returns in the child, and in the parent on the child's word; without one the parent ends as
    the child does.
    """
    receiver, sender = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(receiver)
        return Background(sender, is_master=is_master)
    os.close(sender)
    return _await_word(child, receiver)


def _await_word(child: int, receiver: int) -> Word:
    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    before = {number: signal.getsignal(number) for number in _FORWARDED}
    for number, action in before.items():
        if action is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    word = os.read(receiver, 1)
    if not word:
        _end_like(child)
    os.close(receiver)
    for number, action in before.items():
        signal.signal(number, action)
    return Word(word)


def _end_like(child: int) -> NoReturn:
    """The child goes on in the foreground; what the user does to one happens to both."""
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            break
        os.kill(os.getpid(), signal.SIGSTOP)  # and whoever continues us means both
        os.kill(child, signal.SIGCONT)
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
