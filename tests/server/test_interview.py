"""How PAM's questions become challenges, and the client's requests answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sshoq.auth.interactive import (
    MAX_TEXT,
    Challenge,
    Prompt,
    answer_authorization,
    read_challenge,
)
from sshoq.server.interview import MAX_QUESTIONS, Interview, interactive_part, spoiled
from sshoq.server.pam import PamError
from sshoq.server.privsep import Authenticate

ID = bytes(32)
FIRST = Authenticate("ann", b"Interactive", ID)


class Client:
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, *requests: Authenticate | str) -> None:
        self.asked: list[Challenge] = []
        self._requests = list(requests)

    def exchange(self, text: str) -> Authenticate:
        self.asked.append(read_challenge(text))
        request = self._requests.pop(0)
        return answer(request) if isinstance(request, str) else request


def answer(*texts: str, user: str = "ann", connection: bytes = ID) -> Authenticate:
    return Authenticate(user, answer_authorization(texts).encode(), connection)


def interview(client: Client, *, spoils: bool = False) -> Interview:
    return Interview(FIRST, client.exchange, spoils=spoils)


def test_each_question_goes_alone_behind_what_was_said_before() -> None:
    client = Client("secret", "123456")
    talk = interview(client)
    assert talk.ask("Password: ", is_shown=False) == b"secret"
    talk.tell("Look at\n")
    talk.tell("your phone.\n")
    assert talk.ask("Code: ", is_shown=True) == b"123456"
    assert client.asked == [
        Challenge("", "", (Prompt("Password: ", False),)),
        Challenge("", "", (Prompt("Look at\nyour phone.\nCode: ", True),)),
    ]
    assert talk.last_words() == ""


def test_what_is_left_is_the_last_word() -> None:
    talk = interview(Client())
    talk.tell("You are locked out.\n")
    last = read_challenge(talk.last_words())
    assert last == Challenge("", "You are locked out.\n", ())
    assert talk.last_words() == ""


def test_texts_are_cut_rather_than_the_question() -> None:
    client = Client("a", "b")
    talk = interview(client)
    for _ in range(3):
        talk.tell("x" * MAX_TEXT)
    talk.ask("Password: ", is_shown=False)
    talk.ask("y" * MAX_TEXT * 2, is_shown=False)
    told, long = (challenge.prompts[0].text for challenge in client.asked)
    assert told == "x" * (MAX_TEXT - 10) + "Password: "
    assert long == "y" * MAX_TEXT


INSTEAD: list[Callable[[], Authenticate]] = [
    lambda: Authenticate("ann", b"Basic YW5uOng=", ID),
    lambda: Authenticate("ann", b"Interactive", ID),
    lambda: Authenticate("ann", b"", ID),
    lambda: answer("x", user="bob"),
    lambda: answer("x", connection=b"\1" * 32),
]


@pytest.mark.parametrize("make", INSTEAD)
def test_another_try_ends_this_one_and_is_kept(make: Callable[[], Authenticate]) -> None:
    request = make()
    client = Client(request)
    talk = interview(client)
    for _ in range(3):
        with pytest.raises(PamError):
            talk.ask("Password: ", is_shown=False)
    assert talk.instead is request
    assert len(client.asked) == 1


@pytest.mark.parametrize("request_", [answer(), answer("a", "b")])
def test_answers_that_do_not_fit_end_the_try(request_: Authenticate) -> None:
    talk = interview(Client(request_))
    with pytest.raises(PamError):
        talk.ask("Password: ", is_shown=False)
    assert talk.instead is None


def test_a_module_that_asks_for_ever_is_not_answered_for_ever() -> None:
    client = Client(*["x"] * MAX_QUESTIONS * 2)
    talk = interview(client)
    for _ in range(MAX_QUESTIONS):
        talk.ask("?", is_shown=True)
    with pytest.raises(PamError):
        talk.ask("?", is_shown=True)
    assert len(client.asked) == MAX_QUESTIONS


@pytest.mark.parametrize("text", ["", "secret", "x" * 1000])
def test_a_spoiled_answer_is_as_long_and_another(text: str) -> None:
    talk = interview(Client(text), spoils=True)
    spoilt = talk.ask("Password: ", is_shown=False)
    assert spoilt == spoiled(text.encode())
    assert len(spoilt) == len(text)
    assert not text or spoilt != text.encode()


@pytest.mark.parametrize(
    ("authorization", "part"),
    [
        (b"Interactive", b""),
        (b"interactive ", b""),
        (b"Interactive  AA== ", b"AA=="),
        (b"Basic x", None),
        (b"InteractiveX", None),
        (b"", None),
    ],
)
def test_the_scheme_tells_whose_header_it_is(authorization: bytes, part: bytes | None) -> None:
    assert interactive_part(authorization) == part
