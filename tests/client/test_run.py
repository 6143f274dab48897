"""The client as a program, against a server in the test's own event loop."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sshoq.auth.token import certificate_in
from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.messages import Env, Exec, Subsystem
from sshoq.protocol.request import (
    NOT_FOUND,
    UNAUTHORIZED,
    ConnectRequest,
    Response,
    accepted,
    refused,
)
from sshoq.protocol.version import PeerTraits
from sshoq.transport.channel import Channel
from tests.auth.keyring import make_certificate, make_key
from tests.client.little_server import (
    CLIENT,
    LittleServer,
    Result,
    client_environment,
    end,
    listening,
    run_client,
    say_and_exit,
    to,
    turn_away,
)
from tests.needs import need_tools


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    need_tools("ssh-keygen")
    folder = tmp_path_factory.mktemp("keys")
    paths = [str(folder / name) for name in ("one", "two")]
    for path in paths:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return paths


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


# --------------------------------------------------------------------------- a session


def test_output_and_status_of_a_command(keys: list[str]) -> None:
    async def test() -> None:
        async with listening(serve=say_and_exit(b"hello\n", 7)) as listener:
            result = await run_client(*to(listener, keys[0]), "say", "hello")
        assert result == Result(7, b"hello\n", "")
        assert listener.server.asked == [Exec("say hello")]
        [request] = listener.server.requests
        assert (request.user, request.path) == ("alice", "/secret")
        assert request.authority == f"127.0.0.1:{listener.port}"

    run(test())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_standard_streams_may_be_closed_from_the_start(keys: list[str], closed: str) -> None:
    async def test() -> None:
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
        async with listening(serve=say_and_exit(b"hello\n", 7)) as listener:
            result = await run_client(*to(listener, keys[0]), "say", "hello", prefix=shell)
        output = b"" if closed == ">&-" else b"hello\n"
        assert result == Result(7, output, "")

    run(test())


@pytest.mark.parametrize("early", [True, False])
def test_session_rides_with_the_login_where_the_server_keeps_it(
    keys: list[str], early: bool
) -> None:
    async def answer_late(server: LittleServer, stream_id: int, request: ConnectRequest) -> None:
        while early and not server.holds_early_streams:  # or else the test runs into its timeout
            await server.heard.wait()
            server.heard.clear()
        assert server.holds_early_streams == early
        server.answer(stream_id, request)

    async def test() -> None:
        extensions = OURS if early else OURS & ~Extension.EARLY
        async with listening(serve=say_and_exit(b"in", 0), extensions=extensions) as listener:
            process = asyncio.ensure_future(run_client(*to(listener, keys[0]), "x"))
            server = await listener.arrived
            server.decide = lambda stream_id, request: server.spawn(
                answer_late(server, stream_id, request)
            )
            assert await process == Result(0, b"in", "")

    run(test())


def test_go_server_gets_what_it_knows(keys: list[str]) -> None:
    async def test() -> None:
        async with listening(serve=say_and_exit(b"in", 3), extensions=None) as listener:
            words = to(listener, keys[0], "-o", "SetEnv=A=1")
            assert await run_client(*words, "x", given=b"input") == Result(3, b"in", "")
        assert listener.server.asked == [Exec("x")]
        assert listener.server.faults == []

    run(test())


def test_session_is_asked_for_again_after_a_refused_key(keys: list[str]) -> None:
    seen: list[str | None] = []

    def judge(request: ConnectRequest) -> Response:
        seen.append(request.authorization)
        return UNAUTHORIZED if len(seen) == 1 else Response(200)

    async def test() -> None:
        async with listening(judge, say_and_exit(b"in", 0)) as listener:
            result = await run_client(*to(listener, keys[0], "-i", keys[1]), "x")
        assert result == Result(0, b"in", "")
        assert listener.server.asked == [Exec("x")]
        assert len(set(seen)) == 2

    run(test())


def test_environment_and_subsystem(keys: list[str]) -> None:
    async def test() -> None:
        async with listening() as listener:
            words = to(listener, keys[0], "-s", "-o", "SendEnv=LC_*", "-o", "SetEnv=A=1")
            result = await run_client(*words, "sftp", environ={"LC_X": "y", "OTHER": "z"})
        assert result.status == 0
        assert listener.server.asked == [Env("LC_X", "y"), Env("A", "1"), Subsystem("sftp")]

    run(test())


def test_input_reaches_the_command(keys: list[str]) -> None:
    def serve(server: LittleServer, channel: Channel) -> None:
        server.spawn(echo(channel))

    async def echo(channel: Channel) -> None:
        while data := await channel.read():
            await channel.write(bytes(data))
        await end(channel, 0)

    async def test() -> None:
        given = os.urandom(300_000)
        async with listening(serve=serve) as listener:
            result = await run_client(*to(listener, keys[0]), "cat", given=given)
        assert result == Result(0, given, "")

    run(test())


@pytest.mark.parametrize(
    ("flags", "farewell"), [([], ""), (["-tt"], "Connection to 127.0.0.1 closed.\n")]
)
def test_connection_that_breaks_is_told(
    keys: list[str], flags: list[str], farewell: str
) -> None:
    def serve(server: LittleServer, channel: Channel) -> None:
        server.conversation.close(0x100, "")

    async def test() -> None:
        async with listening(serve=serve) as listener:
            result = await run_client(*to(listener, keys[0], *flags), "x")
        complaint = "Connection to 127.0.0.1 closed by remote host.\n"
        assert result == Result(255, b"", complaint + farewell)

    run(test())


def test_without_session_sigterm_is_a_good_end(keys: list[str]) -> None:
    async def test() -> None:
        async with listening() as listener:
            words = [*CLIENT, *to(listener, keys[0], "-N", "-v")]
            process = await asyncio.create_subprocess_exec(
                *words, env=client_environment(), stderr=asyncio.subprocess.PIPE
            )
            assert process.stderr is not None
            while b"Entering interactive session." not in await process.stderr.readline():
                assert process.returncode is None
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            assert listener.server.asked == []

    run(test())


def test_local_command_runs_after_the_login(keys: list[str]) -> None:
    async def test() -> None:
        async with listening() as listener:
            options = ["-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo %r at %h %%"]
            result = await run_client(*to(listener, keys[0], *options), "true")
        assert result == Result(0, b"alice at 127.0.0.1 %\n", "")

    run(test())


def test_background_lets_the_caller_go_after_the_login(keys: list[str], tmp_path: Path) -> None:
    released = tmp_path / "released"

    def serve(server: LittleServer, channel: Channel) -> None:
        server.spawn(wait_for_release(channel))

    async def wait_for_release(channel: Channel) -> None:
        while not released.exists():
            await asyncio.sleep(0.01)
        await channel.write(b"late")
        await end(channel, 0)

    async def test() -> None:
        output = tmp_path / "output"
        async with listening(serve=serve) as listener:
            with output.open("wb") as file:
                process = await asyncio.create_subprocess_exec(
                    *CLIENT, *to(listener, keys[0], "-f"), "x",
                    env=client_environment(), stdout=file,
                )  # fmt: skip
                assert await process.wait() == 0
            assert output.read_bytes() == b""
            released.touch()
            await listener.server.end  # the client in the background says goodbye
        assert output.read_bytes() == b"late"

    run(test())


def test_escape_to_the_background_lets_the_caller_go(keys: list[str]) -> None:
    master, slave = os.openpty()
    ended = []

    def serve(server: LittleServer, channel: Channel) -> None:
        os.write(master, b"~&")
        server.spawn(read_to_the_end(channel))

    async def read_to_the_end(channel: Channel) -> None:
        assert await channel.read() == b"\x04"
        assert await channel.read() == b""
        ended.append("input")
        os.write(master, b"for the shell\r")
        await channel.write(b"bye")
        await end(channel, 0)

    async def test() -> None:
        async with listening(serve=serve) as listener:
            process = await asyncio.create_subprocess_exec(
                *CLIENT, *to(listener, keys[0], "-tt"),
                env=client_environment(), stdin=slave, stdout=slave, stderr=slave,
                start_new_session=True,
            )  # fmt: skip
            assert await process.wait() == 0
            await listener.server.end
        assert ended == ["input"]
        assert b"~& [backgrounded]\r\n" in os.read(master, 1000)
        os.set_blocking(slave, False)
        assert os.read(slave, 100) == b"for the shell\n"

    run(test())
    os.close(master)
    os.close(slave)


def test_background_that_cannot_log_in_fails_in_the_foreground(keys: list[str]) -> None:
    async def test() -> None:
        async with listening(turn_away) as listener:
            result = await run_client(*to(listener, keys[0], "-f"), "x")
        assert result.status == 255
        assert "Permission denied" in result.errors

    run(test())


# --------------------------------------------------------------------------- answers to the login


def status(number: int) -> Callable[[ConnectRequest], Response]:
    return lambda request: Response(number)


def not_found(request: ConnectRequest) -> Response:
    return NOT_FOUND


@pytest.mark.parametrize(
    ("extensions", "questions", "methods"),
    [(OURS, [None], "publickey"), (None, [], "publickey,password")],
)
def test_server_is_asked_what_it_offers_if_it_would_tell(
    keys: list[str], extensions: Extension | None, questions: list[None], methods: str
) -> None:
    def tell(request: ConnectRequest) -> Response:
        return refused(PeerTraits(extensions), methods="publickey")

    async def test() -> None:
        only_passwords = ("-o", "PreferredAuthentications=password")
        async with listening(tell, extensions=extensions) as listener:
            result = await run_client(*to(listener, keys[0], *only_passwords), "x")
            asked = [request.authorization for request in listener.server.requests]
        assert asked == questions
        assert result.errors == f"alice@127.0.0.1: Permission denied ({methods}).\n"

    run(test())


@pytest.mark.parametrize("extensions", [OURS, None])
def test_certificate_goes_only_to_servers_that_know_what_it_is(
    tmp_path: Path, extensions: Extension | None
) -> None:
    key, authority = make_key(tmp_path, "ed25519"), make_key(tmp_path, "ed25519", name="ca")
    make_certificate(authority, Path(f"{key}.pub"), "-n", "alice")
    tokens: list[str] = []

    def refuse(request: ConnectRequest) -> Response:
        tokens.append((request.authorization or "").removeprefix("Bearer "))
        return turn_away(request)

    async def test() -> None:
        async with listening(refuse, extensions=extensions) as listener:
            result = await run_client(*to(listener, str(key)), "x")
        assert result.status == 255
        certified = [certificate_in(token) is not None for token in tokens]
        assert certified == ([False, True] if extensions else [False])

    run(test())


@pytest.mark.parametrize(
    ("judge", "line"),
    [
        (turn_away, "alice@127.0.0.1: Permission denied (publickey,password).\n"),
        (not_found, "no SSHOQ server at path /secret (404)\n"),
        (status(403), "the server refuses our version (403)"),
        (status(500), "the server answered with status 500\n"),
    ],
)
def test_refusal_is_one_clear_line(
    keys: list[str], judge: Callable[[ConnectRequest], Response], line: str
) -> None:
    async def test() -> None:
        async with listening(judge) as listener:
            result = await run_client(*to(listener, keys[0]), "x")
        assert (result.status, result.output) == (255, b"")
        assert line in result.errors
        assert result.errors.count("\n") == 1

    run(test())


class FromOldServer(Response):
    def fields(self, wall_clock: float) -> list[tuple[bytes, bytes]]:
        return [(b":status", b"%d" % self.status), (b"server", b"SSH 3.0 h4sh5/sshoq 0.1.4")]


def test_old_server_is_asked_again_in_its_own_words(keys: list[str]) -> None:
    def judge(request: ConnectRequest) -> Response:
        return FromOldServer(200 if request.user_agent == "SSH 3.0 h4sh5/sshoq 0.1.5" else 403)

    async def test() -> None:
        async with listening(judge, say_and_exit(b"in", 0)) as listener:
            assert await run_client(*to(listener, keys[0]), "x") == Result(0, b"in", "")

    run(test())


def test_server_without_a_version_is_refused(keys: list[str]) -> None:
    class Nameless(Response):
        def fields(self, wall_clock: float) -> list[tuple[bytes, bytes]]:
            return [(b":status", b"200")]

    async def test() -> None:
        async with listening(lambda request: Nameless(200)) as listener:
            result = await run_client(*to(listener, keys[0]), "x")
        assert result.status == 255
        assert "the server's version is missing or unreadable" in result.errors

    run(test())


@pytest.mark.parametrize(
    ("reason", "lines"),
    [
        ("too many tries", "Received disconnect from 127.0.0.1 port {}:2: too many tries\n"
                           "Disconnected from 127.0.0.1 port {}\n"),
        ("", "Connection closed by 127.0.0.1 port {}\n"),
    ],
)  # fmt: skip
def test_server_that_hangs_up_during_login(keys: list[str], reason: str, lines: str) -> None:
    async def test() -> None:
        async with listening() as listener:
            process = asyncio.ensure_future(run_client(*to(listener, keys[0]), "x"))
            server = await listener.arrived
            server.decide = lambda *_: server.conversation.close(0x100, reason)
            result = await process
        assert result.status == 255
        assert result.errors == lines.format(listener.port, listener.port)

    run(test())


BANNER = "Authorized\n\x1b[2Jpersons only\n"


@pytest.mark.parametrize(
    ("flags", "shown"), [([], "Authorized\n\\033[2Jpersons only\n"), (["-q"], "")]
)
def test_banner_is_shown_without_its_control_characters(
    keys: list[str], flags: list[str], shown: str
) -> None:
    traits = PeerTraits(OURS, OURS)

    async def test() -> None:
        async with listening(lambda request: accepted(traits, BANNER)) as listener:
            result = await run_client(*to(listener, keys[0], *flags), "x")
        assert result == Result(0, b"", shown)

    run(test())


# --------------------------------------------------------------------------- the right host


def test_nothing_is_sent_to_a_host_that_is_not_accepted(keys: list[str], tmp_path: Path) -> None:
    async def test() -> None:
        async with listening() as listener:
            result = await run_client(
                *("-o", "StrictHostKeyChecking=yes", "-i", keys[0]),
                *("-o", f"UserKnownHostsFile={tmp_path}/known", "-o", "GlobalKnownHostsFile=none"),
                f"alice@127.0.0.1:{listener.port}/secret",
                "x",
            )
            await listener.server.end
        assert result.status == 255
        assert result.errors.endswith("Host key verification failed.\n")
        assert listener.server.requests == []

    run(test())


def test_new_host_is_recorded_and_then_known(keys: list[str], tmp_path: Path) -> None:
    known = tmp_path / "known"
    options = [
        *("-i", keys[0], "-o", f"UserKnownHostsFile={known}", "-o", "GlobalKnownHostsFile=none"),
        *("-o", "HostKeyAlias=little"),
    ]

    async def call(rule: str) -> Result:
        async with listening(serve=say_and_exit(b"in", 0)) as listener:
            return await run_client(
                *options, "-o", f"StrictHostKeyChecking={rule}",
                f"alice@127.0.0.1:{listener.port}/secret", "x",
            )  # fmt: skip

    async def test() -> None:
        first = await call("accept-new")
        assert first.status == 0
        assert "Permanently added 'little'" in first.errors
        assert await call("yes") == Result(0, b"in", "")

    run(test())


# --------------------------------------------------------------------------- no server


def unused_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def call(*words: str, environ: dict[str, str] | None = None) -> Result:
    return asyncio.run(run_client(*words, environ=environ))


def test_unknown_host() -> None:
    line = "ssh: Could not resolve hostname nowhere.invalid: "
    result = call("nowhere.invalid", "x")
    assert result.status == 255
    assert result.errors.startswith(line)
    assert result.errors.count("\n") == 1


def test_refused_connection() -> None:
    port = unused_port()
    result = call("-o", "Transport=quic", "-p", str(port), "127.0.0.1", "x")
    line = f"ssh: connect to host 127.0.0.1 port {port}: Connection refused\n"
    assert result == Result(255, b"", line)


def test_silent_server() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        options = ["-o", "Transport=quic", "-o", "ConnectTimeout=1", "-p", str(port)]
        result = call(*options, "127.0.0.1", "x")
    line = f"ssh: connect to host 127.0.0.1 port {port}: Connection timed out\n"
    assert result == Result(255, b"", line)


def test_quiet_says_nothing() -> None:
    assert call("-q", "nowhere.invalid", "x") == Result(255, b"", "")


def test_messages_go_to_the_log_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert call("-E", str(log), "nowhere.invalid", "x") == Result(255, b"", "")
    assert log.read_bytes().endswith(b"\r\n")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-w", "0:0"], "-w (Tunnel)"),
        (["-o", "Tunnel=ethernet"], "-w (Tunnel)"),
    ],
)
def test_what_is_not_there_yet_is_refused_by_name(words: list[str], name: str) -> None:
    result = call("-o", "Transport=quic", *words, "127.0.0.1", "x")
    assert result.status == 255
    assert result.errors.startswith(name)
    assert result.errors.endswith("is not supported yet by sshoq\n")
    assert result.errors.count("\n") == 1


# --------------------------------------------------------------------------- the real ssh


@pytest.fixture
def fake_ssh(tmp_path: Path) -> dict[str, str]:
    """An ssh that says how it was called, and the environment to find it by."""
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\nprintf "[%s]" "$@"\nexit 42\n')
    program.chmod(0o755)
    link = tmp_path / "first" / "ssh"
    link.parent.mkdir()
    link.symlink_to(Path(sys.executable).parent / "sshoq")
    return {"PATH": f"{link.parent}:{tmp_path}:{os.environ['PATH']}"}


def test_transport_ssh_becomes_ssh(fake_ssh: dict[str, str]) -> None:
    words = ["-o", "Transport=ssh", "-4", "-p", "22", "me@host", "--", "-x"]
    result = call(*words, environ=fake_ssh)
    assert result.status == 42
    assert result.output == b"[-F][none][-4][-p][22][me@host][--][-x]"


def test_auto_falls_back_to_ssh_when_nobody_speaks_sshoq(fake_ssh: dict[str, str]) -> None:
    result = call("-p", str(unused_port()), "127.0.0.1", "x", environ=fake_ssh)
    assert (result.status, result.errors) == (42, "")


class Deaf:
    """A port where everything gets lost, and runs of the client that try it."""

    def __init__(self, sock: socket.socket, environ: dict[str, str]) -> None:
        self.place = f"127.0.0.1 port {sock.getsockname()[1]}"
        self.environ = environ
        self.socket = sock

    def call(self, *words: str) -> Result:
        port = str(self.socket.getsockname()[1])
        return call("-v", "-p", port, *words, "127.0.0.1", "x", environ=self.environ)

    def was_tried(self) -> bool:
        """Since this was asked before."""
        count = 0
        with suppress(BlockingIOError):
            while self.socket.recv(2048):
                count += 1
        return count > 0


@pytest.fixture
def deaf(fake_ssh: dict[str, str], tmp_path: Path) -> Iterator[Deaf]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield Deaf(sock, fake_ssh | {"XDG_CACHE_HOME": str(tmp_path / "cache")})


def test_a_silent_host_is_tried_once_and_then_left_to_ssh_for_a_while(deaf: Deaf) -> None:
    result = deaf.call()
    assert result.status == 42
    assert "debug1: left to ssh at once for the next 300 s\n" in result.errors
    assert deaf.was_tried()
    result = deaf.call()
    assert result.status == 42
    assert f"debug1: left to ssh: {deaf.place} did not answer by SSHOQ " in result.errors
    assert not deaf.was_tried()


def test_after_a_while_a_silent_host_is_tried_again_and_left_alone_for_longer(
    deaf: Deaf, tmp_path: Path
) -> None:
    deaf.call()
    path = tmp_path / "cache" / "sshoq" / "silent"
    *words, since = path.read_text().split()
    path.write_text("{}\n{} {} {} {}\n".format(*words, int(since) - 300))
    assert deaf.was_tried()
    assert "debug1: left to ssh at once for the next 1200 s\n" in deaf.call().errors
    assert deaf.was_tried()


@pytest.mark.parametrize("words", [["-o", "Transport=quic"], ["-o", "URLPath=/path"]])
def test_whoever_asks_for_sshoq_gets_it_and_has_it_tried_from_then_on(
    deaf: Deaf, words: list[str]
) -> None:
    deaf.call()
    result = deaf.call("-o", "ConnectTimeout=1", *words)
    assert result.errors.endswith("Connection timed out\n")
    assert deaf.was_tried()
    deaf.call()
    assert deaf.was_tried()


def test_a_host_that_answers_something_is_not_noted_as_silent(deaf: Deaf) -> None:
    """What comes back is no QUIC of ours, but somebody is there."""
    stop = threading.Event()

    def answer() -> None:
        while not stop.is_set():
            if select.select([deaf.socket], [], [], 0.05)[0]:
                _, whence = deaf.socket.recvfrom(2048)
                deaf.socket.sendto(b"whatever", whence)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        result = deaf.call()
    finally:
        stop.set()
        thread.join()
    assert result.status == 42
    assert f"debug1: no SSHOQ at {deaf.place}: Connection timed out\n" in result.errors
    assert "left to ssh at once" not in result.errors


def test_a_refusal_is_quick_and_not_noted(fake_ssh: dict[str, str], tmp_path: Path) -> None:
    environ = fake_ssh | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    call("-p", str(unused_port()), "127.0.0.1", "x", environ=environ)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["127.0.0.1/path"],
        ["-o", "URLPath=/path", "127.0.0.1"],
        ["-o", "Transport=quic", "127.0.0.1"],
    ],
)
def test_host_that_is_said_to_speak_sshoq_never_falls_back(
    fake_ssh: dict[str, str], words: list[str]
) -> None:
    result = call("-p", str(unused_port()), *words, "x", environ=fake_ssh)
    assert result.status == 255
    assert "Connection refused" in result.errors


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "ProxyCommand=nc -X 5 -x proxy %h %p", "name.invalid"],
        ["-w", "0:0", "name.invalid"],
        ["-F", "{hops}", "-J", "hop", "name.invalid"],
    ],
    ids=["proxy command", "tunnel", "proxy command of a jump host"],
)
def test_auto_leaves_what_only_ssh_can_do_to_ssh_at_once(
    fake_ssh: dict[str, str], tmp_path: Path, words: list[str]
) -> None:
    """Without looking up a name that may mean something to the proxy alone."""
    hops = tmp_path / "hops"
    hops.write_text("Host hop\n  HostName hop.invalid\n  ProxyCommand nc proxy 22\n")
    result = call(*(word.format(hops=hops) for word in words), "x", environ=fake_ssh)
    assert (result.status, result.errors) == (42, "")


def test_a_host_that_must_be_sshoq_takes_no_proxy_command(fake_ssh: dict[str, str]) -> None:
    words = ["-o", "Transport=quic", "-o", "ProxyCommand=nc %h %p", "127.0.0.1", "x"]
    line = "ProxyCommand carries bytes, and QUIC needs datagrams: use ProxyJump or Transport ssh\n"
    assert call(*words, environ=fake_ssh) == Result(255, b"", line)


def test_auto_leaves_to_ssh_what_is_not_there_yet(fake_ssh: dict[str, str]) -> None:
    port = unused_port()
    result = call("-p", str(port), "-D", "1080", "127.0.0.1", "x", environ=fake_ssh)
    assert result.status == 42
    assert b"[-D][1080]" in result.output


# --------------------------------------------------------------------------- somebody else


class WebServersAnswer(Response):
    """Of a server that knows nothing of us."""

    __slots__ = ()

    def fields(self, wall_clock: float) -> list[tuple[bytes, bytes]]:
        return [(b":status", b"%d" % self.status), (b"server", b"nginx/1.27")]


def hang_up(server: LittleServer) -> None:
    server.decide = lambda stream_id, request: server.conversation.close(0x10E)


def call_unknown(
    tmp_path: Path, environ: dict[str, str], answer: Response, extensions: Extension | None,
    prepare: Callable[[LittleServer], None] = lambda server: None,
) -> tuple[Result, LittleServer]:  # fmt: skip
    async def test() -> tuple[Result, LittleServer]:
        async with listening(lambda request: answer, extensions=extensions, prepare=prepare) as it:
            options = ["-v", "-oBatchMode=yes", f"-oUserKnownHostsFile={tmp_path}/known_hosts"]
            result = await run_client(
                *options, "-p", str(it.port), "me@127.0.0.1", "x",
                environ=environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
            )  # fmt: skip
        return result, it.server

    return asyncio.run(test())


@pytest.mark.parametrize("status", [200, 404, 405])
def test_a_web_server_is_left_to_ssh_and_told_nothing(
    fake_ssh: dict[str, str], tmp_path: Path, status: int
) -> None:
    """Nor is anybody asked about its key."""
    result, server = call_unknown(tmp_path, fake_ssh, WebServersAnswer(status), None)
    assert result.status == 42
    assert ": what answers there is no SSHOQ server\n" in result.errors
    assert "debug1: left to ssh at once for the next 300 s\n" in result.errors
    [request] = server.requests
    assert not request.user
    assert request.authorization is None


def test_a_web_server_that_hangs_up_is_left_to_ssh(
    fake_ssh: dict[str, str], tmp_path: Path
) -> None:
    result, _ = call_unknown(tmp_path, fake_ssh, NOT_FOUND, None, hang_up)
    assert result.status == 42


def test_a_go_server_is_not(fake_ssh: dict[str, str], tmp_path: Path) -> None:
    result, _ = call_unknown(tmp_path, fake_ssh, UNAUTHORIZED, None)
    assert result.status == 255
    assert "\nHost key verification failed.\n" in result.errors


def test_a_server_of_ours_with_nothing_at_the_path_is_left_to_ssh(
    fake_ssh: dict[str, str], tmp_path: Path
) -> None:
    words = ["-oStrictHostKeyChecking=no", f"-oUserKnownHostsFile={tmp_path}/known_hosts"]

    async def test() -> Result:
        async with listening(lambda request: NOT_FOUND) as it:
            environ = fake_ssh | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
            return await run_client(
                *words, "-p", str(it.port), "me@127.0.0.1", "x", environ=environ
            )

    assert asyncio.run(test()).status == 42


def test_whoever_asks_for_sshoq_hears_that_there_is_none(keys: list[str]) -> None:
    async def test() -> None:
        async with listening(lambda request: WebServersAnswer(404), extensions=None) as listener:
            result = await run_client(*to(listener, keys[0]), "x")
        assert result.status == 255
        assert "no SSHOQ server at path /secret (404)" in result.errors

    run(test())
