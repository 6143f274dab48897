"""Process: monitor [root]. Whether somebody is who they say, and may come in.

The network process is not believed: whatever it brings is judged here (tokens in
`key_evidence.py`), for the connection's ID as it was first told. A user who does not exist, or may
not log in, is taken through the same steps as one who may, and every failure takes as long as the
next.
"""

import base64
import binascii
import contextlib
import hmac
import os
import time
from collections.abc import Callable

from sshoq.auth.authorized_keys import KeyRights, OptionError
from sshoq.auth.certificate_rights import merge_rights
from sshoq.auth.interactive import METHOD as INTERACTIVE
from sshoq.auth.interactive import clip
from sshoq.server import log, shadow
from sshoq.server.account import Account, find_account, refusal
from sshoq.server.config import LoginConfig, ServerConfig
from sshoq.server.connection import ConnectionFacts
from sshoq.server.interview import Interview, interactive_part, spoiled
from sshoq.server.key_commands import Requester
from sshoq.server.key_evidence import Evidence, KeyJudge
from sshoq.server.login import is_root
from sshoq.server.pam import PamError, PamTransaction, load_library
from sshoq.server.peer_name import find_name
from sshoq.server.privsep import Authenticate, AuthenticationResult
from sshoq.server.records import RecordFiles, record_failure
from sshoq.server.rights import LoginRights
from sshoq.wire import encode_text

CONVERSATION_ID_LENGTH = 32
MIN_FAILURE_TIME = 0.005
FREE_TRY_SHARE = 0.25
MAX_BANNER = 100 * 1024
MAX_SHOWN = 128 * 1024
"""Bytes of the banner and of what PAM's modules say; one message has to hold them and the rest."""

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
        self._had_none = self._is_free_try = False
        self._must_change_password = False
        self._banner_shown = False
        self._lists = self._wanted_lists()
        """What would let in from here: the methods that are left of each list."""
        self._done: list[str] = []
        """What has succeeded, in the words of SSH_USER_AUTH."""
        self._key_rights: KeyRights | None = None
        self._key_judge: KeyJudge | None = None
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
            clip(self._take_banner() + messages, MAX_SHOWN),
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
        self._key_judge = KeyJudge(
            Requester(account, self._config, where),
            user=user,
            conversation_id=self.conversation_id,
            is_valid=self.is_valid,
        )
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
            return self._weigh_token(credentials.strip())
        if scheme.lower() == b"basic":
            return self._weigh_password(account, credentials.strip())
        answers = interactive_part(request.authorization)
        if answers is not None:
            return self._weigh_interview(account, request, begins=not answers)
        return Evidence("none", False)

    def _weigh_token(self, token: bytes) -> Evidence:
        if self._key_judge is None or not self._is_next("publickey"):
            return Evidence("publickey", False)
        return self._key_judge.weigh_token(token)

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
        if self._key_judge is not None:
            self._key_judge.use_up(evidence)
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
            line += f": {evidence.describe(self._config.fingerprint_hash.lower())}"
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
        return self._connection.peer

    @property
    def _whom(self) -> str:
        return f"{'' if self.is_valid else 'invalid user '}{self.user}"

    @property
    def description(self) -> str:
        """Who is at the other end before login, as sshd says it."""
        if self.user is None:
            return ""
        return f"{'authenticating' if self.is_valid else 'invalid'} user {self.user}"


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
