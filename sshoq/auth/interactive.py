"""Keyboard-interactive authentication: what a server asks and what the user answers, as text for
the fields of HTTP/3.

RFC 4256's messages without what HTTP/3 and the connection say already. The server's questions come
with a 401, the answers go in the next request's `authorization`, until the server has made up its
mind. Knows neither who asks nor who answers.
"""

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from typing import Annotated, TypeVar

from sshoq.wire import Bool, Bytes, ListOf, Message, Text, WireError, decode_text, encode_text

SomeMessage = TypeVar("SomeMessage", bound=Message)

METHOD = "keyboard-interactive"
DEVICE = "pam"
"""The one that we have; `keyboard-interactive:pam` in AuthenticationMethods."""

SCHEME = "Interactive"
"""Of an Authorization field. Alone it asks to be asked; answers follow it in base64."""

MAX_PROMPTS = 32
MAX_TEXT = 4096
"""Bytes of all that one challenge shows. PAM's messages have 512 at most."""
MAX_ANSWERS = 8192
"""Bytes of all answers to one challenge; in base64 they fit the field section's bound."""


class InteractiveError(ValueError):
    """The other side's text is no challenge, or answers none."""


class Prompt(Message):
    """A question. `is_shown`: the answer may be seen while it is typed."""

    text: Text
    is_shown: Bool


class Challenge(Message):
    """RFC 4256 3.2. Without prompts it is the last word of a try that has failed."""

    name: Text
    instruction: Text
    prompts: Annotated[tuple[Prompt, ...], ListOf(Prompt)]

    def size(self) -> int:
        texts = (self.name, self.instruction, *(prompt.text for prompt in self.prompts))
        return sum(len(encode_text(text)) for text in texts)


class Answers(Message):
    """RFC 4256 3.4: one for each prompt, in their order."""

    answers: Annotated[tuple[bytes, ...], ListOf(Bytes)]


def challenge_text(challenge: Challenge) -> str:
    return _encode(challenge)


def read_challenge(text: str) -> Challenge:
    """InteractiveError for what is none, or too much to ask of anybody."""
    challenge = _decode(Challenge, encode_text(text), MAX_TEXT * 2)
    if len(challenge.prompts) > MAX_PROMPTS or challenge.size() > MAX_TEXT:
        raise InteractiveError("too many questions")
    return challenge


def answer_authorization(answers: Sequence[str]) -> str:
    """The Authorization field; InteractiveError if the answers are too long."""
    message = Answers(tuple(encode_text(answer) for answer in answers))
    if len(message.encode()) > MAX_ANSWERS:
        raise InteractiveError("the answers are too long")
    return f"{SCHEME} {_encode(message)}"


def read_answers(credentials: bytes, count: int) -> tuple[bytes, ...]:
    """What follows the scheme; InteractiveError unless it answers `count` prompts."""
    answers = _decode(Answers, credentials, MAX_ANSWERS).answers
    if len(answers) != count:
        raise InteractiveError(f"{len(answers)} answers to {count} questions")
    return answers


def clip(text: str, size: int) -> str:
    """No more bytes than that, from the beginning."""
    return decode_text(encode_text(text)[: max(0, size)])


def _encode(message: Message) -> str:
    return b2a_base64(message.encode(), newline=False).decode()


def _decode(kind: type[SomeMessage], text: bytes, most: int) -> SomeMessage:
    if len(text) > most * 4 // 3 + 4:
        raise InteractiveError("too long")
    try:
        return kind.decode(a2b_base64(text, strict_mode=True))
    except (Base64Error, WireError) as error:
        raise InteractiveError(str(error)) from None
