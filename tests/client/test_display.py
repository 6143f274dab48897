"""The user's display: where it is, what opens it, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sshoq.client import display
from sshoq.client.display import (
    SOCKET,
    ForwardedDisplay,
    Place,
    find_authorization,
    find_place,
    screen_of,
)
from sshoq.client.log import Log
from sshoq.config.options import Options
from sshoq.config.usage import DEBUG2
from sshoq.forwarding.relay import Take
from sshoq.forwarding.x11 import X11Error
from sshoq.protocol.messages import X11Req
from tests.client.test_forwards import options_of
from tests.forwarding.test_x11 import setup
from tests.pair import run

COOKIE = "00112233445566778899aabbccddeeff"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (":0", Place((SOCKET.format(0), "\0" + SOCKET.format(0)))),
        (":10.1", Place((SOCKET.format(10), "\0" + SOCKET.format(10)))),
        ("::3", Place((SOCKET.format(3), "\0" + SOCKET.format(3)))),
        ("unix:5.0", Place((SOCKET.format(5), "\0" + SOCKET.format(5)))),
        ("localhost:10.0", Place((), "localhost", 6010)),
        ("far.test:0.1", Place((), "far.test", 6000)),
        ("192.0.2.1:7", Place((), "192.0.2.1", 6007)),
        ("/nonexistent/x:0", Place(("/nonexistent/x:0",))),
    ],
)
def test_where_a_display_is(name: str, place: Place) -> None:
    assert find_place(name) == place


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "Could not find ':' in DISPLAY: nowhere"),
        ("", "Could not find ':'"),
        (":", "Could not parse display number from DISPLAY: :"),
        ("host:x", "Could not parse display number"),
        (":99999", "Could not parse display number"),
        (":123456", "Could not parse display number"),
    ],
)
def test_a_display_that_is_nowhere(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match="DISPLAY") as caught:
        find_place(name)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("tail", ["", ".0", ":0"])
def test_a_path_is_a_display_with_and_without_a_number(tmp_path: Path, tail: str) -> None:
    path = str(tmp_path / "org.xquartz")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert find_place(path + tail) == Place((path,))


@pytest.mark.parametrize(
    ("name", "screen"),
    [(":0", 0), (":0.1", 1), ("a.b.test:0.400", 400), (":0.401", 0), (":0.x", 0), (":0.-1", 0),
     ("a.7:0", 0), ("a.7", 0)],
)
def test_the_screen_is_behind_the_displays_number(name: str, screen: int) -> None:
    assert screen_of(name) == screen


# --------------------------------------------------------------------------- xauth

KNOWS = f'[ "$1" = list ] && echo "$2  MIT-MAGIC-COOKIE-1  {COOKIE}"'
GENERATES = f"""\
[ "$1" = -f ] || exit 9
case $3 in
    generate) echo "$*" >"$0.asked"; echo "$4 MIT-MAGIC-COOKIE-1 {COOKIE}" >"$2";;
    list) cat "$2";;
