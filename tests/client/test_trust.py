"""The decision about a host with its files, its command and its questions."""

from __future__ import annotations

import asyncio
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from sshoq.auth.certificates import make_host_certificate, read_leaf
from sshoq.auth.host_policy import Verdict
from sshoq.auth.private_keys import load_private_key
from sshoq.client.log import Failure, Log
from sshoq.client.prompt import Prompter
from sshoq.client.trust import check_host, guarded
from sshoq.client.wishes import authentication_methods
from sshoq.config.resolve import resolve
from sshoq.config.surroundings import Paths, Surroundings
from sshoq.config.usage import INFO
from tests.accounts import make_key

SECRETS = ["Password authentication", "Keyboard-interactive authentication"]
"""Methods by which a false host could learn what the user types."""


class Host:
    """A host with a key of its own, and a user who may know it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = make_host_certificate(load_private_key(str(make_key(folder / "key"))))
        self.key = read_leaf(self.certificate).key
        self.known = folder / "known_hosts"
        self.lines: list[str] = []
        self.answers: list[str] = []

    def knows(self, name: str) -> None:
        self.known.write_text(f"{name} {self.key.line}\n")

    def check(self, *options: str) -> Verdict:
        words = ["-F", "none", *(word for option in options for word in ("-o", option))]
        files = [f"UserKnownHostsFile={self.known}", "GlobalKnownHostsFile=none"]
        words += [word for option in files for word in ("-o", option)]
        home = str(self.folder)
        surroundings = Surroundings({}, Paths(home), user="me", uid=1000, home=home, host="here")
        asked = resolve([*words, "host.test"], surroundings=surroundings)
        log = Log(INFO, lambda level, line: self.lines.append(line))
        prompter = Answering(self, batch=asked.options.batch_mode)
        chain = [self.certificate]
        return asyncio.run(check_host(chain, asked.options, "192.0.2.1", prompter, log))


    def disabled(self) -> list[str]:
        end = " is disabled to avoid man-in-the-middle attacks."
        return [line.removesuffix(end) for line in self.lines if line.endswith(end)]


class Answering(Prompter):
    def __init__(self, host: Host, *, batch: bool) -> None:
        super().__init__({}, pytest.fail, batch=batch, tty="/nonexistent")
        self._host = host

    def _ask(self, question: str, *, echo: bool, refusal: str | None) -> str | None:
        self._host.lines.append(question)
        return self._host.answers.pop(0) if self._host.answers else None


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("name", ["host.test", "[host.test]:443"])
def test_known_host_asks_nothing(host: Host, name: str) -> None:
    host.knows(name)
    assert host.check().accepted
    assert host.lines == []


def test_unknown_host_asks_once_and_is_recorded(host: Host) -> None:
    host.answers = ["yes"]
    assert host.check().accepted
    assert sum("Are you sure" in line for line in host.lines) == 1
    assert host.key.base64 in host.known.read_text()


@pytest.mark.parametrize("options", [["BatchMode=yes"], ["StrictHostKeyChecking=yes"], []])
def test_unknown_host_without_a_yes_is_refused(host: Host, options: list[str]) -> None:
    with pytest.raises(Failure):
        host.check(*options)
    assert host.lines[-1] == "Host key verification failed."
    assert not host.known.exists()


def test_command_may_know_the_host(host: Host) -> None:
    line = host.folder / "line"
    line.write_text(f"[host.test]:443 {host.key.line}\n")
    command = host.folder / "command"
    command.write_text(f'#!/bin/sh\n[ "$1 $2" = "HOSTNAME [host.test]:443" ] && cat {line}\n')
    command.chmod(0o755)
    assert host.check(f"KnownHostsCommand={command} %I %H", "StrictHostKeyChecking=yes").accepted


def test_command_that_fails_is_fatal(host: Host) -> None:
    host.knows("host.test")
    with pytest.raises(Failure, match="KnownHostsCommand failed"):
        host.check("KnownHostsCommand=/bin/false")


def test_revoked_key_is_refused_whoever_knows_it(host: Host) -> None:
    host.knows("host.test")
    revoked = host.folder / "revoked"
    revoked.write_text(f"# bad ones\n{host.key.line}\n")
    with pytest.raises(Failure, match="revoked by file"):
        host.check(f"RevokedHostKeys={revoked}")


def test_key_revoked_by_a_revocation_list_is_refused(host: Host) -> None:
    host.knows("host.test")
    listed = host.folder / "listed.pub"
    revoked = host.folder / "revoked"
    for text, is_refused in ((f"{make_public(host.folder)}\n", False), (host.key.line, True)):
        listed.write_text(text)
        subprocess.run(["ssh-keygen", "-qkf", revoked, listed], check=True)
        if is_refused:
            with pytest.raises(Failure, match="revoked by file"):
                host.check(f"RevokedHostKeys={revoked}")
        else:
            assert host.check(f"RevokedHostKeys={revoked}").accepted


def make_public(folder: Path) -> str:
    return Path(f"{make_key(folder / 'other_key')}.pub").read_text()


@pytest.mark.parametrize("content", [None, b"SSHKRL\n\0..."])
def test_revocations_that_cannot_be_read_are_fatal(host: Host, content: bytes | None) -> None:
    host.knows("host.test")
    revoked = host.folder / "revoked"
    if content is not None:
        revoked.write_bytes(content)
    with pytest.raises(Failure, match=f"Error checking host key .* revoked keys file {revoked}: "):
        host.check(f"RevokedHostKeys={revoked}")


def test_key_of_an_unwanted_algorithm_is_refused(host: Host) -> None:
    host.knows("host.test")
    with pytest.raises(Failure, match="no matching host key type found"):
        host.check("HostKeyAlgorithms=ecdsa-sha2-nistp256")


def test_named_certificate_vouches(host: Host) -> None:
    pem = host.folder / "certificate.pem"
    body = b64encode(host.certificate).decode()
    pem.write_text(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    options = [f"ServerCertificate={pem}", "StrictHostKeyChecking=yes"]
    assert host.check(*options).accepted


def test_other_certificate_than_the_named_one_is_refused(host: Host) -> None:
    host.knows("[host.test]:443")
    other = host.folder / "other.der"
    other.write_bytes(Host(host.folder / "other").certificate)
    with pytest.raises(Failure):
        host.check(f"ServerCertificate={other}", "StrictHostKeyChecking=no")
    assert host.lines[-1] == "Host key verification failed."


def test_pin_of_the_go_client_vouches(host: Host) -> None:
    folder = host.folder / ".ssh3"
    folder.mkdir()
    body = b64encode(host.certificate).decode()
    pin = f"host.test:443/sshoq-server x509-certificate {body}\n"
    (folder / "known_hosts").write_text(pin)
    assert host.check("StrictHostKeyChecking=yes").accepted


def test_changed_key_without_checking_goes_on_without_passwords(host: Host) -> None:
    other = Host(host.folder / "other")
    host.known.write_text(f"host.test {other.key.line}\n")
    verdict = host.check("StrictHostKeyChecking=no")
    assert (verdict.accepted, verdict.restricted) == (True, True)
    assert any("REMOTE HOST IDENTIFICATION HAS CHANGED" in line for line in host.lines)
    assert host.disabled() == SECRETS


def test_what_else_a_false_host_could_abuse_is_disabled_with_a_word(host: Host) -> None:
    other = Host(host.folder / "other")
    host.known.write_text(f"host.test {other.key.line}\n")
    host.check("StrictHostKeyChecking=no", "LocalForward=1111 x:2", "UpdateHostKeys=yes")
    assert host.disabled() == [*SECRETS, "Port forwarding"]
    assert host.lines[-1] == "UpdateHostkeys is disabled because the host key is not trusted."


def test_guarded_options_leave_nothing_to_abuse() -> None:
    forwarded = ["-A", "-X", "-L", "1:x:2", "-R", "3:y:4"]
    words = ["-F", "none", *forwarded, "-o", "UpdateHostKeys=yes", "host"]
    options = guarded(resolve(words).options)
    assert not options.forward_agent
    assert not options.forward_x11
    assert authentication_methods(options) == ("publickey",)
    assert (options.local_forwards, options.remote_forwards) == ((), ())
    assert options.update_host_keys == "no"


def test_forwardings_that_must_not_fail_fail_with_an_untrusted_host() -> None:
    for wish in (["-L", "1:x:2"], ["-X"], ["-A"]):
        words = ["-F", "none", "-o", "ExitOnForwardFailure=yes", *wish, "host"]
        with pytest.raises(Failure, match="forwarding disabled due to host key check failure"):
            guarded(resolve(words).options)
