"""The proof that a server has a key: good for that key and that connection, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sshoq.auth.host_key_proof import PURPOSE, are_proven, proof_text, prove_key
from sshoq.auth.private_keys import PrivateKey, load_private_key
from sshoq.wire import put_string
from tests.auth.keyring import KEY_TYPES, make_key

HERE, ELSEWHERE = bytes(range(32)), bytes(32)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[PrivateKey]:
    folder: Path = tmp_path_factory.mktemp("keys")
    return [load_private_key(str(make_key(folder, kind))) for kind in KEY_TYPES]


def test_every_kind_of_key_proves_itself(keys: list[PrivateKey]) -> None:
    proofs = [prove_key(key, HERE) for key in keys]
    public = [key.public_key for key in keys]
    assert are_proven(public, proofs, HERE)
    assert not are_proven(public, proofs, ELSEWHERE)
    assert not are_proven(public, proofs[::-1], HERE)
    assert not are_proven(public, proofs[:-1], HERE)
    assert not are_proven(public, [*proofs, b""], HERE)
    assert not are_proven(public, [b"", *proofs[1:]], HERE)
    assert are_proven([], [], HERE)


def test_the_text_is_as_the_document_has_it() -> None:
    key = put_string(b"ssh-ed25519") + put_string(b"k" * 32)
    written = (
        "00000017 686f73746b6579732d70726f76652d3030407373686f71"
        f"00000020 {HERE.hex()} 00000033 0000000b7373682d65643235353139 00000020 {'6b' * 32}"
    )
    assert proof_text(HERE, key) == bytes.fromhex(written)


def test_the_text_is_nothing_else_that_a_host_key_signs() -> None:
    text = proof_text(HERE, b"")
    assert not text.startswith((b" ", b"e"))  # CertificateVerify, a token
    assert len(text) > 64  # a hash of SSH's key exchange
    assert len(PURPOSE) not in (20, 32, 48, 64)  # its session identifier, in what users sign
    assert PURPOSE != b"hostkeys-prove-00@openssh.com"


@pytest.mark.parametrize("conversation_id", [b"", bytes(31), bytes(33)])
def test_there_is_no_text_for_no_connection(conversation_id: bytes) -> None:
    with pytest.raises(ValueError, match="identifier"):
        proof_text(conversation_id, b"key")
