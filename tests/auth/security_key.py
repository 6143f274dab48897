"""A FIDO key in software, as PROTOCOL.u2f describes what such a key signs, and an agent that holds
it.

Written against the document, not against our reader; the tests hold it against ssh and sshd, too.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sshoq.auth.keys import PublicKey, put_mpint
from sshoq.wire import put_string

TOUCHED = 1
VERIFIED = 4

Sign = Callable[[bytes], bytes]


class SecurityKey:
    """`flags` is what the key says of its owner; each signature counts."""

    def __init__(
        self, kind: str = "ed25519", *, flags: int = TOUCHED, application: bytes = b"ssh:"
    ) -> None:
        self.flags = flags
        self.counter = 0
        self._application = application
        self._ed25519 = Ed25519PrivateKey.generate()
        self._ecdsa = generate_private_key(SECP256R1())
        if kind == "ed25519":
            self.algorithm = b"sk-ssh-ed25519@openssh.com"
            parts = [self._ed25519.public_key().public_bytes_raw()]
        else:
            self.algorithm = b"sk-ecdsa-sha2-nistp256@openssh.com"
            point = self._ecdsa.public_key().public_bytes(
                Encoding.X962, PublicFormat.UncompressedPoint
            )
            parts = [b"nistp256", point]
        self.public_key = PublicKey(
            b"".join(put_string(part) for part in (self.algorithm, *parts, application)), "token"
        )

    def sign(self, data: bytes) -> bytes:
        """In the form that a token carries."""
        bare, touch = self._sign(data)
        if self.algorithm.startswith(b"sk-ssh"):
            return bare + touch
        r, s = decode_dss_signature(bare)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big") + touch

    def sign_for_ssh(self, data: bytes) -> bytes:
        bare, touch = self._sign(data)
        if not self.algorithm.startswith(b"sk-ssh"):
            bare = b"".join(map(put_mpint, decode_dss_signature(bare)))
        return put_string(self.algorithm) + put_string(bare) + touch

    def _sign(self, data: bytes) -> tuple[bytes, bytes]:
        self.counter += 1
        touch = bytes((self.flags,)) + self.counter.to_bytes(4, "big")
        digests = [hashlib.sha256(part).digest() for part in (self._application, data)]
        message = digests[0] + touch + digests[1]
        if self.algorithm.startswith(b"sk-ssh"):
            return self._ed25519.sign(message), touch
        return self._ecdsa.sign(message, ECDSA(SHA256())), touch


@contextmanager
def agent_with(path: Path, held: Mapping[bytes, Sign]) -> Iterator[str]:
    """An agent that holds the blobs, and signs as is said for each, until the block ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        thread = threading.Thread(target=_serve_all, args=(listener, held))
        thread.start()
        try:
            yield str(path)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve_all(listener: socket.socket, held: Mapping[bytes, Sign]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, held), daemon=True).start()


def _serve(connection: socket.socket, held: Mapping[bytes, Sign]) -> None:
    with connection, connection.makefile("rb") as stream:
        while head := stream.read(4):
            request = stream.read(int.from_bytes(head, "big"))
            connection.sendall(put_string(_answer(request, held)))


def _answer(request: bytes, held: Mapping[bytes, Sign]) -> bytes:
    if request[0] == 11:
        blobs = b"".join(put_string(blob) + put_string(b"held") for blob in held)
        return b"\x0c" + len(held).to_bytes(4, "big") + blobs
    if request[0] == 13:
        blob, rest = _split(request[1:])
        data, _ = _split(rest)
        if blob in held:
            return b"\x0e" + put_string(held[blob](data))
    return b"\x05"


def _split(data: bytes) -> tuple[bytes, bytes]:
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]
