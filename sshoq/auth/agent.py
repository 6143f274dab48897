"""A client of the authentication agent (draft-miller-ssh-agent): list keys, sign, add a key.

Blocking, with timeouts; every message is bounded. The agent is the user's own program, yet what it
says is checked: a wrong answer is an AgentError and the next key is tried.
"""

import os
import socket
import struct
from collections.abc import Mapping

from sshoq.auth.keys import KeyFormatError, PublicKey, read_signature
from sshoq.auth.private_keys import PrivateKey
from sshoq.wire import Reader, WireError, put_string, read_string

MAX_MESSAGE = 256 * 1024  # OpenSSH's bound
MAX_IDENTITIES = 2048  # likewise

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 30.0
SIGN_TIMEOUT = 300.0  # somebody may have to confirm, or to touch a token

REQUEST_IDENTITIES = 11
IDENTITIES_ANSWER = 12
SIGN_REQUEST = 13
SIGN_RESPONSE = 14
ADD_IDENTITY = 17
ADD_SMARTCARD_KEY = 20
ADD_ID_CONSTRAINED = 25
EXTENSION = 27
SUCCESS = 6

CONSTRAIN_LIFETIME = 1
CONSTRAIN_CONFIRM = 2
RSA_SHA2_256 = 2  # sign request flag; without it the agent signs with SHA-1


class AgentError(Exception):
    """The agent cannot be reached, refuses, or does not speak the protocol."""


def agent_path(identity_agent: str | None, environ: Mapping[str, str]) -> str | None:
    """Where the agent listens, from IdentityAgent or what else names it so (None if not given), and
    the environment."""
    if identity_agent is None or identity_agent == "SSH_AUTH_SOCK":
        return environ.get("SSH_AUTH_SOCK") or None
    if identity_agent == "none":
        return None
    if identity_agent.startswith("$"):
        return environ.get(identity_agent.removeprefix("$")) or None
    return identity_agent


class Agent:
    """A connection to an agent; one request at a time, closed with the `with` block."""

    def __init__(self, path: str) -> None:
        """AgentError when nobody listens there."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(CONNECT_TIMEOUT)
        try:
            self._socket.connect(os.fspath(path))
        except (OSError, ValueError) as error:
            self._socket.close()
            raise AgentError(f"cannot connect to the agent at {path}: {error}") from None

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def identities(self) -> list[PublicKey]:
        """The keys that the agent holds, in its order, without those of kinds unknown to us."""
        answer = self._ask(REQUEST_IDENTITIES, b"", IDENTITIES_ANSWER, ANSWER_TIMEOUT)
        keys = []
        try:
            for _ in range(min(answer.u32(), MAX_IDENTITIES)):
                blob, comment = read_string(answer), read_string(answer)
                try:
                    keys.append(PublicKey(blob, comment.decode("utf-8", "surrogateescape")))
                except KeyFormatError:
                    continue
        except WireError as error:
            raise AgentError(f"broken list of keys: {error}") from None
        return keys

    def sign(self, key: PublicKey, data: bytes, held_as: bytes = b"") -> bytes:
        """The signature over `data` in the form that a token carries.

        `held_as` is the blob by which the agent knows the key, if not by its own: a certificate's.
        """
        flags = RSA_SHA2_256 if key.algorithm == "ssh-rsa" else 0
        body = put_string(held_as or key.blob) + put_string(data) + struct.pack("!I", flags)
        answer = self._ask(SIGN_REQUEST, body, SIGN_RESPONSE, SIGN_TIMEOUT)
        try:
            signature = read_signature(key, read_string(answer))
        except (WireError, KeyFormatError) as error:
            raise AgentError(f"broken signature: {error}") from None
        if signature.rsa_hash != "SHA256":  # old agents take no notice of the flag
            raise AgentError(f"broken signature: {signature.algorithm} was not asked for")
        return signature.raw

    def add(
        self,
        key: PrivateKey,
        comment: str,
        *,
        certificate: PublicKey | None = None,
        lifetime: int = 0,
        confirm: bool = False,
    ) -> None:
        """Hand over the key, or one that a certificate is about, for `lifetime` seconds if not 0;
        `confirm`: ask before each use."""
        body = key.agent_fields(certificate)
        body += put_string(comment.encode("utf-8", "surrogateescape"))
        constraints = b""
        if lifetime:
            constraints += struct.pack("!BI", CONSTRAIN_LIFETIME, lifetime)
        if confirm:
            constraints += bytes((CONSTRAIN_CONFIRM,))
        request = ADD_ID_CONSTRAINED if constraints else ADD_IDENTITY
        self._ask(request, body + constraints, SUCCESS, ANSWER_TIMEOUT)

    def add_card(self, provider: str, pin: str) -> None:
        """All keys that a PKCS#11 library has, by its path. The agent may want a PIN for that."""
        body = put_string(os.fsencode(provider)) + put_string(os.fsencode(pin))
        self._ask(ADD_SMARTCARD_KEY, body, SUCCESS, ANSWER_TIMEOUT)

    def _ask(self, request: int, body: bytes, wanted: int, timeout: float) -> Reader:
        """Send one request and return what follows the type of its answer."""
        message = bytes((request,)) + body
        if len(message) > MAX_MESSAGE:
            raise AgentError("request is too long for an agent")
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(put_string(message))
            length = int.from_bytes(self._receive(4), "big")
            if not 0 < length <= MAX_MESSAGE:
                raise AgentError(f"answer of {length} bytes")
            answer = self._receive(length)
        except OSError as error:  # a timeout is one
            raise AgentError(f"agent: {error}") from None
        if answer[0] != wanted:
            raise AgentError("agent refused operation")
        return Reader(answer, 1)

    def _receive(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            if not part:
                raise AgentError("agent closed the connection")
            parts += part
        return bytes(parts)


def request_of_strangers() -> bytes:
    """A whole request, which tells an agent that all others on its connection come from far away
    (session-bind@openssh.com, PROTOCOL.agent). OpenSSH's then loads no libraries for them and makes
    no use of keys that are meant for certain hosts; others say that they do not know it.

    A session is known there by a host key's signature. TLS has none of that form, so the key is one
    for the occasion, which stands for no host.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    host_key = PrivateKey(Ed25519PrivateKey.generate())
    session = os.urandom(32)
    signature = put_string(b"ssh-ed25519") + put_string(host_key.sign(session))
    fields = (b"session-bind@openssh.com", host_key.public_key.blob, session, signature)
    is_forwarding = b"\1"
    body = bytes((EXTENSION,)) + b"".join(map(put_string, fields)) + is_forwarding
    return put_string(body)


class AgentSigner:
    """A key whose private half only the agent has. A Signer; connects anew for each signature."""

    __slots__ = ("_held_as", "_path", "public_key")

    def __init__(self, path: str, public_key: PublicKey, held_as: bytes = b"") -> None:
        self._path = path
        self._held_as = held_as
        self.public_key = public_key

    def sign(self, data: bytes) -> bytes:
        with Agent(self._path) as agent:
            return agent.sign(self.public_key, data, self._held_as)
