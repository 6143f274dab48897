"""authorized_keys: every option of sshd(8), and what must grant nothing."""

from __future__ import annotations

import os
import stat
import string
import time
from binascii import b2a_base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.authorized_keys import (
    ANY_TUNNEL,
    AuthorizedKey,
    GroupRule,
    Identity,
    KeyRights,
    OidcIdentity,
    OptionError,
    Permission,
    RefusedLine,
    _split_options,
    _take_quoted,
    distrust_reason,
    lines_with,
    mark_of,
    no_group,
    parse_options,
    parse_time,
    read_line,
)
from sshoq.auth.keys import PublicKey
from sshoq.wire import put_string

ALPHABET = f"{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}+/"

KEY = PublicKey(put_string(b"ssh-ed25519") + put_string(b"k" * 32))
DSA = PublicKey(put_string(b"ssh-dss") + put_string(b"x")).line


def read_all(data: bytes) -> list[Identity]:
    return [read_line(line) for line in lines_with(data)]


def read(*lines: str) -> list[Identity]:
    return read_all("\n".join(lines).encode())


def only(line: str) -> Identity:
    (identity,) = read(line)
    return identity


def rights_of(options: str) -> KeyRights:
    identity = only(f"{options} {KEY.line} a comment")
    assert isinstance(identity, AuthorizedKey)
    assert identity.key == KEY
    return identity.rights


# --------------------------------------------------------------------------- lines


def test_plain_key_may_do_everything() -> None:
    assert only(KEY.line) == AuthorizedKey(1, KEY, KeyRights())


def test_empty_lines_and_comments_grant_nothing_and_are_counted() -> None:
    identities = read("", "# comment", "  \t", f"  {KEY.line} me", f"\t# {KEY.line}", KEY.line)
    assert [identity.line for identity in identities] == [4, 6]
    assert isinstance(identities[0], AuthorizedKey)
    assert identities[0].key.comment == "me"


def test_windows_line_ends_do_not_matter() -> None:
    assert only(f"{KEY.line}\r") == AuthorizedKey(1, KEY, KeyRights())


def test_oidc_line_names_a_person() -> None:
    line = "oidc my-client https://issuer.example me@example.org"
    assert only(line) == OidcIdentity(1, "my-client", "https://issuer.example", "me@example.org")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("oidc my-client https://issuer.example", "oidc wants"),
        ("oidc a b c d", "oidc wants"),
        ("garbage", "unknown key option"),
        (f"ssh-rsa {KEY.base64}", "no"),
        (f"{KEY.line[:-3]}", ""),
        (f'principals="a" {KEY.line}', "principals on non-CA key"),
        (f"no-such-option {KEY.line}", "bad key options: unknown key option"),
        (f"restrict,no-such-option {KEY.line}", "unknown key option"),
        (f'command="x {KEY.line}', "missing end quote"),
        (f"command=x {KEY.line}", "missing start quote"),
        (f'command="a",command="b" {KEY.line}', 'multiple "command" clauses'),
        (f'from="a",from="a" {KEY.line}', 'multiple "from" clauses'),
        (f'principals="a",principals="b" {KEY.line}', 'multiple "principals" clauses'),
        (f"restrict, {KEY.line}", "unexpected end-of-options"),
        (f",restrict {KEY.line}", "unknown key option"),
        (f"restrict,,pty {KEY.line}", "unknown key option"),
        (f'restrict="yes" {KEY.line}', "unknown key option"),
        (f"no-restrict {KEY.line}", "unknown key option"),
        (f"no-cert-authority {KEY.line}", "unknown key option"),
        (f"command {KEY.line}", "unknown key option"),
        (f'no-command="x" {KEY.line}', "unknown key option"),
        (f'command="a"b {KEY.line}', "unknown key option"),
        (f'environment="NAME" {KEY.line}', "invalid environment string"),
        (f'environment="=x" {KEY.line}', "invalid environment string"),
        (f'environment="A B=x" {KEY.line}', "invalid environment string"),
        (f'environment="Ä=x" {KEY.line}', "invalid environment string"),
        (f'expiry-time="tomorrow" {KEY.line}', "invalid expires time"),
        (f'permitopen="host" {KEY.line}', "invalid permission port"),
        (f'permitopen="host:0" {KEY.line}', "invalid permission port"),
        (f'permitopen="host:65536" {KEY.line}', "invalid permission port"),
        (f'permitopen="host:-1" {KEY.line}', "invalid permission port"),
        (f'permitopen=":22" {KEY.line}', "invalid permission hostname"),
        (f'permitopen="::1:22" {KEY.line}', "invalid permission hostname"),
        (f'permitopen="[::1]22" {KEY.line}', "invalid permission port"),
        (f'permitlisten="x" {KEY.line}', "invalid permission port"),
        (f'tunnel="x" {KEY.line}', "invalid tun device"),
        (f'tunnel="-1" {KEY.line}', "invalid tun device"),
        (f'tunnel="2147483647" {KEY.line}', "invalid tun device"),
        ("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t", "bad key"),
        (DSA, "ssh-dss keys are not supported"),
        (f"{KEY.line} {'x' * 70000}", "too long"),
    ],
)
def test_doubtful_line_grants_nothing(line: str, reason: str) -> None:
    identity = only(line)
    assert isinstance(identity, RefusedLine)
    assert reason in identity.reason


