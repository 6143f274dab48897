"""What known_hosts has to learn of a host. The scenarios hold the same against OpenSSH."""

from __future__ import annotations

from pathlib import Path

import pytest

from sshoq.auth.host_key_update import Changes, HostNames, weigh_keys, write_changes
from sshoq.auth.known_hosts import KnownHosts, hash_host
from tests.auth.test_known_hosts import ECDSA, KEY, OTHER, THIRD

NAME = HostNames("host")
CHECKED = HostNames("host", "10.0.0.1")


def weigh(*lines: str, names: HostNames = NAME) -> Changes:
    known = KnownHosts()
    known.add_text("file", "\n".join(lines).encode())
    return weigh_keys(known, names, [KEY, ECDSA])


def test_what_is_all_there_already_is_no_change() -> None:
    changes = weigh(f"host {KEY.line}", f"host {ECDSA.line}", f"h* {KEY.line}")
    assert not changes.are_wanted


def test_new_and_old_keys_are_told_apart() -> None:
    changes = weigh(f"host {KEY.line}", f"{hash_host('host')} {OTHER.line}", "host nonsense")
    assert changes == ((KEY, ECDSA), (ECDSA,), (OTHER,), "")


@pytest.mark.parametrize(
    "line",
    [
        f"@cert-authority host {THIRD.line}",
        f"@revoked host {ECDSA.line}",
        f"h* {KEY.line}",
        f"host,other {KEY.line}",
        f"other {KEY.line}",
        f"other {ECDSA.line}",
        f"@revoked other {ECDSA.line}",
        f"{hash_host('other')} {OTHER.line}",
    ],
)
def test_what_more_than_this_host_hangs_on_is_an_obstacle(line: str) -> None:
    changes = weigh(f"host {KEY.line}", f"host {OTHER.line}", line)
    assert changes.are_wanted
    assert changes.obstacle


def test_other_hosts_with_other_keys_are_no_obstacle() -> None:
    lines = (f"host {KEY.line}", f"other {THIRD.line}", f"@cert-authority *.other {THIRD.line}")
    assert weigh(*lines).obstacle == ""


@pytest.mark.parametrize(
    ("line", "is_obstacle"),
    [
        (f"host,10.0.0.1 {OTHER.line}", False),
        (f"10.0.0.1 {OTHER.line}", False),
        (f"host,10.0.0.2 {OTHER.line}", True),
        (f"other,10.0.0.1 {OTHER.line}", True),
    ],
)
def test_with_its_address_checked_a_host_has_two_names(line: str, is_obstacle: bool) -> None:
    changes = weigh(f"host,10.0.0.1 {KEY.line}", line, names=CHECKED)
    assert changes.old == (OTHER,)
    assert bool(changes.obstacle) is is_obstacle


def test_the_first_file_gets_the_keys_and_the_others_lose_the_host(tmp_path: Path) -> None:
    first, second, missing = (tmp_path / name for name in ("first", "second", "missing"))
    first.write_text(f"host {OTHER.line}\nother {THIRD.line}\n")
    second.write_text(f"host {KEY.line}\nother {THIRD.line}\n")
    changes = Changes((KEY, ECDSA), (ECDSA,), (OTHER,))
    files = [str(first), str(missing), str(second)]
    assert write_changes(files, CHECKED, changes, hashed=False) == []
    lines = [f"other {THIRD.line}", f"host,10.0.0.1 {KEY.line}", f"host,10.0.0.1 {ECDSA.line}"]
    assert first.read_text().splitlines() == lines
    assert second.read_text() == f"other {THIRD.line}\n"
    assert not missing.exists()


def test_a_file_that_cannot_be_written_is_named_and_the_others_are(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()  # nobody, root neither, writes to a directory
    second = tmp_path / "second"
    second.write_text(f"host {OTHER.line}\n")
    changes = Changes((KEY,), (KEY,), (OTHER,))
    files = [str(tmp_path / "first"), str(second)]
    [complaint] = write_changes(files, NAME, changes, hashed=False)
    assert complaint.startswith(f"{tmp_path}/first: ")
    assert second.read_text() == ""
