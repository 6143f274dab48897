"""The command lines of the Go programs, as their users have them in scripts and units."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.accounts import Account, make_key
from tests.programs import URL_PATH, Client, Server, Sshoq, find_program
from tests.scenarios.conftest import ServerFactory

pytestmark = pytest.mark.privileged


class GoStyle(Sshoq):
    """Ours, told everything by Go's flags; the certificate is made at the first start."""

    def server_command(self, config: Path, service: str | None, directory: Path) -> list[str]:
        settings = dict(line.split(None, 1) for line in config.read_text().splitlines())
        bind = f"{settings['ListenAddress']}:{settings['Port']}"
        return [
            find_program("sshoq-server"),
            *("-bind", bind, "-url-path", URL_PATH, "-generate-selfsigned-cert", "-v"),
            *("-cert", str(directory / "cert.pem"), "-key", str(directory / "priv.key")),
        ]


@pytest.fixture
def server(sshoq: Sshoq, start_server: ServerFactory) -> Server:
    return start_server(GoStyle())


def go_command(server: Server, user: Account, *words: str, flags: tuple[str, ...]) -> list[str]:
    destination = f"{user.name}@{server.host}:{server.port}{URL_PATH}"
    return [find_program("sshoq"), *flags, "-i", str(user.key), destination, *words]


@pytest.fixture
def run(server: Server, account: Account, tmp_path: Path) -> Client:
    """A client whose command line is Go's."""

    class GoClient(Client):
        def command(self, *words: str, flags: object = ()) -> list[str]:
            assert isinstance(flags, (list, tuple))
            chosen = tuple(flag for flag in flags if flag not in ("-o", "BatchMode=yes"))
            return go_command(server, account, *words, flags=("-insecure", *chosen))

    return GoClient(server, account.name, account.key, tmp_path)


def test_a_command_runs(run: Client) -> None:
    assert run.output("echo", "hello") == b"hello\n"


def test_the_exit_status_comes_back(run: Client) -> None:
    assert run.run("exit 7").returncode == 7


def test_without_insecure_and_entry_the_server_is_not_trusted(
    server: Server, account: Account, run: Client
) -> None:
    done = subprocess.run(
        go_command(server, account, "true", flags=()),
        env=run.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        start_new_session=True,
    )
    assert done.returncode == 255


def test_a_destination_may_be_a_url(run: Client, server: Server, account: Account) -> None:
    command = go_command(server, account, "echo", "in", flags=("-insecure",))
    command[-3] = f"https://{command[-3]}"
    done = subprocess.run(command, env=run.environment(), capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr


def test_two_dashes_are_as_good_as_one(run: Client, server: Server, account: Account) -> None:
    command = go_command(server, account, "echo", "in", flags=("--insecure",))
    done = subprocess.run(command, env=run.environment(), capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr


def test_a_wrong_key_is_255(run: Client, server: Server, account: Account, tmp_path: Path) -> None:
    other = account._replace(key=make_key(tmp_path / "other"))
    command = go_command(server, other, "true", flags=("-insecure",))
    done = subprocess.run(
        command, env=run.environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=30
    )
    assert done.returncode == 255
