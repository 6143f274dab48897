"""Tokens: what the Go client sends, what ours sends, and everything that must be refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from sshoq.auth.keys import PublicKey, Touch, parse_public_key, public_key_from_object, touch_of
from sshoq.auth.private_keys import PrivateKey
from sshoq.auth.token import (
    TokenRefused,
    WrongClock,
    build_token,
    certificate_in,
    key_in,
    sign_claims,
    verify_token,
)
from sshoq.wire import put_string
from tests.auth.security_key import SecurityKey

GOLDEN = Path(__file__).parent.parent / "golden"
NOW = 1_700_000_000
DAY = 24 * 3600
USER = "alice"
CONVERSATION = bytes(range(32))
JTI = base64.b64encode(CONVERSATION).decode()

KEYS = {
    "EdDSA": PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))),
    "RS256": PrivateKey(rsa.generate_private_key(65537, 2048)),
    "ES256": PrivateKey(ec.generate_private_key(ec.SECP256R1())),
    "ES384": PrivateKey(ec.generate_private_key(ec.SECP384R1())),
    "ES512": PrivateKey(ec.generate_private_key(ec.SECP521R1())),
}
KEY = KEYS["EdDSA"]
CLAIMS: dict[str, str | int] = {
    "aud": "unused",
    "client_id": f"ssh3-{USER}",
    "exp": NOW + 10,
    "iat": NOW,
    "iss": USER,
    "jti": JTI,
    "sub": "ssh3",
}
ABSENT = object()


def verify(token: str, key: PublicKey = KEY.public_key, now: float = NOW) -> None:
    verify_token(token, key, USER, CONVERSATION, now)


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def forge(claims: bytes, header: bytes = b'{"alg":"EdDSA","typ":"JWT"}') -> str:
    """A token with these very bytes, rightly signed."""
    signed = f"{encode(header)}.{encode(claims)}"
    return f"{signed}.{encode(KEY.sign(signed.encode()))}"


def with_claims(**changes: Any) -> str:
    claims = {**CLAIMS, **changes}
    kept = {name: value for name, value in claims.items() if value is not ABSENT}
    return forge(json.dumps(kept).encode())


# --------------------------------------------------------------------------- other implementations


def golden_tokens() -> Iterator[Any]:
    for path in sorted(GOLDEN.glob("*.json")):
        recorded = json.loads(path.read_text())
        if recorded["jwt_public_key"]:
            yield pytest.param(recorded, id=path.stem)


@pytest.mark.parametrize("recorded", list(golden_tokens()))
def test_recorded_token_of_the_go_client_verifies(recorded: dict[str, Any]) -> None:
    headers = dict(recorded["request_headers"])
    token = headers["authorization"].removeprefix("Bearer ")
    (user,) = parse_qs(urlsplit(headers[":path"]).query)["user"]
    conversation = base64.b64decode(recorded["conversation_id_exporter_b64"])
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    key = parse_public_key(recorded["jwt_public_key"])
    verify_token(token, key, user, conversation, claims["iat"])
    with pytest.raises(TokenRefused, match="wrong jti"):
        verify_token(token, key, user, bytes(32), claims["iat"])


def test_recordings_are_there() -> None:
    assert len(list(golden_tokens())) > 20


def test_published_vector_is_built_and_verified() -> None:
    """protocol.md A.7: Ed25519, seed of zeros."""
    wanted = (
        "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJ1bnVzZWQiLCJjbGllbnRfaWQiOiJzc2gzLWFsaWNlI"
        "iwiZXhwIjoxNzAwMDAwMDEwLCJpYXQiOjE3MDAwMDAwMDAsImlzcyI6ImFsaWNlIiwianRpIjoibW5JK3V4SUgyV2R"
        "IWExocjlLcVBWT1o5aTVqTEd5a2pHd2I5RGV6RG5vQT0iLCJzdWIiOiJzc2gzIn0.eGbpBn8B2LReHdIOUnHIuUniH"
        "5MAqQ9rJf69lOvrqRkGSFvlkRfW0Sr_cZFA0dRrUjHDFX5BTZH20sUkmgjuCA"
    )
    jti = "mnI+uxIH2WdHXLhr9KqPVOZ9i5jLGykjGwb9DezDnoA="
    assert sign_claims({**CLAIMS, "jti": jti}, KEY) == wanted
    verify_token(wanted, KEY.public_key, USER, base64.b64decode(jti), NOW)


@pytest.mark.parametrize("algorithm", KEYS)
def test_pyjwt_accepts_what_we_build(algorithm: str) -> None:
    key = KEYS[algorithm]
    token = build_token(USER, CONVERSATION, key, NOW)
    claims = jwt.decode(
        token,
        key=key.key.public_key(),
        algorithms=[algorithm],
        audience="unused",
        issuer=USER,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims == {**CLAIMS, "iat": NOW - 60, "exp": NOW + 300}
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "typ": "JWT"}


@pytest.mark.parametrize("algorithm", KEYS)
def test_we_accept_what_pyjwt_builds(algorithm: str) -> None:
    key = KEYS[algorithm]
    verify(jwt.encode(CLAIMS, key=key.key, algorithm=algorithm), key.public_key)


# --------------------------------------------------------------------------- building


@pytest.mark.parametrize("algorithm", KEYS)
def test_built_token_verifies(algorithm: str) -> None:
    key = KEYS[algorithm]
    verify(build_token(USER, CONVERSATION, key, NOW), key.public_key)


@given(st.text(min_size=1, max_size=40))
def test_any_user_name_survives(user: str) -> None:
    token = build_token(user, CONVERSATION, KEY, NOW)
    verify_token(token, KEY.public_key, user, CONVERSATION, NOW)


@given(st.binary(min_size=1, max_size=20))
def test_user_name_that_is_not_utf_8_survives(raw: bytes) -> None:
    user = raw.decode("utf-8", "surrogateescape")
    token = build_token(user, CONVERSATION, KEY, NOW)
    verify_token(token, KEY.public_key, user, CONVERSATION, NOW)


@pytest.mark.parametrize("skew", [-DAY - 100, -DAY, -100, 0, 100, DAY, DAY + 400])
def test_built_token_forgives_wrong_clocks(skew: int) -> None:
    token = build_token(USER, CONVERSATION, KEY, NOW)
    if -DAY - 60 <= skew < DAY + 300:
        verify(token, now=NOW + skew)
    else:
        with pytest.raises(WrongClock):
            verify(token, now=NOW + skew)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_conversation_id_of_another_length_is_never_signed(length: int) -> None:
    with pytest.raises(ValueError, match="conversation ID"):
        build_token(USER, bytes(length), KEY, NOW)


def test_key_that_cannot_sign_a_token_says_so() -> None:
    class Token:
        public_key = PublicKey(put_string(b"ssh-dss") + put_string(b"x"))

        def sign(self, data: bytes) -> bytes:
            raise AssertionError("never asked")

    with pytest.raises(ValueError, match="cannot sign"):
        build_token(USER, CONVERSATION, Token(), NOW)


def test_certificate_goes_along_in_the_header() -> None:
    token = build_token(USER, CONVERSATION, KEY, NOW, certificate=b"a certificate")
    header = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    assert header == {
        "alg": "EdDSA", "typ": "JWT", "cert": base64.b64encode(b"a certificate").decode()
    }
    assert certificate_in(token) == b"a certificate"
    verify(token)
    plain = build_token(USER, CONVERSATION, KEY, NOW)
    assert (certificate_in(plain), key_in(plain)) == (None, None)


def test_token_may_name_its_key() -> None:
    token = build_token(USER, CONVERSATION, KEY, NOW, key=KEY.public_key.blob)
    header = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    assert header == {"alg": "EdDSA", "typ": "JWT", "key": KEY.public_key.base64}
    assert key_in(token) == KEY.public_key.blob
    verify(token)


@pytest.mark.parametrize("value", ['"a"', '"ä"', "1", "null", "[]", '"YQ==\\n"'])
def test_certificate_that_is_no_base64_is_refused(value: str) -> None:
    header = f'{{"alg":"EdDSA","typ":"JWT","cert":{value}}}'.encode()
    with pytest.raises(TokenRefused, match="no base64"):
        certificate_in(forge(json.dumps(CLAIMS).encode(), header))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_security_key_signs_a_token_by_its_own_algorithm_name(kind: str) -> None:
    token = SecurityKey(kind)
    text = build_token(USER, CONVERSATION, token, NOW)
    header = json.loads(base64.urlsafe_b64decode(text.partition(".")[0] + "=="))
    assert header["alg"] == token.public_key.algorithm
    signature = verify_token(text, token.public_key, USER, CONVERSATION, NOW)
    assert touch_of(signature) == Touch(flags=1, counter=1)
    with pytest.raises(TokenRefused, match="algorithm"):
        verify(text)


# --------------------------------------------------------------------------- refusing


def test_token_is_worth_nothing_on_another_connection() -> None:
    with pytest.raises(TokenRefused, match="wrong jti"):
        verify_token(with_claims(), KEY.public_key, USER, bytes(32), NOW)


def test_token_is_worth_nothing_for_another_user() -> None:
    with pytest.raises(TokenRefused, match="wrong iss"):
        verify_token(with_claims(), KEY.public_key, "bob", CONVERSATION, NOW)


@pytest.mark.parametrize(
    ("claim", "value", "reason"),
    [
        ("iss", "bob", "wrong iss"),
        ("iss", ABSENT, "wrong iss"),
        ("iss", 5, "wrong iss"),
        ("iss", ["alice"], "wrong iss"),
        ("iss", "Alice", "wrong iss"),
        ("sub", "ssh2", "wrong sub"),
        ("sub", ABSENT, "wrong sub"),
        ("aud", "used", "wrong aud"),
        ("aud", ABSENT, "wrong aud"),
        ("aud", [], "wrong aud"),
        ("aud", ["used", 5, None], "wrong aud"),
        ("aud", {"unused": 1}, "wrong aud"),
        ("client_id", "ssh3-bob", "wrong client_id"),
        ("client_id", ABSENT, "wrong client_id"),
        ("jti", JTI.rstrip("="), "wrong jti"),
        ("jti", JTI + "=", "wrong jti"),
        ("jti", "", "wrong jti"),
        ("jti", ABSENT, "wrong jti"),
        ("jti", None, "wrong jti"),
        ("exp", ABSENT, "no exp"),
        ("exp", NOW - DAY, "expired"),
        ("exp", NOW + DAY + 901, "too far away"),
        ("exp", str(NOW + 10), "no whole number"),
        ("exp", NOW + 10.5, "no whole number"),
        ("exp", True, "no whole number"),
        ("exp", None, "no whole number"),
        ("exp", 1e300, "no whole number"),
        ("iat", NOW + DAY + 1, "in the future"),
        ("iat", NOW - 891, "lifetime"),
        ("iat", NOW + 11, "lifetime"),
        ("iat", "now", "no whole number"),
        ("iat", None, "no whole number"),
        ("nbf", NOW + DAY + 1, "not valid yet"),
        ("nbf", False, "no whole number"),
    ],
)
def test_wrong_claim_is_refused(claim: str, value: object, reason: str) -> None:
    with pytest.raises(TokenRefused, match=reason):
        verify(with_claims(**{claim: value}))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("aud", ["other", "unused"]),
        ("exp", NOW - DAY + 1),
        ("exp", NOW + DAY + 900),
        ("iat", ABSENT),
        ("iat", NOW + 10),
        ("iat", NOW - 890),
        ("nbf", NOW + DAY),
        ("other", {"a": [1.5, None, True]}),
    ],
)
def test_unusual_claim_within_the_rules_is_accepted(claim: str, value: object) -> None:
    times = {"iat": ABSENT} if claim == "exp" else {}
    verify(with_claims(**times, **{claim: value}))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "ES256"},
        {"alg": "eddsa"},
        {"alg": None},
        {"alg": ["EdDSA"]},
        {"typ": "JWT"},
        {"alg": "EdDSA", "typ": "JWE"},
        {"alg": "EdDSA", "typ": 1},
        {"alg": "EdDSA", "crit": ["b64"], "b64": False},
        ["EdDSA"],
    ],
)
def test_wrong_header_is_refused(header: object) -> None:
    with pytest.raises(TokenRefused):
        verify(forge(json.dumps(CLAIMS).encode(), json.dumps(header).encode()))


def test_header_without_typ_is_accepted() -> None:
    verify(forge(json.dumps(CLAIMS).encode(), b'{"alg":"EdDSA"}'))


def test_token_without_a_signature_is_refused() -> None:
    header, claims, _ = with_claims().split(".")
    unsigned = encode(b'{"alg":"none","typ":"JWT"}')
    for token in (f"{header}.{claims}.", f"{unsigned}.{claims}.", f"{header}.{claims}"):
        with pytest.raises(TokenRefused):
            verify(token)


def test_public_key_is_no_shared_secret() -> None:
    """The old trick: HMAC keyed with the public key that everybody knows."""
    import hashlib
    import hmac

    header = encode(b'{"alg":"HS256","typ":"JWT"}')
    signed = f"{header}.{encode(json.dumps(CLAIMS).encode())}"
    for secret in (KEY.public_key.blob, KEY.public_key.line.encode()):
        forged = hmac.digest(secret, signed.encode(), hashlib.sha256)
        with pytest.raises(TokenRefused, match="algorithm"):
            verify(f"{signed}.{encode(forged)}")


def test_token_of_another_key_is_refused() -> None:
    for key in KEYS.values():
        if key is not KEY:
            with pytest.raises(TokenRefused):
                verify(build_token(USER, CONVERSATION, key, NOW))
    stranger = PrivateKey(ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(TokenRefused, match="signature"):
        verify(build_token(USER, CONVERSATION, stranger, NOW))


@pytest.mark.parametrize(
    "claims",
    [
        json.dumps(CLAIMS)[:-1].encode() + b',"iss":"alice"}',
        json.dumps(CLAIMS)[:-1].encode() + b',"x":{"y":1,"y":2}}',
        json.dumps(CLAIMS)[:-1].encode() + b',"x":NaN}',
        json.dumps(CLAIMS)[:-1].encode() + b',"x":Infinity}',
        json.dumps(CLAIMS).encode() + b"{}",
        json.dumps(CLAIMS).encode("utf-16"),
        b"\xff",
        b"",
        b"null",
        b"[]",
        b'"claims"',
        b"[" * 5000,
        b'{"a":' * 2000,
        b"1" * 9000,
    ],
)
def test_claims_that_two_readers_could_take_differently_are_refused(claims: bytes) -> None:
    with pytest.raises(TokenRefused, match="no JSON object"):
        verify(forge(claims))


def test_every_other_spelling_of_the_same_token_is_refused() -> None:
    token = with_claims()
    header, claims, signature = token.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # 64 bytes leave four bits of the last letter over: change one of those
    sibling = alphabet[alphabet.index(signature[-1]) ^ 1]
    for other in (
        token + "=",
        token + "\n",
        " " + token,
        f"{header}.{claims}.{signature[:-1]}{sibling}",
        f"{header}.{claims}.{signature}.{signature}",
        token.replace(".", ". ", 1),
    ):
        with pytest.raises(TokenRefused):
            verify(other)


def test_overlong_token_is_refused_before_anything_is_decoded() -> None:
    with pytest.raises(TokenRefused, match="too long"):
        verify(with_claims(padding="x" * 16384))


@given(st.text(max_size=200))
def test_any_text_is_refused(token: str) -> None:
    with pytest.raises(TokenRefused):
        verify(token)


@given(st.binary(max_size=100), st.binary(max_size=100), st.binary(max_size=100))
def test_any_three_parts_are_refused(header: bytes, claims: bytes, signature: bytes) -> None:
    with pytest.raises(TokenRefused):
        verify(f"{encode(header)}.{encode(claims)}.{encode(signature)}")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*CLAIMS, "nbf", "x"]), _JSON, min_size=1))
def test_any_signed_claims_are_accepted_or_refused(changes: dict[str, Any]) -> None:
    token = forge(json.dumps({**CLAIMS, **changes}).encode())
    try:
        verify(token)
    except TokenRefused:
        return
    assert all(changes.get(name, CLAIMS[name]) == CLAIMS[name] for name in ("iss", "jti", "sub"))


def test_key_object_form_of_the_vector_key() -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
    assert public_key_from_object(KEY.key.public_key()).line == line
