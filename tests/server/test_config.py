"""sshd_config's language: compared with sshd itself where it is installed, and by its rules."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.server import config_reader
from sshoq.server.config import ConfigError, Options, ServerConfig
from sshoq.server.config_dump import dump, login_for_test, parse_test_spec
from sshoq.server.config_reader import load
from sshoq.server.keywords import (
    ACTED,
    DEPRECATED,
    KEYWORDS,
    LATER,
    REFUSED,
    RHOSTS,
    SILENT,
    UNSUPPORTED,
    VOID,
    attribute_name,
)
from sshoq.server.values import FLAG

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")

NOT_COMPARED = {
    "port": "another default",
    "listenaddress": "another default",
    "usepam": "another default",
    "pidfile": "another default",
    "hostkey": "ours lists only what was configured",
    "persourcenetblocksize": "sshd 9.2 takes a missing IPv6 length for 0, that is one source",
}


@pytest.fixture
def host_key(tmp_path: Path) -> Path:
    path = tmp_path / "host_key"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def write(directory: Path, text: str | bytes, name: str = "config") -> str:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def read(directory: Path, text: str) -> ServerConfig:
    return load(write(directory, text), root=True)


def complaint(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(directory, text)
    return [line.replace(str(directory) + "/", "") for line in caught.value.lines]


def ours(path: str, spec: str | None) -> dict[str, list[str]]:
    config = load(path, root=True)
    facts = parse_test_spec(spec, {}) if spec else {}
    return by_keyword(dump(config, login_for_test(config, facts)))


def by_keyword(lines: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


def theirs(path: str, key: Path, spec: str | None) -> dict[str, list[str]]:
    connection = ["-C", spec] if spec else []
    done = subprocess.run(
        [str(SSHD), "-T", "-f", path, "-h", str(key), *connection],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return by_keyword(done.stdout.splitlines())


# --------------------------------------------------------------------------- beside sshd

FULL = """\
Port 2022
Port 2023
ListenAddress 127.0.0.1
ListenAddress ::1
ListenAddress 127.0.0.1:99
ListenAddress [::1]:98
AllowUsers a b@c d@10.0.0.0/8
AllowUsers e
DenyUsers x
AllowGroups wheel "two words"
DenyGroups g
AcceptEnv LANG LC_*
AcceptEnv FOO
SetEnv A=1 "B=x y" C='q"r' A=2
SetEnv D=4
Subsystem sftp /usr/lib/openssh/sftp-server -l "a b"
Subsystem other /bin/true
AuthorizedKeysFile .ssh/a "/etc/x y/%u"
MaxStartups 5
PermitOpen a:1 [::1]:* b:http
PermitListen 80 *:90 host:8
LogLevel verbose
LoginGraceTime 1h30m
ClientAliveInterval = 90m
"ClientAliveCountMax" 5 # comment
PermitUserEnvironment LANG,LC*
StreamLocalBindMask 0077
GatewayPorts clientspecified
AllowTcpForwarding local
AllowStreamLocalForwarding all
PermitTunnel point-to-point
Banner /etc/issue.net
ForceCommand echo "hi  there" # not a comment
SyslogFacility LOCAL3
PermitRootLogin prohibit-password
PasswordAuthentication no
PerSourceMaxStartups 7
FingerprintHash md5
X11DisplayOffset 20
MaxAuthTries 3
MaxSessions 0
PubkeyAcceptedAlgorithms -ssh-rsa*,*cert*
ChrootDirectory /jail/%u
RevokedKeys /etc/ssh/revoked_keys
AuthenticationMethods publickey password
"""

MATCHES = """\
AllowUsers outside
AcceptEnv OUTSIDE
ForceCommand outside
Subsystem sftp internal-sftp
Match User foo Address 10.0.0.0/8
  ForceCommand ls   -l
  PermitRootLogin forced-commands-only
  X11Forwarding yes
  AcceptEnv INSIDE
  AllowUsers foo
  Banner none
