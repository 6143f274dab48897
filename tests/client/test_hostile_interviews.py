"""What a hostile server can ask by keyboard-interactive: the user, or the program that asks for
him, gets it without what a terminal obeys, and no question brings the client down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from sshoq.auth.interactive import MAX_TEXT, SCHEME, Challenge, Prompt, challenge_text
from sshoq.protocol.extensions import OURS
from sshoq.protocol.request import ConnectRequest, Response, accepted, refused
from sshoq.protocol.version import PeerTraits
from tests.client.little_server import Result, listening
from tests.client.quick_client import QuickClient, quick_client

TRAITS = PeerTraits(OURS)
PAINT = "\x1b[31m\r\nalice@host's password: \u202e\0\udc9b2J"
ASKPASS = """#!/bin/sh
printf '%s\\n--\\n' "$1" >> {0}
echo secret
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickClient]:
    with quick_client(tmp_path_factory.mktemp("client")) as client:
        yield client


class Asker:
    """A server that says one challenge after the other, and lets nobody in; a program that answers
    them, and keeps what it was asked."""

    def __init__(self, client: QuickClient, folder: Path) -> None:
        self._client = client
        self._questions = folder / "questions"
        self._program = folder / "askpass"
        self._program.write_text(ASKPASS.format(self._questions))
        self._program.chmod(0o755)
        self.heard: list[str] = []

    @property
    def questions(self) -> list[str]:
        if not self._questions.exists():
            return []
        return self._questions.read_text().split("\n--\n")[:-1]

    def run(self, *challenges: Challenge | Response) -> Result:
        left = list(challenges)

        def judge(request: ConnectRequest) -> Response:
            self.heard.append(request.authorization or "")
            if not self.heard[-1].startswith(SCHEME) or not left:
                return refused(TRAITS, methods="keyboard-interactive")
            said = left.pop(0)
            if isinstance(said, Response):
                return said
            challenge = challenge_text(said)
            return refused(TRAITS, methods="keyboard-interactive", challenge=challenge)

        async def run() -> Result:
            async with listening(judge) as listener:
                words = ("-F", "none", "-insecure", "-i", "none", "-o", "IdentitiesOnly=yes")
                where = f"alice@127.0.0.1:{listener.port}/secret"
                environ = {"SSH_ASKPASS": str(self._program), "SSH_ASKPASS_REQUIRE": "force"}
                return await self._client.run(*words, where, "command", environ=environ)

        return asyncio.run(run())


@pytest.fixture
def asker(client: QuickClient, tmp_path: Path) -> Asker:
    return Asker(client, tmp_path)


def ask(*texts: str, name: str = "", instruction: str = "", is_shown: bool = False) -> Challenge:
    return Challenge(name, instruction, tuple(Prompt(text, is_shown) for text in texts))


CHALLENGES = {
    "a prompt that paints": ask(PAINT),
    "one that is answered openly": ask(PAINT, is_shown=True),
    "a name and an instruction that paint": ask("Code: ", name=PAINT, instruction=PAINT),
    "the longest of all": ask("\x1b" * MAX_TEXT),
    "as many as there may be": ask(*[PAINT] * 32),
    "the longest instruction": ask("?", instruction="\n\x07" * (MAX_TEXT // 2 - 1)),
    "nothing": ask(""),
    "last words that paint": ask(instruction=PAINT),
}


@pytest.mark.parametrize("name", CHALLENGES)
def test_what_is_asked_paints_nothing(asker: Asker, name: str) -> None:
    challenge = CHALLENGES[name]
    result = asker.run(*[challenge] * 3)
    assert result.status == 255
    assert result.errors.endswith("alice@127.0.0.1: Permission denied (keyboard-interactive).\n")
    assert "Traceback" not in result.errors
    assert len(asker.questions) == 3 * len(challenge.prompts)
    for text in (result.errors, *asker.questions):
        assert all(c.isprintable() or c in "\n\t" for c in text)
    assert all(text.startswith("(alice@127.0.0.1) ") for text in asker.questions)


def test_who_is_let_in_between_two_questions_is_asked_no_more(asker: Asker) -> None:
    result = asker.run(ask("Code: "), accepted(TRAITS), ask("Once more: "))
    assert result.status == 0
    assert asker.questions == ["(alice@127.0.0.1) Code: "]


def test_answers_are_given_only_to_what_was_asked(asker: Asker) -> None:
    """A server that asks nothing of the kind hears none of them."""
    asker.run(ask("Code: "), refused(TRAITS, methods="password"))
    begun, answered, other, *others = [one for one in asker.heard if one]
    assert begun == SCHEME
    assert answered.startswith(SCHEME + " ")
    assert all(one.startswith("Basic ") for one in (other, *others))
