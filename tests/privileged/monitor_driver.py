"""The other side of a monitor and its leader: speaks to them as the network process and main do."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self, TypeVar

from sshoq.auth.private_keys import load_private_key
from sshoq.auth.token import build_token
from sshoq.server.privsep import (
    FROM_LEADER,
    FROM_MONITOR,
    MONITOR_TO_MAIN,
    NOTHING,
    TO_LEADER,
    TO_MONITOR,
    AddressValidated,
    AllocatePty,
    Authenticate,
    AuthenticationResult,
    LoginOpened,
    ProgramExited,
    ProgramStarted,
    PtyAllocated,
    StartProgram,
    Welcome,
)
from sshoq.server.privsep_socket import PeerGone, PrivsepSocket, close_all, make_pair
from sshoq.wire import Message
from tests.accounts import Account, make_key
from tests.processes import Process, descendants, is_running, read_process, wait_until

PATIENCE = 30.0
CONVERSATION_ID = bytes(range(32))

SomeMessage = TypeVar("SomeMessage", bound=Message)


class Monitor:
    """A running monitor. Everything received is awaited with a limit."""

    def __init__(
        self,
        directory: Path,
        *lines: str,
        pam_service: str | None = None,
        trailer: str = "",
        wrapper: tuple[str, ...] = (),
        user: str = "",
        validated: bool = True,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log_file = directory / "log"
        config = directory / "config"
        settings = [*lines, "LogLevel DEBUG2", "UsePAM no"]  # the first value counts
        if pam_service is not None:
            settings.insert(0, f"PAMServiceName {pam_service}\nUsePAM yes")
        config.write_text("\n".join([*settings, trailer]) + "\n")
        key = directory / "host_key"
        if not key.exists():
            make_key(key)
        network, monitor_network = make_pair()
        main, monitor_main = make_pair()
        numbers = [monitor_network.fileno(), monitor_main.fileno()]
        command = [sys.executable, "-m", "tests.privileged.monitor_process"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*wrapper, *command, str(config), str(key), user, *map(str, numbers)],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )
        monitor_network.close()
        monitor_main.close()
        self.network = PrivsepSocket(network, TO_MONITOR, FROM_MONITOR)
        self.main = PrivsepSocket(main, NOTHING, MONITOR_TO_MAIN)
        self.welcome = self.expect(Welcome)
        if validated:
            self.network.send(AddressValidated())
        self._leader: PrivsepSocket | None = None
        self._sessions = 0
        self._programs: list[Program] = []

    # ------------------------------------------------------------------ login

    def expect(self, kind: type[SomeMessage], end: PrivsepSocket | None = None) -> SomeMessage:
        try:
            message, descriptors = receive(end or self.network)
        except PeerGone as error:
            raise PeerGone(f"{error}; its log: {self.log}") from None
        close_all(descriptors)
        assert isinstance(message, kind), message
        return message

    def try_header(
        self, user: str, header: str, conversation: bytes = CONVERSATION_ID
    ) -> AuthenticationResult:
        self.network.send(Authenticate(user, header.encode(), conversation))
        return self.expect(AuthenticationResult)

    def try_key(self, user: str, key: Path) -> AuthenticationResult:
        return self.try_header(user, f"Bearer {token_for(user, key)}")

    def try_password(self, user: str, password: str) -> AuthenticationResult:
        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        return self.try_header(user, f"Basic {secret}")

    def open_login(self) -> LoginOpened:
        message, descriptors = receive(self.network)
        assert isinstance(message, LoginOpened), message
        [descriptor] = descriptors
        self._leader = PrivsepSocket(socket.socket(fileno=descriptor), TO_LEADER, FROM_LEADER)
        return message

    def log_in(self, account: Account) -> LoginOpened:
        result = self.try_key(account.name, account.key)
        assert result.outcome == AuthenticationResult.ACCEPTED, self.log
        return self.open_login()

    @property
    def leader(self) -> PrivsepSocket:
        assert self._leader is not None
        return self._leader

    # ------------------------------------------------------------------ programs

    def start(
        self,
        command: str | None,
        *,
        kind: int | None = None,
        environment: tuple[bytes, ...] = (),
        session: int | None = None,
    ) -> Program:
        if session is None:
            session = self.next_session()
        if kind is None:
            kind = StartProgram.SHELL if command is None else StartProgram.EXEC
        self.leader.send(StartProgram(session, kind, (command or "").encode(), environment))
        message, descriptors = receive(self.leader)
        assert isinstance(message, ProgramStarted), (message, self.log)
        program = Program(self, session, descriptors)
        self._programs.append(program)
        return program

    def start_on_pty(self, command: str | None, **named: object) -> Program:
        session = self.next_session()
        self.leader.send(AllocatePty(session, "vt220", 91, 37, 0, 0, b""))
        message, descriptors = receive(self.leader)
        assert isinstance(message, PtyAllocated), (message, self.log)
        program = self.start(command, session=session, **named)  # type: ignore[arg-type]
        program.descriptors = descriptors
        return program

    def run(self, command: str, **named: object) -> tuple[str, str, int]:
        """Output, errors and exit status of a command without input."""
        program = self.start(command, **named)  # type: ignore[arg-type]
        return program.finish()

    def next_session(self) -> int:
        self._sessions += 1
        return self._sessions

    # ------------------------------------------------------------------ the end

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def family(self) -> list[Process]:
        """The monitor and everything below it."""
        own = read_process(self.process.pid)
        return ([own] if own else []) + descendants(self.process.pid)

    def leader_process(self) -> Process:
        children = [one for one in descendants(self.process.pid) if one.name == "sshoq-leader"]
        return children[0]

    def hang_up(self) -> None:
        """What the kernel does when the network process ends."""
        self.network.close()
        for program in self._programs:
            program.close()
        if self._leader is not None:
            self._leader.close()

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def messages_to_main(self) -> Iterator[Message]:
        with contextlib.suppress(PeerGone):
            while True:
                yield receive(self.main)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        family = self.family()
        self.hang_up()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.main.close()
        wait_until(lambda: not any(map(is_running, family)), PATIENCE, f"{family} are gone")


class Program:
    """A started program and its descriptors: stdin, stdout, stderr, or a pty's master side."""

    def __init__(self, monitor: Monitor, session: int, descriptors: list[int]) -> None:
        self.monitor = monitor
        self.session = session
        self.descriptors = descriptors

    def wait(self) -> ProgramExited:
        exited = self.monitor.expect(ProgramExited, self.monitor.leader)
        assert exited.session == self.session
        return exited

    def finish(self) -> tuple[str, str, int]:
        os.close(self.descriptors.pop(0))
        out, err = (read_all(self.descriptors.pop(0)) for _ in range(2))
        return out, err, self.wait().status

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())

    def read_terminal(self) -> str:
        """All that the terminal shows until its last program is gone."""
        return read_all(self.descriptors.pop())

    def read_until(self, text: str) -> str:
        seen = b""
        deadline = time.monotonic() + PATIENCE
        while text.encode() not in seen:
            ready, _, _ = select.select(
                self.descriptors[:1], [], [], max(0.0, deadline - time.monotonic())
            )
            assert ready, f"{text!r} has not come; {seen!r}"
            seen += os.read(self.descriptors[0], 65536)
        return seen.decode(errors="replace")


def open_to_users(directory: Path) -> None:
    """pytest's folders are root's alone; what a user is to read below one must be reachable."""
    for part in (directory, *directory.parents):
        if part == Path(tempfile.gettempdir()):
            break
        part.chmod(0o755)


def token_for(user: str, key: Path, conversation: bytes = CONVERSATION_ID) -> str:
    return build_token(user, conversation, load_private_key(str(key)), time.time())


def receive(end: PrivsepSocket) -> tuple[Message, list[int]]:
    assert select.select([end], [], [], PATIENCE)[0], "no message"
    return end.receive()


def read_all(descriptor: int) -> str:
    """Until the end; a pty's end is an error, EIO."""
    parts = []
    with contextlib.suppress(OSError):
        while select.select([descriptor], [], [], PATIENCE)[0]:
            part = os.read(descriptor, 65536)
            if not part:
                break
            parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode(errors="replace")
