"""-Z: which keys a login would try."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import make_key
from tests.auth.keyring import make_certificate, public_line
from tests.needs import need_tools

ROOT = Path(__file__).parents[2]


def listed(*words: str, agent: str = "", status: int = 0) -> list[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "SSH_AUTH_SOCK": agent}
    command = [sys.executable, "-m", "sshoq", "-F", "none", "-Z", *words, "host.invalid"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (status, b"")
    return done.stdout.decode().splitlines()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    need_tools("ssh-agent", "ssh-add")
    path = str(tmp_path / "agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # said when it listens
    yield path
    process.terminate()
    process.communicate()


def add(agent: str, key: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": agent}
    subprocess.run(["ssh-add", "-q", str(key)], env=environ, check=True)


def test_the_agents_keys_that_files_name_come_first(tmp_path: Path, agent: str) -> None:
    first, second, other = (make_key(tmp_path / name) for name in ("first", "second", "other"))
    for key in (other, second):
        add(agent, key)
    lines = listed("-i", str(first), "-i", str(second), agent=agent)
    expected = [Path(f"{key}.pub").read_text().strip() for key in (second, other, first)]
    assert lines == expected
    lines = listed("-i", str(first), "-o", "IdentitiesOnly=yes", agent=agent)
    assert lines == [expected[2]]


def test_a_certificate_stands_beside_its_key(tmp_path: Path) -> None:
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "key")
    certificate = make_certificate(authority, Path(f"{key}.pub"))
    lines = listed("-i", str(key))
    assert [line.split()[1] for line in lines] == [
        Path(f"{key}.pub").read_text().split()[1],
        certificate.read_text().split()[1],
    ]


def test_what_would_not_be_tried_is_not_listed(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    assert listed("-i", str(key), "-o", "PubkeyAuthentication=no") == []
    assert listed("-i", str(key), "-o", "PubkeyAcceptedAlgorithms=rsa-sha2-512") == []
    assert listed("-i", str(tmp_path / "key.pub"), "-o", "PasswordAuthentication=no") != []


def test_a_file_without_a_public_half_is_looked_into_and_nobody_is_asked(tmp_path: Path) -> None:
    paths = {}
    for name, passphrase in (("open", ""), ("locked", "secret")):
        path = paths[name] = tmp_path / name
        command = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-C", ""]
        subprocess.run([*command, "-N", passphrase, "-f", str(path)], check=True)
    public = public_line(paths["open"])
    for path in paths.values():
        Path(f"{path}.pub").unlink()
    lines = listed("-i", str(paths["locked"]), "-i", str(paths["open"]))
    assert [" ".join(line.split()[:2]) for line in lines] == [public]


def test_a_comment_does_not_get_at_the_terminal(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    public = Path(f"{key}.pub")
    public.write_text(f"{public_line(key)} \x1b[2J it's mine\n")
    [line] = listed("-i", str(key))
    assert line == f"{public_line(key)} \\033[2J it's mine"
