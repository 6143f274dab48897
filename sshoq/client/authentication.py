"""Who we are: the methods and keys that are tried, in OpenSSH's order, until the server lets us in.

Each try is one CONNECT with an Authorization field. There is no way to ask whether a key would do,
as SSHv2 has it, so each key costs a signature, and a key that needs a passphrase waits until all
others have failed. Nobody is asked for what the server does not offer. Knows no connection: `send`
makes the try and says what came of it.
"""

import time
from binascii import b2a_base64
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from sshoq.auth.agent import Agent, AgentError, AgentSigner
from sshoq.auth.keys import KeyFormatError, PublicKey, Signer
from sshoq.auth.private_keys import (
    KeyFileError,
    KeyFileSkipped,
    PrivateKey,
    load_private_key,
    load_public_half,
)
from sshoq.auth.token import build_token
from sshoq.client.log import Failure, Log
from sshoq.client.prompt import Prompter, PromptNeeded, run_with_prompts
from sshoq.config.patterns import match_pattern_list


class Reply(NamedTuple):
    """What the server says to a try. `methods`: what may let in, from a server that tells."""

    accepted: bool
    methods: tuple[str, ...] | None = None


Send = Callable[[str | None], Awaitable[Reply]]
"""Make a try with this Authorization field, or without any, which asks what is offered."""

Attempt = Callable[[str | None], Awaitable[bool]]

METHODS = ("publickey", "password")
"""What the protocol has; keyboard-interactive and the rest are passed over."""


class Wishes(NamedTuple):
    """What the configuration says about authentication, paths expanded."""

    user: str
    host: str
    methods: tuple[str, ...] = METHODS
    identity_files: tuple[str, ...] = ()
    identities_only: bool = False
    agent_path: str | None = None
    agent_key: str | None = None
    """-pubkey-for-agent: the agent's key that this file names is the only one to be tried."""
    accepted_algorithms: str = "*"
    required_rsa_size: int = 1024
    password_prompts: int = 3
    add_to_agent: tuple[str, int] = ("no", 0)
    """AddKeysToAgent: yes, no, ask or confirm, and a lifetime in seconds, 0 for ever."""

    @property
    def account(self) -> str:
        return f"{self.user}@{self.host}"


class Candidate(NamedTuple):
    """A key to try. `public` is None when only loading the file can tell."""

    name: str
    public: PublicKey | None
    agent_path: str | None = None

    def describe(self) -> str:
        if self.public is None:
            return self.name
        where = " agent" if self.agent_path else ""
        return f"{self.name} {self.public.kind.name} {self.public.fingerprint()}{where}"


# --------------------------------------------------------------------------- which keys


def gather_keys(wishes: Wishes, log: Log) -> list[Candidate]:
    """The keys in OpenSSH's order: the agent's that a file names, its others, the files' own."""
    files = []
    for path in wishes.identity_files:
        public = load_public_half(path)
        log.debug(f"identity file {path} type {public.kind.name if public else -1}")
        files.append(Candidate(path, public))
    if wishes.agent_key is not None:
        return _only_key(wishes, wishes.agent_key, log)
    candidates = [*_agent_first(wishes, files, _agent_keys(wishes, log))]
    usable = [candidate for candidate in candidates if _is_usable(candidate, wishes, log)]
    for candidate in usable:
        log.debug(f"Will attempt key: {candidate.describe()}")
    return usable


def _agent_keys(wishes: Wishes, log: Log) -> list[PublicKey]:
    if wishes.agent_path is None:
        return []
    try:
        with Agent(wishes.agent_path) as agent:
            return agent.identities()
    except AgentError as error:
        log.debug(f"get_agent_identities: {error}")
        return []


def _agent_first(
    wishes: Wishes, files: list[Candidate], held: list[PublicKey]
) -> Iterable[Candidate]:
    names = {file.public: file.name for file in reversed(files) if file.public is not None}
    agent = wishes.agent_path
    yield from (Candidate(names[key], key, agent) for key in held if key in names)
    if not wishes.identities_only:
        yield from (Candidate(key.comment, key, agent) for key in held if key not in names)
    yield from (file for file in files if file.public not in held)


def _only_key(wishes: Wishes, path: str, log: Log) -> list[Candidate]:
    public = load_public_half(path)
    if public is None:
        raise Failure(f'Load key "{path}": no public key')
    if public not in _agent_keys(wishes, log):
        raise Failure(f"the agent holds no key that fits {path}")
    return [Candidate(path, public, wishes.agent_path)]


def _is_usable(candidate: Candidate, wishes: Wishes, log: Log) -> bool:
    key = candidate.public
    if key is None:
        return True
    reason = _refusal(key, wishes)
    if reason:
        log.debug(f"Skipping {candidate.describe()} - {reason}")
    return not reason