def test_authority_is_told_apart() -> None:
    authority = only(f'cert-authority,principals="a,b" {KEY.line}')
    assert isinstance(authority, AuthorizedKey)
    assert authority.rights == KeyRights(certificate_authority=True, principals="a,b")


def test_doubtful_line_does_not_hide_the_next_one() -> None:
    refused, good = read(f'command="x {KEY.line}', KEY.line)
    assert isinstance(refused, RefusedLine)
    assert good == AuthorizedKey(2, KEY, KeyRights())


def test_lines_are_found_by_what_stands_in_them() -> None:
    data = b"# mark\n\n one mark \r\nother\n\tmark again\n"
    assert [tuple(line) for line in lines_with(data, (b"mark",))] == [
        (3, b"one mark"),
        (5, b"mark again"),
    ]
    assert list(lines_with(b"mark\n" * (1 << 20), (b"mark",))) == []


def loose_ends(blob: bytes) -> list[str]:
    """Every way in which base64 can be written: the bits behind the end are nobody's."""
    text = b2a_base64(blob, newline=False).decode()
    letters = text.rstrip("=")
    spare = {0: 1, 1: 4, 2: 16}[len(text) - len(letters)]
    last = ALPHABET.index(letters[-1])
    return [letters[:-1] + ALPHABET[last + n] + text[len(letters) :] for n in range(spare)]


@pytest.mark.parametrize("size", [30, 31, 32])
def test_the_mark_of_a_key_stands_in_every_line_of_it(size: int) -> None:
    numbers = put_string(b"\x01\0\x01") + put_string(b"\x7f" * (226 + size))
    key = PublicKey(put_string(b"ssh-rsa") + numbers)
    for text in loose_ends(key.blob):
        [line] = lines_with(f"no-pty ssh-rsa {text} me".encode(), (mark_of(key),))
        identity = read_line(line)
        assert isinstance(identity, RefusedLine) or identity.key == key  # type: ignore[union-attr]


def split_letter_by_letter(line: str) -> tuple[str, str] | None:
    """As sshd does it; None: a quote is missing."""
    quoted, position = False, 0
    while position < len(line) and (quoted or line[position] not in " \t"):
        if line.startswith('\\"', position):
            position += 1
        elif line[position] == '"':
            quoted = not quoted
        position += 1
    return None if quoted else (line[:position], line[position:])


@given(st.text('" \\,=\ta', max_size=12))
def test_options_end_where_sshd_sees_their_end(line: str) -> None:
    try:
        found = _split_options(line)
    except OptionError:
        assert split_letter_by_letter(line) is None
    else:
        assert found == split_letter_by_letter(line)


@given(st.text('" \\,\na', max_size=12))
def test_a_value_ends_at_the_first_quote_that_has_no_backslash(text: str) -> None:
    ends = [at for at in range(len(text)) if text[at] == '"' and text[at - 1 : at] != "\\"]
    if not ends:
        with pytest.raises(OptionError):
            _take_quoted(f'"{text}')
    else:
        value = text[: ends[0]].replace('\\"', '"')
        assert _take_quoted(f'"{text}') == (value, text[ends[0] + 1 :])


def test_huge_file_grants_nothing() -> None:
    data = f"{KEY.line}\n".encode() * 60000
    assert read_all(data) == []


# --------------------------------------------------------------------------- options

PERMISSIONS = ("port_forwarding", "agent_forwarding", "x11_forwarding", "pty", "user_rc")


def permissions(rights: KeyRights) -> set[str]:
    return {name for name in PERMISSIONS if getattr(rights, name)}