esac
"""


@pytest.fixture
def xauth(tmp_path: Path) -> Callable[[str], str]:
    """A program in the place of xauth, which notes what it is asked."""

    def make(script: str) -> str:
        path = tmp_path / "xauth"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


class Lines(list[str]):
    @property
    def log(self) -> Log:
        return Log(DEBUG2, lambda level, line: self.append(line))

    @property
    def said(self) -> list[str]:
        return [line for line in self if not line.startswith("debug")]


def options(program: str, *words: str) -> Options:
    return options_of("-o", f"XAuthLocation={program}", *words)


def test_the_users_own_cookie_opens_the_display_for_trusted_clients(
    xauth: Callable[[str], str],
) -> None:
    lines = Lines()
    found = find_authorization(":3", options(xauth(KNOWS), "-Y"), lines.log)
    assert found is not None
    assert (found.protocol, found.cookie.hex()) == ("MIT-MAGIC-COOKIE-1", COOKIE)
    assert len(found.stand_in) == len(found.cookie)
    assert found.stand_in != found.cookie
    assert lines.said == []


def test_a_display_on_localhost_has_its_entry_under_its_socket(
    xauth: Callable[[str], str],
) -> None:
    program = xauth(f'[ "$2" = unix:11.0 ] && {KNOWS}')
    lines = Lines()
    assert find_authorization("localhost:11.0", options(program, "-Y"), lines.log)
    assert lines.said == []


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "true",
        "echo ':3 MIT-MAGIC-COOKIE-1'",
        "echo ':3 MIT-MAGIC-COOKIE-1 xyz0'",
        "echo ':3 MIT-MAGIC-COOKIE-1 123'",
        f"echo ':3 MIT;id {COOKIE}'",
        f"echo ':3 MIT-MAGIC-COOKIE-1 {COOKIE * 9}'",
    ],
)
def test_what_is_no_entry_is_made_up_for_trusted_clients_and_refused_to_others(
    xauth: Callable[[str], str], script: str
) -> None:
    program = xauth(script)
    lines = Lines()
    found = find_authorization(":3", options(program, "-Y"), lines.log)
    assert found is not None
    assert (found.protocol, len(found.cookie)) == ("MIT-MAGIC-COOKIE-1", 16)
    assert lines.said == [
        "Warning: No xauth data; using fake authentication data for X11 forwarding."
    ]
    lines = Lines()
    assert find_authorization(":3", options(program, "-X"), lines.log) is None
    assert lines.said == [
        "Warning: untrusted X11 forwarding setup failed: xauth key data not generated"
    ]


@pytest.mark.parametrize(
    ("timeout", "words"),
    [("20m", "timeout 1260"), ("0", ""), ("none", "timeout 1260")],
)
def test_untrusted_clients_get_a_cookie_for_a_while(
    xauth: Callable[[str], str], timeout: str, words: str
) -> None:
    """A minute longer than we let anybody use it."""
    program = xauth(GENERATES)
    lines = Lines()
    wish = options(program, "-X", "-o", f"ForwardX11Timeout={timeout}")
    found = find_authorization(":3", wish, lines.log)
    assert found is not None, lines
    assert found.cookie.hex() == COOKIE
    flag, file, *asked = Path(f"{program}.asked").read_text().split()
    assert (flag, " ".join(asked)) == (
        "-f", f"generate :3 MIT-MAGIC-COOKIE-1 untrusted {words}".strip()
    )
    assert not Path(file).parent.exists()


def test_without_xauth_nothing_is_run(tmp_path: Path) -> None:
    lines = Lines()
    wish = options(str(tmp_path / "none"), "-X")
    assert find_authorization(":3", wish, lines.log) is None
    assert "debug1: No xauth program." in lines


@pytest.mark.parametrize("name", [":0;id", "a b:0", ":0\n", "é:0", "$(id):0"])
def test_nothing_strange_reaches_another_program(
    xauth: Callable[[str], str], name: str, tmp_path: Path
) -> None:
    lines = Lines()
    program = xauth(f"touch {tmp_path}/was_run")
    assert find_authorization(name, options(program, "-Y"), lines.log) is None
    assert "invalid; disabling X11 forwarding" in lines.said[0]
    assert not (tmp_path / "was_run").exists()


# --------------------------------------------------------------------------- for how long


class Said:
    """A source of one piece."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, take: Take | None = None) -> bytes:
        data, self._data = self._data, b""
        return data


