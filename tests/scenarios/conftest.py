"""Fixtures of the scenarios: servers and clients of both pairs of programs.

A scenario that asks for `programs` runs twice, with OpenSSH's own pair and with ours, so that its
expectation is OpenSSH's behaviour and not our memory of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.accounts import Account, PamService
from tests.echo import Echo, EchoServer, serving
from tests.janitor import Janitor
from tests.needs import give_up, need_root
from tests.programs import (
    PROGRAMS,
    Client,
    OpenSSH,
    ProgramMissing,
    Programs,
    Server,
    Sshoq,
)
from tests.terminal import Terminal

ServerFactory = Callable[..., Server]
ClientFactory = Callable[..., Client]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.scenario)


@pytest.fixture(scope="session", params=sorted(PROGRAMS))
def programs(request: pytest.FixtureRequest) -> Programs:
    return usable(PROGRAMS[request.param])


@pytest.fixture(scope="session")
def sshoq() -> Sshoq:
    """Ours alone, for what OpenSSH has no counterpart to."""
    programs = usable(PROGRAMS["sshoq"])
    assert isinstance(programs, Sshoq)
    return programs


@pytest.fixture(scope="session")
def openssh() -> OpenSSH:
    programs = usable(PROGRAMS["openssh"])
    assert isinstance(programs, OpenSSH)
    return programs


def usable(programs: Programs) -> Programs:
    try:
        programs.client()
    except ProgramMissing as reason:
        give_up(str(reason))
    return programs


@pytest.fixture
def start_server(janitor: Janitor) -> Iterator[ServerFactory]:
    """Starts servers with settings of the test's own, and ends them after it."""
    yield from server_factory(janitor)


def server_factory(janitor: Janitor) -> Iterator[ServerFactory]:
    servers: list[Server] = []

    def start(
        programs: Programs,
        settings: Iterable[str] = (),
        *,
        pam: PamService | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        owner: tuple[int, int] | None = None,
    ) -> Server:
        need_root()
        directory = janitor.directory()
        service = pam.name if pam else None
        server = Server(
            programs,
            janitor,
            directory,
            settings,
            service=service,
            host=host,
            prefix=prefix,
            owner=owner,
        )
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def server(programs: Programs, janitor: Janitor) -> Iterator[Server]:
    """A server with default settings that the scenarios of a file share."""
    for start in server_factory(janitor):
        yield start(
            programs,
            ["AcceptEnv LANG LC_* SCENARIO_*", "Subsystem sftp /usr/lib/openssh/sftp-server"],
        )


@pytest.fixture
def connect(tmp_path: Path) -> ClientFactory:
    """A client for a server and an account; with its own home, and known_hosts that vouch for the
    server."""

    def make(
        server: Server, account: Account, *, user: str = "", key: Path | None = None
    ) -> Client:
        return Client(server, user or account.name, key or account.key, tmp_path)

    return make


@pytest.fixture
def client(connect: ClientFactory, server: Server, account: Account) -> Client:
    """The shared account at the shared server: enough for most scenarios."""
    return connect(server, account)


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    """Runs a client in a terminal of its own; ended after the test."""
    terminals: list[Terminal] = []

    def start(
        client: Client,
        *words: str,
        flags: tuple[str, ...] = ("-tt",),
        rows: int = 24,
        columns: int = 80,
    ) -> Terminal:
        command = client.command(*words, flags=flags)
        terminals.append(Terminal(command, client.environment(), rows, columns))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.__exit__(None, None, None)


@pytest.fixture
def echo_port() -> Iterator[int]:
    server = EchoServer(("127.0.0.1", 0), Echo)
    with serving(server):
        yield server.server_address[1]
