"""Who we are: the methods and keys that are tried, in OpenSSH's order, until the server lets us in.

Each try is one CONNECT with an Authorization field. There is no way to ask whether a key would do,
as SSHv2 has it, so each key costs a signature, and a key that needs a passphrase waits until all
others have failed. Nobody is asked for what the server does not offer. Knows no connection: `send`
makes the try and says what came of it.
"""

import os
import time
from binascii import b2a_base64
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from sshoq.auth.agent import Agent, AgentError, AgentSigner
from sshoq.auth.keys import KeyFormatError, Signer
from sshoq.auth.private_keys import (
    KeyFileError,
    KeyFileSkipped,
    PrivateKey,
    load_private_key,
    load_public_half,
)
from sshoq.auth.token import MAX_TOKEN, build_token
from sshoq.client.identities import (
    METHODS,
    Candidate,
    Wishes,
    is_usable,
    signing_candidate,
)
from sshoq.client.log import Failure, Log
from sshoq.client.prompt import Prompter, PromptNeeded, run_with_prompts
from sshoq.named_tuple import NamedTuple

if TYPE_CHECKING:
    from sshoq.auth.interactive import Challenge
    from sshoq.auth.ssh_certificates import Certificate
    from sshoq.client.hardware_keys import HardwareKeys


class Reply(NamedTuple):
    """What the server says to a try. `methods`: what may let in, from a server that tells."""

    accepted: bool
    methods: tuple[str, ...] | None = None
    is_partial: bool = False
    """The method has succeeded, but the server wants another one besides."""
    challenge: "Challenge | None" = None
    """What the user is asked, and the next try has to answer; or only told."""

    @property
    def is_question(self) -> bool:
        """The try goes on with answers."""
        return self.challenge is not None and bool(self.challenge.prompts)


class _PartialSuccess(Exception):
    """The methods have to be gone through again."""


Send = Callable[[str | None], Awaitable[Reply]]
"""Make a try with this Authorization field, or without any, which asks what is offered."""

UNASKED = ("publickey", "password")
"""What every server may have that has not said what it offers."""
ASKING = ("keyboard-interactive", "password")
"""With these the user is asked."""

MAX_STEPS = 16
"""Methods that a server may want one after another."""

LONGEST_TOKEN = MAX_TOKEN - 1024
"""A request has other fields, too, and there is a bound for all of them together."""

CERTIFICATE_GRACE = 300
"""Seconds for which an agent keeps a certificate that has expired."""
MAX_LIFETIME = 0xFFFF_FFFF
"""What an agent can be told; longer is for ever."""

# --------------------------------------------------------------------------- trying


