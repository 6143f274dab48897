"""X11 forwarding, with a real X server and real X clients."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.accounts import Account
from tests.janitor import Janitor
from tests.needs import need_root, need_tools
from tests.processes import is_running, read_process, wait_until
from tests.programs import PROGRAMS, Client, Programs, Server
from tests.scenarios.conftest import ClientFactory, ServerFactory, server_factory

# One after another: they wait for display numbers that others would take at once.
pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("x11")]

FORWARDED = re.compile(rb"localhost:(\d+)\.0\n")
WARNING = (
    b"Warning: No xauth data; using fake authentication data for X11 forwarding.",
    b"X11 connection rejected because of wrong authentication.",
)
TRUSTED = ("-Y",)
UNTRUSTED = ("-X", "-o", "ForwardX11Trusted=no")


class Screen(NamedTuple):
    """An X server of the test's own, which lets in who has the cookie."""

    number: int
    cookie: str
    authority: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"DISPLAY": f":{self.number}", "XAUTHORITY": str(self.authority)}


@pytest.fixture(scope="module")
def screen(janitor: Janitor) -> Iterator[Screen]:
    need_root()
    need_tools("Xvfb", "xauth", "xdpyinfo", "xprop")
    directory = janitor.directory()
    cookie = secrets.token_hex(16)
    note_cookie(directory / "its_own", 0, cookie)  # whatever number it will have
    reader, writer = os.pipe()
    # Reset by the end of its last client, it would forget cookies of its own making.
    settings = ["-noreset", "-nolisten", "tcp", "-auth", str(directory / "its_own")]
    log = (directory / "log").open("wb")
    process = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), *settings],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writer],
    )  # fmt: skip
    janitor.owe("process", f"{process.pid} {_started(process.pid)}")
    os.close(writer)
    with open(reader, encoding="ascii") as answer:
        line = answer.readline()
    assert line, (directory / "log").read_text()
    number = int(line)
    authority = directory / "authority"
    note_cookie(authority, number, cookie)
    yield Screen(number, cookie, authority)
    process.terminate()
    process.wait(timeout=30)
    log.close()


def note_cookie(file: Path, number: int, cookie: str) -> None:
    command = ["xauth", "-f", str(file), "add", f":{number}", "MIT-MAGIC-COOKIE-1", cookie]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def _started(pid: int) -> int:
    process = read_process(pid)
    assert process is not None
    return process.started


@pytest.fixture(scope="module")
def server(programs: Programs, janitor: Janitor) -> Iterator[Server]:
    for start in server_factory(janitor):
        yield start(programs, ["X11Forwarding yes"])


