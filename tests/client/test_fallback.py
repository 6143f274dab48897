"""When the real ssh takes over, and when it must not any more."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest

from sshoq.client import fallback
from sshoq.client.fallback import find_ssh, may_fall_back, remember_reached, was_reached
from sshoq.config.resolve import Invocation, resolve
from sshoq.config.surroundings import Paths, Surroundings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(fallback, "account_of", lambda uid: ("me", str(home)))
    return home


def invocation(home: Path, *words: str) -> Invocation:
    paths = Paths(str(home), system="/nonexistent")
    surroundings = Surroundings({}, paths, user="me", uid=1000, home=str(home), host="here.test")
    return resolve(list(words), surroundings=surroundings)


def test_unknown_host_may_fall_back(home: Path) -> None:
    assert may_fall_back(invocation(home, "host"))


@pytest.mark.parametrize(
    "words",
    [
        ["host/path"],
        ["https://host"],
        ["-insecure", "host"],
        ["-o", "URLPath=/x", "host"],
        ["-o", "Transport=quic", "host"],
        ["-o", "ServerCertificate=/x", "host"],
    ],
)
def test_host_that_is_said_to_speak_sshoq_may_not(home: Path, words: list[str]) -> None:
    assert not may_fall_back(invocation(home, *words))


def test_host_with_a_pinned_certificate_may_not(home: Path) -> None:
    pin = base64.b64encode(b"certificate").decode()
    (home / ".ssh3").mkdir()
    (home / ".ssh3" / "known_hosts").write_text(f"host:443/sshoq-server x509-certificate {pin}\n")
    assert not may_fall_back(invocation(home, "host"))
    assert may_fall_back(invocation(home, "other"))


def test_host_once_reached_is_remembered_by_name_and_port(home: Path) -> None:
    asked = invocation(home, "host")
    remember_reached(asked.options)
    assert was_reached(asked.options)
    assert not may_fall_back(asked)
    assert may_fall_back(invocation(home, "-p", "444", "host"))
    path = home / ".ssh" / "sshoq_reached"
    assert path.read_text() == "host:443\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_home_that_cannot_be_written_is_no_error(home: Path) -> None:
    (home / ".ssh").write_text("a file in the way")
    remember_reached(invocation(home, "host").options)


def test_own_program_is_never_taken_for_ssh(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("link", "wrapper", "real")]
    for folder in folders:
        folder.mkdir()
    ours = tmp_path / "sshoq"
    ours.write_text("#!/usr/bin/python3\n")
    os.chmod(ours, 0o755)
    (folders[0] / "ssh").symlink_to(ours)
    for folder, text in ((folders[1], "#!/bin/sh\nexec sshoq \"$@\"\n"), (folders[2], "ELF")):
        (folder / "ssh").write_text(text)
        os.chmod(folder / "ssh", 0o755)
    path = os.pathsep.join(map(str, folders))
    assert find_ssh({"PATH": path}) == str(folders[2] / "ssh")
