"""Keys that no file holds: on a smart card, by -I and PKCS11Provider, and on a FIDO token, by the
file that names it. Software plays card and token.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.accounts import Account, make_key
from tests.needs import give_up, need_tools
from tests.processes import processes_with, wait_until
from tests.programs import Client, Programs, Server
from tests.scenarios.conftest import ClientFactory, ServerFactory
from tests.terminal import Terminal
from tests.token_library import build_token, make_token_key

pytestmark = pytest.mark.privileged

PIN, WRONG_PIN = "1234", "4321"
LIBRARIES = [
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
]
MARK = "SSHOQ_TEST_HARDWARE"


class Desk(NamedTuple):
    """Where somebody sits who has hardware: what the client is started with, and who answers it."""

    client: Client
    folder: Path
    more: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return {**self.client.environment(), **self.more, MARK: str(self.folder)}

    def run(self, *flags: str, answer: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = self.environment
        if answer is not None:
            environment |= self._asking(answer)
        return subprocess.run(
            self.client.command("echo", "in", flags=flags),
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    def _asking(self, answer: str) -> dict[str, str]:
        program = self.folder / "askpass"
        program.write_text(f'#!/bin/sh\necho "$1" >> {self.folder}/prompts\necho {answer}\n')
        program.chmod(0o755)
        return {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}

    @property
    def prompts(self) -> list[str]:
        return (self.folder / "prompts").read_text().splitlines()

    def is_tidy(self) -> bool:
        """Nothing is left of what was started for the login."""
        return not processes_with(MARK, str(self.folder))


@pytest.fixture
def keyless(server: Server, connect: ClientFactory, account: Account) -> Client:
    client = connect(server, account)
    client.key = None
    client.more_options = ["-o", "PreferredAuthentications=publickey"]
    return client


@pytest.fixture
def admitted(account: Account) -> Iterator[Path]:
    """Whose keys get in; as it was afterwards."""
    path = account.home / ".ssh/authorized_keys"
    before = path.read_text()
    yield path
    path.write_text(before)


def admit(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line.strip()}\n")


# --------------------------------------------------------------------------- a card


@pytest.fixture
def library() -> str:
    need_tools("softhsm2-util", "pkcs11-tool")
    found = next((path for path in LIBRARIES if path.exists()), None)
    return str(found) if found else give_up("needs SoftHSM's library")


@pytest.fixture
def card(library: str, keyless: Client, admitted: Path, tmp_path: Path) -> Desk:
    """A card with one key, which opens the account."""
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    more = {"SOFTHSM2_CONF": str(config)}

    def call(*words: str) -> str:
        environment = {**os.environ, **more}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    pins = ["--pin", PIN, "--so-pin", "12345678"]
    call("softhsm2-util", "--init-token", "--free", "--label", "card", *pins)
    login = ["--token-label", "card", "--login", "--pin", PIN]
    made = ["--keypairgen", "--key-type", "EC:prime256v1", "--label", "mine", "--id", "01"]
    call("pkcs11-tool", "--module", library, *login, *made)
    admit(admitted, call("ssh-keygen", "-D", library))
    return Desk(keyless, tmp_path, more)


@pytest.mark.parametrize("way", ["flag", "keyword"])
def test_a_key_on_a_card_opens_with_its_pin(
    card: Desk, programs: Programs, library: str, way: str
) -> None:
    flags = ["-I", library] if way == "flag" else ["-o", f"PKCS11Provider={library}"]
    done = card.run(*flags, answer=PIN)
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr
    [prompt] = card.prompts
    # ssh knows what the card is called; an agent does not tell.
    called = "card" if programs.name == "openssh" else library
    assert prompt == f"Enter PIN for '{called}': "
    wait_until(card.is_tidy, 20, "nothing is left of it")


def test_a_wrong_pin_is_not_tried_again(card: Desk, library: str) -> None:
    """A few of them lock a card."""
    done = card.run("-I", library, answer=WRONG_PIN)
    assert done.returncode == 255
    assert "Permission denied" in done.stderr
    assert len(card.prompts) == 1
    wait_until(card.is_tidy, 20, "nothing is left of it")


def test_nobody_is_asked_for_a_pin_in_batch_mode(card: Desk, library: str) -> None:
    done = card.run("-I", library, "-o", "BatchMode=yes", answer=PIN)
    assert done.returncode == 255
    assert "pin required" in done.stderr
    assert not (card.folder / "prompts").exists()


def test_a_library_that_is_not_there_keeps_nobody_out(
    server: Server, connect: ClientFactory, account: Account
) -> None:
    client = connect(server, account)
    done = client.run("echo in", flags=["-I", "/nonexistent.so"])
    assert (done.returncode, done.stdout) == (0, b"in\n")
    assert b"/nonexistent.so" in done.stderr
    assert b"No such file or directory" in done.stderr


def test_without_ssh_agent_a_card_keeps_nobody_out(
    sshoq: Programs,
    start_server: ServerFactory,
    connect: ClientFactory,
    account: Account,
    tmp_path: Path,
) -> None:
    """Ours alone: it is what asks the card."""
    client = connect(start_server(sshoq), account)
    library = tmp_path / "card.so"
    library.touch()
    done = subprocess.run(
        client.command("echo", "in", flags=["-I", str(library)]),
        env={**client.environment(), "PATH": str(tmp_path)},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"in\n")
    assert b"ssh-agent" in done.stderr


# --------------------------------------------------------------------------- a FIDO token


@pytest.fixture
def token(keyless: Client, tmp_path: Path) -> Desk:
    library = build_token(tmp_path)
    keyless.more_options += ["-o", f"SecurityKeyProvider={library}"]
    return Desk(keyless, tmp_path, {})


def make(desk: Desk, admitted: Path, passphrase: str = "") -> Path:
    library = desk.folder / "token.so"
    key = make_token_key(library, desk.folder / "id_sk", passphrase=passphrase)
    admit(admitted, key.with_name("id_sk.pub").read_text())
    return key


@pytest.mark.parametrize("batch", ["yes", "no"])
def test_a_key_on_a_token_opens(token: Desk, admitted: Path, batch: str) -> None:
    token.client.key = make(token, admitted)
    done = token.run("-o", f"BatchMode={batch}")
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr
    wait_until(token.is_tidy, 20, "nothing is left of it")


def test_the_library_can_be_named_by_a_variable(token: Desk, admitted: Path) -> None:
    token.client.key = make(token, admitted)
    token.more["MY_TOKEN"] = str(token.folder / "token.so")
    done = token.run("-o", "SecurityKeyProvider=$MY_TOKEN")
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr


def test_a_token_is_not_asked_where_another_key_opens(
    token: Desk, admitted: Path, account: Account, programs: Programs
) -> None:
    """ssh asks the server first; we cannot, and so leave the tokens for last."""
    token.client.key = make(token, admitted)
    done = token.run("-v", "-i", str(account.key))
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr
    if programs.name == "sshoq":
        assert "ED25519-SK" not in done.stderr.partition("Offering")[2]


def test_the_user_is_told_to_touch_it(token: Desk, admitted: Path) -> None:
    token.client.key = make(token, admitted)
    with Terminal(token.client.command("echo", "in"), token.environment) as terminal:
        terminal.expect(r"Confirm user presence for key ED25519-SK SHA256:\S+")
        terminal.expect(r"in\r\n")


def test_the_passphrase_of_its_file_is_asked_for(token: Desk, admitted: Path) -> None:
    key = token.client.key = make(token, admitted, passphrase="long enough")
    with Terminal(token.client.command("echo", "in"), token.environment) as terminal:
        terminal.expect(rf"Enter passphrase for (key ')?{key}")
        terminal.send(b"long enough\n")
        terminal.expect(r"in\r\n")


def test_a_key_that_its_token_does_not_know_keeps_nobody_out(
    token: Desk, admitted: Path, account: Account
) -> None:
    key = make(token, admitted)
    (token.folder / "token.so").unlink()
    other = make_key(token.folder / "other")
    admit(admitted, other.with_name("other.pub").read_text())
    done = token.run("-i", str(key), "-i", str(other))
    assert (done.returncode, done.stdout) == (0, "in\n"), done.stderr