Match user=foo,!bar
  ForceCommand second
  ChrootDirectory /x/%u
  AcceptEnv SECOND
Match Group root
  Banner /of-root
Match Host *.example.org
  MaxSessions 3
Match LocalAddress 192.0.2.1 LocalPort 2022
  MaxAuthTries 2
Match all
  PermitTTY no
  MaxSessions 4
"""

SINGLES = [
    "PermitRootLogin without-password",
    "AllowTcpForwarding remote",
    "AllowTcpForwarding all",
    "PermitTunnel ethernet",
    "PermitUserEnvironment yes",
    "AddressFamily inet",
    "AddressFamily inet6",
    "LoginGraceTime 0",
    "MaxStartups 5:20:10",
    "MaxStartups 5:20:5",
    "PerSourceMaxStartups none",
    "PidFile none",
    "Banner none",
    "RevokedKeys none",
    "ChrootDirectory none",
    "ForceCommand none",
    "ForceCommand none x",
    "ForceCommand internal-sftp -l INFO",
    "AuthorizedKeysFile none",
    "AuthorizedKeysFile none x",
    "PermitOpen none",
    "PermitOpen any",
    "PermitListen none",
    "PermitListen *",
    "PermitOpen :1 *:* [::1]:2",
    "StreamLocalBindMask 0177",
    "ClientAliveInterval 1w2d",
    "PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-256",
    "PubkeyAcceptedAlgorithms +ssh-rsa",
    "PubkeyAcceptedAlgorithms ^ssh-rsa",
    "PubkeyAcceptedKeyTypes ssh-ed25519",
    "HostKeyAlgorithms ssh-ed25519",
    "LogLevel QUIET",
    "LogLevel DEBUG1",
    "LogLevel debug3",
    "AuthenticationMethods any",
    "UsePAM yes",
    "DSAAuthentication no",
    'SetEnv "A=x\\"y"',
    "PrintMotd no\nPrintMotd yes",
    "printlastlog=no",
    "PermitTTY NO",
    "PermitUserEnvironment true",
    "PermitUserEnvironment YES",
    "Protocol 2",
]


def compare(path: str, key: Path, spec: str | None = None) -> None:
    left, right = ours(path, spec), theirs(path, key, spec)
    shared = [name for name in right if name in left and name not in NOT_COMPARED]
    assert len(shared) > 40
    assert {name: left[name] for name in shared} == {name: right[name] for name in shared}


@needs_sshd
def test_defaults_are_sshds(tmp_path: Path, host_key: Path) -> None:
    compare(write(tmp_path, "# nothing\n"), host_key)


@needs_sshd
@pytest.mark.parametrize("line", SINGLES)
def test_a_value_is_read_and_shown_as_sshd_does(tmp_path: Path, host_key: Path, line: str) -> None:
    compare(write(tmp_path, line + "\n"), host_key)


@needs_sshd
def test_a_whole_file_is_read_as_sshd_reads_it(tmp_path: Path, host_key: Path) -> None:
    path = write(tmp_path, FULL)
    compare(path, host_key)
    right = theirs(path, host_key, None)
    left = ours(path, None)
    for name in ("port", "listenaddress"):
        assert left[name] == right[name]


@needs_sshd
@pytest.mark.parametrize(
    "spec",
    [
        None,
        "user=foo,addr=10.1.1.1",
        "user=foo,addr=11.1.1.1",
        "user=bar,addr=10.1.1.1",
        "user=root,addr=::1",
        "user=x,host=a.example.org,addr=1.2.3.4",
        "user=x,addr=1.2.3.4,laddr=192.0.2.1,lport=2022",
        "user=x,addr=1.2.3.4,laddr=192.0.2.2,lport=2022",
    ],
)
def test_match_blocks_hold_as_with_sshd(tmp_path: Path, host_key: Path, spec: str | None) -> None:
    text = MATCHES if spec and "lport" in spec else MATCHES.replace(" LocalPort 2022", "")
    compare(write(tmp_path, text), host_key, spec)


WRONG = """\
Port 0
Port abc
Port 70000
Port
Port ""
Port 22 33
Foo bar
Foo
PermitRootLogin maybe
PermitRootLogin
PrintMotd maybe
StrictModes on
StrictModes true
LoginGraceTime x
LoginGraceTime ""
ClientAliveInterval 1x
MaxStartups 10:300:5
MaxStartups 10:30:9
MaxStartups 10:30
MaxStartups a
MaxStartups 0
MaxAuthTries x
MaxAuthTries -1
X11DisplayOffset 5 6
Match User
Match Foo x
Match
Match user "a b" host
Match All User a
Match User a All
Match LocalPort x
LogLevel x
SyslogFacility x
Subsystem a
Subsystem a ""
Subsystem "" b
AddressFamily x
ListenAddress
ListenAddress [::1]:foo
ListenAddress 1.2.3.4 rdomain x
ListenAddress 1.2.3.4 foo
PidFile "x
PidFile ""
Banner ""
Banner a b
SetEnv X
AcceptEnv A=1
AcceptEnv ""
AuthenticationMethods foo
AuthenticationMethods ,
AuthenticationMethods publickey,password any
AuthenticationMethods # publickey
ForceCommand
Include
Include # a
Include ""
PerSourceMaxStartups x
PerSourceNetBlockSize 33:128
AllowTcpForwarding maybe
PermitOpen foo
PermitOpen # foo:22
PermitOpen ""
PermitListen # 22
PermitOpen none a:1
PermitOpen 1
PermitOpen a:0
PermitOpen ::1:2
PermitListen a:b:c
PermitListen 0
PermitListen foo
AuthorizedKeysFile
AuthorizedKeysFile a ""
UsePAM yes no
AllowUsers root@1.2.3.4/8
AllowUsers
AllowUsers a ""
StreamLocalBindMask 999
PermitUserEnvironment foo bar
FingerprintHash x
PubkeyAcceptedAlgorithms x
HostKeyAlgorithms ssh-ed25519,x
""".splitlines()


@needs_sshd
@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_is_refused_in_sshds_words(tmp_path: Path, host_key: Path, line: str) -> None:
    path = write(tmp_path, line + "\n")
    done = subprocess.run(
        [str(SSHD), "-t", "-f", path, "-h", str(host_key)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert (list(caught.value.lines), caught.value.status) == (
        done.stderr.splitlines(),
        done.returncode,
    )


@needs_sshd
@pytest.mark.parametrize("option", ["Foo=1", "Port", "Port=abc", "PrintMotd maybe", "Banner a b"])
def test_a_wrong_option_is_refused_in_sshds_words(host_key: Path, option: str) -> None:
    done = subprocess.run(
        [str(SSHD), "-t", "-h", str(host_key), "-o", option],
        capture_output=True,
        text=True,
        timeout=30,
    )
    with pytest.raises(ConfigError) as caught:
        load(None, [option])
    assert list(caught.value.lines) == done.stderr.splitlines()
    assert caught.value.status == done.returncode


@needs_sshd
@pytest.mark.parametrize("name", sorted(DEPRECATED | UNSUPPORTED | SILENT))
def test_what_sshd_calls_old_is_passed_over_with_the_same_words(
    tmp_path: Path, host_key: Path, name: str
) -> None:
    path = write(tmp_path, f"{name} 2\n")
    done = subprocess.run(
        [str(SSHD), "-t", "-f", path, "-h", str(host_key)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0
    assert [note.text for note in load(path).notes] == done.stderr.splitlines()


# --------------------------------------------------------------------------- our own rules


def test_all_wrong_lines_are_named_before_it_gives_up(tmp_path: Path) -> None:
    assert complaint(tmp_path, "Foo 1\nPort 22\nBar 2\n") == [
        "config: line 1: Bad configuration option: Foo",
        "config: line 3: Bad configuration option: Bar",
        "config: terminating, 2 bad configuration options",
    ]


def test_a_bad_value_ends_the_reading_at_once(tmp_path: Path) -> None:
    assert complaint(tmp_path, "Foo 1\nPrintMotd maybe\nBar 2\n") == [
        "config: line 1: Bad configuration option: Foo",
        'config line 2: unsupported option "maybe".',
    ]


def test_a_global_keyword_is_not_allowed_in_a_match_block(tmp_path: Path) -> None:
    assert complaint(tmp_path, "Match User a\nListenAddress ::\n") == [
        "config line 2: Directive 'ListenAddress' is not allowed within a Match block"
    ]
    assert read(tmp_path, "Match all\nPrintMotd no\n").print_motd is False


@pytest.mark.parametrize(
    "name", sorted(row.name for row in KEYWORDS.values() if row.treatment is REFUSED)
)
def test_a_limit_that_is_not_enforced_stops_the_start(tmp_path: Path, name: str) -> None:
    assert complaint(tmp_path, f"{name} /x\n") == [
        f'config line 1: Unsupported option "{name}": sshoq-server cannot enforce it.'
    ]
    assert complaint(tmp_path, f"Match all\n{name} /x\n")
    read(tmp_path, f"{name} none\n")


@pytest.mark.parametrize(
    ("keyword", "value", "lines"),
    [
        ("ChannelTimeout", "a", ["config line 1: invalid channel timeout a"]),
        ("ChannelTimeout", "=5", ["config line 1: invalid channel timeout 5"]),
        ("ChannelTimeout", "session=x", ["config line 1: invalid channel timeout session=x"]),
        (
            "ChannelTimeout",
            "none session=1",
            [
                'config line 1: keyword ChannelTimeout "none" argument must appear alone.',
                "config: terminating, 1 bad configuration options",
            ],
        ),
        ("UnusedConnectionTimeout", "x", ["config line 1: invalid time value."]),
    ],
)
def test_timeouts_that_mean_nothing(
    tmp_path: Path, keyword: str, value: str, lines: list[str]
) -> None:
    assert complaint(tmp_path, f"{keyword} {value}\n") == lines


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("ChannelTimeout none", "channeltimeout none"),
        ("ChannelTimeout session:*=5m x11=0", "channeltimeout session:*=5m x11=0"),
        ("UnusedConnectionTimeout none", "unusedconnectiontimeout none"),
        ("UnusedConnectionTimeout 1m30", "unusedconnectiontimeout 90"),
    ],
)
def test_timeouts_are_shown(tmp_path: Path, line: str, shown: str) -> None:
    config = read(tmp_path, f"Match User ann\n{line}\n")
    assert shown in dump(config, config.for_connection(user="ann"))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("none", "none"),
        ("touch-required", "touch-required"),
        ("Verify-Required none touch-required", "touch-required verify-required"),
    ],
)
def test_demands_on_fido_keys_add_up(tmp_path: Path, words: str, shown: str) -> None:
    config = read(tmp_path, f"PubkeyAuthOptions {words}\n")
    assert f"pubkeyauthoptions {shown}" in dump(config, config.for_connection())


def test_an_unknown_demand_on_fido_keys_is_a_bad_line(tmp_path: Path) -> None:
    assert complaint(tmp_path, "PubkeyAuthOptions verify\n") == [
        "config line 1: unsupported PubkeyAuthOptions option verify",
        "config: terminating, 1 bad configuration options",
    ]


def test_authorities_sign_by_the_algorithms_that_are_left(tmp_path: Path) -> None:
    default = read(tmp_path, "").ca_signature_algorithms.split(",")
    assert "ssh-rsa" not in default
    assert not [name for name in default if "cert" in name]
    for text, names in (
        ("-ecdsa-*,sk-*", ["ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256"]),
        ("ssh-ed25519", ["ssh-ed25519"]),
        ("+ssh-rsa", [*default, "ssh-rsa"]),
    ):
        config = read(tmp_path, f"CASignatureAlgorithms {text}\n")
        assert config.ca_signature_algorithms.split(",") == names


@pytest.mark.parametrize(
    ("algorithm", "accepted"),
    [
        ("ssh-rsa-cert-v01@openssh.com", "rsa-sha2-256-cert-v01@openssh.com"),
        ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519-cert-v01@openssh.com"),
        ("sk-ssh-ed25519@openssh.com", "sk-ssh-ed25519@openssh.com"),
    ],
)
def test_certificates_are_accepted_by_their_own_names(
    tmp_path: Path, algorithm: str, accepted: str
) -> None:
    assert read(tmp_path, "").accepts_key(algorithm)
    assert read(tmp_path, f"PubkeyAcceptedAlgorithms {accepted}\n").accepts_key(algorithm)
    plain = read(tmp_path, "PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-256\n")
    assert not plain.accepts_key(algorithm)


@pytest.mark.parametrize(
    ("text", "lists"),
    [
        ("", (("publickey",), ("password",), ("keyboard-interactive",))),
        (
            "AuthenticationMethods any",
            (("publickey",), ("password",), ("keyboard-interactive",)),
        ),
        ("PasswordAuthentication no", (("publickey",), ("keyboard-interactive",))),
        ("UsePAM no", (("publickey",), ("password",))),
        ("KbdInteractiveAuthentication no", (("publickey",), ("password",))),
        ("ChallengeResponseAuthentication no", (("publickey",), ("password",))),
        ("AuthenticationMethods keyboard-interactive", (("keyboard-interactive",),)),
        (
            "AuthenticationMethods publickey,keyboard-interactive:bsdauth password",
            (("password",),),
        ),
        ("AuthenticationMethods publickey,password", (("publickey", "password"),)),
        (
            "AuthenticationMethods publickey,publickey password publickey,keyboard-interactive:pam",
            (
                ("publickey", "publickey"),
                ("password",),
                ("publickey", "keyboard-interactive"),
            ),
        ),
        (
            "AuthenticationMethods publickey,password publickey\nPasswordAuthentication no",
            (("publickey",),),
        ),
    ],
)
def test_methods_may_be_wanted_one_after_another(
    tmp_path: Path, text: str, lists: tuple[tuple[str, ...], ...]
) -> None:
    assert read(tmp_path, f"{text}\n").for_connection(user="a").method_lists == lists


@pytest.mark.parametrize(
    ("lists", "others", "disabled"),
    [
        ("keyboard-interactive", "UsePAM no", ["keyboard-interactive"]),
        ("keyboard-interactive", "KbdInteractiveAuthentication no", ["keyboard-interactive"]),
        ("keyboard-interactive:skey", "", ["keyboard-interactive:skey"]),
        ("publickey,hostbased password,none", "", ["hostbased", "none"]),
        ("publickey,password", "PasswordAuthentication no", ["password"]),
    ],
)
def test_methods_of_which_no_list_can_be_met_stop_the_start(
    tmp_path: Path, lists: str, others: str, disabled: list[str]
) -> None:
    text = f"AuthenticationMethods {lists}\n{others}\nUsePAM yes\n"  # the first UsePAM counts
    assert complaint(tmp_path, text) == [
        *(
            f'Disabled method "{name}" in AuthenticationMethods list "{one}"'
            for name, one in zip(disabled, lists.split(), strict=True)
        ),
        "AuthenticationMethods cannot be satisfied by enabled authentication methods",
    ]


@pytest.mark.parametrize("words", ["publickey,", "key,password", "publickey any"])
def test_methods_must_be_known(tmp_path: Path, words: str) -> None:
    assert "AuthenticationMethods" in complaint(tmp_path, f"AuthenticationMethods {words}\n")[-1]


def test_authentication_methods_switch_the_others_off(tmp_path: Path) -> None:
    text = (
        "Match User a\nAuthenticationMethods publickey\nMatch User b\nAuthenticationMethods none\n"
    )
    config = read(tmp_path, text)
    only_keys = config.for_connection(user="a")
    assert (only_keys.pubkey_authentication, only_keys.password_authentication) == (True, False)
    nothing = config.for_connection(user="b")
    assert (nothing.pubkey_authentication, nothing.password_authentication) == (False, False)
    assert config.for_connection(user="c").password_authentication is True


@pytest.mark.parametrize(
    ("treatment", "name"),
    [
        (row.treatment, row.name)
        for row in KEYWORDS.values()
        if row.treatment in (VOID, LATER) and row.kind not in (FLAG, RHOSTS)
    ],
)
def test_what_is_not_acted_upon_is_noted(tmp_path: Path, treatment: str, name: str) -> None:
    """One value for each that is right."""
    value = {
        "Ciphers": "aes128-ctr",
        "Compression": "delayed",
        "GSSAPIKexAlgorithms": "gss-nistp256-sha256-",
        "HostbasedAcceptedAlgorithms": "ssh-ed25519",
        "IPQoS": "ef none",
        "KexAlgorithms": "+curve25519-sha256",
        "Macs": "-hmac-sha1",
        "PermitTunnel": "yes",
        "RekeyLimit": "default 1h",
    }.get(name, "whatever")
    notes = read(tmp_path, f"{name} {value}\n").notes
    assert [note.text.partition(": ")[2] for note in notes] == [f"{name}: {treatment}"]


def test_own_keywords(tmp_path: Path) -> None:
    config = read(tmp_path, "URLPath /secret\nCertificate /c\nCertificateKey /k\nDisableSFTP yes\n")
    assert (config.url_path, config.certificate, config.certificate_key) == ("/secret", "/c", "/k")
    assert config.disable_sftp is True
    assert config.congestion_control == "bbr"
    assert read(tmp_path, "CongestionControl cubic\n").congestion_control == "cubic"
    assert complaint(tmp_path, "CongestionControl reno\n")
    assert "slash" in complaint(tmp_path, "URLPath secret\n")[0]
    assert complaint(tmp_path, "Certificate /c\n") == [
        "Certificate and CertificateKey must be given together"
    ]


def test_relative_files_are_where_the_server_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = read(tmp_path, "HostKey key\nBanner b\nAuthorizedKeysFile keys\n")
    assert config.host_key == (f"{tmp_path}/key",)
    assert config.banner == f"{tmp_path}/b"
    assert config.authorized_keys_file == ("keys",)


def test_penalties_are_merged_by_name(tmp_path: Path) -> None:
    config = read(
        tmp_path, "PerSourcePenalties authfail:1m max:5m\nPerSourcePenalties authfail:2 crash:7\n"
    )
    penalties = config.per_source_penalties
    assert (penalties["authfail"], penalties["max"], penalties["crash"]) == (60, 300, 7)
    assert penalties["noauth"] == 1
    assert "invalid PerSourcePenalties" in complaint(tmp_path, "PerSourcePenalties foo:1\n")[0]
    assert read(tmp_path, "PerSourcePenalties no\n").per_source_penalties["enabled"] is False


def test_subsystems_of_a_match_block_come_before_those_outside(tmp_path: Path) -> None:
    config = read(tmp_path, "Subsystem a 1\nSubsystem b 2\nMatch User u\nSubsystem a 3\n")
    assert config.for_connection(user="u").subsystem == {"a": "3", "b": "2"}
    assert config.subsystem == {"a": "1", "b": "2"}
    assert complaint(tmp_path, "Subsystem a 1\nSubsystem a 2\n") == [
        "config line 2: Subsystem 'a' already defined."
    ]


def test_invalid_users_can_be_matched(tmp_path: Path) -> None:
    config = read(tmp_path, "Match Invalid-User\nRefuseConnection yes\n")
    assert config.for_connection(user="x", invalid_user=True).refuse_connection is True
    assert config.for_connection(user="x").refuse_connection is False


def test_groups_are_matched_by_name_and_a_negated_one_vetoes(tmp_path: Path) -> None:
    config = read(tmp_path, "Match Group adm*,!admx\nBanner /b\n")
    assert config.for_connection(user="u", groups=["users", "adm"]).banner == "/b"
    assert config.for_connection(user="u", groups=["adm", "admx"]).banner is None
    assert config.for_connection(user="u").banner is None


def test_the_host_is_the_address_unless_a_name_is_known(tmp_path: Path) -> None:
    config = read(
        tmp_path, "Match Host 192.0.2.*\nBanner /a\nMatch Host *.Example.org\nBanner /n\n"
    )
    assert config.for_connection(user="u", address="192.0.2.7").banner == "/a"
    assert config.for_connection(user="u", address="192.0.2.7", host="a.example.ORG").banner == "/n"


def test_accepted_keys(tmp_path: Path) -> None:
    config = read(tmp_path, "PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-*\n")
    accepted = ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"]
    assert [config.accepts_key(name) for name in accepted] == [True, True, False]


def test_user_environment_is_a_list_of_patterns(tmp_path: Path) -> None:
    assert read(tmp_path, "").accepts_user_environment("LANG") is False
    assert read(tmp_path, "PermitUserEnvironment yes\n").accepts_user_environment("X") is True
    some = read(tmp_path, "PermitUserEnvironment LC_*,LANG\n")
    assert some.accepts_user_environment("LC_ALL") is True
    assert some.accepts_user_environment("PATH") is False


# --------------------------------------------------------------------------- files


def test_included_files_come_in_order_and_their_match_ends_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_reader, "INCLUDE_DIRECTORY", str(tmp_path))
    write(tmp_path, "Match User u\nBanner /two\n", "2.conf")
    write(tmp_path, "PrintMotd no\n", "1.conf")
    config = read(tmp_path, "Include *.conf missing\nPrintMotd yes\nPrintLastLog no\n")
    assert (config.print_motd, config.print_last_log, config.banner) == (False, False, None)
    assert config.for_connection(user="u").banner == "/two"


def test_a_file_included_in_a_match_block_is_bound_by_it(tmp_path: Path) -> None:
    inner = write(tmp_path, "Banner /b\nMatch Address 10.0.0.0/8\nMaxSessions 1\n", "inner")
    config = read(tmp_path, f"Match User u\nInclude {inner}\nMaxAuthTries 2\n")
    login = config.for_connection(user="u", address="10.0.0.1")
    assert (login.banner, login.max_sessions, login.max_auth_tries) == ("/b", 1, 2)
    other = config.for_connection(user="v", address="10.0.0.1")
    assert (other.banner, other.max_sessions, other.max_auth_tries) == (None, 10, 6)
    elsewhere = config.for_connection(user="u", address="11.0.0.1")
    assert (elsewhere.banner, elsewhere.max_sessions, elsewhere.max_auth_tries) == ("/b", 10, 2)


def test_a_bad_included_file_stops_all(tmp_path: Path) -> None:
    inner = write(tmp_path, "Nonsense 1\n", "inner")
    assert complaint(tmp_path, f"Include {inner}\nMore 2\n") == [
        "inner: line 1: Bad configuration option: Nonsense",
        "inner: terminating, 1 bad configuration options",
    ]


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config"
    assert "recursive" in complaint(tmp_path, f"Include {path}\n")[0]


def test_a_missing_file_is_an_error_with_status_1(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "none"))
    assert caught.value.lines == (f"{tmp_path}/none: No such file or directory",)
    assert caught.value.status == 1


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="File too large"):
        load(write(tmp_path, b"#" * (config_reader.MAX_FILE + 1)))


def test_the_command_line_comes_before_the_file_and_fallbacks_after(tmp_path: Path) -> None:
    path = write(tmp_path, "Banner /file\nPrintMotd no\nPort 5\n")
    config = load(path, ["Banner /flag", "Port 4"], ["PrintMotd yes", "PrintLastLog no"])
    assert (config.banner, config.print_motd, config.print_last_log) == ("/flag", False, False)
    assert config.port == (4, 5)
    assert load(path, ["Port 4"], fixed=["port"]).port == (4,)


def test_without_root_there_is_neither_pam_nor_a_pid_file() -> None:
    user, root = load(None, root=False), load(None, root=True)
    assert (user.use_pam, user.pid_file) == (False, None)
    assert (root.use_pam, root.pid_file) == (True, "/run/sshoq-server.pid")


# --------------------------------------------------------------------------- addresses


def test_where_it_listens(tmp_path: Path) -> None:
    ports = "Port 4\nPort 5\n"
    assert [end.port for end in read(tmp_path, ports).listen_endpoints()] == [4, 5, 4, 5]
    config = read(tmp_path, ports + "ListenAddress 127.0.0.1\nListenAddress 127.0.0.1:4\n")
    assert [address for _, address in config.listen_addresses()] == [
        ("127.0.0.1", 4),
        ("127.0.0.1", 5),
    ]
    only4 = read(tmp_path, "AddressFamily inet\n").listen_addresses()
    assert [address for _, address in only4] == [("0.0.0.0", 443)]


def test_a_name_that_does_not_resolve_is_an_error(tmp_path: Path) -> None:
    config = read(tmp_path, "ListenAddress a..b\n")
    with pytest.raises(ConfigError, match=r"bad addr or host: a\.\.b"):
        config.listen_addresses()


# --------------------------------------------------------------------------- the table


def test_every_attribute_is_declared_with_its_type() -> None:
    declared = set(Options.__annotations__)
    acted = {row.attribute for row in KEYWORDS.values() if row.treatment in (ACTED, LATER)}
    assert declared == acted


def test_attribute_names() -> None:
    names = {"UsePAM": "use_pam", "PermitTTY": "permit_tty", "URLPath": "url_path"}
    names |= {"PAMServiceName": "pam_service_name", "X11Forwarding": "x11_forwarding"}
    names |= {"AllowTcpForwarding": "allow_tcp_forwarding", "SetEnv": "set_env"}
    assert {name: attribute_name(name) for name in names} == names


@needs_sshd
def test_every_keyword_of_sshd_is_known(tmp_path: Path, host_key: Path) -> None:
    assert set(theirs(write(tmp_path, ""), host_key, None)) <= set(KEYWORDS)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nope", "Invalid test mode specification nope"),
        ("user=a,foo=b", "Invalid test mode specification foo=b"),
        ("user=a,lport=x", "Invalid port 'x' in test mode specification lport=x"),
    ],
)
def test_bad_test_specifications(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_test_spec(text, {})
    assert (caught.value.lines, caught.value.status) == ((line,), 1)


# --------------------------------------------------------------------------- any bytes

_WORDS = st.sampled_from(
    [row.name for row in KEYWORDS.values() if row.name != "ListenAddress"]
    + [
        "Match",
        "all",
        "User",
        "Address",
        "10.0.0.0/8",
        "none",
        "yes",
        "a:b",
        '"',
        "'",
        "#",
        "=",
        "1",
    ]
)
_LINES = st.lists(st.one_of(_WORDS, st.text(max_size=6)), max_size=5).map(" ".join)
_FILES = st.one_of(
    st.binary(max_size=200),
    st.lists(_LINES, max_size=6).map(lambda lines: "\n".join(lines).encode("utf-8", "replace")),
)


@given(data=_FILES)
def test_any_bytes_are_a_configuration_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-{os.getpid()}"
    path.write_bytes(data)
    try:
        config = load(str(path))
    except ConfigError:
        return
    login = config.for_connection(user="a", groups=["b"], address="10.0.0.1", local_port=1)
    lines = dump(config, login)
    again = path.with_suffix(".again")
    again.write_bytes(data)
    assert dump(load(str(again)), login) == lines
