"""The token that proves possession of a key to one server, on one connection.

A JSON Web Token whose `jti` is the conversation ID, so it is worth nothing on any other connection.

Both sides are own code, not PyJWT. Building: the signature may come from an agent, and the client
cannot spend 70 ms on an import. Verifying: PyJWT reads the clock itself, so that `now` could not be
given; it takes the last of two equal claims in silence; and lifetime, age and `client_id` would be
checked here all the same. What remained for it is one signature call, inside a root process that
every connection forks. The tests hold both sides against PyJWT.
"""

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from typing import Any

from sshoq.auth.keys import KINDS, PublicKey, Signer

MAX_TOKEN = 16384
CONVERSATION_ID_LENGTH = 32

# The token is bound to its connection: a generous lifetime costs nothing and forgives wrong clocks.
ISSUED_AGO = 60
VALID_FOR = 300

KEY_MEMBER = "key"
CERTIFICATE_MEMBER = "cert"
"""Of the header: the signer's key or certificate in OpenSSH's form, in base64. Only between our own
programs, of which both have said that they know it."""
NOTHING_NAMED: Mapping[str, bytes] = {}

LEEWAY = 24 * 3600
"""How wrong clocks may be, of a machine that takes local time for UTC, say. A token is bound to its
connection, and taken once. What hangs on its age is for how long it is of use to who has taken a
network process over, which names the connection to the monitor: had he got it elsewhere, he could
name that one."""

MAX_LIFETIME = 15 * 60


class TokenRefused(Exception):
    """The token does not prove what it should; the reason is for the log, not for the peer."""


class WrongClock(TokenRefused):
    """The token is of another time; all else about it is right."""


# --------------------------------------------------------------------------- the client builds


def build_token(
    user: str,
    conversation_id: bytes,
    signer: Signer,
    now: float,
    *,
    key: bytes = b"",
    certificate: bytes = b"",
) -> str:
    """A token for `user` on the connection that has this conversation ID, signed by `signer`.

    To servers that know what it is, it names the signer's key, or the key's certificate if it is
    that which is to let in.
    """
    issued = int(now) - ISSUED_AGO
    claims = _claims(user, conversation_id, issued, int(now) + VALID_FOR)
    named = {KEY_MEMBER: key, CERTIFICATE_MEMBER: certificate}
    return sign_claims(claims, signer, named)


def sign_claims(
    claims: dict[str, str | int], signer: Signer, named: Mapping[str, bytes] = NOTHING_NAMED
) -> str:
    """The compact form (RFC 7515 section 7.1): header, claims and signature, each in base64url."""
    algorithm = signer.public_key.kind.token_algorithm
    if algorithm is None:
        raise ValueError(f"{signer.public_key.algorithm} keys cannot sign a token")
    header: dict[str, str | int] = {"alg": algorithm, "typ": "JWT"}
    for member, blob in named.items():
        if blob:
            header[member] = b2a_base64(blob, newline=False).decode()
    signed = f"{_encode_json(header)}.{_encode_json(claims)}"
    return f"{signed}.{_encode_base64url(signer.sign(signed.encode()))}"


def _claims(user: str, conversation_id: bytes, issued: int, expires: int) -> dict[str, str | int]:
    return {
        "aud": "unused",
        "client_id": f"ssh3-{user}",
        "exp": expires,
        "iat": issued,
        "iss": user,
        "jti": conversation_text(conversation_id),
        "sub": "ssh3",
    }


def conversation_text(conversation_id: bytes) -> str:
    """The conversation ID as `jti` has it: standard base64 with padding."""
    if len(conversation_id) != CONVERSATION_ID_LENGTH:
        raise ValueError(f"conversation ID of {len(conversation_id)} bytes")
    return b2a_base64(conversation_id, newline=False).decode()


def _encode_json(members: dict[str, str | int]) -> str:
    pairs = [f'"{name}":{_json_value(value)}' for name, value in members.items()]
    return _encode_base64url(f"{{{','.join(pairs)}}}".encode())


def _json_value(value: str | int) -> str:
    """Plain text stands for itself; the module that knows all about the rest takes 3 ms to load."""
    if isinstance(value, int):
        return str(value)
    if value.isascii() and value.isprintable() and not {'"', "\\"} & set(value):
        return f'"{value}"'
    import json

    return json.dumps(value)


def _encode_base64url(raw: bytes) -> str:
    text = b2a_base64(raw, newline=False).decode()
    return text.rstrip("=").replace("+", "-").replace("/", "_")


# --------------------------------------------------------------------------- the server verifies


def certificate_in(token: str) -> bytes | None:
    """The blob that the token's header carries; None for the token of a plain key."""
    return _blob_in(token, CERTIFICATE_MEMBER)


def key_in(token: str) -> bytes | None:
    """The blob of the key that the token names; None if it leaves that open, as Go's do."""
    return _blob_in(token, KEY_MEMBER)


