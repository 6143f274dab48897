"""Programs that know users' keys and principals: how they are run, and when they are believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sshoq.auth.keys import PublicKey
from sshoq.auth.ssh_certificates import USER, Certificate
from sshoq.server import key_commands, log
from sshoq.server.account import Account
from sshoq.server.config import ConfigError
from sshoq.server.config_reader import load
from sshoq.server.connection import ConnectionFacts
from sshoq.server.key_commands import Requester, ask_for_keys, ask_for_principals
from sshoq.wire import put_string
from tests.needs import need_root

ANN = Account("ann", 1001, 1001, "/home/ann", "/bin/sh", ("ann",))
WHERE = ConnectionFacts("192.0.2.7", 40007, "192.0.2.1", 443)
KEY = PublicKey(put_string(b"ssh-ed25519") + put_string(b"k" * 32))
OTHER = PublicKey(put_string(b"ssh-ed25519") + put_string(b"o" * 32))
CERTIFICATE = Certificate(KEY, KEY, 7, USER, "an ID", ("ann",), 0, 1, (), (), OTHER, b"")


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    return Said(capfd)


class Said:
    """What the log says, on stderr."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        log.to_stderr(log.INFO)

    def __call__(self) -> str:
        return self._capfd.readouterr().err


def requester(folder: Path, command: str, user: str = "nobody", what: str = "Keys") -> Requester:
    config = folder / "config"
    config.write_text(
        f"Authorized{what}Command {command}\nAuthorized{what}CommandUser {user}\n"
    )
    return Requester(ANN, load(str(config)).for_connection(user="ann"), WHERE)


def keys_of(folder: Path, command: str, key: PublicKey | None = KEY, user: str = "nobody") -> str:
    return ask_for_keys(requester(folder, command, user), key, key).decode()


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ("", "ann"),
        ("%u %U %h", "ann 1001 /home/ann"),
        ("%t", "ssh-ed25519"),
        ("%k", KEY.base64),
        ("%f", KEY.fingerprint()),
        ('"%C"', "192.0.2.7 40007 192.0.2.1 443"),
        ("'a b' %%u x%u", "a b %u xann"),
    ],
)
def test_tokens_are_what_the_program_gets(tmp_path: Path, arguments: str, output: str) -> None:
    assert keys_of(tmp_path, f"/bin/echo {arguments}") == f"{output}\n"


def test_principals_program_may_ask_for_the_authority_too(tmp_path: Path) -> None:
    asked = requester(tmp_path, "/bin/echo %i %s %T %K %F %t %u", what="Principals")
    words = ask_for_principals(asked, CERTIFICATE).decode().split()
    own = ["ssh-ed25519", OTHER.base64, OTHER.fingerprint(), "ssh-ed25519", "ann"]
    assert words == ["an", "ID", "7", *own]


def test_it_runs_as_its_user_with_nothing_of_ours(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        shown = keys_of(tmp_path, "/bin/sh -c 'id -un; id -Gn; ls /proc/self/fd; env; umask'")
    finally:
        os.close(reader)
        os.close(writer)
    lines = shown.splitlines()
    assert lines[:2] == ["nobody", "nogroup"]
    assert lines[2:6] == ["0", "1", "2", "3"]  # the last one is the folder that ls reads
    names = {line.partition("=")[0] for line in lines[6:-1]}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"HOME", "LOGNAME", "PATH", "USER"}


def test_the_user_may_be_the_account_itself(tmp_path: Path) -> None:
    asked = requester(tmp_path, "/usr/bin/id -un", user="%u")
    mine = asked._replace(account=ANN._replace(name="daemon"))
    assert ask_for_keys(mine, None, None) == b"daemon\n"


@pytest.mark.parametrize(
    ("command", "user", "reason"),
    [
        ("/bin/sh -c 'echo x; exit 3'", "nobody", "/bin/sh failed, status 3"),
        ("/bin/sh -c 'echo x; kill -9 $$'", "nobody", "/bin/sh exited on signal 9"),
        ("/bin/echo %i", "nobody", "nothing is known for %i"),
        ("/bin/echo %", "nobody", "nothing is known for %"),
        ("/nonexistent/x", "nobody", 'Could not stat AuthorizedKeysCommand "/nonexistent/x": No'),
        ("/bin", "nobody", "is not a regular file"),
        ("/bin/echo x", "no-such-user", 'Invalid AuthorizedKeysCommandUser "no-such-user"'),
        ("/bin/echo x", "%h", "nothing is known for %h"),
        ("/bin/cat /dev/zero", "nobody", "took too long, or said too much"),
    ],
)
def test_what_goes_wrong_names_no_keys(
    tmp_path: Path, said: Said, command: str, user: str, reason: str
) -> None:
    assert keys_of(tmp_path, command, user=user) == ""
    assert reason in said()


def test_a_program_that_others_may_change_is_not_run(tmp_path: Path, said: Said) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho run\n")
    program.chmod(0o775)
    assert keys_of(tmp_path, str(program)) == ""
    assert f'Unsafe AuthorizedKeysCommand "{program}"' in said()


def test_a_key_that_was_not_named_cannot_be_told(tmp_path: Path, said: Said) -> None:
    assert keys_of(tmp_path, "/bin/echo %u", key=None) == "ann\n"
    assert keys_of(tmp_path, "/bin/echo %k", key=None) == ""
    assert "nothing is known for %k" in said()


def test_a_program_that_hangs_is_ended(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_commands, "COMMAND_TIME", 0.1)
    for command in ("/bin/sleep 1000", "/bin/sh -c 'exec >&-; sleep 1000'"):
        assert keys_of(tmp_path, command) == ""
        assert "took too long" in said()


def test_a_program_needs_a_user(tmp_path: Path) -> None:
    config = tmp_path / "config"
    for name in ("AuthorizedKeysCommand", "AuthorizedPrincipalsCommand"):
        config.write_text(f"{name} /bin/echo\n")
        with pytest.raises(ConfigError, match=f"{name} set without {name}User"):
            load(str(config))
        config.write_text(f"{name} bin/echo\n")
        with pytest.raises(ConfigError, match="must be an absolute path"):
            load(str(config))
        config.write_text(f"{name} none\n")
        load(str(config))
