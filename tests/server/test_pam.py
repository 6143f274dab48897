"""What PAM modules hear and say, without any module: the conversation is called as they call it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sshoq.server import pam
from sshoq.server.connection import ConnectionFacts
from sshoq.server.libc import libc
from sshoq.server.pam import (
    CONVERSATION_ERROR,
    MAX_MESSAGES,
    NEW_PASSWORD_REQUIRED,
    SUCCESS,
    PamError,
    PamTransaction,
    _Message,
    _Response,
    load_library,
    missing_rules,
)
from sshoq.wire import encode_text

ECHO_OFF, ECHO_ON, ERROR, TEXT = 1, 2, 3, 4


@pytest.fixture
def transaction() -> Iterator[PamTransaction]:
    try:
        load_library()
    except PamError as error:
        pytest.skip(f"no PAM here: {error}")
    found = PamTransaction("other", "nobody", ConnectionFacts("192.0.2.7", 1, "192.0.2.1", 443))
    yield found
    found.close()


class Answers:
    """What a module gets for its prompts."""

    def __init__(self, transaction: PamTransaction, *prompts: tuple[int, bytes | None]) -> None:
        structs = [_Message(style, text) for style, text in prompts]
        array = (ctypes.POINTER(_Message) * max(1, len(structs)))(
            *[ctypes.pointer(one) for one in structs]
        )
        responses = ctypes.POINTER(_Response)()
        self.result = transaction._callback(
            len(structs),
            ctypes.cast(array, ctypes.POINTER(ctypes.POINTER(_Message))),
            ctypes.pointer(responses),
            None,
        )
        self.texts: list[bytes | None] = []
        if self.result == SUCCESS:
            for index in range(len(structs)):
                text = responses[index].text
                self.texts.append(ctypes.string_at(text) if text else None)
                libc.free(text)
            libc.free(ctypes.cast(responses, ctypes.c_void_p))


def ask_with_password(
    transaction: PamTransaction, password: bytes, *prompts: tuple[int, bytes | None]
) -> Answers:
    """As during pam_authenticate, which is the one time that a password is at hand."""
    answers: list[Answers] = []

    class Library:
        def pam_authenticate(self, handle: object, flags: int) -> int:
            answers.append(Answers(transaction, *prompts))
            return CONVERSATION_ERROR

    real, transaction._library = transaction._library, Library()  # type: ignore[assignment]
    try:
        assert not transaction.authenticate(password, allow_empty=False)
    finally:
        transaction._library = real
    return answers[0]


def test_every_hidden_prompt_gets_the_password(transaction: PamTransaction) -> None:
    prompts = ((TEXT, b"hello"), (ECHO_OFF, b"Password: "), (ECHO_OFF, b"Again: "))
    answers = ask_with_password(transaction, b"s\xffcret", *prompts)
    assert (answers.result, answers.texts) == (SUCCESS, [None, b"s\xffcret", b"s\xffcret"])
    assert transaction.take_messages() == "hello\n"


def test_a_visible_prompt_is_not_answered(transaction: PamTransaction) -> None:
    assert ask_with_password(transaction, b"x", (ECHO_ON, b"user: ")).result == CONVERSATION_ERROR


def test_no_password_is_given_outside_of_authentication(transaction: PamTransaction) -> None:
    ask_with_password(transaction, b"secret", (ECHO_OFF, b"Password: "))
    assert Answers(transaction, (ECHO_OFF, b"Password: ")).result == CONVERSATION_ERROR


@pytest.mark.parametrize("count", [0, 33])
def test_impossible_numbers_of_prompts_are_refused(transaction: PamTransaction, count: int) -> None:
    assert Answers(transaction, *[(TEXT, b"x")] * count).result == CONVERSATION_ERROR


def test_messages_are_kept_in_order_and_once(transaction: PamTransaction) -> None:
    Answers(transaction, (TEXT, b"one"), (ERROR, b"two"), (TEXT, None), (TEXT, b"\xff"))
    assert transaction.take_messages() == "one\ntwo\n\n\udcff\n"
    assert transaction.take_messages() == ""


def test_a_module_cannot_fill_the_memory(transaction: PamTransaction) -> None:
    for _ in range(5):
        assert Answers(transaction, (TEXT, b"x" * MAX_MESSAGES)).result == SUCCESS
    assert len(transaction.take_messages()) == MAX_MESSAGES
    text = "\u20ac".encode() * MAX_MESSAGES  # what is bounded is sent on as bytes
    assert Answers(transaction, (TEXT, text)).result == SUCCESS
    assert len(encode_text(transaction.take_messages())) == MAX_MESSAGES


def test_an_error_of_ours_is_an_error_for_the_module(
    transaction: PamTransaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ctypes would turn an exception into 0, which is success."""

    def fail(message: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(transaction, "_answer", fail)
    assert Answers(transaction, (TEXT, b"x")).result == CONVERSATION_ERROR


class Modules:
    """A library whose steps ask and answer as a test says; everything else is the real one's."""

    def __init__(self, transaction: PamTransaction, **steps: Callable[[], int]) -> None:
        self.called: list[str] = []
        self._steps = steps
        self._real, transaction._library = transaction._library, self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        step = name.removeprefix("pam_")
        if step not in ("authenticate", "acct_mgmt", "chauthtok"):
            return getattr(self._real, name)

        def call(handle: object, flags: int) -> int:
            self.called.append(step)
            return self._steps.get(step, lambda: SUCCESS)()

        return call


class Talker:
    """Answers with what it is asked, in capitals."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.heard: list[str] = []
        self._error = error

    def ask(self, text: str, *, is_shown: bool) -> bytes:
        self.heard.append(f"{'visible' if is_shown else 'hidden'} {text}")
        if self._error is not None:
            raise self._error
        return text.upper().encode()

    def tell(self, text: str) -> None:
        self.heard.append(f"told {text}")


def test_an_interview_passes_everything_on_in_order(transaction: PamTransaction) -> None:
    talker = Talker()
    seen: list[Answers] = []

    def authenticate() -> int:
        seen.append(Answers(transaction, (ECHO_OFF, b"pw"), (TEXT, b"hello"), (ECHO_ON, b"who")))
        return SUCCESS

    Modules(transaction, authenticate=authenticate)
    assert transaction.interview(talker, allow_empty=False, may_succeed=True)
    assert seen[0].texts == [b"PW", None, b"WHO"]
    assert talker.heard == ["hidden pw", "told hello\n", "visible who"]
    assert transaction.take_messages() == ""
    assert Answers(transaction, (ECHO_OFF, b"pw")).result == CONVERSATION_ERROR


@pytest.mark.parametrize("error", [PamError("none"), KeyboardInterrupt(), RuntimeError("over")])
def test_without_an_answer_no_module_gets_any(
    transaction: PamTransaction, error: BaseException
) -> None:
    """What is more than a refusal comes out behind the modules, which it cannot pass through."""
    talker = Talker(error)
    results: list[int] = []

    def authenticate() -> int:
        for _ in range(2):
            results.append(Answers(transaction, (ECHO_OFF, b"pw")).result)
        return CONVERSATION_ERROR

    modules = Modules(transaction, authenticate=authenticate)
    if isinstance(error, PamError):
        assert not transaction.interview(talker, allow_empty=False, may_succeed=True)
    else:
        with pytest.raises(type(error)):
            transaction.interview(talker, allow_empty=False, may_succeed=True)
        assert len(talker.heard) == 1
    assert results == [CONVERSATION_ERROR] * 2
    assert modules.called == ["authenticate"]


def test_an_answer_with_a_zero_byte_is_none(transaction: PamTransaction) -> None:
    def authenticate() -> int:
        return int(Answers(transaction, (ECHO_OFF, b"pw")).result)

    class Zero(Talker):
        def ask(self, text: str, *, is_shown: bool) -> bytes:
            return b"right\0junk"

    Modules(transaction, authenticate=authenticate)
    assert not transaction.interview(Zero(), allow_empty=False, may_succeed=True)


@pytest.mark.parametrize(
    ("account", "change", "succeeds", "called"),
    [
        (SUCCESS, SUCCESS, True, ["authenticate", "acct_mgmt"]),
        (NEW_PASSWORD_REQUIRED, SUCCESS, True, ["authenticate", "acct_mgmt", "chauthtok"]),
        (NEW_PASSWORD_REQUIRED, 20, False, ["authenticate", "acct_mgmt", "chauthtok"]),
        (13, SUCCESS, False, ["authenticate", "acct_mgmt"]),
    ],
)
def test_an_interview_ends_with_the_account_and_a_new_password(
    transaction: PamTransaction, account: int, change: int, succeeds: bool, called: list[str]
) -> None:
    modules = Modules(transaction, acct_mgmt=lambda: account, chauthtok=lambda: change)
    assert transaction.interview(Talker(), allow_empty=False, may_succeed=True) is succeeds
    assert modules.called == called
    # Looked at once, whatever method comes next.
    assert transaction.check_account() is (account != 13)
    assert modules.called == called
    needs_new = account == NEW_PASSWORD_REQUIRED and change != SUCCESS
    assert transaction.must_change_password is needs_new


def test_who_cannot_succeed_gets_no_further_than_the_first_step(
    transaction: PamTransaction,
) -> None:
    modules = Modules(transaction)
    assert not transaction.interview(Talker(), allow_empty=False, may_succeed=False)
    assert modules.called == ["authenticate"]


def test_a_password_with_a_zero_byte_is_wrong(transaction: PamTransaction) -> None:
    """In C it would be the part before it."""
    assert not transaction.authenticate(b"right\0junk", allow_empty=False)


def test_modules_can_ask_where_the_user_comes_from(transaction: PamTransaction) -> None:
    assert b"SSH_CONNECTION=192.0.2.7 1 192.0.2.1 443" in transaction.environment()
    transaction.tell_authentication("publickey ssh-ed25519 AAAA")
    assert b"SSH_AUTH_INFO_0=publickey ssh-ed25519 AAAA" in transaction.environment()
    transaction.tell_authentication(None)
    assert not [one for one in transaction.environment() if one.startswith(b"SSH_AUTH_INFO")]


def test_closing_twice_is_closing_once(transaction: PamTransaction) -> None:
    transaction.close()
    transaction.close()


def test_rules_that_nobody_wrote_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = tmp_path / "pam.d", tmp_path / "vendor"
    monkeypatch.setattr(pam, "RULE_FOLDERS", (str(ours), str(theirs)))
    assert missing_rules("SshOQ") is None  # all rules are in one file
    ours.mkdir()
    lack = missing_rules("SshOQ")
    assert lack == f'PAM service "SshOQ" has no file in {ours}: the rules of "other" hold'
    for folder in (theirs, ours):
        folder.mkdir(exist_ok=True)
        (folder / "sshoq").touch()
        assert missing_rules("SshOQ") is None
        (folder / "sshoq").unlink()
