"""Displays of sessions: their numbers, their names, and who gets none."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sshoq.server import displays
from sshoq.server.displays import FIRST_PORT, Display, Displays, open_display
from sshoq.server.permits import Permits
from sshoq.server.privsep import ForwardingRefused, ListenerOpened, ListenForX11
from sshoq.server.rights import LoginRights
from sshoq.wire import Message
from tests.server.test_dialing import rights

COOKIE = "00112233445566778899aabbccddeeff"
REQUEST = ListenForX11(4, "MIT-MAGIC-COOKIE-1", COOKIE, 0)
BOTH = ["127.0.0.1", "::1"]
XAUTH = "XAuthLocation /bin/sh"  # anything that is there
ON = ("X11Forwarding yes", XAUTH)


class Desk:
    def __init__(self, login: LoginRights) -> None:
        self.answers: list[Message] = []
        self.sockets: list[socket.socket] = []
        self.displays = Displays(Permits(login), login, self._send)

    def _send(self, message: Message, descriptors: Sequence[int]) -> None:
        self.answers.append(message)
        self.sockets += [socket.socket(fileno=os.dup(one)) for one in descriptors]

    def close(self) -> None:
        for one in self.sockets:
            one.close()


@contextlib.contextmanager
def asked(
    login: LoginRights, request: ListenForX11 = REQUEST
) -> Iterator[tuple[Display | None, Message, list[socket.socket]]]:
    desk = Desk(login)
    try:
        made = desk.displays.open(request)
        [answer] = desk.answers
        yield made, answer, desk.sockets
    finally:
        desk.close()


def free_number() -> int:
    """Of a display that nobody has now, nor the one behind it; beyond what others are given."""
    for _ in range(100):
        number = random.randrange(500, 990)
        with contextlib.suppress(OSError):
            for one in open_display(number, BOTH)[1]:
                one.close()
            return number
    raise AssertionError("no display is free")


def test_a_display_has_a_port_a_name_and_an_entry(tmp_path: Path) -> None:
    number = free_number()
    with asked(rights(tmp_path, *ON, f"X11DisplayOffset {number}")) as (made, answer, sockets):
        assert made is not None
        assert isinstance(answer, ListenerOpened)
        number = answer.port - FIRST_PORT
        assert made.name == f"localhost:{number}.0"
        assert made.entry == f"unix:{number}.0"
        where = {one.getsockname()[:2] for one in sockets}
        assert where == {(address, answer.port) for address in BOTH}
    assert made.authorization == f"MIT-MAGIC-COOKIE-1 {COOKIE}\n".encode()
    assert made.xauth_commands.decode().splitlines() == [
        f"remove unix:{number}.0",
        f"add unix:{number}.0 MIT-MAGIC-COOKIE-1 {COOKIE}",
    ]
    assert made.xauth == "/bin/sh"


def test_not_on_localhost_alone_it_has_the_machines_name(tmp_path: Path) -> None:
    login = rights(tmp_path, *ON, "X11UseLocalhost no", f"X11DisplayOffset {free_number()}")
    request = ListenForX11(4, "P", COOKIE, 3)
    with asked(login, request) as (made, _, sockets):
        assert made is not None
        assert made.name == made.entry
        assert made.name.startswith(f"{os.uname().nodename}:")
        assert made.name.endswith(".3")
        assert {one.getsockname()[0] for one in sockets} == {"0.0.0.0", "::"}


@pytest.mark.parametrize(
    ("family", "address"), [("inet", "127.0.0.1"), ("inet6", "::1")]
)
def test_of_one_family_if_the_server_is(tmp_path: Path, family: str, address: str) -> None:
    settings = (f"AddressFamily {family}", f"X11DisplayOffset {free_number()}")
    with asked(rights(tmp_path, *ON, *settings)) as (_, _, [only]):
        assert only.getsockname()[0] == address


@pytest.mark.parametrize("taken", BOTH)
def test_a_number_that_is_half_anothers_is_passed_over(taken: str) -> None:
    """His half would get some of our X clients."""
    number = free_number()
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, FIRST_PORT + number), family=family):
        chosen, sockets = open_display(number, BOTH)
        for one in sockets:
            one.close()
    assert chosen > number
    assert len(sockets) == len(BOTH)


def test_a_family_that_the_machine_does_not_have_is_none_to_wait_for() -> None:
    _, sockets = open_display(free_number(), ["127.0.0.1", "2001:db8::1"])
    [only] = sockets
    only.close()
    with pytest.raises(OSError, match="assign"):
        open_display(free_number(), ["2001:db8::1"])


def test_the_search_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = free_number()
    monkeypatch.setattr(displays, "MAX_DISPLAYS", number + 1)
    with socket.create_server(("127.0.0.1", FIRST_PORT + number)):
        login = rights(tmp_path, *ON, f"X11DisplayOffset {number}")
        with asked(login) as (made, answer, _):
            assert made is None
            assert isinstance(answer, ForwardingRefused)
            assert "Failed to allocate" in answer.reason


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ((XAUTH,), ""),
        ((*ON, "DisableForwarding yes"), ""),
        (ON, "no-x11-forwarding"),
        (ON, "restrict"),
        (ON, "restrict,port-forwarding,agent-forwarding"),
        (("X11Forwarding yes", "XAuthLocation /nonexistent/xauth"), ""),
        (("X11Forwarding yes", "XAuthLocation none"), ""),
    ],
)
def test_configuration_key_and_machine_must_all_have_it(
    tmp_path: Path, settings: tuple[str, ...], key: str
) -> None:
    with asked(rights(tmp_path, *settings, key=key)) as (made, answer, _):
        assert made is None
        assert isinstance(answer, ForwardingRefused)
        assert answer.is_prohibited


def test_a_key_may_have_nothing_but_x11(tmp_path: Path) -> None:
    permits = Permits(rights(tmp_path, *ON, key="restrict,x11-forwarding"))
    assert permits.x11
    assert not permits.agent


def test_a_password_that_must_be_changed_forbids_it(tmp_path: Path) -> None:
    login = rights(tmp_path, *ON)
    assert Permits(login).x11
    assert not Permits(login._replace(must_change_password=True)).x11


@pytest.mark.parametrize(
    "request_",
    [
        ListenForX11(4, "", COOKIE, 0),
        ListenForX11(4, "MIT", "", 0),
        ListenForX11(4, "MIT\nadd x", COOKIE, 0),
        ListenForX11(4, "MIT", "00 11", 0),
        ListenForX11(4, "MIT", "00;id", 0),
        ListenForX11(4, "MIT", "\u0660", 0),
        ListenForX11(4, "MIT", COOKIE, 1 << 32),
    ],
)
def test_words_that_xauth_could_take_for_others_are_refused(
    tmp_path: Path, request_: ListenForX11
) -> None:
    with asked(rights(tmp_path, *ON), request_) as (made, answer, _):
        assert made is None
        assert isinstance(answer, ForwardingRefused)
