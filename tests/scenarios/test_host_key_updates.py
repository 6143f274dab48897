"""UpdateHostKeys: what becomes of known_hosts after a login, with OpenSSH's pair and with ours."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accounts import Account, make_key
from tests.janitor import Janitor
from tests.programs import Client, Programs, Server
from tests.scenarios.conftest import ClientFactory, server_factory
from tests.terminal import Terminal

pytestmark = pytest.mark.privileged

SHOWN = ("ed25519", "ecdsa", "rsa")
NEXT = "next"
"""An Ed25519 key that the server has, but does not show, since it is the second of its kind."""


class Rotating:
    """A server in the middle of a change of keys, and keys that it no longer has."""

    def __init__(self, server: Server, keys: dict[str, Path]) -> None:
        self.server = server
        self.keys = keys

    @property
    def place(self) -> str:
        return f"[{self.server.host}]:{self.server.port}"

    def line(self, name: str, hosts: str = "") -> str:
        kind, key = Path(f"{self.keys[name]}.pub").read_text().split()[:2]
        return f"{hosts or self.place} {kind} {key}\n"


@pytest.fixture(scope="module")
def rotating(programs: Programs, janitor: Janitor) -> Iterator[Rotating]:
    folder = janitor.directory()
    keys = {kind: make_key(folder / kind, kind) for kind in SHOWN}
    keys |= {name: make_key(folder / name) for name in ("gone", "stranger")}
    for start in server_factory(janitor):
        server = start(programs, [f"HostKey {keys[name]}" for name in SHOWN])
        yield Rotating(server, keys | {NEXT: server.directory / "host_key"})


@pytest.fixture
def client(connect: ClientFactory, rotating: Rotating, account: Account) -> Client:
    made = connect(rotating.server, account)
    made.more_options = ["-o", "UpdateHostKeys=yes"]
    return made


def held(client: Client, rotating: Rotating, file: Path | None = None) -> set[str]:
    """The names of the keys that the file has for the server."""
    lines = (file or client.known_hosts).read_text().splitlines()
    keys = {line.split()[2] for line in lines if line.split()[0] == rotating.place}
    return {name for name in rotating.keys if rotating.line(name).split()[2] in keys}


def log_in(client: Client, *flags: str) -> str:
    """What the client says of it."""
    done = client.run("true", flags=["-v", *flags])
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


def test_other_keys_of_a_known_host_are_learnt(client: Client, rotating: Rotating) -> None:
    client.known_hosts.write_text(rotating.line("ecdsa"))
    told = log_in(client)
    assert held(client, rotating) == {*SHOWN, NEXT}
    assert told.count("Learned new hostkey: ") == 3
    assert "Learned new hostkey: RSA SHA256:" in told
    again = log_in(client)
    assert "Learned new hostkey" not in again


def test_a_key_that_the_host_no_longer_has_is_forgotten(
    client: Client, rotating: Rotating
) -> None:
    client.known_hosts.write_text(rotating.line("gone") + rotating.line("rsa"))
    told = log_in(client, "-o", "HostKeyAlgorithms=rsa-sha2-512,ssh-ed25519,ecdsa-sha2-nistp256")
    assert held(client, rotating) == {*SHOWN, NEXT}
    assert "Deprecating obsolete hostkey: ED25519 SHA256:" in told


def test_names_are_hashed_if_that_is_wished_for(client: Client, rotating: Rotating) -> None:
    client.known_hosts.write_text(rotating.line("rsa"))
    log_in(client, "-o", "HashKnownHosts=yes")
    lines = client.known_hosts.read_text().splitlines()
    assert lines[0] == rotating.line("rsa").strip()
    assert [line[:3] for line in lines[1:]] == ["|1|"] * 3
    found = subprocess.run(
        ["ssh-keygen", "-F", rotating.place, "-f", str(client.known_hosts)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.count("found") == 4


def test_a_hashed_line_is_recognised_and_removed(client: Client, rotating: Rotating) -> None:
    client.known_hosts.write_text(rotating.line("gone") + rotating.line("ecdsa"))
    command = ["ssh-keygen", "-q", "-H", "-f", str(client.known_hosts)]
    subprocess.run(command, check=True, capture_output=True)
    log_in(client, "-o", "HostKeyAlgorithms=ecdsa-sha2-nistp256,ssh-ed25519,rsa-sha2-512")
    text = client.known_hosts.read_text()
    assert rotating.line("gone").split()[2] not in text
    assert text.count("|1|") == 1
    assert held(client, rotating) == {"ed25519", "rsa", NEXT}


def test_what_is_recorded_of_other_hosts_stays(client: Client, rotating: Rotating) -> None:
    others = rotating.line("stranger", "other.example") + "# mine\nnonsense\n"
    client.known_hosts.write_text(others + rotating.line("rsa"))
    log_in(client)
    assert client.known_hosts.read_text().startswith(others)
    assert held(client, rotating) == {*SHOWN, NEXT}


@pytest.mark.parametrize(
    "obstacle",
    [
        lambda rotating: rotating.line("ecdsa", "other.example"),
        lambda rotating: rotating.line(NEXT, "@revoked other.example"),
        lambda rotating: rotating.line("stranger", f"@cert-authority {rotating.place}"),
        lambda rotating: rotating.line("rsa", f"{rotating.place},one.example,two.example"),
        lambda rotating: rotating.line("rsa", f"{rotating.place.replace('127', '*')}"),
        lambda rotating: rotating.line("gone") + rotating.line("gone", "other.example"),
    ],
    ids=["another name", "revoked there", "authority", "long list", "pattern", "old elsewhere"],
)
def test_nothing_changes_where_a_change_could_mean_more(
    client: Client, rotating: Rotating, obstacle: Callable[[Rotating], str]
) -> None:
    before = rotating.line("rsa") + obstacle(rotating)
    client.known_hosts.write_text(before)
    told = log_in(client, "-o", "HostKeyAlgorithms=rsa-sha2-512,ssh-ed25519,ecdsa-sha2-nistp256")
    assert "skipping UserKnownHostsFile update" in told
    assert client.known_hosts.read_text() == before


@pytest.mark.parametrize("flag", ["UpdateHostKeys=no", "UpdateHostKeys=ask"])
def test_nobody_learns_who_does_not_want_to_or_cannot_be_asked(
    client: Client, rotating: Rotating, flag: str
) -> None:
    client.known_hosts.write_text(rotating.line("rsa"))
    log_in(client, "-o", flag)
    assert held(client, rotating) == {"rsa"}


def test_a_host_that_the_system_vouches_for_is_not_written_down(
    client: Client, rotating: Rotating, tmp_path: Path
) -> None:
    everybody = tmp_path / "global"
    everybody.write_text(rotating.line("rsa"))
    client.known_hosts.write_text("")
    log_in(client, "-o", f"GlobalKnownHostsFile={everybody}")
    assert client.known_hosts.read_text() == ""
    assert everybody.read_text() == rotating.line("rsa")


def test_a_host_that_ssh_knows_on_its_own_port_is_not_written_down(
    client: Client, rotating: Rotating
) -> None:
    """The key vouches for it, but the entry is another's."""
    before = rotating.line("ed25519", rotating.server.host)
    client.known_hosts.write_text(before)
    log_in(client)
    assert client.known_hosts.read_text() == before


