"""Questions on a real pty and through SSH_ASKPASS."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sshoq.client.prompt import Prompter, PromptInterrupted, run_with_prompts


class Tty:
    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.path = os.ttyname(self.slave)

    def read_until(self, text: bytes) -> bytes:
        data = b""
        while text not in data:
            data += os.read(self.master, 1000)
        return data

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)


@pytest.fixture
def tty() -> Iterator[Tty]:
    tty = Tty()
    yield tty
    os.close(tty.master)
    os.close(tty.slave)


def in_thread(call: Callable[[], str | None]) -> Callable[[], str | None]:
    """Start a call; the result is what the returned function gives when it has ended."""
    results: list[str | None] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()

    def result() -> str | None:
        thread.join(10)
        return results[0]

    return result


def test_secret_is_not_echoed_and_echo_comes_back(tty: Tty) -> None:
    prompter = Prompter({}, pytest.fail, tty=tty.path)
    result = in_thread(lambda: prompter.secret("me@there's password: "))
    assert tty.read_until(b": ") == b"\rme@there's password: "
    assert not tty.echoes
    os.write(tty.master, b"p\xc3\xa4ss word\n")
    assert result() == "päss word"
    assert tty.read_until(b"\n") == b"\r\n"
    assert tty.echoes


def test_answer_is_echoed(tty: Tty) -> None:
    result = in_thread(lambda: Prompter({}, pytest.fail, tty=tty.path).answer("yes or no? "))
    tty.read_until(b"? ")
    os.write(tty.master, b"yes\n")
    assert result() == "yes"
    assert tty.read_until(b"\n") == b"yes\r\n"


def test_end_of_input_is_an_empty_answer(tty: Tty) -> None:
    """As for ssh, which sends it as a password and asks again."""
    result = in_thread(lambda: Prompter({}, pytest.fail, tty=tty.path).secret("? "))
    tty.read_until(b"? ")
    os.write(tty.master, b"\x04")
    assert result() == ""


@pytest.mark.parametrize("echo", [False, True])
def test_terminal_that_hangs_up_gives_no_answer(echo: bool) -> None:
    master, slave = os.openpty()
    prompter = Prompter({}, pytest.fail, tty=os.ttyname(slave))
    result = in_thread(lambda: (prompter.answer if echo else prompter.secret)("? "))
    while b"? " not in os.read(master, 100):
        pass
    os.close(master)
    assert result() is None
    os.close(slave)


def test_empty_line_is_an_empty_answer(tty: Tty) -> None:
    result = in_thread(lambda: Prompter({}, pytest.fail, tty=tty.path).secret("? "))
    tty.read_until(b"? ")
    os.write(tty.master, b"\n")
    assert result() == ""


def test_batch_mode_never_asks(tty: Tty, askpass: str) -> None:
    environ = {"SSH_ASKPASS": askpass, "SSH_ASKPASS_REQUIRE": "force"}
    assert Prompter(environ, pytest.fail, batch=True, tty=tty.path).secret("? ") is None


@pytest.fixture
def askpass(tmp_path: Path) -> str:
    program = tmp_path / "askpass"
    program.write_text('#!/bin/sh\necho "program: $1"\necho more\nexit "${ASKPASS_STATUS:-0}"\n')
    program.chmod(0o755)
    return str(program)


NO_TTY = "/nonexistent/tty"


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, False),
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({"DISPLAY": ":0", "SSH_ASKPASS_REQUIRE": "never"}, False),
        ({"SSH_ASKPASS_REQUIRE": "force"}, True),
        ({"SSH_ASKPASS_REQUIRE": "prefer"}, False),
    ],
)
def test_askpass_without_a_terminal(
    askpass: str, variables: Mapping[str, str], asked: bool
) -> None:
    prompter = Prompter({"SSH_ASKPASS": askpass, **variables}, pytest.fail, tty=NO_TTY)
    assert prompter.secret("Password?") == ("program: Password?" if asked else None)


@pytest.mark.parametrize("rule", ["prefer", "force"])
def test_askpass_before_a_terminal(tty: Tty, askpass: str, rule: str) -> None:
    environ = {"SSH_ASKPASS": askpass, "SSH_ASKPASS_REQUIRE": rule, "DISPLAY": ":0"}
    assert Prompter(environ, pytest.fail, tty=tty.path).answer("Yes?") == "program: Yes?"


@pytest.fixture
def permit(tmp_path: Path) -> str:
    """Says what ANSWER has, to questions for a permission alone."""
    path = tmp_path / "permit"
    path.write_text('#!/bin/sh\n[ "$SSH_ASKPASS_PROMPT" = confirm ] || exit 1\necho "$ANSWER"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("answer", "is_permitted"), [("yes", True), ("", True), ("YES", True), ("no", False)]
)
def test_permission_is_asked_for_by_askpass(permit: str, answer: str, is_permitted: bool) -> None:
    environ = {"SSH_ASKPASS": permit, "SSH_ASKPASS_REQUIRE": "force", "ANSWER": answer}
    assert Prompter(environ, pytest.fail, tty=NO_TTY).confirm("May I?") == is_permitted


def test_permission_is_not_asked_for_at_a_terminal(tty: Tty, permit: str) -> None:
    environ = {"SSH_ASKPASS": permit, "ANSWER": "yes"}
    assert not Prompter(environ, pytest.fail, tty=tty.path).confirm("May I?")
    environ["DISPLAY"] = ":0"
    assert Prompter(environ, pytest.fail, tty=tty.path).confirm("May I?")


def test_batch_mode_permits_nothing(permit: str) -> None:
    environ = {"SSH_ASKPASS": permit, "SSH_ASKPASS_REQUIRE": "force", "ANSWER": "yes"}
    assert not Prompter(environ, pytest.fail, tty=NO_TTY, batch=True).confirm("May I?")


def test_askpass_that_fails_has_answered_nothing(
    askpass: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASKPASS_STATUS", "1")
    environ = {"SSH_ASKPASS": askpass, "SSH_ASKPASS_REQUIRE": "force"}
    prompter = Prompter(environ, pytest.fail, tty=NO_TTY)
    assert prompter.secret("?") == prompter.answer("?", refusal="") == ""
    assert prompter.answer("?") is None


def test_missing_askpass_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    environ = {"SSH_ASKPASS": path, "SSH_ASKPASS_REQUIRE": "force"}
    complaints: list[str] = []
    assert Prompter(environ, complaints.append, tty=NO_TTY).secret("?") is None
    assert complaints == [f"ssh_askpass: exec({path}): No such file or directory"]


def test_signal_ends_the_question_with_echo_on(tty: Tty) -> None:
    prompter = Prompter({}, pytest.fail, tty=tty.path)

    async def ask_and_interrupt() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(tty.master, os.kill, os.getpid(), signal.SIGTERM)
        try:
            await run_with_prompts(prompter, lambda: prompter.secret("? "))
        finally:
            loop.remove_reader(tty.master)

    with pytest.raises(PromptInterrupted) as caught:
        asyncio.run(ask_and_interrupt())
    assert caught.value.number == signal.SIGTERM
    assert tty.echoes


def test_loop_goes_on_while_the_user_thinks(tty: Tty) -> None:
    prompter = Prompter({}, pytest.fail, tty=tty.path)

    async def ask() -> str | None:
        def reply() -> None:
            if b"? " in os.read(tty.master, 100):
                os.write(tty.master, b"now\n")

        asyncio.get_running_loop().add_reader(tty.master, reply)
        return await run_with_prompts(prompter, lambda: prompter.secret("? "))

    assert asyncio.run(ask()) == "now"


def test_an_answer_that_comes_when_the_run_is_over_is_nobodys(tmp_path: Path) -> None:
    """pytest makes a failure of what a thread raises."""
    asked, over = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def call() -> None:
        threads.append(threading.current_thread())
        asked.set()
        over.wait(30)

    async def main() -> None:
        prompter = Prompter({}, lambda line: None, tty=str(tmp_path / "none"))
        asking = asyncio.ensure_future(run_with_prompts(prompter, call))
        await asyncio.to_thread(asked.wait, 30)
        asking.cancel()

    asyncio.run(main())
    over.set()
    threads[0].join(30)
    assert not threads[0].is_alive()