def key_algorithms_of(token: str) -> list[bytes]:
    """By their names in SSH: what keys can have signed a token that does not say which one has."""
    algorithm = _decode_json(_split_token(token)[0], "header").get("alg")
    if algorithm is None:
        raise TokenRefused("no algorithm")
    return [name.encode() for name, kind in KINDS.items() if kind.token_algorithm == algorithm]


def _blob_in(token: str, member: str) -> bytes | None:
    header = _decode_json(_split_token(token)[0], "header")
    if member not in header:
        return None
    try:
        return a2b_base64(header[member], strict_mode=True)
    except (Base64Error, ValueError, TypeError):
        raise TokenRefused(f"{member} is no base64") from None


def verify_token(
    token: str, public_key: PublicKey, user: str, conversation_id: bytes, now: float
) -> bytes:
    """The signature, if the token logs `user` in with `public_key` here and now; TokenRefused
    otherwise.

    But for the header, nothing is parsed before the signature is found good.
    """
    header, claims, signature = _split_token(token)
    _check_header(_decode_json(header, "header"), public_key)
    raw = _decode_base64url(signature, "signature")
    if not public_key.verify(raw, f"{header}.{claims}".encode()):
        raise TokenRefused("signature does not fit the key")
    members = _decode_json(claims, "claims")
    _check_names(members, user, conversation_id)
    _check_times(members, int(now))
    return raw


def _split_token(token: str) -> list[str]:
    if len(token) > MAX_TOKEN or not token.isascii():
        raise TokenRefused("token is too long or no text")
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenRefused("token has not three parts")
    return parts


def _check_header(header: dict[str, Any], public_key: PublicKey) -> None:
    # The key decides on the algorithm, never the token: no "none", no HMAC with a public key.
    algorithm = header.get("alg")
    if algorithm is None or algorithm != public_key.kind.token_algorithm:
        raise TokenRefused("algorithm does not fit the key")
    if not isinstance(kind := header.get("typ", "JWT"), str) or kind.upper() != "JWT":
        raise TokenRefused("not a JWT")
    if "crit" in header:  # RFC 7515 section 4.1.11: what it names must be understood
        raise TokenRefused("critical header parameters")


def _check_names(claims: dict[str, Any], user: str, conversation_id: bytes) -> None:
    wanted = _claims(user, conversation_id, 0, 0)
    for name in ("jti", "iss", "sub", "client_id"):
        if not _equal(claims.get(name), str(wanted[name])):
            raise TokenRefused(f"wrong {name}")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(_equal(one, "unused") for one in audiences):
        raise TokenRefused("wrong aud")


def _equal(value: object, wanted: str) -> bool:
    """Equality in constant time; what is no string equals none."""
    from hmac import compare_digest

    if not isinstance(value, str):
        return False
    return compare_digest(_raw(value), _raw(wanted))


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _check_times(claims: dict[str, Any], now: int) -> None:
    expires = _time_claim(claims, "exp")
    issued = _time_claim(claims, "iat")
    not_before = _time_claim(claims, "nbf")
    if expires is None:
        raise TokenRefused("no exp")
    if now >= expires + LEEWAY:
        raise WrongClock("expired")
    # Without a bound a client could mint a token of years; and a clock that far off is no clock.
    if expires > now + MAX_LIFETIME + LEEWAY:
        raise WrongClock("exp is too far away")
    if not_before is not None and not_before > now + LEEWAY:
        raise WrongClock("not valid yet")
    if issued is None:
        return
    if issued > now + LEEWAY:
        raise WrongClock("issued in the future")
    if not 0 <= expires - issued <= MAX_LIFETIME:
        raise TokenRefused("odd lifetime")


def _time_claim(claims: dict[str, Any], name: str) -> int | None:
    if name not in claims:
        return None
    value = claims[name]
    if type(value) is not int:  # True is an int elsewhere, 1e400 a number in JSON
        raise TokenRefused(f"{name} is no whole number")
    return value


def _decode_json(part: str, what: str) -> dict[str, Any]:
    """The JSON object; refuses what two readers could take for different things."""
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a member stands twice")
        return members

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    raw = _decode_base64url(part, what)
    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError):
        raise TokenRefused(f"{what} is no JSON object") from None
    if not isinstance(value, dict):
        raise TokenRefused(f"{what} is no JSON object")
    return value


def _decode_base64url(part: str, what: str) -> bytes:
    """The bytes; only their one canonical spelling is taken, so that a token has one form."""
    try:
        padded = part.replace("-", "+").replace("_", "/") + "=" * (-len(part) % 4)
        raw = a2b_base64(padded, strict_mode=True)
    except (Base64Error, ValueError):
        raise TokenRefused(f"{what} is no base64url") from None
    if _encode_base64url(raw) != part:
        raise TokenRefused(f"{what} is no base64url")
    return raw