def test_a_stranger_that_is_let_pass_is_not_learnt_from_yet(
    client: Client, rotating: Rotating
) -> None:
    client.known_hosts.write_text("")
    log_in(client, "-o", "StrictHostKeyChecking=accept-new")
    assert held(client, rotating) == {"ed25519"}
    log_in(client)
    assert held(client, rotating) == {*SHOWN, NEXT}


def test_further_files_lose_what_they_have_of_the_host(
    client: Client, rotating: Rotating, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.write_text(rotating.line("ecdsa") + rotating.line("stranger", "other.example"))
    client.known_hosts.write_text(rotating.line("rsa"))
    log_in(client, "-o", f"UserKnownHostsFile={client.known_hosts} {second}")
    assert held(client, rotating) == {*SHOWN, NEXT}
    assert second.read_text() == rotating.line("stranger", "other.example")


def test_a_name_with_its_address_is_taken_apart(client: Client, rotating: Rotating) -> None:
    """Such lines are from when CheckHostIP was the default."""
    line = rotating.line("gone", f"{rotating.place},192.0.2.7") + rotating.line("rsa")
    client.known_hosts.write_text(line)
    log_in(client, "-o", "HostKeyAlgorithms=rsa-sha2-512,ssh-ed25519,ecdsa-sha2-nistp256")
    assert held(client, rotating) == {*SHOWN, NEXT}
    assert "192.0.2.7" not in client.known_hosts.read_text()


def test_an_alias_is_the_name_that_counts(client: Client, rotating: Rotating) -> None:
    client.known_hosts.write_text(rotating.line("rsa", "alias"))
    log_in(client, "-o", "HostKeyAlias=alias")
    lines = client.known_hosts.read_text().splitlines()
    assert len(lines) == 4
    assert {line.split()[0] for line in lines} == {"alias"}


@pytest.fixture
def ask(
    client: Client, rotating: Rotating, open_terminal: Callable[..., Terminal]
) -> Callable[..., Terminal]:
    def start(*flags: str) -> Terminal:
        client.known_hosts.write_text(rotating.line("rsa"))
        client.more_options = ["-o", "UpdateHostKeys=ask", *flags]
        return open_terminal(client)

    return start


def test_whoever_wants_to_be_asked_says_yes(
    ask: Callable[..., Terminal], client: Client, rotating: Rotating
) -> None:
    terminal = ask()
    terminal.expect("Learned new hostkey: ED25519 SHA256:")
    terminal.expect(r"Accept updated hostkeys\? \(yes/no\): ")
    terminal.send("perhaps\r")
    terminal.expect('Please enter "yes" or "no"')
    terminal.expect(r"Accept updated hostkeys\? \(yes/no\): ")
    terminal.send("yes\r")
    terminal.expect(r"\$ $")
    terminal.send("echo we are $((40 + 2)); exit\r")
    terminal.expect("we are 42")
    assert terminal.wait() == 0
    assert held(client, rotating) == {*SHOWN, NEXT}


def test_or_says_no(ask: Callable[..., Terminal], client: Client, rotating: Rotating) -> None:
    terminal = ask()
    terminal.expect(r"Accept updated hostkeys\? \(yes/no\): ")
    terminal.send("no\r")
    terminal.expect(r"\$ $")
    terminal.send("echo we are $((40 + 2)); exit\r")
    terminal.expect("we are 42")
    assert terminal.wait() == 0
    assert held(client, rotating) == {"rsa"}


def test_keys_of_kinds_that_are_not_accepted_are_as_good_as_gone(
    client: Client, rotating: Rotating
) -> None:
    client.known_hosts.write_text(rotating.line("rsa") + rotating.line("ecdsa"))
    log_in(client, "-o", "HostKeyAlgorithms=rsa-sha2-512,ssh-ed25519")
    assert held(client, rotating) == {"rsa", "ed25519", NEXT}
