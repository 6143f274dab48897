"""Process: monitor [root]. Passwords and their expiry without PAM: the shadow file and crypt(3).

Python has dropped the modules for both, so the C library is asked.
"""

import contextlib
import ctypes
import functools
import hmac
import os
from ctypes import POINTER, c_char_p, c_long

from sshoq.named_tuple import NamedTuple
from sshoq.server.libc import libc

LOCKED_PREFIXES = (b"!", b"*LK*")
_DAY = 86400
_FALLBACK_SETTING = b"$6$rounds=5000$sshoqfakeuser"
"""Only when no user at all has a password to take the setting from."""


class ShadowRecord(NamedTuple):
    password: bytes
    last_change: int
    maximum: int
    expires: int
    """Days since 1970; -1: not set."""

    def is_locked(self) -> bool:
        return self.password.startswith(LOCKED_PREFIXES)

    def account_expired(self, now: float) -> bool:
        return self.expires != -1 and now // _DAY > self.expires

    def password_expired(self, now: float) -> bool:
        """Root asked for a new one (day 0), or it has become too old."""
        if self.last_change == 0:
            return True
        return self.maximum != -1 and now // _DAY - self.last_change > self.maximum


class _Entry(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("password", c_char_p),
        ("last_change", c_long),
        ("minimum", c_long),
        ("maximum", c_long),
        ("warn", c_long),
        ("inactive", c_long),
        ("expire", c_long),
        ("flag", ctypes.c_ulong),
    )


libc.getspnam.argtypes = (c_char_p,)
libc.getspnam.restype = POINTER(_Entry)
libc.getspent.restype = POINTER(_Entry)


@functools.cache
def _crypt_library() -> ctypes.CDLL | None:
    for name in ("libcrypt.so.1", "libcrypt.so.2"):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            library.crypt.argtypes = (c_char_p, c_char_p)
            library.crypt.restype = c_char_p
            return library
    return None


def find_record(name: str) -> ShadowRecord | None:
    found = libc.getspnam(os.fsencode(name))
    if not found:
        return None
    entry = found.contents
    return ShadowRecord(entry.password or b"", entry.last_change, entry.maximum, entry.expire)


def check_password(record: ShadowRecord | None, password: bytes) -> bool:
    """Whether it is the password. For nobody's record the same work is done, and the answer no."""
    library = _crypt_library()
    if library is None or b"\0" in password:
        return False
    stored = record.password if record is not None else b""
    if record is not None and not stored and not password:
        return True  # whether empty ones are allowed was asked before
    usable = len(stored) > 1 and not stored.startswith((b"!", b"*"))
    hashed = library.crypt(password, stored if usable else _typical_setting())
    # crypt(3) answers "*0" or nothing when it cannot.
    return bool(usable and hashed and len(hashed) > 2 and hmac.compare_digest(hashed, stored))


@functools.cache
def _typical_setting() -> bytes:
    """What users here have, so that a name that does not exist takes as long as one that does."""
    libc.setspent()
    try:
        while entry := libc.getspent():
            if (entry.contents.password or b"").startswith(b"$"):
                return bytes(entry.contents.password.rpartition(b"$")[0])
    finally:
        libc.endspent()
    return _FALLBACK_SETTING


