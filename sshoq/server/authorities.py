"""Process: monitor [root]. Whether a certificate opens an account: somebody whom the account or the
administrator trusts must have signed it, and what it and that trust allow is what remains.

sshd's order, words and doubts. That its holder has the key is proven before anybody asks here.
"""

import contextlib
from collections.abc import Iterable, Iterator

from sshoq.auth.authorized_keys import (
    MAX_FILE,
    KeyRights,
    OptionError,
    RefusedLine,
    mark_of,
)
from sshoq.auth.certificate_rights import (
    CertificateRefused,
    Principal,
    check_validity,
    merge_rights,
    read_principals,
    rights_of,
)
from sshoq.auth.keys import KeyFormatError, PublicKey, parse_public_key
from sshoq.auth.revoked_keys import open_at_once
from sshoq.auth.ssh_certificates import Certificate
from sshoq.config.patterns import AddressListError, match_cidr_list
from sshoq.server import log
from sshoq.server.account import host_matches
from sshoq.server.connection import ConnectionFacts
from sshoq.server.key_commands import Requester, ask_for_keys, ask_for_principals
from sshoq.server.login import acting_as
from sshoq.server.user_keys import (
    Allowance,
    FoundKey,
    authorized_keys,
    expand_file,
    keys_in,
    read_key_file,
)


def refusal_of(rights: KeyRights, connection: ConnectionFacts, now: float) -> str | None:
    """What speaks against whoever comes with such rights; None for nothing. Names count for keys
    alone: a certificate has addresses."""
    address = connection.peer_address
    if rights.from_patterns is not None and not host_matches(connection, rights.from_patterns):
        return (
            f"not from a permitted host (host={connection.peer_host}, ip={address}, "
            f"required={rights.from_patterns})."
        )
    if rights.source_addresses is not None and not _is_within(address, rights.source_addresses):
        return f"not from a permitted source address ({address})."
    return "the key has expired." if rights.is_expired(now) else None


def _is_within(address: str, networks: str) -> bool:
    try:
        return match_cidr_list(address, networks) > 0
    except AddressListError:
        return False


class CertificateLogin:
    """One certificate that wants into one account, now, from one address."""

    def __init__(
        self, certificate: Certificate, requester: Requester, allowance: Allowance, now: float
    ) -> None:
        self._certificate = certificate
        self._allowance = allowance
        self._requester = requester
        self._account = requester.account
        self._config = config = requester.config
        self._connection = requester.connection
        self._now = now
        fingerprint = certificate.authority.fingerprint(config.fingerprint_hash.lower())
        self._authority = f"{certificate.authority.kind.name} {fingerprint}"

    def find_rights(self) -> KeyRights | None:
        """What the first allows that vouches for it; None if nobody does. The log tells why."""
        marks = (mark_of(self._certificate.authority),)
        rights = self._weigh_lines(
            authorized_keys(self._account, self._config, marks, self._allowance)
        )
        trusted = self._config.trusted_user_ca_keys
        if rights is None and trusted is not None:
            rights = self._weigh_trust(trusted)
        command = self._config.authorized_keys_command
        if rights is None and command is not None:
            said = ask_for_keys(self._requester, self._certificate.public, self._certificate.key)
            rights = self._weigh_lines(keys_in(command, said, marks, self._allowance))
        return rights

    def _weigh_lines(self, found: Iterable[FoundKey]) -> KeyRights | None:
        for path, entry in found:
            if entry.rights.certificate_authority and entry.key == self._certificate.authority:
                rights = self._weigh_line(f"{path}:{entry.line}", entry.rights)
                if rights is not None:
                    return rights
        return None

    def _weigh_line(self, place: str, line: KeyRights) -> KeyRights | None:
        """A line with cert-authority in the user's files."""
        names = None
        if line.principals is not None:
            names = frozenset(filter(None, line.principals.split(",")))
        try:
            rights = self._join(place, line, names)
        except (CertificateRefused, OptionError) as error:
            log.error(str(error))
            return None
        self._log_accepted(f"signed by CA {self._authority} found at {place}")
        return rights

    def _weigh_trust(self, path: str) -> KeyRights | None:
        """TrustedUserCAKeys, and the list of principals if there is one."""
        if self._certificate.authority not in _keys_in(path):
            log.debug(f"CA {self._authority} is not listed in {path}")
            return None
        try:
            if not self._has_list_of_principals:
                rights = self._join("cert", None, None)
            else:
                principal = self._find_principal(self._lists_of_principals())
                rights = self._join("principals", principal.rights, frozenset((principal.name,)))
        except (CertificateRefused, OptionError) as error:
            log.error(str(error))
            return None
        kind, _, fingerprint = self._authority.partition(" ")
        self._log_accepted(f"signed by {kind} CA {fingerprint} via {path}")
        return rights

    @property
    def _has_list_of_principals(self) -> bool:
        config = self._config
        by_file = config.authorized_principals_file is not None
        return by_file or config.authorized_principals_command is not None

    def _lists_of_principals(self) -> Iterator[tuple[str, bytes]]:
        """Those of the account's file, and those that a program knows."""
        name, command = (
            self._config.authorized_principals_file,
            self._config.authorized_principals_command,
        )
        if name is not None:
            path = expand_file(name, self._account)
            strict = self._config.strict_modes
            with acting_as(self._account):
                content = read_key_file(path, self._account, strict=strict, what="principals")
            yield path, content
        if command is not None:
            yield command, ask_for_principals(self._requester, self._certificate)

    def _find_principal(self, lists: Iterable[tuple[str, bytes]]) -> Principal:
        """The first line that names one of the certificate's principals."""
        for path, content in lists:
            for entry in read_principals(content):
                if isinstance(entry, RefusedLine):
                    log.debug(f"{path}:{entry.line}: {entry.reason}")
                elif entry.name in self._certificate.principals:
                    log.debug(f'{path}:{entry.line}: matched principal "{entry.name}"', log.DEBUG3)
                    return entry
        raise CertificateRefused("Certificate does not contain an authorized principal")

    def _join(
        self, place: str, trust: KeyRights | None, principals: frozenset[str] | None
    ) -> KeyRights:
        """What the line that trusts (None: one without options) and the certificate both allow."""
        check_validity(self._certificate, principals, self._account.name, self._now)
        own = rights_of(self._certificate)
        if trust is not None:
            self._check_circumstances(place, trust, "key")
        self._check_circumstances("cert", own, "certificate")
        return own if trust is None else merge_rights(trust, own)

    def _check_circumstances(self, place: str, rights: KeyRights, whose: str) -> None:
        reason = refusal_of(rights, self._connection, self._now)
        if reason is not None:
            log.info(
                f"{place}: Authentication tried for {self._account.name} with valid certificate "
                f"but {reason}"
            )
            raise CertificateRefused(f"Refused by {whose} options")

    def _log_accepted(self, how: str) -> None:
        certificate = self._certificate
        log.verbose(
            f'Accepted certificate ID "{certificate.key_id}" (serial {certificate.serial}) {how}'
        )


def _keys_in(path: str) -> list[PublicKey]:
    """The administrator's list. Who cannot be read vouches for nobody."""
    try:
        with open(path, "rb", opener=open_at_once) as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        log.error(f"Could not open CA keys '{path}': {error.strerror}")
        return []
    if len(content) > MAX_FILE:
        log.error(f"CA keys '{path}': file is too large")
        return []
    keys = []
    for line in content.split(b"\n"):
        with contextlib.suppress(KeyFormatError):
            keys.append(parse_public_key(line))
    return keys