@pytest.mark.parametrize("name", PERMISSIONS)
def test_each_permission_can_be_taken_and_given_back(name: str) -> None:
    option = name.replace("_", "-")
    assert permissions(rights_of(f"no-{option}")) == set(PERMISSIONS) - {name}
    assert permissions(rights_of(f"restrict,{option}")) == {name}
    assert permissions(rights_of(f"{option},restrict")) == set()
    assert permissions(rights_of(f"no-{option},{option}")) == set(PERMISSIONS)


def test_restrict_takes_every_permission() -> None:
    assert permissions(rights_of("restrict")) == set()


def test_names_of_options_may_be_in_capitals() -> None:
    rights = rights_of('RESTRICT,Pty,COMMAND="x"')
    assert (permissions(rights), rights.command) == ({"pty"}, "x")


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ('command="echo hello"', "command", "echo hello"),
        (r'command="echo \"a b\" #x"', "command", 'echo "a b" #x'),
        (r'command="a\b\\c"', "command", "a\\b\\\\c"),
        ('command=""', "command", ""),
        ('from="10.0.0.0/8,!10.1.*,host"', "from_patterns", "10.0.0.0/8,!10.1.*,host"),
        ('environment="A_1=x=y"', "environment", {"A_1": "x=y"}),
        (
            'environment="A=1",environment="B=",environment="A=2"',
            "environment",
            {"A": "1", "B": ""},
        ),
        ('expiry-time="20300101Z"', "expires", 1893456000),
        ('expiry-time="20310101Z",expiry-time="20300101Z"', "expires", 1893456000),
        ('permitopen="host:22"', "permit_open", [Permission("host", 22)]),
        ('permitopen="[::1]:*"', "permit_open", [Permission("::1", 0)]),
        (
            'permitopen="a:1",permitopen="*:2"',
            "permit_open",
            [Permission("a", 1), Permission("*", 2)],
        ),
        ('permitlisten="8080"', "permit_listen", [Permission("*", 8080)]),
        ('permitlisten="localhost:*"', "permit_listen", [Permission("localhost", 0)]),
        ('tunnel="5"', "tunnel", 5),
        ('tunnel="any"', "tunnel", ANY_TUNNEL),
        ("no-touch-required", "touch_required", False),
        ("verify-required", "verify_required", True),
    ],
)
def test_option_sets_its_right_and_nothing_else(options: str, name: str, value: object) -> None:
    rights = rights_of(options)
    assert getattr(rights, name) == value
    setattr(rights, name, getattr(KeyRights(), name))
    assert rights == KeyRights()


def test_key_is_good_up_to_its_last_second() -> None:
    rights = rights_of('expiry-time="20300101Z"')
    assert not rights.is_expired(1893456000)
    assert rights.is_expired(1893456001)
    assert not rights_of("restrict").is_expired(1e12)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("20200229Z", 1582934400),
        ("202002291230Z", 1582979400),
        ("20200229123045Z", 1582979445),
        ("20200229123045utc", 1582979445),
        ("20200229123045", 1582979445 + 3600 * 5),
        ("20200229", 1582934400 + 3600 * 5),
    ],
)
def test_times_are_local_unless_they_say_utc(
    monkeypatch: pytest.MonkeyPatch, text: str, wanted: int
) -> None:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        assert parse_time(text) == wanted
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    ["", "Z", "2020", "20201301", "20200132", "202001012460", "20200101000", "2020010100000000",
     "19691231", "\uff12\uff10\uff12\uff10\uff10\uff11\uff10\uff11", "-2020010", "20200101 0"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(OptionError):
        parse_time(text)


@given(st.binary(max_size=300))
def test_any_bytes_are_read(data: bytes) -> None:
    for identity in read_all(data):
        assert isinstance(identity, AuthorizedKey | OidcIdentity | RefusedLine)


@given(st.text(alphabet='abn-o,="\\ cmdrestipy:*1', max_size=60))
def test_any_options_are_rights_or_an_error(text: str) -> None:
    try:
        parse_options(text)
    except OptionError:
        return


@given(st.text(alphabet=st.characters(exclude_characters="\n\r\0"), max_size=40))
def test_any_command_survives_its_quotes(command: str) -> None:
    if command.endswith("\\") or '\\"' in command:
        return  # a backslash cannot be written before a quote, in OpenSSH neither
    quoted = command.replace('"', '\\"')
    try:
        line = f'command="{quoted}" {KEY.line}'.encode()
    except UnicodeEncodeError:
        return
    (identity,) = read_all(line)
    assert isinstance(identity, AuthorizedKey)
    assert identity.rights.command == command


# --------------------------------------------------------------------------- StrictModes


def status(mode: int, uid: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, 0, 0, 0, 0, 0))


