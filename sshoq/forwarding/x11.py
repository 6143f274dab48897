"""The first bytes of an X11 connection, in which a made-up cookie gives way to the real one.

Pure: bytes in, bytes out. An X client begins with its byte order, two lengths, and the protocol and
cookie by which it may use the display (X Window System Protocol 8, "Connection Setup"). The server
of a forwarding knows the made-up cookie only, so what it could steal opens nothing but the
forwarding itself.
"""

from hmac import compare_digest

from sshoq.named_tuple import NamedTuple

FIXED = 12
"""What comes ahead of protocol and cookie."""

BYTE_ORDERS: dict[int, "ByteOrder"] = {ord("B"): "big", ord("l"): "little"}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    ByteOrder = Literal["big", "little"]


class X11Error(Exception):
    """Whoever called may not have the display, or is no X client; str() says why."""


class Authorization(NamedTuple):
    """What opens the display, and what X clients show in its place; both cookies of one length."""

    protocol: str
    cookie: bytes
    stand_in: bytes


class SetupState:
    """One X client, up to the point from which its bytes go to the display as they are."""

    def __init__(self, authorization: Authorization) -> None:
        self._protocol = authorization.protocol.encode()
        self._cookie = authorization.cookie
        self._stand_in = authorization.stand_in
        self._held = b""

    def receive(self, data: bytes | memoryview) -> bytes | None:
        """All that came so far, with the real cookie, once it can be told that it may go on; None
        as long as more is needed. X11Error ends it."""
        self._held += bytes(data)
        if len(self._held) < FIXED:
            self._check_order()
            return None
        start, end = self._check_lengths()
        if len(self._held) < _padded(end):
            return None
        if self._held[FIXED : FIXED + len(self._protocol)] != self._protocol:
            raise X11Error("X11 connection uses different authentication protocol.")
        if not compare_digest(self._held[start:end], self._stand_in):
            raise X11Error("X11 auth data does not match fake data.")
        return self._held[:start] + self._cookie + self._held[end:]

    def _check_order(self) -> "ByteOrder":
        order = BYTE_ORDERS.get(self._held[0]) if self._held else "big"
        if order is None:
            raise X11Error(
                f"Initial X11 packet contains bad byte order byte: {self._held[0]:#x}"
            )
        return order

    def _check_lengths(self) -> tuple[int, int]:
        """Where the cookie starts and ends. A wrong length is a wrong value: it is not waited
        for."""
        order = self._check_order()
        protocol = int.from_bytes(self._held[6:8], order)
        cookie = int.from_bytes(self._held[8:10], order)
        if protocol != len(self._protocol):
            raise X11Error("X11 connection uses different authentication protocol.")
        if cookie != len(self._stand_in):
            raise X11Error("X11 auth data does not match fake data.")
        start = FIXED + _padded(protocol)
        return start, start + cookie


def _padded(size: int) -> int:
    """Fields are filled up to a multiple of four bytes; so is whatever stands in front of one."""
    return (size + 3) & ~3
