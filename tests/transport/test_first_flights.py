"""How many round trips a handshake takes. A server may send three times what it has received until
it has heard the client answer (RFC 9000 8.1), and a long chain must not have to wait for that.
"""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sshoq.transport.events import HandshakeCompleted, SendReady
from sshoq.transport.identity import Credential, ServerIdentity, SignatureScheme
from tests.link import Weather, credential, make_link, self_signed, sign_with

ROUND_TRIP = 2.0

# Bytes of DER, leaf first, rounded up: an ECDSA and an RSA chain of Let's Encrypt's, and one as
# large commercial authorities issue them.
PUBLIC_CHAINS = {
    "ECDSA": (1200, 1200),
    "RSA": (1700, 1400),
    "commercial RSA": (2300, 1400, 1300),
}
TOO_LONG = (2300, 2000, 2000, 2000)


def rsa_certificate(bits: int, size: int = 0) -> tuple[rsa.RSAPrivateKey, bytes]:
    """A key, and a certificate over it, filled up to a size as names and timestamps do it."""
    key = rsa.generate_private_key(65537, bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "host.example")])
    start = datetime.datetime(2020, 1, 1)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
    )
    plain = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    if len(plain) >= size:
        return key, plain
    filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(size - len(plain)))
    filled = builder.add_extension(filler, critical=False)
    return key, filled.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def rsa_identity(bits: int, sizes: tuple[int, ...] = (0,)) -> ServerIdentity:
    key, leaf = rsa_certificate(bits, sizes[0])
    chain = [leaf, *(bytes(size) for size in sizes[1:])]
    return ServerIdentity(
        [
            Credential(
                chain,
                SignatureScheme.RSA_PSS_SHA256,
                lambda content, scheme: sign_with(key, content, scheme),
            )
        ]
    )


def ecdsa_identity(sizes: tuple[int, ...]) -> ServerIdentity:
    leaf = self_signed("p256")
    return ServerIdentity([credential("p256", [leaf, bytes(sum(sizes) - len(leaf))])])


def moments(identity: ServerIdentity) -> tuple[float, float]:
    """When the client may log in, and when the server knows that it is there."""
    link, client, server = make_link(
        server_identity=identity, weather=Weather(delay=ROUND_TRIP / 2)
    )
    link.run(lambda: bool(client.told(SendReady)))
    ready = link.now
    link.run(lambda: bool(server.told(HandshakeCompleted)))
    return ready, link.now


def test_small_certificates_take_one_round_trip() -> None:
    for kind in ("ed25519", "p256", "p521"):
        assert moments(ServerIdentity([credential(kind)])) == (ROUND_TRIP, 1.5 * ROUND_TRIP)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_rsa_host_keys_take_one_round_trip(bits: int) -> None:
    assert moments(rsa_identity(bits)) == (ROUND_TRIP, 1.5 * ROUND_TRIP)


@pytest.mark.parametrize("kind", PUBLIC_CHAINS)
def test_public_chains_take_one_round_trip(kind: str) -> None:
    sizes = PUBLIC_CHAINS[kind]
    identity = ecdsa_identity(sizes) if kind == "ECDSA" else rsa_identity(2048, sizes)
    assert moments(identity) == (ROUND_TRIP, 1.5 * ROUND_TRIP)


def test_a_chain_beyond_the_limit_takes_one_more() -> None:
    """So the limit is there; and the chain comes all the same."""
    ready, _ = moments(rsa_identity(2048, TOO_LONG))
    assert ready == 2 * ROUND_TRIP


def test_the_clients_share_for_the_future_is_in_its_first_flight() -> None:
    """X25519MLKEM768 at once: a HelloRetryRequest would cost a round trip."""
    link, client, _ = make_link(weather=Weather(delay=ROUND_TRIP / 2))
    link.run(lambda: bool(client.told(SendReady)))
    assert client.engine.key_exchange == "X25519MLKEM768"
    assert link.now == ROUND_TRIP
