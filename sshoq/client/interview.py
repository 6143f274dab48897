"""Keyboard-interactive authentication: the server's questions, asked of the user until it has heard
enough.

Loaded when it comes to that. What the server says is made harmless before it reaches the terminal.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from sshoq.auth.interactive import (
    METHOD,
    SCHEME,
    Challenge,
    InteractiveError,
    Prompt,
    answer_authorization,
    read_challenge,
)
from sshoq.client.log import Failure, Log, printable
from sshoq.client.prompt import Prompter, run_with_prompts

if TYPE_CHECKING:
    from sshoq.client.authentication import Reply

MAX_ROUNDS = 100
"""Challenges of one try; a server that asks for ever is not worth answering."""


class Interview:
    """One try. `submit` makes a request with an Authorization field."""

    def __init__(
        self,
        account: str,
        submit: "Callable[[str], Awaitable[Reply]]",
        prompter: Prompter,
        log: Log,
    ) -> None:
        self._account = account
        self._submit = submit
        self._prompter = prompter
        self._log = log
        self.is_worth_repeating = False
        """The server has asked and the user has answered; else another try would go no better."""

    async def run(self) -> bool:
        """Whether we are in."""
        reply = await self._submit(SCHEME)
        for _ in range(MAX_ROUNDS):
            challenge = reply.challenge
            if reply.accepted or challenge is None:
                return reply.accepted
            self._show(challenge)
            if not reply.is_question:
                return False
            ask = partial(self._ask, challenge)
            answers = await run_with_prompts(self._prompter, ask)
            self.is_worth_repeating = answers is not None
            if answers is None:
                return False
            reply = await self._submit(self._authorization(answers))
        raise Failure(f"{METHOD}: the server asks for ever")

    def _show(self, challenge: Challenge) -> None:
        self._log.debug2(f"input_userauth_info_req: num_prompts {len(challenge.prompts)}")
        for text in (challenge.name, challenge.instruction):
            if text:
                self._log.info(text)

    def _ask(self, challenge: Challenge) -> list[str] | None:
        """None when there is nobody to ask."""
        answers = []
        for prompt in challenge.prompts:
            answer = self._ask_one(prompt)
            if answer is None:
                return None
            answers.append(answer)
        return answers

    def _ask_one(self, prompt: Prompt) -> str | None:
        question = printable(f"({self._account}) {prompt.text}")
        if prompt.is_shown:
            return self._prompter.answer(question, refusal="")
        return self._prompter.secret(question)

    def _authorization(self, answers: list[str]) -> str:
        try:
            return answer_authorization(answers)
        except InteractiveError as error:
            raise Failure(f"{METHOD}: {error}") from None


def challenge_in(text: str) -> Challenge:
    """What the server's response carries. Failure if that is no challenge."""
    try:
        return read_challenge(text)
    except InteractiveError as error:
        raise Failure(f"{METHOD}: cannot read what the server asks: {error}") from None
