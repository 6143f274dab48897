"""The names of SSH algorithms: which exist, which are default, and + - ^ lists made of them.

TLS chooses the ciphers of a QUIC connection; the names still matter for keys and signatures, for
-Q, and because a configuration with a misspelt one must fail here as it does in ssh.
"""

from __future__ import annotations

from sshoq.config.patterns import NO_MATCH, match_pattern, match_pattern_list, split_pattern_list

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable


class AlgorithmError(ValueError):
    """A list that leaves nothing to choose from."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_KEY_KINDS = _names("""
    ssh-ed25519 sk-ssh-ed25519@openssh.com ecdsa-sha2-nistp256 ecdsa-sha2-nistp384
    ecdsa-sha2-nistp521 sk-ecdsa-sha2-nistp256@openssh.com ssh-rsa
    """)
CERTIFICATE_KEYS = _names("""
    ssh-ed25519-cert-v01@openssh.com sk-ssh-ed25519-cert-v01@openssh.com
    ecdsa-sha2-nistp256-cert-v01@openssh.com ecdsa-sha2-nistp384-cert-v01@openssh.com
    ecdsa-sha2-nistp521-cert-v01@openssh.com sk-ecdsa-sha2-nistp256-cert-v01@openssh.com
    ssh-rsa-cert-v01@openssh.com
    """)
PLAIN_KEYS = _KEY_KINDS
KEYS = tuple(name for pair in zip(_KEY_KINDS, CERTIFICATE_KEYS, strict=True) for name in pair)
_WEBAUTHN = ("webauthn-sk-ecdsa-sha2-nistp256@openssh.com",)
SIGNATURE_KEYS = (
    *KEYS[:-2],
    *_WEBAUTHN,
    *KEYS[-2:],
    *_names("""
    rsa-sha2-256 rsa-sha2-256-cert-v01@openssh.com rsa-sha2-512 rsa-sha2-512-cert-v01@openssh.com
    """),
)
SIGNATURES = (*PLAIN_KEYS[:-1], *_WEBAUTHN, PLAIN_KEYS[-1], "rsa-sha2-256", "rsa-sha2-512")

CIPHERS = _names("""
    3des-cbc aes128-cbc aes192-cbc aes256-cbc aes128-ctr aes192-ctr aes256-ctr
    aes128-gcm@openssh.com aes256-gcm@openssh.com chacha20-poly1305@openssh.com
    """)
AUTHENTICATED_CIPHERS = CIPHERS[-3:]
MACS = _names("""
    hmac-sha1 hmac-sha1-96 hmac-sha2-256 hmac-sha2-512 hmac-md5 hmac-md5-96 umac-64@openssh.com
    umac-128@openssh.com hmac-sha1-etm@openssh.com hmac-sha1-96-etm@openssh.com
    hmac-sha2-256-etm@openssh.com hmac-sha2-512-etm@openssh.com hmac-md5-etm@openssh.com
    hmac-md5-96-etm@openssh.com umac-64-etm@openssh.com umac-128-etm@openssh.com
    """)
KEX = _names("""
    diffie-hellman-group1-sha1 diffie-hellman-group14-sha1 diffie-hellman-group14-sha256
    diffie-hellman-group16-sha512 diffie-hellman-group18-sha512
    diffie-hellman-group-exchange-sha1 diffie-hellman-group-exchange-sha256 ecdh-sha2-nistp256
    ecdh-sha2-nistp384 ecdh-sha2-nistp521 curve25519-sha256 curve25519-sha256@libssh.org
    sntrup761x25519-sha512 sntrup761x25519-sha512@openssh.com mlkem768x25519-sha256
    """)

DEFAULT_CIPHERS = (CIPHERS[9], CIPHERS[7], CIPHERS[8], *CIPHERS[4:7])
DEFAULT_MACS = _names("""
    umac-64-etm@openssh.com umac-128-etm@openssh.com hmac-sha2-256-etm@openssh.com
    hmac-sha2-512-etm@openssh.com hmac-sha1-etm@openssh.com umac-64@openssh.com
    umac-128@openssh.com hmac-sha2-256 hmac-sha2-512 hmac-sha1
    """)
DEFAULT_KEX = _names("""
    mlkem768x25519-sha256 sntrup761x25519-sha512 sntrup761x25519-sha512@openssh.com
    curve25519-sha256 curve25519-sha256@libssh.org ecdh-sha2-nistp256 ecdh-sha2-nistp384
    ecdh-sha2-nistp521 diffie-hellman-group-exchange-sha256 diffie-hellman-group16-sha512
    diffie-hellman-group18-sha512 diffie-hellman-group14-sha256
    """)
DEFAULT_CA_SIGNATURES = _names("""
    ssh-ed25519 ecdsa-sha2-nistp256 ecdsa-sha2-nistp384 ecdsa-sha2-nistp521
    sk-ssh-ed25519@openssh.com sk-ecdsa-sha2-nistp256@openssh.com rsa-sha2-512 rsa-sha2-256
    """)
DEFAULT_KEYS = (
    *_names("""
    ssh-ed25519-cert-v01@openssh.com ecdsa-sha2-nistp256-cert-v01@openssh.com
    ecdsa-sha2-nistp384-cert-v01@openssh.com ecdsa-sha2-nistp521-cert-v01@openssh.com
    sk-ssh-ed25519-cert-v01@openssh.com sk-ecdsa-sha2-nistp256-cert-v01@openssh.com
    rsa-sha2-512-cert-v01@openssh.com rsa-sha2-256-cert-v01@openssh.com
    """),
    *DEFAULT_CA_SIGNATURES,
)
GSS_KEX = _names("""
    gss-gex-sha1- gss-group1-sha1- gss-group14-sha1- gss-group14-sha256- gss-group16-sha512-
    gss-nistp256-sha256- gss-curve25519-sha256-
    """)
DEFAULT_GSS_KEX = ",".join((*GSS_KEX[3:], GSS_KEX[2], GSS_KEX[0]))

# Real names that this program cannot use itself: OpenSSH 10.5 has the first as an experiment.
_FOREIGN_KEYS = ("ssh-mldsa44-ed25519@openssh.com", "ssh-mldsa44-ed25519-cert-v01@openssh.com")


def _entries(text: str) -> list[str]:
    """The entries that OpenSSH looks at when it checks a list: it stops at the first empty one."""
    entries = text.split(",")
    return entries[: entries.index("")] if "" in entries else entries


def known(names: tuple[str, ...]) -> Callable[[str], str | None]:
    """A check for lists of exact names; it answers with the first unknown one, or None."""

    def check(text: str) -> str | None:
        if not text:
            return text
        return next((entry for entry in _entries(text) if entry not in names), None)

    return check


def unknown_key(text: str) -> str | None:
    """The same check for key types, where wildcards are allowed."""
    if not text:
        return text
    names = SIGNATURE_KEYS + _FOREIGN_KEYS
    for entry in _entries(text):
        if entry not in names and all(match_pattern_list(n, entry) == NO_MATCH for n in names):
            return entry
    return None


unknown_cipher = known(CIPHERS)
unknown_mac = known(MACS)
unknown_kex = known(KEX)
unknown_gss_kex = known(GSS_KEX)


def list_error(text: str, check: Callable[[str], str | None]) -> str | None:
    """Check a list that may begin with + - or ^; what is taken away need not exist."""
    if text.startswith("-"):
        return None
    return check(text[1:] if text.startswith(("+", "^")) else text)


def assemble(text: str | None, default: tuple[str, ...], every: tuple[str, ...]) -> str:
    """The comma list that a configured one comes to. Raises AlgorithmError when nothing is left."""
    if text is None:
        return ",".join(default)
    if text.startswith("-"):
        names = [n for n in default if match_pattern_list(n, text[1:]) == NO_MATCH]
    else:
        names = _spell_out(_put_together(text, default), (*every, *_FOREIGN_KEYS))
    if not names:
        raise AlgorithmError("invalid argument")
    return ",".join(names)


def _put_together(text: str, default: tuple[str, ...]) -> list[str]:
    if text.startswith("+"):
        return [*default, *split_pattern_list(text[1:])]
    if text.startswith("^"):
        return [*split_pattern_list(text[1:]), *default]
    return split_pattern_list(text)


def _spell_out(patterns: list[str], every: tuple[str, ...]) -> list[str]:
    """Replace wildcards by the names they fit, each name once."""
    names: dict[str, None] = {}
    for pattern in patterns:
        if pattern.startswith("!"):
            raise AlgorithmError("invalid argument")
        names.update(dict.fromkeys(name for name in every if match_pattern(name, pattern)))
    return list(names)


_QUERIES = {
    "cipher": CIPHERS,
    "cipher-auth": AUTHENTICATED_CIPHERS,
    "compression": ("none", "zlib@openssh.com"),
    "kex": KEX,
    "kex-gss": GSS_KEX,
    "key": KEYS,
    "key-ca-sign": SIGNATURES,
    "key-cert": CERTIFICATE_KEYS,
    "key-plain": PLAIN_KEYS,
    "key-sig": SIGNATURE_KEYS,
    "mac": MACS,
    "protocol-version": ("2",),
    "sig": SIGNATURES,
}
_QUERY_ALIASES = {
    "ciphers": "cipher",
    "macs": "mac",
    "kexalgorithms": "kex",
    "casignaturealgorithms": "key-ca-sign",
    "pubkeyacceptedalgorithms": "key-sig",
    "pubkeyacceptedkeytypes": "key-sig",
    "hostkeyalgorithms": "key-sig",
    "hostbasedkeytypes": "key-sig",
    "hostbasedacceptedkeytypes": "key-sig",
    "hostbasedacceptedalgorithms": "key-sig",
}


def answer_query(query: str) -> tuple[str, ...] | None:
    """The lines that -Q prints; None for a query that does not exist."""
    if query == "help":
        return tuple(_QUERIES)
    name = _QUERY_ALIASES.get(query.lower(), query)
    return _QUERIES.get(name)
