"""X25519MLKEM768 (TLS group 0x11EC): a key exchange that a quantum computer would have to break
twice.

Key objects in the shape of elliptic curve keys, which is the shape that the TLS code expects. A
client's share is an ML-KEM encapsulation key and an X25519 key, a server's is the ciphertext and
its X25519 key. Knows nothing of the QUIC library.
"""

from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

HYBRID_GROUP = 0x11EC

_X25519_SIZE = 32
_CLIENT_SHARE = 1184 + _X25519_SIZE
_SERVER_SHARE = 1088 + _X25519_SIZE


class HybridCurve:
    """Stands where a curve would: it names the group."""


class HybridPublicKey:
    """The peer's share, as it came over the wire."""

    __slots__ = ("curve", "share")

    def __init__(self, share: bytes = b"") -> None:
        self.curve = HybridCurve()
        self.share = share

    def public_bytes(self, encoding: object, format: object) -> bytes:
        """The share; it has one encoding only."""
        return self.share


class HybridOwnKey(HybridPublicKey):
    """Our share. A server's is known once it has seen the client's; asked for before that, it is
    a client's.
    """

    __slots__ = ("_private",)

    def __init__(self, private: "HybridPrivateKey") -> None:
        super().__init__()
        self._private = private

    def public_bytes(self, encoding: object, format: object) -> bytes:
        return self._private.own_share()


class HybridPrivateKey:
    """One use: a client asks for its public key and then exchanges, a server exchanges first."""

    __slots__ = ("_curve_key", "_lattice_key", "_own_share", "exchanged")

    def __init__(self) -> None:
        self._curve_key = x25519.X25519PrivateKey.generate()
        self._lattice_key: mlkem.MLKEM768PrivateKey | None = None
        self._own_share = b""
        self.exchanged = False

    def public_key(self) -> HybridPublicKey:
        return HybridOwnKey(self)

    def own_share(self) -> bytes:
        """As a server: the answer to the share exchanged. As a client: the share to begin with."""
        if not self._own_share:
            self._lattice_key = mlkem.MLKEM768PrivateKey.generate()
            self._own_share = (
                self._lattice_key.public_key().public_bytes_raw() + self._curve_share()
            )
        return self._own_share

    def exchange(self, algorithm: object, peer: HybridPublicKey) -> bytes:
        """The shared secret. ValueError when the peer's share is not one."""
        if self._lattice_key is None:
            secret = self._encapsulate(peer.share)
        else:
            secret = self._decapsulate(self._lattice_key, peer.share)
        self.exchanged = True
        return secret

    def _encapsulate(self, share: bytes) -> bytes:
        if len(share) != _CLIENT_SHARE:
            raise ValueError("wrong length of a client's X25519MLKEM768 share")
        lattice_share = mlkem.MLKEM768PublicKey.from_public_bytes(share[:-_X25519_SIZE])
        secret, ciphertext = lattice_share.encapsulate()
        self._own_share = ciphertext + self._curve_share()
        return secret + self._curve_secret(share)

    def _decapsulate(self, lattice_key: mlkem.MLKEM768PrivateKey, share: bytes) -> bytes:
        if len(share) != _SERVER_SHARE:
            raise ValueError("wrong length of a server's X25519MLKEM768 share")
        return lattice_key.decapsulate(share[:-_X25519_SIZE]) + self._curve_secret(share)

    def _curve_share(self) -> bytes:
        return self._curve_key.public_key().public_bytes_raw()

    def _curve_secret(self, share: bytes) -> bytes:
        peer = x25519.X25519PublicKey.from_public_bytes(share[-_X25519_SIZE:])
        return self._curve_key.exchange(peer)
