"""What a user's certificate allows: its options as rights, joined with those of the line that
trusts its authority.

sshd(8) and ssh-keygen(1), CERTIFICATES. A certificate allows nothing that it does not name, and an
unknown critical option refuses it.
"""

from collections.abc import Callable, Iterator

from sshoq.auth.authorized_keys import (
    MAX_FILE,
    PERMISSIONS,
    KeyRights,
    OptionError,
    RefusedLine,
    parse_options,
)
from sshoq.auth.ssh_certificates import Certificate
from sshoq.named_tuple import NamedTuple
from sshoq.wire import Reader, WireError, decode_text, read_string


class CertificateRefused(Exception):
    """The certificate lets nobody in here; str() is sshd's reason."""


# --------------------------------------------------------------------------- whom, and when


def check_validity(
    certificate: Certificate, principals: frozenset[str] | None, user: str, now: float
) -> None:
    """CertificateRefused unless it is a user's, is good now, and names who it is for.

    `principals` are the names that may log in here, if somebody has listed them; otherwise the
    certificate must name `user`. As from OpenSSH 10.3 on, one that names nobody is for nobody.
    """
    if not certificate.is_for_users:
        raise CertificateRefused("Certificate invalid: not a user certificate")
    if int(now) < certificate.valid_after:
        raise CertificateRefused("Certificate invalid: not yet valid")
    if int(now) >= certificate.valid_before:
        raise CertificateRefused("Certificate invalid: expired")
    if not certificate.principals:
        raise CertificateRefused("Certificate lacks principal list")
    if principals is None:
        if user not in certificate.principals:
            raise CertificateRefused("Certificate invalid: name is not a listed principal")
    elif principals.isdisjoint(certificate.principals):
        raise CertificateRefused("Certificate does not contain an authorized principal")


# --------------------------------------------------------------------------- what


def rights_of(certificate: Certificate) -> KeyRights:
    """CertificateRefused when a critical option is unknown, or any known one malformed."""
    rights = KeyRights()
    for attribute in PERMISSIONS.values():
        setattr(rights, attribute, False)
    for name, value in certificate.critical:
        if name not in CRITICAL:
            raise CertificateRefused(f'Certificate critical option "{name}" is not supported')
        CRITICAL[name](rights, value)
    for name, value in certificate.extensions:
        if name in EXTENSIONS:
            _expect_nothing(value)
            attribute, wanted = EXTENSIONS[name]
            setattr(rights, attribute, wanted)
    return rights


def _force_command(rights: KeyRights, value: bytes) -> None:
    rights.command = _text_of(value)


def _set_sources(rights: KeyRights, value: bytes) -> None:
    rights.source_addresses = _text_of(value)


def _require_verification(rights: KeyRights, value: bytes) -> None:
    _expect_nothing(value)
    rights.verify_required = True


CRITICAL: dict[str, Callable[[KeyRights, bytes], None]] = {
    "force-command": _force_command,
    "source-address": _set_sources,
    "verify-required": _require_verification,
}
EXTENSIONS = {
    **{f"permit-{name}": (attribute, True) for name, attribute in PERMISSIONS.items()},
    "no-touch-required": ("touch_required", False),
}
# OpenSSH spells this one alone with a capital letter.
EXTENSIONS["permit-X11-forwarding"] = EXTENSIONS.pop("permit-x11-forwarding")


def _text_of(value: bytes) -> str:
    reader = Reader(value)
    try:
        text = decode_text(read_string(reader))
    except WireError:
        raise CertificateRefused("Invalid certificate options") from None
    if reader.remaining or "\0" in text:
        raise CertificateRefused("Invalid certificate options")
    return text


def _expect_nothing(value: bytes) -> None:
    if value:
        raise CertificateRefused("Invalid certificate options")


# --------------------------------------------------------------------------- both together


def merge_rights(first: KeyRights, second: KeyRights) -> KeyRights:
    """What both allow: the line that trusts an authority and the certificate, or two keys of which
    each was needed. Lists of the first go before those of the second.

    OptionError where they contradict each other.
    """
    merged = KeyRights()
    for attribute in PERMISSIONS.values():
        setattr(merged, attribute, getattr(first, attribute) and getattr(second, attribute))
    merged.touch_required = first.touch_required or second.touch_required
    merged.verify_required = first.verify_required or second.verify_required
    merged.command = _same_command(first.command, second.command)
    merged.expires = min(
        (time for time in (first.expires, second.expires) if time is not None), default=None
    )
    for attribute in ("from_patterns", "source_addresses", "tunnel"):
        value = getattr(first, attribute)
        setattr(merged, attribute, getattr(second, attribute) if value is None else value)
    for attribute in ("environment", "permit_open", "permit_listen"):
        setattr(merged, attribute, getattr(first, attribute) or getattr(second, attribute))
    return merged


def _same_command(first: str | None, second: str | None) -> str | None:
    if first is not None and second is not None and first != second:
        raise OptionError("forced command options do not match")
    return second if first is None else first


# --------------------------------------------------------------------------- lists of principals


class Principal(NamedTuple):
    """A line of AuthorizedPrincipalsFile: a name, and what those who bear it may do."""

    line: int
    name: str
    rights: KeyRights


def read_principals(data: bytes) -> Iterator[Principal | RefusedLine]:
    """sshd(8): a name a line, options in front of it; what stands behind a # says nothing."""
    if len(data) > MAX_FILE:
        yield RefusedLine(0, "file is too large")
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        text = decode_text(line.partition(b"#")[0]).strip(" \t\r")
        if text:
            yield _read_principal(number, text)


def _read_principal(number: int, text: str) -> Principal | RefusedLine:
    options, name = _split_at_last_blank(text)
    try:
        rights = parse_options(options) if options else KeyRights()
    except OptionError as error:
        return RefusedLine(number, f"bad principals options: {error}")
    if rights.certificate_authority or rights.principals is not None:
        return RefusedLine(number, "an option of authorities")
    return Principal(number, name, rights)


def _split_at_last_blank(text: str) -> tuple[str, str]:
    name = text.replace("\t", " ").rpartition(" ")[2]
    return text[: len(text) - len(name)].rstrip(" \t"), name