class Authentication:
    """One login. `run` returns the method that succeeded, or raises Failure as OpenSSH words it."""

    def __init__(
        self,
        wishes: Wishes,
        candidates: list[Candidate],
        prompter: Prompter,
        log: Log,
        *,
        names_keys: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._wishes = wishes
        self._candidates = candidates
        self._prompter = prompter
        self._log = log
        self._names_keys = names_keys
        """The server wants to be told which key has signed."""
        self._now = now
        self._offered: tuple[str, ...] = UNASKED
        self._has_asked = False
        self._loaded: dict[str, PrivateKey] = {}
        self._flaws: dict[str, str] = {}
        """By file: what is wrong with keys that the server may not even want."""
        self._method = "none"
        self._send: Send | None = None
        self._spent: list[Candidate] = []
        self._hardware: HardwareKeys | None = None
        self._card_provider = wishes.card_provider

    async def run(self, conversation_id: bytes, send: Send) -> str:
        self._send = send
        try:
            return await self._log_in(conversation_id)
        finally:
            if self._hardware is not None:
                self._hardware.close()

    async def _log_in(self, conversation_id: bytes) -> str:
        succeeded = None
        for _ in range(MAX_STEPS):
            try:
                succeeded = await self._try_methods(conversation_id)
            except _PartialSuccess:
                continue
            break
        if succeeded is not None:
            return succeeded
        if await self._needs_no_secret():
            return "none"
        self._log.debug("No more authentication methods to try.")
        # Nothing is left where an account may not log in at all, which a banner has mostly told.
        offered = f" ({','.join(self._offered)})" if self._offered else ""
        raise Failure(f"{self._wishes.account}: Permission denied{offered}.")

    async def _try_methods(self, conversation_id: bytes) -> str | None:
        """The method that has let us in; _PartialSuccess after one that was needed, too."""
        for method in self._wishes.methods:
            if method in ASKING and self._prompter.batch:
                continue
            if method == "keyboard-interactive" and await self._needs_no_secret():
                return "none"
            if method not in self._offered:
                continue
            self._log.debug(f"Next authentication method: {method}")
            self._method = method
            if method == "publickey":
                succeeded = await self._try_keys(conversation_id)
            elif method == "keyboard-interactive":
                succeeded = await self._try_interviews()
            else:
                succeeded = await self._try_passwords()
            if succeeded:
                return method
        return None

    async def _attempt(self, authorization: str | None) -> bool:
        return (await self._submit(authorization)).accepted

    async def _submit(self, authorization: str | None) -> Reply:
        """A try, and what follows from what the server says to it. _PartialSuccess."""
        assert self._send is not None
        reply = await self._send(authorization)
        self._has_asked = True
        if reply.is_question:
            return reply
        if reply.methods is not None and not reply.accepted:
            self._offered = tuple(method for method in reply.methods if method in METHODS)
            offered = ",".join(self._offered)
            self._log.debug(f"Authentications that can continue: {offered}")
        if reply.is_partial and authorization is not None:  # nothing cannot have been a success
            self._log.verbose(f'Authenticated using "{self._method}" with partial success.')
            raise _PartialSuccess
        return reply

    async def _needs_no_secret(self) -> bool:
        """Ask a server that has said nothing yet what it offers, as ssh does with the method
        "none". True: nothing more is wanted, we are in.
        """
        return not self._has_asked and await self._attempt(None)

    # ----- publickey

    async def _try_keys(self, conversation_id: bytes) -> bool:
        waiting = []
        await self._take_card_keys()
        for candidate in self._candidates:
            if "publickey" not in self._offered:
                break
            if candidate in self._spent:
                continue
            try:
                signer = self._load(candidate, _refuse_to_ask)
            except PromptNeeded:
                waiting.append(candidate)
                continue
            if signer and await self._try_key(candidate, signer, conversation_id):
                return True
        self._tell_flaws()
        if self._prompter.batch:  # a token may be touched all the same
            waiting = [candidate for candidate in waiting if self._is_on_token(candidate)]
        if not waiting:
            return False
        if await self._needs_no_secret():
            return True
        for candidate in waiting:
            if "publickey" not in self._offered:
                return False
            signer = await self._load_with_prompts(candidate)
            if signer and await self._try_key(candidate, signer, conversation_id):
                return True
        return False

    def _load(
        self, candidate: Candidate, ask: Callable[[str], str | None], tries: int = 1
    ) -> Signer | None:
        holder = signing_candidate(candidate, self._candidates, self._wishes)
        if holder is None:
            self._log.debug(f'no separate private key for certificate "{candidate.name}"')
            return None
        if holder.agent_path is not None and holder.key is not None:
            held_as = b"" if holder.public is None else holder.public.blob
            return AgentSigner(holder.agent_path, holder.key, held_as)
        if holder.public is not None and holder.public.kind.on_token:
            if not os.path.exists(holder.name):
                self._log.debug3(f"no such identity: {holder.name}: No such file or directory")
                return None
            if ask is _refuse_to_ask:  # a touch is asked for when nothing else has helped
                raise PromptNeeded
            return self._hardware_keys().on_token(holder.name, holder.public)
        key = self._loaded.get(holder.name) or self._load_file(holder, ask, tries)
        if key is None:
            return None
        if candidate.certificate is not None:
            return key if candidate.key == key.public_key else None
        loaded = Candidate(holder.name, key.public_key)
        return key if is_usable(loaded, self._wishes, self._log) else None

    def _is_on_token(self, candidate: Candidate) -> bool:
        return candidate.key is not None and candidate.key.kind.on_token

    def _hardware_keys(self) -> "HardwareKeys":
        if self._hardware is None:
            from sshoq.client.hardware_keys import HardwareKeys

            self._hardware = HardwareKeys(self._wishes, self._prompter, self._log)
        return self._hardware

    async def _take_card_keys(self) -> None:
        """Ahead of the files' keys, behind the agent's."""
        provider, self._card_provider = self._card_provider, None
        if provider is None:
            return
        find = partial(self._hardware_keys().on_card, provider)
        found = await run_with_prompts(self._prompter, find)
        usable = [one for one in found if is_usable(one, self._wishes, self._log)]
        place = sum(candidate.agent_path is not None for candidate in self._candidates)
        self._candidates = [*self._candidates[:place], *usable, *self._candidates[place:]]

    def _load_file(
        self, holder: Candidate, ask: Callable[[str], str | None], tries: int
    ) -> PrivateKey | None:
        """Kept, since a key may also have to sign for its certificate."""
        path = holder.name
        self._log.debug(f"Trying private key: {path}")
        try:
            key = load_private_key(path, ask, tries)
        except KeyFileSkipped as skipped:
            self._log.debug3(f"no such identity: {skipped}")
            return None
        except KeyFileError as error:
            self._flaws[path] = str(error)
            if holder.key is None or ask is not _refuse_to_ask:
                self._tell_flaws()
            return None
        self._loaded[path] = key
        return key

    def _tell_flaws(self) -> None:
        """ssh looks into a file whose public half it knows once the server wants that key. We have
        to sign to find out, so what is wrong is told when no other key has let us in."""
        for flaw in self._flaws.values():
            for line in flaw.splitlines():
                self._log.error(line)
        self._flaws.clear()

    async def _load_with_prompts(self, candidate: Candidate) -> Signer | None:
        def load() -> Signer | None:
            tries = self._wishes.password_prompts
            return self._load(candidate, self._prompter.secret, tries)

        return await run_with_prompts(self._prompter, load)

    async def _try_key(
        self, candidate: Candidate, signer: Signer, conversation_id: bytes
    ) -> bool:
        offered = candidate
        if candidate.public is None:
            offered = candidate._replace(public=signer.public_key)
        name = offered.describe()
        self._log.debug(f"Offering public key: {name}")
        key = signer.public_key.blob if self._names_keys else b""
        certificate = b""
        if offered.certificate is not None:
            key, certificate = b"", offered.certificate.public.blob

        def sign() -> str:
            user, now = self._wishes.user, self._now()
            return build_token(
                user, conversation_id, signer, now, key=key, certificate=certificate
            )

        self._ask_for_touch(offered)
        try:
            if isinstance(signer, AgentSigner):  # it may ask, or wait for a token to be touched
                token = await run_with_prompts(self._prompter, sign)
            else:
                token = sign()
        except (AgentError, KeyFormatError) as error:
            self._log.error(f"sign_and_send_pubkey: signing failed for {name}: {error}")
            return False
        if len(token) > LONGEST_TOKEN:
            self._log.error(f"certificate too long: {name}")
            return False
        try:
            accepted = await self._attempt(f"Bearer {token}")
        except _PartialSuccess:
            self._spent.append(candidate)  # the next step wants another key
            raise
        if not accepted:
            return False
        self._log.debug(f"Server accepts key: {name}")
        if self._wishes.add_to_agent[0] != "no" and self._wishes.agent_path is not None:
            await self._offer_to_agent(signer, self._wishes.agent_path)
        return True

    def _ask_for_touch(self, offered: Candidate) -> None:
        key = offered.key
        if key is not None and key.kind.on_token and os.isatty(2):
            which = f"{key.kind.name} {key.fingerprint()}"
            self._log.info(f"Confirm user presence for key {which}")

    async def _offer_to_agent(self, signer: Signer, agent_path: str) -> None:
        """AddKeysToAgent, for a key out of a file that has proven useful."""
        for path, key in self._loaded.items():
            if key is signer:
                add = partial(self._add_to_agent, path, key, agent_path)
                await run_with_prompts(self._prompter, add)

    def _add_to_agent(self, path: str, key: PrivateKey, agent_path: str) -> None:
        rule, lifetime = self._wishes.add_to_agent
        comment = _comment_of(path, key)
        if rule == "ask" and not self._prompter.confirm(f"Add key {path} ({comment}) to agent?"):
            self._log.debug3("user denied adding this key")
            return
        must_confirm = rule == "confirm"
        try:
            with Agent(agent_path) as agent:
                agent.add(key, comment, lifetime=lifetime, confirm=must_confirm)
                self._log.debug(f"identity added to agent: {path}")
                for certificate, life in self._certificates_of(key, lifetime):
                    public = certificate.public
                    agent.add(
                        key, comment, certificate=public, lifetime=life, confirm=must_confirm
                    )
                    self._log.debug(f"certificate added to agent: {certificate.key_id}")
        except AgentError as error:
            self._log.debug(f"could not add identity to agent: {path}: {error}")

    def _certificates_of(
        self, key: PrivateKey, lifetime: int
    ) -> "Iterator[tuple[Certificate, int]]":
        """Those out of files, and how long the agent is to keep them: not much longer than they
        are good for, as with ssh-add."""
        for candidate in self._candidates:
            certificate = candidate.certificate
            if certificate is None or candidate.agent_path is not None:
                continue
            left = int(certificate.valid_before - self._now()) + CERTIFICATE_GRACE
            if certificate.key == key.public_key and left > 0:
                life = min(lifetime or left, left)
                yield certificate, life if life <= MAX_LIFETIME else 0

    # ----- keyboard-interactive

    async def _try_interviews(self) -> bool:
        from sshoq.client.interview import Interview

        for _ in range(self._wishes.password_prompts):
            if "keyboard-interactive" not in self._offered:
                return False
            interview = Interview(self._wishes.account, self._submit, self._prompter, self._log)
            if await interview.run():
                return True
            if not interview.is_worth_repeating:
                return False
        return False

    # ----- password

    async def _try_passwords(self) -> bool:
        if await self._needs_no_secret():
            return True
        question = f"{self._wishes.account}'s password: "
        for number in range(self._wishes.password_prompts):
            if "password" not in self._offered:
                return False
            if number:
                self._log.error("Permission denied, please try again.")
            password = await run_with_prompts(
                self._prompter, lambda: self._prompter.secret(question)
            )
            if password is None:  # nobody there to ask
                return False
            if await self._attempt(basic_authorization(self._wishes.user, password)):
                return True
        return False


def _comment_of(path: str, key: PrivateKey) -> str:
    """An encrypted file does not tell its own to the library; the public half beside it does."""
    comment = key.public_key.comment
    if comment in ("", path):
        public = load_public_half(path)
        comment = public.comment if public is not None else ""
    return comment or path


def _refuse_to_ask(question: str) -> str | None:
    raise PromptNeeded(question)


def basic_authorization(user: str, password: str) -> str:
    text = f"{user}:{password}".encode("utf-8", "surrogateescape")
    return "Basic " + b2a_base64(text, newline=False).decode()
