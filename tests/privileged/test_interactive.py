"""Keyboard-interactive logins as a monitor lives them: each test is its network process."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sshoq.auth.interactive import Challenge, answer_authorization, read_challenge
from sshoq.server.privsep import (
    AuthenticationResult,
    HandshakeSigned,
    LoginSucceeded,
    LogLine,
    MoveSocket,
    Penalty,
    ProveHostKeys,
    SignHandshake,
    SocketMoved,
)
from sshoq.server.privsep_socket import PeerGone
from tests.accounts import Account, PamService, make_pam_service
from tests.janitor import Janitor
from tests.needs import need_root
from tests.pam_asking import OTHER_STEPS, asking, build_module
from tests.privileged.monitor_driver import Monitor, receive

pytestmark = pytest.mark.privileged

ACCEPTED = AuthenticationResult.ACCEPTED
REFUSED = AuthenticationResult.REFUSED
CLOSED = AuthenticationResult.CLOSED

ED25519_SCHEME = 0x0807
HANDSHAKE = b" " * 64 + b"TLS 1.3, server CertificateVerify" + b"\0" + bytes(32)


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def two_steps(tmp_path: Path, janitor: Janitor) -> PamService:
    """A password, and a code besides."""
    code = asking(build_module(tmp_path), "info|Look here.", "secret|Code: |123456")
    lines = f"auth required pam_unix.so nodelay\n{code}{OTHER_STEPS}"
    return make_pam_service(janitor, janitor.directory(), lines)


@pytest.fixture
def start(tmp_path: Path, two_steps: PamService) -> Callable[..., Monitor]:
    def make(*lines: str, trailer: str = "") -> Monitor:
        return Monitor(
            tmp_path / "m",
            *lines,
            "KbdInteractiveAuthentication yes",
            pam_service=two_steps.name,
            trailer=trailer,
        )

    return make


Start = Callable[..., Monitor]


def begin(monitor: Monitor, user: str) -> Challenge:
    return question_of(monitor.try_header(user, "Interactive"))


def answer(monitor: Monitor, user: str, *texts: str) -> AuthenticationResult:
    return monitor.try_header(user, answer_authorization(texts))


def question_of(result: AuthenticationResult) -> Challenge:
    assert result.outcome == REFUSED
    challenge = read_challenge(result.challenge)
    assert challenge.prompts
    return challenge


def texts_of(challenge: Challenge) -> list[str]:
    return [prompt.text for prompt in challenge.prompts]


def test_two_answers_open_a_login(start: Start, account: Account) -> None:
    with start() as monitor:
        assert texts_of(begin(monitor, account.name)) == ["Password: "]
        asked = question_of(answer(monitor, account.name, account.password))
        assert texts_of(asked) == ["Look here.\nCode: "]
        result = answer(monitor, account.name, "123456")
        assert (result.outcome, result.challenge) == (ACCEPTED, "")
        monitor.open_login()
        assert monitor.expect(LoginSucceeded, monitor.main) == LoginSucceeded()
        assert monitor.run("id -un") == (f"{account.name}\n", "", 0)
        assert f"Accepted keyboard-interactive/pam for {account.name} from" in monitor.log


def test_the_rest_is_served_in_the_middle(start: Start, account: Account) -> None:
    with start() as monitor, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        begin(monitor, account.name)
        monitor.network.send(LogLine(1, "still here"))
        monitor.network.send(SignHandshake(ED25519_SCHEME, HANDSHAKE))
        assert monitor.expect(HandshakeSigned).signature
        monitor.network.send(MoveSocket("127.0.0.1", 9), [udp.fileno()])
        monitor.expect(SocketMoved)
        assert udp.getpeername() == ("127.0.0.1", 9)
        question_of(answer(monitor, account.name, account.password))
        assert answer(monitor, account.name, "123456").outcome == ACCEPTED
        assert "still here [preauth]" in monitor.log


@pytest.mark.parametrize("wrong", ["password", "code"])
def test_one_wrong_answer_fails_after_the_last(
    start: Start, account: Account, wrong: str
) -> None:
    with start() as monitor:
        begin(monitor, account.name)
        password = "wrong" if wrong == "password" else account.password
        question_of(answer(monitor, account.name, password))
        result = answer(monitor, account.name, "0" if wrong == "code" else "123456")
        assert (result.outcome, result.challenge) == (REFUSED, "")
        assert result.methods == "publickey,password,keyboard-interactive"
        assert f"PAM: Authentication failure for {account.name} from 192.0.2.7" in monitor.log


@pytest.mark.parametrize("user", ["root", "nobody-of-this-name"])
def test_who_may_not_log_in_is_asked_all_the_same(start: Start, user: str) -> None:
    with start("PermitRootLogin prohibit-password") as monitor:
        assert texts_of(begin(monitor, user)) == ["Password: "]
        asked = question_of(answer(monitor, user, "anything"))
        assert texts_of(asked) == ["Look here.\nCode: "]
        assert answer(monitor, user, "123456").outcome == REFUSED


def test_the_right_answers_help_nobody_who_may_not_log_in(
    start: Start, account: Account
) -> None:
    """They are not even what the modules get to see."""
    with start(f"DenyUsers {account.name}") as monitor:
        begin(monitor, account.name)
        question_of(answer(monitor, account.name, account.password))
        assert answer(monitor, account.name, "123456").outcome == REFUSED


def test_another_method_ends_the_questions_and_may_succeed(
    start: Start, account: Account
) -> None:
    with start() as monitor:
        begin(monitor, account.name)
        assert monitor.try_key(account.name, account.key).outcome == ACCEPTED
        assert "Failed keyboard-interactive/pam for" in monitor.log
        assert "Conversation error" not in monitor.log


def test_questions_left_open_count_as_tries(start: Start, account: Account) -> None:
    """Else a password could be guessed without end, by whether the code is asked for."""
    with start("MaxAuthTries 3") as monitor:
        for _ in range(3):
            begin(monitor, account.name)
        last = monitor.try_header(account.name, "Interactive")
        assert (last.outcome, last.reason) == (CLOSED, "Too many authentication failures")


def test_another_user_in_the_middle_ends_the_connection(start: Start, account: Account) -> None:
    with start() as monitor:
        begin(monitor, account.name)
        assert answer(monitor, "root", account.password).outcome == CLOSED
        assert "Change of username not allowed" in monitor.log


@pytest.mark.parametrize(
    "header",
    ["Interactive AA==", "Interactive !", answer_authorization(["a", "b"])],
)
def test_answers_that_do_not_fit_fail(start: Start, account: Account, header: str) -> None:
    with start() as monitor:
        begin(monitor, account.name)
        result = monitor.try_header(account.name, header)
        assert (result.outcome, result.challenge) == (REFUSED, "")
        assert texts_of(begin(monitor, account.name)) == ["Password: "]


def test_answers_to_nothing_fail(start: Start, account: Account) -> None:
    with start() as monitor:
        assert answer(monitor, account.name, account.password).outcome == REFUSED
        assert "Failed keyboard-interactive/pam" in monitor.log


def test_it_fails_where_it_is_not_offered(start: Start, account: Account) -> None:
    with start(trailer="Match all\nKbdInteractiveAuthentication no") as monitor:
        result = monitor.try_header(account.name, "Interactive")
        assert (result.outcome, result.challenge) == (REFUSED, "")
        assert result.methods == "publickey,password"


def test_what_is_not_permitted_in_the_middle_ends_the_connection(
    start: Start, account: Account
) -> None:
    with start() as monitor:
        begin(monitor, account.name)
        monitor.network.send(ProveHostKeys(()))
        with pytest.raises(PeerGone):
            receive(monitor.network)
        assert monitor.wait() == 1
        assert "ProveHostKeys is not permitted before login" in monitor.log


def test_a_network_process_that_ends_in_the_middle_ends_the_monitor(
    start: Start, account: Account
) -> None:
    with start() as monitor:
        begin(monitor, account.name)
        monitor.hang_up()
        assert monitor.wait() == 0
        assert list(monitor.messages_to_main()) == [Penalty("noauth")]
        assert "Connection closed by authenticating user" in monitor.log


def test_a_signal_in_the_middle_ends_the_monitor(start: Start, account: Account) -> None:
    with start() as monitor:
        begin(monitor, account.name)
        monitor.process.send_signal(signal.SIGTERM)
        assert monitor.wait() == 0


def test_the_grace_time_holds_in_the_middle(start: Start, account: Account) -> None:
    with start("LoginGraceTime 1") as monitor:
        begin(monitor, account.name)
        with pytest.raises(PeerGone):
            receive(monitor.network)
        assert monitor.wait() == 0
        assert "Timeout before authentication for connection from 192.0.2.7" in monitor.log
        assert list(monitor.messages_to_main()) == [Penalty("grace-exceeded")]


def test_a_banner_comes_with_the_first_question(
    tmp_path: Path, start: Start, account: Account
) -> None:
    banner = tmp_path / "banner"
    banner.write_text("Keep out.\n")
    with start(f"Banner {banner}") as monitor:
        result = monitor.try_header(account.name, "Interactive")
        assert result.banner == "Keep out.\n"
        question_of(result)
        assert answer(monitor, account.name, "x").banner == ""


def test_nothing_is_asked_without_pam(tmp_path: Path, account: Account) -> None:
    with Monitor(tmp_path / "m", "KbdInteractiveAuthentication yes") as monitor:
        result = monitor.try_header(account.name, "Interactive")
        assert (result.outcome, result.challenge) == (REFUSED, "")
        assert result.methods == "publickey,password"
