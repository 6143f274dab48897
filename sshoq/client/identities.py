"""Which keys and certificates there are to be tried, in OpenSSH's order: the agent's and those in
files.

Looks at public halves only; nothing here asks for a passphrase or signs.
"""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sshoq.auth.agent import Agent, AgentError, agent_path
from sshoq.auth.keys import KeyFormatError, PublicKey
from sshoq.auth.private_keys import load_public_half
from sshoq.client.log import Failure, Log
from sshoq.client.wishes import authentication_methods, certificate_paths, identity_paths
from sshoq.config.options import Options
from sshoq.config.patterns import match_pattern_list
from sshoq.named_tuple import NamedTuple
from sshoq.protocol.extensions import NONE, Extension

if TYPE_CHECKING:
    from sshoq.auth.ssh_certificates import Certificate

METHODS = ("publickey", "keyboard-interactive", "password")
"""What the protocol has; the rest of OpenSSH's are passed over."""


class Wishes(NamedTuple):
    """What the configuration says about authentication, paths expanded."""

    user: str
    host: str
    methods: tuple[str, ...] = METHODS
    identity_files: tuple[str, ...] = ()
    certificate_files: tuple[str, ...] = ()
    """CertificateFile. With any, those beside the identity files are not looked for."""
    identities_only: bool = False
    agent_path: str | None = None
    agent_key: str | None = None
    """-pubkey-for-agent: the agent's key that this file names is the only one to be tried."""
    accepted_algorithms: str = "*"
    required_rsa_size: int = 1024
    password_prompts: int = 3
    add_to_agent: tuple[str, int] = ("no", 0)
    """AddKeysToAgent: yes, no, ask or confirm, and a lifetime in seconds, 0 for ever."""
    card_provider: str | None = None
    """PKCS11Provider."""
    token_provider: str = "internal"
    """SecurityKeyProvider."""

    @property
    def account(self) -> str:
        return f"{self.user}@{self.host}"


def login_wishes(options: Options) -> Wishes:
    return Wishes(
        user=options.user,
        host=options.host_key_alias or options.hostname,
        methods=authentication_methods(options),
        identity_files=identity_paths(options),
        certificate_files=certificate_paths(options),
        identities_only=options.identities_only,
        agent_path=agent_path(options.identity_agent, os.environ),
        agent_key=options.agent_public_key,
        accepted_algorithms=options.pubkey_accepted_algorithms,
        required_rsa_size=options.required_rsa_size,
        password_prompts=options.number_of_password_prompts,
        add_to_agent=options.add_keys_to_agent,
        card_provider=_card_provider(options),
        token_provider=_token_provider(options.security_key_provider, os.environ),
    )


def _card_provider(options: Options) -> str | None:
    provider = options.pkcs11_provider
    return None if provider in (None, "none") else options.expand_path(str(provider))


def _token_provider(named: str | None, environ: Mapping[str, str]) -> str:
    """A "$NAME" names a variable."""
    if named is not None and named.startswith("$"):
        named = environ.get(named.removeprefix("$"))
    return named or "internal"


class Candidate(NamedTuple):
    """A key to try. `public` is None when only loading the file can tell."""

    name: str
    public: PublicKey | None
    agent_path: str | None = None
    certificate: "Certificate | None" = None
    """What `public` is then. Its key may be held by another candidate."""

    @property
    def key(self) -> PublicKey | None:
        """The key that would sign."""
        return self.public if self.certificate is None else self.certificate.key

    @property
    def needs(self) -> Extension:
        """What the server must have announced to be offered it."""
        extensions = NONE if self.certificate is None else Extension.CERTIFICATE
        if self.key is not None and self.key.kind.on_token:
            extensions |= Extension.SECURITY_KEY
        return extensions

    def describe(self) -> str:
        if self.public is None or self.key is None:
            return self.name
        where = " agent" if self.agent_path else ""
        return f"{self.name} {self.public.kind.name} {self.key.fingerprint()}{where}"


# --------------------------------------------------------------------------- all of them, in order


