"""Process: monitor [root]. What a signed token proves: whether a key or certificate that
may let in has signed it, for this user and this connection.

A token counts once. Nothing is said to the network process of why one was refused; the log has it.
"""

import hashlib
import time
from collections.abc import Callable, Iterator

from sshoq.auth.authorized_keys import KeyRights, mark_of
from sshoq.auth.interactive import DEVICE
from sshoq.auth.interactive import METHOD as INTERACTIVE
from sshoq.auth.keys import TOUCHED, VERIFIED, KeyFormatError, PublicKey, touch_of
from sshoq.auth.revoked_keys import RevocationError, RevokedKeys, load_revoked_keys
from sshoq.auth.ssh_certificates import Certificate, parse_certificate
from sshoq.auth.token import (
    TokenRefused,
    WrongClock,
    certificate_in,
    key_algorithms_of,
    key_in,
    verify_token,
)
from sshoq.named_tuple import NamedTuple
from sshoq.server import log
from sshoq.server.authorities import CertificateLogin, refusal_of
from sshoq.server.key_commands import Requester, ask_for_keys
from sshoq.server.user_keys import Allowance, FoundKey, authorized_keys, keys_in
from sshoq.server.values import TOUCH_REQUIRED, VERIFY_REQUIRED

MIN_RSA_BITS = 2048


class Evidence(NamedTuple):
    """What an Authorization header came to."""

    method: str
    is_good: bool
    key: PublicKey | None = None
    key_rights: KeyRights | None = None
    certificate: Certificate | None = None
    """Then `key` is it as well."""

    @property
    def full_method(self) -> str:
        """With the device, as logs and SSH_USER_AUTH have it."""
        return f"{INTERACTIVE}/{DEVICE}" if self.method == INTERACTIVE else self.method

    def describe(self, hash_name: str) -> str:
        """The key; with a certificate its own fingerprint, too, and who signed what."""
        assert self.key is not None
        certificate = self.certificate
        if certificate is None:
            return f"{self.key.kind.name} {self.key.fingerprint(hash_name)}"
        authority = certificate.authority
        return (
            f"{certificate.kind_name} {certificate.key.fingerprint(hash_name)} "
            f"ID {certificate.key_id} (serial {certificate.serial}) "
            f"CA {authority.kind.name} {authority.fingerprint(hash_name)}"
        )


