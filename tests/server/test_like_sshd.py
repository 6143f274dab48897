"""`-t` beside sshd's: values that mean nothing to us are judged all the same, in the same words."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.accounts import make_key
from tests.needs import need_root, need_tools
from tests.programs import find_program

LINES = """\
PermitTunnel x
Ciphers bogus
Ciphers aes128-ctr,bogus
Ciphers +bogus
Ciphers -bogus
Ciphers ^aes128-ctr
Ciphers ""
Ciphers aes*
Ciphers aes128-ctr aes256-ctr
Ciphers -*
Macs bogus
Macs hmac-sha2-256,umac-64@openssh.com
KexAlgorithms bogus
KexAlgorithms -*
KexAlgorithms curve25519-sha256
IPQoS bogus
IPQoS af11 bogus
IPQoS none
IPQoS 64
IPQoS 256
IPQoS -1
IPQoS ""
IPQoS ef cs1 cs2
IPQoS lowdelay reliability
Compression maybe
Compression delayed
Compression yes no
RekeyLimit 1G 1h
RekeyLimit default none
RekeyLimit 15
RekeyLimit x
RekeyLimit none
RekeyLimit ""
RekeyLimit 1G x
RekeyLimit 1G default
RekeyLimit 1G 1h 3
RekeyLimit 99999999999999G
DebianBanner maybe
GSSAPIAuthentication maybe
GSSAPIKexAlgorithms foo
GSSAPIKeyExchange x
HostCertificate none
HostbasedAcceptedAlgorithms foo
HostbasedAcceptedAlgorithms +ssh-*
HostbasedAuthentication x
HostbasedUsesNameFromPacketOnly x
IgnoreRhosts shosts-only
IgnoreRhosts x
IgnoreUserKnownHosts x
KerberosAuthentication x
KerberosGetAFSToken x
KerberosOrLocalPasswd x
KerberosTicketCleanup yes
LogVerbose *:*
ModuliFile ""
ModuliFile /nonexistent a
SecurityKeyProvider none
TCPKeepAlive x
VersionAddendum a b c
UseDNS x
ChannelTimeout a
ChannelTimeout none session=1
UnusedConnectionTimeout x
""".splitlines()


@pytest.fixture(scope="module")
def place(service_user: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a host key, and where both programs look for names of files."""
    need_root()
    need_tools("sshd")
    directory = tmp_path_factory.mktemp("like-sshd")
    make_key(directory / "host_key")
    make_key(directory / "other")
    authority = str(make_key(directory / "authority"))
    sign = ["ssh-keygen", "-qs", authority, "-I", "id", "-h"]
    for key in ("host_key", "other"):
        subprocess.run([*sign, f"{directory}/{key}.pub"], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return directory


def judge(place: Path, program: str, *flags: str) -> tuple[int, list[str]]:
    """Status and complaints of a test of the configuration."""
    command = [find_program(program), "-t", "-h", f"{place}/host_key", "-f", "config", *flags]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=place, env=environment, timeout=60
    )
    return done.returncode, sorted(done.stderr.replace("\r", "").splitlines())


def agree(place: Path, *flags: str) -> list[str]:
    status, lines = judge(place, "sshd", *flags)
    assert judge(place, "sshoq-server", *flags) == (status, lines)
    return lines


@pytest.mark.parametrize("line", LINES)
def test_a_value_is_judged_as_by_sshd(place: Path, line: str) -> None:
    (place / "config").write_text(f"PrintMotd no\n{line}\n")
    agree(place)


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("host_key-cert.pub", None),
        ("other-cert.pub", "No matching private key for certificate: {path}"),
        ("host_key.pub", "Certificate file is not a certificate: {path}"),
        ("host_key", "Certificate file is not a certificate: {path}"),
        ("nothing", 'Could not load host certificate "{path}": No such file or directory'),
        ("config", 'Could not load host certificate "{path}": No such file or directory'),
    ],
)
def test_a_host_certificate_that_cannot_be_is_told(
    place: Path, file: str, complaint: str | None
) -> None:
    path = f"{place}/{file}"
    expected = [] if complaint is None else [complaint.format(path=path)]
    (place / "config").write_text("")
    assert agree(place, "-c", path) == expected
    (place / "config").write_text(f"HostCertificate {path}\n")
    assert agree(place) == expected


def test_the_named_log_is_where_complaints_go(place: Path) -> None:
    (place / "config").write_text("Ciphers bogus\n")
    said = []
    for program in ("sshd", "sshoq-server"):
        log = place / f"{program}.log"
        assert judge(place, program, "-E", str(log)) == (255, [])
        said.append(log.read_text().replace("\r", "").splitlines())
    assert said == [["config line 1: Bad SSH2 cipher spec 'bogus'."]] * 2


def test_a_log_that_cannot_be_opened_is_told(place: Path) -> None:
    (place / "config").write_text("")
    assert agree(place, "-E", "/nonexistent/log") == [
        "Couldn't open logfile /nonexistent/log: No such file or directory"
    ]