def _refusal(key: PublicKey, wishes: Wishes) -> str | None:
    if key.kind.token_algorithm is None:
        return "not supported"
    if key.algorithm == "ssh-rsa" and key.bits < wishes.required_rsa_size:
        return "shorter than RequiredRSASize"
    names = ("rsa-sha2-256", "rsa-sha2-512") if key.algorithm == "ssh-rsa" else (key.algorithm,)
    if not any(match_pattern_list(name, wishes.accepted_algorithms) == 1 for name in names):
        return "not in PubkeyAcceptedAlgorithms"
    return None


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
        now: Callable[[], float] = time.time,
    ) -> None:
        self._wishes = wishes
        self._candidates = candidates
        self._prompter = prompter
        self._log = log
        self._now = now
        self._offered: tuple[str, ...] = METHODS
        self._has_asked = False

    async def run(self, conversation_id: bytes, send: Send) -> str:
        async def attempt(authorization: str | None) -> bool:
            return await self._attempt(send, authorization)

        for method in self._wishes.methods:
            if method not in self._offered:
                continue
            self._log.debug(f"Next authentication method: {method}")
            if method == "publickey":
                succeeded = await self._try_keys(conversation_id, attempt)
            else:
                succeeded = await self._try_passwords(attempt)
            if succeeded:
                return method
        if await self._needs_no_secret(attempt):
            return "none"
        offered = ",".join(self._offered)
        raise Failure(f"{self._wishes.account}: Permission denied ({offered}).")

    async def _attempt(self, send: Send, authorization: str | None) -> bool:
        reply = await send(authorization)
        self._has_asked = True
        if reply.methods is not None and not reply.accepted:
            self._offered = tuple(method for method in METHODS if method in reply.methods)
            offered = ",".join(self._offered)
            self._log.debug(f"Authentications that can continue: {offered}")
        return reply.accepted

    async def _needs_no_secret(self, attempt: Attempt) -> bool:
        """Ask a server that has said nothing yet what it offers, as ssh does with the method
        "none". True: nothing more is wanted, we are in.
        """
        return not self._has_asked and await attempt(None)

    # ----- publickey

    async def _try_keys(self, conversation_id: bytes, attempt: Attempt) -> bool:
        waiting = []
        for candidate in self._candidates:
            if "publickey" not in self._offered:
                return False
            try:
                signer = self._load(candidate, _refuse_to_ask)
            except PromptNeeded:
                waiting.append(candidate)
                continue
            if signer and await self._try_key(candidate, signer, conversation_id, attempt):
                return True
        if self._prompter.batch or not waiting:
            return False
        if await self._needs_no_secret(attempt):
            return True
        for candidate in waiting:
            if "publickey" not in self._offered:
                return False
            signer = await self._load_with_prompts(candidate)
            if signer and await self._try_key(candidate, signer, conversation_id, attempt):
                return True
        return False

    def _load(
        self, candidate: Candidate, ask: Callable[[str], str | None], tries: int = 1
    ) -> Signer | None:
        if candidate.agent_path is not None and candidate.public is not None:
            return AgentSigner(candidate.agent_path, candidate.public)
        self._log.debug(f"Trying private key: {candidate.name}")
        try:
            key = load_private_key(candidate.name, ask, tries)
        except KeyFileSkipped as skipped:
            self._log.debug3(f"no such identity: {skipped}")
            return None
        except KeyFileError as error:
            for line in str(error).splitlines():
                self._log.error(line)
            return None
        loaded = Candidate(candidate.name, key.public_key)
        return key if _is_usable(loaded, self._wishes, self._log) else None

    async def _load_with_prompts(self, candidate: Candidate) -> Signer | None:
        def load() -> Signer | None:
            tries = self._wishes.password_prompts
            signer = self._load(candidate, self._prompter.secret, tries)
            if isinstance(signer, PrivateKey):
                self._offer_to_agent(candidate.name, signer)
            return signer

        return await run_with_prompts(self._prompter, load)

    async def _try_key(
        self, candidate: Candidate, signer: Signer, conversation_id: bytes, attempt: Attempt
    ) -> bool:
        name = Candidate(candidate.name, signer.public_key, candidate.agent_path).describe()
        self._log.debug(f"Offering public key: {name}")

        def sign() -> str:
            return build_token(self._wishes.user, conversation_id, signer, self._now())

        try:
            if candidate.agent_path:  # it may ask its user, or wait for a token to be touched
                token = await run_with_prompts(self._prompter, sign)
            else:
                token = sign()
        except (AgentError, KeyFormatError) as error:
            self._log.error(f"sign_and_send_pubkey: signing failed for {name}: {error}")
            return False
        if not await attempt(f"Bearer {token}"):
            return False
        self._log.debug(f"Server accepts key: {name}")
        return True

    def _offer_to_agent(self, name: str, key: PrivateKey) -> None:
        """AddKeysToAgent, for keys that took a passphrase."""
        rule, lifetime = self._wishes.add_to_agent
        if rule == "no" or self._wishes.agent_path is None:
            return
        if rule == "ask" and not self._confirmed(name):
            return
        try:
            with Agent(self._wishes.agent_path) as agent:
                agent.add(key, name, lifetime=lifetime, confirm=rule == "confirm")
        except AgentError as error:
            self._log.debug(f"could not add identity to agent: {name}: {error}")
        else:
            self._log.debug(f"identity added to agent: {name}")

    def _confirmed(self, name: str) -> bool:
        return (self._prompter.answer(f"Add key {name} to agent? ") or "").lower() == "yes"

    # ----- password

    async def _try_passwords(self, attempt: Attempt) -> bool:
        if self._prompter.batch:
            return False
        if await self._needs_no_secret(attempt):
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
            if await attempt(basic_authorization(self._wishes.user, password)):
                return True
        return False


def _refuse_to_ask(question: str) -> str | None:
    raise PromptNeeded(question)


def basic_authorization(user: str, password: str) -> str:
    text = f"{user}:{password}".encode("utf-8", "surrogateescape")
    return "Basic " + b2a_base64(text, newline=False).decode()