DIRECTORY, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
PATH, HOME = "/home/me/.ssh/authorized_keys", "/home/me"


def reason(group_rule: GroupRule = no_group, /, **changed: tuple[int, int]) -> str | None:
    """What is said when the named place has this mode and owner."""
    places = {
        "file": PATH,
        "directory": "/home/me/.ssh",
        "home": HOME,
        "above": "/home",
        "root": "/",
    }
    table: dict[int | str, os.stat_result]
    table = {path: status(DIRECTORY, 0) for path in places.values()}
    table[PATH] = status(FILE, 1000)
    table.update({places[name]: status(*value) for name, value in changed.items()})
    return distrust_reason(
        PATH,
        1000,
        HOME,
        stat=table.__getitem__,
        realpath=lambda path: path,
        only_owner_in_group=group_rule,
    )


def test_file_of_the_user_in_safe_directories_is_trusted() -> None:
    assert reason() is None
    assert reason(file=(FILE, 0), directory=(DIRECTORY, 1000), home=(DIRECTORY, 1000)) is None


def test_what_is_above_the_home_does_not_matter() -> None:
    assert reason(above=(stat.S_IFDIR | 0o777, 5), root=(stat.S_IFDIR | 0o777, 5)) is None


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o602])
def test_file_that_others_can_write_is_not_trusted(mode: int) -> None:
    assert reason(file=(stat.S_IFREG | mode, 1000)) == f"bad ownership or modes for file {PATH}"


@pytest.mark.parametrize("place", ["directory", "home"])
@pytest.mark.parametrize(("mode", "uid"), [(0o775, 1000), (0o757, 0), (0o755, 1001)])
def test_directory_that_others_can_change_is_not_trusted(place: str, mode: int, uid: int) -> None:
    said = reason(**{place: (stat.S_IFDIR | mode, uid)})
    assert said is not None
    assert said.startswith("bad ownership or modes for directory /home/me")


@pytest.mark.parametrize(
    ("place", "kind"), [("file", stat.S_IFREG), ("directory", stat.S_IFDIR), ("home", stat.S_IFDIR)]
)
def test_what_the_users_own_group_may_write_is_trusted(place: str, kind: int) -> None:
    def ask(mode: int, uid: int) -> str | None:
        return reason(lambda place, status: True, **{place: (kind | mode, uid)})

    assert ask(0o775, 1000) is None
    assert ask(0o777, 1000) is not None
    assert ask(0o775, 0) is not None  # root's own group is no matter of the user's
    assert ask(0o775, 1001) is not None


def test_file_of_somebody_else_is_not_trusted() -> None:
    assert reason(file=(FILE, 1001)) == f"bad ownership or modes for file {PATH}"


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_only_regular_files_are_trusted(kind: int) -> None:
    assert reason(file=(kind | 0o600, 1000)) == f"{PATH} is not a regular file"


def test_outside_the_home_every_directory_counts() -> None:
    def look(path: str) -> os.stat_result:
        modes = {"/etc/keys/me": FILE, "/etc/keys": DIRECTORY, "/etc": DIRECTORY, "/": DIRECTORY}
        return status(modes[path] | (0o002 if path == "/" else 0), 0)

    arguments: dict[str, Any] = {"stat": look, "realpath": lambda path: path}
    for home in (HOME, None):
        said = distrust_reason("/etc/keys/me", 1000, home, **arguments)
        assert said == "bad ownership or modes for directory /"


def test_real_files(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text("")
    path.chmod(0o600)
    tmp_path.chmod(0o700)
    assert distrust_reason(str(path), os.getuid(), str(tmp_path)) is None
    link = tmp_path / "link"
    link.symlink_to(path)
    assert distrust_reason(str(link), os.getuid(), str(tmp_path)) is None
    tmp_path.chmod(0o770)
    said = distrust_reason(str(path), os.getuid(), str(tmp_path))
    assert said == f"bad ownership or modes for directory {tmp_path}"


def test_missing_file_is_not_trusted(tmp_path: Path) -> None:
    said = distrust_reason(str(tmp_path / "none"), os.getuid(), None)
    assert said is not None
    assert "No such file" in said