class KeyJudge:
    """The tokens of one connection."""

    def __init__(
        self, requester: Requester, *, user: str, conversation_id: bytes, is_valid: bool
    ) -> None:
        """`is_valid`: the user exists and may log in. For one who may not, no certificate counts
        and no program is asked."""
        self._requester = requester
        self._account, self._config, self._connection = requester
        self._user = user
        self._conversation_id = conversation_id
        self._is_valid = is_valid
        self._hash = requester.config.fingerprint_hash.lower()
        self._used_tokens: set[bytes] = set()
        self._used_keys: set[bytes] = set()
        self._allowance = Allowance()

    def use_up(self, evidence: Evidence) -> None:
        """That key has done its part."""
        if evidence.key is not None:
            certificate = evidence.certificate
            self._used_keys.add(evidence.key.blob if certificate is None else certificate.key.blob)

    def weigh_token(self, token: bytes) -> Evidence:
        """Find the key that has signed the token; it does not say which one that is."""
        digest = hashlib.sha256(token).digest()
        nothing = Evidence("publickey", False)
        if digest in self._used_tokens:
            return nothing
        self._used_tokens.add(digest)
        text = token.decode("latin-1")
        now = time.time()
        self._allowance.begin_try()
        try:
            blob = certificate_in(text)
            if blob is not None:
                return self._weigh_certificate(text, blob, now)
            named = self._named_key(text, now)
            marks = key_algorithms_of(text) if named is None else [mark_of(named)]
        except WrongClock as error:
            self._note_clock(error)
            return nothing
        except (KeyFormatError, TokenRefused) as error:
            log.debug(str(error), log.DEBUG2)
            return nothing
        return self._weigh_known_keys(text, named, marks, now)

    def _weigh_known_keys(
        self, token: str, named: PublicKey | None, marks: list[bytes], now: float
    ) -> Evidence:
        """The first that has signed the token and may let in."""
        nothing = Evidence("publickey", False, named)
        for path, (line, key, rights) in self._known_keys(named, marks):
            if rights.certificate_authority or named not in (None, key):
                continue
            try:
                signature = self._verify(token, key, now)
            except WrongClock as error:
                self._note_clock(error)
                return nothing
            except TokenRefused as refused:
                log.debug(f"{path}:{line}: {refused}", log.DEBUG2)
                continue
            if self._is_used(key) or self._is_revoked(key):
                continue
            reason = self._key_refusal(key) or refusal_of(rights, self._connection, now)
            if reason is None:
                name = f"{key.kind.name} {key.fingerprint(self._hash)}"
                log.verbose(f"Accepted key {name} found at {path}:{line}")
                return self._weigh_touch(Evidence("publickey", True, key, rights), key, signature)
            log.info(f"Authentication tried for {self._account.name} with correct key but {reason}")
        return nothing

    def _note_clock(self, error: WrongClock) -> None:
        """The user hears nothing but a refusal, and nobody would guess why."""
        where = self._connection
        log.info(
            f"Authentication tried for {self._account.name} from {where.peer_address} port "
            f"{where.peer_port} with a token of another time ({error}): the client's clock is "
            "wrong, or ours"
        )

    def _named_key(self, token: str, now: float) -> PublicKey | None:
        """The key that the client says it has, and has; None if it does not say."""
        blob = key_in(token)
        if blob is None:
            return None
        key = PublicKey(blob)
        self._verify(token, key, now)
        return key

    def _verify(self, token: str, key: PublicKey, now: float) -> bytes:
        """The signature; TokenRefused if it is not that key's, for this user and conversation."""
        return verify_token(token, key, self._user, self._conversation_id, now)

    def _known_keys(self, named: PublicKey | None, marks: list[bytes]) -> Iterator[FoundKey]:
        """Those that can be it; in files first, a program is asked only if they are not enough."""
        yield from authorized_keys(self._account, self._config, marks, self._allowance)
        command = self._config.authorized_keys_command
        if command is not None and self._is_valid:
            said = ask_for_keys(self._requester, named, named)
            yield from keys_in(command, said, marks, self._allowance)

    def _weigh_certificate(self, token: str, blob: bytes, now: float) -> Evidence:
        """Not the key itself is known here, but who vouches for it."""
        certificate = parse_certificate(blob)
        signature = self._verify(token, certificate.key, now)
        evidence = Evidence("publickey", False, certificate.public, certificate=certificate)
        if reason := self._certificate_refusal(certificate):
            log.info(f"refusing {certificate.kind_name} key: {reason}")
            return evidence
        if not self._is_valid or self._is_used(certificate.key):
            return evidence
        if self._is_certificate_revoked(certificate):
            return evidence
        rights = CertificateLogin(certificate, self._requester, self._allowance, now).find_rights()
        if rights is None:
            return evidence
        evidence = evidence._replace(is_good=True, key_rights=rights)
        return self._weigh_touch(evidence, certificate.key, signature)

    def _certificate_refusal(self, certificate: Certificate) -> str | None:
        if not self._config.accepts_key(certificate.public.algorithm):
            return f"key type {certificate.public.algorithm} not in PubkeyAcceptedAlgorithms"
        if certificate.signature_algorithm not in self._config.ca_signature_algorithms.split(","):
            return f"signed by {certificate.signature_algorithm}, not in CASignatureAlgorithms"
        if self._is_short(certificate.key) or self._is_short(certificate.authority):
            return "the RSA key is too short"
        return certificate.find_flaw()

    def _weigh_touch(self, evidence: Evidence, key: PublicKey, signature: bytes) -> Evidence:
        """Keys on FIDO tokens: whether their owner was there, and known, as is demanded."""
        rights = evidence.key_rights
        if not key.kind.on_token or rights is None:
            return evidence
        touch = touch_of(signature)
        log.debug(f"sk_counter = {touch.counter}, sk_flags = 0x{touch.flags:02x}")
        demands = self._config.pubkey_auth_options
        missing = None
        if (VERIFY_REQUIRED in demands or rights.verify_required) and not touch.flags & VERIFIED:
            missing = "user verification requirement not met"
        if (TOUCH_REQUIRED in demands or rights.touch_required) and not touch.flags & TOUCHED:
            missing = "user presence (authenticator touch) requirement not met"
        if missing is not None:
            whom = f"{'' if self._is_valid else 'invalid user '}{self._user}"
            log.error(
                f"public key {evidence.describe(self._hash)} signature for {whom} from "
                f"{self._connection.peer} rejected: {missing}"
            )
        return evidence._replace(is_good=missing is None)

    def _is_used(self, key: PublicKey) -> bool:
        """Two keys in a row must be two keys."""
        if key.blob not in self._used_keys:
            return False
        log.info(f"refusing previously-used {key.kind.name} key")
        return True

    def _is_revoked(self, key: PublicKey) -> bool:
        return self._is_in_revoked_file(key, lambda revoked: key in revoked)

    def _is_certificate_revoked(self, certificate: Certificate) -> bool:
        return self._is_in_revoked_file(
            certificate.key, lambda revoked: revoked.revokes(certificate)
        )

    def _is_in_revoked_file(self, key: PublicKey, look: Callable[[RevokedKeys], bool]) -> bool:
        """RevokedKeys. A file that cannot be read might revoke this very key, so it revokes all."""
        path = self._config.revoked_keys
        if path is None:
            return False
        name = f"{key.kind.name} {key.fingerprint(self._hash)}"
        try:
            if not look(load_revoked_keys(path)):
                return False
        except RevocationError as error:
            log.error(f"Error checking authentication key {name} in revoked keys file {error}")
            return True
        log.error(f"Authentication key {name} revoked by file {path}")
        return True

    def _key_refusal(self, key: PublicKey) -> str | None:
        """What speaks against a key although it has signed; None for nothing."""
        if not self._config.accepts_key(key.algorithm):
            return f"key type {key.algorithm} not in PubkeyAcceptedAlgorithms"
        return "the RSA key is too short" if self._is_short(key) else None

    def _is_short(self, key: PublicKey) -> bool:
        least = max(MIN_RSA_BITS, self._config.required_rsa_size)
        return key.algorithm == "ssh-rsa" and key.bits < least