def test_what_is_asked_of_a_session_is_the_stand_in(xauth: Callable[[str], str]) -> None:
    program = xauth(f"echo run >>$0.runs; {KNOWS}")

    async def main() -> None:
        one = ForwardedDisplay(":3.2", options(program, "-Y"), Lines().log)
        assert all(await asyncio.gather(one.prepare(), one.prepare()))
        request = one.request_for(4)
        protocol, cookie, screen = "MIT-MAGIC-COOKIE-1", request.cookie, 2
        assert request == X11Req(False, protocol, cookie, screen)
        assert cookie != COOKIE
        assert one.request_for(8).cookie == cookie
        assert [one.may_use(session) for session in (0, 4, 8, 12)] == [False, True, True, False]
        made = await one.read_setup(Said(setup(cookie=bytes.fromhex(cookie))))
        assert made == setup(cookie=bytes.fromhex(COOKIE))
        with pytest.raises(X11Error, match="gone"):
            await one.read_setup(Said(setup()[:5]))

    run(main)
    assert Path(f"{program}.runs").read_text() == "run\n"


def test_when_its_time_is_over_nobody_is_let_in(
    xauth: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither who calls then, nor who called before and was slow to say who he is."""
    program, lines = xauth(GENERATES), Lines()

    async def main() -> None:
        wish = options(program, "-X", "-o", "ForwardX11Timeout=30")
        one = ForwardedDisplay(":3", wish, lines.log)
        loop = asyncio.get_running_loop()
        assert await one.prepare()
        said = setup(cookie=bytes.fromhex(one.request_for(4).cookie))
        assert one.may_use(4)
        assert await one.read_setup(Said(said))
        late = loop.time() + 31
        monkeypatch.setattr(loop, "time", lambda: late)
        for _ in range(2):
            assert not one.may_use(4)
            with pytest.raises(X11Error, match="time"):
                await one.read_setup(Said(said))

    run(main)
    assert lines.count("Rejected X11 connection after ForwardX11Timeout expired") == 4


@pytest.mark.parametrize("words", [("-Y",), ("-X", "-o", "ForwardX11Timeout=0")])
def test_without_a_timeout_it_is_never_over(
    xauth: Callable[[str], str], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = xauth(f"{GENERATES}\n")

    async def main() -> None:
        one = ForwardedDisplay(":3", options(program, *words), Lines().log)
        assert await one.prepare()
        one.request_for(4)
        loop = asyncio.get_running_loop()
        late = loop.time() + 1e9
        monkeypatch.setattr(loop, "time", lambda: late)
        assert one.may_use(4)

    run(main)


# --------------------------------------------------------------------------- the way to it


@asynccontextmanager
async def x_server_on_tcp() -> AsyncIterator[int]:
    """A listener at a display's port; the display's number."""
    with socket.socket() as listener:
        for _ in range(100):
            number = random.randrange(2000, 20000)
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", 6000 + number))
                break
        listener.listen()
        yield number


def test_a_display_of_another_host_is_called_at_its_port() -> None:
    async def main() -> None:
        async with x_server_on_tcp() as number:
            lines = Lines()
            one = ForwardedDisplay(f"127.0.0.1:{number}.0", options_of("-Y"), lines.log)
            end = await one.dial()
            end.close()
        with pytest.raises(ConnectionRefusedError):
            await one.dial()
        assert lines.said == [f"connect 127.0.0.1 port {6000 + number}: Connection refused"]

    run(main)


def test_a_local_display_is_called_at_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the one in the file system first: abstract ones are anybody's to take."""
    template = str(tmp_path / "X{}")
    monkeypatch.setattr(display, "SOCKET", template)

    async def main() -> None:
        lines = Lines()
        one = ForwardedDisplay(":3", options_of("-Y"), lines.log)
        with pytest.raises(FileNotFoundError):
            await one.dial()
        assert lines.said == [f"connect {tmp_path}/X3: No such file or directory"]
        for path in ("\0" + template.format(3), template.format(3)):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                listener.setblocking(False)
                end = await one.dial()
                listener.accept()[0].close()
                end.close()

    run(main)


def test_a_display_that_is_nowhere_is_told_of() -> None:
    async def main() -> None:
        lines = Lines()
        with pytest.raises(OSError, match="DISPLAY"):
            await ForwardedDisplay("nowhere", options_of("-Y"), lines.log).dial()
        assert lines.said == ["Could not find ':' in DISPLAY: nowhere"]

    run(main)
