"""ChannelTimeout and UnusedConnectionTimeout in the server's configuration, with both pairs of
programs.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.accounts import Account
from tests.processes import wait_until
from tests.programs import Client, Programs
from tests.scenarios.conftest import ClientFactory, ServerFactory

pytestmark = pytest.mark.privileged

PATIENCE = 60


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, list[str]]:
    """Status and what was said on standard error."""
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said.decode().replace("\r\n", "\n").splitlines()


@pytest.fixture
def timing_out(
    sshoq: Programs, start_server: ServerFactory, account: Account, connect: ClientFactory
) -> Client:
    """Ours alone: sshd 9.2 closes what has not been used yet at once, and heeds no Match here."""
    settings = [
        f"Match User {account.name}",
        "ChannelTimeout session:command=1 session:subsystem:*=2",
    ]
    return connect(start_server(sshoq, settings), account)


def test_an_idle_command_is_closed(
    programs: Programs, start_server: ServerFactory, account: Account, connect: ClientFactory
) -> None:
    server = start_server(programs, ["ChannelTimeout session:command=1"])
    assert end_of(connect(server, account).start("exec sleep 5")) == (255, [])


def test_what_a_closed_command_ran_is_hung_up(timing_out: Client) -> None:
    """sshd leaves it alone."""
    assert end_of(timing_out.start("exec sleep 987")) == (255, [])
    names = ("sleep", "sshoq-leader")
    server = timing_out.server
    wait_until(
        lambda: not [one for one in server.family() if one.name in names], PATIENCE, "all gone"
    )


def test_a_busy_command_goes_on(timing_out: Client) -> None:
    """Longer than its timeout, with a word more often than that."""
    busy = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i >&2; sleep .25; done"
    done = timing_out.run(busy)
    assert (done.returncode, done.stderr.split()[-1]) == (0, b"10")


def test_a_shell_is_none_of_these(timing_out: Client) -> None:
    done = timing_out.run(input=b"sleep 3; echo in\n")
    assert (done.returncode, done.stdout) == (0, b"in\n")


@pytest.mark.parametrize("forwarding", [[], ["-R", "0:127.0.0.1:9"]])
def test_a_connection_without_channels_ends(
    programs: Programs,
    start_server: ServerFactory,
    account: Account,
    connect: ClientFactory,
    forwarding: list[str],
) -> None:
    """A listener is no channel."""
    server = start_server(programs, ["UnusedConnectionTimeout 1"])
    client = connect(server, account)
    status, said = end_of(client.start(flags=["-N", *forwarding]))
    assert (status, said[-1]) == (255, "Connection to 127.0.0.1 closed by remote host.")
    line = f"terminating inactive connection from user {account.name} 127.0.0.1 port "
    wait_until(lambda: line in server.log(), PATIENCE, "word of it in the log")


def test_a_connection_with_a_channel_goes_on(
    programs: Programs, start_server: ServerFactory, account: Account, connect: ClientFactory
) -> None:
    client = connect(start_server(programs, ["UnusedConnectionTimeout 1"]), account)
    assert client.output("sleep 3; echo in") == b"in\n"
