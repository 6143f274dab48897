"""When the real ssh takes over, and when it must not any more."""

from __future__ import annotations

import base64
import os
import socket
import stat
from pathlib import Path

import pytest

from sshoq.client import fallback
from sshoq.client.addresses import HostAddress
from sshoq.client.fallback import (
    find_silence,
    find_ssh,
    forget_silence,
    may_fall_back,
    note_silence,
    remember_reached,
    silence_path,
    was_reached,
)
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


# --------------------------------------------------------------------------- silence


HERE = HostAddress(socket.AF_INET, ("127.0.0.1", 443))
NOWHERE = HostAddress(socket.AF_INET, ("255.255.255.255", 443))


def test_silence_is_kept_in_the_cache(home: Path) -> None:
    assert silence_path({}) == f"{home}/.cache/sshoq/silent"
    assert silence_path({"XDG_CACHE_HOME": ""}) == silence_path({"XDG_CACHE_HOME": "relative"})
    assert silence_path({"XDG_CACHE_HOME": "relative"}) == f"{home}/.cache/sshoq/silent"
    assert silence_path({"XDG_CACHE_HOME": "/cache"}) == "/cache/sshoq/silent"


def test_silence_is_found_until_it_is_forgotten(home: Path) -> None:
    options = invocation(home, "host").options
    forget_silence(options, {})
    assert find_silence(options, HERE, {}) is None
    assert not (home / ".cache").exists()
    noted = note_silence(options, HERE, {}, 1000)
    assert noted is not None
    assert find_silence(options, HERE, {}) == noted
    assert find_silence(invocation(home, "-p", "444", "host").options, HERE, {}) is None
    assert find_silence(invocation(home, "-b", "127.0.0.2", "host").options, HERE, {}) is None
    forget_silence(options, {})
    assert find_silence(options, HERE, {}) is None


def test_without_an_ssh_the_host_is_tried(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = invocation(home, "host").options
    note_silence(options, HERE, {}, 1000)
    monkeypatch.setattr(fallback, "find_ssh", lambda environ: None)
    assert find_silence(options, HERE, {}) is None


def test_without_a_way_to_the_host_there_is_nothing_to_note(home: Path) -> None:
    assert note_silence(invocation(home, "host").options, NOWHERE, {}, 1000) is None


def test_no_silence_is_noted_where_an_answer_could_not_be(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the cache may be written: a host that has answered would be left to ssh for longer
    than it is silent."""
    options = invocation(home, "host").options
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(home))
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    assert note_silence(options, HERE, environ, 1000) is None
    (home / ".ssh").mkdir()
    assert note_silence(options, HERE, environ, 1000) is not None


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
