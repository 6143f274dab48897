"""Login records, read back by the programs that are made for them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from sshoq.server.connection import ConnectionFacts
from sshoq.server.records import (
    LOCK_TRIES,
    LastLogin,
    LoginRecord,
    RecordFiles,
    read_last_login,
    record_failure,
    record_login,
    record_logout,
)
from tests.needs import need_root, need_tools

HERE = ConnectionFacts("192.0.2.7", 40007, "192.0.2.1", 443)
ANN = LoginRecord("ann", 1003, "pts/3", os.getpid(), "192.0.2.7")
NOON = 1_700_000_000.25


@pytest.fixture
def files(tmp_path: Path) -> RecordFiles:
    found = RecordFiles(*(str(tmp_path / name) for name in RecordFiles._fields))
    for path in found:
        Path(path).touch(mode=0o600)
    return found


def show(*command: str) -> list[str]:
    environment = os.environ | {"TZ": "UTC", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def test_who_sees_a_login_until_it_ends(files: RecordFiles) -> None:
    need_tools("who")
    assert record_login(files, ANN, NOON) == []
    [line] = show("who", files.utmp)
    assert line.split() == ["ann", "pts/3", "Nov", "14", "22:13", "(192.0.2.7)"]
    assert record_logout(files, ANN, NOON + 60) == []
    assert show("who", files.utmp) == []


def test_last_sees_when_a_login_began_and_ended(files: RecordFiles) -> None:
    need_tools("last")
    record_login(files, ANN, NOON)
    record_logout(files, ANN, NOON + 3600)
    line = show("last", "-w", "-i", "-f", files.wtmp)[0]
    assert line.split()[:3] == ["ann", "pts/3", "192.0.2.7"]
    assert line.split()[3:] == ["Tue", "Nov", "14", "22:13", "-", "23:13", "(01:00)"]


def test_an_ipv6_address_is_kept_whole(files: RecordFiles) -> None:
    need_tools("last")
    record_login(files, ANN._replace(address="2001:db8::7"), NOON)
    assert "2001:db8::7" in show("last", "-w", "-i", "-f", files.wtmp)[0]


def test_a_name_stands_beside_the_address(files: RecordFiles) -> None:
    need_tools("last")
    named = ANN._replace(name="ann.example.org")
    record_login(files, named, NOON)
    for flags, place in (([], "ann.example.org"), (["-i"], "192.0.2.7")):
        assert place in show("last", "-w", *flags, "-f", files.wtmp)[0]
    last = read_last_login(files, ANN.uid)
    assert last is not None
    assert last.host == "ann.example.org"
    assert ANN._replace(name="x" * 300).host == "192.0.2.7"


def test_a_terminal_has_one_place_in_utmp(files: RecordFiles) -> None:
    for user in ("ann", "bob", "eve"):
        record_login(files, ANN._replace(user=user), NOON)
    record_login(files, ANN._replace(line="pts/4"), NOON)
    assert [line.split()[:2] for line in show("who", files.utmp)] == [
        ["eve", "pts/3"],
        ["ann", "pts/4"],
    ]


def test_the_last_login_is_remembered_by_uid(files: RecordFiles) -> None:
    assert read_last_login(files, ANN.uid) is None
    record_login(files, ANN, NOON)
    assert read_last_login(files, ANN.uid) == LastLogin(int(NOON), "192.0.2.7")
    assert read_last_login(files, ANN.uid - 1) is None
    assert read_last_login(files, 1 << 31) is None


def test_the_last_login_is_told_in_sshds_words() -> None:
    when = time.ctime(NOON)
    assert LastLogin(int(NOON), "host").line() == f"Last login: {when} from host\r\n"
    assert LastLogin(int(NOON), "").line() == f"Last login: {when}\r\n"


def test_a_failed_password_is_for_lastb(files: RecordFiles) -> None:
    need_root()
    need_tools("last")
    assert record_failure(files, "ann", HERE, NOON) == []
    assert show("last", "-w", "-i", "-f", files.btmp)[0].split()[:3] == [
        "ann",
        "ssh:notty",
        "192.0.2.7",
    ]


def test_failures_are_not_written_where_others_read(files: RecordFiles) -> None:
    """The name may be a password, typed too early."""
    Path(files.btmp).chmod(0o644)
    [complaint] = record_failure(files, "secret", HERE, NOON)
    assert "Excess permission or bad ownership" in complaint
    assert Path(files.btmp).read_bytes() == b""


def test_files_that_are_not_there_are_not_made(tmp_path: Path) -> None:
    missing = RecordFiles(*(str(tmp_path / name) for name in RecordFiles._fields))
    assert record_login(missing, ANN, NOON) == []
    assert record_logout(missing, ANN, NOON) == []
    assert record_failure(missing, "ann", HERE, NOON) == []
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_place_of_a_file_is_not_followed(files: RecordFiles, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    Path(files.wtmp).unlink()
    Path(files.wtmp).symlink_to(target)
    assert len(record_login(files, ANN, NOON)) == 1
    assert target.read_bytes() == b""


def test_a_lock_that_somebody_holds_delays_and_does_not_keep_out(
    files: RecordFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("sshoq.server.records.time.sleep", pauses.append)
    script = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); print(1)"
    script += "; sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(
        ["python3", "-c", script, files.utmp], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        [complaint] = record_login(files, ANN, NOON)
    assert files.utmp in complaint
    assert len(pauses) == LOCK_TRIES - 1
    assert len(Path(files.wtmp).read_bytes()) > 0


def test_overlong_and_odd_names_are_cut_and_kept(files: RecordFiles) -> None:
    odd = ANN._replace(user="ü" * 40 + "\udcff", address="h" * 400)
    assert record_login(files, odd, NOON) == []
    assert len(Path(files.wtmp).read_bytes()) in (384, 400)
