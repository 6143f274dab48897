"""Trust in a host, where SSHOQ has cases that ssh has not: pins, authorities, its own port."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519, rsa

from sshoq.auth.certificates import make_host_certificate
from sshoq.auth.host_policy import (
    ERROR,
    FATAL,
    INFO,
    HostPolicy,
    Verdict,
    consult,
    judge_host,
)
from sshoq.auth.known_hosts import HostStatus, KnownHosts
from sshoq.auth.private_keys import PrivateKey
from tests.auth.authority import NOW, Authority

KEY = PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHER = PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(b"\1" * 32))
LEAF = make_host_certificate(KEY)
LINE, OTHER_LINE = KEY.public_key.line, OTHER.public_key.line


class Visit:
    """One look at a host: who is asked what, and what is said."""

    def __init__(self, folder: Path, known: str = "", answers: Sequence[str] = ()) -> None:
        self.file = folder / "known_hosts"
        self.file.write_text(known)
        self.answers = list(answers)
        self.asked: list[str] = []
        self.told: list[tuple[str, str]] = []

    def judge(self, chain: Sequence[bytes] = (LEAF,), port: int = 443, **policy: Any) -> Verdict:
        policy.setdefault("user_files", [str(self.file)])
        wishes = HostPolicy("host.example", port, "192.0.2.1", **policy)
        known = KnownHosts.from_files([*wishes.user_files, *wishes.global_files])
        return judge_host(
            chain, wishes, known, ask=self._ask, tell=lambda *told: self.told.append(told), now=NOW
        )

    def _ask(self, prompt: str) -> str | None:
        self.asked.append(prompt)
        return self.answers.pop(0) if self.answers else None

    @property
    def said(self) -> str:
        return "\n".join(text for level, text in self.told if level in (FATAL, ERROR, INFO))

    @property
    def silent(self) -> bool:
        return not self.asked and not self.said


# --------------------------------------------------------------------------- pins


def test_pinned_certificate_is_accepted_in_silence_whatever_known_hosts_says(
    tmp_path: Path,
) -> None:
    visit = Visit(tmp_path, f"host.example {OTHER_LINE}\n")
    assert visit.judge(pins=[b"another", LEAF], strict="yes").accepted
    assert visit.silent


def test_pin_is_compared_byte_for_byte(tmp_path: Path) -> None:
    visit = Visit(tmp_path)
    assert not visit.judge(pins=[LEAF[:-1], LEAF + b"\0"], strict="yes").accepted


def test_pin_of_the_issuer_vouches_for_nobody(tmp_path: Path) -> None:
    """The Go client makes pins into authorities; then one pinned host can stand in for others."""
    visit = Visit(tmp_path)
    assert not visit.judge([make_host_certificate(OTHER), LEAF], pins=[LEAF], strict="yes").accepted


@pytest.mark.parametrize("rule", ["ask", "accept-new"])
def test_other_certificate_than_the_pinned_one_is_an_alarm(tmp_path: Path, rule: str) -> None:
    """The Go client goes no further either. Whoever is not the host would be a stranger, else."""
    visit = Visit(tmp_path, answers=["yes"])
    pins: dict[str, Any] = {"pins": [make_host_certificate(OTHER)]}
    pins["pin_file"] = "/home/me/.ssh3/known_hosts"
    assert not visit.judge(strict=rule, **pins).accepted
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in visit.said
    assert "Offending certificate in /home/me/.ssh3/known_hosts" in visit.said
    assert not visit.asked
    assert visit.judge(strict="no", **pins).restricted


def test_known_key_is_accepted_though_another_certificate_is_pinned(tmp_path: Path) -> None:
    visit = Visit(tmp_path, f"host.example {LINE}\n")
    assert visit.judge(pins=[make_host_certificate(OTHER)], strict="yes").accepted


# --------------------------------------------------------------------------- named certificates

DISAGREES = "The certificate of [host.example]:443 does not agree with ServerCertificate."


def test_named_certificate_is_accepted_in_silence(tmp_path: Path) -> None:
    visit = Visit(tmp_path)
    assert visit.judge(certificate=LEAF, strict="yes").accepted
    assert visit.silent


@pytest.mark.parametrize("rule", ["accept-new", "no"])
def test_other_certificate_than_the_named_one_is_refused_whoever_vouches(
    tmp_path: Path, authority: Authority, rule: str
) -> None:
    named = make_host_certificate(OTHER)
    for chain in ([LEAF], [authority.issue("host.example")], [b"none"]):
        visit = Visit(tmp_path, f"host.example {LINE}\n", ["yes"])
        verdict = visit.judge(
            chain, certificate=named, strict=rule, pins=[LEAF], trust_localhost=True
        )
        assert not verdict.accepted
        assert visit.said.startswith(DISAGREES)


def test_named_authority_vouches_for_the_host_alone(tmp_path: Path) -> None:
    private = Authority()
    visit = Visit(tmp_path)
    wishes: dict[str, Any] = {"certificate": private.certificate, "strict": "yes"}
    assert visit.judge([private.issue("host.example")], **wishes).accepted
    assert visit.silent
    assert not visit.judge([private.issue("evil.example")], **wishes).accepted
    assert not visit.judge([Authority().issue("host.example")], **wishes).accepted


def test_key_that_is_revoked_is_refused_though_the_named_authority_vouches(
    tmp_path: Path,
) -> None:
    private = Authority()
    chain = [private.issue("host.example", public_key=KEY.key.public_key())]
    visit = Visit(tmp_path, f"@revoked * {LINE}\n")
    assert not visit.judge(chain, certificate=private.certificate).accepted


# --------------------------------------------------------------------------- names and ports


def test_host_known_to_ssh_asks_nothing_on_the_first_sshoq_connection(tmp_path: Path) -> None:
    for port in (443, 4433):
        visit = Visit(tmp_path, f"host.example {LINE}\n")
        verdict = visit.judge(port=port, strict="yes")
        assert verdict == Verdict(True, key=KEY.public_key)
        assert visit.silent


def test_entry_for_the_port_beats_the_one_of_ssh(tmp_path: Path) -> None:
    known = f"host.example {OTHER_LINE}\n[host.example]:443 {LINE}\n"
    visit = Visit(tmp_path, known)
    assert visit.judge(strict="yes").accepted
    assert visit.silent
    known = f"host.example {LINE}\n[host.example]:443 {OTHER_LINE}\n"
    visit = Visit(tmp_path, known)
    assert not visit.judge(strict="yes").accepted
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in visit.said


def test_key_other_than_that_of_ssh_is_an_alarm_on_the_default_port(tmp_path: Path) -> None:
    """Who answers on UDP 443 for a host that ssh knows must not be taken for a new host."""
    for strict in ("yes", "ask", "accept-new"):
        visit = Visit(tmp_path, f"host.example {OTHER_LINE}\n", ["yes"])
        assert not visit.judge(strict=strict).accepted
        assert not visit.asked
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in visit.said
        assert f"[host.example]:443 {LINE}" in visit.said  # what to add if that is right
        assert visit.file.read_text() == f"host.example {OTHER_LINE}\n"


def test_line_that_the_alarm_proposes_ends_the_alarm(tmp_path: Path) -> None:
    visit = Visit(tmp_path, f"host.example {OTHER_LINE}\n")
    visit.judge()
    (proposed,) = [line for line in visit.said.split("\n") if line.startswith("  [host")]
    again = Visit(tmp_path, f"host.example {OTHER_LINE}\n{proposed}\n")
    assert again.judge(strict="yes").accepted
    assert again.silent


def test_key_other_than_that_of_ssh_is_a_new_host_on_another_port(tmp_path: Path) -> None:
    visit = Visit(tmp_path, f"host.example {OTHER_LINE}\n", ["yes"])
    assert visit.judge(port=4433).accepted
    assert visit.asked[0].startswith(
        "The authenticity of host '[host.example]:4433 ([192.0.2.1]:4433)' can't be established."
    )
    assert visit.file.read_text().endswith(f"[host.example]:4433 {LINE}\n")


def test_new_host_is_recorded_with_its_port(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "", ["yes"])
    assert visit.judge().accepted
    assert visit.file.read_text() == f"[host.example]:443 {LINE}\n"
    again = Visit(tmp_path, visit.file.read_text())
    assert again.judge(strict="yes").accepted
    assert again.silent


@pytest.mark.parametrize("port", [22, 443, 4433])
def test_key_revoked_for_the_host_is_refused_on_every_port(tmp_path: Path, port: int) -> None:
    visit = Visit(tmp_path, f"@revoked host.example {LINE}\n", ["yes"])
    assert not visit.judge(port=port).accepted
    assert "REVOKED HOST KEY" in visit.said


def test_alias_stands_alone(tmp_path: Path) -> None:
    visit = Visit(tmp_path, f"host.example {LINE}\n[host.example]:443 {LINE}\n", ["no"])
    assert not visit.judge(alias="Alias").accepted
    assert visit.asked[0].startswith("The authenticity of host 'alias (")


def test_consulting_says_who_vouches() -> None:
    known = KnownHosts()
    known.add_text("file", f"h {LINE}".encode())
    found = consult(HostPolicy("h", 443), known, KEY.public_key)
    assert (found.name, found.host.status, found.borrowed) == ("h", HostStatus.FOUND, True)


# --------------------------------------------------------------------------- authorities


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    authority = Authority()
    (tmp_path / "bundle.pem").write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle.pem"))
    return authority


@pytest.mark.parametrize("known", ["", f"host.example {OTHER_LINE}\n"])
def test_chain_that_verifies_is_accepted_in_silence_and_not_recorded(
    tmp_path: Path, authority: Authority, known: str
) -> None:
    """Also where ssh has a key on record: a certificate of another kind is no change of it."""
    visit = Visit(tmp_path, known)
    assert visit.judge([authority.issue("host.example")], strict="yes").accepted
    assert visit.silent
    assert visit.file.read_text() == known


def test_chain_for_another_name_is_a_stranger(tmp_path: Path, authority: Authority) -> None:
    visit = Visit(tmp_path)
    assert not visit.judge([authority.issue("evil.example")], strict="yes").accepted
    assert "No ECDSA host key is known for [host.example]:443" in visit.said


def test_chain_for_another_name_is_an_alarm_where_a_key_is_known(
    tmp_path: Path, authority: Authority
) -> None:
    visit = Visit(tmp_path, f"host.example {LINE}\n", ["yes"])
    assert not visit.judge([authority.issue("evil.example")]).accepted
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in visit.said


def test_revoked_key_is_refused_though_its_chain_verifies(
    tmp_path: Path, authority: Authority
) -> None:
    chain = [authority.issue("host.example", public_key=KEY.key.public_key())]
    assert not Visit(tmp_path, f"@revoked * {LINE}\n").judge(chain).accepted


def test_known_key_is_accepted_under_any_certificate(tmp_path: Path) -> None:
    chain = [Authority().issue("expired.example", public_key=KEY.key.public_key())]
    assert Visit(tmp_path, f"host.example {LINE}\n").judge(chain, strict="yes").accepted


# --------------------------------------------------------------------------- the rest


def test_key_that_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    leaf = Authority().issue("host", public_key=ed448.Ed448PrivateKey.generate().public_key())
    visit = Visit(tmp_path, "", ["yes"])
    assert visit.judge([leaf], strict="no") == Verdict(False)
    assert visit.said.endswith("Host key verification failed.")


@pytest.mark.parametrize("chain", [[b""], [b"garbage"]])
def test_what_is_no_certificate_is_refused(tmp_path: Path, chain: list[bytes]) -> None:
    assert not Visit(tmp_path).judge(chain, strict="no").accepted


def test_short_rsa_key_is_refused_though_known(tmp_path: Path) -> None:
    key = PrivateKey(rsa.generate_private_key(65537, 2048))
    visit = Visit(tmp_path, f"host.example {key.public_key.line}\n")
    chain = [make_host_certificate(key)]
    assert visit.judge(chain, required_rsa_size=2048).accepted
    assert not visit.judge(chain, required_rsa_size=3072).accepted
    assert visit.said == "Bad server host key: Invalid key length"


@pytest.mark.parametrize(
    ("address", "alias", "accepted"),
    [
        ("127.0.0.1", None, True),
        ("127.9.9.9", None, True),
        ("::1", None, True),
        ("192.0.2.1", None, False),
        (None, None, False),
        ("127.0.0.1", "alias", False),
    ],
)
def test_localhost_is_trusted_when_asked_for(
    address: str | None, alias: str | None, accepted: bool
) -> None:
    policy = HostPolicy("h", 443, address, strict="yes", alias=alias, trust_localhost=True)
    verdict = judge_host(
        [LEAF], policy, KnownHosts(), ask=None, tell=lambda level, text: None, now=NOW
    )
    assert verdict.accepted is accepted


def test_nobody_to_ask_means_no(tmp_path: Path) -> None:
    policy = HostPolicy("h", 443, "192.0.2.1", user_files=[str(tmp_path / "known_hosts")])
    told: list[str] = []
    verdict = judge_host(
        [LEAF], policy, KnownHosts(), ask=None, tell=lambda level, text: told.append(text), now=NOW
    )
    assert not verdict.accepted
    assert told == ["Host key verification failed."]


def test_answers_that_never_make_sense_come_to_an_end(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "", ["what?"] * 1000)
    assert not visit.judge().accepted
    assert len(visit.asked) < 100


def test_unknown_mode_of_checking_asks(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "", ["no"])
    assert not visit.judge(strict="nonsense").accepted
    assert len(visit.asked) == 1


def test_going_on_without_strict_checking_is_restricted(tmp_path: Path) -> None:
    visit = Visit(tmp_path, f"[host.example]:443 {OTHER_LINE}\n")
    verdict = visit.judge(strict="no", exposed=["Agent forwarding", "X11 forwarding"])
    assert verdict == Verdict(True, restricted=True, key=KEY.public_key)
    assert "Agent forwarding is disabled to avoid man-in-the-middle attacks.\nX11" in visit.said


def test_host_that_cannot_be_recorded_is_accepted_with_a_word(tmp_path: Path) -> None:
    visit = Visit(tmp_path, "", ["yes"])
    assert visit.judge(user_files=[str(tmp_path)]).accepted
    assert visit.said.count("Failed to add the host to the list of known hosts (") == 1


@pytest.mark.parametrize("rule", ["ask", "no", "accept-new"])
def test_host_that_may_not_be_recorded_is_refused_in_silence(tmp_path: Path, rule: str) -> None:
    """As ssh refuses it with UserKnownHostsFile none."""
    visit = Visit(tmp_path, "", ["yes"])
    assert not visit.judge(user_files=[], strict=rule).accepted
    assert visit.asked == []
    assert visit.said == "Host key verification failed."


def test_behind_a_jump_host_there_is_no_address(tmp_path: Path) -> None:
    asked: list[str] = []
    policy = HostPolicy("h", 443, None, user_files=[str(tmp_path / "f")], check_host_ip=True)
    judge_host(
        [LEAF], policy, KnownHosts(), ask=asked.append, tell=lambda level, text: None, now=NOW
    )
    assert "host '[h]:443 (<no hostip for proxy command>)'" in asked[0]


def test_files_below_the_home_are_shown_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    visit = Visit(tmp_path, f"elsewhere {LINE}\n", ["no"])
    visit.judge()
    assert "\n    ~/known_hosts:1: elsewhere\n" in visit.asked[0]


def test_global_file_vouches_and_is_never_written(tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.write_text(f"host.example {LINE}\n")
    visit = Visit(tmp_path)
    assert visit.judge(global_files=[str(world)], strict="yes").accepted
    assert visit.judge(port=4433, global_files=[str(world)], strict="no").accepted
    assert world.read_text() == f"host.example {LINE}\n"
    assert visit.file.read_text() == ""
