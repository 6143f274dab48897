"""The memory of hosts that did not speak SSHOQ: for how long, how many, in which files."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.client.silence import (
    FIRST_REST,
    KEPT_FOR,
    LONGEST_REST,
    MAX_SILENCES,
    MAX_SIZE,
    SilenceFile,
    Silences,
    encode,
    find_in,
    is_in,
    parse,
)
from tests.client.little_server import client_environment
from tests.needs import need_root

NOW = 1_800_000_000
HOME, OFFICE = b"\x0a\0\0\1", b"\xc0\xa8\1\1"


def noted(*times: int, host: str = "host:443", network: bytes = HOME) -> Silences:
    known = Silences.none()
    for now in times:
        known = known.noted(host, network, now)
    return known


def remaining(known: Silences, now: int, host: str = "host:443", network: bytes = HOME) -> int:
    found = known.find(host, network)
    return 0 if found is None else found.remaining(now)


# --------------------------------------------------------------------------- for how long


def test_a_silent_host_rests_for_minutes() -> None:
    known = noted(NOW)
    assert remaining(known, NOW) == FIRST_REST
    assert remaining(known, NOW + FIRST_REST - 1) == 1
    assert remaining(known, NOW + FIRST_REST) == 0


def test_each_further_silence_makes_it_longer_up_to_a_day() -> None:
    times = [NOW + n for n in range(200)]
    rests = [remaining(noted(*times[:count]), times[count - 1]) for count in range(1, 8)]
    assert rests == [300, 1200, 4800, 19200, 76800, LONGEST_REST, LONGEST_REST]
    assert remaining(noted(*times), times[-1]) == LONGEST_REST


def test_a_silence_of_long_ago_no_longer_counts() -> None:
    assert remaining(noted(NOW, NOW + KEPT_FOR), NOW + KEPT_FOR) == FIRST_REST


def test_a_clock_that_was_set_back_leaves_no_host_alone() -> None:
    known = noted(NOW)
    assert remaining(known, NOW - 1) == 0
    assert remaining(known.noted("host:443", HOME, NOW - 1), NOW - 1) == FIRST_REST


def test_another_network_another_port_and_another_host_are_tried() -> None:
    known = noted(NOW)
    assert remaining(known, NOW, network=OFFICE) == 0
    assert remaining(known, NOW, host="host:444") == 0
    assert remaining(known, NOW, host="other:443") == 0


def test_a_host_is_forgotten_in_all_networks_and_no_other_with_it() -> None:
    known = noted(NOW).noted("host:443", OFFICE, NOW).noted("other:443", HOME, NOW)
    known = known.forgotten("host:443")
    assert [remaining(known, NOW, network=network) for network in (HOME, OFFICE)] == [0, 0]
    assert remaining(known, NOW, host="other:443") == FIRST_REST


def test_the_oldest_make_room() -> None:
    known = Silences.none()
    for number in range(MAX_SILENCES + 3):
        known = known.noted(f"host{number}:443", HOME, NOW + number)
    assert len(known.known) == MAX_SILENCES
    assert known.find("host2:443", HOME) is None
    assert known.find("host3:443", HOME) is not None
    assert len(encode(known)) < MAX_SIZE
    assert parse(encode(known)).known == known.known


# --------------------------------------------------------------------------- as text


def test_no_name_is_to_be_read_in_it_nor_compared_between_two_files() -> None:
    texts = [encode(noted(NOW)) for _ in range(2)]
    assert b"host" not in texts[0]
    hashes = [set(text.split()[:3]) for text in texts]
    assert not hashes[0] & hashes[1]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_memory(data: bytes) -> None:
    assert remaining(parse(data), NOW) == 0
    assert find_in(data, "host:443", HOME) is None
    assert not is_in(data, "host:443")


@given(st.integers(0, 400))
def test_a_cut_file_has_what_is_whole(length: int) -> None:
    whole = noted(NOW).noted("other:443", HOME, NOW)
    text = encode(whole)
    cut = parse(text[:length])
    assert {one.host for one in cut.known} <= {one.host for one in whole.known}
    assert parse(text).known == whole.known
    for host in ("host:443", "other:443", "third:443"):
        assert find_in(text[:length], host, HOME) == cut.find(host, HOME)
        assert is_in(text, host) == (whole.find(host, HOME) is not None)


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("{host} {network} 1 5", True),
        ("{host} {network} 0 5", False),
        ("{host} {network} 100 5", False),
        ("{host} {network} -1 5", False),
        ("{host} {network} 1", False),
        ("{network} {host} 1 5", False),
        ("{host} {network} 1 1234567890123", False),
    ],
)
def test_lines_that_nobody_wrote_are_left_out(line: str, is_one: bool) -> None:
    line = line.format(host="11" * 16, network="22" * 8)
    assert len(parse(f"{'00' * 16}\n{line}\n".encode()).known) == is_one


# --------------------------------------------------------------------------- as a file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "sshoq" / "silent"


def test_what_is_noted_is_found_by_the_next_run(path: Path) -> None:
    assert SilenceFile(str(path)).find("host:443", HOME) is None
    written = SilenceFile(str(path)).note("host:443", HOME, NOW)
    assert written is not None
    assert SilenceFile(str(path)).find("host:443", HOME) == written
    SilenceFile(str(path)).forget("host:443")
    assert SilenceFile(str(path)).find("host:443", HOME) is None


def test_the_file_and_its_folder_are_for_the_user_alone(path: Path) -> None:
    SilenceFile(str(path)).note("host:443", HOME, NOW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(above.stat().st_mode) for above in path.parents[:2]] == [0o700, 0o700]
    assert os.listdir(path.parent) == ["silent"]


def test_forgetting_what_nobody_noted_writes_nothing(path: Path) -> None:
    SilenceFile(str(path)).forget("host:443")
    assert not path.parent.exists()
    SilenceFile(str(path)).note("host:443", HOME, NOW)
    before = path.stat().st_ino
    SilenceFile(str(path)).forget("other:443")
    assert path.stat().st_ino == before


@pytest.mark.parametrize("obstacle", ["no parent", "a file", "a broken link"])
def test_without_a_place_nothing_is_noted_and_nothing_said(path: Path, obstacle: str) -> None:
    cache = path.parents[1]
    if obstacle == "no parent":
        path = cache / "further" / "sshoq" / "silent"
    elif obstacle == "a file":
        cache.write_text("in the way")
    else:
        cache.symlink_to("nowhere")
    memory = SilenceFile(str(path))
    assert memory.note("host:443", HOME, NOW) is None
    assert memory.find("host:443", HOME) is None
    memory.forget("host:443")


def test_links_are_not_followed(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    SilenceFile(str(elsewhere / "silent")).note("host:443", HOME, NOW)
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere / "silent")
    before = (elsewhere / "silent").read_bytes()
    assert SilenceFile(str(path)).find("host:443", HOME) is None
    assert SilenceFile(str(path)).note("other:443", HOME, NOW) is not None
    assert not path.is_symlink()
    assert (elsewhere / "silent").read_bytes() == before


def test_a_folder_that_is_a_link_is_left_alone(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.parents[1].mkdir()
    path.parent.symlink_to(elsewhere)
    assert SilenceFile(str(path)).note("host:443", HOME, NOW) is None
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("mode", [0o660, 0o606])
def test_what_others_may_write_is_not_believed(path: Path, mode: int) -> None:
    SilenceFile(str(path)).note("host:443", HOME, NOW)
    path.chmod(mode)
    assert SilenceFile(str(path)).find("host:443", HOME) is None
    path.chmod(0o600)
    path.parent.chmod(0o777)
    assert SilenceFile(str(path)).note("host:443", HOME, NOW) is None


@pytest.mark.privileged
def test_root_makes_nothing_in_the_cache_of_a_user_and_believes_none(path: Path) -> None:
    need_root()
    path.parents[1].mkdir()
    os.chown(path.parents[1], 1234, 1234)
    assert SilenceFile(str(path)).note("host:443", HOME, NOW) is None
    assert os.listdir(path.parents[1]) == []
    os.chown(path.parents[1], 0, 0)
    SilenceFile(str(path)).note("host:443", HOME, NOW)
    os.chown(path, 1234, 1234)
    assert SilenceFile(str(path)).find("host:443", HOME) is None


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"x" * (MAX_SIZE + 1)])
def test_a_file_of_another_kind_is_replaced(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert SilenceFile(str(path)).find("host:443", HOME) is None
    assert SilenceFile(str(path)).note("host:443", HOME, NOW) is not None
    assert SilenceFile(str(path)).find("host:443", HOME) is not None


def test_a_pipe_in_its_place_holds_nobody_up(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert SilenceFile(str(path)).find("host:443", HOME) is None


def test_what_a_killed_client_left_is_no_obstacle(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.with_name("silent.new").write_text("half")
    assert SilenceFile(str(path)).note("host:443", HOME, NOW) is not None
    assert os.listdir(path.parent) == ["silent"]


def test_a_full_disk_keeps_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SilenceFile(str(path))
    memory.note("host:443", HOME, NOW)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: len(data) - 1)
        assert memory.note("other:443", HOME, NOW) is None
    assert memory.find("host:443", HOME) is not None
    assert memory.find("other:443", HOME) is None


NOTE_SEVERAL = f"""
import sys
from sshoq.client import silence
silence.LOCK_TRIES = 10_000  # however busy the machine is
path, first = sys.argv[1], int(sys.argv[2])
for number in range(first, first + 10):
    assert silence.SilenceFile(path).note(f"host{{number}}:443", {HOME!r}, {NOW}) is not None
"""


def test_many_clients_at_once_lose_nothing(path: Path) -> None:
    command = [sys.executable, "-c", NOTE_SEVERAL, str(path)]
    environment = client_environment()
    clients = [subprocess.Popen([*command, str(10 * n)], env=environment) for n in range(6)]
    assert [client.wait() for client in clients] == [0] * 6
    memory = SilenceFile(str(path))
    assert all(memory.find(f"host{number}:443", HOME) for number in range(60))


def test_a_client_that_was_stopped_with_the_lock_holds_nobody_up(path: Path) -> None:
    memory = SilenceFile(str(path))
    memory.note("host:443", HOME, NOW)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert memory.note("other:443", HOME, NOW) is not None
    finally:
        os.close(folder)