def run(
    client: Client, screen: Screen, command: str, *flags: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return client.run(command, flags=flags, env=screen.environment | environment)


@pytest.mark.parametrize("flags", [TRUSTED, UNTRUSTED], ids=["trusted", "untrusted"])
def test_x_clients_at_the_server_reach_the_users_display(
    client: Client, screen: Screen, flags: tuple[str, ...]
) -> None:
    done = run(client, screen, "echo $DISPLAY; xdpyinfo", *flags)
    assert done.returncode == 0, done
    head, _, rest = done.stdout.partition(b"\n")
    match = FORWARDED.fullmatch(head + b"\n")
    assert match is not None, head
    assert int(match[1]) >= 10
    assert b"name of display:    " + head in rest
    assert not any(line in done.stderr for line in WARNING)


def test_untrusted_clients_are_kept_away_from_the_others(client: Client, screen: Screen) -> None:
    """The display itself does it: it hides the extensions with which one could look over
    shoulders."""
    offered = {
        flags: run(client, screen, "xdpyinfo", *flags).stdout for flags in (TRUSTED, UNTRUSTED)
    }
    assert b"    XTEST\n" in offered[TRUSTED]
    assert offered[UNTRUSTED]
    assert b"    XTEST\n" not in offered[UNTRUSTED]


def test_the_server_learns_a_cookie_that_opens_nothing_else(
    client: Client, screen: Screen
) -> None:
    done = run(client, screen, "xauth list; echo $DISPLAY", *TRUSTED)
    *entries, display = done.stdout.decode().splitlines()
    number = display.rpartition(":")[2].partition(".")[0]
    [entry] = [line for line in entries if line.split()[0].endswith(f"/unix:{number}")]
    _, protocol, cookie = entry.split()
    assert protocol == "MIT-MAGIC-COOKIE-1"
    assert len(cookie) == len(screen.cookie)
    assert screen.cookie not in done.stdout.decode()


def test_who_shows_another_cookie_is_turned_away(client: Client, screen: Screen) -> None:
    other = "xauth -q add $DISPLAY . " + "00" * 16
    entry = "unix:${DISPLAY#localhost:}"
    command = f"xauth -q remove {entry}; {other.replace('$DISPLAY', entry)}; xdpyinfo"
    done = run(client, screen, command, *TRUSTED)
    assert done.returncode == 1
    assert WARNING[1] in done.stderr


def test_the_time_of_untrusted_clients_runs_out(client: Client, screen: Screen) -> None:
    command = "for n in $(seq 300); do xdpyinfo >/dev/null 2>&1 || exit 7; sleep 0.1; done"
    flags = (*UNTRUSTED, "-o", "ForwardX11Timeout=2", "-v")
    done = run(client, screen, command, *flags)
    assert done.returncode == 7
    assert b"Rejected X11 connection after ForwardX11Timeout expired" in done.stderr


def test_without_xauth_here_a_cookie_is_made_up_or_nothing_is_forwarded(
    client: Client, screen: Screen
) -> None:
    without = ("-o", "XAuthLocation=/nonexistent/xauth")
    done = run(client, screen, "echo $DISPLAY", *TRUSTED, *without)
    assert WARNING[0] in done.stderr
    assert FORWARDED.fullmatch(done.stdout)
    done = run(client, screen, "echo $DISPLAY", *UNTRUSTED, *without)
    line = b"Warning: untrusted X11 forwarding setup failed: xauth key data not generated"
    assert line in done.stderr
    assert (done.returncode, done.stdout) == (0, b"\n")


def test_a_display_without_an_entry_gets_a_cookie_that_is_made_up(
    client: Client, screen: Screen, tmp_path: Path
) -> None:
    empty = tmp_path / "authority"
    done = run(client, screen, "echo $DISPLAY", *TRUSTED, XAUTHORITY=str(empty))
    assert WARNING[0] in done.stderr
    assert FORWARDED.fullmatch(done.stdout)


def test_without_a_display_there_is_nothing_to_forward(client: Client) -> None:
    done = client.run("echo $DISPLAY", flags=TRUSTED)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\n", b"")


def test_a_display_of_strange_letters_is_not_forwarded(client: Client, screen: Screen) -> None:
    done = run(client, screen, "echo $DISPLAY", *TRUSTED, DISPLAY=":0;id")
    assert b'DISPLAY ":0;id" invalid; disabling X11 forwarding' in done.stderr
    assert done.stdout == b"\n"


def test_capital_letters_decide_as_the_last_one_says(client: Client, screen: Screen) -> None:
    assert run(client, screen, "echo $DISPLAY", "-Y", "-x").stdout == b"\n"
    options = ("-o", "ForwardX11=yes", "-o", "ForwardX11Trusted=yes")
    assert FORWARDED.fullmatch(run(client, screen, "echo $DISPLAY", *options).stdout)


def test_a_display_that_is_not_there_is_told_of(client: Client, screen: Screen) -> None:
    fake = ("-o", "XAuthLocation=/nonexistent/xauth")
    done = run(client, screen, "xdpyinfo", *TRUSTED, *fake, DISPLAY=":987")
    assert done.returncode == 1
    assert b"connect /tmp/.X11-unix/X987: No such file or directory" in done.stderr


def test_the_client_stays_for_x_clients_that_outlive_the_program(
    client: Client, screen: Screen
) -> None:
    """`ssh -X host xterm &` would be little use otherwise."""
    spy = "xprop -root -spy </dev/null >/dev/null 2>&1"
    # The property is set through the forwarding, so it stands when the session has ended.
    command = f"{spy} & echo $!; xprop -root -f SCENARIO 8s -set SCENARIO {{}}"
    mark = secrets.token_hex(8)
    environment = client.environment(screen.environment)
    process = subprocess.Popen(
        client.command(command.format(mark), flags=[*TRUSTED, "-o", "BatchMode=yes"]),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, cwd=client.directory,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        pid = int(process.stdout.readline())
        spying = read_process(pid)
        assert spying is not None
        process.stdout.read()  # its end: the session is over
        assert is_running(spying)
        assert process.poll() is None
        os.kill(pid, signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_the_display_goes_with_the_session(client: Client, screen: Screen) -> None:
    ours = run(client, screen, "echo $DISPLAY", *TRUSTED).stdout
    match = FORWARDED.fullmatch(ours)
    assert match is not None
    port = 6000 + int(match[1])
    wait_until(lambda: not listeners_on(port), 30, "nobody listens there")


def listeners_on(port: int) -> list[str]:
    """Addresses as /proc/net has them."""
    found = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and words[1].endswith(f":{port:04X}"):
                    found.append(words[1].partition(":")[0])
    return found


@pytest.mark.parametrize("guest", sorted(PROGRAMS))
def test_shared_sessions_get_a_display_if_they_ask(
    client: Client, screen: Screen, tmp_path: Path, guest: str
) -> None:
    """Whichever of the programs is the master of whichever."""
    place = tmp_path / "control"
    shared = ("-F", "none", "-S", str(place))

    def run_guest(command: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [PROGRAMS[guest].client(), *flags, *shared, f"{client.user}@127.0.0.1", command],
            env=client.environment(screen.environment), cwd=client.directory,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        )  # fmt: skip

    flags = ["-M", "-N", "-Y", "-S", str(place), "-o", "BatchMode=yes"]
    master = subprocess.Popen(
        client.command(flags=flags), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=client.environment(screen.environment), cwd=client.directory,
    )  # fmt: skip
    try:
        wait_until(place.exists, 30, "the master is there")
        done = run_guest("echo $DISPLAY; xdpyinfo", "-Y")
        assert done.returncode == 0, done
        assert FORWARDED.match(done.stdout)
        assert run_guest("echo $DISPLAY", "-x").stdout == b"\n"
    finally:
        master.terminate()
        master.communicate(timeout=30)


# --------------------------------------------------------------------------- the server's word

REFUSED = b"X11 forwarding request failed on channel 0"


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("X11Forwarding yes", "DisableForwarding yes"),
        ("X11Forwarding yes", "XAuthLocation /nonexistent/xauth"),
    ],
    ids=["by default", "all disabled", "no xauth"],
)
def test_servers_may_refuse(
    programs: Programs,
    start_server: ServerFactory,
    connect: ClientFactory,
    account: Account,
    screen: Screen,
    settings: tuple[str, ...],
) -> None:
    client = connect(start_server(programs, settings), account)
    done = run(client, screen, "echo $DISPLAY", *TRUSTED)
    assert REFUSED in done.stderr
    assert (done.returncode, done.stdout) == (0, b"\n")


@pytest.mark.parametrize(
    ("options", "is_forwarded"),
    [("no-x11-forwarding", False), ("restrict", False), ("restrict,x11-forwarding", True)],
)
def test_keys_may_refuse(
    client: Client,
    screen: Screen,
    account: Account,
    options: str,
    is_forwarded: bool,
) -> None:
    before = account.authorized_keys.read_text()
    account.write(".ssh/authorized_keys", f"{options} {account.public_key}\n")
    try:
        done = run(client, screen, "echo $DISPLAY", *TRUSTED)
    finally:
        account.write(".ssh/authorized_keys", before)
    assert (REFUSED not in done.stderr) is is_forwarded
    assert bool(FORWARDED.fullmatch(done.stdout)) is is_forwarded


def test_displays_are_numbered_and_named_as_the_server_says(
    programs: Programs,
    start_server: ServerFactory,
    connect: ClientFactory,
    account: Account,
    screen: Screen,
) -> None:
    """Not on localhost alone; the name is then the machine's."""
    server = start_server(
        programs, ["X11Forwarding yes", "X11DisplayOffset 850", "X11UseLocalhost no"]
    )
    done = run(connect(server, account), screen, "echo $DISPLAY; xauth list", *TRUSTED)
    display, *entries = done.stdout.decode().splitlines()
    host, _, number = display.partition(":")
    assert host == os.uname().nodename
    assert 850 <= int(number.removesuffix(".0")) < 900
    assert any(line.split()[0].endswith(number.removesuffix(".0")) for line in entries)


def test_the_users_own_rc_file_is_told_of_the_cookie_instead_of_xauth(
    client: Client, screen: Screen, account: Account
) -> None:
    account.write(".ssh/rc", "cat >told; echo $DISPLAY >>told\n")
    try:
        done = run(client, screen, "cat told; xauth list $DISPLAY | wc -l", *TRUSTED)
    finally:
        (account.home / ".ssh/rc").unlink()
    authorization, display, _count = done.stdout.decode().splitlines()
    protocol, cookie = authorization.split()
    assert protocol == "MIT-MAGIC-COOKIE-1"
    assert re.fullmatch("[0-9a-f]{32}", cookie)
    assert FORWARDED.fullmatch(f"{display}\n".encode())
    listing = run(client, screen, "xauth list").stdout.decode()
    assert cookie not in listing