def gather_keys(wishes: Wishes, log: Log) -> list[Candidate]:
    """The keys in OpenSSH's order: the agent's that a file names, its others, the files' own."""
    files = [*_from_files(wishes, log)]
    if wishes.agent_key is not None:
        return _only_key(wishes, wishes.agent_key, log)
    candidates = [*_agent_first(wishes, files, _agent_keys(wishes, log))]
    usable = [candidate for candidate in candidates if is_usable(candidate, wishes, log)]
    for candidate in usable:
        log.debug(f"Will attempt key: {candidate.describe()}")
    return usable


def _from_files(wishes: Wishes, log: Log) -> Iterable[Candidate]:
    """Behind each key its own certificate, unless certificates are named by themselves."""
    for path in wishes.identity_files:
        public = load_public_half(path)
        log.debug(f"identity file {path} type {public.kind.name if public else -1}")
        yield _candidate(path, public)
        beside = None if wishes.certificate_files else load_public_half(f"{path}-cert")
        if beside is not None and beside.kind.certified:
            log.debug(f"identity file {path}-cert type {beside.kind.name}")
            yield _candidate(path, beside)
    for path in wishes.certificate_files:
        public = load_public_half(path)
        log.debug(f"certificate file {path} type {public.kind.name if public else -1}")
        if public is not None and public.kind.certified:
            yield _candidate(path, public)


def _candidate(name: str, public: PublicKey | None, agent_path: str | None = None) -> Candidate:
    if public is None or not public.kind.certified:
        return Candidate(name, public, agent_path)
    from sshoq.auth.ssh_certificates import parse_certificate

    try:
        return Candidate(name, public, agent_path, parse_certificate(public.blob))
    except KeyFormatError:  # left out further on, as every kind that cannot sign
        return Candidate(name, public, agent_path)


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
    yield from (_candidate(names[key], key, agent) for key in held if key in names)
    if not wishes.identities_only:
        yield from (_candidate(key.comment, key, agent) for key in held if key not in names)
    yield from (file for file in files if file.public not in held)


def _only_key(wishes: Wishes, path: str, log: Log) -> list[Candidate]:
    public = load_public_half(path)
    if public is None:
        raise Failure(f'Load key "{path}": no public key')
    if public not in _agent_keys(wishes, log):
        raise Failure(f"the agent holds no key that fits {path}")
    return [_candidate(path, public, wishes.agent_path)]


# --------------------------------------------------------------------------- which of them


def is_usable(candidate: Candidate, wishes: Wishes, log: Log) -> bool:
    reason = _refusal(candidate, wishes)
    if reason:
        log.debug(f"Skipping {candidate.describe()} - {reason}")
    return not reason


def is_understood(candidate: Candidate, extensions: Extension, log: Log) -> bool:
    """By a server with these extensions."""
    if candidate.needs in extensions:
        return True
    log.debug(f"Skipping {candidate.describe()} - the server takes no such keys")
    return False


def _refusal(candidate: Candidate, wishes: Wishes) -> str | None:
    key, certificate = candidate.key, candidate.certificate
    if key is None or candidate.public is None:
        return None
    if key.kind.token_algorithm is None:
        return "not supported"
    if certificate is not None and not certificate.is_for_users:
        return "not a user certificate"
    if key.algorithm == "ssh-rsa" and key.bits < wishes.required_rsa_size:
        return "shorter than RequiredRSASize"
    if not _is_accepted(candidate.public.algorithm, wishes.accepted_algorithms):
        return "not in PubkeyAcceptedAlgorithms"
    return None


def _is_accepted(algorithm: str, accepted: str) -> bool:
    stem = "ssh-rsa"
    names = [algorithm]
    if algorithm == stem or algorithm.startswith(f"{stem}-cert-"):  # RFC 8332: it names the hash
        names = [algorithm.replace(stem, name) for name in ("rsa-sha2-256", "rsa-sha2-512")]
    return any(match_pattern_list(name, accepted) == 1 for name in names)


def signing_candidate(
    candidate: Candidate, candidates: list[Candidate], wishes: Wishes
) -> Candidate | None:
    """Who signs for it: itself, or for a certificate out of a file whoever has the key."""
    certificate = candidate.certificate
    if certificate is None or candidate.agent_path is not None:
        return candidate
    for other in candidates:
        if other.certificate is None and other.public == certificate.key:
            return other
    # A file whose public half is known to nobody, or that is itself not to be tried.
    return Candidate(candidate.name, None) if candidate.name in wishes.identity_files else None
