"""known_hosts: the same answers as ssh-keygen -F, the same files as ssh and ssh-keygen -H write."""

from __future__ import annotations

import base64
import builtins
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.keys import PublicKey, parse_public_key
from sshoq.auth.known_hosts import (
    HostStatus,
    KnownHosts,
    KnownHostsError,
    hash_host,
    host_with_port,
    is_plain,
    read_go_pins,
    record_host,
    replace_host_keys,
    split_line,
)
from sshoq.wire import put_string
from tests.auth.keyring import make_key, public_line
from tests.needs import need_tools


def key_of(letter: bytes, algorithm: bytes = b"ssh-ed25519") -> PublicKey:
    if algorithm == b"ssh-ed25519":
        return PublicKey(put_string(algorithm) + put_string(letter * 32))
    fields = (algorithm, b"nistp256", b"\x04" + letter * 64)
    return PublicKey(b"".join(map(put_string, fields)))


KEY, OTHER, THIRD = key_of(b"a"), key_of(b"b"), key_of(b"c")
ECDSA = key_of(b"a", b"ecdsa-sha2-nistp256")


def known_from(*lines: str, label: str = "file") -> KnownHosts:
    known = KnownHosts()
    known.add_text(label, "\n".join(lines).encode())
    return known


# --------------------------------------------------------------------------- looking up


def test_unknown_host() -> None:
    known = known_from(f"other {KEY.line}")
    assert known.look_up("host", KEY) == (HostStatus.UNKNOWN, None)


def test_recorded_key_is_found_with_its_place() -> None:
    known = known_from("# comment", "", f"host {KEY.line}", label="/etc/hosts")
    status, entry = known.look_up("host", KEY)
    assert status is HostStatus.FOUND
    assert entry is not None
    assert entry.place == "/etc/hosts:3"


def test_any_other_key_means_changed_and_the_last_one_is_named() -> None:
    known = known_from(f"host {OTHER.line}", f"host {ECDSA.line}")
    status, entry = known.look_up("host", KEY)
    assert status is HostStatus.CHANGED
    assert entry is not None
    assert (entry.line, entry.key) == (2, ECDSA)


def test_one_of_several_keys_suffices() -> None:
    known = known_from(f"host {OTHER.line}", f"host {KEY.line}", f"host {ECDSA.line}")
    assert known.look_up("host", KEY).status is HostStatus.FOUND


def test_revocation_beats_an_entry_in_whatever_order() -> None:
    lines = [f"host {KEY.line}", f"@revoked * {KEY.line}"]
    for order in (lines, lines[::-1]):
        assert known_from(*order).look_up("host", KEY).status is HostStatus.REVOKED


def test_revocation_of_another_host_or_key_is_no_matter() -> None:
    known = known_from(
        f"host {KEY.line}", f"@revoked elsewhere {KEY.line}", f"@revoked * {OTHER.line}"
    )
    assert known.look_up("host", KEY).status is HostStatus.FOUND


def test_certificate_authority_vouches_for_no_plain_key_and_objects_to_none() -> None:
    known = known_from(f"@cert-authority * {KEY.line}")
    assert known.look_up("host", KEY).status is HostStatus.UNKNOWN
    assert known.look_up("host", OTHER).status is HostStatus.UNKNOWN
    assert known.entries_for("host")[0].marker == "@cert-authority"


def test_several_files_are_one() -> None:
    known = known_from(f"host {OTHER.line}", label="first")
    known.add_text("second", f"host {KEY.line}".encode())
    status, entry = known.look_up("host", KEY)
    assert (status, entry and entry.file) == (HostStatus.FOUND, "second")


def test_algorithms_are_listed_in_order_without_markers() -> None:
    known = known_from(
        f"host {ECDSA.line}", f"@revoked host {key_of(b'r').line}", f"host {KEY.line}"
    )
    assert known.key_algorithms("host") == ["ecdsa-sha2-nistp256", "ssh-ed25519"]
    assert known.key_algorithms("other", "host")[:1] == ["ecdsa-sha2-nistp256"]
    assert known.key_algorithms("other") == []


def test_algorithms_are_those_of_the_first_name_that_vouches_for_any() -> None:
    known = known_from(f"h {ECDSA.line}", f"[h]:443 {KEY.line}", f"@revoked [h]:444 {KEY.line}")
    assert known.key_algorithms("[h]:443", "h") == ["ssh-ed25519"]
    assert known.key_algorithms("[h]:444", "h") == ["ecdsa-sha2-nistp256"]


