"""The floor under failures, and what a connection may say before anything is looked up. Whole
logins are tested in tests/privileged.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.interactive import answer_authorization
from sshoq.server import authentication
from sshoq.server.authentication import (
    CLOSED,
    MAX_BANNER,
    MAX_USER,
    MIN_FAILURE_TIME,
    REFUSED,
    Authenticator,
    _failure_time,
    _wait_until,
)
from sshoq.server.config_reader import load
from sshoq.server.connection import ConnectionFacts
from sshoq.server.pam import MAX_MESSAGES, Answering
from sshoq.server.privsep import FROM_MONITOR, Authenticate, AuthenticationResult
from sshoq.server.privsep_socket import MAX_PACKET

HERE = ConnectionFacts("192.0.2.7", 40007, "192.0.2.1", 443)
ID = bytes(32)


@pytest.fixture
def authenticator(tmp_path: Path) -> Authenticator:
    config = tmp_path / "config"
    config.write_text("UsePAM no\nMaxAuthTries 4\n")
    return Authenticator(load(str(config)), HERE, nobody_to_ask)


def nobody_to_ask(challenge: AuthenticationResult) -> Authenticate:
    raise AssertionError("without PAM nothing is asked")


@given(st.text())
def test_the_floor_is_the_users_own_and_between_five_and_ten_milliseconds(user: str) -> None:
    floor = _failure_time(user.encode("utf-8", "replace").decode())
    assert MIN_FAILURE_TIME <= floor < 2 * MIN_FAILURE_TIME
    assert _failure_time("ann") == _failure_time("ann") != _failure_time("bob")


@pytest.mark.parametrize(
    ("worked", "slept"), [(0.0, 0.006), (0.002, 0.004), (0.007, 0.005), (0.013, 0.011)]
)
def test_a_failure_lasts_a_power_of_two_of_its_floor(
    monkeypatch: pytest.MonkeyPatch, worked: float, slept: float
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("sshoq.server.authentication.time.sleep", pauses.append)
    monkeypatch.setattr("sshoq.server.authentication.time.monotonic", lambda: 100.0 + worked)
    _wait_until(100.0, 0.006)
    assert pauses == [pytest.approx(slept)]


@pytest.mark.parametrize("user", ["x" * (MAX_USER + 1), "ro\0ot"])
def test_impossible_names_end_the_connection(authenticator: Authenticator, user: str) -> None:
    assert authenticator.attempt(Authenticate(user, b"", ID)).outcome == CLOSED


@pytest.mark.parametrize(
    "header",
    [
        b"Basic",
        b"Basic !!!",
        b"Basic bm9jb2xvbg==",
        b"Bearer",
        b"Bearer .",
        b"Bearer \xff.\xff.\xff",
        b"bearer a.b.c",
        b"Digest x",
        b"Interactive",
        b"interactive !!!",
        b"Interactive AQZzZWNyZXQ=",
        b"\0",
    ],
)
def test_any_header_is_an_ordinary_failure(authenticator: Authenticator, header: bytes) -> None:
    result = authenticator.attempt(Authenticate("no-such-user", header, ID))
    assert result.outcome == REFUSED
    assert authenticator.login is None


def test_only_the_first_request_without_credentials_is_free(authenticator: Authenticator) -> None:
    outcomes = []
    for _ in range(5):
        outcomes.append(authenticator.attempt(Authenticate("no-such-user", b"", ID)).outcome)
    assert outcomes == [REFUSED] * 4 + [CLOSED]
    assert authenticator.failures == 4


def test_a_failure_waits_and_a_free_try_a_little(
    authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(authentication, "_wait_until", lambda _, floor: waits.append(floor))
    authenticator.attempt(Authenticate("no-such-user", b"", ID))
    authenticator.attempt(Authenticate("no-such-user", b"Bearer x", ID))
    longest = _failure_time("no-such-user")
    assert waits == [longest / 4, longest]


class LoudPam:
    """A PAM that says more than anybody wants to read, and then no."""

    must_change_password = False

    def tell_authentication(self, text: str | None) -> None: ...

    def authenticate(self, password: bytes, *, allow_empty: bool) -> bool:
        return True

    def check_account(self) -> bool:
        return False

    def take_messages(self) -> str:
        return "\u20ac" * (MAX_MESSAGES // 3)


def test_the_longest_of_all_banners_leaves_room_for_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    banner, config = tmp_path / "banner", tmp_path / "config"
    banner.write_text("#" * 2 * MAX_BANNER)
    config.write_text(f"Banner {banner}\nPermitRootLogin yes\n")
    monkeypatch.setattr(authentication, "is_root", lambda: True)
    monkeypatch.setattr(authentication, "PamTransaction", lambda *facts: LoudPam())
    authenticator = Authenticator(load(str(config), root=True), HERE, nobody_to_ask)
    credentials = b64encode(b"root:x")
    result = authenticator.attempt(Authenticate("root", b"Basic " + credentials, ID))
    assert result.outcome == CLOSED
    assert len(FROM_MONITOR.encode(result)) <= MAX_PACKET
    assert result.banner.startswith("#" * MAX_BANNER + "\u20ac")


class TalkingPam:
    """A PAM whose one module asks for a password and then for a code."""

    def __init__(self, user_takes: Callable[[], None]) -> None:
        self._user_takes = user_takes

    def tell_authentication(self, text: str | None) -> None: ...

    def keep(self, text: str) -> None: ...

    def explain(self) -> str:
        return "Authentication failure"

    def interview(self, answering: Answering, *, allow_empty: bool, may_succeed: bool) -> bool:
        for question in ("Password: ", "Code: "):
            self._user_takes()
            answering.ask(question, is_shown=False)
        return False


def test_the_users_own_time_is_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a failure would last as long again as somebody has thought."""
    clock = 100.0
    pauses: list[float] = []
    monkeypatch.setattr("sshoq.server.authentication.time.monotonic", lambda: clock)
    monkeypatch.setattr("sshoq.server.authentication.time.sleep", pauses.append)
    monkeypatch.setattr(authentication, "is_root", lambda: True)

    def work() -> None:
        nonlocal clock
        clock += 0.001

    def exchange(challenge: AuthenticationResult) -> Authenticate:
        nonlocal clock
        clock += 60.0
        return Authenticate("no-such-user", answer_authorization(["x"]).encode(), ID)

    config = tmp_path / "config"
    config.write_text("")
    config_of_root = load(str(config), root=True)
    authenticator = Authenticator(config_of_root, HERE, exchange)
    monkeypatch.setattr(authentication, "PamTransaction", lambda *facts: TalkingPam(work))
    result = authenticator.attempt(Authenticate("no-such-user", b"Interactive", ID))
    assert result.outcome == REFUSED
    floor = _failure_time("no-such-user")
    assert pauses == pytest.approx([floor - 0.001, floor - 0.001, floor])
