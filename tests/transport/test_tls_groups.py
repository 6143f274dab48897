"""X25519MLKEM768 between two of our own key objects."""

import os

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from sshoq.transport.tls_groups import HybridPrivateKey, HybridPublicKey


def share_of(key: HybridPrivateKey) -> bytes:
    return key.public_key().public_bytes(None, None)


def test_both_sides_come_to_the_same_secret() -> None:
    client, server = HybridPrivateKey(), HybridPrivateKey()
    server_public = server.public_key()
    offered = HybridPublicKey(share_of(client))
    of_server = server.exchange(None, offered)
    answered = HybridPublicKey(server_public.public_bytes(None, None))
    assert client.exchange(None, answered) == of_server
    assert len(of_server) == 64
    assert client.exchanged
    assert server.exchanged


def test_the_lattice_part_comes_first_on_the_wire_and_in_the_secret() -> None:
    """draft-ietf-tls-ecdhe-mlkem: for this group, ML-KEM first."""
    lattice, curve = mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate()
    offered = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    server = HybridPrivateKey()
    secret = server.exchange(None, HybridPublicKey(offered))
    answer = share_of(server)
    assert len(answer) == 1088 + 32
    assert secret[:32] == lattice.decapsulate(answer[:1088])
    assert secret[32:] == curve.exchange(x25519.X25519PublicKey.from_public_bytes(answer[1088:]))


@pytest.mark.parametrize("size", [0, 32, 1120, 1215, 1217])
def test_a_server_refuses_a_share_of_the_wrong_size(size: int) -> None:
    with pytest.raises(ValueError, match="wrong length"):
        HybridPrivateKey().exchange(None, HybridPublicKey(os.urandom(size)))


@pytest.mark.parametrize("size", [0, 32, 1119, 1121, 1216])
def test_a_client_refuses_a_share_of_the_wrong_size(size: int) -> None:
    client = HybridPrivateKey()
    share_of(client)
    with pytest.raises(ValueError, match="wrong length"):
        client.exchange(None, HybridPublicKey(os.urandom(size)))


def test_a_share_without_an_x25519_contribution_is_refused() -> None:
    client = HybridPrivateKey()
    share = share_of(client)[:-32] + bytes(32)
    with pytest.raises(ValueError, match="shared key"):
        HybridPrivateKey().exchange(None, HybridPublicKey(share))
