"""How a server proves that it has a host key which it did not show in the handshake.

A signature over a text that names what it is for, the connection, and the key, so that it is good
for nothing else, and nothing else that a host key signs can be taken for it.
"""

from collections.abc import Sequence

from sshoq.auth.keys import PublicKey, Signer
from sshoq.auth.token import CONVERSATION_ID_LENGTH
from sshoq.wire import put_string

PURPOSE = b"hostkeys-prove-00@sshoq"
"""Not OpenSSH's (hostkeys-prove-00@openssh.com): an SSH server with the same keys signs that for
its own sessions."""

MAX_KEYS = 32
"""Of a host: each may cost it a signature."""


def proof_text(conversation_id: bytes, key: bytes) -> bytes:
    """What is signed, in the shape that OpenSSH's PROTOCOL 2.5 has for it.

    It begins with zero bytes and a length that is no hash's, and has more than 64 bytes: so it is
    neither the content of a TLS CertificateVerify (spaces come first), nor a token (letters), nor
    an exchange hash of SSH, nor what users and hosts sign there to log in.
    """
    if len(conversation_id) != CONVERSATION_ID_LENGTH:
        raise ValueError(f"a conversation identifier of {len(conversation_id)} bytes")
    return put_string(PURPOSE) + put_string(conversation_id) + put_string(key)


def prove_key(signer: Signer, conversation_id: bytes) -> bytes:
    """The signature, in the form that a token carries."""
    return signer.sign(proof_text(conversation_id, signer.public_key.blob))


def is_proven(key: PublicKey, signature: bytes, conversation_id: bytes) -> bool:
    return key.verify(signature, proof_text(conversation_id, key.blob))


def are_proven(
    keys: Sequence[PublicKey], signatures: Sequence[bytes], conversation_id: bytes
) -> bool:
    """Whether each key has its good signature, in the same order."""
    return len(keys) == len(signatures) and all(
        is_proven(key, signature, conversation_id)
        for key, signature in zip(keys, signatures, strict=True)
    )
