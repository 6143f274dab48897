"""What a server shows to whom, and how it is signed for."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sshoq.transport.identity import (
    ORDER_COUNTS,
    Credential,
    DerCertificate,
    RemoteKey,
    ServerIdentity,
    SignatureScheme,
)

ED25519 = SignatureScheme.ED25519
ECDSA = SignatureScheme.ECDSA_P256
RSA = SignatureScheme.RSA_PSS_SHA256

GO = [0x0804, 0x0403, 0x0807, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0503, 0x0603]
"""What clients of Go's crypto/tls offer, in its order."""

OPENSSL = [0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601]


def sign(content: bytes, scheme: int) -> bytes:
    return b"signature"


def server(*schemes: SignatureScheme, prefers_first: bool = False) -> ServerIdentity:
    credentials = [Credential([b"certificate"], scheme, sign) for scheme in schemes]
    return ServerIdentity(credentials, prefers_first=prefers_first)


def shown(identity: ServerIdentity, offered: list[int]) -> int | None:
    chosen = identity.choose(offered)
    return None if chosen is None else chosen.key.scheme


@pytest.mark.parametrize("offered", [GO, OPENSSL], ids=["Go", "OpenSSL"])
def test_others_are_shown_the_servers_first_choice_whatever_they_name_first(
    offered: list[int],
) -> None:
    assert shown(server(ED25519, ECDSA, RSA), offered) == ED25519
    assert shown(server(ECDSA, RSA), offered) == ECDSA


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([RSA, ED25519, ECDSA], RSA),
        ([ECDSA, RSA, ED25519], ECDSA),
        ([SignatureScheme.ECDSA_P384, RSA, ED25519], RSA),
        ([ED25519, RSA], ED25519),
    ],
)
def test_an_order_that_counts_is_followed(order: list[int], expected: int) -> None:
    assert shown(server(ED25519, ECDSA, RSA), [ORDER_COUNTS, *order]) == expected


def test_the_order_counts_only_if_that_is_said_first() -> None:
    assert shown(server(ED25519, RSA), [RSA, ORDER_COUNTS, ED25519]) == ED25519


def test_a_certificate_for_everybody_is_shown_to_all_that_can_check_it() -> None:
    identity = server(ECDSA, ED25519, RSA, prefers_first=True)
    assert shown(identity, GO) == ECDSA
    assert shown(identity, [ORDER_COUNTS, RSA, ED25519, ECDSA]) == ECDSA
    assert shown(identity, [RSA, ED25519]) == ED25519
    assert shown(identity, [ORDER_COUNTS, RSA, ED25519]) == RSA


@pytest.mark.parametrize("offered", [[], [ORDER_COUNTS], [SignatureScheme.ECDSA_P521, 0x0401]])
def test_nothing_is_shown_to_who_could_not_check_it(offered: list[int]) -> None:
    assert shown(server(ED25519, ECDSA), offered) is None


def test_a_key_is_asked_for_its_own_scheme() -> None:
    asked: list[tuple[bytes, int]] = []

    def ask(content: bytes, scheme: int) -> bytes:
        asked.append((content, scheme))
        return b"signature"

    assert RemoteKey(ECDSA, ask).sign(b"content", "padding", "hash") == b"signature"
    assert asked == [(b"content", int(ECDSA))]


def test_a_server_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="needs a certificate"):
        ServerIdentity([])
    with pytest.raises(ValueError, match="needs a certificate"):
        Credential([], ED25519, sign)


def test_certificates_are_passed_on_as_they_are() -> None:
    assert DerCertificate(b"der").public_bytes(Encoding.DER) == b"der"
    with pytest.raises(ValueError, match="DER"):
        DerCertificate(b"der").public_bytes(Encoding.PEM)
