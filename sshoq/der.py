"""As much of DER (X.690) as it takes to find the key in a certificate (RFC 5280 4.1).

What a server shows is judged by its key alone, unless authorities are to vouch for it; a client
that knows the key need not wait for all that reads the rest.
"""

_INTEGER, _SEQUENCE, _VERSION = 0x02, 0x30, 0xA0
_LONG_LENGTH = 0x80
_MOST_LENGTH_BYTES = 3


class DerError(ValueError):
    """The bytes are no certificate."""


def subject_key(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate, itself DER. DerError when there is none."""
    start, end = _element(certificate, 0, len(certificate), _SEQUENCE)
    if end != len(certificate):
        raise DerError("bytes behind the certificate")
    at, end = _element(certificate, start, end, _SEQUENCE)
    if certificate[at : at + 1] == bytes((_VERSION,)):  # version 1 has none
        at = _element(certificate, at, end, _VERSION)[1]
    # serial number, signature algorithm, issuer, validity, subject
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE):
        at = _element(certificate, at, end, tag)[1]
    return certificate[at : _element(certificate, at, end, _SEQUENCE)[1]]


def _element(data: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """From where to where the content goes of the element at `at`, which must be within `end`."""
    if at + 2 > end or data[at] != tag:
        raise DerError(f"no element {tag:#x} where one belongs")
    size, start = data[at + 1], at + 2
    if size >= _LONG_LENGTH:
        count = size - _LONG_LENGTH
        start += count
        size = int.from_bytes(data[at + 2 : start], "big")
        if not 0 < count <= _MOST_LENGTH_BYTES or size < _shortest(count):
            raise DerError("a length that is not DER")
    if start + size > end:
        raise DerError("an element longer than what holds it")
    return start, start + size


def _shortest(count: int) -> int:
    """The smallest length that needs so many bytes."""
    return _LONG_LENGTH if count == 1 else 1 << (8 * (count - 1))
