"""UpdateHostKeys towards servers that do not do what ours does. The scenarios show what ours does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sshoq.auth.host_key_proof import MAX_KEYS, prove_key
from sshoq.auth.private_keys import PrivateKey
from sshoq.client import host_key_update
from sshoq.client.host_key_update import QUESTION, HostKeyUpdate, updating
from sshoq.client.log import Log
from sshoq.client.prompt import Prompter
from sshoq.config.options import Options
from sshoq.config.resolve import resolve
from sshoq.config.surroundings import Paths, Surroundings
from sshoq.config.usage import DEBUG1
from sshoq.protocol.messages import (
    GiveProof,
    HostKeys,
    OfferKeys,
    WantProof,
    join_strings,
    split_strings,
)
from sshoq.transport.channel import Channel
from tests.pair import logged_in

ID, OTHER_ID = bytes(range(32)), bytes(32)
PLACE = "[host.test]:443"


def key(number: int) -> PrivateKey:
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes((number,)) * 32))


SHOWN, NEW, OLD = key(1), key(2), key(3)


def lines(*keys: PrivateKey) -> str:
    return "".join(f"{PLACE} {one.public_key.line}\n" for one in keys)


def told(*keys: PrivateKey) -> OfferKeys:
    return OfferKeys(join_strings(one.public_key.blob for one in keys))


Server = Callable[[Channel], Coroutine[None, None, None]]


async def honest(channel: Channel) -> None:
    channel.request(told(SHOWN, NEW))
    asked = await channel.next_request()
    assert asked is not None
    assert isinstance(asked.request, WantProof)
    assert split_strings(asked.request.keys) == [NEW.public_key.blob]
    channel.request(GiveProof(join_strings([prove_key(NEW, ID)])))
    channel.finish()


class Answering(Prompter):
    def __init__(self, *answers: str) -> None:
        super().__init__({}, pytest.fail, tty="/nonexistent")
        self.answers = list(answers)
        self.asked: list[str] = []

    def _ask(self, question: str, *, echo: bool, refusal: str | None) -> str | None:
        self.asked.append(question)
        return self.answers.pop(0) if self.answers else None


class User:
    """Knows the host by two keys, of which the server has one."""

    def __init__(self, folder: Path) -> None:
        self.known = folder / "known_hosts"
        self.known.write_text(lines(SHOWN, OLD))
        self.prompter = Answering()
        self.said: list[str] = []

    def options(self, *options: str) -> Options:
        wanted = [f"UserKnownHostsFile={self.known}", "UpdateHostKeys=yes"]
        words = [word for option in (*options, *wanted) for word in ("-o", option)]
        home = str(self.known.parent)
        surroundings = Surroundings({}, Paths(home), user="me", uid=1000, home=home, host="here")
        return resolve(["-F", "none", *words, "host.test"], surroundings=surroundings).options

    def visit(
        self, serve: Server, *options: str, session: Server | None = None, ahead: bool = False
    ) -> None:
        """`session`: what the client does meanwhile; otherwise it waits for the update."""

        async def main() -> None:
            async with logged_in() as (client, server), asyncio.TaskGroup() as group:

                def accept(channel: Channel) -> None:
                    channel.confirm()
                    serving.append(group.create_task(serve(channel)))

                serving: list[asyncio.Task[None]] = []
                server.on_channel = accept
                channel = client.conversation.open_channel(HostKeys())
                log = Log(DEBUG1, lambda level, line: self.said.append(line))
                update = HostKeyUpdate(
                    channel,
                    ID,
                    SHOWN.public_key,
                    "192.0.2.1",
                    self.options(*options),
                    self.prompter,
                    log,
                )
                if session is None:
                    await update.run()
                else:
                    async with updating(update, ahead=ahead):
                        await session(channel)
                for task in serving:
                    task.cancel()

        asyncio.run(main())


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_what_is_proven_is_learnt_and_what_is_gone_is_forgotten(user: User) -> None:
    user.visit(honest)
    assert user.known.read_text() == lines(SHOWN, NEW)
    assert f"Learned new hostkey: ED25519 {NEW.public_key.fingerprint()}" in user.said
    assert f"Deprecating obsolete hostkey: ED25519 {OLD.public_key.fingerprint()}" in user.said


@pytest.mark.parametrize(
    "proofs",
    [
        [prove_key(NEW, OTHER_ID)],
        [prove_key(OLD, ID)],
        [],
        [prove_key(NEW, ID)] * 2,
        [b""],
    ],
    ids=["another connection's", "another key's", "none", "too many", "empty"],
)
def test_what_is_not_proven_changes_nothing(user: User, proofs: list[bytes]) -> None:
    async def forge(channel: Channel) -> None:
        channel.request(told(SHOWN, NEW))
        await channel.next_request()
        channel.request(GiveProof(join_strings(proofs)))

    user.visit(forge)
    assert user.known.read_text() == lines(SHOWN, OLD)
    assert "UpdateHostKeys: server gave bad signature for a host key" in user.said


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (told(NEW), "is not among its keys"),
        (told(), "is not among its keys"),
        (told(SHOWN, NEW, NEW), "too many or duplicated"),
        (told(SHOWN, *[key(number) for number in range(10, 10 + MAX_KEYS)]), "too many"),
        (OfferKeys(b"\x05ab"), "cut"),
        (GiveProof(b""), "out of place"),
    ],
    ids=["not the shown one", "none", "twice", "too many", "cut", "out of place"],
)
def test_a_server_that_talks_nonsense_changes_nothing(
    user: User, said: OfferKeys | GiveProof, reason: str
) -> None:
    async def babble(channel: Channel) -> None:
        channel.request(said)

    user.visit(babble)
    assert user.known.read_text() == lines(SHOWN, OLD)
    assert any(reason in line for line in user.said)


def test_keys_that_cannot_be_read_are_passed_over(user: User) -> None:
    async def future(channel: Channel) -> None:
        channel.request(OfferKeys(told(SHOWN).keys + join_strings([b"\0\0\0\3new"])))
        channel.finish()

    user.visit(future)
    assert user.known.read_text() == lines(SHOWN)


@pytest.mark.parametrize("says_keys", [False, True])
def test_a_server_that_falls_silent_is_not_waited_for(
    user: User, monkeypatch: pytest.MonkeyPatch, says_keys: bool
) -> None:
    async def fall_silent(channel: Channel) -> None:
        if says_keys:
            channel.request(told(SHOWN, NEW))
        await channel.closed

    monkeypatch.setattr(host_key_update, "PATIENCE", 0.2)
    user.visit(fall_silent)
    assert "debug1: UpdateHostKeys: the server does not answer" in user.said
    assert user.known.read_text() == lines(SHOWN, OLD)


def test_a_server_that_hangs_up_is_no_fault_of_the_session(user: User) -> None:
    async def hang_up(channel: Channel) -> None:
        channel.close()

    user.visit(hang_up)
    assert user.known.read_text() == lines(SHOWN, OLD)


def test_a_short_session_waits_for_proofs_that_are_under_way(user: User) -> None:
    is_over = asyncio.Event()

    async def serve(channel: Channel) -> None:
        channel.request(told(SHOWN, NEW))
        await channel.next_request()
        await is_over.wait()
        channel.request(GiveProof(join_strings([prove_key(NEW, ID)])))

    async def session(channel: Channel) -> None:
        while not any("asking for proof" in line for line in user.said):
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(is_over.set)

    user.visit(serve, session=session)
    assert user.known.read_text() == lines(SHOWN, NEW)


def test_a_short_session_does_not_wait_for_a_server_that_has_said_nothing(user: User) -> None:
    async def serve(channel: Channel) -> None:
        await channel.closed

    async def session(channel: Channel) -> None:
        await channel.opened()

    user.visit(serve, session=session)
    assert user.known.read_text() == lines(SHOWN, OLD)


def test_the_sessions_own_failure_is_not_wrapped_up(user: User) -> None:
    async def session(channel: Channel) -> None:
        raise KeyError("mine")

    with pytest.RaisesGroup(KeyError):  # by the test's own group
        user.visit(honest, session=session)


def test_who_is_asked_is_asked_ahead_of_the_session(user: User) -> None:
    user.prompter = Answering("what?", "YES")

    async def session(channel: Channel) -> None:
        assert user.prompter.asked == [QUESTION] * 2
        assert user.known.read_text() == lines(SHOWN, NEW)

    user.visit(honest, "UpdateHostKeys=ask", session=session)
    assert 'Please enter "yes" or "no"' in user.said


@pytest.mark.parametrize("answers", [("no",), (), ("", "maybe", "later", "yes")])
def test_anything_but_yes_changes_nothing(user: User, answers: tuple[str, ...]) -> None:
    user.prompter = Answering(*answers)
    user.visit(honest, "UpdateHostKeys=ask")
    assert user.known.read_text() == lines(SHOWN, OLD)


def test_the_address_is_recorded_too_where_it_is_checked(user: User) -> None:
    user.visit(honest, "CheckHostIP=yes", "HashKnownHosts=no")
    place = f"{PLACE},[192.0.2.1]:443"
    added = f"[192.0.2.1]:443 {SHOWN.public_key.line}\n{place} {NEW.public_key.line}\n"
    assert user.known.read_text() == lines(SHOWN) + added
