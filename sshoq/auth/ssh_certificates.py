"""Certificates in OpenSSH's form (PROTOCOL.certkeys), as far as users are known by them.

Reads one, and checks that its authority has signed it. Who that authority is, and what the options
mean, is for others to say: certificate_rights.py and the server. Own code, since the reader that
`cryptography` has knows no FIDO keys and takes 30 ms to import.
"""


from sshoq.auth.keys import KeyFormatError, PublicKey, read_signature
from sshoq.named_tuple import NamedTuple
from sshoq.wire import Reader, WireError, decode_text, put_string, read_string

USER = 1
HOST = 2
MAX_PRINCIPALS = 256  # OpenSSH's bound
FOR_EVER = (1 << 64) - 1

# How many strings make up the key itself, behind the nonce.
_KEY_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}

Options = tuple[tuple[str, bytes], ...]


class Certificate(NamedTuple):
    """What a certificate says. Nothing of it counts before `find_flaw` has been asked."""

    public: PublicKey
    """The certificate itself, as a key of its own kind."""
    key: PublicKey
    """The key that it is about."""
    serial: int
    role: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical: Options
    extensions: Options
    authority: PublicKey
    signature: bytes

    @property
    def is_for_users(self) -> bool:
        return self.role == USER

    @property
    def kind_name(self) -> str:
        """As OpenSSH's messages have it: ED25519-CERT."""
        return self.public.kind.name

    @property
    def signature_algorithm(self) -> str:
        """As the signature has it; empty if it has none, and so is no signature."""
        try:
            return read_string(Reader(self.signature)).decode("ascii", "replace")
        except WireError:
            return ""

    def find_flaw(self) -> str | None:
        """Why the authority's signature is none; None if it is good."""
        signed = self.public.blob[: -len(put_string(self.signature))]
        try:
            signature = read_signature(self.authority, self.signature)
        except (WireError, KeyFormatError) as error:
            return str(error)
        if self.authority.verify(signature.raw, signed, rsa_hash=signature.rsa_hash):
            return None
        return "the authority has not signed it"


def parse_certificate(blob: bytes) -> Certificate:
    """KeyFormatError unless the blob is a whole certificate of a user or a host."""
    public = PublicKey(blob)
    algorithm = public.kind.certified
    if algorithm not in _KEY_FIELDS:
        raise KeyFormatError(f"{public.algorithm} is no certificate that can be used")
    reader = Reader(blob)
    try:
        read_string(reader)  # the algorithm
        read_string(reader)  # the nonce
        fields = [read_string(reader) for _ in range(_KEY_FIELDS[algorithm])]
        certificate = Certificate(
            public,
            PublicKey(b"".join(map(put_string, [algorithm.encode(), *fields]))),
            serial=reader.u64(),
            role=reader.u32(),
            key_id=decode_text(read_string(reader)),
            principals=_read_principals(read_string(reader)),
            valid_after=reader.u64(),
            valid_before=reader.u64(),
            critical=_read_options(read_string(reader)),
            extensions=_read_options(read_string(reader)),
            authority=_read_authority(reader),
            signature=read_string(reader),
        )
    except WireError as error:
        raise KeyFormatError(f"broken certificate: {error}") from None
    if certificate.role not in (USER, HOST):
        raise KeyFormatError(f"a certificate of type {certificate.role}")
    if reader.remaining:
        raise KeyFormatError("bytes behind the certificate")
    return certificate


def _read_principals(packed: bytes) -> tuple[str, ...]:
    reader = Reader(packed)
    principals: list[str] = []
    while reader.remaining:
        if len(principals) == MAX_PRINCIPALS:
            raise KeyFormatError("too many principals")
        name = read_string(reader)
        if b"\0" in name:
            raise KeyFormatError("a zero byte in a principal")
        principals.append(decode_text(name))
    return tuple(principals)


def _read_options(packed: bytes) -> Options:
    """Each name once: of two equal ones, readers could take different ones for true."""
    reader = Reader(packed)
    options: dict[str, bytes] = {}
    while reader.remaining:
        name, value = decode_text(read_string(reader)), read_string(reader)
        if name in options:
            raise KeyFormatError("an option stands twice")
        options[name] = value
    return tuple(options.items())


def _read_authority(reader: Reader) -> PublicKey:
    read_string(reader)  # reserved
    authority = PublicKey(read_string(reader))
    if authority.kind.token_algorithm is None:  # a certificate itself, or DSA
        raise KeyFormatError(f"an authority of kind {authority.kind.name}")
    return authority