def test_names_that_share_a_key_are_listed() -> None:
    known = known_from(f"a,b {KEY.line}", f"c {OTHER.line}", f"@revoked d {KEY.line}")
    assert [entry.hosts for entry in known.entries_with(KEY)] == ["a,b"]


def test_missing_and_unreadable_files_are_empty(tmp_path: Path) -> None:
    known = KnownHosts.from_files([str(tmp_path / "none"), str(tmp_path)])
    assert known.look_up("host", KEY).status is HostStatus.UNKNOWN


def test_huge_file_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(KnownHostsError, match="too large"):
        KnownHosts.from_files([str(path)])


NAMES = ["host", "host.example", "[host]:443", "[::1]:443", "::1", "10.0.0.1", "HOST", "other"]
PATTERNS = [
    "host",
    "HOST",
    "host,other",
    "other,host",
    "*",
    "h?st",
    "host*",
    "*.example",
    "!host,*",
    "*,!host",
    "!host",
    "[host]:443",
    "[host]:*",
    "[*]:443",
    "[h*]:4?3",
    "10.0.0.*",
    "::1",
    "h[o]st",
    "ho.t",
    "**",
    ",",
    "host,",
    "|1|AAAA|AAAA",
    "|1|!!|AAAA",
    "|2|AAAA|AAAA",
]


@pytest.mark.parametrize("hashed", [False, True])
def test_lookup_finds_the_lines_that_ssh_keygen_finds(tmp_path: Path, hashed: bool) -> None:
    need_tools("ssh-keygen")
    path = tmp_path / "known_hosts"
    path.write_text("".join(f"{pattern} {KEY.line}\n" for pattern in PATTERNS))
    if hashed:  # those with patterns it leaves as they are
        subprocess.run(["ssh-keygen", "-H", "-f", path], check=True, capture_output=True)
    known = KnownHosts.from_files([str(path)])
    # ssh lowers the name before it asks, ssh-keygen does not before it hashes
    for name in [name.lower() for name in NAMES]:
        assert [entry.line for entry in known.entries_for(name)] == found_by_ssh_keygen(path, name)


def found_by_ssh_keygen(path: Path, name: str) -> list[int]:
    run = subprocess.run(
        ["ssh-keygen", "-F", name, "-f", path], capture_output=True, text=True, check=False
    )
    comments = [line for line in run.stdout.splitlines() if line.startswith("#")]
    return [int(line.split("line ")[1].split()[0]) for line in comments]


@pytest.mark.parametrize(
    "line",
    [
        f"\t host {KEY.line}",
        f"host\t{KEY.line}",
        f"host {KEY.line} a comment # more",
        f"host {KEY.line}\r",
        f"@revoked  host {KEY.line}",
    ],
)
def test_blanks_do_not_matter(line: str) -> None:
    assert [entry.key for entry in known_from(line).entries_for("host")] == [KEY]


@pytest.mark.parametrize(
    "line",
    [
        f"# host {KEY.line}",
        f"@unknown host {KEY.line}",
        f"@revoked {KEY.line}",
        "@revoked",
        "host",
        "host ssh-ed25519",
        "host ssh-ed25519 AAAA",
        f"host ssh-rsa {KEY.base64}",
        f"host {KEY.line[:-2]}",
        "host 1024 35 12345",
        f"host {'x' * 70000}",
    ],
)
def test_line_that_openssh_passes_over_is_passed_over(line: str) -> None:
    assert known_from(line).entries_for("host") == []


@given(st.binary(max_size=300))
def test_any_bytes_can_be_looked_into(data: bytes) -> None:
    known = KnownHosts()
    known.add_text("file", data)
    known.look_up("host", KEY)
    known.entries_with(KEY)
    for line in data.split(b"\n"):
        split_line(line)


@given(st.text(alphabet="ab*?![]:,|.", max_size=30), st.text(alphabet="ab.:[]", max_size=30))
def test_any_pattern_answers_in_bounded_time(pattern: str, name: str) -> None:
    known_from(f"{pattern} {KEY.line}").look_up(name or "a", KEY)


@pytest.mark.parametrize("pattern", ["*" * 500 + "b", "*a" * 500 + "b", "*?" * 500 + "b"])
def test_pattern_with_many_stars_needs_no_more_steps_than_the_lengths_multiplied(
    pattern: str,
) -> None:
    """A matcher that tries every way would not come back."""
    assert known_from(f"{pattern} {KEY.line}").entries_for("a" * 1000) == []


