"""Process: monitor [root]. One try with keyboard-interactive: PAM's modules ask, and the client
answers.

As with sshd, each question goes alone, behind all texts that came before it. The answers arrive as
requests of their own, while the modules still run; what comes instead of an answer ends the try.
"""

from collections.abc import Callable

from sshoq.auth.interactive import (
    MAX_TEXT,
    SCHEME,
    Challenge,
    InteractiveError,
    Prompt,
    challenge_text,
    clip,
    read_answers,
)
from sshoq.server import log
from sshoq.server.pam import PamError
from sshoq.server.privsep import Authenticate
from sshoq.wire import encode_text

MAX_QUESTIONS = 64
"""In one try. A module that wants a better new password asks three times or so."""

Exchange = Callable[[str], Authenticate]
"""Send a challenge; the client's next request."""


def interactive_part(authorization: bytes) -> bytes | None:
    """What follows the scheme: nothing in a request to be asked, else answers. None for the
    Authorization field of another method."""
    scheme, _, credentials = authorization.partition(b" ")
    return credentials.strip() if scheme.lower() == SCHEME.lower().encode() else None


class Interview:
    """What modules ask goes to the client by `exchange`. `spoils`: no answer may be right."""

    def __init__(self, first: Authenticate, exchange: Exchange, *, spoils: bool) -> None:
        self.instead: Authenticate | None = None
        """What the client tries in place of an answer."""
        self._first = first
        self._exchange = exchange
        self._spoils = spoils
        self._questions = 0
        self.is_over = False
        """The client answers no more, whatever PAM makes of that."""
        self._texts: list[str] = []
        self._room = MAX_TEXT

    def tell(self, text: str) -> None:
        """For the user, with the next question; if there will be none, there is nobody to tell."""
        if self.is_over:
            return
        self._texts.append(clip(text, self._room))
        self._room -= len(encode_text(self._texts[-1]))

    def ask(self, text: str, *, is_shown: bool) -> bytes:
        """PamError when the client does not answer."""
        self._questions += 1
        if self.is_over or self._questions > MAX_QUESTIONS:
            raise PamError("nobody answers any more")
        question = clip(text, MAX_TEXT)
        told = clip(self.take_texts(), MAX_TEXT - len(encode_text(question)))
        prompts = (Prompt(told + question, is_shown),)
        answer = self._answer_in(self._exchange(challenge_text(Challenge("", "", prompts))))
        return spoiled(answer) if self._spoils else answer

    def take_texts(self) -> str:
        """What the user has not been told yet."""
        texts = "".join(self._texts)
        self._texts.clear()
        self._room = MAX_TEXT
        return texts

    def last_words(self) -> str:
        """The same, as a challenge that wants no answer; empty if there is nothing to be said."""
        texts = self.take_texts()
        return challenge_text(Challenge("", texts, ())) if texts else ""

    def _answer_in(self, request: Authenticate) -> bytes:
        credentials = interactive_part(request.authorization)
        is_same = request.user == self._first.user
        is_same = is_same and request.conversation_id == self._first.conversation_id
        try:
            if credentials and is_same:
                [answer] = read_answers(credentials, 1)
                return answer
            self.instead = request
        except InteractiveError as error:
            log.debug(f"keyboard-interactive: {error}")
        self.is_over = True
        raise PamError("no answer")


def spoiled(answer: bytes) -> bytes:
    """As long, and never right: the steps must be gone through all the same, but must not tell
    whether it was."""
    return (b"\b\x7fnot the password" * (len(answer) // 18 + 1))[: len(answer)]
