"""Process: monitor [root]. Whether somebody is who they say, and may come in.

The network process is not believed: the token is verified here, against the connection's ID as it
was first told, and a token counts once. A user who does not exist, or may not log in, is taken
through the same steps as one who may, and every failure takes as long as the next.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sshoq.auth.authorized_keys import KeyRights, OptionError, mark_of
from sshoq.auth.certificate_rights import merge_rights
from sshoq.auth.interactive import DEVICE
from sshoq.auth.interactive import METHOD as INTERACTIVE
from sshoq.auth.keys import TOUCHED, VERIFIED, KeyFormatError, PublicKey, touch_of
from sshoq.auth.revoked_keys import RevocationError, RevokedKeys, load_revoked_keys
from sshoq.auth.ssh_certificates import Certificate, parse_certificate
from sshoq.auth.token import (
    TokenRefused,
    certificate_in,
    key_algorithms_of,
    key_in,
    verify_token,
)
from sshoq.server import log, shadow
from sshoq.server.account import Account, find_account, refusal
from sshoq.server.authorities import CertificateLogin, refusal_of
from sshoq.server.config import LoginConfig, ServerConfig
from sshoq.server.connection import ConnectionFacts
from sshoq.server.interview import Interview, interactive_part, spoiled
from sshoq.server.key_commands import Requester, ask_for_keys
from sshoq.server.login import is_root
from sshoq.server.pam import PamError, PamTransaction, load_library
from sshoq.server.peer_name import find_name
from sshoq.server.privsep import Authenticate, AuthenticationResult
from sshoq.server.records import RecordFiles, record_failure
from sshoq.server.rights import LoginRights
from sshoq.server.user_keys import Allowance, FoundKey, authorized_keys, keys_in
from sshoq.server.values import TOUCH_REQUIRED, VERIFY_REQUIRED
from sshoq.wire import encode_text

CONVERSATION_ID_LENGTH = 32
MIN_RSA_BITS = 2048
MIN_FAILURE_TIME = 0.005
FREE_TRY_SHARE = 0.25
MAX_BANNER = 100 * 1024
MAX_USER = 1024

_TIMING_SECRET = os.urandom(32)
"""Made once, in main: the floor of a user must be the same in every monitor."""

ACCEPTED = AuthenticationResult.ACCEPTED
REFUSED = AuthenticationResult.REFUSED
CLOSED = AuthenticationResult.CLOSED


def preload() -> None:
    """Main, before it forks: what would else be imported, or set up by OpenSSL, in each monitor
    anew, while somebody waits. token.py and keys.py import late for the client's sake.
    """
    import json  # noqa: F401

    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes  # noqa: F401
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils  # noqa: F401
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    with contextlib.suppress(InvalidSignature):
        Ed25519PrivateKey.generate().public_key().verify(bytes(64), b"")
    if is_root():
        with contextlib.suppress(PamError):
            load_library()


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


class Authenticator:
    """The tries of one connection. `login` is set when one has succeeded.

    `exchange` sends a result that is not the last one of a try, and waits for the next request."""

    def __init__(
        self,
        config: ServerConfig,
        connection: ConnectionFacts,
        exchange: Callable[[AuthenticationResult], Authenticate],
    ) -> None:
        self.login: LoginRights | None = None
        self.pam: PamTransaction | None = None
        self.user: str | None = None
        self.is_valid = False
        self.failures = 0
        self.is_refused = False
        """RefuseConnection: closed whatever they can prove."""
        self._server = config
        self._config: LoginConfig = config
        self._connection = connection
        self._account: Account | None = None
        self.conversation_id = b""
        """Of the first try, and so of all."""
        self._used_tokens: set[bytes] = set()
        self._allowance = Allowance()
        self._had_none = self._is_free_try = False
        self._must_change_password = False
        self._banner_shown = False
        self._lists = self._wanted_lists()
        """What would let in from here: the methods that are left of each list."""
        self._done: list[str] = []
        """What has succeeded, in the words of SSH_USER_AUTH."""
        self._done_keys: set[bytes] = set()
        self._key_rights: KeyRights | None = None
        self._is_partial = False
        self._exchange = exchange
        self._working_since = 0.0
        self._interview: Interview | None = None

    # ------------------------------------------------------------------ one try

    def attempt(self, request: Authenticate) -> AuthenticationResult:
        """Judge one request; and one that came in the middle of it, in place of an answer."""
        while True:
            result = self._attempt(request)
            instead = None if self._interview is None else self._interview.instead
            if instead is None or result.outcome != REFUSED:
                return result
            request = instead

    def _attempt(self, request: Authenticate) -> AuthenticationResult:
        """In a time that does not tell why it failed."""
        self._working_since = time.monotonic()
        self._interview = None
        outcome, messages = self._judge(request)
        if outcome != ACCEPTED:
            self._take_time()
        exhausted = outcome == CLOSED and self.failures >= self._config.max_auth_tries
        return AuthenticationResult(
            outcome,
            self._take_banner() + messages,
            self._methods(),
            "Too many authentication failures" if exhausted else "",
            self._is_partial,
            self._last_words(),
        )

    def _last_words(self) -> str:
        return "" if self._interview is None else self._interview.last_words()

    def _take_time(self) -> None:
        # The free try looks the user up, too, but many clients begin with it.
        share = FREE_TRY_SHARE if self._is_free_try else 1.0
        _wait_until(self._working_since, share * _failure_time(self.user or ""))

    def _challenge(self, challenge: str) -> Authenticate:
        """What the user thinks about for minutes is no time that we have worked."""
        self._take_time()
        asking = AuthenticationResult(
            REFUSED, self._take_banner(), self._methods(), challenge=challenge
        )
        request = self._exchange(asking)
        self._working_since = time.monotonic()
        return request

    def _wanted_lists(self) -> list[tuple[str, ...]]:
        """Without root there is no way to look into a password."""
        needing_root = set() if is_root() else {"password", INTERACTIVE}
        return [one for one in self._config.method_lists if needing_root.isdisjoint(one)]

    def _methods(self) -> str:
        """What can succeed here, whoever asks: the same for users that do not exist."""
        return ",".join(dict.fromkeys(rest[0] for rest in self._lists if rest))

    def _is_next(self, method: str) -> bool:
        return any(rest[:1] == (method,) for rest in self._lists)

    def _judge(self, request: Authenticate) -> tuple[int, str]:
        self._is_free_try = self._is_partial = False
        if not self._fits_earlier(request):
            return CLOSED, ""
        account = self._account or self._begin(request.user)
        if self._config.refuse_connection:
            log.info(f"administratively prohibited connection for {self._whom} from {self._source}")
            self.is_refused = True
            return CLOSED, ""
        evidence = self._weigh(account, request)
        if (
            evidence.is_good
            and self.is_valid
            and self._is_consistent(evidence)
            and self._root_may(account, evidence)
        ):
            return self._succeed(account, evidence)
        return self._fail(evidence), ""

    def _fits_earlier(self, request: Authenticate) -> bool:
        """Neither the user nor the connection may change between tries."""
        if len(request.conversation_id) != CONVERSATION_ID_LENGTH:
            log.error("conversation ID of a wrong length")
            return False
        if len(request.user) > MAX_USER or "\0" in request.user:
            log.error("impossible user name")
            return False
        if self.user is None:
            self.user = request.user
            self.conversation_id = request.conversation_id
            return True
        if not hmac.compare_digest(request.conversation_id, self.conversation_id):
            log.error("the conversation ID has changed")
            return False
        if request.user != self.user:
            log.info(
                f"Disconnecting {self.description} {self._source}: Change of username not allowed: "
                f"{self.user} -> {request.user} [preauth]"
            )
            return False
        return True

    def _begin(self, user: str) -> Account:
        """Look the user up, once, and see which rules hold."""
        where = self._find_origin()
        self._account = account = find_account(user)
        self._config = self._server.for_connection(
            user=account.name,
            groups=account.groups,
            host=where.peer_host,
            address=where.peer_address,
            local_address=where.local_address,
            local_port=where.local_port,
            invalid_user=not account.exists,
        )
        self._lists = self._wanted_lists()
        log.set_level(log.LEVELS[self._config.log_level])
        self.is_valid = self._is_allowed(account)
        if self._config.use_pam and is_root():
            self.pam = PamTransaction(self._config.pam_service_name, account.name, where)
        return account

    def _find_origin(self) -> ConnectionFacts:
        """With the host's name if it counts. How long that takes says nothing of the user."""
        if self._server.use_dns:
            name = find_name(self._connection.peer_address)
            self._connection = self._connection._replace(peer_name=name)
            self._working_since = time.monotonic()
        return self._connection

    def _is_allowed(self, account: Account) -> bool:
        if not account.exists:
            log.info(f"Invalid user {account.name} from {self._source}")
            return False
        if reason := refusal(account, self._config, self._connection):
            log.info(reason)
            return False
        if not is_root():
            return account.uid == os.getuid()
        return self._config.use_pam or self._shadow_allows(account)

    def _shadow_allows(self, account: Account) -> bool:
        record = shadow.find_record(account.name)
        if record is None:
            return True
        if record.is_locked():
            log.info(f"User {account.name} not allowed because account is locked")
            return False
        if record.account_expired(time.time()):
            log.info(f"Account {account.name} has expired")
            return False
        self._must_change_password = record.password_expired(time.time())
        return True

    # ------------------------------------------------------------------ evidence

    def _weigh(self, account: Account, request: Authenticate) -> Evidence:
        scheme, _, credentials = request.authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            return self._weigh_token(account, request, credentials.strip())
        if scheme.lower() == b"basic":
            return self._weigh_password(account, credentials.strip())
        answers = interactive_part(request.authorization)
        if answers is not None:
            return self._weigh_interview(account, request, begins=not answers)
        return Evidence("none", False)

    def _weigh_token(self, account: Account, request: Authenticate, token: bytes) -> Evidence:
        """Find the key that has signed the token; it does not say which one that is."""
        digest = hashlib.sha256(token).digest()
        nothing = Evidence("publickey", False)
        if not self._is_next("publickey") or digest in self._used_tokens:
            return nothing
        self._used_tokens.add(digest)
        text = token.decode("latin-1")
        now = time.time()
        self._allowance.begin_try()
        try:
            blob = certificate_in(text)
            if blob is not None:
                return self._weigh_certificate(account, text, blob, now)
            named = self._named_key(text, now)
            marks = key_algorithms_of(text) if named is None else [mark_of(named)]
        except (KeyFormatError, TokenRefused) as error:
            log.debug(str(error), log.DEBUG2)
            return nothing
        nothing = Evidence("publickey", False, named)
        for path, (line, key, rights) in self._known_keys(account, named, marks):
            if rights.certificate_authority or named not in (None, key):
                continue
            try:
                signature = verify_token(text, key, request.user, self.conversation_id, now)
            except TokenRefused as refused:
                log.debug(f"{path}:{line}: {refused}", log.DEBUG2)
                continue
            if self._is_used(key) or self._is_revoked(key):
                continue
            reason = self._key_refusal(key) or refusal_of(rights, self._connection, now)
            if reason is None:
                log.verbose(
                    f"Accepted key {key.kind.name} {self._fingerprint(key)} found at {path}:{line}"
                )
                return self._weigh_touch(Evidence("publickey", True, key, rights), key, signature)
            log.info(f"Authentication tried for {account.name} with correct key but {reason}")
        return nothing

    def _named_key(self, token: str, now: float) -> PublicKey | None:
        """The key that the client says it has, and has; None if it does not say."""
        blob = key_in(token)
        if blob is None:
            return None
        key = PublicKey(blob)
        verify_token(token, key, self.user or "", self.conversation_id, now)
        return key

    def _known_keys(
        self, account: Account, named: PublicKey | None, marks: list[bytes]
    ) -> Iterator[FoundKey]:
        """Those that can be it; in files first, a program is asked only if they are not enough."""
        yield from authorized_keys(account, self._config, marks, self._allowance)
        command = self._config.authorized_keys_command
        if command is not None and self.is_valid:
            said = ask_for_keys(self._requester(account), named, named)
            yield from keys_in(command, said, marks, self._allowance)

    def _requester(self, account: Account) -> Requester:
        return Requester(account, self._config, self._connection)

    def _weigh_certificate(
        self, account: Account, token: str, blob: bytes, now: float
    ) -> Evidence:
        """Not the key itself is known here, but who vouches for it."""
        certificate = parse_certificate(blob)
        signature = verify_token(
            token, certificate.key, self.user or "", self.conversation_id, now
        )
        evidence = Evidence("publickey", False, certificate.public, certificate=certificate)
        if reason := self._certificate_refusal(certificate):
            log.info(f"refusing {certificate.kind_name} key: {reason}")
            return evidence
        if not self.is_valid or self._is_used(certificate.key):
            return evidence
        if self._is_certificate_revoked(certificate):
            return evidence
        requester = self._requester(account)
        rights = CertificateLogin(certificate, requester, self._allowance, now).find_rights()
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
            log.error(
                f"public key {self._describe(evidence)} signature for {self._whom} from "
                f"{self._source} rejected: {missing}"
            )
        return evidence._replace(is_good=missing is None)

    def _is_used(self, key: PublicKey) -> bool:
        """Two keys in a row must be two keys."""
        if key.blob not in self._done_keys:
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
        name = f"{key.kind.name} {self._fingerprint(key)}"
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

    def _weigh_password(self, account: Account, credentials: bytes) -> Evidence:
        try:
            user, colon, password = base64.b64decode(credentials, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return Evidence("password", False)
        # Else somebody could get in as one with the password of another.
        same_user = bool(colon) and user == encode_text(self.user or "")
        offered = self._is_next("password")
        empty = not password and not self._config.permit_empty_passwords
        if not (same_user and offered) or empty:
            return Evidence("password", False)
        return Evidence("password", self._is_password(account, password))

    def _is_hopeless(self, account: Account) -> bool:
        """No password or answer can be right."""
        is_shut_root = account.uid == 0 and self._config.permit_root_login != "yes"
        return not self.is_valid or is_shut_root

    def _is_password(self, account: Account, password: bytes) -> bool:
        hopeless = self._is_hopeless(account)
        if hopeless:
            password = spoiled(password)
        if self.pam is not None:
            self.pam.tell_authentication("\n".join(self._done) or None)
            allow_empty = self._config.permit_empty_passwords
            is_right = self.pam.authenticate(password, allow_empty=allow_empty)
        else:
            record = None if hopeless else shadow.find_record(account.name)
            is_right = shadow.check_password(record, password)
        return is_right and not hopeless

    def _weigh_interview(
        self, account: Account, request: Authenticate, *, begins: bool
    ) -> Evidence:
        """All questions of PAM's, of which each goes to the client and back. `begins`: else these
        are answers that nobody has asked for."""
        evidence = Evidence(INTERACTIVE, False)
        if self.pam is None or not begins or not self._is_next(INTERACTIVE):
            return evidence
        hopeless = self._is_hopeless(account)
        self._interview = Interview(request, self._challenge, spoils=hopeless)
        self.pam.tell_authentication("\n".join(self._done) or None)
        is_right = self.pam.interview(
            self._interview,
            allow_empty=self._config.permit_empty_passwords,
            may_succeed=not hopeless,
        )
        if is_right and not hopeless:
            self.pam.keep(self._interview.take_texts())
            return evidence._replace(is_good=True)
        if not self._interview.is_over:
            who = f"{'' if self.is_valid else 'illegal user '}{self.user}"
            log.error(f"PAM: {self.pam.explain()} for {who} from {self._connection.peer_host}")
        return evidence

    def _root_may(self, account: Account, evidence: Evidence) -> bool:
        """PermitRootLogin, once the method is known."""
        if account.uid != 0:
            return True
        permission = self._config.permit_root_login
        by_key = evidence.method == "publickey"
        if permission == "yes" or (permission == "prohibit-password" and by_key):
            return True
        rights = evidence.key_rights or self._key_rights
        is_forced = rights is not None and rights.command is not None
        if permission == "forced-commands-only" and is_forced:
            log.info("Root login accepted for forced command.")
            return True
        log.info(f"ROOT LOGIN REFUSED FROM {self._source}")
        return False

    # ------------------------------------------------------------------ what follows

    def _is_consistent(self, evidence: Evidence) -> bool:
        """With the options of a key that was needed before."""
        if evidence.key_rights is None or self._key_rights is None:
            return True
        try:
            merge_rights(self._key_rights, evidence.key_rights)
        except OptionError as error:
            log.error(f"Inconsistent authentication options: {error}")
            return False
        return True

    def _succeed(self, account: Account, evidence: Evidence) -> tuple[int, str]:
        """One method of those that are wanted; it may have been the last."""
        rights = evidence.key_rights
        if rights is not None and self._key_rights is not None:
            rights = merge_rights(self._key_rights, rights)
        self._key_rights = rights or self._key_rights
        key, done = evidence.key, evidence.full_method
        if key is not None:
            done += f" {key.algorithm} {key.base64}"
            certificate = evidence.certificate
            self._done_keys.add(key.blob if certificate is None else certificate.key.blob)
        self._done.append(done)
        self._lists = [rest[1:] for rest in self._lists if rest[0] == evidence.method]
        if not all(self._lists):  # one of them has come to its end
            return self._accept(account, evidence)
        self._log_try("Partial", evidence)
        self._is_partial = True
        return REFUSED, ""

    def _accept(self, account: Account, evidence: Evidence) -> tuple[int, str]:
        """The account has the last word, whatever the method was."""
        authentication = "\n".join(self._done)
        messages = ""
        if self.pam is not None:
            self.pam.tell_authentication(authentication)
            is_open = self.pam.check_account()
            self._must_change_password = self.pam.must_change_password
            messages = self.pam.take_messages()
            if not is_open:
                user = account.name
                log.fatal(f"Access denied for user {user} by PAM account configuration [preauth]")
                self.failures += 1
                return CLOSED, messages
        self._log_try("Accepted", evidence)
        self.login = LoginRights(
            account,
            self._connection,
            self._config,
            self._key_rights,
            authentication,
            self._must_change_password,
        )
        return ACCEPTED, messages

    def _fail(self, evidence: Evidence) -> int:
        """Count it; the first request without credentials is free, as ssh's "none" is."""
        if evidence.method == "none" and not self._had_none:
            self._had_none = self._is_free_try = True
            return REFUSED
        self.failures += 1
        self._log_try("Failed", evidence)
        if evidence.method in ("password", INTERACTIVE) and is_root():
            where = self._connection
            for complaint in record_failure(RecordFiles(), self.user or "", where, time.time()):
                log.error(complaint)
        if self.failures < self._config.max_auth_tries:
            return REFUSED
        log.error(
            f"maximum authentication attempts exceeded for {self._whom} from {self._source} ssh2 "
            "[preauth]"
        )
        log.info(
            f"Disconnecting {self.description} {self._source}: Too many authentication failures "
            "[preauth]"
        )
        return CLOSED

    def _log_try(self, verdict: str, evidence: Evidence) -> None:
        """fail2ban and others depend on this line's form."""
        noteworthy = (
            verdict == "Accepted"
            or not self.is_valid
            or self.failures >= self._config.max_auth_tries // 2
            or evidence.method == "password"
        )
        line = f"{verdict} {evidence.full_method} for {self._whom} from {self._source} ssh2"
        if evidence.key is not None:
            line += f": {self._describe(evidence)}"
        log.write(log.INFO if noteworthy else log.VERBOSE, line)

    def _take_banner(self) -> str:
        """The Banner file goes before the first answer."""
        if self._banner_shown or self._config.banner is None:
            return ""
        self._banner_shown = True
        try:
            with open(self._config.banner, "rb") as file:
                return file.read(MAX_BANNER).decode("utf-8", "surrogateescape")
        except OSError:
            return ""  # as sshd, which says nothing

    # ------------------------------------------------------------------ words for the log

    @property
    def _source(self) -> str:
        return f"{self._connection.peer_address} port {self._connection.peer_port}"

    @property
    def _whom(self) -> str:
        return f"{'' if self.is_valid else 'invalid user '}{self.user}"

    @property
    def description(self) -> str:
        """Who is at the other end before login, as sshd says it."""
        if self.user is None:
            return ""
        return f"{'authenticating' if self.is_valid else 'invalid'} user {self.user}"

    def _describe(self, evidence: Evidence) -> str:
        """The key; with a certificate its own fingerprint, too, and who signed what."""
        assert evidence.key is not None
        certificate = evidence.certificate
        if certificate is None:
            return f"{evidence.key.kind.name} {self._fingerprint(evidence.key)}"
        authority = certificate.authority
        return (
            f"{certificate.kind_name} {self._fingerprint(certificate.key)} "
            f"ID {certificate.key_id} (serial {certificate.serial}) "
            f"CA {authority.kind.name} {self._fingerprint(authority)}"
        )

    def _fingerprint(self, key: PublicKey) -> str:
        return key.fingerprint(self._config.fingerprint_hash.lower())


def _failure_time(user: str) -> float:
    """At least 5 ms, and up to 9: differing by user, so that the floor itself tells nothing."""
    digest = hmac.digest(_TIMING_SECRET, encode_text(user), "sha256")
    return MIN_FAILURE_TIME + int.from_bytes(digest[:4], "big") / 1e12


def _wait_until(started: float, seconds: float) -> None:
    """Sleep until a multiple of the floor has passed that the work did not reach."""
    elapsed = time.monotonic() - started
    while seconds < elapsed:
        seconds *= 2
    time.sleep(seconds - elapsed)
