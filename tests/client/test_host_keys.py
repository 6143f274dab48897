"""What the server is asked to show, by what is recorded of it."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from sshoq.client.host_keys import preferred_schemes
from sshoq.client.log import Failure, Log
from sshoq.config.resolve import resolve
from sshoq.config.surroundings import Paths, Surroundings
from sshoq.config.usage import ERROR
from sshoq.transport.identity import OFFERED_SCHEMES, SSH_SCHEMES, SignatureScheme
from tests.accounts import make_key

ED25519, P256, P384, P521, RSA = SSH_SCHEMES.values()


class Files:
    """A home with a known_hosts, and a key of every kind for it."""

    def __init__(self, home: Path, keys: dict[str, str]) -> None:
        self.home = home
        self.known = home / "known_hosts"
        self.keys = keys
        self.said: list[str] = []

    def record(self, *names_and_kinds: tuple[str, str]) -> None:
        lines = [f"{name} {self.keys[kind]}\n" for name, kind in names_and_kinds]
        self.known.write_text("".join(lines))

    def ask(self, *options: str, flags: tuple[str, ...] = ()) -> tuple[int, ...]:
        files = (f"UserKnownHostsFile={self.known}", "GlobalKnownHostsFile=none")
        words = ["-F", "none", *flags]
        words += [word for option in (*options, *files) for word in ("-o", option)]
        home = str(self.home)
        surroundings = Surroundings({}, Paths(home), user="me", uid=1000, home=home, host="here")
        invocation = resolve([*words, "Host.Test"], surroundings=surroundings)
        return preferred_schemes(invocation.options, Log(ERROR, self._note))

    def _note(self, level: int, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("keys")
    made = {kind: make_key(folder / kind, kind) for kind in ("ed25519", "ecdsa", "rsa")}
    return {kind: Path(f"{path}.pub").read_text().strip() for kind, path in made.items()}


@pytest.fixture
def files(tmp_path: Path, keys: dict[str, str]) -> Files:
    return Files(tmp_path, keys)


def test_of_an_unknown_host_nothing_is_asked(files: Files) -> None:
    assert files.ask() == ()
    files.record(("other.test", "rsa"))
    assert files.ask() == ()


def test_without_a_wish_the_order_is_the_same_as_with_every_wish() -> None:
    """So nothing need be said when the recorded kind is the first of all."""
    schemes = list(SSH_SCHEMES.values())
    assert [scheme for scheme in OFFERED_SCHEMES if scheme in schemes] == schemes


@pytest.mark.parametrize("name", ["[host.test]:443", "host.test", "*.test", "HOST.test"])
def test_the_recorded_kind_is_asked_for_first(files: Files, name: str) -> None:
    files.record((name, "rsa"))
    assert files.ask() == (RSA, ED25519, P256, P384, P521)
    files.record((name, "ecdsa"))
    assert files.ask() == (P256, ED25519, P384, P521, RSA)
    files.record((name, "ed25519"))
    assert files.ask() == ()


def test_of_several_kinds_the_better_one_goes_before(files: Files) -> None:
    files.record(("host.test", "rsa"), ("host.test", "ecdsa"))
    assert files.ask()[:2] == (P256, RSA)


def test_an_entry_with_the_port_is_more_than_one_without(files: Files) -> None:
    files.record(("host.test", "rsa"), ("[host.test]:443", "ecdsa"))
    assert files.ask()[0] == P256
    assert files.ask("QUICPort=4443")[0] == RSA


def test_an_alias_stands_alone(files: Files) -> None:
    files.record(("host.test", "rsa"), ("alias", "ecdsa"))
    assert files.ask("HostKeyAlias=Alias")[0] == P256
    assert files.ask("HostKeyAlias=other") == ()


def test_a_revoked_key_is_no_reason_to_ask_for_its_kind(files: Files) -> None:
    files.known.write_text(f"@revoked host.test {files.keys['rsa']}\n")
    assert files.ask() == ()


@pytest.mark.parametrize(
    ("algorithms", "expected"),
    [
        ("rsa-sha2-256,ssh-ed25519", (RSA, ED25519)),
        ("^ssh-ed25519", ()),
        ("rsa-sha2-512", (RSA,)),
        ("ssh-rsa", ()),
        ("-rsa-sha2-*", (P256, ED25519, P384, P521)),
        ("+ssh-rsa", (P256, RSA, ED25519, P384, P521)),
        ("ssh-ed25519,ecdsa-sha2-nistp256", (P256, ED25519)),
    ],
)
def test_the_users_algorithms_and_their_order_hold(
    files: Files, algorithms: str, expected: tuple[SignatureScheme, ...]
) -> None:
    files.record(("host.test", "ecdsa"), ("host.test", "rsa"))
    assert files.ask(f"HostKeyAlgorithms={algorithms}") == expected


def test_a_pinned_certificate_is_what_the_server_shows_unasked(files: Files) -> None:
    files.record(("host.test", "rsa"))
    (files.home / ".ssh3").mkdir()
    pin = f"host.test:443/sshoq-server x509-certificate {b64encode(b'der').decode()}\n"
    (files.home / ".ssh3/known_hosts").write_text(pin)
    assert files.ask() == ()
    assert files.ask("QUICPort=4443")[0] == RSA
    assert files.ask("QUICPort=4443", "ServerCertificate=/some.pem") == ()


def test_who_checks_nothing_asks_for_nothing(files: Files) -> None:
    files.record(("host.test", "rsa"))
    assert files.ask(flags=("-insecure",)) == ()


def test_the_command_is_asked_what_is_known(files: Files) -> None:
    line = files.home / "line"
    line.write_text(f"host.test {files.keys['ecdsa']}\n")
    command = files.home / "command"
    wanted = "ORDER host.test NONE NONE NONE host.test Host.Test me here"
    command.write_text(f'#!/bin/sh\n[ "$*" = "{wanted}" ] && cat {line}\n')
    command.chmod(0o755)
    assert files.ask(f"KnownHostsCommand={command} %I %H %t %f %K %h %n %u %l")[0] == P256


def test_a_command_that_fails_ends_the_run(files: Files) -> None:
    files.record(("host.test", "rsa"))
    with pytest.raises(Failure) as caught:
        files.ask("KnownHostsCommand=/bin/false")
    assert caught.value.lines == (
        "KnownHostsCommand-ORDER /bin/false failed, status 1",
        "KnownHostsCommand failed",
    )


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("/nonexistent", 'Could not stat KnownHostsCommand-ORDER "/nonexistent": No such file or '
                         "directory"),
        ("true", "KnownHostsCommand-ORDER path is not absolute"),
    ],
)  # fmt: skip
def test_a_command_that_is_not_there_knows_nothing(
    files: Files, command: str, line: str
) -> None:
    files.record(("host.test", "rsa"))
    assert files.ask(f"KnownHostsCommand={command}")[0] == RSA
    assert files.said == [line]


def test_a_command_with_an_unknown_token_ends_the_run(files: Files) -> None:
    with pytest.raises(Failure) as caught:
        files.ask("KnownHostsCommand=/bin/true %Q")
    assert caught.value.lines[0] == "vdollar_percent_expand: unknown key %Q"
