"""A server with several host keys, clients that know it by one, and keys that are revoked."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import Account, make_key
from tests.janitor import Janitor
from tests.programs import Client, Programs, Server
from tests.scenarios.conftest import ClientFactory, ServerFactory, server_factory

pytestmark = pytest.mark.privileged

KINDS = ("ed25519", "ecdsa", "rsa")


class ManyKeys:
    """A server that has a key of every kind."""

    def __init__(self, server: Server, keys: dict[str, Path]) -> None:
        self.server = server
        self.keys = keys

    def known_by(self, *kinds: str) -> str:
        place = f"[{self.server.host}]:{self.server.port}"
        return "".join(f"{place} {Path(f'{self.keys[kind]}.pub').read_text()}" for kind in kinds)


@pytest.fixture(scope="module")
def many_keys(programs: Programs, janitor: Janitor) -> Iterator[ManyKeys]:
    folder = janitor.directory()
    keys = {kind: make_key(folder / kind, kind) for kind in KINDS}
    settings = [f"HostKey {path}" for path in keys.values()]
    for start in server_factory(janitor):
        yield ManyKeys(start(programs, settings), keys)


@pytest.fixture
def client(connect: ClientFactory, many_keys: ManyKeys, account: Account) -> Client:
    return connect(many_keys.server, account)


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_known_by_one_key_alone_asks_nothing(
    client: Client, many_keys: ManyKeys, kind: str
) -> None:
    client.known_hosts.write_text(many_keys.known_by(kind))
    assert client.output("echo in") == b"in\n"
    assert client.run("true").stderr == b""


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_hashed_is_found_all_the_same(
    client: Client, many_keys: ManyKeys, kind: str
) -> None:
    client.known_hosts.write_text(many_keys.known_by(kind))
    command = ["ssh-keygen", "-q", "-H", "-f", str(client.known_hosts)]
    subprocess.run(command, check=True, capture_output=True)
    assert "|1|" in client.known_hosts.read_text()
    assert client.output("echo in") == b"in\n"


def test_a_key_of_the_recorded_kind_that_is_another_is_an_alarm(
    client: Client, many_keys: ManyKeys, tmp_path: Path
) -> None:
    other = Path(f"{make_key(tmp_path / 'other', 'ecdsa')}.pub").read_text()
    place = f"[{many_keys.server.host}]:{many_keys.server.port}"
    client.known_hosts.write_text(f"{place} {other}")
    done = client.run("true")
    assert done.returncode == 255
    assert b"REMOTE HOST IDENTIFICATION HAS CHANGED!" in done.stderr
    assert b"ECDSA" in done.stderr


def test_a_stranger_is_shown_the_ed25519_key(client: Client) -> None:
    client.known_hosts.write_text("")
    done = client.run("true", flags=["-o", "StrictHostKeyChecking=accept-new"])
    assert done.returncode == 0
    assert b"(ED25519)" in done.stderr


@pytest.mark.parametrize(
    ("algorithms", "name"), [("rsa-sha2-512", b"(RSA)"), ("ecdsa-sha2-nistp256", b"(ECDSA)")]
)
def test_the_user_may_say_which_key_to_ask_for(
    client: Client, algorithms: str, name: bytes
) -> None:
    client.known_hosts.write_text("")
    flags = ["-o", "StrictHostKeyChecking=accept-new", "-o", f"HostKeyAlgorithms={algorithms}"]
    done = client.run("true", flags=flags)
    assert done.returncode == 0, done.stderr
    assert name in done.stderr


def test_a_kind_that_the_server_does_not_have_is_refused(client: Client) -> None:
    done = client.run("true", flags=["-o", "HostKeyAlgorithms=ecdsa-sha2-nistp521"])
    assert done.returncode == 255
    assert b"no matching host key type found" in done.stderr


def test_a_host_key_on_a_revocation_list_is_refused(
    client: Client, many_keys: ManyKeys, tmp_path: Path
) -> None:
    krl = tmp_path / "krl"
    command = ["ssh-keygen", "-q", "-k", "-f", str(krl), f"{many_keys.keys['rsa']}.pub"]
    subprocess.run(command, check=True)
    flags = ["-o", f"RevokedHostKeys={krl}"]
    client.known_hosts.write_text(many_keys.known_by("rsa"))
    done = client.run("true", flags=flags)
    assert done.returncode == 255
    assert b"revoked by file" in done.stderr
    client.known_hosts.write_text(many_keys.known_by("ecdsa"))
    assert client.run("true", flags=flags).returncode == 0


def test_a_revoked_user_key_is_refused_and_so_is_every_key_without_the_list(
    programs: Programs,
    start_server: ServerFactory,
    connect: ClientFactory,
    fresh_account: Account,
    tmp_path: Path,
) -> None:
    other = make_key(tmp_path / "other")
    public = Path(f"{other}.pub")
    content = f"{fresh_account.public_key}\n{public.read_text()}"
    fresh_account.write(".ssh/authorized_keys", content)
    krl = tmp_path / "krl"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", str(krl), str(public)], check=True)
    server = start_server(programs, [f"RevokedKeys {krl}"])
    assert connect(server, fresh_account, key=other).run("true").returncode == 255
    assert f"revoked by file {krl}" in server.log()
    assert connect(server, fresh_account).run("true").returncode == 0
    krl.unlink()
    done = connect(server, fresh_account).run("true")
    assert done.returncode == 255
    assert b"Permission denied (publickey" in done.stderr
    assert f"in revoked keys file {krl}: No such file or directory" in server.log()
