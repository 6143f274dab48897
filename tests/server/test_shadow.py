"""Expiry rules of the shadow file."""

from __future__ import annotations

import pytest

from sshoq.server.shadow import ShadowRecord, check_password
from tests.needs import need_root

DAY = 86400.0
TODAY = 20000 * DAY


@pytest.mark.parametrize(
    ("expires", "expired"), [(-1, False), (20000, False), (19999, True), (0, True)]
)
def test_an_account_is_good_through_its_last_day(expires: int, expired: bool) -> None:
    assert ShadowRecord(b"x", 19000, -1, expires).account_expired(TODAY) == expired


@pytest.mark.parametrize(
    ("last_change", "maximum", "expired"),
    [(0, -1, True), (19000, -1, False), (19000, 1000, False), (19000, 999, True), (-1, 99, True)],
)
def test_a_password_ages(last_change: int, maximum: int, expired: bool) -> None:
    assert ShadowRecord(b"x", last_change, maximum, -1).password_expired(TODAY) == expired


@pytest.mark.parametrize(
    ("password", "locked"), [(b"!", True), (b"!$6$x$y", True), (b"*", False), (b"$6$x$y", False)]
)
def test_a_mark_locks_an_account(password: bytes, locked: bool) -> None:
    assert ShadowRecord(password, 1, -1, -1).is_locked() == locked


@pytest.mark.parametrize("stored", [b"*", b"!", b"x", b"!$1$ab$0"])
def test_what_is_no_hash_fits_no_password(stored: bytes) -> None:
    need_root()
    record = ShadowRecord(stored, 1, -1, -1)
    for password in (stored, b"", b"secret", b"a\0b"):
        assert not check_password(record, password)


def test_a_hash_fits_its_password_alone() -> None:
    need_root()
    # openssl passwd -6 -salt sshoq "right"
    stored = (
        b"$6$sshoq$HvDOy/Wlp46JDU6HfcaJXgGoGcs.FELEDVrlh3YX8WR2Me6t3c/T3mF2wNm2UQ6Rw0CDn50iFisBds"
        b"Jl0UfOy0"
    )
    record = ShadowRecord(stored, 1, -1, -1)
    assert check_password(record, b"right")
    assert not check_password(record, b"wrong")
    assert not check_password(None, b"right")