def test_name_of_a_port() -> None:
    assert host_with_port("host", 22) == "host"
    assert host_with_port("host", 443) == "[host]:443"
    assert host_with_port("::1", 22) == "::1"
    assert host_with_port("::1", 4433) == "[::1]:4433"


# --------------------------------------------------------------------------- recording


def test_new_host_is_appended_and_ssh_keygen_finds_it(tmp_path: Path) -> None:
    need_tools("ssh-keygen")
    path = tmp_path / "known_hosts"
    record_host(str(path), ["Host", "10.0.0.1"], KEY, hashed=False)
    assert path.read_text() == f"host,10.0.0.1 {KEY.line}\n"
    assert found_by_ssh_keygen(path, "host") == [1]


def test_hashed_host_is_found_by_ssh_keygen_and_by_us(tmp_path: Path) -> None:
    need_tools("ssh-keygen")
    path = tmp_path / "known_hosts"
    record_host(str(path), ["[Host]:443", "[10.0.0.1]:443"], KEY, hashed=True)
    text = path.read_text()
    assert "host" not in text.lower()
    assert found_by_ssh_keygen(path, "[host]:443") == [1]
    assert found_by_ssh_keygen(path, "[10.0.0.1]:443") == [2]
    known = KnownHosts.from_files([str(path)])
    assert known.look_up("[HOST]:443", KEY).status is HostStatus.FOUND
    subprocess.run(["ssh-keygen", "-R", "[host]:443", "-f", path], check=True, capture_output=True)
    assert len(path.read_text().splitlines()) == 1


def test_hash_never_repeats() -> None:
    assert hash_host("host") != hash_host("host")


def test_last_line_without_newline_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"first {KEY.line}")
    record_host(str(path), ["second"], OTHER, hashed=False)
    assert path.read_text() == f"first {KEY.line}\nsecond {OTHER.line}\n"


def test_directory_is_made_for_the_user_alone(tmp_path: Path) -> None:
    path = tmp_path / ".ssh" / "known_hosts"
    record_host(str(path), ["host"], KEY, hashed=False)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.exists()


def test_recording_to_dev_null_is_no_error() -> None:
    record_host("/dev/null", ["host"], KEY, hashed=False)


def test_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KnownHostsError):
        record_host(str(tmp_path), ["host"], KEY, hashed=False)
    with pytest.raises(KnownHostsError):
        record_host(str(tmp_path / "a" / "b" / "known_hosts"), ["host"], KEY, hashed=False)


# --------------------------------------------------------------------------- replacing


def test_keys_of_a_host_are_replaced_and_all_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    kept = [
        "# comment\n",
        f"other {OTHER.line}\n",
        f"host,other {OTHER.line}\n",
        f"h* {OTHER.line}\n",
        f"@revoked host {OTHER.line}\n",
        f"host {KEY.line} kept with its comment\n",
        "host garbage\n",
    ]
    dropped = [f"host {OTHER.line}\n", f"host,10.0.0.1 {THIRD.line}\n", f"HOST {THIRD.line}\n"]
    dropped.append(f"{hash_host('host')} {THIRD.line}\n")
    path.write_text("".join(kept[:3] + dropped + kept[3:]))
    path.chmod(0o640)
    names = ["host", "10.0.0.1"]
    assert replace_host_keys(str(path), names, [KEY, ECDSA], hashed=False)
    added = [f"10.0.0.1 {KEY.line}\n", f"host,10.0.0.1 {ECDSA.line}\n"]
    assert path.read_text() == "".join([*kept, *added])
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "known_hosts.old").read_text() == "".join(kept[:3] + dropped + kept[3:])
    assert sorted(os.listdir(tmp_path)) == ["known_hosts", "known_hosts.old"]


def test_a_name_with_an_address_goes_even_if_only_the_name_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"host,10.0.0.1 {OTHER.line}\nhost,other {OTHER.line}\n")
    assert replace_host_keys(str(path), ["host"], [KEY], hashed=False)
    assert path.read_text() == f"host,other {OTHER.line}\nhost {KEY.line}\n"


@pytest.mark.parametrize(
    ("hosts", "is_about_one"),
    [
        ("host", True),
        ("|1|c2FsdA==|aGFzaA==", True),
        ("host,10.0.0.1", True),
        ("[host]:2222,[10.0.0.1]:2222", True),
        ("[host]:2222,[fe80::1]:2222", True),
        ("host,fe80::1", True),
        ("host,other", False),
        ("host,[other]:2222", False),
        ("host,10.0.0.1,10.0.0.2", False),
        ("h*", False),
        ("h?st", False),
        ("host,!other", False),
    ],
)
def test_which_lines_are_about_one_host(hosts: str, is_about_one: bool) -> None:
    assert is_plain(hosts) is is_about_one


