"""Questions to the user: on /dev/tty, or through the program in SSH_ASKPASS, by OpenSSH's rules.

Prompter blocks; `run_with_prompts` lets it block in a thread while the event loop keeps the
connection alive.
"""

import contextlib
import os
import select
import signal
import termios
from collections.abc import Callable, Mapping
from typing import TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio

SUSPENDING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

T = TypeVar("T")

MAX_ANSWER = 1024
"""OpenSSH's own bound for a passphrase."""

DEFAULT_ASKPASS = "/usr/bin/ssh-askpass"


class PromptNeeded(Exception):
    """Raised instead of asking, by a prompter that must not block."""


class PromptInterrupted(Exception):
    """A signal came while the question stood there; the terminal is as it was before."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Prompter:
    """Asks, unless BatchMode forbids it. `complain` hears why it cannot; `tty` is the terminal's
    path, for tests."""

    def __init__(
        self,
        environ: Mapping[str, str],
        complain: Callable[[str], None],
        *,
        batch: bool = False,
        tty: str = "/dev/tty",
    ) -> None:
        self._environ = environ
        self._complain = complain
        self._tty = tty
        self._signals = -1  # where a prompt in another thread learns of signals
        self.asking = False
        self.batch = batch

    def secret(self, question: str) -> str | None:
        """A password or passphrase. None: nobody to ask. The end of input and a program's refusal
        are empty answers, as for ssh."""
        return self._ask(question, echo=False, refusal="")

    def answer(self, question: str, refusal: str | None = None) -> str | None:
        """Something that may be seen, such as yes or no. `refusal` is what a program's comes to.
        """
        return self._ask(question, echo=True, refusal=refusal)

    def confirm(self, question: str) -> bool:
        """A permission, which ssh asks for with SSH_ASKPASS alone; without it there is none."""
        if self.batch or not self._may_use_askpass():
            return False
        self.asking = True
        try:
            answer = self._ask_program(question, hint="confirm")
        finally:
            self.asking = False
        return answer is not None and answer.lower() in ("", "yes")

    def _ask(self, question: str, *, echo: bool, refusal: str | None) -> str | None:
        if self.batch:
            return None
        terminal = self._open_terminal()
        self.asking = True
        try:
            if self._wants_askpass(terminal is not None):
                return self._ask_program(question, refusal=refusal)
            if terminal is None:
                return None
            return self._ask_terminal(terminal, question, echo=echo)
        except (OSError, termios.error):
            return None  # whoever held its other end has gone, as sshpass does after a refusal
        finally:
            self.asking = False
            if terminal is not None:
                os.close(terminal)

    def _open_terminal(self) -> int | None:
        try:
            return os.open(self._tty, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return None

    def _wants_askpass(self, terminal: bool) -> bool:
        """SSH_ASKPASS_REQUIRE: force needs no display, prefer passes by the terminal, never is
        never.
        """
        rule = self._askpass_rule()
        return self._may_use_askpass() and (rule in ("force", "prefer") or not terminal)

    def _may_use_askpass(self) -> bool:
        environ = self._environ
        display = bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
        return self._askpass_rule() == "force" or (display and self._askpass_rule() != "never")

    def _askpass_rule(self) -> str:
        return self._environ.get("SSH_ASKPASS_REQUIRE", "").lower()

    # ----- the terminal

    def _ask_terminal(self, fd: int, question: str, *, echo: bool) -> str | None:
        while True:
            saved = termios.tcgetattr(fd)
            try:
                self._set_echo(fd, echo=echo)
                # From the first column, wherever the cursor is, as ssh.
                os.write(fd, b"\r" + question.encode("utf-8", "surrogateescape"))
                line, number = self._read_line(fd)
                if not echo:
                    os.write(fd, b"\n")
            finally:
                termios.tcsetattr(fd, termios.TCSAFLUSH, saved)
            if number is None:
                return line
            if number not in SUSPENDING:
                raise PromptInterrupted(number)
            os.kill(os.getpid(), signal.SIGSTOP)  # and when continued, ask again

    @staticmethod
    def _set_echo(fd: int, *, echo: bool) -> None:
        attributes = termios.tcgetattr(fd)
        attributes[3] |= termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG
        if not echo:
            attributes[3] &= ~(termios.ECHO | termios.ECHONL)
        termios.tcsetattr(fd, termios.TCSAFLUSH, attributes)

    def _read_line(self, fd: int) -> tuple[str | None, int | None]:
        """The line (empty at the end of input), or the signal that came instead."""
        data = b""
        while len(data) < MAX_ANSWER and not data.endswith((b"\n", b"\r")):
            number = self._wait_for_input(fd)
            if number is not None:
                return None, number
            piece = os.read(fd, MAX_ANSWER)
            if not piece:
                break
            data += piece
        return data.rstrip(b"\r\n").decode("utf-8", "surrogateescape"), None

    def _wait_for_input(self, fd: int) -> int | None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if self._signals >= 0:
            poll.register(self._signals, select.POLLIN)
        ready = [number for number, _ in poll.poll()]
        return os.read(self._signals, 1)[0] if self._signals in ready else None

    # ----- SSH_ASKPASS

    def _ask_program(
        self, question: str, hint: str | None = None, refusal: str | None = None
    ) -> str | None:
        """The first line of what the program prints. An exit status other than 0 is a refusal.
        None: there is no program."""
        import subprocess

        program = self._environ.get("SSH_ASKPASS") or DEFAULT_ASKPASS
        environ = None
        if hint is not None:
            environ = {**os.environ, **self._environ, "SSH_ASKPASS_PROMPT": hint}
        try:
            child = subprocess.Popen(
                [program, question],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=environ,
            )
        except OSError as error:
            self._complain(f"ssh_askpass: exec({program}): {error.strerror}")
            return None
        assert child.stdout is not None
        with child:
            try:
                printed = self._read_answer(child.stdout.fileno())
            except PromptInterrupted:
                child.kill()
                raise
        if child.returncode != 0:
            return refusal
        return printed.splitlines()[0] if printed else ""

    def _read_answer(self, fd: int) -> str:
        data = b""
        while len(data) < MAX_ANSWER:
            number = self._wait_for_input(fd)
            if number is not None and number not in SUSPENDING:
                raise PromptInterrupted(number)
            if number is None:
                piece = os.read(fd, MAX_ANSWER - len(data))
                if not piece:
                    break
                data += piece
        return data.decode("utf-8", "surrogateescape")

    def watch_signals(self, fd: int) -> None:
        """One byte on `fd`, a signal's number, ends the question that stands."""
        self._signals = fd


def _in_thread(call: Callable[[], T]) -> "asyncio.Future[T]":
    """What comes of `call`, which nobody waits for at the end of the process."""
    import asyncio
    import threading

    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T is None

    def run() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = call(), None
        except BaseException as error:
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return future


async def run_with_prompts(prompter: Prompter, call: Callable[[], T]) -> T:
    """Run `call`, which may ask and wait for ever, in a thread; the event loop goes on.

    While it runs, signals reach the question first, so that echo is back on before they are obeyed.
    """
    from sshoq.client.signals import ENDING, catching

    def obey(number: int) -> None:
        if prompter.asking:
            os.write(sender, bytes((number,)))
        elif number in SUSPENDING:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif not future.done():
            future.set_exception(PromptInterrupted(number))

    receiver, sender = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    prompter.watch_signals(receiver)
    try:
        with catching((*ENDING, *SUSPENDING), obey):
            future = _in_thread(call)
            return await future
    finally:
        prompter.watch_signals(-1)
        os.close(receiver)
        os.close(sender)
