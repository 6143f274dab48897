"""What a request says, and what the client makes of the answer."""

from __future__ import annotations

import pytest

from sshoq.auth.interactive import Challenge, Prompt, challenge_text
from sshoq.client import login_request
from sshoq.client.log import Failure, Log
from sshoq.client.login_request import LEGACY_USER_AGENT, LoginRequests, may_let_in
from sshoq.config.usage import DEBUG1, QUIET
from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.request import ResponseHead
from sshoq.protocol.version import OUR_VERSION, PeerTraits, parse_version
from tests.client.test_wishes import invocation

TRAITS = PeerTraits(OURS, OURS)
ASKED = Challenge("", "", (Prompt("Code: ", False),))


class Login:
    """The requests of one login, and what is said of the answers."""

    def __init__(self, *words: str, level: int = DEBUG1) -> None:
        self.lines: list[str] = []
        log = Log(level, lambda _, line: self.lines.append(line))
        options = invocation("-o", "HostName=there", "-o", "QUICPort=4", *words).options
        self.requests = LoginRequests(options, log)


def head(status: int, server: str = str(OUR_VERSION), challenge: str = "") -> ResponseHead:
    try:
        version = parse_version(server)
    except ValueError:
        version = None
    return ResponseHead(status, server, version, 0, ("password",), True, challenge)


def test_the_request_names_host_path_and_user() -> None:
    request = Login("-l", "ann", "-o", "URLPath=/p").requests.build("Basic x")
    assert (request.authority, request.path, request.user) == ("there:4", "/p", "ann")
    assert (request.authorization, request.user_agent) == ("Basic x", str(OUR_VERSION))
    assert Login().requests.build(None).authorization is None


def test_literal_addresses_are_bracketed() -> None:
    options = invocation("-o", "HostName=::1", "-o", "QUICPort=4").options
    assert LoginRequests(options, Log(QUIET)).build(None).authority == "[::1]:4"


@pytest.mark.parametrize("name", ["-l", "-oURLPath=/"])
def test_names_that_no_request_has_room_for_are_refused(name: str) -> None:
    words = (name, "\U00010348" * 4000) if name == "-l" else (name + "\U00010348" * 4000,)
    assert Login(*words).requests.build("Bearer " + "x" * 8000).encode()
    with pytest.raises(Failure, match="too long for a request"):
        Login(*words[:-1], words[-1] + "x" * 100).requests.build(None)


def test_a_refusal_says_how_to_go_on() -> None:
    reply = Login().requests.judge(head(401), TRAITS)
    assert reply == (False, ("password",), True, None)


def test_a_challenge_counts_when_both_have_announced_it() -> None:
    answer = head(401, challenge=challenge_text(ASKED))
    reply = Login().requests.judge(answer, TRAITS)
    assert reply is not None
    assert (reply.challenge, reply.is_question) == (ASKED, True)
    for traits in (PeerTraits(), PeerTraits(OURS & ~Extension.KEYBOARD_INTERACTIVE, OURS)):
        reply = Login().requests.judge(answer, traits)
        assert reply is not None
        assert (reply.challenge, reply.is_question) == (None, False)


def test_what_is_no_challenge_is_a_failure() -> None:
    with pytest.raises(Failure, match="cannot read what the server asks"):
        Login().requests.judge(head(401, challenge="!"), TRAITS)


def test_an_old_server_is_asked_once_more_in_old_words() -> None:
    login = Login()
    old = head(403, "SSH 3.0 h4sh5/sshoq 0.1.5")
    assert login.requests.judge(old, PeerTraits()) is None
    assert login.requests.build(None).user_agent == LEGACY_USER_AGENT
    with pytest.raises(Failure, match="refuses our version"):
        login.requests.judge(old, PeerTraits())


@pytest.mark.parametrize(
    ("response", "complaint"),
    [
        (None, "the server dropped the request without an answer"),
        (head(404), "no SSHOQ server at path /sshoq-server (404)"),
        (head(403), f"the server refuses our version (403); it is {OUR_VERSION}"),
        (head(403, ""), "the server refuses our version (403); it is unnamed"),
        (head(500), "the server answered with status 500"),
        (head(200, "?"), "the server's version is missing or unreadable"),
    ],
)
def test_complaints_name_the_server(response: ResponseHead | None, complaint: str) -> None:
    with pytest.raises(Failure) as caught:
        Login().requests.judge(response, TRAITS)
    assert str(caught.value) == f"ssh: there port 4: {complaint}"


def test_a_banner_is_shown_once_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []
    monkeypatch.setattr(login_request, "write_fully", lambda fd, data: shown.append(data))
    login, quiet = Login(), Login(level=QUIET)
    for text in ("Keep\x1b out.\n", "Keep\x1b out.\n", "", "Welcome.\n"):
        answer = head(401)
        answer.banner = text
        login.requests.judge(answer, TRAITS)
        quiet.requests.judge(answer, TRAITS)
    assert shown == [b"Keep\\033 out.\r\n", b"Welcome.\r\n"]


@pytest.mark.parametrize(
    ("authorization", "may"),
    [(None, False), ("Interactive", False), ("Interactive AA==", True), ("Basic x", True)],
)
def test_who_only_asks_is_not_let_in(authorization: str | None, may: bool) -> None:
    assert may_let_in(authorization) is may