def test_nothing_to_replace_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"host {KEY.line}")
    before = path.stat()
    assert not replace_host_keys(str(path), ["host"], [KEY], hashed=False)
    assert path.stat() == before


def test_added_key_follows_a_line_without_newline(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"host {KEY.line}")
    assert replace_host_keys(str(path), ["host"], [KEY, OTHER], hashed=True)
    assert path.read_text().startswith(f"host {KEY.line}\n|1|")


CHANGE = """\
import sys
from sshoq.auth import known_hosts
from sshoq.auth.known_hosts import record_host, replace_host_keys
from sshoq.auth.keys import parse_public_key

known_hosts.LOCK_TRIES = 6000  # however slow the machine is
path, number, line = sys.argv[1:]
key = parse_public_key(line)
sys.stdin.read()  # until all are there
for count in range(20):
    record_host(path, [f"recorded-{number}-{count}"], key, hashed=False)
    replace_host_keys(path, [f"learnt-{number}-{count}"], [key], hashed=False)
"""


def test_nothing_is_lost_when_many_change_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text("")
    key = make_key(tmp_path, "ed25519")
    line = public_line(key)
    command = [sys.executable, "-c", CHANGE, str(path)]
    root = Path(__file__).parents[2]
    reader, writer = os.pipe()
    running = [
        subprocess.Popen([*command, str(number), line], stdin=reader, cwd=root)
        for number in range(4)
    ]
    os.close(reader)
    os.close(writer)
    assert [process.wait(timeout=60) for process in running] == [0] * 4
    found = {line.split()[0] for line in path.read_text().splitlines()}
    names = {f"{number}-{count}" for number in range(4) for count in range(20)}
    assert found == {f"{word}-{name}" for word in ("recorded", "learnt") for name in names}
    files = {"ed25519", "ed25519.pub", "known_hosts", "known_hosts.old"}
    assert set(os.listdir(tmp_path)) == files


def test_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "known_hosts"
    real.write_text("")
    link.symlink_to(real)
    assert replace_host_keys(str(link), ["host"], [KEY], hashed=False)
    assert link.is_symlink()
    assert real.read_text() == f"host {KEY.line}\n"


def test_replacing_in_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KnownHostsError):
        replace_host_keys(str(tmp_path / "none"), ["host"], [KEY], hashed=False)


def test_a_file_that_cannot_be_read_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"other {OTHER.line}\n")
    real = builtins.open

    def fail(name: Any, *rest: Any, **options: Any) -> Any:
        if name == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(name, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", fail)
        with pytest.raises(KnownHostsError, match="Input/output error"):
            replace_host_keys(str(path), ["host"], [KEY], hashed=False)
    assert path.read_text() == f"other {OTHER.line}\n"


RECORD = """
import resource, sys
from sshoq.auth.known_hosts import KnownHostsError, parse_public_key, record_host
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    record_host(sys.argv[1], ["host"], parse_public_key(sys.argv[2]), hashed=False)
except KnownHostsError as error:
    print(error)
"""


def test_what_is_recorded_by_half_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "known_hosts")
    done = subprocess.run(
        [sys.executable, "-c", RECORD, path, KEY.line],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (f"{path}: File too large\n", "")


# --------------------------------------------------------------------------- Go's pins


def test_go_pins_are_read_by_host_port_and_path(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    one, two = base64.b64encode(b"one").decode(), base64.b64encode(b"two").decode()
    path.write_text(
        f"host:443/p x509-certificate {one}\n"
        f"host:443/p  x509-certificate\t{two}\n"
        f"host:443/p x509-certificate {two} extra\n"
        f"host:443/p ssh-ed25519 {two}\n"
        "host:443/p x509-certificate !!!\n"
        f"HOST:443/p x509-certificate {two}\n"
        f"::1:443/p x509-certificate {two}\n"
        f"host:443/p/ x509-certificate {two}\n"
    )
    assert read_go_pins(str(path), "host", 443, "/p") == [b"one", b"two"]
    assert read_go_pins(str(path), "::1", 443, "/p") == [b"two"]
    assert read_go_pins(str(path), "host", 444, "/p") == []
    assert read_go_pins(str(tmp_path / "none"), "host", 443, "/p") == []


def test_line_and_key_survive_a_round_trip() -> None:
    assert parse_public_key(KEY.line) == KEY
