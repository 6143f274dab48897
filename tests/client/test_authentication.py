"""Which keys and passwords are tried, in which order, with which words."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sshoq.auth.interactive import (
    SCHEME,
    Challenge,
    Prompt,
    answer_authorization,
    challenge_text,
    read_challenge,
)
from sshoq.auth.keys import parse_public_key
from sshoq.auth.private_keys import load_public_half
from sshoq.auth.ssh_certificates import parse_certificate
from sshoq.auth.token import certificate_in, verify_token
from sshoq.client import authentication
from sshoq.client.authentication import Authentication, Reply, basic_authorization
from sshoq.client.identities import Wishes, gather_keys, is_understood
from sshoq.client.interview import MAX_ROUNDS, challenge_in
from sshoq.client.log import Failure, Log
from sshoq.client.prompt import Prompter
from sshoq.config.usage import DEBUG3
from sshoq.protocol.extensions import NONE, OURS, Extension
from tests.auth.keyring import make_certificate
from tests.auth.security_key import SecurityKey, agent_with
from tests.needs import need_tools

CONVERSATION = bytes(range(32))
NOW = 1_700_000_000.0


class Scene:
    """A user with keys, somebody who answers prompts, and a server that knows some keys."""

    def __init__(self, folder: Path) -> None:
        need_tools("ssh-keygen", "ssh-agent", "ssh-add")
        self.folder = folder
        self.lines: list[str] = []
        self.questions: list[str] = []
        self.answers: list[str | None] = []
        self.tried: list[str] = []
        self.accepts: set[str] = set()
        self.offers: tuple[str, ...] | None = None
        self.was_asked = False
        self.rounds: list[list[Challenge]] = []
        """Of each interview, what the server asks until it has made up its mind."""
        self.interview: Iterator[Challenge] = iter(())
        self.permits = False
        self.log = Log(DEBUG3, lambda level, line: self.lines.append(line))

    def make_key(self, name: str, kind: str = "ed25519", passphrase: str = "") -> str:
        path = self.folder / name
        options = ["-t", kind, "-N", passphrase, "-C", name, "-f", str(path)]
        subprocess.run(["ssh-keygen", "-q", "-a", "1", *options], check=True)
        return str(path)

    def name_of(self, authorization: str) -> str:
        """The file whose key signed this token, or the password as it is."""
        kind, _, value = authorization.partition(" ")
        if kind == "Basic":
            return base64.b64decode(value).decode().partition(":")[2]
        blob = certificate_in(value)
        for path in sorted(self.folder.glob("*.pub")):
            key = parse_public_key(path.read_bytes())
            if blob is not None and key.blob == blob:
                verify_token(value, parse_certificate(blob).key, "alice", CONVERSATION, NOW)
                return path.stem
            if blob is None and key.verify(_signature(value), value.rpartition(".")[0].encode()):
                verify_token(value, key, "alice", CONVERSATION, NOW)
                return path.stem
        raise AssertionError(f"no key fits {value}")

    def certify(self, key: str, *options: str) -> str:
        """A certificate beside the key."""
        ca = self.folder / "ca"
        if not ca.exists():
            self.make_key("ca")
        return str(make_certificate(ca, Path(f"{key}.pub"), *(options or ("-n", "alice"))))

    async def send(self, authorization: str | None) -> Reply:
        if authorization is None:
            self.was_asked = True
            return Reply(False, self.offers)
        if authorization.startswith(SCHEME):
            return self.talk(authorization)
        self.tried.append(self.name_of(authorization))
        return Reply(self.tried[-1] in self.accepts, self.offers)

    def talk(self, authorization: str) -> Reply:
        """Right is who says "yes" to the last question."""
        self.tried.append(authorization.partition(" ")[2])
        if authorization == SCHEME:
            self.interview = iter(self.rounds.pop(0) if self.rounds else ())
        challenge = next(self.interview, None)
        if challenge is not None:
            return Reply(False, None if challenge.prompts else self.offers, challenge=challenge)
        is_right = authorization == answer_authorization(["yes"])
        return Reply(is_right, self.offers)

    def run(self, wishes: Wishes, *, batch: bool = False) -> str:
        prompter = ScriptedPrompter(self, batch=batch)
        candidates = gather_keys(wishes, self.log)
        authentication = Authentication(
            wishes, candidates, prompter, self.log, now=lambda: NOW
        )
        return asyncio.run(authentication.run(CONVERSATION, self.send))


class ScriptedPrompter(Prompter):
    def __init__(self, scene: Scene, *, batch: bool) -> None:
        super().__init__({}, pytest.fail, batch=batch, tty="/nonexistent")
        self._scene = scene

    def _ask(self, question: str, *, echo: bool, refusal: str | None) -> str | None:
        self._scene.questions.append(f"{question}(shown)" if echo else question)
        return self._scene.answers.pop(0) if self._scene.answers else None

    def confirm(self, question: str) -> bool:
        self._scene.questions.append(question)
        return self._scene.permits


def _signature(token: str) -> bytes:
    text = token.rpartition(".")[2]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "agent.sock")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield path
    process.send_signal(signal.SIGTERM)
    process.communicate()


def add_to_agent(agent: str, *paths: str) -> None:
    environ = {**os.environ, "SSH_AUTH_SOCK": agent}
    subprocess.run(["ssh-add", "-q", *paths], env=environ, check=True)


def held_by(agent: str) -> list[str]:
    environ = {**os.environ, "SSH_AUTH_SOCK": agent}
    result = subprocess.run(["ssh-add", "-L"], env=environ, capture_output=True, text=True)
    return [line.split()[1] for line in result.stdout.splitlines() if line.startswith("ssh-")]


def wishes(*files: str, **others: Any) -> Wishes:
    return Wishes("alice", "example.com", identity_files=files, **others)


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_key_file_signs_for_this_conversation(scene: Scene, kind: str) -> None:
    scene.accepts = {"key"}
    assert scene.run(wishes(scene.make_key("key", kind))) == "publickey"
    assert scene.tried == ["key"]


def test_keys_are_tried_one_after_another_until_one_fits(scene: Scene) -> None:
    files = [scene.make_key(name) for name in ("one", "two", "three")]
    scene.accepts = {"two"}
    assert scene.run(wishes(*files)) == "publickey"
    assert scene.tried == ["one", "two"]


def test_agent_keys_named_by_a_file_come_first_then_its_others(scene: Scene, agent: str) -> None:
    file, held, named = (scene.make_key(name) for name in ("file", "held", "named"))
    add_to_agent(agent, held, named)
    with pytest.raises(Failure):
        scene.run(wishes(file, named, agent_path=agent, methods=("publickey",)))
    assert scene.tried == ["named", "held", "file"]


def test_identities_only_leaves_the_other_agent_keys_out(scene: Scene, agent: str) -> None:
    held, named = scene.make_key("held"), scene.make_key("named")
    add_to_agent(agent, held, named)
    scene.accepts = {"named"}
    scene.run(wishes(named, agent_path=agent, identities_only=True))
    assert scene.tried == ["named"]


def test_public_key_file_picks_the_agents_key(scene: Scene, agent: str) -> None:
    one, two = scene.make_key("one"), scene.make_key("two")
    add_to_agent(agent, one, two)
    scene.accepts = {"two"}
    scene.run(wishes(agent_path=agent, agent_key=two + ".pub"))
    assert scene.tried == ["two"]


# --------------------------------------------------------------------------- certificates


def refused_tries(scene: Scene, wishes: Wishes, **others: bool) -> list[str]:
    """What is tried, in order, when nothing lets in."""
    with pytest.raises(Failure):
        scene.run(wishes, **others)
    return scene.tried


def test_certificate_beside_a_key_is_tried_after_it(scene: Scene) -> None:
    one, two = scene.make_key("one"), scene.make_key("two")
    scene.certify(one)
    tried = refused_tries(scene, wishes(one, two, methods=("publickey",)))
    assert tried == ["one", "one-cert", "two"]


def test_named_certificates_stand_for_those_beside_keys(scene: Scene) -> None:
    one, two = scene.make_key("one"), scene.make_key("two")
    scene.certify(one)
    named = Path(scene.certify(two)).rename(scene.folder / "named.pub")
    chosen = wishes(one, two, certificate_files=(str(named),), methods=("publickey",))
    assert refused_tries(scene, chosen) == ["one", "two", "named"]


def test_agent_signs_for_a_certificate_in_a_file(scene: Scene, agent: str) -> None:
    key = scene.make_key("key")
    named = Path(scene.certify(key)).rename(scene.folder / "named.pub")
    add_to_agent(agent, key)
    Path(key).unlink()
    scene.accepts = {"named"}
    scene.run(wishes(agent_path=agent, certificate_files=(str(named),)))
    assert scene.tried == ["key", "named"]


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_certificate_in_the_agent_is_signed_for_there(
    scene: Scene, agent: str, kind: str
) -> None:
    key = scene.make_key("key", kind)
    scene.certify(key)
    add_to_agent(agent, key)
    Path(key).unlink()
    scene.accepts = {"key-cert"}
    scene.run(wishes(agent_path=agent))
    assert scene.tried == ["key", "key-cert"]


def test_certificate_without_its_key_is_left_out(scene: Scene) -> None:
    key = scene.make_key("key")
    named = Path(scene.certify(key)).rename(scene.folder / "named.pub")
    lonely = wishes(certificate_files=(str(named),), methods=("publickey",))
    assert refused_tries(scene, lonely) == []
    assert any("no separate private key for certificate" in line for line in scene.lines)


def test_certificate_beside_another_key_is_left_out(scene: Scene) -> None:
    key, other = scene.make_key("key"), scene.make_key("other")
    Path(scene.certify(other)).rename(scene.folder / "key-cert.pub")
    assert refused_tries(scene, wishes(key, methods=("publickey",))) == ["key"]


def test_host_certificate_is_left_out(scene: Scene) -> None:
    key = scene.make_key("key")
    scene.certify(key, "-h", "-n", "host")
    assert refused_tries(scene, wishes(key, methods=("publickey",))) == ["key"]
    assert any(line.endswith("not a user certificate") for line in scene.lines)


def test_passphrase_serves_the_key_and_its_certificate(scene: Scene) -> None:
    key = scene.make_key("key", passphrase="secret")
    scene.certify(key)
    scene.answers, scene.accepts = ["secret"], {"key-cert"}
    scene.run(wishes(key))
    assert scene.tried == ["key", "key-cert"]
    assert scene.questions == [f"Enter passphrase for key '{key}': "]


@pytest.mark.parametrize(
    ("accepted", "tried"),
    [
        ("*-cert-v01@openssh.com", ["key-cert"]),
        ("!*-cert-*,*", ["key"]),
        ("rsa-sha2-512-cert-v01@openssh.com", ["key-cert"]),
        ("ssh-ed25519*", []),
    ],
)
def test_accepted_algorithms_name_certificates_by_themselves(
    scene: Scene, accepted: str, tried: list[str]
) -> None:
    key = scene.make_key("key", "rsa")
    scene.certify(key)
    chosen = wishes(key, accepted_algorithms=accepted, methods=("publickey",))
    assert refused_tries(scene, chosen) == tried


def test_servers_that_announce_nothing_are_offered_plain_keys_only(
    scene: Scene, agent: str, tmp_path: Path
) -> None:
    key = scene.make_key("key")
    scene.certify(key)
    token = SecurityKey()
    with agent_with(tmp_path / "token", {token.public_key.blob: token.sign_for_ssh}) as path:
        candidates = gather_keys(wishes(key, agent_path=path), scene.log)
    assert [candidate.needs for candidate in candidates] == [
        Extension.SECURITY_KEY,
        NONE,
        Extension.CERTIFICATE,
    ]
    plain = [one for one in candidates if is_understood(one, NONE, scene.log)]
    assert [candidate.name for candidate in plain] == [key]
    assert all(is_understood(one, OURS, scene.log) for one in candidates)


def test_security_key_outside_of_the_agent_is_left_out(scene: Scene) -> None:
    path = scene.folder / "id_ed25519_sk.pub"
    path.write_text(SecurityKey().public_key.line)
    alone = wishes(str(path).removesuffix(".pub"), methods=("publickey",))
    assert refused_tries(scene, alone) == []
    assert any(f"no such identity: {alone.identity_files[0]}" in line for line in scene.lines)


def told(scene: Scene) -> list[str]:
    """What is said without -v."""
    return [line for line in scene.lines if not line.startswith("debug")]


# --------------------------------------------------------------------------- files and prompts


def test_missing_agent_is_no_error(scene: Scene) -> None:
    scene.accepts = {"key"}
    scene.run(wishes(scene.make_key("key"), agent_path=str(scene.folder / "none")))
    assert scene.tried == ["key"]


def test_encrypted_key_asks_in_the_words_of_openssh_and_only_when_the_others_failed(
    scene: Scene,
) -> None:
    locked, plain = scene.make_key("locked", passphrase="secret"), scene.make_key("plain")
    scene.answers, scene.accepts = ["wrong", "secret"], {"locked"}
    scene.run(wishes(locked, plain))
    assert scene.tried == ["plain", "locked"]
    assert scene.questions == [f"Enter passphrase for key '{locked}': "] * 2


def test_batch_mode_asks_nothing(scene: Scene) -> None:
    locked = scene.make_key("locked", passphrase="secret")
    with pytest.raises(Failure, match=r"alice@example\.com: Permission denied"):
        scene.run(wishes(locked), batch=True)
    assert (scene.tried, scene.questions) == ([], [])


def test_passphrase_key_is_added_to_the_agent_if_wanted(scene: Scene, agent: str) -> None:
    locked = scene.make_key("locked", passphrase="secret")
    scene.answers, scene.accepts = ["secret"], {"locked"}
    scene.run(wishes(locked, agent_path=agent, add_to_agent=("yes", 0)))
    public = load_public_half(locked)
    assert public is not None
    assert held_by(agent) == [public.base64]


@pytest.mark.parametrize(
    ("rule", "is_permitted", "held"),
    [("yes", False, True), ("no", True, False), ("ask", True, True), ("ask", False, False),
     ("confirm", False, True)],
)  # fmt: skip
def test_key_that_lets_in_is_added_to_the_agent_as_wished(
    scene: Scene, agent: str, rule: str, is_permitted: bool, held: bool
) -> None:
    refused, key = scene.make_key("refused"), scene.make_key("key")
    scene.accepts, scene.permits = {"key"}, is_permitted
    scene.run(wishes(refused, key, agent_path=agent, add_to_agent=(rule, 0)))
    public = load_public_half(key)
    assert public is not None
    assert held_by(agent) == ([public.base64] if held else [])
    question = f"Add key {key} ({public.comment}) to agent?"
    assert scene.questions == ([question] if rule == "ask" else [])


def test_certificates_of_the_key_go_to_the_agent_with_it(scene: Scene, agent: str) -> None:
    key, other = scene.make_key("key"), scene.make_key("other")
    certificate, _ = scene.certify(key), scene.certify(other)
    scene.accepts = {"key-cert"}
    scene.run(wishes(key, other, agent_path=agent, add_to_agent=("yes", 0)))
    publics = [load_public_half(path) for path in (key, certificate)]
    assert held_by(agent) == [public.base64 for public in publics if public is not None]
    assert len(held_by(agent)) == 2


@pytest.mark.parametrize(
    ("validity", "lifetime", "kept"),
    [
        ((), 0, 0),
        ((), 60, 60),
        (("-V", "20230101000000Z:20231114221320Z"), 0, 300),
        (("-V", "20230101000000Z:20231114221320Z"), 60, 60),
        (("-V", "20230101000000Z:20231114221420Z"), 0, 360),
        (("-V", "20230101000000Z:20231114220000Z"), 0, None),
        (("-V", "20230101000000Z:29990101000000Z"), 0, 0),
    ],
)
def test_a_certificate_is_kept_little_longer_than_it_is_good_for(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    validity: tuple[str, ...],
    lifetime: int,
    kept: int | None,
) -> None:
    """NOW is 2023-11-14 22:13:20."""
    added: list[tuple[bool, int]] = []

    class Recording:
        def __init__(self, path: str) -> None: ...

        def __enter__(self) -> Recording:
            return self

        def __exit__(self, *_: object) -> None: ...

        def add(
            self,
            key: object,
            comment: str,
            *,
            certificate: object = None,
            lifetime: int = 0,
            confirm: bool = False,
        ) -> None:
            added.append((certificate is not None, lifetime))

    key = scene.make_key("key")
    scene.certify(key, "-n", "alice", *validity)
    scene.accepts = {"key"}
    monkeypatch.setattr(authentication, "Agent", Recording)
    scene.run(wishes(key, agent_path="/nowhere", add_to_agent=("yes", lifetime)))
    certificate = [] if kept is None else [(True, kept)]
    assert added == [(False, lifetime), *certificate]


def test_open_key_file_is_ignored_with_a_warning(scene: Scene) -> None:
    path = scene.make_key("key")
    os.chmod(path, 0o644)
    with pytest.raises(Failure):
        scene.run(wishes(path, methods=("publickey",)))
    assert scene.tried == []
    assert any("WARNING: UNPROTECTED PRIVATE KEY FILE!" in line for line in scene.lines)


def test_open_key_file_that_was_not_needed_is_not_told_of(scene: Scene) -> None:
    unprotected, good = scene.make_key("open"), scene.make_key("good")
    os.chmod(unprotected, 0o644)
    scene.accepts = {"good"}
    assert scene.run(wishes(unprotected, good)) == "publickey"
    assert not any("UNPROTECTED" in line for line in scene.lines)


def test_key_file_without_a_public_half_is_told_of_at_once(scene: Scene) -> None:
    broken, good = scene.folder / "broken", scene.make_key("good")
    broken.write_text("no key")
    broken.chmod(0o600)
    scene.accepts = {"good"}
    assert scene.run(wishes(str(broken), good)) == "publickey"
    assert f'Load key "{broken}": error in libcrypto' in scene.lines


def test_missing_key_file_is_passed_over(scene: Scene) -> None:
    with pytest.raises(Failure):
        scene.run(wishes(str(scene.folder / "none"), methods=("publickey",)))
    assert not [line for line in scene.lines if not line.startswith("debug")]


def test_password_is_asked_for_as_often_as_wanted(scene: Scene) -> None:
    scene.answers = ["one", "two", "three", "four"]
    with pytest.raises(Failure) as caught:
        scene.run(wishes(password_prompts=3))
    assert scene.tried == ["one", "two", "three"]
    assert scene.questions == ["alice@example.com's password: "] * 3
    assert scene.lines.count("Permission denied, please try again.") == 2
    assert caught.value.lines == (
        "alice@example.com: Permission denied (publickey,password).",
    )


def test_second_password_succeeds(scene: Scene) -> None:
    scene.answers, scene.accepts = ["wrong", "right"], {"right"}
    assert scene.run(wishes()) == "password"


def test_nobody_to_ask_for_a_password_sends_none(scene: Scene) -> None:
    with pytest.raises(Failure, match="Permission denied"):
        scene.run(wishes())
    assert scene.tried == []


def ask(*texts: str, name: str = "", instruction: str = "", shown: bool = False) -> Challenge:
    return Challenge(name, instruction, tuple(Prompt(text, shown) for text in texts))


INTERACTIVE = ("publickey", "password", "keyboard-interactive")
ANSWERED = answer_authorization(["yes"]).partition(" ")[2]


def test_questions_are_asked_until_the_server_has_made_up_its_mind(scene: Scene) -> None:
    scene.offers = INTERACTIVE
    scene.rounds = [[ask("Password: "), ask("Floor? ", "Room? ", shown=True), ask("Sure? ")]]
    scene.answers = ["secret", "third", "8", "yes"]
    assert scene.run(Wishes("alice", "there")) == "keyboard-interactive"
    assert scene.questions == [
        "(alice@there) Password: ",
        "(alice@there) Floor? (shown)",
        "(alice@there) Room? (shown)",
        "(alice@there) Sure? ",
    ]
    two = answer_authorization(["third", "8"]).partition(" ")[2]
    assert scene.tried[2:] == [two, ANSWERED]
    assert "debug1: Next authentication method: keyboard-interactive" in scene.lines


def test_questions_come_before_passwords_and_as_often(scene: Scene) -> None:
    scene.offers = INTERACTIVE
    scene.rounds = [[ask("Code: ")] for _ in range(9)]
    scene.answers = ["no"] * 9
    with pytest.raises(Failure, match=r"denied \(publickey,password,keyboard-interactive\)"):
        scene.run(Wishes("alice", "there", password_prompts=2))
    assert scene.questions == ["(alice@there) Code: "] * 2 + ["alice@there's password: "] * 2


def test_what_the_server_says_is_shown_and_harmless(scene: Scene) -> None:
    scene.offers = INTERACTIVE
    scene.rounds = [[ask("\x1b]0;\x07Code: ", name="\x1bname", instruction="Be\nquick")]]
    scene.answers = ["yes"]
    scene.run(Wishes("alice", "there"))
    assert scene.questions == ["(alice@there) \\033]0;\\007Code: "]
    assert {"\\033name", "Be\nquick"} <= set(scene.lines)


def test_a_challenge_without_questions_is_the_end_of_a_try(scene: Scene) -> None:
    scene.offers = INTERACTIVE
    scene.rounds = [[ask("Code: "), ask(instruction="No.")], [ask("Code: ")]]
    scene.answers = ["maybe", "yes"]
    assert scene.run(Wishes("alice", "there")) == "keyboard-interactive"
    assert "No." in scene.lines


@pytest.mark.parametrize("offers", [None, ("publickey", "password")])
def test_servers_that_do_not_offer_it_are_not_asked_to_ask(
    scene: Scene, offers: tuple[str, ...] | None
) -> None:
    scene.offers = offers
    scene.answers = ["secret"]
    scene.accepts = {"secret"}
    assert scene.run(Wishes("alice", "there")) == "password"
    assert scene.tried == ["secret"]


def test_a_server_that_asks_nothing_is_tried_once(scene: Scene) -> None:
    scene.offers = INTERACTIVE
    with pytest.raises(Failure):
        scene.run(Wishes("alice", "there", methods=("keyboard-interactive",)))
    assert scene.tried == [""]


def test_a_server_that_asks_for_ever_is_given_up(scene: Scene) -> None:
    scene.offers = INTERACTIVE
    scene.rounds = [[ask("Code: ")] * 1000]
    scene.answers = ["no"] * 1000
    with pytest.raises(Failure, match="asks for ever"):
        scene.run(Wishes("alice", "there"))
    assert len(scene.questions) == MAX_ROUNDS


def test_nobody_there_to_answer_goes_on_to_the_next_method(scene: Scene) -> None:
    scene.offers = INTERACTIVE
    scene.rounds = [[ask("Code: ")]] * 3
    scene.answers = [None, "secret"]
    scene.accepts = {"secret"}
    assert scene.run(Wishes("alice", "there")) == "password"
    assert scene.tried == ["", "secret"]


def test_batch_mode_begins_no_interview(scene: Scene) -> None:
    scene.offers = INTERACTIVE
    with pytest.raises(Failure):
        scene.run(Wishes("alice", "there"), batch=True)
    assert scene.tried == []
    assert not any("Next authentication method: keyboard" in line for line in scene.lines)


def test_answers_that_are_too_long_are_not_sent(scene: Scene) -> None:
    scene.offers = INTERACTIVE
    scene.rounds = [[ask(*["?"] * 32)]]
    scene.answers = ["x" * 1000] * 32
    with pytest.raises(Failure, match="too long"):
        scene.run(Wishes("alice", "there"))
    assert scene.tried == [""]


@pytest.mark.parametrize("text", ["", "!", challenge_text(ask("?"))[:-4]])
def test_what_is_no_challenge_is_a_failure(text: str) -> None:
    with pytest.raises(Failure, match="cannot read what the server asks"):
        challenge_in(text)
    good = ask("Code: ")
    assert challenge_in(challenge_text(good)) == read_challenge(challenge_text(good)) == good


def test_order_of_methods_is_the_users(scene: Scene) -> None:
    scene.answers, scene.accepts = ["right"], {"right"}
    key = scene.make_key("key")
    methods = ("keyboard-interactive", "password", "publickey")
    assert scene.run(wishes(key, methods=methods)) == "password"
    assert scene.tried == ["right"]


def test_nobody_is_asked_for_what_the_server_does_not_offer(scene: Scene) -> None:
    scene.offers, scene.answers = ("publickey",), ["secret"]
    with pytest.raises(Failure, match=r"Permission denied \(publickey\)\.") as caught:
        scene.run(wishes(methods=("password",)))
    assert caught.value.lines == ("alice@example.com: Permission denied (publickey).",)
    assert (scene.questions, scene.tried) == ([], [])


def test_refused_key_tells_what_is_offered_so_the_server_is_not_asked_again(scene: Scene) -> None:
    scene.offers, scene.answers, scene.accepts = ("publickey", "password"), ["right"], {"right"}
    assert scene.run(wishes(scene.make_key("key"))) == "password"
    assert scene.tried == ["key", "right"]
    assert not scene.was_asked


def test_methods_are_tried_one_after_another_if_the_server_wants_several(scene: Scene) -> None:
    keys = [scene.make_key(name) for name in ("bad", "one", "two")]
    scene.answers = ["right"]
    steps = {"one": ("publickey",), "two": ("password",)}
    asked: list[str] = []

    async def want_all(authorization: str | None) -> Reply:
        assert authorization is not None
        asked.append(scene.name_of(authorization))
        if asked[-1] in steps:
            return Reply(False, steps[asked[-1]], is_partial=True)
        return Reply(asked[-1] == "right", ("publickey",))

    prompter = ScriptedPrompter(scene, batch=False)
    candidates = gather_keys(wishes(*keys), scene.log)
    login = Authentication(wishes(*keys), candidates, prompter, scene.log, now=lambda: NOW)
    assert asyncio.run(login.run(CONVERSATION, want_all)) == "password"
    assert asked == ["bad", "one", "bad", "two", "right"]
    assert 'Authenticated using "publickey" with partial success.' in scene.lines


def test_server_that_always_wants_more_is_given_up(scene: Scene) -> None:
    scene.answers = ["again"] * 100

    async def want_more(authorization: str | None) -> Reply:
        return Reply(False, ("password",), is_partial=True)

    login = Authentication(
        wishes(), [], ScriptedPrompter(scene, batch=False), scene.log, now=lambda: NOW
    )
    with pytest.raises(Failure, match=r"Permission denied \(password\)\."):
        asyncio.run(login.run(CONVERSATION, want_more))
    assert len(scene.answers) > 50


def test_server_that_calls_nothing_a_success_is_refused_like_any_other(scene: Scene) -> None:
    async def want_more(authorization: str | None) -> Reply:
        return Reply(False, (), is_partial=True)

    nothing = wishes(methods=("publickey",))
    login = Authentication(
        nothing, [], ScriptedPrompter(scene, batch=True), scene.log, now=lambda: NOW
    )
    with pytest.raises(Failure, match=r": Permission denied\.$"):
        asyncio.run(login.run(CONVERSATION, want_more))


def test_server_that_lets_everybody_in_needs_no_secret(scene: Scene) -> None:
    async def let_in(authorization: str | None) -> Reply:
        return Reply(authorization is None)

    authentication = Authentication(
        wishes(), [], ScriptedPrompter(scene, batch=False), scene.log, now=lambda: NOW
    )
    asyncio.run(authentication.run(CONVERSATION, let_in))
    assert scene.questions == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"accepted_algorithms": "ssh-ed25519"}, "not in PubkeyAcceptedAlgorithms"),
        ({"required_rsa_size": 8192}, "shorter than RequiredRSASize"),
    ],
)
def test_keys_that_are_not_accepted_are_skipped(
    scene: Scene, options: dict[str, object], reason: str
) -> None:
    key = scene.make_key("key", "rsa")
    with pytest.raises(Failure):
        scene.run(wishes(key, methods=("publickey",), **options))
    assert scene.tried == []
    assert any(line.endswith(reason) for line in scene.lines)


def test_token_names_its_user(scene: Scene) -> None:
    seen: list[str] = []

    async def keep(authorization: str | None) -> Reply:
        seen.append(authorization or "")
        return Reply(True)

    candidates = gather_keys(wishes(scene.make_key("key")), scene.log)
    prompter = ScriptedPrompter(scene, batch=True)
    authentication = Authentication(wishes(), candidates, prompter, scene.log, now=lambda: NOW)
    asyncio.run(authentication.run(CONVERSATION, keep))
    payload = seen[0].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert claims["iss"] == "alice"
    assert claims["exp"] == int(NOW) + 300


def test_basic_authorization_survives_strange_characters() -> None:
    header = basic_authorization("alice", "pä:ss\udcff")
    assert base64.b64decode(header.removeprefix("Basic ")) == b"alice:p\xc3\xa4:ss\xff"
