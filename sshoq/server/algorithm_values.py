"""Process: main [root]. Values in sshd_config that name algorithms: of keys, which say who gets
in, and of SSH's own transport, which only have to be right.
"""

from collections.abc import Callable

from sshoq.config.algorithms import (
    list_error,
    unknown_cipher,
    unknown_gss_kex,
    unknown_kex,
    unknown_mac,
)
from sshoq.config.lexer import ConfigSyntaxError, parse_size, parse_time
from sshoq.config.patterns import match_pattern_list
from sshoq.config.values import qos_value
from sshoq.server.values import BadLine, BadValue, Kind, Line, of_word, show_text

_PLAIN_KEYS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
CA_SIGNATURES = ",".join(_PLAIN_KEYS)
DEFAULT_KEYS = ",".join(
    [f"{name.removesuffix('@openssh.com')}-cert-v01@openssh.com" for name in _PLAIN_KEYS]
    + list(_PLAIN_KEYS)
)
_KNOWN_KEYS = (*DEFAULT_KEYS.split(","), "ssh-rsa", "ssh-rsa-cert-v01@openssh.com")


def _algorithms(default: str) -> Kind:
    """A list of names; with + - ^ in front, a change of the default."""

    def parse(text: str) -> str:
        usual = default.split(",")
        change = text[0] if text[0] in "+-^" else ""
        wanted = text[len(change) :]
        if change == "-":
            return ",".join(name for name in usual if match_pattern_list(name, wanted) <= 0)
        for name in wanted.split(","):
            if not any(match_pattern_list(known, name) > 0 for known in _KNOWN_KEYS):
                raise ConfigSyntaxError(f"Bad key types '{text}'.")
        chosen = [
            known
            for name in wanted.split(",")
            for known in ([name] if name in _KNOWN_KEYS else _KNOWN_KEYS)
            if match_pattern_list(known, name) > 0
        ]
        order = {"": chosen, "+": usual + chosen, "^": chosen + usual}[change]
        return ",".join(dict.fromkeys(order))

    return Kind(of_word(parse, "Missing argument."), show_text)


ALGORITHMS = _algorithms(DEFAULT_KEYS)
CA_ALGORITHMS = _algorithms(CA_SIGNATURES)


# --------------------------------------------------------------------------- of SSH's transport


def _names(check: Callable[[str], str | None], complaint: str, *, kex: bool = False) -> Kind:
    """A list of algorithms of SSH's transport; `complaint` has a %s for it."""

    def read(line: Line) -> str:
        if not line.words or not line.words[0]:
            raise BadValue(f"{line.keyword} missing argument.")
        unknown = list_error(line.words[0], check)
        if unknown is None:
            return line.words[0]
        details = [f'Unsupported KEX algorithm "{unknown}"'] if kex and unknown else []
        raise BadValue(complaint % line.words[0], *details)

    return Kind(read, show_text)


def _parse_qos(line: Line) -> tuple[str, ...]:
    if not line.words or not line.words[0]:
        raise BadValue(f"{line.keyword} missing argument.")
    for word in line.words[:2]:
        try:
            qos_value(word)
        except ConfigSyntaxError as error:
            raise BadValue(str(error)) from None
    if len(line.words) > 2:
        raise BadLine(f"keyword {line.keyword} extra arguments at end of line")
    return tuple(line.words)


def _parse_rekey_limit(line: Line) -> tuple[str, ...]:
    words = line.words
    if not words or not words[0]:
        raise BadValue(f"{line.keyword} missing argument.")
    _check_rekey_size(line.keyword, words[0])
    if len(words) > 1 and words[1] != "none":
        try:
            parse_time(words[1])
        except ConfigSyntaxError as error:
            raise BadValue(str(error)) from None
    if len(words) > 2:
        raise BadLine(f"keyword {line.keyword} extra arguments at end of line")
    return tuple(words)


def _check_rekey_size(keyword: str, word: str) -> None:
    try:
        size = 0 if word == "default" else parse_size(word)
    except ConfigSyntaxError as error:
        raise BadValue(str(error).replace("Bad number", f"Bad {keyword} number")) from None
    if size != 0 and size < 16:
        raise BadValue(f"{keyword} too small")


CIPHERS = _names(unknown_cipher, "Bad SSH2 cipher spec '%s'.")
MACS = _names(unknown_mac, "Bad SSH2 mac spec '%s'.")
KEX = _names(unknown_kex, "Bad SSH2 KexAlgorithms '%s'.", kex=True)
GSS_KEX = _names(unknown_gss_kex, "Bad GSSAPI KexAlgorithms '%s'.", kex=True)
QOS = Kind(_parse_qos, show_text, single=False)
REKEY_LIMIT = Kind(_parse_rekey_limit, show_text, single=False)
